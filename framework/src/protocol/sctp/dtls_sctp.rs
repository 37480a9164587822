//! DTLS 1.2 over SCTP (RFC 6083), for an OpenSSL without a BIO for it.
//!
//! 1. Handshake, ChangeCipherSpec and alert records go on stream 0, ordered, reliable, with identifier 0; one record is
//!    one message. There are no retransmissions and no cookie, because SCTP provides both.
//! 2. As soon as there is a master secret, a key for SCTP-AUTH is derived from it and added (§4.8), because the peer
//!    may use it from its Finished on.
//! 3. Before our ChangeCipherSpec is sent, everything sent before must have arrived. After it the new key is activated,
//!    so that our Finished is authenticated with it.
//! 4. Messages on other streams may overtake the peer's Finished; they wait for it (§4.7).
//! 5. When both Finished have been processed, the old key is deleted, OpenSSL's session is freed, and the record layer
//!    takes over. It has no replay detection (§3.4), so messages of different streams may be reordered without a limit.
//!    Renegotiation is refused, which §4.6 permits.
//! 6. A close_notify is sent when everything before it has arrived. A received close_notify takes effect when
//!    everything before it has arrived (§4.9). A sender that waits as required leaves a gap in the sequence numbers
//!    only if it abandoned messages (partial reliability, RFC 3758); the last messages of a sender that does not wait
//!    may still be under way. The sequence numbers do not distinguish the two cases, so with a gap the session
//!    continues to read. It answers with its own close_notify, on which the peer shuts the association down; the
//!    SHUTDOWN then shows that no more data will arrive.

use std::collections::VecDeque;
use std::sync::Arc;

use openssl::ssl::SslContext;
use zeroize::Zeroizing;

use super::action::{Action, Refused};
use crate::observe::{Counters, bump};
use crate::protocol::alert::Alert;
use crate::protocol::dtls::hello::Record;
use crate::protocol::dtls::keys::Secrets;
use crate::protocol::dtls::session::{KEY_EXHAUSTED, MAX_REFUSALS, wire};
use crate::protocol::dtls::takeover::{NextRecord, take_over};
use crate::protocol::dtls::{Dropped, Opened, Opener, Sealer};
use crate::protocol::exporter::{Exporter, RefusedExport};
use crate::protocol::{RECORD_MAX, Read};
use crate::sctp::{MessageInfo, SendInfo};
use crate::tls::engine::{Engine, Framing};
use crate::tls::{Failure, HandshakeSummary};

const CHANGE_CIPHER_SPEC: u8 = 20;
const APPLICATION_DATA: u8 = 23;

/// The exporter's label (RFC 6083 §4.8), and its form in OpenSSL before 1.1.1, with the NUL of a C string.
const LABEL: &str = "EXPORTER_DTLS_OVER_SCTP";
const LABEL_WITH_NUL: &str = "EXPORTER_DTLS_OVER_SCTP\0";

/// The key before the handshake, which is SCTP-AUTH's empty one (RFC 4895 §6.1), and the key after it.
const FIRST_KEY: u16 = 0;
const SECOND_KEY: u16 = 1;

/// Maximum number of messages that may wait for the peer's Finished, and of their bytes.
const MAX_EARLY: usize = 4096;
const MAX_EARLY_BYTES: usize = 4 << 20;

/// Maximum number of records of the handshake's second epoch that OpenSSL gets; the Finished is one of them. It keeps
/// each early record in a buffer of 16 KiB.
const MAX_FINISHED: u64 = 8;

/// The session of one association. Used by one thread at a time.
pub(crate) struct DtlsSctp {
    state: State,
    actions: VecDeque<Action>,
    /// Nothing is sent until the kernel reports that all data is acknowledged.
    awaiting_dry: bool,
    /// Messages that overtook the peer's Finished.
    early: VecDeque<(Vec<u8>, MessageInfo)>,
    early_bytes: usize,
    /// The number of records of the second epoch that OpenSSL got.
    finished: u64,
    /// The message that is being read, the position in it, and its metadata.
    message: Vec<u8>,
    at: usize,
    info: MessageInfo,
    summary: HandshakeSummary,
    refusals: u8,
    /// This side has closed.
    closed: bool,
    /// The sequence number of the peer's close_notify.
    peer_closed: Option<u64>,
    /// The caller has been informed of the peer's close.
    told_of_close: bool,
    counters: Arc<Counters>,
}

enum State {
    Handshake(Box<Handshake>),
    Open(Box<Records>),
}

struct Handshake {
    engine: Engine,
    label: &'static str,
    key_added: bool,
    /// Bytes that OpenSSL wrote after its last complete record: its buffer splits flights at 4096 bytes.
    partial: Vec<u8>,
    next: NextRecord,
}

struct Records {
    secrets: Option<Box<Secrets>>,
    sealer: Sealer,
    opener: Opener,
}

impl DtlsSctp {
    /// Makes the server's side. `label_with_nul` is for peers with an old OpenSSL.
    pub(crate) fn accept(
        context: &SslContext,
        label_with_nul: bool,
        counters: Arc<Counters>,
    ) -> Result<Self, Failure> {
        Ok(Self::over(Engine::accept(context, Framing::Datagrams)?, label_with_nul, counters))
    }

    /// Makes the client's side, with its ClientHello to send; `name` is the name that the server must prove.
    pub(crate) fn connect(
        context: &SslContext,
        name: Option<&str>,
        label_with_nul: bool,
        counters: Arc<Counters>,
    ) -> Result<Self, Failure> {
        let engine = Engine::connect(context, name, Framing::Datagrams)?;
        let mut session = Self::over(engine, label_with_nul, counters);
        session.step()?;
        Ok(session)
    }

    fn over(engine: Engine, label_with_nul: bool, counters: Arc<Counters>) -> Self {
        let label = if label_with_nul { LABEL_WITH_NUL } else { LABEL };
        let (partial, next) = (Vec::new(), NextRecord::default());
        let handshake = Handshake { engine, label, key_added: false, partial, next };
        Self {
            state: State::Handshake(Box::new(handshake)),
            actions: VecDeque::new(),
            awaiting_dry: false,
            early: VecDeque::new(),
            early_bytes: 0,
            finished: 0,
            message: Vec::new(),
            at: 0,
            info: MessageInfo::default(),
            summary: HandshakeSummary::default(),
            refusals: 0,
            closed: false,
            peer_closed: None,
            told_of_close: false,
            counters,
        }
    }

    /// Handles one SCTP message: one record, or several from a foreign implementation. Returns `true` when the
    /// handshake is complete. From then on `message` returns with the memory of an earlier one, and the caller must
    /// [read](Self::read) everything before the next message.
    pub(crate) fn receive(&mut self, message: &mut Vec<u8>, info: MessageInfo) -> Result<bool, Failure> {
        let mut at = 0;
        while !self.is_complete() && at < message.len() {
            let Ok((record, _)) = Record::split(&message[at..]) else {
                // SCTP neither loses nor corrupts messages, so a peer that begins like this does not use DTLS.
                return Err(Failure::of("the peer does not use DTLS"));
            };
            let bytes = &message[at..at + record.wire_len()];
            at += bytes.len();
            self.do_handshake(&record, bytes, info)?;
        }
        if self.is_complete() && at < message.len() {
            std::mem::swap(&mut self.message, message);
            (self.at, self.info) = (at, info);
        }
        Ok(self.is_complete())
    }

    /// Handles a record before the handshake is complete.
    fn do_handshake(&mut self, record: &Record<'_>, bytes: &[u8], info: MessageInfo) -> Result<(), Failure> {
        match (record.epoch, record.content_type) {
            (1, APPLICATION_DATA) => {
                self.early_bytes += bytes.len();
                if self.early.len() >= MAX_EARLY || self.early_bytes > MAX_EARLY_BYTES {
                    return Err(Failure::of("the peer sent too much before its Finished"));
                }
                self.early.push_back((bytes.to_vec(), info));
                return Ok(());
            }
            (0, _) if info.stream == 0 => {}
            (1, _) if info.stream == 0 && self.finished < MAX_FINISHED => self.finished += 1,
            _ => {
                bump(&self.counters.records_dropped);
                return Ok(());
            }
        }
        if let State::Handshake(handshake) = &mut self.state {
            handshake.engine.feed(bytes);
        }
        self.step()
    }

    /// Runs one step of the handshake and queues what it wrote.
    fn step(&mut self) -> Result<(), Failure> {
        let State::Handshake(handshake) = &mut self.state else { return Ok(()) };
        let stepped = handshake.engine.step();
        if !handshake.key_added && handshake.engine.has_secret() {
            let mut key = Box::new(Zeroizing::new([0; 64]));
            handshake.engine.export(handshake.label, &mut key[..])?;
            self.actions.push_back(Action::AddKey { number: SECOND_KEY, key });
            handshake.key_added = true;
        }
        handshake.queue_outgoing(&mut self.actions);
        if stepped? {
            self.summary = handshake.engine.summary();
            let (secrets, sealer, opener) = take_over(handshake.engine.ssl(), handshake.next)?;
            handshake.engine.retire();
            let opener = opener.without_replay_detection();
            self.state = State::Open(Box::new(Records { secrets: secrets.map(Box::new), sealer, opener }));
            self.actions.push_back(Action::DeleteKey(FIRST_KEY));
        }
        Ok(())
    }

    /// Returns whether the handshake is complete.
    pub(crate) fn is_complete(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// Returns the source of exported keying material.
    pub(crate) fn exporter(&self) -> Result<Exporter<'_>, RefusedExport> {
        match &self.state {
            State::Open(records) => Exporter::of(records.secrets.as_deref()),
            State::Handshake(_) => Err(RefusedExport::NoSession),
        }
    }

    /// Returns the results of the handshake.
    pub(crate) fn summary(&self) -> HandshakeSummary {
        self.summary.clone()
    }

    /// Reads the next message, with its metadata.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> (Read, MessageInfo) {
        loop {
            if self.all_has_come() && !std::mem::replace(&mut self.told_of_close, true) {
                return (Read::Closed, self.info);
            }
            let State::Open(records) = &mut self.state else { break };
            let Some(opened) = records.opener.open(&mut self.message, &mut self.at) else {
                let Some(early) = self.early.pop_front() else { break };
                (self.message, self.info) = early;
                self.at = 0;
                continue;
            };
            match opened {
                Opened::Data(range) => return (Read::message(&self.message[range], buffer), self.info),
                Opened::Alert { description, sequence, .. } if Alert(description) == Alert::CLOSE_NOTIFY => {
                    self.peer_closed = Some(sequence);
                    if !self.all_has_come() {
                        self.close();
                    }
                }
                // Other warnings need no reaction.
                Opened::Alert { level: wire::WARNING, .. } => {}
                Opened::Alert { description, .. } => {
                    return (Read::Broken(Alert(description).to_string()), self.info);
                }
                Opened::Handshake(range)
                    if matches!(
                        self.message[range.clone()].first(),
                        Some(&(wire::HELLO_REQUEST | wire::CLIENT_HELLO))
                    ) =>
                {
                    self.refuse_renegotiation();
                }
                Opened::Dropped(dropped) => {
                    bump(&self.counters.records_dropped);
                    if dropped == Dropped::Forged {
                        bump(&self.counters.records_forged);
                    }
                }
                Opened::Handshake(_) | Opened::Check(_) => bump(&self.counters.records_dropped),
                Opened::KeyExhausted => return (Read::Broken(KEY_EXHAUSTED.to_owned()), self.info),
            }
        }
        self.message.clear();
        self.at = 0;
        (Read::Nothing, MessageInfo::default())
    }

    /// Returns whether the peer has closed and no record with a lower number than its close_notify is missing.
    fn all_has_come(&self) -> bool {
        match (&self.state, self.peer_closed) {
            (State::Open(records), Some(last)) => self.finished + records.opener.authentic() > last,
            _ => false,
        }
    }

    /// Returns whether the peer has closed, so that the end of the association is expected.
    pub(crate) fn is_closed_by_peer(&self) -> bool {
        self.peer_closed.is_some()
    }

    /// Returns whether [`read`](Self::read) may find more.
    pub(crate) fn has_more(&self) -> bool {
        let unread = self.at < self.message.len() || !self.early.is_empty();
        self.is_complete() && (unread || (self.all_has_come() && !self.told_of_close))
    }

    /// Answers with a warning, after which the session continues unchanged (RFC 5246 §7.2.2).
    fn refuse_renegotiation(&mut self) {
        if self.refusals < MAX_REFUSALS {
            self.refusals += 1;
            self.push_warning(Alert::NO_RENEGOTIATION);
        }
    }

    fn push_warning(&mut self, Alert(description): Alert) {
        let State::Open(records) = &mut self.state else { return };
        let mut payload = Vec::new();
        if records.sealer.seal_alert(wire::WARNING, description, &mut payload).is_ok() {
            self.actions.push_back(Action::Send { payload, info: SendInfo::default() });
        }
    }

    /// Encrypts one message into one record.
    pub(crate) fn write(&mut self, message: &[u8], info: SendInfo) -> Result<(), Refused> {
        let records = match &mut self.state {
            _ if self.closed => return Err(Refused::Closed),
            State::Handshake(_) => return Err(Refused::NotOpen),
            State::Open(records) => records,
        };
        match message.len() {
            0 => return Err(Refused::Empty),
            len if len > RECORD_MAX => return Err(Refused::TooLong { limit: RECORD_MAX }),
            _ => {}
        }
        let mut payload = Vec::new();
        let sealed = records.sealer.seal_data(message, &mut payload);
        sealed.map_err(|error| Refused::Broken(error.to_string()))?;
        self.actions.push_back(Action::Send { payload, info });
        Ok(())
    }

    /// Queues a close_notify, to be sent when everything before it has arrived.
    pub(crate) fn close(&mut self) {
        if !std::mem::replace(&mut self.closed, true) && self.is_complete() {
            self.actions.push_back(Action::AwaitDry);
            self.push_warning(Alert::CLOSE_NOTIFY);
        }
    }

    /// Returns the next action. `None`: there is none, or none before [`dry`](Self::dry).
    pub(crate) fn next_action(&mut self) -> Option<Action> {
        if self.awaiting_dry {
            return None;
        }
        let action = self.actions.pop_front()?;
        self.awaiting_dry = action == Action::AwaitDry;
        Some(action)
    }

    /// Ends the wait that an [`Action::AwaitDry`] requested.
    pub(crate) fn dry(&mut self) {
        self.awaiting_dry = false;
    }

    /// Brings the record layer close to its limits, for tests.
    #[cfg(test)]
    pub(super) fn exhaust(&mut self) {
        if let State::Open(records) = &mut self.state {
            records.sealer.exhaust();
            records.opener.exhaust();
        }
    }
}

impl Handshake {
    /// Makes messages of the records that OpenSSL wrote.
    fn queue_outgoing(&mut self, actions: &mut VecDeque<Action>) {
        let mut bytes = std::mem::take(&mut self.partial);
        for written in self.engine.take_outgoing() {
            bytes.extend_from_slice(&written);
        }
        let mut rest = bytes.as_slice();
        while let Ok((record, behind)) = Record::split(rest) {
            let payload = rest[..record.wire_len()].to_vec();
            rest = behind;
            if record.epoch != 0 {
                self.next = NextRecord::after(&record);
            }
            let change = record.content_type == CHANGE_CIPHER_SPEC;
            if change {
                actions.push_back(Action::AwaitDry);
            }
            actions.push_back(Action::Send { payload, info: SendInfo::default() });
            if change {
                actions.push_back(Action::ActivateKey(SECOND_KEY));
            }
        }
        self.partial = rest.to_vec();
    }
}

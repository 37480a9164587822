//! DTLS 1.2 over SCTP (RFC 6083), for an OpenSSL that has no BIO for it.
//!
//! 1. Handshake, ChangeCipherSpec and alert records go on stream 0, ordered, reliable, with identifier 0; one
//!    record is one message. Nothing is retransmitted and there is no cookie: SCTP has done both.
//! 2. As soon as there is a master secret, a key for SCTP-AUTH is made of it and added (§4.8): the peer may
//!    use it from its Finished on.
//! 3. Before our ChangeCipherSpec everything sent must have arrived; behind it the new key is activated, so
//!    that our Finished is signed with it.
//! 4. When ours is out and the peer's is in, the old key goes.
//! 5. Messages may arrive before the peer's Finished, on other streams: they wait. Afterwards a [`Window`]
//!    puts them into an order that OpenSSL's replay check lets through.
//! 6. Before close_notify everything sent must have arrived.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use openssl::ssl::{SslContext, SslRef};

use super::action::{Action, Refused};
use super::window::{Counts, Held, Window};
use crate::error::EndReason;
use crate::protocol::RECORD_MAX;
use crate::protocol::dtls::hello::{HANDSHAKE, RECORD_HEADER_LEN, Record};
use crate::sctp::{MessageInfo, SendInfo};
use crate::tls::engine::{Engine, Framing};
use crate::tls::{Facts, Failure, Read};

const CHANGE_CIPHER_SPEC: u8 = 20;
const APPLICATION_DATA: u8 = 23;

/// The exporter's label (RFC 6083 §4.8), and as OpenSSL before 1.1.1 took it: with the NUL of a C string.
const LABEL: &str = "EXPORTER_DTLS_OVER_SCTP";
const LABEL_WITH_NUL: &str = "EXPORTER_DTLS_OVER_SCTP\0";

/// The key in use before the handshake: SCTP-AUTH's empty one (RFC 4895 §6.1).
const FIRST_KEY: u16 = 0;

/// How a session deviates from the defaults.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Knobs {
    /// The exporter's label with its NUL, for peers with an old OpenSSL.
    pub(crate) label_with_nul: bool,
    /// How long messages wait for one that does not come, see [`Window`].
    pub(crate) hold: Duration,
}

impl Default for Knobs {
    fn default() -> Self {
        Self { label_with_nul: false, hold: super::window::HOLD }
    }
}

/// One association's session. One thread at a time.
pub(crate) struct DtlsSctp {
    engine: Engine,
    window: Window,
    knobs: Knobs,
    actions: VecDeque<Action>,
    /// Nothing goes out until the kernel has nothing outstanding.
    awaiting_dry: bool,
    /// What OpenSSL wrote beyond its last whole record: its buffer cuts flights at 4096 bytes.
    partial: Vec<u8>,
    key_added: bool,
    finished_sent: bool,
    complete: bool,
    old_key_deleted: bool,
    closed: bool,
    facts: Facts,
    /// Records of no use, malformed or in an epoch that they cannot be in.
    useless: u64,
}

impl DtlsSctp {
    /// The server's side.
    pub(crate) fn accept(context: &SslContext, knobs: Knobs) -> Result<Self, Failure> {
        Ok(Self::over(Engine::accept(context, Framing::Datagrams)?, knobs))
    }

    /// The client's side, with its ClientHello to send; `name` is who the server must prove to be.
    pub(crate) fn connect(context: &SslContext, name: Option<&str>, knobs: Knobs) -> Result<Self, Failure> {
        let mut session = Self::over(Engine::connect(context, name, Framing::Datagrams)?, knobs);
        session.step()?;
        Ok(session)
    }

    fn over(engine: Engine, knobs: Knobs) -> Self {
        Self {
            engine,
            window: Window::new(knobs.hold),
            knobs,
            actions: VecDeque::new(),
            awaiting_dry: false,
            partial: Vec::new(),
            key_added: false,
            finished_sent: false,
            complete: false,
            old_key_deleted: false,
            closed: false,
            facts: Facts::default(),
            useless: 0,
        }
    }

    /// Takes one SCTP message in: one record, or several from a foreign peer. `true` when the handshake is
    /// complete.
    pub(crate) fn receive(
        &mut self,
        message: &[u8],
        info: MessageInfo,
        now: Instant,
    ) -> Result<bool, Failure> {
        self.window.expire(now);
        let mut rest = message;
        while !rest.is_empty() {
            let Ok((record, next)) = Record::split(rest) else {
                self.useless += 1;
                // Nothing gets lost or mangled on SCTP: whoever begins like this does not speak DTLS.
                return if self.complete { Ok(true) } else { Err(failed("the peer does not speak DTLS")) };
            };
            let bytes = &rest[..record.wire_len()];
            match record.epoch {
                0 if !self.complete && info.stream == 0 => {
                    self.engine.feed(bytes);
                    self.step()?;
                }
                1 if record.body.len() >= self.facts.min_ciphertext => {
                    let Record { sequence, content_type, .. } = record;
                    self.window.insert(Held { sequence, content_type, record: bytes.to_vec(), info }, now);
                }
                _ => self.useless += 1,
            }
            if !self.complete {
                self.finish_handshake()?;
                if self.complete {
                    self.window.restart_waits(now);
                }
            }
            rest = next;
        }
        Ok(self.complete)
    }

    /// Feeds the peer's Finished, or the alert in its place. Application data waits behind it.
    fn finish_handshake(&mut self) -> Result<(), Failure> {
        while !self.complete && self.window.next_type().is_some_and(|kind| kind != APPLICATION_DATA) {
            let Some(held) = self.window.take() else { break };
            self.engine.feed(&held.record);
            let stepped = self.step();
            self.window.settle(true);
            stepped?;
        }
        if !self.complete && self.window.is_crowded() {
            return Err(failed("the peer sent too much before its Finished"));
        }
        Ok(())
    }

    /// One step of the handshake and what it wrote.
    fn step(&mut self) -> Result<(), Failure> {
        let stepped = self.engine.step();
        if !self.key_added && self.engine.has_secret() {
            let mut key = [0; 64];
            let label = if self.knobs.label_with_nul { LABEL_WITH_NUL } else { LABEL };
            self.engine.export(label, &mut key)?;
            self.actions.push_back(Action::AddKey { number: FIRST_KEY + 1, key });
            self.key_added = true;
        }
        self.take_outgoing(SendInfo::default());
        if stepped? && !self.complete {
            self.complete = true;
            self.facts = self.engine.facts();
        }
        if self.complete && self.finished_sent && !self.old_key_deleted {
            self.old_key_deleted = true;
            self.actions.push_back(Action::DeleteKey(FIRST_KEY));
        }
        Ok(())
    }

    /// Makes messages of the records that OpenSSL wrote. Application data goes as `info` says.
    fn take_outgoing(&mut self, info: SendInfo) {
        let mut bytes = std::mem::take(&mut self.partial);
        for written in self.engine.take_outgoing() {
            bytes.extend_from_slice(&written);
        }
        let mut rest = bytes.as_slice();
        while let Ok((record, next)) = Record::split(rest) {
            let payload = rest[..record.wire_len()].to_vec();
            rest = next;
            let handshake = matches!(record.content_type, HANDSHAKE | CHANGE_CIPHER_SPEC);
            if self.complete && handshake {
                // A flight again, because the peer repeated its own: neither has any business here.
                self.useless += 1;
                continue;
            }
            let change = record.content_type == CHANGE_CIPHER_SPEC;
            if change {
                self.actions.push_back(Action::AwaitDry);
            }
            let info = match record.content_type {
                APPLICATION_DATA => info,
                _ => SendInfo::default(),
            };
            self.actions.push_back(Action::Send { payload, info });
            if change {
                self.actions.push_back(Action::ActivateKey(FIRST_KEY + 1));
            }
            self.finished_sent |= handshake && record.epoch == 1;
        }
        self.partial = rest.to_vec();
    }

    /// Whether the handshake is complete.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    /// OpenSSL's own.
    pub(crate) fn ssl(&self) -> Option<&SslRef> {
        Some(self.engine.ssl())
    }

    /// What the handshake settled.
    pub(crate) fn facts(&self) -> Facts {
        self.facts.clone()
    }

    /// The next message, with what came with it.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> (Read, MessageInfo) {
        while self.complete {
            let Some(held) = self.window.take() else { break };
            // One that came before the suite was known.
            let undersized = held.record.len() < RECORD_HEADER_LEN + self.facts.min_ciphertext;
            if undersized {
                self.window.settle(false);
                continue;
            }
            self.engine.feed(&held.record);
            let read = self.engine.read(buffer);
            let has_data = held.record.len() > RECORD_HEADER_LEN + self.facts.min_ciphertext;
            let forged = matches!(read, Read::Nothing) && held.content_type == APPLICATION_DATA && has_data;
            self.window.settle(!forged);
            self.take_outgoing(SendInfo::default());
            if !matches!(read, Read::Nothing) {
                return (read, held.info);
            }
        }
        (Read::Nothing, MessageInfo::default())
    }

    /// Whether [`read`](Self::read) has something to look at.
    pub(crate) fn has_more(&self) -> bool {
        self.complete && self.window.is_ready()
    }

    /// Encrypts one message into one record.
    pub(crate) fn write(&mut self, message: &[u8], info: SendInfo) -> Result<(), Refused> {
        match message.len() {
            _ if self.closed => Err(Refused::Closed),
            _ if !self.complete => Err(Refused::NotOpen),
            0 => Err(Refused::Empty),
            len if len > RECORD_MAX => Err(Refused::TooLong { limit: RECORD_MAX }),
            _ => {
                let written = self.engine.write(message).map_err(Refused::Broken);
                self.take_outgoing(info);
                written
            }
        }
    }

    /// close_notify, when everything before it has arrived.
    pub(crate) fn close(&mut self) {
        if std::mem::replace(&mut self.closed, true) || !self.complete {
            return;
        }
        self.engine.close();
        self.actions.push_back(Action::AwaitDry);
        self.take_outgoing(SendInfo::default());
    }

    /// What to do next. `None`: nothing, or nothing until [`dry`](Self::dry).
    pub(crate) fn next_action(&mut self) -> Option<Action> {
        if self.awaiting_dry {
            return None;
        }
        let action = self.actions.pop_front()?;
        self.awaiting_dry = action == Action::AwaitDry;
        Some(action)
    }

    /// The wait that an [`Action::AwaitDry`] asked for is over.
    pub(crate) fn dry(&mut self) {
        self.awaiting_dry = false;
    }

    /// When to call [`tick`](Self::tick): a gap in the numbering is given up then.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.complete.then(|| self.window.deadline()).flatten()
    }

    /// Tells the time.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.window.expire(now);
    }

    /// What the window let fall, and how many records were of no use.
    pub(crate) fn counts(&self) -> (Counts, u64) {
        (self.window.counts(), self.useless)
    }
}

fn failed(why: &str) -> Failure {
    Failure::Ended(EndReason::HandshakeFailed(why.to_owned()))
}

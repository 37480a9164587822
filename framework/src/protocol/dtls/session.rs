//! An open DTLS 1.2 session (RFC 6347): datagrams go in, messages and datagrams come out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use openssl::ssl::SslRef;

use super::datagrams::NextRecord;
use super::keys::{RefusedExport, Secrets};
use super::restart::{Restart, Verdict};
use super::suite::Aead;
use super::{Dropped, Opened, Opener, SealError, Sealer};
use crate::error::EndReason;
use crate::observe::{Counters, bump};
use crate::protocol::Sent;
use crate::protocol::alert::Alert;
use crate::tls::handshake::broken;
use crate::tls::{Failure, Read};

/// The levels of alerts, and handshake messages (RFC 5246 §7.2, §7.4).
mod wire {
    pub(super) const WARNING: u8 = 1;
    pub(super) const FATAL: u8 = 2;
    pub(super) const HELLO_REQUEST: u8 = 0;
    pub(super) const CLIENT_HELLO: u8 = 1;
    pub(super) const FINISHED: u8 = 20;
}

/// Requests for a renegotiation that are answered; further ones are ignored.
const MAX_REFUSALS: u8 = 8;

/// Repetitions of our last flight for records that are not verified, because their numbers came before: a peer may say its
/// own again byte for byte, as we do where OpenSSL's clock was set. Anybody who saw that record can ask for so many.
const MAX_BLIND_REPEATS: u8 = 16;

/// The security state. After each call the caller sends what [`poll_transmit`](Self::poll_transmit) gives.
pub(crate) struct Session {
    counters: Arc<Counters>,
    sealer: Sealer,
    opener: Opener,
    /// What exporters need.
    secrets: Secrets,
    /// Tells a peer that begins anew from one that repeats itself; `None` for a client.
    restart: Option<Restart>,
    /// What follows the last record that was read in its datagram; not decrypted yet.
    rest: Vec<u8>,
    /// Records that overtook the end of the handshake.
    early: VecDeque<Box<[u8]>>,
    /// The datagrams of our last flight, until the peer has shown that it has them.
    flight: Vec<Box<[u8]>>,
    /// What is to be sent: alerts, the last flight again, challenges.
    outgoing: VecDeque<Box<[u8]>>,
    refusals: u8,
    blind_repeats: u8,
    closed: bool,
}

impl Session {
    /// Takes over from OpenSSL, whose handshake is complete: derives the keys. `early` are records that arrived before the
    /// handshake was complete, `flight` is our last one, where the peer may ask for it again.
    ///
    /// # Errors
    ///
    /// The cipher suite is none that [`Aead`] knows, or OpenSSL is short of memory.
    pub(super) fn take_over(
        ssl: &SslRef,
        next: NextRecord,
        early: VecDeque<Box<[u8]>>,
        flight: Vec<Box<[u8]>>,
        restart: Option<Restart>,
        counters: Arc<Counters>,
    ) -> Result<Self, Failure> {
        let suite = ssl.current_cipher().map(|cipher| cipher.name()).unwrap_or_default();
        let (Some(secrets), Some(aead)) = (Secrets::of(ssl), Aead::of_suite(suite)) else {
            let why =
                format!("the cipher suite {suite:?} is not one of those that DTLS sessions can use here");
            return Err(Failure::Ended(EndReason::HandshakeFailed(why)));
        };
        let (client, server) = secrets.key_block(aead);
        let (ours, theirs) = if ssl.is_server() { (server, client) } else { (client, server) };
        Ok(Self {
            counters,
            sealer: Sealer::new(aead, &ours, next.sequence, next.nonce).map_err(broken)?,
            opener: Opener::new(aead, &theirs).map_err(broken)?,
            secrets,
            restart,
            rest: Vec::new(),
            early,
            flight,
            outgoing: VecDeque::new(),
            refusals: 0,
            blind_repeats: 0,
            closed: false,
        })
    }

    /// Takes a datagram of the peer's, decrypts it in place, and reads the first message in it. `datagram` comes back with
    /// its memory and without its content.
    pub(crate) fn handle_datagram(
        &mut self,
        datagram: &mut Vec<u8>,
        buffer: &mut [u8],
        now: Instant,
    ) -> Read {
        if datagram.is_empty() {
            bump(&self.counters.records_dropped);
        }
        let verdict = self.restart.as_ref().map(|restart| restart.check(datagram, now));
        match verdict {
            None | Some(Verdict::NotAHello) => return self.feed(datagram, buffer),
            Some(Verdict::Duplicate) => bump(&self.counters.duplicate_hellos),
            Some(Verdict::Challenge(reply)) => {
                bump(&self.counters.restarts_challenged);
                self.outgoing.push_back(reply.as_slice().into());
            }
            Some(Verdict::Ignore) => {}
            Some(Verdict::Restarted) => return Read::Restarted(std::mem::take(datagram).into()),
        }
        datagram.clear();
        Read::Nothing
    }

    fn feed(&mut self, datagram: &mut Vec<u8>, buffer: &mut [u8]) -> Read {
        let mut at = 0;
        let read = self.open(datagram, &mut at, buffer);
        if at < datagram.len() {
            // Rare: few peers put several records into a datagram.
            self.rest = datagram[at..].to_vec();
        }
        datagram.clear();
        read
    }

    /// Whether the last datagram, or one that came during the handshake, may hold more than was read.
    pub(crate) fn has_more(&self) -> bool {
        !self.rest.is_empty() || !self.early.is_empty()
    }

    /// Reads the next message of what came.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Read {
        while self.has_more() {
            let mut datagram = match std::mem::take(&mut self.rest) {
                rest if rest.is_empty() => self.early.pop_front().unwrap_or_default().into_vec(),
                rest => rest,
            };
            match self.feed(&mut datagram, buffer) {
                Read::Nothing => {}
                read => return read,
            }
        }
        Read::Nothing
    }

    fn open(&mut self, datagram: &mut [u8], at: &mut usize, buffer: &mut [u8]) -> Read {
        while let Some(opened) = self.opener.open(datagram, at) {
            match opened {
                Opened::Data(range) => {
                    self.confirm();
                    let message = &datagram[range];
                    return match buffer.get_mut(..message.len()) {
                        Some(room) => {
                            room.copy_from_slice(message);
                            Read::Message(message.len())
                        }
                        None => Read::Long(message.to_vec()),
                    };
                }
                Opened::Alert { description, .. } if Alert(description) == Alert::CLOSE_NOTIFY => {
                    return Read::Closed;
                }
                // Other warnings ask for nothing.
                Opened::Alert { level: wire::WARNING, .. } => {}
                Opened::Alert { description, .. } => return Read::Broken(Alert(description).to_string()),
                Opened::Handshake(range) => match datagram[range].first() {
                    Some(&wire::FINISHED) => self.answer_last_flight(),
                    Some(&(wire::HELLO_REQUEST | wire::CLIENT_HELLO)) => self.refuse_renegotiation(),
                    _ => bump(&self.counters.records_dropped),
                },
                Opened::Dropped(Dropped::Forged) => {
                    bump(&self.counters.records_forged);
                    bump(&self.counters.records_dropped);
                }
                Opened::Dropped(dropped) => {
                    bump(&self.counters.records_dropped);
                    if dropped == Dropped::ReplayedHandshake && self.blind_repeats < MAX_BLIND_REPEATS {
                        self.blind_repeats += 1;
                        self.answer_last_flight();
                    }
                }
                Opened::KeyExhausted => {
                    return Read::Broken("too many records failed their authentication".to_owned());
                }
            }
        }
        Read::Nothing
    }

    /// The peer sent its last flight again, so ours did not arrive (RFC 6347 §4.2.4).
    fn answer_last_flight(&mut self) {
        if self.keeps_flight() {
            bump(&self.counters.retransmissions);
            self.repeat_last_flight();
        }
    }

    /// Has our last flight sent again, if the peer may still ask for it.
    pub(crate) fn repeat_last_flight(&mut self) {
        self.outgoing.extend(self.flight.iter().cloned());
    }

    /// Whether the peer may still ask for our last flight.
    pub(crate) fn keeps_flight(&self) -> bool {
        !self.flight.is_empty()
    }

    /// The peer has our last flight, or it is too late to care.
    pub(crate) fn confirm(&mut self) {
        self.flight = Vec::new();
    }

    /// RFC 5246 §7.2.2: a warning, after which the session goes on as it was.
    fn refuse_renegotiation(&mut self) {
        if self.refusals < MAX_REFUSALS {
            self.refusals += 1;
            self.push_alert(wire::WARNING, Alert::NO_RENEGOTIATION);
        }
    }

    fn push_alert(&mut self, level: u8, Alert(description): Alert) {
        let mut record = Vec::new();
        if self.sealer.seal_alert(level, description, &mut record).is_ok() {
            self.outgoing.push_back(record.into());
        }
    }

    /// The next datagram to send.
    pub(crate) fn poll_transmit(&mut self) -> Option<Box<[u8]>> {
        self.outgoing.pop_front()
    }

    /// Encrypts one message: its datagram is appended to `out`. [`Sent::Done`] says no more than that.
    pub(crate) fn seal(&mut self, message: &[u8], out: &mut Vec<u8>) -> Sent {
        match self.sealer.seal_data(message, out) {
            Ok(()) => Sent::Done,
            Err(SealError::TooLong) => Sent::TooLarge,
            Err(SealError::KeyExhausted) => {
                Sent::Broken("the key has encrypted as many records as it may".to_owned())
            }
            Err(SealError::Crypto) => Sent::Broken("OpenSSL cannot encrypt".to_owned()),
        }
    }

    /// Has close_notify sent, once.
    pub(crate) fn close(&mut self) {
        if !std::mem::replace(&mut self.closed, true) {
            self.push_alert(wire::WARNING, Alert::CLOSE_NOTIFY);
        }
    }

    /// Has the peer told that it may not come in, instead of close_notify.
    pub(crate) fn deny(&mut self) {
        if !std::mem::replace(&mut self.closed, true) {
            self.push_alert(wire::FATAL, Alert::ACCESS_DENIED);
        }
    }

    /// Fills `out` with exported keying material (RFC 5705).
    ///
    /// # Errors
    ///
    /// See [`RefusedExport`].
    pub(crate) fn export(
        &self,
        label: &str,
        context: Option<&[u8]>,
        out: &mut [u8],
    ) -> Result<(), RefusedExport> {
        self.secrets.export(label, context, out)
    }
}

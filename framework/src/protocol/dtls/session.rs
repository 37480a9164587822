//! An open DTLS 1.2 session (RFC 6347): datagrams go in, messages and datagrams come out.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use openssl::ssl::SslRef;

use super::keys::Secrets;
use super::paths::{self, Paths, Policy};
use super::restart::{self, Restart};
use super::takeover::{NextRecord, take_over};
use super::{Dropped, Opened, Opener, SealError, Sealer};
use crate::error::EndReason;
use crate::observe::{Counters, bump};
use crate::protocol::alert::Alert;
use crate::protocol::exporter::{Exporter, RefusedExport};
use crate::protocol::{Read, Sent};
use crate::tls::Failure;
use crate::tls::context::connection_ids::agreed;

mod saved;

/// Levels of alerts, and types of handshake messages (RFC 5246 §7.2, §7.4).
pub(crate) mod wire {
    pub(crate) const WARNING: u8 = 1;
    pub(crate) const FATAL: u8 = 2;
    pub(crate) const HELLO_REQUEST: u8 = 0;
    pub(crate) const CLIENT_HELLO: u8 = 1;
    pub(crate) const FINISHED: u8 = 20;
}

/// Maximum number of renegotiation requests that are answered; further ones are ignored.
pub(crate) const MAX_REFUSALS: u8 = 8;

/// The reason of a session that ends at [`Opened::KeyExhausted`].
pub(crate) const KEY_EXHAUSTED: &str = "too many records failed authentication";

/// Maximum number of repetitions of our last flight in answer to replayed records, which cannot be verified. A peer may
/// repeat its own flight byte for byte, as this side does when OpenSSL's clock was changed. An attacker who saw such a
/// record can request this many repetitions.
const MAX_BLIND_REPEATS: u8 = 16;

/// The state of an open session. After each call the caller sends the datagrams of
/// [`poll_transmit`](Self::poll_transmit).
#[repr(C)]
pub(crate) struct Session {
    // The fields up to `restart` are used for each record. They come first, so that they share cache lines.
    opener: Opener,
    sealer: Sealer,
    /// The source of the datagram that is being read.
    source: Source,
    /// Candidates for the peer's next address; `None` if the peer does not use a connection ID of ours.
    paths: Option<Box<Paths>>,
    /// The peer's new address, until the caller has taken it.
    moved: Option<Box<Move>>,
    /// `None` if there are no such datagrams, as in most sessions.
    kept: Option<Box<Kept>>,
    counters: Arc<Counters>,
    /// Both sides have agreed on return routability checks.
    checks: bool,
    refusals: u8,
    blind_repeats: u8,
    closed: bool,
    /// Distinguishes a peer that restarts from one that repeats a datagram; `None` for a client.
    restart: Option<Restart>,
    /// The secrets for exporters, if exports are allowed.
    secrets: Option<Box<Secrets>>,
}

/// Datagrams that a session keeps for a while.
#[derive(Default)]
struct Kept {
    /// The rest of the last datagram after the record that was read; not decrypted yet.
    rest: Vec<u8>,
    /// Records that overtook the end of the handshake.
    early: VecDeque<Box<[u8]>>,
    /// The datagrams of our last flight, until the peer has confirmed that it has them.
    flight: Vec<Box<[u8]>>,
    /// Datagrams to send: alerts, repetitions of the last flight, path challenges.
    outgoing: VecDeque<Transmit>,
}

/// A change of the peer's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    /// The new address.
    pub(crate) to: SocketAddr,
    /// The peer has answered a check at the new address (RFC 9853).
    pub(crate) is_checked: bool,
}

/// A datagram that a session has to send.
pub(crate) struct Transmit {
    /// The destination; `None` is the peer's current address.
    pub(crate) to: Option<SocketAddr>,
    pub(crate) datagram: Box<[u8]>,
}

impl From<Box<[u8]>> for Transmit {
    fn from(datagram: Box<[u8]>) -> Self {
        Self { to: None, datagram }
    }
}

/// The source of a datagram.
#[derive(Clone, Copy, Default)]
struct Source {
    /// The address; `None` is the peer's current address.
    from: Option<SocketAddr>,
    /// The length of the datagram, until it has been counted for that address.
    uncounted: usize,
}

impl Session {
    /// Takes over from OpenSSL after a complete handshake, and derives the keys. `early` contains records that arrived
    /// before the handshake was complete; `flight` is our last flight, if the peer may ask for it again.
    ///
    /// # Errors
    ///
    /// See [`take_over`].
    pub(super) fn take_over(
        ssl: &SslRef,
        next: NextRecord,
        early: VecDeque<Box<[u8]>>,
        flight: Vec<Box<[u8]>>,
        restart: Option<Restart>,
        counters: Arc<Counters>,
    ) -> Result<Self, Failure> {
        let (secrets, sealer, opener) = take_over(ssl, next)?;
        let agreed = agreed(ssl);
        let checks = agreed.as_ref().is_some_and(|agreed| agreed.check);
        let paths = agreed.filter(|agreed| !agreed.offer.cid.is_empty()).map(|agreed| {
            let (follows_unchecked, secret) = (agreed.offer.follow_unchecked, agreed.offer.secret.clone());
            Box::new(Paths::new(Policy { checks, follows_unchecked, secret }))
        });
        Ok(Self {
            counters,
            sealer,
            opener,
            secrets: secrets.map(Box::new),
            restart,
            paths,
            checks,
            source: Source::default(),
            moved: None,
            kept: Some(Box::new(Kept { early, flight, ..Kept::default() })),
            refusals: 0,
            blind_repeats: 0,
            closed: false,
        })
    }

    /// Handles a datagram of the peer: decrypts it in place and reads the first message. `datagram` keeps its memory
    /// and loses its content. `from` is its source, unless that is the peer's current address.
    pub(crate) fn handle_datagram(
        &mut self,
        datagram: &mut Vec<u8>,
        from: Option<SocketAddr>,
        buffer: &mut [u8],
        now: Instant,
    ) -> Read {
        if datagram.is_empty() {
            bump(&self.counters.records_dropped);
        }
        // A hello opens a separate association, from whatever address it comes; a hello from another address is not for
        // this session.
        if from.is_none()
            && let Some(read) = self.handle_hello(datagram, now)
        {
            return read;
        }
        self.source = Source { from, uncounted: datagram.len() };
        self.feed(datagram, buffer, now)
    }

    /// Handles a datagram that begins with an unencrypted ClientHello: of a client that restarts, or an old one.
    /// Returns `None` if it is something else, and leaves it unchanged.
    pub(crate) fn handle_hello(&mut self, datagram: &mut Vec<u8>, now: Instant) -> Option<Read> {
        if !restart::may_be_hello(datagram) {
            return None;
        }
        match self.restart.as_ref()?.check(datagram, now) {
            restart::Verdict::NotAHello => return None,
            restart::Verdict::Duplicate => bump(&self.counters.duplicate_hellos),
            restart::Verdict::Challenge(reply) => {
                bump(&self.counters.restarts_challenged);
                self.push(Box::<[u8]>::from(reply.as_slice()).into());
            }
            restart::Verdict::Ignore => {}
            restart::Verdict::Restarted => return Some(Read::Restarted(std::mem::take(datagram).into())),
        }
        datagram.clear();
        Some(Read::Nothing)
    }

    fn feed(&mut self, datagram: &mut Vec<u8>, buffer: &mut [u8], now: Instant) -> Read {
        let mut at = 0;
        let read = self.open(datagram, &mut at, buffer, now);
        if at < datagram.len() {
            // Rare: few peers put several records into one datagram.
            self.kept().rest = datagram[at..].to_vec();
        }
        datagram.clear();
        read
    }

    /// Returns whether the last datagram, or one from the time of the handshake, may hold more messages.
    pub(crate) fn has_more(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| !kept.rest.is_empty() || !kept.early.is_empty())
    }

    /// Reads the next message of the received datagrams.
    pub(crate) fn read(&mut self, buffer: &mut [u8], now: Instant) -> Read {
        while self.has_more() {
            let mut datagram = match std::mem::take(&mut self.kept().rest) {
                rest if rest.is_empty() => {
                    self.source = Source::default();
                    self.kept().early.pop_front().unwrap_or_default().into_vec()
                }
                rest => rest,
            };
            match self.feed(&mut datagram, buffer, now) {
                Read::Nothing => {}
                read => return read,
            }
        }
        Read::Nothing
    }

    fn open(&mut self, datagram: &mut [u8], at: &mut usize, buffer: &mut [u8], now: Instant) -> Read {
        loop {
            let authentic = self.opener.authentic();
            let Some(opened) = self.opener.open(datagram, at) else { break };
            if self.opener.authentic() != authentic {
                self.learn_address(now);
            }
            match opened {
                Opened::Data(range) => {
                    self.discard_last_flight();
                    return Read::message(&datagram[range], buffer);
                }
                Opened::Alert { description, .. } if Alert(description) == Alert::CLOSE_NOTIFY => {
                    return Read::Closed;
                }
                // Other warnings need no reaction.
                Opened::Alert { level: wire::WARNING, .. } => {}
                Opened::Alert { description, .. } => return Read::Broken(Alert(description).to_string()),
                Opened::Handshake(range) => match datagram[range].first() {
                    Some(&wire::FINISHED) => self.answer_last_flight(),
                    Some(&(wire::HELLO_REQUEST | wire::CLIENT_HELLO)) => self.refuse_renegotiation(),
                    _ => bump(&self.counters.records_dropped),
                },
                Opened::Check(range) if self.checks => self.handle_check(&datagram[range]),
                Opened::Check(_) => bump(&self.counters.records_dropped),
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
                Opened::KeyExhausted => return Read::Broken(KEY_EXHAUSTED.to_owned()),
            }
        }
        Read::Nothing
    }

    /// Handles an authentic record, which may show that the peer's address has changed.
    fn learn_address(&mut self, now: Instant) {
        let Some(paths) = &mut self.paths else { return };
        let bytes = std::mem::take(&mut self.source.uncounted);
        let verdict = paths.handle_record(self.source.from, bytes, self.opener.is_newest(), now);
        self.obey(verdict);
    }

    /// Handles a message of the return routability check (RFC 9853 §5).
    fn handle_check(&mut self, message: &[u8]) {
        let (from, message) = (self.source.from, paths::Message::parse(message));
        match (message, &mut self.paths) {
            // The response goes to the source of the challenge, so that the path is checked in both directions.
            (paths::Message::Challenge(response), _) => self.push_check(from, &response),
            (paths::Message::Other, _) | (_, None) => bump(&self.counters.records_dropped),
            (answer, Some(paths)) => {
                let verdict = paths.answered(from, answer);
                self.obey(verdict);
            }
        }
    }

    fn obey(&mut self, verdict: paths::Verdict) {
        match verdict {
            paths::Verdict::Stay => {}
            paths::Verdict::Refuse => bump(&self.counters.address_changes_refused),
            paths::Verdict::Challenge(to, challenge) => self.push_check(Some(to), &challenge),
            paths::Verdict::Follow(to) => {
                if self.checks {
                    bump(&self.counters.addresses_validated);
                }
                self.moved = Some(Box::new(Move { to, is_checked: self.checks }));
                // The rest of the datagram counts as coming from the current address.
                self.source.from = None;
            }
        }
    }

    fn push_check(&mut self, to: Option<SocketAddr>, message: &paths::Check) {
        let mut record = Vec::new();
        if self.sealer.seal_check(message, &mut record).is_err() {
            return;
        }
        let may_send = |to| self.paths.as_mut().is_some_and(|paths| paths.may_send(to, record.len()));
        if to.is_none_or(may_send) {
            self.push(Transmit { to, datagram: record.into() });
        }
    }

    /// Returns the peer's new address, once, after a record or an answer has confirmed it. The caller either sends to
    /// it from now on, or continues as before.
    pub(crate) fn take_move(&mut self) -> Option<Move> {
        self.moved.take().map(|moved| *moved)
    }

    /// Notes that the caller sends to this address from now on.
    pub(crate) fn set_peer_address(&mut self, peer: SocketAddr) {
        if let Some(restart) = &mut self.restart {
            restart.set_peer_address(peer);
        }
    }

    /// Returns the destination for a datagram of this many bytes, and counts it as sent there; `None` is the current
    /// address.
    pub(crate) fn destination(&mut self, bytes: usize) -> Option<SocketAddr> {
        self.paths.as_mut()?.destination(bytes)
    }

    /// Returns when to call [`handle_timeout`](Self::handle_timeout).
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.paths.as_ref()?.next_timeout()
    }

    /// Handles expired timers.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if let Some(paths) = &mut self.paths {
            let verdict = paths.handle_timeout(now);
            self.obey(verdict);
        }
    }

    /// Returns the connection ID in the peer's records; empty if they have none.
    pub(crate) fn connection_id(&self) -> &[u8] {
        self.opener.connection_id()
    }

    /// Repeats our last flight, because the peer repeated its own, so ours did not arrive (RFC 6347 §4.2.4).
    fn answer_last_flight(&mut self) {
        if self.keeps_flight() {
            bump(&self.counters.retransmissions);
            self.repeat_last_flight();
        }
    }

    /// Queues our last flight again, if the peer may still ask for it.
    pub(crate) fn repeat_last_flight(&mut self) {
        if let Some(kept) = &mut self.kept {
            kept.outgoing.extend(kept.flight.iter().cloned().map(Transmit::from));
        }
    }

    /// Returns whether the peer may still ask for our last flight.
    pub(crate) fn keeps_flight(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| !kept.flight.is_empty())
    }

    /// Discards our last flight: the peer has it, or can no longer ask for it.
    pub(crate) fn discard_last_flight(&mut self) {
        let Some(kept) = &mut self.kept else { return };
        kept.flight = Vec::new();
        if kept.rest.is_empty() && kept.early.is_empty() && kept.outgoing.is_empty() {
            self.kept = None;
        }
    }

    fn kept(&mut self) -> &mut Kept {
        self.kept.get_or_insert_default()
    }

    fn push(&mut self, transmit: Transmit) {
        self.kept().outgoing.push_back(transmit);
    }

    /// Answers with a warning, after which the session continues unchanged (RFC 5246 §7.2.2).
    fn refuse_renegotiation(&mut self) {
        if self.refusals < MAX_REFUSALS {
            self.refusals += 1;
            self.push_alert(wire::WARNING, Alert::NO_RENEGOTIATION);
        }
    }

    fn push_alert(&mut self, level: u8, Alert(description): Alert) {
        let mut record = Vec::new();
        if self.sealer.seal_alert(level, description, &mut record).is_ok() {
            self.push(Box::<[u8]>::from(record).into());
        }
    }

    /// Returns the next datagram to send.
    pub(crate) fn poll_transmit(&mut self) -> Option<Transmit> {
        self.kept.as_mut()?.outgoing.pop_front()
    }

    /// Encrypts one message and appends its datagram to `out`. [`Sent::Done`] means only that it was encrypted.
    pub(crate) fn seal(&mut self, message: &[u8], out: &mut Vec<u8>) -> Sent {
        match self.sealer.seal_data(message, out) {
            Ok(()) => Sent::Done,
            Err(SealError::TooLong) => Sent::TooLarge,
            Err(error) => Sent::Broken(EndReason::Protocol(error.to_string())),
        }
    }

    /// Queues a close_notify, once.
    pub(crate) fn close(&mut self) {
        if !std::mem::replace(&mut self.closed, true) {
            self.push_alert(wire::WARNING, Alert::CLOSE_NOTIFY);
        }
    }

    /// Queues an access_denied alert in place of close_notify, for a peer that is not authorized.
    pub(crate) fn deny(&mut self) {
        if !std::mem::replace(&mut self.closed, true) {
            self.push_alert(wire::FATAL, Alert::ACCESS_DENIED);
        }
    }

    /// Returns the source of exported keying material.
    pub(crate) fn exporter(&self) -> Result<Exporter<'_>, RefusedExport> {
        Exporter::of(self.secrets.as_deref())
    }
}

//! What a handler holds: the peer.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::address::Scheme;
use crate::association::{Association, AssociationId, Link, signal};
use crate::config::Timeouts;
use crate::credentials::PeerIdentity;
use crate::error::{EndReason, Error};
use crate::observe::{Counters, bump};
use crate::restart::{Restart, Verdict};
pub use crate::sender::Sender;
use crate::sender::lock_and_send;
use crate::session::dtls::{Facts, Read};
use crate::session::handshake::after;
use crate::session::record::{self, Filtered, Phase};
use crate::session::{Sent, Session};
use crate::sys::epoll::wait_writable;
use crate::sys::message::DATAGRAM_MAX;
use crate::transport::udp::{Arrival, UdpTransport};

/// One peer, as its handler (or a client) sees it: messages in, messages out.
///
/// All calls run on the calling thread, which is the peer's own. Others send through a
/// [`Sender`].
///
/// The association ends when the value is dropped, at the latest.
pub struct Peer {
    association: Arc<Association>,
    /// `None` once the association is over.
    transport: Option<UdpTransport>,
    facts: Facts,
    timeouts: Timeouts,
    counters: Arc<Counters>,
    /// Finds restarted peers; `None` where nobody restarts (plain UDP, clients).
    restart: Option<Restart>,
    /// Gives the addresses free when the association is over; `None` on the client's side.
    home: Option<Arc<dyn Home>>,
    /// Where datagrams are read to. For DTLS a whole record, for plain UDP what the handler's
    /// buffer has no room for; pages are touched as far as datagrams reach.
    scratch: Vec<u8>,
    /// A message that was longer than the handler's buffer.
    kept: Option<Vec<u8>>,
    /// The session may hold another message of the last datagram.
    more: bool,
    /// The handler has been told that the server drains.
    told_to_drain: bool,
    last_heard: Instant,
    /// A message came since `last_heard` was set.
    heard: bool,
    max_message: usize,
    min_message: usize,
    end: Option<EndReason>,
}

/// Where associations come from and go to: the server.
pub(crate) trait Home: Send + Sync {
    /// The association is over and its socket closed. `leftover` is a datagram for its successor.
    fn left(&self, association: &Association, reason: &EndReason, leftover: Option<Box<[u8]>>);
}

/// What a [`Peer`] is made of.
pub(crate) struct Parts {
    pub(crate) association: Arc<Association>,
    pub(crate) transport: UdpTransport,
    pub(crate) session: Session,
    pub(crate) facts: Facts,
    pub(crate) timeouts: Timeouts,
    pub(crate) counters: Arc<Counters>,
    pub(crate) restart: Option<Restart>,
    pub(crate) home: Option<Arc<dyn Home>>,
}

impl Peer {
    /// Opens the association: from here on others can send.
    pub(crate) fn open(parts: Parts) -> Self {
        let max_message = parts.session.max_message(parts.association.peer.is_ipv4());
        let min_message = parts.session.min_message();
        *parts.association.link.lock() = Link::Open(parts.session);
        Self {
            association: parts.association,
            transport: Some(parts.transport),
            facts: parts.facts,
            timeouts: parts.timeouts,
            counters: parts.counters,
            restart: parts.restart,
            home: parts.home,
            scratch: Vec::with_capacity(DATAGRAM_MAX),
            kept: None,
            more: false,
            told_to_drain: false,
            last_heard: Instant::now(),
            heard: false,
            max_message,
            min_message,
            end: None,
        }
    }

    /// Waits for one message and puts it into `buffer`; blocks until one comes or the association
    /// ends. `Ok(Some(n))`: a message of `n` bytes; it may be empty on plain UDP. `Ok(None)`: the
    /// association is over in an orderly way ([`end_reason`](Self::end_reason) says which), or
    /// the server [drains](Self::is_draining) and nothing is waiting: a handler may return, or
    /// finish what it is at; `recv` goes on to work until the grace period is over.
    ///
    /// # Errors
    ///
    /// [`Error::BufferTooSmall`]: the message is kept, call again with a larger buffer.
    /// [`Error::Ended`]: the association is over, and not in an orderly way.
    pub fn recv(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Error> {
        self.recv_until(buffer, None)
    }

    /// As [`recv`](Self::recv), for so long at most. A timeout of zero takes what is there.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`], after which the association lives; else as [`recv`](Self::recv).
    pub fn recv_timeout(&mut self, buffer: &mut [u8], timeout: Duration) -> Result<Option<usize>, Error> {
        self.recv_until(buffer, Instant::now().checked_add(timeout))
    }

    /// As [`recv_timeout`](Self::recv_timeout), until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`recv_timeout`](Self::recv_timeout).
    pub fn recv_deadline(&mut self, buffer: &mut [u8], deadline: Instant) -> Result<Option<usize>, Error> {
        self.recv_until(buffer, Some(deadline))
    }

    /// Sends one message. Blocks only where the socket's send buffer is full, for
    /// [`Timeouts::send`] at most. That it was sent does not mean that it arrived.
    ///
    /// # Errors
    ///
    /// [`Error::MessageTooLarge`], [`Error::EmptyMessage`], [`Error::SendBufferFull`]: not sent, and
    /// the association lives. [`Error::Ended`]: it is over.
    pub fn send(&mut self, message: &[u8]) -> Result<(), Error> {
        if message.len() > self.max_message {
            return Err(Error::MessageTooLarge { size: message.len(), limit: self.max_message });
        }
        if message.len() < self.min_message {
            return Err(Error::EmptyMessage);
        }
        if self.timeouts.lifetime.is_some_and(|most| self.association.opened.elapsed() >= most) {
            self.finish_with(EndReason::Lifetime, None);
        }
        let mut deadline = None;
        loop {
            match lock_and_send(&self.association, message) {
                Some(Sent::Done) => return Ok(()),
                Some(Sent::TooLarge) => {
                    return Err(Error::MessageTooLarge { size: message.len(), limit: self.max_message });
                }
                Some(Sent::Broken(why)) => {
                    return Err(Error::Ended(self.finish_with(EndReason::Protocol(why), None)));
                }
                None => return Err(Error::Ended(self.finish_with(EndReason::ClosedByUs, None))),
                Some(Sent::Full) => {}
            }
            let now = Instant::now();
            let deadline = *deadline.get_or_insert_with(|| after(self.timeouts.send));
            let Some(transport) = &self.transport else { continue };
            let left = deadline.saturating_duration_since(now);
            if left.is_zero() || !wait_for_room(transport, left) {
                return Err(Error::SendBufferFull);
            }
        }
    }

    /// A handle with which any thread can send to this peer.
    pub fn sender(&self) -> Sender {
        Sender::new(Arc::clone(&self.association), self.max_message, self.min_message)
    }

    /// Ends the association in an orderly way: close_notify (RFC 5246 §7.2.1) where there is one,
    /// and the socket is closed. Dropping the peer, or returning from the handler, does the same.
    pub fn close(&mut self) {
        self.finish_with(EndReason::ClosedByUs, None);
    }

    /// Where the peer is.
    pub fn peer_address(&self) -> SocketAddr {
        self.association.peer
    }

    /// The address of this host that the peer talks to; never a wildcard.
    pub fn local_address(&self) -> SocketAddr {
        self.association.local
    }

    /// The protocol spoken.
    pub fn scheme(&self) -> Scheme {
        self.association.scheme
    }

    /// The name of this association.
    pub fn id(&self) -> AssociationId {
        self.association.id
    }

    /// Who the peer proved to be in the handshake.
    pub fn identity(&self) -> &PeerIdentity {
        &self.facts.identity
    }

    /// The cipher suite in OpenSSL's spelling, such as `ECDHE-ECDSA-AES256-GCM-SHA384`; `None`
    /// without encryption.
    pub fn cipher(&self) -> Option<&str> {
        self.facts.cipher.as_deref()
    }

    /// Whether the server is shutting down: finish, the grace period is running.
    pub fn is_draining(&self) -> bool {
        self.association.signals() & signal::DRAIN != 0
    }

    /// Why the association is over; `None` while it is not.
    pub fn end_reason(&self) -> Option<&EndReason> {
        self.end.as_ref()
    }

    /// The longest message that [`send`](Self::send) takes, in bytes: 16,384 on DTLS, 65,507 or
    /// 65,527 on UDP. Above the path MTU (about 1,400 bytes) IP fragments it.
    pub fn max_message_size(&self) -> usize {
        self.max_message
    }

    fn recv_until(&mut self, buffer: &mut [u8], user: Option<Instant>) -> Result<Option<usize>, Error> {
        if let Some(kept) = self.kept.take() {
            return self.deliver_long(kept, buffer);
        }
        let mut now = Instant::now();
        if std::mem::take(&mut self.heard) {
            self.last_heard = now;
        }
        loop {
            if self.transport.is_none() {
                return self.ended();
            }
            let signals = self.association.signals();
            if signals & signal::CLOSE != 0 {
                self.finish_with(EndReason::ClosedByUs, None);
                continue;
            }
            if signals & signal::STOP != 0 {
                self.finish_with(EndReason::Shutdown, None);
                continue;
            }
            if self.more {
                if let Some(message) = self.read_more(buffer)? {
                    return Ok(Some(message));
                }
                continue;
            }
            if signals & signal::INBOX != 0
                && let Some(datagram) = self.association.take_delivered()
            {
                if let Some(len) = self.take_delivered(&datagram, buffer)? {
                    return Ok(Some(len));
                }
                continue;
            }
            let idle = self.timeouts.idle.and_then(|most| self.last_heard.checked_add(most));
            let lifetime = self.timeouts.lifetime.and_then(|most| self.association.opened.checked_add(most));
            let draining = (signals & signal::DRAIN != 0 && !self.told_to_drain).then_some(now);
            let deadline = [user, idle, lifetime, draining].into_iter().flatten().min();
            match self.wait(buffer, now, deadline) {
                Arrival::Datagram(len) => {
                    if let Some(len) = self.take_read(len, buffer)? {
                        return Ok(Some(len));
                    }
                }
                Arrival::Woken => {}
                Arrival::TimedOut => {
                    now = Instant::now();
                    if draining.is_some() {
                        self.told_to_drain = true;
                        return Ok(None);
                    }
                    let over = |deadline: Option<Instant>| deadline.is_some_and(|deadline| now >= deadline);
                    if over(lifetime) {
                        self.finish_with(EndReason::Lifetime, None);
                    } else if over(idle) {
                        self.finish_with(EndReason::Idle, None);
                    } else if over(user) {
                        return Err(Error::TimedOut);
                    }
                }
                Arrival::Failed(error) => {
                    self.finish_with(EndReason::Io(error.kind()), None);
                }
            }
            now = Instant::now();
        }
    }

    fn wait(&mut self, buffer: &mut [u8], now: Instant, deadline: Option<Instant>) -> Arrival {
        let Some(transport) = &mut self.transport else { return Arrival::Woken };
        self.association.reading.store(true, Ordering::Relaxed);
        let first = if self.facts.cipher.is_some() { &mut [] } else { buffer };
        let arrival = transport.recv(first, &mut self.scratch, now, deadline);
        self.association.reading.store(false, Ordering::Relaxed);
        arrival
    }

    /// A datagram of `len` bytes was read: on plain UDP into `buffer` and the scratch, on DTLS into
    /// the scratch.
    fn take_read(&mut self, len: usize, buffer: &mut [u8]) -> Result<Option<usize>, Error> {
        if self.facts.cipher.is_some() {
            return self.take_record(buffer);
        }
        if len <= buffer.len() {
            self.count_message();
            return Ok(Some(len));
        }
        let mut whole = buffer.to_vec();
        whole.extend_from_slice(&self.scratch);
        self.count_message();
        self.deliver_long(whole, buffer)
    }

    /// A datagram came by way of the dispatcher.
    fn take_delivered(&mut self, datagram: &[u8], buffer: &mut [u8]) -> Result<Option<usize>, Error> {
        if self.facts.cipher.is_some() {
            self.scratch.clear();
            self.scratch.extend_from_slice(datagram);
            return self.take_record(buffer);
        }
        self.count_message();
        self.deliver_long(datagram.to_vec(), buffer)
    }

    /// A datagram of a DTLS peer is in the scratch.
    fn take_record(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Error> {
        if let Some(restart) = &self.restart {
            let Association { local, peer, .. } = *self.association;
            match restart.check(&self.scratch, local, peer) {
                Verdict::NotAHello => {}
                Verdict::Duplicate => {
                    bump(&self.counters.duplicate_hellos);
                    return Ok(None);
                }
                Verdict::Challenge(reply) => {
                    bump(&self.counters.restarts_challenged);
                    if let Some(transport) = &self.transport {
                        let _ = crate::session::datagram::send(transport.socket(), &reply);
                    }
                    return Ok(None);
                }
                Verdict::Ignore => return Ok(None),
                Verdict::Restarted => {
                    let hello = self.scratch.as_slice().into();
                    self.finish_with(EndReason::Replaced, Some(hello));
                    return Ok(None);
                }
            }
        }
        let phase = Phase::Established { min_ciphertext: self.facts.min_ciphertext };
        let Filtered::Pass { len, .. } = record::filter(&self.scratch, phase) else {
            bump(&self.counters.records_dropped);
            return Ok(None);
        };
        self.scratch.truncate(len);
        let mut scratch = std::mem::take(&mut self.scratch);
        let read = self.with_dtls(|session| (session.feed(&mut scratch, buffer), session.has_more()));
        self.scratch = scratch;
        self.take_outcome(read, buffer)
    }

    /// Reads on in the last datagram.
    fn read_more(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Error> {
        let read = self.with_dtls(|session| (session.read(buffer), session.has_more()));
        self.take_outcome(read, buffer)
    }

    fn with_dtls(
        &self,
        call: impl FnOnce(&mut crate::session::dtls::DtlsSession) -> (Read, bool),
    ) -> (Read, bool) {
        match &mut *self.association.link.lock() {
            Link::Open(Session::Dtls(session)) => call(session),
            _ => (Read::Nothing, false),
        }
    }

    fn take_outcome(
        &mut self,
        (read, more): (Read, bool),
        buffer: &mut [u8],
    ) -> Result<Option<usize>, Error> {
        self.more = more && !matches!(read, Read::Nothing);
        match read {
            Read::Message(len) => {
                self.count_message();
                Ok(Some(len))
            }
            Read::Long(message) => {
                self.count_message();
                self.deliver_long(message, buffer)
            }
            Read::Nothing => Ok(None),
            Read::Closed => {
                self.finish_with(EndReason::ClosedByPeer, None);
                Ok(None)
            }
            Read::Broken(why) => {
                self.finish_with(EndReason::Protocol(why), None);
                Ok(None)
            }
        }
    }

    fn count_message(&mut self) {
        self.heard = true;
        self.association.received.fetch_add(1, Ordering::Relaxed);
        if !self.association.confirmed.load(Ordering::Relaxed) {
            self.association.confirm();
        }
    }

    /// Copies a message to the handler's buffer, or keeps it where that is too small.
    fn deliver_long(&mut self, message: Vec<u8>, buffer: &mut [u8]) -> Result<Option<usize>, Error> {
        match buffer.get_mut(..message.len()) {
            Some(room) => {
                room.copy_from_slice(&message);
                Ok(Some(message.len()))
            }
            None => {
                let needed = message.len();
                self.kept = Some(message);
                Err(Error::BufferTooSmall { needed })
            }
        }
    }

    fn ended(&self) -> Result<Option<usize>, Error> {
        match &self.end {
            Some(reason) if !reason.is_orderly() => Err(Error::Ended(reason.clone())),
            _ => Ok(None),
        }
    }

    /// Ends the association if it is not over, and says why it is.
    pub(crate) fn finish(&mut self) -> EndReason {
        let draining = self.association.signals() & (signal::DRAIN | signal::STOP) != 0;
        self.finish_with(if draining { EndReason::Shutdown } else { EndReason::ClosedByUs }, None)
    }

    /// As [`finish`](Self::finish), for this reason. The order matters: goodbye, then the socket,
    /// then the addresses, so that there is never a second socket for them.
    pub(crate) fn finish_with(&mut self, reason: EndReason, leftover: Option<Box<[u8]>>) -> EndReason {
        if let Some(end) = &self.end {
            return end.clone();
        }
        let reason = {
            let mut link = self.association.link.lock();
            match std::mem::replace(&mut *link, Link::Ended(reason.clone())) {
                Link::Open(mut session) => {
                    if !matches!(reason, EndReason::Protocol(_) | EndReason::Replaced) {
                        session.close();
                    }
                    reason
                }
                // Somebody else ended it (a shutdown that could not wait).
                Link::Ended(earlier) => {
                    *link = Link::Ended(earlier.clone());
                    earlier
                }
                Link::Opening => reason,
            }
        };
        self.association.confirm();
        self.association.wake_no_more();
        self.transport = None;
        self.end = Some(reason.clone());
        if let Some(home) = self.home.take() {
            home.left(&self.association, &reason, leftover);
        }
        reason
    }
}

/// Waits until the socket takes data; `false` if it does not in time.
fn wait_for_room(transport: &UdpTransport, timeout: Duration) -> bool {
    use std::os::fd::AsFd;
    wait_writable(transport.socket().as_fd(), Some(timeout)).unwrap_or(false)
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.finish();
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("association", &self.association).finish_non_exhaustive()
    }
}

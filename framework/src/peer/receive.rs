//! The receive path of a peer: bytes from the transport pass through the session's layers, and the association's
//! deadlines and signals are checked between reads.

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{ForSuccessor, MAX_NOTIFICATIONS, Peer};
use crate::address::Scheme;
use crate::association::Link;
use crate::drive::open::{Open, Polled};
use crate::drive::release_record;
use crate::error::{EndReason, Error};
use crate::net::attention::signal;
use crate::net::{Arrival, Transport};
use crate::observe::{SAMPLED, bump, log_limited};
use crate::protocol::Read;
use crate::protocol::dtls::session::Move;
use crate::sctp::Notification;
use crate::sys::footprint;

/// Result of [`Peer::next_until`].
pub(crate) enum Next {
    /// A message of this many bytes is in the buffer.
    Message(usize),
    /// A notification that the handler subscribed to.
    Notification(Box<Notification>),
    /// The peer's address has changed; this is the previous one, and [`Peer::peer_address`] is the new one.
    Moved(SocketAddr),
    /// The association has ended in an orderly way, or the server drains.
    Over,
}

/// Signals that end an association.
const ENDING: u8 = signal::CLOSE | signal::STOP | signal::TOO_SLOW;

/// How long a peer must be quiet before its thread returns memory.
const QUIET: Duration = Duration::from_secs(2);

/// Maximum number of reads without a message after the deadline has passed.
const MAX_LATE: u32 = 64;

/// How long a peer that sends without a pause may delay the notice to its handler that the server drains.
const DRAIN_NOTICE: Duration = Duration::from_secs(1);

/// Maximum number of reads that search unread data for the peer's end: a receive buffer full of short messages.
const MAX_LAST_READS: usize = 1 << 16;
/// Maximum duration of these reads. A peer may send faster than a slow processor reads.
const MAX_LAST_READS_TIME: Duration = Duration::from_millis(500);

// While a peer is quiet, the frames of `recv` and `next_until` are on its stack. Functions that they call are kept out
// of line, so that the stack fits into two pages together with a handler's buffer of 2 KiB.
impl Peer {
    pub(super) fn message_until(
        &mut self,
        buffer: &mut [u8],
        user: Option<Instant>,
    ) -> Result<Option<usize>, Error> {
        loop {
            match self.next_until(buffer, user)? {
                Next::Message(len) => return Ok(Some(len)),
                Next::Over => return Ok(None),
                Next::Moved(_) => {}
                Next::Notification(notification) => self.keep(notification),
            }
        }
    }

    /// Keeps a notification until the handler asks for it. If too many are kept, drops the oldest.
    #[cold]
    #[inline(never)]
    #[expect(clippy::boxed_local, reason = "without its box it would be in the caller's frame")]
    pub(super) fn keep(&mut self, notification: Box<Notification>) {
        let notifications = self.notifications.get_or_insert_default();
        if notifications.len() >= MAX_NOTIFICATIONS {
            notifications.pop_front();
        }
        notifications.push_back(*notification);
    }

    /// Waits for the next event that concerns the handler, until `user`, the handler's deadline.
    pub(super) fn next_until(&mut self, buffer: &mut [u8], user: Option<Instant>) -> Result<Next, Error> {
        if let Some(kept) = self.kept.take() {
            return self.deliver_long(kept.into_vec(), buffer);
        }
        let mut now = self.association.now();
        self.note_handled(now);
        let mut late = 0;
        self.leaves_unread = false;
        loop {
            if self.transport.is_none() {
                return self.ended();
            }
            if let Some(from) = self.moved_from.take().map(|from| *from) {
                return Ok(Next::Moved(from));
            }
            let signals = self.association.attention.signals();
            if signals & ENDING != 0 {
                self.end_by_signal(signals);
                continue;
            }
            let next_check = self.check_for_stall(now);
            if self.transport.is_none() {
                continue;
            }
            let notice = self.drain_notice(signals, now);
            if notice.is_some() && self.draining_since.is_some_and(|since| now >= since + DRAIN_NOTICE) {
                self.told_to_drain = true;
                return Ok(Next::Over);
            }
            let due = match self.poll(buffer, now) {
                Polled::Read(read) => {
                    if let Some(next) = self.handle_outcome(read, buffer)? {
                        return Ok(next);
                    }
                    continue;
                }
                Polled::Over(reason) => {
                    self.end(reason);
                    continue;
                }
                Polled::Wait(due) => due,
            };
            if self.association.attention.signals() & signal::FLUSH != 0 {
                self.flush();
            }
            let quiet = self.quiet_from.map(|from| from + QUIET);
            let deadline = [user, due, notice, next_check, quiet].into_iter().flatten().min();
            let mut arrival = self.wait(buffer, now, deadline);
            if let Arrival::Message(len) = arrival
                && let Some(next) = self.handle_read(len, buffer)?
            {
                return Ok(next);
            }
            if matches!(arrival, Arrival::Message(_) | Arrival::Woken) {
                // Data that has already arrived is delivered even if the deadline has passed, but a peer that sends an
                // endless sequence of reads without a message must not defeat the deadline.
                late += u32::from(deadline.is_some_and(|deadline| now >= deadline));
                if late < MAX_LATE {
                    now = self.association.now();
                    continue;
                }
                self.leaves_unread = true;
                (late, arrival) = (0, Arrival::TimedOut);
            }
            if let Some(next) = self.handle_arrival(arrival, user, notice)? {
                return Ok(next);
            }
            now = self.association.now();
        }
    }

    /// Returns when to tell the handler of a quiet peer that the server drains, unless it has been told. A peer whose
    /// handshake completed during the drain is given time for its first message.
    pub(super) fn drain_notice(&mut self, signals: u8, now: Instant) -> Option<Instant> {
        if signals & signal::DRAIN == 0 || self.told_to_drain {
            return None;
        }
        let since = *self.draining_since.get_or_insert(now);
        let is_expected = self.opened_draining && self.association.received.load(Ordering::Relaxed) == 0;
        Some(if is_expected { since + DRAIN_NOTICE } else { since })
    }

    /// Calls `call` with the association's open state, if it is open.
    pub(super) fn with_open<T>(&self, call: impl FnOnce(&mut Open) -> T) -> Option<T> {
        match &mut *self.association.link.lock() {
            Link::Open(open) => Some(call(open)),
            _ => None,
        }
    }

    /// Reads the next message from data that has already arrived, or returns until when to wait for more. Never blocks.
    #[inline(never)]
    fn poll(&mut self, buffer: &mut [u8], now: Instant) -> Polled {
        let received = self.association.received.load(Ordering::Relaxed);
        let Self { association, scratch, info, quiet_from, .. } = self;
        let mut link = association.link.lock();
        let Link::Open(open) = &mut *link else {
            return Polled::Over(association.end_reason().cloned().unwrap_or(EndReason::ClosedByUs));
        };
        let polled = open.poll(received, buffer, scratch, info, now);
        if let Some(from) = quiet_from {
            *from = open.deadlines.last_received();
        }
        let (unsent, moved) = (open.session.has_unsent(), open.session.take_move());
        drop(link);
        if let Some(moved) = moved {
            self.change_peer_address(moved);
        }
        // A response from OpenSSL may not have fit into the send buffer, or must wait until everything before it is
        // acknowledged.
        if unsent {
            self.note_unsent();
        }
        polled
    }

    /// Handles a discarded message that was longer than `limit`, and returns the error for the handler. Returns `None`
    /// if the association has ended because no other message arrived within the idle timeout.
    #[cold]
    #[inline(never)]
    fn refuse_long(&mut self, limit: usize) -> Option<Error> {
        bump(&self.association.counters.messages_too_long);
        log_limited!(info, peer = %self.peer_address(), limit, "a peer sent a message that is longer than the limit");
        let now = self.association.now();
        if self.with_open(|open| open.deadlines.is_idle(now)) == Some(true) {
            self.finish_with(EndReason::Idle, None);
            return None;
        }
        Some(Error::MessageRefused { limit })
    }

    /// Checks whether the peer has ended the association in data that has not been read yet: reads and discards the
    /// data that has arrived. Never blocks.
    pub(super) fn look_for_end(&mut self) {
        let association = Arc::clone(&self.association);
        self.look_for_end_by(|| association.now());
    }

    /// Does the work of [`look_for_end`](Self::look_for_end). `clock` measures its time limit.
    fn look_for_end_by(&mut self, mut clock: impl FnMut() -> Instant) {
        if self.transport.is_none() || self.association.scheme == Scheme::Udp {
            return;
        }
        // The handler has returned, so the deadlines no longer apply.
        self.with_open(|open| open.deadlines.disarm());
        (self.told_to_drain, self.ending) = (true, true);
        let received = self.association.received.load(Ordering::Relaxed);
        let now = clock();
        for _ in 0..MAX_LAST_READS {
            let next = self.next_until(&mut [], Some(now));
            self.kept = None;
            let is_last = matches!(next, Ok(Next::Over) | Err(Error::TimedOut));
            if is_last || self.transport.is_none() || clock() >= now + MAX_LAST_READS_TIME {
                break;
            }
        }
        // These messages were discarded, so they do not count as received.
        self.association.received.store(received, Ordering::Relaxed);
    }

    #[cold]
    #[inline(never)]
    fn end(&mut self, reason: EndReason) {
        self.finish_with(reason, None);
    }

    /// Ends the association because another thread asked for it.
    #[cold]
    #[inline(never)]
    fn end_by_signal(&mut self, signals: u8) {
        let reason = match signals {
            // The sender has already received this reason, so it must not change.
            _ if signals & signal::TOO_SLOW != 0 => EndReason::TooSlow,
            // Counts as closed by the handler only if the server is not draining; a handler that closes during a drain
            // follows the request to shut down.
            _ if signals & (signal::CLOSE | signal::DRAIN) == signal::CLOSE => EndReason::ClosedByUs,
            _ => EndReason::Shutdown,
        };
        self.finish_with(reason, None);
    }

    /// Handles a wait that ended without data from the peer. Returns `Ok(None)` if there is nothing to report to the
    /// handler.
    #[cold]
    #[inline(never)]
    fn handle_arrival(
        &mut self,
        arrival: Arrival,
        user: Option<Instant>,
        notice: Option<Instant>,
    ) -> Result<Option<Next>, Error> {
        match arrival {
            Arrival::Message(_) | Arrival::Woken | Arrival::Dry => {}
            Arrival::Notification(notification) => return Ok(Some(Next::Notification(notification))),
            Arrival::TooLong => {
                if let Some(refused) = self.refuse_long(self.message_limit()) {
                    return Err(refused);
                }
            }
            Arrival::TimedOut => {
                let now = self.association.now();
                if self.quiet_from.is_some_and(|from| now >= from + QUIET) {
                    self.release_handshake_memory();
                }
                if notice.is_some_and(|notice| now >= notice) {
                    self.told_to_drain = true;
                    return Ok(Some(Next::Over));
                }
                if let Some(reason) = self.with_open(|open| open.deadlines.handle_timeout(now)).flatten() {
                    self.finish_with(reason, None);
                } else if user.is_some_and(|user| now >= user) {
                    return Err(Error::TimedOut);
                }
            }
            Arrival::Over(EndReason::ClosedByPeer) => {
                if let Some(reason) = self.with_open(Open::handle_end_of_stream).flatten() {
                    self.finish_with(reason, None);
                }
            }
            Arrival::Over(reason) => {
                self.finish_with(reason, None);
            }
        }
        Ok(None)
    }

    /// Frees, on the first idle period, the memory that only the handshake needed. This costs one wake-up for a peer
    /// that stays, and none for a peer that connects, talks and leaves.
    fn release_handshake_memory(&mut self) {
        self.quiet_from = None;
        // An empty buffer makes the next read begin with a wait.
        self.scratch = Vec::new();
        release_record();
        footprint::stop_thread();
        footprint::release_stack();
        if let Some(owner) = &self.owner {
            owner.peer_became_quiet();
        }
    }

    /// Waits until a message arrives, a signal is raised, or `deadline` has passed.
    pub(super) fn wait(&mut self, buffer: &mut [u8], now: Instant, deadline: Option<Instant>) -> Arrival {
        let Some(transport) = &mut self.transport else { return Arrival::Woken };
        let first = if self.is_direct { buffer } else { &mut [] };
        if self.driven {
            return transport.recv(first, &mut self.scratch, now, deadline);
        }
        self.association.reading.store(true, Ordering::SeqCst);
        // The dispatcher reads in place of this thread while it holds this lock. Data that it has read is in the inbox
        // now; if the peer restarted, further data belongs to the next association.
        if matches!(transport, Transport::Sctp(_)) && !matches!(&*self.association.link.lock(), Link::Open(_))
        {
            self.association.reading.store(false, Ordering::SeqCst);
            return Arrival::Woken;
        }
        let arrival = transport.recv(first, &mut self.scratch, now, deadline);
        self.association.reading.store(false, Ordering::SeqCst);
        if let (Some(owner), false) = (&self.owner, matches!(arrival, Arrival::Woken)) {
            owner.handler_started();
        }
        arrival
    }

    /// Handles a message of `len` bytes that was read: without encryption into `buffer` and then the scratch buffer,
    /// otherwise into the scratch buffer.
    fn handle_read(&mut self, len: usize, buffer: &mut [u8]) -> Result<Option<Next>, Error> {
        if let Some(info) = self.transport.as_ref().and_then(Transport::message_info) {
            self.info = info;
        }
        if !self.is_direct {
            return self.handle_input(buffer);
        }
        self.count_message(len);
        let proof = self.association.proof.as_ref();
        if len <= buffer.len() {
            proof.inspect(|proof| proof.check_message(&buffer[..len]));
            return Ok(Some(Next::Message(len)));
        }
        let mut whole = buffer.to_vec();
        whole.append(&mut self.scratch);
        proof.inspect(|proof| proof.check_message(&whole));
        self.deliver_long(whole, buffer).map(Some)
    }

    /// Passes the scratch buffer through the session.
    pub(super) fn handle_input(&mut self, buffer: &mut [u8]) -> Result<Option<Next>, Error> {
        if let Some(Transport::Udp(transport)) = &mut self.transport
            && self.ending
            && transport.keep_for_successor(&self.scratch)
        {
            return Ok(None);
        }
        let now = self.association.now();
        let Self { association, transport, scratch, info, .. } = self;
        let from = transport.as_ref().and_then(Transport::source);
        let (read, moved) = match &mut *association.link.lock() {
            Link::Open(open) => {
                let from = from.filter(|from| *from != association.current_peer());
                let read = open.handle_input(scratch, from, info, buffer, now);
                (read, open.session.take_move())
            }
            _ => (Read::Nothing, None),
        };
        if let Some(moved) = moved {
            self.change_peer_address(moved);
        }
        self.handle_outcome(read, buffer)
    }

    /// Sends to the peer's new address from now on, unless the owner or the kernel refuses that address.
    #[cold]
    #[inline(never)]
    fn change_peer_address(&mut self, moved: Move) {
        let Move { to, .. } = moved;
        let association = &self.association;
        let from = association.current_peer();
        let register =
            |moved| self.owner.as_ref().is_none_or(|owner| owner.change_peer_address(association, moved));
        let mut has_moved = register(moved);
        if has_moved
            && self.with_open(|open| open.session.set_peer_address(to)).is_none_or(|outcome| outcome.is_err())
        {
            register(Move { to: from, is_checked: false });
            has_moved = false;
        }
        if !has_moved {
            return bump(&self.association.counters.address_changes_refused);
        }
        association.set_current_peer(to);
        if let Some(transport) = &mut self.transport {
            transport.set_peer_address(to);
        }
        bump(&self.association.counters.addresses_changed);
        log_limited!(debug, %from, %to, "the address of a peer has changed");
        self.moved_from.get_or_insert_with(|| Box::new(from));
    }

    /// Handles the result of a read from the session. Returns `Ok(None)` if there is nothing for the handler.
    #[inline(never)]
    fn handle_outcome(&mut self, read: Read, buffer: &mut [u8]) -> Result<Option<Next>, Error> {
        match read {
            Read::Message(len) => {
                self.count_message(len);
                Ok(Some(Next::Message(len)))
            }
            Read::Long(message) => {
                self.count_message(message.len());
                self.deliver_long(message, buffer).map(Some)
            }
            Read::TooLong => self.refuse_long(self.message_limit()).map_or(Ok(None), Err),
            Read::Nothing => Ok(None),
            Read::Closed => {
                self.finish_with(EndReason::ClosedByPeer, None);
                Ok(None)
            }
            Read::Broken(why) => {
                self.finish_with(EndReason::Protocol(why), None);
                Ok(None)
            }
            Read::Restarted(hello) => {
                self.finish_with(EndReason::Replaced, Some(ForSuccessor::Datagram(hello)));
                Ok(None)
            }
        }
    }

    fn count_message(&mut self, len: usize) {
        self.association.count_received(len);
        if self.association.received.load(Ordering::Relaxed) % SAMPLED == 1 && !self.ending {
            self.delivered = Some(self.association.now());
        }
    }

    /// Notes that the handler has finished with the last message.
    pub(crate) fn note_handled(&mut self, now: Instant) {
        if let Some(delivered) = self.delivered.take() {
            self.association.counters.times.handler.observe(now.saturating_duration_since(delivered));
        }
    }

    /// Copies a message to the handler's buffer, or keeps it if that is too small.
    #[cold]
    #[inline(never)]
    fn deliver_long(&mut self, message: Vec<u8>, buffer: &mut [u8]) -> Result<Next, Error> {
        match buffer.get_mut(..message.len()) {
            Some(room) => {
                room.copy_from_slice(&message);
                Ok(Next::Message(message.len()))
            }
            None => {
                let needed = message.len();
                self.kept = Some(message.into());
                Err(Error::BufferTooSmall { needed })
            }
        }
    }

    fn ended(&self) -> Result<Next, Error> {
        match self.end_reason() {
            Some(reason) if !reason.is_orderly() => Err(Error::Ended(reason.clone())),
            _ => Ok(Next::Over),
        }
    }
}

//! How a peer's messages come in: what the transport gives goes through the session's layers, and the
//! association's deadlines and signals are looked at between.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Layers, Leftover, MAX_NOTIFICATIONS, Peer};
use crate::address::Scheme;
use crate::association::Link;
use crate::drive::{Session, transmit};
use crate::error::{EndReason, Error};
use crate::net::attention::signal;
use crate::net::{Arrival, Transport};
use crate::observe::{bump, log_limited};
use crate::protocol::dtls::session as dtls;
use crate::sctp::Notification;
use crate::sys::footprint;
use crate::tls::Read;

/// What [`Peer::next_until`] found.
pub(super) enum Next {
    /// A message of so many bytes is in the buffer.
    Message(usize),
    /// Something that the handler asked to be told of.
    Notification(Box<Notification>),
    /// The association is over in an orderly way, or the server drains.
    Over,
}

/// How long a peer says nothing before its thread gives memory back.
const QUIET: Duration = Duration::from_secs(2);

/// Reads that give no message and are still taken in when the time is over.
const MAX_LATE: u32 = 64;

/// How long what a peer sends without a pause may keep its handler from being told that the server drains.
const DRAIN_NOTICE: Duration = Duration::from_secs(1);

/// Reads that look for the peer's end in what nobody has read: a receive buffer full of short messages.
const MAX_LAST_READS: usize = 1 << 16;

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
                Next::Notification(notification) => self.keep(*notification),
            }
        }
    }

    fn keep(&mut self, notification: Notification) {
        if self.notifications.len() >= MAX_NOTIFICATIONS {
            self.notifications.pop_front();
        }
        self.notifications.push_back(notification);
    }

    pub(super) fn next_until(&mut self, buffer: &mut [u8], user: Option<Instant>) -> Result<Next, Error> {
        if let Some(kept) = self.kept.take() {
            return self.deliver_long(kept, buffer);
        }
        let mut now = Instant::now();
        let mut late = 0;
        if std::mem::take(&mut self.heard) {
            self.last_heard = now;
        }
        loop {
            if self.transport.is_none() {
                return self.ended();
            }
            let signals = self.association.attention.signals();
            if signals & signal::CLOSE != 0 {
                self.finish_with(EndReason::ClosedByUs, None);
                continue;
            }
            if signals & signal::STOP != 0 {
                self.finish_with(EndReason::Shutdown, None);
                continue;
            }
            if signals & signal::TOO_SLOW != 0 {
                self.finish_with(EndReason::TooSlow, None);
                continue;
            }
            if signals & signal::FLUSH != 0 {
                self.flush();
            }
            // These hold whatever the peer sends, so they come before what it has sent.
            let over = |deadline: Option<Instant>| deadline.is_some_and(|deadline| now >= deadline);
            let lifetime = self.timeouts.lifetime.and_then(|most| self.association.opened.checked_add(most));
            if over(lifetime) {
                self.finish_with(EndReason::Lifetime, None);
                continue;
            }
            let look = self.watch_for_stall(now);
            if self.transport.is_none() {
                continue;
            }
            if over(self.held_until) {
                self.give_up_waiting(now);
            }
            let draining = signals & signal::DRAIN != 0 && !self.told_to_drain;
            if draining && now.duration_since(*self.draining_since.get_or_insert(now)) >= DRAIN_NOTICE {
                self.told_to_drain = true;
                return Ok(Next::Over);
            }
            if self.more {
                if let Some(next) = self.read_more(buffer)? {
                    return Ok(next);
                }
                continue;
            }
            let idle = self.idle_deadline();
            let held = self.held_until;
            let (due, unmet) = self.message_due(now).unzip();
            let quiet = (!self.settled).then(|| self.last_heard + QUIET);
            let draining = draining.then_some(now);
            let deadline =
                [user, idle, lifetime, draining, held, look, quiet, due].into_iter().flatten().min();
            let mut arrival = self.wait(buffer, now, deadline);
            if let Arrival::Message(len) = arrival
                && let Some(next) = self.take_read(len, buffer)?
            {
                return Ok(next);
            }
            if matches!(arrival, Arrival::Message(_) | Arrival::Woken) {
                // What is there is taken also when the time is over, but a peer that says nothing without a
                // pause must not stop the clock.
                late += u32::from(deadline.is_some_and(|deadline| now >= deadline));
                if late < MAX_LATE {
                    now = Instant::now();
                    continue;
                }
                (late, arrival) = (0, Arrival::TimedOut);
            }
            match arrival {
                Arrival::Message(_) | Arrival::Woken | Arrival::Dry => {}
                Arrival::Notification(notification) => return Ok(Next::Notification(notification)),
                Arrival::TooLong => {
                    if let Some(refused) = self.refuse_long(self.message_limit()) {
                        return Err(refused);
                    }
                }
                Arrival::TimedOut => {
                    now = Instant::now();
                    let over = |deadline: Option<Instant>| deadline.is_some_and(|deadline| now >= deadline);
                    if over(quiet) {
                        self.settle();
                    }
                    if over(held) || over(lifetime) {
                        // Seen to above.
                    } else if draining.is_some() {
                        self.told_to_drain = true;
                        return Ok(Next::Over);
                    } else if let Some(reason) = unmet.filter(|_| over(due)) {
                        self.finish_with(reason, None);
                    } else if over(idle) {
                        self.finish_with(EndReason::Idle, None);
                    } else if over(user) {
                        return Err(Error::TimedOut);
                    }
                }
                Arrival::Over(EndReason::ClosedByPeer) if self.association.scheme.is_stream() => {
                    if let Some(reason) = self.stream_end() {
                        self.finish_with(reason, None);
                    }
                }
                Arrival::Over(EndReason::ClosedByPeer) if self.layers == Layers::SecureSctp => {
                    if let Some(reason) = self.secure_end() {
                        self.finish_with(reason, None);
                    }
                }
                Arrival::Over(reason) => {
                    self.finish_with(reason, None);
                }
            }
            now = Instant::now();
        }
    }

    /// When the association is over if the peer sends no whole message.
    fn idle_deadline(&self) -> Option<Instant> {
        self.timeouts.idle.and_then(|most| self.last_heard.checked_add(most))
    }

    /// A message was longer than `limit` and is lost: the error for the handler. `None`: nothing else has come for the
    /// idle timeout, so the association has ended.
    pub(super) fn refuse_long(&mut self, limit: usize) -> Option<Error> {
        bump(&self.counters.messages_too_long);
        log_limited!(info, peer = %self.peer_address(), limit, "a peer sent a message that is longer than the limit");
        if self.idle_deadline().is_some_and(|deadline| Instant::now() >= deadline) {
            self.finish_with(EndReason::Idle, None);
            return None;
        }
        Some(Error::MessageRefused { limit })
    }

    /// Finds out whether the peer has ended the association and nobody has read that yet: reads what has arrived, and
    /// discards it. Never blocks.
    pub(super) fn look_for_end(&mut self) {
        if self.end.is_some() || self.association.scheme == Scheme::Udp {
            return;
        }
        // The handler has had its time.
        (self.timeouts.idle, self.timeouts.lifetime, self.told_to_drain) = (None, None, true);
        (self.timeouts.first_message, self.timeouts.frame) = (None, None);
        self.ending = true;
        let received = self.association.received.load(Ordering::Relaxed);
        let now = Instant::now();
        for _ in 0..MAX_LAST_READS {
            let next = self.next_until(&mut [], Some(now));
            self.kept = None;
            if self.end.is_some() || matches!(next, Ok(Next::Over) | Err(Error::TimedOut)) {
                break;
            }
        }
        // Nobody received those.
        self.association.received.store(received, Ordering::Relaxed);
    }

    /// The peer is quiet for the first time: gives back the memory that only the handshake needed. It costs one wake-up of a
    /// peer that stays, and nothing of one that comes, talks and leaves.
    fn settle(&mut self) {
        self.settled = true;
        // Where nothing is read to, the next read begins with a wait.
        self.scratch = Vec::new();
        footprint::stop_thread();
        footprint::release_stack();
    }

    pub(super) fn wait(&mut self, buffer: &mut [u8], now: Instant, deadline: Option<Instant>) -> Arrival {
        let Some(transport) = &mut self.transport else { return Arrival::Woken };
        self.association.reading.store(true, Ordering::Relaxed);
        let first = if self.layers == Layers::Plain { buffer } else { &mut [] };
        let arrival = transport.recv(first, &mut self.scratch, now, deadline);
        self.association.reading.store(false, Ordering::Relaxed);
        arrival
    }

    /// A message of `len` bytes was read: in clear into `buffer` and the scratch, otherwise into the
    /// scratch.
    fn take_read(&mut self, len: usize, buffer: &mut [u8]) -> Result<Option<Next>, Error> {
        if let Some(Transport::Sctp(transport)) = &self.transport {
            self.info = transport.info;
        }
        match self.layers {
            Layers::Dtls => return self.take_record(buffer),
            Layers::SecureSctp => return self.take_secured(buffer),
            Layers::Frames | Layers::Tls => return self.take_bytes(buffer),
            Layers::Plain => {}
        }
        self.count_message(len);
        let proof = self.association.proof.as_ref();
        if len <= buffer.len() {
            proof.inspect(|proof| proof.hear(&buffer[..len]));
            return Ok(Some(Next::Message(len)));
        }
        let mut whole = buffer.to_vec();
        whole.append(&mut self.scratch);
        proof.inspect(|proof| proof.hear(&whole));
        self.deliver_long(whole, buffer).map(Some)
    }

    /// A datagram of a DTLS peer is in the scratch.
    fn take_record(&mut self, buffer: &mut [u8]) -> Result<Option<Next>, Error> {
        if let Some(Transport::Udp(transport)) = &mut self.transport
            && self.ending
            && transport.keep_for_successor(&self.scratch)
        {
            return Ok(None);
        }
        let (mut scratch, now) = (std::mem::take(&mut self.scratch), Instant::now());
        let read = self
            .with_dtls(|session| (session.handle_datagram(&mut scratch, buffer, now), session.has_more()));
        self.scratch = scratch;
        self.take_outcome(read, buffer)
    }

    /// Reads on in the last datagram.
    fn read_more(&mut self, buffer: &mut [u8]) -> Result<Option<Next>, Error> {
        match self.layers {
            Layers::SecureSctp => return self.read_secured(buffer),
            Layers::Frames | Layers::Tls => return self.read_stream(buffer),
            Layers::Plain | Layers::Dtls => {}
        }
        let read = self.with_dtls(|session| (session.read(buffer), session.has_more()));
        self.take_outcome(read, buffer)
    }

    fn with_dtls(&self, call: impl FnOnce(&mut dtls::Session) -> (Read, bool)) -> (Read, bool) {
        let Link::Open(Session::Dtls(session, socket)) = &mut *self.association.link.lock() else {
            return (Read::Nothing, false);
        };
        let outcome = call(session);
        transmit(session, socket);
        outcome
    }

    pub(super) fn take_outcome(
        &mut self,
        (read, more): (Read, bool),
        buffer: &mut [u8],
    ) -> Result<Option<Next>, Error> {
        self.more = more && !matches!(read, Read::Nothing);
        match read {
            Read::Message(len) => {
                self.count_message(len);
                Ok(Some(Next::Message(len)))
            }
            Read::Long(message) => {
                self.count_message(message.len());
                self.deliver_long(message, buffer).map(Some)
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
            Read::Restarted(hello) => {
                self.finish_with(EndReason::Replaced, Some(Leftover::Datagram(hello)));
                Ok(None)
            }
        }
    }

    pub(super) fn count_message(&mut self, len: usize) {
        self.heard = true;
        self.association.count_received(len);
    }

    /// Copies a message to the handler's buffer, or keeps it where that is too small.
    fn deliver_long(&mut self, message: Vec<u8>, buffer: &mut [u8]) -> Result<Next, Error> {
        match buffer.get_mut(..message.len()) {
            Some(room) => {
                room.copy_from_slice(&message);
                Ok(Next::Message(message.len()))
            }
            None => {
                let needed = message.len();
                self.kept = Some(message);
                Err(Error::BufferTooSmall { needed })
            }
        }
    }

    fn ended(&self) -> Result<Next, Error> {
        match &self.end {
            Some(reason) if !reason.is_orderly() => Err(Error::Ended(reason.clone())),
            _ => Ok(Next::Over),
        }
    }
}

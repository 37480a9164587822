//! What only a loop does with a peer that it drives.

use std::mem;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Peer;
use crate::drive::Session;
use crate::net::Transport;
use crate::net::attention::signal;

impl Peer {
    /// Gives the peer a datagram that was read for it. `from`: where it came from, if that may be another address than the peer's.
    pub(crate) fn put(&mut self, datagram: Vec<u8>, from: Option<SocketAddr>) {
        if let Some(Transport::Shared(transport)) = &mut self.transport {
            transport.put(datagram, from);
        }
    }

    /// When the association was opened.
    pub(crate) fn opened_at(&self) -> Instant {
        self.association.opened
    }

    /// Whether the peer has no socket of its own.
    pub(crate) fn shares_socket(&self) -> bool {
        matches!(self.transport, Some(Transport::Shared(_)))
    }

    /// Whether something may have come that was not read, though nobody will say so again.
    pub(crate) fn leaves_unread(&self) -> bool {
        self.leaves_unread
    }

    /// Exchanges the memory that is read to, or that the last datagram was in.
    pub(crate) fn swap_memory(&mut self, memory: &mut Vec<u8>) {
        mem::swap(&mut self.scratch, memory);
    }

    /// Gets an end on that has begun and waits for the peer. `None`: the association is over, and its addresses are free.
    /// Otherwise this is to be called again then, or when the socket is ready.
    pub(crate) fn continue_end(&mut self, now: Instant) -> Option<Instant> {
        if let Some(until) = self.farewell.as_mut()?.go_on(now) {
            return Some(until);
        }
        self.cut_farewell();
        None
    }

    /// Ends the association now, whatever waits.
    pub(super) fn cut_farewell(&mut self) {
        if let (Some(farewell), Some(reason)) = (self.farewell.take(), self.end_reason().cloned()) {
            self.part(&reason, *farewell);
        }
    }

    /// Whether nothing is left to do before something comes or a deadline passes: what came has been read, and nobody wants
    /// anything.
    pub(crate) fn is_at_rest(&self) -> bool {
        // Nobody says what is left on a socket of its own.
        if !self.shares_socket() {
            return false;
        }
        let signals = self.association.attention.signals();
        // A handshake that was complete before it could be broken off leaves the signal for that.
        let done = signal::BREAK_OFF | if self.told_to_drain { signal::DRAIN } else { 0 };
        signals & !done == 0 && self.with_open(|open| !open.session.has_more()).unwrap_or(false)
    }

    /// When it is time to look at the peer again, whatever comes until then.
    pub(crate) fn next_timeout(&mut self, now: Instant) -> Option<Instant> {
        let received = self.association.received.load(Ordering::Relaxed);
        let due = self.with_open(|open| {
            open.deadlines.count(received, now);
            let check = match &open.session {
                Session::Dtls(session, _) => session.next_timeout(),
                _ => None,
            };
            [open.deadlines.next_timeout(), check].into_iter().flatten().min()
        });
        let look = self.watch_for_stall(now);
        let notice = self.drain_notice(self.association.attention.signals(), now);
        [due.flatten(), look, notice].into_iter().flatten().min()
    }
}

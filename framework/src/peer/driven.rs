//! Calls that only an event loop makes on a peer that it drives.

use std::mem;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Peer;
use crate::drive::Session;
use crate::net::Transport;
use crate::net::attention::signal;

impl Peer {
    /// Gives the peer a datagram that the loop has read. `from` is its source, if that may differ from the peer's
    /// address.
    pub(crate) fn put(&mut self, datagram: Vec<u8>, from: Option<SocketAddr>) {
        if let Some(Transport::Shared(transport)) = &mut self.transport {
            transport.put(datagram, from);
        }
    }

    /// Returns when the association was opened.
    pub(crate) fn opened_at(&self) -> Instant {
        self.association.opened
    }

    /// Returns whether the peer shares a socket with others.
    pub(crate) fn shares_socket(&self) -> bool {
        matches!(self.transport, Some(Transport::Shared(_)))
    }

    /// Returns whether data may be left unread that epoll will not report again.
    pub(crate) fn leaves_unread(&self) -> bool {
        self.leaves_unread
    }

    /// Exchanges the read buffer, which may hold the last datagram, for `memory`.
    pub(crate) fn swap_memory(&mut self, memory: &mut Vec<u8>) {
        mem::swap(&mut self.scratch, memory);
    }

    /// Continues a close that waits for the peer. Returns `None` once the association has ended and its addresses are
    /// free; otherwise call again at the returned time, or when the socket is ready.
    pub(crate) fn continue_end(&mut self, now: Instant) -> Option<Instant> {
        if let Some(until) = self.closing.as_mut()?.continue_end(now) {
            return Some(until);
        }
        self.end_now();
        None
    }

    /// Ends the association now, regardless of pending output.
    pub(super) fn end_now(&mut self) {
        if let (Some(closing), Some(reason)) = (self.closing.take(), self.end_reason().cloned()) {
            self.complete_end(&reason, *closing);
        }
    }

    /// Returns whether nothing is left to do until a datagram arrives or a deadline passes: all data has been read, and
    /// no signal is pending.
    pub(crate) fn is_at_rest(&self) -> bool {
        // Nothing reports data that is left on a peer's own socket.
        if !self.shares_socket() {
            return false;
        }
        let signals = self.association.attention.signals();
        // A handshake that was complete before it could be broken off leaves the signal for that.
        let done = signal::BREAK_OFF | if self.told_to_drain { signal::DRAIN } else { 0 };
        signals & !done == 0 && self.with_open(|open| !open.session.has_more()).unwrap_or(false)
    }

    /// Returns when the peer has to be checked again even if nothing arrives.
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
        let next_check = self.check_for_stall(now);
        let notice = self.drain_notice(self.association.attention.signals(), now);
        [due.flatten(), next_check, notice].into_iter().flatten().min()
    }
}

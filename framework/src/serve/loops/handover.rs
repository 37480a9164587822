//! The part of the loops in a hand-over from one process to another.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Loops;
use super::event_loop::{SocketId, Staying};
use super::mailbox::LoopMessage;
use super::token::Token;
use crate::codec::{Malformed, Reader, Writer};
use crate::error::HandOverError;
use crate::events::AnyEvents;
use crate::net::udp::Stray;
use crate::peer::PendingOutput;
use crate::sys::sync::channel::bounded;

/// The number of rounds of a loop after which a hand-over no longer waits for it.
const FIRST_ROUNDS: u16 = 256;

/// A peer that goes to another process, or that came from one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TransferredPeer {
    /// The index of its loop.
    on: usize,
    token: Token,
}

impl Loops {
    /// Pauses all loops. Returns `false` if one is not paused at `deadline`. [`resume`](Self::resume) must follow in any
    /// case.
    pub(crate) fn pause(&self, deadline: Instant) -> bool {
        self.loops.iter().for_each(|on| on.pause());
        self.loops.iter().all(|on| on.await_pause(deadline))
    }

    /// Lets the loops continue.
    pub(crate) fn resume(&self) {
        self.loops.iter().for_each(|on| on.resume());
    }

    /// Writes each peer that can go and that shares a socket of a listener that `goes` selects, and calls `emit` to
    /// send it. If `emit` returns `Ok(false)`, the peer stays. Peers that go are added to `transferred`.
    ///
    /// # Errors
    ///
    /// Returns the error of `emit`; the remaining peers are then not written.
    pub(crate) fn save_peers(
        &self,
        goes: &dyn Fn(u16) -> bool,
        out: &mut Writer,
        emit: &mut dyn FnMut(&mut Writer) -> Result<bool, HandOverError>,
        transferred: &mut Vec<TransferredPeer>,
    ) -> Result<(), HandOverError> {
        let now = Instant::now();
        for (index, on) in self.loops.iter().enumerate() {
            on.save_peers(goes, now, out, emit, &mut |token| {
                transferred.push(TransferredPeer { on: index, token })
            })?;
        }
        Ok(())
    }

    /// Returns the peers that share sockets and stay in this process.
    pub(crate) fn staying(&self, transferred: &[TransferredPeer]) -> Vec<Staying> {
        let of = |on: usize| {
            transferred
                .iter()
                .filter(move |transferred| transferred.on == on)
                .map(|transferred| transferred.token)
        };
        self.loops.iter().enumerate().flat_map(|(index, on)| on.staying(&mut of(index))).collect()
    }

    /// Lets the peer continue in this process.
    pub(crate) fn release(&self, TransferredPeer { on, token }: TransferredPeer) {
        self.loops[on].release(token);
    }

    /// Prepares a peer to continue in this process, although another process may have sent to it.
    pub(crate) fn reclaim(&self, TransferredPeer { on, token }: TransferredPeer) {
        self.loops[on].reclaim(token);
    }

    /// Waits until each loop has carried out the turns that wait, or many of them if more and more come. Returns after
    /// `patience` in any case.
    pub(crate) fn await_first_turns(&self, patience: Duration) {
        let (done, all_done) = bounded(0);
        let done = Arc::new(done);
        for mailbox in &self.common.mailboxes {
            mailbox.send(LoopMessage::Rounds(FIRST_ROUNDS, Arc::clone(&done)));
        }
        drop(done);
        // No loop sends anything: each drops its sender.
        let _ = all_done.recv_timeout(patience);
    }

    /// Returns the messages that wait for a peer that goes.
    pub(crate) fn pending_output(
        &self,
        TransferredPeer { on, token }: TransferredPeer,
    ) -> Option<PendingOutput> {
        self.loops[on].pending_output(token)
    }

    /// Gives up these peers and the sockets of the listeners that `goes` selects, because another process has them.
    pub(crate) fn forget(&self, transferred: &[TransferredPeer], goes: &dyn Fn(u16) -> bool) {
        for (index, on) in self.loops.iter().enumerate() {
            let tokens = transferred
                .iter()
                .filter(|transferred| transferred.on == index)
                .map(|transferred| transferred.token);
            on.forget(tokens, goes);
        }
    }

    /// Restores a peer that [`save_peers`](Self::save_peers) wrote and that shares the socket of this place. The peer
    /// is silent until it is [released](Self::release). Returns `Ok(None)` if it cannot be served here.
    pub(crate) fn restore_peer(
        &self,
        place: SocketId,
        events: &Arc<dyn AnyEvents>,
        from: Reader<'_>,
    ) -> Result<Option<TransferredPeer>, Malformed> {
        let on = usize::from(place.1) % self.loops.len();
        let token = self.loops[on].restore_peer(place, events, from, Instant::now())?;
        Ok(token.map(|token| TransferredPeer { on, token }))
    }

    /// Sends a peer a message that was sent to it during the hand-over; `None`: the association was closed meanwhile.
    pub(crate) fn add_pending(&self, TransferredPeer { on, token }: TransferredPeer, message: Option<&[u8]>) {
        self.loops[on].add_pending(token, message);
    }

    /// Queues a datagram that another process read, from the shared socket with this index, for a loop. Returns `false`
    /// if the datagram is lost.
    pub(crate) fn relay(&self, on: u8, stray: Stray, index: Option<u8>) -> bool {
        self.loops[usize::from(on) % self.loops.len()].relay(stray, index)
    }
}

//! The loops of a server that goes from one process to another.

use std::sync::Arc;
use std::time::Instant;

use super::Loops;
use super::event_loop::{SocketId, Staying};
use super::token::Token;
use crate::codec::{Malformed, Reader, Writer};
use crate::error::HandOverError;
use crate::events::AnyEvents;
use crate::net::udp::Stray;
use crate::peer::Late;

/// A peer that goes, or has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Given {
    /// The index of its loop.
    on: usize,
    token: Token,
}

impl Loops {
    /// Has all loops stand still; `false`: one does not by then. [`go_on`](Self::go_on) follows in any case.
    pub(crate) fn pause(&self, deadline: Instant) -> bool {
        self.loops.iter().for_each(|on| on.pause());
        self.loops.iter().all(|on| on.await_pause(deadline))
    }

    /// Has the loops go on.
    pub(crate) fn go_on(&self) {
        self.loops.iter().for_each(|on| on.go_on());
    }

    /// Writes each peer that can go and shares a socket of a listener that `goes`, and has `emit` send it; `Ok(false)` from there:
    /// it stays after all. Those that go are added to `given`.
    ///
    /// # Errors
    ///
    /// That of `emit`, after which the rest is not written.
    pub(crate) fn save_peers(
        &self,
        goes: &dyn Fn(u16) -> bool,
        out: &mut Writer,
        emit: &mut dyn FnMut(&mut Writer) -> Result<bool, HandOverError>,
        given: &mut Vec<Given>,
    ) -> Result<(), HandOverError> {
        let now = Instant::now();
        for (index, on) in self.loops.iter().enumerate() {
            on.save_peers(goes, now, out, emit, &mut |token| given.push(Given { on: index, token }))?;
        }
        Ok(())
    }

    /// The peers that share sockets and do not go.
    pub(crate) fn staying(&self, given: &[Given]) -> Vec<Staying> {
        let of = |on: usize| given.iter().filter(move |given| given.on == on).map(|given| given.token);
        self.loops.iter().enumerate().flat_map(|(index, on)| on.staying(&mut of(index))).collect()
    }

    /// The peer goes on here.
    pub(crate) fn release(&self, Given { on, token }: Given) {
        self.loops[on].release(token);
    }

    /// What waits for a peer that goes.
    pub(crate) fn late(&self, Given { on, token }: Given) -> Option<Late> {
        self.loops[on].late(token)
    }

    /// Another process has these peers, and reads the sockets of the listeners that `goes` names.
    pub(crate) fn let_go(&self, given: &[Given], goes: &dyn Fn(u16) -> bool) {
        for (index, on) in self.loops.iter().enumerate() {
            let tokens = given.iter().filter(|given| given.on == index).map(|given| given.token);
            on.let_go(tokens, goes);
        }
    }

    /// Takes a peer in that was written by [`save_peers`](Self::save_peers), and shares the socket of this place. It is silent until
    /// it is [released](Self::release). `Ok(None)`: it cannot be served here.
    pub(crate) fn take_peer(
        &self,
        place: SocketId,
        events: &Arc<dyn AnyEvents>,
        from: Reader<'_>,
    ) -> Result<Option<Given>, Malformed> {
        let on = usize::from(place.1) % self.loops.len();
        let token = self.loops[on].take_peer(place, events, from, Instant::now())?;
        Ok(token.map(|token| Given { on, token }))
    }

    /// Has a peer sent a message that was sent while it came; `None`: somebody has closed it.
    pub(crate) fn take_late(&self, Given { on, token }: Given, message: Option<&[u8]>) {
        self.loops[on].take_late(token, message);
    }

    /// Leaves a datagram for a loop that another process read, from the shared socket with this index; `false`: it is lost.
    pub(crate) fn relay(&self, on: u8, stray: Stray, index: Option<u8>) -> bool {
        self.loops[usize::from(on) % self.loops.len()].relay(stray, index)
    }
}

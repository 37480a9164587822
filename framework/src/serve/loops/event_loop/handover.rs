//! Hands the peers of a loop to another process, and takes peers from one, while the loop is paused.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use super::{Loop, SOCKETS, State};
use crate::association::Association;
use crate::codec::{Malformed, Reader, Writer};
use crate::connection_ids::ConnectionIds;
use crate::error::{EndReason, HandOverError};
use crate::events::AnyEvents;
use crate::net::Transport;
use crate::net::shared::{SharedSocket, SharedTransport};
use crate::net::udp::Stray;
use crate::observe::bump;
use crate::peer::{Opened, Parts, Peer, PendingOutput, Saved};
use crate::protocol::dtls::hello::connection_id;
use crate::serve::handover::frame;
use crate::serve::handover::relay::Relay;
use crate::serve::loops::entry::Entry;
use crate::serve::loops::mailbox::{LoopMessage, PeerWaker};
use crate::serve::loops::token::Token;

/// A peer that stays in this process.
pub(crate) struct Staying {
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) connection_id: Box<[u8]>,
    /// The number of its loop.
    pub(crate) on: u8,
    /// The number of its listener.
    pub(crate) listener: u16,
}

impl State {
    /// Returns the number of the listener whose sockets the peers at this local address share.
    fn listener_of(&self, local: SocketAddr) -> Option<u16> {
        self.sockets.iter().find(|socket| socket.is_at(local)).map(|socket| socket.listener)
    }
}

/// A place in a group of sockets: the number of the listener, and the index.
pub(crate) type SocketId = (u16, u8);

impl Loop {
    /// See [`Loops::save_peers`](crate::serve::loops::Loops::save_peers).
    pub(in crate::serve::loops) fn save_peers(
        &self,
        goes: &dyn Fn(u16) -> bool,
        now: Instant,
        out: &mut Writer,
        emit: &mut dyn FnMut(&mut Writer) -> Result<bool, HandOverError>,
        transferred: &mut dyn FnMut(Token),
    ) -> Result<(), HandOverError> {
        let mut state = self.state.lock();
        for token in state.slots.tokens() {
            let is_found = state.slots.is_found_by_address(token);
            let Some(slot) = state.slots.get(token) else { continue };
            let (Some(entry), false) = (&slot.entry, slot.has_more()) else { continue };
            let Some(socket) = entry.peer().and_then(Peer::shared_socket) else { continue };
            if !goes(socket.listener) {
                continue;
            }
            out.clear();
            out.u8(frame::PEER);
            out.u8(self.number);
            out.u16(socket.listener);
            out.u8(socket.index);
            out.flag(is_found);
            let saved = if entry.save(now, out) { emit(out) } else { Ok(false) };
            out.clear();
            match (&saved, entry.peer()) {
                (Ok(true), _) => transferred(token),
                (_, Some(peer)) => peer.release(),
                (_, None) => {}
            }
            saved?;
        }
        Ok(())
    }

    /// Returns the peers that share sockets, except those with these tokens.
    pub(in crate::serve::loops) fn staying(
        &self,
        transferred: &mut dyn Iterator<Item = Token>,
    ) -> Vec<Staying> {
        let mut state = self.state.lock();
        let transferred: HashSet<u64> = transferred.map(Token::as_u64).collect();
        let tokens = state.slots.tokens().into_iter().filter(|token| !transferred.contains(&token.as_u64()));
        let staying = tokens.filter_map(|token| {
            let (association, peer) = state.slots.shared(token)?;
            let listener = state.listener_of(association.local)?;
            Some(Staying {
                listener,
                local: association.local,
                peer,
                connection_id: association.connection_id.clone(),
                on: self.number,
            })
        });
        staying.collect()
    }

    /// Lets the peer continue in this process.
    pub(in crate::serve::loops) fn release(&self, token: Token) {
        self.with_peer(token, Peer::release);
    }

    /// Prepares a peer to continue, although another process may have sent to it.
    pub(in crate::serve::loops) fn reclaim(&self, token: Token) {
        self.with_peer(token, Peer::reclaim);
    }

    /// Returns the messages that wait for a peer that goes to the other process.
    pub(in crate::serve::loops) fn pending_output(&self, token: Token) -> Option<PendingOutput> {
        self.with_peer(token, Peer::pending_output)
    }

    fn with_peer<T>(&self, token: Token, call: impl FnOnce(&Peer) -> T) -> Option<T> {
        let mut state = self.state.lock();
        state.slots.get(token)?.entry.as_ref()?.peer().map(call)
    }

    /// Gives up these peers and the sockets of these listeners, because another process has them.
    pub(in crate::serve::loops) fn forget(
        &self,
        transferred: impl Iterator<Item = Token>,
        goes: &dyn Fn(u16) -> bool,
    ) {
        let mut state = self.state.lock();
        let shared = &self.context.shared;
        let mut entries = Vec::new();
        for token in transferred {
            let Some(slot) = state.slots.remove(token) else { continue };
            shared.registry.remove(&slot.association, &EndReason::HandedOver);
            entries.extend(slot.entry);
        }
        for (index, socket) in state.sockets.iter().enumerate() {
            if goes(socket.listener) {
                socket.mark_handed_over();
                let _ = self.epoll.modify(socket.socket.as_fd(), 0, SOCKETS + index as u64);
            }
        }
        drop(state);
        entries.iter_mut().for_each(|entry| entry.forget());
    }

    /// See [`Loops::add_pending`](crate::serve::loops::Loops::add_pending).
    pub(in crate::serve::loops) fn add_pending(&self, token: Token, message: Option<&[u8]>) {
        self.with_peer(token, |peer| peer.add_pending(message));
    }

    /// Returns the socket of this place, if it belongs to this loop.
    fn socket(&self, place: SocketId) -> Option<Arc<SharedSocket>> {
        let state = self.state.lock();
        state.sockets.iter().find(|socket| (socket.listener, socket.index) == place).cloned()
    }

    /// Restores a peer that shares the socket of this place. The peer is silent until it is [released](Self::release).
    /// Returns `Ok(None)` if the peer cannot be served here.
    pub(in crate::serve::loops) fn restore_peer(
        &self,
        place: SocketId,
        events: &Arc<dyn AnyEvents>,
        mut from: Reader<'_>,
        now: Instant,
    ) -> Result<Option<Token>, Malformed> {
        let Some(socket) = self.socket(place) else { return Ok(None) };
        let (is_found, shared) = (from.flag()?, &self.context.shared);
        let callbacks = from.bytes()?;
        let counters = shared.counted(socket.scheme, socket.address);
        let (association, summary) =
            Association::restore(socket.scheme, Arc::clone(counters), &mut from, now)?;
        let saved = Saved::read(&mut from, &association, Arc::clone(&socket), &shared.cookies, now)?;
        from.end()?;
        // A peer whose connection ID has another length than those of this server would not be found by its records.
        let length = shared.connection_ids.map(ConnectionIds::length);
        if summary.connection_ids && length.is_some_and(|length| length != association.connection_id.len()) {
            return Ok(None);
        }
        let association = Arc::new(association.with_outbox(shared.outbox));
        if !shared.registry.insert_transferred(&association, is_found) {
            return Ok(None);
        }
        let transport = SharedTransport::driven(socket, Arc::clone(&association.attention));
        let mut peer = Box::new(Peer::open(Parts {
            association: Arc::clone(&association),
            opened: Opened { transport: Transport::Shared(transport), session: saved.session, summary },
            timeouts: shared.timeouts.clone(),
            owner: Some(Arc::clone(&self.context.owner)),
            driven: true,
        }));
        peer.resume(saved.last_received);
        let resume = std::panic::AssertUnwindSafe(|| events.resume(callbacks, &mut peer));
        let Ok(Ok(open)) = std::panic::catch_unwind(resume) else {
            shared.registry.remove(&association, &EndReason::HandedOver);
            peer.forget();
            return Ok(None);
        };
        bump(&association.counters.taken_over);
        let mut state = self.state.lock();
        let token = state.slots.insert(&association, true, |token| PeerWaker::new(&self.mailbox, token));
        state.slots.find_at(token, is_found.then(|| association.current_peer()));
        let Some(slot) = state.slots.get(token) else { return Ok(None) };
        association.attention.wake_by(Arc::clone(&slot.waker) as _, None);
        let owner = Arc::clone(&self.context.owner);
        slot.entry = Some(Box::new(Entry::resumed(association, owner, peer, open)));
        state.slots.queue(token);
        Ok(Some(token))
    }

    /// Passes a datagram to the other process of a hand-over, if that process has the peer, or if it reads the socket
    /// now and no peer of this process has the address. Returns `false` if the datagram stays here.
    pub(super) fn pass_to_other_process(
        &self,
        state: &State,
        socket: &SharedSocket,
        (local, peer, interface): (SocketAddr, SocketAddr, u32),
        payload: &[u8],
    ) -> bool {
        let shared = &self.context.shared;
        let pass = |relay: &Relay, on| {
            let passed = relay.pass((local, peer, interface), payload, on, Some(socket.index));
            let counters = self.counted(socket);
            bump(if passed { &counters.relayed } else { &counters.relayed_lost });
            true
        };
        if let Some(relay) = shared.predecessor.get() {
            let cid = shared.connection_ids.and_then(|ids| connection_id(payload, ids.length()));
            return relay.find_remote(local, peer, cid).is_some_and(|on| pass(relay, on));
        }
        // A peer that is found by its address belongs to this process, whatever connection ID the record has.
        let is_unknown = socket.is_handed_over() && state.slots.find(local, peer).is_none();
        shared.successor.get().filter(|_| is_unknown).is_some_and(|relay| pass(relay, 0))
    }

    /// Handles a datagram that another process read from the socket with this index.
    pub(super) fn handle_relayed(&self, state: &mut State, stray: Stray, index: Option<u8>) {
        let shared = &self.context.shared;
        let Some(successor) = shared.successor.get() else {
            return self.stray(state, stray, None, index);
        };
        let Stray { local, peer, interface, payload } = &stray;
        let cid = shared.connection_ids.and_then(|ids| connection_id(payload, ids.length()));
        let by_id = cid.and_then(|cid| state.slots.find_by_connection_id(cid));
        if by_id.or_else(|| state.slots.find(*local, *peer)).is_some() {
            // The datagram may have arrived at another loop's socket, but this loop has the peer.
            return self.stray(state, stray, None, None);
        }
        // This process no longer has the peer. The kernel still delivers datagrams from its address to that socket.
        let counters = shared.by_listener.of_udp(*local);
        let passed = successor.pass((*local, *peer, *interface), payload, 0, index);
        bump(if passed { &counters.relayed } else { &counters.relayed_lost });
    }

    /// Queues a datagram that another process read, from the shared socket with this index or from one of its own
    /// sockets.
    pub(in crate::serve::loops) fn relay(&self, stray: Stray, index: Option<u8>) -> bool {
        self.mailbox.send(LoopMessage::Relayed(stray, index))
    }
}

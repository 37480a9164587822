//! Routes a datagram: to a peer of this loop, to another loop or process, or, if its sender is unknown, to admission.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use super::{FREE_BYTES, Loop, State};
use crate::address::Scheme;
use crate::admission::Refusal;
use crate::error::EndReason;
use crate::handler::Incoming;
use crate::net::attention::{Delivery, InboxItem};
use crate::net::shared::{SharedPath, SharedSocket};
use crate::net::udp::Stray;
use crate::observe::{bump, log_limited};
use crate::protocol::dtls::assembly::VerifiedHello;
use crate::protocol::dtls::hello::connection_id;
use crate::serve::admit::{Classified, SocketKind, address_hit, alert_for};
use crate::serve::loops::entry::Entry;
use crate::serve::loops::mailbox::{LoopMessage, PeerWaker};
use crate::serve::loops::token::Token;
use crate::serve::worker::{self, Job, PeerSocket};
use crate::sys::batch::{BATCH, Batch};
use crate::sys::control::PacketInfo;
use crate::sys::sync::atomic::Ordering;

/// The number of datagrams that are read from one socket before others have their turn. The last batch may exceed it.
const MAX_READ: usize = 8 * BATCH;
/// The most pairs of addresses that are remembered because their datagrams arrive at other loops.
const MAX_ORIGINS: usize = 1024;

/// A datagram whose peer is not known yet.
#[derive(Clone, Copy)]
enum Payload<'a> {
    /// In the batch, at this index.
    Received(usize),
    Copied(&'a [u8]),
}

impl<'a> Payload<'a> {
    fn bytes(self, batch: &'a Batch) -> &'a [u8] {
        match self {
            Self::Received(index) => batch.get(index).payload,
            Self::Copied(bytes) => bytes,
        }
    }
}

impl Loop {
    /// Reads the datagrams that have arrived at a socket.
    pub(super) fn read(&self, state: &mut State, index: usize) {
        let Some(socket) = state.sockets.get(index).filter(|socket| !socket.is_handed_over()).cloned() else {
            return;
        };
        let mut total = 0;
        while total < MAX_READ && !state.slots.is_full() {
            let received = match state.batch.recv(socket.socket.as_fd()) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                // Memory is short; epoll reports the socket again.
                Err(_) => break,
            };
            for datagram in 0..received {
                let found = state.batch.get(datagram);
                let (Some(peer), info) = (found.source, found.info) else { continue };
                let local = address_hit(socket.address, info);
                self.route(state, &socket, local, peer, info, Payload::Received(datagram));
            }
            self.counted(&socket).datagrams.fetch_add(received as u64, Ordering::Relaxed);
            total += received;
            if !state.batch.is_full() {
                break;
            }
        }
    }

    /// Routes a datagram that the last association between its addresses left.
    pub(super) fn stray(&self, state: &mut State, stray: Stray, origin: Option<u8>, index: Option<u8>) {
        let Stray { local, peer, interface, payload } = stray;
        let cid = self.context.shared.connection_ids.and_then(|ids| connection_id(&payload, ids.length()));
        // Only a hello is ever returned. Anybody can forge records with connection IDs.
        if let Some(origin) = origin.filter(|_| cid.is_none()) {
            if state.origins.len() >= MAX_ORIGINS {
                state.origins.clear();
            }
            state.origins.insert((local, peer), origin);
        }
        let is_for = |socket: &&Arc<SharedSocket>| {
            index.is_none_or(|index| socket.index == index) && socket.is_at(local)
        };
        let Some(socket) = state.sockets.iter().find(is_for).cloned() else { return };
        let info = PacketInfo { local: Some(local.ip()), interface };
        self.route(state, &socket, local, peer, info, Payload::Copied(&payload));
    }

    /// Finds the peer of a datagram.
    fn route(
        &self,
        state: &mut State,
        socket: &Arc<SharedSocket>,
        local: SocketAddr,
        peer: SocketAddr,
        info: PacketInfo,
        payload: Payload<'_>,
    ) {
        let shared = &self.context.shared;
        let bytes = payload.bytes(&state.batch);
        let mut from = None;
        let mut found = state.slots.find(local, peer);
        // A record with a connection ID belongs to the peer with that ID, whatever its source address is.
        if socket.scheme == Scheme::Dtls
            && let Some(cid) = shared.connection_ids.and_then(|ids| connection_id(bytes, ids.length()))
        {
            let by_id = state.slots.find_by_connection_id(cid);
            if by_id.is_none() && self.pass_on(cid, local, peer, info, bytes) {
                return;
            }
            if found != by_id {
                (found, from) = (by_id, Some(peer));
            }
        }
        if let Some(token) = found
            && self.deliver_to_thread(state, token, payload, from)
        {
            if self.context.events.is_none() {
                return;
            }
            let datagram = state.copy_datagram(payload);
            if let Err(datagram) = state.slots.queue_datagram(token, datagram, from) {
                bump(&self.counted(socket).datagrams_dropped);
                state.recycle(datagram);
            }
            return;
        }
        let way = (local, peer, info.interface);
        if self.pass_to_other_process(state, socket, way, payload.bytes(&state.batch)) {
            return;
        }
        let bytes = payload.bytes(&state.batch);
        let hello = match shared.classify(socket.scheme, local, peer, bytes, Instant::now()) {
            Classified::Nothing => return,
            Classified::Challenge(reply) => {
                let sent = socket.send(peer, info, &reply);
                return bump(match sent {
                    crate::protocol::Sent::Done => &self.counted(socket).hello_verify_requests,
                    _ => &self.counted(socket).hello_verify_requests_lost,
                });
            }
            Classified::Refused(alert, sequence) => {
                let _ = socket.send(peer, info, &alert.in_clear(sequence));
                return bump(&self.counted(socket).refusal_alerts);
            }
            Classified::Hello(hello) => Some(Box::new(hello)),
            Classified::Datagram if socket.scheme == Scheme::Dtls => {
                return bump(&self.counted(socket).ignored);
            }
            Classified::Datagram => None,
        };
        if hello.is_some() && shared.connection_ids.is_some() {
            // The peer that moved to this address may belong to another loop. That loop ends its association and
            // returns the hello.
            let here = shared.registry.find(local, peer);
            let number = here.and_then(|known| known.connection_id.first().copied());
            let origin = state.origins.remove(&(local, peer));
            // A hello that is returned has no origin any more, so that the other loop keeps it.
            let next =
                number.map(|number| (number, Some(self.number))).or(origin.map(|origin| (origin, None)));
            if let Some((number, from)) = next.filter(|(number, _)| !self.is_own(*number))
                && self.send_to(number, from, local, peer, info, bytes)
            {
                return;
            }
        }
        let datagram = hello.is_none().then(|| state.copy_datagram(payload));
        self.open(
            state,
            SharedPath { socket: Arc::clone(socket), peer, source: info },
            local,
            hello,
            datagram,
        );
    }

    /// Passes a record to the loop that its connection ID names, if that is another loop.
    fn pass_on(
        &self,
        cid: &[u8],
        local: SocketAddr,
        peer: SocketAddr,
        info: PacketInfo,
        payload: &[u8],
    ) -> bool {
        let Some(number) = cid.first().copied().filter(|number| !self.is_own(*number)) else { return false };
        self.send_to(number, Some(self.number), local, peer, info, payload)
    }

    /// Returns whether this loop has the peers whose connection IDs begin with this number. The number is that of a
    /// socket, which may have belonged to a loop that no longer exists.
    fn is_own(&self, number: u8) -> bool {
        usize::from(number) % self.common.mailboxes.len() == usize::from(self.number)
    }

    /// Passes a datagram to the loop that has the socket with this number. `origin` is the number of the loop to which
    /// the kernel delivers such datagrams, if that is another loop. Returns `false` if there is no such loop.
    fn send_to(
        &self,
        number: u8,
        origin: Option<u8>,
        local: SocketAddr,
        peer: SocketAddr,
        info: PacketInfo,
        payload: &[u8],
    ) -> bool {
        let mailboxes = &self.common.mailboxes;
        let Some(other) = mailboxes.get(usize::from(number) % mailboxes.len()) else { return false };
        let stray = Stray { local, peer, interface: info.interface, payload: payload.into() };
        let counters = self.context.shared.by_listener.of_udp(local);
        match other.send(LoopMessage::Stray(stray, origin)) {
            true => bump(&counters.passed_between_loops),
            false => bump(&counters.strays_lost),
        }
        true
    }

    /// Admits a new peer, or refuses it.
    fn open(
        &self,
        state: &mut State,
        path: SharedPath,
        local: SocketAddr,
        hello: Option<Box<VerifiedHello>>,
        datagram: Option<Vec<u8>>,
    ) {
        let shared = &self.context.shared;
        let SharedPath { socket, peer, source } = &path;
        let random = hello.as_ref().map_or([0; 32], |hello| hello.random());
        let incoming = Incoming::new(socket.scheme, local, *peer);
        let association = match shared.admit(incoming, random, SocketKind::SharedSocket(socket.index)) {
            Ok(association) => association,
            Err(refusal) => {
                if let (Some(hello), Some(alert)) = (hello, alert_for(refusal)) {
                    shared.cookies.note_refused(local, *peer, &hello.random(), alert, Instant::now());
                    let _ = socket.send(*peer, *source, &alert.in_clear(hello.record_sequence()));
                    bump(&self.counted(socket).refusal_alerts);
                }
                return;
            }
        };
        if !shared.registry.insert(&association) {
            // Unreachable: no other listener can have this pair of addresses.
            shared.registry.cancel(&association);
            return bump(&association.counters.ignored);
        }
        let token = state.slots.insert(&association, true, |token| PeerWaker::new(&self.mailbox, token));
        let task = hello.map_or(worker::Task::Plain, worker::Task::Dtls);
        let (peer_socket, owner) = (PeerSocket::Shared(path), Arc::clone(&self.context.owner));
        let job = Job { association, peer_socket, task, owner, shared: Arc::clone(shared) };
        if self.context.events.is_none() {
            return self.give_thread(job, datagram);
        }
        if let Some(slot) = state.slots.get(token) {
            slot.entry = Some(Box::new(Entry::new(job, Arc::clone(&slot.waker) as _)));
        }
        match datagram {
            Some(datagram) => drop(state.slots.queue_datagram(token, datagram, None)),
            None => state.slots.queue(token),
        }
    }

    /// Starts a thread for a peer that shares the socket.
    fn give_thread(&self, job: Job, datagram: Option<Vec<u8>>) {
        let shared = &self.context.shared;
        let association = Arc::clone(&job.association);
        if let Some(datagram) = datagram {
            association.attention.deliver(InboxItem::datagram(&datagram), false);
        }
        if let Err((job, error)) = self.common.workers.submit(job) {
            bump(&association.counters.out_of_threads);
            log_limited!(warn, %error, "cannot start a thread for a new peer");
            job.abandon(EndReason::NoThread);
            shared.refuse(Refusal::NoThread, association.scheme, association.local, association.peer);
        }
    }

    /// Delivers a datagram to the peer's own thread, if it has one. Returns `false` if the association has ended.
    fn deliver_to_thread(
        &self,
        state: &mut State,
        token: Token,
        payload: Payload<'_>,
        from: Option<SocketAddr>,
    ) -> bool {
        if self.context.events.is_some() {
            return true;
        }
        let bytes = payload.bytes(&state.batch);
        let Some(slot) = state.slots.get(token) else { return false };
        let Some(room) = self.inboxes.take(bytes.len()) else {
            bump(&slot.association.counters.datagrams_dropped);
            return true;
        };
        let item = InboxItem { from, room: Some(room), ..InboxItem::datagram(bytes) };
        match slot.association.attention.deliver(item, true) {
            Delivery::Queued => true,
            Delivery::Full => {
                bump(&slot.association.counters.datagrams_dropped);
                true
            }
            Delivery::Gone => {
                state.slots.remove(token);
                false
            }
        }
    }
}

impl State {
    /// Copies a datagram into its own buffer.
    fn copy_datagram(&mut self, payload: Payload<'_>) -> Vec<u8> {
        let bytes = payload.bytes(&self.batch);
        let size = usize::from(bytes.len() > FREE_BYTES[0]);
        let mut memory = self.free[size].pop().unwrap_or_else(|| Vec::with_capacity(FREE_BYTES[size]));
        memory.extend_from_slice(bytes);
        memory
    }
}

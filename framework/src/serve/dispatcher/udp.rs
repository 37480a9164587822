//! UDP listeners: from a datagram of an unknown peer to a connected child with its job.
//!
//! The dispatcher always consumes a datagram, in batches, because nothing is gained by leaving it in the queue. Then it
//! does one of four things:
//!
//! 1. If a known peer sent the datagram before its child was connected, the peer's worker gets it, in order.
//! 2. If it is a DTLS ClientHello without a valid cookie, a HelloVerifyRequest answers it, and no state is kept.
//! 3. If it opens a new peer, the peer is admitted or refused; an admitted peer gets a child and a job.
//! 4. Otherwise the datagram is dropped.
//!
//! The job of a peer whose further datagrams may still be in the listener's queue is *held* until the dispatcher has
//! read the queue up to its length at the time when the child was connected. From then on the child's queue has only
//! later datagrams. In rare cases a processor has found the listener for a datagram, and queues it only after that; such
//! a datagram is not lost, but the peer's next one may overtake it.

mod anchors;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use socket2::Socket;

use self::anchors::Anchors;
use super::assigner::Assigner;
use super::child::{self, Recipe, Recipes};
use super::listener::{Held, Listener, Listeners, UdpListener};
use super::token::Token;
use crate::address::Scheme;
use crate::admission::Refusal;
use crate::error::EndReason;
use crate::handler::Incoming;
use crate::net::attention::{Delivery, InboxItem};
use crate::net::udp::Stray;
use crate::observe::{bump, log_limited};
use crate::protocol::alert::Alert;
use crate::protocol::dtls::assembly::VerifiedHello;
use crate::protocol::dtls::hello::connection_id;
use crate::serve::admit::{Classified, SocketKind, alert_for};
use crate::serve::shared::Shared;
use crate::serve::worker::{Job, Task};
use crate::sys::batch::{Batch, Outgoing};
use crate::sys::control::PacketInfo;
use crate::sys::epoll::{Epoll, READABLE};
use crate::sys::sync::thread;

/// The number of batches that are read from one listener before the others have their turn.
const TURN: usize = 16;

/// How often the delivery of a datagram is retried if the association ends meanwhile.
const MAX_ROUNDS: usize = 8;

/// The most turns in which listeners with held jobs are read before a hand-over: more than their queues need.
const MAX_HOLDING_READS: usize = 1024;

/// All UDP listeners of a server.
pub(super) struct Udp {
    listeners: Listeners,
    anchors: Anchors,
    /// The memory for a batch; taken out while a listener is read.
    batch: Option<Box<Batch>>,
    replies: Outgoing,
    /// Alerts to refused clients.
    alerts: Outgoing,
    /// The number of held jobs and anchors, of all listeners together.
    holding: usize,
    /// Another process reads the listeners. They stay open here, because children may still find datagrams that belong
    /// to them.
    handed_over: bool,
}

/// A datagram that was read, with its source and its destination.
#[derive(Clone, Copy)]
struct ListenerDatagram<'a> {
    /// The index of the listener.
    index: usize,
    local: SocketAddr,
    peer: SocketAddr,
    info: PacketInfo,
    payload: &'a [u8],
}

impl Udp {
    pub(super) fn new(shared: &Shared, epoll: &Epoll, bound: Vec<UdpListener>) -> io::Result<Self> {
        let mut listeners = Listeners::default();
        for UdpListener { socket, scheme, address, options, recipes } in bound {
            let index = listeners.insert(Listener::new(
                socket,
                scheme,
                address,
                options,
                recipes,
                shared.counted(scheme, address),
            ));
            epoll.add(listeners[index].socket.as_fd(), READABLE, Token::Udp(index).into())?;
        }
        Ok(Self {
            listeners,
            anchors: Anchors::default(),
            batch: Some(Box::new(Batch::new())),
            replies: Outgoing::default(),
            alerts: Outgoing::default(),
            holding: 0,
            handed_over: false,
        })
    }

    /// Reads the listener at `index`, which epoll has reported as readable.
    pub(super) fn ready(&mut self, index: usize, epoll: &Epoll, assigner: &mut Assigner) {
        self.read(index, epoll, assigner);
        self.read_holding(epoll, assigner);
    }

    /// Reads a listener until its queue is empty, or for one turn.
    fn read(&mut self, index: usize, epoll: &Epoll, assigner: &mut Assigner) {
        // epoll may have reported it before it was closed.
        let Some(listener) = self.listeners.get(index) else { return };
        let via = listener.retired_to.unwrap_or(index);
        let Some(mut batch) = self.batch.take() else { return };
        for _ in 0..TURN {
            // The jobs that are held now wait for datagrams that are in the queue now.
            let held = self.listeners[index].held.len();
            let received = match batch.recv(self.listeners[index].socket.as_fd()) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                // An ICMP error of an earlier answer was pending, or memory is short; epoll reports the listener again.
                Err(_) => break,
            };
            self.listeners[index].counters().datagrams.fetch_add(received as u64, Ordering::Relaxed);
            for datagram in (0..received).map(|datagram| batch.get(datagram)) {
                self.listeners[index].consumed += 1;
                let Some(source) = datagram.source else { continue };
                let local = self.listeners[index].address_hit(datagram.info);
                let datagram = ListenerDatagram {
                    index: via,
                    local,
                    peer: source,
                    info: datagram.info,
                    payload: datagram.payload,
                };
                self.route(datagram, epoll, assigner);
            }
            self.answer(via);
            let empty = !batch.is_full();
            self.release(index, if empty { held } else { 0 }, epoll, assigner);
            if empty && self.listeners[index].held.is_empty() {
                break;
            }
        }
        self.batch = Some(batch);
    }

    /// Returns when [`tick`](Self::tick) has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.anchors.next_deadline()
    }

    /// Closes retired anchors, and retires those whose local address has had no peer for a minute.
    pub(super) fn tick(&mut self, epoll: &Epoll, now: Instant, assigner: &mut Assigner) {
        while let Some(index) = self.anchors.take_expired(now) {
            self.read(index, epoll, assigner);
            self.listeners.remove(index);
        }
        let retired = self.anchors.retire_idle(&mut self.listeners, &assigner.shared.registry, now);
        for &index in &retired {
            self.read(index, epoll, assigner);
        }
        if !retired.is_empty() {
            self.read_holding(epoll, assigner);
        }
    }

    /// Continues to read listeners that hold a job or an anchor: epoll does not report a listener whose queue is empty,
    /// so the job would wait for ever. Under a flood the listener stays readable, and epoll reports it again.
    fn read_holding(&mut self, epoll: &Epoll, assigner: &mut Assigner) {
        for _ in 0..TURN {
            if self.holding == 0 {
                return;
            }
            let holds = |listener: &Listener| !listener.muted && !listener.held.is_empty();
            let Some(index) = self.listeners.position(holds) else { return };
            self.read(index, epoll, assigner);
        }
    }

    /// Continues to read until no job and no anchor is held.
    pub(super) fn read_all_holding(&mut self, epoll: &Epoll, assigner: &mut Assigner) {
        // Each read gets nearer to the last datagram that a job is held for.
        for _ in 0..MAX_HOLDING_READS {
            if self.holding == 0 {
                return;
            }
            self.read_holding(epoll, assigner);
        }
    }

    /// Gives up the listeners, which another process reads now. The datagrams of the anchors go to that process, too.
    pub(super) fn give_up(&mut self, epoll: &Epoll, assigner: &mut Assigner) {
        self.handed_over = true;
        let retired = self.anchors.retire_all(&mut self.listeners, Instant::now());
        for &index in &retired {
            self.read(index, epoll, assigner);
        }
        for listener in self.listeners.iter_mut().filter(|listener| listener.retired_to.is_none()) {
            epoll.remove(listener.socket.as_fd());
        }
    }

    /// Routes a datagram of another peer that was found on a child's socket.
    pub(super) fn stray(&mut self, stray: Stray, epoll: &Epoll, assigner: &mut Assigner) {
        let Stray { local, peer, interface, payload } = stray;
        let Some(index) = self.listener_of(local) else { return };
        let info = PacketInfo { local: Some(local.ip()), interface };
        self.route(ListenerDatagram { index, local, peer, info, payload: &payload }, epoll, assigner);
        self.answer(index);
        self.read_holding(epoll, assigner);
    }

    /// Returns the listener that a datagram to this address belongs to: a listener on that address before a wildcard
    /// listener.
    fn listener_of(&self, local: SocketAddr) -> Option<usize> {
        let exact = |listener: &Listener| listener.retired_to.is_none() && listener.address == local;
        self.listeners.position(exact).or_else(|| {
            self.listeners.position(|listener| {
                let ip = listener.address.ip();
                ip.is_unspecified()
                    && listener.address.port() == local.port()
                    && (ip.is_ipv4() == local.is_ipv4() || (ip.is_ipv6() && !listener.options.v6_only))
            })
        })
    }

    fn route(&mut self, datagram: ListenerDatagram<'_>, epoll: &Epoll, assigner: &mut Assigner) {
        let ListenerDatagram { index, local, peer, info, payload } = datagram;
        let shared = Arc::clone(&assigner.shared);
        if self.handed_over {
            if !self.forward(local, peer, payload, &shared)
                && let Some(relay) = shared.successor.get()
            {
                let passed = relay.pass((local, peer, info.interface), payload, 0, None);
                let counters = self.listeners[index].counters();
                bump(if passed { &counters.relayed } else { &counters.relayed_lost });
            }
            return;
        }
        let hello = match shared.classify(self.listeners[index].scheme, local, peer, payload, Instant::now())
        {
            Classified::Nothing => return,
            Classified::Challenge(reply) => {
                let (source, mapped) = self.source(datagram);
                return self.replies.push(peer, source, mapped, &reply);
            }
            Classified::Refused(alert, sequence) => return self.alert(datagram, alert, sequence),
            Classified::Hello(hello) => Some(hello),
            Classified::Datagram if self.listeners[index].scheme == Scheme::Dtls => {
                if !self.forward(local, peer, payload, &shared) {
                    bump(&self.listeners[index].counters().ignored);
                }
                return;
            }
            Classified::Datagram => None,
        };
        if let Some(hello) = &hello {
            let known = shared.registry.find(local, peer);
            if known.is_some_and(|known| known.hello_random == hello.random()) {
                // The client repeated it before the answer arrived, so its worker need not wake up.
                return bump(&self.listeners[index].counters().duplicate_hellos);
            }
        }
        if self.forward(local, peer, payload, &shared) {
            return;
        }
        self.open(datagram, hello, epoll, assigner);
    }

    /// Hands a datagram to the association of its peer. Returns `false` if there is no association.
    fn forward(&self, local: SocketAddr, peer: SocketAddr, payload: &[u8], shared: &Shared) -> bool {
        for _ in 0..MAX_ROUNDS {
            // A record with a connection ID belongs to the association with that ID, whatever its source address is.
            let association = match shared.connection_ids.and_then(|ids| connection_id(payload, ids.length()))
            {
                Some(cid) => shared.registry.find_by_connection_id(cid).filter(|found| found.local == local),
                None => shared.registry.find(local, peer),
            };
            let Some(association) = association else { return false };
            match association.attention.deliver(InboxItem::datagram_from(peer, payload), true) {
                Delivery::Queued => {
                    bump(&association.counters.forwarded);
                    return true;
                }
                Delivery::Full => {
                    bump(&association.counters.strays_lost);
                    return true;
                }
                // The association has just been removed from the registry, or is about to be.
                Delivery::Gone => thread::yield_now(),
            }
        }
        false
    }

    /// Admits a new peer and makes its child, or refuses it.
    fn open(
        &mut self,
        datagram: ListenerDatagram<'_>,
        hello: Option<VerifiedHello>,
        epoll: &Epoll,
        assigner: &mut Assigner,
    ) {
        let ListenerDatagram { index, local, peer, payload, .. } = datagram;
        let shared = Arc::clone(&assigner.shared);
        let incoming = Incoming::new(self.listeners[index].scheme, local, peer);
        let random = hello.as_ref().map_or([0; 32], VerifiedHello::random);
        let association = match shared.admit(incoming, random, SocketKind::OwnSocket) {
            Ok(association) => association,
            Err(refusal) => return self.refuse(datagram, hello.as_ref(), refusal, &shared),
        };
        let (anchor, made) = self.anchors.find_or_open(&mut self.listeners, index, local, epoll);
        if made {
            self.holding += 1;
        }
        let (socket, recipe) = match self.child(anchor, local, peer, assigner) {
            Ok(made) => made,
            Err(error) => {
                assigner.cancel(&association);
                if let Some(refusal) = assigner.refuse_for(&error, association.scheme, local, peer) {
                    self.refuse(datagram, hello.as_ref(), refusal, &shared);
                }
                return;
            }
        };
        bump(match recipe {
            Recipe::Wildcard => &association.counters.children_by_wildcard,
            Recipe::Group => &association.counters.children_by_group,
            Recipe::Unguarded => &association.counters.children_unguarded,
        });
        if !shared.registry.insert(&association) {
            // Unreachable: only this thread inserts, and it has just looked. The new association must not hide another.
            assigner.cancel(&association);
            return bump(&association.counters.ignored);
        }
        let (task, hold) = match hello {
            None => {
                association.attention.deliver(InboxItem::datagram(payload), false);
                (Task::Plain, true)
            }
            // Later fragments of the hello may still arrive through the listener.
            Some(hello) => {
                let hold = !hello.is_whole();
                (Task::Dtls(Box::new(hello)), hold)
            }
        };
        // The wildcard recipe beside a specific listener lets no datagrams of other peers in before connect, so there
        // are no strays in the child.
        let may_have_strays = recipe != Recipe::Wildcard || anchor != index;
        let job = Job::own(association, Arc::new(socket), task, shared);
        if hold {
            let listener = &mut self.listeners[anchor];
            let until = listener.consumed + listener.capacity;
            listener.held.push((until, Held::Job { job, may_have_strays }));
            self.holding += 1;
        } else {
            Self::assign(job, may_have_strays, assigner);
        }
    }

    /// Gives a job to a worker. The listener's queue has been read far enough, so the datagrams in the child's queue
    /// are the next ones.
    fn assign(job: Job, may_have_strays: bool, assigner: &mut Assigner) {
        if may_have_strays {
            assigner.read_child(&job);
        }
        assigner.assign(job);
    }

    /// Makes the child. Fails with EMFILE if too few descriptors are left.
    fn child(
        &self,
        index: usize,
        local: SocketAddr,
        peer: SocketAddr,
        assigner: &Assigner,
    ) -> io::Result<(Socket, Recipe)> {
        let listener = &self.listeners[index];
        let guarded = listener.address == local;
        let recipes = if guarded { listener.recipes } else { Recipes::default() };
        let (socket, recipe) = child::open_child(recipes, local, peer, &listener.options)?;
        if !assigner.has_headroom(socket.as_fd()) {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        Ok((socket, recipe))
    }

    /// Releases the jobs and anchors that were held until this listener's queue had been read so far: the oldest
    /// `seen`, because the queue was empty after they were held, and all that have reached their number.
    fn release(&mut self, index: usize, seen: usize, epoll: &Epoll, assigner: &mut Assigner) {
        let listener = &mut self.listeners[index];
        let consumed = listener.consumed;
        let read = listener.held.iter().take_while(|(until, _)| *until <= consumed).count();
        let due: Vec<_> = listener.held.drain(..read.max(seen)).collect();
        self.holding -= due.len();
        for (_, held) in due {
            match held {
                Held::Job { job, may_have_strays } => Self::assign(job, may_have_strays, assigner),
                Held::Anchor(anchor) => {
                    let listener = &mut self.listeners[anchor];
                    listener.muted = false;
                    if let Err(error) =
                        epoll.modify(listener.socket.as_fd(), READABLE, Token::Udp(anchor).into())
                    {
                        log_limited!(error, %error, "cannot watch the listener on a specific address");
                    }
                }
            }
        }
    }

    /// Tells a DTLS client, whose address is proven, that it is refused. If the client repeats this hello, it gets the
    /// same answer, even if the server has room by then, because the client has given up.
    fn refuse(
        &mut self,
        datagram: ListenerDatagram<'_>,
        hello: Option<&VerifiedHello>,
        refusal: Refusal,
        shared: &Shared,
    ) {
        let (Some(hello), Some(alert)) = (hello, alert_for(refusal)) else { return };
        shared.cookies.note_refused(datagram.local, datagram.peer, &hello.random(), alert, Instant::now());
        self.alert(datagram, alert, hello.record_sequence());
    }

    /// Queues a fatal alert in clear (RFC 5246 §7.2.2), which is shorter than any hello. Its record has the sequence
    /// number of the hello's record, like all stateless answers (RFC 6347 §4.2.1), because the client has seen lower
    /// numbers.
    fn alert(&mut self, datagram: ListenerDatagram<'_>, alert: Alert, sequence: u64) {
        let (source, mapped) = self.source(datagram);
        self.alerts.push(datagram.peer, source, mapped, &alert.in_clear(sequence));
    }

    /// Returns the address from which an answer must leave, if the listener is a wildcard, and whether the listener
    /// uses IPv6.
    fn source(&self, datagram: ListenerDatagram<'_>) -> (Option<PacketInfo>, bool) {
        let address = self.listeners[datagram.index].address;
        (address.ip().is_unspecified().then_some(datagram.info), address.is_ipv6())
    }

    fn answer(&mut self, index: usize) {
        if !self.alerts.is_empty() {
            let sent = self.alerts.send(self.listeners[index].socket.as_fd());
            self.alerts.clear();
            self.listeners[index].counters().refusal_alerts.fetch_add(sent as u64, Ordering::Relaxed);
        }
        if self.replies.is_empty() {
            return;
        }
        let queued = self.replies.len();
        let sent = self.replies.send(self.listeners[index].socket.as_fd());
        // A client whose answer finds no room in the send buffer repeats its hello.
        self.replies.clear();
        let counters = self.listeners[index].counters();
        counters.hello_verify_requests.fetch_add(sent as u64, Ordering::Relaxed);
        counters.hello_verify_requests_lost.fetch_add((queued - sent) as u64, Ordering::Relaxed);
    }
}

impl Drop for Udp {
    fn drop(&mut self) {
        // The server ends, and so do the associations of jobs that are still held.
        for listener in self.listeners.iter_mut() {
            for (_, held) in listener.held.drain(..) {
                if let Held::Job { job, .. } = held {
                    job.abandon(EndReason::Shutdown);
                }
            }
        }
    }
}

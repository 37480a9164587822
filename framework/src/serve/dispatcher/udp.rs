//! UDP listeners, from a datagram of a stranger to a connected child with its job.
//!
//! A datagram is consumed in any case, in batches: there is nothing that leaving it in the queue
//! could be good for. Then it is
//!
//! 1. a known peer's, sent before its child was connected: to its worker, in order;
//! 2. on DTLS, a ClientHello without a valid cookie: a HelloVerifyRequest, and nothing is kept;
//! 3. a new peer: admitted or refused, given a child and a job;
//! 4. nothing.
//!
//! A job of a peer whose further datagrams may still be in the listener's queue is *held* until
//! the queue has been read as far as it reached when the child was connected: then the child's
//! queue has only later ones.

mod anchors;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use socket2::Socket;

use self::anchors::Anchors;
use super::child::{self, Recipe, Recipes};
use super::hands::Hands;
use super::listener::{Held, Listener, Listeners, UdpListener};
use super::token::Token;
use crate::address::Scheme;
use crate::admission::Refusal;
use crate::error::EndReason;
use crate::handler::Incoming;
use crate::net::attention::{Delivery, Parcel};
use crate::net::udp::Stray;
use crate::observe::{bump, log_limited};
use crate::protocol::alert::Alert;
use crate::protocol::dtls::assembly::VerifiedHello;
use crate::protocol::dtls::hello::connection_id;
use crate::serve::meet::{First, Place, alert_for};
use crate::serve::shared::Shared;
use crate::serve::worker::{Job, Task};
use crate::sys::control::PacketInfo;
use crate::sys::epoll::{Epoll, READABLE};
use crate::sys::message::{BATCH, Batch, Outgoing};
use crate::sys::sync::thread;

/// Batches read from one listener before the others have their turn.
const TURN: usize = 16;

/// Times that a datagram is offered to associations that end under our hands.
const MAX_ROUNDS: usize = 8;

/// Turns of reading what is held until a hand-over: more than a listener's queue is long.
const MOST_SETTLES: usize = 1024;

/// All UDP listeners of a server.
pub(super) struct Udp {
    listeners: Listeners,
    anchors: Anchors,
    /// Taken out while a listener is read.
    batch: Option<Box<Batch>>,
    replies: Outgoing,
    /// Alerts to clients that are refused.
    alerts: Outgoing,
    /// How many are held, at all listeners together.
    holding: usize,
    /// Another process reads the listeners. These stay open for those whose datagrams are found elsewhere.
    given: bool,
}

/// A datagram that was read, and from where to where it came.
#[derive(Clone, Copy)]
struct Met<'a> {
    /// Of the listener.
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
            given: false,
        })
    }

    /// The listener at `index` is readable.
    pub(super) fn ready(&mut self, index: usize, epoll: &Epoll, hands: &mut Hands) {
        self.read(index, epoll, hands);
        self.settle(epoll, hands);
    }

    /// Reads a listener until its queue is empty, or for one turn.
    fn read(&mut self, index: usize, epoll: &Epoll, hands: &mut Hands) {
        // epoll may have named it before it was closed.
        let Some(listener) = self.listeners.get(index) else { return };
        let via = listener.retired_to.unwrap_or(index);
        let Some(mut batch) = self.batch.take() else { return };
        for _ in 0..TURN {
            // Whatever is held by now is held for datagrams that are in the queue by now.
            let held = self.listeners[index].held.len();
            let received = match batch.recv(self.listeners[index].socket.as_fd()) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                // A pending ICMP error of an earlier answer; or memory is short, and epoll comes back.
                Err(_) => break,
            };
            self.listeners[index].counters().datagrams.fetch_add(received as u64, Ordering::Relaxed);
            for datagram in (0..received).map(|datagram| batch.get(datagram)) {
                self.listeners[index].consumed += 1;
                let Some(source) = datagram.source else { continue };
                let local = self.listeners[index].address_hit(datagram.info);
                let met =
                    Met { index: via, local, peer: source, info: datagram.info, payload: datagram.payload };
                self.route(met, epoll, hands);
            }
            self.answer(via);
            let empty = received < BATCH;
            self.release(index, if empty { held } else { 0 }, epoll, hands);
            if empty && self.listeners[index].held.is_empty() {
                break;
            }
        }
        self.batch = Some(batch);
    }

    /// When [`tick`](Self::tick) has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.anchors.next_deadline()
    }

    /// Closes retired anchors, and retires those whose local address has had no peer for a minute.
    pub(super) fn tick(&mut self, epoll: &Epoll, now: Instant, hands: &mut Hands) {
        while let Some(index) = self.anchors.take_closed(now) {
            self.read(index, epoll, hands);
            self.listeners.remove(index);
        }
        let retired = self.anchors.retire_idle(&mut self.listeners, &hands.shared.registry, now);
        for &index in &retired {
            self.read(index, epoll, hands);
        }
        if !retired.is_empty() {
            self.settle(epoll, hands);
        }
    }

    /// Reads on where something is held: its queue may be empty, and then nobody else would look.
    /// Under a flood it stays readable instead, and its turn comes again.
    fn settle(&mut self, epoll: &Epoll, hands: &mut Hands) {
        for _ in 0..TURN {
            if self.holding == 0 {
                return;
            }
            let holds = |listener: &Listener| !listener.muted && !listener.held.is_empty();
            let Some(index) = self.listeners.position(holds) else { return };
            self.read(index, epoll, hands);
        }
    }

    /// Reads on until nothing is held any more.
    pub(super) fn settle_all(&mut self, epoll: &Epoll, hands: &mut Hands) {
        // Each read gets nearer to the last one that something is held for.
        for _ in 0..MOST_SETTLES {
            if self.holding == 0 {
                return;
            }
            self.settle(epoll, hands);
        }
    }

    /// Another process has the listeners. What the anchors have goes there, too.
    pub(super) fn give(&mut self, epoll: &Epoll, hands: &mut Hands) {
        self.given = true;
        let retired = self.anchors.retire_all(&mut self.listeners, Instant::now());
        for &index in &retired {
            self.read(index, epoll, hands);
        }
        for listener in self.listeners.iter_mut().filter(|listener| listener.retired_to.is_none()) {
            epoll.remove(listener.socket.as_fd());
        }
    }

    /// A datagram that was found on a child's socket.
    pub(super) fn stray(&mut self, stray: Stray, epoll: &Epoll, hands: &mut Hands) {
        let Stray { local, peer, interface, payload } = stray;
        let Some(index) = self.listener_of(local) else { return };
        let info = PacketInfo { local: Some(local.ip()), interface };
        self.route(Met { index, local, peer, info, payload: &payload }, epoll, hands);
        self.answer(index);
        self.settle(epoll, hands);
    }

    /// The listener that a datagram to this address belongs to: the specific one before the wildcard.
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

    fn route(&mut self, met: Met<'_>, epoll: &Epoll, hands: &mut Hands) {
        let Met { index, local, peer, info, payload } = met;
        let shared = Arc::clone(&hands.shared);
        if self.given {
            if !self.forward(local, peer, payload, &shared)
                && let Some(relay) = shared.successor.get()
            {
                let passed = relay.pass((local, peer, info.interface), payload, 0, None);
                let counters = self.listeners[index].counters();
                bump(if passed { &counters.relayed } else { &counters.relayed_lost });
            }
            return;
        }
        let hello = match shared.look_at(self.listeners[index].scheme, local, peer, payload, Instant::now()) {
            First::Nothing => return,
            First::Challenge(reply) => {
                let (source, mapped) = self.source(met);
                return self.replies.push(peer, source, mapped, &reply);
            }
            First::Refused(alert, sequence) => return self.alert(met, alert, sequence),
            First::Hello(hello) => Some(hello),
            First::Datagram if self.listeners[index].scheme == Scheme::Dtls => {
                if !self.forward(local, peer, payload, &shared) {
                    bump(&self.listeners[index].counters().ignored);
                }
                return;
            }
            First::Datagram => None,
        };
        if let Some(hello) = &hello {
            let known = shared.registry.find(local, peer);
            if known.is_some_and(|known| known.hello_random == hello.random()) {
                // Sent again before the answer came: no reason to wake its worker.
                return bump(&self.listeners[index].counters().duplicate_hellos);
            }
        }
        if self.forward(local, peer, payload, &shared) {
            return;
        }
        self.open(met, hello, epoll, hands);
    }

    /// Hands a datagram to the association of its peer, if there is one.
    fn forward(&self, local: SocketAddr, peer: SocketAddr, payload: &[u8], shared: &Shared) -> bool {
        for _ in 0..MAX_ROUNDS {
            // A record with a connection ID belongs to that, wherever it comes from.
            let association = match shared.connection_ids.and_then(|ids| connection_id(payload, ids.length()))
            {
                Some(cid) => shared.registry.find_by_connection_id(cid).filter(|found| found.local == local),
                None => shared.registry.find(local, peer),
            };
            let Some(association) = association else { return false };
            match association.attention.deliver(Parcel::datagram_from(peer, payload), true) {
                Delivery::Queued => {
                    bump(&association.counters.forwarded);
                    return true;
                }
                Delivery::Full => {
                    bump(&association.counters.strays_lost);
                    return true;
                }
                // It has just gone from the registry, or is about to.
                Delivery::Gone => thread::yield_now(),
            }
        }
        false
    }

    /// A new peer.
    fn open(&mut self, met: Met<'_>, hello: Option<VerifiedHello>, epoll: &Epoll, hands: &mut Hands) {
        let Met { index, local, peer, payload, .. } = met;
        let shared = Arc::clone(&hands.shared);
        let incoming = Incoming::new(self.listeners[index].scheme, local, peer);
        let random = hello.as_ref().map_or([0; 32], VerifiedHello::random);
        let association = match shared.admit(incoming, random, Place::OwnSocket) {
            Ok(association) => association,
            Err(refusal) => return self.refuse(met, hello.as_ref(), refusal, &shared),
        };
        let (anchor, made) = self.anchors.find_or_open(&mut self.listeners, index, local, epoll);
        if made {
            self.holding += 1;
        }
        let (socket, recipe) = match self.child(anchor, local, peer, hands) {
            Ok(made) => made,
            Err(error) => {
                hands.cancel(&association);
                if let Some(refusal) = hands.refuse_for(&error, association.scheme, local, peer) {
                    self.refuse(met, hello.as_ref(), refusal, &shared);
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
            // Only this thread inserts, and it has looked: cannot be, and must not shadow.
            hands.cancel(&association);
            return bump(&association.counters.ignored);
        }
        let (task, hold) = match hello {
            None => {
                association.attention.deliver(Parcel::datagram(payload), false);
                (Task::Plain, true)
            }
            // The fragments behind the first are on their way through the listener.
            Some(hello) => {
                let hold = !hello.is_whole();
                (Task::Dtls(Box::new(hello)), hold)
            }
        };
        // Beside a specific listener nothing can have been stolen.
        let drain = recipe != Recipe::Wildcard || anchor != index;
        let job = Job::own(association, Arc::new(socket), task, shared);
        if hold {
            let listener = &mut self.listeners[anchor];
            let until = listener.consumed + listener.capacity;
            listener.held.push((until, Held::Job { job, drain }));
            self.holding += 1;
        } else {
            Self::hand_over(job, drain, hands);
        }
    }

    /// Gives a job to a worker. The listener's queue has been read as far as it matters, so what the
    /// child's queue has comes next.
    fn hand_over(job: Job, drain: bool, hands: &mut Hands) {
        if drain {
            hands.drain(&job);
        }
        hands.hand_over(job);
    }

    /// Makes the child, unless too few descriptors are left.
    fn child(
        &self,
        index: usize,
        local: SocketAddr,
        peer: SocketAddr,
        hands: &Hands,
    ) -> io::Result<(Socket, Recipe)> {
        let listener = &self.listeners[index];
        let guarded = listener.address == local;
        let recipes = if guarded { listener.recipes } else { Recipes::default() };
        let (socket, recipe) = child::open_child(recipes, local, peer, &listener.options)?;
        if !hands.has_headroom(socket.as_fd()) {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        Ok((socket, recipe))
    }

    /// Hands over what was held until this listener's queue was read so far: the oldest `seen`
    /// because the queue was empty after them, and whatever else has waited for long enough.
    fn release(&mut self, index: usize, seen: usize, epoll: &Epoll, hands: &mut Hands) {
        let listener = &mut self.listeners[index];
        let consumed = listener.consumed;
        let read = listener.held.iter().take_while(|(until, _)| *until <= consumed).count();
        let due: Vec<_> = listener.held.drain(..read.max(seen)).collect();
        self.holding -= due.len();
        for (_, held) in due {
            match held {
                Held::Job { job, drain } => Self::hand_over(job, drain, hands),
                Held::Anchor(anchor) => {
                    let listener = &mut self.listeners[anchor];
                    listener.muted = false;
                    if let Err(error) =
                        epoll.modify(listener.socket.as_fd(), READABLE, Token::Udp(anchor).into())
                    {
                        log_limited!(error, %error, "an anchor cannot be listened to");
                    }
                }
            }
        }
    }

    /// Queues an answer to a stranger, from the address that was hit.
    /// Tells a DTLS client, whose address is proven, that it is refused. Its hello, when it comes again, is told so again and
    /// opens nothing, also when there is room by then: the client has given up.
    fn refuse(&mut self, met: Met<'_>, hello: Option<&VerifiedHello>, refusal: Refusal, shared: &Shared) {
        let (Some(hello), Some(alert)) = (hello, alert_for(refusal)) else { return };
        shared.cookies.refuse(met.local, met.peer, &hello.random(), alert, Instant::now());
        self.alert(met, alert, hello.record_sequence());
    }

    /// Queues a fatal alert in clear (RFC 5246 §7.2.2). It is shorter than any hello. Its record has the number of the hello's,
    /// as all stateless answers of RFC 6347 §4.2.1 have, because the client has seen lower ones.
    fn alert(&mut self, met: Met<'_>, alert: Alert, sequence: u64) {
        let (source, mapped) = self.source(met);
        self.alerts.push(met.peer, source, mapped, &alert.in_clear(sequence));
    }

    /// Where an answer leaves from, if the listener does not say it, and whether the listener is one of IPv6.
    fn source(&self, met: Met<'_>) -> (Option<PacketInfo>, bool) {
        let address = self.listeners[met.index].address;
        (address.ip().is_unspecified().then_some(met.info), address.is_ipv6())
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
        // Who finds the send buffer full asks again.
        self.replies.clear();
        let counters = self.listeners[index].counters();
        counters.hello_verify_requests.fetch_add(sent as u64, Ordering::Relaxed);
        counters.hello_verify_requests_lost.fetch_add((queued - sent) as u64, Ordering::Relaxed);
    }
}

impl Drop for Udp {
    fn drop(&mut self) {
        // Jobs that are still held end here.
        for listener in self.listeners.iter_mut() {
            for (_, held) in listener.held.drain(..) {
                if let Held::Job { job, .. } = held {
                    job.abandon(EndReason::Shutdown);
                }
            }
        }
    }
}

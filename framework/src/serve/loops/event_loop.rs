//! A loop: it reads its sockets, finds out whose each datagram is, and gives its peers their turns, one after the other.
//!
//! The thread of a loop holds the lock of its [`State`], but not during a turn. So when a turn takes long, another thread can
//! go on with the loop ([`take_over`](Loop::take_over)), and the first one, when it is done, gives its peer back by a letter.

mod give;
mod standstill;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use self::give::{SocketId, Staying};
use super::entry::{Context, Datagram, Entry, Memory, Outcome};
use super::letters::{Letter, Letters, PeerBell};
use super::pause::Pause;
use super::slots::Slots;
use super::token::Token;
use super::watch::Watch;
use crate::address::Scheme;
use crate::admission::Refusal;
use crate::error::EndReason;
use crate::handler::Incoming;
use crate::net::attention::{Delivery, Parcel};
use crate::net::shared::{SharedPath, SharedSocket};
use crate::net::udp::Stray;
use crate::observe::{Counters, Pulse, SAMPLED, bump, log_limited};
use crate::protocol::dtls::assembly::VerifiedHello;
use crate::protocol::dtls::hello::connection_id;
use crate::serve::meet::{First, Place, address_hit, alert_for};
use crate::serve::worker::pool::{Pool, Run};
use crate::serve::worker::{self, Job, Link};
use crate::sys::control::PacketInfo;
use crate::sys::epoll::{EITHER_EDGE, Epoll, READABLE, READABLE_OR_WRITABLE, WRITABLE};
use crate::sys::eventfd::EventFd;
use crate::sys::message::{BATCH, Batch, DATAGRAM_MAX};
use crate::sys::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sys::sync::channel::Sender;
use crate::sys::sync::{Mutex, MutexGuard};

/// Batches that are read of one socket before others have their turn.
const MAX_BATCHES: usize = 8;
/// Turns before the sockets are looked at again.
const MAX_TURNS: usize = 64;
/// Memory for datagrams that is kept.
const MAX_FREE: usize = 2 * BATCH;
/// How quick a turn is of a peer that held its loop up before, for the peer to be trusted again, and how often in a row.
const QUICK: Duration = Duration::from_millis(1);
const QUICK_TURNS: u8 = 8;
/// Pairs of addresses that are remembered whose datagrams come to other loops.
const MAX_ORIGINS: usize = 1024;
/// How long a loop whose epoll fails waits before it tries again.
const RETRY: Duration = Duration::from_millis(50);

/// What a thread of the loops does.
pub(super) enum Task {
    /// Runs a loop.
    Run(Arc<Loop>),
    /// Goes on with a loop that is in this turn.
    TakeOver(Arc<Loop>, u64),
    /// Has a peer's turn in the place of the loop.
    Turn(Arc<Loop>, Token, Box<Entry>, Option<Datagram>),
}

/// What all loops of a server have in common.
pub(super) struct Common {
    /// Their letters, by their numbers.
    pub(super) letters: Vec<Arc<Letters>>,
    /// Threads for the loops, and for callbacks that hold one up.
    pub(super) spares: Pool<Task>,
    /// Threads for peers, where each has one of its own.
    pub(super) workers: Arc<Pool<Job>>,
    pub(super) watch: Watch,
}

/// What of a loop other threads use.
pub(super) struct Loop {
    /// The first byte of the connection IDs of its peers.
    number: u8,
    pub(super) context: Context,
    common: Arc<Common>,
    letters: Arc<Letters>,
    /// Readable when a send buffer is full.
    full: Arc<EventFd>,
    epoll: Epoll,
    state: Mutex<State>,
    /// Grows with the beginning and the end of each turn; odd during one. Whoever ends a turn and finds another number has
    /// lost the loop.
    turn: AtomicU64,
    pause: Pause,
    stop: AtomicBool,
    /// Of its rounds.
    pub(super) pulse: Pulse,
}

/// A peer whose turn it is, with its datagram if there is one, and since when it waits.
type Next = (Token, Box<Entry>, Option<Datagram>, Instant);

/// What only the thread uses that has the loop.
struct State {
    sockets: Vec<Arc<SharedSocket>>,
    slots: Slots,
    batch: Box<Batch>,
    /// Memory for datagrams.
    free: Vec<Vec<u8>>,
    events: Vec<u64>,
    letters: Vec<Letter>,
    /// Turns since the sockets were looked at.
    turns: usize,
    /// The loop stands still.
    parked: bool,
    /// Some socket is watched for room to send.
    full: bool,
    /// Which loops the kernel gives datagrams between these addresses to, where another one has the peer.
    origins: HashMap<(SocketAddr, SocketAddr), u8>,
    /// Dropped when the loop ends, which tells whoever shuts the server down.
    running: Option<Arc<Sender<()>>>,
}

/// Tokens of epoll: the letters, the news of a full send buffer, and behind these the sockets.
const LETTERS: u64 = 0;
const FULL: u64 = 1;
const SOCKETS: u64 = 2;
/// A peer's socket, with its token below.
const PEER: u64 = 1 << 63;

impl Loop {
    pub(super) fn new(
        number: u8,
        context: Context,
        common: Arc<Common>,
        full: Arc<EventFd>,
        sockets: Vec<Arc<SharedSocket>>,
        running: Arc<Sender<()>>,
        paused: bool,
    ) -> io::Result<Self> {
        let letters = Arc::clone(&common.letters[usize::from(number)]);
        let epoll = Epoll::new()?;
        epoll.add(letters.bell.as_fd(), READABLE, LETTERS)?;
        epoll.add(full.as_fd(), READABLE, FULL)?;
        for (index, socket) in sockets.iter().enumerate() {
            epoll.add(socket.socket.as_fd(), READABLE, SOCKETS + index as u64)?;
        }
        let state = State {
            sockets,
            slots: Slots::new(),
            batch: Box::new(Batch::new()),
            free: Vec::new(),
            events: Vec::new(),
            letters: Vec::new(),
            turns: 0,
            parked: false,
            full: false,
            origins: HashMap::new(),
            running: Some(running),
        };
        let (turn, pause, stop) = (AtomicU64::new(0), Pause::new(paused), AtomicBool::new(false));
        let (state, pulse) = (Mutex::new(state), Pulse::default());
        Ok(Self { number, context, common, letters, full, epoll, state, turn, pause, stop, pulse })
    }

    /// The number of the present turn.
    pub(super) fn turn(&self) -> u64 {
        self.turn.load(Ordering::SeqCst)
    }

    /// Has the loop end.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.letters.wake();
        self.pause.notify();
    }

    /// Gives the loop to a spare thread, if it is still in this turn; `false`: there is no spare thread.
    pub(super) fn hand_over(self: &Arc<Self>, turn: u64) -> bool {
        self.common.spares.submit(Task::TakeOver(Arc::clone(self), turn)).is_ok()
    }

    /// Goes on with the loop, unless that turn is over.
    fn take_over(self: Arc<Self>, turn: u64) {
        if self.turn.compare_exchange(turn, turn + 1, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            bump(&self.context.shared.counters.loops_taken_over);
            self.run();
        }
    }

    /// Runs the loop until it ends, or another thread has it.
    fn run(self: Arc<Self>) {
        let mut memory = Memory::default();
        let mut state = self.state.lock();
        state.flush(&self.epoll);
        while !self.stop.load(Ordering::Acquire) {
            let next = match self.pause.is_wanted() {
                false => self.next(&mut state),
                true => self.settle(&mut state),
            };
            let Some((token, entry, datagram, since)) = next else { continue };
            let (entry, datagram) = match entry.distrust {
                0 => (entry, datagram),
                _ => match self.common.spares.submit(Task::Turn(Arc::clone(&self), token, entry, datagram)) {
                    Ok(()) => continue,
                    Err((Task::Turn(_, _, back, datagram), _)) => (back, datagram),
                    Err(_) => continue,
                },
            };
            let mut entry = entry;
            let turn = self.turn.fetch_add(1, Ordering::SeqCst) + 1;
            self.common.watch.look();
            drop(state);
            // A turn adds two.
            if (turn / 2).is_multiple_of(SAMPLED) {
                self.context.shared.counters.loop_queue.observe(since.elapsed());
            }
            let outcome = entry.drive(&self.context, &mut memory, datagram);
            if self.turn.compare_exchange(turn, turn + 1, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                entry.distrust = QUICK_TURNS;
                return self.give_back(token, entry, outcome);
            }
            state = self.state.lock();
            state.recycle(std::mem::take(&mut memory.datagram));
            state.put_back(token, entry, outcome);
        }
        self.end(&mut state);
    }

    /// Gives a peer back to the loop after a turn on another thread. Where the loop has ended, so does the peer.
    fn give_back(&self, token: Token, mut entry: Box<Entry>, outcome: Outcome) {
        if self.stop.load(Ordering::Acquire) && !matches!(outcome, Outcome::Over) {
            // It is told so, and calls back for the last time.
            entry.drive(&self.context, &mut Memory::default(), None);
        }
        self.letters.send(Letter::Returned(token, entry, outcome));
    }

    /// The loop ends, and with it whoever is left.
    fn end(&self, state: &mut State) {
        for letter in self.letters.close() {
            match letter {
                Letter::Returned(_, mut entry, _) => entry.abandon(),
                Letter::New(job) => job.abandon(EndReason::Shutdown),
                _ => {}
            }
        }
        for token in state.slots.tokens() {
            if let Some(mut entry) = state.slots.remove(token).and_then(|slot| slot.entry) {
                entry.abandon();
            }
        }
        state.flush(&self.epoll);
        self.pulse.rest();
        for socket in state.sockets.drain(..).filter(|socket| !socket.is_given()) {
            self.counted(&socket).listeners.fetch_sub(1, Ordering::Relaxed);
        }
        state.running = None;
    }

    /// Takes out a peer whose turn waits. `None`: the loop stood still, for there is none.
    fn settle(&self, state: &mut MutexGuard<'_, State>) -> Option<Next> {
        loop {
            self.open_letters(state);
            let may_settle = self.may_settle();
            let next = may_settle.then(|| state.slots.next()).flatten();
            if next.is_none() && may_settle && self.context.events.is_some() && state.slots.is_anybody_out() {
                // Another thread has a peer's turn, and gives it back.
                self.await_letter();
                continue;
            }
            if next.is_none() {
                self.park(state);
            }
            return next;
        }
    }

    /// Takes out the peer whose turn it is; waits for one. `None`: look whether the loop is to end.
    fn next(&self, state: &mut State) -> Option<Next> {
        if state.turns < MAX_TURNS && state.slots.is_anybody_ready() {
            state.turns += 1;
            return state.slots.next();
        }
        state.flush(&self.epoll);
        let timeout = match state.slots.is_anybody_queued() {
            true => Some(Duration::ZERO),
            false => state.slots.next_timer().map(|at| at.saturating_duration_since(Instant::now())),
        };
        state.events.clear();
        self.pulse.rest();
        if let Err(error) = self.epoll.wait(&mut state.events, timeout) {
            log_limited!(error, %error, "a loop cannot wait");
            std::thread::park_timeout(RETRY);
        }
        let now = Instant::now();
        self.pulse.begin(now);
        state.slots.begin_round(now);
        state.turns = 0;
        state.sockets.iter().for_each(|socket| socket.begin_turn());
        let events = std::mem::take(&mut state.events);
        for &event in &events {
            match event {
                LETTERS => self.letters.bell.reset(),
                FULL => {
                    self.full.reset();
                    state.full = true;
                }
                peer if peer & PEER != 0 => state.slots.queue(Token::from_u64(peer & !PEER)),
                socket => {
                    if let Some(index) = socket.checked_sub(SOCKETS) {
                        self.read(state, index as usize);
                    }
                }
            }
        }
        state.events = events;
        self.open_letters(state);
        state.slots.fire(now);
        state.slots.next()
    }

    fn open_letters(&self, state: &mut State) {
        let mut letters = std::mem::take(&mut state.letters);
        self.letters.take(&mut letters);
        for letter in letters.drain(..) {
            match letter {
                Letter::Wake(token) => {
                    if let Some(slot) = state.slots.get(token) {
                        slot.bell.heard();
                        state.slots.queue(token);
                    }
                }
                Letter::Returned(token, entry, outcome) => state.put_back(token, entry, outcome),
                Letter::Left(token) => drop(state.slots.remove(token)),
                Letter::Moved(token, peer) => state.slots.follow(token, peer),
                Letter::Stray(stray, origin) => self.stray(state, stray, origin, None),
                Letter::Relayed(stray, index) => self.take_relayed(state, stray, index),
                Letter::New(job) => self.take_in(state, *job),
            }
        }
        if letters.capacity() < 4096 {
            state.letters = letters;
        }
    }

    /// A datagram that the last association between its addresses left.
    fn stray(&self, state: &mut State, stray: Stray, origin: Option<u8>, index: Option<u8>) {
        let Stray { local, peer, interface, payload } = stray;
        if let Some(origin) = origin {
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

    /// What is counted of the listener that has this socket.
    fn counted(&self, socket: &SharedSocket) -> &Counters {
        self.context.shared.counted(socket.scheme, socket.address)
    }

    /// Reads what has come to a socket.
    fn read(&self, state: &mut State, index: usize) {
        let Some(socket) = state.sockets.get(index).filter(|socket| !socket.is_given()).cloned() else {
            return;
        };
        for _ in 0..MAX_BATCHES {
            if state.slots.is_full() {
                break;
            }
            let received = match state.batch.recv(socket.socket.as_fd()) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                // Memory is short, and epoll comes back.
                Err(_) => break,
            };
            for datagram in 0..received {
                let found = state.batch.get(datagram);
                let (Some(peer), info) = (found.source, found.info) else { continue };
                let local = address_hit(socket.address, info);
                self.route(state, &socket, local, peer, info, Payload::Received(datagram));
            }
            self.counted(&socket).datagrams.fetch_add(received as u64, Ordering::Relaxed);
            if received < BATCH {
                break;
            }
        }
    }

    /// Finds out whose a datagram is.
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
        // A record with a connection ID belongs to that, wherever it comes from.
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
            && !self.is_gone(state, token, payload, from)
        {
            if self.context.events.is_none() {
                return;
            }
            let datagram = state.own(payload);
            if let Err(datagram) = state.slots.queue_datagram(token, datagram, from) {
                bump(&self.counted(socket).datagrams_dropped);
                state.recycle(datagram);
            }
            return;
        }
        let way = (local, peer, info.interface);
        if self.is_elsewhere(state, socket, way, payload.bytes(&state.batch)) {
            return;
        }
        let bytes = payload.bytes(&state.batch);
        let hello = match shared.look_at(socket.scheme, local, peer, bytes, Instant::now()) {
            First::Nothing => return,
            First::Challenge(reply) => {
                let sent = socket.send(peer, info, &reply);
                return bump(match sent {
                    crate::protocol::Sent::Done => &self.counted(socket).hello_verify_requests,
                    _ => &self.counted(socket).hello_verify_requests_lost,
                });
            }
            First::Refused(alert, sequence) => {
                let _ = socket.send(peer, info, &alert.in_clear(sequence));
                return bump(&self.counted(socket).refusal_alerts);
            }
            First::Hello(hello) => Some(Box::new(hello)),
            First::Datagram if socket.scheme == Scheme::Dtls => return bump(&self.counted(socket).ignored),
            First::Datagram => None,
        };
        if hello.is_some() && shared.connection_ids.is_some() {
            // Whoever moved here may be another loop's, which ends that association, and gives the hello back.
            let here = shared.registry.find(local, peer);
            let number = here.and_then(|known| known.connection_id.first().copied());
            let origin = state.origins.remove(&(local, peer));
            if let Some(number) = number.or(origin).filter(|number| !self.is_own(*number))
                && self.send_to(number, local, peer, info, bytes)
            {
                return;
            }
        }
        let datagram = hello.is_none().then(|| state.own(payload));
        self.open(
            state,
            SharedPath { socket: Arc::clone(socket), peer, source: info },
            local,
            hello,
            datagram,
        );
    }

    /// Gives a record to the loop that its connection ID names, if that is another one.
    fn pass_on(
        &self,
        cid: &[u8],
        local: SocketAddr,
        peer: SocketAddr,
        info: PacketInfo,
        payload: &[u8],
    ) -> bool {
        let Some(number) = cid.first().copied().filter(|number| !self.is_own(*number)) else { return false };
        self.send_to(number, local, peer, info, payload)
    }

    /// Whether peers whose connection IDs begin with this number are here: that of a socket, which may be the socket of a loop
    /// that is no more.
    fn is_own(&self, number: u8) -> bool {
        usize::from(number) % self.common.letters.len() == usize::from(self.number)
    }

    /// Gives a datagram to the other loop that has the socket with this number; `false`: there is none.
    fn send_to(
        &self,
        number: u8,
        local: SocketAddr,
        peer: SocketAddr,
        info: PacketInfo,
        payload: &[u8],
    ) -> bool {
        let letters = &self.common.letters;
        let Some(other) = letters.get(usize::from(number) % letters.len()) else { return false };
        let stray = Stray { local, peer, interface: info.interface, payload: payload.into() };
        if !other.send(Letter::Stray(stray, Some(self.number))) {
            bump(&self.context.shared.by_listener.of_udp(local).strays_lost);
        }
        true
    }

    /// A new peer.
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
        let association = match shared.admit(incoming, random, Place::SharedSocket(socket.index)) {
            Ok(association) => association,
            Err(refusal) => {
                if let (Some(hello), Some(alert)) = (hello, alert_for(refusal)) {
                    shared.cookies.refuse(local, *peer, &hello.random(), alert, Instant::now());
                    let _ = socket.send(*peer, *source, &alert.in_clear(hello.record_sequence()));
                    bump(&self.counted(socket).refusal_alerts);
                }
                return;
            }
        };
        if !shared.registry.insert(&association) {
            // Another listener has this pair of addresses: cannot be.
            shared.registry.cancel(&association);
            return bump(&association.counters.ignored);
        }
        let token = state.slots.insert(&association, true, |token| PeerBell::new(&self.letters, token));
        let task = hello.map_or(worker::Task::Plain, worker::Task::Dtls);
        let (link, home) = (Link::Shared(path), Arc::clone(&self.context.home));
        let job = Job { association, link, task, home, shared: Arc::clone(shared) };
        if self.context.events.is_none() {
            return self.give_thread(job, datagram);
        }
        if let Some(slot) = state.slots.get(token) {
            slot.entry = Some(Box::new(Entry::new(job, Arc::clone(&slot.bell) as _)));
        }
        match datagram {
            Some(datagram) => drop(state.slots.queue_datagram(token, datagram, None)),
            None => state.slots.queue(token),
        }
    }

    /// Has a thread of its own serve a peer that shares the socket.
    fn give_thread(&self, job: Job, datagram: Option<Vec<u8>>) {
        let shared = &self.context.shared;
        let association = Arc::clone(&job.association);
        if let Some(datagram) = datagram {
            association.attention.deliver(Parcel::datagram(&datagram), false);
        }
        if let Err((job, error)) = self.common.workers.submit(job) {
            bump(&association.counters.out_of_threads);
            log_limited!(warn, %error, "no thread for a new peer");
            job.abandon(EndReason::NoThread);
            shared.refuse(Refusal::NoThread, association.scheme, association.local, association.peer);
        }
    }

    /// Gives a datagram to the peer's own thread, if it has one. `true`: the association is over.
    fn is_gone(
        &self,
        state: &mut State,
        token: Token,
        payload: Payload<'_>,
        from: Option<SocketAddr>,
    ) -> bool {
        if self.context.events.is_some() {
            return false;
        }
        let bytes = payload.bytes(&state.batch);
        let Some(slot) = state.slots.get(token) else { return true };
        let parcel = Parcel { from, ..Parcel::datagram(bytes) };
        match slot.association.attention.deliver(parcel, true) {
            Delivery::Queued => false,
            Delivery::Full => {
                bump(&slot.association.counters.datagrams_dropped);
                false
            }
            Delivery::Gone => {
                state.slots.remove(token);
                true
            }
        }
    }

    /// A new peer with a socket of its own.
    fn take_in(&self, state: &mut State, job: Job) {
        let association = Arc::clone(&job.association);
        let token = state.slots.insert(&association, false, |token| PeerBell::new(&self.letters, token));
        let Some(slot) = state.slots.get(token) else { return };
        let entry = Box::new(Entry::new(job, Arc::clone(&slot.bell) as _));
        if let Some(socket) = entry.socket() {
            let number = PEER | token.as_u64();
            let added = self.epoll.add(socket, EITHER_EDGE, number);
            // The socket of an SCTP peer that began anew may be known from before.
            if let Err(error) = added.or_else(|_| self.epoll.modify(socket, EITHER_EDGE, number)) {
                log_limited!(error, %error, "a loop cannot watch a socket");
            }
        }
        slot.entry = Some(entry);
        state.slots.queue(token);
    }
}

impl Run for Task {
    fn run(self) {
        match self {
            Self::Run(on) => on.run(),
            Self::TakeOver(on, turn) => on.take_over(turn),
            Self::Turn(on, token, mut entry, datagram) => {
                let began = Instant::now();
                let outcome = entry.drive(&on.context, &mut Memory::default(), datagram);
                entry.distrust = match began.elapsed() < QUICK {
                    true => entry.distrust.saturating_sub(1),
                    false => QUICK_TURNS,
                };
                on.give_back(token, entry, outcome);
            }
        }
    }
}

/// A datagram that nobody has yet.
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

impl State {
    /// Takes a datagram out of the batch, or copies it where there is no memory to exchange.
    fn own(&mut self, payload: Payload<'_>) -> Vec<u8> {
        match payload {
            Payload::Received(index) => match self.free.pop() {
                Some(memory) => self.batch.swap(index, memory),
                None => self.batch.get(index).payload.to_vec(),
            },
            Payload::Copied(bytes) => bytes.to_vec(),
        }
    }

    /// Keeps memory for another datagram.
    fn recycle(&mut self, memory: Vec<u8>) {
        if memory.capacity() >= DATAGRAM_MAX && self.free.len() < MAX_FREE {
            self.free.push(memory);
        }
    }

    /// A turn is over.
    fn put_back(&mut self, token: Token, entry: Box<Entry>, outcome: Outcome) {
        if let Outcome::Over = outcome {
            self.slots.remove(token);
            return;
        }
        // Whoever rang during the turn may have come too late for it, and the letter is on its way.
        self.slots.put_back(token, entry);
        match outcome {
            Outcome::Wait(at) => self.slots.set_timer(token, at),
            Outcome::More => self.slots.queue(token),
            Outcome::Over => {}
        }
    }

    /// Sends what is queued. Sockets whose send buffers are full are watched until there is room.
    fn flush(&mut self, epoll: &Epoll) {
        let mut full = false;
        for (index, socket) in self.sockets.iter().enumerate() {
            let has_room = socket.end_turn();
            if !has_room || self.full {
                let events = match socket.is_given() {
                    false if has_room => READABLE,
                    false => READABLE_OR_WRITABLE,
                    true if has_room => 0,
                    true => WRITABLE,
                };
                let _ = epoll.modify(socket.socket.as_fd(), events, SOCKETS + index as u64);
                if has_room {
                    socket.wake_waiting();
                }
            }
            full |= !has_room;
        }
        self.full = full;
    }
}

//! A loop: it reads its sockets, finds out whose each datagram is, and gives its peers their turns, one after the other.
//!
//! The thread of a loop holds the lock of its [`State`], but not during a turn. So when a turn takes long, another thread can
//! go on with the loop ([`take_over`](Loop::take_over)), and the first one, when it is done, gives its peer back by a letter.

mod give;
mod routing;
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
use crate::error::EndReason;
use crate::net::shared::SharedSocket;
use crate::observe::{Counters, Pulse, SAMPLED, bump, log_limited};
use crate::serve::worker::Job;
use crate::serve::worker::pool::{Pool, Run};
use crate::sys::epoll::{EITHER_EDGE, Epoll, READABLE, READABLE_OR_WRITABLE, WRITABLE};
use crate::sys::eventfd::EventFd;
use crate::sys::message::{BATCH, Batch};
use crate::sys::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sys::sync::channel::Sender;
use crate::sys::sync::{Mutex, MutexGuard};

/// Turns before the sockets are looked at again.
const MAX_TURNS: usize = 64;
/// Pieces of memory for datagrams that are kept, and their length: nearly all datagrams fit.
const MAX_FREE: usize = 2 * BATCH;
const FREE_BYTES: usize = 2048;
/// How quick a turn is of a peer that held its loop up before, for the peer to be trusted again, and how often in a row.
const QUICK: Duration = Duration::from_millis(1);
const QUICK_TURNS: u8 = 8;
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

    /// What is counted of the listener that has this socket.
    fn counted(&self, socket: &SharedSocket) -> &Counters {
        self.context.shared.counted(socket.scheme, socket.address)
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

impl State {
    /// Keeps memory for another datagram.
    fn recycle(&mut self, mut memory: Vec<u8>) {
        if memory.capacity() == FREE_BYTES && self.free.len() < MAX_FREE {
            memory.clear();
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

//! An event loop: it reads its sockets, finds the peer of each datagram, and drives its peers one after the other, in
//! turns.
//!
//! The thread of a loop holds the lock of its [`State`], but not during a turn. So if a turn takes long, another thread
//! can continue the loop ([`take_over`](Loop::take_over)). When the first thread has finished the turn, it gives its
//! peer back by a message.

mod handover;
mod pausing;
mod routing;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use self::handover::{SocketId, Staying};
use super::entry::{Context, Datagram, Entry, Memory, Outcome};
use super::mailbox::{LoopMailbox, LoopMessage, PeerWaker};
use super::monitor_waker::MonitorWaker;
use super::pause::Pause;
use super::slots::Slots;
use super::token::Token;
use crate::error::EndReason;
use crate::net::attention::Room;
use crate::net::shared::SharedSocket;
use crate::observe::{BusySince, Counters, SAMPLED, bump, log_limited};
use crate::serve::worker::Job;
use crate::serve::worker::pool::{Pool, Run};
use crate::sys::batch::{BATCH, Batch};
use crate::sys::epoll::{EITHER_EDGE, Epoll, READABLE, READABLE_OR_WRITABLE, WRITABLE};
use crate::sys::eventfd::EventFd;
use crate::sys::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use crate::sys::sync::channel::Sender;
use crate::sys::sync::{Mutex, MutexGuard};
use crate::sys::thread;

/// The number of turns before the loop looks at its sockets again.
const MAX_TURNS: usize = 64;
/// The number of buffers for short datagrams that are kept, of those for longer ones, and their sizes in bytes. Nearly
/// all datagrams fit into one of them. Short ones have smaller buffers because fewer of these fill the caches.
const MAX_FREE: [usize; 2] = [16 * BATCH, 2 * BATCH];
const FREE_BYTES: [usize; 2] = [256, 2048];
/// A peer whose callback blocked its loop has its turns on spare threads. It returns to the loop after `SPARE_TURNS`
/// turns in a row that were shorter than `QUICK`.
const QUICK: Duration = Duration::from_millis(1);
const SPARE_TURNS: u8 = 8;
/// The time that a loop whose epoll fails waits before it tries again.
const RETRY: Duration = Duration::from_millis(50);

/// The work of a thread of the loops.
pub(super) enum Task {
    /// Runs a loop.
    Run(Arc<Loop>),
    /// Continues a loop that is held up in this turn.
    TakeOver(Arc<Loop>, u64),
    /// Carries out a peer's turn in place of the loop.
    Turn(Arc<Loop>, Token, Box<Entry>, Option<Datagram>),
}

/// The state that all loops of a server share.
pub(super) struct Common {
    /// The message queues of the loops, by their numbers.
    pub(super) mailboxes: Vec<Arc<LoopMailbox>>,
    /// The threads of the loops, and those for callbacks that hold a loop up.
    pub(super) spares: Pool<Task>,
    /// The threads of peers, if each has its own.
    pub(super) workers: Arc<Pool<Job>>,
    pub(super) monitor: MonitorWaker,
}

/// A loop, as all threads see it.
pub(super) struct Loop {
    /// The first byte of the connection IDs of its peers.
    number: u8,
    pub(super) context: Context,
    common: Arc<Common>,
    mailbox: Arc<LoopMailbox>,
    /// Becomes readable when a send buffer is full.
    full: Arc<EventFd>,
    epoll: Epoll,
    state: Mutex<State>,
    /// Grows at the beginning and at the end of each turn, and is odd during a turn. A thread that ends a turn and
    /// finds another number has lost the loop.
    turn: AtomicU64,
    /// The number of the thread that runs the loop.
    thread: AtomicI32,
    /// The room in the inboxes of peers that have threads.
    inboxes: Arc<Room>,
    pause: Pause,
    stop: AtomicBool,
    /// Tells how long the present round has lasted.
    pub(super) busy_since: BusySince,
}

/// A peer whose turn is next, with its datagram if there is one, and the time since which it waits.
type Next = (Token, Box<Entry>, Option<Datagram>, Instant);

/// The state that only the thread that runs the loop uses.
struct State {
    sockets: Vec<Arc<SharedSocket>>,
    slots: Slots,
    batch: Box<Batch>,
    /// Free buffers for datagrams, of each size.
    free: [Vec<Vec<u8>>; 2],
    events: Vec<u64>,
    messages: Vec<LoopMessage>,
    /// The number of turns since the loop looked at its sockets.
    turns: usize,
    /// Whether the loop is paused.
    parked: bool,
    /// Whether the send buffer of some socket was full, so that the loop waits for room.
    full: bool,
    /// For pairs of addresses whose datagrams the kernel delivers to another loop, although this loop has the peer: the
    /// number of that loop.
    origins: HashMap<(SocketAddr, SocketAddr), u8>,
    /// Dropped when the loop ends, which the thread that shuts the server down waits for.
    running: Option<Arc<Sender<()>>>,
}

/// Tokens of epoll: the message queue, the notification of a full send buffer, and from `SOCKETS` on the sockets.
const MAILBOX: u64 = 0;
const FULL: u64 = 1;
const SOCKETS: u64 = 2;
/// The bit that marks the socket of a peer; the lower bits are the peer's token.
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
        let mailbox = Arc::clone(&common.mailboxes[usize::from(number)]);
        let epoll = Epoll::new()?;
        epoll.add(mailbox.wakeup.as_fd(), READABLE, MAILBOX)?;
        epoll.add(full.as_fd(), READABLE, FULL)?;
        for (index, socket) in sockets.iter().enumerate() {
            epoll.add(socket.socket.as_fd(), READABLE, SOCKETS + index as u64)?;
        }
        let state = State {
            sockets,
            slots: Slots::new(),
            batch: Box::new(Batch::new()),
            free: [const { Vec::new() }; 2],
            events: Vec::new(),
            messages: Vec::new(),
            turns: 0,
            parked: false,
            full: false,
            origins: HashMap::new(),
            running: Some(running),
        };
        let (turn, pause, stop) = (AtomicU64::new(0), Pause::new(paused), AtomicBool::new(false));
        let (state, busy_since, thread) = (Mutex::new(state), BusySince::default(), AtomicI32::new(0));
        let inboxes = Arc::default();
        Ok(Self {
            number,
            context,
            common,
            mailbox,
            full,
            epoll,
            state,
            turn,
            thread,
            inboxes,
            pause,
            stop,
            busy_since,
        })
    }

    /// Returns the number of the present turn.
    pub(super) fn turn(&self) -> u64 {
        self.turn.load(Ordering::SeqCst)
    }

    /// Returns the number of the thread that runs the loop.
    pub(super) fn thread(&self) -> i32 {
        self.thread.load(Ordering::Relaxed)
    }

    /// Tells the loop to end.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.mailbox.wake();
        self.pause.notify();
    }

    /// Gives the loop to a spare thread, which continues it if it is still in this turn. Returns `false` if there is no
    /// spare thread.
    pub(super) fn hand_over(self: &Arc<Self>, turn: u64) -> bool {
        self.common.spares.submit(Task::TakeOver(Arc::clone(self), turn)).is_ok()
    }

    /// Continues the loop, unless that turn has ended.
    fn take_over(self: Arc<Self>, turn: u64) {
        if self.turn.compare_exchange(turn, turn + 1, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            bump(&self.context.shared.counters.loops_taken_over);
            self.run();
        }
    }

    /// Runs the loop until it ends or another thread takes it over.
    fn run(self: Arc<Self>) {
        self.thread.store(thread::number(), Ordering::Relaxed);
        let mut memory = Memory::default();
        let mut state = self.state.lock();
        state.flush(&self.epoll);
        while !self.stop.load(Ordering::Acquire) {
            let next = match self.pause.is_wanted() {
                false => self.next(&mut state),
                true => self.next_before_pause(&mut state),
            };
            let Some((token, entry, datagram, since)) = next else { continue };
            let (entry, datagram) = match entry.spare_turns {
                0 => (entry, datagram),
                _ => match self.common.spares.submit(Task::Turn(Arc::clone(&self), token, entry, datagram)) {
                    Ok(()) => continue,
                    Err((Task::Turn(_, _, back, datagram), _)) => (back, datagram),
                    Err(_) => continue,
                },
            };
            let mut entry = entry;
            let turn = self.turn.fetch_add(1, Ordering::SeqCst) + 1;
            self.common.monitor.wake();
            drop(state);
            // Each turn adds two to the counter.
            if (turn / 2).is_multiple_of(SAMPLED) {
                self.context.shared.counters.loop_queue.observe(since.elapsed());
            }
            let outcome = entry.drive(&self.context, &mut memory, datagram);
            if self.turn.compare_exchange(turn, turn + 1, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                entry.spare_turns = SPARE_TURNS;
                return self.give_back(token, entry, outcome);
            }
            state = self.state.lock();
            state.recycle(std::mem::take(&mut memory.datagram));
            state.put_back(token, entry, outcome);
        }
        self.end(&mut state);
    }

    /// Gives a peer back to the loop after a turn on another thread. If the loop has ended, so does the peer.
    fn give_back(&self, token: Token, mut entry: Box<Entry>, outcome: Outcome) {
        if self.stop.load(Ordering::Acquire) && !matches!(outcome, Outcome::Over) {
            // The server has signalled the end, so this turn calls the peer's callbacks for the last time.
            entry.drive(&self.context, &mut Memory::default(), None);
        }
        self.mailbox.send(LoopMessage::Returned(token, entry, outcome));
    }

    /// Ends the loop, and with it the remaining peers.
    fn end(&self, state: &mut State) {
        for message in self.mailbox.close() {
            match message {
                LoopMessage::Returned(_, mut entry, _) => entry.abandon(),
                LoopMessage::New(job) => job.abandon(EndReason::Shutdown),
                _ => {}
            }
        }
        for token in state.slots.tokens() {
            if let Some(mut entry) = state.slots.remove(token).and_then(|slot| slot.entry) {
                entry.abandon();
            }
        }
        state.flush(&self.epoll);
        self.busy_since.begin_wait();
        state.sockets.drain(..).for_each(|socket| socket.stop_listening());
        state.running = None;
    }

    /// Takes out a peer whose turn waits. If there is none, pauses the loop and returns `None`.
    fn next_before_pause(&self, state: &mut MutexGuard<'_, State>) -> Option<Next> {
        loop {
            self.handle_messages(state);
            let may_finish_turns = self.may_finish_turns();
            let next = may_finish_turns.then(|| state.slots.next()).flatten();
            if next.is_none()
                && may_finish_turns
                && self.context.events.is_some()
                && state.slots.has_running_elsewhere()
            {
                // Another thread carries out a peer's turn, and gives the peer back.
                self.await_message();
                continue;
            }
            if next.is_none() {
                self.park(state);
            }
            return next;
        }
    }

    /// Waits for a peer's turn and takes the peer out. Returns `None` if the caller must check whether the loop has to
    /// end.
    fn next(&self, state: &mut State) -> Option<Next> {
        if state.turns < MAX_TURNS && state.slots.has_ready() {
            state.turns += 1;
            return state.slots.next();
        }
        state.flush(&self.epoll);
        let timeout = match state.slots.has_queued() {
            true => Some(Duration::ZERO),
            false => state.slots.next_timer().map(|at| at.saturating_duration_since(Instant::now())),
        };
        state.events.clear();
        self.busy_since.begin_wait();
        if let Err(error) = self.epoll.wait(&mut state.events, timeout) {
            log_limited!(error, %error, "an event loop cannot wait for its sockets");
            std::thread::park_timeout(RETRY);
        }
        let now = Instant::now();
        self.busy_since.begin(now);
        state.slots.begin_round(now);
        // This call returns the first turn of the round.
        state.turns = 1;
        state.sockets.iter().for_each(|socket| socket.begin_turn());
        let events = std::mem::take(&mut state.events);
        for &event in &events {
            match event {
                MAILBOX => self.mailbox.wakeup.reset(),
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
        self.handle_messages(state);
        state.slots.fire(now);
        state.slots.next()
    }

    fn handle_messages(&self, state: &mut State) {
        let mut messages = std::mem::take(&mut state.messages);
        self.mailbox.take(&mut messages);
        for message in messages.drain(..) {
            match message {
                LoopMessage::Wake(token) => {
                    if let Some(slot) = state.slots.get(token) {
                        slot.waker.rearm();
                        state.slots.queue(token);
                    }
                }
                LoopMessage::Returned(token, entry, outcome) => state.put_back(token, entry, outcome),
                LoopMessage::Left(token) => drop(state.slots.remove(token)),
                LoopMessage::Moved(token, peer) => state.slots.change_peer_address(token, peer),
                LoopMessage::Stray(stray, origin) => self.stray(state, stray, origin, None),
                LoopMessage::Relayed(stray, index) => self.handle_relayed(state, stray, index),
                LoopMessage::New(job) => self.add_peer(state, *job),
                // The message is queued again behind the turns of this round, and again if these queue others.
                LoopMessage::Rounds(left @ 1.., done) => {
                    let left = if state.slots.has_queued() { left - 1 } else { 0 };
                    self.mailbox.send(LoopMessage::Rounds(left, done));
                }
                LoopMessage::Rounds(0, done) => drop(done),
            }
        }
        if messages.capacity() < 4096 {
            state.messages = messages;
        }
    }

    /// Returns the counters of the listener that has this socket.
    fn counted(&self, socket: &SharedSocket) -> &Counters {
        self.context.shared.counted(socket.scheme, socket.address)
    }

    /// Adds a new peer that has its own socket.
    fn add_peer(&self, state: &mut State, job: Job) {
        let association = Arc::clone(&job.association);
        let token = state.slots.insert(&association, false, |token| PeerWaker::new(&self.mailbox, token));
        let Some(slot) = state.slots.get(token) else { return };
        let entry = Box::new(Entry::new(job, Arc::clone(&slot.waker) as _));
        if let Some(socket) = entry.socket() {
            let number = PEER | token.as_u64();
            let added = self.epoll.add(socket, EITHER_EDGE, number);
            // epoll may still have the socket of an SCTP peer that has restarted.
            if let Err(error) = added.or_else(|_| self.epoll.modify(socket, EITHER_EDGE, number)) {
                log_limited!(error, %error, "an event loop cannot watch the socket of a peer");
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
                entry.spare_turns = match began.elapsed() < QUICK {
                    true => entry.spare_turns.saturating_sub(1),
                    false => SPARE_TURNS,
                };
                on.give_back(token, entry, outcome);
            }
        }
    }
}

impl State {
    /// Keeps a buffer for another datagram.
    fn recycle(&mut self, mut memory: Vec<u8>) {
        let Some(size) = FREE_BYTES.iter().position(|bytes| memory.capacity() == *bytes) else { return };
        if self.free[size].len() < MAX_FREE[size] {
            memory.clear();
            self.free[size].push(memory);
        }
    }

    /// Puts a peer back after its turn.
    fn put_back(&mut self, token: Token, entry: Box<Entry>, outcome: Outcome) {
        if let Outcome::Over = outcome {
            self.slots.remove(token);
            return;
        }
        // A wake-up that came too late for this turn has sent a message, which leads to another turn.
        self.slots.put_back(token, entry);
        match outcome {
            Outcome::Wait(at) => self.slots.set_timer(token, at),
            Outcome::More => self.slots.queue(token),
            Outcome::Over => {}
        }
    }

    /// Sends the queued datagrams. Watches sockets whose send buffers are full until there is room.
    fn flush(&mut self, epoll: &Epoll) {
        let mut full = false;
        for (index, socket) in self.sockets.iter().enumerate() {
            let has_room = socket.end_turn();
            if !has_room || self.full {
                let events = match socket.is_handed_over() {
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

//! The thread that strangers meet: it reads the listeners, decides, and never blocks on anything but
//! its own epoll.

pub mod admit;
pub mod child;
pub mod cookie;
mod guard;
pub mod hello;
mod listener;
mod udp;

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use self::admit::Refusal;
use self::guard::Guard;
pub(crate) use self::listener::UdpListener;
use self::udp::Udp;
use crate::association::signal;
use crate::error::EndReason;
use crate::observe::{bump, log_limited};
use crate::server::Shared;
use crate::sys::epoll::{Epoll, READABLE};
use crate::sys::eventfd::EventFd;
use crate::transport::udp::Stray;
use crate::worker::Job;
use crate::worker::pool::Pool;

/// Token of the wake-up; listeners count from 0, guarded children have [`guard::TOKENS`].
const WAKE: u64 = u64::MAX;

/// Datagrams that wait for the dispatcher at most, each with its payload.
const MAX_STRAYS: usize = 4096;

/// Peers that wait for a thread at most, and how often one is tried for.
const MAX_WAITING: usize = 256;
const THREAD_RETRY: Duration = Duration::from_millis(50);

/// How others reach the dispatcher.
pub(crate) struct Mailbox {
    strays: Sender<Stray>,
    wake: Arc<EventFd>,
    stop: AtomicBool,
}

/// The dispatcher's end of its mailbox.
pub(crate) struct Inlet {
    strays: Receiver<Stray>,
    wake: Arc<EventFd>,
}

/// A mailbox and its inlet.
pub(crate) fn mailbox() -> io::Result<(Mailbox, Inlet)> {
    let (sender, receiver) = bounded(MAX_STRAYS);
    let wake = Arc::new(EventFd::new()?);
    let mailbox = Mailbox { strays: sender, wake: Arc::clone(&wake), stop: AtomicBool::new(false) };
    Ok((mailbox, Inlet { strays: receiver, wake }))
}

impl Mailbox {
    /// Gives a datagram to the dispatcher; `false` where its mailbox is full.
    pub(crate) fn send(&self, stray: Stray) -> bool {
        match self.strays.try_send(stray) {
            Ok(()) => {
                self.wake.notify();
                true
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    /// Ends the dispatcher.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake.notify();
    }
}

/// The dispatcher thread's state.
pub(crate) struct Dispatcher {
    epoll: Epoll,
    inlet: Inlet,
    udp: Udp,
    hands: Hands,
}

/// What every kind of listener needs of the dispatcher: workers for jobs, and the watch over last
/// flights.
pub(crate) struct Hands {
    pub(crate) shared: Arc<Shared>,
    pool: Pool,
    guard: Guard,
    /// Jobs that no thread could be started for, oldest first.
    waiting: VecDeque<Job>,
}

impl Dispatcher {
    /// With its listeners, which are bound.
    pub(crate) fn new(
        shared: Arc<Shared>,
        inlet: Inlet,
        pool: Pool,
        listeners: Vec<UdpListener>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add(inlet.wake.as_fd(), READABLE, WAKE)?;
        let udp = Udp::new(&shared, &epoll, listeners)?;
        let hands = Hands { shared, pool, guard: Guard::default(), waiting: VecDeque::new() };
        Ok(Self { epoll, inlet, udp, hands })
    }

    /// Runs until the mailbox says stop. This is the dispatcher thread's whole life.
    pub(crate) fn run(mut self) {
        let mut tokens = Vec::new();
        while !self.hands.shared.mailbox.stop.load(Ordering::Acquire) {
            tokens.clear();
            if let Err(error) = self.epoll.wait(&mut tokens, self.timeout()) {
                log_limited!(error, %error, "the dispatcher cannot wait");
                std::thread::park_timeout(THREAD_RETRY);
            }
            for &token in &tokens {
                match token {
                    WAKE => self.inlet.wake.reset(),
                    token if guard::is_guarded(token) => self.hands.guard.ready(token, &self.hands.shared),
                    token => self.udp.ready(token as usize, &self.epoll, &mut self.hands),
                }
            }
            for _ in 0..MAX_STRAYS {
                let Ok(stray) = self.inlet.strays.try_recv() else { break };
                self.udp.stray(stray, &self.epoll, &mut self.hands);
            }
            self.hands.retry_waiting();
            self.hands.guard.tick(&self.epoll, Instant::now());
        }
        self.hands.shared.counters.listeners.store(0, Ordering::Relaxed);
    }

    fn timeout(&self) -> Option<Duration> {
        let guard = self.hands.guard.next_deadline();
        let guard = guard.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let waiting = (!self.hands.waiting.is_empty()).then_some(THREAD_RETRY);
        [guard, waiting].into_iter().flatten().min()
    }
}

impl Hands {
    /// Has a job served, now or as soon as a thread can be started for it.
    pub(crate) fn hand_over(&mut self, job: Job) {
        self.guard.watch(&job.association);
        match self.pool.submit(job) {
            Ok(()) => bump(&self.shared.counters.opened),
            Err((job, error)) => {
                bump(&self.shared.counters.out_of_threads);
                log_limited!(warn, %error, "no thread for a new peer; trying again");
                if self.waiting.len() < MAX_WAITING {
                    self.waiting.push_back(job);
                } else {
                    self.refuse(Refusal::NoThread);
                    job.abandon(EndReason::NoThread);
                }
            }
        }
    }

    fn retry_waiting(&mut self) {
        while let Some(job) = self.waiting.pop_front() {
            let signals = job.association.signals();
            if signals & (signal::DRAIN | signal::STOP) != 0 {
                job.abandon(EndReason::Shutdown);
                continue;
            }
            if signals & signal::EVICT != 0 {
                job.abandon(EndReason::Evicted);
                continue;
            }
            // Nobody waits longer for a thread than for a handshake: its peer has given up.
            if job.association.opened.elapsed() > self.shared.timeouts.handshake {
                self.refuse(Refusal::NoThread);
                job.abandon(EndReason::NoThread);
                continue;
            }
            match self.pool.submit(job) {
                Ok(()) => {
                    bump(&self.shared.counters.opened);
                    bump(&self.shared.counters.waited_for_thread);
                }
                Err((job, _)) => {
                    self.waiting.push_front(job);
                    return;
                }
            }
        }
    }

    /// Counts a refusal and says so, at a limited rate.
    pub(crate) fn refuse(&self, refusal: Refusal) {
        bump(&self.shared.counters.refused[refusal.index()]);
        log_limited!(info, %refusal, "refused a new peer");
    }
}

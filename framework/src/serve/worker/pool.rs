//! Threads that do one thing at a time, such as to serve an association.
//!
//! Jobs are handed over by rendezvous: a job goes to a thread that is waiting at that moment, or a
//! new thread starts with it in hand. A count of idle threads would queue a new peer behind a
//! long-lived one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::observe::ServerCounters;
use crate::sys::footprint;
use crate::sys::sync::atomic::{AtomicU64, Ordering};
use crate::sys::sync::channel::{Receiver, Sender, TrySendError, bounded};
use crate::sys::sync::spawn;
use crate::sys::thread::interrupt_nobody;

/// What a thread of a pool does.
pub(crate) trait Run: Send + 'static {
    /// Returns when the thread can do something else.
    fn run(self);
}

/// What the threads of a pool are like.
#[derive(Clone)]
pub(crate) struct Threads {
    /// What their names begin with.
    pub(crate) name: &'static str,
    /// Counts them while they live.
    pub(crate) gauge: fn(&ServerCounters) -> &AtomicU64,
    pub(crate) stack_size: usize,
    /// Whether they run under SCHED_BATCH.
    pub(crate) batch: bool,
    /// How long one waits for something to do before it ends.
    pub(crate) idle: Duration,
    /// How many there are at most.
    pub(crate) most: u64,
}

/// Hands jobs to idle threads, or starts new ones.
pub(crate) struct Pool<J> {
    jobs: Sender<J>,
    idle: Receiver<J>,
    counters: Arc<ServerCounters>,
    threads: Threads,
    started: AtomicU64,
}

impl<J: Run> Pool<J> {
    /// An empty pool.
    pub(crate) fn new(counters: Arc<ServerCounters>, threads: Threads) -> Self {
        let (jobs, idle) = bounded(0);
        Self { jobs, idle, counters, threads, started: AtomicU64::new(0) }
    }

    /// Has the job done; never blocks. Where no thread is idle and none can be started, the job
    /// comes back with the reason.
    pub(crate) fn submit(&self, job: J) -> Result<(), (J, io::Error)> {
        match self.jobs.try_send(job) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => self.spawn(job),
        }
    }

    fn spawn(&self, job: J) -> Result<(), (J, io::Error)> {
        let Threads { name, gauge, stack_size, batch, idle: patience, most } = self.threads;
        // A thread past the maps that the kernel grants may start and then abort the process.
        if gauge(&self.counters).load(Ordering::Relaxed) >= most {
            return Err((job, io::Error::from_raw_os_error(libc::EAGAIN)));
        }
        let name = format!("{name}{}", self.started.fetch_add(1, Ordering::Relaxed));
        let (hand, first) = bounded::<J>(1);
        let idle = self.idle.clone();
        let alive = Alive::new(&self.counters, gauge);
        let run = move || {
            let _alive = alive;
            if batch {
                interrupt_nobody();
            }
            let mut next = first.recv().ok();
            // Its memory would be held for as long as the thread lives.
            drop(first);
            while let Some(job) = next {
                job.run();
                next = idle.recv_timeout(patience).ok();
            }
        };
        match spawn(&name, stack_size, Box::new(run)) {
            Ok(()) => hand.try_send(job).map_err(|error| (error.into_inner(), io::ErrorKind::Other.into())),
            Err(error) => Err((job, error)),
        }
    }
}

/// Counts a thread while it lives.
struct Alive(Arc<ServerCounters>, fn(&ServerCounters) -> &AtomicU64);

impl Alive {
    fn new(counters: &Arc<ServerCounters>, gauge: fn(&ServerCounters) -> &AtomicU64) -> Self {
        gauge(counters).fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(counters), gauge)
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        let Self(counters, gauge) = self;
        if gauge(counters).fetch_sub(1, Ordering::Relaxed) == 1 {
            // A crowd was here and is gone.
            footprint::trim_heap();
        }
    }
}

//! Thread pools, whose threads do one job at a time, such as serving an association.
//!
//! A job is handed over by rendezvous: it goes to a thread that is waiting at that moment, or a new thread starts with
//! it. A count of idle threads would not do, because it could queue a new peer behind a long-lived one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::observe::ServerCounters;
use crate::sys::footprint;
use crate::sys::sync::atomic::{AtomicU64, Ordering};
use crate::sys::sync::channel::{Receiver, Sender, TrySendError, bounded};
use crate::sys::sync::spawn;
use crate::sys::thread::use_batch_scheduling;

/// A job for a thread of a pool.
pub(crate) trait Run: Send + 'static {
    /// Does the job. The thread is free for another job when this returns.
    fn run(self);
}

/// The properties of a pool's threads.
#[derive(Clone)]
pub(crate) struct Threads {
    /// The prefix of their names.
    pub(crate) name: &'static str,
    /// The gauge that counts running threads.
    pub(crate) gauge: fn(&ServerCounters) -> &AtomicU64,
    pub(crate) stack_size: usize,
    /// Whether they run under SCHED_BATCH.
    pub(crate) batch: bool,
    /// How long an idle thread waits for a job before it ends.
    pub(crate) idle: Duration,
    /// The most threads.
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
    /// Makes a pool without threads.
    pub(crate) fn new(counters: Arc<ServerCounters>, threads: Threads) -> Self {
        let (jobs, idle) = bounded(0);
        Self { jobs, idle, counters, threads, started: AtomicU64::new(0) }
    }

    /// Hands the job to a thread; never blocks. If no thread is idle and none can be started, returns the job with the
    /// reason.
    pub(crate) fn submit(&self, job: J) -> Result<(), (J, io::Error)> {
        match self.jobs.try_send(job) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => self.spawn(job),
        }
    }

    fn spawn(&self, job: J) -> Result<(), (J, io::Error)> {
        let Threads { name, gauge, stack_size, batch, idle: patience, most } = self.threads;
        // A thread beyond the kernel's limit on memory maps may start and then abort the process.
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
                use_batch_scheduling();
            }
            let mut next = first.recv().ok();
            // Dropped here, because its memory would otherwise be kept as long as the thread lives.
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

/// Counts a thread while it runs.
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
            // The last thread has ended, so the free pages of the heap are returned to the kernel.
            footprint::trim_heap();
        }
    }
}

//! Threads that serve one association at a time.
//!
//! Jobs are handed over by rendezvous: a job goes to a thread that is waiting at that moment, or a
//! new thread starts with it in hand. A count of idle threads would queue a new peer behind a
//! long-lived one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::Job;
use crate::observe::Counters;
use crate::sys::footprint;
use crate::sys::sync::atomic::{AtomicU64, Ordering};
use crate::sys::sync::channel::{Receiver, Sender, TrySendError, bounded};
use crate::sys::sync::spawn;
use crate::sys::thread::interrupt_nobody;

/// Hands jobs to idle workers, or starts new ones.
pub(crate) struct Pool {
    jobs: Sender<Job>,
    idle: Receiver<Job>,
    counters: Arc<Counters>,
    stack_size: usize,
    batch: bool,
    worker_idle: Duration,
    started: AtomicU64,
    max_threads: u64,
}

impl Pool {
    /// An empty pool that grows to `max_threads`.
    pub(crate) fn new(
        counters: Arc<Counters>,
        stack_size: usize,
        batch: bool,
        worker_idle: Duration,
        max_threads: u64,
    ) -> Self {
        let (jobs, idle) = bounded(0);
        Self { jobs, idle, counters, stack_size, batch, worker_idle, started: AtomicU64::new(0), max_threads }
    }

    /// Has the job served; never blocks. Where no thread is idle and none can be started, the job
    /// comes back with the reason.
    pub(crate) fn submit(&self, job: Job) -> Result<(), (Job, io::Error)> {
        match self.jobs.try_send(job) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => self.spawn(job),
        }
    }

    fn spawn(&self, job: Job) -> Result<(), (Job, io::Error)> {
        // A thread past the maps that the kernel grants may start and then abort the process.
        if self.counters.workers.load(Ordering::Relaxed) >= self.max_threads {
            return Err((job, io::Error::from_raw_os_error(libc::EAGAIN)));
        }
        let name = format!("peeloff-w{}", self.started.fetch_add(1, Ordering::Relaxed));
        let (hand, first) = bounded::<Job>(1);
        let (idle, batch, worker_idle) = (self.idle.clone(), self.batch, self.worker_idle);
        let alive = Alive::new(&self.counters);
        let run = move || {
            let _alive = alive;
            if batch {
                interrupt_nobody();
            }
            let mut next = first.recv().ok();
            while let Some(job) = next {
                job.run();
                next = idle.recv_timeout(worker_idle).ok();
            }
        };
        match spawn(&name, self.stack_size, Box::new(run)) {
            Ok(()) => hand.try_send(job).map_err(|error| (error.into_inner(), io::ErrorKind::Other.into())),
            Err(error) => Err((job, error)),
        }
    }
}

/// Counts a worker thread while it lives.
struct Alive(Arc<Counters>);

impl Alive {
    fn new(counters: &Arc<Counters>) -> Self {
        counters.workers.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(counters))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        if self.0.workers.fetch_sub(1, Ordering::Relaxed) == 1 {
            // A crowd was here and is gone.
            footprint::trim_heap();
        }
    }
}

//! What becomes of a new peer, whatever it came by: admission, a worker, or a refusal.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::guard::Guard;
use crate::address::Scheme;
use crate::admission::Refusal;
use crate::association::Association;
use crate::error::EndReason;
use crate::handler::Incoming;
use crate::net::attention::signal;
use crate::observe::{bump, log_limited};
use crate::serve::shared::Shared;
use crate::serve::worker::Job;
use crate::serve::worker::pool::Pool;
use crate::sys::epoll::Epoll;
use crate::sys::errno::is_memory;
use crate::sys::limits;

/// Peers that wait for a thread at most, and how often one is tried for.
const MAX_WAITING: usize = 256;
pub(super) const THREAD_RETRY: Duration = Duration::from_millis(50);

/// Descriptors that are left for handlers, logs and the end of associations.
pub(crate) const RESERVED_FDS: u64 = 64;

/// What every kind of listener needs of the dispatcher: workers for jobs, and the watch over last
/// flights.
pub(super) struct Hands {
    pub(super) shared: Arc<Shared>,
    pool: Pool,
    guard: Guard,
    /// Jobs that no thread could be started for, oldest first.
    waiting: VecDeque<Job>,
    fd_limit: u64,
}

impl Hands {
    pub(super) fn new(shared: Arc<Shared>, pool: Pool) -> io::Result<Self> {
        let fd_limit = limits::fd_limit()?;
        Ok(Self { shared, pool, guard: Guard::default(), waiting: VecDeque::new(), fd_limit })
    }

    /// Whether a descriptor leaves room for those that handlers, logs and the end of associations need.
    pub(super) fn has_headroom(&self, fd: BorrowedFd<'_>) -> bool {
        fd.as_raw_fd() as u64 + RESERVED_FDS <= self.fd_limit
    }

    /// Asks the limits, then the handler, about a new peer. Refusals are counted here; an association
    /// that was admitted is either inserted, or [cancelled](Self::cancel).
    pub(super) fn admit(
        &self,
        incoming: Incoming,
        hello_random: [u8; 32],
    ) -> Result<Arc<Association>, Refusal> {
        let (scheme, local, peer) = (incoming.scheme, incoming.local, incoming.peer);
        let registry = &self.shared.registry;
        let refuse = |refusal| self.shared.refuse(refusal, scheme, local, peer);
        registry.book(local, peer).inspect_err(|refusal| refuse(*refusal))?;
        if let Err(refusal) = self.shared.ask(&incoming) {
            registry.cancel(local, peer);
            refuse(refusal);
            return Err(refusal);
        }
        let association = self.association(scheme, local, peer).with_hello(hello_random);
        self.begin(association, scheme.is_secure())
    }

    /// As [`admit`](Self::admit), for a connection of a proxy that will say who is behind it: until then
    /// nobody is asked, and it counts against the limit of its listener alone.
    pub(super) fn admit_proxy(
        &self,
        scheme: Scheme,
        local: SocketAddr,
        proxy: SocketAddr,
        listener: usize,
    ) -> Result<Arc<Association>, Refusal> {
        let registry = &self.shared.registry;
        let refuse = |refusal: &Refusal| self.shared.refuse(*refusal, scheme, local, proxy);
        registry.book_proxy(local, proxy).inspect_err(refuse)?;
        let association = Arc::new(self.association(scheme, local, proxy).behind_proxy(listener));
        registry
            .await_header(&association)
            .inspect_err(refuse)
            .inspect_err(|_| registry.cancel(local, proxy))?;
        Ok(association)
    }

    fn association(&self, scheme: Scheme, local: SocketAddr, peer: SocketAddr) -> Association {
        let association = Association::new(scheme, local, peer).with_outbox(self.shared.outbox);
        match scheme == Scheme::Udp && self.shared.udp_proof {
            true => association.with_proof(),
            false => association,
        }
    }

    fn begin(&self, association: Association, handshake: bool) -> Result<Arc<Association>, Refusal> {
        let association = Arc::new(association);
        if handshake && let Err(refusal) = self.shared.registry.begin_handshake(&association) {
            self.shared.registry.cancel(association.local, association.peer);
            self.refuse(refusal, &association);
            return Err(refusal);
        }
        Ok(association)
    }

    /// Gives back the place of an association that was admitted and will not be inserted.
    pub(super) fn cancel(&self, association: &Association) {
        self.shared.registry.end_handshake(association);
        self.shared.registry.cancel(association.local, association.peer);
    }

    /// A watched socket is readable.
    pub(super) fn guarded(&mut self, token: u64) {
        self.guard.ready(token, &self.shared);
    }

    /// When [`tick`](Self::tick) has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let waiting = (!self.waiting.is_empty()).then(|| Instant::now() + THREAD_RETRY);
        [self.guard.next_deadline(), waiting].into_iter().flatten().min()
    }

    /// Does what time has come for.
    pub(super) fn tick(&mut self, epoll: &Epoll, now: Instant) {
        self.retry_waiting();
        self.guard.tick(epoll, now);
    }

    /// Has a job served, now or as soon as a thread can be started for it.
    pub(super) fn hand_over(&mut self, job: Job) {
        self.guard.watch(&job.association);
        match self.pool.submit(job) {
            Ok(()) => {}
            Err((job, error)) => {
                bump(&self.shared.counters.out_of_threads);
                log_limited!(warn, %error, "no thread for a new peer; trying again");
                if self.waiting.len() < MAX_WAITING {
                    self.waiting.push_back(job);
                } else {
                    // Counted last: whoever sees the refusal sees the peer gone.
                    let association = Arc::clone(&job.association);
                    job.abandon(EndReason::NoThread);
                    self.refuse(Refusal::NoThread, &association);
                }
            }
        }
    }

    fn retry_waiting(&mut self) {
        while let Some(job) = self.waiting.pop_front() {
            let signals = job.association.attention.signals();
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
                let association = Arc::clone(&job.association);
                job.abandon(EndReason::NoThread);
                self.refuse(Refusal::NoThread, &association);
                continue;
            }
            match self.pool.submit(job) {
                Ok(()) => bump(&self.shared.counters.waited_for_thread),
                Err((job, _)) => {
                    self.waiting.push_front(job);
                    return;
                }
            }
        }
    }

    /// Counts a refusal and logs it, at a limited rate.
    fn refuse(&self, refusal: Refusal, association: &Association) {
        self.shared.refuse(refusal, association.scheme, association.local, association.peer);
    }

    /// There is no socket for a peer: counts and logs the refusal, and says which one it is; `None` where it is none.
    pub(super) fn refuse_for(
        &self,
        error: &io::Error,
        scheme: Scheme,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> Option<Refusal> {
        let counters = &self.shared.counters;
        let refusal = match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => {
                bump(&counters.out_of_descriptors);
                Refusal::NoFileDescriptor
            }
            _ if is_memory(error) => {
                bump(&counters.out_of_memory);
                Refusal::NoBuffers
            }
            _ => {
                log_limited!(info, %peer, %error, "no socket for a peer");
                bump(&counters.ignored);
                return None;
            }
        };
        log_limited!(warn, %peer, %error, "no socket for a new peer");
        self.shared.refuse(refusal, scheme, local, peer);
        Some(refusal)
    }
}

//! Assigns new peers of every protocol to workers or loops, or refuses them.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::busy::Busy;
use crate::address::Scheme;
use crate::admission::Refusal;
use crate::association::Association;
use crate::error::EndReason;
use crate::net::attention::{InboxItem, signal};
use crate::net::udp::Stray;
use crate::new_socket::HookFailed;
use crate::observe::{bump, log_limited};
use crate::serve::loops::Loops;
use crate::serve::mailbox::DispatcherMessage;
use crate::serve::shared::Shared;
use crate::serve::worker::pool::Pool;
use crate::serve::worker::{Job, PeerSocket, Task};
use crate::sys::batch::BATCH;
use crate::sys::errno::is_memory;
use crate::sys::limits;
use crate::sys::message::{self, DATAGRAM_MAX};

/// The most peers that wait for a thread, and the time between two attempts to start one.
const MAX_WAITING: usize = 256;
pub(super) const THREAD_RETRY: Duration = Duration::from_millis(50);

/// The number of descriptors that are reserved for handlers, logs and ending associations.
pub(crate) const RESERVED_FDS: u64 = 64;

/// The parts of the dispatcher that every kind of listener needs: workers for jobs, and the watch over busy handlers.
pub(super) struct Assigner {
    pub(super) shared: Arc<Shared>,
    pool: Arc<Pool<Job>>,
    /// The event loops, if the server has any.
    loops: Option<Arc<Loops>>,
    busy: Busy,
    /// Jobs for which no thread could be started, oldest first.
    waiting: VecDeque<Job>,
    /// When to read the sockets of waiting jobs again.
    next_read: Instant,
    fd_limit: u64,
}

impl Assigner {
    pub(super) fn new(
        shared: Arc<Shared>,
        pool: Arc<Pool<Job>>,
        loops: Option<Arc<Loops>>,
    ) -> io::Result<Self> {
        let fd_limit = limits::fd_limit()?;
        let (busy, waiting) = (Busy::default(), VecDeque::new());
        Ok(Self { shared, pool, loops, busy, waiting, next_read: Instant::now(), fd_limit })
    }

    /// Returns whether enough descriptors are left above this one for handlers, logs and ending associations.
    pub(super) fn has_headroom(&self, fd: BorrowedFd<'_>) -> bool {
        fd.as_raw_fd() as u64 + RESERVED_FDS <= self.fd_limit
    }

    /// Releases the place of an association that was admitted and will not be inserted.
    pub(super) fn cancel(&self, association: &Association) {
        self.shared.registry.cancel(association);
    }

    /// Returns when [`tick`](Self::tick) has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let waiting = (!self.waiting.is_empty()).then(|| Instant::now() + THREAD_RETRY);
        [self.busy.next_deadline(), waiting].into_iter().flatten().min()
    }

    /// Does the work that is due.
    pub(super) fn tick(&mut self, now: Instant) {
        self.retry_waiting(now);
        self.busy.tick(&self.shared, now);
    }

    /// Assigns a job to a loop or to a thread, at once or as soon as a thread can be started.
    pub(super) fn assign(&mut self, job: Job) {
        let placed = match &self.loops {
            Some(loops) => loops.place(job),
            None => Some(job),
        };
        let Some(job) = placed else { return };
        match self.pool.submit(job) {
            Ok(()) => {}
            Err((job, error)) => {
                bump(&job.association.counters.out_of_threads);
                log_limited!(warn, %error, "cannot start a thread for a new peer; trying again");
                self.read_child(&job);
                if self.waiting.len() < MAX_WAITING {
                    self.waiting.push_back(job);
                } else {
                    // The refusal is counted last, so an observer that sees it also sees that the peer has left.
                    let association = Arc::clone(&job.association);
                    job.abandon(EndReason::NoThread);
                    self.refuse(Refusal::NoThread, &association);
                }
            }
        }
    }

    /// Reads the datagrams that a peer's UDP socket has received since its bind. The peer's own datagrams go into its
    /// inbox, and those of other peers go to the dispatcher. The thread that serves the peer does the same with later
    /// datagrams.
    pub(super) fn read_child(&self, job: &Job) {
        let (PeerSocket::Own(socket), Task::Plain | Task::Dtls(_)) = (&job.peer_socket, &job.task) else {
            return;
        };
        let association = &job.association;
        let mut payload = Vec::with_capacity(DATAGRAM_MAX);
        for _ in 0..4 * BATCH {
            let Ok(received) = message::recv(socket.as_fd(), &mut [], &mut payload, false) else { break };
            let Some(source) = received.source else { break };
            if source == association.peer {
                association.attention.deliver(InboxItem::datagram(&payload), false);
                continue;
            }
            let mut local = association.local;
            if let Some(hit) = received.info.local {
                local.set_ip(hit);
            }
            bump(&association.counters.strays);
            let interface = received.info.interface;
            let stray = Stray { local, peer: source, interface, payload: payload.as_slice().into() };
            // The datagram goes through the mailbox, so that an unknown peer cannot make this function recurse.
            if !self.shared.mailbox.send(DispatcherMessage::Stray(stray)) {
                bump(&association.counters.strays_lost);
            }
        }
    }

    fn retry_waiting(&mut self, now: Instant) {
        // No other thread reads the sockets of waiting jobs, and another peer's datagram would wait in them as long.
        if !self.waiting.is_empty() && now >= self.next_read {
            self.next_read = now + THREAD_RETRY;
            self.waiting.iter().for_each(|job| self.read_child(job));
        }
        while let Some(job) = self.waiting.pop_front() {
            let signals = job.association.attention.signals();
            if signals & (signal::DRAIN | signal::STOP | signal::BREAK_OFF) != 0 {
                job.abandon(EndReason::Shutdown);
                continue;
            }
            if signals & signal::EVICT != 0 {
                job.abandon(EndReason::Evicted);
                continue;
            }
            // A peer that has waited longer than a handshake may take has given up.
            if job.association.opened.elapsed() > self.shared.timeouts.handshake {
                let association = Arc::clone(&job.association);
                job.abandon(EndReason::NoThread);
                self.refuse(Refusal::NoThread, &association);
                continue;
            }
            let counters = Arc::clone(&job.association.counters);
            match self.pool.submit(job) {
                Ok(()) => bump(&counters.waited_for_thread),
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

    /// Counts and logs that a peer could not get a socket because of `error`. Returns the refusal, or `None` if the
    /// error concerns this peer alone.
    pub(super) fn refuse_for(
        &self,
        error: &io::Error,
        scheme: Scheme,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> Option<Refusal> {
        let counters = self.shared.counted(scheme, local);
        if let Some(HookFailed { panicked, .. }) = HookFailed::of(error) {
            if *panicked {
                bump(&counters.handler_panics);
            }
            log_limited!(warn, %peer, %error, "the hook socket_options failed for a new peer");
            self.shared.refuse(Refusal::SocketOptions, scheme, local, peer);
            return Some(Refusal::SocketOptions);
        }
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
                log_limited!(info, %peer, %error, "cannot make a socket for a peer");
                bump(&counters.ignored);
                return None;
            }
        };
        log_limited!(warn, %peer, %error, "cannot make a socket for a new peer");
        self.shared.refuse(refusal, scheme, local, peer);
        Some(refusal)
    }
}

//! A running server: its statistics, reload, hand-over and shutdown.

pub(crate) mod builder;
mod capacity;
mod listeners;

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::address::{Address, Scheme};
use crate::admission::{Limits, Refusal};
use crate::association::{Association, Link};
use crate::credentials::{Credentials, Expiration};
use crate::drive::Session;
use crate::drive::open::Open;
use crate::error::{EndReason, HandOverError, IdentityError};
use crate::metrics::{Health, ListenerMetrics, Metrics};
use crate::net::after;
use crate::net::attention::signal;
use crate::observe::{Counters, Stats};
use crate::sender::Sender;
use crate::serve::dispatcher::RESERVED_FDS;
pub use crate::serve::handover::new_process::Predecessor;
pub use crate::serve::handover::old_process::HandedOver;
use crate::serve::handover::{channel, old_process};
use crate::serve::loops::Loops;
use crate::serve::registry::Drain;
use crate::serve::shared::Shared;
pub use crate::serve::shared::ShutdownReport;
use crate::sys::descriptor;
use crate::sys::limits;
use crate::sys::sync::atomic::Ordering;
use crate::tls::context::Contexts;

/// How long a shutdown waits, after the grace period, for the workers to end, and for the dispatcher.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// A running server.
///
/// Dropping it shuts the server down without a grace period, and blocks for at most two seconds; if a shutdown is under
/// way already, it waits for that one. [`wait`](Self::wait) keeps the server running until another thread shuts it down,
/// [`detach`](Self::detach) for as long as the process runs.
#[derive(Debug)]
#[must_use = "dropping a server shuts it down; keep it, or call `wait` or `detach`"]
pub struct Server {
    handle: Handle,
    detached: bool,
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.detached {
            self.handle.end(Duration::ZERO);
        }
    }
}

impl Server {
    /// Returns the addresses that the server listens on, with the ports that the kernel chose.
    pub fn addresses(&self) -> &[Address] {
        &self.handle.shared.addresses
    }

    /// Returns all measurements of the server, as [`Handle::metrics`] does.
    pub fn metrics(&self) -> Metrics {
        self.handle.metrics()
    }

    /// Returns a handle for other threads.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Lets the server run without this value: from then on only [`Handle::shutdown`] or the end of the process ends
    /// it.
    pub fn detach(mut self) -> Handle {
        self.detached = true;
        self.handle.clone()
    }

    /// Blocks until another thread has shut the server down through a [`Handle`].
    pub fn wait(self) -> ShutdownReport {
        let done = &self.handle.shared.done;
        let mut report = done.report.lock();
        loop {
            if let Some(report) = &*report {
                return report.clone();
            }
            done.changed.wait(&mut report);
        }
    }
}

/// Inspects, controls and ends a running server. It can be cloned, and used from any thread.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    loops: Option<Arc<Loops>>,
}

impl Handle {
    /// Returns the current counters.
    pub fn stats(&self) -> Stats {
        self.sum(&self.shared.registry.stats(&self.shared.by_listener))
    }

    fn sum(&self, listeners: &[Stats]) -> Stats {
        let mut all = self.shared.counters.snapshot();
        listeners.iter().for_each(|stats| all.add(stats));
        all
    }

    /// Returns all measurements of the server, for a monitoring system. It reads each peer's counters, which takes one
    /// millisecond for about ten thousand peers, under the lock that admission needs. A thread that waits for that lock
    /// gets it after every 256 peers, some 30 µs.
    pub fn metrics(&self) -> Metrics {
        let shared = &self.shared;
        let numbers = shared.registry.stats(&shared.by_listener);
        let stats = self.sum(&numbers);
        let listener = |((address, counters), stats): (&(Address, Arc<Counters>), Stats)| ListenerMetrics {
            address: address.clone(),
            stats,
            handshake: counters.times.handshake.snapshot(),
            start_delay: counters.times.start_delay.snapshot(),
            handler: counters.times.handler.snapshot(),
        };
        Metrics {
            stats,
            listeners: shared.by_listener.iter().zip(numbers).map(listener).collect(),
            limits: shared.registry.limits(),
            max_workers: shared.max_workers,
            dispatcher_round: shared.counters.dispatcher_round.snapshot(),
            loop_queue: shared.counters.loop_queue.snapshot(),
            expirations: self.expirations(),
            health: self.health(),
        }
    }

    /// Returns whether the server makes progress and accepts new peers. Takes a few microseconds.
    pub fn health(&self) -> Health {
        let (shared, now) = (&self.shared, Instant::now());
        let is_out_of_threads = || shared.counters.workers.load(Ordering::Relaxed) >= shared.max_workers;
        let refuses = shared.registry.is_full().or_else(|| match () {
            () if shared.takes_threads && is_out_of_threads() => Some(Refusal::NoThread),
            () if shared.takes_descriptors && !limits::has_descriptors(RESERVED_FDS) => {
                Some(Refusal::NoFileDescriptor)
            }
            () => None,
        });
        Health {
            dispatcher_busy: shared.counters.dispatcher.busy_for(now),
            loops_busy: self.loops.iter().flat_map(|loops| loops.busy_for(now)).collect(),
            refuses,
        }
    }

    /// Returns when the certificates and revocation lists in use expire, as [`Credentials::expirations`] does.
    pub fn expirations(&self) -> Vec<Expiration> {
        self.shared.expirations.lock().clone()
    }

    /// Returns senders to all peers whose handshake is complete.
    pub fn peers(&self) -> Vec<Sender> {
        let is_open = |association: &Arc<Association>| matches!(*association.link.lock(), Link::Open(_));
        self.shared.registry.all().into_iter().filter(is_open).map(Sender::new).collect()
    }

    /// Replaces the credentials for handshakes that begin from now on; existing associations continue unchanged. Blocks
    /// while the contexts are built, for a few milliseconds; no handshake waits for that. Session tickets are accepted
    /// for as long as their keys are.
    ///
    /// # Errors
    ///
    /// The new credentials are not usable; the old ones then stay in use.
    pub fn reload(&self, credentials: Credentials) -> Result<(), IdentityError> {
        let shared = &self.shared;
        let schemes = shared.addresses.iter().map(|address| address.scheme);
        if credentials.is_empty() && schemes.clone().any(Scheme::is_secure) {
            return Err(IdentityError::Nothing);
        }
        let contexts = Arc::new(Contexts::new(&credentials, &shared.keys, schemes)?);
        let expirations = credentials.expirations();
        shared
            .cookies
            .replace(credentials.keys.as_ref(), Instant::now())
            .map_err(crate::credentials::refused)?;
        // Dropped after the lock has been released.
        let _old = std::mem::replace(&mut *shared.contexts.write(), contexts);
        *shared.expirations.lock() = expirations;
        tracing::info!("new credentials are in use");
        Ok(())
    }

    /// Changes the limits for peers that come from now on.
    pub fn set_limits(&self, limits: Limits) {
        self.shared.registry.set_limits(limits);
    }

    /// Hands the server over to another process, whose [`Predecessor`] has the other end of `socket`;
    /// [`hand_over_sockets`](crate::hand_over_sockets) makes the pair. Blocks until that process is ready, for at most
    /// a minute, and then until it serves. Service continues meanwhile, except for some milliseconds at the end, in
    /// which incoming data waits in the kernel.
    ///
    /// The other process receives all listeners that it asks for. It also receives the UDP and DTLS peers that share
    /// sockets and whose callbacks save their state ([`PeerEvents::save`](crate::PeerEvents::save)); these continue in
    /// the other process with all their state and notice nothing. In this process they end with
    /// [`EndReason::HandedOver`].
    ///
    /// All other peers stay, including handshakes under way, and this process continues to serve them until it calls
    /// [`shutdown`](Self::shutdown), which it should do next. That asks the handlers to finish within the grace period,
    /// and completes handshakes under way, whose peers then have a second for their first message. This process has to
    /// run until then, because the other process passes the datagrams of these peers to it through the socket.
    ///
    /// Both processes must run as the same user, which the kernel verifies (SO_PEERCRED, SCM_CREDENTIALS). The session
    /// keys go only through the socket, and both processes wipe their copies. If the other process is of a version that
    /// serializes peers differently, it takes the listeners, and all peers stay.
    ///
    /// # Errors
    ///
    /// The other process does not serve, and this one continues as before. If the other process ended while it began to
    /// serve ([`HandOverError::Gone`]), it may have answered some messages. In that case messages that were sent to peers
    /// during the pause may arrive twice, and datagrams that the other process had read are lost.
    pub fn hand_over(&self, socket: OwnedFd) -> Result<HandedOver, HandOverError> {
        old_process::hand_over(&self.shared, self.loops.as_ref(), socket)
    }

    /// Returns whether another process has taken the server over. That does not change any more once a
    /// [`shutdown`](Self::shutdown) has begun: a hand-over that comes later fails.
    pub fn is_handed_over(&self) -> bool {
        self.shared.successor.get().is_some()
    }

    /// Passes a descriptor on to the process that takes over the server, if there is one, for example a listener of the
    /// program's own. [`Predecessor::take_descriptor`] returns it there under this name. A second call with the same
    /// name closes the earlier descriptor. The descriptor is closed when the server has been handed over or shuts down.
    pub fn pass_on(&self, name: &str, descriptor: OwnedFd) {
        self.shared.descriptors.lock().insert(name.to_owned(), descriptor);
    }

    /// Shuts the server down. It accepts no new peers; every handler's `recv` returns `Ok(None)` once its peer is
    /// quiet, and the handler may finish within `grace`. After that all remaining associations are ended. Handshakes
    /// under way end at once, except those that a [hand-over](Self::hand_over) has left here. DTLS and TLS peers
    /// receive a close_notify. When this returns the ports are free, and all handlers and callbacks have returned,
    /// [`PeerEvents::close`](crate::PeerEvents::close) among them, except those that [`ShutdownReport::abandoned`]
    /// counts. Blocks for at most `grace` and two seconds. If a handler or callback calls this, it is waited for as
    /// well. A second call waits for the first, and ends the first one's grace period no later than its own.
    pub fn shutdown(&self, grace: Duration) -> ShutdownReport {
        self.shared.registry.shorten_grace(after(grace));
        self.end(grace)
    }

    /// Shuts the server down, or waits for a shutdown that is under way.
    fn end(&self, grace: Duration) -> ShutdownReport {
        let began = Instant::now();
        let shared = &self.shared;
        let mut done = shared.done.report.lock();
        if let Some(report) = &*done {
            return report.clone();
        }
        shared.exports.lock().clear();
        shared.descriptors.lock().clear();
        let peers = {
            let _deciding = shared.deciding.lock();
            let drain = if self.is_handed_over() { Drain::Finish } else { Drain::BreakOff };
            shared.registry.drain(drain)
        };
        shared.registry.shorten_grace(after(grace));
        let in_time = shared.registry.wait_through_grace();
        let late = if in_time { Vec::new() } else { shared.registry.all() };
        for association in &late {
            association.attention.raise(signal::STOP);
        }
        let abandoned = if in_time || shared.registry.wait_until_empty(Instant::now() + END_TIMEOUT) {
            0
        } else {
            self.abandon()
        };
        shared.mailbox.stop();
        if let Some(loops) = &self.loops {
            loops.stop();
        }
        for relay in shared.predecessor.get().into_iter().chain(shared.successor.get()) {
            relay.end();
        }
        // Waits for the dispatcher, so that the next server finds the ports free.
        let _ = shared.done.stopped.recv_timeout(END_TIMEOUT);
        let stopped = late.len();
        let finished = peers.saturating_sub(stopped);
        let report = ShutdownReport { peers, finished, stopped, abandoned, took: began.elapsed() };
        *done = Some(report.clone());
        shared.done.changed.notify_all();
        report
    }

    /// Closes the associations of handlers that have not returned, in their place.
    fn abandon(&self) -> usize {
        let stuck = self.shared.registry.all();
        // All associations begin to close before any is waited for, so their acknowledgements arrive at the same time.
        // They are taken out of their locks first, so that no other thread waits for a lock meanwhile.
        let open = stuck.iter().filter_map(|association| association.end(&EndReason::Shutdown));
        let mut ending: Vec<Session> = open.map(|Open { session, .. }| session).collect();
        for session in &mut ending {
            let patience = session.patience(END_TIMEOUT, true);
            session.begin_end(&EndReason::Shutdown, patience, Instant::now());
        }
        ending.iter_mut().for_each(Session::await_end);
        stuck.len() + self.shared.registry.outliving_handlers()
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("addresses", &self.shared.addresses).finish_non_exhaustive()
    }
}

/// Raises the soft limit on descriptors to the hard limit and returns it; each peer takes a descriptor. Call it at the
/// start of a program; the library does not call it by itself.
///
/// # Errors
///
/// The errors of getrlimit(2) and setrlimit(2).
pub fn raise_fd_limit() -> io::Result<u64> {
    limits::raise_fd_limit()
}

/// Makes the pair of sockets for a [`Handle::hand_over`]: the first is for this process, the second for the new one,
/// which inherits it. They have no name, so no other process can connect to them.
///
/// # Errors
///
/// The errors of [socketpair(2)](https://man7.org/linux/man-pages/man2/socketpair.2.html).
pub fn hand_over_sockets() -> io::Result<(OwnedFd, OwnedFd)> {
    channel::pair()
}

/// Duplicates a descriptor that the process was started with, such as 3 after `3< file` in a shell
/// ([fcntl(2)](https://man7.org/linux/man-pages/man2/fcntl.2.html), F_DUPFD_CLOEXEC). Use it for options that name
/// descriptors, and for listeners that a parent made ([`ServerBuilder::listen_on`](crate::ServerBuilder::listen_on)),
/// such as those of systemd, which begin with 3
/// ([sd_listen_fds(3)](https://man7.org/linux/man-pages/man3/sd_listen_fds.3.html)). The original stays open, and keeps
/// the port in use after the server has shut down.
///
/// # Errors
///
/// No such descriptor is open (EBADF), or there are too many (EMFILE).
pub fn inherited_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    descriptor::duplicate(number)
}

/// Makes glibc use less memory for many threads. Call it in the first line of `main`, before there are other threads or
/// open files; the library does not call it by itself.
///
/// By default glibc caches freed memory for each thread, which is 10 KiB for each DTLS peer after its handshake, and 40
/// MiB of the stacks of threads that have ended. It spreads threads over eight heaps for each processor, and reserves
/// 1.5 KiB of each stack for libraries that are loaded later. This function turns both caches off, reduces the heaps to
/// two for each processor, and reserves 0.3 KiB. As a consequence dlopen(3) fails for a library that has more
/// thread-local storage of the kind *initial exec* (`cannot allocate memory in static TLS block`); linked libraries can
/// have any amount.
///
/// glibc reads these settings only when a program starts: `glibc.malloc.tcache_count`, `glibc.malloc.arena_max`,
/// `glibc.pthread.stack_cache_size`, `glibc.rtld.nns` and `glibc.rtld.optional_static_tls` in `GLIBC_TUNABLES`
/// ([ld.so(8)](https://man7.org/linux/man-pages/man8/ld.so.8.html)). So this function executes the program again, once,
/// with the same process id and arguments; `PEELOFF_MALLOC_TUNED` in the environment records that. It then removes its
/// own settings and that variable from the environment again, so that child processes do not inherit them. The function
/// returns without an effect if the settings of malloc have any value already, if `PEELOFF_MALLOC_TUNED` is set, or if
/// the program cannot be executed again.
pub fn tune_malloc() {
    limits::tune_malloc();
}

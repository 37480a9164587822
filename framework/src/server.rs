//! A running server: looked at, reloaded, shut down.

pub(crate) mod builder;
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
pub use crate::serve::handover::giving::HandedOver;
pub use crate::serve::handover::taking::Predecessor;
use crate::serve::handover::{channel, giving};
use crate::serve::loops::Loops;
use crate::serve::registry::Drain;
use crate::serve::shared::Shared;
pub use crate::serve::shared::ShutdownReport;
use crate::sys::descriptor;
use crate::sys::limits;
use crate::sys::sync::atomic::Ordering;
use crate::tls::context::Contexts;

/// How long a shutdown waits, after the grace period, for workers to let go, and for the dispatcher.
const LET_GO: Duration = Duration::from_secs(1);

/// A server that is running.
///
/// Dropping it shuts the server down without a grace period, as [`Handle::shutdown`] with a grace of zero: it blocks for two
/// seconds at most. [`wait`](Self::wait) keeps it until somebody else has shut it down, [`detach`](Self::detach) lets it
/// run for as long as the process does.
#[derive(Debug)]
#[must_use = "dropping a server shuts it down; keep it, or call `wait` or `detach`"]
pub struct Server {
    handle: Handle,
    detached: bool,
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.detached {
            self.handle.shutdown(Duration::ZERO);
        }
    }
}

impl Server {
    /// The addresses it listens on, with the ports that the kernel chose.
    pub fn addresses(&self) -> &[Address] {
        &self.handle.shared.addresses
    }

    /// Returns all that the server measures, as [`Handle::metrics`] does.
    pub fn metrics(&self) -> Metrics {
        self.handle.metrics()
    }

    /// A handle for other threads.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Lets the server run without this value: only [`Handle::shutdown`] ends it then, or the end of the process.
    pub fn detach(mut self) -> Handle {
        self.detached = true;
        self.handle.clone()
    }

    /// Blocks until a [`Handle`] of another thread has shut the server down.
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

/// Looks at a running server, and ends it; clonable, for any thread.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    loops: Option<Arc<Loops>>,
}

impl Handle {
    /// The numbers as they are now.
    pub fn stats(&self) -> Stats {
        self.sum(&self.shared.registry.stats(&self.shared.by_listener))
    }

    fn sum(&self, listeners: &[Stats]) -> Stats {
        let mut all = self.shared.counters.snapshot();
        listeners.iter().for_each(|stats| all.add(stats));
        all
    }

    /// Returns all that the server measures, for a monitoring system. It looks at each peer under the lock that new peers wait
    /// for, which takes a millisecond for some ten thousand of them, so do not call it more often than every second.
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

    /// Returns whether the server gets on and takes new peers. Takes a few microseconds.
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

    /// Returns when the certificates and revocation lists in use stop being valid, as [`Credentials::expirations`] does.
    pub fn expirations(&self) -> Vec<Expiration> {
        self.shared.expirations.lock().clone()
    }

    /// Senders to all peers whose handshake is complete.
    pub fn peers(&self) -> Vec<Sender> {
        let is_open = |association: &Arc<Association>| matches!(*association.link.lock(), Link::Open(_));
        self.shared.registry.all().into_iter().filter(is_open).map(Sender::new).collect()
    }

    /// Replaces the credentials for handshakes that begin from now on; associations that are there go on as they
    /// are. Blocks for as long as the contexts take to build, a few milliseconds; no handshake waits for it. Session
    /// tickets go on to be accepted as long as their keys do.
    ///
    /// # Errors
    ///
    /// The new credentials are of no use; then the old ones stay.
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
        // The old ones are freed after the lock.
        let _old = std::mem::replace(&mut *shared.contexts.write(), contexts);
        *shared.expirations.lock() = expirations;
        tracing::info!("new credentials are in use");
        Ok(())
    }

    /// Changes the limits for those who come from now on.
    pub fn set_limits(&self, limits: Limits) {
        self.shared.registry.set_limits(limits);
    }

    /// Gives the server to another process, whose [`Predecessor`] has the other end of this socket, of the pair that [`hand_over_sockets`](crate::hand_over_sockets) makes. Blocks until that process
    /// is ready, for a minute at most, and then until it serves; meanwhile all goes on as usual but for some milliseconds at the end, in which
    /// what comes waits in the kernel.
    ///
    /// All listeners that the other process wants go there, and of the peers those on UDP and DTLS that share sockets, whose callbacks say
    /// how ([`PeerEvents::save`](crate::PeerEvents::save)): they go on in the other process with
    /// all their state, and notice nothing. For this process they end with [`EndReason::HandedOver`]. All other peers
    /// stay, handshakes under way among them: this process goes on to serve them until it calls [`shutdown`](Self::shutdown), as it should next. That tells
    /// the handlers to finish, within the grace period, and finishes handshakes that are under way, whose peers have a second then for their
    /// first message. Until then this process has to run, because it gets their datagrams by that socket.
    ///
    /// Both processes run as the same user, whom the kernel names (SO_PEERCRED, SCM_CREDENTIALS). The keys of the sessions go through
    /// the socket alone, and both processes wipe their copies. Where the other process is of a version that writes peers in another
    /// way, it takes the listeners, and all peers stay.
    ///
    /// # Errors
    ///
    /// The other process does not serve, and this one goes on as before.
    pub fn hand_over(&self, socket: OwnedFd) -> Result<HandedOver, HandOverError> {
        giving::give(&self.shared, self.loops.as_ref(), socket)
    }

    /// Passes a descriptor on to the process that takes the server over, if one does, where [`Predecessor::take_descriptor`] gives it out under this
    /// name: a listener of the program's own, for example. Another one of the same name is closed. It is closed
    /// when the server has been handed over or shuts down.
    pub fn pass_on(&self, name: &str, descriptor: OwnedFd) {
        self.shared.descriptors.lock().insert(name.to_owned(), descriptor);
    }

    /// Ends the server: no new peers; every handler's `recv` returns `Ok(None)` once its peer is
    /// quiet, and it may finish within `grace`; then all that are left are ended. Handshakes under way end at once, but for
    /// those that a [hand-over](Self::hand_over) has left here. DTLS and TLS peers get a
    /// close_notify. The ports are free when it returns; a [`PeerEvents::close`](crate::PeerEvents::close) or
    /// what handlers do after their peer's end may still run. Blocks for `grace` and two seconds at most. A second call waits for the first.
    pub fn shutdown(&self, grace: Duration) -> ShutdownReport {
        let began = Instant::now();
        let shared = &self.shared;
        let mut done = shared.done.report.lock();
        if let Some(report) = &*done {
            return report.clone();
        }
        shared.exports.lock().clear();
        shared.descriptors.lock().clear();
        let drain = match shared.successor.get() {
            Some(_) => Drain::Finish,
            None => Drain::BreakOff,
        };
        let peers = shared.registry.drain(drain);
        let in_time = shared.registry.wait_until_empty(after(grace));
        let late = if in_time { Vec::new() } else { shared.registry.all() };
        for association in &late {
            association.attention.raise(signal::STOP);
        }
        let abandoned = if in_time || shared.registry.wait_until_empty(Instant::now() + LET_GO) {
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
        // So that whoever starts the next server finds the ports free.
        let _ = shared.done.stopped.recv_timeout(LET_GO);
        let stopped = late.len();
        let finished = peers.saturating_sub(stopped);
        let report = ShutdownReport { peers, finished, stopped, abandoned, took: began.elapsed() };
        *done = Some(report.clone());
        shared.done.changed.notify_all();
        report
    }

    /// Says goodbye to the peers of handlers that do not return, in their place.
    fn abandon(&self) -> usize {
        let stuck = self.shared.registry.all();
        // All of them begin before any is waited for: acknowledgements come at the same time. Taken out, so that nobody waits for
        // a lock meanwhile.
        let open = stuck.iter().filter_map(|association| association.end(&EndReason::Shutdown));
        let mut ending: Vec<Session> = open.map(|Open { session, .. }| session).collect();
        for session in &mut ending {
            let patience = session.patience(LET_GO, true);
            session.begin_end(&EndReason::Shutdown, patience, Instant::now());
        }
        ending.iter_mut().for_each(Session::await_end);
        stuck.len()
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("addresses", &self.shared.addresses).finish_non_exhaustive()
    }
}

/// Raises the soft limit on descriptors to the hard one, and returns it: each peer takes one. For
/// a program's start; the library does not do it by itself.
///
/// # Errors
///
/// Those of getrlimit(2) and setrlimit(2).
pub fn raise_fd_limit() -> io::Result<u64> {
    limits::raise_fd_limit()
}

/// Makes the sockets for a [`Handle::hand_over`]: the first for this process, the second for the new one, which
/// inherits it. They have no name, so nobody else can connect to them.
///
/// # Errors
///
/// Those of [socketpair(2)](https://man7.org/linux/man-pages/man2/socketpair.2.html).
pub fn hand_over_sockets() -> io::Result<(OwnedFd, OwnedFd)> {
    channel::pair()
}

/// Returns another descriptor for one that the process was started with, such as 3 after `3< file` in a shell
/// ([fcntl(2)](https://man7.org/linux/man-pages/man2/fcntl.2.html), F_DUPFD_CLOEXEC). The original stays open. For
/// programs whose options name descriptors, and for listeners that a parent made
/// ([`ServerBuilder::listen_on`](crate::ServerBuilder::listen_on)), such as systemd, whose begin with 3
/// ([sd_listen_fds(3)](https://man7.org/linux/man-pages/man3/sd_listen_fds.3.html)). An original that stays open keeps the port after the server has shut down.
///
/// # Errors
///
/// No such descriptor is open (EBADF), or there are too many (EMFILE).
pub fn inherited_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    descriptor::duplicate(number)
}

/// Has glibc take less memory for many threads. It keeps for each thread some of what the thread has freed, which is 10 KiB
/// for each DTLS peer after its handshake, and 40 MiB of the stacks of threads that have ended, spreads threads over
/// eight heaps for each processor, and keeps 1.5 KiB of each stack for libraries that are loaded later: here it keeps
/// neither, has two heaps for each, and 0.3 KiB. So a library with more thread-local storage of the kind *initial exec* than
/// that cannot be loaded by dlopen(3) any more (`cannot allocate memory in static TLS block`); linked libraries can have
/// any amount. For the first line of `main`, before
/// there are other threads or open files; the library does not do it by itself.
///
/// glibc reads these settings (`glibc.malloc.tcache_count`, `glibc.malloc.arena_max`, `glibc.pthread.stack_cache_size`, `glibc.rtld.nns` and
/// `glibc.rtld.optional_static_tls` in
/// `GLIBC_TUNABLES`, [ld.so(8)](https://man7.org/linux/man-pages/man8/ld.so.8.html)) when a program starts, so this starts
/// it anew, with the same process id and arguments, once (`PEELOFF_MALLOC_TUNED` in the environment says that it was), and then takes
/// them out of the environment again, which other programs inherit. It comes back where the settings of malloc are there
/// already, to whatever value, where `PEELOFF_MALLOC_TUNED` is, and where the program cannot be started anew.
pub fn tune_malloc() {
    limits::tune_malloc();
}

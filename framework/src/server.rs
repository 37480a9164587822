//! The server: built, started, looked at, shut down.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;

use crate::address::{Address, Scheme};
use crate::admission::Limits;
use crate::association::{Association, Link};
use crate::config::Timeouts;
use crate::credentials::{ClientAuth, Credentials, Identity, SharedKeys};
use crate::error::{EndReason, IdentityError, StartError};
use crate::handler::PeerHandler;
use crate::net::after;
use crate::net::attention::signal;
use crate::observe::Stats;
use crate::outbox::Outbox;
use crate::protocol::dtls::restart::Cookies;
use crate::sctp::Settings;
use crate::sender::Sender;
use crate::serve::dispatcher::child::Options;
use crate::serve::dispatcher::{Dispatcher, RESERVED_FDS, SctpListener, TcpListener, UdpListener};
use crate::serve::mailbox;
use crate::serve::registry::Registry;
pub use crate::serve::shared::Report;
use crate::serve::shared::{Done, Shared};
use crate::serve::worker::pool::Pool;
use crate::stream::StreamSettings;
use crate::sys::descriptor;
use crate::sys::eventfd::EventFd;
use crate::sys::limits;
use crate::sys::sync::channel::bounded;
use crate::sys::sync::{Condvar, Mutex, thread};
use crate::tls::context::Contexts;

/// Stack of a worker thread, in bytes: room for OpenSSL's handshake and a handler's buffers.
const STACK_SIZE: usize = 256 * 1024;

/// Threads kept out of the pool's reach: the dispatcher and the program's own.
const OTHER_THREADS: u64 = 64;

/// How long a shutdown waits, after the grace period, for workers to let go, and for the dispatcher.
const LET_GO: Duration = Duration::from_secs(1);

/// What a server is made of. Everything has a default but the listener.
///
/// ```
/// use peeloff::{Error, Identity, Peer, Server};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = Server::builder()
///     .listen("dtls://127.0.0.1:0".parse()?)
///     .identity(Identity::self_signed()?)
///     .start(|peer: &mut Peer| -> Result<(), Error> {
///         let mut buffer = [0; 2048];
///         while let Some(len) = peer.recv(&mut buffer)? {
///             peer.send(&buffer[..len])?;
///         }
///         Ok(())
///     })?;
/// println!("listening {}", server.addresses()[0]);
/// # server.handle().shutdown(std::time::Duration::ZERO);
/// # Ok(()) }
/// ```
#[must_use = "a builder does nothing until it is started"]
pub struct ServerBuilder {
    listen: Vec<Listen>,
    credentials: Credentials,
    limits: Limits,
    timeouts: Timeouts,
    options: Options,
    sctp: Settings,
    stream: StreamSettings,
    outbox: Outbox,
    udp_proof: bool,
    stack_size: usize,
    batch: bool,
}

/// What is listened on.
struct Listen {
    address: Address,
    /// Connections begin with a PROXY header.
    proxied: bool,
}

impl ServerBuilder {
    /// Listens on this address; may be called several times. A wildcard (`0.0.0.0`, `::`) serves
    /// every address of the host, and answers from the one that was asked.
    pub fn listen(mut self, address: Address) -> Self {
        self.listen.push(Listen { address, proxied: false });
        self
    }

    /// As [`listen`](Self::listen), for `tcp://` and `tls://` behind a proxy: each connection begins with a
    /// header of the [PROXY protocol](https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt), version 2,
    /// which says who the peer is; limits and [`PeerHandler::admit`] are asked about that one. Only the proxy may
    /// be able to reach such an address, for whoever can may claim to be anybody.
    pub fn listen_proxied(mut self, address: Address) -> Self {
        self.listen.push(Listen { address, proxied: true });
        self
    }

    /// A certificate and key of all listeners with TLS or DTLS; as [`Credentials::identity`].
    pub fn identity(mut self, identity: Identity) -> Self {
        self.credentials.identities.push(identity);
        self
    }

    /// All that the server shows and asks for in its handshakes, instead of what was said before.
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = credentials;
        self
    }

    /// Whether clients must show a certificate; as [`Credentials::client_auth`].
    pub fn client_auth(mut self, auth: ClientAuth) -> Self {
        self.credentials.client_auth = auth;
        self
    }

    /// Accepts pre-shared keys; as [`Credentials::psk`].
    pub fn psk(mut self, lookup: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        self.credentials.psk = Some(Arc::new(lookup));
        self
    }

    /// How many peers, from where, how fast.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How long things may take.
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// How SCTP associations are made.
    pub fn sctp(mut self, settings: Settings) -> Self {
        self.sctp = settings;
        self
    }

    /// How TCP connections are used.
    pub fn stream(mut self, settings: StreamSettings) -> Self {
        self.stream = settings;
        self
    }

    /// Whether peers on plain UDP have to prove that they are where their datagrams say, before they are sent more than three
    /// times what came from them, headers included (RFC 8085 §3.1). The proof is a message with
    /// [`Peer::proof_token`](crate::Peer::proof_token) in it, which the handler asks for in its own protocol; a handler that answers each
    /// message with one that is no longer needs none. What is beyond is not sent: [`Error::Unproven`](crate::Error::Unproven).
    /// Default: `false`.
    pub fn udp_proof(mut self, needed: bool) -> Self {
        self.udp_proof = needed;
        self
    }

    /// How much may wait for a peer that takes nothing at the moment ([`Sender::post`]).
    pub fn outbox(mut self, bound: Outbox) -> Self {
        self.outbox = bound;
        self
    }

    /// Whether `::` leaves IPv4 alone (IPV6_V6ONLY). Default: `false`, it is dual-stack.
    pub fn v6_only(mut self, v6_only: bool) -> Self {
        self.options.v6_only = v6_only;
        self
    }

    /// Whether addresses may be listened on that the host does not have yet (IP_FREEBIND).
    pub fn freebind(mut self, freebind: bool) -> Self {
        self.options.freebind = freebind;
        self
    }

    /// Bytes of stack of a worker thread. Default: 256 KiB, touched as far as used.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = bytes;
        self
    }

    /// Whether worker threads run under SCHED_BATCH ([sched(7)](https://man7.org/linux/man-pages/man7/sched.7.html)).
    /// Default: `true`. A worker that wakes up then waits until the thread that its processor is busy with waits
    /// itself, or has had its slice of some milliseconds, and workers do not interrupt each other in the middle of a
    /// message, which with 64 of them on a processor saves 6 to 18 % of an echo. `false` suits servers whose handlers, or
    /// whose neighbours on the machine, compute for long while others need an answer within less than that. Threads and
    /// processes that a handler starts inherit it. A process that was started under another policy than SCHED_OTHER keeps
    /// that one.
    pub fn batch(mut self, batch: bool) -> Self {
        self.batch = batch;
        self
    }

    /// Binds the listeners and starts the dispatcher thread. Returns when peers can come.
    ///
    /// # Errors
    ///
    /// [`StartError`], after which nothing is left behind.
    pub fn start(self, handler: impl PeerHandler) -> Result<Server, StartError> {
        if self.listen.is_empty() {
            return Err(StartError::NoListener);
        }
        let secure = self.listen.iter().any(|listen| listen.address.scheme.is_secure());
        if secure && self.credentials.is_empty() {
            return Err(StartError::NoIdentity);
        }
        let keys = SharedKeys::random()?;
        let schemes = self.listen.iter().map(|listen| listen.address.scheme);
        let contexts = Contexts::new(&self.credentials, &keys, schemes)?;
        let (mut udp, mut sctp, mut tcp, mut addresses) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for Listen { address, proxied } in &self.listen {
            let found = address.resolve()?;
            if *proxied && !address.scheme.is_stream() {
                return Err(StartError::NoProxy { scheme: address.scheme });
            }
            if address.scheme.is_sctp() {
                let v6_only = self.options.v6_only;
                let listener = SctpListener::bind(address.scheme, &found, v6_only, &self.sctp)?;
                addresses.push(listener.address());
                sctp.push(listener);
                continue;
            }
            for socket in found {
                if address.scheme.is_stream() {
                    let listener = TcpListener::bind(address.scheme, socket, self.options, *proxied)?;
                    addresses.push(listener.address());
                    tcp.push(listener);
                    continue;
                }
                let listener = UdpListener::bind(address.scheme, socket, self.options)?;
                addresses.push(listener.address());
                udp.push(listener);
            }
        }
        let io = |doing: &str| {
            let doing = doing.to_owned();
            move |source: io::Error| StartError::Io { doing, source }
        };
        let random = |error: openssl::error::ErrorStack| io("reading random bytes")(error.into());
        let (mailbox, inlet) = mailbox::mailbox().map_err(io("making the dispatcher's mailbox"))?;
        let mut key = [0; 16];
        openssl::rand::rand_bytes(&mut key).map_err(random)?;
        let (first, second) = key.split_at(8);
        let word = |bytes: &[u8]| bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        let (running, stopped) = bounded(0);
        let shared = Arc::new(Shared {
            handler: Arc::new(handler),
            registry: Registry::new(self.limits, (word(first), word(second))),
            counters: Arc::default(),
            cookies: Arc::new(
                Cookies::new(&self.timeouts, self.credentials.keys.as_ref(), Instant::now())
                    .map_err(random)?,
            ),
            timeouts: self.timeouts,
            contexts: RwLock::new(Arc::new(contexts)),
            keys,
            sctp: self.sctp,
            stream: self.stream,
            outbox: self.outbox,
            udp_proof: self.udp_proof,
            mailbox,
            addresses,
            done: Done { report: Mutex::default(), changed: Condvar::new(), stopped },
        });
        let most = limits::thread_limit().unwrap_or(16_000).saturating_sub(OTHER_THREADS);
        check_limits(&self.limits, most)?;
        if secure {
            warn_of_openssl();
        }
        let counters = Arc::clone(&shared.counters);
        let pool = Pool::new(counters, self.stack_size, self.batch, shared.timeouts.worker_idle, most);
        let dispatcher = Dispatcher::new(Arc::clone(&shared), inlet, pool, udp, sctp, tcp)
            .map_err(io("setting up the dispatcher"))?;
        let run = move || {
            dispatcher.run();
            // By now its listeners are closed.
            drop(running);
        };
        thread::Builder::new()
            .name("peeloff-disp".to_owned())
            .spawn(run)
            .map_err(io("starting the dispatcher thread"))?;
        Ok(Server { handle: Handle { shared } })
    }
}

/// OpenSSL 3.6.3 as built from source lacks fixes of 2026 that distributions have in theirs:
/// CVE-2026-84782, CVE-2026-75806 and CVE-2026-54874. The framework's own checks stand in front of all three.
fn warn_of_openssl() {
    const LAST_WITHOUT_FIXES: i64 = 0x3060_0030;
    if cfg!(feature = "vendored") && openssl::version::number() <= LAST_WITHOUT_FIXES {
        tracing::warn!(
            version = openssl::version::version(),
            "this OpenSSL was built from source and lacks DTLS fixes that distributions have"
        );
    }
}

/// Checks that a peer can get a descriptor, and logs which limit peers run into first.
fn check_limits(limits: &Limits, threads: u64) -> Result<(), StartError> {
    let descriptors = limits::fd_limit().map_err(|source| StartError::Io {
        doing: "asking for the limit on descriptors".to_owned(),
        source,
    })?;
    let lowest_free = match EventFd::new() {
        Ok(probe) => probe.as_fd().as_raw_fd() as u64,
        Err(_) => descriptors,
    };
    let taken = lowest_free + RESERVED_FDS;
    if taken > descriptors {
        return Err(StartError::NoDescriptors { limit: descriptors, needed: taken });
    }
    let room = descriptors - taken + 1;
    let all = [
        (limits.max_peers as u64, "the limit on peers (max_peers, --max-peers)"),
        (threads, "the threads that the system allows (kernel.threads-max, vm.max_map_count, TasksMax)"),
        (room, "the limit on descriptors (ulimit -n)"),
    ];
    let [wanted, ..] = all;
    let Some((peers, first)) = all.into_iter().min_by_key(|(peers, _)| *peers) else { return Ok(()) };
    let per_local_address = limits.max_peers_per_local_address;
    if peers < wanted.0 && wanted.0 != usize::MAX as u64 {
        tracing::warn!(
            peers,
            per_local_address,
            wanted = wanted.0,
            "beyond so many peers, {first} refuses the next one"
        );
    } else {
        tracing::info!(peers, per_local_address, "beyond so many peers, {first} refuses the next one");
    }
    Ok(())
}

/// A server that is running. Dropping it does not end it; [`Handle::shutdown`] does.
#[derive(Debug)]
pub struct Server {
    handle: Handle,
}

impl Server {
    /// A builder with the defaults.
    pub fn builder() -> ServerBuilder {
        ServerBuilder {
            listen: Vec::new(),
            credentials: Credentials::default(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            options: Options::default(),
            sctp: Settings::default(),
            stream: StreamSettings::default(),
            outbox: Outbox::default(),
            udp_proof: false,
            stack_size: STACK_SIZE,
            batch: true,
        }
    }

    /// The addresses it listens on, with the ports that the kernel chose.
    pub fn addresses(&self) -> &[Address] {
        &self.handle.shared.addresses
    }

    /// A handle for other threads.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Blocks until somebody has shut the server down.
    pub fn wait(self) -> Report {
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
}

impl Handle {
    /// The numbers as they are now.
    pub fn stats(&self) -> Stats {
        self.shared.registry.stats(&self.shared.counters)
    }

    /// Senders to all peers whose handshake is complete.
    pub fn peers(&self) -> Vec<Sender> {
        let sender = |association: Arc<Association>| {
            let range = match &*association.link.lock() {
                Link::Open(session) => {
                    Some((session.max_message(association.peer.is_ipv4()), session.min_message()))
                }
                _ => None,
            };
            range.map(|(most, least)| Sender::new(association, most, least))
        };
        self.shared.registry.all().into_iter().filter_map(sender).collect()
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
        shared
            .cookies
            .replace(credentials.keys.as_ref(), Instant::now())
            .map_err(crate::credentials::refused)?;
        // The old ones are freed after the lock.
        let _old = std::mem::replace(&mut *shared.contexts.write(), contexts);
        tracing::info!("new credentials are in use");
        Ok(())
    }

    /// Changes the limits for those who come from now on.
    pub fn set_limits(&self, limits: Limits) {
        self.shared.registry.set_limits(limits);
    }

    /// Ends the server: no new peers; every handler's `recv` returns `Ok(None)` once its peer is
    /// quiet, and it may finish within `grace`; then all that are left are ended. DTLS and TLS peers get a
    /// close_notify. The ports are free when it returns. Blocks for `grace` and two seconds at most. A second call waits for the first.
    pub fn shutdown(&self, grace: Duration) -> Report {
        let began = Instant::now();
        let shared = &self.shared;
        let mut done = shared.done.report.lock();
        if let Some(report) = &*done {
            return report.clone();
        }
        let peers = shared.registry.drain();
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
        // So that whoever starts the next server finds the ports free.
        let _ = shared.done.stopped.recv_timeout(LET_GO);
        let stopped = late.len();
        let finished = peers.saturating_sub(stopped);
        let report = Report { peers, finished, stopped, abandoned, took: began.elapsed() };
        *done = Some(report.clone());
        shared.done.changed.notify_all();
        report
    }

    /// Says goodbye to the peers of handlers that do not return, in their place.
    fn abandon(&self) -> usize {
        let stuck = self.shared.registry.all();
        // For all of them together: acknowledgements come at the same time.
        let deadline = Instant::now() + LET_GO;
        for association in &stuck {
            // Taken out, so that nobody waits for the lock while this waits for the peer.
            let link = std::mem::replace(&mut *association.link.lock(), Link::Ended(EndReason::Shutdown));
            if let Link::Open(mut session) = link {
                session.close(deadline);
            }
        }
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

/// Returns another descriptor for one that the process was started with, such as 3 after `3< file` in a shell
/// ([fcntl(2)](https://man7.org/linux/man-pages/man2/fcntl.2.html), F_DUPFD_CLOEXEC). The original stays open. For
/// programs whose options name descriptors.
///
/// # Errors
///
/// No such descriptor is open (EBADF), or there are too many (EMFILE).
pub fn inherited_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    descriptor::duplicate(number)
}

/// Has glibc take less memory for many threads. It keeps for each thread some of what the thread has freed, which is 10 KiB
/// for each DTLS peer after its handshake, and 40 MiB of the stacks of threads that have ended, and spreads threads over
/// eight heaps for each processor: here it keeps neither, and has two heaps for each. For the first line of `main`, before
/// there are other threads or open files; the library does not do it by itself.
///
/// glibc reads these settings (`glibc.malloc.tcache_count`, `glibc.malloc.arena_max` and `glibc.pthread.stack_cache_size` in
/// `GLIBC_TUNABLES`, [ld.so(8)](https://man7.org/linux/man-pages/man8/ld.so.8.html)) when a program starts, so this starts
/// it anew, with the
/// same process id and arguments, once (`PEELOFF_MALLOC_TUNED` in the environment says that it was). It comes back where
/// one of the settings is there already, to whatever value, and where the program cannot be started anew.
pub fn tune_malloc() {
    limits::tune_malloc();
}

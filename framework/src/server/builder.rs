//! The server builder: listeners, settings, and the start.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::RwLock;

use super::listeners::{Endpoint, Listen, Listeners};
use super::{Handle, Server};
use crate::address::{Address, AddressError, Scheme};
use crate::admission::Limits;
use crate::config::{Sockets, Timeouts};
use crate::connection_ids::ConnectionIds;
use crate::credentials::{ClientAuth, Credentials, Identity, SharedKeys};
use crate::error::StartError;
use crate::events::{AnyEvents, Callbacks, PeerEvents};
use crate::handler::PeerHandler;
use crate::net::shared::SharedListener;
use crate::new_socket::{NewSocket, SocketOptions};
use crate::observe::ByListener;
use crate::outbox::OutboxLimits;
use crate::protocol::dtls::restart::Cookies;
use crate::sctp::Settings;
use crate::serve::dispatcher::Dispatcher;
use crate::serve::dispatcher::child::Options;
use crate::serve::handover::new_process::{self, Predecessor};
use crate::serve::loops::{self, Loops};
use crate::serve::mailbox;
use crate::serve::registry::Registry;
use crate::serve::shared::{Done, Shared};
use crate::serve::worker::pool::{Pool, Threads};
use crate::stream::TcpSettings;
use crate::sys::limits;
use crate::sys::sync::atomic::{AtomicBool, AtomicU64};
use crate::sys::sync::channel::bounded;
use crate::sys::sync::{Condvar, Mutex, thread};
use crate::tls::context::Contexts;

/// Stack size of a worker thread, in bytes: enough for OpenSSL's handshake and a handler's buffers.
const STACK_SIZE: usize = 256 * 1024;

/// Default number of spare threads for callbacks that block.
const SPARE_THREADS: usize = 64;

/// Threads that the pool leaves to the dispatcher and the program.
const OTHER_THREADS: u64 = 64;

/// Builds a [`Server`]. Everything except the listener has a default.
///
/// Peers are served by one thread each ([`start`](Self::start)) or by a few event loops
/// ([`start_events`](Self::start_events)), with sockets of their own or shared sockets ([`sockets`](Self::sockets)).
/// `docs/serving.md` in the repository describes what each combination costs and when to choose it.
///
/// ```
/// use peeloff::{Error, Identity, Peer, Server};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = Server::builder()
///     .listen("dtls://127.0.0.1:0")
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
    /// The error of the first text that is not an address.
    wrong_address: Option<AddressError>,
    credentials: Credentials,
    limits: Limits,
    timeouts: Timeouts,
    options: Options,
    socket_options: SocketOptions,
    sctp: Settings,
    stream: TcpSettings,
    outbox: OutboxLimits,
    udp_proof: bool,
    connection_ids: Option<ConnectionIds>,
    stack_size: usize,
    batch: bool,
    sockets: Option<Sockets>,
    event_loops: usize,
    spare_threads: usize,
    /// The process whose server this one takes over.
    take_over: Option<Predecessor>,
}

impl Server {
    /// Returns a builder with the defaults.
    pub fn builder() -> ServerBuilder {
        ServerBuilder {
            listen: Vec::new(),
            wrong_address: None,
            credentials: Credentials::default(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            options: Options::default(),
            socket_options: SocketOptions::default(),
            sctp: Settings::default(),
            stream: TcpSettings::default(),
            outbox: OutboxLimits::default(),
            udp_proof: false,
            connection_ids: None,
            stack_size: STACK_SIZE,
            batch: true,
            sockets: None,
            event_loops: loops::default_loops(),
            spare_threads: SPARE_THREADS,
            take_over: None,
        }
    }
}

impl ServerBuilder {
    /// Listens on this address, such as `"dtls://127.0.0.1:4433"` or an [`Address`]; may be called several times. A
    /// wildcard (`*`, `0.0.0.0`, `[::]`) serves every address of the host, and answers come from the address that the
    /// peer contacted. [`start`](Self::start) fails with [`StartError::Address`] if the text is not an address.
    pub fn listen(self, address: impl TryInto<Address, Error: Into<AddressError>>) -> Self {
        self.listen_to(address.try_into().map_err(Into::into), false)
    }

    /// Listens like [`listen`](Self::listen), for `tcp://` and `tls://` behind a proxy. Each connection begins with a
    /// header of the [PROXY protocol](https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt), version 2, which
    /// contains the client's address; limits and [`PeerHandler::admit`] apply to that address. Make sure that only the
    /// proxy can reach the listener, because any other host that reaches it can claim to be any client.
    pub fn listen_proxied(self, address: impl TryInto<Address, Error: Into<AddressError>>) -> Self {
        self.listen_to(address.try_into().map_err(Into::into), true)
    }

    /// Listens on a socket that is already bound, made by the program itself or by a parent such as systemd
    /// ([`inherited_descriptor`](crate::inherited_descriptor)). May be called several times. The server closes the
    /// socket when it shuts down.
    ///
    /// `udp://` and `dtls://` take a UDP socket, `tcp://` and `tls://` a TCP socket, and the SCTP schemes a one-to-many
    /// SCTP socket (SOCK_SEQPACKET), all of AF_INET or AF_INET6. The server calls listen(2) on a TCP or SCTP socket
    /// that does not listen yet. The socket keeps its options, including IPV6_V6ONLY, and
    /// [`socket_options`](Self::socket_options) is not called for it. But the server sets the options that it needs:
    ///
    /// * All: close-on-exec; SO_LINGER, SO_RCVTIMEO and SO_SNDTIMEO are turned off.
    /// * UDP: SO_REUSEADDR and packet information. The sockets of peers share the port, so this process must be allowed
    ///   to bind it (CAP_NET_BIND_SERVICE below 1024). If further sockets share the port by SO_REUSEPORT, these need
    ///   SO_REUSEADDR too. As with the server's own listeners, other programs that set SO_REUSEADDR can then bind the
    ///   port as well. The sockets of peers do not inherit options of this socket, so a socket that is bound to a
    ///   device (SO_BINDTODEVICE) is refused.
    /// * TCP: TCP_NODELAY and O_NONBLOCK.
    /// * SCTP: the settings of [`sctp`](Self::sctp), including buffers, as on the server's own listeners. Associations
    ///   that exist already keep their parameters.
    ///
    /// [`start`](Self::start) fails with [`StartError::UnfitSocket`] if the server cannot use the socket.
    ///
    /// ```
    /// use std::net::UdpSocket;
    ///
    /// use peeloff::{Error, Peer, Scheme, Server};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// let address = socket.local_addr()?;
    /// let server = Server::builder()
    ///     .listen_on(Scheme::Udp, socket)
    ///     .start(|peer: &mut Peer| -> Result<(), Error> { Ok(()) })?;
    /// assert_eq!(server.addresses()[0].to_string(), format!("udp://{address}"));
    /// # server.handle().shutdown(std::time::Duration::ZERO);
    /// # Ok(()) }
    /// ```
    pub fn listen_on(self, scheme: Scheme, socket: impl Into<OwnedFd>) -> Self {
        self.listen_to_socket(scheme, socket.into(), false)
    }

    /// Listens on a bound socket as [`listen_on`](Self::listen_on) does, behind a proxy as
    /// [`listen_proxied`](Self::listen_proxied) does.
    pub fn listen_proxied_on(self, scheme: Scheme, socket: impl Into<OwnedFd>) -> Self {
        self.listen_to_socket(scheme, socket.into(), true)
    }

    fn listen_to_socket(mut self, scheme: Scheme, socket: OwnedFd, proxied: bool) -> Self {
        self.listen.push(Listen { on: Endpoint::Socket(scheme, socket), proxied });
        self
    }

    /// Adds an address, or keeps the first error for `start` to report.
    fn listen_to(mut self, address: Result<Address, AddressError>, proxied: bool) -> Self {
        match address {
            Ok(address) => self.listen.push(Listen { on: Endpoint::Address(address), proxied }),
            Err(error) => {
                self.wrong_address.get_or_insert(error);
            }
        }
        self
    }

    /// Adds a certificate and key for all TLS and DTLS listeners; as [`Credentials::identity`].
    pub fn identity(mut self, identity: Identity) -> Self {
        self.credentials.identities.push(identity);
        self
    }

    /// Sets all credentials and requirements of the server's handshakes, replacing earlier ones.
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = credentials;
        self
    }

    /// Sets whether clients must show a certificate; as [`Credentials::client_auth`].
    pub fn client_auth(mut self, auth: ClientAuth) -> Self {
        self.credentials.client_auth = auth;
        self
    }

    /// Accepts pre-shared keys; as [`Credentials::psk`].
    pub fn psk(mut self, lookup: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        self.credentials.psk = Some(Arc::new(lookup));
        self
    }

    /// Sets the limits on the number and rate of peers.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the timeouts.
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// Sets the parameters of SCTP associations.
    pub fn sctp(mut self, settings: Settings) -> Self {
        self.sctp = settings;
        self
    }

    /// Sets the parameters of TCP connections.
    pub fn tcp(mut self, settings: TcpSettings) -> Self {
        self.stream = settings;
        self
    }

    /// Sets whether peers on plain UDP have to prove their address before they are sent more than three times the bytes
    /// that came from it, headers included (RFC 8085 §3.1). The proof is a message with
    /// [`Peer::proof_token`](crate::Peer::proof_token) in it, which the handler asks for in its own protocol. A handler
    /// that answers each message with one that is no longer needs no proof. A message beyond the limit is not sent:
    /// [`Error::Unproven`](crate::Error::Unproven). Default: `false`.
    pub fn udp_proof(mut self, needed: bool) -> Self {
        self.udp_proof = needed;
        self
    }

    /// Offers connection IDs (RFC 9146) to DTLS clients that support them, so that a client whose address changes keeps
    /// its association. [`Peer::peer_address`](crate::Peer::peer_address) then returns the new address, and
    /// [`PeerEvents::address_changed`](crate::PeerEvents::address_changed) reports the change. The limits continue to
    /// count a peer at the address at which it was admitted. Default: none.
    pub fn connection_ids(mut self, connection_ids: ConnectionIds) -> Self {
        self.connection_ids = Some(connection_ids);
        self
    }

    /// Sets how much may wait for a peer that does not take messages at the moment
    /// ([`Sender::post`](crate::Sender::post)).
    pub fn outbox(mut self, bound: OutboxLimits) -> Self {
        self.outbox = bound;
        self
    }

    /// Sets whether `::` excludes IPv4 (IPV6_V6ONLY). Default: `false`, dual-stack.
    pub fn v6_only(mut self, v6_only: bool) -> Self {
        self.options.v6_only = v6_only;
        self
    }

    /// Sets whether the server may listen on addresses that the host does not have yet (IP_FREEBIND). Default: `false`.
    pub fn freebind(mut self, freebind: bool) -> Self {
        self.options.freebind = freebind;
        self
    }

    /// Sets a hook for options of the sockets that the server makes, such as the DSCP, the mark or buffer sizes. The
    /// server calls it for each listener and for the socket of each peer ([`NewSocket::role`] distinguishes them),
    /// after it has set its own options.
    ///
    /// The hook is called for a listener before it is bound; for a UDP peer's socket before it is bound and connected;
    /// and for an accepted TCP connection and an SCTP association after the peer was admitted and before anything is
    /// read. UDP peers inherit no options of their listener. TCP connections inherit the options that Linux copies,
    /// including the DSCP, the mark, buffers and keepalive, and the listener's buffers determine the window that TCP
    /// offers. SCTP associations inherit the listener's buffers; [`Settings`] has more of their options, including the
    /// DSCP. Some sockets are made to find a free port or a better method and are closed at once, so the hook may be
    /// called several times for one address or peer.
    ///
    /// The hook runs on the thread that calls [`start`](Self::start) and then on the dispatcher thread, where it must
    /// not block, because no new peer is admitted meanwhile. It must not read, write, bind, connect, shut down or keep
    /// the socket. It must not change what the library relies on: the blocking mode (O_NONBLOCK), SO_REUSEADDR,
    /// SO_REUSEPORT and the program of that group, the timeouts (SO_RCVTIMEO, SO_SNDTIMEO), SO_LINGER, packet
    /// information (IP_PKTINFO, IPV6_RECVPKTINFO), IPV6_V6ONLY and, on SCTP, the notifications. An option that affects
    /// routing, such as SO_BINDTODEVICE, must be set for both roles or for none.
    ///
    /// An error or a panic in the hook refuses the peer ([`Refusal::SocketOptions`](crate::Refusal::SocketOptions));
    /// for a listener, `start` fails with [`StartError::SocketOptions`]. With a wildcard address the server also makes
    /// listeners for single addresses while it runs; if the hook fails for one of those, peers are served without it.
    ///
    /// ```
    /// use peeloff::{Error, Peer, Server, SocketRole};
    /// use socket2::SockRef;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// /// Expedited forwarding (RFC 3246). The DSCP is the upper six bits of the octet.
    /// const EF: u32 = 46 << 2;
    ///
    /// let server = Server::builder()
    ///     .listen("udp://127.0.0.1:0")
    ///     .socket_options(|socket| {
    ///         let options = SockRef::from(socket);
    ///         if socket.role() == SocketRole::Peer {
    ///             options.set_recv_buffer_size(1 << 20)?;
    ///         }
    ///         options.set_tos_v4(EF)
    ///     })
    ///     .start(|peer: &mut Peer| -> Result<(), Error> { Ok(()) })?;
    /// # server.handle().shutdown(std::time::Duration::ZERO);
    /// # Ok(()) }
    /// ```
    pub fn socket_options(
        mut self,
        hook: impl Fn(&NewSocket<'_>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.socket_options = SocketOptions::new(hook);
        self
    }

    /// Sets the stack size of a worker thread, in bytes. Default: 256 KiB, of which only the used pages take memory.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = bytes;
        self
    }

    /// Sets whether worker threads run under SCHED_BATCH
    /// ([sched(7)](https://man7.org/linux/man-pages/man7/sched.7.html)). Default: `true`. A worker that wakes up then
    /// does not preempt the running thread: it waits until that thread blocks or has used its time slice of some
    /// milliseconds. So workers do not interrupt each other in the middle of a message, which saves 6 to 18 % of the
    /// cost of an echo with 64 workers on a processor. `false` suits servers on which handlers, or other programs on
    /// the machine, compute for long while other peers need an answer faster than that. Threads and processes that a
    /// handler starts inherit the policy. A process that was started under a policy other than SCHED_OTHER keeps it.
    pub fn sched_batch(mut self, batch: bool) -> Self {
        self.batch = batch;
        self
    }

    /// Sets whether UDP and DTLS peers have sockets of their own. By default they do with [`start`](Self::start), and
    /// share sockets with [`start_events`](Self::start_events).
    pub fn sockets(mut self, sockets: Sockets) -> Self {
        self.sockets = Some(sockets);
        self
    }

    /// Sets the number of event loops, each of which has a thread: 1 to 256. Default: one for each processor that the
    /// process may use ([`std::thread::available_parallelism`]).
    pub fn event_loops(mut self, loops: usize) -> Self {
        self.event_loops = loops.clamp(1, 256);
        self
    }

    /// Sets the maximum number of threads besides those of the event loops. Each callback that blocks for more than
    /// some milliseconds takes one until it returns. When none is left, a blocking callback delays the other peers of
    /// its loop ([`Stats::loops_held_up`](crate::Stats::loops_held_up)). Default: 64.
    pub fn spare_threads(mut self, threads: usize) -> Self {
        self.spare_threads = threads;
        self
    }

    /// Takes over the server of another process, which calls [`Handle::hand_over`]. The starting call then returns when
    /// this process serves.
    ///
    /// If the other process has a listener at one of this server's addresses, in the same scheme, that listener is
    /// taken over as it is, so nothing in its queue is lost; port 0 matches any port. Such an address needs no
    /// [`listen_on`](Self::listen_on). Other addresses are bound. Peers that share the sockets of such listeners come
    /// along if their callbacks support it ([`start_events`](Self::start_events), [`PeerEvents::save`]), regardless of
    /// the [`Limits`]. A group of shared sockets keeps its size, and the event loops divide the sockets among
    /// themselves; if there are more loops than sockets, some loops have none. Session tickets and cookies of the other
    /// process are accepted.
    ///
    /// `start` fails with [`StartError::TakeOver`] if the other end is not such a process or gives up. After that
    /// error, and after any other, the other process continues to serve.
    pub fn take_over(mut self, predecessor: Predecessor) -> Self {
        self.take_over = Some(predecessor);
        self
    }

    /// Binds the listeners and starts the dispatcher thread. Returns when peers can connect. The handler runs on a
    /// separate thread for each peer.
    ///
    /// # Errors
    ///
    /// [`StartError`], after which nothing is left running or bound.
    pub fn start(self, handler: impl PeerHandler) -> Result<Server, StartError> {
        self.run(Arc::new(handler), None)
    }

    /// Binds the listeners and starts the threads. Returns when peers can connect. The callbacks run on the threads of
    /// the event loops, each of which serves many peers.
    ///
    /// A callback that blocks delays only its own peer: after some milliseconds a spare thread continues with the other
    /// peers of its loop ([`spare_threads`](Self::spare_threads)). The same holds for callbacks during a handshake,
    /// such as the lookup of a pre-shared key. [`PeerEvents::admit`] must not block, because at that time there is no
    /// peer that could be separated from its loop.
    ///
    /// # Errors
    ///
    /// [`StartError`], after which nothing is left running or bound.
    pub fn start_events(self, events: impl PeerEvents) -> Result<Server, StartError> {
        let events = Arc::new(events);
        let handler = Arc::new(Callbacks::shared(Arc::clone(&events)));
        self.run(handler, Some(Arc::new(events)))
    }

    fn run(
        self,
        handler: Arc<dyn PeerHandler>,
        events: Option<Arc<dyn AnyEvents>>,
    ) -> Result<Server, StartError> {
        if let Some(error) = self.wrong_address {
            return Err(error.into());
        }
        if self.listen.is_empty() {
            return Err(StartError::NoListener);
        }
        let secure = self.listen.iter().any(|listen| listen.scheme().is_secure());
        if secure && self.credentials.is_empty() {
            return Err(StartError::NoIdentity);
        }
        let offers = self.take_over;
        let keys = match &offers {
            Some(offers) => offers.keys.clone(),
            None => SharedKeys::random()?,
        };
        let schemes = self.listen.iter().map(Listen::scheme);
        let contexts = Contexts::new(&self.credentials, &keys, schemes)?;
        let shares =
            self.sockets.unwrap_or(if events.is_some() { Sockets::Shared } else { Sockets::PerPeer });
        let loops = (shares == Sockets::Shared).then_some(self.event_loops);
        let mut listeners = Listeners { loops, offers, ..Listeners::default() };
        for listen in self.listen {
            let hook = self.socket_options.of(listen.scheme());
            let options = Options { hook, ..self.options.clone() };
            listeners.bind(listen, options, &self.sctp)?;
        }
        let Listeners { udp, shared: sharing, sctp, tcp, addresses, offers, exports, .. } = listeners;
        if self.connection_ids.is_some() {
            sharing.iter().for_each(SharedListener::steer_by_connection_id);
        }
        let io = |doing: &str| {
            let doing = doing.to_owned();
            move |source: io::Error| StartError::Io { doing, source }
        };
        let random = |error: openssl::error::ErrorStack| io("reading random bytes")(error.into());
        let (mailbox, receiver) = mailbox::mailbox().map_err(io("making the dispatcher's mailbox"))?;
        let mut key = [0; 16];
        openssl::rand::rand_bytes(&mut key).map_err(random)?;
        let (first, second) = key.split_at(8);
        let word = |bytes: &[u8]| bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        let most = limits::thread_limit().unwrap_or(16_000).saturating_sub(OTHER_THREADS);
        let (running, stopped) = bounded(0);
        let running = Arc::new(running);
        let shared = Arc::new(Shared {
            handler,
            registry: Registry::new(self.limits, (word(first), word(second))),
            counters: Arc::default(),
            by_listener: ByListener::new(&addresses),
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
            connection_ids: self.connection_ids,
            mailbox,
            max_workers: most,
            takes_threads: events.is_none(),
            takes_descriptors: !(udp.is_empty() && sctp.is_empty() && tcp.is_empty()),
            expirations: Mutex::new(self.credentials.expirations()),
            began: Instant::now(),
            quiet_peers: AtomicU64::new(0),
            trimmed: AtomicU64::new(0),
            handler_started: AtomicBool::new(false),
            addresses,
            exports: Mutex::new(exports),
            descriptors: Mutex::default(),
            handing_over: parking_lot::Mutex::default(),
            deciding: parking_lot::Mutex::default(),
            predecessor: OnceLock::new(),
            successor: OnceLock::new(),
            done: Done { report: Mutex::default(), changed: Condvar::new(), stopped },
        });
        let threads = shared.takes_threads.then_some(most);
        super::capacity::check(&self.limits, threads, shared.takes_descriptors)?;
        if secure {
            warn_of_openssl();
        }
        let counters = Arc::clone(&shared.counters);
        let threads = Threads {
            name: "peeloff-w",
            gauge: |counters| &counters.workers,
            stack_size: self.stack_size,
            batch: self.batch,
            idle: shared.timeouts.worker_idle,
            most,
        };
        let pool = Arc::new(Pool::new(counters, threads));
        let mut loops = None;
        if events.is_some() || !sharing.is_empty() {
            let settings = loops::Settings {
                loops: self.event_loops,
                spares: self.spare_threads,
                stack_size: self.stack_size,
                paused: offers.is_some(),
            };
            let started = Loops::start(&shared, events.as_ref(), sharing, &settings, &pool, &running)
                .map_err(io("starting the event loops"))?;
            loops = Some(Arc::new(started));
        }
        let dispatcher = Dispatcher::new(Arc::clone(&shared), receiver, pool, loops.clone(), udp, sctp, tcp)
            .map_err(io("setting up the dispatcher"))?;
        let (begin, may_begin) = bounded(1);
        let run = move || {
            // Not reached if another process continues to serve.
            if may_begin.recv().is_ok() {
                dispatcher.run();
            }
            // The dispatcher has closed its listeners by now.
            drop(running);
        };
        thread::Builder::new()
            .name("peeloff-disp".to_owned())
            .spawn(run)
            .map_err(io("starting the dispatcher thread"))?;
        // Nothing can fail after this point, so the other process can release the server.
        let taken = offers.map(|offers| offers.finish(&shared, loops.as_ref(), events.as_ref())).transpose();
        if let (Err(_), Some(loops)) = (&taken, &loops) {
            loops.stop();
        }
        let predecessor = taken?;
        let _ = begin.try_send(());
        if let Some(relay) = predecessor {
            if let Some(loops) = &loops {
                loops.resume();
            }
            new_process::report_and_relay(&shared, loops.clone(), relay);
        }
        Ok(Server { handle: Handle { shared, loops }, detached: false })
    }
}

/// Warns if OpenSSL was built from source: version 3.6.3 lacks fixes of 2026 that distributions have backported
/// (CVE-2026-84782, CVE-2026-75806 and CVE-2026-54874). The framework's own checks prevent all three.
fn warn_of_openssl() {
    const LAST_WITHOUT_FIXES: i64 = 0x3060_0030;
    if cfg!(feature = "vendored") && openssl::version::number() <= LAST_WITHOUT_FIXES {
        tracing::warn!(
            version = openssl::version::version(),
            "this OpenSSL was built from source and lacks DTLS fixes that distributions have"
        );
    }
}

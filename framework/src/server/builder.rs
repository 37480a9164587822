//! How a server is made: what it listens on, with what, and its start.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
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
use crate::new_socket::{NewSocket, SocketOptions};
use crate::observe::ByListener;
use crate::outbox::OutboxLimits;
use crate::protocol::dtls::restart::Cookies;
use crate::sctp::Settings;
use crate::serve::dispatcher::child::Options;
use crate::serve::dispatcher::{Dispatcher, RESERVED_FDS};
use crate::serve::handover::taking::Predecessor;
use crate::serve::loops::{self, Loops};
use crate::serve::mailbox;
use crate::serve::registry::Registry;
use crate::serve::shared::{Done, Shared};
use crate::serve::worker::pool::{Pool, Threads};
use crate::stream::TcpSettings;
use crate::sys::eventfd::EventFd;
use crate::sys::limits;
use crate::sys::sync::atomic::{AtomicBool, AtomicU64};
use crate::sys::sync::channel::bounded;
use crate::sys::sync::{Condvar, Mutex, thread};
use crate::tls::context::Contexts;

/// Stack of a worker thread, in bytes: room for OpenSSL's handshake and a handler's buffers.
const STACK_SIZE: usize = 256 * 1024;

/// Spare threads for callbacks that block.
const SPARE_THREADS: usize = 64;

/// Threads kept out of the pool's reach: the dispatcher and the program's own.
const OTHER_THREADS: u64 = 64;

/// What a server is made of. Everything has a default but the listener.
///
/// Peers are served by a thread for each ([`start`](Self::start)) or by a few event loops
/// ([`start_events`](Self::start_events)), with sockets of their own or shared ones ([`sockets`](Self::sockets)). `docs/serving.md` in
/// the repository says what each combination costs and when to choose which.
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
    /// The first text that is no address.
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
    /// A builder with the defaults.
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
    /// wildcard (`*`, `0.0.0.0`, `[::]`) serves every address of the host, and answers from the one that was asked.
    /// [`start`](Self::start) fails with [`StartError::Address`] where the text is no address.
    pub fn listen(self, address: impl TryInto<Address, Error: Into<AddressError>>) -> Self {
        self.listen_to(address.try_into().map_err(Into::into), false)
    }

    /// Listens like [`listen`](Self::listen), for `tcp://` and `tls://` behind a proxy: each connection begins with a
    /// header of the [PROXY protocol](https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt), version 2,
    /// which says who the peer is; limits and [`PeerHandler::admit`] are asked about that one. Only the proxy may
    /// be able to reach such an address, because anybody else who can may claim to be any peer.
    pub fn listen_proxied(self, address: impl TryInto<Address, Error: Into<AddressError>>) -> Self {
        self.listen_to(address.try_into().map_err(Into::into), true)
    }

    /// Listens on this socket, which something else made and bound to its address: the program itself, or a parent such as
    /// systemd ([`inherited_descriptor`](crate::inherited_descriptor)). May be called several times. The server closes the
    /// socket when it shuts down.
    ///
    /// `udp://` and `dtls://` take a socket of UDP, `tcp://` and `tls://` one of TCP, and those of SCTP a one-to-many
    /// socket (SOCK_SEQPACKET), all of AF_INET or AF_INET6. One of TCP or SCTP that does not listen yet is made to. Its
    /// options stay as they are, IPV6_V6ONLY too, and [`socket_options`](Self::socket_options) is not called for it; but
    /// the server sets what it needs:
    ///
    /// * All: close-on-exec; SO_LINGER, SO_RCVTIMEO and SO_SNDTIMEO are taken off.
    /// * UDP: SO_REUSEADDR and packet information. The sockets of peers share the port, so this process must
    ///   be allowed to bind it (CAP_NET_BIND_SERVICE below 1024), and where further sockets share it by SO_REUSEPORT,
    ///   these need SO_REUSEADDR too. As with a listener of the
    ///   server's own, programs that set it too can then bind the port as well.
    ///   Peers' sockets have none of its options, so one that is bound to a device (SO_BINDTODEVICE) is refused.
    /// * TCP: TCP_NODELAY and O_NONBLOCK.
    /// * SCTP: what [`sctp`](Self::sctp) says, buffers too, as on a listener of its own. Associations that are there already are served with
    ///   what they have.
    ///
    /// [`start`](Self::start) fails with [`StartError::UnfitSocket`] where the socket is of no use.
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

    /// Listens on this socket as [`listen_on`](Self::listen_on) does, and behind a proxy as
    /// [`listen_proxied`](Self::listen_proxied).
    pub fn listen_proxied_on(self, scheme: Scheme, socket: impl Into<OwnedFd>) -> Self {
        self.listen_to_socket(scheme, socket.into(), true)
    }

    fn listen_to_socket(mut self, scheme: Scheme, socket: OwnedFd, proxied: bool) -> Self {
        self.listen.push(Listen { on: Endpoint::Socket(scheme, socket), proxied });
        self
    }

    /// Keeps the first address that is wrong for `start` to report.
    fn listen_to(mut self, address: Result<Address, AddressError>, proxied: bool) -> Self {
        match address {
            Ok(address) => self.listen.push(Listen { on: Endpoint::Address(address), proxied }),
            Err(error) => {
                self.wrong_address.get_or_insert(error);
            }
        }
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
    pub fn tcp(mut self, settings: TcpSettings) -> Self {
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

    /// Gives connection IDs (RFC 9146) to DTLS clients that offer them, so that a client whose address changes stays the same
    /// association; [`Peer::peer_address`](crate::Peer::peer_address) is where it is by then, and
    /// [`PeerEvents::address_changed`](crate::PeerEvents::address_changed) tells. The limits go on counting a peer at the
    /// address where it was admitted. Default: none.
    pub fn connection_ids(mut self, connection_ids: ConnectionIds) -> Self {
        self.connection_ids = Some(connection_ids);
        self
    }

    /// How much may wait for a peer that takes nothing at the moment ([`Sender::post`](crate::Sender::post)).
    pub fn outbox(mut self, bound: OutboxLimits) -> Self {
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

    /// Sets options of the sockets that the server makes, such as the DSCP, the mark or the sizes of buffers: of each
    /// listener and of the socket of each peer ([`NewSocket::role`] says which). The library's own options are set by then.
    ///
    /// A listener is shown before it is bound, a UDP peer's socket before it is bound and connected, an accepted TCP connection
    /// and an SCTP association after the peer was admitted and before anything is read. UDP peers have nothing
    /// of their listener's options. TCP connections begin with the listener's options that Linux copies, the DSCP, the
    /// mark, buffers and keepalive among them, and the listener's buffers set the window that TCP offers. SCTP
    /// associations begin with the listener's buffers; [`Settings`] has more of theirs, the DSCP too.
    /// Some sockets are made to find a free port or a better way and closed at once, so the function may be called several
    /// times for one address or peer.
    ///
    /// It runs on the thread that calls [`start`](Self::start) and then on the dispatcher thread, where it must not block:
    /// no new peer gets in meanwhile. It must not read, write, bind, connect, shut down or keep the socket, and must leave alone
    /// what the library relies on: the blocking mode (O_NONBLOCK), SO_REUSEADDR, SO_REUSEPORT and the program of that
    /// group, the timeouts (SO_RCVTIMEO, SO_SNDTIMEO), SO_LINGER, packet information (IP_PKTINFO, IPV6_RECVPKTINFO), IPV6_V6ONLY and, on SCTP, the
    /// notifications. What decides where datagrams go, as SO_BINDTODEVICE does, it sets for both roles or for none.
    ///
    /// An error or a panic refuses the peer ([`Refusal::SocketOptions`](crate::Refusal::SocketOptions)); for a listener
    /// `start` fails with [`StartError::SocketOptions`]. Under a wildcard the server also makes listeners for single addresses
    /// while it runs; where the hook fails for one of those, peers are served without it.
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
    pub fn sched_batch(mut self, batch: bool) -> Self {
        self.batch = batch;
        self
    }

    /// Sets whether UDP and DTLS peers have sockets of their own. Default: with [`start`](Self::start) they have, with
    /// [`start_events`](Self::start_events) they share.
    pub fn sockets(mut self, sockets: Sockets) -> Self {
        self.sockets = Some(sockets);
        self
    }

    /// Sets how many event loops there are, each of which has a thread. 1 to 256. Default: one for each processor that the
    /// process may use ([`std::thread::available_parallelism`]).
    pub fn event_loops(mut self, loops: usize) -> Self {
        self.event_loops = loops.clamp(1, 256);
        self
    }

    /// Sets how many threads there may be besides those of the event loops. Each callback that blocks for more than some
    /// milliseconds takes one, until it returns. While none is left, a callback that blocks delays the other peers of its loop
    /// ([`Stats::loops_held_up`](crate::Stats::loops_held_up)). Default: 64.
    pub fn spare_threads(mut self, threads: usize) -> Self {
        self.spare_threads = threads;
        self
    }

    /// Takes the server of another process over, which calls [`Handle::hand_over`]. The starting call then returns when this process
    /// serves.
    ///
    /// Each listener that the other process has at an address of this one's, in the same scheme, is taken as it is, so nothing in
    /// its queue is lost; port 0 stands for any port. A [`listen_on`](Self::listen_on) of such an address is not needed. Other
    /// addresses are bound. The peers come along that share the sockets of such listeners
    /// ([`start_events`](Self::start_events), [`PeerEvents::save`]), whatever the [`Limits`] say. A
    /// group of shared sockets keeps their number, which the event loops divide among themselves; with
    /// more loops than that some have no shared sockets. Session tickets and cookies of the other process are accepted.
    ///
    /// `start` fails with [`StartError::TakeOver`] where the other process is none or gives up; then, and
    /// with any other error, that one goes on to serve.
    pub fn take_over(mut self, predecessor: Predecessor) -> Self {
        self.take_over = Some(predecessor);
        self
    }

    /// Binds the listeners and starts the dispatcher thread. Returns when peers can come. The handler runs on a thread of its own
    /// for each peer.
    ///
    /// # Errors
    ///
    /// [`StartError`], after which nothing is left behind.
    pub fn start(self, handler: impl PeerHandler) -> Result<Server, StartError> {
        self.run(Arc::new(handler), None)
    }

    /// Binds the listeners and starts the threads. Returns when peers can come. The callbacks run on a few threads, those of the
    /// event loops, each of which serves many peers.
    ///
    /// A callback that blocks delays nobody but its own peer: after some milliseconds a spare thread goes on with
    /// the other peers of its loop ([`spare_threads`](Self::spare_threads)). What runs in a handshake, such as
    /// the lookup of a pre-shared key, does not delay others for longer either. [`PeerEvents::admit`] must not block: it runs before there
    /// is a peer to take out.
    ///
    /// # Errors
    ///
    /// [`StartError`], after which nothing is left behind.
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
            settled: AtomicU64::new(0),
            trimmed: AtomicU64::new(0),
            handlers_run: AtomicBool::new(false),
            addresses,
            exports: Mutex::new(exports),
            descriptors: Mutex::default(),
            giving: parking_lot::Mutex::default(),
            predecessor: OnceLock::new(),
            successor: OnceLock::new(),
            done: Done { report: Mutex::default(), changed: Condvar::new(), stopped },
        });
        check_limits(&self.limits, most)?;
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
        let dispatcher = Dispatcher::new(Arc::clone(&shared), inlet, pool, loops.clone(), udp, sctp, tcp)
            .map_err(io("setting up the dispatcher"))?;
        let (begin, may_begin) = bounded(1);
        let run = move || {
            // Not where another process goes on to serve.
            if may_begin.recv().is_ok() {
                dispatcher.run();
            }
            // By now its listeners are closed.
            drop(running);
        };
        thread::Builder::new()
            .name("peeloff-disp".to_owned())
            .spawn(run)
            .map_err(io("starting the dispatcher thread"))?;
        // Nothing can fail any more, so that the other process can let go.
        if let Some(offers) = offers {
            let taken = offers.finish(&shared, loops.as_ref(), events.as_ref());
            if let (Err(_), Some(loops)) = (&taken, &loops) {
                loops.stop();
            }
            taken?;
            if let Some(loops) = &loops {
                loops.go_on();
            }
        }
        let _ = begin.try_send(());
        Ok(Server { handle: Handle { shared, loops }, detached: false })
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

//! The client: a blocking connect that returns the same [`Peer`] that a server's handler gets.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use openssl::ssl::SslContext;
use socket2::{Domain, Socket, Type};
use zeroize::Zeroizing;

use crate::address::{Address, AddressError, Host, Scheme};
use crate::association::Association;
use crate::config::Timeouts;
use crate::connection_ids::ConnectionIds;
use crate::credentials::{CaBundle, CipherSuites, Groups, Identity, PublicKey, RevocationList};
use crate::drive::opening::Opening;
use crate::drive::sctp::SctpSession;
use crate::drive::stream::StreamSession;
use crate::drive::{Session, handshake};
use crate::error::{ConnectError, EndReason, IdentityError, NoSctp};
use crate::net::Transport;
use crate::net::after;
use crate::net::sctp::SctpTransport;
use crate::net::sctp_setup::{configure, require_auth};
use crate::net::tcp::TcpTransport;
use crate::net::udp::UdpTransport;
use crate::new_socket::{HookFailed, NewSocket, SocketOptions};
use crate::observe::Counters;
use crate::outbox::OutboxLimits;
use crate::peer::{Opened, Parts, Peer};
use crate::protocol::dtls::handshake::Handshake;
use crate::protocol::sctp::dtls_sctp::DtlsSctp;
use crate::protocol::sctp::secure_sctp::SecureSctp;
use crate::protocol::sctp::tls_streams::TlsStreams;
use crate::sctp::{self, AssociationState, Notification, Options, Settings};
use crate::stream::TcpSettings;
use crate::sys;
use crate::sys::sync::atomic::Ordering;
use crate::tls::context::{self, ClientCredentials, Protocol};
use crate::tls::{Failure, Resume};

/// Connects to servers. By default the server's certificate must verify against the system's authorities and match the
/// host of the address.
///
/// ```no_run
/// use peeloff::{Client, CaBundle};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let authorities = CaBundle::from_file("ca.pem")?;
/// let mut peer = Client::builder().ca(authorities).connect("dtls://localhost:4433")?;
/// peer.send(b"hello")?;
/// let mut buffer = [0; 2048];
/// let answer = peer.recv(&mut buffer)?.map(|len| &buffer[..len]);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Client {
    credentials: ClientCredentials,
    server_name: Option<String>,
    resumption: bool,
    timeout: Duration,
    bind: Vec<SocketAddr>,
    socket_options: SocketOptions,
    sctp: Settings,
    stream: TcpSettings,
    outbox: OutboxLimits,
    connection_ids: Option<ConnectionIds>,
    /// Made by the first connect, because reading the system's authorities takes milliseconds.
    contexts: [OnceLock<SslContext>; 2],
}

impl Client {
    /// Returns a client with the defaults.
    pub fn builder() -> Self {
        Self {
            credentials: ClientCredentials::default(),
            server_name: None,
            resumption: true,
            timeout: Duration::from_secs(10),
            bind: Vec::new(),
            socket_options: SocketOptions::default(),
            sctp: Settings::default(),
            stream: TcpSettings::default(),
            outbox: OutboxLimits::default(),
            connection_ids: None,
            contexts: Default::default(),
        }
    }

    /// Trusts these authorities instead of the system's.
    #[must_use]
    pub fn ca(mut self, authorities: CaBundle) -> Self {
        self.credentials.authorities = Some(authorities);
        self.changed()
    }

    /// Refuses servers whose chain has a revoked certificate, also when their session is resumed. That may be the
    /// server's own certificate or an authority's. Every authority of a chain then needs a current list in `list`. With
    /// the authorities of [`ca`](Self::ca), [`connect`](Self::connect) fails if one of these has no list
    /// ([`IdentityError::NoListOf`](crate::IdentityError::NoListOf)).
    #[must_use]
    pub fn revoked(mut self, list: RevocationList) -> Self {
        self.credentials.revoked = Some(list);
        self.changed()
    }

    /// Accepts the server that has this key, and shows the bare key of the [identity](Self::identity) to a server that
    /// asks for one (raw public keys, RFC 7250). Certificates are then accepted only if a CA is set too. Needs OpenSSL
    /// 3.2; with an earlier version [`connect`](Self::connect) fails.
    #[must_use]
    pub fn raw_public_key(mut self, key: PublicKey) -> Self {
        self.credentials.raw_key = Some(key);
        self.changed()
    }

    /// Shows this certificate to a server that asks for one.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.credentials.identity = Some(identity);
        self.changed()
    }

    /// Uses a pre-shared key (RFC 4279) and, unless a CA is set too, nothing else. The identity has 1 to 256 bytes,
    /// none of them zero, and the key 1 to 512; [`connect`](Self::connect) fails with other values.
    #[must_use]
    pub fn psk(mut self, identity: &[u8], key: &[u8]) -> Self {
        self.credentials.psk = Some((identity.to_vec(), Zeroizing::new(key.to_vec())));
        self.changed()
    }

    /// Accepts any certificate from any server: an attacker on the path can read and change everything.
    #[must_use]
    pub fn danger_accept_any_certificate(mut self) -> Self {
        self.credentials.accept_any = true;
        self.changed()
    }

    /// Sets the protocols that this client supports, the preferred one first (ALPN, RFC 7301); [`Peer::alpn`] returns
    /// the negotiated one.
    #[must_use]
    pub fn alpn(mut self, protocols: &[&str]) -> Self {
        self.credentials.alpn = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        self.changed()
    }

    /// Sets the maximum size of a peer's certificate chain, in bytes of its Certificate message (RFC 5246 §7.4.2). A
    /// longer chain ends the handshake with alert 47 (illegal_parameter). Default: 16,384. Each half-open peer can make
    /// this side buffer that many bytes.
    #[must_use]
    pub fn max_cert_chain(mut self, bytes: usize) -> Self {
        self.credentials.max_cert_chain = Some(bytes);
        self.changed()
    }

    /// Sets the cipher suites to offer. Default: [`CipherSuites::default`]. [`connect`](Self::connect) fails if none
    /// fits the protocol ([`IdentityError::NoSuite`](crate::IdentityError::NoSuite)).
    #[must_use]
    pub fn cipher_suites(mut self, suites: CipherSuites) -> Self {
        self.credentials.algorithms.suites = suites;
        self.changed()
    }

    /// Sets the key agreement groups to offer. Default: OpenSSL's.
    #[must_use]
    pub fn groups(mut self, groups: Groups) -> Self {
        self.credentials.algorithms.groups = groups;
        self.changed()
    }

    /// Sets the SRTP profiles to offer on DTLS (RFC 5764 §4.1), in OpenSSL's spelling, separated by colons.
    #[must_use]
    pub fn srtp_profiles(mut self, profiles: &str) -> Self {
        self.credentials.srtp = Some(profiles.to_owned());
        self.changed()
    }

    /// Sets whether DTLS sessions keep their master secret, which [`Peer::export_keying_material`] needs; see
    /// [`Credentials::exporters`](crate::Credentials::exporters). Default: `false`.
    #[must_use]
    pub fn exporters(mut self, enabled: bool) -> Self {
        self.credentials.exporters = enabled;
        self.changed()
    }

    /// Sets whether a second connection to a server may resume the session of the first (RFC 5077, RFC 8446 §2.2),
    /// which costs both sides much less. This value and its clones keep the sessions of up to 1,024 servers. If the
    /// server's chain has expired or been revoked meanwhile, a full handshake takes place. A client that never
    /// [reads](Peer::recv) gets no TLS 1.3 session.
    ///
    /// On DTLS the client sends the last flight of a resumed handshake (RFC 5246 §7.3). If that flight is lost, the
    /// server repeats its own, and the client's next send or read answers. A client that does neither leaves the server
    /// waiting until its handshake times out. Default: `true`.
    #[must_use]
    pub fn resumption(mut self, wanted: bool) -> Self {
        self.resumption = wanted;
        self
    }

    /// Sets the name or address that the server's certificate must match, instead of the host of the address. It is
    /// also sent as server name indication (RFC 6066 §3).
    #[must_use]
    pub fn server_name(mut self, name: &str) -> Self {
        self.server_name = Some(name.to_owned());
        self
    }

    /// Sets how long [`connect`](Self::connect) may take for each address of the host. Default: 10 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the local address and port to connect from. SCTP can have several addresses with one port, one for each
    /// call; on other transports the last call counts.
    #[must_use]
    pub fn bind(mut self, local: SocketAddr) -> Self {
        self.bind.push(local);
        self
    }

    /// Sets a hook for options of the sockets that this client makes, such as the DSCP, the mark or buffer sizes. The
    /// hook is called before a socket is bound and connected, after the library has set its own options. It runs on the
    /// thread that connects. An SCTP association has two sockets, one to make it and one to keep it, and the hook is
    /// called for both. [`ServerBuilder::socket_options`](crate::ServerBuilder::socket_options) lists what it must not
    /// change, and has an example. An error or a panic makes [`connect`](Self::connect) fail
    /// ([`ConnectError::SocketOptions`]).
    #[must_use]
    pub fn socket_options(
        mut self,
        hook: impl Fn(&NewSocket<'_>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.socket_options = SocketOptions::new(hook);
        self
    }

    /// Sets the parameters of SCTP associations.
    #[must_use]
    pub fn sctp(mut self, settings: Settings) -> Self {
        self.sctp = settings;
        self
    }

    /// Sets the parameters of TCP connections.
    #[must_use]
    pub fn tcp(mut self, settings: TcpSettings) -> Self {
        self.stream = settings;
        self
    }

    /// Sets how much may wait for a server that does not take messages at the moment
    /// ([`Sender::post`](crate::Sender::post)).
    #[must_use]
    pub fn outbox(mut self, bound: OutboxLimits) -> Self {
        self.outbox = bound;
        self
    }

    /// Offers connection IDs (RFC 9146) on DTLS, so that a server that supports them recognizes this client when its
    /// address or port changes; [`Peer::change_port`] changes the port on purpose. Clients should use
    /// [`ConnectionIds::new`]`(0)`. Default: none.
    #[must_use]
    pub fn connection_ids(mut self, connection_ids: ConnectionIds) -> Self {
        self.connection_ids = Some(connection_ids);
        self
    }

    /// Connects to an address, such as `"dtls://localhost:4433"` or an [`Address`], and runs the handshake on the
    /// calling thread. Blocks until the handshake is complete. On plain UDP nothing is sent, so this succeeds even if
    /// no server runs there. On SCTP, the addresses of a list belong to one host, and all of them are tried for one
    /// association (sctp_connectx, RFC 6458 §9.9).
    ///
    /// # Errors
    ///
    /// [`ConnectError`]; if a name has several addresses, the error of the last one. [`ConnectError::Address`] if the
    /// text is not an address.
    pub fn connect(
        &self,
        address: impl TryInto<Address, Error: Into<AddressError>>,
    ) -> Result<Peer, ConnectError> {
        self.connect_to(&address.try_into().map_err(Into::into)?)
    }

    fn connect_to(&self, address: &Address) -> Result<Peer, ConnectError> {
        if let Some(name) = &self.server_name
            && (!(1..=255).contains(&name.len()) || name.contains('\0'))
        {
            return Err(IdentityError::BadServerName { name: name.clone() }.into());
        }
        if address.port == 0 {
            return Err(AddressError::PortZero(address.to_string()).into());
        }
        let found = address.resolve()?;
        if address.scheme.is_sctp() && !address.alternates.is_empty() {
            return self.connect_sctp(address, &found);
        }
        let mut outcome = None;
        for peer in found {
            let connected = match address.scheme {
                scheme if scheme.is_sctp() => self.connect_sctp(address, &[peer]),
                scheme if scheme.is_stream() => self.connect_tcp(address, peer),
                _ => self.connect_udp(address, peer),
            };
            match connected {
                Ok(peer) => return Ok(peer),
                Err(error) => outcome = Some(error),
            }
        }
        Err(outcome.unwrap_or_else(|| ConnectError::Io {
            peer: SocketAddr::from(([0, 0, 0, 0], address.port)),
            source: ErrorKind::AddrNotAvailable.into(),
        }))
    }

    fn connect_udp(&self, address: &Address, peer: SocketAddr) -> Result<Peer, ConnectError> {
        let failed = |source| ConnectError::Io { peer, source };
        let (socket, local) = self.open_udp(address.scheme, peer)?;
        let counters = Arc::new(Counters::default());
        let association = Association::new(address.scheme, local, peer, Arc::clone(&counters));
        let association = Arc::new(association.with_outbox(self.outbox));
        let transport = Transport::Udp(Box::new(UdpTransport::new(
            Arc::clone(&socket),
            association.info(),
            Arc::clone(&association.attention),
            Arc::clone(&counters),
            None,
        )));
        if address.scheme != Scheme::Dtls {
            let opening = Opening::Plain(Session::Plain(socket.into()));
            return self.open(association, transport, Ok(opening), None);
        }
        let name = self.name(address, peer);
        let resume = self.resume(address, peer, &name);
        let (context, deadline) = (self.context(Protocol::Dtls)?, after(self.timeout));
        let offer = self.connection_ids.map(|ids| ids.generate(0).and_then(|cid| ids.offer(cid)));
        let offer = offer.transpose().map_err(|error| failed(error.into()))?;
        let counted = Arc::clone(&counters);
        let handshake = Handshake::connect(context, Some(&name), resume.as_ref(), offer, counted, deadline);
        let opening = handshake.map(|handshake| Opening::Dtls(Box::new(handshake), socket.into()));
        self.open(association, transport, opening, resume.as_ref())
    }

    fn connect_tcp(&self, address: &Address, peer: SocketAddr) -> Result<Peer, ConnectError> {
        let failed = |source| ConnectError::Io { peer, source };
        let deadline = after(self.timeout);
        let domain = Domain::for_address(peer);
        let socket = Socket::new(domain, Type::STREAM, Some(socket2::Protocol::TCP)).map_err(failed)?;
        socket.set_tcp_nodelay(true).map_err(failed)?;
        self.prepare(address.scheme, &socket, peer)?;
        if let Some(&local) = self.bind.last() {
            socket.bind(&local.into()).map_err(|source| ConnectError::Bind { local, source })?;
        }
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        socket.connect_timeout(&peer.into(), left).map_err(|source| match source.kind() {
            ErrorKind::TimedOut => ConnectError::TimedOut { peer, timeout: self.timeout, unreachable: false },
            ErrorKind::ConnectionRefused => {
                ConnectError::Refused { peer, why: "nothing listens on that port".to_owned() }
            }
            _ => ConnectError::Io { peer, source },
        })?;
        let local = socket.local_addr().map_err(failed)?.as_socket();
        let local = local.ok_or_else(|| failed(ErrorKind::AddrNotAvailable.into()))?;
        let socket = Arc::new(socket);
        let counters = Arc::new(Counters::default());
        let association = Association::new(address.scheme, local, peer, Arc::clone(&counters));
        let association = Arc::new(association.with_outbox(self.outbox));
        let attention = Arc::clone(&association.attention);
        let transport =
            Transport::Tcp(TcpTransport::new(Arc::clone(&socket), attention, Arc::clone(&counters)));
        if !address.scheme.is_secure() {
            let session = Session::Stream(Box::new(StreamSession::plain(socket, &self.stream)));
            return self.open(association, transport, Ok(Opening::Plain(session)), None);
        }
        let name = self.name(address, peer);
        let resume = self.resume(address, peer, &name);
        let context = self.context(Protocol::Tls)?;
        let session = StreamSession::connect(context, socket, Some(&name), resume.as_ref(), &self.stream);
        let opening = session.map(|session| Opening::Tls(Box::new(session), deadline));
        self.open(association, transport, opening, resume.as_ref())
    }

    fn connect_sctp(&self, address: &Address, peers: &[SocketAddr]) -> Result<Peer, ConnectError> {
        let peer = peers[0];
        let deadline = after(self.timeout);
        let socket = self.associate(address.scheme, peers, deadline)?;
        let local = Options::of(&socket).local_addresses().unwrap_or_default();
        let local = local.first().copied().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
        let counters = Arc::new(Counters::default());
        let association = Association::new(address.scheme, local, peer, Arc::clone(&counters));
        let association = Arc::new(association.with_outbox(self.outbox));
        let socket = Arc::new(socket.into_socket());
        let attention = Arc::clone(&association.attention);
        let transport =
            SctpTransport::new(Arc::clone(&socket), peer, attention, Arc::clone(&counters), &self.sctp);
        let opening = match self.secure(address, peer, &socket, &counters)? {
            None => Opening::Plain(Session::Sctp(Box::new(SctpSession::plain(socket, &self.sctp)))),
            Some(secure) => Opening::Sctp(Box::new(SctpSession::secure(socket, secure, deadline))),
        };
        self.open(association, Transport::Sctp(Box::new(transport)), Ok(opening), None)
    }

    /// Runs the handshake. A client's peer has no idle timeout, so it lives until one side ends it.
    fn open(
        &self,
        association: Arc<Association>,
        mut transport: Transport,
        opening: Result<Opening, Failure>,
        resume: Option<&Resume<'_>>,
    ) -> Result<Peer, ConnectError> {
        let opened =
            opening.and_then(|opening| handshake::run(opening, &mut transport, &association.attention));
        let (session, summary) = opened.map_err(|failure| {
            resume.iter().for_each(|resume| resume.forget());
            let unreachable = matches!(&transport, Transport::Udp(transport) if transport.unreachable);
            self.failed(failure, association.peer, unreachable)
        })?;
        if let Session::Dtls(session, _) = &session {
            association.answers_in_send.store(session.keeps_flight(), Ordering::Relaxed);
        }
        let timeouts = Timeouts { idle: None, first_message: None, frame: None, ..Timeouts::default() };
        let opened = Opened { transport, session, summary };
        Ok(Peer::open(Parts { association, opened, timeouts, owner: None, driven: false }))
    }

    /// Returns the security layer of an association of this scheme, if it has one.
    fn secure(
        &self,
        address: &Address,
        peer: SocketAddr,
        socket: &Socket,
        counters: &Arc<Counters>,
    ) -> Result<Option<SecureSctp>, ConnectError> {
        let failed = |failure| self.failed(failure, peer, false);
        let name = self.name(address, peer);
        Ok(match address.scheme {
            Scheme::SctpTls => {
                let context = self.context(Protocol::Tls)?;
                let tls = TlsStreams::connect(context, Some(&name), self.sctp.tls_streams);
                Some(SecureSctp::Tls(Box::new(tls.map_err(failed)?)))
            }
            Scheme::SctpDtls => {
                require_auth(socket).map_err(failed)?;
                let context = self.context(Protocol::Dtls)?;
                let label_with_nul = self.sctp.dtls_label_with_nul;
                let dtls = DtlsSctp::connect(context, Some(&name), label_with_nul, Arc::clone(counters));
                Some(SecureSctp::Dtls(Box::new(dtls.map_err(failed)?)))
            }
            _ => None,
        })
    }

    /// Makes an association with the host that has these addresses, on a socket of its own.
    fn associate(
        &self,
        scheme: Scheme,
        peers: &[SocketAddr],
        deadline: Instant,
    ) -> Result<sctp::Socket, ConnectError> {
        let peer = peers[0];
        let failed = |source: io::Error| match NoSctp::is(&source) {
            true => ConnectError::NoSctp(NoSctp),
            false => ConnectError::Io { peer, source },
        };
        let refused = |why: &str| ConnectError::Refused { peer, why: why.to_owned() };
        let v6 = peers.iter().chain(&self.bind).any(SocketAddr::is_ipv6);
        let socket = sctp::Socket::one_to_many(v6).map_err(failed)?;
        configure(&socket, scheme, &self.sctp).map_err(failed)?;
        self.prepare(scheme, &socket, peer)?;
        if !self.bind.is_empty() {
            let local = self.bind[0];
            socket.bind(&self.bind).map_err(|source| ConnectError::Bind { local, source })?;
        }
        socket.set_nonblocking(true).map_err(failed)?;
        match socket.connect(peers) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(failed(error)),
        }
        socket.set_nonblocking(false).map_err(failed)?;
        let mut notification = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ConnectError::TimedOut { peer, timeout: self.timeout, unreachable: false });
            }
            socket.set_read_timeout(Some(left)).map_err(failed)?;
            let received = match sys::sctp::recv(socket.as_fd(), &mut [], &mut notification, true) {
                Ok(received) => received,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    continue;
                }
                Err(error) => return Err(failed(error)),
            };
            if !received.notification {
                continue;
            }
            match Notification::parse(&notification) {
                Ok(Notification::AssociationChanged { state: AssociationState::Up, association, .. }) => {
                    match socket.peel_off(association) {
                        // The association is already over; the next notification gives the reason.
                        Err(error) if error.kind() == ErrorKind::InvalidInput => {}
                        peeled => {
                            let peeled = peeled.map_err(failed)?;
                            self.prepare(scheme, &peeled, peer)?;
                            return Ok(peeled);
                        }
                    }
                }
                Ok(change @ Notification::AssociationChanged { .. }) => {
                    let cause = change.cause();
                    return Err(refused(cause.as_deref().unwrap_or("it was refused, or nobody answered")));
                }
                _ => {}
            }
        }
    }

    /// Calls the user's hook for a socket.
    fn prepare(&self, scheme: Scheme, socket: &impl AsFd, peer: SocketAddr) -> Result<(), ConnectError> {
        let local = if scheme.is_sctp() { self.bind.first() } else { self.bind.last() };
        self.socket_options.of(scheme).client(socket, local.copied(), peer).map_err(|error| {
            match HookFailed::take(error) {
                Ok(HookFailed { source, .. }) => ConnectError::SocketOptions { peer, source },
                Err(source) => ConnectError::Io { peer, source },
            }
        })
    }

    /// Drops contexts and sessions after a change of credentials, because the sessions were verified with the old ones.
    fn changed(mut self) -> Self {
        self.contexts = Default::default();
        self.credentials.sessions = Default::default();
        self
    }

    /// Returns the key under which sessions are kept: the verified name and the port. Hosts with one name and port may
    /// share their session keys.
    fn resume(&self, address: &Address, peer: SocketAddr, name: &str) -> Option<Resume<'_>> {
        let server = format!("{}://{name}:{}", address.scheme, peer.port());
        let ClientCredentials { sessions, revoked, .. } = &self.credentials;
        self.resumption.then_some(Resume { sessions, revoked: revoked.as_ref(), server })
    }

    /// Returns the name that the server must prove.
    fn name(&self, address: &Address, peer: SocketAddr) -> String {
        match (&self.server_name, &address.host) {
            (Some(name), _) => name.clone(),
            (None, Host::Name(name)) => name.clone(),
            (None, _) => peer.ip().to_string(),
        }
    }

    fn failed(&self, failure: Failure, peer: SocketAddr, unreachable: bool) -> ConnectError {
        match failure {
            Failure::Unverified(why) => ConnectError::Unverified { peer, why },
            Failure::Ended(EndReason::HandshakeTimedOut) => {
                ConnectError::TimedOut { peer, timeout: self.timeout, unreachable }
            }
            Failure::Ended(EndReason::HandshakeFailed(why)) => ConnectError::Handshake { peer, why },
            Failure::Ended(EndReason::Io(kind)) => ConnectError::Io { peer, source: kind.into() },
            Failure::Ended(other) => ConnectError::Handshake { peer, why: other.to_string() },
            Failure::Restarted(_) | Failure::RestartedSctp => {
                ConnectError::Handshake { peer, why: "the server restarted".to_owned() }
            }
        }
    }

    fn context(&self, protocol: Protocol) -> Result<&SslContext, IdentityError> {
        let place = &self.contexts[protocol as usize];
        if let Some(context) = place.get() {
            return Ok(context);
        }
        let context = context::client(&self.credentials, protocol)?;
        Ok(place.get_or_init(|| context))
    }

    fn open_udp(&self, scheme: Scheme, peer: SocketAddr) -> Result<(Arc<Socket>, SocketAddr), ConnectError> {
        let failed = |source| ConnectError::Io { peer, source };
        let (domain, protocol) = (Domain::for_address(peer), Some(socket2::Protocol::UDP));
        let socket = Socket::new(domain, Type::DGRAM, protocol).map_err(failed)?;
        self.prepare(scheme, &socket, peer)?;
        if let Some(&local) = self.bind.last() {
            socket.bind(&local.into()).map_err(|source| ConnectError::Bind { local, source })?;
        }
        socket.connect(&peer.into()).map_err(failed)?;
        let local = socket.local_addr().map_err(failed)?.as_socket();
        let local = local.ok_or_else(|| failed(ErrorKind::AddrNotAvailable.into()))?;
        Ok((Arc::new(socket), local))
    }
}

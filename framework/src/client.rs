//! The client's side: a blocking connect that gives the same [`Peer`] as a server's handler gets.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use openssl::ssl::SslContext;
use socket2::{Domain, Protocol, Socket, Type};

use crate::address::{Address, Host, Scheme};
use crate::association::Association;
use crate::config::Timeouts;
use crate::credentials::{CaBundle, Identity};
use crate::error::{ConnectError, EndReason, IdentityError};
use crate::observe::Counters;
use crate::peer::{Parts, Peer};
use crate::session::Session;
use crate::session::context::{self, ClientCredentials};
use crate::session::dtls::Facts;
use crate::session::handshake::{Failure, Handshake, after};
use crate::transport::udp::UdpTransport;

/// Connects to servers. By default the server's certificate must verify against the system's
/// authorities and carry the host of the address.
///
/// ```no_run
/// use peeloff::{Client, CaBundle};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let authorities = CaBundle::from_file("ca.pem".as_ref())?;
/// let mut peer = Client::builder().ca(authorities).connect(&"dtls://localhost:4433".parse()?)?;
/// peer.send(b"hello")?;
/// let mut buffer = [0; 2048];
/// let answer = peer.recv(&mut buffer)?.map(|len| &buffer[..len]);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Client {
    credentials: ClientCredentials,
    server_name: Option<String>,
    timeout: Duration,
    bind: Option<SocketAddr>,
    /// Made by the first connect: reading the system's authorities takes milliseconds.
    context: OnceLock<SslContext>,
}

impl Client {
    /// With the defaults.
    pub fn builder() -> Self {
        Self {
            credentials: ClientCredentials::default(),
            server_name: None,
            timeout: Duration::from_secs(10),
            bind: None,
            context: OnceLock::new(),
        }
    }

    /// Trusts these authorities instead of the system's.
    #[must_use]
    pub fn ca(mut self, authorities: CaBundle) -> Self {
        self.credentials.authorities = Some(authorities);
        self.context = OnceLock::new();
        self
    }

    /// Shows this certificate to a server that asks for one.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.credentials.identity = Some(identity);
        self.context = OnceLock::new();
        self
    }

    /// Uses a pre-shared key (RFC 4279) and, unless a CA is given too, nothing else.
    #[must_use]
    pub fn psk(mut self, identity: &[u8], key: &[u8]) -> Self {
        self.credentials.psk = Some((identity.to_vec(), key.to_vec()));
        self.context = OnceLock::new();
        self
    }

    /// Accepts any certificate from anybody: anyone on the path can read and change everything.
    #[must_use]
    pub fn danger_accept_any_certificate(mut self) -> Self {
        self.credentials.accept_any = true;
        self.context = OnceLock::new();
        self
    }

    /// The name (or address) that the server's certificate must carry, instead of the host of the
    /// address; also sent as server name indication (RFC 6066 §3).
    #[must_use]
    pub fn server_name(mut self, name: &str) -> Self {
        self.server_name = Some(name.to_owned());
        self
    }

    /// How long [`connect`](Self::connect) may take for each address of the host. Default: 10 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The local address and port to connect from.
    #[must_use]
    pub fn bind(mut self, local: SocketAddr) -> Self {
        self.bind = Some(local);
        self
    }

    /// Connects and runs the handshake on the calling thread. Blocks until it is complete. On
    /// plain UDP nothing is sent, and nobody need be there.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]; of several addresses of a host, the last one's.
    pub fn connect(&self, address: &Address) -> Result<Peer, ConnectError> {
        let mut outcome = None;
        for peer in address.resolve()? {
            match self.connect_to(address, peer) {
                Ok(peer) => return Ok(peer),
                Err(error) => outcome = Some(error),
            }
        }
        Err(outcome.unwrap_or_else(|| ConnectError::Io {
            peer: SocketAddr::from(([0, 0, 0, 0], address.port)),
            source: std::io::ErrorKind::AddrNotAvailable.into(),
        }))
    }

    fn connect_to(&self, address: &Address, peer: SocketAddr) -> Result<Peer, ConnectError> {
        let (socket, local) = self.open_socket(peer).map_err(|source| ConnectError::Io { peer, source })?;
        let association = Arc::new(Association::new(address.scheme, local, peer));
        let counters = Arc::new(Counters::default());
        let mut transport =
            UdpTransport::new(Arc::clone(&socket), Arc::clone(&association), Arc::clone(&counters), None);
        let (session, facts) = match address.scheme {
            Scheme::Udp => (Session::Plain(socket), Facts::default()),
            Scheme::Dtls => {
                let context = self.context()?;
                let name = match (&self.server_name, &address.host) {
                    (Some(name), _) => name.clone(),
                    (None, Host::Name(name)) => name.clone(),
                    (None, _) => peer.ip().to_string(),
                };
                let deadline = after(self.timeout);
                let handshake = Handshake::connect(context, socket, Some(&name)).and_then(|handshake| {
                    handshake.complete(&mut transport, &association, &counters, None, deadline)
                });
                let unreachable = transport.unreachable;
                let (session, facts) = handshake.map_err(|failure| match failure {
                    Failure::Unverified(why) => ConnectError::Unverified { peer, why },
                    Failure::Ended(EndReason::HandshakeTimedOut) => {
                        ConnectError::TimedOut { peer, timeout: self.timeout, unreachable }
                    }
                    Failure::Ended(EndReason::HandshakeFailed(why)) => ConnectError::Handshake { peer, why },
                    Failure::Ended(EndReason::Io(kind)) => ConnectError::Io { peer, source: kind.into() },
                    Failure::Ended(other) => ConnectError::Handshake { peer, why: other.to_string() },
                    Failure::Restarted(_) => {
                        ConnectError::Handshake { peer, why: "the server began a handshake".to_owned() }
                    }
                })?;
                (Session::Dtls(Box::new(session)), facts)
            }
        };
        let timeouts = Timeouts { idle: None, ..Timeouts::default() };
        Ok(Peer::open(Parts {
            association,
            transport,
            session,
            facts,
            timeouts,
            counters,
            restart: None,
            home: None,
        }))
    }

    fn context(&self) -> Result<&SslContext, IdentityError> {
        if let Some(context) = self.context.get() {
            return Ok(context);
        }
        let context = context::client(&self.credentials)?;
        Ok(self.context.get_or_init(|| context))
    }

    fn open_socket(&self, peer: SocketAddr) -> std::io::Result<(Arc<Socket>, SocketAddr)> {
        let socket = Socket::new(Domain::for_address(peer), Type::DGRAM, Some(Protocol::UDP))?;
        if let Some(local) = self.bind {
            socket.bind(&local.into())?;
        }
        socket.connect(&peer.into())?;
        let local = socket.local_addr()?.as_socket().ok_or(std::io::ErrorKind::AddrNotAvailable)?;
        Ok((Arc::new(socket), local))
    }
}

//! Prepares an admitted peer: its transport, and the handshake before its handler.

use std::sync::Arc;

use socket2::Socket;

use crate::address::Scheme;
use crate::association::Association;
use crate::drive::Session;
use crate::drive::opening::{Opening, Proxied};
use crate::drive::sctp::SctpSession;
use crate::drive::stream::StreamSession;
use crate::error::EndReason;
use crate::handler::Incoming;
use crate::net::egress::Egress;
use crate::net::sctp::SctpTransport;
use crate::net::sctp_setup::require_auth;
use crate::net::shared::{SharedPath, SharedTransport};
use crate::net::tcp::TcpTransport;
use crate::net::udp::{StraySink, UdpTransport};
use crate::net::{Transport, after};
use crate::observe::{bump, log_limited};
use crate::protocol::dtls::assembly::VerifiedHello;
use crate::protocol::dtls::handshake::Handshake;
use crate::protocol::dtls::restart::Restart;
use crate::protocol::sctp::dtls_sctp::DtlsSctp;
use crate::protocol::sctp::secure_sctp::SecureSctp;
use crate::protocol::sctp::tls_streams::TlsStreams;
use crate::protocol::stream::proxy::ProxiedAddresses;
use crate::serve::shared::Shared;
use crate::tls::Failure;
use crate::tls::handshake::broken;

/// The step that comes before the handler.
pub(crate) enum Task {
    /// Nothing; there is no handshake.
    Plain,
    /// A DTLS handshake, which starts with this hello.
    Dtls(Box<VerifiedHello>),
    /// The handshake of the scheme over SCTP, if it has one.
    Sctp,
    /// The handshake of the scheme over TCP, if it has one, after a PROXY header if the connection must have one.
    Stream { proxied: bool },
    /// Nothing, because the SCTP association ended for this reason before it could be peeled off. Its messages are in
    /// the inbox.
    Over(EndReason),
}

/// The socket of a peer.
#[derive(Clone)]
pub(crate) enum PeerSocket {
    /// The peer's own socket.
    Own(Arc<Socket>),
    /// A socket that many peers share.
    Shared(SharedPath),
}

impl PeerSocket {
    /// Returns where the peer's datagrams leave.
    pub(crate) fn egress(self) -> Egress {
        match self {
            Self::Own(socket) => Egress::Connected(socket),
            Self::Shared(path) => Egress::Shared(path),
        }
    }
}

/// Makes the transport that an association waits on: on its own thread, or, if it is `driven`, on a loop's.
pub(in crate::serve) fn transport(
    association: &Association,
    peer_socket: &PeerSocket,
    task: &Task,
    shared: &Arc<Shared>,
    driven: bool,
) -> Transport {
    let (attention, counters) = (Arc::clone(&association.attention), Arc::clone(&association.counters));
    let socket = match peer_socket {
        PeerSocket::Own(socket) => Arc::clone(socket),
        PeerSocket::Shared(SharedPath { socket, .. }) => {
            let socket = Arc::clone(socket);
            return Transport::Shared(match driven {
                true => SharedTransport::driven(socket, attention),
                false => SharedTransport::waiting(socket, attention),
            });
        }
    };
    match association.scheme {
        Scheme::Udp | Scheme::Dtls => {
            let strays: Arc<dyn StraySink> = Arc::clone(shared) as _;
            let info = association.info();
            Transport::Udp(Box::new(UdpTransport::new(socket, info, attention, counters, Some(strays))))
        }
        Scheme::Tcp | Scheme::Tls => Transport::Tcp(TcpTransport::new(socket, attention, counters)),
        Scheme::Sctp | Scheme::SctpTls | Scheme::SctpDtls => {
            let mut transport =
                SctpTransport::new(socket, association.peer, attention, counters, &shared.sctp);
            if let Task::Over(reason) = task {
                transport.end = Some(reason.clone());
            }
            Transport::Sctp(Box::new(transport))
        }
    }
}

/// Makes the opening of an association: the step before its handler.
pub(in crate::serve) fn opening(
    association: &Arc<Association>,
    peer_socket: PeerSocket,
    task: Task,
    shared: &Arc<Shared>,
) -> Result<Opening, Failure> {
    let socket = match (&task, peer_socket) {
        (Task::Plain, peer_socket) => return Ok(Opening::Plain(Session::Plain(peer_socket.egress()))),
        (_, PeerSocket::Own(socket)) => socket,
        (_, peer_socket @ PeerSocket::Shared(_)) => {
            let Task::Dtls(hello) = task else { return Err(Failure::of("this protocol shares no sockets")) };
            return dtls(association, peer_socket.egress(), *hello, shared);
        }
    };
    match task {
        Task::Plain => Ok(Opening::Plain(Session::Plain(socket.into()))),
        Task::Dtls(hello) => dtls(association, socket.into(), *hello, shared),
        Task::Sctp | Task::Over(_) => sctp(association, socket, shared),
        Task::Stream { proxied: false } => stream(association, socket, shared),
        Task::Stream { proxied: true } => {
            let deadline = after(shared.timeouts.proxy_header);
            let (association, shared) = (Arc::clone(association), Arc::clone(shared));
            let behind = Arc::clone(&socket);
            let on_header = move |addresses: Result<_, &str>| {
                admit(&association, addresses, &shared)?;
                stream(&association, Arc::clone(&behind), &shared)
            };
            Ok(Opening::Proxied(Proxied::new(socket, deadline, Box::new(on_header))))
        }
    }
}

fn dtls(
    association: &Association,
    egress: Egress,
    hello: VerifiedHello,
    shared: &Shared,
) -> Result<Opening, Failure> {
    let Association { local, peer, hello_random, .. } = *association;
    let restart = Restart::new(Arc::clone(&shared.cookies), hello_random, local, peer);
    let (deadline, counters) = (after(shared.timeouts.handshake), Arc::clone(&association.counters));
    let offer = shared.connection_ids.map(|ids| ids.offer(association.connection_id.clone()));
    let offer = offer.transpose().map_err(broken)?;
    let handshake = Handshake::accept(shared.contexts().dtls(), hello, offer, restart, counters, deadline)?;
    Ok(Opening::Dtls(Box::new(handshake), egress))
}

fn sctp(association: &Association, socket: Arc<Socket>, shared: &Shared) -> Result<Opening, Failure> {
    let settings = &shared.sctp;
    let secure = match association.scheme {
        Scheme::SctpTls => {
            let tls = TlsStreams::accept(shared.contexts().tls(), settings.tls_streams)?;
            SecureSctp::Tls(Box::new(tls))
        }
        Scheme::SctpDtls => {
            require_auth(&socket)?;
            let counters = Arc::clone(&association.counters);
            let dtls = DtlsSctp::accept(shared.contexts().dtls(), settings.dtls_label_with_nul, counters)?;
            SecureSctp::Dtls(Box::new(dtls))
        }
        _ => {
            let session = SctpSession::plain(socket, settings);
            return Ok(Opening::Plain(Session::Sctp(Box::new(session))));
        }
    };
    let session = SctpSession::secure(socket, secure, after(shared.timeouts.handshake));
    Ok(Opening::Sctp(Box::new(session)))
}

fn stream(association: &Association, socket: Arc<Socket>, shared: &Shared) -> Result<Opening, Failure> {
    let settings = &shared.stream;
    if !association.scheme.is_secure() {
        let session = StreamSession::plain(socket, settings);
        return Ok(Opening::Plain(Session::Stream(Box::new(session))));
    }
    let session = StreamSession::accept(shared.contexts().tls(), socket, settings)?;
    Ok(Opening::Tls(Box::new(session), after(shared.timeouts.handshake)))
}

/// Checks the limits and asks the handler about a peer that a proxy has named. Fails if the header could not be read.
fn admit(
    association: &Arc<Association>,
    addresses: Result<Option<ProxiedAddresses>, &str>,
    shared: &Shared,
) -> Result<(), Failure> {
    let addresses = addresses.map_err(|why| {
        bump(&association.counters.proxy_headers_refused);
        log_limited!(info, proxy = %association.peer, why, "refused a connection from a proxy");
        Failure::of(why)
    })?;
    // A proxy that connects on its own behalf (LOCAL) is a peer like any other.
    let addresses =
        addresses.unwrap_or(ProxiedAddresses { peer: association.peer, local: association.local });
    let incoming = Incoming::new(association.scheme, addresses.local, addresses.peer);
    let registry = &shared.registry;
    registry.end_header_wait(association);
    let begin = || match association.scheme.is_secure() {
        true => registry.begin_handshake(association),
        false => Ok(()),
    };
    let booked = registry.book_proxied(association, addresses);
    booked.and_then(|()| shared.ask(&incoming)).and_then(|()| begin()).map_err(|refusal| {
        shared.refuse(refusal, association.scheme, addresses.local, addresses.peer);
        Failure::of(refusal.to_string())
    })
}

//! One association on its thread: handshake, handler, end.

pub(crate) mod pool;
mod proxied;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use socket2::Socket;

use crate::address::Scheme;
use crate::association::{Association, Link};
use crate::audit;
use crate::drive;
use crate::drive::Session;
use crate::drive::sctp::SctpSession;
use crate::drive::stream::StreamSession;
use crate::error::{EndReason, Error};
use crate::net::Transport;
use crate::net::after;
use crate::net::sctp::SctpTransport;
use crate::net::tcp::TcpTransport;
use crate::net::tcp::reset;
use crate::net::udp::{StrayTaker, UdpTransport};
use crate::observe::{bump, log_limited};
use crate::peer::{Home, Leftover, Opened, Parts, Peer};
use crate::protocol::alert::Alert;
use crate::protocol::dtls::assembly::VerifiedHello;
use crate::protocol::dtls::handshake::Handshake;
use crate::protocol::dtls::restart::Restart;
use crate::protocol::sctp::dtls_sctp::{DtlsSctp, Knobs};
use crate::protocol::sctp::secure_sctp::SecureSctp;
use crate::protocol::sctp::tls_streams::TlsStreams;
use crate::serve::shared::Shared;
use crate::tls::Facts;
use crate::tls::Failure;

/// An admitted peer with its socket, on its way to a worker.
pub(crate) struct Job {
    pub(crate) association: Arc<Association>,
    pub(crate) socket: Arc<Socket>,
    pub(crate) task: Task,
    pub(crate) shared: Arc<Shared>,
}

/// What comes before the handler.
pub(crate) enum Task {
    /// Nothing.
    Plain,
    /// A DTLS handshake, which starts with this hello.
    Dtls(Box<VerifiedHello>),
    /// On SCTP: what the scheme says.
    Sctp,
    /// On TCP: what the scheme says, behind a PROXY header if there is to be one.
    Stream { proxied: bool },
    /// Nothing: the SCTP association was over before it could be peeled off, for this reason. What it
    /// said is in the inbox.
    Over(EndReason),
}

impl Job {
    /// Serves the association to its end. Blocks for as long as it lives. A panic of the handler
    /// ends here.
    pub(crate) fn run(self) {
        let Self { association, socket, task, shared } = self;
        // Here, so that whoever hears from this peer sees it counted.
        bump(&shared.counters.opened);
        let opened = catch_unwind(AssertUnwindSafe(|| open(&association, socket, task, &shared)));
        match opened {
            Ok(Some(mut peer)) => serve(&mut peer, &shared),
            Ok(None) => {}
            Err(_) => give_up(&shared, &association, EndReason::HandlerPanicked, None),
        }
    }

    /// Ends the association without having served it.
    pub(crate) fn abandon(self, reason: EndReason) {
        let Self { association, socket, shared, task } = self;
        match task {
            Task::Sctp => crate::net::sctp::abort(&socket, reason.label().as_bytes()),
            Task::Stream { .. } => reset(&socket),
            Task::Dtls(hello) => {
                let alert = Alert::INTERNAL_ERROR.in_clear(hello.record_sequence());
                let _ = crate::net::udp::send(&socket, &alert);
            }
            Task::Plain | Task::Over(_) => {}
        }
        drop(socket);
        give_up(&shared, &association, reason, None);
    }
}

/// The handshake, if there is one. `None`: the association has ended.
// Its frame would stay on the stack for as long as the peer lives.
#[inline(never)]
fn open(
    association: &Arc<Association>,
    socket: Arc<Socket>,
    task: Task,
    shared: &Arc<Shared>,
) -> Option<Peer> {
    let successor = Arc::clone(&socket);
    let opened = match task {
        Task::Plain => Ok(open_udp(association, socket, shared)),
        Task::Dtls(hello) => open_dtls(association, socket, *hello, shared),
        Task::Sctp => open_sctp(association, socket, None, shared),
        Task::Stream { proxied } => open_stream(association, socket, proxied, shared),
        Task::Over(reason) => open_sctp(association, socket, Some(reason), shared),
    };
    match opened.and_then(|opened| authorize(association, opened, shared)) {
        Ok(opened) => {
            shared.registry.end_handshake(association);
            audit::opened(association, &opened.facts);
            let home: Arc<dyn Home> = Arc::clone(shared) as _;
            Some(Peer::open(Parts {
                association: Arc::clone(association),
                opened,
                timeouts: shared.timeouts.clone(),
                counters: Arc::clone(&shared.counters),
                home: Some(home),
            }))
        }
        Err(failure) => {
            let (reason, leftover) = match failure {
                Failure::Ended(reason) => (reason, None),
                Failure::Unverified(why) => (EndReason::HandshakeFailed(why), None),
                Failure::Restarted(hello) => (EndReason::Replaced, Some(Leftover::Datagram(hello.into()))),
                Failure::RestartedSctp => (EndReason::Replaced, Some(Leftover::Socket(successor))),
            };
            // These are no failures, or have been logged with the identity.
            let is_logged =
                matches!(reason, EndReason::Shutdown | EndReason::Replaced | EndReason::NotAuthorized(_));
            if !is_logged {
                audit::failed(association, &reason, None);
            }
            give_up(shared, association, reason, leftover);
            None
        }
    }
}

/// Asks whether a peer whose handshake is complete may come in, before anybody can send to it. One that may not gets the alert
/// access_denied over DTLS; OpenSSL offers no way to send it over TLS, where it gets close_notify.
fn authorize(association: &Association, mut opened: Opened, shared: &Shared) -> Result<Opened, Failure> {
    if !association.scheme.is_secure() {
        return Ok(opened);
    }
    bump(&shared.counters.handshakes);
    if opened.facts.resumed {
        bump(&shared.counters.resumed);
    }
    let Err(why) = shared.contexts().may_enter(&opened.facts) else { return Ok(opened) };
    let (reason, patience) = (EndReason::NotAuthorized(why.to_owned()), shared.timeouts.send);
    audit::failed(association, &reason, Some(&opened.facts.identity));
    match (&mut opened.session, &mut opened.transport) {
        (Session::Sctp(session), Transport::Sctp(transport)) => session.end(transport, &reason, patience),
        (Session::Stream(session), _) => session.end(&reason, patience),
        (Session::Dtls(session, socket), _) => {
            session.deny();
            crate::drive::transmit(session, socket);
        }
        (session, _) => session.close(after(patience)),
    }
    Err(Failure::Ended(reason))
}

fn open_udp(association: &Arc<Association>, socket: Arc<Socket>, shared: &Arc<Shared>) -> Opened {
    let transport = udp_transport(association, &socket, shared);
    Opened { transport: Transport::Udp(transport), session: Session::Plain(socket), facts: Facts::default() }
}

fn open_dtls(
    association: &Arc<Association>,
    socket: Arc<Socket>,
    hello: VerifiedHello,
    shared: &Arc<Shared>,
) -> Result<Opened, Failure> {
    let mut transport = udp_transport(association, &socket, shared);
    let Association { local, peer, hello_random, .. } = **association;
    let restart = Restart::new(Arc::clone(&shared.cookies), hello_random, local, peer);
    let (deadline, counters) = (after(shared.timeouts.handshake), Arc::clone(&shared.counters));
    let handshake = Handshake::accept(shared.contexts().dtls(), hello, restart, counters, deadline)?;
    let (session, facts) = drive::handshake::dtls(handshake, &mut transport, &association.attention)?;
    Ok(Opened {
        transport: Transport::Udp(transport),
        session: Session::Dtls(Box::new(session), socket),
        facts,
    })
}

fn open_sctp(
    association: &Arc<Association>,
    socket: Arc<Socket>,
    over: Option<EndReason>,
    shared: &Arc<Shared>,
) -> Result<Opened, Failure> {
    let (counters, settings) = (Arc::clone(&shared.counters), &shared.sctp);
    let mut transport = SctpTransport::new(
        Arc::clone(&socket),
        association.peer,
        Arc::clone(&association.attention),
        counters,
        settings,
    );
    transport.end = over;
    let secure = match association.scheme {
        Scheme::SctpTls => {
            let tls = TlsStreams::accept(shared.contexts().tls(), settings.tls_streams)?;
            Some(SecureSctp::Tls(Box::new(tls)))
        }
        Scheme::SctpDtls => {
            crate::net::sctp_setup::require_auth(&socket)?;
            let knobs = Knobs { label_with_nul: settings.dtls_label_with_nul, ..Knobs::default() };
            Some(SecureSctp::Dtls(Box::new(DtlsSctp::accept(shared.contexts().dtls(), knobs)?)))
        }
        _ => None,
    };
    let (session, facts) = match secure {
        None => (SctpSession::plain(socket, settings), Facts::default()),
        Some(secure) => {
            let deadline = after(shared.timeouts.handshake);
            SctpSession::secure(socket, secure, &mut transport, &association.attention, deadline)?
        }
    };
    Ok(Opened {
        transport: Transport::Sctp(Box::new(transport)),
        session: Session::Sctp(Box::new(session)),
        facts,
    })
}

fn open_stream(
    association: &Arc<Association>,
    socket: Arc<Socket>,
    proxied: bool,
    shared: &Arc<Shared>,
) -> Result<Opened, Failure> {
    let counters = Arc::clone(&shared.counters);
    let mut transport = TcpTransport::new(Arc::clone(&socket), Arc::clone(&association.attention), counters);
    if proxied {
        proxied::hear(&mut transport, association, shared, after(shared.timeouts.proxy_header))?;
    }
    let deadline = after(shared.timeouts.handshake);
    let settings = &shared.stream;
    let mut session = match association.scheme.is_secure() {
        true => StreamSession::accept(shared.contexts().tls(), socket, settings)?,
        false => StreamSession::plain(socket, settings),
    };
    let facts = session.shake_hands(&mut transport, &association.attention, deadline)?;
    Ok(Opened { transport: Transport::Tcp(transport), session: Session::Stream(Box::new(session)), facts })
}

fn udp_transport(association: &Arc<Association>, socket: &Arc<Socket>, shared: &Arc<Shared>) -> UdpTransport {
    let strays: Arc<dyn StrayTaker> = Arc::clone(shared) as _;
    let counters = Arc::clone(&shared.counters);
    UdpTransport::new(
        Arc::clone(socket),
        association.ends(),
        Arc::clone(&association.attention),
        counters,
        Some(strays),
    )
}

/// The handler, whatever it does.
fn serve(peer: &mut Peer, shared: &Shared) {
    let outcome = catch_unwind(AssertUnwindSafe(|| shared.handler.handle(peer)));
    match outcome {
        Ok(Ok(())) => {
            peer.finish();
        }
        // The handler passed on what it was told.
        Ok(Err(Error::Ended(_))) => {
            peer.finish();
        }
        // It is the peer's doing, and it is logged and told to the peer as such.
        Ok(Err(Error::MessageRefused { limit })) => {
            peer.finish_with(EndReason::MessageRefused { limit }, None);
        }
        Ok(Err(Error::SendBufferFull)) => {
            peer.finish_with(EndReason::TooSlow, None);
        }
        Ok(Err(error)) => {
            log_limited!(warn, peer = %peer.peer_address(), %error, "a handler returned an error");
            peer.finish_with(EndReason::HandlerFailed, None);
        }
        Err(_) => {
            log_limited!(error, peer = %peer.peer_address(), "a handler panicked");
            peer.finish_with(EndReason::HandlerPanicked, None);
        }
    }
}

/// Ends an association that never opened; its socket is closed by now.
fn give_up(shared: &Shared, association: &Association, reason: EndReason, leftover: Option<Leftover>) {
    *association.link.lock() = Link::Ended(reason.clone());
    association.attention.wake_no_more();
    shared.left(association, &reason, leftover);
}

//! The trait that users implement: [`PeerHandler`]. [`PeerEvents`](crate::PeerEvents) is its counterpart for callbacks.

use std::net::SocketAddr;

use crate::address::Scheme;
use crate::error::{EndReason, Error};
use crate::peer::Peer;

/// Any error that a handler ends an association with. `?` converts every error type to it, including your own.
pub type HandlerError = Box<dyn std::error::Error + Send + Sync>;

/// Serves peers, each on a worker thread of its own.
///
/// A function or closure that takes a `&mut Peer` and returns a `Result<(), E>` is a handler too. `E` is any type that
/// converts to a [`HandlerError`]: an [`Error`], an [`std::io::Error`], a type of your own, or `HandlerError` itself if
/// several types occur.
///
/// ```
/// use peeloff::{HandlerError, Peer};
///
/// fn add(peer: &mut Peer) -> Result<(), HandlerError> {
///     let (mut sum, mut message) = (0, Vec::new());
///     while peer.recv_into(&mut message)?.is_some() {
///         sum += std::str::from_utf8(&message)?.trim().parse::<i64>()?;
///         peer.send(sum.to_string().as_bytes())?;
///     }
///     Ok(())
/// }
/// # let server = peeloff::Server::builder().listen("udp://127.0.0.1:0").start(add).unwrap();
/// # server.handle().shutdown(std::time::Duration::ZERO);
/// ```
///
/// # Contract
///
/// * The worker calls [`handle`](Self::handle) once for each association, after its handshake. The thread serves no
///   other peer until the call returns, so the handler may block as long as it likes.
/// * The association ends when `handle` returns: the worker sends a close_notify if the transport has one, closes the
///   socket, and serves another peer.
/// * An `Err` is logged with its causes, counted ([`Stats::handler_errors`](crate::Stats::handler_errors)), and ends
///   the association as [`EndReason::HandlerFailed`] if it has not ended yet. Three [`Error`]s are exceptions, also as
///   the cause of another error: [`Error::Ended`] is not the handler's fault, and [`Error::MessageRefused`] and
///   [`Error::SendBufferFull`] end the association for the reason that they describe.
/// * An error does not record which peer caused it: if a send to *another* peer fails and the handler passes that error
///   on with `?`, it ends its own peer. Handle such errors where they occur.
/// * A panic ends this association only.
/// * One handler value serves all peers at the same time, so it must be `Sync`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    note = "a handler is a function or closure that takes a `&mut Peer` and returns a `Result<(), E>`, where `E` converts to a `HandlerError`; or a type that implements `PeerHandler`",
    note = "`ServerBuilder::start_events` serves a type that implements `PeerEvents`, and so does `start(Callbacks::new(events))`"
)]
pub trait PeerHandler: Send + Sync + 'static {
    /// Decides whether to accept a new peer. Runs on the dispatcher thread for every new peer and must not block,
    /// because no other peer is admitted until it returns. Behind a proxy
    /// ([`ServerBuilder::listen_proxied`](crate::ServerBuilder::listen_proxied)) it runs on the peer's own thread. On
    /// DTLS, SCTP and TCP the peer's address has been proven by then (RFC 6347 §4.2.1, RFC 9260 §5.1, RFC 9293); on
    /// plain UDP it may be forged. A panic refuses the peer.
    fn admit(&self, incoming: &Incoming) -> Admission {
        let _ = incoming;
        Admission::Accept
    }

    /// Serves one peer. Runs on that peer's worker thread.
    fn handle(&self, peer: &mut Peer) -> Result<(), HandlerError>;
}

impl<F, E> PeerHandler for F
where
    F: Fn(&mut Peer) -> Result<(), E> + Send + Sync + 'static,
    E: Into<HandlerError>,
{
    fn handle(&self, peer: &mut Peer) -> Result<(), HandlerError> {
        self(peer).map_err(Into::into)
    }
}

/// Ends the association of a handler that returned `outcome`, and returns the reason.
pub(crate) fn conclude(peer: &mut Peer, outcome: &Result<(), HandlerError>) -> EndReason {
    match outcome.as_ref().err().map(|error| Error::find(&**error)) {
        // The handler has finished, or it passed on the news that the association has ended.
        None | Some(Some(Error::Ended(_))) => peer.finish(),
        // The peer caused these errors, so the end of the association tells it the reason.
        Some(Some(Error::MessageRefused { limit })) => {
            peer.finish_with(EndReason::MessageRefused { limit: *limit }, None)
        }
        Some(Some(Error::SendBufferFull)) => peer.finish_with(EndReason::TooSlow, None),
        Some(_) => peer.fail(EndReason::HandlerFailed),
    }
}

/// Returns whether an error is the handler's own fault and not the result of what its peer did.
pub(crate) fn is_fault(error: &HandlerError) -> bool {
    let cause = Error::find(&**error);
    !matches!(cause, Some(Error::Ended(_) | Error::MessageRefused { .. } | Error::SendBufferFull))
}

/// The handler's answer to an [`Incoming`] peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Admission {
    /// Accepts the peer.
    Accept,
    /// Refuses the peer silently: nothing is sent, and the refusal is counted. An SCTP association or a TCP connection,
    /// which exists already, is aborted.
    Refuse,
}

/// A peer that has passed the caps and rate limits and has no association yet.
#[derive(Clone, Debug)]
pub struct Incoming {
    pub(crate) scheme: Scheme,
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) further: Vec<SocketAddr>,
}

impl Incoming {
    pub(crate) fn new(scheme: Scheme, local: SocketAddr, peer: SocketAddr) -> Self {
        Self { scheme, local, peer, further: Vec::new() }
    }

    /// Returns the protocol that the peer speaks.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Returns the peer's address.
    pub fn peer_address(&self) -> SocketAddr {
        self.peer
    }

    /// Returns the further addresses of an SCTP peer that the kernel knows when the association comes up.
    pub fn further_addresses(&self) -> &[SocketAddr] {
        &self.further
    }

    /// Returns the address of this host that the peer contacted; never a wildcard, even under a wildcard listener.
    pub fn local_address(&self) -> SocketAddr {
        self.local
    }
}

//! What users implement: [`PeerHandler`], or [`PeerEvents`](crate::PeerEvents) for callbacks.

use std::net::SocketAddr;

use crate::address::Scheme;
use crate::error::{EndReason, Error};
use crate::peer::Peer;

/// Any error that a handler ends an association with. `?` makes one of every error type, of the user's own too.
pub type HandlerError = Box<dyn std::error::Error + Send + Sync>;

/// Serves peers, each on a worker thread of its own.
///
/// A function or closure that takes a `&mut Peer` and returns a `Result<(), E>` is a handler too. `E` is anything that converts
/// to a [`HandlerError`]: an [`Error`], an [`std::io::Error`], a type of your own, or `HandlerError` itself where there are several.
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
/// * [`handle`](Self::handle) is called once for each association, after its handshake, on a
///   worker thread that serves nobody else meanwhile. It may block as long as it likes.
/// * The association ends when it returns: a close_notify is sent where the transport has one, the
///   socket is closed and the thread serves another peer.
/// * An `Err` is logged with its causes, counted ([`Stats::handler_errors`](crate::Stats::handler_errors)), and ends an
///   association that is not over yet as [`EndReason::HandlerFailed`], unless it is one of these [`Error`]s or is
///   caused by one: [`Error::Ended`] is no fault of the handler's, and [`Error::MessageRefused`] and
///   [`Error::SendBufferFull`] end the association for the reason that they describe.
/// * Nothing tells whose error it is: one that a send to *another* peer returned, passed on with `?`, ends this peer. Handle
///   those where they come up.
/// * A panic ends this association alone.
/// * One handler value serves all peers at once, hence `Sync`.
pub trait PeerHandler: Send + Sync + 'static {
    /// Whether to take a new peer. Runs on the dispatcher thread, for every new peer: it must not
    /// block, for nobody new gets in meanwhile; behind a proxy
    /// ([`ServerBuilder::listen_proxied`](crate::ServerBuilder::listen_proxied)) it runs on the peer's own
    /// thread. On DTLS, SCTP and TCP the address is proven by then (RFC 6347 §4.2.1, RFC 9260 §5.1, RFC 9293); on plain UDP it may be forged. A panic refuses the peer.
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
        // The handler has finished, or passed on that the association is over.
        None | Some(Some(Error::Ended(_))) => peer.finish(),
        // The peer caused these, and is told so.
        Some(Some(Error::MessageRefused { limit })) => {
            peer.finish_with(EndReason::MessageRefused { limit: *limit }, None)
        }
        Some(Some(Error::SendBufferFull)) => peer.finish_with(EndReason::TooSlow, None),
        Some(_) => peer.fail(EndReason::HandlerFailed),
    }
}

/// Whether an error is the handler's own, and not what its peer did.
pub(crate) fn is_fault(error: &HandlerError) -> bool {
    let cause = Error::find(&**error);
    !matches!(cause, Some(Error::Ended(_) | Error::MessageRefused { .. } | Error::SendBufferFull))
}

/// The handler's answer to an [`Incoming`] peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Admission {
    /// Take it.
    Accept,
    /// Silence: nothing is sent, the refusal is counted. An SCTP association or a TCP connection, which is there
    /// already, is aborted.
    Refuse,
}

/// A peer that has passed the caps and rates and is not an association yet.
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

    /// The protocol that it speaks.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Where it comes from.
    pub fn peer_address(&self) -> SocketAddr {
        self.peer
    }

    /// The further addresses of an SCTP peer: those that it named when it came.
    pub fn further_addresses(&self) -> &[SocketAddr] {
        &self.further
    }

    /// The address of this host that it asked, also under a wildcard listener.
    pub fn local_address(&self) -> SocketAddr {
        self.local
    }
}

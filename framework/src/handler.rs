//! What users implement: [`PeerHandler`], or [`PeerEvents`] for callbacks.

use std::net::SocketAddr;

use crate::address::Scheme;
use crate::error::{EndReason, Error};
use crate::peer::{Peer, Sender};

/// Serves peers, each on a worker thread of its own.
///
/// A closure `Fn(&mut Peer) -> Result<(), Error>` is a handler too.
///
/// # Contract
///
/// * [`handle`](Self::handle) is called once for each association, after its handshake, on a
///   worker thread that serves nobody else meanwhile. It may block as long as it likes.
/// * The association ends when it returns: a close_notify is sent where the transport has one, the
///   socket is closed and the thread serves another peer.
/// * An `Err` is logged and counted; a panic ends this association alone.
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
    fn handle(&self, peer: &mut Peer) -> Result<(), Error>;
}

impl<F> PeerHandler for F
where
    F: Fn(&mut Peer) -> Result<(), Error> + Send + Sync + 'static,
{
    fn handle(&self, peer: &mut Peer) -> Result<(), Error> {
        self(peer)
    }
}

/// The handler's answer to an [`Incoming`] peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// A handler as a set of callbacks; [`Callbacks`] makes it a [`PeerHandler`].
///
/// The callbacks of one peer come one after the other, never two at once, but nothing promises
/// that they run on one thread: keep what belongs to a peer in [`State`](Self::State), not in
/// thread-locals. To answer, use the [`Sender`].
pub trait PeerEvents: Send + Sync + 'static {
    /// What the callbacks keep for one peer.
    type State: Send + 'static;

    /// As [`PeerHandler::admit`].
    fn admit(&self, incoming: &Incoming) -> Admission {
        let _ = incoming;
        Admission::Accept
    }

    /// The association is open. An error ends it.
    fn open(&self, peer: &Sender) -> Result<Self::State, Error>;

    /// A message came. An error ends the association.
    fn message(&self, state: &mut Self::State, peer: &Sender, message: &[u8]) -> Result<(), Error>;

    /// The association is over; nothing can be sent to the peer any more.
    fn close(&self, state: Self::State, peer: &Sender, reason: EndReason) {
        let _ = (state, peer, reason);
    }
}

/// Makes [`PeerEvents`] a [`PeerHandler`].
///
/// While the server drains, a peer's association ends when it is quiet.
pub struct Callbacks<E>(pub E);

impl<E: PeerEvents> PeerHandler for Callbacks<E> {
    fn admit(&self, incoming: &Incoming) -> Admission {
        self.0.admit(incoming)
    }

    fn handle(&self, peer: &mut Peer) -> Result<(), Error> {
        let sender = peer.sender();
        let mut state = self.0.open(&sender)?;
        let outcome = self.pump(peer, &sender, &mut state);
        let reason = match &outcome {
            Ok(()) | Err(Error::Ended(_)) => peer.finish(),
            Err(_) => peer.finish_with(EndReason::HandlerFailed, None),
        };
        self.0.close(state, &sender, reason);
        match outcome {
            Err(Error::Ended(_)) => Ok(()),
            other => other,
        }
    }
}

impl<E: PeerEvents> Callbacks<E> {
    fn pump(&self, peer: &mut Peer, sender: &Sender, state: &mut E::State) -> Result<(), Error> {
        let mut buffer = vec![0; 2048];
        loop {
            match peer.recv(&mut buffer) {
                Ok(Some(len)) => self.0.message(state, sender, &buffer[..len])?,
                Ok(None) => return Ok(()),
                Err(Error::BufferTooSmall { needed }) => buffer.resize(needed, 0),
                Err(error) => return Err(error),
            }
        }
    }
}

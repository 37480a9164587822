//! Admission of unknown peers: checks the first datagram, the limits and the handler.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::shared::Shared;
use crate::address::Scheme;
use crate::admission::Refusal;
use crate::association::Association;
use crate::handler::Incoming;
use crate::observe::bump;
use crate::protocol::alert::Alert;
use crate::protocol::dtls::assembly::VerifiedHello;
use crate::protocol::dtls::hello::{self, FirstDatagram, HELLO_VERIFY_REQUEST_LEN};
use crate::protocol::dtls::restart::Checked;
use crate::sys::control::PacketInfo;

/// The kind of a datagram that arrived at a listener.
pub(super) enum Classified {
    /// It needs no action, and has been counted.
    Nothing,
    /// The hello of a DTLS client whose address is not proven, and the answer to it.
    Challenge([u8; HELLO_VERIFY_REQUEST_LEN]),
    /// The hello of a client that was refused before. It gets the same alert again, in a record with this number.
    Refused(Alert, u64),
    /// The hello of a client whose address is proven.
    Hello(VerifiedHello),
    /// On plain UDP, any datagram; on DTLS, a datagram that only a known peer can have sent.
    Datagram,
}

/// The socket of a new peer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SocketKind {
    /// Its own socket. The limit on peers of a local address applies, because the kernel searches a list of their
    /// sockets.
    OwnSocket,
    /// A socket that many peers share, of the loop with this number.
    SharedSocket(u8),
}

impl Shared {
    /// Classifies a datagram that arrived at a listener, and counts it if it needs no action.
    pub(super) fn classify(
        &self,
        scheme: Scheme,
        local: SocketAddr,
        peer: SocketAddr,
        payload: &[u8],
        now: Instant,
    ) -> Classified {
        let counters = self.counted(scheme, local);
        // A datagram from port 0 cannot be answered, and answers to the listener's own address would never end.
        if peer.port() == 0 || peer == local {
            bump(&counters.ignored);
            return Classified::Nothing;
        }
        if scheme != Scheme::Dtls {
            return Classified::Datagram;
        }
        let hello = match hello::classify(payload) {
            FirstDatagram::ClientHello(hello) => hello,
            FirstDatagram::HelloTooShort => {
                bump(&counters.hellos_too_short);
                return Classified::Nothing;
            }
            _ => return Classified::Datagram,
        };
        match self.cookies.check(local, peer, &hello, payload.len(), now) {
            Checked::Valid(proof) => match VerifiedHello::new(payload, &hello, proof) {
                Some(hello) => Classified::Hello(hello),
                None => Classified::Datagram,
            },
            Checked::AlreadyEnded => {
                bump(&counters.duplicate_hellos);
                Classified::Nothing
            }
            Checked::Refused(alert) => {
                bump(&counters.duplicate_hellos);
                Classified::Refused(alert, hello.record_sequence)
            }
            Checked::Unproven { refused, reply } => {
                if refused {
                    bump(&counters.cookies_refused);
                }
                reply.map_or(Classified::Nothing, Classified::Challenge)
            }
        }
    }

    /// Checks the limits and then asks the handler about a new peer. Counts refusals. The caller must insert an
    /// admitted association or [cancel](super::registry::Registry::cancel) it.
    pub(super) fn admit(
        &self,
        incoming: Incoming,
        hello_random: [u8; 32],
        kind: SocketKind,
    ) -> Result<Arc<Association>, Refusal> {
        let (scheme, local, peer) = (incoming.scheme, incoming.local, incoming.peer);
        let refuse = |refusal: Refusal| self.refuse(refusal, scheme, local, peer);
        self.registry
            .book(local, peer, kind == SocketKind::OwnSocket)
            .inspect_err(|refusal| refuse(*refusal))?;
        if let Err(refusal) = self.ask(&incoming) {
            self.registry.release(local, peer);
            refuse(refusal);
            return Err(refusal);
        }
        let mut association = self.association(scheme, local, peer).with_hello(hello_random);
        if scheme == Scheme::Dtls
            && let Some(cid) = self.connection_id(kind)
        {
            association = association.with_connection_id(cid);
        }
        let association = Arc::new(association);
        if scheme.is_secure()
            && let Err(refusal) = self.registry.begin_handshake(&association)
        {
            self.registry.cancel(&association);
            refuse(refusal);
            return Err(refusal);
        }
        Ok(association)
    }

    /// Admits a connection from a proxy, whose header will name the peer. Until then neither the limits on the peer nor
    /// the handler are asked, and the connection counts only against the limit of its listener.
    pub(super) fn admit_proxy(
        &self,
        scheme: Scheme,
        local: SocketAddr,
        proxy: SocketAddr,
        listener: usize,
    ) -> Result<Arc<Association>, Refusal> {
        let registry = &self.registry;
        let refuse = |refusal: &Refusal| self.refuse(*refusal, scheme, local, proxy);
        registry.book_proxy(local, proxy).inspect_err(refuse)?;
        let association = Arc::new(self.association(scheme, local, proxy).behind_proxy(listener));
        registry
            .await_header(&association)
            .inspect_err(refuse)
            .inspect_err(|_| registry.release(local, proxy))?;
        Ok(association)
    }

    /// Makes a connection ID that no other peer has. Returns `None` if the server uses none or randomness is missing.
    fn connection_id(&self, kind: SocketKind) -> Option<Box<[u8]>> {
        let number = match kind {
            SocketKind::OwnSocket => 0,
            SocketKind::SharedSocket(number) => number,
        };
        let ids = self.connection_ids?;
        let is_taken = |cid: &[u8]| self.registry.find_by_connection_id(cid).is_some();
        std::iter::from_fn(|| ids.generate(number).ok()).find(|cid| !is_taken(cid))
    }

    fn association(&self, scheme: Scheme, local: SocketAddr, peer: SocketAddr) -> Association {
        let association = Association::new(scheme, local, peer, Arc::clone(self.counted(scheme, local)))
            .with_outbox(self.outbox);
        match scheme == Scheme::Udp && self.udp_proof {
            true => association.with_proof(),
            false => association,
        }
    }
}

/// Returns the local address that a datagram was sent to, for a listener that is bound to `bound`.
pub(super) fn address_hit(bound: SocketAddr, info: PacketInfo) -> SocketAddr {
    if !bound.ip().is_unspecified() {
        return bound;
    }
    let mut local = SocketAddr::new(info.local.unwrap_or(bound.ip()), bound.port());
    if let SocketAddr::V6(v6) = &mut local
        && v6.ip().is_unicast_link_local()
    {
        v6.set_scope_id(info.interface);
    }
    local
}

/// Returns the alert that tells a client why it is refused: access_denied if the handler refused it, and internal_error
/// for the limits of this host. Returns `None` for conditions that pass within seconds: a client without an answer
/// repeats its hello after one second and after two more, and is then admitted.
pub(super) fn alert_for(refusal: Refusal) -> Option<Alert> {
    match refusal {
        Refusal::Handler => Some(Alert::ACCESS_DENIED),
        Refusal::MaxPeers
        | Refusal::MaxPeersPerLocalAddress
        | Refusal::MaxPeersPerSource
        | Refusal::MaxPeersPerPrefix
        | Refusal::SocketOptions
        | Refusal::Draining => Some(Alert::INTERNAL_ERROR),
        Refusal::MaxHalfOpen
        | Refusal::Rate
        | Refusal::NoFileDescriptor
        | Refusal::NoThread
        | Refusal::NoBuffers => None,
    }
}

//! What becomes of somebody who is not known: the first datagram is looked at, the limits and the handler are asked.

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

/// What a datagram that came to a listener is.
pub(super) enum First {
    /// Nothing that needs anything to be done; it is counted.
    Nothing,
    /// The hello of a DTLS client whose address is not proven: this is the answer.
    Challenge([u8; HELLO_VERIFY_REQUEST_LEN]),
    /// The hello of a client that was refused: it is told so again, by a record with this number.
    Refused(Alert, u64),
    /// The hello of a client whose address is proven.
    Hello(VerifiedHello),
    /// On plain UDP anything, on DTLS what only a known peer can have sent.
    Datagram,
}

/// What socket a new peer has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The limit on peers of a local address holds, because the kernel walks a list of their sockets.
    OwnSocket,
    /// Many peers share a socket, of the loop with this number.
    SharedSocket(u8),
}

impl Shared {
    /// Looks at a datagram that came to a listener, and counts what leads to nothing.
    pub(super) fn look_at(
        &self,
        scheme: Scheme,
        local: SocketAddr,
        peer: SocketAddr,
        payload: &[u8],
        now: Instant,
    ) -> First {
        let counters = self.counted(scheme, local);
        // Port 0 cannot be answered, and a datagram from ourselves would be answered for ever.
        if peer.port() == 0 || peer == local {
            bump(&counters.ignored);
            return First::Nothing;
        }
        if scheme != Scheme::Dtls {
            return First::Datagram;
        }
        let hello = match hello::classify(payload) {
            FirstDatagram::ClientHello(hello) => hello,
            FirstDatagram::HelloTooShort => {
                bump(&counters.hellos_too_short);
                return First::Nothing;
            }
            _ => return First::Datagram,
        };
        match self.cookies.check(local, peer, &hello, payload.len(), now) {
            Checked::Valid(proof) => match VerifiedHello::new(payload, &hello, proof) {
                Some(hello) => First::Hello(hello),
                None => First::Datagram,
            },
            Checked::Spent => {
                bump(&counters.duplicate_hellos);
                First::Nothing
            }
            Checked::Refused(alert) => {
                bump(&counters.duplicate_hellos);
                First::Refused(alert, hello.record_sequence)
            }
            Checked::Unproven { refused, reply } => {
                if refused {
                    bump(&counters.cookies_refused);
                }
                reply.map_or(First::Nothing, First::Challenge)
            }
        }
    }

    /// Asks the limits, then the handler, about a new peer. Refusals are counted here; an association
    /// that was admitted is either inserted, or [cancelled](super::registry::Registry::cancel).
    pub(super) fn admit(
        &self,
        incoming: Incoming,
        hello_random: [u8; 32],
        place: Place,
    ) -> Result<Arc<Association>, Refusal> {
        let (scheme, local, peer) = (incoming.scheme, incoming.local, incoming.peer);
        let refuse = |refusal: Refusal| self.refuse(refusal, scheme, local, peer);
        self.registry.book(local, peer, place == Place::OwnSocket).inspect_err(|refusal| refuse(*refusal))?;
        if let Err(refusal) = self.ask(&incoming) {
            self.registry.release(local, peer);
            refuse(refusal);
            return Err(refusal);
        }
        let mut association = self.association(scheme, local, peer).with_hello(hello_random);
        if scheme == Scheme::Dtls
            && let Some(cid) = self.connection_id(place)
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

    /// As [`admit`](Self::admit), for a connection of a proxy that will say who is behind it: until then
    /// nobody is asked, and it counts against the limit of its listener alone.
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

    /// Makes a connection ID that no other peer has. `None`: there are none, or no randomness.
    fn connection_id(&self, place: Place) -> Option<Box<[u8]>> {
        let number = match place {
            Place::OwnSocket => 0,
            Place::SharedSocket(number) => number,
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

/// The local address that a datagram was sent to which came to a listener that is bound to `bound`.
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

/// The alert that says why somebody is refused: the handler decides about a peer, the caps are about this host. `None` for
/// what passes within seconds: a client that hears nothing asks again after one second and after two more, and gets in then.
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

//! What threads share, as the benches hold it: the registry and an open association without a worker.

use std::net::SocketAddr;
use std::sync::Arc;

use socket2::Socket;

use crate::address::Scheme;
use crate::admission::{Limits, Refusal};
use crate::association::{Association, Link};
use crate::drive::Session;
use crate::error::EndReason;
use crate::observe::Counters;
use crate::outbox::Outbox;
use crate::sender::Sender;
use crate::serve::registry::Registry;

/// The registry of a server on plain UDP.
pub struct Table {
    registry: Registry,
    counters: Counters,
}

/// An association that may be in a [`Table`].
pub struct Member(Arc<Association>);

impl Table {
    /// An empty one, with the key of its hashes.
    pub fn new(limits: Limits, key: (u64, u64)) -> Self {
        Self { registry: Registry::new(limits, key), counters: Counters::default() }
    }

    /// Books a place for a peer.
    ///
    /// # Errors
    ///
    /// The limit that is reached.
    pub fn book(&self, local: SocketAddr, peer: SocketAddr) -> Result<Member, Refusal> {
        self.registry.book(local, peer)?;
        Ok(Member(Arc::new(Association::new(Scheme::Udp, local, peer))))
    }

    /// Makes a booked peer findable; `false`: there is one between these addresses.
    pub fn insert(&self, member: &Member) -> bool {
        self.registry.insert(&member.0)
    }

    /// Whether there is a peer between these addresses.
    pub fn find(&self, local: SocketAddr, peer: SocketAddr) -> bool {
        self.registry.find(local, peer).is_some()
    }

    /// Forgets a peer and gives its place back.
    pub fn remove(&self, member: &Member) {
        self.registry.remove(&member.0, &EndReason::ClosedByUs, &self.counters);
    }
}

/// Sends over `socket`, which is connected, as to a plain UDP peer. No worker reads or flushes.
pub fn sender(socket: Socket, bound: Outbox) -> Sender {
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let association = Association::new(Scheme::Udp, address, address).with_outbox(bound);
    let session = Session::Plain(Arc::new(socket));
    let (most, least) = (session.max_message(true), session.min_message());
    *association.link.lock() = Link::Open(session);
    Sender::new(Arc::new(association), most, least)
}

//! Private parts of the crate, for its own tests, benches and fuzz targets and for the workspace's load generator. The
//! feature `test-support` makes them visible. They change without notice and are not covered by the version number.
//!
//! To test a handler use [`testing`](crate::testing) instead, which every build has.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use socket2::Socket;

use crate::address::Scheme;
use crate::admission::{Limits, Refusal};
use crate::association::Association;
use crate::config::Timeouts;
use crate::drive::Session;
use crate::error::EndReason;
use crate::observe::Counters;
use crate::outbox::OutboxLimits;
use crate::sender::Sender;
use crate::serve::registry::Registry;
use crate::sys::batch;
use crate::sys::control::PacketInfo;
use crate::tls::HandshakeSummary;

pub use crate::admission::{PeerCounts, Prefix, RateTable};
pub use crate::protocol::dtls::{self, cookie, filter as record, hello};
pub use crate::protocol::stream::{frames, proxy};
pub use crate::sys::control::packet_info as control_messages;
pub use crate::sys::ossl::{never_retransmit, set_session};
pub use crate::sys::sctp::control::receive_info as sctp_control_messages;

/// The registry of a server on plain UDP.
pub struct Table {
    registry: Registry,
    counters: Arc<Counters>,
}

/// An association that may be in a [`Table`].
pub struct Member(Arc<Association>);

impl Table {
    /// Makes an empty table, with the key of its hashes.
    pub fn new(limits: Limits, key: (u64, u64)) -> Self {
        Self { registry: Registry::new(limits, key), counters: Arc::default() }
    }

    /// Books a place for a peer.
    ///
    /// # Errors
    ///
    /// The limit that was reached.
    pub fn book(&self, local: SocketAddr, peer: SocketAddr) -> Result<Member, Refusal> {
        self.registry.book(local, peer, true)?;
        Ok(Member(Arc::new(Association::new(Scheme::Udp, local, peer, Arc::clone(&self.counters)))))
    }

    /// Makes a booked peer findable. Returns `false` if there is already one between these addresses.
    pub fn insert(&self, member: &Member) -> bool {
        self.registry.insert(&member.0)
    }

    /// Returns whether there is a peer between these addresses.
    pub fn find(&self, local: SocketAddr, peer: SocketAddr) -> bool {
        self.registry.find(local, peer).is_some()
    }

    /// Removes a peer and releases its place.
    pub fn remove(&self, member: &Member) {
        self.registry.remove(&member.0, &EndReason::ClosedByUs);
    }
}

/// Makes a sender that sends over `socket`, which is connected, as to a plain UDP peer. No worker reads or flushes.
pub fn sender(socket: Socket, bound: OutboxLimits) -> Sender {
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let association = Association::new(Scheme::Udp, address, address, Arc::default()).with_outbox(bound);
    let session = Session::Plain(Arc::new(socket).into());
    association.open(session, HandshakeSummary::default(), &Timeouts::default());
    Sender::new(Arc::new(association))
}

/// Datagrams that were received by one call of recvmmsg(2).
pub struct Incoming(batch::Batch);

impl Default for Incoming {
    fn default() -> Self {
        Self(batch::Batch::new())
    }
}

impl Incoming {
    /// Receives what is queued, up to 32 datagrams, and returns how many. Never blocks.
    ///
    /// # Errors
    ///
    /// The errors of recvmmsg(2); `WouldBlock` if nothing is queued.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.0.recv(socket)
    }

    /// Returns the source of a datagram, the address of this host that it was sent to, and its payload. The address is
    /// known if IP_PKTINFO is set. `index` is below the number that [`receive`](Self::receive) returned.
    pub fn get(&self, index: usize) -> (Option<SocketAddr>, Option<IpAddr>, &[u8]) {
        let datagram = self.0.get(index);
        (datagram.source, datagram.info.local, datagram.payload)
    }
}

/// Datagrams that are sent by one call of sendmmsg(2), each with its own source address.
#[derive(Default)]
pub struct Outgoing(batch::Outgoing);

impl Outgoing {
    /// Queues a datagram with the source address `from`, an address of this host, or with the one that routing chooses.
    pub fn push(&mut self, to: SocketAddr, from: Option<IpAddr>, datagram: &[u8]) {
        let source = from.map(|local| PacketInfo { local: Some(local), interface: 0 });
        self.0.push(to, source, false, datagram);
    }

    /// Returns how many datagrams are queued.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether no datagram is queued.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sends the queued datagrams without blocking, and returns how many were sent. Datagrams that the kernel does not
    /// accept are dropped, as a network may drop them.
    pub fn send(&mut self, socket: BorrowedFd<'_>) -> usize {
        let sent = self.0.send(socket);
        self.0.clear();
        sent
    }
}

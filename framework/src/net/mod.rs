//! Sockets, and the ways in which a worker waits on them.

pub(crate) mod attention;
pub(crate) mod backlog;
pub(crate) mod clock;
pub(crate) mod egress;
mod epoll_wait;
pub(crate) mod feed;
pub(crate) mod memory;
pub(crate) mod sctp;
pub(crate) mod sctp_setup;
pub(crate) mod shared;
pub(crate) mod sink;
pub(crate) mod stall;
pub(crate) mod tcp;
pub(crate) mod udp;
mod wait;

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use self::memory::MemoryTransport;
use self::sctp::SctpTransport;
use self::shared::SharedTransport;
use self::tcp::TcpTransport;
use self::udp::UdpTransport;
pub(crate) use self::wait::{Arrival, AssociationInfo, after};
use crate::sctp::MessageInfo;
use crate::sys::epoll::wait_writable;

/// The socket of one association, of any kind, or memory in place of a socket.
pub(crate) enum Transport {
    Udp(Box<UdpTransport>),
    Sctp(Box<SctpTransport>),
    Tcp(TcpTransport),
    Shared(SharedTransport),
    Memory(Box<MemoryTransport>),
}

impl Transport {
    /// Waits until there may be room to send. Returns `false` if there is none within the timeout.
    pub(crate) fn wait_for_room(&self, timeout: Duration) -> bool {
        let socket = match self {
            Self::Udp(transport) => transport.socket(),
            Self::Sctp(transport) => transport.socket(),
            Self::Tcp(transport) => transport.socket(),
            Self::Shared(transport) => return transport.wait_for_room(timeout),
            Self::Memory(transport) => return transport.wait_for_room(timeout),
        };
        wait_writable(socket.as_fd(), Some(timeout)).unwrap_or(false)
    }

    /// Returns the metadata of the last message, on transports that have any.
    pub(crate) fn message_info(&self) -> Option<MessageInfo> {
        match self {
            Self::Udp(_) | Self::Tcp(_) | Self::Shared(_) => None,
            Self::Sctp(transport) => Some(transport.info),
            Self::Memory(transport) => Some(transport.info),
        }
    }

    /// Returns the source of the last message, if it may differ from the peer's address.
    pub(crate) fn source(&self) -> Option<SocketAddr> {
        match self {
            Self::Udp(transport) => transport.source(),
            Self::Shared(transport) => transport.source(),
            Self::Sctp(_) | Self::Tcp(_) | Self::Memory(_) => None,
        }
    }

    /// Sets the peer's new address.
    pub(crate) fn set_peer_address(&mut self, peer: SocketAddr) {
        if let Self::Udp(transport) = self {
            transport.set_peer_address(peer);
        }
    }

    /// Waits for one message of the peer: its bytes go to `first`, and the rest to `overflow`. On a stream, the bytes
    /// of one read go to `first` or, if that is empty, to `overflow`. Blocks until `deadline`. Data that has already
    /// arrived is delivered even if the deadline has passed.
    pub(crate) fn recv(
        &mut self,
        first: &mut [u8],
        overflow: &mut Vec<u8>,
        now: Instant,
        deadline: Option<Instant>,
    ) -> Arrival {
        match self {
            Self::Udp(transport) => transport.recv(first, overflow, now, deadline),
            Self::Sctp(transport) => transport.recv(first, overflow, now, deadline),
            Self::Tcp(transport) => transport.recv(first, overflow, now, deadline),
            Self::Shared(transport) => transport.recv(first, overflow, deadline),
            Self::Memory(transport) => transport.recv(first, overflow, deadline),
        }
    }

    /// Discards the unread data of an association that has ended and whose socket is closed next. For TCP the
    /// [backlog](crate::net::backlog::Backlog::shut_down) does that.
    pub(crate) fn discard(&self) {
        if let Self::Sctp(transport) = self {
            transport.discard();
        }
    }

    /// Sets whether waits also end when there is room to send. SCTP reports room by a notification instead, memory by a
    /// signal.
    pub(crate) fn await_room(&mut self, wanted: bool) {
        match self {
            Self::Udp(transport) => transport.await_room = wanted,
            Self::Tcp(transport) => transport.await_room = wanted,
            Self::Shared(transport) => transport.await_room(wanted),
            Self::Sctp(_) | Self::Memory(_) => {}
        }
    }
}

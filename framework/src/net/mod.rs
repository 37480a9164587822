//! Sockets as a worker waits on them.

pub(crate) mod attention;
pub(crate) mod backlog;
pub(crate) mod clock;
pub(crate) mod egress;
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
mod watch;

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use self::memory::MemoryTransport;
use self::sctp::SctpTransport;
use self::shared::SharedTransport;
use self::tcp::TcpTransport;
use self::udp::UdpTransport;
pub(crate) use self::wait::{Arrival, Ends, after};
use crate::sctp::MessageInfo;
use crate::sys::epoll::wait_writable;

/// The socket of one association, of any kind, or memory in the place of one.
pub(crate) enum Transport {
    Udp(Box<UdpTransport>),
    Sctp(Box<SctpTransport>),
    Tcp(TcpTransport),
    Shared(SharedTransport),
    Memory(Box<MemoryTransport>),
}

impl Transport {
    /// Waits until there may be room to send; `false`: there is none after so long.
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

    /// What came with the last message, where messages come with something.
    pub(crate) fn message_info(&self) -> Option<MessageInfo> {
        match self {
            Self::Udp(_) | Self::Tcp(_) | Self::Shared(_) => None,
            Self::Sctp(transport) => Some(transport.info),
            Self::Memory(transport) => Some(transport.info),
        }
    }

    /// Where the last message came from, where that may be another address than the peer's.
    pub(crate) fn source(&self) -> Option<SocketAddr> {
        match self {
            Self::Udp(transport) => transport.source(),
            Self::Shared(transport) => transport.source(),
            Self::Sctp(_) | Self::Tcp(_) | Self::Memory(_) => None,
        }
    }

    /// The peer is at this address from now on.
    pub(crate) fn follow(&mut self, peer: SocketAddr) {
        if let Self::Udp(transport) = self {
            transport.follow(peer);
        }
    }

    /// Waits for one message of the peer: its bytes go to `first`, and what has no room there to
    /// `overflow`; of a stream, what a read finds, to `first` or, where that is empty, to `overflow`. Blocks until `deadline`; a deadline that has passed still takes what has arrived.
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

    /// Throws away what is unread of an association that has ended; its socket is closed next. TCP's is read by the
    /// [end](crate::net::backlog::Backlog::hang_up).
    pub(crate) fn discard(&self) {
        if let Self::Sctp(transport) = self {
            transport.discard();
        }
    }

    /// Whether waits end also when there is room to send. SCTP tells by a notification instead, memory by a signal.
    pub(crate) fn await_room(&mut self, wanted: bool) {
        match self {
            Self::Udp(transport) => transport.await_room = wanted,
            Self::Tcp(transport) => transport.await_room = wanted,
            Self::Shared(transport) => transport.await_room(wanted),
            Self::Sctp(_) | Self::Memory(_) => {}
        }
    }
}

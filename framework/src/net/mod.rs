//! Sockets as a worker waits on them.

pub(crate) mod attention;
pub(crate) mod backlog;
pub(crate) mod sctp;
pub(crate) mod sctp_setup;
pub(crate) mod stall;
pub(crate) mod tcp;
pub(crate) mod udp;
mod wait;
mod watch;

use std::sync::Arc;
use std::time::Instant;

use socket2::Socket;

use self::sctp::SctpTransport;
use self::tcp::TcpTransport;
use self::udp::UdpTransport;
pub(crate) use self::wait::{Arrival, Ends, after};

/// The socket of one association, of any kind.
pub(crate) enum Transport {
    Udp(UdpTransport),
    Sctp(Box<SctpTransport>),
    Tcp(TcpTransport),
}

impl Transport {
    pub(crate) fn socket(&self) -> &Arc<Socket> {
        match self {
            Self::Udp(transport) => transport.socket(),
            Self::Sctp(transport) => transport.socket(),
            Self::Tcp(transport) => transport.socket(),
        }
    }

    /// Waits for one message of the peer: its bytes go to `first`, and what has no room there to
    /// `overflow`; of a stream, what a read finds, to `first` or, where that is empty, to `overflow`. Blocks until `deadline`; a deadline that is over still takes what is there.
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
        }
    }

    /// Whether waits end also when there is room to send. SCTP tells by a notification instead.
    pub(crate) fn await_room(&mut self, wanted: bool) {
        match self {
            Self::Udp(transport) => transport.await_room = wanted,
            Self::Tcp(transport) => transport.await_room = wanted,
            Self::Sctp(_) => {}
        }
    }
}

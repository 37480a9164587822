//! How the datagrams of one peer leave: by a socket of its own, which is connected, or by one that many peers share.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use socket2::Socket;

use super::shared::SharedPath;
use super::udp;
use crate::protocol::Sent;

/// Where datagrams to a peer go.
pub(crate) enum Egress {
    /// Through this connected socket.
    Connected(Arc<Socket>),
    /// Through a socket of many peers, to this one's address.
    Shared(SharedPath),
}

impl Egress {
    /// Sends one datagram; never blocks.
    pub(crate) fn send(&self, datagram: &[u8]) -> Sent {
        match self {
            Self::Connected(socket) => udp::send(socket, datagram),
            Self::Shared(path) => path.send(datagram),
        }
    }

    /// Sends one datagram to this address, or (`None`) to that of the peer; never blocks.
    pub(crate) fn send_to(&self, to: Option<SocketAddr>, datagram: &[u8]) -> Sent {
        match (self, to) {
            (_, None) => self.send(datagram),
            (Self::Connected(socket), Some(to)) => udp::send_to(socket, to, datagram),
            (Self::Shared(path), Some(to)) => path.socket.send(to, path.source, datagram),
        }
    }

    /// Sends to this address from now on, and receives from there alone.
    ///
    /// # Errors
    ///
    /// The kernel has no route to it, or does not allow it.
    pub(crate) fn follow(&mut self, peer: SocketAddr) -> io::Result<()> {
        match self {
            Self::Connected(socket) => socket.connect(&peer.into())?,
            Self::Shared(path) => path.peer = peer,
        }
        Ok(())
    }
}

impl From<Arc<Socket>> for Egress {
    fn from(socket: Arc<Socket>) -> Self {
        Self::Connected(socket)
    }
}

//! The output path for datagrams to one peer: a connected socket of its own, or a socket that many peers share.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use socket2::Socket;

use super::shared::SharedPath;
use super::udp;
use crate::protocol::Sent;

/// The destination of datagrams to a peer.
pub(crate) enum Egress {
    /// A connected socket.
    Connected(Arc<Socket>),
    /// A shared socket and the peer's address.
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

    /// Sends one datagram to this address, or with `None` to the peer's address; never blocks.
    pub(crate) fn send_to(&self, to: Option<SocketAddr>, datagram: &[u8]) -> Sent {
        match (self, to) {
            (_, None) => self.send(datagram),
            (Self::Connected(socket), Some(to)) => udp::send_to(socket, to, datagram),
            (Self::Shared(path), Some(to)) => path.socket.send(to, path.source, datagram),
        }
    }

    /// Sends to this address from now on, and with a connected socket receives only from it.
    ///
    /// # Errors
    ///
    /// The kernel has no route to the address, or does not permit it.
    pub(crate) fn set_peer_address(&mut self, peer: SocketAddr) -> io::Result<()> {
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

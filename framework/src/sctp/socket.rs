//! An SCTP socket that can be used without a server.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Type};

use super::{AssocId, MessageInfo, NextInfo, Options, SendInfo};
use crate::address::canonical::canonical;
use crate::sys::sctp::{self, abi};

/// An SCTP socket (RFC 6458, [sctp(7)](https://man7.org/linux/man-pages/man7/sctp.7.html)), for tests, for clients, and
/// for tasks that the server does not cover. Threads may share it.
///
/// A *one-to-one* socket has one association, as a TCP socket has one connection. A *one-to-many* socket has any
/// number, and [`peel_off`](Self::peel_off) moves one of them to a socket of its own. Every received message comes with
/// its [`MessageInfo`].
#[derive(Debug)]
pub struct Socket {
    inner: socket2::Socket,
}

/// Result of [`Socket::recv`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Received {
    /// The number of bytes; 0 without a notification means that the socket was shut down for reading.
    pub len: usize,
    /// Whether this is the end of the message or notification. If not, the next call continues with it.
    pub complete: bool,
    /// Whether it is a notification, for [`Notification::parse`](super::Notification::parse).
    pub notification: bool,
    /// The metadata of the message.
    pub info: Option<MessageInfo>,
    /// The association of the message; a notification contains its own.
    pub association: Option<AssocId>,
    /// The metadata of the next message, if [`Options::set_receive_next_info`] is on.
    pub next: Option<NextInfo>,
    /// The peer's address from which it came.
    pub source: Option<SocketAddr>,
}

/// Returns whether this kernel has SCTP. The call may load the module.
pub fn is_supported() -> bool {
    socket2::Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::from(libc::IPPROTO_SCTP))).is_ok()
}

impl Socket {
    /// Makes a one-to-many socket (SOCK_SEQPACKET), for IPv4 or for both IPv6 and IPv4. Fails with EPROTONOSUPPORT on a
    /// kernel without SCTP.
    pub fn one_to_many(ipv6: bool) -> io::Result<Self> {
        Self::new(ipv6, Type::SEQPACKET)
    }

    /// Makes a one-to-one socket (SOCK_STREAM), for IPv4 or for both IPv6 and IPv4. Fails with EPROTONOSUPPORT on a
    /// kernel without SCTP.
    pub fn one_to_one(ipv6: bool) -> io::Result<Self> {
        Self::new(ipv6, Type::STREAM)
    }

    fn new(ipv6: bool, kind: Type) -> io::Result<Self> {
        let domain = if ipv6 { Domain::IPV6 } else { Domain::IPV4 };
        let inner = socket2::Socket::new(domain, kind, Some(Protocol::from(libc::IPPROTO_SCTP)))?;
        if ipv6 {
            inner.set_only_v6(false)?;
        }
        Options::of(&inner).set_receive_message_info(true)?;
        Ok(Self { inner })
    }

    /// Returns the SCTP options of the socket.
    pub fn options(&self) -> Options<'_> {
        Options::of(&self.inner)
    }

    /// Binds to all these addresses ([bind(2)](https://man7.org/linux/man-pages/man2/bind.2.html) to the first,
    /// `sctp_bindx` for the others). They must have the same port; port 0 in the first address lets the kernel choose
    /// one, and port 0 in the others stands for the port of the first.
    pub fn bind(&self, addresses: &[SocketAddr]) -> io::Result<()> {
        let (&first, others) = addresses.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        self.inner.bind(&SockAddr::from(first))?;
        if others.is_empty() { Ok(()) } else { self.options().add_local_addresses(others) }
    }

    /// Calls [listen(2)](https://man7.org/linux/man-pages/man2/listen.2.html). On a one-to-many socket any `backlog`
    /// except 0 means that associations are accepted, without a limit.
    pub fn listen(&self, backlog: i32) -> io::Result<()> {
        self.inner.listen(backlog)
    }

    /// Associates with the peer that has all these addresses (`sctp_connectx`, RFC 6458 §9.9). Blocks until the
    /// association is established; fails with ECONNREFUSED or ETIMEDOUT if it is not. On a non-blocking socket it
    /// returns at once, and a notification or POLLOUT reports the result.
    pub fn connect(&self, addresses: &[SocketAddr]) -> io::Result<AssocId> {
        if addresses.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        sctp::connect(self.as_fd(), addresses).map(|(association, _)| AssocId::from_raw(association))
    }

    /// Accepts the next association of a listening one-to-one socket
    /// ([accept(2)](https://man7.org/linux/man-pages/man2/accept.2.html)), and returns the primary address of its peer.
    /// Blocks. Fails with EOPNOTSUPP on a one-to-many socket.
    pub fn accept(&self) -> io::Result<(Self, Option<SocketAddr>)> {
        let (inner, address) = self.inner.accept()?;
        Ok((Self { inner }, address.as_socket().map(canonical)))
    }

    /// Moves an association from a one-to-many socket to a socket of its own (RFC 6458 §9.2). Received messages that
    /// have not been read move with it; subscriptions, buffer sizes and timeouts are copied.
    ///
    /// # Errors
    ///
    /// EINVAL if the association does not exist. If the descriptor table is full, Linux fails with EMFILE *and destroys
    /// the association*.
    pub fn peel_off(&self, association: AssocId) -> io::Result<Self> {
        sctp::peel_off(self.as_fd(), association.as_raw()).map(Self::from)
    }

    /// Reads a message or a notification, or the part of it that fits into `buffer`. Blocks according to the socket's
    /// mode and read timeout (EAGAIN after the timeout).
    ///
    /// # Errors
    ///
    /// ENOTCONN on a one-to-one or peeled socket whose association has ended, ECONNRESET if the peer aborted it.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let received = sctp::recv_one(self.as_fd(), buffer, true)?;
        Ok(Received {
            len: received.len,
            complete: received.complete,
            notification: received.notification,
            info: received.info.map(|(info, _)| info),
            association: received.info.map(|(_, association)| AssocId::from_raw(association)),
            next: received.next,
            source: received.source,
        })
    }

    /// Sends a message on the socket's only association. Never blocks: fails with EAGAIN if the send buffer has no
    /// room.
    ///
    /// # Errors
    ///
    /// EINVAL for an empty message or a stream that does not exist, EMSGSIZE for a message longer than the send buffer,
    /// EPIPE after the end of the association.
    pub fn send(&self, message: &[u8], info: &SendInfo) -> io::Result<usize> {
        self.send_to(AssocId::FUTURE, message, info)
    }

    /// Sends a message on an association of a one-to-many socket; otherwise as [`send`](Self::send).
    pub fn send_to(&self, association: AssocId, message: &[u8], info: &SendInfo) -> io::Result<usize> {
        sctp::send(self.as_fd(), message, association.as_raw(), info, 0)
    }

    /// Sends a message to the peer with the address `to`; otherwise as [`send`](Self::send). A one-to-many socket first
    /// associates with the peer if necessary, without waiting for that; `others` are then up to five more addresses of
    /// the peer. Fails with EADDRNOTAVAIL if `to` is among them.
    pub fn send_to_address(
        &self,
        to: SocketAddr,
        others: &[IpAddr],
        message: &[u8],
        info: &SendInfo,
    ) -> io::Result<usize> {
        sctp::send_to(self.as_fd(), message, to, others, info, 0)
    }

    /// Sends a message to this address of the peer rather than the primary one (SCTP_ADDR_OVER); otherwise as
    /// [`send`](Self::send). Not for a peeled socket, on which Linux ignores addresses.
    pub fn send_over(&self, to: SocketAddr, message: &[u8], info: &SendInfo) -> io::Result<usize> {
        sctp::send_to(self.as_fd(), message, to, &[], info, abi::SCTP_ADDR_OVER)
    }

    /// Sends a message authenticated with the key of this number (SCTP_AUTHINFO, RFC 6458 §5.3.8); otherwise as
    /// [`send_to`](Self::send_to). Fails with EINVAL if the key does not exist or the peer does not authenticate.
    pub fn send_with_key(
        &self,
        association: AssocId,
        key: u16,
        message: &[u8],
        info: &SendInfo,
    ) -> io::Result<usize> {
        sctp::send_with_key(self.as_fd(), message, association.as_raw(), info, key)
    }

    /// Shuts an association down gracefully (SCTP_EOF): messages that were sent are still delivered. Does not wait for
    /// that. [`AssocId::FUTURE`] is the only association of a peeled socket; a one-to-one socket uses
    /// [`shutdown`](Self::shutdown).
    pub fn shutdown_association(&self, association: AssocId) -> io::Result<()> {
        sctp::send(self.as_fd(), &[], association.as_raw(), &SendInfo::default(), abi::SCTP_EOF).map(drop)
    }

    /// Shuts down the association of a one-to-one socket gracefully: SHUT_WR of
    /// [shutdown(2)](https://man7.org/linux/man-pages/man2/shutdown.2.html). On a peeled socket Linux does nothing and
    /// returns no error.
    pub fn shutdown(&self) -> io::Result<()> {
        self.inner.shutdown(std::net::Shutdown::Write)
    }

    /// Aborts an association at once (SCTP_ABORT) and sends the peer the reason, which may be empty. Fails with EINVAL
    /// on a one-to-one socket.
    pub fn abort(&self, association: AssocId, reason: &[u8]) -> io::Result<()> {
        sctp::send(self.as_fd(), reason, association.as_raw(), &SendInfo::default(), abi::SCTP_ABORT)
            .map(drop)
    }

    /// Sets how long [`recv`](Self::recv) and [`accept`](Self::accept) block (SO_RCVTIMEO); `None`: without a limit.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.inner.set_read_timeout(timeout)
    }

    /// Sets whether calls do not block (O_NONBLOCK).
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.inner.set_nonblocking(nonblocking)
    }

    /// Returns a local address, on Linux the one that was added last; [`Options::local_addresses`] returns all.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let address = self.inner.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidData)?;
        Ok(canonical(address))
    }
}

impl Socket {
    pub(crate) fn as_socket(&self) -> &socket2::Socket {
        &self.inner
    }

    pub(crate) fn into_socket(self) -> socket2::Socket {
        self.inner
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl From<OwnedFd> for Socket {
    /// Wraps an SCTP socket and keeps its options. If it is another kind of socket, every call fails.
    fn from(fd: OwnedFd) -> Self {
        Self { inner: fd.into() }
    }
}

impl From<Socket> for OwnedFd {
    fn from(socket: Socket) -> Self {
        socket.inner.into()
    }
}

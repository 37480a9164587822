//! An SCTP socket without a server around it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Type};

use super::{AssocId, MessageInfo, NextInfo, Options, SendInfo};
use crate::address::canonical::canonical;
use crate::sys::sctp::{self, abi};

/// An SCTP socket (RFC 6458, [sctp(7)](https://man7.org/linux/man-pages/man7/sctp.7.html)): to test with, to
/// be a client with, or for what the server does not do. May be shared by threads.
///
/// A *one-to-one* socket has one association, as a TCP socket has one connection. A *one-to-many* socket has
/// any number, and [`peel_off`](Self::peel_off) gives one of them a socket of its own. Every message received
/// comes with its [`MessageInfo`].
#[derive(Debug)]
pub struct Socket {
    inner: socket2::Socket,
}

/// What [`Socket::recv`] read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Received {
    /// Bytes; 0 (where it is not a notification): the socket was shut down for reading.
    pub len: usize,
    /// Whether that is the end of the message or notification. If not, the next call goes on with it.
    pub complete: bool,
    /// Whether it is a notification, for [`Notification::parse`](super::Notification::parse).
    pub notification: bool,
    /// What came with the message.
    pub info: Option<MessageInfo>,
    /// The association that the message came on; a notification says it itself.
    pub association: Option<AssocId>,
    /// What is known of the message behind it, with
    /// [`Options::set_receive_next_info`].
    pub next: Option<NextInfo>,
    /// The address of the peer that it came from.
    pub source: Option<SocketAddr>,
}

/// Whether this kernel has SCTP. Asking may load the module.
pub fn is_supported() -> bool {
    socket2::Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::from(libc::IPPROTO_SCTP))).is_ok()
}

impl Socket {
    /// A one-to-many socket (SOCK_SEQPACKET), for IPv4 or for both IPv6 and IPv4. EPROTONOSUPPORT on a
    /// kernel without SCTP.
    pub fn one_to_many(ipv6: bool) -> io::Result<Self> {
        Self::new(ipv6, Type::SEQPACKET)
    }

    /// A one-to-one socket (SOCK_STREAM), for IPv4 or for both IPv6 and IPv4. EPROTONOSUPPORT on a kernel
    /// without SCTP.
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

    /// The SCTP options of the socket.
    pub fn options(&self) -> Options<'_> {
        Options::of(&self.inner)
    }

    /// Binds to all these addresses ([bind(2)](https://man7.org/linux/man-pages/man2/bind.2.html) to the first,
    /// `sctp_bindx` for the others). They have one port; 0 in the first lets the kernel choose, and 0 in
    /// the others is the port of the first.
    pub fn bind(&self, addresses: &[SocketAddr]) -> io::Result<()> {
        let (&first, others) = addresses.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        self.inner.bind(&SockAddr::from(first))?;
        if others.is_empty() { Ok(()) } else { self.options().add_local_addresses(others) }
    }

    /// [listen(2)](https://man7.org/linux/man-pages/man2/listen.2.html). On a one-to-many socket any
    /// `backlog` but 0 means that associations are accepted, without a limit.
    pub fn listen(&self, backlog: i32) -> io::Result<()> {
        self.inner.listen(backlog)
    }

    /// Associates with the peer that has all these addresses (`sctp_connectx`, RFC 6458 §9.9). Blocks until the
    /// association is established (ECONNREFUSED or ETIMEDOUT if it is not); on a non-blocking socket it
    /// returns at once, and a notification or POLLOUT tells.
    pub fn connect(&self, addresses: &[SocketAddr]) -> io::Result<AssocId> {
        if addresses.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        sctp::connect(self.as_fd(), addresses).map(|(association, _)| AssocId::from_raw(association))
    }

    /// The next association of a listening one-to-one socket
    /// ([accept(2)](https://man7.org/linux/man-pages/man2/accept.2.html)), and the primary address of its peer.
    /// Blocks; EOPNOTSUPP on a one-to-many socket.
    pub fn accept(&self) -> io::Result<(Self, Option<SocketAddr>)> {
        let (inner, address) = self.inner.accept()?;
        Ok((Self { inner }, address.as_socket().map(canonical)))
    }

    /// Takes an association off a one-to-many socket and gives it a socket of its own (RFC 6458 §9.2). What was
    /// received and not read goes along; subscriptions, buffer sizes and timeouts are taken over.
    ///
    /// # Errors
    ///
    /// EINVAL if there is no such association. With a full descriptor table Linux fails with EMFILE *and
    /// destroys the association*.
    pub fn peel_off(&self, association: AssocId) -> io::Result<Self> {
        sctp::peel_off(self.as_fd(), association.as_raw()).map(Self::from)
    }

    /// Reads a message or a notification, or a part that fits into `buffer`. Blocks as the socket and its
    /// timeout say (EAGAIN: the time is over).
    ///
    /// # Errors
    ///
    /// ENOTCONN on a one-to-one or peeled socket whose association is over, ECONNRESET if the peer aborted it.
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

    /// Sends a message on the socket's one association. Never blocks: EAGAIN if the send buffer has no room.
    ///
    /// # Errors
    ///
    /// EINVAL for an empty message or a stream that there is not, EMSGSIZE for one longer than the send
    /// buffer, EPIPE after the end.
    pub fn send(&self, message: &[u8], info: &SendInfo) -> io::Result<usize> {
        self.send_to(AssocId::FUTURE, message, info)
    }

    /// Sends a message on an association of a one-to-many socket, otherwise as [`send`](Self::send).
    pub fn send_to(&self, association: AssocId, message: &[u8], info: &SendInfo) -> io::Result<usize> {
        sctp::send(self.as_fd(), message, association.as_raw(), info, 0)
    }

    /// Sends a message to the peer with the address `to`, otherwise as [`send`](Self::send). A one-to-many
    /// socket associates with it if need be, without waiting for that; `others` are then more addresses of that
    /// peer, five at most; EADDRNOTAVAIL if `to` is among them.
    pub fn send_to_address(
        &self,
        to: SocketAddr,
        others: &[IpAddr],
        message: &[u8],
        info: &SendInfo,
    ) -> io::Result<usize> {
        sctp::send_to(self.as_fd(), message, to, others, info, 0)
    }

    /// Sends a message to this address of the peer rather than the primary one (SCTP_ADDR_OVER), otherwise as
    /// [`send`](Self::send). Not for a peeled socket, on which Linux passes over addresses.
    pub fn send_over(&self, to: SocketAddr, message: &[u8], info: &SendInfo) -> io::Result<usize> {
        sctp::send_to(self.as_fd(), message, to, &[], info, abi::SCTP_ADDR_OVER)
    }

    /// Sends a message authenticated with the key of this number (SCTP_AUTHINFO, RFC 6458 §5.3.8), otherwise as
    /// [`send_to`](Self::send_to). EINVAL if there is no such key or the peer does not authenticate.
    pub fn send_with_key(
        &self,
        association: AssocId,
        key: u16,
        message: &[u8],
        info: &SendInfo,
    ) -> io::Result<usize> {
        sctp::send_with_key(self.as_fd(), message, association.as_raw(), info, key)
    }

    /// Ends an association in good order (SCTP_EOF): what was sent is still delivered. Does not wait for it.
    /// [`AssocId::FUTURE`] is the one association of a peeled socket; a one-to-one socket ends with
    /// [`shutdown`](Self::shutdown).
    pub fn shutdown_association(&self, association: AssocId) -> io::Result<()> {
        sctp::send(self.as_fd(), &[], association.as_raw(), &SendInfo::default(), abi::SCTP_EOF).map(drop)
    }

    /// Ends the association of a one-to-one socket in good order: SHUT_WR of
    /// [shutdown(2)](https://man7.org/linux/man-pages/man2/shutdown.2.html). On a peeled socket Linux does
    /// nothing for it and returns no error.
    pub fn shutdown(&self) -> io::Result<()> {
        self.inner.shutdown(std::net::Shutdown::Write)
    }

    /// Ends an association at once (SCTP_ABORT) and tells the peer the reason, which may be empty. EINVAL on a
    /// one-to-one socket.
    pub fn abort(&self, association: AssocId, reason: &[u8]) -> io::Result<()> {
        sctp::send(self.as_fd(), reason, association.as_raw(), &SendInfo::default(), abi::SCTP_ABORT)
            .map(drop)
    }

    /// How long [`recv`](Self::recv) and [`accept`](Self::accept) block (SO_RCVTIMEO); `None`: for ever.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.inner.set_read_timeout(timeout)
    }

    /// Whether nothing blocks (O_NONBLOCK).
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.inner.set_nonblocking(nonblocking)
    }

    /// A local address, on Linux the one added last; [`Options::local_addresses`] has all.
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
    /// Takes an SCTP socket; of another kind of socket, every call fails. Its options stay as they are.
    fn from(fd: OwnedFd) -> Self {
        Self { inner: fd.into() }
    }
}

impl From<Socket> for OwnedFd {
    fn from(socket: Socket) -> Self {
        socket.inner.into()
    }
}

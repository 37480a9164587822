//! The user's hook that sets options of sockets which the library makes.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::address::Scheme;

/// The purpose of a [`NewSocket`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SocketRole {
    /// A server's listener. Its [local address](NewSocket::local_address) is what it will be bound to.
    Listener,
    /// A server's socket for one peer.
    Peer,
    /// A client's socket. Its [peer](NewSocket::peer_address) is the server. It has a local address if the client was
    /// told to [bind](crate::Client::bind) one.
    Client,
}

/// A socket that the library has just made, as [`ServerBuilder::socket_options`] and [`Client::socket_options`] receive
/// it. [`AsFd`] returns its descriptor, for `setsockopt` or for `SockRef` of the crate `socket2`.
///
/// [`ServerBuilder::socket_options`]: crate::ServerBuilder::socket_options
/// [`Client::socket_options`]: crate::Client::socket_options
#[derive(Clone, Copy, Debug)]
pub struct NewSocket<'a> {
    fd: BorrowedFd<'a>,
    role: SocketRole,
    scheme: Scheme,
    local: Option<SocketAddr>,
    peer: Option<SocketAddr>,
}

impl NewSocket<'_> {
    /// Returns the purpose of the socket.
    pub fn role(&self) -> SocketRole {
        self.role
    }

    /// Returns the protocol of the socket.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Returns the local address that the socket has or will have, if it is known.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.local
    }

    /// Returns the address that the socket is or will be connected to. Behind a proxy it is the proxy's address; a
    /// listener has none.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.peer
    }
}

impl AsFd for NewSocket<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd
    }
}

/// The user's function.
type Function = Arc<dyn Fn(&NewSocket<'_>) -> io::Result<()> + Send + Sync>;

impl std::fmt::Debug for SocketHook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SocketHook").field(&self.0.is_some()).finish()
    }
}

/// The user's hook, if set, for sockets of one scheme.
#[derive(Clone, Default)]
pub(crate) struct SocketHook(Option<(Function, Scheme)>);

/// The hook of a server builder or a client.
#[derive(Clone, Default)]
pub(crate) struct SocketOptions(Option<Function>);

impl SocketOptions {
    pub(crate) fn new(hook: impl Fn(&NewSocket<'_>) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hook)))
    }

    pub(crate) fn of(&self, scheme: Scheme) -> SocketHook {
        SocketHook(self.0.clone().map(|function| (function, scheme)))
    }
}

impl SocketHook {
    /// Calls the hook for a listener, before it is bound.
    pub(crate) fn listener(&self, socket: &impl AsFd, local: SocketAddr) -> io::Result<()> {
        self.call(socket, SocketRole::Listener, Some(local), None)
    }

    /// Calls the hook for a server's socket of one peer.
    pub(crate) fn peer(&self, socket: &impl AsFd, local: SocketAddr, peer: SocketAddr) -> io::Result<()> {
        self.call(socket, SocketRole::Peer, Some(local), Some(peer))
    }

    /// Calls the hook for a client's socket, before it is bound and connected.
    pub(crate) fn client(
        &self,
        socket: &impl AsFd,
        local: Option<SocketAddr>,
        peer: SocketAddr,
    ) -> io::Result<()> {
        self.call(socket, SocketRole::Client, local, Some(peer))
    }

    fn call(
        &self,
        socket: &impl AsFd,
        role: SocketRole,
        local: Option<SocketAddr>,
        peer: Option<SocketAddr>,
    ) -> io::Result<()> {
        let Some((function, scheme)) = &self.0 else { return Ok(()) };
        let socket = NewSocket { fd: socket.as_fd(), role, scheme: *scheme, local, peer };
        let (panicked, source) = match catch_unwind(AssertUnwindSafe(|| function(&socket))) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => (false, error),
            Err(_) => (true, io::Error::other("it panicked")),
        };
        Err(io::Error::other(HookFailed { panicked, source }))
    }
}

/// The hook failed, not the kernel. It travels inside an [`io::Error`], among the errors of system calls.
#[derive(Debug, thiserror::Error)]
#[error("the hook for socket options failed: {source}")]
pub(crate) struct HookFailed {
    pub(crate) panicked: bool,
    pub(crate) source: io::Error,
}

impl HookFailed {
    /// Finds a failure of the hook in an error.
    pub(crate) fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// Extracts a failure of the hook from an error, or returns the error if it is another one.
    pub(crate) fn take(error: io::Error) -> Result<Self, io::Error> {
        error.downcast()
    }
}

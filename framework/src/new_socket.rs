//! The user's hook for options of sockets that the library makes.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::address::Scheme;

/// What a [`NewSocket`] is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SocketRole {
    /// A server's listener. Its [local address](NewSocket::local_address) is what it will be bound to.
    Listener,
    /// A server's socket for one peer.
    Peer,
    /// A client's socket. Its [peer](NewSocket::peer_address) is the server, and it has a local address where the client
    /// was told to [bind](crate::Client::bind) one.
    Client,
}

/// A socket that the library has just made, in the hands of [`ServerBuilder::socket_options`] or
/// [`Client::socket_options`]. [`AsFd`] gives its descriptor, for `setsockopt` or the `SockRef` of the crate `socket2`.
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
    /// What it is for.
    pub fn role(&self) -> SocketRole {
        self.role
    }

    /// The protocol that is spoken on it.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The address of this host that it has or will have, where that is known.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.local
    }

    /// The address that it is or will be connected to. Behind a proxy that is the proxy's; a listener has none.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.peer
    }
}

impl AsFd for NewSocket<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd
    }
}

/// What the user wrote.
type Function = Arc<dyn Fn(&NewSocket<'_>) -> io::Result<()> + Send + Sync>;

impl std::fmt::Debug for SocketHook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SocketHook").field(&self.0.is_some()).finish()
    }
}

/// The user's hook, if there is one, for sockets of one scheme.
#[derive(Clone, Default)]
pub(crate) struct SocketHook(Option<(Function, Scheme)>);

/// The hook of a builder or client.
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
    /// For a listener, before it is bound.
    pub(crate) fn listener(&self, socket: &impl AsFd, local: SocketAddr) -> io::Result<()> {
        self.call(socket, SocketRole::Listener, Some(local), None)
    }

    /// For a server's socket of one peer.
    pub(crate) fn peer(&self, socket: &impl AsFd, local: SocketAddr, peer: SocketAddr) -> io::Result<()> {
        self.call(socket, SocketRole::Peer, Some(local), Some(peer))
    }

    /// For a client, before it is bound and connected.
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

/// The hook failed, not the kernel. Travels inside of an [`io::Error`] among errors of system calls.
#[derive(Debug, thiserror::Error)]
#[error("the hook for socket options failed: {source}")]
pub(crate) struct HookFailed {
    pub(crate) panicked: bool,
    pub(crate) source: io::Error,
}

impl HookFailed {
    /// Finds it in an error.
    pub(crate) fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// Takes it out of an error, or gives back an error that is another.
    pub(crate) fn take(error: io::Error) -> Result<Self, io::Error> {
        error.downcast()
    }
}

//! TCP listeners: from a connection that the kernel has set up to its job.
//!
//! The TCP handshake proves a connection's address (RFC 9293 §3.5), so the dispatcher checks the limits and asks the
//! handler at once, and resets a refused connection. Behind a proxy the worker does this, after the PROXY header has
//! named the peer. The last descriptors are reserved for handlers and for ending associations; if only those are left,
//! a connection is reset, too. If no descriptor or no memory is left, the connection stays in the backlog, and the
//! listeners pause: for 5 ms at first, twice as long each time, and a second at most.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::adopted::Adopted;
use super::assigner::Assigner;
use super::child::Options;
use super::listener::cannot_listen;
use super::token::Token;
use crate::address::canonical::canonical;
use crate::address::{Address, Scheme};
use crate::error::StartError;
use crate::handler::Incoming;
use crate::net::tcp::reset;
use crate::new_socket::SocketHook;
use crate::observe::{Counters, Listening, bump, log_limited};
use crate::serve::admit::SocketKind;
use crate::serve::shared::Shared;
use crate::serve::worker::{Job, Task};
use crate::sys::epoll::{Epoll, READABLE};
use crate::sys::errno::is_memory;

/// The most connections that the kernel has set up and that have not been accepted; `net.core.somaxconn` is another
/// bound.
const BACKLOG: i32 = 4096;

/// The number of connections that are accepted from one listener before the others have their turn.
const TURN: usize = 256;

/// The first and the longest pause of the listeners if no connection can be accepted.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A listener that is bound and not yet served.
pub(crate) struct TcpListener {
    socket: Arc<Socket>,
    scheme: Scheme,
    address: SocketAddr,
    proxied: bool,
    hook: SocketHook,
}

impl TcpListener {
    /// Binds and listens. If `proxied`, each connection begins with a PROXY header.
    pub(crate) fn bind(
        scheme: Scheme,
        address: SocketAddr,
        options: Options,
        proxied: bool,
    ) -> Result<Self, StartError> {
        let socket = listen(address, &options).map_err(|error| cannot_listen(error, address, "TCP"))?;
        let bound = socket.local_addr().ok().and_then(|found| found.as_socket());
        let (socket, address) = (Arc::new(socket), bound.unwrap_or(address));
        Ok(Self { socket, scheme, address, proxied, hook: options.hook })
    }

    /// Takes a socket of the user's, and makes it listen if it does not yet.
    pub(crate) fn adopt(adopted: Adopted, options: Options, proxied: bool) -> Result<Self, StartError> {
        let socket = &adopted.socket;
        let listening = socket.is_listener();
        let prepared = listening.and_then(|listening| {
            socket.set_tcp_nodelay(true)?;
            socket.set_nonblocking(true)?;
            if listening { Ok(()) } else { socket.listen(BACKLOG) }
        });
        prepared.map_err(|error| adopted.cannot("listening on it", &error))?;
        let Adopted { socket, scheme, address } = adopted;
        let socket = Arc::new(socket);
        Ok(Self { socket, scheme, address, proxied, hook: options.hook })
    }

    pub(crate) fn scheme(&self) -> Scheme {
        self.scheme
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Returns the address that it is bound to.
    pub(crate) fn address(&self) -> Address {
        Address::from_socket(self.scheme, self.address)
    }
}

fn listen(address: SocketAddr, options: &Options) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(options.v6_only)?;
    }
    if options.freebind {
        crate::sys::socket::set_freebind(&socket, address.is_ipv6())?;
    }
    // The listener can use the port while connections of an earlier server are in TIME-WAIT.
    socket.set_reuse_address(true)?;
    // Connections inherit this option, so a message leaves as soon as it is sent.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    options.hook.listener(&socket, address)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// All TCP listeners of a server.
pub(super) struct Tcp {
    listeners: Vec<TcpListener>,
    counted: Vec<Listening>,
    pause: Duration,
    /// The end of the listeners' pause.
    resume: Option<Instant>,
}

impl Tcp {
    pub(super) fn new(shared: &Shared, epoll: &Epoll, listeners: Vec<TcpListener>) -> io::Result<Self> {
        for (index, listener) in listeners.iter().enumerate() {
            epoll.add(listener.socket.as_fd(), READABLE, Token::Tcp(index).into())?;
        }
        let count =
            |listener: &TcpListener| Listening::new(listener.counters(shared), Some(&listener.socket));
        let counted = listeners.iter().map(count).collect();
        Ok(Self { listeners, counted, pause: FIRST_PAUSE, resume: None })
    }

    /// Gives up the listeners, which another process has now.
    pub(super) fn give_up(&mut self, epoll: &Epoll) {
        // The other process has the sockets open too, so closing them would not remove them from epoll.
        self.listeners.iter().for_each(|listener| epoll.remove(listener.socket.as_fd()));
        (self.listeners, self.resume) = (Vec::new(), None);
        self.counted.clear();
    }

    /// Returns when [`tick`](Self::tick) has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.resume
    }

    /// Ends a pause whose time has passed.
    pub(super) fn tick(&mut self, epoll: &Epoll, now: Instant) {
        if self.resume.is_some_and(|resume| resume <= now) {
            self.resume = None;
            self.watch(epoll, READABLE);
        }
    }

    /// Accepts connections from the listener at `index`, which epoll has reported as readable.
    pub(super) fn ready(&mut self, index: usize, epoll: &Epoll, assigner: &mut Assigner) {
        let Some(listener) = self.listeners.get(index) else { return };
        if self.resume.is_some() {
            return;
        }
        for _ in 0..TURN {
            match listener.accept(index, assigner) {
                Ok(()) => self.pause = FIRST_PAUSE,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return,
                    // The connection ended before it was accepted, or accept(2) reports an error of the network.
                    _ if !is_exhausted(&error) => {}
                    _ => {
                        assigner.refuse_for(&error, listener.scheme, listener.address, listener.address);
                        bump(&listener.counters(&assigner.shared).accept_pauses);
                        self.resume = Some(Instant::now() + self.pause);
                        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                        return self.watch(epoll, 0);
                    }
                },
            }
        }
    }

    fn watch(&self, epoll: &Epoll, events: u32) {
        for (index, listener) in self.listeners.iter().enumerate() {
            if let Err(error) = epoll.modify(listener.socket.as_fd(), events, Token::Tcp(index).into()) {
                log_limited!(error, %error, "the dispatcher cannot watch a listener");
            }
        }
    }
}

impl TcpListener {
    fn counters<'a>(&self, shared: &'a Shared) -> &'a Arc<Counters> {
        shared.counted(self.scheme, self.address)
    }

    /// Accepts one connection, and hands it over or resets it. `index` is this listener's number.
    fn accept(&self, index: usize, assigner: &mut Assigner) -> io::Result<()> {
        let (socket, peer) = self.socket.accept()?;
        bump(&self.counters(&assigner.shared).connections);
        let (Some(peer), Ok(Some(local))) =
            (peer.as_socket(), socket.local_addr().map(|found| found.as_socket()))
        else {
            bump(&self.counters(&assigner.shared).ignored);
            return Ok(());
        };
        let (local, peer) = (canonical(local), canonical(peer));
        if !assigner.has_headroom(socket.as_fd()) {
            reset(&socket);
            assigner.refuse_for(&io::Error::from_raw_os_error(libc::EMFILE), self.scheme, local, peer);
            return Ok(());
        }
        let admitted = match self.proxied {
            true => assigner.shared.admit_proxy(self.scheme, local, peer, index),
            false => {
                assigner.shared.admit(Incoming::new(self.scheme, local, peer), [0; 32], SocketKind::OwnSocket)
            }
        };
        let Ok(association) = admitted else {
            reset(&socket);
            return Ok(());
        };
        if let Err(error) = self.hook.peer(&socket, local, peer) {
            assigner.cancel(&association);
            reset(&socket);
            assigner.refuse_for(&error, self.scheme, local, peer);
            return Ok(());
        }
        let shared = Arc::clone(&assigner.shared);
        shared.registry.insert(&association);
        let task = Task::Stream { proxied: self.proxied };
        assigner.assign(Job::own(association, Arc::new(socket), task, shared));
        Ok(())
    }
}

/// Returns whether accepting failed because the system is short of a resource, which may become available again.
fn is_exhausted(error: &io::Error) -> bool {
    is_memory(error) || matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

//! Makes listeners and connected children on one port, without the race between bind and connect.
//!
//! Between bind(2) and connect(2) a child is an unconnected socket that is newer than the listener, and the kernel
//! prefers the newer socket: a child that binds the listener's own address receives the datagrams of all unknown peers
//! in that window. There are three [recipes](Recipe), best first. Which of them a kernel honours is
//! [probed](Recipes::probe) deterministically, with a datagram that is sent inside the window.
//!
//! Under a wildcard listener, children are made beside an *anchor*, which is a listener on the address that the peer
//! sent to. If an address has no anchor, connect(2) of a child moves the child between the kernel's hash chains, and a
//! look-up that is at the child in that moment misses the wildcard listener: under a constant flow of new peers, one
//! datagram in a hundred thousand is answered with ICMP port unreachable.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::new_socket::SocketHook;
use crate::sys::epoll::{self, Epoll};
use crate::sys::socket as option;

/// The receive buffer that a listener asks the kernel for, in bytes: 4 MiB hold about 5,000 hellos, the default 277.
const LISTENER_BUFFER: usize = 4 << 20;

/// The number of attempts of a probe that fails for another reason than the one it looks for.
const PROBES: usize = 3;
/// The time that a probe's datagram may take to arrive. On a busy machine the kernel does not deliver it at once.
const ARRIVAL: Duration = Duration::from_millis(100);

/// A way to make a connected child beside a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recipe {
    /// Bind the wildcard address, then connect. In the window the listener outranks the child, because the listener is
    /// bound to a specific address; connect moves the child to such an address. The kernel chooses the address by
    /// routing, so it can be the wrong one. The kernel sets the child's address an instant before its peer's: the child
    /// receives the datagrams that another processor delivers in between, and gives them back.
    Wildcard,
    /// Bind the listener's address inside its SO_REUSEPORT group, whose program always chooses the listener; then
    /// connect; then leave the group.
    Group,
    /// Bind the listener's address, then connect. The child receives datagrams of other peers in the window; it
    /// recognizes them by their source address and gives them back.
    Unguarded,
}

/// The recipes that this kernel honours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recipes {
    wildcard: bool,
    group: bool,
}

/// Options that listeners and children share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// IPV6_V6ONLY on wildcard listeners.
    pub(crate) v6_only: bool,
    /// IP_FREEBIND: addresses that the host does not have yet.
    pub(crate) freebind: bool,
    /// The user's hook for socket options.
    pub(crate) hook: SocketHook,
}

impl Recipes {
    /// Tries each recipe on `address`, an address of this host, on a port that the kernel chooses: between the child's
    /// bind and connect a third socket sends a datagram, and the listener must receive it. Takes a few hundred
    /// microseconds. A recipe that fails in any way is not used.
    pub(crate) fn probe(address: IpAddr) -> Self {
        // The port that the kernel chooses can be in use on another address; then the probe tries another port.
        let trial = |recipe| (0..PROBES).find_map(|_| steals(recipe, address).ok());
        let honoured = |recipe| trial(recipe) == Some(false);
        Self { wildcard: honoured(Recipe::Wildcard), group: honoured(Recipe::Group) }
    }

    /// Returns these recipes without the one that needs the group of the listener.
    pub(super) fn without_group(self) -> Self {
        Self { group: false, ..self }
    }

    /// Returns whether the kernel honours neither recipe.
    pub(crate) fn none(self) -> bool {
        !self.wildcard && !self.group
    }
}

/// Returns whether a datagram that an unknown peer sends between a child's bind and its connect, both by `recipe`,
/// misses the listener.
///
/// # Errors
///
/// Returns the errors of the system calls, and [`TimedOut`](io::ErrorKind::TimedOut) if the datagram arrives nowhere.
fn steals(recipe: Recipe, address: IpAddr) -> io::Result<bool> {
    let listener = listen(SocketAddr::new(address, 0), &Options::default())?;
    let local = listener.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let (peer, other) = (UdpSocket::bind((address, 0))?, UdpSocket::bind((address, 0))?);
    let child = bind(recipe, local, peer.local_addr()?, &Options::default())?;
    const LISTENER: u64 = 0;
    const CHILD: u64 = 1;
    let window = Epoll::new()?;
    window.add(listener.as_fd(), epoll::READABLE, LISTENER)?;
    window.add(child.as_fd(), epoll::READABLE, CHILD)?;
    other.send_to(b"?", local)?;
    // The window stays open until the datagram has arrived, so the result depends on the socket that has it and not on
    // the time.
    let mut arrived = Vec::new();
    window.wait(&mut arrived, Some(ARRIVAL))?;
    connect(recipe, &child, peer.local_addr()?)?;
    match arrived[..] {
        [LISTENER] => Ok(false),
        [CHILD] => Ok(true),
        _ => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Binds a listener whose port children can share. Before that, a bind that shares nothing makes sure that no other
/// socket has the port; with port 0 that bind also finds the port.
///
/// # Errors
///
/// Returns EADDRINUSE, EADDRNOTAVAIL, EACCES and the other errors of the system calls and of the hook.
pub(crate) fn listen(address: SocketAddr, options: &Options) -> io::Result<Socket> {
    anchor(free_port(address, options)?, options)
}

/// Makes sure, by a bind that shares nothing, that no other socket has the port. Finds a free port if the port is 0.
fn free_port(address: SocketAddr, options: &Options) -> io::Result<SocketAddr> {
    let exclusive = open(address)?;
    if address.is_ipv6() {
        exclusive.set_only_v6(options.v6_only || !address.ip().is_unspecified())?;
    }
    free_bind(&exclusive, address, options)?;
    options.hook.listener(&exclusive, address)?;
    exclusive.bind(&address.into())?;
    let found = exclusive.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    drop(exclusive);
    let mut exact = address;
    exact.set_port(found.port());
    Ok(exact)
}

/// Binds a group of listening sockets, among which the kernel divides the peers (SO_REUSEPORT). Makes sure as
/// [`listen`] does that no other socket has the port.
///
/// # Errors
///
/// Returns the errors that [`listen`] returns.
pub(crate) fn share(address: SocketAddr, options: &Options, count: usize) -> io::Result<Vec<Socket>> {
    let exact = free_port(address, options)?;
    let member = |_| {
        let socket = open(exact)?;
        socket.set_reuse_port(true)?;
        // Only a wildcard needs the destination address of each datagram: to a specific address all peers send the
        // same, and no peer has its own socket.
        if exact.ip().is_unspecified() {
            report_addresses(&socket, exact, options.v6_only)?;
        }
        prepare(&socket, exact, options)?;
        socket.bind(&exact.into())?;
        Ok(socket)
    };
    (0..count).map(member).collect()
}

/// Binds a listening socket without a check whether another socket has the port: for the specific addresses under a
/// wildcard listener.
///
/// # Errors
///
/// Returns the errors that [`listen`] returns.
pub(crate) fn anchor(address: SocketAddr, options: &Options) -> io::Result<Socket> {
    let socket = open(address)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    report_addresses(&socket, address, options.v6_only)?;
    prepare(&socket, address, options)?;
    socket.bind(&address.into())?;
    option::attach_first_of_group(&socket)?;
    Ok(socket)
}

/// Sets the options that every listener has.
fn prepare(socket: &Socket, address: SocketAddr, options: &Options) -> io::Result<()> {
    if address.is_ipv6() {
        socket.set_only_v6(options.v6_only || !address.ip().is_unspecified())?;
    }
    free_bind(socket, address, options)?;
    // The kernel silently reduces the size to net.core.rmem_max.
    let _ = socket.set_recv_buffer_size(LISTENER_BUFFER);
    options.hook.listener(socket, address)
}

/// Prepares a socket that the user bound to be a listener whose port children share.
///
/// # Errors
///
/// Returns [`PermissionDenied`](io::ErrorKind::PermissionDenied) if this process may not bind children to the port, and
/// [`AddrNotAvailable`](io::ErrorKind::AddrNotAvailable) if children would be bound in another network namespace.
pub(crate) fn adopt(socket: &Socket, address: SocketAddr, options: &Options) -> io::Result<()> {
    // A bind that shares nothing must fail in the listener's network namespace, because the listener has the port.
    let probe = open(address)?;
    if address.is_ipv6() {
        probe.set_only_v6(options.v6_only)?;
    }
    option::set_freebind(&probe, address.is_ipv6())?;
    match probe.bind(&address.into()) {
        Ok(()) => return Err(io::ErrorKind::AddrNotAvailable.into()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
        Err(error) => return Err(error),
    }
    socket.set_reuse_address(true)?;
    report_addresses(socket, address, options.v6_only)
}

/// Stops the kernel from delivering to this listener, and keeps the datagrams that it has: the listener is connected to
/// itself, so the kernel's look-up passes over it. The datagrams in its queue can still be read.
///
/// # Errors
///
/// Returns EINVAL or ENETUNREACH if this host has lost the address, and the other errors of the system calls.
pub(crate) fn retire(listener: &Socket, address: SocketAddr) -> io::Result<()> {
    // Old kernels otherwise still run the program of the group, which can choose this socket.
    listener.set_reuse_port(false)?;
    listener.connect(&address.into())
}

/// Makes a child that is bound to `local` and connected to `peer`, by the best recipe that works here.
///
/// # Errors
///
/// Returns EMFILE, ENFILE, ENOBUFS or ENOMEM if the system is short of resources, other errors if the peer's address
/// cannot be connected to, and the error of the hook.
pub(crate) fn open_child(
    recipes: Recipes,
    local: SocketAddr,
    peer: SocketAddr,
    options: &Options,
) -> io::Result<(Socket, Recipe)> {
    if recipes.wildcard {
        match make(Recipe::Wildcard, local, peer, options) {
            Ok(child) if same_address(child.local_addr()?.as_socket(), local) => {
                return Ok((child, Recipe::Wildcard));
            }
            Ok(_) => {}
            // Another socket has this port on another address of the host, and does not share it.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
    let recipe = if recipes.group { Recipe::Group } else { Recipe::Unguarded };
    Ok((make(recipe, local, peer, options)?, recipe))
}

fn make(recipe: Recipe, local: SocketAddr, peer: SocketAddr, options: &Options) -> io::Result<Socket> {
    let child = bind(recipe, local, peer, options)?;
    connect(recipe, &child, peer)?;
    Ok(child)
}

/// Carries out the first half of a recipe.
fn bind(recipe: Recipe, local: SocketAddr, peer: SocketAddr, options: &Options) -> io::Result<Socket> {
    let child = open(local)?;
    child.set_reuse_address(true)?;
    if recipe == Recipe::Group {
        child.set_reuse_port(true)?;
    }
    if local.is_ipv6() {
        child.set_only_v6(true)?;
    }
    free_bind(&child, local, options)?;
    packet_info(&child, local)?;
    // The hook does not run between bind and connect, because it would prolong the window.
    options.hook.peer(&child, local, peer)?;
    let address = match (recipe, local) {
        (Recipe::Wildcard, SocketAddr::V4(_)) => (Ipv4Addr::UNSPECIFIED, local.port()).into(),
        (Recipe::Wildcard, SocketAddr::V6(_)) => (Ipv6Addr::UNSPECIFIED, local.port()).into(),
        _ => local,
    };
    child.bind(&address.into())?;
    Ok(child)
}

/// Carries out the second half of a recipe.
fn connect(recipe: Recipe, child: &Socket, peer: SocketAddr) -> io::Result<()> {
    child.connect(&peer.into())?;
    if recipe == Recipe::Group {
        // Otherwise the next child would start a new group whose first member is this child.
        child.set_reuse_port(false)?;
    }
    Ok(())
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))
}

fn free_bind(socket: &Socket, address: SocketAddr, options: &Options) -> io::Result<()> {
    if options.freebind { option::set_freebind(socket, address.is_ipv6()) } else { Ok(()) }
}

/// Asks the kernel for the destination address of each datagram of a listener.
pub(super) fn report_addresses(socket: &Socket, address: SocketAddr, v6_only: bool) -> io::Result<()> {
    packet_info(socket, address)?;
    if address.is_ipv6() && address.ip().is_unspecified() && !v6_only {
        option::set_packet_info_v4(socket)?;
    }
    Ok(())
}

fn packet_info(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv6() { option::set_packet_info_v6(socket) } else { option::set_packet_info_v4(socket) }
}

fn same_address(found: Option<SocketAddr>, wanted: SocketAddr) -> bool {
    found.is_some_and(|found| found.ip() == wanted.ip() && found.port() == wanted.port())
}

#[cfg(test)]
mod tests;

//! Listeners and connected children on one port, without the race between bind and connect.
//!
//! Between its bind(2) and its connect(2) a child is an unconnected socket newer than the listener,
//! and the kernel prefers the newer: a child that binds the listener's own address is given every
//! stranger's datagrams in that window. Three [recipes](Recipe) are known, best first; which of them
//! a kernel honours is [probed](Recipes::probe) without chance, with a datagram sent inside the window.
//!
//! Under a wildcard listener children are made beside an *anchor*, a listener on the very address that was asked.
//! While an address has none, connect(2) of a child elsewhere moves that between the kernel's hash chains, and a
//! look-up that stands on it then misses the wildcard listener: one datagram in a hundred thousand, under a constant
//! flow of new peers, gets ICMP port unreachable.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::new_socket::SocketHook;
use crate::sys::epoll::{self, Epoll};
use crate::sys::socket as option;

/// What the kernel is asked to queue on a listener: 4 MiB hold some 5,000 hellos, the default 277.
const LISTENER_BUFFER: usize = 4 << 20;

/// Times that a probe is tried where it fails for other reasons than what it looks for.
const PROBES: usize = 3;
/// How long a probe's datagram may take to arrive: on a busy machine the kernel does not deliver it at once.
const ARRIVAL: Duration = Duration::from_millis(100);

/// A way to make a connected child beside a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recipe {
    /// Bind the wildcard address, then connect: in the window the listener, bound to a specific
    /// address, outranks the child; connect moves the child to that address. The kernel chooses
    /// the address by routing, so it can be the wrong one. It sets the child's address an instant before
    /// its peer's: what another processor delivers in between is the child's, and is given back.
    Wildcard,
    /// Bind the listener's address inside its SO_REUSEPORT group, whose program always chooses the
    /// listener; connect; leave the group.
    Group,
    /// Bind the listener's address, then connect. Steals in the window; what was stolen is found by
    /// its source address and given back.
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
    /// The user's.
    pub(crate) hook: SocketHook,
}

impl Recipes {
    /// Tries out each recipe on `address`, an address of this host, on a port of the kernel's choice:
    /// between the child's bind and connect a third socket sends, and the listener must get it.
    /// Takes a few hundred microseconds; a recipe that fails in any way is not used.
    pub(crate) fn probe(address: IpAddr) -> Self {
        // A port of the kernel's choice can be in use on another address: another one then.
        let trial = |recipe| (0..PROBES).find_map(|_| steals(recipe, address).ok());
        let honoured = |recipe| trial(recipe) == Some(false);
        Self { wildcard: honoured(Recipe::Wildcard), group: honoured(Recipe::Group) }
    }

    /// Leaves out the recipe that needs the group of the listener.
    pub(super) fn without_group(self) -> Self {
        Self { group: false, ..self }
    }

    /// Whether neither is honoured.
    pub(crate) fn none(self) -> bool {
        !self.wildcard && !self.group
    }
}

/// Whether a datagram that a stranger sends between a child's bind and its connect, both made by
/// `recipe`, misses the listener.
///
/// # Errors
///
/// Those of the system calls, and [`TimedOut`](io::ErrorKind::TimedOut) if it arrives nowhere.
fn steals(recipe: Recipe, address: IpAddr) -> io::Result<bool> {
    let listener = listen(SocketAddr::new(address, 0), &Options::default())?;
    let local = listener.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let (peer, stranger) = (UdpSocket::bind((address, 0))?, UdpSocket::bind((address, 0))?);
    let child = bind(recipe, local, peer.local_addr()?, &Options::default())?;
    const LISTENER: u64 = 0;
    const CHILD: u64 = 1;
    let window = Epoll::new()?;
    window.add(listener.as_fd(), epoll::READABLE, LISTENER)?;
    window.add(child.as_fd(), epoll::READABLE, CHILD)?;
    stranger.send_to(b"?", local)?;
    // The window stays open until it is there: where it is tells who was given it, not when.
    let mut arrived = Vec::new();
    window.wait(&mut arrived, Some(ARRIVAL))?;
    connect(recipe, &child, peer.local_addr()?)?;
    match arrived[..] {
        [LISTENER] => Ok(false),
        [CHILD] => Ok(true),
        _ => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Binds a listener that children can share the port of. That nobody else has the port is made sure
/// first by a bind that shares nothing; with port 0 it also finds the port.
///
/// # Errors
///
/// EADDRINUSE, EADDRNOTAVAIL, EACCES and whatever else the system calls and the hook give.
pub(crate) fn listen(address: SocketAddr, options: &Options) -> io::Result<Socket> {
    anchor(free_port(address, options)?, options)
}

/// Makes sure that nobody else has the port, by a bind that shares nothing; with port 0 it finds one.
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

/// Binds a group of listening sockets, among which the kernel divides those who send to them (SO_REUSEPORT). That nobody else
/// has the port is made sure as by [`listen`].
///
/// # Errors
///
/// As [`listen`].
pub(crate) fn share(address: SocketAddr, options: &Options, count: usize) -> io::Result<Vec<Socket>> {
    let exact = free_port(address, options)?;
    let member = |_| {
        let socket = open(exact)?;
        socket.set_reuse_port(true)?;
        // No peer has a socket of its own to be told apart from, and a specific address is where all of them send to.
        if exact.ip().is_unspecified() {
            report_addresses(&socket, exact, options.v6_only)?;
        }
        prepare(&socket, exact, options)?;
        socket.bind(&exact.into())?;
        Ok(socket)
    };
    (0..count).map(member).collect()
}

/// Binds a listening socket without asking whether somebody else has the port: for the specific
/// addresses under a wildcard listener.
///
/// # Errors
///
/// As [`listen`].
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

/// Sets what every listener has.
fn prepare(socket: &Socket, address: SocketAddr, options: &Options) -> io::Result<()> {
    if address.is_ipv6() {
        socket.set_only_v6(options.v6_only || !address.ip().is_unspecified())?;
    }
    free_bind(socket, address, options)?;
    // More than net.core.rmem_max is cut by the kernel in silence.
    let _ = socket.set_recv_buffer_size(LISTENER_BUFFER);
    options.hook.listener(socket, address)
}

/// Prepares a socket that somebody else bound to be a listener whose port children share.
///
/// # Errors
///
/// [`PermissionDenied`](io::ErrorKind::PermissionDenied) where children may not be bound to its port, and
/// [`AddrNotAvailable`](io::ErrorKind::AddrNotAvailable) where they would be bound in another network namespace.
pub(crate) fn adopt(socket: &Socket, address: SocketAddr, options: &Options) -> io::Result<()> {
    // A socket that shares nothing cannot have the port, because the listener has it.
    let stranger = open(address)?;
    if address.is_ipv6() {
        stranger.set_only_v6(options.v6_only)?;
    }
    option::set_freebind(&stranger, address.is_ipv6())?;
    match stranger.bind(&address.into()) {
        Ok(()) => return Err(io::ErrorKind::AddrNotAvailable.into()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
        Err(error) => return Err(error),
    }
    socket.set_reuse_address(true)?;
    report_addresses(socket, address, options.v6_only)
}

/// Has the kernel give this listener nothing more, without losing what it has: it is connected to itself, so every datagram
/// is looked up as if it were not there. What is in its queue can still be read.
///
/// # Errors
///
/// EINVAL or ENETUNREACH where this host has the address no more, and whatever else the system calls give.
pub(crate) fn retire(listener: &Socket, address: SocketAddr) -> io::Result<()> {
    // Old kernels go on asking the program of the group that it is in.
    listener.set_reuse_port(false)?;
    listener.connect(&address.into())
}

/// Makes the connected child of `local` for `peer`, by the best recipe that works here.
///
/// # Errors
///
/// EMFILE, ENFILE, ENOBUFS, ENOMEM where the system is short; others where the peer's address
/// cannot be connected to; that of the hook.
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
            // Somebody has this port on another address of the host, and does not share it.
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

/// The first half of a recipe.
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
    // Not between bind and connect, where all other peers would wait for it.
    options.hook.peer(&child, local, peer)?;
    let address = match (recipe, local) {
        (Recipe::Wildcard, SocketAddr::V4(_)) => (Ipv4Addr::UNSPECIFIED, local.port()).into(),
        (Recipe::Wildcard, SocketAddr::V6(_)) => (Ipv6Addr::UNSPECIFIED, local.port()).into(),
        _ => local,
    };
    child.bind(&address.into())?;
    Ok(child)
}

/// The second half.
fn connect(recipe: Recipe, child: &Socket, peer: SocketAddr) -> io::Result<()> {
    child.connect(&peer.into())?;
    if recipe == Recipe::Group {
        // Else the next child would found a new group with this one at its head.
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

/// Has a listener tell with each datagram where it was sent to.
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

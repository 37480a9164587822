//! UDP listening sockets: those that the user asked for, and the anchors under a wildcard.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::{Index, IndexMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use socket2::Socket;

use super::adopted::Adopted;
use super::child::{self, Options, Recipes};
use crate::address::{Address, Scheme};
use crate::error::StartError;
use crate::net::shared::SharedListener;
use crate::new_socket::HookFailed;
use crate::observe::{Counters, Listening};
use crate::protocol::dtls::hello::{CONNECTION_ID_AT, TLS12_CID};
use crate::serve::admit::address_hit;
use crate::serve::worker::Job;
use crate::sys::control::PacketInfo;
use crate::sys::socket::attach_selection_by_byte;

/// The least that a queued datagram takes of a receive buffer, in bytes: the kernel's bookkeeping for it. The size of
/// the buffer divided by this is the most datagrams that the buffer can hold.
const MIN_QUEUED: usize = 512;

/// A listener that is bound and not yet served.
pub(crate) struct UdpListener {
    pub(super) socket: Socket,
    pub(super) scheme: Scheme,
    pub(super) address: SocketAddr,
    pub(super) options: Options,
    pub(super) recipes: Recipes,
}

impl UdpListener {
    /// Binds the socket, and probes how children can be made at its address.
    pub(crate) fn bind(scheme: Scheme, address: SocketAddr, options: Options) -> Result<Self, StartError> {
        // Every address that a datagram to a wildcard arrives at belongs to this host. But IPv6 lets a socket have an
        // address of a routed prefix (`ip -6 route add local ... dev lo`) only with this option.
        let freebind = options.freebind || address.ip().is_unspecified();
        let options = Options { freebind, ..options };
        let socket =
            child::listen(address, &options).map_err(|error| cannot_listen(error, address, "UDP"))?;
        let bound = socket.local_addr().ok().and_then(|found| found.as_socket());
        let address = SocketAddr::new(address.ip(), bound.map_or(address.port(), |found| found.port()));
        let address = with_scope_of(address, bound);
        let recipes = probe(address, &options);
        Ok(Self { socket, scheme, address, options, recipes })
    }

    /// Takes a socket of the user's, whose options its children get, or, if `own`, a socket that a server bound in
    /// another process.
    pub(crate) fn adopt(adopted: Adopted, options: Options, own: bool) -> Result<Self, StartError> {
        let Adopted { socket, address, .. } = &adopted;
        let (v6_only, freebind) = match address {
            SocketAddr::V4(_) => (Ok(false), socket.freebind_v4()),
            SocketAddr::V6(_) => (socket.only_v6(), socket.freebind_v6()),
        };
        let cannot = |error| adopted.cannot("asking for its options", &error);
        if socket.device().map_err(cannot)?.is_some() {
            return Err(adopted.unfit(
                "it is bound to a device (SO_BINDTODEVICE), but the sockets of its peers would not be; listen on an \
                 address, and set the device by the hook `socket_options`, which is called for all of them",
            ));
        }
        let freebind = freebind.map_err(cannot)? || options.freebind || address.ip().is_unspecified();
        let options = Options { v6_only: v6_only.map_err(cannot)?, freebind, ..options };
        child::adopt(socket, *address, &options).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => adopted.unfit(
                "the sockets of its peers share its port, and this process may not bind them there; grant it \
                 CAP_NET_BIND_SERVICE (AmbientCapabilities= of a systemd unit), or choose a port above 1023",
            ),
            io::ErrorKind::AddrNotAvailable => adopted.unfit(
                "it is in another network namespace, where this process cannot make sockets for its peers",
            ),
            _ => adopted.cannot("preparing it for its peers", &error),
        })?;
        let recipes = probe(*address, &options);
        let recipes = if own { recipes } else { recipes.without_group() };
        let Adopted { socket, scheme, address } = adopted;
        Ok(Self { socket, scheme, address, options, recipes })
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

impl SharedListener {
    /// Binds a group of `count` sockets.
    pub(crate) fn bind(
        scheme: Scheme,
        address: SocketAddr,
        options: Options,
        count: usize,
    ) -> Result<Self, StartError> {
        let freebind = options.freebind || address.ip().is_unspecified();
        let options = Options { freebind, ..options };
        let sockets =
            child::share(address, &options, count).map_err(|error| cannot_listen(error, address, "UDP"))?;
        let bound = sockets.first().and_then(|socket| socket.local_addr().ok()?.as_socket());
        let address = SocketAddr::new(address.ip(), bound.map_or(address.port(), |found| found.port()));
        Ok(Self { sockets, scheme, address: with_scope_of(address, bound), number: 0 })
    }

    /// Takes a socket of the user's, which one loop serves, or a group of sockets that a server bound in another
    /// process.
    pub(crate) fn adopt(group: Vec<Adopted>) -> Result<Self, StartError> {
        for adopted in &group {
            let v6_only = adopted.socket.only_v6().unwrap_or(true);
            child::report_addresses(&adopted.socket, adopted.address, v6_only)
                .and_then(|()| adopted.socket.set_nonblocking(true))
                .map_err(|error| adopted.cannot("preparing it", &error))?;
        }
        let Some(Adopted { scheme, address, .. }) = group.first() else { return Err(StartError::NoListener) };
        let (scheme, address) = (*scheme, *address);
        let sockets = group.into_iter().map(|adopted| adopted.socket).collect();
        Ok(Self { sockets, scheme, address, number: 0 })
    }

    /// Makes the kernel give each record with a connection ID to the socket whose number the connection ID begins with.
    /// Otherwise it gives the records of a peer whose address has changed to any socket, and the loops pass them on.
    pub(crate) fn steer_by_connection_id(&self) {
        if let [first, _, ..] = &self.sockets[..]
            && self.scheme == Scheme::Dtls
            && let Err(error) = attach_selection_by_byte(first, TLS12_CID, CONNECTION_ID_AT as u32)
        {
            tracing::debug!(address = %self.address, %error, "the kernel cannot select sockets by connection IDs");
        }
    }

    /// Returns the address that it is bound to.
    pub(crate) fn address(&self) -> Address {
        Address::from_socket(self.scheme, self.address)
    }
}

fn probe(address: SocketAddr, options: &Options) -> Recipes {
    let recipes = Recipes::probe(probe_ip(address, options));
    if recipes.none() {
        tracing::warn!(%address, "on this kernel a new peer's socket can briefly receive datagrams of other peers; they are given back");
    }
    recipes
}

/// Returns the error for a listener that could not be made, with the user's remedy.
pub(super) fn cannot_listen(error: io::Error, address: SocketAddr, protocol: &str) -> StartError {
    let source = match HookFailed::take(error) {
        Ok(HookFailed { source, .. }) => return StartError::SocketOptions { address, source },
        Err(error) => error,
    };
    match source.kind() {
        io::ErrorKind::AddrInUse => StartError::AddressInUse { address },
        io::ErrorKind::AddrNotAvailable => StartError::AddressNotAvailable { address },
        io::ErrorKind::PermissionDenied => StartError::PermissionDenied { address },
        _ => StartError::Io { doing: format!("listening on {address} with {protocol}"), source },
    }
}

fn with_scope_of(mut address: SocketAddr, bound: Option<SocketAddr>) -> SocketAddr {
    if let (SocketAddr::V6(address), Some(SocketAddr::V6(bound))) = (&mut address, bound) {
        address.set_scope_id(bound.scope_id());
    }
    address
}

/// A listening socket that the user asked for, or an anchor under it.
pub(super) struct Listener {
    pub(super) socket: Arc<Socket>,
    pub(super) scheme: Scheme,
    pub(super) address: SocketAddr,
    pub(super) options: Options,
    pub(super) recipes: Recipes,
    counted: Listening,
    /// The number of datagrams read so far.
    pub(super) consumed: u64,
    /// The most datagrams that the queue can hold.
    pub(super) capacity: u64,
    /// Jobs and anchors that are held until `consumed` reaches the number, or the queue is empty; in ascending order.
    pub(super) held: Vec<(u64, Held)>,
    /// Whether this is an anchor that is not read yet.
    pub(super) muted: bool,
    /// For a retired anchor, the wildcard listener that gets the datagrams to its address from now on.
    pub(super) retired_to: Option<usize>,
}

/// Listeners by their index, which is their token of epoll. The indices of removed listeners are used again.
#[derive(Default)]
pub(super) struct Listeners(Vec<Option<Listener>>);

impl Listeners {
    pub(super) fn insert(&mut self, listener: Listener) -> usize {
        match self.0.iter().position(Option::is_none) {
            Some(free) => {
                self.0[free] = Some(listener);
                free
            }
            None => {
                self.0.push(Some(listener));
                self.0.len() - 1
            }
        }
    }

    /// Removes a listener, and closes its socket.
    pub(super) fn remove(&mut self, index: usize) {
        self.0[index] = None;
    }

    pub(super) fn get(&self, index: usize) -> Option<&Listener> {
        self.0.get(index)?.as_ref()
    }

    /// Returns the index of the first listener that satisfies `wanted`.
    pub(super) fn position(&self, wanted: impl Fn(&Listener) -> bool) -> Option<usize> {
        self.0.iter().position(|listener| listener.as_ref().is_some_and(&wanted))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Listener> {
        self.0.iter_mut().flatten()
    }
}

/// An index without a listener is a bug of the dispatcher, which keeps indices only as long as their listeners.
impl Index<usize> for Listeners {
    type Output = Listener;

    fn index(&self, index: usize) -> &Listener {
        self.0[index].as_ref().expect("a listener is there until it is removed")
    }
}

impl IndexMut<usize> for Listeners {
    fn index_mut(&mut self, index: usize) -> &mut Listener {
        self.0[index].as_mut().expect("a listener is there until it is removed")
    }
}

/// A job or an anchor that waits until a listener's queue has been read.
pub(super) enum Held {
    Job {
        job: Job,
        /// Whether the child may have datagrams of other peers.
        may_have_strays: bool,
    },
    /// An anchor, which must not be read before the datagrams that arrived earlier at the wildcard listener.
    Anchor(usize),
}

impl Listener {
    pub(super) fn new(
        socket: Socket,
        scheme: Scheme,
        address: SocketAddr,
        options: Options,
        recipes: Recipes,
        counters: &Arc<Counters>,
    ) -> Self {
        let buffer = socket.recv_buffer_size().unwrap_or(1 << 20);
        let capacity = (buffer / MIN_QUEUED) as u64;
        let socket = Arc::new(socket);
        let counted = Listening::new(counters, Some(&socket));
        Self {
            socket,
            scheme,
            address,
            options,
            recipes,
            counted,
            consumed: 0,
            capacity,
            held: Vec::new(),
            muted: false,
            retired_to: None,
        }
    }

    /// Returns its counters. Those of an anchor are the counters of the listener that the user asked for.
    pub(super) fn counters(&self) -> &Arc<Counters> {
        self.counted.counters()
    }

    /// Returns the local address that a datagram was sent to.
    pub(super) fn address_hit(&self, info: PacketInfo) -> SocketAddr {
        address_hit(self.address, info)
    }
}

/// Returns the address to probe for a listener: its own, or, if the host may not have that address or it needs a scope,
/// the loopback address of the same family.
pub(super) fn probe_ip(address: SocketAddr, options: &Options) -> IpAddr {
    match address.ip() {
        ip if ip.is_unspecified() || options.freebind => match ip {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        },
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_record_goes_to_the_socket_that_its_connection_id_names_whatever_its_source_is() {
        let listener =
            SharedListener::bind(Scheme::Dtls, "127.0.0.1:0".parse().unwrap(), Options::default(), 3)
                .unwrap();
        listener.steer_by_connection_id();
        listener.sockets.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
        // On loopback a datagram has arrived when the call that sends it returns.
        let arrived = |datagram: &[u8]| {
            for _ in 0..30 {
                let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
                sender.send_to(datagram, listener.address).unwrap();
            }
            let count = |socket: &Socket| std::iter::from_fn(|| socket.recv(&mut []).ok()).count();
            [0, 1, 2].map(|number| count(&listener.sockets[number]))
        };
        let record = |kind, number| {
            let mut record = [0; 40];
            (record[0], record[1], record[CONNECTION_ID_AT]) = (kind, 254, number);
            record
        };
        for number in 0..3 {
            let mut all = [0; 3];
            all[usize::from(number)] = 30;
            assert_eq!(arrived(&record(TLS12_CID, number)), all);
        }
        // A connection ID that names no socket, and a record without a connection ID: the sources decide.
        for record in [record(TLS12_CID, 3), record(TLS12_CID, 255), record(22, 1)] {
            let counts = arrived(&record);
            assert_eq!(counts.iter().sum::<usize>(), 30, "{counts:?}");
            assert!(counts.iter().all(|count| *count < 30), "{counts:?}");
        }
        for short in [&[][..], &[TLS12_CID], &record(TLS12_CID, 2)[..CONNECTION_ID_AT]] {
            assert_eq!(arrived(short).iter().sum::<usize>(), 30);
        }
    }
}

//! UDP sockets that carry many clients, each of which has an address and a port of its own.
//!
//! For a target in 127.0.0.0/8 a few sockets are enough. They are bound to the wildcard address, a client's
//! datagrams leave from the client's own address in 127.0.0.0/8, and the destination address of an answer
//! identifies the client (IP_PKTINFO, see [ip(7)](https://man7.org/linux/man-pages/man7/ip.7.html)). For any
//! other target each client has a connected socket.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::socket::{setsockopt, sockopt};
use peeloff::test_support::{Incoming, Outgoing};
use socket2::{Domain, SockRef, Socket, Type};

use crate::client::wait;
use crate::outside;

/// The bytes that all shared sockets can hold together, as the kernel counts them.
const QUEUE: usize = 32 << 20;
/// The largest number of shared sockets. More than one is used because an unprivileged socket has a small buffer.
const MAX_SHARED: usize = 16;
/// The address of the first client.
const FIRST: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 1);
/// The address after the last client's is loopback's broadcast address.
const MAX_CLIENTS: usize = (Ipv4Addr::new(127, 255, 255, 255).to_bits() - FIRST.to_bits()) as usize;
/// Datagrams that leave in one system call.
const BATCH: usize = 64;

/// How sockets and clients belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// This many sockets carry all clients.
    Shared(usize),
    /// Each client has a socket.
    Each,
}

impl Layout {
    fn socket(self, client: usize) -> usize {
        match self {
            Self::Shared(sockets) => client % sockets,
            Self::Each => client,
        }
    }

    /// Returns the address that a client's datagrams leave from, unless its socket determines it.
    fn address(self, client: usize) -> Option<IpAddr> {
        // There are fewer clients than addresses.
        (self != Self::Each).then(|| Ipv4Addr::from_bits(FIRST.to_bits() + client as u32).into())
    }

    /// Returns the client that has this address at this socket.
    fn client(self, socket: usize, address: Option<IpAddr>) -> Option<usize> {
        match (self, address) {
            (Self::Each, _) => Some(socket),
            (Self::Shared(_), Some(IpAddr::V4(address))) => {
                let client = address.to_bits().checked_sub(FIRST.to_bits())? as usize;
                (client < MAX_CLIENTS && self.socket(client) == socket).then_some(client)
            }
            _ => None,
        }
    }
}

/// A socket, and the datagrams that wait to be sent on it together.
struct BatchedSocket {
    socket: UdpSocket,
    outgoing: Outgoing,
    /// Whether it is in the list of sockets that may have more to read.
    readable: bool,
}

impl BatchedSocket {
    fn new(socket: UdpSocket) -> Self {
        Self { socket, outgoing: Outgoing::default(), readable: false }
    }
}

/// The sockets of all clients.
pub(crate) struct Sockets {
    target: SocketAddr,
    layout: Layout,
    sockets: Vec<Option<BatchedSocket>>,
    poll: Poll,
    events: Events,
    incoming: Incoming,
    /// The socket that `incoming` was read from.
    read: usize,
    /// Sockets that may have more to read.
    readable: Vec<usize>,
    /// Sockets that have something to send.
    queued: Vec<usize>,
}

impl Sockets {
    /// Makes sockets for clients of this target.
    ///
    /// # Errors
    ///
    /// Returns an error if no descriptor or port is left.
    pub(crate) fn new(target: SocketAddr) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut sockets = Vec::new();
        let layout = match target.ip() {
            IpAddr::V4(address) if address.is_loopback() => {
                let mut held = 0;
                while held < QUEUE && sockets.len() < MAX_SHARED {
                    let socket = shared()?;
                    held += SockRef::from(&socket).recv_buffer_size()?.max(1);
                    register(&poll, &socket, sockets.len())?;
                    sockets.push(Some(BatchedSocket::new(socket)));
                }
                Layout::Shared(sockets.len())
            }
            _ => Layout::Each,
        };
        Ok(Self {
            target,
            layout,
            sockets,
            poll,
            events: Events::with_capacity(1024),
            incoming: Incoming::default(),
            read: 0,
            readable: Vec::new(),
            queued: Vec::new(),
        })
    }

    /// Prepares an address for a client, with a socket of its own if the layout needs it.
    ///
    /// # Errors
    ///
    /// Returns an error if no addresses, descriptors or ports are left.
    pub(crate) fn open(&mut self, client: usize) -> io::Result<()> {
        if self.layout != Layout::Each {
            return if client < MAX_CLIENTS { Ok(()) } else { Err(ErrorKind::AddrNotAvailable.into()) };
        }
        let local: IpAddr = match self.target.ip() {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((local, 0))?;
        socket.connect(self.target)?;
        register(&self.poll, &socket, client)?;
        if self.sockets.len() <= client {
            self.sockets.resize_with(client + 1, || None);
        }
        self.sockets[client] = Some(BatchedSocket::new(socket));
        Ok(())
    }

    /// Releases a client. If it has its own socket, sends the datagrams that are queued there, and closes it.
    pub(crate) fn release(&mut self, client: usize) {
        if self.layout == Layout::Each {
            self.send_queued(client);
            // The kernel removes a closed socket from the poll.
            self.sockets[client] = None;
        }
    }

    /// Queues a datagram of a client.
    pub(crate) fn send(&mut self, client: usize, datagram: &[u8]) {
        let number = self.layout.socket(client);
        let Some(batched) = self.sockets.get_mut(number).and_then(Option::as_mut) else { return };
        if batched.outgoing.is_empty() {
            self.queued.push(number);
        }
        batched.outgoing.push(self.target, self.layout.address(client), datagram);
        if batched.outgoing.len() >= BATCH {
            self.send_queued(number);
        }
    }

    fn send_queued(&mut self, number: usize) {
        if let Some(batched) = self.sockets.get_mut(number).and_then(Option::as_mut) {
            batched.outgoing.send(batched.socket.as_fd());
        }
    }

    /// Sends the queued datagrams.
    pub(crate) fn flush(&mut self) {
        for number in std::mem::take(&mut self.queued) {
            self.send_queued(number);
        }
    }

    /// Sends the queued datagrams and waits until `due` for something to read.
    ///
    /// # Errors
    ///
    /// Those of epoll_wait(2).
    pub(crate) fn wait(&mut self, due: Option<Instant>) -> io::Result<()> {
        self.flush();
        let due = if self.readable.is_empty() { due } else { Some(Instant::now()) };
        wait(&mut self.poll, &mut self.events, due)?;
        for event in &self.events {
            let number = event.token().0;
            if let Some(Some(batched)) = self.sockets.get_mut(number)
                && !std::mem::replace(&mut batched.readable, true)
            {
                self.readable.push(number);
            }
        }
        Ok(())
    }

    /// Reads the next datagrams that have arrived and returns their number, which is 0 if there are no more.
    ///
    /// # Errors
    ///
    /// Those of recvmmsg(2).
    pub(crate) fn receive(&mut self) -> io::Result<usize> {
        while let Some(&number) = self.readable.last() {
            let Some(Some(batched)) = self.sockets.get_mut(number) else {
                self.readable.pop();
                continue;
            };
            self.read = number;
            match self.incoming.receive(batched.socket.as_fd()) {
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    batched.readable = false;
                    self.readable.pop();
                }
                // ICMP errors can be forged. If the server has gone, lost messages show it.
                Err(error)
                    if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(0)
    }

    /// Copies a datagram that [`receive`](Self::receive) read, and returns its client, or none if it belongs to
    /// no client.
    pub(crate) fn take(&self, index: usize, datagram: &mut Vec<u8>) -> Option<usize> {
        let (source, local, payload) = self.incoming.get(index);
        if source != Some(self.target) {
            return None;
        }
        datagram.clear();
        datagram.extend_from_slice(payload);
        self.layout.client(self.read, local)
    }

    /// Returns how many datagrams the kernel dropped because shared sockets were full.
    pub(crate) fn dropped(&self) -> u64 {
        if self.layout == Layout::Each {
            return 0;
        }
        let ports = self.sockets.iter().flatten().filter_map(|batched| batched.socket.local_addr().ok());
        outside::dropped(&ports.map(|address| address.port()).collect::<Vec<_>>())
    }
}

fn register(poll: &Poll, socket: &UdpSocket, number: usize) -> io::Result<()> {
    let fd = socket.as_raw_fd();
    poll.registry().register(&mut SourceFd(&fd), Token(number), Interest::READABLE)
}

/// Makes a socket for many clients.
fn shared() -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // A privileged process can exceed the kernel's limit.
    if setsockopt(&socket, sockopt::RcvBufForce, &(QUEUE / 2)).is_err() {
        socket.set_recv_buffer_size(QUEUE / 2)?;
    }
    setsockopt(&socket, sockopt::Ipv4PacketInfo, &true).map_err(io::Error::from)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into())?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_of_each_socket_is_one_clients() {
        let layout = Layout::Shared(3);
        for client in [0, 1, 2, 255, 70_000, 16_000_000] {
            let (socket, address) = (layout.socket(client), layout.address(client));
            assert_eq!(layout.client(socket, address), Some(client));
            assert_eq!(layout.client((socket + 1) % 3, address), None, "at another socket it is nobody's");
        }
        assert_eq!(layout.address(0), Some(FIRST.into()));
        for nobody in ["127.0.0.1", "10.0.0.1", "127.255.255.255", "128.0.0.1", "::1"] {
            for socket in 0..3 {
                assert_eq!(layout.client(socket, Some(nobody.parse().unwrap())), None, "{nobody}");
            }
        }
        assert_eq!(layout.client(0, None), None);
        assert_eq!((Layout::Each.client(7, None), Layout::Each.address(7)), (Some(7), None));
    }

    /// Sends every datagram that arrives at `server` back.
    fn reflect(server: &UdpSocket) -> usize {
        let (mut buffer, mut count) = ([0; 64], 0);
        while let Ok((len, peer)) = server.recv_from(&mut buffer) {
            server.send_to(&buffer[..len], peer).unwrap();
            count += 1;
        }
        count
    }

    #[test]
    fn datagrams_leave_from_their_clients_address_and_come_back_to_it() {
        for target in ["127.0.0.1:0", "[::1]:0"] {
            let server = UdpSocket::bind(target).unwrap();
            server.set_nonblocking(true).unwrap();
            let mut sockets = Sockets::new(server.local_addr().unwrap()).unwrap();
            for client in 0..100 {
                sockets.open(client).unwrap();
                sockets.send(client, &client.to_le_bytes());
            }
            sockets.flush();
            assert_eq!(reflect(&server), 100, "{target}");
            // A datagram from an unknown sender must reach no client.
            if target.starts_with("127") {
                let port = sockets.sockets[0].as_ref().unwrap().socket.local_addr().unwrap().port();
                let other = UdpSocket::bind("127.0.0.1:0").unwrap();
                other.send_to(b"unknown", (FIRST, port)).unwrap();
            }
            let (mut came, mut foreign, mut datagram) = (Vec::new(), 0, Vec::new());
            while came.len() + foreign < 100 + usize::from(target.starts_with("127")) {
                sockets.wait(None).unwrap();
                loop {
                    let count = sockets.receive().unwrap();
                    for index in 0..count {
                        match sockets.take(index, &mut datagram) {
                            Some(client) => {
                                assert_eq!(datagram, client.to_le_bytes());
                                came.push(client);
                            }
                            None => foreign += 1,
                        }
                    }
                    if count == 0 {
                        break;
                    }
                }
            }
            came.sort_unstable();
            assert_eq!(came, (0..100).collect::<Vec<_>>(), "{target}");
            assert_eq!(sockets.dropped(), 0);
        }
    }
}

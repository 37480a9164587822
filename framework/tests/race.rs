//! Nobody gets what was sent to somebody else, however many peers come at once.

mod support;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use peeloff::internals::child::{Recipe, steals};
use peeloff::{Admission, Error, Incoming, Peer, PeerHandler, Stats};
use support::{DEADLINE, Running};

/// Threads that make clients, and the clients that each has at once.
const CLIENT_THREADS: usize = 4;
const AT_ONCE: usize = 32;

/// Strangers that each of those threads sends from, which the server refuses again and again.
const STRANGERS: usize = 16;

/// Their network; a client's second octet is its thread's number and 1, 2, 3 or 4.
const STRANGER_OCTET: u8 = 200;

/// A message: the sender's address and port, and whether the peer is to end after it.
const MESSAGE_LEN: usize = 7;

fn message(from: SocketAddrV4, last: bool) -> [u8; MESSAGE_LEN] {
    let mut message = [0; MESSAGE_LEN];
    message[..4].copy_from_slice(&from.ip().octets());
    message[4..6].copy_from_slice(&from.port().to_be_bytes());
    message[6] = last.into();
    message
}

/// Echoes what carries its sender's address, and counts what does not.
struct Tagged {
    crossed: Arc<AtomicU64>,
}

impl PeerHandler for Tagged {
    fn admit(&self, incoming: &Incoming) -> Admission {
        match v4(incoming.peer_address()).ip().octets()[1] {
            STRANGER_OCTET => Admission::Refuse,
            _ => Admission::Accept,
        }
    }

    fn handle(&self, peer: &mut Peer) -> Result<(), Error> {
        let mut buffer = [0; 64];
        let from = v4(peer.peer_address());
        while let Some(len) = peer.recv(&mut buffer)? {
            let last = match buffer.get(..len) {
                Some(found) if found == message(from, true) => true,
                Some(found) if found == message(from, false) => false,
                _ => {
                    self.crossed.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
            };
            peer.send(&buffer[..len])?;
            if last {
                break;
            }
        }
        Ok(())
    }
}

fn v4(address: SocketAddr) -> SocketAddrV4 {
    match address {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(address) => panic!("{address} in a test of IPv4"),
    }
}

/// A socket on this address and a port of the kernel's choice.
fn socket(ip: Ipv4Addr) -> (UdpSocket, SocketAddrV4) {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let address = v4(socket.local_addr().unwrap());
    (socket, address)
}

/// Sends a message and expects it back.
fn exchange(socket: &UdpSocket, message: &[u8]) {
    socket.send(message).unwrap();
    expect(socket, message);
}

fn expect(socket: &UdpSocket, message: &[u8]) {
    let mut buffer = [0; 64];
    let len = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("no echo for {message:?}: {error}"));
    assert_eq!(&buffer[..len], message);
}

/// Clients of one thread, so many at once, each with an address that nobody had before: a message
/// each, from them and from strangers in turn, then the echoes. What is under way at a time fits
/// into the listener's queue, so nothing may be lost.
fn make_children(thread: usize, children: usize, servers: &[SocketAddr]) {
    let strangers: Vec<_> = (0..STRANGERS)
        .map(|number| socket(Ipv4Addr::new(127, STRANGER_OCTET, thread as u8, number as u8 + 1)))
        .collect();
    for first in (0..children).step_by(AT_ONCE) {
        let numbers = first..children.min(first + AT_ONCE);
        let clients: Vec<_> = numbers
            .map(|number| {
                let [.., high, low] = (number as u32).to_be_bytes();
                let (client, from) = socket(Ipv4Addr::new(127, thread as u8 + 1, high, low));
                let server = servers[number % servers.len()];
                client.connect(server).unwrap();
                client.send(&message(from, true)).unwrap();
                let (stranger, from) = &strangers[number % STRANGERS];
                stranger.send_to(&message(*from, true), server).unwrap();
                (client, from_of(&message(v4(client_address(&clients_dummy())), true)))
            })
            .collect();
        let _ = clients;
    }
}

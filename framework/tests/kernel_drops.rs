//! The kernel drops datagrams for which a receive buffer has no room, and the server counts each of them.

mod support;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use peeloff::{
    Admission, Error, Incoming, NewSocket, Peer, PeerHandler, Server, ServerBuilder, Sockets, Stats,
};
use socket2::SockRef;
use support::{DEADLINE, until};

/// More datagrams than the receive buffer of 8 KiB holds, but fewer than a peer's queue.
const SENT: u64 = 200;

/// Blocks a server's thread until it is told to go on, and says when it begins to block.
struct Block {
    begins: SyncSender<()>,
    ends: Mutex<Receiver<()>>,
}

impl Block {
    fn new() -> (Self, Receiver<()>, SyncSender<()>) {
        let ((begins, begun), (end, ends)) = (sync_channel(1), sync_channel(1));
        (Self { begins, ends: ends.into() }, begun, end)
    }

    fn wait(&self) {
        self.begins.send(()).unwrap();
        self.ends.lock().unwrap().recv_timeout(DEADLINE).unwrap();
    }
}

fn builder() -> ServerBuilder {
    let set = |socket: &NewSocket<'_>| SockRef::from(socket).set_recv_buffer_size(8 << 10);
    Server::builder().listen("udp://127.0.0.1:0").socket_options(set)
}

fn send_all(to: SocketAddr, count: u64) -> UdpSocket {
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.connect(to).unwrap();
    // On loopback the kernel has queued or dropped a datagram when the call returns.
    (0..count).for_each(|_| assert_eq!(sender.send(&[7; 100]).unwrap(), 100));
    sender
}

/// Refuses all peers, and blocks for the first one.
struct Refuse(Mutex<Option<Block>>);

impl PeerHandler for Refuse {
    fn admit(&self, _: &Incoming) -> Admission {
        if let Some(block) = self.0.lock().unwrap().take() {
            block.wait();
        }
        Admission::Refuse
    }

    fn handle(&self, _: &mut Peer) -> Result<(), peeloff::HandlerError> {
        unreachable!("no peer is admitted")
    }
}

#[test]
fn every_datagram_that_a_listener_has_no_room_for_is_counted() {
    for sockets in [Sockets::PerPeer, Sockets::Shared] {
        let (block, begun, end) = Block::new();
        let server = builder().sockets(sockets).start(Refuse(Some(block).into())).unwrap();
        let address = server.addresses()[0].resolve().unwrap()[0];
        let _first = send_all(address, 1);
        begun.recv_timeout(DEADLINE).unwrap();
        let _others = send_all(address, SENT);
        let dropped = server.handle().stats().dropped_by_kernel;
        assert!((1..SENT).contains(&dropped), "{sockets:?}: {dropped}");
        end.send(()).unwrap();
        let look = || Some(server.handle().stats()).filter(|stats| stats.datagrams + dropped > SENT);
        let stats: Stats = until("the others are read", look);
        assert_eq!((stats.datagrams, stats.dropped_by_kernel), (1 + SENT - dropped, dropped), "{sockets:?}");
    }
}

#[test]
fn datagrams_that_a_peers_own_socket_has_no_room_for_are_counted_when_the_peer_has_left() {
    let (block, begun, end) = Block::new();
    let (tell, told) = sync_channel(1);
    let handler = move |peer: &mut Peer| -> Result<(), Error> {
        let mut buffer = [0; 200];
        peer.recv(&mut buffer)?;
        block.wait();
        let mut received = 1_u64;
        while let Ok(Some(_)) = peer.recv_timeout(&mut buffer, Duration::ZERO) {
            received += 1;
        }
        tell.send(received).unwrap();
        Ok(())
    };
    let server = builder().sockets(Sockets::PerPeer).start(handler).unwrap();
    let client = send_all(server.addresses()[0].resolve().unwrap()[0], 1);
    begun.recv_timeout(DEADLINE).unwrap();
    (0..SENT).for_each(|_| assert_eq!(client.send(&[7; 100]).unwrap(), 100));
    end.send(()).unwrap();
    let received = told.recv_timeout(DEADLINE).unwrap();
    let look = || Some(server.handle().stats()).filter(|stats| stats.peers == 0);
    let stats = until("the peer has left", look);
    assert_eq!(received + stats.dropped_by_kernel, 1 + SENT);
    assert!(stats.dropped_by_kernel > 0);
}

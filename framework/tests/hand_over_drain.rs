//! What a process that has handed its server over does with the peers that stay: it finishes their handshakes,
//! tells their handlers to finish, and gives them until the end of its grace period.

#[path = "support/relay.rs"]
#[allow(dead_code)]
mod relay;
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Sender as Release, channel};
use std::thread;

use peeloff::{
    Address, Client, EndKind, EndReason, Error, HandedOver, Handle, Peer, Predecessor, Refusal, Scheme,
    Server, ServerBuilder, ShutdownReport, Sockets, hand_over_sockets,
};
use relay::Relay;
use support::{DEADLINE, Echo, echo, exchange, until};

const KEY: &[u8] = b"0123456789abcdef";

/// How a server serves its peers.
#[derive(Clone, Copy, Debug)]
enum Serving {
    Threads(Sockets),
    Loops,
}

const EVERY: [Serving; 3] =
    [Serving::Threads(Sockets::PerPeer), Serving::Threads(Sockets::Shared), Serving::Loops];

impl Serving {
    fn start(self, builder: ServerBuilder) -> Server {
        match self {
            Self::Threads(sockets) => builder.sockets(sockets).start(echo).unwrap(),
            Self::Loops => builder.start_events(Echo).unwrap(),
        }
    }
}

fn builder(url: &str) -> ServerBuilder {
    Server::builder().listen(url).psk(|_| Some(KEY.to_vec()))
}

fn client() -> Client {
    Client::builder().psk(b"a", KEY).timeout(DEADLINE)
}

/// Hands a server over to another one, which `start` starts.
fn hand_over(old: &Server, start: impl FnOnce(ServerBuilder) -> Server) -> (Server, HandedOver) {
    let (give, take) = hand_over_sockets().unwrap();
    let handle = old.handle();
    let giving = thread::spawn(move || handle.hand_over(give));
    let new = start(builder(&old.addresses()[0].to_string()).take_over(Predecessor::ask(take).unwrap()));
    (new, giving.join().unwrap().unwrap())
}

/// Shuts a server down on a thread of its own, and waits until the shutdown has begun.
fn begin_shutdown(handle: &Handle) -> thread::JoinHandle<ShutdownReport> {
    let ending = handle.clone();
    let shutdown = thread::spawn(move || ending.shutdown(DEADLINE));
    until("the drain", || (handle.health().refuses == Some(Refusal::Draining)).then_some(()));
    shutdown
}

/// Accepts a connection and forwards what the server sends. What the client sends after its first message waits
/// until it is released.
fn stalling_proxy(server: SocketAddr) -> (SocketAddr, Release<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (release, released) = channel();
    thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut server = TcpStream::connect(server).unwrap();
        let (mut to, mut from) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Write);
        });
        let mut hello = [0; 4096];
        let len = client.read(&mut hello).unwrap();
        server.write_all(&hello[..len]).unwrap();
        if released.recv().is_ok() {
            let _ = std::io::copy(&mut client, &mut server);
        }
    });
    (address, release)
}

/// Connects to a server, and stops in the middle of its handshake until the returned function is called. The function
/// returns the relay that the connection needs, if there is one.
fn stall(old: &Server) -> (thread::JoinHandle<Peer>, Box<dyn FnOnce() -> Option<Relay>>) {
    let url = &old.addresses()[0];
    let server = url.resolve().unwrap()[0];
    let (address, release): (_, Box<dyn FnOnce() -> Option<Relay>>) = match url.scheme {
        Scheme::Dtls => {
            let relay = Relay::to(server);
            // These are a hello, and the same hello with the cookie.
            relay.allow(Some(2));
            let address = relay.address();
            let release = move || {
                relay.allow(None);
                Some(relay)
            };
            (address, Box::new(release))
        }
        _ => {
            let (address, release) = stalling_proxy(server);
            let release = move || {
                release.send(()).unwrap();
                None
            };
            (address, Box::new(release))
        }
    };
    let address = Address::from_socket(url.scheme, address);
    let connecting = thread::spawn(move || client().connect(&address).unwrap());
    until("the handshake", || (old.handle().stats().half_open == 1).then_some(()));
    (connecting, release)
}

#[test]
fn handshakes_that_stay_are_finished_during_the_drain_and_their_peers_are_answered() {
    for url in ["dtls://127.0.0.1:0", "tls://127.0.0.1:0"] {
        for serving in EVERY {
            let old = serving.start(builder(url));
            let (connecting, release) = stall(&old);
            let (_new, given) = hand_over(&old, |builder| serving.start(builder));
            assert_eq!((given.peers, given.staying), (0, 1), "{url}, {serving:?}: {given:?}");
            assert!(old.handle().is_handed_over());
            let shutdown = begin_shutdown(&old.handle());
            let _relay = release();
            let mut peer = connecting.join().unwrap();
            exchange(&mut peer, b"what it came for");
            assert_eq!(peer.recv_timeout(&mut [0; 64], DEADLINE).unwrap(), None, "{url}, {serving:?}");
            assert_eq!(peer.end_reason(), Some(&EndReason::ClosedByPeer), "{url}, {serving:?}");
            let report = shutdown.join().unwrap();
            assert_eq!((report.peers, report.finished, report.stopped), (1, 1, 0), "{url}, {serving:?}");
        }
    }
}

#[test]
fn handshakes_end_at_once_where_the_server_was_not_handed_over() {
    for url in ["dtls://127.0.0.1:0", "tls://127.0.0.1:0"] {
        for serving in EVERY {
            let server = serving.start(builder(url));
            let address = server.addresses()[0].resolve().unwrap()[0];
            let relay = Relay::to(address);
            relay.allow(Some(2));
            let (udp, tcp) = (relay.address(), TcpStream::connect(address));
            let connecting = match server.addresses()[0].scheme {
                Scheme::Dtls => Some(thread::spawn(move || {
                    client().connect(Address::from_socket(Scheme::Dtls, udp)).map(drop)
                })),
                _ => None,
            };
            let handle = server.handle();
            until("the handshake", || (handle.stats().half_open == 1).then_some(()));
            let report = handle.shutdown(DEADLINE);
            assert_eq!((report.peers, report.finished, report.stopped), (1, 1, 0), "{url}, {serving:?}");
            let stats = handle.stats();
            // The handshake did not end by its timeout.
            assert_eq!(stats.ended(EndKind::Shutdown), 1, "{url}, {serving:?}");
            if let Some(connecting) = connecting {
                assert!(connecting.join().unwrap().is_err(), "{serving:?}");
            }
            // The relay has to pass on the server's alert first, or the client waits until its timeout.
            drop((relay, tcp));
        }
    }
}

#[test]
fn a_handler_that_blocks_is_told_and_goes_on_until_it_is_done() {
    const WORDS: usize = 100;
    // The handler continues after the notice until its peer has sent its last message.
    let handler = |peer: &mut Peer| -> Result<(), Error> {
        let mut buffer = [0; 64];
        while peer.end_reason().is_none() {
            match peer.recv(&mut buffer)? {
                Some(len) => peer.send(&buffer[..len])?,
                None if peer.is_draining() => peer.send(b"draining")?,
                None => {}
            }
            if buffer.starts_with(b"last") {
                return Ok(());
            }
        }
        Ok(())
    };
    for url in ["dtls://127.0.0.1:0", "udp://127.0.0.1:0", "tls://127.0.0.1:0", "tcp://127.0.0.1:0"] {
        for sockets in [Sockets::PerPeer, Sockets::Shared] {
            let start = |builder: ServerBuilder| builder.sockets(sockets).start(handler).unwrap();
            let old = start(builder(url));
            let mut peer = client().connect(&old.addresses()[0]).unwrap();
            exchange(&mut peer, b"before");
            let (_new, given) = hand_over(&old, start);
            assert_eq!((given.peers, given.staying), (0, 1), "{url}, {sockets:?}: {given:?}");
            let shutdown = begin_shutdown(&old.handle());
            let mut word = [0; 64];
            assert_eq!(peer.recv_timeout(&mut word, DEADLINE).unwrap(), Some(8), "{url}, {sockets:?}");
            assert!(word.starts_with(b"draining"));
            for number in 0..WORDS {
                exchange(&mut peer, format!("word {number}").as_bytes());
            }
            assert!(!shutdown.is_finished());
            exchange(&mut peer, b"last");
            let report = shutdown.join().unwrap();
            assert_eq!((report.finished, report.stopped, report.abandoned), (1, 0, 0), "{url}, {sockets:?}");
        }
    }
}

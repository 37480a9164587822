//! The listeners that a wildcard listener opens for the local addresses that peers use: each is closed when it is
//! no longer needed, and no datagram is lost with it.

#[path = "support/raw_client.rs"]
#[allow(dead_code)]
mod raw_client;
mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use peeloff::{Address, Error, Peer, Scheme};
use raw_client::RawClient;
use support::{Running, SetOnDrop, exchange, open_fds, until};

/// The number of anchors without a peer that stay open for a while.
const IDLE_ANCHORS: u64 = 64;
const VISITED: u8 = 100;

/// Echoes one message.
fn echo_once(peer: &mut Peer) -> Result<(), Error> {
    let mut buffer = [0; 64];
    match peer.recv(&mut buffer)? {
        Some(len) => peer.send(&buffer[..len]),
        None => Ok(()),
    }
}

/// Connects a peer to this address of the host, exchanges a message and disconnects.
fn visit(running: &Running, address: Ipv4Addr) {
    let to = SocketAddr::new(address.into(), running.address().port());
    let client = running.client().danger_accept_any_certificate();
    let mut peer = client.connect(Address::from_socket(running.url().scheme, to)).unwrap();
    exchange(&mut peer, b"hello");
}

#[test]
fn anchors_of_addresses_without_peers_are_closed() {
    let running = Running::with("udp://0.0.0.0:0", |builder| builder, echo_once);
    let before = open_fds();
    for last in 1..=VISITED {
        visit(&running, Ipv4Addr::new(127, 9, 0, last));
    }
    let idle = |stats: &peeloff::Stats| stats.listeners <= 1 + IDLE_ANCHORS && stats.peers == 0;
    running.until("all but some listeners are closed", idle);
    until("their descriptors are", || (open_fds() <= before + IDLE_ANCHORS as usize).then_some(()));
    // Each address is served again, whether its listener is still open or not.
    for last in 1..=VISITED {
        visit(&running, Ipv4Addr::new(127, 9, 0, last));
    }
    running.until("all but some listeners are closed again", idle);
    assert_eq!(running.stats().opened, 2 * u64::from(VISITED));
}

#[test]
fn no_hello_is_lost_while_the_listener_of_its_address_is_closed() {
    let running = Running::with("dtls://0.0.0.0:0", |builder| builder, echo_once);
    assert_eq!(running.url().scheme, Scheme::Dtls);
    let asked = Ipv4Addr::new(127, 9, 1, 1);
    let to = SocketAddr::new(asked.into(), running.address().port());
    let over = AtomicBool::new(false);
    let hellos: u64 = thread::scope(|scope| {
        let ask = || {
            let unknown_peer = RawClient::new(Ipv4Addr::LOCALHOST, to);
            let mut hellos = 0;
            while !over.load(Ordering::Relaxed) {
                // This panics if there is no answer, or an ICMP error.
                unknown_peer.challenge();
                hellos += 1;
            }
            hellos
        };
        let unknown_peers = [scope.spawn(ask), scope.spawn(ask)];
        let over = SetOnDrop(&over);
        for round in 0..3 {
            visit(&running, asked);
            for last in 1..=IDLE_ANCHORS as u8 + 1 {
                visit(&running, Ipv4Addr::new(127, 9, 2 + round, last));
            }
            // The listener that was used first has been idle for the longest time.
            running.until("listeners are closed", |stats| {
                stats.listeners <= 1 + IDLE_ANCHORS && stats.peers == 0
            });
        }
        drop(over);
        unknown_peers.map(|unknown_peer| unknown_peer.join().unwrap()).iter().sum()
    });
    assert!(hellos > 100, "{hellos}");
}

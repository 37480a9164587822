//! A crowd of DTLS peers with connection IDs on a shared socket, all of which change their ports at once.

mod support;

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use peeloff::{Client, ConnectionIds, Limits, Peer, Server, Sockets, raise_fd_limit};
use support::{DEADLINE, Echo, scaled, until};

const KEY: &[u8] = b"0123456789abcdef";

/// Sends a message to all peers at once, and waits until each has it back. On a busy machine the kernel may drop
/// datagrams for which a buffer has no room, so peers that wait for long send the message again.
fn exchange_all(crowd: &mut [Peer], message: &[u8]) {
    crowd.iter_mut().for_each(|peer| peer.send(message).unwrap());
    crowd.iter_mut().for_each(|peer| await_echo(peer, message));
}

fn await_echo(peer: &mut Peer, message: &[u8]) {
    let mut buffer = [0; 200];
    until("the echo", || {
        let heard = peer.recv_timeout(&mut buffer, Duration::from_secs(1));
        let is_echo = matches!(heard, Ok(Some(len)) if &buffer[..len] == message);
        if !is_echo {
            peer.send(message).unwrap();
        }
        is_echo.then_some(())
    });
}

#[test]
fn ten_thousand_peers_change_their_ports_at_once_and_stay() {
    // Each client has a descriptor.
    let descriptors = u32::try_from(raise_fd_limit().unwrap()).unwrap_or(u32::MAX);
    let count = scaled(10_000).min(descriptors.saturating_sub(200));
    let builder = Server::builder().listen("dtls://127.0.0.1:0").psk(|_| Some(KEY.to_vec()));
    let builder = builder.limits(Limits::default().max_peers(10_000)).event_loops(2);
    let builder = builder.connection_ids(ConnectionIds::new(8).unwrap()).sockets(Sockets::Shared);
    let server = builder.start_events(Echo).unwrap();
    let client = Client::builder().psk(b"client", KEY).timeout(DEADLINE);
    let client = client.connection_ids(ConnectionIds::new(0).unwrap());
    let together = Barrier::new(2);
    let half = |count| {
        let connect = |_| client.connect(&server.addresses()[0]).unwrap();
        let mut crowd: Vec<Peer> = (0..count).map(connect).collect();
        together.wait();
        crowd.iter_mut().for_each(|peer| peer.change_port().unwrap());
        together.wait();
        // The sockets of the clients are connected, so an echo reaches only the new port.
        exchange_all(&mut crowd, &[1; 100]);
        exchange_all(&mut crowd, &[2; 100]);
        crowd
    };
    let halves = thread::scope(|scope| {
        let threads = [count / 2, count - count / 2].map(|count| scope.spawn(move || half(count)));
        threads.map(|thread| thread.join().unwrap())
    });
    let mut crowd: Vec<Peer> = halves.into_iter().flatten().collect();
    let count = u64::from(count);
    let stats = until("all are followed", || {
        // Clients whose challenge was lost answer the next one.
        crowd.iter_mut().for_each(|peer| drop(peer.recv_timeout(&mut [0; 200], Duration::ZERO)));
        Some(server.handle().stats()).filter(|stats| stats.addresses_changed >= count)
    });
    assert_eq!((stats.opened, stats.peers), (count, count));
    exchange_all(&mut crowd, &[3; 100]);
    let stats = server.handle().stats();
    assert_eq!((stats.addresses_changed, stats.records_forged), (count, 0));
    drop(crowd);
    until("all have left", || (server.handle().stats().peers == 0).then_some(()));
}

//! DTLS peers whose address changes and that are identified by their connection ID (RFC 9146, RFC 9853).

#[path = "support/nat.rs"]
#[allow(dead_code)]
mod nat;
mod support;

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc::{Sender as Tell, channel};
use std::time::Duration;

use nat::Nat;
use peeloff::{
    Address, Callbacks, ConnectionIds, EndKind, Error, HandlerError, Message, Peer, PeerEvents, Scheme,
    Sender,
};
use support::{COMBINATION, DEADLINE, Running, exchange, scaled, until};

fn ids(length: usize) -> ConnectionIds {
    ConnectionIds::new(length).unwrap()
}

/// Starts an echo server that gives connection IDs of this length.
fn serve(length: usize) -> Running {
    serve_at("dtls://127.0.0.1:0", length)
}

fn serve_at(url: &str, length: usize) -> Running {
    Running::echo_with(url, |builder| builder.connection_ids(ids(length)))
}

/// Waits until the server has followed clients this many times. The client answers the server's challenge while it
/// waits for a message; there is none.
fn until_followed(running: &Running, client: &mut Peer, times: u64) {
    until("the peer is followed", || {
        let none = client.recv_timeout(&mut [0; 1000], Duration::from_millis(5));
        assert!(matches!(none, Err(Error::TimedOut)), "{none:?}");
        (running.stats().addresses_changed == times).then_some(())
    });
}

/// Makes a client behind a translator (NAT), which requests no connection ID for itself.
fn behind(running: &Running, nat: &Nat) -> Peer {
    let address = Address::from_socket(Scheme::Dtls, nat.address());
    running.client().server_name("localhost").connection_ids(ids(0)).connect(address).unwrap()
}

#[test]
fn a_client_that_changes_its_port_stays_the_same_peer() {
    for (server, client) in [(8, 0), (8, 8), (255, 0), (8, 255), (255, 255)] {
        let running = serve(server);
        let mut peer = running.client().connection_ids(ids(client)).connect(running.url()).unwrap();
        // The message is so long that its echo and a challenge, both with the longest connection ID, stay below
        // three times its size.
        let message = [7; 600];
        exchange(&mut peer, &message);
        for round in 1..=5 {
            let before = peer.local_address();
            peer.change_port().unwrap();
            assert_ne!(peer.local_address(), before);
            exchange(&mut peer, &message);
            until_followed(&running, &mut peer, round);
            exchange(&mut peer, &message);
        }
        let stats = running.stats();
        assert_eq!((stats.opened, stats.connection_ids, stats.peers), (1, 1, 1), "{server} {client}");
        assert_eq!((stats.addresses_validated, stats.address_changes_refused), (5, 0), "{server} {client}");
        peer.close();
        running.until("the peer has left", |stats| stats.peers == 0);
    }
}

#[test]
fn a_client_is_followed_on_wildcard_listeners_and_on_ipv6() {
    for (listen, host) in [("dtls://*:0", "127.0.0.1"), ("dtls://[::1]:0", "[::1]")] {
        let running = Running::echo_with(listen, |builder| builder.connection_ids(ids(8)));
        let url = format!("dtls://{host}:{}", running.url().port);
        let client = running.client().server_name("localhost").connection_ids(ids(0));
        let mut peer = client.connect(url.as_str()).unwrap();
        exchange(&mut peer, &[1; 100]);
        for round in 1..=3 {
            peer.change_port().unwrap();
            exchange(&mut peer, &[2; 100]);
            until_followed(&running, &mut peer, round);
            exchange(&mut peer, &[3; 100]);
        }
        assert_eq!((running.stats().opened, running.stats().peers), (1, 1), "{listen}");
    }
}

#[test]
fn a_client_that_moved_may_begin_anew_from_its_new_address() {
    let running = serve(8);
    let mut nat = Nat::to(running.address());
    let mut client = behind(&running, &nat);
    exchange(&mut client, &[1; 100]);
    nat.rebind(0);
    exchange(&mut client, &[2; 100]);
    until_followed(&running, &mut client, 1);
    // The client has ended without a close_notify, and another one has its address.
    nat.cut(true);
    let sent = nat.passed().len();
    drop(client);
    until("the goodbye is lost", || (nat.passed().len() > sent).then_some(()));
    nat.cut(false);
    let mut next = behind(&running, &nat);
    exchange(&mut next, &[3; 100]);
    let stats = running.until("the old one is replaced", |stats| stats.ended(EndKind::Replaced) == 1);
    assert_eq!((stats.opened, stats.peers), (2, 1));
}

#[test]
fn a_peer_without_connection_ids_cannot_change_its_port() {
    let with = serve(8);
    let mut without = with.connect();
    exchange(&mut without, b"ordinary records");
    assert_eq!(without.change_port().unwrap_err().kind(), ErrorKind::Unsupported);
    let running = Running::echo("dtls://127.0.0.1:0");
    let mut client = running.client().connection_ids(ids(8)).connect(running.url()).unwrap();
    exchange(&mut client, b"ordinary records");
    assert_eq!(client.change_port().unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!((with.stats().connection_ids, running.stats().connection_ids), (0, 0));
}

#[test]
fn a_session_with_connection_ids_is_resumed_with_new_ones() {
    let running = serve(8);
    let client = running.client().connection_ids(ids(8));
    for round in 0..3 {
        let mut peer = client.connect(running.url()).unwrap();
        assert_eq!(peer.is_resumed(), round > 0);
        exchange(&mut peer, b"one");
        peer.change_port().unwrap();
        exchange(&mut peer, b"two");
    }
    assert_eq!(running.stats().connection_ids, 3);
}

/// Reports the address that a peer had before its address changed, and the new one.
struct Moves(std::sync::Mutex<Tell<(SocketAddr, SocketAddr)>>);

impl PeerEvents for Moves {
    type State = ();

    fn open(&self, _: &Sender) -> Result<(), HandlerError> {
        Ok(())
    }

    fn message(&self, (): &mut (), peer: &Sender, message: Message<'_>) -> Result<(), HandlerError> {
        Ok(peer.send(&message)?)
    }

    fn address_changed(&self, (): &mut (), peer: &Sender, previous: SocketAddr) -> Result<(), HandlerError> {
        self.0.lock().unwrap().send((previous, peer.peer_address()))?;
        Ok(())
    }
}

#[test]
fn callbacks_are_told_of_a_new_address() {
    let (tell, moves) = channel();
    let handler = Callbacks::new(Moves(tell.into()));
    let running = Running::with("dtls://127.0.0.1:0", |builder| builder.connection_ids(ids(8)), handler);
    let mut client = running.client().connection_ids(ids(0)).connect(running.url()).unwrap();
    exchange(&mut client, b"here");
    for _ in 0..3 {
        let before = client.local_address();
        client.change_port().unwrap();
        exchange(&mut client, b"and there");
        let told = until("the callback is told", || {
            let _ = client.recv_timeout(&mut [0; 100], Duration::from_millis(5));
            moves.try_recv().ok()
        });
        assert_eq!(told, (before, client.local_address()));
    }
}

#[test]
fn old_replayed_and_forged_records_from_elsewhere_change_nothing() {
    let running = serve(8);
    let nat = Nat::to(running.address());
    let mut client = behind(&running, &nat);
    exchange(&mut client, b"first");
    // One record is held back on its way and arrives late from another address, after a newer one has arrived.
    nat.cut(true);
    let sent = nat.passed().len();
    client.send(b"held back").unwrap();
    let old = until("the record is held back", || nat.passed().get(sent).cloned());
    nat.cut(false);
    exchange(&mut client, b"second");
    let replayed = nat.passed().pop().unwrap();
    let mut forged = replayed.clone();
    *forged.last_mut().unwrap() ^= 1;
    // This sequence number is higher than all others.
    forged[10] = 200;
    let elsewhere = UdpSocket::bind("127.0.0.1:0").unwrap();
    elsewhere.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    for datagram in [&replayed, &forged, &old] {
        elsewhere.send_to(datagram, running.address()).unwrap();
    }
    // The old record is authentic and new to the server, so it is echoed to the peer's current address.
    let mut buffer = [0; 100];
    let len = client.recv_timeout(&mut buffer, DEADLINE).unwrap().unwrap();
    assert_eq!(&buffer[..len], b"held back");
    assert!(elsewhere.recv(&mut buffer).is_err(), "nothing is sent elsewhere");
    exchange(&mut client, b"third");
    let stats = running.stats();
    assert_eq!(stats.records_forged, 1);
    // A listener that is the socket of no single peer forwards nothing.
    assert_eq!(stats.forwarded, if COMBINATION.shares() { 0 } else { 3 });
    assert_eq!((stats.addresses_changed, stats.address_changes_refused, stats.opened), (0, 0, 1));
}

#[test]
fn a_copied_record_from_elsewhere_does_not_take_the_peer_away() {
    let running = serve(8);
    let nat = Nat::to(running.address());
    let mut client = behind(&running, &nat);
    exchange(&mut client, b"first");
    // The newest record comes from an attacker, who cannot answer the challenge. The peer's own copy never
    // arrives.
    nat.cut(true);
    let sent = nat.passed().len();
    client.send(&[1; 100]).unwrap();
    let copied = until("the record is held back", || nat.passed().get(sent).cloned());
    nat.cut(false);
    let elsewhere = UdpSocket::bind("127.0.0.1:0").unwrap();
    elsewhere.set_read_timeout(Some(DEADLINE)).unwrap();
    elsewhere.send_to(&copied, running.address()).unwrap();
    // The attacker receives at most three times what it sent.
    let (mut got, mut buffer) = (0, [0; 2048]);
    running.until("the check has failed", |stats| stats.address_changes_refused == 1);
    elsewhere.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    while let Ok(len) = elsewhere.recv(&mut buffer) {
        got += len;
    }
    assert!((1..=3 * copied.len()).contains(&got), "{got} bytes for {}", copied.len());
    exchange(&mut client, b"second");
    assert_eq!((running.stats().addresses_changed, running.stats().opened), (0, 1));
}

#[test]
fn a_peer_is_followed_through_loss_and_reordering() {
    let running = serve(8);
    let mut nat = Nat::to(running.address());
    let mut client = behind(&running, &nat);
    nat.set_faults(20, 20);
    let mut buffer = [0; 2048];
    for round in 0..scaled(10) {
        nat.rebind(0);
        let message = [round as u8; 100];
        until("an echo comes", || {
            client.send(&message).unwrap();
            let mut found = None;
            while let Ok(Some(len)) = client.recv_timeout(&mut buffer, Duration::from_millis(100)) {
                found = found.or((buffer[..len] == message).then_some(()));
            }
            found
        });
    }
    nat.set_faults(0, 0);
    nat.rebind(0);
    until("the peer is followed to its last address", || {
        client.send(b"where am I").unwrap();
        let _ = client.recv_timeout(&mut buffer, Duration::from_millis(50));
        let moved = running.stats().addresses_changed;
        (moved > 0).then_some(())
    });
    assert_eq!((running.stats().opened, running.stats().peers), (1, 1));
}

#[test]
fn a_peer_may_have_the_address_that_another_one_has_left() {
    // No other test uses this address, so a port that was left stays free.
    let running = serve_at("dtls://127.0.77.11:0", 8);
    let (mut one, mut other) = (Nat::to(running.address()), Nat::to(running.address()));
    let (mut first, mut second) = (behind(&running, &one), behind(&running, &other));
    let message = [3; 100];
    exchange(&mut first, &message);
    exchange(&mut second, &message);
    let ports = [one.source().port(), other.source().port()];
    // The second client leaves its port without sending anything, so the server does not know.
    other.rebind(0);
    until("the port is free", || UdpSocket::bind((running.address().ip(), ports[1])).ok());
    one.rebind(ports[1]);
    for changed in 1..=2 {
        let peer = if changed == 1 { &mut first } else { &mut second };
        exchange(peer, &message);
        until_followed(&running, peer, changed);
        exchange(peer, &message);
    }
    exchange(&mut first, &message);
    let stats = running.stats();
    assert_eq!((stats.opened, stats.peers), (2, 2), "{stats:?}");
    drop((first, second));
    running.until("both have left", |stats| stats.peers == 0);
}

#[test]
fn a_peer_that_answers_from_an_address_has_it_though_one_without_a_connection_id_had() {
    // No other test uses this address, so a port that was left stays free.
    let running = serve_at("dtls://127.0.77.12:0", 8);
    let (mut one, mut other) = (Nat::to(running.address()), Nat::to(running.address()));
    let mut first = behind(&running, &one);
    let address = Address::from_socket(Scheme::Dtls, other.address());
    let mut second = running.client().server_name("localhost").connect(address).unwrap();
    let message = [3; 100];
    exchange(&mut first, &message);
    exchange(&mut second, &message);
    let port = other.source().port();
    // The second client is lost behind its translator, and the server does not know.
    other.rebind(0);
    until("the port is free", || UdpSocket::bind((running.address().ip(), port)).ok());
    one.rebind(port);
    exchange(&mut first, &message);
    until_followed(&running, &mut first, 1);
    exchange(&mut first, &message);
    let stats = running.stats();
    assert_eq!((stats.opened, stats.peers, stats.address_changes_refused), (2, 2, 0), "{stats:?}");
    drop(first);
    running.until("it has left", |stats| stats.peers == 1);
}

#[test]
fn a_crowd_changes_its_ports_at_once() {
    let running = serve(8);
    let client = running.client().connection_ids(ids(0));
    let count = scaled(300);
    let mut crowd: Vec<Peer> = (0..count).map(|_| client.connect(running.url()).unwrap()).collect();
    for peer in &mut crowd {
        peer.change_port().unwrap();
    }
    for peer in &mut crowd {
        exchange(peer, &[9; 100]);
    }
    // Clients that have not had a challenge to answer yet answer one now.
    let stats = until("all are followed", || {
        for peer in &mut crowd {
            let _ = peer.recv_timeout(&mut [0; 200], Duration::from_millis(1));
        }
        Some(running.stats()).filter(|stats| stats.addresses_changed == u64::from(count))
    });
    crowd.iter_mut().for_each(|peer| exchange(peer, &[9; 100]));
    assert_eq!((stats.opened, stats.peers), (u64::from(count), u64::from(count)));
    drop(crowd);
    running.until("all have left", |stats| stats.peers == 0);
}

#[test]
fn a_hello_from_an_address_to_which_a_peer_has_moved_is_not_passed_between_loops_for_ever() {
    // The kernel gives the two addresses of the client to one loop or to two.
    for _ in 0..5 {
        let running = serve(8);
        let mut nat = Nat::to(running.address());
        let mut client = behind(&running, &nat);
        exchange(&mut client, &[1; 100]);
        nat.rebind(0);
        exchange(&mut client, &[2; 100]);
        until("the peer is followed", || {
            let _ = client.recv_timeout(&mut [0; 200], Duration::from_millis(5));
            (running.stats().addresses_changed == 1).then_some(())
        });
        nat.cut(true);
        drop(client);
        nat.cut(false);
        exchange(&mut behind(&running, &nat), &[3; 100]);
        // The hello goes to the loop of the old association and back, again if the client repeats it.
        let stats = running.stats();
        assert!(stats.passed_between_loops < 20, "{stats:?}");
    }
}

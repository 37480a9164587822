//! A peer that has lost its state and starts a new handshake from the same address and port (RFC 6347 §4.2.8),
//! and an attacker who only pretends to do so.

#[path = "support/relay.rs"]
#[allow(dead_code)]
mod relay;
mod support;

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use peeloff::{Address, EndKind, Error, Peer, Scheme, Stats};
use relay::Relay;
use support::{DEADLINE, Running, exchange, until};

/// Set for the process that will be killed: the server's URL, and its certificate in PEM.
const ROLE_URL: &str = "PEELOFF_TEST_URL";

/// The random follows content type, version, epoch, sequence and length of the record; type, length, sequence and
/// fragment of the message; and the version (RFC 6347 §4.3.2).
const RANDOM_AT: usize = 13 + 12 + 2;
const RANDOM_LEN: usize = 32;
/// The offset of the low byte of the message's sequence: 0 in a first hello, 1 in the one with the cookie.
const MESSAGE_SEQUENCE_AT: usize = 13 + 5;

#[test]
fn a_client_that_was_killed_comes_again_from_the_same_port() {
    let running = Running::echo("dtls://127.0.0.1:0");
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "the_client_that_is_killed", "--ignored", "--nocapture"])
        .env(ROLE_URL, running.url().to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let local = stdout.lines().find_map(|line| line.unwrap().split("bound ").nth(1)?.parse().ok());
    let local: SocketAddr = local.expect("the client says where it is");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(running.stats().peers, 1, "a killed client has sent no close_notify");

    let mut client = running.client().bind(local).connect(running.url()).unwrap();
    exchange(&mut client, b"here again");
    let stats = running
        .until("the old association ends", |stats| (stats.ended(EndKind::Replaced), stats.opened) == (1, 2));
    assert_eq!((stats.peers, stats.handshakes), (1, 2));
    assert!(stats.restarts_challenged >= 1, "{stats:?}");
    assert_eq!(stats.strays_lost, 0);
}

#[test]
#[ignore = "run by a_client_that_was_killed_comes_again_from_the_same_port"]
fn the_client_that_is_killed() {
    let Ok(url) = env::var(ROLE_URL) else { return };
    let url: Address = url.parse().unwrap();
    let client = peeloff::Client::builder().danger_accept_any_certificate().timeout(DEADLINE);
    // No other test uses this address, so the port stays free.
    let mut client = client.bind("127.0.77.8:0".parse().unwrap()).connect(&url).unwrap();
    exchange(&mut client, b"here");
    println!("\nbound {}", client.local_address());
    std::io::stdout().flush().unwrap();
    thread::park_timeout(DEADLINE);
}

#[test]
fn a_new_handshake_replaces_an_association_again_and_again() {
    let running = Running::echo("dtls://127.0.0.1:0");
    let relay = Relay::to(running.address());
    let mut client = connect(&running, &relay);
    for round in 1..=5 {
        exchange(&mut client, b"before");
        relay.cut();
        drop(client);
        client = connect(&running, &relay);
        exchange(&mut client, b"after");
        let stats =
            running.until("the old association ends", |stats| stats.ended(EndKind::Replaced) == round);
        assert_eq!((stats.peers, stats.handshakes), (1, round + 1));
        assert!(stats.restarts_challenged >= round, "{stats:?}");
    }
}

#[test]
fn a_client_that_begins_anew_in_the_middle_of_its_handshake_is_served() {
    let running = Running::echo("dtls://127.0.0.1:0");
    let relay = Relay::to(running.address());
    // The two hellos pass, and nothing after them.
    relay.allow(Some(2));
    let url = Address::from_socket(Scheme::Dtls, relay.address());
    // The server repeats its flight after one second and after three. The new client could take what the server
    // sends to the old one for its own.
    let hopeless = running.client().timeout(Duration::from_secs(2));
    thread::scope(|scope| {
        let hopeless = scope.spawn(move || hopeless.connect(&url));
        running.until("the handshake begins", |stats| stats.half_open == 1);
        assert!(hopeless.join().unwrap().is_err());
    });
    relay.cut();
    relay.allow(None);
    let mut client = connect(&running, &relay);
    exchange(&mut client, b"x");
    let stats = running
        .until("the first handshake ends", |stats| (stats.ended(EndKind::Replaced), stats.opened) == (1, 2));
    assert_eq!((stats.peers, stats.half_open, stats.handshakes), (1, 0, 1));
    assert_eq!(stats.ended(EndKind::HandshakeTimedOut), 0);
}

#[test]
fn a_plain_peer_that_begins_anew_is_the_same_peer() {
    let running = Running::echo("udp://127.0.0.1:0");
    // No other test uses this address, so the port stays free.
    let anywhere = "127.0.77.9:0".parse().unwrap();
    let mut client = running.client().bind(anywhere).connect(running.url()).unwrap();
    let local = client.local_address();
    exchange(&mut client, b"before");
    drop(client);
    let mut client = running.client().bind(local).connect(running.url()).unwrap();
    exchange(&mut client, b"after");
    assert_eq!(running.stats().opened, 1);
}

#[test]
fn a_forged_hello_harms_no_association() {
    let running = Running::echo("dtls://127.0.0.1:0");
    let relay = Relay::to(running.address());
    let mut client = connect(&running, &relay);
    exchange(&mut client, b"before");
    let [first, second] = hellos(&relay);
    let handshakes = 1;

    // Each hello without a cookie gets a challenge, and no more.
    for forgery in 1..=20 {
        relay.inject(&with_random(&first, forgery));
        exchange(&mut client, b"between");
    }
    let stats = running.stats();
    assert_eq!((stats.restarts_challenged, stats.peers, stats.handshakes), (20, 1, handshakes));

    // With the cookie of another hello, they are not accepted.
    for forgery in 1..=20 {
        relay.inject(&with_random(&second, forgery));
        let mut retried = with_random(&second, forgery);
        retried[MESSAGE_SEQUENCE_AT] = 0;
        relay.inject(&retried);
        exchange(&mut client, b"between");
    }
    let stats = running.stats();
    // There is no challenge for a second hello, because the client could not answer it.
    assert_eq!((stats.restarts_challenged, stats.peers, stats.handshakes), (40, 1, handshakes));

    // Send the client's original hellos again.
    relay.inject(&first);
    relay.inject(&second);
    exchange(&mut client, b"after");
    let stats = running.stats();
    assert_eq!((stats.duplicate_hellos, stats.peers, stats.handshakes), (2, 1, handshakes));

    // Send the hello cut at every length, and with every byte of its header changed.
    for len in 0..first.len() {
        relay.inject(&with_random(&first, 99)[..len]);
    }
    for at in 0..RANDOM_AT {
        let mut changed = with_random(&second, 99);
        changed[at] ^= 0xff;
        relay.inject(&changed);
    }
    exchange(&mut client, b"after all");
    let stats = running.stats();
    assert_eq!((stats.ended(EndKind::Replaced), stats.peers, stats.opened), (0, 1, 1));
}

#[test]
fn a_forged_hello_harms_no_handshake() {
    let running = Running::echo("dtls://127.0.0.1:0");
    let relay = Relay::to(running.address());
    // The server's first flight is lost until the forged hellos have arrived.
    relay.allow(Some(1));
    let client = running.client();
    let url = Address::from_socket(Scheme::Dtls, relay.address());
    let mut client = thread::scope(|scope| {
        let connecting = scope.spawn(move || client.connect(&url));
        until("the first hello is answered", || (relay.answers() == 1).then_some(()));
        relay.mute(true);
        relay.allow(Some(1));
        // By then its socket is connected, and later datagrams reach the handshake.
        until("the server's first flight is lost", || (relay.withheld() > 0).then_some(()));
        let [first, second] = hellos(&relay);
        for forgery in 1..=20 {
            relay.inject(&with_random(&first, forgery));
            relay.inject(&with_random(&second, forgery));
        }
        running.until("the forgeries are seen", |stats| stats.restarts_challenged == 20);
        relay.mute(false);
        relay.allow(None);
        connecting.join().unwrap().unwrap()
    });
    exchange(&mut client, b"x");
    let stats = running.stats();
    assert_eq!((stats.peers, stats.handshakes, stats.opened, stats.ended(EndKind::Replaced)), (1, 1, 1, 0));
}

#[test]
fn a_hello_that_comes_again_when_its_association_is_over_opens_no_other() {
    let running = Running::echo("dtls://127.0.0.1:0");
    let relay = Relay::to(running.address());
    let mut client = connect(&running, &relay);
    exchange(&mut client, b"here");
    drop(client);
    running.until("the association ends", |stats| stats.peers == 0);
    let [_, second] = hellos(&relay);
    relay.inject(&second);
    running.until("the hello is seen", |stats| stats.duplicate_hellos == 1);
    // The copy does not disturb the next client at the same port either.
    relay.cut();
    let mut client = connect(&running, &relay);
    exchange(&mut client, b"somebody else");
    relay.inject(&second);
    let stats = running.until("the hello is seen", |stats| stats.duplicate_hellos == 2);
    exchange(&mut client, b"still here");
    assert_eq!((stats.peers, stats.opened, stats.handshakes, stats.ended(EndKind::Replaced)), (1, 2, 2, 0));
}

#[test]
fn a_hello_that_came_before_the_end_of_the_last_association_is_answered_after_it() {
    let (told, tell) = (channel(), channel());
    let (busy, release) = (Mutex::new(told.0), Mutex::new(tell.1));
    let handler = move |peer: &mut Peer| -> Result<(), Error> {
        peer.recv(&mut [0; 64])?;
        busy.lock().unwrap().send(()).unwrap();
        release.lock().unwrap().recv_timeout(DEADLINE).unwrap();
        Ok(())
    };
    let running = Running::with("dtls://127.0.0.1:0", |builder| builder, handler);
    let relay = Relay::to(running.address());
    let mut client = connect(&running, &relay);
    client.send(b"read no more").unwrap();
    told.1.recv_timeout(DEADLINE).unwrap();
    // From here on they wait in the association's socket, or in its queue if a loop has read them.
    let [first, second] = hellos(&relay);
    for hello in [&first, &second, &with_random(&first, 99)] {
        relay.inject(hello);
    }
    let sent = relay.passed().len() as u64 + 3;
    running.until("the hellos wait", |stats| stats.loop_threads == 0 || stats.datagrams == sent);
    tell.0.send(()).unwrap();
    let challenges = |stats: &Stats| stats.hello_verify_requests + stats.restarts_challenged;
    running.until("the new hello is answered", |stats| challenges(stats) == 2);
    // The client's own hellos were not new.
    let stats = running.until("the old association ends", |stats| stats.peers == 0);
    assert_eq!((stats.opened, challenges(&stats)), (1, 2));
    // The hello was on a socket of the old association, unless the association had none.
    assert_eq!(stats.strays, u64::from(stats.loop_threads == 0));
}

fn connect(running: &Running, relay: &Relay) -> Peer {
    running.client().connect(Address::from_socket(Scheme::Dtls, relay.address())).unwrap()
}

/// Returns the first two datagrams of the client.
fn hellos(relay: &Relay) -> [Vec<u8>; 2] {
    until("two hellos", || relay.passed().get(..2)?.to_vec().try_into().ok())
}

/// Returns the hello of another handshake.
fn with_random(hello: &[u8], number: u8) -> Vec<u8> {
    let mut forged = hello.to_vec();
    forged[RANDOM_AT..RANDOM_AT + RANDOM_LEN].fill(number);
    forged
}

//! The cost of unknown peers: the answer to a first hello is not longer than the hello, and nothing else gets an
//! answer.

#[path = "support/child.rs"]
#[allow(dead_code)]
mod child;
#[path = "support/raw_client.rs"]
#[allow(dead_code)]
mod raw_client;
#[path = "support/relay.rs"]
#[allow(dead_code)]
mod relay;
mod support;

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use child::Child;
use peeloff::{Address, EndKind, Error, Peer, Scheme};
use raw_client::{RawClient, record};
use relay::Relay;
use support::{COMBINATION, Running, SetOnDrop, exchange, quiet_panic, scaled, until};

const UNKNOWN: u32 = 200_000;
/// The number of unknown peers that wait for answers at the same time. Their hellos fit into the smallest receive
/// buffer.
const AT_ONCE: u32 = 200;
/// By how much the server's memory may have grown after all of them. Even if there are only a tenth of them, this
/// is far less than a hundredth of an association for each.
const MORE_MEMORY: u64 = 5 << 20;

#[test]
fn two_hundred_thousand_unknown_peers_leave_nothing_behind() {
    let mut child = Child::start("the_server_that_unknown_peers_ask");
    let server = child.address();
    let unknown_peers = scaled(UNKNOWN) / AT_ONCE * AT_ONCE;
    let mut live = child.connect();
    // The first peers allocate what is allocated only once.
    ask(server, 0..AT_ONCE);
    let least = u64::from(1 + AT_ONCE);
    // On a busy machine, the first client may have sent its hello twice.
    let stats = child.until("all are counted", |stats| stats.get("hello_verify_requests") >= least);
    let answered = stats.get("hello_verify_requests");
    let before = child.usage();

    let over = AtomicBool::new(false);
    let exchanges = thread::scope(|scope| {
        let served = scope.spawn(|| {
            let mut exchanges = 0;
            while !over.load(Ordering::Relaxed) {
                exchange(&mut live, b"still here");
                exchanges += 1;
            }
            exchanges
        });
        let over = SetOnDrop(&over);
        for first in (AT_ONCE..AT_ONCE + unknown_peers).step_by(AT_ONCE as usize) {
            ask(server, first..first + AT_ONCE);
        }
        drop(over);
        served.join().unwrap()
    });
    assert!(exchanges > 100, "the peer was served {exchanges} times only");

    let answered = answered + u64::from(unknown_peers);
    let stats = child.until("all are counted", |stats| stats.get("hello_verify_requests") >= answered);
    assert_eq!(stats.get("hello_verify_requests"), answered, "each was answered once");
    assert_eq!((stats.get("peers"), stats.get("half_open"), stats.get("opened")), (1, 0, 1));
    // On a busy machine, spare threads of the loops may have started. Their number has a bound of its own.
    let after = until("descriptors and other threads are as many as before", || {
        let after = child.usage();
        ["fds", "threads_besides_loops"]
            .iter()
            .all(|name| after.get(name) <= before.get(name))
            .then_some(after)
    });
    child::assert_memory(&before, &after, MORE_MEMORY);
}

/// Lets each of these unknown peers, from an address of its own, send a hello and receive the answer.
fn ask(server: std::net::SocketAddr, numbers: std::ops::Range<u32>) {
    let source = |number: u32| Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + number);
    let asking = |number| {
        let unknown_peer = RawClient::new(source(number), server);
        let hello = unknown_peer.hello(&[]);
        unknown_peer.send(&hello);
        (unknown_peer, hello)
    };
    let unknown_peers: Vec<_> = numbers.map(asking).collect();
    for (unknown_peer, hello) in unknown_peers {
        unknown_peer.challenged(&hello);
    }
}

#[test]
#[ignore = "run by two_hundred_thousand_unknown_peers_leave_nothing_behind"]
fn the_server_that_unknown_peers_ask() {
    if child::is_child() {
        child::serve(&Running::echo("dtls://127.0.0.1:0"), |command| panic!("what is {command}?"));
    }
}

#[test]
fn anything_else_from_an_unknown_peer_gets_silence_and_ends_nothing() {
    let running = Running::echo("dtls://127.0.0.1:0");
    let server = running.address();
    let relay = Relay::to(server);
    let mut live = running.client().connect(Address::from_socket(Scheme::Dtls, relay.address())).unwrap();
    for _ in 0..3 {
        exchange(&mut live, b"before");
    }
    // These are two hellos, the last flight, and three messages. On a busy machine, the client may have sent hellos
    // again.
    let is_hello =
        |datagram: &[u8], number| datagram[0] == 22 && datagram[13] == 1 && datagram[13 + 5] == number;
    let recorded = until("what the client sent", || Some(relay.passed()).filter(|all| all.len() >= 6));
    let challenged = recorded.iter().filter(|datagram| is_hello(datagram, 0)).count() as u64;
    let with_a_cookie = recorded.iter().filter(|datagram| is_hello(datagram, 1)).count() as u64;

    let unknown_peer = RawClient::new([127, 0, 0, 77], server);
    let hello = unknown_peer.hello(&[]);
    let fragment = |offset: u32, len: usize| {
        let body = &hello[13 + 12..];
        let u24 = |value: u32| value.to_be_bytes();
        let part = &body[offset as usize..][..len];
        let header =
            [&[1], &u24(body.len() as u32)[1..], &[0, 0], &u24(offset)[1..], &u24(len as u32)[1..]].concat();
        record(22, 0, 3, &[&header, part].concat())
    };
    let mut nuisances = vec![
        // An empty datagram, and one of the largest size.
        vec![],
        vec![0; 65_507],
        vec![22; 65_507],
        [&hello[..13], &[1; 60_000]].concat(),
        // Bytes that are not DTLS.
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 100],
        // Records of associations that do not exist.
        record(23, 1, 1, &[9; 64]),
        record(22, 1, 0, &[9; 40]),
        record(23, 0, 1, b"in clear"),
        record(20, 0, 1, &[1]),
        record(63, 0, 1, &[1]),
        // Alerts in clear: close_notify, handshake_failure, and one in epoch 1.
        record(21, 0, 1, &[1, 0]),
        record(21, 0, 1, &[2, 40]),
        record(21, 1, 1, &[2; 26]),
        // A message that only servers send.
        record(22, 0, 0, &[3, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 3, 0xfe, 0xff, 0]),
        record(22, 0, 0, &[2, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0]),
        // Fragments of a hello: a first one that ends too early, and later ones.
        fragment(0, 20),
        fragment(20, 10),
        fragment(40, hello.len() - 25 - 40),
        // A hello whose length is too large, and one with an unknown version.
        [&hello[..14], &[0xff; 3], &hello[17..]].concat(),
        [&hello[..25], &[3, 3], &hello[27..]].concat(),
    ];
    nuisances.extend((0..hello.len()).map(|len| hello[..len].to_vec()));
    // All recorded datagrams except the first hello, which anybody may send.
    nuisances.extend(recorded.into_iter().filter(|datagram| !is_hello(datagram, 0)));

    let counted = || {
        let stats = running.stats();
        stats.ignored + stats.hellos_too_short + stats.cookies_refused
    };
    for (number, nuisance) in nuisances.iter().enumerate() {
        let before = counted();
        unknown_peer.send(nuisance);
        unknown_peer.assert_silence();
        assert_eq!(counted(), before + 1, "{:?}", &nuisance[..nuisance.len().min(100)]);
        if number % 10 == 0 {
            exchange(&mut live, b"between");
        }
    }
    exchange(&mut live, b"after");
    let answered = challenged + nuisances.len() as u64;
    let stats = running.until("the last answer is counted", |stats| stats.hello_verify_requests >= answered);
    assert_eq!(stats.hello_verify_requests, answered);
    assert_eq!((stats.hellos_too_short, stats.cookies_refused), (1, with_a_cookie));
    assert_eq!((stats.peers, stats.half_open, stats.opened), (1, 0, 1));
    assert_eq!(stats.workers, u64::from(!COMBINATION.loops));
    assert_eq!(stats.ended_total(), 0);
    assert_eq!((stats.handler_errors, stats.handler_panics), (0, 0));
}

#[test]
fn a_datagram_of_an_unknown_udp_peer_opens_one_association_whatever_the_handler_does() {
    type Handler = fn(&mut Peer) -> Result<(), Error>;
    let handlers: [(Handler, EndKind); 3] = [
        (|peer| peer.send(b"unread"), EndKind::ClosedByUs),
        (|_| Err(Error::EmptyMessage), EndKind::HandlerFailed),
        (|_| quiet_panic(), EndKind::HandlerPanicked),
    ];
    for (handler, end) in handlers {
        let running = Running::with("udp://127.0.0.1:0", |builder| builder, handler);
        let unknown_peer = RawClient::new([127, 0, 0, 1], running.address());
        unknown_peer.send(b"one");
        running.until("it ends", |stats| stats.ended(end) >= 1);
        // By the time that the next unknown peer is served, the dispatcher has seen everything that the first one
        // left.
        let second = RawClient::new([127, 0, 0, 1], running.address());
        second.send(b"another");
        let stats = running.until("the second ends", |stats| stats.ended(end) >= 2 && stats.peers == 0);
        assert_eq!((stats.opened, stats.datagrams), (2, 2), "{end}");
    }
}

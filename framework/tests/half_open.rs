//! Peers that prove their address and then stall, and peers that are not admitted.

#[path = "support/raw_client.rs"]
#[allow(dead_code)]
mod raw_client;
mod support;

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use peeloff::{
    Admission, EndKind, HandlerError, Incoming, Limits, Peer, PeerHandler, Refusal, Stats, Timeouts,
};
use raw_client::{RawClient, record};
use support::{COMBINATION, DEADLINE, Running, exchange, until};

const HOME: [u8; 4] = [127, 0, 0, 1];
const CAP: usize = 8;

/// Limits without exemptions, and with no other limit.
fn strict() -> Limits {
    Limits::UNLIMITED.exempt_loopback(false)
}

#[test]
fn stalled_handshakes_make_way_for_honest_clients() {
    let mut timeouts = Timeouts::default();
    timeouts.handshake = Duration::from_secs(6);
    let limits = Limits::default().max_half_open(CAP);
    let configure = |builder: peeloff::ServerBuilder| builder.timeouts(timeouts).limits(limits);
    let running = Running::echo_with("dtls://127.0.0.1:0", configure);
    let stalled: Vec<_> = (0..CAP).map(|_| RawClient::new(HOME, running.address())).collect();
    stalled.iter().for_each(RawClient::stall);
    let stats = running.stats();
    assert_eq!((stats.half_open, stats.peers), (CAP as u64, CAP as u64));

    // No handshake has run for two seconds yet, so the newcomer gets neither a place nor an answer.
    let late = RawClient::new(HOME, running.address());
    late.knock();
    late.assert_silence();
    assert_eq!(running.stats().refused(Refusal::MaxHalfOpen), 1);

    // An honest client retransmits after one second, and again two seconds later.
    let began = Instant::now();
    let mut clients: Vec<_> = thread::scope(|scope| {
        let connecting: Vec<_> = (0..3).map(|_| scope.spawn(|| running.connect())).collect();
        connecting.into_iter().map(|client| client.join().unwrap()).collect()
    });
    assert!(began.elapsed() < DEADLINE);
    clients.iter_mut().for_each(|client| exchange(client, b"x"));
    let stats = running.until("the stalled ones end", |stats| stats.half_open == 0 && stats.peers == 3);
    let (evicted, timed_out) = (stats.ended(EndKind::Evicted), stats.ended(EndKind::HandshakeTimedOut));
    assert!(evicted >= 1, "{evicted} were evicted");
    assert_eq!(evicted + timed_out, CAP as u64);
    assert_eq!(stats.handshakes, 3);
    clients.iter_mut().for_each(Peer::close);
    running.until("the honest ones end", |stats| stats.peers == 0);
}

#[test]
fn the_deadline_ends_stalled_handshakes() {
    assert_eq!(Timeouts::default().handshake, Duration::from_secs(10));
    let deadline = Duration::from_secs(3);
    let mut timeouts = Timeouts::default();
    timeouts.handshake = deadline;
    let running = Running::echo_with("dtls://127.0.0.1:0", |builder| builder.timeouts(timeouts));
    let began = Instant::now();
    let stalled: Vec<_> = (0..CAP).map(|_| RawClient::new(HOME, running.address())).collect();
    stalled.iter().for_each(RawClient::stall);
    assert_eq!(running.stats().half_open, CAP as u64);
    let ended = running.until("the deadline", |stats| stats.ended(EndKind::HandshakeTimedOut) > 0);
    assert!(began.elapsed() >= deadline, "after {:?}", began.elapsed());
    assert_eq!(ended.ended(EndKind::Evicted), 0);
    let stats = running.until("all end", |stats| stats.peers == 0 && stats.half_open == 0);
    assert_eq!(stats.ended(EndKind::HandshakeTimedOut), CAP as u64);
    assert_eq!(stats.handshakes, 0);
    // Their flights were retransmitted meanwhile: after one second, and two seconds later if that was in time.
    assert!((CAP as u64..=2 * CAP as u64).contains(&stats.retransmissions), "{}", stats.retransmissions);
}

#[test]
fn each_limit_refuses_and_is_counted() {
    let [here, beside, beyond] = [[127, 0, 0, 1], [127, 0, 0, 2], [127, 0, 1, 1]];
    let cases = [
        (Refusal::MaxPeers, strict().max_peers(2), vec![here, beyond], beside, None),
        (
            Refusal::MaxPeersPerLocalAddress,
            strict().max_peers_per_local_address(2),
            vec![here, beyond],
            beside,
            None,
        ),
        (Refusal::MaxPeersPerSource, strict().max_peers_per_source(2), vec![here, here], here, Some(beside)),
        (
            Refusal::MaxPeersPerPrefix,
            strict().max_peers_per_prefix(2),
            vec![here, beside],
            here,
            Some(beyond),
        ),
        (Refusal::Rate, strict().new_peers_per_second(0).new_peers_burst(2), vec![], here, None),
        (Refusal::MaxHalfOpen, strict().max_half_open(2), vec![here, beyond], beside, None),
    ];
    // This limit does not apply if peers share sockets.
    let holds = |refusal| refusal != Refusal::MaxPeersPerLocalAddress || !COMBINATION.shares();
    for (refusal, limits, let_in, refused, other) in cases.into_iter().filter(|case| holds(case.0)) {
        let running = Running::echo_with("dtls://127.0.0.1:0", |builder| builder.limits(limits));
        let unknown_peer = |source: [u8; 4]| RawClient::new(source, running.address());
        let mut inside: Vec<_> = let_in.into_iter().map(unknown_peer).collect();
        inside.iter().for_each(RawClient::stall);
        let outside = unknown_peer(refused);
        // A limit that lasts for seconds sends no answer, so that the same hello may be admitted when it is
        // repeated. Other limits send an alert, and the same hello stays refused.
        let passes = matches!(refusal, Refusal::Rate | Refusal::MaxHalfOpen);
        for _ in 0..3 {
            outside.knock();
            if passes {
                outside.assert_silence();
            } else {
                outside.assert_refused(80);
            }
        }
        let refused = if passes { 3 } else { 1 };
        inside.extend(other.map(unknown_peer).inspect(RawClient::stall));
        let stats = running.until("all are counted", |stats| stats.opened == inside.len() as u64);
        assert_eq!(stats.refused(refusal), refused, "{refusal}");
        assert_eq!(stats.refused_total(), refused, "{refusal}: under its own name alone");
        assert_eq!((stats.peers, stats.half_open), (stats.opened, stats.opened), "{refusal}");
    }
}

#[test]
fn a_network_above_its_rate_is_refused_until_the_rate_allows_a_peer() {
    let limits = strict().new_peers_per_second(1).new_peers_burst(2);
    let running = Running::echo_with("dtls://127.0.0.1:0", |builder| builder.limits(limits));
    let mut inside = Vec::new();
    // Returns whether a peer from this address is admitted.
    let mut knock = |source: [u8; 4]| {
        let unknown_peer = RawClient::new(source, running.address());
        let before = running.stats();
        unknown_peer.knock();
        let is_decided = |stats: &Stats| {
            stats.opened + stats.refused(Refusal::Rate) > before.opened + before.refused(Refusal::Rate)
        };
        let is_in = running.until("a decision", is_decided).opened > before.opened;
        inside.push(unknown_peer);
        is_in
    };
    let began = Instant::now();
    let mut let_in = 0;
    while knock(HOME) {
        let_in += 1;
    }
    // This is the burst, plus one for each second that the test has taken.
    let most = 2 + began.elapsed().as_secs() + 1;
    assert!((2..=most).contains(&let_in), "{let_in} in {:?}", began.elapsed());
    assert!(knock([127, 0, 1, 1]), "another network has a rate of its own");
    until("its time comes", || knock(HOME).then_some(()));
    assert_eq!(running.stats().refused_total(), running.stats().refused(Refusal::Rate));
}

#[test]
fn freed_places_are_taken_by_others() {
    let limits = strict().max_peers(2);
    let running = Running::echo_with("dtls://127.0.0.1:0", |builder| builder.limits(limits));
    for round in 0..5 {
        let [mut first, mut second] = [running.connect(), running.connect()];
        let third = RawClient::new(HOME, running.address());
        third.knock();
        third.assert_refused(80);
        assert_eq!(running.stats().refused(Refusal::MaxPeers), round + 1);
        exchange(&mut first, b"x");
        exchange(&mut second, b"x");
        first.close();
        second.close();
        running.until("both end", |stats| stats.peers == 0);
    }
}

/// Admits peers by their address, and keeps those that it serves.
struct Doorman(Mutex<Receiver<()>>);

const REFUSED: [u8; 4] = [127, 0, 0, 2];
const FEARED: [u8; 4] = [127, 0, 0, 3];

impl PeerHandler for Doorman {
    fn admit(&self, incoming: &Incoming) -> Admission {
        let from = |source: [u8; 4]| incoming.peer_address().ip() == SocketAddr::from((source, 0)).ip();
        assert!(!from(FEARED), "the doorman panics, as this test wants");
        if from(REFUSED) { Admission::Refuse } else { Admission::Accept }
    }

    fn handle(&self, peer: &mut Peer) -> Result<(), HandlerError> {
        peer.send(b"welcome")?;
        let _ = self.0.lock().unwrap().recv_timeout(DEADLINE);
        Ok(())
    }
}

#[test]
fn a_peer_that_the_handler_refuses_or_panics_for_is_denied_access() {
    let (release, released) = channel();
    let running = Running::with("dtls://127.0.0.1:0", |builder| builder, Doorman(Mutex::new(released)));
    let [refused, feared] = [REFUSED, FEARED].map(|source| RawClient::new(source, running.address()));
    for (number, unknown_peer) in [&refused, &feared].into_iter().enumerate() {
        for _ in 0..2 {
            unknown_peer.knock();
            unknown_peer.assert_refused(49);
            // The second time, the hello itself is known as refused, and the handler is not asked again.
            assert_eq!(running.stats().refused(Refusal::Handler), number as u64 + 1);
        }
    }
    let stats = running.stats();
    assert_eq!((stats.handler_panics, stats.opened, stats.peers, stats.half_open), (1, 0, 0, 0));

    let mut client = running.connect();
    assert_eq!(client.recv_timeout(&mut [0; 16], DEADLINE).unwrap(), Some(7));
    release.send(()).unwrap();
    running.until("it ends", |stats| stats.peers == 0);
}

#[test]
fn a_draining_server_admits_no_peer() {
    let (release, released) = channel();
    let running = Running::with("dtls://127.0.0.1:0", |builder| builder, Doorman(Mutex::new(released)));
    let mut client = running.connect();
    assert_eq!(client.recv_timeout(&mut [0; 16], DEADLINE).unwrap(), Some(7));
    let late = RawClient::new(HOME, running.address());
    let cookie = late.challenge();
    let handle = running.handle();
    let report = thread::scope(|scope| {
        let shutdown = scope.spawn(move || handle.shutdown(DEADLINE));
        // The first knocks may arrive before the shutdown has begun. They use an address that the handler
        // refuses.
        until("the drain begins", || {
            let probe = RawClient::new(REFUSED, running.address());
            probe.knock();
            let draining = running.stats().refused(Refusal::Draining) > 0;
            draining.then_some(())
        });
        let before = running.stats().refused(Refusal::Draining);
        late.send(&late.hello(&cookie));
        late.assert_refused(80);
        assert!(running.stats().refused(Refusal::Draining) > before);
        release.send(()).unwrap();
        shutdown.join().unwrap()
    });
    assert_eq!((report.peers, report.finished), (1, 1));
    assert_eq!(running.stats().opened, 1);
}

/// Makes an alert in clear, which anyone can forge.
fn alert(level: u8, description: u8) -> Vec<u8> {
    record(21, 0, 9, &[level, description])
}

#[test]
fn a_fatal_alert_in_clear_ends_a_handshake_after_a_grace_period_and_a_warning_does_not() {
    let running = Running::echo("dtls://127.0.0.1:0");
    let stalled = RawClient::new(HOME, running.address());
    stalled.stall();
    const WARNING: u8 = 1;
    const FATAL: u8 = 2;
    const USER_CANCELED: u8 = 90;
    const INTERNAL_ERROR: u8 = 80;
    stalled.send(&alert(WARNING, USER_CANCELED));
    let stats = running.until("the warning is dropped", |stats| stats.records_dropped == 1);
    assert_eq!((stats.plaintext_alerts, stats.half_open), (0, 1));
    let began = Instant::now();
    stalled.send(&alert(FATAL, INTERNAL_ERROR));
    let stats = running.until("the alert is counted", |stats| stats.plaintext_alerts == 1);
    assert_eq!(stats.records_dropped, 1);
    let stats = running.until("the handshake ends", |stats| stats.half_open == 0);
    assert_eq!((stats.ended(EndKind::HandshakeFailed), stats.ended_total()), (1, 1), "{stats:?}");
    // A forged alert leaves an honest peer this long to complete the handshake.
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
}

//! A server over SCTP goes from one process to another: the listener goes, associations stay and are drained.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use peeloff::{
    Client, EndReason, HandedOver, Handle, Peer, Predecessor, Refusal, Server, ServerBuilder, ShutdownReport,
    hand_over_sockets,
};
use support::{DEADLINE, Echo, echo, exchange, until};

const KEY: &[u8] = b"0123456789abcdef";
const URLS: [&str; 3] = ["sctp://127.0.0.1:0", "sctp+tls://127.0.0.1:0", "sctp+dtls://127.0.0.1:0"];

/// Starts on loops, or on threads.
fn start(builder: ServerBuilder, loops: bool) -> Server {
    match loops {
        true => builder.event_loops(2).start_events(Echo).unwrap(),
        false => builder.start(echo).unwrap(),
    }
}

fn builder(url: &str) -> ServerBuilder {
    Server::builder().listen(url).psk(|_| Some(KEY.to_vec()))
}

fn connect(server: &Server, name: &str) -> Peer {
    let client = Client::builder().psk(name.as_bytes(), KEY).timeout(DEADLINE);
    client.connect(&server.addresses()[0]).unwrap()
}

/// Hands a server over to another one, which serves in the same way.
fn hand_over(old: &Server, loops: bool) -> (Server, HandedOver) {
    let (give, take) = hand_over_sockets().unwrap();
    let handle = old.handle();
    let giving = thread::spawn(move || handle.hand_over(give));
    let again = builder(&old.addresses()[0].to_string()).take_over(Predecessor::ask(take).unwrap());
    let new = start(again, loops);
    (new, giving.join().unwrap().unwrap())
}

/// Shuts a server down on a thread of its own, and waits until that has begun.
fn begin_shutdown(handle: &Handle) -> thread::JoinHandle<ShutdownReport> {
    let ending = handle.clone();
    let shutdown = thread::spawn(move || ending.shutdown(DEADLINE));
    until("the drain", || (handle.health().refuses == Some(Refusal::Draining)).then_some(()));
    shutdown
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn the_listener_goes_and_associations_are_drained_where_they_are() {
    for (url, loops) in URLS.iter().flat_map(|url| [(url, false), (url, true)]) {
        let old = start(builder(url), loops);
        let mut stay: Vec<Peer> = (0..5).map(|_| connect(&old, "stays")).collect();
        stay.iter_mut().for_each(|peer| exchange(peer, b"before"));
        let (new, given) = hand_over(&old, loops);
        assert_eq!((given.peers, given.staying, given.listeners), (0, 5, 1), "{url}, {loops}: {given:?}");
        let mut come: Vec<Peer> = (0..5).map(|_| connect(&old, "comes")).collect();
        for _ in 0..3 {
            stay.iter_mut().chain(&mut come).for_each(|peer| exchange(peer, b"after"));
        }
        assert_eq!((old.handle().stats().peers, old.handle().stats().opened), (5, 5), "{url}, {loops}");
        assert_eq!((new.handle().stats().peers, new.handle().stats().opened), (5, 5), "{url}, {loops}");
        let shutdown = begin_shutdown(&old.handle());
        for peer in &mut stay {
            assert_eq!(peer.recv_timeout(&mut [0; 64], DEADLINE).unwrap(), None, "{url}, {loops}");
            assert_eq!(peer.end_reason(), Some(&EndReason::ClosedByPeer), "{url}, {loops}");
        }
        let report = shutdown.join().unwrap();
        assert_eq!((report.peers, report.finished, report.stopped), (5, 5, 0), "{url}, {loops}");
        drop(old);
        come.push(connect(&new, "comes"));
        come.iter_mut().for_each(|peer| exchange(peer, b"at last"));
    }
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn associations_that_come_while_the_server_goes_are_served_by_either_process() {
    for (url, loops) in URLS.iter().flat_map(|url| [(url, false), (url, true)]) {
        let old = start(builder(url), loops);
        let (stop, count) = (AtomicBool::new(false), AtomicUsize::new(0));
        let (new, mut peers) = thread::scope(|scope| {
            let coming = scope.spawn(|| {
                let mut peers = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    let mut peer = connect(&old, "comes");
                    exchange(&mut peer, b"hello");
                    peers.push(peer);
                    count.store(peers.len(), Ordering::SeqCst);
                }
                peers
            });
            let some = || {
                let some = count.load(Ordering::SeqCst) + 3;
                let come = || count.load(Ordering::SeqCst) >= some || coming.is_finished();
                until("some to come", || come().then_some(()));
            };
            some();
            let (new, given) = hand_over(&old, loops);
            assert_eq!(given.listeners, 1, "{url}, {loops}: {given:?}");
            some();
            stop.store(true, Ordering::SeqCst);
            (new, coming.join().unwrap())
        });
        peers.iter_mut().for_each(|peer| exchange(peer, b"still here"));
        let opened = [&old, &new].map(|server| server.handle().stats().opened);
        assert!(opened.iter().all(|opened| *opened >= 3), "{url}, {loops}: {opened:?}");
        assert_eq!(opened[0] + opened[1], peers.len() as u64, "{url}, {loops}");
    }
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn handshakes_that_stay_are_finished_during_the_drain_and_their_peers_are_answered() {
    for (url, loops) in URLS[1..].iter().flat_map(|url| [(url, false), (url, true)]) {
        let (asked, found) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let (ask, find) = (Arc::clone(&asked), Arc::clone(&found));
        // A key that takes long to find.
        let look_up = move |_: &[u8]| {
            ask.store(true, Ordering::SeqCst);
            until("the key", || find.load(Ordering::SeqCst).then_some(()));
            Some(KEY.to_vec())
        };
        let old = start(Server::builder().listen(*url).psk(look_up), loops);
        let address = old.addresses()[0].clone();
        let slow = thread::spawn(move || {
            Client::builder().psk(b"slow", KEY).timeout(DEADLINE).connect(&address).unwrap()
        });
        until("the look-up", || asked.load(Ordering::SeqCst).then_some(()));
        let (_new, given) = hand_over(&old, loops);
        assert_eq!((given.peers, given.staying), (0, 1), "{url}, {loops}: {given:?}");
        let shutdown = begin_shutdown(&old.handle());
        found.store(true, Ordering::SeqCst);
        let mut peer = slow.join().unwrap();
        exchange(&mut peer, b"what it came for");
        assert_eq!(peer.recv_timeout(&mut [0; 64], DEADLINE).unwrap(), None, "{url}, {loops}");
        let report = shutdown.join().unwrap();
        assert_eq!((report.peers, report.finished, report.stopped), (1, 1, 0), "{url}, {loops}");
    }
}

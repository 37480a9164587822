//! Secured peers that send nothing for a while: their threads release memory, including the read buffer, wait
//! without it, and still receive everything.

#[path = "support/relay.rs"]
#[allow(dead_code)]
mod relay;
mod support;

use std::fs;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};
use peeloff::{Address, EndKind, EndReason, Error, Peer, Scheme};
use relay::Relay;
use support::{COMBINATION, DEADLINE, Running, exchange, until};

/// Schemes whose peers have sockets of their own. The thread of any other peer always waits in the same system
/// call.
fn with_sockets() -> &'static [&'static str] {
    if COMBINATION.shares() { &["tls://127.0.0.1:0"] } else { &["dtls://127.0.0.1:0", "tls://127.0.0.1:0"] }
}

/// A worker's thread, by its number.
struct Worker(String);

impl Worker {
    /// Returns the system call that the thread blocks in.
    fn waits_in(&self) -> Option<u64> {
        let blocked = fs::read_to_string(format!("/proc/self/task/{}/syscall", self.0)).unwrap();
        // The file contains "running", or the number and its arguments.
        blocked.split(' ').next()?.parse().ok()
    }
}

/// Starts an echo server whose handlers report their threads.
fn start(url: &str) -> (Running, Receiver<Worker>) {
    let (tell, told) = unbounded();
    let handler = move |peer: &mut Peer| -> Result<(), Error> {
        let thread = fs::read_link("/proc/thread-self").unwrap();
        tell.send(Worker(thread.file_name().unwrap().to_str().unwrap().to_owned())).unwrap();
        support::echo(peer)
    };
    (Running::with(url, |builder| builder, handler), told)
}

/// Returns a peer that has exchanged messages and is quiet by now.
fn quiet_peer(running: &Running, workers: &Receiver<Worker>) -> (Peer, Worker) {
    let mut client = running.connect();
    let worker = workers.recv_timeout(DEADLINE).unwrap();
    exchange(&mut client, b"here");
    let reads = until("a read", || worker.waits_in());
    until("another kind of wait", || worker.waits_in().filter(|waits| *waits != reads));
    (client, worker)
}

#[test]
fn messages_of_a_peer_that_was_quiet_are_received() {
    for &url in with_sockets() {
        let (running, workers) = start(url);
        let (mut client, worker) = quiet_peer(&running, &workers);
        let quiet = worker.waits_in();
        for size in [1, 1200, 16_384, 1] {
            exchange(&mut client, &vec![7; size]);
        }
        assert_ne!(until("a read", || worker.waits_in()), quiet.unwrap(), "{url}");
        client.close();
        let stats = running.until("the association ends", |stats| stats.peers == 0);
        assert_eq!(stats.ended(EndKind::ClosedByPeer), 1, "{url}");
    }
}

#[test]
fn others_reach_the_thread_of_a_quiet_peer() {
    for &url in with_sockets() {
        let (running, workers) = start(url);
        let (mut closed, _) = quiet_peer(&running, &workers);
        let mut drained = running.connect();
        exchange(&mut drained, b"here");
        let until_quiet = Instant::now() + Duration::from_millis(2500);
        let senders = running.handle().peers();
        let sender = senders.iter().find(|sender| sender.peer_address() == closed.local_address()).unwrap();
        sender.close();
        let mut buffer = [0; 16];
        assert_eq!(closed.recv_timeout(&mut buffer, DEADLINE).unwrap(), None, "{url}");
        running.until("the association ends", |stats| stats.ended(EndKind::ClosedByUs) == 1);

        assert!(matches!(drained.recv_deadline(&mut buffer, until_quiet), Err(Error::TimedOut)));
        // A peer that has nothing to finish needs no grace period.
        let report = running.handle().shutdown(DEADLINE);
        assert_eq!(drained.recv_timeout(&mut buffer, DEADLINE).unwrap(), None, "{url}");
        assert_eq!(drained.end_reason(), Some(&EndReason::ClosedByPeer), "{url}");
        assert_eq!((report.finished, report.stopped), (1, 0), "{url}");
    }
}

#[test]
fn an_empty_datagram_is_not_the_end_of_a_peer() {
    let (running, workers) = start("dtls://127.0.0.1:0");
    let relay = Relay::to(running.address());
    let mut client = running.client().connect(Address::from_socket(Scheme::Dtls, relay.address())).unwrap();
    let worker = workers.recv_timeout(DEADLINE).unwrap();
    for _ in 1..=3 {
        let before = running.stats().records_dropped;
        relay.inject(b"");
        running.until("the datagram is seen", |stats| stats.records_dropped > before);
        exchange(&mut client, b"still here");
    }
    // The empty datagram does not change how the thread waits either: it still waits in reads.
    let reads = until("a read", || worker.waits_in());
    exchange(&mut client, b"and still");
    assert_eq!(until("a read", || worker.waits_in()), reads);
    assert_eq!(running.stats().peers, 1);
}

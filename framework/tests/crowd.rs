//! Many peers at the same time: whatever one of them or its handler does must not affect the others.

#[path = "support/relay.rs"]
#[allow(dead_code)]
mod relay;
mod support;

use std::env;
use std::net::UdpSocket;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender as Release, channel};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use peeloff::{Address, EndKind, EndReason, Error, Peer, Scheme, Sender, Timeouts, raise_fd_limit};
use relay::Relay;
use support::{
    COMBINATION, DEADLINE, FIRST_TIMER, Running, SLOWNESS, exchange, open_fds, quiet_panic, threads, until,
};

const BOTH: [&str; 2] = ["udp://127.0.0.1:0", "dtls://127.0.0.1:0"];

#[test]
fn no_handshake_of_two_hundred_at_once_needs_a_retransmission() {
    // If a busy machine makes a handshake last a second, a timer of either side may rightly have fired. In a
    // shorter handshake it cannot. So each round in which a handshake was slow is followed by one with half as many.
    for peers in [200_u32, 100, 50, 25, 12, 6, 3] {
        let running = Running::echo("dtls://127.0.0.1:0");
        let (client, url) = (running.client(), running.url());
        let start = Barrier::new(peers as usize);
        let slow = AtomicU64::new(0);
        thread::scope(|scope| {
            for number in 0..peers {
                let (client, start, slow) = (client.clone(), &start, &slow);
                scope.spawn(move || {
                    start.wait();
                    let began = Instant::now();
                    let mut peer = client.connect(url).unwrap();
                    if began.elapsed() >= FIRST_TIMER {
                        slow.fetch_add(1, Ordering::Relaxed);
                    }
                    exchange(&mut peer, &number.to_be_bytes());
                    peer.close();
                });
            }
        });
        // A client may repeat its hello. If the server reads the copy after the association has ended, the copy
        // opens another association, which times out. If a timer has fired, there may therefore be more
        // associations than clients.
        let peers = u64::from(peers);
        let stats = running.until("all are served", |stats| {
            stats.ended(EndKind::ClosedByPeer) == peers
                && stats.opened >= peers
                && stats.hello_verify_requests >= peers
        });
        assert_eq!((stats.handshakes, stats.hello_verify_requests_lost), (peers, 0));
        assert_eq!((stats.strays_lost, stats.children_unguarded), (0, 0));
        if slow.into_inner() == 0 {
            assert_eq!((stats.retransmissions, stats.duplicate_hellos, stats.last_flights_resent), (0, 0, 0));
            assert_eq!((stats.opened, stats.hello_verify_requests), (peers, peers));
            return;
        }
        eprintln!("a handshake of {peers} was slow");
    }
    eprintln!("SKIPPED: that no handshake is retransmitted; here each round had one of a second or more");
}

#[test]
fn a_panic_of_a_handler_ends_its_own_association_alone() {
    for url in BOTH {
        let handler = |peer: &mut Peer| -> Result<(), Error> {
            let mut buffer = [0; 64];
            while let Some(len) = peer.recv(&mut buffer)? {
                if &buffer[..len] == b"panic" {
                    quiet_panic();
                }
                peer.send(&buffer[..len])?;
            }
            Ok(())
        };
        let running = Running::with(url, |builder| builder, handler);
        let mut others: Vec<_> = (0..4).map(|_| running.connect()).collect();
        others.iter_mut().for_each(|other| exchange(other, b"before"));
        for panics in 1..=20 {
            let mut client = running.connect();
            exchange(&mut client, b"before");
            client.send(b"panic").unwrap();
            let stats = running.until("the panic", |stats| {
                (stats.ended(EndKind::HandlerPanicked), stats.peers) == (panics, 4)
            });
            assert_eq!(stats.handler_panics, panics, "{url}");
            if client.scheme() == Scheme::Dtls {
                assert_eq!(
                    client.recv_timeout(&mut [0; 64], DEADLINE).unwrap(),
                    None,
                    "a goodbye all the same"
                );
            }
            others.iter_mut().for_each(|other| exchange(other, b"between"));
        }
        let stats = running.stats();
        assert!(stats.workers >= 4, "{url}: {stats:?}");
        assert_eq!((stats.peers, stats.handler_panics, stats.handler_errors), (4, 20, 0), "{url}");
    }
}

/// A handler that echoes, and waits for the test if the message is `block`.
fn blocking() -> (impl Fn(&mut Peer) -> Result<(), Error> + Send + Sync + 'static, Release<()>) {
    let (release, gate): (_, Receiver<()>) = channel();
    let gate = Mutex::new(gate);
    let handler = move |peer: &mut Peer| -> Result<(), Error> {
        let mut buffer = [0; 64];
        while let Some(len) = peer.recv(&mut buffer)? {
            if &buffer[..len] == b"block" {
                let _ = gate.lock().unwrap().recv_timeout(2 * DEADLINE);
            }
            peer.send(&buffer[..len])?;
        }
        Ok(())
    };
    (handler, release)
}

#[test]
fn a_slow_handler_delays_no_other_peer() {
    for url in BOTH {
        let (handler, release) = blocking();
        let running = Running::with(url, |builder| builder, handler);
        let mut slow = running.connect();
        exchange(&mut slow, b"before");
        slow.send(b"block").unwrap();
        for _ in 0..100 {
            slow.send(b"later").unwrap();
        }
        let mut fast: Vec<_> = (0..20).map(|_| running.connect()).collect();
        for round in 0..50u8 {
            fast.iter_mut().for_each(|fast| exchange(fast, &[round]));
        }
        let mut buffer = [0; 64];
        let silent = slow.recv_timeout(&mut buffer, Duration::ZERO).unwrap_err();
        assert!(matches!(silent, Error::TimedOut), "{url}: {silent}");
        release.send(()).unwrap();
        assert_eq!(slow.recv_timeout(&mut buffer, DEADLINE).unwrap(), Some(5));
        for _ in 0..100 {
            assert_eq!(slow.recv_timeout(&mut buffer, DEADLINE).unwrap(), Some(5), "{url}");
            assert_eq!(&buffer[..5], b"later");
        }
    }
}

#[test]
fn a_drain_of_five_hundred_peers_says_goodbye_to_each() {
    raise_fd_limit().unwrap();
    let running = Running::echo("dtls://127.0.0.1:0");
    let mut clients: Vec<_> = (0..500).map(|_| running.connect()).collect();
    clients.iter_mut().for_each(|client| exchange(client, b"x"));
    let report = running.handle().shutdown(DEADLINE);
    assert_eq!((report.peers, report.finished, report.stopped, report.abandoned), (500, 500, 0, 0));
    assert!(report.took < DEADLINE, "{report:?}");
    for client in &mut clients {
        assert_eq!(client.recv_timeout(&mut [0; 16], DEADLINE).unwrap(), None);
        assert_eq!(client.end_reason(), Some(&EndReason::ClosedByPeer));
    }
    let stats = running.stats();
    assert_eq!((stats.peers, stats.ended(EndKind::Shutdown)), (0, 500));
}

#[test]
fn handlers_that_do_not_return_are_abandoned_and_their_peers_told() {
    let (handler, release) = blocking();
    let running = Running::with("dtls://127.0.0.1:0", |builder| builder, handler);
    // There is one channel. One handler waits for it and the other one waits for the lock, so neither returns.
    let mut stuck = [running.connect(), running.connect()];
    for client in &mut stuck {
        exchange(client, b"before");
        client.send(b"block").unwrap();
    }
    running.until("the handlers block", |stats| stats.messages_received == 4);
    let mut others: Vec<_> = (0..8).map(|_| running.connect()).collect();
    others.iter_mut().for_each(|client| exchange(client, b"x"));
    let report = running.handle().shutdown(Duration::from_millis(200));
    assert_eq!((report.peers, report.finished, report.stopped, report.abandoned), (10, 8, 2, 2));
    for client in stuck.iter_mut().chain(&mut others) {
        assert_eq!(client.recv_timeout(&mut [0; 16], DEADLINE).unwrap(), None);
    }
    drop(release);
    // Sending fails, so the handlers return in the end.
    let stats = running.until("the handlers return", |stats| stats.peers == 0);
    assert_eq!(stats.ended(EndKind::Shutdown), 10);
}

/// Runs a test of this program alone in a process of its own. Returns `true` in that process, and `false` in the
/// parent after it has ended.
fn alone(test: &str) -> bool {
    const ALONE: &str = "PEELOFF_TEST_ALONE";
    if env::var_os(ALONE).is_some() {
        return true;
    }
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{}", text.concat());
    assert!(text[0].contains("1 passed"), "{}", text.concat());
    false
}

#[test]
fn everything_is_given_back() {
    if !alone("everything_is_given_back") {
        return;
    }
    let before = (open_fds(), threads());
    for url in ["udp://127.0.0.1:0", "dtls://127.0.0.1:0", "dtls://127.0.0.5:0", "dtls://0.0.0.0:0"] {
        let mut timeouts = Timeouts::default();
        timeouts.worker_idle = Duration::from_millis(200);
        // A client sends its message in less time than it may be idle.
        let slow = (*SLOWNESS).min(3);
        timeouts.idle = Some(slow * Duration::from_secs(3));
        timeouts.handshake = slow * Duration::from_secs(2);
        let handler = |peer: &mut Peer| -> Result<(), Error> {
            let mut buffer = [0; 64];
            while let Some(len) = peer.recv(&mut buffer)? {
                peer.send(&buffer[..len])?;
                match &buffer[..len] {
                    b"panic" => quiet_panic(),
                    b"error" => return Err(Error::EmptyMessage),
                    b"return" => return Ok(()),
                    _ => {}
                }
            }
            Ok(())
        };
        let running = Running::with(url, |builder| builder.timeouts(timeouts), handler);
        let target = if running.address().ip().is_unspecified() {
            format!("{}://127.0.0.1:{}", running.url().scheme, running.url().port).parse().unwrap()
        } else {
            running.url().clone()
        };
        // The certificate has this address and not the others.
        let client = running.client().server_name("127.0.0.1");
        // The first peer makes the anchor of a wildcard listener, which stays open for a minute.
        exchange(&mut client.connect(&target).unwrap(), b"return");
        running.until("the first is gone", |stats| (stats.peers, stats.workers) == (0, 0));
        // A worker's thread ends shortly after it is no longer counted; the dispatcher's thread stays. If peers
        // share sockets, there are also loops and their monitor.
        let loops = running.stats().loop_threads as usize;
        let loops = if loops > 0 { loops + 1 } else { 0 };
        until(&format!("its thread ends, {url}"), || (threads() == before.1 + 1 + loops).then_some(()));
        let started = (open_fds(), threads());
        for message in [&b"panic"[..], b"error", b"return", b"idle", b"close"] {
            let connect = || {
                let mut client = client.connect(&target).unwrap();
                exchange(&mut client, message);
                client
            };
            let mut clients: Vec<_> = (0..20).map(|_| connect()).collect();
            if message == b"close" {
                clients.iter_mut().for_each(Peer::close);
            }
            let what = String::from_utf8_lossy(message);
            running.until(&format!("all peers have left, {url} {what}"), |stats| {
                (stats.peers, stats.half_open, stats.workers) == (0, 0, 0)
            });
        }
        if running.url().scheme == Scheme::Dtls {
            // This handshake is never finished.
            let relay = Relay::to(target.resolve().unwrap()[0]);
            relay.allow(Some(2));
            let half = client.timeout(Duration::from_secs(1));
            half.connect(Address::from_socket(Scheme::Dtls, relay.address())).unwrap_err();
            running.until("it is given up", |stats| stats.ended(EndKind::HandshakeTimedOut) == 1);
        }
        until(&format!("descriptors and threads go, {url}"), || {
            (running.stats().workers == 0 && (open_fds(), threads()) == started).then_some(())
        });
        let stats = running.stats();
        assert_eq!(
            (stats.ended(EndKind::HandlerPanicked), stats.ended(EndKind::HandlerFailed)),
            (20, 20),
            "{url}"
        );
        drop(running);
        until(&format!("the server goes, {url}"), || ((open_fds(), threads()) == before).then_some(()));
    }
}

#[test]
fn messages_of_eight_threads_to_one_peer_arrive_whole_beside_its_echo() {
    const THREADS: usize = 8;
    const EACH: u32 = 500;
    /// The largest number of messages on their way: they fit into the client's receive buffer.
    const WINDOW: u64 = 64;
    /// The same for messages to the server.
    const ECHOES: u64 = 8;
    let message = |thread: usize, number: u32| -> Vec<u8> {
        let mut message = vec![thread as u8; 10 + number as usize % 300];
        message[1..5].copy_from_slice(&number.to_be_bytes());
        message
    };
    for url in BOTH {
        let running = Running::echo(url);
        let mut client = running.connect();
        exchange(&mut client, b"hello");
        let [sender]: [Sender; 1] = running.handle().peers().try_into().unwrap();
        assert_eq!(sender.peer_address(), client.local_address());
        let (sent, arrived) = (AtomicU64::new(0), AtomicU64::new(0));
        let echoed = thread::scope(|scope| {
            for thread in 0..THREADS {
                let (sender, sent, arrived) = (sender.clone(), &sent, &arrived);
                scope.spawn(move || {
                    for number in 0..EACH {
                        let deadline = Instant::now() + DEADLINE;
                        while sent.load(Ordering::Relaxed) >= arrived.load(Ordering::Relaxed) + WINDOW {
                            assert!(Instant::now() < deadline, "nothing arrives any more");
                            thread::yield_now();
                        }
                        sent.fetch_add(1, Ordering::Relaxed);
                        while let Err(error) = sender.try_send(message(thread, number)) {
                            assert!(matches!(error.error, Error::SendBufferFull), "{error:?}");
                            assert!(Instant::now() < deadline, "the send buffer stays full");
                            thread::yield_now();
                        }
                    }
                });
            }
            let mut next = [0; THREADS];
            let (mut echoed, mut asked) = (0u64, 0);
            let mut buffer = [0; 1024];
            while arrived.load(Ordering::Relaxed) < THREADS as u64 * u64::from(EACH) || echoed < asked {
                let len = client.recv_timeout(&mut buffer, DEADLINE).unwrap().unwrap();
                if buffer[0] == b'e' {
                    assert_eq!(&buffer[..len], format!("echo {echoed}").as_bytes());
                    echoed += 1;
                    continue;
                }
                let thread = usize::from(buffer[0]);
                // The kernel and the session preserve the order of one sender's messages.
                assert_eq!(&buffer[..len], message(thread, next[thread]), "{url}");
                next[thread] += 1;
                arrived.fetch_add(1, Ordering::Relaxed);
                if asked < echoed + ECHOES {
                    client.send(format!("echo {asked}").as_bytes()).unwrap();
                    asked += 1;
                }
            }
            assert_eq!(next, [EACH; THREADS], "{url}");
            echoed
        });
        let own = THREADS as u64 * u64::from(EACH);
        // A message is counted after it has been sent, which may be after it has arrived.
        running.until("all are counted", |stats| {
            (stats.messages_sent, stats.messages_received) == (own + echoed + 1, echoed + 1)
        });
    }
}

/// Makes a record header and as many bytes.
fn record(content_type: u8, epoch: u16, sequence: u64, body: &[u8]) -> Vec<u8> {
    let mut record = vec![content_type, 254, 253];
    record.extend_from_slice(&epoch.to_be_bytes());
    record.extend_from_slice(&sequence.to_be_bytes()[2..]);
    record.extend_from_slice(&(body.len() as u16).to_be_bytes());
    record.extend_from_slice(body);
    record
}

#[test]
fn forged_datagrams_from_a_peers_address_end_no_association_and_are_not_delivered() {
    let running = Running::echo("dtls://127.0.0.1:0");
    let relay = Relay::to(running.address());
    let mut client = running.client().connect(Address::from_socket(Scheme::Dtls, relay.address())).unwrap();
    let mut messages = 0;
    let mut inject = |what: &str, datagrams: &[Vec<u8>]| {
        for datagram in datagrams {
            relay.inject(datagram);
        }
        // This message follows them in the same queue.
        exchange(&mut client, what.as_bytes());
        messages += 1;
        let stats = running.stats();
        assert_eq!((stats.messages_received, stats.peers), (messages, 1), "{what}");
    };
    inject("nothing", &[]);

    // CVE-2026-75806: datagrams of 21 bytes of every content type, and of similar lengths.
    let mut undersized = Vec::new();
    for content_type in 19..=25 {
        for len in 0..=40 {
            for sequence in [0, 1, 2, 3, 1000, (1 << 48) - 1] {
                undersized.push(record(content_type, 1, sequence, &vec![0; len]));
            }
        }
    }
    for lot in undersized.chunks(32) {
        inject("undersized", lot);
    }

    let mut alerts = Vec::new();
    for level in 0..=3 {
        for description in 0..=127 {
            alerts.push(record(21, 0, 100 + u64::from(description), &[level, description]));
        }
    }
    alerts.push([record(21, 0, 7, &[2, 40]), record(21, 0, 8, &[1, 0])].concat());
    alerts.push(record(21, 1, 9, &[2, 40]));
    for lot in alerts.chunks(32) {
        inject("alert", lot);
    }

    // Send the client's own records again, including those of the handshake: twice, and in reverse order.
    let mut old = relay.passed();
    old.truncate(100);
    assert!(old.len() > 20);
    let reversed: Vec<_> = old.iter().rev().cloned().collect();
    for lot in old.chunks(16).chain(reversed.chunks(16)) {
        inject("replayed", lot);
        inject("replayed again", lot);
    }
    for record in &mut old {
        let middle = record.len() - 1;
        record[middle] ^= 1;
    }
    for lot in old.chunks(16) {
        inject("altered", lot);
    }

    // Send random bytes, with and without a record header in front, from a generator with a fixed seed.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..40 {
        let mut lot = vec![Vec::new()];
        for number in 0..24 {
            let len = random() as usize % 1500;
            let bytes: Vec<u8> = (0..len).map(|_| random() as u8).collect();
            let epoch = (random() % 3) as u16;
            let content_type = 20 + (random() % 4) as u8;
            lot.push(if number % 2 == 0 {
                bytes
            } else {
                record(content_type, epoch, random() >> 16, &bytes)
            });
        }
        inject("junk", &lot);
    }
    let stats = running.stats();
    assert_eq!((stats.opened, stats.handshakes, stats.handler_errors), (1, 1, 0));
    assert!(stats.records_dropped > 1000, "{stats:?}");
}

#[test]
fn icmp_errors_end_no_association_before_its_idle_deadline() {
    for url in ["udp://127.0.77.7:0", "dtls://127.0.77.7:0"] {
        let idle = Duration::from_secs(2);
        let mut timeouts = Timeouts::default();
        timeouts.idle = Some(idle);
        let running = Running::echo_with(url, |builder| builder.timeouts(timeouts));
        // Dropping the relay closes the port that the server knows, without a close_notify. The port stays free,
        // because no other test uses the address.
        let relay = Relay::to(running.address());
        let at = Address::from_socket(running.url().scheme, relay.address());
        let mut client = running.client().server_name("localhost").connect(&at).unwrap();
        let heard = Instant::now();
        exchange(&mut client, b"x");
        let [sender]: [Sender; 1] = running.handle().peers().try_into().unwrap();
        let source = relay.source();
        relay.cut();
        drop(relay);
        // If peers share a socket, the kernel reports no ICMP errors.
        let told = || COMBINATION.shares() || running.stats().icmp_errors >= 3;
        while !told() {
            if sender.try_send(b"is anybody there?").is_err() {
                assert!(heard.elapsed() >= idle, "{url}: it has ended");
                break;
            }
            thread::yield_now();
        }
        // A peer that comes back from the same port is still known, unless a busy machine took too long.
        let back = UdpSocket::bind(source).unwrap();
        back.connect(running.address()).unwrap();
        back.set_read_timeout(Some(DEADLINE)).unwrap();
        match sender.try_send(b"here?") {
            Ok(()) => assert!(back.recv(&mut [0; 1500]).unwrap() > 0),
            Err(_) => assert!(heard.elapsed() >= idle, "{url}: it has ended"),
        }
        let stats = running.until("the idle deadline", |stats| stats.peers == 0);
        assert!(heard.elapsed() >= idle, "{url}");
        assert_eq!((stats.ended(EndKind::Idle), stats.ended(EndKind::Io)), (1, 0), "{url}");
    }
}

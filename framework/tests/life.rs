//! The life of an association, from the first datagram to the end.

mod support;

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use peeloff::{Client, EndKind, Error, Peer, Timeouts};
use support::{DEADLINE, Running, assert_no_retransmission, exchange};

#[test]
fn a_dtls_peer_is_served_from_hello_to_close_notify() {
    let running = Running::echo("dtls://127.0.0.1:0");
    let began = Instant::now();
    let mut client = running.connect();
    let took = began.elapsed();
    for size in [1, 64, 1200, 16_384] {
        exchange(&mut client, &vec![7; size]);
    }
    client.close();
    let stats = running.until("the association ends", |stats| stats.peers == 0);
    assert_eq!(stats.ended(EndKind::ClosedByPeer), 1);
    assert_eq!((stats.handshakes, stats.messages_received, stats.messages_sent), (1, 4, 4));
    assert_no_retransmission(&stats, took, "in one handshake");
    assert_eq!((stats.strays, stats.forwarded), (0, 0));
}

#[test]
fn a_plain_peer_is_served_by_its_first_datagram() {
    let running = Running::echo("udp://127.0.0.1:0");
    let mut client = running.connect();
    for size in [0, 1, 1200, 65_507] {
        exchange(&mut client, &vec![7; size]);
    }
    assert_eq!(running.stats().opened, 1);
}

#[test]
fn the_server_says_goodbye_when_the_handler_returns() {
    let running = Running::with(
        "dtls://127.0.0.1:0",
        |builder| builder,
        |peer: &mut Peer| -> Result<(), Error> { peer.send(b"bye") },
    );
    let mut client = running.connect();
    let mut buffer = [0; 16];
    assert_eq!(client.recv_timeout(&mut buffer, DEADLINE).unwrap(), Some(3));
    assert_eq!(client.recv_timeout(&mut buffer, DEADLINE).unwrap(), None);
    assert_eq!(client.end_reason(), Some(&peeloff::EndReason::ClosedByPeer));
    running.until("the association ends", |stats| stats.peers == 0);
}

#[test]
fn a_silent_peer_ends_at_the_idle_deadline_and_an_old_one_at_its_lifetime() {
    let mut timeouts = Timeouts::default();
    timeouts.idle = Some(Duration::from_millis(200));
    let running = Running::echo_with("udp://127.0.0.1:0", |builder| builder.timeouts(timeouts));
    let mut client = running.connect();
    exchange(&mut client, b"x");
    running.until("the idle end", |stats| stats.ended(EndKind::Idle) == 1);

    let mut timeouts = Timeouts::default();
    timeouts.lifetime = Some(Duration::from_secs(1));
    let running = Running::echo_with("dtls://127.0.0.1:0", |builder| builder.timeouts(timeouts));
    let _client = running.connect_in_time();
    running.until("the end of its life", |stats| stats.ended(EndKind::Lifetime) >= 1);
}

#[test]
fn workers_use_batch_scheduling_unless_it_is_turned_off() {
    // The scheduling policy of the calling thread: the 41st field of proc_pid_stat(5), of which the name in
    // parentheses is the second.
    let policy = || {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        stat.rsplit(')').next().unwrap().split_whitespace().nth(38).unwrap().parse::<i32>().unwrap()
    };
    let own = policy();
    let quiet = if own == libc::SCHED_OTHER { libc::SCHED_BATCH } else { own };
    for (batch, expected) in [(true, quiet), (false, own)] {
        let handler = move |peer: &mut Peer| -> Result<(), Error> {
            peer.recv(&mut [0; 64])?;
            peer.send(&policy().to_ne_bytes())
        };
        let running = Running::with("udp://127.0.0.1:0", |builder| builder.sched_batch(batch), handler);
        let mut client = running.connect();
        client.send(b"how are you run?").unwrap();
        let mut answer = [0; 4];
        assert_eq!(client.recv_timeout(&mut answer, DEADLINE).unwrap(), Some(4));
        assert_eq!(i32::from_ne_bytes(answer), expected, "{batch}");
    }
}

#[test]
fn an_oversize_message_is_an_error_and_the_association_lives() {
    let running = Running::echo("dtls://127.0.0.1:0");
    let mut client = running.connect();
    let error = client.send(&[0; 16_385]).unwrap_err();
    assert!(matches!(error, Error::MessageTooLarge { size: 16_385, limit: 16_384 }), "{error}");
    assert!(matches!(client.send(b"").unwrap_err(), Error::EmptyMessage));
    exchange(&mut client, b"still here");
}

#[test]
fn a_message_longer_than_the_buffer_is_kept_for_a_larger_one() {
    for url in ["udp://127.0.0.1:0", "dtls://127.0.0.1:0"] {
        let running = Running::echo(url);
        let mut client = running.connect();
        client.send(&[7; 1000]).unwrap();
        let mut small = [0; 10];
        let error = client.recv_timeout(&mut small, DEADLINE).unwrap_err();
        assert!(matches!(error, Error::BufferTooSmall { needed: 1000 }), "{url}: {error}");
        let mut large = [0; 1000];
        assert_eq!(client.recv(&mut large).unwrap(), Some(1000));
        assert_eq!(large, [7; 1000]);
    }
}

#[test]
fn the_first_fifty_datagrams_of_a_plain_peer_arrive_in_order() {
    // Between two processors a datagram can overtake another: the kernel has found the listener for one, and before it
    // queues it, the peer's socket is made and gets the next.
    on_one_processor();
    for listen in ["udp://127.0.0.1:0", "udp://0.0.0.0:0", "udp://[::]:0"] {
        let running = Running::echo(listen);
        let port = running.address().port();
        for client in 0..50 {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(("127.0.0.1", port)).unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            for number in 0..50 {
                socket.send(&[number]).unwrap();
                // The server makes the peer's socket meanwhile, and this thread goes on at another of its steps for
                // each client.
                if number < 4 {
                    std::thread::sleep(Duration::from_micros(client));
                }
            }
            let mut answers = Vec::new();
            let mut buffer = [0; 2];
            while answers.len() < 50
                && let Ok(length) = socket.recv(&mut buffer)
            {
                answers.extend_from_slice(&buffer[..length]);
            }
            assert_eq!(answers, (0..50).collect::<Vec<u8>>(), "{listen}");
        }
    }
}

/// Runs this thread, and those that it starts from now on, on one processor.
fn on_one_processor() {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).unwrap();
    let first = (0..CpuSet::count()).find(|&processor| allowed.is_set(processor).unwrap()).unwrap();
    let mut one = CpuSet::new();
    one.set(first).unwrap();
    sched_setaffinity(this, &one).unwrap();
}

#[test]
fn a_drain_lets_handlers_finish_and_says_goodbye() {
    let running = Running::echo("dtls://127.0.0.1:0");
    let mut clients: Vec<_> = (0..20).map(|_| running.connect()).collect();
    clients.iter_mut().for_each(|client| exchange(client, b"x"));
    let report = running.handle().shutdown(DEADLINE);
    assert_eq!((report.peers, report.finished, report.stopped, report.abandoned), (20, 20, 0, 0));
    for client in &mut clients {
        assert_eq!(client.recv_timeout(&mut [0; 16], DEADLINE).unwrap(), None);
    }
}

#[test]
fn a_drain_without_end_waits_for_every_handler() {
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let (wait, left) = (std::sync::Mutex::new(wait), std::sync::Arc::new(AtomicBool::new(false)));
    let leaves = std::sync::Arc::clone(&left);
    let running = Running::with(
        "dtls://127.0.0.1:0",
        |builder| builder,
        move |peer: &mut Peer| -> Result<(), Error> {
            // Once there is nothing more to receive, the drain has begun.
            assert_eq!(peer.recv(&mut [0; 16])?, None);
            peer.send(b"draining")?;
            wait.lock().unwrap().recv_timeout(DEADLINE).unwrap();
            leaves.store(true, Ordering::SeqCst);
            Ok(())
        },
    );
    let mut client = running.connect();
    let handle = running.handle();
    let (tell, told) = std::sync::mpsc::channel();
    let shutdown = std::thread::spawn(move || tell.send(handle.shutdown(Duration::MAX)).unwrap());
    assert_eq!(client.recv_timeout(&mut [0; 16], DEADLINE).unwrap(), Some(8));
    assert!(told.recv_timeout(Duration::from_millis(300)).is_err(), "it did not wait");
    release.send(()).unwrap();
    shutdown.join().unwrap();
    let report = told.recv().unwrap();
    assert!(left.load(Ordering::SeqCst));
    assert_eq!((report.peers, report.finished, report.stopped, report.abandoned), (1, 1, 0, 0));
}

#[test]
fn a_second_shutdown_shortens_the_grace_period_of_the_first() {
    let running = Running::with(
        "dtls://127.0.0.1:0",
        |builder| builder,
        |peer: &mut Peer| -> Result<(), Error> {
            assert_eq!(peer.recv(&mut [0; 16])?, None);
            peer.send(b"draining")?;
            // The handler would go on for ever, if the server did not end its peer.
            while peer.end_reason().is_none() {
                peer.recv(&mut [0; 16])?;
                std::thread::yield_now();
            }
            Ok(())
        },
    );
    let mut client = running.connect();
    let (handle, second) = (running.handle(), running.handle());
    let first = std::thread::spawn(move || handle.shutdown(Duration::MAX));
    assert_eq!(client.recv_timeout(&mut [0; 16], DEADLINE).unwrap(), Some(8));
    let report = second.shutdown(Duration::ZERO);
    assert_eq!((report.peers, report.finished, report.stopped, report.abandoned), (1, 0, 1, 0));
    assert_eq!(first.join().unwrap(), report);
}

#[test]
fn a_dropped_server_ends_its_peers_and_a_detached_one_does_not() {
    let Running { server, trust } = Running::echo("dtls://127.0.0.1:0");
    let address = server.addresses()[0].clone();
    let mut client = Client::builder().ca(trust).timeout(DEADLINE).connect(&address).unwrap();
    let handle = server.detach();
    exchange(&mut client, b"still here");
    handle.shutdown(Duration::ZERO);
    assert_eq!(client.recv_timeout(&mut [0; 16], DEADLINE).unwrap(), None);

    let Running { server, trust } = Running::echo("dtls://127.0.0.1:0");
    let address = server.addresses()[0].clone();
    let mut client = Client::builder().ca(trust).timeout(DEADLINE).connect(&address).unwrap();
    exchange(&mut client, b"here");
    drop(server);
    assert_eq!(client.recv_timeout(&mut [0; 16], DEADLINE).unwrap(), None);
    assert_eq!(client.end_reason(), Some(&peeloff::EndReason::ClosedByPeer));
}

#[test]
fn a_client_learns_once_that_nothing_listens_and_its_association_lives() {
    // No other test uses this address, so the port stays free.
    let socket = UdpSocket::bind("127.0.77.6:0").unwrap();
    let place = socket.local_addr().unwrap();
    drop(socket);
    let mut peer = Client::builder().connect(format!("udp://{place}")).unwrap();
    assert!(!peer.take_unreachable());
    // The kernel reports the error of one datagram once, to the next call of any kind.
    let give_up = Instant::now() + DEADLINE;
    while !peer.take_unreachable() {
        assert!(Instant::now() < give_up, "no ICMP error within {DEADLINE:?}");
        peer.send(b"anybody?").unwrap();
        let silence = peer.recv_timeout(&mut [0; 10], Duration::from_millis(20));
        assert!(matches!(silence, Err(Error::TimedOut)), "{silence:?}");
    }
    assert!(!peer.take_unreachable());
    let socket = UdpSocket::bind(place).unwrap();
    peer.send(b"anybody?").unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let (length, client) = socket.recv_from(&mut [0; 10]).unwrap();
    assert_eq!((length, client), (8, peer.local_address()));
}

//! Handshakes over paths that lose, repeat, reorder and delay datagrams.

#[path = "support/faulty.rs"]
mod faulty;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use faulty::{Fate, FaultyPath, has_change_cipher_spec};
use peeloff::{CaBundle, Client, Error, Peer, PeerHandler, Server, Timeouts};
use peeloff_certificates::{Authority, p256, rsa};
use support::{DEADLINE, exchange, until};

fn start(
    authority: &Authority,
    key: &openssl::pkey::PKey<openssl::pkey::Private>,
    handler: impl PeerHandler,
) -> Server {
    let identity = authority.issue("server", key);
    let listen = "dtls://127.0.0.1:0";
    // The server is as patient as the clients, because a flight can be lost several times in a row.
    let mut timeouts = Timeouts::default();
    timeouts.handshake = DEADLINE;
    Server::builder().listen(listen).identity(identity).timeouts(timeouts).start(handler).unwrap()
}

fn client(trust: &CaBundle) -> Client {
    Client::builder().ca(trust.clone()).timeout(DEADLINE)
}

/// Sends until an answer arrives, because the path may lose a message.
fn talk(peer: &mut Peer) {
    let mut buffer = [0; 64];
    for _ in 0..60 {
        peer.send(b"hello").unwrap();
        match peer.recv_timeout(&mut buffer, Duration::from_millis(500)) {
            Ok(Some(len)) => return assert_eq!(&buffer[..len], b"hello"),
            Err(Error::TimedOut) => {}
            other => panic!("{other:?}"),
        }
    }
    panic!("no answer");
}

#[test]
fn a_handshake_survives_each_fault_of_each_datagram() {
    let authority = Authority::new();
    let server = start(&authority, &rsa(2048), support::echo);
    let (address, trust) = (server.addresses()[0].resolve().unwrap()[0], authority.bundle());
    // The number of datagrams in a handshake.
    let passed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&passed);
    let path = FaultyPath::to(address, move |number, _, _| {
        count.store(number + 1, Ordering::Relaxed);
        Fate::Pass
    });
    drop(client(&trust).connect(path.url()).unwrap());
    let datagrams = passed.load(Ordering::Relaxed);
    assert!(datagrams >= 6, "{datagrams} datagrams are no handshake with a cookie");

    let faults = [Fate::Drop, Fate::Twice, Fate::Late, Fate::Delay(Duration::from_millis(300))];
    let cases: Vec<_> = faults.iter().flat_map(|fault| (0..datagrams).map(move |at| (*fault, at))).collect();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some(&(fault, at)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let path = FaultyPath::to(
                        address,
                        move |number, _, _| if number == at { fault } else { Fate::Pass },
                    );
                    let mut peer = client(&trust)
                        .connect(path.url())
                        .unwrap_or_else(|error| panic!("{fault:?} of datagram {at}: {error}"));
                    talk(&mut peer);
                }
            });
        }
    });
    server.handle().shutdown(Duration::ZERO);
}

#[test]
fn handshakes_survive_a_tenth_of_all_datagrams_lost_repeated_or_reordered() {
    let authority = Authority::new();
    let server = start(&authority, &p256(), support::echo);
    let (address, trust) = (server.addresses()[0].resolve().unwrap()[0], authority.bundle());
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while next.load(Ordering::Relaxed) < 40 {
                    let seed = next.fetch_add(1, Ordering::Relaxed) as u64;
                    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                    let path = FaultyPath::to(address, move |_, _, _| {
                        // This is xorshift64.
                        state ^= state << 13;
                        state ^= state >> 7;
                        state ^= state << 17;
                        match state % 100 {
                            0..10 => Fate::Drop,
                            10..20 => Fate::Twice,
                            20..30 => Fate::Late,
                            _ => Fate::Pass,
                        }
                    });
                    let mut peer = client(&trust)
                        .connect(path.url())
                        .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                    talk(&mut peer);
                }
            });
        }
    });
    server.handle().shutdown(Duration::ZERO);
}

#[test]
fn the_last_flight_recovers_even_if_the_handler_never_reads() {
    let authority = Authority::new();
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let server = start(&authority, &p256(), move |peer: &mut Peer| -> Result<(), Error> {
        let _ = wait.lock().unwrap().recv_timeout(DEADLINE);
        peer.send(b"late, but here")
    });
    let address = server.addresses()[0].resolve().unwrap()[0];
    let mut dropped = false;
    let path = FaultyPath::to(address, move |_, to_server, datagram| {
        // The server's last flight is the only one with a record of epoch 1 or a ChangeCipherSpec.
        let last = !to_server && has_change_cipher_spec(datagram);
        if last && !std::mem::replace(&mut dropped, true) { Fate::Drop } else { Fate::Pass }
    });
    let mut peer = client(&authority.bundle()).connect(path.url()).unwrap();
    until("the dispatcher resends", || (server.handle().stats().last_flights_resent >= 1).then_some(()));
    release.send(()).unwrap();
    let mut buffer = [0; 64];
    assert_eq!(peer.recv_timeout(&mut buffer, DEADLINE).unwrap(), Some(14));
    server.handle().shutdown(Duration::ZERO);
}

#[test]
fn the_last_flight_is_sent_again_by_a_thread_that_gave_its_memory_back() {
    let authority = Authority::new();
    let server = start(&authority, &p256(), support::echo);
    let address = server.addresses()[0].resolve().unwrap()[0];
    let mut first = None;
    let path = FaultyPath::to(address, move |_, to_server, datagram| {
        // A peer that has sent nothing for two seconds counts as quiet; the client retransmits after one second
        // and after three.
        let lost = |first: Instant| first.elapsed() < Duration::from_millis(2500);
        let last = !to_server && has_change_cipher_spec(datagram);
        if last && lost(*first.get_or_insert_with(Instant::now)) { Fate::Drop } else { Fate::Pass }
    });
    let mut peer = client(&authority.bundle()).connect(path.url()).unwrap();
    talk(&mut peer);
    server.handle().shutdown(Duration::ZERO);
}

#[test]
fn a_path_that_drops_large_datagrams_gets_smaller_ones() {
    let authority = Authority::new();
    let server = start(&authority, &rsa(4096), support::echo);
    let address = server.addresses()[0].resolve().unwrap()[0];
    for limit in [1250, 700] {
        let largest = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&largest);
        let path = FaultyPath::to(address, move |_, to_server, datagram| {
            if !to_server {
                seen.fetch_max(datagram.len(), Ordering::Relaxed);
            }
            if datagram.len() > limit { Fate::Drop } else { Fate::Pass }
        });
        let mut peer = client(&authority.bundle()).connect(path.url()).unwrap();
        exchange(&mut peer, b"hello");
        assert!(largest.load(Ordering::Relaxed) > limit, "nothing was too large for the path");
    }
    server.handle().shutdown(Duration::ZERO);
}

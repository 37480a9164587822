//! Handshakes over paths that lose, repeat, reorder and delay.

#[path = "support/credentials.rs"]
mod credentials;
mod support;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use credentials::{Authority, p256, rsa};
use peeloff::{Address, CaBundle, Client, Error, Peer, PeerHandler, Scheme, Server, Timeouts};
use support::{DEADLINE, exchange, until};

/// What happens to a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Pass,
    Drop,
    Twice,
    /// After the next one of its direction, or after a while if none comes.
    Late,
    /// After so long.
    Delay(Duration),
}

/// How long a datagram to be overtaken waits for the other one.
const OVERTAKING: Duration = Duration::from_millis(100);

/// Stands between one client and the server; `decide` is told the number of the datagram, counted
/// from 0 over both directions, whether it goes to the server, and the datagram.
struct FaultyPath {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FaultyPath {
    fn to(server: SocketAddr, decide: impl FnMut(usize, bool, &[u8]) -> Fate + Send + 'static) -> Self {
        let front = UdpSocket::bind("127.0.0.1:0").unwrap();
        let back = UdpSocket::bind("127.0.0.1:0").unwrap();
        back.connect(server).unwrap();
        let address = front.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || carry(&front, &back, &stopped, decide));
        Self { address, stop, thread: Some(thread) }
    }

    fn url(&self) -> Address {
        Address::from_socket(Scheme::Dtls, self.address)
    }
}

impl Drop for FaultyPath {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn carry(
    front: &UdpSocket,
    back: &UdpSocket,
    stop: &AtomicBool,
    mut decide: impl FnMut(usize, bool, &[u8]) -> Fate,
) {
    front.set_nonblocking(true).unwrap();
    back.set_nonblocking(true).unwrap();
    let mut client = None;
    let mut number = 0;
    let mut held: Vec<(Instant, bool, bool, Vec<u8>)> = Vec::new();
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        let mut idle = true;
        let up = front.recv_from(&mut buffer).ok().map(|(len, from)| {
            client = Some(from);
            (true, len)
        });
        let down = if up.is_none() { back.recv(&mut buffer).ok().map(|len| (false, len)) } else { None };
        let send = |to_server: bool, datagram: &[u8]| {
            if to_server {
                let _ = back.send(datagram);
            } else if let Some(client) = client {
                let _ = front.send_to(datagram, client);
            }
        };
        if let Some((to_server, len)) = up.or(down) {
            idle = false;
            let datagram = &buffer[..len];
            let now = Instant::now();
            match decide(number, to_server, datagram) {
                Fate::Drop => {}
                Fate::Late => held.push((now + OVERTAKING, true, to_server, datagram.to_vec())),
                Fate::Delay(time) => held.push((now + time, false, to_server, datagram.to_vec())),
                fate => {
                    send(to_server, datagram);
                    if fate == Fate::Twice {
                        send(to_server, datagram);
                    }
                    for (at, overtaken, direction, _) in &mut held {
                        if *overtaken && *direction == to_server {
                            *at = now;
                        }
                    }
                }
            }
            number += 1;
        }
        let now = Instant::now();
        held.retain(|(at, _, to_server, datagram)| {
            if *at <= now {
                send(*to_server, datagram);
            }
            *at > now
        });
        if idle {
            thread::park_timeout(Duration::from_millis(1));
        }
    }
}

fn start(
    authority: &Authority,
    key: &openssl::pkey::PKey<openssl::pkey::Private>,
    handler: impl PeerHandler,
) -> Server {
    let identity = authority.issue("server", key);
    let listen = "dtls://127.0.0.1:0".parse().unwrap();
    // As patient as the clients: a flight can be lost several times in a row.
    let mut timeouts = Timeouts::default();
    timeouts.handshake = DEADLINE;
    Server::builder().listen(listen).identity(identity).timeouts(timeouts).start(handler).unwrap()
}

fn client(trust: &CaBundle) -> Client {
    Client::builder().ca(trust.clone()).timeout(DEADLINE)
}

/// Sends until an answer comes: a message may be what the path has lost.
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
    // How many datagrams a handshake has.
    let passed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&passed);
    let path = FaultyPath::to(address, move |number, _, _| {
        count.store(number + 1, Ordering::Relaxed);
        Fate::Pass
    });
    drop(client(&trust).connect(&path.url()).unwrap());
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
                        .connect(&path.url())
                        .unwrap_or_else(|error| panic!("{fault:?} of datagram {at}: {error}"));
                    talk(&mut peer);
                }
            });
        }
    });
    server.handle().shutdown(Duration::ZERO);
}

/// Has a client resume its session over a path with a fault, and counts the datagrams of that.
fn resume_with(address: SocketAddr, trust: &CaBundle, fault: Fate, at: usize) -> usize {
    let begun = Arc::new(AtomicBool::new(false));
    let passed = Arc::new(AtomicUsize::new(0));
    let (counting, count) = (Arc::clone(&begun), Arc::clone(&passed));
    let path = FaultyPath::to(address, move |_, _, _| {
        if !counting.load(Ordering::Acquire) {
            return Fate::Pass;
        }
        let number = count.fetch_add(1, Ordering::Relaxed);
        if number == at { fault } else { Fate::Pass }
    });
    let client = client(trust);
    let mut first = client.connect(&path.url()).unwrap();
    talk(&mut first);
    assert!(!first.is_resumed());
    first.close();
    begun.store(true, Ordering::Release);
    let mut peer = client
        .connect(&path.url())
        .unwrap_or_else(|error| panic!("{fault:?} of datagram {at} of a resumption: {error}"));
    assert!(peer.is_resumed(), "{fault:?} of datagram {at}");
    let datagrams = passed.load(Ordering::Relaxed);
    talk(&mut peer);
    datagrams
}

#[test]
fn a_resumption_survives_each_fault_of_each_datagram() {
    let authority = Authority::new();
    let server = start(&authority, &p256(), support::echo);
    let (address, trust) = (server.addresses()[0].resolve().unwrap()[0], authority.bundle());
    let datagrams = resume_with(address, &trust, Fate::Pass, 0);
    assert!((4..=7).contains(&datagrams), "{datagrams} datagrams are no resumption");
    let faults = [Fate::Drop, Fate::Twice, Fate::Late, Fate::Delay(Duration::from_millis(300))];
    // One more: what the client says last, it says when its handshake is over.
    let cases: Vec<_> = faults.iter().flat_map(|fault| (0..=datagrams).map(move |at| (*fault, at))).collect();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some(&(fault, at)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    resume_with(address, &trust, fault, at);
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
                        // xorshift64
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
                        .connect(&path.url())
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
        // The server's last flight is its only one with a record of epoch 1 or a ChangeCipherSpec.
        let last = !to_server && is_last_flight(datagram);
        if last && !std::mem::replace(&mut dropped, true) { Fate::Drop } else { Fate::Pass }
    });
    let mut peer = client(&authority.bundle()).connect(&path.url()).unwrap();
    until("the dispatcher resends", || (server.handle().stats().last_flights_resent >= 1).then_some(()));
    release.send(()).unwrap();
    let mut buffer = [0; 64];
    assert_eq!(peer.recv_timeout(&mut buffer, DEADLINE).unwrap(), Some(14));
    server.handle().shutdown(Duration::ZERO);
}

/// Whether one of the records in the datagram is a ChangeCipherSpec.
fn is_last_flight(mut datagram: &[u8]) -> bool {
    while datagram.len() >= 13 {
        if datagram[0] == 20 {
            return true;
        }
        let len = usize::from(u16::from_be_bytes([datagram[11], datagram[12]]));
        datagram = datagram.get(13 + len..).unwrap_or_default();
    }
    false
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
        let mut peer = client(&authority.bundle()).connect(&path.url()).unwrap();
        exchange(&mut peer, b"hello");
        assert!(largest.load(Ordering::Relaxed) > limit, "nothing was too large for the path");
    }
    server.handle().shutdown(Duration::ZERO);
}

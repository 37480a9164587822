//! Models a whole server on plain UDP under shuttle: peers are handed to workers that are idle, that are about to end,
//! or that have to be started, and a shutdown comes at any time.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use crate::sys::sync::atomic::{AtomicU64, Ordering};
use crate::sys::sync::model::{choose, explore, poll};
use crate::sys::sync::thread;
use crate::{Error, Handle, Peer, Server, Stats, Timeouts};

const PEERS: u64 = 3;

/// Short enough to expire at any moment.
const SHORT: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(3600);

struct World {
    handle: Handle,
    to: std::net::SocketAddr,
    /// The number of handlers that were called.
    served: Arc<AtomicU64>,
}

/// Starts a server whose handlers return after their peer's first message, or when the server drains.
fn world() -> World {
    let served = Arc::new(AtomicU64::new(0));
    let called = Arc::clone(&served);
    let handler = move |peer: &mut Peer| -> Result<(), Error> {
        called.fetch_add(1, Ordering::Relaxed);
        peer.recv(&mut [0; 16]).map(drop)
    };
    let timeouts = Timeouts { worker_idle: SHORT, ..Timeouts::default() };
    let builder = Server::builder().listen("udp://127.0.0.1:0").timeouts(timeouts);
    let server = builder.start(handler).unwrap();
    let to = server.addresses()[0].resolve().unwrap()[0];
    World { handle: server.detach(), to, served }
}

/// Starts peers that send their first message one after the other, after random delays, and keep their ports.
fn visitors(to: std::net::SocketAddr) -> thread::JoinHandle<Vec<UdpSocket>> {
    thread::spawn(move || {
        let come = |_| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.send_to(b"hello", to).unwrap();
            for _ in 0..choose(400) {
                thread::yield_now();
            }
            socket
        };
        (0..PEERS).map(come).collect()
    })
}

fn ended(stats: &Stats) -> u64 {
    stats.ended_total()
}

/// Asserts that no peer is left, and that every admitted peer was served and counted.
fn assert_over(World { handle, served, .. }: &World) -> Stats {
    let stats = handle.stats();
    assert_eq!((stats.peers, stats.half_open, stats.listeners), (0, 0, 0));
    assert_eq!((stats.opened, ended(&stats)), (served.load(Ordering::Relaxed), stats.opened));
    assert_eq!(stats.out_of_threads, 0);
    // Idle workers end too.
    poll(|| (handle.stats().workers == 0).then_some(()));
    handle.stats()
}

#[test]
fn every_peer_is_served_although_idle_workers_end() {
    explore(600, || {
        let world = world();
        let visitors = visitors(world.to);
        // This would not end if a peer were given to a worker that had just ended.
        poll(|| (ended(&world.handle.stats()) == PEERS).then_some(()));
        visitors.join().unwrap();
        let report = world.handle.shutdown(LONG);
        assert_eq!((report.stopped, report.abandoned), (0, 0));
        assert_eq!(assert_over(&world).opened, PEERS);
    });
}

#[test]
fn a_shutdown_at_any_time_ends_every_peer() {
    explore(800, || {
        let world = world();
        let visitors = visitors(world.to);
        for _ in 0..choose(800) {
            thread::yield_now();
        }
        let report = world.handle.shutdown(if choose(2) == 0 { SHORT } else { LONG });
        assert_eq!(report.abandoned, 0);
        let stats = assert_over(&world);
        assert!(stats.opened <= PEERS);
        visitors.join().unwrap();
        // No peer is admitted after the shutdown.
        assert_eq!(world.handle.stats(), stats);
        assert_eq!(world.handle.shutdown(LONG), report);
    });
}

//! Models a server with one loop on plain UDP under shuttle: callbacks hold the loop up, a spare thread continues it,
//! peers whose callbacks blocked are given back, and a shutdown comes at any time.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use crate::sys::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sys::sync::model::{choose, explore, poll};
use crate::sys::sync::thread;
use crate::{EndReason, Handle, HandlerError, Message, PeerEvents, Sender, Server, Timeouts};

/// The number of messages of each peer. The first message of one of the peers holds the loop up.
const MESSAGES: u8 = 3;
const SHORT: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(3600);

/// The first byte of a message whose callback returns only after all messages of the other peers have arrived.
const WAITS: u8 = b'w';
const GOES: u8 = b'g';

#[derive(Default)]
struct World {
    /// The number of messages of the peers that do not wait.
    heard: AtomicU64,
    /// Whether callbacks that wait may return.
    released: AtomicBool,
    opened: AtomicU64,
    closed: AtomicU64,
}

struct Callbacks(Arc<World>);

/// The state of a peer: the number of its next message, and whether one of its callbacks runs.
#[derive(Default)]
struct State {
    next: u8,
    busy: Arc<AtomicBool>,
}

impl PeerEvents for Callbacks {
    type State = State;

    fn open(&self, _: &Sender) -> Result<State, HandlerError> {
        self.0.opened.fetch_add(1, Ordering::SeqCst);
        Ok(State::default())
    }

    fn message(&self, state: &mut State, _: &Sender, message: Message<'_>) -> Result<(), HandlerError> {
        assert!(!state.busy.swap(true, Ordering::SeqCst), "two callbacks of one peer at a time");
        assert_eq!(message[1], state.next, "in the order in which the peer said them");
        state.next += 1;
        match message[0] {
            WAITS => poll(|| self.0.released.load(Ordering::SeqCst).then_some(())),
            _ => drop(self.0.heard.fetch_add(1, Ordering::SeqCst)),
        }
        assert!(state.busy.swap(false, Ordering::SeqCst));
        Ok(())
    }

    fn close(&self, state: State, _: &Sender, _: EndReason) {
        assert!(!state.busy.load(Ordering::SeqCst), "it is called when no other callback runs");
        self.0.closed.fetch_add(1, Ordering::SeqCst);
    }
}

fn start(world: &Arc<World>, spares: usize) -> (Handle, SocketAddr) {
    let timeouts = Timeouts { worker_idle: SHORT, ..Timeouts::default() };
    let builder =
        Server::builder().listen("udp://127.0.0.1:0").timeouts(timeouts).event_loops(1).spare_threads(spares);
    let server = builder.start_events(Callbacks(Arc::clone(world))).unwrap();
    let to = server.addresses()[0].resolve().unwrap()[0];
    (server.detach(), to)
}

/// Sends all messages of one peer, one after the other.
fn talk(to: SocketAddr, first: u8) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for number in 0..MESSAGES {
        socket.send_to(&[if number == 0 { first } else { GOES }, number], to).unwrap();
        for _ in 0..choose(100) {
            thread::yield_now();
        }
    }
    socket
}

#[test]
fn a_spare_thread_goes_on_with_a_loop_that_a_callback_holds_up() {
    explore(300, || {
        let world = Arc::new(World::default());
        let (handle, to) = start(&world, 2);
        let slow = thread::spawn(move || talk(to, WAITS));
        let others: Vec<_> = (0..2).map(|_| thread::spawn(move || talk(to, GOES))).collect();
        // The callback that waits returns only after this, so without a spare thread this would never end.
        poll(|| (world.heard.load(Ordering::SeqCst) == 2 * u64::from(MESSAGES)).then_some(()));
        world.released.store(true, Ordering::SeqCst);
        // The messages that its peer sent meanwhile are delivered too, after the peer is given back.
        poll(|| (world.heard.load(Ordering::SeqCst) == 3 * u64::from(MESSAGES) - 1).then_some(()));
        let peers: Vec<_> = others.into_iter().chain([slow]).map(|thread| thread.join().unwrap()).collect();
        let report = handle.shutdown(LONG);
        assert_eq!((report.stopped, report.abandoned), (0, 0));
        assert_eq!((world.opened.load(Ordering::SeqCst), world.closed.load(Ordering::SeqCst)), (3, 3));
        drop(peers);
    });
}

#[test]
fn a_shutdown_waits_for_a_peer_that_another_thread_has() {
    explore(300, || {
        let world = Arc::new(World::default());
        let (handle, to) = start(&world, choose(3) as usize);
        let peers: Vec<_> = [WAITS, GOES].map(|first| thread::spawn(move || talk(to, first))).into();
        let releases = thread::spawn({
            let world = Arc::clone(&world);
            move || {
                for _ in 0..choose(400) {
                    thread::yield_now();
                }
                world.released.store(true, Ordering::SeqCst);
            }
        });
        for _ in 0..choose(400) {
            thread::yield_now();
        }
        let report = handle.shutdown(LONG);
        assert_eq!((report.stopped, report.abandoned), (0, 0));
        let stats = handle.stats();
        assert_eq!((stats.peers, stats.listeners), (0, 0));
        assert_eq!(world.opened.load(Ordering::SeqCst), world.closed.load(Ordering::SeqCst));
        assert_eq!(stats.ended_total(), stats.opened);
        for thread in peers {
            thread.join().unwrap();
        }
        releases.join().unwrap();
    });
}

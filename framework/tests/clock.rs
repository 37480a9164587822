//! Wall clocks that jump, which must not affect any timer here (OpenSSL's own timers are affected).
//!
//! The tests run in a process whose wall clock comes from libfaketime; its monotonic clock is the real one.

mod support;
#[path = "support/wall_clock.rs"]
mod wall_clock;

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use peeloff::{Address, Scheme};
use support::{DEADLINE, Running, exchange, until};

/// Set in the process with the faked clock: the file that contains the clock's offset.
const CLOCK: &str = "PEELOFF_TEST_CLOCK";
/// The offset of the message type in a handshake record.
const MESSAGE_TYPE_AT: usize = 13;
const SERVER_HELLO: u8 = 2;
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn the_wall_clock_may_jump_during_a_handshake_and_after_it() {
    let clock = env::temp_dir().join(format!("peeloff-clock-{}", std::process::id()));
    wall_clock::set(&clock, "+0");
    let began = Instant::now();
    let outcome = Command::new(env::current_exe().unwrap())
        .args(["--exact", "under_a_clock_that_jumps", "--ignored", "--nocapture"])
        .env(CLOCK, &clock)
        .envs(wall_clock::environment(&clock))
        .output()
        .unwrap();
    let _ = fs::remove_file(&clock);
    let (out, err) = (String::from_utf8_lossy(&outcome.stdout), String::from_utf8_lossy(&outcome.stderr));
    assert!(outcome.status.success() && out.contains("1 passed"), "{out}\n{err}");
    assert!(began.elapsed() < DEADLINE);
}

/// Makes the wall clock jump, and checks that it does so and that the monotonic clock does not.
fn jump(clock: &OsStr, offset: &str) {
    let (wall, monotonic) = (SystemTime::now(), Instant::now());
    wall_clock::set(Path::new(clock), offset);
    let jumped = match SystemTime::now().duration_since(wall) {
        Ok(forward) => forward,
        Err(backward) => backward.duration(),
    };
    assert!(jumped > HOUR / 2, "the wall clock has not jumped: {jumped:?}");
    assert!(monotonic.elapsed() < HOUR / 2, "the monotonic clock has jumped");
}

#[test]
#[ignore = "run by the_wall_clock_may_jump_during_a_handshake_and_after_it"]
fn under_a_clock_that_jumps() {
    let Some(clock) = env::var_os(CLOCK) else { return };
    for offset in ["-1h", "+1h"] {
        wall_clock::set(Path::new(&clock), "+0");
        let running = Running::echo("dtls://127.0.0.1:0");
        let mut old = running.connect();
        exchange(&mut old, b"before");

        let relay = Forgetful::to(running.address());
        let url = Address::from_socket(Scheme::Dtls, relay.address());
        let mut new = thread::scope(|scope| {
            let connecting = scope.spawn(|| running.client().connect(&url).unwrap());
            until("the server's flight is lost", || relay.has_lost().then_some(()));
            jump(&clock, offset);
            // A timer that the jump stopped would fire after the client's deadline.
            connecting.join().unwrap()
        });
        exchange(&mut new, b"after");
        exchange(&mut old, b"after");
        let stats = running.stats();
        assert!(stats.retransmissions >= 1, "{offset}: nothing was lost");
        assert_eq!((stats.peers, stats.handshakes, stats.half_open), (2, 2, 0), "{offset}");
        assert_eq!(stats.ended_total(), 0, "{offset}");

        // Jump back, between an open association and a new one.
        jump(&clock, "+0");
        exchange(&mut old, b"back");
        exchange(&mut new, b"back");
        exchange(&mut running.connect(), b"later");
    }
}

/// A relay for one client that drops the first datagram of the server's flight.
struct Forgetful {
    socket: UdpSocket,
    shared: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    stop: AtomicBool,
    has_lost: AtomicBool,
}

impl Forgetful {
    fn to(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let shared = Arc::<State>::default();
        let (own, state) = (socket.try_clone().unwrap(), Arc::clone(&shared));
        let thread = thread::spawn(move || state.relay(&own, server));
        Self { socket, shared, thread: Some(thread) }
    }

    fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    fn has_lost(&self) -> bool {
        self.shared.has_lost.load(Ordering::Acquire)
    }
}

impl State {
    fn relay(&self, socket: &UdpSocket, server: SocketAddr) {
        let mut buffer = [0; 65_536];
        let mut client = None;
        while !self.stop.load(Ordering::Relaxed) {
            let Ok((len, source)) = socket.recv_from(&mut buffer) else { continue };
            let datagram = &buffer[..len];
            if source != server {
                client = Some(source);
                let _ = socket.send_to(datagram, server);
            } else if datagram.get(MESSAGE_TYPE_AT) == Some(&SERVER_HELLO)
                && !self.has_lost.swap(true, Ordering::AcqRel)
            {
                // The datagram is dropped.
            } else if let Some(client) = client {
                let _ = socket.send_to(datagram, client);
            }
        }
    }
}

impl Drop for Forgetful {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

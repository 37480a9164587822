//! A server whose process runs out of descriptors or threads: it refuses peers or makes them wait, serves those
//! that it has, and continues when resources are available again.

#[path = "support/child.rs"]
#[allow(dead_code)]
mod child;
mod support;

use std::fs::File;
use std::net::UdpSocket;
use std::process::Command;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use child::Child;
use peeloff::{Peer, Scheme, Timeouts};
use support::{DEADLINE, Running, exchange, until};

const URLS: [&str; 3] = ["dtls://127.0.0.1:0", "tcp://127.0.0.1:0", "tls://127.0.0.1:0"];

/// The limit on the descriptors of the server's process.
const DESCRIPTORS: u32 = 160;
/// How soon a new peer must be served once a resource is available: the goal is a second, and the rest is for
/// busy machines.
const SOON: Duration = Duration::from_secs(5);
/// How long to try a client that may be refused.
const TRY: Duration = Duration::from_millis(900);

/// The stack of a worker thread, which is so large that only a few fit.
const STACK: usize = 64 << 20;
/// The number of stacks that fit. A thread needs some memory besides its stack, and there is room for that.
const STACKS: u64 = 6;
const ROOM: u64 = 32 << 20;
/// The number of peers that may wait for a thread, as in the dispatcher.
const MAX_WAITING: u64 = 256;

/// The tests of this program start processes with many peers, so they run one after the other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The variable with the URL of the server without descriptors.
const URL: &str = "PEELOFF_TEST_URL";

/// Starts a server in a process with few descriptors.
fn start_without_descriptors(url: &str) -> Child {
    Child::start_with("the_server_without_descriptors", |command| {
        command.env(URL, url);
        limited(command, "-n", DESCRIPTORS);
    })
}

#[test]
fn without_descriptors_new_peers_are_refused_until_some_are_free() {
    let _alone = alone();
    for url in URLS {
        let mut child = start_without_descriptors(url);
        let mut peers = fill(&mut child, Vec::new());
        let full = child.stats();
        assert!(peers.len() > 50, "{url}: {} peers", peers.len());
        assert_eq!(full.get("peers"), peers.len() as u64, "{url}");
        assert_eq!(full.get("out_of_descriptors"), full.get("refused_no_file_descriptor"), "{url}");
        assert_eq!((full.get("half_open"), full.get("out_of_memory")), (0, 0), "{url}");
        // The reserved descriptors are enough to accept and refuse connections.
        assert_eq!(full.get("accept_pauses"), 0, "{url}");
        let left = u64::from(DESCRIPTORS) - child.usage().get("fds");
        assert!((50..=64).contains(&left), "{url}: {left} descriptors are left for the program");
        peers.iter_mut().for_each(|peer| exchange(peer, b"while it is full"));

        // A client whose hello was refused retransmits, and is served when there is room. A refused connection is
        // reset.
        let client = child.client();
        let address = child.url().clone();
        let asks_again = address.scheme == Scheme::Dtls;
        let waiting = asks_again.then(|| std::thread::spawn(move || client.connect(&address).unwrap()));
        if !asks_again {
            assert!(try_connect(&child).is_none(), "{url}");
        }
        child.until("it is refused", |stats| {
            stats.get("refused_no_file_descriptor") > full.get("refused_no_file_descriptor")
        });
        let there = peers.len() as u64;
        for mut gone in peers.drain(..10) {
            gone.close();
        }
        child.until("there is room", |stats| stats.get("peers") <= there - 9);
        let began = Instant::now();
        peers.push(child.connect());
        assert!(began.elapsed() < SOON, "{url}: served after {:?}", began.elapsed());
        if let Some(waiting) = waiting {
            peers.push(waiting.join().unwrap());
        }
        peers.iter_mut().for_each(|peer| exchange(peer, b"still here"));
        let stats = child.stats();
        assert_eq!(
            (stats.get("peers"), stats.get("ended_closed_by_peer")),
            (peers.len() as u64, 10),
            "{url}"
        );
        let failures = ["handler_errors", "handler_panics", "ended_io"].map(|name| stats.get(name));
        assert_eq!(failures, [0; 3], "{url}");
    }
}

#[test]
fn a_program_that_takes_all_descriptors_harms_no_peer() {
    let _alone = alone();
    for url in URLS {
        let mut child = start_without_descriptors(url);
        let mut peers: Vec<_> = (0..5).map(|_| child.connect()).collect();
        let began = Instant::now();
        for round in 1..=3 {
            child.ask("exhaust");
            peers = fill(&mut child, peers);
            let there = peers.len() as u64;
            let full = child.until("no other peer is left", |stats| stats.get("peers") == there);
            assert_eq!(full.get("half_open"), 0, "{url}");
            assert!(there >= 4 + round, "{url}");
            // No descriptor was left for the dispatcher, nor for a worker that is woken.
            peers.iter_mut().for_each(|peer| exchange(peer, b"with no descriptor left"));
            child.ask("release");
            let began = Instant::now();
            peers.push(child.connect());
            assert!(began.elapsed() < SOON, "{url}: served after {:?}", began.elapsed());
        }
        peers.iter_mut().for_each(|peer| exchange(peer, b"after"));
        let seconds = began.elapsed().as_secs();
        let there = peers.len();
        peers.iter_mut().for_each(Peer::close);
        let stats = child.until("all end", |stats| stats.get("peers") == 0);
        // A connection whose client gave up while it waited to be accepted counts as a peer that leaves at once.
        let gave_up = stats.get("opened") - there as u64;
        let left_at_once = stats.get("ended_closed_by_peer") - there as u64;
        match child.url().scheme {
            Scheme::Tcp => assert!(left_at_once == gave_up, "{stats:?}"),
            _ => assert!(left_at_once == 0, "{stats:?}"),
        }
        // The pauses grow: 5, 10, 20 ms and so on make eight in the first second, and one in each second after
        // that.
        let pauses = stats.get("accept_pauses");
        match child.url().scheme {
            Scheme::Dtls => assert_eq!(pauses, 0),
            _ => assert!((3..=3 * 9 + seconds).contains(&pauses), "{url}: {pauses} pauses in {seconds} s"),
        }
    }
}

#[test]
fn a_connection_that_found_no_descriptor_waits_and_is_served() {
    let _alone = alone();
    for url in ["tcp://127.0.0.1:0", "tls://127.0.0.1:0"] {
        let mut child = start_without_descriptors(url);
        let mut live = child.connect();
        child.ask("exhaust");
        let client = child.client();
        let address = child.url().clone();
        let waiting = std::thread::spawn(move || {
            let mut peer = client.connect(&address).unwrap();
            exchange(&mut peer, b"at last");
        });
        child.until("accepting pauses", |stats| stats.get("accept_pauses") >= 3);
        exchange(&mut live, b"meanwhile");
        assert_eq!(child.stats().get("connections"), 1, "{url}");
        child.ask("release");
        let began = Instant::now();
        waiting.join().unwrap();
        assert!(began.elapsed() < SOON, "{url}: served after {:?}", began.elapsed());
        exchange(&mut live, b"after");
    }
}

/// Connects clients until one is refused because no descriptor is left. One peer is kept busy meanwhile.
fn fill(child: &mut Child, mut peers: Vec<Peer>) -> Vec<Peer> {
    let refused = |child: &mut Child| child.stats().get("refused_no_file_descriptor");
    let before = refused(child);
    until("a peer is refused", || {
        let opened = child.stats().get("opened");
        match try_connect(child) {
            Some(peer) => peers.push(peer),
            None if child.stats().get("opened") > opened => {
                // This machine is so slow that the client gave up a handshake that had begun.
                let there = peers.len() as u64;
                child.until("the handshake ends", |stats| stats.get("peers") == there);
            }
            None => {}
        }
        exchange(&mut peers[0], b"meanwhile");
        (refused(child) > before).then_some(())
    });
    peers
}

/// Connects a client. Returns none if it is refused or not served in time.
fn try_connect(child: &Child) -> Option<Peer> {
    let mut peer = child.client().timeout(TRY).connect(child.url()).ok()?;
    peer.send(b"here").ok()?;
    let mut buffer = [0; 8];
    let answer = peer.recv_timeout(&mut buffer, TRY).ok()??;
    assert_eq!(&buffer[..answer], b"here");
    Some(peer)
}

/// Runs the command under a limit of the shell's `ulimit`.
fn limited(command: &mut Command, option: &str, limit: u32) {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit {option} {limit} && exec \"$0\" \"$@\"")]);
    shell.arg(command.get_program()).args(command.get_args());
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    *command = shell;
}

#[test]
#[ignore = "run by the tests without descriptors, in a process of its own"]
fn the_server_without_descriptors() {
    if !child::is_child() {
        return;
    }
    let mut taken = Vec::new();
    let url = std::env::var(URL).expect("it is told where to listen");
    child::serve(&Running::echo(&url), |command| match command {
        "exhaust" => loop {
            match File::open("/dev/null") {
                Ok(file) => taken.push(file),
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
                    return "exhausted".to_owned();
                }
            }
        },
        "release" => {
            taken.clear();
            "released".to_owned()
        }
        command => panic!("what is {command}?"),
    });
}

/// A plain UDP peer, which sends a datagram and then waits.
struct Plain(UdpSocket);

impl Plain {
    fn knock(child: &Child, message: &[u8]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(child.address()).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.send(message).unwrap();
        Self(socket)
    }

    fn assert_echo(&self, message: &[u8]) {
        let mut buffer = [0; 100];
        let len = self.0.recv(&mut buffer).expect("it is served");
        assert_eq!(&buffer[..len], message);
    }

    fn exchange(&self, message: &[u8]) {
        self.0.send(message).unwrap();
        self.assert_echo(message);
    }

    fn leave(&self) {
        self.exchange(BYE);
    }
}

/// The message that ends the handler.
const BYE: &[u8] = b"bye";

#[test]
fn without_threads_new_peers_wait_until_some_are_free() {
    let _alone = alone();
    let mut child = start_without_threads();
    let mut served = fill_threads(&mut child);
    let first_waiting = served.pop().unwrap();
    let threads = served.len() as u64;
    assert!((2..=STACKS).contains(&threads), "{threads} threads fit");

    // These are as many as may wait, including the one that waits already.
    let waiting: Vec<_> = (1..MAX_WAITING).map(|_| Plain::knock(&child, b"first")).collect();
    child.until("all wait", |stats| stats.get("out_of_threads") == MAX_WAITING);
    served.iter().for_each(|peer| peer.exchange(b"meanwhile"));
    let stats = child.stats();
    assert_eq!((stats.get("opened"), stats.get("peers")), (threads, threads + MAX_WAITING));
    assert_eq!(stats.get("refused_no_thread"), 0);

    // One more is too many, and gets no answer.
    let refused = Plain::knock(&child, b"first");
    let stats = child.until("one is refused", |stats| stats.get("refused_no_thread") == 1);
    assert_eq!((stats.get("ended_no_thread"), stats.get("peers")), (1, threads + MAX_WAITING));

    // Peers that leave make room for those that wait.
    let stays = served.pop().unwrap();
    let leaver = served.pop().unwrap();
    let began = Instant::now();
    leaver.leave();
    first_waiting.assert_echo(b"first");
    assert!(began.elapsed() < SOON, "served after {:?}", began.elapsed());
    served.iter().for_each(Plain::leave);
    first_waiting.leave();
    for peer in &waiting {
        peer.assert_echo(b"first");
        peer.leave();
    }
    stays.exchange(b"still here");
    let stats = child.until("the others are gone", |stats| stats.get("peers") == 1);
    assert_eq!(stats.get("waited_for_thread"), MAX_WAITING);
    assert_eq!(stats.get("opened"), threads + MAX_WAITING);
    // The refused peer may come again.
    refused.exchange(b"again");
}

#[test]
fn waiting_peers_are_served_once_threads_can_be_started_again() {
    let _alone = alone();
    let mut child = start_without_threads();
    let served = fill_threads(&mut child);
    let more: Vec<_> = (0..10).map(|_| Plain::knock(&child, b"first")).collect();
    child.until("all wait", |stats| stats.get("out_of_threads") >= 11);
    served[0].exchange(b"meanwhile");
    child.ask("unlimit");
    served.last().expect("the one that waits").assert_echo(b"first");
    more.iter().for_each(|peer| peer.assert_echo(b"first"));
    served.iter().chain(&more).for_each(|peer| peer.exchange(b"after"));
    let stats = child.stats();
    assert_eq!((stats.get("waited_for_thread"), stats.get("refused_no_thread")), (11, 0));
    assert_eq!(stats.get("peers"), stats.get("workers"));
}

/// Returns peers that are served, and as the last one a peer for which there is no thread.
fn fill_threads(child: &mut Child) -> Vec<Plain> {
    let mut peers = Vec::new();
    loop {
        let peer = Plain::knock(child, b"first");
        let number = peers.len() as u64 + 1;
        let decided = |stats: &child::Numbers| stats.get("opened") + stats.get("out_of_threads") >= number;
        let stats = child.until("a thread, or none", decided);
        if stats.get("out_of_threads") > 0 {
            peers.push(peer);
            return peers;
        }
        peer.assert_echo(b"first");
        peers.push(peer);
    }
}

fn start_without_threads() -> Child {
    // Arenas of the allocator would use an unpredictable amount of address space.
    Child::start_with("the_server_without_threads", |command| {
        command.env("MALLOC_ARENA_MAX", "1");
    })
}

#[test]
#[ignore = "run by the tests without threads, in a process of its own"]
fn the_server_without_threads() {
    if !child::is_child() {
        return;
    }
    let handler = |peer: &mut Peer| -> Result<(), peeloff::Error> {
        let mut buffer = [0; 100];
        while let Some(len) = peer.recv(&mut buffer)? {
            peer.send(&buffer[..len])?;
            if &buffer[..len] == BYE {
                break;
            }
        }
        Ok(())
    };
    // A peer waits for a thread as long as it would for a handshake, and on a slow machine the test takes its time.
    let timeouts = Timeouts::default().handshake(DEADLINE);
    let running =
        Running::with("udp://127.0.0.1:0", |builder| builder.stack_size(STACK).timeouts(timeouts), handler);
    // Leave address space for this many stacks, and no more.
    limit_address_space(&(child::status("VmSize") + STACKS * STACK as u64 + ROOM).to_string());
    child::serve(&running, |command| match command {
        "unlimit" => {
            limit_address_space("unlimited");
            "unlimited".to_owned()
        }
        command => panic!("what is {command}?"),
    });
}

/// Sets this process's soft limit with util-linux's prlimit.
fn limit_address_space(limit: &str) {
    let this = std::process::id().to_string();
    let status = Command::new("prlimit").args(["--pid", &this, &format!("--as={limit}:")]).status();
    assert!(status.expect("prlimit, of the package util-linux").success());
}

//! A hand-over that fails, at every step and in every way: the server continues as if nothing had happened.

mod support;

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use peeloff::{
    Client, HandOverError, HandedOver, HandlerError, Message, Peer, PeerEvents, Predecessor, Refusal, Sender,
    Server, ServerBuilder, StartError, hand_over_sockets,
};
use socket2::{Domain, Socket, Type};
use support::{DEADLINE, exchange, until};

const KEY: &[u8] = b"0123456789abcdef";

/// The numbers of the messages (`framework/src/serve/handover/frame.rs`).
const HELLO: u8 = 1;
const READY: u8 = 4;
const PEER: u8 = 6;
const STAYS: u8 = 7;
const END: u8 = 8;
const TAKEN: u8 = 9;
const GO: u8 = 11;
const DATAGRAM: u8 = 12;
const SERVES: u8 = 14;

/// The version of the format (in the same file).
const VERSION: u16 = 1;

struct Echo;

impl PeerEvents for Echo {
    type State = ();

    fn open(&self, _: &Sender) -> Result<(), HandlerError> {
        Ok(())
    }

    fn message(&self, (): &mut (), peer: &Sender, message: Message<'_>) -> Result<(), HandlerError> {
        Ok(peer.send(&message)?)
    }

    fn save(&self, (): &(), _: &Sender) -> Option<Vec<u8>> {
        Some(Vec::new())
    }

    fn restore(&self, _: &[u8], _: &Sender) -> Result<(), HandlerError> {
        Ok(())
    }
}

/// Echoes, and waits before that as long as the test holds the lock.
struct Blocked(Arc<Mutex<()>>);

impl PeerEvents for Blocked {
    type State = ();

    fn open(&self, _: &Sender) -> Result<(), HandlerError> {
        Ok(())
    }

    fn message(&self, (): &mut (), peer: &Sender, message: Message<'_>) -> Result<(), HandlerError> {
        drop(self.0.lock().unwrap());
        Ok(peer.send(&message)?)
    }
}

fn builder(url: &str) -> ServerBuilder {
    Server::builder().listen(url).psk(|_| Some(KEY.to_vec())).event_loops(2)
}

/// A server, and peers that check that nothing has happened to them.
struct Running {
    server: Server,
    peers: Vec<Peer>,
}

impl Running {
    fn start() -> Self {
        let server = builder("dtls://127.0.0.1:0").start_events(Echo).unwrap();
        let client = || Client::builder().psk(b"a", KEY).timeout(DEADLINE);
        let mut peers: Vec<Peer> =
            (0..5).map(|_| client().connect(&server.addresses()[0]).unwrap()).collect();
        peers.iter_mut().for_each(|peer| exchange(peer, b"before"));
        Self { server, peers }
    }

    /// Hands the server over to `successor`, which fails. Returns the reason.
    fn fail(&mut self, successor: impl FnOnce(Raw) -> Option<Raw>) -> HandOverError {
        let (give, take) = hand_over_sockets().unwrap();
        let handle = self.server.handle();
        let giving = thread::spawn(move || handle.hand_over(give));
        let alive = successor(Raw(Socket::from(take)));
        let error = giving.join().unwrap().expect_err("no process has taken it over");
        drop(alive);
        self.peers.iter_mut().for_each(|peer| exchange(peer, b"still the same"));
        let stats = self.server.handle().stats();
        assert_eq!((stats.peers, stats.records_forged, stats.ended_total()), (5, 0, 0), "{error}");
        error
    }

    /// Hands the server over successfully.
    fn succeed(&mut self) -> (Server, HandedOver) {
        let (give, take) = hand_over_sockets().unwrap();
        let handle = self.server.handle();
        let giving = thread::spawn(move || handle.hand_over(give));
        let url = self.server.addresses()[0].to_string();
        let new = builder(&url).take_over(Predecessor::ask(take).unwrap()).start_events(Echo).unwrap();
        (new, giving.join().unwrap().unwrap())
    }
}

/// A process that sends arbitrary messages.
struct Raw(Socket);

impl Raw {
    fn send(&self, message: &[u8]) {
        // The other side may have given up already.
        let _ = self.0.send(message);
    }

    /// Sends this message, and nothing more.
    fn says(self, message: &[u8]) -> Option<Self> {
        self.send(message);
        Some(self)
    }

    fn dies(self) -> Option<Self> {
        None
    }

    fn hello(self, version: u16) -> Self {
        self.send(&[&[HELLO][..], b"peeloff1", &version.to_be_bytes()].concat());
        self
    }

    /// Accepts the first listener, and peers.
    fn ready(self) -> Self {
        self.send(&[READY, 1, 1, 0, 0, 0]);
        self
    }

    /// Reports that it is ready, and reads all peers.
    fn after_peers(self) -> Self {
        let raw = self.hello(VERSION).ready();
        let kinds = raw.read_up_to(END).unwrap();
        assert_eq!(kinds.iter().filter(|kind| **kind == PEER).count(), 5);
        raw
    }

    /// Reads messages up to one of this kind, and returns their kinds. Returns none if the other side closes
    /// before.
    fn read_up_to(&self, kind: u8) -> Option<Vec<u8>> {
        self.0.set_read_timeout(Some(DEADLINE)).unwrap();
        let (mut buffer, mut kinds) = (vec![0; 200_000], Vec::new());
        loop {
            match (&self.0).read(&mut buffer) {
                Ok(0) => return None,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                Ok(_) => kinds.push(buffer[0]),
                Err(error) => panic!("{error}"),
            }
            if kinds.last() == Some(&kind) {
                return Some(kinds);
            }
        }
    }
}

/// How a process fails that takes a server over, what stays open of it, and how the old process reports it.
type Failure = (fn(Raw) -> Option<Raw>, fn(&HandOverError) -> bool);

#[test]
fn a_new_process_that_dies_or_talks_nonsense_at_any_step_changes_nothing() {
    let gone: fn(&HandOverError) -> bool = |error| matches!(error, HandOverError::Gone);
    let malformed: fn(&HandOverError) -> bool = |error| matches!(error, HandOverError::Malformed);
    let dies = |raw: Raw| {
        drop(raw);
        None
    };
    let failures: [Failure; 17] = [
        (dies, gone),
        (|raw| raw.says(b""), gone),
        (|raw| raw.says(b"GET / HTTP/1.1"), malformed),
        (|raw| raw.says(&[HELLO]), malformed),
        (|raw| raw.says(&[&[HELLO][..], b"peeloff2", &VERSION.to_be_bytes()].concat()), malformed),
        (|raw| raw.says(&vec![HELLO; 150_000]), malformed),
        (|raw| raw.hello(VERSION).dies(), gone),
        (|raw| raw.hello(VERSION).says(&[TAKEN, 0, 0]), malformed),
        (|raw| raw.hello(VERSION).says(&[READY, 1, 1, 0]), malformed),
        (|raw| raw.hello(VERSION).ready().dies(), gone),
        (|raw| raw.after_peers().dies(), gone),
        (|raw| raw.after_peers().says(&[TAKEN, 7]), malformed),
        // This peer does not exist.
        (|raw| raw.after_peers().says(&[TAKEN, 0, 1, 0, 0, 0, 5, 0]), malformed),
        (|raw| raw.after_peers().says(&[DATAGRAM, 0, 0]), malformed),
        (
            |raw| {
                // The process does not receive the message to begin.
                let raw = raw.after_peers();
                raw.0.shutdown(Shutdown::Read).unwrap();
                raw.says(&[TAKEN, 0, 0])
            },
            gone,
        ),
        (
            |raw| {
                // The process ends after it was told to begin.
                let raw = raw.after_peers();
                raw.send(&[TAKEN, 0, 0]);
                assert!(raw.read_up_to(GO).is_some());
                raw.dies()
            },
            gone,
        ),
        // The process sends nothing more.
        (|raw| Some(raw.after_peers()), |error| matches!(error, HandOverError::TimedOut)),
    ];
    let mut running = Running::start();
    for (number, (successor, is_expected)) in failures.into_iter().enumerate() {
        let error = running.fail(successor);
        assert!(is_expected(&error), "{number}: {error:?}");
    }
    let (_new, given) = running.succeed();
    assert_eq!((given.peers, given.staying), (5, 0));
    running.peers.iter_mut().for_each(|peer| exchange(peer, b"in the new process"));
}

#[test]
fn a_new_process_of_an_unknown_version_gets_the_listeners_and_no_peer() {
    let mut running = Running::start();
    let (give, take) = hand_over_sockets().unwrap();
    let handle = running.server.handle();
    let giving = thread::spawn(move || handle.hand_over(give));
    let raw = Raw(Socket::from(take)).hello(VERSION + 1).ready();
    let kinds = raw.read_up_to(END).unwrap();
    assert!(!kinds.contains(&PEER), "{kinds:?}");
    assert_eq!(kinds.iter().filter(|kind| **kind == STAYS).count(), 5);
    raw.send(&[TAKEN, 0, 0]);
    assert!(raw.read_up_to(GO).is_some());
    raw.send(&[SERVES]);
    let given = giving.join().unwrap().unwrap();
    assert_eq!((given.listeners, given.peers, given.staying), (1, 0, 5));
    // These peers end with the old process.
    running.server.handle().shutdown(Duration::ZERO);
    for peer in &mut running.peers {
        assert!(matches!(peer.recv_timeout(&mut [0; 8], DEADLINE), Ok(None)));
    }
}

#[test]
fn only_one_process_at_a_time_can_take_a_server_over_and_only_once() {
    let mut running = Running::start();
    let second = |server: &Server| server.handle().hand_over(hand_over_sockets().unwrap().0);
    running.fail(|raw| raw.hello(VERSION).says(&[READY, 7]));
    let (give, take) = hand_over_sockets().unwrap();
    let handle = running.server.handle();
    let giving = thread::spawn(move || handle.hand_over(give));
    let predecessor = Predecessor::ask(take).unwrap();
    assert!(matches!(second(&running.server), Err(HandOverError::Busy)));
    let url = running.server.addresses()[0].to_string();
    let new = builder(&url).take_over(predecessor).start_events(Echo).unwrap();
    giving.join().unwrap().unwrap();
    assert!(matches!(second(&running.server), Err(HandOverError::Busy)));
    // The new process has a predecessor until the old one has ended.
    assert!(matches!(second(&new), Err(HandOverError::Busy)));
    running.server.handle().shutdown(Duration::ZERO);
    let third = || {
        let (give, take) = hand_over_sockets().unwrap();
        drop(take);
        matches!(new.handle().hand_over(give), Err(HandOverError::Gone)).then_some(())
    };
    until("the end of the predecessor", third);
    running.peers.iter_mut().for_each(|peer| exchange(peer, b"all the same"));
}

#[test]
fn a_server_that_is_ended_while_it_stands_still_ends_and_is_not_handed_over() {
    let mut running = Running::start();
    let (give, take) = hand_over_sockets().unwrap();
    let (handle, ending) = (running.server.handle(), running.server.handle());
    let giving = thread::spawn(move || handle.hand_over(give));
    let raw = Raw(Socket::from(take)).after_peers();
    let ending = thread::spawn(move || ending.shutdown(Duration::ZERO));
    let handle = running.server.handle();
    until("the end to begin", || (handle.health().refuses == Some(Refusal::Draining)).then_some(()));
    raw.send(&[TAKEN, 0, 0]);
    assert_eq!(raw.read_up_to(GO), None, "the new process was told to go on");
    assert!(matches!(giving.join().unwrap(), Err(HandOverError::Busy)));
    assert_eq!(ending.join().unwrap().peers, 5);
    for peer in &mut running.peers {
        assert!(matches!(peer.recv_timeout(&mut [0; 8], DEADLINE), Ok(None)));
    }
}

#[test]
fn a_server_with_a_blocked_callback_and_no_spare_thread_is_not_handed_over_and_serves_on() {
    let gate = Arc::new(Mutex::new(()));
    let builder = builder("dtls://127.0.0.1:0").event_loops(1).spare_threads(0);
    let server = builder.start_events(Blocked(Arc::clone(&gate))).unwrap();
    let mut peer =
        Client::builder().psk(b"a", KEY).timeout(DEADLINE).connect(&server.addresses()[0]).unwrap();
    exchange(&mut peer, b"before");
    let blocked = gate.lock().unwrap();
    peer.send(b"blocked").unwrap();
    until("the callback to begin", || (server.handle().stats().messages_received == 2).then_some(()));
    let (give, take) = hand_over_sockets().unwrap();
    let raw = Raw(Socket::from(take)).hello(VERSION).ready();
    let error = server.handle().hand_over(give).unwrap_err();
    assert!(matches!(error, HandOverError::HeldUp), "{error:?}");
    drop((raw, blocked));
    let mut buffer = [0; 64];
    assert_eq!(peer.recv_timeout(&mut buffer, DEADLINE).unwrap(), Some(7));
    exchange(&mut peer, b"after");
}

#[test]
fn a_process_of_another_user_gets_nothing() {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return eprintln!("SKIPPED: another user, which takes root");
    }
    let mut running = Running::start();
    let error = running.fail(|raw| {
        // The process has inherited the socket.
        let mut command = Command::new("sh");
        command.args(["-c", r"printf '\001peeloff1\000\001' >&0; exec cat"]).uid(65534);
        command.stdin(Stdio::from(OwnedFd::from(raw.0))).stdout(Stdio::piped());
        let output = command.output().unwrap();
        assert_eq!(output.stdout, b"", "it was told something");
        None
    });
    assert!(matches!(error, HandOverError::OtherUser { uid: 65534 }), "{error:?}");
}

#[test]
fn an_unsuitable_socket_is_refused_on_both_sides() {
    let mut running = Running::start();
    let file = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let stream = || OwnedFd::from(Socket::pair(Domain::UNIX, Type::STREAM, None).unwrap().0);
    for unfit in [file(), stream()] {
        assert!(matches!(running.server.handle().hand_over(unfit), Err(HandOverError::Unfit)));
    }
    for unfit in [file(), stream()] {
        assert!(matches!(Predecessor::ask(unfit), Err(HandOverError::Unfit)));
    }
    running.peers.iter_mut().for_each(|peer| exchange(peer, b"still the same"));
}

#[test]
fn an_old_process_that_dies_or_talks_nonsense_is_not_taken_over() {
    for (answer, expected) in [(&b""[..], "Gone"), (b"nonsense", "Malformed"), (&[2, 0, 1], "Malformed")] {
        let (give, take) = hand_over_sockets().unwrap();
        let raw = Raw(Socket::from(give));
        let raw = if answer.is_empty() { raw.dies() } else { raw.says(answer) };
        let error = Predecessor::ask(take).unwrap_err();
        drop(raw);
        assert_eq!(format!("{error:?}"), expected, "{answer:?}");
    }
    // The old process dies while the new one is about to start.
    let running = Running::start();
    let (give, take) = hand_over_sockets().unwrap();
    let old = Socket::from(give.try_clone().unwrap());
    let handle = running.server.handle();
    let giving = thread::spawn(move || handle.hand_over(give));
    let predecessor = Predecessor::ask(take).unwrap();
    old.shutdown(Shutdown::Both).unwrap();
    let url = running.server.addresses()[0].to_string();
    let started = builder(&url).take_over(predecessor).start_events(Echo);
    assert!(matches!(started, Err(StartError::TakeOver(HandOverError::Gone))), "{started:?}");
    giving.join().unwrap().unwrap_err();
}

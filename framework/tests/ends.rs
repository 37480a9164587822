//! Why an association ends: the reason names the side that ended it first. The table is that of `EndReason`'s
//! documentation.

mod support;

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender as Tell, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use peeloff::{Client, EndKind, HandlerError, Peer, Timeouts};
use support::{DEADLINE, Running, SLOWNESS, until};

/// How the association ends, and what the handler does meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// The peer closes; the handler continues to receive.
    PeerCloses,
    /// The peer closes; the handler then returns without having received the close.
    PeerClosesUnread,
    /// The peer closes; the handler sends until that fails.
    PeerClosesSends,
    /// The handler returns.
    HandlerReturns,
    /// The handler calls `close`.
    HandlerCloses,
    /// The peer aborts or resets.
    PeerAborts,
    /// The peer's process is killed.
    PeerDies,
    /// The peer's process is killed before it has read everything that was sent.
    PeerDiesUnread,
    /// Neither side sends anything.
    Silence,
    /// The lifetime has passed.
    OldAge,
    /// The server drains.
    Drain,
}

impl Act {
    /// Returns the command for the handler.
    fn command(self) -> &'static str {
        match self {
            Self::PeerCloses | Self::PeerAborts | Self::PeerDies => "read",
            Self::Silence | Self::OldAge | Self::Drain => "read",
            Self::PeerClosesUnread => "hold",
            Self::PeerClosesSends => "send",
            Self::HandlerReturns => "leave",
            Self::HandlerCloses => "close",
            Self::PeerDiesUnread => "give",
        }
    }
}

/// Does what the peer's first message says.
struct Obedient {
    /// Tells that the handler has answered, or that the messages which it was told to send have arrived.
    heard: Mutex<Tell<()>>,
    go_on: Arc<Mutex<Receiver<()>>>,
}

impl peeloff::PeerHandler for Obedient {
    fn handle(&self, peer: &mut Peer) -> Result<(), HandlerError> {
        let mut buffer = [0; 64];
        let Some(len) = peer.recv(&mut buffer)? else { return Ok(()) };
        peer.send(b"ok")?;
        let wait = || self.go_on.lock().unwrap().recv_timeout(DEADLINE).unwrap();
        match &buffer[..len] {
            b"hold" => wait(),
            b"send" => {
                wait();
                loop {
                    peer.send(b"still there?")?;
                }
            }
            b"leave" => {}
            b"close" => peer.close(),
            command => {
                if command == b"give" {
                    wait();
                    peer.send(b"unread")?;
                    until("it has arrived", || is_acknowledged(peer).then_some(()));
                }
                self.heard.lock().unwrap().send(()).unwrap();
                while peer.recv(&mut buffer)?.is_some() {}
            }
        }
        Ok(())
    }
}

/// Returns whether everything that was sent has arrived. Over loopback that is certain; SCTP reports it.
fn is_acknowledged(peer: &mut Peer) -> bool {
    peer.sctp().is_none_or(|sctp| sctp.options().unwrap().status().unwrap().unacknowledged == 0)
}

/// Returns the label of the only end that occurred.
fn end_of(scheme: &str, act: Act, expected: &str) -> String {
    let (heard, hears) = channel();
    let (go_on, waits) = channel();
    let handler = Obedient { heard: Mutex::new(heard), go_on: Arc::new(Mutex::new(waits)) };
    let mut timeouts = Timeouts::default();
    // The peer connects and gets its answer in less time than that.
    let time = Duration::from_secs(1) * (*SLOWNESS).min(5);
    timeouts.idle = (expected == "idle").then_some(time);
    timeouts.lifetime = (expected == "lifetime").then_some(time);
    let url = format!("{scheme}://127.0.0.1:0");
    let running = Running::with(&url, |builder| builder.timeouts(timeouts), handler);
    let wait = || hears.recv_timeout(DEADLINE).unwrap();
    match act {
        Act::PeerDies | Act::PeerDiesUnread => {
            let mut child = start_client(&running.url().to_string(), act.command());
            if act == Act::PeerDiesUnread {
                go_on.send(()).unwrap();
            }
            wait();
            child.kill().unwrap();
            child.wait().unwrap();
        }
        Act::PeerAborts if scheme == "tcp" => {
            let mut stream = TcpStream::connect(running.address()).unwrap();
            std::io::Write::write_all(&mut stream, act.command().as_bytes()).unwrap();
            stream.read_exact(&mut [0; 2]).unwrap();
            wait();
            let stream = socket2::Socket::from(stream);
            stream.set_linger(Some(Duration::ZERO)).unwrap();
        }
        _ => {
            let mut peer = running.connect();
            peer.send(act.command().as_bytes()).unwrap();
            assert_eq!(peer.recv_timeout(&mut [0; 64], DEADLINE).unwrap(), Some(2));
            match act {
                Act::PeerCloses => peer.close(),
                Act::PeerClosesUnread | Act::PeerClosesSends => {
                    peer.close();
                    if scheme.starts_with("sctp") {
                        until("its shutdown is complete", || (associations() == 0).then_some(()));
                    }
                    go_on.send(()).unwrap();
                }
                Act::PeerAborts => peer.sctp().unwrap().abort(b"enough"),
                Act::Drain => {
                    wait();
                    running.handle().shutdown(DEADLINE);
                }
                _ => {}
            }
            // The client lives until the server has recorded the end.
            running.until("it ends", |stats| stats.ended_total() == 1);
        }
    }
    let stats = running.until("it ends", |stats| stats.ended_total() == 1);
    EndKind::ALL.iter().find(|kind| stats.ended(**kind) == 1).unwrap().to_string()
}

/// Returns the number of associations in the kernel, counting both ends of each.
fn associations() -> usize {
    std::fs::read_to_string("/proc/net/sctp/assocs").unwrap().lines().skip(1).count()
}

/// Starts a client in a process of its own, which receives its answer and reads nothing more.
fn start_client(url: &str, command: &str) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "the_client_that_is_killed"])
        .env("PEELOFF_TEST_URL", url)
        .env("PEELOFF_TEST_COMMAND", command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with("answered")), "the client has no answer");
    child
}

#[test]
#[ignore = "run by the tests of this file, in a process of its own"]
fn the_client_that_is_killed() {
    let Ok(url) = std::env::var("PEELOFF_TEST_URL") else { return };
    let client = Client::builder().danger_accept_any_certificate().timeout(DEADLINE);
    let mut peer = client.connect(url).unwrap();
    peer.send(std::env::var("PEELOFF_TEST_COMMAND").unwrap().as_bytes()).unwrap();
    assert_eq!(peer.recv_timeout(&mut [0; 64], DEADLINE).unwrap(), Some(2));
    println!("answered");
    // Wait until this process is killed, or until its parent has ended.
    let _ = std::io::stdin().read(&mut [0]);
}

/// The ways to end, and the reasons for each scheme in the order of the schemes; `-` means impossible.
type Table<const N: usize> = [(Act, [&'static str; N])];

fn check<const N: usize>(schemes: [&str; N], table: &Table<N>) {
    for (act, expected) in table {
        for (scheme, expected) in schemes.iter().zip(expected).filter(|(_, expected)| **expected != "-") {
            assert_eq!(end_of(scheme, *act, expected), *expected, "{act:?} on {scheme}");
        }
    }
}

#[test]
fn each_order_of_ends_has_its_reason() {
    check(
        ["udp", "dtls", "tcp", "tls"],
        &[
            (Act::PeerCloses, ["idle", "closed_by_peer", "closed_by_peer", "closed_by_peer"]),
            (Act::PeerClosesUnread, ["closed_by_us", "closed_by_peer", "closed_by_peer", "closed_by_peer"]),
            (Act::PeerClosesSends, ["-", "-", "closed_by_peer", "closed_by_peer"]),
            (Act::HandlerReturns, ["closed_by_us", "closed_by_us", "closed_by_us", "closed_by_us"]),
            (Act::HandlerCloses, ["closed_by_us", "closed_by_us", "closed_by_us", "closed_by_us"]),
            (Act::PeerAborts, ["-", "-", "aborted", "-"]),
            (Act::PeerDies, ["idle", "idle", "closed_by_peer", "truncated"]),
            (Act::PeerDiesUnread, ["idle", "idle", "aborted", "aborted"]),
            (Act::Silence, ["idle", "idle", "idle", "idle"]),
            (Act::OldAge, ["lifetime", "lifetime", "lifetime", "lifetime"]),
            (Act::Drain, ["shutdown", "shutdown", "shutdown", "shutdown"]),
        ],
    );
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn each_order_of_ends_has_its_reason_on_sctp() {
    check(
        ["sctp", "sctp+tls", "sctp+dtls"],
        &[
            (Act::PeerCloses, ["closed_by_peer", "closed_by_peer", "closed_by_peer"]),
            (Act::PeerClosesUnread, ["closed_by_peer", "closed_by_peer", "closed_by_peer"]),
            (Act::PeerClosesSends, ["closed_by_peer", "closed_by_peer", "closed_by_peer"]),
            (Act::HandlerReturns, ["closed_by_us", "closed_by_us", "closed_by_us"]),
            (Act::HandlerCloses, ["closed_by_us", "closed_by_us", "closed_by_us"]),
            (Act::PeerAborts, ["aborted", "aborted", "aborted"]),
            (Act::PeerDies, ["closed_by_peer", "truncated", "truncated"]),
            (Act::PeerDiesUnread, ["aborted", "aborted", "aborted"]),
            (Act::Silence, ["idle", "idle", "idle"]),
            (Act::OldAge, ["lifetime", "lifetime", "lifetime"]),
            (Act::Drain, ["shutdown", "shutdown", "shutdown"]),
        ],
    );
}

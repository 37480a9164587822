//! `peeloff-chat` across processes: rooms over a real Redis, which is killed and restarted.

#[path = "support/member.rs"]
mod member;
#[path = "support/successor.rs"]
mod successor;
mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;

use member::Member;
use successor::Successor;
use support::{CHAT, DEADLINE, Directory, Program, start_chat};

/// The Redis of one test, on a Unix socket.
struct Redis {
    socket: String,
    url: String,
    process: Option<Program>,
}

impl Redis {
    /// Makes a Redis that is not running yet.
    fn at(files: &Directory) -> Self {
        let socket = files.path("redis.sock");
        let url = format!("redis+unix://{socket}");
        Self { socket, url, process: None }
    }

    fn start(&mut self) {
        let options = ["--port", "0", "--unixsocket", &self.socket, "--save", "", "--appendonly", "no"];
        let mut process = Program::start("redis-server", &options);
        // After this line it accepts connections at its Unix socket.
        while !process.line().contains("ready to accept connections at") {}
        self.process = Some(process);
    }

    /// Kills it, as a crash would.
    fn kill(&mut self) {
        self.process.take().expect("it runs").kill();
    }

    /// Publishes a message that no chat would publish, and waits until Redis has forwarded it.
    fn publish(&self, channel: &str, payload: &[u8]) {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let head =
            format!("*3\r\n$7\r\nPUBLISH\r\n${}\r\n{channel}\r\n${}\r\n", channel.len(), payload.len());
        stream.write_all(&[head.as_bytes(), payload, b"\r\n"].concat()).unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer[0], b':', "{answer:?}");
    }
}

/// Starts a process with this name and with listeners for DTLS and TLS.
fn start(redis: &Redis, origin: &str) -> (Program, Vec<String>) {
    let (mut program, addresses) = start_chat(&[
        "--listen",
        "dtls://127.0.0.1:0",
        "--listen",
        "tls://127.0.0.1:0",
        "--redis",
        &redis.url,
        "--origin",
        origin,
        "--presence-timeout",
        "3s",
        "--flood",
        "off",
    ]);
    if redis.process.is_some() {
        program.stderr_line("other hosts are in reach");
    }
    (program, addresses)
}

/// Reads until `who` is listed in the lobby. Lists of members arrive at irregular times.
fn sees(member: &mut Member, who: &str) {
    loop {
        member.write("/who");
        if member.expect("= lobby:").split(' ').any(|name| name == who) {
            return;
        }
    }
}

#[test]
fn a_room_spans_two_processes() {
    let files = Directory::new("redis-span");
    let mut redis = Redis::at(&files);
    redis.start();
    let (_north, at_north) = start(&redis, "north");
    let (_south, at_south) = start(&redis, "south");
    let mut alice = Member::come_as("alice", &at_north[0]);
    let mut bob = Member::come_as("bob", &at_south[1]);
    sees(&mut alice, "bob@south");
    sees(&mut bob, "alice@north");

    bob.write("/nick a1ice");
    assert_eq!(bob.expect("!"), "! a1ice looks like alice@north, who is here: take another name");

    alice.write("hello over there");
    assert_eq!(bob.expect("[lobby]"), "[lobby] alice@north: hello over there");
    bob.write("/me waves");
    assert_eq!(alice.expect("[lobby]"), "[lobby] * bob@south waves");
    alice.write("/msg bob psst");
    assert_eq!(alice.expect("(to"), "(to bob@south) psst");
    assert_eq!(bob.expect("("), "(alice@north) psst");
    bob.write("/msg alice@north yes?");
    assert_eq!(alice.expect("("), "(bob@south) yes?");
    alice.write("/nick Al");
    assert_eq!(bob.expect("* alice@north"), "* alice@north is Al@north now");

    // A name from this process can be free on the other one.
    bob.write("/nick Al");
    bob.expect("* you are Al now");
    assert_eq!(alice.expect("* bob@south"), "* bob@south is Al@south now");

    alice.write("/join kitchen");
    alice.expect("* you joined kitchen");
    bob.write("/join kitchen");
    assert_eq!(alice.expect("* Al@south joined"), "* Al@south joined kitchen");
    alice.write("/leave kitchen");
    assert_eq!(bob.expect("* Al@north left"), "* Al@north left kitchen");
    alice.write("/quit");
    assert_eq!(bob.expect("* Al@north left"), "* Al@north left lobby");
}

#[test]
fn many_lines_cross_in_order_and_none_is_lost() {
    const LINES: usize = 1000;
    let files = Directory::new("redis-order");
    let mut redis = Redis::at(&files);
    redis.start();
    let (_north, at_north) = start(&redis, "north");
    let (_south, at_south) = start(&redis, "south");
    let mut writers = ["a", "b"].map(|name| Member::come_as(name, &at_north[0]));
    let mut reader = Member::come_as("reader", &at_south[1]);
    let mut next = [0; 2];
    for chunk in 0..LINES / 50 {
        for number in chunk * 50..(chunk + 1) * 50 {
            for writer in &mut writers {
                writer.write(&number.to_string());
            }
        }
        while next.iter().any(|next| *next < (chunk + 1) * 50) {
            let line = reader.expect("[lobby] ");
            let (who, number) = line.strip_prefix("[lobby] ").unwrap().split_once("@north: ").unwrap();
            let next = &mut next[usize::from(who == "b")];
            assert_eq!(number, next.to_string(), "{line}");
            *next += 1;
        }
    }
}

#[test]
fn rooms_are_local_while_redis_is_dead_and_shared_when_it_is_back() {
    let files = Directory::new("redis-killed");
    let mut redis = Redis::at(&files);
    redis.start();
    let (_north, at_north) = start(&redis, "north");
    let (_south, at_south) = start(&redis, "south");
    let mut alice = Member::come_as("alice", &at_north[0]);
    let mut neighbour = Member::come_as("neighbour", &at_north[1]);
    let mut bob = Member::come_as("bob", &at_south[0]);
    sees(&mut alice, "bob@south");
    for _ in 0..2 {
        redis.kill();
        for member in [&mut alice, &mut neighbour, &mut bob] {
            member.expect("* other hosts are out of reach");
        }
        alice.write("only here");
        assert_eq!(neighbour.expect("[lobby]"), "[lobby] alice: only here");
        alice.write("/who");
        assert_eq!(alice.expect("= lobby:"), "= lobby: alice neighbour");
        alice.write("/msg bob psst");
        assert_eq!(alice.expect("!"), "! nobody is called bob: /who lists who is in your room");

        redis.start();
        for member in [&mut alice, &mut neighbour, &mut bob] {
            member.expect("* other hosts are back");
        }
        sees(&mut alice, "bob@south");
        alice.write("everywhere");
        // Messages that were sent meanwhile are not repeated.
        assert_eq!(bob.expect("[lobby]"), "[lobby] alice@north: everywhere");
        assert_eq!(neighbour.expect("[lobby]"), "[lobby] alice: everywhere");
    }
}

#[test]
fn a_process_serves_alone_until_redis_comes() {
    let files = Directory::new("redis-late");
    let mut redis = Redis::at(&files);
    let (mut north, at_north) = start(&redis, "north");
    let mut alice = Member::come_as("alice", &at_north[0]);
    let mut bob = Member::come_as("bob", &at_north[1]);
    north.stderr_line("Redis is out of reach: rooms are local until it is back");
    alice.write("hello");
    assert_eq!(bob.expect("[lobby]"), "[lobby] alice: hello");
    redis.start();
    alice.expect("* other hosts are back");
    bob.expect("* other hosts are back");
}

#[test]
fn the_members_of_a_process_that_crashes_or_ends_leave() {
    let files = Directory::new("redis-crash");
    let mut redis = Redis::at(&files);
    redis.start();
    let (north, at_north) = start(&redis, "north");
    let (west, at_west) = start(&redis, "west");
    let (_south, at_south) = start(&redis, "south");
    let mut bob = Member::come_as("bob", &at_south[0]);
    let _alice = Member::come_as("alice", &at_north[0]);
    let _carol = Member::come_as("carol", &at_west[0]);
    sees(&mut bob, "alice@north");
    sees(&mut bob, "carol@west");
    north.kill();
    assert_eq!(bob.expect("* alice@north left"), "* alice@north left lobby");
    west.signal("TERM");
    assert_eq!(bob.expect("* carol@west left"), "* carol@west left lobby");
    assert_eq!(west.wait().code, Some(0));
}

#[test]
fn members_that_a_new_process_took_over_are_not_announced_as_gone() {
    let files = Directory::new("redis-handed");
    let mut redis = Redis::at(&files);
    redis.start();
    let (_south, at_south) = start(&redis, "south");
    let mut bob = Member::come_as("bob", &at_south[0]);
    // The name that a process has by default has its number, which its members keep after a hand-over.
    for origin in [&["--origin=north"][..], &[]] {
        let listen = ["--listen=dtls://127.0.0.1:0", "--listen=tls://127.0.0.1:0", "--drain-timeout=1s"];
        let shared = format!("--redis={}", redis.url);
        let mut north = Program::start(CHAT, &[&listen, origin, &[&*shared]].concat());
        let at_north: Vec<String> = (0..2).map(|_| north.address()).collect();
        north.stderr_line("other hosts are in reach");
        let mut alice = Member::come_as("alice", &at_north[0]);
        let mut carol = Member::come_as("carol", &at_north[1]);
        alice.write("hello");
        let hello = bob.expect("[lobby] alice@");
        let origin =
            hello.strip_prefix("[lobby] alice@").unwrap().strip_suffix(": hello").unwrap().to_owned();
        sees(&mut bob, &format!("carol@{origin}"));
        let successor = Successor::of(&mut north);
        // TLS stays in the old process, which ends.
        carol.expect("* the server shuts down");
        assert_eq!(bob.line(), format!("* carol@{origin} left lobby"));
        north.wait_for_exit();
        sees(&mut alice, "bob@south");
        alice.write("/who");
        assert_eq!(alice.expect("= lobby:"), "= lobby: alice bob@south");
        alice.write("still here");
        assert_eq!(bob.line(), format!("[lobby] alice@{origin}: still here"));
        bob.write("/who");
        assert_eq!(bob.line(), format!("= lobby: bob alice@{origin}"));
        alice.write("/quit");
        assert_eq!(bob.line(), format!("* alice@{origin} left lobby"));
        successor.signal("TERM");
        let log = north.wait().stderr;
        assert!(!log.contains("another process has the same name"), "{log}");
    }
}

#[test]
fn a_member_that_is_handed_over_gets_each_line_from_elsewhere_once() {
    let files = Directory::new("redis-once");
    let mut redis = Redis::at(&files);
    redis.start();
    let (_south, at_south) = start(&redis, "south");
    let (mut north, at_north) = start(&redis, "north");
    let mut alice = Member::come_as("alice", &at_north[0]);
    let mut bob = Member::come_as("bob", &at_south[0]);
    sees(&mut alice, "bob@south");
    let mut serving: Option<Successor> = None;
    for round in 0..3 {
        serving = thread::scope(|scope| {
            let handing = scope.spawn(|| {
                let next = match &serving {
                    None => Successor::of(&mut north),
                    Some(serving) => {
                        serving.signal("USR2");
                        Successor::read(&mut north)
                    }
                };
                north.stderr_line(" ended");
                next
            });
            // Some more lines come after the hand-over.
            let mut more = 0..10;
            let mut numbers = 0..;
            while !handing.is_finished() || more.next().is_some() {
                let said = format!("line {round} {}", numbers.next().unwrap());
                bob.write(&said);
                assert_eq!(alice.expect("[lobby] bob@south: "), format!("[lobby] bob@south: {said}"));
            }
            Some(handing.join().unwrap())
        });
    }
}

#[test]
fn input_from_redis_is_not_trusted() {
    let files = Directory::new("redis-forged");
    let mut redis = Redis::at(&files);
    redis.start();
    let (_south, at_south) = start(&redis, "south");
    let mut bob = Member::come_as("bob", &at_south[1]);
    for payload in [
        &b""[..],
        b"\xff\xfe",
        b"1\tnorth\t1\tsaid\tlobby\talice\t\x1b[2J",
        b"1\tnorth\t1\tsaid\tlobby\talice\ta\n[lobby] bob: forged",
        b"1\tno[rth\t1\tsaid\tlobby\talice\thi",
        b"1\tnorth\t1\tfrob",
        &vec![b'x'; 10 << 20],
    ] {
        redis.publish("peeloff:room:lobby", payload);
    }
    redis.publish("peeloff:room:lobby", b"1\tnorth\t1\tsaid\tlobby\talice\tthe first good one");
    assert_eq!(bob.line(), "[lobby] alice@north: the first good one");
}

//! TLS handshakes with every mistake that a seeded generator makes, in the manner of tlsfuzzer: the server ends
//! each of them in time, keeps nothing of it, and serves an honest peer meanwhile.

#[path = "support/child.rs"]
#[allow(dead_code)]
mod child;
#[path = "support/random.rs"]
mod random;
mod support;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use child::Child;
use openssl::ssl::{Ssl, SslContext, SslMethod, SslStream, SslVerifyMode, SslVersion};
use peeloff::{ServerBuilder, Timeouts};
use random::Random;
use support::{DEADLINE, Running, SetOnDrop, exchange, scaled, until};

/// The seed of all choices. Each case also depends on its number.
const SEED: u64 = 0x8446_5246;
/// The number of handshakes with a mistake in one place.
const CASES: u32 = 3000;
/// The number of clients at a time. They spend most of their time waiting for the server's timeout.
const CLIENTS: u32 = 96;
/// How long the server waits for a handshake.
const PATIENCE: Duration = Duration::from_millis(400);
/// By how much the server's memory may have grown after all of them.
const MORE_MEMORY: u64 = 16 << 20;

const VERSIONS: [SslVersion; 2] = [SslVersion::TLS1_2, SslVersion::TLS1_3];

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
/// The header consists of type, version and length.
const HEADER: usize = 5;

impl Random {
    fn of_case(number: u32) -> Self {
        Self(SEED ^ (u64::from(number) << 32))
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.below(256) as u8).collect()
    }
}

fn record(content_type: u8, body: &[u8]) -> Vec<u8> {
    let len = (body.len() as u16).to_be_bytes();
    [&[content_type, 3, 3], &len[..], body].concat()
}

/// A change to one write of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    /// No change: the bytes arrive one by one, which is not a mistake.
    Trickle,
    Truncate,
    FlipBit,
    ReplaceByte,
    Remove,
    Insert,
    RecordLength,
    RecordType,
    RecordVersion,
    MessageLength,
    MessageType,
    OneByteRecords,
    HugeRecord,
    EmptyRecords,
    WarningAlerts,
    ChangeCipherSpecs,
    PlainData,
    Twice,
    GarbageBehind,
    GarbageInstead,
    Vanish,
}

const MISTAKES: [Mistake; 21] = [
    Mistake::Trickle,
    Mistake::Truncate,
    Mistake::FlipBit,
    Mistake::ReplaceByte,
    Mistake::Remove,
    Mistake::Insert,
    Mistake::RecordLength,
    Mistake::RecordType,
    Mistake::RecordVersion,
    Mistake::MessageLength,
    Mistake::MessageType,
    Mistake::OneByteRecords,
    Mistake::HugeRecord,
    Mistake::EmptyRecords,
    Mistake::WarningAlerts,
    Mistake::ChangeCipherSpecs,
    Mistake::PlainData,
    Mistake::Twice,
    Mistake::GarbageBehind,
    Mistake::GarbageInstead,
    Mistake::Vanish,
];

impl Mistake {
    /// Returns the bytes to send instead of these, which begin with a record.
    fn make(self, bytes: &[u8], random: &mut Random) -> Vec<u8> {
        let mut out = bytes.to_vec();
        let at = random.below(out.len());
        let records = starts(bytes);
        let start = random.pick(&records);
        match self {
            Self::Trickle => {}
            Self::Truncate => out.truncate(at),
            Self::FlipBit => out[at] ^= 1 << random.below(8),
            Self::ReplaceByte => out[at] = random.pick(&[0, 1, 0x7f, 0x80, 0xff]),
            Self::Remove => drop(out.drain(at..(at + 1 + random.below(8)).min(bytes.len()))),
            Self::Insert => {
                let len = 1 + random.below(8);
                out.splice(at..at, random.bytes(len));
            }
            Self::RecordLength => {
                let len = random.pick(&[0, 1, 2, 5, 0x00ff, 0x3fff, 0x4000, 0x4001, 0x4101, 0x4801, 0xffff]);
                out[start + 3..start + HEADER].copy_from_slice(&u16::to_be_bytes(len));
            }
            Self::RecordType => out[start] = random.pick(&[0, 19, 20, 21, 22, 23, 24, 25, 0x80, 0xff]),
            Self::RecordVersion => {
                let version =
                    random.pick(&[[0, 0], [2, 0], [3, 0], [3, 5], [3, 0xff], [0xfe, 0xfd], [0xff; 2]]);
                out[start + 1..start + 3].copy_from_slice(&version);
            }
            Self::MessageLength if out.len() >= start + HEADER + 4 => {
                let len = random.pick(&[[0, 0, 0], [0, 0, 1], [0, 0x40, 0], [1, 0, 0], [2, 0, 0], [0xff; 3]]);
                out[start + HEADER + 1..start + HEADER + 4].copy_from_slice(&len);
            }
            Self::MessageLength => out.truncate(start + HEADER),
            Self::MessageType => {
                let at = (start + HEADER).min(out.len() - 1);
                out[at] = random.pick(&[0, 1, 2, 4, 5, 8, 11, 12, 13, 14, 15, 16, 20, 24, 254, 255]);
            }
            Self::OneByteRecords => {
                out = bytes[HEADER..].iter().flat_map(|byte| record(bytes[0], &[*byte])).collect();
            }
            Self::HugeRecord => {
                let len = random.pick(&[0x4000, 0x4100, 0x4801, 0xffff]);
                out = record(bytes[0], &vec![1; len]);
            }
            Self::EmptyRecords => {
                let content_type = random.pick(&[CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA]);
                out = [record(content_type, &[]).repeat(1 + random.below(1000)), out].concat();
            }
            Self::WarningAlerts => {
                // The alerts are user_canceled, no_renegotiation, unrecognized_name, and an unknown one.
                let alert = record(ALERT, &[1, random.pick(&[90, 100, 112, 200])]);
                out = [alert.repeat(1 + random.below(1000)), out].concat();
            }
            Self::ChangeCipherSpecs => {
                let change = record(CHANGE_CIPHER_SPEC, random.pick(&[&[1][..], &[0], &[1, 1], &[2]]));
                out = [change.repeat(1 + random.below(1000)), out].concat();
            }
            Self::PlainData => {
                let len = 1 + random.below(2000);
                out = [record(APPLICATION_DATA, &random.bytes(len)), out].concat();
            }
            Self::Twice => out.extend_from_slice(bytes),
            Self::GarbageBehind => {
                let len = 1 + random.below(100);
                out.extend(random.bytes(len));
            }
            Self::GarbageInstead => {
                let len = 1 + random.below(300);
                out = random.bytes(len);
            }
            Self::Vanish => out.clear(),
        }
        out
    }
}

/// Returns where the records of a client's write begin.
fn starts(bytes: &[u8]) -> Vec<usize> {
    let (mut starts, mut at) = (Vec::new(), 0);
    while at + HEADER <= bytes.len() {
        starts.push(at);
        at += HEADER + usize::from(u16::from_be_bytes([bytes[at + 3], bytes[at + 4]]));
    }
    starts
}

/// What a client does after the mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// The client continues as if nothing were wrong.
    GoOn,
    /// The client sends nothing more.
    Silence,
    /// The client closes its sending side.
    HalfClose,
    /// The client resets the connection.
    Reset,
}

/// A socket that makes one mistake.
struct Mistaken {
    socket: TcpStream,
    /// The number of writes before the mistake.
    left: usize,
    mistake: Mistake,
    after: After,
    random: Random,
    quiet: bool,
}

impl Read for Mistaken {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.read(buffer)
    }
}

impl Write for Mistaken {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.quiet {
            return Ok(bytes.len());
        }
        if self.left > 0 {
            self.left -= 1;
            return self.socket.write(bytes);
        }
        self.left = usize::MAX;
        let out = self.mistake.make(bytes, &mut self.random);
        let piece = if self.mistake == Mistake::Trickle { 1 } else { 100_000 };
        // A server that has given up may close before it has received everything.
        for piece in out.chunks(piece) {
            if self.socket.write_all(piece).is_err() {
                break;
            }
        }
        match self.after {
            After::GoOn => {}
            After::Silence => self.quiet = true,
            After::HalfClose => {
                self.quiet = true;
                let _ = self.socket.shutdown(Shutdown::Write);
            }
            After::Reset => return Err(io::ErrorKind::ConnectionReset.into()),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn connect(server: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(server).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.set_write_timeout(Some(DEADLINE)).unwrap();
    socket
}

fn client<S: Read + Write>(stream: S, version: SslVersion) -> SslStream<S> {
    let mut context = SslContext::builder(SslMethod::tls()).unwrap();
    context.set_verify(SslVerifyMode::NONE);
    context.set_min_proto_version(Some(version)).unwrap();
    context.set_max_proto_version(Some(version)).unwrap();
    let mut ssl = Ssl::new(&context.build()).unwrap();
    ssl.set_connect_state();
    SslStream::new(ssl, stream).unwrap()
}

/// Waits until the server has ended the connection.
fn expect_end(mut socket: TcpStream, what: &str) {
    loop {
        match socket.read(&mut [0; 4096]) {
            Ok(1..) => {}
            Ok(0) => return,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                panic!("the server hangs: {what}");
            }
            Err(_) => return,
        }
    }
}

/// Runs a handshake, a message and a close_notify, with a mistake in one place. Returns whether the message came
/// back.
fn play(server: SocketAddr, number: u32) -> bool {
    let mut random = Random::of_case(number);
    // Mistakes, versions and places take turns; the rest is random.
    let number = number as usize;
    let mistake = MISTAKES[number % MISTAKES.len()];
    let version = VERSIONS[number / MISTAKES.len() % 2];
    let left = number / MISTAKES.len() / 2 % 4;
    let after = random.pick(&[After::GoOn, After::GoOn, After::Silence, After::HalfClose, After::Reset]);
    let after = if mistake == Mistake::Trickle { After::GoOn } else { after };
    let what = format!("case {number}: {mistake:?} in write {left} of {version:?}, then {after:?}");
    let began = Instant::now();
    let socket = connect(server);
    let raw = socket.try_clone().unwrap();
    let mut stream = client(Mistaken { socket, left, mistake, after, random, quiet: false }, version);
    let mut back = [0; 5];
    let talked = stream.do_handshake().is_ok()
        && stream.write_all(b"hello").is_ok()
        && stream.read_exact(&mut back).is_ok();
    let said_goodbye = talked && stream.shutdown().is_ok();
    // On a busy machine even a handshake without a mistake may take longer than the server's timeout.
    let in_time = began.elapsed() < PATIENCE;
    assert!(said_goodbye || mistake != Mistake::Trickle || !in_time, "{what}");
    if after == After::Reset {
        drop(stream);
        return talked;
    }
    expect_end(raw, &what);
    talked
}

/// Returns the first write of a client.
fn hello(version: SslVersion) -> Vec<u8> {
    struct Recorder(Vec<u8>);
    impl Read for Recorder {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }
    impl Write for Recorder {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut client = client(Recorder(Vec::new()), version);
    client.do_handshake().unwrap_err();
    std::mem::take(&mut client.get_mut().0)
}

#[test]
fn thousands_of_malformed_handshakes_leave_no_state_and_disturb_no_peer() {
    let mut child = Child::start("the_server_of_malformed_handshakes");
    let server = child.address();
    // The first handshakes allocate what is allocated only once.
    run(server, 0, CASES / 10);
    child.until("they are gone", |stats| (stats.get("peers"), stats.get("workers")) == (0, 0));
    let mut honest = child.connect();
    let before = child.usage();

    // Loops have no workers.
    let workers = u64::from(!support::COMBINATION.loops);
    let alone = |stats: &child::Numbers| (stats.get("peers"), stats.get("workers")) == (1, workers);
    let over = AtomicBool::new(false);
    let (talked, stats, after, exchanges) = thread::scope(|scope| {
        let served = scope.spawn(|| {
            let mut exchanges = 0;
            while !over.load(Ordering::Relaxed) {
                exchange(&mut honest, b"still here");
                exchanges += 1;
                thread::park_timeout(Duration::from_millis(1));
            }
            exchanges
        });
        let over = SetOnDrop(&over);
        let talked = run(server, CASES / 10, scaled(CASES).max(CASES / 5));
        truncate_hellos(server);
        // Without exchanges, the honest peer would end too.
        let stats = child.until("all others are gone", alone);
        let is_less = |usage: &child::Numbers| usage.get("fds") <= before.get("fds");
        let after = until("their descriptors are, too", || Some(child.usage()).filter(is_less));
        drop(over);
        (talked, stats, after, served.join().unwrap())
    });
    assert!(talked > u64::from(scaled(100)), "no more than {talked} mistakes are none");
    assert!(exchanges > 10, "the honest peer was served {exchanges} times only");

    assert_eq!(stats.get("half_open"), 0);
    assert_eq!((stats.get("handler_panics"), stats.get("ended_handler_panicked")), (0, 0));
    assert!(stats.get("ended_handshake_failed") > u64::from(scaled(1000)), "{stats:?}");
    assert!(stats.get("ended_handshake_timed_out") > u64::from(scaled(50)), "{stats:?}");
    child::assert_memory(&before, &after, MORE_MEMORY);
    exchange(&mut child.connect(), b"and after");
}

/// Runs these cases. Returns the number of cases in which a message came back.
fn run(server: SocketAddr, first: u32, end: u32) -> u64 {
    let talked = AtomicU64::new(0);
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let talked = &talked;
            scope.spawn(move || {
                for number in (first + client..end).step_by(CLIENTS as usize) {
                    talked.fetch_add(u64::from(play(server, number)), Ordering::Relaxed);
                }
            });
        }
    });
    talked.into_inner()
}

/// Sends each hello, cut at each length, and closes the connection.
fn truncate_hellos(server: SocketAddr) {
    for version in VERSIONS {
        let hello = hello(version);
        for len in 0..hello.len() {
            let mut socket = connect(server);
            socket.write_all(&hello[..len]).unwrap();
            let _ = socket.shutdown(Shutdown::Write);
            expect_end(socket, &format!("{len} bytes of a hello of {version:?}"));
        }
    }
}

#[test]
#[ignore = "run by the test of malformed handshakes, in a process of its own"]
fn the_server_of_malformed_handshakes() {
    if !child::is_child() {
        return;
    }
    let patience = |builder: ServerBuilder| {
        let mut timeouts = Timeouts::default();
        timeouts.handshake = PATIENCE * *support::SLOWNESS;
        timeouts.worker_idle = Duration::from_millis(20);
        // An honest peer is never silent for that long, not even on a busy machine.
        timeouts.idle = Some(PATIENCE * *support::SLOWNESS * 5);
        builder.timeouts(timeouts)
    };
    let running = Running::echo_with("tls://127.0.0.1:0", patience);
    child::serve(&running, |command| panic!("what is {command}?"));
}

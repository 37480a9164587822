//! Both servers in each combination of --serve and --sockets.

#[path = "support/member.rs"]
mod member;
mod support;

use std::fs;
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};

use member::{Member, client};
use peeloff::Peer;
use socket2::{Domain, Socket, Type};
use support::{CHAT, DEADLINE, Directory, ECHO, Program, run};

/// A combination, and what each peer costs in it.
struct Way {
    options: &'static [&'static str],
    /// Whether each peer has a thread.
    threads: bool,
    /// Whether UDP and DTLS peers have descriptors.
    sockets: bool,
}

const WAYS: [Way; 4] = [
    Way { options: &["--serve", "threads"], threads: true, sockets: true },
    Way { options: &["--serve", "threads", "--sockets", "shared"], threads: true, sockets: false },
    Way { options: &["--serve", "loops"], threads: false, sockets: false },
    Way { options: &["--serve", "loops", "--sockets", "per-peer"], threads: false, sockets: true },
];

const URLS: [&str; 4] = ["udp://127.0.0.1:0", "dtls://127.0.0.1:0", "tcp://127.0.0.1:0", "tls://127.0.0.1:0"];

/// The number of peers on each listener.
const EACH: usize = 25;

/// A client of either server.
enum Guest {
    Echoed(Peer),
    Member(Member),
}

impl Guest {
    fn come(program: &str, address: &str) -> Self {
        match program {
            CHAT => Self::Member(Member::come(&client(), address)),
            _ => Self::Echoed(client().connect(address).unwrap()),
        }
    }

    /// Sends a text, and checks that it comes back.
    fn talk(&mut self, text: &str) {
        match self {
            Self::Echoed(peer) => {
                let mut answer = [0; 100];
                peer.send(text.as_bytes()).unwrap();
                let len = peer.recv_timeout(&mut answer, DEADLINE).unwrap().unwrap();
                // Streams have no framing here.
                assert_eq!(String::from_utf8_lossy(&answer[..len]).trim_end(), text);
            }
            Self::Member(member) => {
                member.write(&format!("/ping {text}"));
                member.expect(&format!("= pong {text}"));
            }
        }
    }
}

/// Returns the number of a process's threads whose names begin with `name`.
fn threads(process: u32, name: &str) -> usize {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap().flatten();
    let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|found| found.starts_with(name)).count()
}

fn descriptors(process: u32) -> usize {
    fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

/// Returns the number after `name=` in a line of the log.
fn number(line: &str, name: &str) -> u64 {
    let words = line.split_whitespace().filter_map(|word| word.split_once('='));
    let mut found = words.filter(|(found, _)| *found == name).map(|(_, value)| value.parse().unwrap());
    found.next().unwrap_or_else(|| panic!("no {name} in {line}"))
}

#[test]
fn a_hundred_peers_are_served_at_the_cost_of_each_combination_and_see_the_server_end() {
    for program in [ECHO, CHAT] {
        for way in WAYS {
            let what = format!("{program} {:?}", way.options);
            let listen: Vec<_> = URLS.iter().flat_map(|url| ["--listen", url]).collect();
            let arguments = [&listen, way.options].concat();
            let framing: &[&str] = if program == ECHO { &["--framing", "lines"] } else { &[] };
            let mut server = Program::start(program, &[&arguments[..], framing].concat());
            let addresses = URLS.map(|_| server.address());
            let before = descriptors(server.id());
            let mut guests = Vec::new();
            for number in 0..EACH * URLS.len() {
                let mut guest = Guest::come(program, &addresses[number % URLS.len()]);
                guest.talk(&number.to_string());
                guests.push(guest);
            }
            for (number, guest) in guests.iter_mut().enumerate() {
                guest.talk(&format!("again {number}"));
            }
            let with_thread = if way.threads { guests.len() } else { 0 };
            assert_eq!(threads(server.id(), "peeloff-w"), with_thread, "{what}");
            let has_loops = threads(server.id(), "peeloff-l") > 0;
            assert_eq!(has_loops, !way.threads || !way.sockets, "{what}");
            let with_socket = if way.sockets { guests.len() } else { guests.len() / 2 };
            let more = descriptors(server.id()) - before;
            assert!((with_socket..with_socket + EACH).contains(&more), "{what}: {more} descriptors");
            server.signal("TERM");
            let ended = server.wait();
            assert_eq!(ended.code, Some(0), "{what}: {ended:?}");
            let last = ended.stderr.lines().last().unwrap();
            assert_eq!((number(last, "peers"), number(last, "abandoned")), (100, 0), "{what}: {last}");
        }
    }
}

#[test]
fn statistics_tell_of_event_loops() {
    let options = ["--listen", "udp://127.0.0.1:0", "--serve", "loops", "--event-loops", "3"];
    let mut server = Program::start(ECHO, &[&options[..], &["--stats-interval", "20ms"]].concat());
    let address = server.address();
    Guest::come(ECHO, &address).talk("hello");
    let line = server.stderr_line("messages_sent=1 ");
    assert!(number(&line, "loop_threads") >= 3, "{line}");
    for counter in ["loops_taken_over", "loops_held_up", "datagrams_dropped"] {
        number(&line, counter);
    }
}

#[test]
fn a_reload_on_event_loops_changes_limits_at_once_and_the_way_of_serving_at_a_restart() {
    let files = Directory::new("serving-reload");
    let text = |serving: &str, peers: u32| {
        format!("listen = 'udp://127.0.0.1:0'\n[limits]\nmax-peers = {peers}\n[serving]\n{serving}\n")
    };
    let before = text("serve = 'loops'\nsockets = 'shared'\nevent-loops = 1\nspare-threads = 2", 1);
    let config = files.file("echo.toml", before);
    let mut server = Program::start(ECHO, &["--config", &config]);
    let address = server.address();
    let mut first = Guest::come(ECHO, &address);
    first.talk("alone");
    files.file("echo.toml", text("serve = 'threads'\nsockets = 'per-peer'\nspare-threads = 3", 2));
    server.signal("HUP");
    let line = server.stderr_line("reloaded");
    assert!(line.contains("in_effect=\"max-peers\""), "{line}");
    assert!(line.contains("at_restart=\"serve, sockets, event-loops, spare-threads\""), "{line}");
    Guest::come(ECHO, &address).talk("a second one");
    first.talk("still there");
    assert_eq!(threads(server.id(), "peeloff-w"), 0);
}

#[test]
fn an_echo_has_threads_and_a_chat_has_loops_unless_told_otherwise() {
    for (program, expected) in [(ECHO, "threads"), (CHAT, "loops")] {
        let printed = run(program, &["--print-config"], "").stdout;
        assert!(printed.contains(&format!("serve = \"{expected}\"")), "{printed}");
    }
    for (option, value) in [("--serve", "processes"), ("--sockets", "none"), ("--event-loops", "0")] {
        run(ECHO, &[option, value], "").failed_with("peeloff-echo", 2, option);
    }
}

/// A client sends this many lines of 1,000 bytes and reads none of them.
const FLOOD: usize = 8000;

/// Floods an echo server with these options. Returns the line of its access log and its statistics.
fn flood(options: &[&str]) -> (String, String) {
    let listen = ["--listen=tcp://127.0.0.1:0", "--serve=loops", "--framing=lines", "--send-buffer=16K"];
    let mut server = Program::start(ECHO, &[&listen[..], &["--access-log=-"], options].concat());
    let address = server.address();
    let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    // Before it connects: the window of an open connection does not shrink.
    client.set_recv_buffer_size(16 << 10).unwrap();
    client.connect(&address.strip_prefix("tcp://").unwrap().parse::<SocketAddr>().unwrap().into()).unwrap();
    let mut client = TcpStream::from(client);
    let line = [&[b'x'; 999][..], b"\n"].concat();
    // It fails where the server disconnects the client.
    let _ = (0..FLOOD).try_for_each(|_| client.write_all(&line));
    let _ = client.shutdown(Shutdown::Write);
    // The client stays meanwhile: with its end the kernel would reset the connection.
    let gone = server.line();
    drop(client);
    server.signal("TERM");
    let stats = server.stderr_line(" stats ");
    assert_eq!(server.wait().code, Some(0));
    (gone, stats)
}

#[test]
fn an_echo_drops_messages_or_disconnects_a_client_that_reads_nothing_as_its_options_say() {
    let (gone, _) = flood(&[]);
    assert!(gone.contains("reason=\"too_slow\""), "{gone}");
    for policy in ["drop-oldest", "drop-newest"] {
        let (gone, stats) = flood(&["--outbox=2", "--outbox-bytes=1M", &format!("--overflow={policy}")]);
        // The server has received everything that the client sent.
        assert!(gone.contains(&format!("messages_in={FLOOD}")), "{policy}: {gone}");
        assert!(!gone.contains("too_slow"), "{policy}: {gone}");
        if policy == "drop-oldest" {
            assert!(!stats.contains("messages_dropped=0"), "{policy}: {stats}");
        }
    }
    run(ECHO, &["--outbox=0"], "").failed_with("peeloff-echo", 2, "--outbox");
}

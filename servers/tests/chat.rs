//! `peeloff-chat`: what members type and read, in one room over several transports.

#[path = "support/member.rs"]
mod member;
mod support;

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use member::{Member, client};
use peeloff_servers::chat::proof::answer;
use support::{CHAT, DEADLINE, ECHO, NC, Program, run, start_chat};

const LISTENERS: [&str; 8] = [
    "--listen",
    "udp://127.0.0.1:0",
    "--listen",
    "dtls://127.0.0.1:0",
    "--listen",
    "tcp://127.0.0.1:0",
    "--listen",
    "tls://127.0.0.1:0",
];

/// Turns off the chat's limits that a crowd would reach. A member that only reads is idle, and a crowd may take
/// minutes.
const CROWD: [&str; 6] = ["--flood", "off", "--announce-up-to", "0", "--idle-timeout", "off"];

/// Starts a server with a listener for each transport that every kernel has.
fn start(options: &[&str]) -> (Program, Vec<String>) {
    start_chat(&[&LISTENERS[..], options].concat())
}

/// Returns `host:port`, which other programs expect.
fn place(address: &str) -> &str {
    address.split_once("//").unwrap().1
}

#[test]
fn netcat_and_openssl_can_type_it() {
    let (_server, addresses) = start(&[]);
    let mut nc = Program::start(NC, &["--wait", "off", &addresses[0]]);
    nc.write("first\n");
    let question = nc.line();
    nc.write(&answer(&question).unwrap());
    assert_eq!(nc.line(), "* you are guest1; /help lists the commands");
    assert_eq!(nc.line(), "* you joined lobby; nobody else is here");
    assert_eq!(nc.line(), "* nobody else is in lobby to hear that");
    let mut openssl =
        Program::start("openssl", &["s_client", "-dtls1_2", "-quiet", "-connect", place(&addresses[1])]);
    assert_eq!(openssl.line(), "* you are guest2; /help lists the commands");
    assert_eq!(openssl.line(), "* you joined lobby; here already: guest1");
    assert_eq!(nc.line(), "* guest2 joined lobby");
    openssl.write("/nick Ödön\n");
    assert_eq!(openssl.line(), "* you are Ödön now");
    assert_eq!(nc.line(), "* guest2 is Ödön now");
    openssl.write("hello from openssl\n");
    assert_eq!(nc.line(), "[lobby] Ödön: hello from openssl");
    nc.write("/msg ödön hello back\n");
    assert_eq!(nc.line(), "(to Ödön) hello back");
    assert_eq!(openssl.line(), "(guest1) hello back");
    openssl.write("/quit\n");
    assert_eq!(nc.line(), "* Ödön left lobby");
    let mut openssl = Program::start("openssl", &["s_client", "-quiet", "-connect", place(&addresses[3])]);
    assert_eq!(nc.line(), "* guest3 joined lobby");
    openssl.write("and with TLS\n");
    assert_eq!(nc.line(), "[lobby] guest3: and with TLS");
    let mut tcp = Program::start(NC, &["--wait", "off", &addresses[2]]);
    assert_eq!(nc.line(), "* guest4 joined lobby");
    tcp.write("and without\n");
    assert_eq!(nc.line(), "[lobby] guest4: and without");
}

#[test]
fn the_chat_client_keeps_the_line_that_is_being_typed() {
    let (server, addresses) = start(&[]);
    let mut other = Member::come(&client(), &addresses[1]);
    // script(1) makes a terminal for it.
    let command = format!("stty cols 80 rows 24; exec {NC} --chat --insecure {}", addresses[3]);
    let mut terminal = Program::start("script", &["-qec", &command, "/dev/null"]);
    other.expect("* guest2 joined");
    terminal.write("/nick typist\r");
    assert_eq!(other.line(), "* guest2 is typist now");
    terminal.write("half a ");
    other.write("hello");
    // The line arrives, and the prompt is shown again with the text typed so far.
    while !terminal.line().contains("[lobby] guest1: hello") {}
    terminal.write("line\r");
    assert_eq!(other.line(), "[lobby] typist: half a line");
    server.signal("TERM");
    while !terminal.line().contains("* the server shuts down") {}
    assert_eq!(terminal.wait().code, Some(0));
}

#[test]
fn the_chat_client_without_a_terminal_passes_lines_on() {
    let (_server, addresses) = start(&[]);
    for address in &addresses {
        let mut nc = Program::start(NC, &["--chat", "--insecure", "--wait", "off", address]);
        nc.write("/nick piped\n");
        assert!(nc.line().starts_with("* you are guest"), "{address}");
        assert!(nc.line().starts_with("* you joined lobby; "), "{address}");
        assert_eq!(nc.line(), "* you are piped now", "{address}");
        nc.write("/nick done\n/quit\n");
        assert_eq!((nc.line(), nc.line()), ("* you are done now".to_owned(), "* goodbye".to_owned()));
    }
}

#[test]
fn without_the_proof_the_start_warns_and_every_peer_is_admitted() {
    let (mut server, addresses) = start(&["--no-udp-proof"]);
    server.stderr_line("--no-udp-proof: an attacker who forges an address");
    let mut nc = Program::start(NC, &["--wait", "off", &addresses[0]]);
    nc.write("first\n");
    assert_eq!(nc.line(), "* you are guest1; /help lists the commands");
}

#[test]
fn members_of_all_transports_meet_in_rooms() {
    let (_server, addresses) = start(&[]);
    let mut members: Vec<Member> = addresses.iter().map(|address| Member::come(&client(), address)).collect();
    for member in &mut members {
        member.write("/join kitchen");
        member.expect("* you joined kitchen");
    }
    for writer in 0..members.len() {
        members[writer].write(&format!("I am {writer}"));
        for reader in (0..members.len()).filter(|reader| *reader != writer) {
            let line = members[reader].expect("[kitchen] ");
            assert!(line.ends_with(&format!(": I am {writer}")), "{line}");
        }
    }
    members[0].write("/who");
    let listed = members[0].expect("= kitchen:");
    assert_eq!(listed.split(' ').count(), 2 + members.len(), "{listed}");
}

/// Checks that all members of a crowd, spread evenly over the addresses, receive everything that the others
/// write, in order. Each member writes `lines` lines in a row, and `at_a_time` members write at the same time:
/// the kernel's queues of datagrams are short, and datagrams that do not fit are lost.
fn everybody_hears_everything(addresses: &[String], crowd: usize, lines: usize, at_a_time: usize) {
    peeloff::raise_fd_limit().unwrap();
    let client = client();
    let mut members: Vec<Member> =
        (0..crowd).map(|number| Member::come(&client, &addresses[number % addresses.len()])).collect();
    // For each member that listens, the number of lines that it has received from each sender.
    let mut heard: Vec<HashMap<String, usize>> = vec![HashMap::new(); crowd];
    for group in (0..crowd).step_by(at_a_time) {
        let writers = group..(group + at_a_time).min(crowd);
        for number in 0..lines {
            for writer in writers.clone() {
                members[writer].write(&format!("{number}"));
            }
        }
        for (listener, member) in members.iter_mut().enumerate() {
            let own = usize::from(writers.contains(&listener));
            for _ in 0..(writers.len() - own) * lines {
                let line = member
                    .line_until(std::time::Instant::now() + DEADLINE)
                    .unwrap_or_else(|| panic!("{listener} {group} {:?}", member.peer()));
                let (who, number) =
                    line.strip_prefix("[lobby] ").and_then(|line| line.split_once(": ")).expect(&line);
                let next = heard[listener].entry(who.to_owned()).or_default();
                assert_eq!(number, next.to_string(), "{who} as heard by {listener}");
                *next += 1;
            }
        }
    }
    for counts in &heard {
        assert_eq!(counts.len(), crowd - 1);
        assert!(counts.values().all(|count| *count == lines));
    }
}

#[test]
fn five_hundred_members_hear_everything_in_order() {
    let (_server, addresses) = start(&CROWD);
    everybody_hears_everything(&addresses, 500, 2, 1);
}

/// The listeners of a kernel with SCTP.
const SCTP_LISTENERS: [&str; 6] = [
    "--listen",
    "sctp://127.0.0.1:0",
    "--listen",
    "sctp+tls://127.0.0.1:0",
    "--listen",
    "sctp+dtls://127.0.0.1:0",
];

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn a_hundred_members_on_five_transports_hear_everything_in_order() {
    let (_server, addresses) = start(&[&SCTP_LISTENERS[..2], &CROWD].concat());
    assert_eq!(addresses.len(), 5);
    everybody_hears_everything(&addresses, 100, 1, 1);
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn members_on_sctp_with_and_without_encryption_meet_the_others() {
    let (_server, addresses) = start(&[&SCTP_LISTENERS[..], &CROWD].concat());
    assert_eq!(addresses.len(), 7);
    everybody_hears_everything(&addresses, 14, 3, 14);
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn a_room_has_a_stream_of_its_own() {
    use peeloff::sctp::SendInfo;
    let options = [&SCTP_LISTENERS[..], &["--sctp-room-streams", "--sctp-tls-streams", "8"]].concat();
    let (_server, addresses) = start_chat(&options);
    let (_server, plain) = start_chat(&SCTP_LISTENERS[..2]);
    let mut settings = peeloff::sctp::Settings::default();
    settings.tls_streams = 8;
    for address in &addresses {
        let client = client().sctp(settings.clone());
        let (mut alice, mut bob) = (Member::come(&client, address), Member::come(&client, address));
        for room in ["kitchen", "cellar"] {
            for (member, stream) in [(&mut alice, 2), (&mut bob, 2)] {
                let stream = stream + u16::from(room == "cellar");
                member.write(&format!("/join {room}"));
                let joined = member.expect("* you joined");
                assert!(joined.starts_with(&format!("* you joined {room} on stream {stream}; ")), "{joined}");
            }
        }
        let how = SendInfo::default().stream(2);
        alice.peer().sctp().unwrap().send(b"on stream 2", &how).unwrap();
        let line = bob.expect("[");
        assert!(line.starts_with("[kitchen] ") && line.ends_with(": on stream 2"), "{line}");
        assert_eq!(bob.peer().message_info().unwrap().stream, 2);
        // Stream 0 belongs to the current room.
        alice.write("on stream 0");
        assert!(bob.expect("[").starts_with("[cellar] "));
        assert_eq!(bob.peer().message_info().unwrap().stream, 3);
        let how = SendInfo::default().stream(7);
        alice.peer().sctp().unwrap().send(b"nowhere", &how).unwrap();
        alice.expect("! no room of yours is on stream 7");
    }
    // Without the option, everything is on stream 0.
    let mut member = Member::come(&client(), &plain[0]);
    member.write("/join kitchen");
    let joined = member.expect("* you joined");
    assert!(joined.starts_with("* you joined kitchen; "), "{joined}");
}

/// A member on TCP whose kernel takes as little as can be, and who does not read.
/// Returns the largest resident memory that a process has ever had, in bytes.
fn peak_memory(process: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[test]
fn ten_megabytes_without_a_newline_take_no_memory() {
    let (server, addresses) = start(&[]);
    let mut other = Member::come(&client(), &addresses[1]);
    let mut stream = TcpStream::connect(place(&addresses[2])).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"hello\n").unwrap();
    assert_eq!(other.expect("[lobby]"), "[lobby] guest2: hello");
    let before = peak_memory(server.id());
    for _ in 0..160 {
        stream.write_all(&[b'x'; 65_536]).unwrap();
    }
    stream.write_all(b"\nstill here\n").unwrap();
    assert_eq!(other.expect("[lobby]"), "[lobby] guest2: still here");
    let grown = peak_memory(server.id()) - before;
    assert!(grown < 1 << 20, "{grown} bytes");
    let complaints = BufReader::new(stream).lines().map_while(Result::ok);
    let complaint = complaints.into_iter().find(|line| line.starts_with('!')).unwrap();
    assert_eq!(complaint, "! that line is longer than 1024 bytes: send it in several");
}

#[test]
fn a_first_message_is_asked_of_peers_of_an_echo_and_not_of_a_chat() {
    for (program, expected) in [(CHAT, "off"), (ECHO, "30s")] {
        let printed = run(program, &["--print-config"], "").stdout;
        assert!(printed.contains(&format!("first-message-timeout = \"{expected}\"")), "{printed}");
    }
}

#[test]
fn members_are_told_when_the_server_ends() {
    let (server, addresses) = start(&[]);
    let mut members: Vec<_> = addresses.iter().map(|address| Member::come(&client(), address)).collect();
    server.signal("TERM");
    for member in &mut members {
        member.expect("* the server shuts down");
    }
    let ended = server.wait();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn bad_input_is_one_sentence_and_exit_code_2() {
    let own = ["--listen", "udp://127.0.0.1:0"];
    let cases: &[(&[&str], &str)] = &[
        (&["--max-line", "9K"], "--max-line 9K is not usable: give 16 to 8K"),
        (&["--max-name", "7"], "--max-name 7 is not usable: give 8 to 64 characters"),
        (&["--max-rooms", "0"], "--max-rooms 0 is not usable: give 1 or more"),
        (&["--max-room-members", "0"], "--max-room-members 0 is not usable"),
        (&["--outbox", "0"], "--outbox 0 is not usable: give 1 to 65536"),
        (&["--flood", "5"], "such as 5/20, or off"),
        (&["--redis", "127.0.0.1:6379"], "write redis://HOST:6379"),
        (&["--redis", "rediss://127.0.0.1:6379"], "TLS to Redis is not built in"),
        (&["--redis", "redis://127.0.0.1:6379", "--origin", "a b"], "--origin \"a b\" is not a name"),
        (
            &["--redis", "redis://127.0.0.1:6379", "--redis-prefix", "a:b"],
            "--redis-prefix \"a:b\" is not a name",
        ),
        (&["--redis", "redis://127.0.0.1:6379", "--presence-timeout", "10ms"], "give 1s to 1h"),
    ];
    for (arguments, expected) in cases {
        run(CHAT, &[&own[..], arguments].concat(), "").failed_with("peeloff-chat", 2, expected);
    }
}

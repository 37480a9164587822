//! `peeloff-chat`: what members type and read, in one room over several transports.

#[path = "support/member.rs"]
mod member;
mod support;

use std::collections::HashMap;

use member::{Member, client};
use support::{CHAT, NC, Program, run, start_chat};

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

/// A server with a listener for each transport that this kernel surely has.
fn start(options: &[&str]) -> (Program, Vec<String>) {
    start_chat(&[&LISTENERS[..], options].concat())
}

/// `host:port`, as other programs take it.
fn place(address: &str) -> &str {
    address.split_once("//").unwrap().1
}

#[test]
fn netcat_and_openssl_can_type_it() {
    let (_server, addresses) = start(&[]);
    let mut nc = Program::start(NC, &["--wait", "off", &addresses[0]]);
    nc.write("first\n");
    assert_eq!(nc.line(), "* you are guest1; /help lists the commands");
    assert_eq!(nc.line(), "* you joined lobby");
    let mut openssl =
        Program::start("openssl", &["s_client", "-dtls1_2", "-quiet", "-connect", place(&addresses[1])]);
    assert_eq!(openssl.line(), "* you are guest2; /help lists the commands");
    assert_eq!(openssl.line(), "* you joined lobby");
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

/// How many lines each member writes in a row.
const LINES: usize = 3;
/// How many members write at a time: what they write fits the receive buffer of a UDP socket.
const WRITERS: usize = 25;

/// So many members, evenly over the addresses, all hear everything that the others write, in order.
fn everybody_hears_everything(addresses: &[String], crowd: usize) {
    peeloff::raise_fd_limit().unwrap();
    let client = client();
    let mut members: Vec<Member> =
        (0..crowd).map(|number| Member::come(&client, &addresses[number % addresses.len()])).collect();
    // Who said how many lines already, for each who listens.
    let mut heard: Vec<HashMap<String, usize>> = vec![HashMap::new(); crowd];
    for group in (0..crowd).step_by(WRITERS) {
        let writers = group..(group + WRITERS).min(crowd);
        for number in 0..LINES {
            for writer in writers.clone() {
                members[writer].write(&format!("{number}"));
            }
        }
        for (listener, member) in members.iter_mut().enumerate() {
            let own = usize::from(writers.contains(&listener));
            for _ in 0..(writers.len() - own) * LINES {
                let line = member.line();
                let (who, number) =
                    line.strip_prefix("[lobby] ").and_then(|line| line.split_once(": ")).expect(&line);
                let next = heard[listener].entry(who.to_owned()).or_default();
                assert_eq!(number, next.to_string(), "{who} as heard by {listener}");
                *next += 1;
            }
        }
    }
    for lines in &heard {
        assert_eq!(lines.len(), crowd - 1);
        assert!(lines.values().all(|count| *count == LINES));
    }
}

#[test]
fn five_hundred_members_hear_everything_in_order() {
    let (_server, addresses) = start(&["--flood", "off", "--announce-up-to", "0"]);
    everybody_hears_everything(&addresses, 500);
}

#[test]
fn who_writes_too_fast_is_not_heard() {
    let (_server, addresses) = start(&["--flood", "1/5"]);
    let (mut fast, mut other) =
        (Member::come_as("fast", &addresses[1]), Member::come_as("other", &addresses[1]));
    for number in 0..50 {
        fast.write(&format!("{number}"));
    }
    assert_eq!(fast.expect("!"), "! too fast, and not heard: write at most 1 lines a second");
    // Its name took the first of five.
    for number in 0..4 {
        assert_eq!(other.expect("[lobby]"), format!("[lobby] fast: {number}"));
    }
    other.write("/nick slow");
    assert_eq!(other.line(), "* you are slow now");
}

#[test]
fn a_line_that_is_too_long_is_refused_in_a_sentence() {
    let (_server, addresses) = start(&["--max-line", "64"]);
    for address in &addresses {
        let mut member = Member::come(&client(), address);
        member.write(&"x".repeat(16_000));
        assert_eq!(member.line(), "! that line is longer than 64 bytes: send it in several");
        member.peer().send(b"caf\xe9").unwrap();
        assert_eq!(member.line(), "! that line is not UTF-8: set your terminal to UTF-8");
        member.write("/frob");
        assert_eq!(member.line(), "! there is no command /frob: /help lists them, and //frob says /frob");
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
        (&["--redis", "redis://127.0.0.1:6379", "--origin", "a b"], "--origin \"a b\" is no name"),
        (
            &["--redis", "redis://127.0.0.1:6379", "--redis-prefix", "a:b"],
            "--redis-prefix \"a:b\" is no name",
        ),
        (&["--redis", "redis://127.0.0.1:6379", "--presence-timeout", "10ms"], "give 1s to 1h"),
    ];
    for (arguments, expected) in cases {
        run(CHAT, &[&own[..], arguments].concat(), "").failed_with("peeloff-chat", 2, expected);
    }
}

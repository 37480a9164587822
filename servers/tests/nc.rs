//! `peeloff-nc`: what it sends and prints in both directions, and its exit codes for scripts.

#[path = "support/nc_ends.rs"]
mod nc_ends;
mod support;

use std::fs;
use std::net::UdpSocket;
use std::process::Stdio;

use nc_ends::{all_are_served, hear_each_other, listen};
use peeloff_certificates::Authority;
use support::{DEADLINE, Directory, NC, Program, run, start_echo};

#[test]
fn both_ends_hear_each_other() {
    for (url, options) in [("udp://127.0.0.1:0", &[][..]), ("dtls://127.0.0.1:0", &["--insecure"][..])] {
        let server = hear_each_other(&[url], options);
        if url.starts_with("dtls") {
            // The close of the first peer ends the program.
            assert_eq!(server.wait().code, Some(0));
        } else {
            server.signal("TERM");
            assert_eq!(server.wait().code, Some(143));
        }
    }
}

#[test]
fn the_end_of_input_ends_the_conversation() {
    let (mut server, address) = listen(&["dtls://127.0.0.1:0"]);
    let client = run(NC, &["--insecure", "--wait", "0s", &address], "a\nb\n");
    assert_eq!(client.code, Some(0), "{client:?}");
    assert_eq!((server.line(), server.line()), ("a".to_owned(), "b".to_owned()));
    let server = server.wait();
    assert_eq!(server.code, Some(0), "{server:?}");
}

#[test]
fn a_listener_waits_for_quiet_if_told_to() {
    let (mut server, address) = listen(&["udp://127.0.0.1:0", "--wait", "100ms"]);
    server.close_stdin();
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    peer.send_to(b"x\n", address.strip_prefix("udp://").unwrap()).unwrap();
    let ended = server.wait();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "x\n"), "{ended:?}");
}

#[test]
fn a_listener_that_is_kept_open_serves_all_peers() {
    all_are_served("dtls://127.0.0.1:0", &["--insecure"]);
}

#[test]
fn blocks_keep_their_size() {
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    peer.set_read_timeout(Some(DEADLINE)).unwrap();
    let address = format!("udp://{}", peer.local_addr().unwrap());
    let ended = run(NC, &["--block", "4", "--wait", "0s", &address], "ab\ncdefgh");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let mut buffer = [0; 16];
    for expected in ["ab\nc", "defg", "h"] {
        let length = peer.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], expected.as_bytes());
    }
}

#[test]
fn a_long_line_is_sent_in_pieces() {
    let (_server, address) = start_echo(&["--listen", "dtls://127.0.0.1:0"]);
    let line = format!("{}\n", "0123456789".repeat(4000));
    let ended = run(NC, &["--insecure", &address], &line);
    assert_eq!((ended.code, ended.stdout.len()), (Some(0), line.len()), "{}", ended.stderr);
    assert!(ended.stdout == line);
}

#[test]
fn exit_code_1_is_an_io_error() {
    let (_server, address) = start_echo(&["--listen", "udp://127.0.0.1:0"]);
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut client = Program::start_with_outputs(NC, &[&address], full.into(), Stdio::piped());
    client.write("x\n");
    client.wait().failed_with("peeloff-nc", 1, "cannot write to standard output");
}

#[test]
fn exit_code_2_is_bad_input() {
    let absent = "/nonexistent/file.pem";
    let cases: &[(&[&str], &str)] = &[
        (&["nowhere"], "has no scheme"),
        (&["dtls://[fe80::1]:4433"], "is link-local and needs its interface"),
        (&["udp://[fe80::1%nowhere0]:4433"], "not a network interface"),
        (&["--block", "0", "udp://127.0.0.1:9"], "--block 0"),
        (&["--block", "1M", "udp://127.0.0.1:9"], "more than a message can hold"),
        (&["--ca", absent, "dtls://127.0.0.1:9"], absent),
        (&["--cert", absent, "dtls://127.0.0.1:9"], "--cert needs --key"),
        (&["--psk", "alice", "dtls://127.0.0.1:9"], "write identity:hexkey"),
        (&["--wait", "2", "dtls://127.0.0.1:9"], "such as 500ms"),
        (&["-l", "udp://192.0.2.1:0"], "not an address of this host"),
    ];
    for (arguments, expected) in cases {
        run(NC, arguments, "").failed_with("peeloff-nc", 2, expected);
    }
}

#[test]
fn exit_code_3_is_an_untrusted_certificate() {
    let files = Directory::new("unverified");
    let authority = Authority::named("test authority");
    let cert = authority.certificate("server.example");
    let (chain, key) = (files.file("cert.pem", cert.pem()), files.file("key.pem", cert.key_pem()));
    let other = files.file("other.pem", Authority::named("other").pem());
    let ca = files.file("ca.pem", authority.pem());

    let (_server, address) = start_echo(&["--listen", "dtls://127.0.0.1:0"]);
    run(NC, &[&address], "x\n").failed_with(
        "peeloff-nc",
        3,
        "pass --ca FILE with its authority, or --insecure",
    );
    let (_server, address) = start_echo(&["--listen", "dtls://127.0.0.1:0", "--cert", &chain, "--key", &key]);
    run(NC, &["--ca", &other, &address], "x\n").failed_with("peeloff-nc", 3, "--ca");
    let misnamed = ["--ca", &ca, "--server-name", "other.example", &address];
    run(NC, &misnamed, "x\n").failed_with("peeloff-nc", 3, "does not verify");
    assert_eq!(run(NC, &["--ca", &ca, &address], "x\n").stdout, "x\n");
}

#[test]
fn exit_code_4_is_a_time_that_is_over() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = format!("dtls://{}", silent.local_addr().unwrap());
    run(NC, &["--timeout", "300ms", &address], "").failed_with("peeloff-nc", 4, "within 300ms");

    let (server, _) = listen(&["--timeout", "100ms", "dtls://127.0.0.1:0"]);
    let ended = server.wait();
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(ended.stderr.ends_with("peeloff-nc: no peer connected within --timeout\n"), "{ended:?}");
}

#[test]
fn a_client_that_changes_its_port_is_answered_there() {
    let options = ["--listen", "dtls://127.0.0.1:0", "--connection-ids", "8", "--server-id", "7"];
    let (_server, address) = start_echo(&options);
    let arguments = ["--insecure", "--connection-ids", "0", "--change-port-after", "500ms", "--wait", "off"];
    let mut client = Program::start(NC, &[&arguments[..], &[&address]].concat());
    client.write("before\n");
    assert_eq!(client.line(), "before");
    client.stderr_line("from 127.0.0.1:");
    for line in ["behind it", "and once more"] {
        client.write(&format!("{line}\n"));
        assert_eq!(client.line(), line);
    }
    client.signal("INT");
    assert_eq!(client.wait().code, Some(130));
}

#[test]
fn a_port_that_cannot_change_stays() {
    let (_server, address) = start_echo(&["--listen", "dtls://127.0.0.1:0"]);
    let arguments = ["--insecure", "--connection-ids", "0", "--change-port-after", "100ms", "--wait", "off"];
    let mut client = Program::start(NC, &[&arguments[..], &[&address]].concat());
    client.stderr_line("the port does not change");
    client.write("as ever\n");
    assert_eq!(client.line(), "as ever");
}

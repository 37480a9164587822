//! TCP and TLS with the programs: framings, proxies, and how a conversation ends.

#[path = "support/nc_ends.rs"]
#[allow(dead_code)]
mod nc_ends;
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};

use nc_ends::hear_each_other;
use peeloff_certificates::Authority;
use support::{DEADLINE, Directory, ECHO, NC, Program, run, start_echo};

/// Connects to a `tcp://` address, with a timeout for reads.
fn dial(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address.strip_prefix("tcp://").unwrap()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

#[test]
fn messages_come_back_with_every_framing() {
    for (listen, options) in [("tcp://127.0.0.1:0", &[][..]), ("tls://[::1]:0", &["--insecure"][..])] {
        for framing in ["raw", "lines", "length"] {
            let (_server, address) = start_echo(&["--listen", listen, "--framing", framing]);
            let arguments = [&["--framing", framing, &address], options].concat();
            let ended = run(NC, &arguments, "one\n\ntwo\n");
            assert_eq!(ended.stdout, "one\n\ntwo\n", "{listen} {framing}: {ended:?}");
            assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{listen} {framing}");
        }
    }
}

#[test]
fn a_silent_peer_is_disconnected_and_logged() {
    for framing in ["lines", "length"] {
        let (mut server, address) = start_echo(&[
            "--listen",
            "tcp://127.0.0.1:0",
            "--framing",
            framing,
            "--first-message-timeout",
            "300ms",
        ]);
        let mut silent = dial(&address);
        assert_eq!(silent.read(&mut [0; 8]).unwrap(), 0);
        let line = server.stderr_line("sent no message");
        assert!(line.contains("sent no message: the peer sent no first message in time"), "{line}");
        let client = silent.local_addr().unwrap();
        assert!(
            line.contains(&format!("peer={client}")) && line.contains(&format!("listener={address}")),
            "{line}"
        );
    }
}

#[test]
fn a_stream_of_a_megabyte_comes_back_as_it_was() {
    let (_server, address) = start_echo(&["--listen", "tls://127.0.0.1:0"]);
    let text: String = (0..100_000).map(|number| format!("{number:09}\n")).collect();
    let ended = run(NC, &["--insecure", "--block", "10000", &address], &text);
    assert_eq!((ended.code, ended.stdout.len()), (Some(0), text.len()), "{}", ended.stderr);
    assert!(ended.stdout == text);
}

#[test]
fn both_ends_of_nc_hear_each_other_and_the_end_of_one() {
    for (url, options) in [("tcp://127.0.0.1:0", &[][..]), ("tls://127.0.0.1:0", &["--insecure"][..])] {
        let server = hear_each_other(&[url], options);
        let ended = server.wait();
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
}

#[test]
fn a_peer_that_half_closes_gets_the_rest() {
    let (_server, address) = start_echo(&["--listen", "tcp://127.0.0.1:0"]);
    let mut stream = dial(&address);
    stream.write_all(b"to the last byte").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut back = String::new();
    stream.read_to_string(&mut back).unwrap();
    assert_eq!(back, "to the last byte");
}

#[test]
fn a_megabyte_goes_through_nc_as_it_is_read() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    let mut client = Program::start(NC, &["--wait", "off", &address]);
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let text = "0123456789abcde\n".repeat(1 << 16);
    // This is more than all buffers on the way can hold, so the call returns only if the other side reads.
    let reader = std::thread::spawn(move || {
        let mut back = vec![0; 1 << 20];
        stream.read_exact(&mut back).unwrap();
        (back, stream)
    });
    client.write(&text);
    let (back, stream) = reader.join().unwrap();
    assert!(back == text.as_bytes());
    drop(stream);
    assert_eq!(client.wait().code, Some(0));
}

#[test]
fn a_message_has_its_length_in_front_and_the_sender_of_one_that_is_too_long_is_told_by_a_reset() {
    let arguments = ["--listen", "tcp://127.0.0.1:0", "--framing", "length", "--max-message", "5"];
    let (server, address) = start_echo(&arguments);
    let mut stream = dial(&address);
    stream.write_all(b"\0\0\0\x05abcde\0\0\0\x01x").unwrap();
    let mut back = [0; 14];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"\0\0\0\x05abcde\0\0\0\x01x");
    stream.write_all(b"\0\0\0\x06abcdef").unwrap();
    let end = stream.read(&mut back).unwrap_err();
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
    server.signal("TERM");
    let ended = server.wait();
    assert!(ended.stderr.contains("the peer sent a message that is longer than 5 bytes"), "{ended:?}");
}

#[test]
fn lines_come_back_with_one_newline() {
    let (_server, address) = start_echo(&["--listen", "tcp://127.0.0.1:0", "--framing", "lines"]);
    let mut stream = dial(&address);
    stream.write_all(b"one\r\ntwo\n").unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    assert_eq!((lines.next().unwrap(), lines.next().unwrap()), ("one".to_owned(), "two".to_owned()));
}

#[test]
fn a_proxy_says_who_the_peer_is() {
    let mut server = Program::start(ECHO, &["--listen-proxied", "tcp://127.0.0.1:0", "-vv"]);
    let line = server.line();
    let mut stream = dial(line.strip_prefix("listening ").unwrap());
    // The header has version 2, the command PROXY, TCP over IPv4, and 12 bytes: 192.0.2.7:1000 is connected to
    // 192.0.2.1:2000.
    stream
        .write_all(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc0\0\x02\x01\x03\xe8\x07\xd0")
        .unwrap();
    stream.write_all(b"hello").unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello");
    drop(stream);
    server.stderr_line("192.0.2.7:1000");
    server.signal("TERM");
    let ended = server.wait();
    // The server had no other listener.
    assert_eq!((ended.code, ended.stdout.lines().count()), (Some(0), 1), "{ended:?}");
}

#[test]
fn openssl_talks_tls_with_the_echo_server() {
    let files = Directory::new("stream-openssl");
    let authority = Authority::named("test authority");
    let own = authority.certificate("server.example");
    let ca = files.file("ca.pem", authority.pem());
    let (cert, key) = (files.file("cert.pem", own.pem()), files.file("key.pem", own.key_pem()));
    let listen = ["--listen", "tls://127.0.0.1:0", "--cert", &cert, "--key", &key];
    let (_server, address) = start_echo(&listen);
    let address = address.strip_prefix("tls://").unwrap();
    for version in ["-tls1_2", "-tls1_3"] {
        let verify = ["-quiet", "-verify_return_error", "-CAfile", &ca, "-connect", address, version];
        let mut client = Command::new("openssl")
            .arg("s_client")
            .args(verify)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        client.stdin.as_mut().unwrap().write_all(b"hello\n").unwrap();
        let mut line = String::new();
        BufReader::new(client.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        client.kill().unwrap();
        client.wait().unwrap();
        assert_eq!(line, "hello\n", "{version}");
    }
}

#[test]
fn exit_code_3_is_a_port_without_a_listener() {
    // The port is taken by a connection, and no program listens there.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let address = format!("tcp://{}", connection.local_addr().unwrap());
    run(NC, &[&address], "").failed_with("peeloff-nc", 3, "nothing listens");
}

#[test]
fn exit_code_1_is_a_tls_connection_that_is_cut_short() {
    let (relay, server) =
        (TcpListener::bind("127.0.0.1:0").unwrap(), start_echo(&["--listen", "tls://127.0.0.1:0"]));
    let (_server, address) = server;
    let mut client = {
        let address = format!("tls://{}", relay.local_addr().unwrap());
        Program::start(NC, &["--insecure", "--wait", "off", &address])
    };
    let (down, _) = relay.accept().unwrap();
    let up = TcpStream::connect(address.strip_prefix("tls://").unwrap()).unwrap();
    let pump = |from: &TcpStream, to: &TcpStream| {
        let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut from, &mut to))
    };
    pump(&down, &up);
    pump(&up, &down);
    client.write("x\n");
    assert_eq!(client.line(), "x");
    // This is a FIN without close_notify, as anybody on the path can forge it.
    down.shutdown(Shutdown::Write).unwrap();
    client.wait().failed_with("peeloff-nc", 1, "without a close_notify");
}

#[test]
fn options_for_streams_are_refused_elsewhere() {
    let options: &[&[&str]] =
        &[&["--framing", "lines"], &["--max-message", "1K"], &["--max-pending", "1K"], &["--renegotiation"]];
    for option in options {
        let expected = format!("{} needs a tcp:// or tls:// URL", option[0]);
        let arguments = [&["--listen", "udp://127.0.0.1:0"], *option].concat();
        run(ECHO, &arguments, "").failed_with("peeloff-echo", 2, &expected);
        run(NC, &[&["udp://127.0.0.1:9"], *option].concat(), "").failed_with("peeloff-nc", 2, &expected);
    }
    let proxied = ["--listen-proxied", "udp://127.0.0.1:0"];
    run(ECHO, &proxied, "").failed_with("peeloff-echo", 2, "works with tcp:// and tls://");
    let tcp = ["--listen", "tcp://127.0.0.1:0"];
    for (option, value, expected) in [
        ("--framing", "words", "--framing: \"words\" is not known: write one of raw, lines, length"),
        ("--max-message", "0", "--max-message 0 is not usable: give 1 to 1024M"),
        ("--max-pending", "2048M", "--max-pending 2048M is not usable: give 1 to 1024M"),
    ] {
        run(ECHO, &[&tcp[..], &[option, value]].concat(), "").failed_with("peeloff-echo", 2, expected);
    }
}

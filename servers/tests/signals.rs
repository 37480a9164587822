//! Signals, and a log that nobody reads: neither blocks the service or an orderly end.

mod support;

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use support::{DEADLINE, Directory, ECHO, NC, Program, start_echo};

/// Fills the send buffer of `socket`, whose other end does not read.
fn fill(mut socket: UnixStream) {
    socket.set_nonblocking(true).unwrap();
    // The last writes are single bytes, so that not even a short line fits.
    for size in [4096, 1] {
        while socket.write(&[b'.'; 4096][..size]).is_ok() {}
    }
    socket.set_nonblocking(false).unwrap();
}

/// Starts a server whose log is blocked: its reader has stopped, and the buffer is full.
fn start_with_a_full_log(arguments: &[&str]) -> (Program, String, UnixStream) {
    let (reader, log) = UnixStream::pair().unwrap();
    let stderr = OwnedFd::from(log.try_clone().unwrap());
    fill(log);
    let mut server = Program::start_with_outputs(ECHO, arguments, Stdio::piped(), stderr.into());
    let line = server.line();
    (server, line.strip_prefix("listening ").unwrap().to_owned(), reader)
}

fn port_of(address: &str) -> u16 {
    address.rsplit(':').next().unwrap().parse().unwrap()
}

/// A peer of a UDP server, which has sent a message.
fn udp_peer(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(("127.0.0.1", port)).unwrap();
    socket.send(b"x").unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

#[test]
fn an_unread_log_delays_no_peer() {
    for verbosity in ["-q", "-v", "-vv"] {
        let listen =
            ["--listen", "udp://127.0.0.1:0", "--limit-loopback", "--max-peers-per-source", "30", verbosity];
        let (server, address, _reader) = start_with_a_full_log(&listen);
        let port = port_of(&address);
        // Each refusal and each new peer makes a line in the log.
        let peers: Vec<_> = (0..30).map(|_| udp_peer(port)).collect();
        for peer in &peers {
            assert_eq!(peer.recv(&mut [0; 16]).unwrap(), 1, "{verbosity}");
        }
        let refused = udp_peer(port);
        let first = &peers[0];
        first.send(b"still there").unwrap();
        assert_eq!(first.recv(&mut [0; 16]).unwrap(), 11, "{verbosity}");
        refused.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        refused.recv(&mut [0; 16]).expect_err("the cap is reached");
        server.signal("TERM");
        assert_eq!(server.wait().code, Some(0), "{verbosity}");
    }
}

#[test]
fn the_log_says_how_many_lines_were_lost_when_somebody_reads_again() {
    let (server, address, mut reader) =
        start_with_a_full_log(&["--listen", "udp://127.0.0.1:0", "--idle-timeout", "50ms", "-v"]);
    let port = port_of(&address);
    // These are more lines than the queue holds: two for each peer that comes and leaves.
    let own: Vec<_> = (0..2500)
        .map(|_| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.send_to(b"x", ("127.0.0.1", port)).unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            assert_eq!(socket.recv(&mut [0; 16]).unwrap(), 1);
            socket
        })
        .collect();
    drop(own);
    let read = thread::spawn(move || {
        let mut text = Vec::new();
        reader.read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    });
    server.signal("TERM");
    assert_eq!(server.wait().code, Some(0));
    let text = read.join().unwrap();
    assert!(
        text.contains("log lines were dropped because nobody read the log"),
        "{}",
        &text[text.len() - 2000..]
    );
    let lost = text.split("log_lines_lost=").nth(1).expect("the last statistics say so too");
    assert_ne!(lost.split_whitespace().next(), Some("0"));
}

#[test]
fn a_signal_that_comes_twice_at_once_counts_as_one() {
    for (first, second) in [("TERM", "TERM"), ("TERM", "INT"), ("INT", "TERM")] {
        let (server, address) = start_echo(&["--listen", "dtls://127.0.0.1:0"]);
        let mut client = Program::start(NC, &["--insecure", &address]);
        client.write("hello\n");
        assert_eq!(client.line(), "hello");
        let both = format!("kill -{first} {id}; kill -{second} {id}", id = server.id());
        assert!(Command::new("sh").args(["-c", &both]).status().unwrap().success());
        let ended = server.wait();
        assert_eq!(ended.code, Some(0), "{first} {second}: {ended:?}");
        assert!(ended.stderr.contains("shutting down") && ended.stderr.contains("ended"), "{ended:?}");
        // The server's close_notify ends the client.
        assert_eq!(client.wait().code, Some(0));
    }
}

#[test]
fn a_second_signal_that_comes_later_ends_at_once_and_says_so() {
    let (mut server, address) = start_echo(&["--listen", "tcp://127.0.0.1:0", "--drain-timeout", "1h"]);
    // This peer reads nothing, so its handler is blocked in a send and does not end.
    let mut client = TcpStream::connect(("127.0.0.1", port_of(&address))).unwrap();
    client.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    while client.write(&[b'x'; 65_536]).is_ok() {}
    server.signal("TERM");
    // From here on SIGHUP has no effect.
    server.signal("HUP");
    server.signal("HUP");
    server.stderr_line("shutting down");
    // Within half a second, a second signal would count as the first.
    thread::sleep(Duration::from_millis(600));
    server.signal("TERM");
    let ended = server.wait();
    assert_eq!(ended.code, Some(143), "{ended:?}");
    assert!(ended.stderr.contains("a second signal: ending at once"), "{ended:?}");
}

/// Starts a server on a terminal with these options.
fn start_on_a_terminal(arguments: &[&str]) -> (Program, OwnedFd) {
    let terminal = nix::pty::openpty(None, None).unwrap();
    let mut server = Program::start_with_input(ECHO, arguments, terminal.slave.into());
    server.line();
    (server, terminal.master)
}

#[test]
fn a_terminal_that_is_closed_ends_a_server_that_has_nothing_to_reload() {
    let (server, _terminal) = start_on_a_terminal(&["--listen", "udp://127.0.0.1:0"]);
    server.signal("HUP");
    let ended = server.wait();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("shutting down"), "{ended:?}");
}

#[test]
fn with_a_file_to_read_again_a_hang_up_is_a_reload_also_on_a_terminal() {
    let files = Directory::new("hang-up");
    let config = files.file("echo.toml", "listen = [\"udp://127.0.0.1:0\"]\n");
    let (mut server, _terminal) = start_on_a_terminal(&["--config", &config]);
    server.signal("HUP");
    server.stderr_line("reloaded");
    server.signal("TERM");
    assert_eq!(server.wait().code, Some(0));
}

#[test]
fn a_server_whose_reload_hangs_can_be_ended() {
    let files = Directory::new("hanging-reload");
    let psk = files.file("psk", "alice:00ff\n");
    let (server, _) = start_echo(&["--listen", "dtls://127.0.0.1:0", "--psk-file", &psk]);
    // A process that opens this pipe for reading waits for a writer, and there is none.
    std::fs::remove_file(&psk).unwrap();
    assert!(Command::new("mkfifo").arg(&psk).status().unwrap().success());
    for _ in 0..8 {
        server.signal("HUP");
    }
    server.signal("TERM");
    // Within half a second of the time when the program has seen the first signal, a second one counts as the first.
    // That time may be later than this one.
    while !server.has_ended() {
        thread::sleep(Duration::from_millis(600));
        server.signal("TERM");
    }
    assert_eq!(server.wait().code, Some(143));
}

#[test]
fn a_listening_nc_with_unread_errors_can_be_ended() {
    let (_reader, errors) = UnixStream::pair().unwrap();
    let stderr = OwnedFd::from(errors.try_clone().unwrap());
    fill(errors);
    let arguments = ["-l", "--keep-open", "udp://127.0.0.1:0"];
    let mut nc = Program::start_with_outputs(NC, &arguments, Stdio::piped(), stderr.into());
    // The program catches signals before it listens, and prints nothing before that.
    nc.wait_for_caught("TERM");
    nc.signal("TERM");
    assert_eq!(nc.wait().code, Some(143));
}

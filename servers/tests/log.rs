//! What the log says about peers: which ones came and left, which ones the server refused, and why a handshake
//! failed.

mod support;

use std::net::UdpSocket;
use std::process::Command;

use peeloff_certificates::Authority;
use support::{Directory, ECHO, NC, Program, run, start_echo};

fn psk_server(files: &Directory, scheme: &str, more: &[&str]) -> (Program, String) {
    let keys = files.file("keys", "alice:000102030405060708090a0b0c0d0e0f\n");
    let listen = format!("{scheme}://127.0.0.1:0");
    let mut arguments = vec!["--listen", &listen, "--psk-file", &keys];
    arguments.extend(more);
    start_echo(&arguments)
}

#[test]
fn a_wrong_key_and_an_unknown_identity_are_in_the_log_with_the_identity_asked_for() {
    let files = Directory::new("log-psk");
    for scheme in ["dtls", "tls"] {
        let (mut server, address) = psk_server(&files, scheme, &["--handshake-timeout", "2s"]);
        let wrong = run(NC, &["--psk", "alice:ff", "--timeout", "4s", &address], "x\n");
        assert_ne!(wrong.code, Some(0), "{wrong:?}");
        let line = server.stderr_line("a handshake failed");
        assert!(line.contains("psk:alice") && line.contains(" INFO ") && line.contains(&address), "{line}");
        if scheme == "dtls" {
            assert!(line.contains("the client's Finished does not verify"), "{line}");
            assert!(
                wrong.stderr.contains("it probably has another pre-shared key for psk:alice"),
                "{wrong:?}"
            );
        }
    }
    for scheme in ["dtls", "tls"] {
        let (mut server, address) = psk_server(&files, scheme, &[]);
        // OpenSSL's client accepts any identity.
        let port = address.rsplit(':').next().unwrap();
        let connect = format!("127.0.0.1:{port}");
        let version = if scheme == "dtls" { "-dtls1_2" } else { "-tls1_3" };
        let arguments =
            ["s_client", version, "-connect", &connect, "-psk", "00", "-psk_identity", "mal\nlory"];
        let ended =
            Command::new("openssl").args(arguments).stdin(std::process::Stdio::null()).output().unwrap();
        assert!(!ended.status.success());
        let line = server.stderr_line("a handshake failed");
        assert!(
            line.contains("there is no pre-shared key for the identity psk:mal\\nlory"),
            "{scheme}: {line}"
        );
    }
}

#[test]
fn a_refusal_names_the_peer_the_listener_and_the_cap() {
    let (mut server, address) =
        start_echo(&["--listen", "udp://127.0.0.1:0", "--limit-loopback", "--max-peers-per-source", "1"]);
    let port: u16 = address.rsplit(':').next().unwrap().parse().unwrap();
    let sockets: Vec<_> = (0..3).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    for socket in &sockets {
        socket.send_to(b"x", ("127.0.0.1", port)).unwrap();
    }
    let line = server.stderr_line("refused a new peer");
    let peer = format!("peer={}", sockets[1].local_addr().unwrap());
    assert!(line.contains(&peer) && line.contains(&format!("listener={address}")), "{line}");
    assert!(line.contains("reason=\"max_peers_per_source\""), "{line}");
    server.signal("TERM");
    let ended = server.wait();
    // The second refusal within that second was not logged, but counted.
    assert_eq!(ended.stderr.matches("refused a new peer").count(), 1, "{ended:?}");
    assert!(ended.stderr.contains("refused_max_peers_per_source=2"), "{ended:?}");
    assert!(ended.stderr.contains(" strays=0 "), "zeroes are there too: {ended:?}");
}

#[test]
fn arrivals_and_departures_are_logged_if_enabled() {
    let files = Directory::new("log-peers");
    let (mut server, address) = psk_server(&files, "dtls", &["-v"]);
    let ended = run(NC, &["--psk", "alice:000102030405060708090a0b0c0d0e0f", &address], "hello\n");
    assert_eq!(ended.stdout, "hello\n");
    let opened = server.stderr_line("a peer connected");
    let gone = server.stderr_line("an association ended");
    for line in [&opened, &gone] {
        assert!(
            line.contains("identity=\"psk:alice\"") && line.contains(&format!("listener={address}")),
            "{line}"
        );
    }
    for part in ["messages_in=1", "bytes_in=6", "messages_out=1", "bytes_out=6", "duration_ms="] {
        assert!(gone.contains(part), "{part}: {gone}");
    }
}

#[test]
fn a_chain_that_is_too_long_is_in_the_log_with_its_length() {
    let files = Directory::new("log-chain");
    let authority = Authority::named("authority");
    let (own, client) = (authority.certificate("server"), authority.certificate("client"));
    let ca = files.file("ca.pem", authority.pem());
    let (cert, key) = (files.file("s.pem", own.pem()), files.file("s.key", own.key_pem()));
    let (shown, shown_key) = (files.file("c.pem", client.pem()), files.file("c.key", client.key_pem()));
    for scheme in ["dtls", "tls"] {
        let listen = format!("{scheme}://127.0.0.1:0");
        let arguments =
            ["--listen", &listen, "--cert", &cert, "--key", &key, "--ca", &ca, "--max-cert-chain", "100"];
        let (mut server, address) = start_echo(&arguments);
        run(NC, &["--ca", &ca, "--cert", &shown, "--key", &shown_key, &address], "x\n");
        let line = server.stderr_line("a handshake failed");
        let expected =
            if scheme == "dtls" { "more than the 100 that are accepted" } else { "excessive message size" };
        assert!(line.contains(expected), "{line}");
    }
    run(ECHO, &["--max-cert-chain", "lots"], "").failed_with("peeloff-echo", 2, "--max-cert-chain");
}

#[test]
fn rust_log_says_what_is_logged_where_no_option_does() {
    let listen = ["--listen", "udp://127.0.0.1:0"];
    // The level in RUST_LOG, and that of the option, which takes precedence.
    for (variable, option, has_info) in
        [("error", None, false), ("info", None, true), ("", None, true), ("error", Some("--log=info"), true)]
    {
        let arguments: Vec<&str> = listen.into_iter().chain(option).collect();
        let mut server = Program::start_in([("RUST_LOG", variable)], ECHO, &arguments);
        server.address();
        server.signal("TERM");
        let ended = server.finish();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert_eq!(
            ended.stderr.contains("INFO"),
            has_info,
            "RUST_LOG={variable} {option:?}: {}",
            ended.stderr
        );
    }
    let server = Program::start_in([("RUST_LOG", "a=b=c")], ECHO, &listen);
    let ended = server.finish();
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("RUST_LOG=\"a=b=c\" is not a filter"), "{}", ended.stderr);
}

//! TLS over TCP with other programs: OpenSSL, GnuTLS and curl, as clients and as servers.

#[path = "support/programs.rs"]
mod programs;
mod support;

use std::fs;

use peeloff::{
    Address, Client, ClientAuth, ConnectError, EndKind, Error, Framing, Identity, Peer, PeerHandler, Server,
    TcpSettings,
};
use peeloff_certificates::{Authority, ed25519, p256, rsa};
use programs::{KEY_HEX, Program, file, greet, port, run, words};
use support::{DEADLINE, exchange, until};

/// A version in the spelling of OpenSSL, GnuTLS and curl.
struct Version {
    openssl: &'static str,
    gnutls: &'static str,
    curl: [&'static str; 3],
    name: &'static str,
}

const TLS12: Version = Version {
    openssl: "-tls1_2",
    gnutls: "-VERS-ALL:+VERS-TLS1.2",
    curl: ["--tlsv1.2", "--tls-max", "1.2"],
    name: "TLSv1.2",
};
const TLS13: Version = Version {
    openssl: "-tls1_3",
    gnutls: "-VERS-ALL:+VERS-TLS1.3",
    curl: ["--tlsv1.3", "--tls-max", "1.3"],
    name: "TLSv1.3",
};
const BOTH: [Version; 2] = [TLS12, TLS13];

fn start(identity: Option<Identity>, auth: ClientAuth, handler: impl PeerHandler) -> Server {
    programs::serve("tls://127.0.0.1:0", identity, auth, handler)
}

fn s_client(server: &Server, version: &Version, more: &[&str]) -> Vec<String> {
    let connect = format!("127.0.0.1:{}", port(server));
    words(&["s_client", version.openssl, "-quiet", "-connect", &connect], more)
}

fn gnutls(server: &Server, priority: &str, more: &[&str]) -> Vec<String> {
    words(&["-p", &port(server), "127.0.0.1", "--priority", priority], more)
}

fn normal(version: &Version) -> String {
    format!("NORMAL:{}", version.gnutls)
}

fn curl(server: &Server, version: &Version, more: &[&str]) -> Vec<String> {
    let url = format!("https://127.0.0.1:{}/", port(server));
    let base = ["--silent", "--show-error", "--no-buffer", "--noproxy", "*", "--http1.0", &url];
    words(&[&base[..], &version.curl].concat(), more)
}

#[test]
fn openssl_and_gnutls_exchange_lines_in_both_versions_with_both_key_types() {
    let authority = Authority::new();
    let ca = file("ca.pem", &authority.pem());
    let ca = ca.to_str().unwrap();
    for (kind, key) in [("P-256", p256()), ("RSA", rsa(2048))] {
        let server = start(Some(authority.issue("server", &key)), ClientAuth::None, support::echo);
        for version in &BOTH {
            let trusting = ["-CAfile", ca, "-verify_return_error"];
            let (found, seen) = run("openssl", &s_client(&server, version, &trusting), "hello over there");
            assert!(found, "openssl, {kind}, {}: {seen}", version.name);
            let arguments = gnutls(&server, &normal(version), &["--x509cafile", ca]);
            let (found, seen) = run("gnutls-cli", &arguments, "hello over there");
            assert!(found, "gnutls-cli, {kind}, {}: {seen}", version.name);
        }
        assert_eq!(server.handle().stats().handshakes, 4);
        server.handle().shutdown(DEADLINE);
    }
}

/// Answers one request of HTTP/1.0 with its own body, and closes (RFC 1945 §7.2.2: the answer ends with the
/// connection).
fn answer_once(peer: &mut Peer) -> Result<(), Error> {
    let (mut request, mut buffer) = (Vec::new(), [0; 16_384]);
    loop {
        let head = request.windows(4).position(|four| four == b"\r\n\r\n").map(|end| end + 4);
        if let Some(head) = head {
            let text = String::from_utf8_lossy(&request[..head]).to_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length = length.map_or(0, |length| length.trim().parse().unwrap());
            if request.len() >= head + length {
                peer.send(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nyou said: ")?;
                return peer.send(&request[head..]);
            }
        }
        match peer.recv(&mut buffer)? {
            Some(len) => request.extend_from_slice(&buffer[..len]),
            None => return Ok(()),
        }
    }
}

#[test]
fn curl_gets_an_answer_that_ends_with_the_connection() {
    let authority = Authority::new();
    let ca = file("ca.pem", &authority.pem());
    let body = "x".repeat(1_000_000) + " the end\n";
    let posted = format!("@{}", file("body", body.as_bytes()).display());
    for (kind, key) in [("P-256", p256()), ("RSA", rsa(2048))] {
        let server = start(Some(authority.issue("server", &key)), ClientAuth::None, answer_once);
        for version in &BOTH {
            let trusting = ["--cacert", ca.to_str().unwrap(), "--data-binary", &posted];
            let mut client = Program::start("curl", &curl(&server, version, &trusting));
            let answer = client.expect("you said: ");
            let what = format!("{kind}, {}", version.name);
            assert_eq!(answer.len() + 1, "you said: ".len() + body.len(), "{what}");
            // Nothing more follows: curl would complain about a truncated end.
            assert_eq!(client.line_with("curl:"), None, "{what}: {}", &client.seen[answer.len()..]);
        }
        let stats = until("both end", || {
            Some(server.handle().stats()).filter(|stats| stats.peers == 0 && stats.opened == 2)
        });
        assert_eq!((stats.handshakes, stats.ended(EndKind::ClosedByUs)), (2, 2));
        server.handle().shutdown(DEADLINE);
    }
}

#[test]
fn mutual_tls_admits_only_clients_with_a_certificate() {
    let authority = Authority::new();
    let auth = ClientAuth::Required(authority.bundle());
    let server = start(Some(authority.issue("server", &p256())), auth, greet);
    let (certificate, key) = authority.issue_pem("bob", &rsa(2048));
    let (certificate, key) = (file("bob.pem", &certificate), file("bob.key", &key));
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let (foreign, foreign_key) = Authority::new().issue_pem("bob", &p256());
    let (foreign, foreign_key) = (file("foreign.pem", &foreign), file("foreign.key", &foreign_key));
    let (foreign, foreign_key) = (foreign.to_str().unwrap(), foreign_key.to_str().unwrap());
    for version in &BOTH {
        let shown = ["-cert", certificate, "-key", key];
        let (found, seen) = run("openssl", &s_client(&server, version, &shown), "you are bob");
        assert!(found, "openssl, {}: {seen}", version.name);
        let shown = ["--insecure", "--x509certfile", certificate, "--x509keyfile", key];
        let (found, seen) = run("gnutls-cli", &gnutls(&server, &normal(version), &shown), "you are bob");
        assert!(found, "gnutls-cli, {}: {seen}", version.name);
        let shown = ["--insecure", "--http0.9", "--cert", certificate, "--key", key];
        let (found, seen) = run("curl", &curl(&server, version, &shown), "you are bob");
        assert!(found, "curl, {}: {seen}", version.name);

        let (found, seen) = run("openssl", &s_client(&server, version, &[]), "you are");
        assert!(!found, "openssl without a certificate, {}: {seen}", version.name);
        let shown = ["-cert", foreign, "-key", foreign_key];
        let (found, seen) = run("openssl", &s_client(&server, version, &shown), "you are");
        assert!(!found, "openssl with a foreign certificate, {}: {seen}", version.name);
        let arguments = gnutls(&server, &normal(version), &["--insecure"]);
        let (found, seen) = run("gnutls-cli", &arguments, "you are");
        assert!(!found, "gnutls-cli without a certificate, {}: {seen}", version.name);
    }
    assert_eq!(server.handle().stats().handshakes, 6);

    let url = &server.addresses()[0];
    let client = || Client::builder().ca(authority.bundle()).timeout(DEADLINE);
    let mut buffer = [0; 64];
    for key in [p256(), rsa(2048), ed25519()] {
        let mut peer = client().identity(authority.issue("alice", &key)).connect(url).unwrap();
        let len = peer.recv_timeout(&mut buffer, DEADLINE).unwrap().unwrap();
        assert_eq!(&buffer[..len], b"you are alice\n");
    }
    // In TLS 1.3 a client learns this only after its handshake.
    let foreign = Authority::new().issue("alice", &p256());
    for refused in [client(), client().identity(foreign)] {
        match refused.connect(url) {
            Ok(mut peer) => {
                let told = peer.recv_timeout(&mut buffer, DEADLINE).unwrap_err();
                assert!(matches!(told, Error::Ended(_)), "{told}");
            }
            Err(error) => assert!(matches!(error, ConnectError::Handshake { .. }), "{error}"),
        }
    }
    server.handle().shutdown(DEADLINE);
}

#[test]
fn a_preshared_key_is_proof_enough_in_both_versions() {
    let server = start(None, ClientAuth::None, greet);
    for version in &BOTH {
        let known = ["-psk_identity", "alice", "-psk", KEY_HEX];
        let (found, seen) = run("openssl", &s_client(&server, version, &known), "you are alice");
        assert!(found, "openssl, {}: {seen}", version.name);
        let unknown = ["-psk_identity", "mallory", "-psk", KEY_HEX];
        let (found, seen) = run("openssl", &s_client(&server, version, &unknown), "you are");
        assert!(!found, "openssl, an unknown peer, {}: {seen}", version.name);
        let wrong = ["-psk_identity", "alice", "-psk", "0102030405060708"];
        let (found, seen) = run("openssl", &s_client(&server, version, &wrong), "you are");
        assert!(!found, "openssl, a wrong key, {}: {seen}", version.name);
    }
    // ECDHE-PSK with TLS 1.2 is left out: gnutls-cli 3.7.9 crashes when it prints the parameters of such a
    // handshake.
    for (version, exchange) in [(&TLS12, "+PSK"), (&TLS13, "+ECDHE-PSK")] {
        let priority = format!("NORMAL:-KX-ALL:{exchange}:{}", version.gnutls);
        let known = ["--pskusername", "alice", "--pskkey", KEY_HEX];
        let (found, seen) = run("gnutls-cli", &gnutls(&server, &priority, &known), "you are alice");
        assert!(found, "gnutls-cli, {}: {seen}", version.name);
    }
    assert_eq!(server.handle().stats().handshakes, 4);
    server.handle().shutdown(DEADLINE);
}

#[test]
fn old_versions_and_suites_without_protection_are_refused() {
    let server = start(Some(Identity::self_signed().unwrap()), ClientAuth::None, support::echo);
    let connect = format!("127.0.0.1:{}", port(&server));
    for refused in [
        &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"][..],
        &["-tls1", "-cipher", "ALL:@SECLEVEL=0"],
        &["-tls1_2", "-cipher", "eNULL:@SECLEVEL=0"],
        &["-tls1_2", "-cipher", "aNULL:@SECLEVEL=0"],
        &["-tls1_2", "-cipher", "AES128-SHA"],
        &["-tls1_2", "-cipher", "AES128-GCM-SHA256"],
    ] {
        let arguments = words(&["s_client", "-quiet", "-connect", &connect], refused);
        let (found, seen) = run("openssl", &arguments, "hello over there");
        assert!(!found, "openssl {refused:?}: {seen}");
    }
    for refused in ["NORMAL:-VERS-ALL:+VERS-TLS1.1", "NORMAL:-VERS-ALL:+VERS-TLS1.0"] {
        let (found, seen) = run("gnutls-cli", &gnutls(&server, refused, &["--insecure"]), "hello over there");
        assert!(!found, "gnutls-cli {refused}: {seen}");
    }
    let old = Version { curl: ["--tlsv1.0", "--tls-max", "1.1"], ..TLS12 };
    let arguments = curl(&server, &old, &["--insecure", "--ciphers", "ALL:@SECLEVEL=0"]);
    let mut client = Program::start("curl", &arguments);
    client.expect("curl: (35)");
    let stats = server.handle().stats();
    assert_eq!(stats.handshakes, 0);
    until("all are gone", || (server.handle().stats().half_open == 0).then_some(()));
    server.handle().shutdown(DEADLINE);
}

/// Starts an `openssl s_client` that accepts commands: a line that consists of `K`, `k` or `R`.
fn commanded(server: &Server, version: &Version) -> Program {
    let connect = format!("127.0.0.1:{}", port(server));
    let mut client = Program::start("openssl", &["s_client", version.openssl, "-connect", &connect]);
    talk(&mut client, "hello over there");
    client
}

/// Sends a line and expects it back.
fn talk(client: &mut Program, line: &str) {
    client.say(line);
    client.expect(line);
}

#[test]
fn messages_arrive_between_the_key_updates_of_others() {
    let server = start(Some(Identity::self_signed().unwrap()), ClientAuth::None, support::echo);
    let mut client = commanded(&server, &TLS13);
    for round in 0..150 {
        // Update the keys with an answer, and without one.
        for update in ["K", "k"] {
            client.say(update);
            client.expect("KEYUPDATE");
            talk(&mut client, &format!("after {update}, round {round}"));
        }
    }
    let mut client =
        Program::start("gnutls-cli", &gnutls(&server, &normal(&TLS13), &["--insecure", "--inline-commands"]));
    // The client sends at most eight answers a second.
    for round in 0..5 {
        client.say("^rekey^");
        client.expect("Rekey was completed");
        talk(&mut client, &format!("after a new key, round {round}"));
    }
    assert_eq!(server.handle().stats().peers, 2);
    server.handle().shutdown(DEADLINE);
}

#[test]
fn a_peer_that_wants_to_renegotiate_is_told_that_it_may_not() {
    let server = start(Some(Identity::self_signed().unwrap()), ClientAuth::None, support::echo);
    // OpenSSL's client ends when it is told so.
    let mut client = commanded(&server, &TLS12);
    client.say("R");
    client.expect("RENEGOTIATING");
    client.say("hello again");
    client.expect("no renegotiation");
    // GnuTLS's client asks again and again: the session stays open.
    let mut stubborn =
        Program::start("gnutls-cli", &gnutls(&server, &normal(&TLS12), &["--insecure", "--inline-commands"]));
    talk(&mut stubborn, "hello over there");
    stubborn.say("^renegotiate^");
    for _ in 0..3 {
        stubborn.expect("No renegotiation is allowed");
    }
    drop((client, stubborn));
    let stats = until("both end", || Some(server.handle().stats()).filter(|stats| stats.peers == 0));
    assert_eq!((stats.handshakes, stats.handler_panics), (2, 0));
    server.handle().shutdown(DEADLINE);
}

#[test]
fn others_may_renegotiate_eight_times_where_that_is_allowed() {
    let mut settings = TcpSettings::default();
    settings.renegotiation = true;
    let server = Server::builder()
        .listen("tls://127.0.0.1:0")
        .identity(Identity::self_signed().unwrap())
        .tcp(settings)
        .start(support::echo)
        .unwrap();
    let mut client = commanded(&server, &TLS12);
    for round in 1..=8 {
        client.say("R");
        client.expect("RENEGOTIATING");
        talk(&mut client, &format!("round {round}"));
    }
    client.say("R");
    client.expect("RENEGOTIATING");
    client.say("round 9");
    assert_eq!(client.line_with("round 9"), None, "it may renegotiate again and again");
    let stats = until("it ends", || Some(server.handle().stats()).filter(|stats| stats.peers == 0));
    assert_eq!(stats.ended(EndKind::Protocol), 1, "{stats:?}");

    let arguments = gnutls(&server, &normal(&TLS12), &["--insecure", "--inline-commands"]);
    let mut client = Program::start("gnutls-cli", &arguments);
    for round in 1..=8 {
        client.say("^renegotiate^");
        client.expect("ReHandshake was completed");
        talk(&mut client, &format!("round {round}"));
    }
    server.handle().shutdown(DEADLINE);
}

/// The framing of lines, because these servers echo lines.
fn lines() -> TcpSettings {
    let mut settings = TcpSettings::default();
    settings.framing = Framing::Lines;
    settings
}

#[test]
fn our_client_talks_to_an_openssl_server() {
    let authority = Authority::new();
    for (kind, key) in [("P-256", p256()), ("RSA", rsa(2048))] {
        let (certificate, key) = authority.issue_pem("server", &key);
        let (certificate, key) = (file("server.pem", &certificate), file("server.key", &key));
        for version in &BOTH {
            let arguments = words(
                &["s_server", "-rev", "-accept", "127.0.0.1:0", version.openssl],
                &["-cert", certificate.to_str().unwrap(), "-key", key.to_str().unwrap()],
            );
            let mut server = Program::start("openssl", &arguments);
            let accept = server.expect("ACCEPT");
            let url = format!("tls://{}", accept.split_whitespace().last().unwrap());
            let client = Client::builder().tcp(lines()).timeout(DEADLINE);
            let error = client.clone().ca(Authority::new().bundle()).connect(&url).unwrap_err();
            assert!(matches!(error, ConnectError::Unverified { .. }), "{error}");
            let mut peer = client.ca(authority.bundle()).connect(&url).unwrap();
            let mut buffer = [0; 64];
            for (said, heard) in [("hello", "olleh"), ("over there", "ereht revo")] {
                peer.send(said.as_bytes()).unwrap();
                let len = peer.recv_timeout(&mut buffer, DEADLINE).unwrap().unwrap();
                assert_eq!(&buffer[..len], heard.as_bytes(), "{kind}, {}", version.name);
            }
            // The server ends the connection at this line.
            peer.send(b"CLOSE").unwrap();
            assert_eq!(peer.recv_timeout(&mut buffer, DEADLINE).unwrap(), None);
        }
    }
}

#[test]
fn our_client_talks_to_a_gnutls_server() {
    let authority = Authority::new();
    for (kind, key) in [("P-256", p256()), ("RSA", rsa(2048))] {
        let (certificate, key) = authority.issue_pem("server", &key);
        let (certificate, key) = (file("server.pem", &certificate), file("server.key", &key));
        for version in &BOTH {
            let arguments = words(
                &["--echo", "-p", "0", "--disable-client-cert", "--priority", &normal(version)],
                &["--x509certfile", certificate.to_str().unwrap(), "--x509keyfile", key.to_str().unwrap()],
            );
            let mut server = Program::start("gnutls-serv", &arguments);
            server.expect("Echo Server listening on IPv4");
            let url: Address = format!("tls://127.0.0.1:{}", listening_port(server.id())).parse().unwrap();
            let client = Client::builder().ca(authority.bundle()).tcp(lines()).timeout(DEADLINE);
            let mut peer = client.connect(&url).unwrap();
            for message in [&b"hello"[..], b"over there"] {
                exchange(&mut peer, message);
            }
            let cipher = peer.cipher().unwrap().to_owned();
            assert_eq!(cipher.starts_with("TLS_"), version.name == TLS13.name, "{kind}: {cipher}");
            peer.close();
        }
    }
}

/// Returns the port that a process listens on for IPv4. The process lets the kernel choose one, and does not
/// print it.
fn listening_port(process: u32) -> u16 {
    let sockets = || {
        let entries = fs::read_dir(format!("/proc/{process}/fd")).unwrap().flatten();
        entries.filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned();
            Some(target.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
    };
    until("it listens", || {
        let mine: Vec<String> = sockets().collect();
        let table = fs::read_to_string(format!("/proc/{process}/net/tcp")).unwrap();
        table.lines().skip(1).find_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let listens = columns[3] == "0A" && mine.iter().any(|inode| inode == columns[9]);
            let port = columns[1].split_once(':')?.1;
            listens.then(|| u16::from_str_radix(port, 16).unwrap())
        })
    })
}

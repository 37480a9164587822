//! Other clients, of OpenSSL, GnuTLS and Mbed TLS, and peeloff's own client, with every kind of credentials.

#[path = "support/programs.rs"]
mod programs;
mod support;

use std::time::Instant;

use peeloff::{Client, ClientAuth, ConnectError, Identity, PeerHandler, Server};
use peeloff_certificates::{Authority, ed25519, p256, rsa};
use programs::{KEY, KEY_HEX, file, greet, port, run, words};
use support::{DEADLINE, assert_no_retransmission, exchange};

fn start(identity: Option<Identity>, auth: ClientAuth, handler: impl PeerHandler) -> Server {
    programs::serve("dtls://127.0.0.1:0", identity, auth, handler)
}

fn s_client(server: &Server, more: &[&str]) -> Vec<String> {
    let connect = format!("127.0.0.1:{}", port(server));
    let base = ["s_client", "-dtls1_2", "-quiet", "-connect", &connect];
    words(&base, more)
}

fn gnutls(server: &Server, more: &[&str]) -> Vec<String> {
    let port = port(server);
    words(&["--udp", "-p", &port, "127.0.0.1"], more)
}

#[test]
fn openssl_and_gnutls_exchange_lines_with_both_key_types() {
    let authority = Authority::new();
    let ca = file("ca.pem", &authority.pem());
    let ca = ca.to_str().unwrap();
    for (kind, key) in [("P-256", p256()), ("RSA", rsa(2048))] {
        let began = Instant::now();
        let server = start(Some(authority.issue("server", &key)), ClientAuth::None, support::echo);
        let (found, seen) =
            run("openssl", &s_client(&server, &["-CAfile", ca, "-verify_return_error"]), "hello over there");
        assert!(found, "openssl, {kind}: {seen}");
        let (found, seen) = run("gnutls-cli", &gnutls(&server, &["--x509cafile", ca]), "hello over there");
        assert!(found, "gnutls-cli, {kind}: {seen}");
        let mut client = Client::builder().ca(authority.bundle()).connect(&server.addresses()[0]).unwrap();
        exchange(&mut client, b"hello");
        client.close();
        assert_no_retransmission(&server.handle().stats(), began.elapsed(), kind);
        server.handle().shutdown(DEADLINE);
    }
}

#[test]
fn mbed_tls_exchanges_lines_with_both_key_types() {
    let python = std::env::var("PEELOFF_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/mbedtls_echo.py");
    for key in [p256(), rsa(2048)] {
        let identity = Authority::new().issue("server", &key);
        let server = start(Some(identity), ClientAuth::None, support::echo);
        let arguments = [script.to_owned(), "127.0.0.1".to_owned(), port(&server)];
        let (found, seen) = run(&python, &arguments, "hello from mbedtls");
        assert!(found, "python-mbedtls must be installed for {python} (scripts/test does it): {seen}");
        server.handle().shutdown(DEADLINE);
    }
}

#[test]
fn mutual_tls_admits_only_clients_with_a_certificate() {
    let authority = Authority::new();
    let auth = ClientAuth::Required(authority.bundle());
    let server = start(Some(authority.issue("server", &p256())), auth, greet);
    let url = &server.addresses()[0];
    let client = || Client::builder().ca(authority.bundle());
    for key in [p256(), rsa(2048), ed25519()] {
        let mut peer = client().identity(authority.issue("alice", &key)).connect(url).unwrap();
        let mut buffer = [0; 64];
        let len = peer.recv_timeout(&mut buffer, DEADLINE).unwrap().unwrap();
        assert_eq!(&buffer[..len], b"you are alice\n");
    }
    let error = client().connect(url).unwrap_err();
    assert!(matches!(error, ConnectError::Handshake { .. }), "{error}");
    let foreign = Authority::new().issue("alice", &p256());
    let error = client().identity(foreign).connect(url).unwrap_err();
    assert!(matches!(error, ConnectError::Handshake { .. }), "{error}");

    let (certificate, key) = authority.issue_pem("bob", &rsa(2048));
    let (certificate, key) = (file("bob.pem", &certificate), file("bob.key", &key));
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let (found, seen) =
        run("openssl", &s_client(&server, &["-cert", certificate, "-key", key]), "you are bob");
    assert!(found, "openssl: {seen}");
    let shown = ["--insecure", "--x509certfile", certificate, "--x509keyfile", key];
    let (found, seen) = run("gnutls-cli", &gnutls(&server, &shown), "you are bob");
    assert!(found, "gnutls-cli: {seen}");
    let (found, seen) = run("openssl", &s_client(&server, &[]), "you are");
    assert!(!found, "openssl without a certificate: {seen}");
    server.handle().shutdown(DEADLINE);
}

#[test]
fn an_optional_certificate_may_be_missing_but_not_foreign() {
    let authority = Authority::new();
    let auth = ClientAuth::Optional(authority.bundle());
    let server = start(Some(authority.issue("server", &p256())), auth, greet);
    let client = || Client::builder().ca(authority.bundle());
    let url = &server.addresses()[0];
    for (identity, greeting) in
        [(None, "you are nobody\n"), (Some(authority.issue("alice", &p256())), "you are alice\n")]
    {
        let client = identity.map_or_else(client, |identity| client().identity(identity));
        let mut peer = client.connect(url).unwrap();
        let mut buffer = [0; 64];
        let len = peer.recv_timeout(&mut buffer, DEADLINE).unwrap().unwrap();
        assert_eq!(&buffer[..len], greeting.as_bytes());
    }
    let foreign = client().identity(Authority::new().issue("alice", &p256()));
    assert!(matches!(foreign.connect(url).unwrap_err(), ConnectError::Handshake { .. }));
    server.handle().shutdown(DEADLINE);
}

#[test]
fn a_preshared_key_is_proof_enough() {
    let server = start(None, ClientAuth::None, greet);
    let url = &server.addresses()[0];
    let mut peer = Client::builder().psk(b"alice", KEY).connect(url).unwrap();
    let mut buffer = [0; 64];
    let len = peer.recv_timeout(&mut buffer, DEADLINE).unwrap().unwrap();
    assert_eq!(&buffer[..len], b"you are alice\n");

    let (found, seen) =
        run("openssl", &s_client(&server, &["-psk_identity", "alice", "-psk", KEY_HEX]), "you are alice");
    assert!(found, "openssl: {seen}");
    // ECDHE-PSK is left out: gnutls-cli 3.7.9 crashes when it prints the parameters of such a handshake.
    let priority = "NORMAL:-KX-ALL:+PSK:-VERS-ALL:+VERS-DTLS1.2";
    let psk = ["--pskusername", "alice", "--pskkey", KEY_HEX, "--priority", priority];
    let (found, seen) = run("gnutls-cli", &gnutls(&server, &psk), "you are alice");
    assert!(found, "gnutls-cli: {seen}");

    let unknown_peer = Client::builder().psk(b"mallory", KEY).connect(url).unwrap_err();
    assert!(matches!(unknown_peer, ConnectError::Handshake { .. }), "{unknown_peer}");
    let wrong = Client::builder().psk(b"alice", b"a wrong key").timeout(std::time::Duration::from_secs(3));
    assert!(wrong.connect(url).is_err());
    server.handle().shutdown(DEADLINE);
}

#[test]
fn a_client_takes_only_the_server_it_asked_for() {
    let authority = Authority::new();
    let server = start(Some(authority.issue("server", &p256())), ClientAuth::None, support::echo);
    let url = &server.addresses()[0];
    let foreign = Client::builder().ca(Authority::new().bundle()).connect(url).unwrap_err();
    assert!(matches!(foreign, ConnectError::Unverified { .. }), "{foreign}");
    let system = Client::builder().connect(url).unwrap_err();
    assert!(matches!(system, ConnectError::Unverified { .. }), "{system}");
    let client = || Client::builder().ca(authority.bundle());
    let misnamed = client().server_name("example.org").connect(url).unwrap_err();
    assert!(matches!(misnamed, ConnectError::Unverified { .. }), "{misnamed}");
    exchange(&mut client().server_name("localhost").connect(url).unwrap(), b"hello");
    exchange(&mut Client::builder().danger_accept_any_certificate().connect(url).unwrap(), b"hello");
    server.handle().shutdown(DEADLINE);
}

#[test]
fn old_versions_and_suites_without_protection_are_refused() {
    let server = start(Some(Identity::self_signed().unwrap()), ClientAuth::None, support::echo);
    let connect = format!("127.0.0.1:{}", port(&server));
    for refused in [
        &["-dtls1", "-cipher", "ALL:@SECLEVEL=0"][..],
        &["-dtls1_2", "-cipher", "eNULL:@SECLEVEL=0"],
        &["-dtls1_2", "-cipher", "aNULL:@SECLEVEL=0"],
        &["-dtls1_2", "-cipher", "AES128-SHA"],
    ] {
        let arguments = words(&["s_client", "-quiet", "-connect", &connect], refused);
        let (found, seen) = run("openssl", &arguments, "hello over there");
        assert!(!found, "{refused:?}: {seen}");
    }
    assert_eq!(server.handle().stats().handshakes, 0);
    server.handle().shutdown(DEADLINE);
}

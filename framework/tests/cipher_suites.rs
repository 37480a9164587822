//! The cipher suites and groups that servers and clients negotiate with other implementations.

#[path = "support/programs.rs"]
mod programs;
#[path = "support/s_client.rs"]
mod s_client;
mod support;

use peeloff::{CipherSuites, Client, Credentials, Identity, IdentityError, Server, StartError};
use peeloff_certificates::{Authority, p256, rsa};
use programs::{KEY, KEY_HEX, Program, file, run};
use s_client::s_client;
use support::{DEADLINE, echo, exchange};

/// Every suite of DTLS 1.2, by OpenSSL's name.
const SUITES: &[&str] = &[
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-CCM",
    "ECDHE-ECDSA-AES256-CCM",
    "ECDHE-ECDSA-AES128-CCM8",
    "ECDHE-ECDSA-AES256-CCM8",
    "ECDHE-PSK-CHACHA20-POLY1305",
    "PSK-AES128-GCM-SHA256",
    "PSK-AES256-GCM-SHA384",
    "PSK-CHACHA20-POLY1305",
    "PSK-AES128-CCM",
    "PSK-AES256-CCM",
    "PSK-AES128-CCM8",
    "PSK-AES256-CCM8",
];

fn suites(text: &str) -> CipherSuites {
    text.parse().unwrap()
}

/// Starts a server at this URL with a certificate and a pre-shared key.
fn start(url: &str, identity: Identity, credentials: Credentials) -> Result<Server, StartError> {
    let known = |name: &[u8]| (name == b"alice").then(|| KEY.to_vec());
    let credentials = credentials.identity(identity).psk(known);
    Server::builder().listen(url).credentials(credentials).start(echo)
}

/// Returns whether OpenSSL's client gets its line back from a server with this suite.
fn agrees(server: &Server, suite: &str, more: &[&str]) -> bool {
    let list = format!("{suite}:@SECLEVEL=0");
    let mut arguments = vec!["-cipher", &list, "-psk_identity", "alice", "-psk", KEY_HEX];
    arguments.extend(more);
    let seen = s_client(&server.addresses()[0], &arguments, "hello over there");
    seen.contains("\nhello over there\n") && seen.contains(&format!("Cipher is {suite}"))
}

#[test]
fn openssls_client_agrees_on_each_suite_that_is_allowed() {
    let every = suites(&SUITES.join(":"));
    let authority = Authority::new();
    let serve = |key| {
        let credentials = Credentials::new().cipher_suites(every.clone());
        start("dtls://127.0.0.1:0", authority.issue("server", &key), credentials).unwrap()
    };
    let (ecdsa, other) = (serve(p256()), serve(rsa(2048)));
    for suite in SUITES {
        let server = if suite.contains("RSA") && !suite.contains("ECDSA") { &other } else { &ecdsa };
        assert!(agrees(server, suite, &[]), "{suite}");
    }
    [ecdsa, other].iter().for_each(|server| _ = server.handle().shutdown(DEADLINE));
}

#[test]
fn only_the_constrained_profile_has_short_tags() {
    let serve = |suites| {
        let credentials = Credentials::new().cipher_suites(suites);
        start("dtls://127.0.0.1:0", Identity::self_signed().unwrap(), credentials).unwrap()
    };
    let (usual, constrained) = (serve(CipherSuites::default()), serve(CipherSuites::constrained()));
    for suite in ["PSK-AES128-CCM8", "ECDHE-ECDSA-AES128-CCM8"] {
        assert!(!agrees(&usual, suite, &[]), "{suite}");
        assert!(agrees(&constrained, suite, &[]), "{suite}");
    }
    assert!(!agrees(&constrained, "PSK-AES256-CCM8", &[]), "it is not in the profile");
    [usual, constrained].iter().for_each(|server| _ = server.handle().shutdown(DEADLINE));
}

#[test]
fn other_libraries_agree_on_the_suites_of_constrained_devices() {
    let credentials = Credentials::new().cipher_suites(CipherSuites::constrained());
    let server = start("dtls://127.0.0.1:0", Identity::self_signed().unwrap(), credentials).unwrap();
    let port = server.addresses()[0].port.to_string();
    let python = std::env::var("PEELOFF_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/mbedtls_psk.py");
    let suite = "TLS-PSK-WITH-AES-128-CCM-8";
    let mbedtls = [script, "dtls", "127.0.0.1", &port, "alice", KEY_HEX, suite];
    let seen = std::process::Command::new(python).args(mbedtls).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&seen.stdout), "hello from mbedtls\n", "{seen:?}");
    let priority = "--priority=NORMAL:-VERS-ALL:+VERS-DTLS1.2:-CIPHER-ALL:+AES-128-CCM-8:-MAC-ALL:+AEAD:-KX-ALL:+ECDHE-ECDSA";
    let gnutls = ["--udp", "--insecure", "--port", &port, priority, "127.0.0.1"];
    let (found, seen) = run("gnutls-cli", &gnutls.map(str::to_owned), "hello over there");
    assert!(found && seen.contains("AES-128-CCM-8"), "{seen}");
    server.handle().shutdown(DEADLINE);
}

#[test]
fn our_client_agrees_on_each_suite_with_openssls_server() {
    for suite in SUITES {
        let authority = Authority::new();
        let key = if suite.contains("RSA") && !suite.contains("ECDSA") { rsa(2048) } else { p256() };
        let (certificate, key) = authority.issue_pem("server", &key);
        let (certificate, key) = (file("certificate.pem", &certificate), file("key.pem", &key));
        let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
        let list = format!("{suite}:@SECLEVEL=0");
        let arguments = ["s_server", "-dtls1_2", "-accept", "127.0.0.1:0", "-cert", certificate, "-key", key];
        let more = ["-cipher", &list, "-psk", KEY_HEX];
        let mut server = Program::start("openssl", &[&arguments[..], &more].concat());
        let accepting = server.expect("ACCEPT 127.0.0.1:");
        let url = format!("dtls://{}", accepting.rsplit(' ').next().unwrap());
        let client = Client::builder().cipher_suites(suites(suite)).server_name("localhost");
        let client =
            if suite.contains("PSK") { client.psk(b"alice", KEY) } else { client.ca(authority.bundle()) };
        let mut peer = client.connect(&url).unwrap_or_else(|error| panic!("{suite}: {error}"));
        assert_eq!(peer.cipher(), Some(*suite));
        peer.send(b"hello from peeloff\n").unwrap();
        server.expect("hello from peeloff");
        server.say("hello from OpenSSL");
        let mut buffer = [0; 100];
        let len = peer.recv_timeout(&mut buffer, DEADLINE).unwrap().unwrap();
        // The end of the line may arrive separately.
        assert!(buffer[..len].starts_with(b"hello from OpenSSL"), "{suite}");
        peer.close();
    }
}

#[test]
fn short_tags_let_no_short_key_in() {
    let authority = Authority::new();
    for url in ["dtls://127.0.0.1:0", "tls://127.0.0.1:0"] {
        let short = authority.issue("server", &rsa(1024));
        let credentials = Credentials::new().cipher_suites(CipherSuites::constrained());
        let refused = start(url, short, credentials).err().unwrap();
        assert!(
            matches!(refused, StartError::Identity(IdentityError::UnusableKey { .. })),
            "{url}: {refused}"
        );
    }
    // A client accepts no such key either.
    let (certificate, key) = authority.issue_pem("server", &rsa(1024));
    let (certificate, key) = (file("certificate.pem", &certificate), file("key.pem", &key));
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let arguments = ["s_server", "-dtls1_2", "-accept", "127.0.0.1:0", "-cert", certificate, "-key", key];
    let mut server = Program::start("openssl", &[&arguments[..], &["-cipher", "ALL:@SECLEVEL=0"]].concat());
    let accepting = server.expect("ACCEPT 127.0.0.1:");
    let url = format!("dtls://{}", accepting.rsplit(' ').next().unwrap());
    let client = Client::builder().cipher_suites(CipherSuites::constrained());
    let client = client.ca(authority.bundle()).server_name("localhost");
    let error = client.connect(&url).unwrap_err().to_string();
    assert!(error.contains("key too weak"), "{error}");
}

#[test]
fn a_restriction_of_groups_holds() {
    let credentials = Credentials::new().groups("P-384".parse().unwrap());
    let server = start("tls://127.0.0.1:0", Identity::self_signed().unwrap(), credentials).unwrap();
    let offers = |group| s_client(&server.addresses()[0], &["-groups", group], "hello over there");
    assert!(offers("X25519:P-384").contains("\nhello over there\n"));
    assert!(!offers("X25519:P-256").contains("\nhello over there\n"));
    let client = |groups: &str| {
        let client = Client::builder().danger_accept_any_certificate().groups(groups.parse().unwrap());
        client.connect(&server.addresses()[0])
    };
    exchange(&mut client("P-256:secp384r1").unwrap(), b"hello");
    assert!(client("X25519:P-256").is_err());
    server.handle().shutdown(DEADLINE);
}

#[test]
fn a_version_without_a_suite_is_not_spoken() {
    let serve = |url, list| {
        start(url, Identity::self_signed().unwrap(), Credentials::new().cipher_suites(suites(list)))
    };
    let error = serve("dtls://127.0.0.1:0", "TLS_AES_128_GCM_SHA256").err().unwrap();
    assert!(matches!(error, StartError::Identity(IdentityError::NoSuite { .. })), "{error}");
    for (list, wanted) in
        [("TLS_AES_128_GCM_SHA256", "-tls1_3"), ("ECDHE-ECDSA-AES128-GCM-SHA256", "-tls1_2")]
    {
        let server = serve("tls://127.0.0.1:0", list).unwrap();
        for version in ["-tls1_2", "-tls1_3"] {
            let seen = s_client(&server.addresses()[0], &[version], "hello over there");
            assert_eq!(seen.contains("\nhello over there\n"), version == wanted, "{list} {version}: {seen}");
        }
        server.handle().shutdown(DEADLINE);
    }
}

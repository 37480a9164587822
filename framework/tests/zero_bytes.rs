//! Texts with a zero byte, at which OpenSSL's C strings end: the part before it is never taken for the whole.

#[path = "support/programs.rs"]
mod programs;
mod support;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use openssl::ssl::{Ssl, SslContext, SslMethod, SslStream, SslVersion};
use peeloff::{
    Client, ClientAuth, ConnectError, Credentials, EndKind, Identity, IdentityError, PeerIdentity, Server,
    StartError,
};
use peeloff_certificates::{Authority, p256};
use programs::{KEY, KEY_HEX, run};
use support::{DEADLINE, echo, exchange, until};

const BOTH: [&str; 2] = ["dtls://127.0.0.1:0", "tls://127.0.0.1:0"];

/// Starts a server that knows a key for every identity, and records the identities that it was asked for.
fn know_everybody(url: &str) -> (Server, Arc<Mutex<Vec<Vec<u8>>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&asked);
    let builder = Server::builder().listen(url).psk(move |identity| {
        heard.lock().unwrap().push(identity.to_vec());
        Some(KEY.to_vec())
    });
    (builder.start(echo).unwrap(), asked)
}

#[test]
fn an_identity_of_mbed_tls_is_taken_whole_or_not_at_all() {
    let python = std::env::var("PEELOFF_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/mbedtls_psk.py");
    for url in BOTH {
        let (server, asked) = know_everybody(url);
        let (scheme, port) = (url.split(':').next().unwrap(), server.addresses()[0].port.to_string());
        let call = |identity: &str| {
            run(&python, &[script, scheme, "127.0.0.1", &port, identity, KEY_HEX].map(str::to_owned), "\n")
        };
        let (_, seen) = call("alice");
        assert!(
            seen.contains("hello from mbedtls"),
            "{url}: python-mbedtls is needed (scripts/test installs it): {seen}"
        );
        assert_eq!(*asked.lock().unwrap(), [b"alice"], "{url}");
        for identity in [r"alice\0", r"alice\0b", r"\0", r"alice\0\0"] {
            let (_, seen) = call(identity);
            assert!(seen.contains("refused: "), "{url} {identity}: {seen}");
        }
        until("they are counted", || {
            (server.handle().stats().ended(EndKind::HandshakeFailed) >= 4).then_some(())
        });
        assert_eq!(asked.lock().unwrap().len(), 1, "{url}: the lookup was asked for a part");
        server.handle().shutdown(DEADLINE);
    }
}

/// Returns the first flight of an OpenSSL client, in which each `X` in these bytes is replaced by a zero byte.
fn first_flight(context: SslContext, name: Option<&str>, text: &[u8]) -> Vec<u8> {
    struct Kept(Vec<u8>);
    impl Read for Kept {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }
    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut ssl = Ssl::new(&context).unwrap();
    if let Some(name) = name {
        ssl.set_hostname(name).unwrap();
    }
    let mut stream = SslStream::new(ssl, Kept(Vec::new())).unwrap();
    stream.connect().unwrap_err();
    let mut flight = std::mem::take(&mut stream.get_mut().0);
    let starts: Vec<_> = (0..flight.len()).filter(|&at| flight[at..].starts_with(text)).collect();
    assert!(!starts.is_empty());
    for start in starts {
        for byte in &mut flight[start..start + text.len()] {
            *byte = if *byte == b'X' { 0 } else { *byte };
        }
    }
    flight
}

/// Sends this flight to the server, and returns the description of the alert that comes back.
fn alert_for(server: &Server, flight: &[u8]) -> u8 {
    let address = server.addresses()[0].resolve().unwrap()[0];
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(flight).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert_eq!((answer.len(), answer[0]), (7, 21), "no alert in clear: {answer:?}");
    answer[6]
}

#[test]
fn an_identity_of_tls_1_3_is_taken_whole_or_not_at_all() {
    let context = || {
        let mut context = SslContext::builder(SslMethod::tls_client()).unwrap();
        context.set_min_proto_version(Some(SslVersion::TLS1_3)).unwrap();
        context.set_ciphersuites("TLS_AES_128_GCM_SHA256").unwrap();
        context.set_psk_client_callback(|_, _, identity, key| {
            identity[..7].copy_from_slice(b"aliceXb");
            identity[7] = 0;
            key[..KEY.len()].copy_from_slice(KEY);
            Ok(KEY.len())
        });
        context.build()
    };
    let (server, asked) = know_everybody(BOTH[1]);
    // The binder does not match a changed hello, so the handshake would fail even if a key was found. What counts
    // is that no key was looked up.
    const HANDSHAKE_FAILURE: u8 = 40;
    assert_eq!(alert_for(&server, &first_flight(context(), None, b"aliceXb")), HANDSHAKE_FAILURE);
    assert!(asked.lock().unwrap().is_empty(), "the lookup was asked for a part");
    // The unchanged hello is accepted: the server answers it.
    let address = server.addresses()[0].resolve().unwrap()[0];
    let stream = SslStream::new(Ssl::new(&context()).unwrap(), TcpStream::connect(address).unwrap());
    stream.unwrap().connect().unwrap();
    assert_eq!(*asked.lock().unwrap(), [b"aliceXb"]);
    server.handle().shutdown(DEADLINE);
}

#[test]
fn a_server_name_with_a_zero_byte_is_refused() {
    let authority = Authority::new();
    let credentials = Credentials::new()
        .identity(authority.issue_for("a", &["a.test"]))
        .identity(authority.issue_for("b", &["b.test"]));
    let builder = Server::builder().listen(BOTH[1]).credentials(credentials);
    let server = builder.start(echo).unwrap();
    const UNRECOGNIZED_NAME: u8 = 112;
    for name in ["b.testX", "b.testX.a.test", "Xb.test"] {
        let context = SslContext::builder(SslMethod::tls_client()).unwrap().build();
        let flight = first_flight(context, Some(name), name.as_bytes());
        assert_eq!(alert_for(&server, &flight), UNRECOGNIZED_NAME, "{name}");
    }
    server.handle().shutdown(DEADLINE);
}

#[test]
fn a_value_that_openssl_would_truncate_is_an_error_at_the_start() {
    let url = BOTH[0];
    let credentials = Credentials::new().identity(Identity::self_signed().unwrap());
    let credentials = credentials.srtp_profiles("SRTP_AEAD_AES_128_GCM\0");
    let started = Server::builder().listen(url).credentials(credentials).start(echo);
    assert!(matches!(started, Err(StartError::Identity(IdentityError::Refused(_)))));

    let server = "dtls://127.0.0.1:9";
    let refused = |client: Client| match client.connect(server) {
        Err(ConnectError::Identity(error)) => error,
        other => panic!("{:?}", other.map(|_| "connected")),
    };
    let client = Client::builder;
    for (identity, key) in
        [(&b"a\0b"[..], KEY), (b"", KEY), (&[b'a'; 257], KEY), (b"a", b""), (b"a", &[7; 513])]
    {
        assert!(matches!(refused(client().psk(identity, key)), IdentityError::BadPsk));
    }
    for name in ["a.test\0b.test", "", &"a".repeat(256)] {
        assert!(matches!(refused(client().server_name(name)), IdentityError::BadServerName { .. }));
    }
    assert!(matches!(refused(client().srtp_profiles("\0")), IdentityError::Refused(_)));
}

#[test]
fn names_in_a_certificate_are_whole() {
    let authority = Authority::new();
    for url in BOTH {
        let seen = Arc::new(Mutex::new(None));
        let heard = Arc::clone(&seen);
        let credentials = Credentials::new()
            .identity(authority.issue("server", &p256()))
            .client_auth(ClientAuth::Required(authority.bundle()))
            .authorize(move |peer| {
                *heard.lock().unwrap() = Some(peer.clone());
                true
            });
        let builder = Server::builder().listen(url).credentials(credentials);
        let server = builder.start(echo).unwrap();
        let identity = authority.issue_for("alice\0.evil", &["a.test\0.evil"]);
        let client = Client::builder().ca(authority.bundle()).identity(identity);
        exchange(&mut client.connect(&server.addresses()[0]).unwrap(), b"hello");
        let Some(PeerIdentity::Certificate(certificate)) = seen.lock().unwrap().take() else { panic!() };
        assert_eq!(certificate.subject, r"CN=alice\00.evil", "{url}");
        assert_eq!(certificate.common_name.as_deref(), Some("alice\0.evil"), "{url}");
        assert_eq!(certificate.dns_names, ["a.test\0.evil"], "{url}");
        server.handle().shutdown(DEADLINE);
    }
}

#[test]
fn a_protocol_with_a_zero_byte_is_another_protocol() {
    for url in BOTH {
        let credentials = Credentials::new().identity(Identity::self_signed().unwrap()).alpn(&["chat/1"]);
        let builder = Server::builder().listen(url).credentials(credentials);
        let server = builder.start(echo).unwrap();
        let client = Client::builder().danger_accept_any_certificate();
        let call = |protocol| client.clone().alpn(&[protocol]).connect(&server.addresses()[0]);
        assert_eq!(call("chat/1").unwrap().alpn(), Some("chat/1"), "{url}");
        assert!(matches!(call("chat/1\0x"), Err(ConnectError::Handshake { .. })), "{url}");
        server.handle().shutdown(DEADLINE);
    }
}

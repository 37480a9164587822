//! DTLS clients that a server refuses: an alert tells them at once, and sending the same hello again has no
//! effect.

#[path = "support/programs.rs"]
mod programs;
mod support;

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use peeloff::{
    Admission, Client, ClientAuth, ConnectError, EndKind, Error, HandlerError, Incoming, Limits, Peer,
    PeerHandler, Refusal, Server,
};
use peeloff_certificates::{Authority, p256};
use programs::{Program, words};
use support::{DEADLINE, Running, exchange, until};

/// Starts a server with room for one peer, and connects that peer.
fn full_server() -> (Running, Peer) {
    let limits = Limits::default().max_peers(1);
    let running = Running::echo_with("dtls://127.0.0.1:0", |builder| builder.limits(limits));
    let mut first = running.connect();
    exchange(&mut first, b"first");
    (running, first)
}

fn why(error: ConnectError) -> String {
    match error {
        ConnectError::Handshake { why, .. } => why,
        other => panic!("{other}"),
    }
}

#[test]
fn a_client_beyond_a_cap_is_told_at_once() {
    let (running, mut first) = full_server();
    let port = running.address().port().to_string();
    let connect = format!("127.0.0.1:{port}");

    let mut openssl = Program::start("openssl", &words(&["s_client", "-dtls1_2", "-connect", &connect], &[]));
    openssl.expect("alert internal error");
    let mut gnutls =
        Program::start("gnutls-cli", &words(&["--udp", "--insecure", "-p", &port, "127.0.0.1"], &[]));
    gnutls.expect("Internal error");
    let why = why(running.client().connect(running.url()).unwrap_err());
    assert_eq!(why, "the peer sent alert 80 (internal_error)");

    let stats = running.stats();
    assert_eq!(stats.refused(Refusal::MaxPeers), 3, "{stats:?}");
    assert!(stats.refusal_alerts >= 3, "{stats:?}");
    assert_eq!((stats.opened, stats.peers), (1, 1), "{stats:?}");
    exchange(&mut first, b"still here");
    first.close();
    running.until("there is room again", |stats| stats.peers == 0);
    exchange(&mut running.connect(), b"second");
}

/// Refuses everybody until the flag is set.
struct Doorman(Arc<AtomicBool>);

impl PeerHandler for Doorman {
    fn admit(&self, _: &Incoming) -> Admission {
        match self.0.load(Ordering::Relaxed) {
            true => Admission::Accept,
            false => Admission::Refuse,
        }
    }

    fn handle(&self, peer: &mut Peer) -> Result<(), HandlerError> {
        Ok(support::echo(peer)?)
    }
}

#[test]
fn a_client_that_the_handler_refuses_is_denied_access_and_its_hello_opens_nothing_later() {
    let open = Arc::new(AtomicBool::new(false));
    let running = Running::with("dtls://127.0.0.1:0", |builder| builder, Doorman(Arc::clone(&open)));
    let refused = why(running.client().connect(running.url()).unwrap_err());
    assert_eq!(refused, "the peer sent alert 49 (access_denied)");

    // Do the same manually, in order to send the hello again when the handler would accept it.
    let unknown_peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    unknown_peer.connect(running.address()).unwrap();
    unknown_peer.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut answer = [0; 256];
    let (first, second) = hellos(&unknown_peer, &mut answer);
    assert!(first.len() > 15);
    unknown_peer.send(&second).unwrap();
    let len = unknown_peer.recv(&mut answer).unwrap();
    assert_eq!(answer[..len], alert(49, 1));
    open.store(true, Ordering::Relaxed);
    unknown_peer.send(&second).unwrap();
    let len = unknown_peer.recv(&mut answer).unwrap();
    assert_eq!(answer[..len], alert(49, 1), "the hello was refused, and stays refused");
    assert_eq!(running.stats().opened, 0);
    exchange(&mut running.connect(), b"another hello is another peer");
}

/// Makes a fatal alert in clear, in a record with this number.
fn alert(description: u8, sequence: u8) -> [u8; 15] {
    [21, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, sequence, 0, 2, 2, description]
}

/// Makes a first hello, and the second one with the cookie from the answer.
fn hellos(unknown_peer: &UdpSocket, answer: &mut [u8]) -> (Vec<u8>, Vec<u8>) {
    let hello = |cookie: &[u8], number: u8| {
        let mut body = vec![0xfe, 0xfd];
        body.extend([7; 32]);
        body.push(0);
        body.push(cookie.len() as u8);
        body.extend(cookie);
        // The suite is ECDHE-ECDSA-AES128-GCM-SHA256, without compression.
        body.extend([0, 2, 0xc0, 0x2b, 1, 0]);
        let len = [0, 0, body.len() as u8];
        let message = [&[1][..], &len, &[0, number], &[0, 0, 0], &len, &body].concat();
        let header = [22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, number, 0, message.len() as u8];
        [&header[..], &message].concat()
    };
    let first = hello(&[], 0);
    unknown_peer.send(&first).unwrap();
    let len = unknown_peer.recv(answer).unwrap();
    let second = hello(&answer[28..len], 1);
    (first, second)
}

#[test]
fn a_client_that_comes_while_the_server_drains_is_told() {
    let running = Running::with(
        "dtls://127.0.0.1:0",
        |builder| builder,
        |peer: &mut Peer| -> Result<(), Error> {
            // This holds up the drain until the peer leaves.
            let mut buffer = [0; 64];
            loop {
                match peer.recv(&mut buffer) {
                    Ok(Some(len)) => peer.send(&buffer[..len])?,
                    Ok(None) if peer.end_reason().is_none() => {}
                    _ => return Ok(()),
                }
            }
        },
    );
    let mut first = running.connect();
    exchange(&mut first, b"first");
    let handle = running.handle();
    let shutdown = std::thread::spawn(move || handle.shutdown(DEADLINE));
    let refused =
        until("a refusal", || running.client().timeout(Duration::from_secs(5)).connect(running.url()).err());
    assert_eq!(why(refused), "the peer sent alert 80 (internal_error)");
    first.close();
    shutdown.join().unwrap();
}

#[test]
fn a_certificate_chain_beyond_the_limit_is_an_illegal_parameter() {
    let root = Authority::new();
    // Each certificate has about 400 bytes.
    let deep = (0..60).fold(root.below("first"), |above, n| above.below(&format!("authority {n:050}")));
    for scheme in ["dtls", "tls"] {
        for (limit, accepted) in [(None, false), (Some(100 << 10), true)] {
            let listen = format!("{scheme}://127.0.0.1:0");
            let mut credentials = peeloff::Credentials::new()
                .identity(root.issue("server", &p256()))
                .client_auth(ClientAuth::Required(root.bundle()));
            if let Some(limit) = limit {
                credentials = credentials.max_cert_chain(limit);
            }
            let server =
                Server::builder().listen(listen).credentials(credentials).start(support::echo).unwrap();
            let client = Client::builder().ca(root.bundle()).identity(deep.issue("deep", &p256()));
            let outcome = client.connect(&server.addresses()[0]);
            let handle = server.handle();
            // With TLS 1.3, the client's handshake is complete before the server has read its certificate.
            let failed = || match &outcome {
                Ok(_) => (handle.stats().ended(EndKind::HandshakeFailed) == 1).then_some(String::new()),
                Err(error) => Some(error.to_string()),
            };
            if !accepted {
                let error = until("a failure", failed);
                assert!(
                    error.is_empty() || error.contains("alert 47 (illegal_parameter)"),
                    "{scheme}: {error}"
                );
            } else if let Err(error) = outcome {
                // The chain is too deep to be verified, which shows that it was read.
                assert!(!error.to_string().contains("alert 47"), "{scheme}: {error}");
            }
            handle.shutdown(Duration::ZERO);
        }
        // A client has the same limit.
        let listen = format!("{scheme}://127.0.0.1:0");
        let server = Server::builder().listen(listen).identity(deep.issue("server", &p256()));
        let server = server.start(support::echo).unwrap();
        let error =
            Client::builder().ca(root.bundle()).connect(&server.addresses()[0]).unwrap_err().to_string();
        let expected =
            if scheme == "dtls" { "more than the 16384 that are accepted" } else { "excessive message size" };
        assert!(error.contains(expected), "{scheme}: {error}");
        server.handle().shutdown(Duration::ZERO);
    }
}

//! Which handshakes with a pre-shared key count as resumed sessions. With TLS 1.3 OpenSSL calls them all reused, because
//! keys and tickets are in the same extension (RFC 8446 §4.2.11).

#[path = "support/programs.rs"]
mod programs;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use peeloff::{Client, Error, Framing, Peer, PeerIdentity, Server, TcpSettings};
use programs::{KEY, KEY_HEX, Program};
use support::{DEADLINE, echo, exchange};

#[test]
fn a_handshake_with_a_pre_shared_key_is_no_resumption() {
    // With TLS 1.3 a server that knows pre-shared keys gives out no tickets.
    for (url, resumes) in [("dtls://127.0.0.1:0", true), ("tls://127.0.0.1:0", false)] {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let builder = Server::builder().listen(url).psk(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            Some(KEY.to_vec())
        });
        let handler = |peer: &mut Peer| -> Result<(), Error> {
            assert_eq!(*peer.identity(), PeerIdentity::Psk(b"alice".to_vec()));
            peer.send(&[u8::from(peer.is_resumed())])?;
            echo(peer)
        };
        let server = builder.start(handler).unwrap();
        let client = Client::builder().psk(b"alice", KEY).timeout(DEADLINE);
        for round in 0..3 {
            let resumed = resumes && round > 0;
            let mut peer = client.connect(&server.addresses()[0]).unwrap();
            let mut seen = [0];
            assert_eq!(peer.recv_timeout(&mut seen, DEADLINE).unwrap(), Some(1), "{url} {round}");
            assert_eq!((peer.is_resumed(), seen[0] == 1), (resumed, resumed), "{url} {round}");
            exchange(&mut peer, b"hello");
            // For a resumed session the server asks whether the key is still known.
            assert_eq!(asked.load(Ordering::Relaxed), round + 1, "{url}");
        }
        assert_eq!(server.handle().stats().resumed, if resumes { 2 } else { 0 }, "{url}");
        server.handle().shutdown(DEADLINE);
    }
}

#[test]
fn a_client_with_a_pre_shared_key_resumes_by_the_ticket_of_another_server() {
    let arguments = ["s_server", "-tls1_3", "-nocert", "-accept", "127.0.0.1:0", "-rev"];
    let key = ["-psk_identity", "alice", "-psk", KEY_HEX];
    let mut server = Program::start("openssl", &[&arguments[..], &key[..]].concat());
    let accept = server.expect("ACCEPT");
    let url = format!("tls://{}", accept.split_whitespace().last().unwrap());
    let mut settings = TcpSettings::default();
    settings.framing = Framing::Lines;
    let client = Client::builder().psk(b"alice", KEY).tcp(settings).timeout(DEADLINE);
    let mut buffer = [0; 64];
    for resumed in [false, true] {
        let mut peer = client.connect(&url).unwrap();
        peer.send(b"hello").unwrap();
        let len = peer.recv_timeout(&mut buffer, DEADLINE).unwrap().unwrap();
        assert_eq!((&buffer[..len], peer.is_resumed()), (&b"olleh"[..], resumed));
        peer.send(b"CLOSE").unwrap();
        assert_eq!(peer.recv_timeout(&mut buffer, DEADLINE).unwrap(), None);
    }
}

//! Credentials replaced while the server runs.

#[path = "support/credentials.rs"]
mod credentials;
mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use credentials::{Authority, ed25519, p256};
use peeloff::{Client, ClientAuth, Credentials, Identity, IdentityError, Peer, PeerIdentity, Server};
use support::{DEADLINE, echo, exchange};

const BOTH: [&str; 2] = ["dtls://127.0.0.1:0", "tls://127.0.0.1:0"];

fn start(urls: &[&str], credentials: Credentials) -> Server {
    let builder = urls.iter().fold(Server::builder(), |builder, url| builder.listen(url.parse().unwrap()));
    builder.credentials(credentials).start(echo).unwrap()
}

fn name(peer: &Peer) -> String {
    match peer.identity() {
        PeerIdentity::Certificate(certificate) => certificate.common_name.clone().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_hundred_reloads_under_load_lose_no_handshake() {
    let authority = Authority::new();
    let server = start(&BOTH, Credentials::new().identity(authority.issue("0", &p256())));
    let (over, connected) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for number in 0..4 {
            let (server, over, connected) = (&server, &over, &connected);
            // Half of them resume, half do not.
            let client = Client::builder().ca(authority.bundle()).resumption(number < 2).timeout(DEADLINE);
            scope.spawn(move || {
                let address = &server.addresses()[number % 2];
                while !over.load(Ordering::Relaxed) {
                    let mut peer = client.connect(address).unwrap();
                    exchange(&mut peer, b"hello");
                    connected.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for reload in 1..=100 {
            let before = connected.load(Ordering::Relaxed);
            let identity = authority.issue(&reload.to_string(), &p256());
            server.handle().reload(Credentials::new().identity(identity)).unwrap();
            support::until("somebody connects", || {
                (connected.load(Ordering::Relaxed) > before).then_some(())
            });
        }
        over.store(true, Ordering::Relaxed);
    });
    let mut peer = Client::builder().ca(authority.bundle()).connect(&server.addresses()[1]).unwrap();
    exchange(&mut peer, b"hello");
    assert_eq!(name(&peer), "100");
    let stats = server.handle().stats();
    let failed: u64 = ["handshake_failed", "handshake_timed_out", "protocol", "evicted", "io"]
        .iter()
        .map(|label| stats.ended(label))
        .sum();
    assert_eq!((failed, stats.handshakes), (0, connected.load(Ordering::Relaxed) + 1));
    assert!(stats.resumed > 0);
    server.handle().shutdown(DEADLINE);
}

#[test]
fn associations_go_on_with_what_they_began_with() {
    let (old, new) = (Authority::new(), Authority::new());
    let server = start(&BOTH, Credentials::new().identity(old.issue("old", &p256())));
    let mut before: Vec<Peer> = server
        .addresses()
        .iter()
        .map(|address| Client::builder().ca(old.bundle()).connect(address).unwrap())
        .collect();
    server.handle().reload(Credentials::new().identity(new.issue("new", &p256()))).unwrap();
    before.iter_mut().for_each(|peer| exchange(peer, b"hello"));
    for address in server.addresses() {
        assert_eq!(name(&Client::builder().ca(new.bundle()).connect(address).unwrap()), "new");
        assert!(Client::builder().ca(old.bundle()).connect(address).is_err());
    }
    server.handle().shutdown(DEADLINE);
}

#[test]
fn authorities_and_keys_are_replaced_too() {
    let (one, other) = (Authority::new(), Authority::new());
    let credentials = |authority: &Authority| {
        Credentials::new()
            .identity(one.issue("server", &p256()))
            .client_auth(ClientAuth::Required(authority.bundle()))
    };
    let served = |client: &Client, server: &Server| {
        client.connect(&server.addresses()[0]).is_ok_and(|mut peer| {
            peer.send(b"hello").is_ok() && matches!(peer.recv_timeout(&mut [0; 8], DEADLINE), Ok(Some(5)))
        })
    };
    for url in BOTH {
        let server = start(&[url], credentials(&one));
        let client = Client::builder().ca(one.bundle());
        let (of_one, of_other) = (
            client.clone().identity(one.issue("client", &p256())),
            client.identity(other.issue("client", &p256())),
        );
        assert!(served(&of_one, &server) && !served(&of_other, &server), "{url}");
        server.handle().reload(credentials(&other)).unwrap();
        assert!(!served(&of_one, &server) && served(&of_other, &server), "{url}");
        // From certificates to pre-shared keys.
        server.handle().reload(Credentials::new().psk(|name| (name == b"a").then(|| vec![7; 32]))).unwrap();
        assert!(served(&Client::builder().psk(b"a", &[7; 32]), &server), "{url}");
        assert!(!served(&of_other, &server), "{url}");
        server.handle().shutdown(DEADLINE);
    }
}

#[test]
fn what_is_of_no_use_changes_nothing() {
    let authority = Authority::new();
    let server = start(&BOTH, Credentials::new().identity(authority.issue("old", &p256())));
    let handle = server.handle();
    assert!(matches!(handle.reload(Credentials::new()), Err(IdentityError::Nothing)));
    let ed25519 = Credentials::new().identity(authority.issue("new", &ed25519()));
    assert!(matches!(handle.reload(ed25519), Err(IdentityError::NoServerKey)));
    let unwritable = Credentials::new()
        .identity(Identity::self_signed().unwrap())
        .danger_key_log("/no/such/folder/keys".as_ref());
    assert!(matches!(handle.reload(unwritable), Err(IdentityError::Unwritable { .. })));
    for address in server.addresses() {
        assert_eq!(name(&Client::builder().ca(authority.bundle()).connect(address).unwrap()), "old");
    }
    handle.shutdown(DEADLINE);
}

//! New credentials for a running server: which peers get which credentials, and that no peer is lost meanwhile.

#[path = "support/raw_client.rs"]
#[allow(dead_code)]
mod raw_client;
mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use peeloff::{
    Client, ClientAuth, ConnectError, Credentials, EndKind, Identity, IdentityError, Peer, PeerIdentity,
    RevocationList, Server, SharedKeys,
};
use peeloff_certificates::{Authority, ed25519, p256};
use raw_client::RawClient;
use support::{DEADLINE, echo, exchange};

const BOTH: [&str; 2] = ["dtls://127.0.0.1:0", "tls://127.0.0.1:0"];

/// An echo server; dropping it shuts it down.
struct Running(Server);

impl Running {
    fn start(urls: &[&str], credentials: Credentials) -> Self {
        let builder = Server::builder().credentials(credentials);
        let builder = urls.iter().fold(builder, |builder, url| builder.listen(*url));
        Self(builder.start(echo).unwrap())
    }

    fn connect(&self, client: &Client) -> Result<Peer, ConnectError> {
        client.connect(&self.0.addresses()[0])
    }

    fn reload(&self, credentials: Credentials) -> Result<(), IdentityError> {
        self.0.handle().reload(credentials)
    }
}

fn shown(peer: &Peer) -> String {
    match peer.identity() {
        PeerIdentity::Certificate(certificate) => certificate.common_name.clone().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_hundred_reloads_under_load_lose_no_handshake() {
    let authority = Authority::new();
    let identities = [authority.issue("one", &p256()), authority.issue("two", &p256())];
    let running = Running::start(&BOTH, Credentials::new().identity(identities[0].clone()));
    let client = Client::builder().ca(authority.bundle()).timeout(DEADLINE);
    let (done, connected) = (AtomicBool::new(false), AtomicU64::new(0));
    let connected = [&connected, &AtomicU64::new(0)];
    thread::scope(|scope| {
        for number in 0..4 {
            let (client, done, running) = (client.clone(), &done, &running);
            let (index, count) = (number % 2, connected[number % 2]);
            // Half of the clients resume, which must work as well, or else become a full handshake.
            let client = client.resumption(number < 2);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let mut peer = client.connect(&running.0.addresses()[index]).unwrap();
                    exchange(&mut peer, b"hello");
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let total = || connected.iter().map(|count| count.load(Ordering::Relaxed)).sum::<u64>();
        let mut text: Option<String> = None;
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..100 {
                // Each reload replaces the certificate, and the keys of tickets and cookies.
                let next = SharedKeys::new_file(text.as_deref()).unwrap();
                let keys = SharedKeys::parse(&next).unwrap();
                text = Some(next);
                let credentials =
                    Credentials::new().identity(identities[round % 2].clone()).shared_keys(keys);
                let before = total();
                running.reload(credentials).unwrap();
                support::until("clients come between", || (total() > before).then_some(()));
            }
        }));
        done.store(true, Ordering::Relaxed);
        outcome.unwrap();
    });
    let stats = running.0.handle().stats();
    let total: u64 = connected.iter().map(|count| count.load(Ordering::Relaxed)).sum();
    assert!(total >= 100, "{total}");
    assert_eq!((stats.handshakes, stats.opened), (total, total), "{stats:?}");
    assert_eq!(
        (stats.ended(EndKind::HandshakeFailed), stats.ended(EndKind::HandshakeTimedOut)),
        (0, 0),
        "{stats:?}"
    );
}

#[test]
fn new_peers_meet_the_new_certificate_and_old_ones_stay() {
    let authority = Authority::new();
    for url in BOTH {
        let running = Running::start(&[url], Credentials::new().identity(authority.issue("old", &p256())));
        let client = Client::builder().ca(authority.bundle()).resumption(false);
        let mut early = running.connect(&client).unwrap();
        assert_eq!(shown(&early), "old");
        running.reload(Credentials::new().identity(authority.issue("new", &p256()))).unwrap();
        let mut late = running.connect(&client).unwrap();
        assert_eq!(shown(&late), "new", "{url}");
        exchange(&mut early, b"still here");
        exchange(&mut late, b"here too");
    }
}

#[test]
fn authorities_lists_and_keys_are_replaced_too() {
    let (authority, other) = (Authority::new(), Authority::new());
    let running = Running::start(
        &BOTH[1..],
        Credentials::new()
            .identity(authority.issue("server", &p256()))
            .client_auth(ClientAuth::Required(authority.bundle())),
    );
    let gets_in = |client: &Client| {
        let Ok(mut peer) = running.connect(client) else { return false };
        let _ = peer.send(b"hello");
        matches!(peer.recv_timeout(&mut [0; 8], DEADLINE), Ok(Some(5)))
    };
    let alice = authority.issue("alice", &p256());
    let client = |identity: &Identity| Client::builder().ca(authority.bundle()).identity(identity.clone());
    assert!(gets_in(&client(&alice)));
    let server = || Credentials::new().identity(authority.issue("server", &p256()));

    running.reload(server().client_auth(ClientAuth::Required(other.bundle()))).unwrap();
    assert!(!gets_in(&client(&alice)));
    assert!(gets_in(&client(&other.issue("bob", &p256()))));

    let required = || server().client_auth(ClientAuth::Required(authority.bundle()));
    let list = RevocationList::from_bytes(&authority.revoke(&[&alice])).unwrap();
    running.reload(required().revoked(list)).unwrap();
    assert!(!gets_in(&client(&alice)));
    assert!(gets_in(&client(&authority.issue("carol", &p256()))));

    let keyed = |byte: u8| Credentials::new().psk(move |name| (name == b"dave").then(|| vec![byte; 32]));
    let dave = |byte: u8| Client::builder().psk(b"dave", &[byte; 32]);
    running.reload(keyed(1)).unwrap();
    assert!(gets_in(&dave(1)) && !gets_in(&dave(2)));
    running.reload(keyed(2)).unwrap();
    assert!(!gets_in(&dave(1)) && gets_in(&dave(2)));
}

#[test]
fn a_failed_reload_changes_nothing() {
    let authority = Authority::new();
    let keys = SharedKeys::random().unwrap();
    let good = || Credentials::new().identity(authority.issue("good", &p256())).shared_keys(keys.clone());
    let running = Running::start(&BOTH, good());
    let address = running.0.addresses()[0].resolve().unwrap()[0];
    let unknown_peer = RawClient::new([127, 0, 0, 1], address);
    let cookie = unknown_peer.challenge();
    let client = Client::builder().ca(authority.bundle());
    let mut early = running.connect(&client).unwrap();
    exchange(&mut early, b"hello");

    let fresh = || SharedKeys::random().unwrap();
    // DTLS cannot use the second identity, which is found after the context of the first one has been made.
    let edwards = good().identity(authority.issue("bad", &ed25519())).shared_keys(fresh());
    assert!(matches!(running.reload(edwards), Err(IdentityError::UnusableKey { .. })));
    assert!(matches!(running.reload(Credentials::new().shared_keys(fresh())), Err(IdentityError::Nothing)));
    let long = "x".repeat(256);
    assert!(matches!(running.reload(good().alpn(&[&long])), Err(IdentityError::BadAlpn)));
    let file = Identity::from_files("/no/such.pem", "/no/such.key").unwrap_err();
    assert!(file.to_string().contains("/no/such.pem"), "{file}");

    let mut late = running.connect(&client).unwrap();
    assert_eq!(shown(&late), "good");
    assert!(late.is_resumed(), "the ticket keys are the old ones");
    exchange(&mut late, b"hello");
    exchange(&mut early, b"hello");
    assert_eq!(unknown_peer.challenge(), cookie, "the cookie secret is the old one");
}

#[test]
fn a_cookie_exchange_under_way_survives_a_change_of_secrets() {
    let authority = Authority::new();
    let credentials = || Credentials::new().identity(authority.issue("server", &p256()));
    let fresh = || credentials().shared_keys(SharedKeys::random().unwrap());
    let running = Running::start(&BOTH[..1], credentials());
    let address = running.0.addresses()[0].resolve().unwrap()[0];
    // The secrets change from random ones to shared ones, to other shared ones that are the same twice, and back.
    let same = fresh();
    for steps in [vec![fresh()], vec![same.clone(), same], vec![credentials()]] {
        let unknown_peer = RawClient::new([127, 0, 0, 1], address);
        let cookie = unknown_peer.challenge();
        for credentials in steps {
            running.reload(credentials).unwrap();
        }
        assert_ne!(unknown_peer.challenge(), cookie);
        unknown_peer.send(&unknown_peer.hello(&cookie));
        unknown_peer.assert_served();
    }
}

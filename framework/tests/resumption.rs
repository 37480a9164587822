//! Sessions that are resumed, also with another server that has the same keys; and its cookies.

#[path = "support/credentials.rs"]
mod credentials;
#[path = "support/s_client.rs"]
mod s_client;
#[path = "support/stranger.rs"]
#[allow(dead_code)]
mod stranger;
mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use credentials::{Authority, p256};
use peeloff::{
    Address, Client, ClientAuth, Credentials, Identity, Peer, PeerIdentity, RevocationList, Server,
    SharedKeys,
};
use s_client::s_client;
use stranger::Stranger;
use support::{DEADLINE, echo, exchange, until};

const BOTH: [&str; 2] = ["dtls://127.0.0.1:0", "tls://127.0.0.1:0"];

fn start(address: &Address, credentials: Credentials) -> Server {
    Server::builder().listen(address.clone()).credentials(credentials).start(echo).unwrap()
}

fn parse(url: &str) -> Address {
    url.parse().unwrap()
}

/// The keys of a file: the current one, and perhaps the previous one.
fn keys(texts: &[&str]) -> SharedKeys {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let name = format!("keys-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mut text = format!("# keys\ncurrent:{}\n", texts[0].repeat(32));
    if let Some(previous) = texts.get(1) {
        text += &format!("previous:{}\n", previous.repeat(32));
    }
    std::fs::write(&path, text).unwrap();
    let keys = SharedKeys::from_file(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    keys
}

/// Whether this client resumes with the server; it has a new ticket after that.
fn resumes(client: &Client, server: &Server) -> bool {
    let mut peer = client.connect(&server.addresses()[0]).unwrap();
    let resumed = peer.is_resumed();
    // TLS 1.3 tickets come with what is read.
    exchange(&mut peer, b"hello");
    peer.close();
    resumed
}

#[test]
fn a_second_connection_resumes_the_first() {
    for url in BOTH {
        let identity = Identity::self_signed().unwrap();
        let server = start(&parse(url), Credentials::new().identity(identity));
        let client = Client::builder().danger_accept_any_certificate();
        assert!(!resumes(&client, &server), "{url}");
        for _ in 0..5 {
            assert!(resumes(&client, &server), "{url}");
        }
        let without = client.clone().resumption(false);
        assert!(!resumes(&without, &server), "{url}");
        // Whom to trust was said anew: nothing that was verified before counts.
        assert!(!resumes(&client.clone().danger_accept_any_certificate(), &server), "{url}");
        let stats = server.handle().stats();
        assert_eq!((stats.handshakes, stats.resumed, stats.retransmissions), (8, 5, 0), "{url}");
        server.handle().shutdown(DEADLINE);
    }
}

#[test]
fn a_ticket_of_one_server_is_good_for_another_with_its_keys_and_for_no_other() {
    for url in BOTH {
        let identity = Identity::self_signed().unwrap();
        let credentials = Credentials::new().identity(identity);
        let with = |keys: &SharedKeys| credentials.clone().shared_keys(keys.clone());
        let client = Client::builder().danger_accept_any_certificate();
        let first = start(&parse(url), with(&keys(&["a1"])));
        let address = first.addresses()[0].clone();
        assert!(!resumes(&client, &first));
        // Each of them in the place of the one before, as a client sees hosts with one name.
        let mut last = first;
        for (texts, wanted) in [
            (&["a1"][..], true),
            // Rotated once: accepted, and a ticket of the new key is given.
            (&["b2", "a1"], true),
            (&["c3", "b2"], true),
            // Rotated twice since the last one: too old.
            (&["e5", "d4"], false),
            (&["e5"], true),
            (&["f6"], false),
        ] {
            last.handle().shutdown(DEADLINE);
            last = start(&address, with(&keys(texts)));
            assert_eq!(resumes(&client, &last), wanted, "{url} {texts:?}");
        }
        last.handle().shutdown(DEADLINE);
    }
}

#[test]
fn openssls_client_resumes_in_both_versions_of_tls() {
    let credentials = Credentials::new().identity(Identity::self_signed().unwrap());
    let (one, other) = (keys(&["a1"]), keys(&["b2"]));
    let servers: Vec<Server> = [&one, &one, &other]
        .map(|keys| start(&parse(BOTH[1]), credentials.clone().shared_keys(keys.clone())))
        .into_iter()
        .collect();
    for version in ["-tls1_2", "-tls1_3"] {
        let session = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("session{version}"));
        let file = session.to_str().unwrap();
        let run = |server: &Server, option: &str| {
            s_client(&server.addresses()[0], &[version, option, file], "hello")
        };
        let seen = run(&servers[0], "-sess_out");
        assert!(seen.contains("New, "), "{seen}");
        let seen = run(&servers[1], "-sess_in");
        assert!(seen.contains("Reused, "), "{version}: {seen}");
        let seen = run(&servers[2], "-sess_in");
        assert!(seen.contains("New, "), "{version}: {seen}");
        std::fs::remove_file(session).unwrap();
    }
    for server in servers {
        server.handle().shutdown(DEADLINE);
    }
}

#[test]
fn whoever_resumes_is_who_they_were_and_is_asked_again() {
    let authority = Authority::new();
    for url in BOTH {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let credentials = Credentials::new()
            .identity(authority.issue("server", &p256()))
            .client_auth(ClientAuth::Required(authority.bundle()))
            .authorize(move |peer| {
                count.fetch_add(1, Ordering::Relaxed);
                matches!(peer, PeerIdentity::Certificate(one) if one.common_name.as_deref() == Some("alice"))
            });
        let server = start(&parse(url), credentials.clone());
        let alice = authority.issue("alice", &p256());
        let client = Client::builder().ca(authority.bundle()).identity(alice.clone());
        assert!(!resumes(&client, &server), "{url}");
        assert!(resumes(&client, &server), "{url}");
        assert_eq!(asked.load(Ordering::Relaxed), 2, "{url}");
        // Revoked since: the ticket does not help.
        let list = RevocationList::from_bytes(&authority.revoke(&[&alice])).unwrap();
        server.handle().reload(credentials.revoked(list)).unwrap();
        let turned_away = |mut peer: Peer| {
            peer.send(b"hello").is_err() || !matches!(peer.recv_timeout(&mut [0; 8], DEADLINE), Ok(Some(_)))
        };
        assert!(client.connect(&server.addresses()[0]).map_or(true, turned_away), "{url}");
        until("it is counted", || (server.handle().stats().ended("not_authorized") == 1).then_some(()));
        server.handle().shutdown(DEADLINE);
    }
}

#[test]
fn a_session_without_a_certificate_is_not_resumed_where_one_is_required() {
    let authority = Authority::new();
    for url in BOTH {
        let credentials =
            Credentials::new().identity(authority.issue("server", &p256())).shared_keys(keys(&["a1"]));
        let server = start(&parse(url), credentials.clone());
        let client = Client::builder().ca(authority.bundle());
        assert!(!resumes(&client, &server), "{url}");
        let strict = credentials.client_auth(ClientAuth::Required(authority.bundle()));
        server.handle().reload(strict).unwrap();
        let connected = client.connect(&server.addresses()[0]);
        let refused = connected.map_or(true, |mut peer| {
            assert!(!peer.is_resumed(), "{url}");
            !matches!(peer.recv_timeout(&mut [0; 8], DEADLINE), Ok(Some(_)))
        });
        assert!(refused, "{url}");
        assert_eq!(server.handle().stats().resumed, 0, "{url}");
        server.handle().shutdown(DEADLINE);
    }
}

#[test]
fn a_cookie_of_one_server_is_good_for_another_with_its_keys_and_for_no_other() {
    let identity = Identity::self_signed().unwrap();
    let with = |texts: &[&str]| Credentials::new().identity(identity.clone()).shared_keys(keys(texts));
    let first = start(&parse(BOTH[0]), with(&["a1"]));
    let address = first.addresses()[0].clone();
    let stranger = Stranger::new([127, 0, 0, 1], address.resolve().unwrap()[0]);
    let cookie = stranger.challenge();
    first.handle().shutdown(DEADLINE);
    for (texts, wanted) in [(&["c3", "b2"][..], false), (&["b2", "a1"], true), (&["a1"], true)] {
        let server = start(&address, with(texts));
        stranger.send(&stranger.hello(&cookie));
        if wanted {
            stranger.assert_served();
        } else {
            stranger.assert_silence();
        }
        let stats = server.handle().stats();
        assert_eq!((stats.opened, stats.cookies_refused), (wanted.into(), (!wanted).into()), "{texts:?}");
        server.handle().shutdown(std::time::Duration::ZERO);
    }
}

//! Resumed sessions: which clients resume, on which servers, with which identity, and over paths that lose
//! datagrams.

#[path = "support/faulty.rs"]
mod faulty;
#[path = "support/raw_client.rs"]
#[allow(dead_code)]
mod raw_client;
mod support;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use faulty::{Fate, FaultyPath};
use peeloff::{
    CaBundle, Client, ClientAuth, ConnectError, Credentials, EndKind, Error, Peer, PeerIdentity,
    RevocationList, Server, SharedKeys, StartError, Timeouts,
};
use peeloff_certificates::{Authority, p256, rsa};
use raw_client::RawClient;
use support::{DEADLINE, echo, exchange, until};

const BOTH: [&str; 2] = ["dtls://127.0.0.1:0", "tls://127.0.0.1:0"];

/// What a handler saw of a peer: its identity, the name that it requested, and whether it resumed.
type Seen = (PeerIdentity, Option<String>, bool);

/// An echo server that reports the peers that it sees; dropping it shuts it down.
struct Running {
    server: Server,
    seen: Receiver<Seen>,
}

impl Running {
    fn start(url: &str, credentials: Credentials) -> Self {
        let (sender, seen) = channel();
        let sender = Mutex::new(sender);
        let handler = move |peer: &mut Peer| -> Result<(), Error> {
            let name = peer.server_name().map(str::to_owned);
            sender.lock().unwrap().send((peer.identity().clone(), name, peer.is_resumed())).unwrap();
            echo(peer)
        };
        // The server is as patient as the clients, because a flight can be lost several times in a row.
        let mut timeouts = Timeouts::default();
        timeouts.handshake = DEADLINE;
        let handler = Arc::new(handler);
        // A server that has just been shut down may still occupy the port.
        let server = until("the server starts", || {
            let handler = Arc::clone(&handler);
            let builder = Server::builder().listen(url).timeouts(timeouts.clone());
            match builder.credentials(credentials.clone()).start(move |peer: &mut Peer| handler(peer)) {
                Err(StartError::AddressInUse { .. }) => None,
                started => Some(started.unwrap()),
            }
        });
        Self { server, seen }
    }

    fn port(&self) -> u16 {
        self.server.addresses()[0].port
    }

    fn reload(&self, credentials: Credentials) {
        self.server.handle().reload(credentials).unwrap();
    }

    /// Connects and exchanges a message. Returns what the handler saw.
    fn visit(&self, client: &Client) -> Seen {
        let mut peer = client.connect(&self.server.addresses()[0]).unwrap();
        exchange(&mut peer, b"hello");
        let seen = self.seen.recv_timeout(DEADLINE).unwrap();
        assert_eq!(peer.is_resumed(), seen.2);
        seen
    }

    /// Returns whether the client is refused.
    fn turns_away(&self, client: &Client) -> bool {
        match client.connect(&self.server.addresses()[0]) {
            Err(ConnectError::Handshake { .. } | ConnectError::TimedOut { .. }) => true,
            Err(other) => panic!("{other}"),
            Ok(mut peer) => {
                let mut buffer = [0; 64];
                let _ = peer.send(b"hello");
                !matches!(peer.recv_timeout(&mut buffer, DEADLINE), Ok(Some(_)))
            }
        }
    }

    /// Returns whether OpenSSL's client resumes the session in this file, if there is one. The client writes its
    /// newest session to the file.
    fn resumes(&self, version: &str, file: &Path) -> bool {
        self.resumes_as("localhost", version, file)
    }

    /// Does the same for a client that requests this name.
    fn resumes_as(&self, name: &str, version: &str, file: &Path) -> bool {
        let address = format!("127.0.0.1:{}", self.port());
        let file = file.to_str().unwrap();
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &address, "-servername", name, version, "-sess_out", file]);
        if std::path::Path::new(file).exists() {
            command.args(["-sess_in", file]);
        }
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = piped.spawn().expect("openssl starts; install it");
        let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        stdin.write_all(b"hello over there\n").unwrap();
        let (mut text, mut buffer) = (String::new(), [0; 4096]);
        // The echo comes after the session tickets of TLS 1.3.
        while !text.contains("\nhello over there\n") {
            match stdout.read(&mut buffer) {
                Ok(len @ 1..) => text += &String::from_utf8_lossy(&buffer[..len]),
                _ => break,
            }
        }
        drop(stdin);
        child.wait().unwrap();
        let seen = self.seen.recv_timeout(DEADLINE).unwrap();
        assert_eq!(text.contains("\nReused, "), seen.2, "{text}");
        assert_eq!(seen.1.as_deref(), Some(name));
        seen.2
    }
}

/// Each version of the protocol in OpenSSL's spelling, with a scheme that uses it.
const VERSIONS: [(&str, &str); 3] = [("-dtls1_2", BOTH[0]), ("-tls1_2", BOTH[1]), ("-tls1_3", BOTH[1])];

fn file(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

/// Makes the keys of a file with these lines.
fn keys(lines: &[(&str, u8)]) -> SharedKeys {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let path = file(&format!("keys-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    let text: String = lines
        .iter()
        .filter(|(_, byte)| *byte > 0)
        .map(|(name, byte)| format!("{name}:{}\n", format!("{byte:02x}").repeat(32)))
        .collect();
    std::fs::write(&path, text).unwrap();
    let keys = SharedKeys::from_file(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    keys
}

fn trusting(authority: &Authority) -> Client {
    Client::builder().ca(authority.bundle()).timeout(DEADLINE)
}

#[test]
fn a_client_resumes_its_session_many_times() {
    let authority = Authority::new();
    for url in BOTH {
        let credentials = Credentials::new().identity(authority.issue("server", &p256())).alpn(&["chat/1"]);
        let running = Running::start(url, credentials);
        let client = trusting(&authority).server_name("localhost").alpn(&["chat/1"]);
        for round in 0..4 {
            let mut peer = client.connect(&running.server.addresses()[0]).unwrap();
            exchange(&mut peer, b"hello");
            assert_eq!((peer.alpn(), peer.is_resumed()), (Some("chat/1"), round > 0), "{url} {round}");
            let (_, name, resumed) = running.seen.recv_timeout(DEADLINE).unwrap();
            assert_eq!((name.as_deref(), resumed), (Some("localhost"), round > 0), "{url} {round}");
        }
        assert_eq!(running.server.handle().stats().resumed, 3, "{url}");
        // Other clients have no session to resume: those that have turned resumption off, and those with other
        // credentials.
        assert!(!running.visit(&client.clone().resumption(false)).2, "{url}");
        assert!(!running.visit(&client.clone().ca(authority.bundle())).2, "{url}");
        assert!(!running.visit(&client.server_name("127.0.0.1")).2, "{url}");
    }
}

#[test]
fn both_sides_derive_the_same_keys_from_a_resumed_session() {
    let authority = Authority::new();
    for url in BOTH {
        let (sender, exported) = channel();
        let sender = Mutex::new(sender);
        let handler = move |peer: &mut Peer| {
            let mut key = [0; 32];
            peer.export_keying_material("EXPORTER-test", Some(b"x"), &mut key)?;
            sender.lock().unwrap().send(key).unwrap();
            echo(peer)
        };
        let builder = Server::builder()
            .listen(url)
            .credentials(Credentials::new().identity(authority.issue("server", &p256())).exporters(true));
        let server = builder.start(handler).unwrap();
        let client = trusting(&authority).exporters(true);
        let mut all = Vec::new();
        for _ in 0..2 {
            let mut peer = client.connect(&server.addresses()[0]).unwrap();
            exchange(&mut peer, b"hello");
            let mut ours = [0; 32];
            peer.export_keying_material("EXPORTER-test", Some(b"x"), &mut ours).unwrap();
            assert_eq!(ours, exported.recv_timeout(DEADLINE).unwrap(), "{url}");
            all.push((ours, peer.is_resumed()));
        }
        assert!(!all[0].1 && all[1].1 && all[0].0 != all[1].0, "{url}: {all:?}");
        server.handle().shutdown(Duration::ZERO);
    }
}

#[test]
fn servers_with_the_same_key_file_take_each_others_tickets() {
    let authority = Authority::new();
    for (version, url) in VERSIONS {
        let start = |keys: Option<SharedKeys>, name: &str| {
            // Each host has a certificate of its own.
            let credentials = Credentials::new().identity(authority.issue_for("server", &[name]));
            Running::start(url, keys.into_iter().fold(credentials, Credentials::shared_keys))
        };
        let shared = keys(&[("current", 1)]);
        let (one, other) =
            (start(Some(shared.clone()), "localhost"), start(Some(shared.clone()), "localhost"));
        let foreign = start(Some(keys(&[("current", 2)])), "localhost");
        let (alone, elsewhere) = (start(None, "localhost"), start(Some(shared), "example.org"));
        let session = file("shared.session");
        assert!(!one.resumes(version, &session), "{version}");
        assert!(one.resumes(version, &session), "{version}");
        assert!(other.resumes(version, &session), "{version}");
        for (unrelated, what) in
            [(&foreign, "other keys"), (&alone, "no key file"), (&elsewhere, "another server's names")]
        {
            // The tickets that it issues instead are useless for the others.
            let copy = file("copy.session");
            std::fs::copy(&session, &copy).unwrap();
            assert!(!unrelated.resumes(version, &copy), "{version}: {what}");
            assert!(!other.resumes(version, &copy), "{version}: {what}");
        }
        std::fs::remove_file(session).unwrap();
    }
}

#[test]
fn a_session_of_one_identity_is_not_resumed_under_the_name_of_another() {
    let authority = Authority::new();
    let a = || authority.issue_for("a", &["a.test", "also-a.test"]);
    let b = || authority.issue_for("b", &["b.test"]);
    for (version, url) in VERSIONS {
        let shared = keys(&[("current", 1)]);
        let credentials = || Credentials::new().identity(a()).identity(b()).shared_keys(shared.clone());
        let (running, other_host) = (Running::start(url, credentials()), Running::start(url, credentials()));
        for (first, same, foreign) in [
            ("a.test", "also-a.test", "b.test"),
            // The first identity is also used for unknown names.
            ("a.test", "elsewhere.test", "b.test"),
            ("b.test", "B.test", "a.test"),
            ("b.test", "b.test", "elsewhere.test"),
        ] {
            let what = format!("{version}: {first}, then {same} or {foreign}");
            let session = file("names.session");
            assert!(!running.resumes_as(first, version, &session), "{what}");
            let copy = file("names-copy.session");
            let resumes_as = |at: &Running, name| {
                std::fs::copy(&session, &copy).unwrap();
                at.resumes_as(name, version, &copy)
            };
            assert!(!resumes_as(&running, foreign), "{what}");
            assert!(!resumes_as(&other_host, foreign), "{what}");
            assert!(resumes_as(&running, same), "{what}");
            assert!(resumes_as(&other_host, first), "{what}");
            std::fs::remove_file(session).unwrap();
            std::fs::remove_file(copy).unwrap();
        }

        // An additional identity does not invalidate the others' sessions.
        let session = file("names.session");
        let alone = Running::start(url, Credentials::new().identity(b()).shared_keys(shared.clone()));
        assert!(!alone.resumes_as("b.test", version, &session), "{version}");
        alone.reload(credentials());
        assert!(alone.resumes_as("b.test", version, &session), "{version}");
        std::fs::remove_file(session).unwrap();
    }
}

#[test]
fn a_client_of_ours_resumes_with_each_of_two_names() {
    let authority = Authority::new();
    for url in BOTH {
        let credentials = Credentials::new()
            .identity(authority.issue_for("a", &["a.test"]))
            .identity(authority.issue_for("b", &["b.test"]));
        let running = Running::start(url, credentials);
        let clients = ["a.test", "b.test"].map(|name| (name, trusting(&authority).server_name(name)));
        for round in 0..3 {
            for (name, client) in &clients {
                let (_, asked, resumed) = running.visit(client);
                assert_eq!((asked.as_deref(), resumed), (Some(*name), round > 0), "{url}");
            }
        }
    }
}

#[test]
fn a_ticket_lives_through_one_rotation_and_not_through_two() {
    let authority = Authority::new();
    for (version, url) in VERSIONS {
        let credentials = || Credentials::new().identity(authority.issue("server", &p256()));
        let running = Running::start(url, credentials().shared_keys(keys(&[("current", 1)])));
        let session = file("rotated.session");
        assert!(!running.resumes(version, &session));
        let old = file("old.session");
        std::fs::copy(&session, &old).unwrap();

        running.reload(credentials().shared_keys(keys(&[("current", 2), ("previous", 1)])));
        assert!(running.resumes(version, &session), "{version}: the previous key's ticket");
        running.reload(credentials().shared_keys(keys(&[("current", 3), ("previous", 2)])));
        // Before TLS 1.3, OpenSSL's client does not save a ticket that it received in a resumed handshake.
        if version == "-tls1_3" {
            assert!(running.resumes(version, &session), "{version}: the ticket was made anew");
        }
        assert!(!running.resumes(version, &old), "{version}: a ticket from before the previous key");
    }
}

#[test]
fn a_client_of_ours_resumes_through_all_rotations() {
    let authority = Authority::new();
    for url in BOTH {
        let credentials = |current: u8| {
            let credentials = Credentials::new().identity(authority.issue("server", &p256()));
            credentials.shared_keys(keys(&[("current", current), ("previous", current - 1)]))
        };
        let running = Running::start(url, credentials(1));
        let client = trusting(&authority);
        assert!(!running.visit(&client).2);
        for current in 2..6 {
            running.reload(credentials(current));
            assert!(running.visit(&client).2, "{url} {current}");
        }
    }
}

#[test]
fn a_server_keeps_its_random_keys_through_a_reload() {
    let authority = Authority::new();
    for url in BOTH {
        let credentials = || Credentials::new().identity(authority.issue("server", &p256()));
        let running = Running::start(url, credentials());
        let client = trusting(&authority);
        assert!(!running.visit(&client).2);
        running.reload(credentials());
        assert!(running.visit(&client).2, "{url}");
    }
}

#[test]
fn a_resumed_client_keeps_its_identity_and_is_authorized_again() {
    let authority = Authority::new();
    let alice = authority.issue("alice", &rsa(2048));
    for url in BOTH {
        let asked = Arc::new(AtomicUsize::new(0));
        let credentials = |welcome: bool| {
            let asked = Arc::clone(&asked);
            Credentials::new()
                .identity(authority.issue("server", &p256()))
                .client_auth(ClientAuth::Required(authority.bundle()))
                .authorize(move |peer| {
                    asked.fetch_add(1, Ordering::Relaxed);
                    let PeerIdentity::Certificate(certificate) = peer else { return false };
                    welcome && certificate.uris == ["urn:example:alice"]
                })
        };
        let running = Running::start(url, credentials(true));
        let client = trusting(&authority).identity(alice.clone());
        let (first, again) = (running.visit(&client), running.visit(&client));
        assert!(!first.2 && again.2, "{url}");
        assert_eq!(first.0, again.0, "{url}");
        assert!(matches!(first.0, PeerIdentity::Certificate(_)), "{url}");
        assert_eq!(asked.load(Ordering::Relaxed), 2, "{url}");

        running.reload(credentials(false));
        let resumed = || running.server.handle().stats().resumed;
        let before = resumed();
        assert!(running.turns_away(&client), "{url}");
        until("it is counted", || {
            (running.server.handle().stats().ended(EndKind::NotAuthorized) == 1).then_some(())
        });
        assert_eq!((resumed() - before, asked.load(Ordering::Relaxed)), (1, 3), "{url}");
    }
}

#[test]
fn a_certificate_that_was_revoked_since_resumes_nothing() {
    let authority = Authority::new();
    let (alice, bob) = (authority.issue("alice", &p256()), authority.issue("bob", &p256()));
    for url in BOTH {
        let credentials = |revoked: &[&peeloff::Identity]| {
            Credentials::new()
                .identity(authority.issue("server", &p256()))
                .client_auth(ClientAuth::Required(authority.bundle()))
                .revoked(RevocationList::from_bytes(&authority.revoke(revoked)).unwrap())
        };
        let running = Running::start(url, credentials(&[]));
        let clients = [&alice, &bob].map(|identity| trusting(&authority).identity((*identity).clone()));
        for client in &clients {
            running.visit(client);
            assert!(running.visit(client).2, "{url}");
        }
        running.reload(credentials(&[&bob]));
        assert!(running.visit(&clients[0]).2, "{url}");
        assert!(running.turns_away(&clients[1]), "{url}");
    }
}

#[test]
fn a_session_is_not_resumed_where_clients_are_asked_for_something_else() {
    let (authority, other) = (Authority::new(), Authority::new());
    for url in BOTH {
        let credentials = |auth: ClientAuth| {
            Credentials::new().identity(authority.issue("server", &p256())).client_auth(auth)
        };
        let optional = || credentials(ClientAuth::Optional(authority.bundle()));
        let running = Running::start(url, optional());
        let client = trusting(&authority).identity(authority.issue("alice", &p256()));
        let nobody = trusting(&authority);
        running.visit(&client);
        running.visit(&nobody);
        assert!(running.visit(&client).2 && running.visit(&nobody).2, "{url}");

        // A client that showed no certificate cannot avoid having to show one now.
        running.reload(credentials(ClientAuth::Required(authority.bundle())));
        assert!(running.turns_away(&nobody), "{url}");
        assert!(!running.visit(&client).2, "{url}");
        // A session with a certificate of an authority that is no longer trusted is not resumed either.
        running.reload(credentials(ClientAuth::Required(other.bundle())));
        assert!(running.turns_away(&client), "{url}");
        assert_eq!(running.server.handle().stats().ended(EndKind::NotAuthorized), 0, "{url}");
    }
}

#[test]
fn a_pre_shared_key_is_still_named_when_its_session_is_resumed() {
    let known = |names: &'static [&'static [u8]]| {
        Credentials::new().psk(move |name| names.contains(&name).then(|| vec![7; 32]))
    };
    let running = Running::start(BOTH[0], known(&[b"alice", b"bob"]));
    let client = Client::builder().psk(b"alice", &[7; 32]).timeout(DEADLINE);
    let (first, again) = (running.visit(&client), running.visit(&client));
    assert!(!first.2 && again.2);
    assert_eq!(first.0, PeerIdentity::Psk(b"alice".to_vec()));
    assert_eq!(again.0, first.0);
    // A client whose key was removed is refused.
    running.reload(known(&[b"bob"]));
    assert!(running.turns_away(&client));
}

#[test]
fn a_cookie_is_good_on_every_server_with_the_same_key_file() {
    let authority = Authority::new();
    // The servers use one address in turn, like one that several hosts answer for.
    let start = |url: &str, keys: SharedKeys| {
        Running::start(url, Credentials::new().identity(authority.issue("server", &p256())).shared_keys(keys))
    };
    // No other test uses this address, so the port stays free.
    let one = start("dtls://127.0.77.10:0", keys(&[("current", 1)]));
    let url = one.server.addresses()[0].to_string();
    let address = one.server.addresses()[0].resolve().unwrap()[0];
    let peers: Vec<_> = (0..3).map(|_| RawClient::new([127, 0, 0, 1], address)).collect();
    let cookies: Vec<_> = peers.iter().map(RawClient::challenge).collect();
    drop(one);
    for (index, lines) in [&[("current", 1)][..], &[("current", 2), ("previous", 1)]].into_iter().enumerate()
    {
        let running = start(&url, keys(lines));
        peers[index].send(&peers[index].hello(&cookies[index]));
        peers[index].assert_served();
        drop(running);
    }
    let foreign = start(&url, keys(&[("current", 2)]));
    peers[2].send(&peers[2].hello(&cookies[2]));
    peers[2].assert_silence();
    assert_eq!(foreign.server.handle().stats().cookies_refused, 1);
}

/// Makes a client of `running` that has a session, behind a path on which `decide` decides from then on.
fn resumer(
    running: &Running,
    trust: &CaBundle,
    mut decide: impl FnMut(usize, bool, &[u8]) -> Fate + Send + 'static,
) -> (Client, FaultyPath, Arc<AtomicBool>) {
    let armed = Arc::new(AtomicBool::new(false));
    let arms = Arc::clone(&armed);
    let mut number = 0;
    let address = running.server.addresses()[0].resolve().unwrap()[0];
    let path = FaultyPath::to(address, move |_, to_server, datagram| {
        // Application data passes, because DTLS does not guarantee its delivery.
        if !arms.load(Ordering::SeqCst) || datagram.first() == Some(&23) {
            return Fate::Pass;
        }
        number += 1;
        decide(number - 1, to_server, datagram)
    });
    let client = Client::builder().ca(trust.clone()).timeout(DEADLINE);
    let mut peer = client.connect(path.url()).unwrap();
    exchange(&mut peer, b"hello");
    peer.close();
    // The close_notify has arrived.
    let ended = || running.server.handle().stats().peers == 0;
    until("the first association ends", || ended().then_some(()));
    armed.store(true, Ordering::SeqCst);
    (client, path, armed)
}

#[test]
fn every_datagram_of_a_resumed_handshake_may_be_lost_repeated_or_late() {
    let authority = Authority::new();
    let running = || Running::start(BOTH[0], Credentials::new().identity(authority.issue("server", &p256())));
    let trust = authority.bundle();
    // The number of datagrams in the handshake.
    let passed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&passed);
    let first = running();
    let (client, path, armed) = resumer(&first, &trust, move |number, _, _| {
        count.store(number + 1, Ordering::SeqCst);
        Fate::Pass
    });
    let mut peer = client.connect(path.url()).unwrap();
    assert!(peer.is_resumed());
    exchange(&mut peer, b"hello");
    armed.store(false, Ordering::SeqCst);
    let datagrams = passed.load(Ordering::SeqCst);
    assert!((4..12).contains(&datagrams), "{datagrams} datagrams are no resumed handshake with a cookie");

    let faults = [Fate::Drop, Fate::Twice, Fate::Late, Fate::Delay(Duration::from_millis(300))];
    let cases: Vec<_> = faults.iter().flat_map(|fault| (0..datagrams).map(move |at| (*fault, at))).collect();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some(&(fault, at)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let running = running();
                    let (client, path, _) =
                        resumer(&running, &trust, move |number, _, _| match number == at {
                            true => fault,
                            false => Fate::Pass,
                        });
                    let failed = |error| panic!("{fault:?} of datagram {at}: {error}");
                    let mut peer = client.connect(path.url()).unwrap_or_else(failed);
                    assert!(peer.is_resumed(), "{fault:?} of datagram {at}");
                    // Messages that are sent at once may overtake the last flight; none of them is lost because
                    // of that.
                    for message in [b"one", b"two"] {
                        peer.send(message).unwrap();
                    }
                    let mut buffer = [0; 8];
                    let mut answers = [0, 0].map(|_| {
                        let received = peer.recv_timeout(&mut buffer, DEADLINE);
                        let len =
                            received.unwrap_or_else(|error| panic!("{fault:?} of datagram {at}: {error}"));
                        buffer[..len.unwrap()].to_vec()
                    });
                    answers.sort();
                    assert_eq!(answers, [b"one", b"two"], "{fault:?} of datagram {at}");
                    exchange(&mut peer, b"and more");
                }
            });
        }
    });
}

#[test]
fn much_that_overtakes_the_last_flight_does_not_keep_it_out() {
    let authority = Authority::new();
    let running = Running::start(BOTH[0], Credentials::new().identity(authority.issue("server", &p256())));
    let mut lost = false;
    let (client, path, _) = resumer(&running, &authority.bundle(), move |_, to_server, datagram| {
        // A ChangeCipherSpec to the server begins the client's last flight.
        let last = to_server && datagram.first() == Some(&20);
        match last && !std::mem::replace(&mut lost, true) {
            true => Fate::Drop,
            false => Fate::Pass,
        }
    });
    let mut peer = client.connect(path.url()).unwrap();
    assert!(peer.is_resumed());
    for number in 0..40_u8 {
        peer.send(&[number; 20]).unwrap();
    }
    // The first messages were kept. Then the server repeats its flight, and the client's flight still arrives.
    let mut buffer = [0; 32];
    for number in 0..8_u8 {
        assert_eq!(peer.recv_timeout(&mut buffer, DEADLINE).unwrap(), Some(20));
        assert_eq!(buffer[..20], [number; 20]);
    }
    exchange(&mut peer, b"and more");
    assert_eq!(running.server.handle().stats().resumed, 1);
}

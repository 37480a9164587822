//! A server is handed over from one process to another. Here both are servers of this process, which share
//! nothing but a socket.

mod support;

use std::net::{IpAddr, SocketAddr};
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use peeloff::{
    Client, ConnectionIds, EndKind, EndReason, Error, HandedOver, HandlerError, Limits, Message, Peer,
    PeerEvents, PeerIdentity, Predecessor, Sender, Server, ServerBuilder, Sockets, hand_over_sockets,
};
use support::{DEADLINE, echo, exchange, scaled, until};

const KEY: &[u8] = b"0123456789abcdef";

/// The name of peers that a [`Counter`] does not save.
const PEER_THAT_STAYS: &str = "stays";
/// The name of peers whose state a [`Counter`] saves with more bytes than a message of a hand-over carries.
const PEER_WITH_A_LONG_STATE: &str = "long";
const LONG_STATE: usize = 128 << 10;

/// Answers each message with the number of messages from the peer and the message itself.
#[derive(Clone, Default)]
struct Counter {
    /// The number of peers that left by a hand-over.
    gone: Arc<AtomicU64>,
    /// Peers with this name are not saved.
    stays: Option<&'static str>,
    /// The message `block` waits for this.
    released: Arc<AtomicBool>,
    ends: Arc<Mutex<Vec<EndReason>>>,
}

impl PeerEvents for Counter {
    type State = u64;

    fn open(&self, _: &Sender) -> Result<u64, HandlerError> {
        Ok(0)
    }

    fn message(&self, count: &mut u64, peer: &Sender, message: Message<'_>) -> Result<(), HandlerError> {
        *count += 1;
        if message.bytes() == b"block" {
            until("the release", || self.released.load(Ordering::SeqCst).then_some(()));
        }
        Ok(peer.send(&[&count.to_be_bytes(), message.bytes()].concat())?)
    }

    fn save(&self, count: &u64, peer: &Sender) -> Option<Vec<u8>> {
        let is_called = |name: &str| *peer.identity() == PeerIdentity::Psk(name.into());
        if self.stays.is_some_and(is_called) {
            return None;
        }
        if is_called(PEER_WITH_A_LONG_STATE) {
            return Some(vec![0; LONG_STATE]);
        }
        Some(count.to_be_bytes().to_vec())
    }

    fn restore(&self, saved: &[u8], peer: &Sender) -> Result<u64, HandlerError> {
        // The results of the handshake are available, too.
        assert!(!peer.scheme().is_secure() || peer.cipher().is_some());
        Ok(u64::from_be_bytes(saved.try_into()?))
    }

    fn close(&self, _: u64, _: &Sender, reason: EndReason) {
        if reason == EndReason::HandedOver {
            self.gone.fetch_add(1, Ordering::SeqCst);
        }
        self.ends.lock().unwrap().push(reason);
    }
}

fn builder(url: &str) -> ServerBuilder {
    let builder = Server::builder().listen(url).psk(|_| Some(KEY.to_vec()));
    builder.connection_ids(ConnectionIds::new(8).unwrap())
}

fn client(server: &Server, name: &str) -> Peer {
    let client = Client::builder().psk(name.as_bytes(), KEY).timeout(DEADLINE);
    client.connect(&server.addresses()[0]).unwrap()
}

/// Hands a server over to another one, which `configure` has changed.
fn hand_over(
    old: &Server,
    configure: impl FnOnce(ServerBuilder) -> ServerBuilder,
    events: impl PeerEvents,
) -> (Server, HandedOver) {
    let (give, take) = hand_over_sockets().unwrap();
    let handle = old.handle();
    let giving = thread::spawn(move || handle.hand_over(give));
    let url = old.addresses()[0].to_string();
    let new = configure(builder(&url)).take_over(Predecessor::ask(take).unwrap()).start_events(events);
    let given = giving.join().unwrap();
    (new.unwrap(), given.unwrap())
}

/// A client that talks: each message has a number, and every answer is checked.
struct Talker {
    peer: Peer,
    sent: u64,
    answered: u64,
    /// The state of its random numbers.
    state: u64,
}

impl Talker {
    fn new(peer: Peer, seed: u64) -> Self {
        Self { peer, sent: 0, answered: 0, state: seed | 1 }
    }

    fn random(&mut self) -> u64 {
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.state >> 33
    }

    /// Sends the next message, and never sends a message again.
    fn send(&mut self) {
        self.sent += 1;
        let len = self.random() as usize % 200;
        let message = [&self.sent.to_be_bytes()[..], &vec![7; len]].concat();
        self.peer.send(&message).unwrap();
    }

    /// Receives the next answer. It must be that to the next message, and the server must have counted as many.
    fn take(&mut self) {
        let mut answer = [0; 300];
        let len = self.peer.recv_timeout(&mut answer, DEADLINE).expect("an answer").expect("a live peer");
        assert!(len >= 16);
        self.answered += 1;
        let number = |at: usize| u64::from_be_bytes(answer[at..at + 8].try_into().unwrap());
        assert_eq!((number(0), number(8)), (self.answered, self.answered));
    }

    /// Talks, with up to four messages in flight.
    fn turn(&mut self) {
        for _ in 0..1 + self.random() % 2 {
            if self.sent - self.answered < 4 {
                self.send();
            }
        }
        self.take();
    }

    /// Receives all answers. None arrives twice.
    fn finish(&mut self) {
        while self.answered < self.sent {
            self.take();
        }
        let nothing = self.peer.recv_timeout(&mut [0; 300], Duration::ZERO);
        assert!(matches!(nothing, Err(Error::TimedOut)), "{nothing:?}");
    }
}

#[test]
fn a_thousand_peers_that_talk_all_the_while_notice_nothing_of_two_hand_overs() {
    const THREADS: u64 = 4;
    for url in ["dtls://127.0.0.1:0", "udp://127.0.0.1:0"] {
        // Peers stay if the loops cannot finish their turns within 250 ms. A sanitizer makes each turn slower, and so
        // does the talk of the others.
        let count = u64::from(scaled(scaled(1000)));
        let first = builder(url).event_loops(2).start_events(Counter::default()).unwrap();
        let talkers: Vec<_> =
            (0..count).map(|number| Talker::new(client(&first, &format!("peer {number}")), number)).collect();
        let mut shares: Vec<Vec<Talker>> = (0..THREADS).map(|_| Vec::new()).collect();
        for (number, talker) in talkers.into_iter().enumerate() {
            shares[number % THREADS as usize].push(talker);
        }
        let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            let talk = |mut talkers: Vec<Talker>| {
                let (stop, rounds) = (&stop, &rounds);
                scope.spawn(move || {
                    while !stop.load(Ordering::SeqCst) {
                        talkers.iter_mut().for_each(Talker::turn);
                        rounds.fetch_add(1, Ordering::SeqCst);
                    }
                    talkers.iter_mut().for_each(Talker::finish);
                    talkers
                })
            };
            let talking: Vec<_> = shares.into_iter().map(talk).collect();
            let some_rounds = || {
                let now = rounds.load(Ordering::SeqCst);
                until("all to talk", || (rounds.load(Ordering::SeqCst) >= now + 2 * THREADS).then_some(()));
            };
            some_rounds();
            let (second, given) = hand_over(&first, |builder| builder.event_loops(1), Counter::default());
            assert_eq!((given.peers as u64, given.staying, given.listeners), (count, 0, 1), "{given:?}");
            let first_received = first.handle().stats().messages_received;
            assert_eq!(first.handle().stats().ended(EndKind::HandedOver), count);
            drop(first);
            some_rounds();
            let (third, given) = hand_over(&second, |builder| builder.event_loops(3), Counter::default());
            assert_eq!((given.peers as u64, given.staying), (count, 0), "{given:?}");
            let before = second.handle().stats().messages_received + first_received;
            drop(second);
            some_rounds();
            stop.store(true, Ordering::SeqCst);
            let talkers: Vec<Talker> =
                talking.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
            let answered: u64 = talkers.iter().map(|talker| talker.answered).sum();
            let stats = third.handle().stats();
            // Each process has counted what it served.
            assert_eq!((stats.peers, before + stats.messages_received), (count, answered));
            assert_eq!((stats.taken_over, stats.handshakes, stats.opened), (count, 0, 0));
            assert_eq!((stats.records_forged, stats.records_dropped), (0, 0), "{stats:?}");
        });
    }
}

/// Checks that a peer is still served by the old server, which it cannot leave.
fn assert_served(peer: &mut Peer, count: u64, message: &[u8]) {
    peer.send(message).unwrap();
    let mut answer = [0; 300];
    let len = peer.recv_timeout(&mut answer, DEADLINE).unwrap().unwrap();
    assert_eq!(answer[..len], [&count.to_be_bytes(), message].concat());
}

#[test]
fn peers_that_cannot_be_handed_over_are_served_in_the_old_process_until_they_end() {
    for loops in [1, 2] {
        let events = Counter { stays: Some(PEER_THAT_STAYS), ..Counter::default() };
        let old = builder("dtls://127.0.0.1:0").event_loops(2).start_events(events.clone()).unwrap();
        let mut goes = client(&old, "goes");
        // Use addresses of this test's own, so that no other test takes a port that one of these peers leaves and
        // returns to.
        let own = IpAddr::from([127, 66, (process::id() >> 8) as u8, process::id() as u8]);
        let connect = |name: &[u8], port| {
            let client = Client::builder().psk(name, KEY).timeout(DEADLINE).bind(SocketAddr::new(own, port));
            client.connect(&old.addresses()[0]).unwrap()
        };
        let names = [PEER_THAT_STAYS, PEER_WITH_A_LONG_STATE];
        let mut stays: Vec<Peer> =
            names.iter().cycle().take(8).map(|name| connect(name.as_bytes(), 0)).collect();
        assert_served(&mut goes, 1, b"before");
        stays.iter_mut().for_each(|peer| assert_served(peer, 1, b"before"));
        let (new, given) = hand_over(&old, |builder| builder.event_loops(loops), Counter::default());
        assert_eq!((given.peers, given.staying), (1, 8), "{given:?}");
        for count in 2..5 {
            assert_served(&mut goes, count, b"new process");
            stays.iter_mut().for_each(|peer| assert_served(peer, count, b"old process"));
        }
        until("the count", || (new.handle().stats().relayed == 24).then_some(()));
        // One peer leaves, and returns as a new peer of the new process.
        let left = stays.pop().unwrap();
        let local = left.local_address();
        drop(left);
        until("the end", || (old.handle().stats().peers == 7).then_some(()));
        let mut again = connect(b"again", local.port());
        assert_served(&mut again, 1, b"anew");
        assert_eq!((old.handle().stats().peers, new.handle().stats().peers), (7, 2));
        // The others learn of the end by the drain, and reach the new process, too.
        let handle = old.handle();
        let drain = thread::spawn(move || handle.shutdown(DEADLINE));
        for peer in &mut stays {
            assert!(matches!(peer.recv_timeout(&mut [0; 64], DEADLINE), Ok(None)));
        }
        assert_eq!(drain.join().unwrap().finished, 7);
        drop(old);
        for peer in stays {
            let local = peer.local_address();
            drop(peer);
            let again = Client::builder().psk(b"again", KEY).timeout(DEADLINE).bind(local);
            assert_served(&mut again.connect(&new.addresses()[0]).unwrap(), 1, b"anew");
        }
    }
}

#[test]
fn a_peer_whose_address_changes_is_found_in_either_process() {
    let ids = || ConnectionIds::new(0).unwrap();
    let events = Counter { stays: Some(PEER_THAT_STAYS), ..Counter::default() };
    let old = builder("dtls://127.0.0.1:0").event_loops(3).start_events(events).unwrap();
    let connect = |name: &str| {
        let client = Client::builder().psk(name.as_bytes(), KEY).timeout(DEADLINE).connection_ids(ids());
        client.connect(&old.addresses()[0]).unwrap()
    };
    let mut peers: Vec<Peer> =
        (0..12).map(|number| connect(if number % 2 == 0 { "goes" } else { PEER_THAT_STAYS })).collect();
    for (round, peer) in peers.iter_mut().enumerate() {
        assert_served(peer, 1, b"at first");
        // Some peers have moved before, and some move afterwards.
        if round % 3 == 0 {
            peer.change_port().unwrap();
            assert_served(peer, 2, b"moved before");
        } else {
            assert_served(peer, 2, b"stays");
        }
    }
    let (new, given) = hand_over(&old, |builder| builder.event_loops(2), Counter::default());
    assert_eq!((given.peers, given.staying), (6, 6), "{given:?}");
    for count in 3..6 {
        for peer in &mut peers {
            peer.change_port().unwrap();
            assert_served(peer, count, b"moved after");
        }
    }
    assert_eq!((old.handle().stats().peers, new.handle().stats().peers), (6, 6));
}

#[test]
fn handshakes_under_way_and_held_up_callbacks_stay_and_are_finished() {
    let events = Counter::default();
    let old = builder("dtls://127.0.0.1:0")
        .event_loops(1)
        .psk(|name| {
            // This key takes long to find.
            if name == b"slow" {
                LOOKED_UP.store(true, Ordering::SeqCst);
                until("the key", || FOUND.load(Ordering::SeqCst).then_some(()));
            }
            Some(KEY.to_vec())
        })
        .start_events(events.clone())
        .unwrap();
    let address = old.addresses()[0].clone();
    let mut blocked = client(&old, "blocked");
    assert_served(&mut blocked, 1, b"before");
    blocked.send(b"block").unwrap();
    let slow = thread::spawn(move || {
        Client::builder().psk(b"slow", KEY).timeout(DEADLINE).connect(&address).unwrap()
    });
    until("the look-up", || LOOKED_UP.load(Ordering::SeqCst).then_some(()));
    let (new, given) = hand_over(&old, |builder| builder, Counter::default());
    assert_eq!((given.peers, given.staying), (0, 2), "{given:?}");
    FOUND.store(true, Ordering::SeqCst);
    events.released.store(true, Ordering::SeqCst);
    let mut slow = slow.join().unwrap();
    assert_served(&mut slow, 1, b"after its handshake");
    let mut answer = [0; 64];
    assert_eq!(blocked.recv_timeout(&mut answer, DEADLINE).unwrap(), Some(13));
    assert_served(&mut blocked, 3, b"after its callback");
    let mut newcomer = client(&new, "new");
    assert_served(&mut newcomer, 1, b"a newcomer");
    assert_eq!((old.handle().stats().peers, new.handle().stats().peers), (2, 1));
}

static LOOKED_UP: AtomicBool = AtomicBool::new(false);
static FOUND: AtomicBool = AtomicBool::new(false);

/// While the server stands still, sends to each peer that is being saved.
struct Late(Mutex<Vec<Sender>>);

impl PeerEvents for Late {
    type State = ();

    fn open(&self, peer: &Sender) -> Result<(), HandlerError> {
        self.0.lock().unwrap().push(peer.clone());
        Ok(())
    }

    fn message(&self, (): &mut (), peer: &Sender, message: Message<'_>) -> Result<(), HandlerError> {
        Ok(peer.send(&message)?)
    }

    fn save(&self, (): &(), _: &Sender) -> Option<Vec<u8>> {
        for peer in &*self.0.lock().unwrap() {
            // Peers before this one wait for the other process; the others receive the message at once.
            peer.send(b"while it stood still").unwrap();
        }
        Some(Vec::new())
    }

    fn restore(&self, _: &[u8], peer: &Sender) -> Result<(), HandlerError> {
        peer.send(b"hello again")?;
        self.open(peer)
    }
}

#[test]
fn messages_sent_during_the_pause_of_a_hand_over_arrive_once() {
    for url in ["dtls://127.0.0.1:0", "udp://127.0.0.1:0"] {
        let late = || Late(Mutex::default());
        let old = builder(url).event_loops(1).start_events(late()).unwrap();
        let mut peers: Vec<Peer> = (0..3).map(|_| client(&old, "peer")).collect();
        let mut answer = [0; 64];
        let mut expect = |peer: &mut Peer, message: &[u8]| {
            let len = peer.recv_timeout(&mut answer, DEADLINE).unwrap().unwrap();
            assert_eq!(&answer[..len], message, "{url}");
        };
        for peer in &mut peers {
            peer.send(b"before").unwrap();
            expect(peer, b"before");
        }
        let (_new, given) = hand_over(&old, |builder| builder, late());
        assert_eq!(given.peers, 3, "{given:?}");
        for peer in &mut peers {
            let mut heard = vec![0; 4];
            for _ in 0..4 {
                let len = peer.recv_timeout(&mut answer, DEADLINE).unwrap().unwrap();
                heard.push(len);
            }
            // One for each saved peer, and the greeting of the new process.
            heard.retain(|len| *len != 0);
            heard.sort_unstable();
            assert_eq!(heard, [11, 20, 20, 20], "{url}");
            peer.send(b"after").unwrap();
            let len = peer.recv_timeout(&mut answer, DEADLINE).unwrap().unwrap();
            assert_eq!(&answer[..len], b"after", "{url}");
        }
    }
}

#[test]
fn peers_with_threads_or_sockets_of_their_own_stay_and_new_ones_go_to_the_new_process() {
    for (url, sockets) in [
        ("udp://127.0.0.1:0", Sockets::PerPeer),
        ("dtls://127.0.0.1:0", Sockets::PerPeer),
        ("udp://0.0.0.0:0", Sockets::PerPeer),
        ("dtls://0.0.0.0:0", Sockets::PerPeer),
        ("dtls://127.0.0.1:0", Sockets::Shared),
        ("udp://127.0.0.1:0", Sockets::Shared),
        ("tcp://127.0.0.1:0", Sockets::PerPeer),
    ] {
        let start = |builder: ServerBuilder| builder.sockets(sockets).event_loops(2).start(echo).unwrap();
        let old = start(builder(url));
        let address = old.addresses()[0].to_string().replace("0.0.0.0", "127.0.0.1");
        let connect = || Client::builder().psk(b"a", KEY).timeout(DEADLINE).connect(&*address).unwrap();
        let mut peers: Vec<Peer> = (0..20).map(|_| connect()).collect();
        peers.iter_mut().for_each(|peer| exchange(peer, b"before"));
        let (give, take) = hand_over_sockets().unwrap();
        let handle = old.handle();
        let giving = thread::spawn(move || handle.hand_over(give));
        let again = builder(&old.addresses()[0].to_string());
        let new = start(again.take_over(Predecessor::ask(take).unwrap()));
        let given = giving.join().unwrap().unwrap();
        assert_eq!((given.peers, given.staying, given.listeners), (0, 20, 1), "{url}: {given:?}");
        for _ in 0..3 {
            peers.iter_mut().for_each(|peer| exchange(peer, b"after"));
            exchange(&mut connect(), b"a newcomer");
        }
        assert_eq!(old.handle().stats().peers, 20, "{url}");
        assert_eq!(new.handle().stats().opened, 3, "{url}");
    }
}

#[test]
fn peers_of_wildcards_and_of_other_connection_ids_are_answered_from_where_they_asked() {
    for (url, place) in [
        ("dtls://0.0.0.0:0", "127.0.0.1"),
        ("udp://0.0.0.0:0", "127.0.0.2"),
        ("dtls://[::]:0", "[::1]"),
        ("udp://[::]:0", "127.0.0.1"),
    ] {
        let old = builder(url).event_loops(2).start_events(Counter::default()).unwrap();
        let port = old.addresses()[0].to_string().rsplit(':').next().unwrap().to_owned();
        let address = format!("{}://{place}:{port}", url.split(':').next().unwrap());
        let connect = |ids: usize| {
            let client = Client::builder().psk(b"a", KEY).timeout(DEADLINE);
            client.connection_ids(ConnectionIds::new(ids).unwrap()).connect(&*address).unwrap()
        };
        let mut peers: Vec<Peer> = (0..10).map(|number| connect(number % 2 * 8)).collect();
        peers.iter_mut().for_each(|peer| assert_served(peer, 1, b"before"));
        let (same, given) = hand_over(&old, |builder| builder, Counter::default());
        assert_eq!((given.peers, given.staying), (10, 0), "{url}: {given:?}");
        drop(old);
        peers.iter_mut().for_each(|peer| assert_served(peer, 2, b"after"));
        // A process that expects connection IDs of another length cannot serve the peers that have IDs.
        let ids = ConnectionIds::new(12).unwrap();
        let (other, given) = hand_over(&same, |builder| builder.connection_ids(ids), Counter::default());
        let stays = if url.starts_with("dtls") { 10 } else { 0 };
        assert_eq!((given.peers, given.staying), (10 - stays, stays), "{url}: {given:?}");
        peers.iter_mut().for_each(|peer| assert_served(peer, 3, b"after that"));
        assert_eq!(other.handle().stats().peers, 10 - stays as u64, "{url}");
    }
}

/// A measurement, which passes without checking anything.
#[test]
#[ignore = "a measurement: cargo test --release -p peeloff --test hand_over -- --ignored --nocapture"]
fn how_long_a_server_stands_still() {
    peeloff::raise_fd_limit().unwrap();
    for url in ["dtls://127.0.0.1:0", "udp://127.0.0.1:0"] {
        for count in [100, 1000, 10_000] {
            let old = builder(url).limits(Limits::UNLIMITED).start_events(Counter::default()).unwrap();
            let mut peers: Vec<Peer> = (0..count).map(|_| client(&old, "peer")).collect();
            peers.iter_mut().for_each(|peer| assert_served(peer, 1, b"before"));
            let (_new, given) = hand_over(&old, |builder| builder, Counter::default());
            println!("{url}: {given:?}");
            peers.iter_mut().for_each(|peer| assert_served(peer, 2, b"after"));
        }
    }
}

//! A server goes from one process to another. Here both are servers of this process, which know nothing of each other but a
//! socket.

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use peeloff::{
    Client, ConnectionIds, EndKind, EndReason, Error, HandedOver, HandlerError, Message, Peer, PeerEvents,
    Predecessor, Sender, Server, ServerBuilder, hand_over_sockets,
};
use support::{DEADLINE, scaled, until};

const KEY: &[u8] = b"0123456789abcdef";

/// Answers with how many messages came from the peer, and the message.
#[derive(Clone, Default)]
struct Counter {
    /// Peers that left by a hand-over.
    gone: Arc<AtomicU64>,
    /// Peers with this name are not written.
    stays: Option<&'static str>,
    /// `block` waits for this.
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
        let identity = format!("{:?}", peer.identity());
        if self.stays.is_some_and(|stays| identity.contains(stays)) {
            return None;
        }
        Some(count.to_be_bytes().to_vec())
    }

    fn restore(&self, saved: &[u8], peer: &Sender) -> Result<u64, HandlerError> {
        // What the handshake settled is there, too.
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

/// A client that talks: each message has its number, and what the server answers is checked.
struct Talker {
    peer: Peer,
    sent: u64,
    answered: u64,
    /// Its random numbers.
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

    /// Sends the next message; never one again.
    fn send(&mut self) {
        self.sent += 1;
        let len = self.random() as usize % 200;
        let message = [&self.sent.to_be_bytes()[..], &vec![7; len]].concat();
        self.peer.send(&message).unwrap();
    }

    /// Takes the next answer: it is that to the next message, and the server has counted just as many.
    fn take(&mut self) {
        let mut answer = [0; 300];
        let len = self.peer.recv_timeout(&mut answer, DEADLINE).expect("an answer").expect("a live peer");
        assert!(len >= 16);
        self.answered += 1;
        let number = |at: usize| u64::from_be_bytes(answer[at..at + 8].try_into().unwrap());
        assert_eq!((number(0), number(8)), (self.answered, self.answered));
    }

    /// Talks, with up to four messages under way.
    fn turn(&mut self) {
        for _ in 0..1 + self.random() % 2 {
            if self.sent - self.answered < 4 {
                self.send();
            }
        }
        self.take();
    }

    /// Takes all answers. None comes twice.
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
        let count = u64::from(scaled(1000));
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

//! Whole associations of clients and servers in memory, with a virtual clock and a network whose faults follow a seed.

mod handed_over;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openssl::ssl::SslContext;

use super::assembly::VerifiedHello;
use super::handshake::Handshake;
use super::hello::{self, FirstDatagram, HANDSHAKE, Record, TLS12_CID};
use super::restart::{Checked, Cookies, Restart};
use super::session::{Session, Transmit};
use crate::config::Timeouts;
use crate::credentials::{Credentials, Identity, SharedKeys};
use crate::error::EndReason;
use crate::observe::Counters;
use crate::protocol::Read;
use crate::protocol::Sent;
use crate::protocol::sctp::simulation::Rng;
use crate::tls::context::connection_ids::Offer;
use crate::tls::context::{self, ClientCredentials, Contexts, Protocol, Sessions};
use crate::tls::{Failure, Resume};

const CLIENT: usize = 0;
const SERVER: usize = 1;
/// How long a handshake may take.
const PATIENCE: Duration = Duration::from_secs(600);

fn address(side: usize) -> SocketAddr {
    [SocketAddr::from(([192, 0, 2, 1], 4433)), SocketAddr::from(([192, 0, 2, 2], 4433))][side]
}

/// The faults of the network, each in percent of the datagrams.
#[derive(Clone, Copy, Default)]
struct Faults {
    lost: u64,
    duplicated: u64,
    /// Datagrams that arrive some milliseconds later than others.
    late: u64,
    /// Datagrams after which a forged one arrives too.
    forged: u64,
}

/// One side of an association.
enum Life {
    Handshaking(Box<Handshake>),
    Open(Box<Session>),
    Failed(Failure),
    Closed,
    Broken(String),
    Restarted(Vec<u8>),
}

struct Side {
    life: Option<Life>,
    messages: Vec<Vec<u8>>,
}

/// The contexts and counters that all associations of a test share.
struct World {
    server: Contexts,
    client: SslContext,
    counters: Arc<Counters>,
    start: Instant,
    /// The connection IDs that each side offers, or answers with.
    offers: [Option<Offer>; 2],
    /// Where the client keeps sessions, if it resumes them.
    sessions: Option<Arc<Sessions>>,
}

impl World {
    fn new() -> Self {
        let identities = vec![Identity::self_signed().unwrap()];
        let credentials = Credentials { identities, ..Credentials::default() };
        let schemes = [crate::address::Scheme::Dtls].into_iter();
        let server = Contexts::new(&credentials, &SharedKeys::random().unwrap(), schemes).unwrap();
        let credentials = ClientCredentials { accept_any: true, ..ClientCredentials::default() };
        let client = context::client(&credentials, Protocol::Dtls).unwrap();
        let start = Instant::now();
        Self { server, client, counters: Arc::default(), start, offers: [None, None], sessions: None }
    }

    /// With connection IDs of these lengths: the first is put into the server's records, the second into the client's.
    fn with_cids(lengths: [usize; 2]) -> Self {
        let offer = |len| Some(offer((0..len).map(|byte| byte as u8 ^ 0x5a).collect()));
        Self { offers: lengths.map(offer), ..Self::new() }
    }

    fn connect(&self, now: Instant) -> Side {
        let (counters, offer) = (Arc::clone(&self.counters), self.offers[CLIENT].clone());
        let sessions = self.sessions.as_ref();
        let resume = sessions.map(|sessions| Resume { sessions, revoked: None, server: "server".to_owned() });
        let deadline = now + PATIENCE;
        let handshake =
            Handshake::connect(&self.client, None, resume.as_ref(), offer, counters, deadline).unwrap();
        Side { life: Some(Life::Handshaking(Box::new(handshake))), messages: Vec::new() }
    }
}

fn offer(cid: Box<[u8]>) -> Offer {
    Offer { cid, check: false, follow_unchecked: false, secret: [9; 32].into() }
}

/// A client, a server, and the network between them.
struct Pair<'a> {
    world: &'a World,
    cookies: Arc<Cookies>,
    sides: [Side; 2],
    now: Instant,
    rng: Rng,
    faults: Faults,
    /// Datagrams in flight: the time of arrival, the receiver, and the content.
    in_flight: Vec<(Instant, usize, Vec<u8>)>,
    /// The number of datagrams that each side has sent.
    sent: [usize; 2],
    /// The numbers of the datagrams of each side that the network drops in any case.
    dropped: [Vec<usize>; 2],
}

impl<'a> Pair<'a> {
    fn new(world: &'a World, seed: u64, faults: Faults) -> Self {
        let now = world.start;
        let cookies = Arc::new(Cookies::new(&Timeouts::default(), None, now).unwrap());
        let sides = [world.connect(now), Side { life: None, messages: Vec::new() }];
        let rng = Rng::new(seed);
        let mut pair = Self {
            world,
            cookies,
            sides,
            now,
            rng,
            faults,
            in_flight: Vec::new(),
            sent: [0; 2],
            dropped: Default::default(),
        };
        pair.start(CLIENT);
        pair
    }

    fn start(&mut self, side: usize) {
        let now = self.now;
        if let Some(Life::Handshaking(handshake)) = &mut self.sides[side].life {
            let started = handshake.start(now);
            self.send_and_check(side, started);
        }
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.rng.below(100) < percent
    }

    /// Sends a datagram of this side over the network.
    fn send(&mut self, from: usize, datagram: &[u8]) {
        self.check_connection_ids(from, datagram);
        let Faults { lost, duplicated, late, forged } = self.faults;
        self.sent[from] += 1;
        let copies = if self.chance(duplicated) { 2 } else { 1 };
        for _ in 0..copies {
            if self.dropped[from].contains(&self.sent[from]) || self.chance(lost) {
                continue;
            }
            let delay = if self.chance(late) { self.rng.below(400) } else { 5 };
            let arrival = self.now + Duration::from_millis(delay);
            self.in_flight.push((arrival, 1 - from, datagram.to_vec()));
        }
        if self.chance(forged) {
            let mut garbage = datagram.to_vec();
            let kept = self.rng.below(garbage.len() as u64) as usize;
            garbage.truncate(kept);
            // The forged record has epoch 1, because an unencrypted one could end a handshake (RFC 6347).
            garbage.iter_mut().skip(3).for_each(|byte| *byte = byte.wrapping_add(1));
            self.in_flight.push((self.now, 1 - from, garbage));
        }
    }

    /// Checks that every protected record has the connection ID that its receiver asked for, if any.
    fn check_connection_ids(&self, from: usize, datagram: &[u8]) {
        let [Some(client), Some(server)] = &self.world.offers else { return };
        let cid = &[server, client][from].cid;
        let mut rest = datagram;
        while !rest.is_empty() {
            let (record, behind) = Record::split_with(rest, cid.len()).expect("whole records");
            assert!(record.epoch == 0 || record.cid == &**cid, "side {from}: {record:?}");
            assert_eq!(record.content_type == TLS12_CID, record.epoch == 1 && !cid.is_empty());
            rest = behind;
        }
    }

    /// Sends the datagrams of a side, and handles the result of a step of its handshake.
    fn send_and_check(&mut self, side: usize, advanced: Result<bool, Failure>) {
        while let Some(Life::Handshaking(handshake)) = &mut self.sides[side].life
            && let Some(datagram) = handshake.poll_transmit()
        {
            self.send(side, &datagram);
        }
        match advanced {
            Ok(false) => {}
            Ok(true) => {
                let Some(Life::Handshaking(handshake)) = self.sides[side].life.take() else { unreachable!() };
                let (session, _) = handshake.finish().unwrap();
                self.sides[side].life = Some(Life::Open(Box::new(session)));
                self.read(side, Read::Nothing);
            }
            Err(failure) => self.sides[side].life = Some(Life::Failed(failure)),
        }
    }

    /// Handles the result of a read of a session, and reads until nothing is left.
    fn read(&mut self, side: usize, read: Read) {
        let (mut read, mut buffer) = (read, [0; 2048]);
        while let Some(Life::Open(session)) = &mut self.sides[side].life {
            let over = match read {
                Read::Nothing if !session.has_more() => break,
                Read::Nothing => None,
                Read::Long(message) => {
                    self.sides[side].messages.push(message);
                    None
                }
                Read::Message(_) | Read::TooLong => unreachable!("nothing is read into no buffer"),
                Read::Closed => Some(Life::Closed),
                Read::Broken(why) => Some(Life::Broken(why)),
                Read::Restarted(hello) => Some(Life::Restarted(hello.into())),
            };
            if over.is_some() {
                self.sides[side].life = over;
                return;
            }
            let Some(Life::Open(session)) = &mut self.sides[side].life else { return };
            read = match session.read(&mut buffer, self.now) {
                Read::Message(len) => Read::Long(buffer[..len].to_vec()),
                other => other,
            };
        }
        self.transmit(side);
    }

    fn transmit(&mut self, side: usize) {
        while let Some(Life::Open(session)) = &mut self.sides[side].life
            && let Some(Transmit { datagram, .. }) = session.poll_transmit()
        {
            self.send(side, &datagram);
        }
    }

    /// Handles a datagram of an unknown peer, as a server's dispatcher does.
    fn meet(&mut self, datagram: &[u8]) {
        let (local, peer) = (address(SERVER), address(CLIENT));
        let FirstDatagram::ClientHello(hello) = hello::classify(datagram) else { return };
        match self.cookies.check(local, peer, &hello, datagram.len(), self.now) {
            Checked::Valid(proof) => {
                let verified = VerifiedHello::new(datagram, &hello, proof).unwrap();
                let restart = Restart::new(Arc::clone(&self.cookies), *hello.random, local, peer);
                let (context, counters) = (self.world.server.dtls(), Arc::clone(&self.world.counters));
                let deadline = self.now + PATIENCE;
                let offer = self.world.offers[SERVER].clone();
                let handshake =
                    Handshake::accept(context, verified, offer, restart, counters, deadline).unwrap();
                self.sides[SERVER].life = Some(Life::Handshaking(Box::new(handshake)));
                self.start(SERVER);
            }
            Checked::Unproven { reply: Some(reply), .. } => self.send(SERVER, &reply),
            _ => {}
        }
    }

    fn arrive(&mut self, side: usize, mut datagram: Vec<u8>) {
        let now = self.now;
        match &mut self.sides[side].life {
            None => self.meet(&datagram),
            Some(Life::Handshaking(handshake)) => {
                let advanced = handshake.handle_datagram(&mut datagram, now);
                self.send_and_check(side, advanced);
            }
            Some(Life::Open(session)) => {
                let mut buffer = [0; 2048];
                let read = match session.handle_datagram(&mut datagram, None, &mut buffer, now) {
                    Read::Message(len) => Read::Long(buffer[..len].to_vec()),
                    other => other,
                };
                self.read(side, read);
            }
            Some(_) => {}
        }
    }

    /// Processes the next event before `until`. Returns `false` if there is none.
    fn step(&mut self, until: Instant) -> bool {
        let arrival = (0..self.in_flight.len()).min_by_key(|&index| self.in_flight[index].0);
        let timeout = (0..2).filter_map(|side| match &self.sides[side].life {
            Some(Life::Handshaking(handshake)) => Some((handshake.next_timeout(), side)),
            _ => None,
        });
        let timeout = timeout.min();
        match (arrival, timeout) {
            (Some(index), timeout) if timeout.is_none_or(|(at, _)| self.in_flight[index].0 <= at) => {
                if self.in_flight[index].0 > until {
                    return false;
                }
                let (at, side, datagram) = self.in_flight.remove(index);
                self.now = self.now.max(at);
                self.arrive(side, datagram);
            }
            (_, Some((at, side))) if at <= until => {
                self.now = self.now.max(at);
                let now = self.now;
                if let Some(Life::Handshaking(handshake)) = &mut self.sides[side].life {
                    let advanced = handshake.handle_timeout(now);
                    self.send_and_check(side, advanced);
                }
            }
            _ => return false,
        }
        true
    }

    fn run_for(&mut self, duration: Duration) {
        let until = self.now + duration;
        while self.step(until) {}
        self.now = until;
    }

    fn say(&mut self, side: usize, message: &[u8]) {
        let mut datagram = Vec::new();
        let Some(Life::Open(session)) = &mut self.sides[side].life else { panic!("not open") };
        assert_eq!(session.seal(message, &mut datagram), Sent::Done);
        self.send(side, &datagram);
    }

    fn is_open(&self, side: usize) -> bool {
        matches!(self.sides[side].life, Some(Life::Open(_)))
    }

    fn assert_open(&self, context: &str) {
        for side in [CLIENT, SERVER] {
            match &self.sides[side].life {
                Some(Life::Open(_)) => {}
                Some(Life::Failed(failure)) => panic!("{context}: side {side}: {failure}"),
                Some(Life::Broken(why)) => panic!("{context}: side {side}: {why}"),
                Some(Life::Handshaking(_)) => panic!("{context}: side {side} still handshakes"),
                _ => panic!("{context}: side {side} is over"),
            }
        }
    }
}

#[test]
fn a_life_on_a_good_network_takes_four_flights_and_ends_with_close_notify() {
    let world = World::new();
    let mut pair = Pair::new(&world, 1, Faults::default());
    pair.run_for(Duration::from_millis(100));
    pair.assert_open("a good network");
    // The client sends two hellos and its last flight. The server sends a challenge and two flights, in several
    // datagrams.
    assert_eq!(pair.sides[CLIENT].messages.len() + pair.sides[SERVER].messages.len(), 0);
    pair.say(CLIENT, b"ping");
    pair.run_for(Duration::from_millis(10));
    pair.say(SERVER, b"pong");
    pair.run_for(Duration::from_millis(10));
    assert_eq!(pair.sides[SERVER].messages, [b"ping"]);
    assert_eq!(pair.sides[CLIENT].messages, [b"pong"]);
    if let Some(Life::Open(session)) = &mut pair.sides[CLIENT].life {
        session.close();
    }
    pair.transmit(CLIENT);
    pair.run_for(Duration::from_millis(10));
    assert!(matches!(pair.sides[SERVER].life, Some(Life::Closed)));
}

#[test]
fn handshakes_complete_and_messages_arrive_once_over_a_faulty_network() {
    let world = World::new();
    for seed in 0..400 {
        let faults = Faults { lost: seed % 40, duplicated: seed % 31, late: seed % 50, forged: seed % 23 };
        let mut pair = Pair::new(&world, seed, faults);
        let context = format!("seed {seed}");
        // A flight may be lost each time that it is retransmitted, until the faults end.
        pair.run_for(Duration::from_secs(60));
        pair.faults = Faults::default();
        pair.run_for(Duration::from_secs(100));
        pair.assert_open(&context);
        pair.faults = faults;
        let mut said = [VecDeque::new(), VecDeque::new()];
        for number in 0..20_u8 {
            for (side, said) in said.iter_mut().enumerate() {
                let message = [side as u8, number];
                said.push_back(message.to_vec());
                pair.say(side, &message);
            }
            pair.run_for(Duration::from_millis(20));
        }
        pair.run_for(Duration::from_secs(2));
        pair.assert_open(&context);
        for side in [CLIENT, SERVER] {
            let came = &pair.sides[side].messages;
            let mut once = came.clone();
            once.sort();
            once.dedup();
            assert_eq!(once.len(), came.len(), "{context}: a message came twice");
            assert!(came.iter().all(|message| said[1 - side].contains(message)), "{context}: {came:?}");
            assert!(faults.lost > 0 || came.len() == 20, "{context}: {} of 20", came.len());
        }
    }
}

#[test]
fn a_flight_is_sent_again_after_one_three_and_seven_seconds_until_the_deadline() {
    let world = World::new();
    let mut pair = Pair::new(&world, 1, Faults { lost: 100, ..Faults::default() });
    assert_eq!(pair.sent, [1, 0]);
    for (second, sent) in [(1, 2), (2, 2), (3, 3), (6, 3), (7, 4), (14, 4), (15, 5), (31, 6), (599, 10)] {
        let until = world.start + Duration::from_secs(second);
        pair.run_for(until - pair.now);
        assert_eq!(pair.sent, [sent, 0], "after {second} s");
    }
    pair.run_for(Duration::from_secs(1));
    let failure = EndReason::HandshakeTimedOut;
    assert!(matches!(&pair.sides[CLIENT].life, Some(Life::Failed(Failure::Ended(end))) if *end == failure));
}

#[test]
fn a_lost_last_flight_is_sent_again_by_the_open_session() {
    let world = World::new();
    let mut pair = Pair::new(&world, 1, Faults::default());
    pair.run_for(Duration::from_millis(24));
    // The client's last flight is in flight; the first answer to it is lost.
    let answered = pair.sent[SERVER];
    pair.dropped[SERVER] = vec![answered + 1];
    pair.run_for(Duration::from_millis(500));
    assert!(pair.is_open(SERVER) && !pair.is_open(CLIENT));
    pair.run_for(Duration::from_secs(1));
    pair.assert_open("the flight was said again");
    // The client's timer counted one retransmission, and the answer of the open session another. Other callers of
    // `repeat_last_flight` count by themselves.
    let retransmissions = || world.counters.retransmissions.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(retransmissions(), 2);
    let Some(Life::Open(session)) = &mut pair.sides[SERVER].life else { unreachable!() };
    session.repeat_last_flight();
    assert!(session.poll_transmit().is_some());
    assert_eq!(retransmissions(), 2);
    // Data of the client shows that it has received the last flight, so the server frees the flight.
    pair.say(CLIENT, b"x");
    pair.run_for(Duration::from_millis(10));
    assert!(matches!(&pair.sides[SERVER].life, Some(Life::Open(session)) if !session.keeps_flight()));
}

#[test]
fn a_client_that_begins_anew_is_challenged_and_then_replaces_its_session() {
    let world = World::new();
    let mut pair = Pair::new(&world, 1, Faults::default());
    pair.run_for(Duration::from_millis(100));
    pair.assert_open("the first life");
    pair.sides[CLIENT] = world.connect(pair.now);
    pair.start(CLIENT);
    pair.run_for(Duration::from_millis(100));
    let Some(Life::Restarted(hello)) = pair.sides[SERVER].life.take() else { panic!("not replaced") };
    pair.meet(&hello);
    pair.run_for(Duration::from_millis(100));
    pair.assert_open("the second life");
    pair.say(CLIENT, b"again");
    pair.run_for(Duration::from_millis(10));
    assert_eq!(pair.sides[SERVER].messages, [b"again"]);
}

#[test]
fn a_forged_hello_ends_neither_a_handshake_nor_a_session() {
    let world = World::new();
    let mut pair = Pair::new(&world, 1, Faults::default());
    let first = pair.in_flight[0].2.clone();
    let forge = |pair: &mut Pair<'_>, number: u8| {
        let mut hello = first.clone();
        // Record and message headers, version, then the random.
        hello[27] ^= number;
        pair.arrive(SERVER, hello);
    };
    for millisecond in 0..40 {
        pair.run_for(Duration::from_millis(1));
        if pair.sides[SERVER].life.is_some() {
            forge(&mut pair, millisecond + 1);
        }
    }
    pair.run_for(Duration::from_secs(1));
    pair.assert_open("hellos were forged");
    pair.say(CLIENT, b"here");
    pair.run_for(Duration::from_millis(10));
    assert_eq!(pair.sides[SERVER].messages, [b"here"]);
}

/// Pairs of lengths: of the connection ID in the server's records, and of that in the client's.
const CID_LENGTHS: [[usize; 2]; 8] = [[0, 0], [0, 8], [8, 0], [1, 1], [8, 8], [255, 1], [1, 255], [255, 255]];

fn ping_pong(pair: &mut Pair<'_>) {
    for (from, message) in [(CLIENT, &b"ping"[..]), (SERVER, b"pong")] {
        pair.say(from, message);
        pair.run_for(Duration::from_millis(10));
        assert_eq!(pair.sides[1 - from].messages, [message]);
    }
}

#[test]
fn connection_ids_of_any_length_are_used_in_both_directions() {
    for lengths in CID_LENGTHS {
        let world = World::with_cids(lengths);
        let mut pair = Pair::new(&world, 1, Faults::default());
        pair.run_for(Duration::from_millis(100));
        pair.assert_open(&format!("{lengths:?}"));
        ping_pong(&mut pair);
        if let Some(Life::Open(session)) = &mut pair.sides[SERVER].life {
            session.close();
        }
        pair.transmit(SERVER);
        pair.run_for(Duration::from_millis(10));
        assert!(matches!(pair.sides[CLIENT].life, Some(Life::Closed)), "{lengths:?}");
    }
}

#[test]
fn a_side_without_connection_ids_is_spoken_to_as_ever() {
    for without in [CLIENT, SERVER] {
        let mut world = World::with_cids([8, 8]);
        world.offers[without] = None;
        let mut pair = Pair::new(&world, 1, Faults::default());
        pair.run_for(Duration::from_millis(100));
        pair.assert_open("ordinary records");
        ping_pong(&mut pair);
    }
}

#[test]
fn handshakes_with_connection_ids_complete_over_a_faulty_network() {
    for seed in 0..160 {
        let world = World::with_cids(CID_LENGTHS[seed as usize % CID_LENGTHS.len()]);
        let faults = Faults { lost: seed % 40, duplicated: seed % 31, late: seed % 50, forged: seed % 23 };
        let mut pair = Pair::new(&world, seed, faults);
        pair.run_for(Duration::from_secs(60));
        pair.faults = Faults::default();
        pair.run_for(Duration::from_secs(100));
        pair.assert_open(&format!("seed {seed}"));
        ping_pong(&mut pair);
    }
}

#[test]
fn a_session_is_resumed_with_connection_ids_over_a_faulty_network() {
    for seed in 0..80 {
        let lengths = CID_LENGTHS[seed as usize % CID_LENGTHS.len()];
        let world = World { sessions: Some(Arc::default()), ..World::with_cids(lengths) };
        let mut pair = Pair::new(&world, seed, Faults::default());
        pair.run_for(Duration::from_millis(100));
        pair.assert_open("the first session");
        let full = pair.sent;
        let faults = Faults { lost: seed % 30, duplicated: seed % 31, late: seed % 50, forged: seed % 23 };
        let mut pair = Pair::new(&world, seed, faults);
        pair.run_for(Duration::from_secs(60));
        pair.faults = Faults::default();
        // The client of a resumed session sends the last flight, and answers a flight that the server repeats.
        pair.run_for(Duration::from_secs(200));
        pair.assert_open(&format!("seed {seed}"));
        // A handshake without certificates takes fewer datagrams.
        assert!(seed > 0 || pair.sent[SERVER] < full[SERVER], "the session was not resumed");
        ping_pong(&mut pair);
    }
}

#[test]
fn data_that_overtakes_a_finished_with_a_connection_id_is_read_after_it() {
    let world = World { sessions: Some(Arc::default()), ..World::with_cids([8, 8]) };
    let mut pair = Pair::new(&world, 1, Faults::default());
    pair.run_for(Duration::from_millis(100));
    let mut pair = Pair::new(&world, 1, Faults::default());
    while !pair.is_open(CLIENT) {
        assert!(pair.step(world.start + PATIENCE));
    }
    // The client's Finished and its first message are in flight. The message arrives first.
    pair.say(CLIENT, b"early");
    let early = pair.in_flight.pop().unwrap().2;
    assert!(!pair.is_open(SERVER));
    pair.arrive(SERVER, early);
    assert!(!pair.is_open(SERVER));
    pair.run_for(Duration::from_millis(10));
    assert_eq!(pair.sides[SERVER].messages, [b"early"]);
}

#[test]
fn a_lost_last_flight_with_connection_ids_is_sent_again_by_the_open_session() {
    let world = World::with_cids([8, 8]);
    let mut pair = Pair::new(&world, 1, Faults::default());
    pair.run_for(Duration::from_millis(24));
    pair.dropped[SERVER] = vec![pair.sent[SERVER] + 1];
    pair.run_for(Duration::from_millis(500));
    assert!(pair.is_open(SERVER) && !pair.is_open(CLIENT));
    pair.run_for(Duration::from_secs(1));
    pair.assert_open("the flight was said again");
    ping_pong(&mut pair);
}

#[test]
fn an_ordinary_record_is_not_taken_where_a_connection_id_is_due() {
    let world = World::with_cids([8, 8]);
    let mut pair = Pair::new(&world, 1, Faults::default());
    pair.run_for(Duration::from_millis(24));
    let is_last_flight = |(_, to, datagram): &(Instant, usize, Vec<u8>)| {
        *to == SERVER && Record::split(datagram).is_ok_and(|(record, _)| record.content_type == HANDSHAKE)
    };
    let at = pair.in_flight.iter().position(is_last_flight).expect("the client's last flight");
    // Removes the connection ID from the Finished, which is the last record.
    let datagram = &mut pair.in_flight[at].2;
    let (mut rest, mut finished) = (&datagram[..], 0);
    while let Ok((record, behind)) = Record::split_with(rest, 8) {
        if record.content_type == TLS12_CID {
            finished = datagram.len() - rest.len();
        }
        rest = behind;
    }
    assert!(finished > 0, "there is a Finished");
    datagram[finished] = HANDSHAKE;
    datagram.drain(finished + 11..finished + 19);
    pair.run_for(Duration::from_millis(100));
    assert!(!pair.is_open(SERVER));
    // The client's timer retransmits it unchanged.
    pair.run_for(Duration::from_secs(2));
    pair.assert_open("the flight was said again");
}

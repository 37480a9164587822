//! Whole lives of clients and servers in memory, under a clock of their own, over an SCTP with a seed: streams overtake each
//! other, send buffers fill up, acknowledgements are late, paths are cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use openssl::ssl::SslContext;

use super::*;
use crate::credentials::{Credentials, Identity};
use crate::protocol::sctp::dtls_sctp::DtlsSctp;
use crate::protocol::sctp::simulation::{Rng, Wire};
use crate::protocol::sctp::tls_streams::TlsStreams;
use crate::tls::context::{self, ClientCredentials, Protocol};

const CLIENT: usize = 0;
const SERVER: usize = 1;
const STREAMS: u16 = 8;
const PATIENCE: Duration = Duration::from_secs(30);

/// Contexts are shared by all lives of a test.
struct World {
    contexts: [[SslContext; 2]; 2],
    start: Instant,
}

impl World {
    fn new() -> Self {
        let server =
            Credentials { identities: vec![Identity::self_signed().unwrap()], ..Credentials::default() };
        let client = ClientCredentials { accept_any: true, ..ClientCredentials::default() };
        let contexts = [Protocol::Tls, Protocol::Dtls].map(|protocol| {
            [context::client(&client, protocol).unwrap(), context::server(&server, protocol).unwrap()]
        });
        Self { contexts, start: Instant::now() }
    }

    fn sides(&self, is_dtls: bool) -> [SecureSctp; 2] {
        let [client, server] = &self.contexts[usize::from(is_dtls)];
        match is_dtls {
            true => [
                SecureSctp::Dtls(Box::new(DtlsSctp::connect(client, None, false, Arc::default()).unwrap())),
                SecureSctp::Dtls(Box::new(DtlsSctp::accept(server, false, Arc::default()).unwrap())),
            ],
            false => [
                SecureSctp::Tls(Box::new(TlsStreams::connect(client, None, STREAMS).unwrap())),
                SecureSctp::Tls(Box::new(TlsStreams::accept(server, STREAMS).unwrap())),
            ],
        }
    }
}

struct Side {
    state: Session,
    wire: Wire<(Vec<u8>, MessageInfo)>,
    /// Messages that are not acknowledged; the send buffer takes so many.
    under_way: usize,
    room: usize,
    is_open: bool,
    failure: Option<Failure>,
    messages: Vec<(MessageInfo, Vec<u8>)>,
    close_notify: bool,
    shut_down: bool,
    aborted: Option<String>,
}

struct Pair {
    sides: [Side; 2],
    is_dtls: bool,
    now: Instant,
    rng: Rng,
    /// Nothing arrives any more.
    is_cut: bool,
}

impl Pair {
    fn new(world: &World, is_dtls: bool, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let sides = world.sides(is_dtls).map(|secure| Side {
            state: Session::secure(secure, world.start + PATIENCE),
            wire: Wire::new(usize::from(STREAMS)),
            under_way: 0,
            room: 1 + rng.below(12) as usize,
            is_open: false,
            failure: None,
            messages: Vec::new(),
            close_notify: false,
            shut_down: false,
            aborted: None,
        });
        Self { sides, is_dtls, now: world.start, rng, is_cut: false }
    }

    /// What a driver does whenever it looks.
    fn drive(&mut self, index: usize) {
        let side = &mut self.sides[index];
        if side.failure.is_none() && !side.is_open {
            let advanced = side.state.advance().and_then(|_| side.state.handle_timeout(self.now));
            side.failure = advanced.err();
        }
        while let Some(action) = side.state.next_action() {
            let result = match action {
                Action::Send { .. } if side.under_way >= side.room => ActionResult::Full,
                Action::Send { payload, info } => {
                    side.under_way += 1;
                    let SendInfo { stream, ppid, unordered, .. } = *info;
                    let info = MessageInfo { stream, ppid, unordered, ..MessageInfo::default() };
                    side.wire.send(stream, unordered, (payload.clone(), info));
                    ActionResult::Done
                }
                Action::ShutDown => {
                    side.shut_down = true;
                    ActionResult::Done
                }
                Action::Abort(reason) => {
                    side.aborted = Some(reason.clone());
                    ActionResult::Done
                }
                Action::AwaitDry => unreachable!("the session waits by itself"),
                _ => ActionResult::Done,
            };
            side.state.action_done(result);
        }
        if side.failure.is_none() && !side.is_open {
            side.is_open = side.state.opened().unwrap().is_some();
        }
    }

    /// One thing happens; `false` where nothing can before the next timeout.
    fn step(&mut self) -> bool {
        self.now += Duration::from_millis(1);
        for index in [CLIENT, SERVER] {
            self.drive(index);
        }
        for side in &mut self.sides {
            // Linux says that there is room, and that everything is acknowledged, some time after it is so.
            match side.state.awaits() {
                Some(Awaits::Room) if side.under_way < side.room => {
                    if self.rng.below(3) == 0 {
                        side.state.handle_room();
                    }
                    return true;
                }
                Some(Awaits::Dry) if side.under_way == 0 => {
                    if self.rng.below(5) == 0 {
                        side.state.handle_dry();
                    }
                    return true;
                }
                _ => {}
            }
        }
        if self.is_cut {
            return false;
        }
        let from = match [CLIENT, SERVER].map(|index| self.sides[index].wire.is_empty()) {
            [true, true] => return false,
            [true, false] => SERVER,
            [false, true] => CLIENT,
            [false, false] => self.rng.below(2) as usize,
        };
        let Some((mut message, info)) = self.sides[from].wire.arrive(&mut self.rng) else { return false };
        self.sides[from].under_way -= 1;
        self.hear(1 - from, &mut message, info);
        true
    }

    fn hear(&mut self, index: usize, message: &mut Vec<u8>, info: MessageInfo) {
        let side = &mut self.sides[index];
        if side.failure.is_some() || side.state.is_over() {
            return;
        }
        if let Err(failure) = side.state.handle_message(message, info) {
            side.failure = Some(failure);
            return;
        }
        let mut buffer = [0; 64];
        while side.state.security().is_some_and(SecureSctp::has_more) {
            match side.state.read(&mut buffer) {
                (Read::Message(len), info) => side.messages.push((info, buffer[..len].to_vec())),
                (Read::Closed, _) => side.close_notify = true,
                (Read::Nothing, _) => {}
                (other, _) => panic!("{other:?}"),
            }
        }
    }

    /// Until nothing happens any more without a timeout.
    fn run(&mut self) {
        while self.step() {}
    }

    /// Lets time pass to the next timeout of this side.
    fn time_out(&mut self, index: usize) {
        self.now = self.sides[index].state.next_timeout().unwrap();
        let side = &mut self.sides[index];
        if let Err(failure) = side.state.handle_timeout(self.now) {
            side.failure = Some(failure);
        }
        self.run();
    }

    fn open(&mut self) {
        self.run();
        for side in &self.sides {
            assert!(side.is_open, "{:?}", side.failure);
        }
    }

    /// Has a side send a message as soon as it can.
    fn say(&mut self, index: usize, message: &[u8], how: SendInfo) {
        loop {
            match self.sides[index].state.write(message, how) {
                None => return self.drive(index),
                Some(Sent::Full) => assert!(self.step(), "nothing makes room"),
                Some(other) => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn lives_are_complete_however_streams_overtake_and_buffers_fill() {
    let world = World::new();
    for seed in 0..300 {
        let mut pair = Pair::new(&world, seed % 2 == 0, seed);
        pair.open();
        let mut said = [BTreeSet::new(), BTreeSet::new()];
        for number in 0..40_u32 {
            let from = pair.rng.below(2) as usize;
            let stream = pair.rng.below(STREAMS.into()) as u16;
            let unordered = pair.is_dtls && pair.rng.below(4) == 0;
            let how = SendInfo { stream, ppid: number, unordered, ..SendInfo::default() };
            pair.say(from, &number.to_be_bytes(), how);
            said[from].insert(number);
            if pair.rng.below(3) == 0 {
                pair.step();
            }
        }
        let ending = pair.rng.below(2) as usize;
        let now = pair.now;
        assert!(pair.sides[ending].state.end(&EndReason::ClosedByUs, PATIENCE, now));
        while !pair.sides[ending].state.is_over() {
            assert!(pair.step(), "seed {seed}: the end waits for nothing");
        }
        pair.run();
        let heard = &pair.sides[1 - ending];
        assert!(pair.sides[ending].shut_down && heard.close_notify, "seed {seed}");
        for (side, said) in [(heard, &said[ending]), (&pair.sides[ending], &said[1 - ending])] {
            let numbers: Vec<_> = side.messages.iter().map(|(info, _)| info.ppid).collect();
            let once: BTreeSet<_> = numbers.iter().copied().collect();
            assert_eq!(once.len(), numbers.len(), "seed {seed}: a message came twice");
            // What the side that ends has not read by then is lost, as it must not wait for ever.
            assert!(once.is_subset(said), "seed {seed}");
            let mut newest = BTreeMap::new();
            for (info, message) in side.messages.iter().filter(|(info, _)| !info.unordered) {
                assert_eq!(message.as_slice(), info.ppid.to_be_bytes());
                assert!(newest.insert(info.stream, info.ppid).is_none_or(|older| older < info.ppid));
            }
        }
        assert_eq!(heard.messages.len(), said[ending].len(), "seed {seed}");
        let (now, end) = (pair.now, &mut pair.sides[1 - ending].state);
        assert!(end.end(&EndReason::ClosedByPeer, PATIENCE, now));
        pair.run();
        assert!(pair.sides[1 - ending].state.is_over() && pair.sides[1 - ending].shut_down, "seed {seed}");
    }
}

#[test]
fn a_handshake_that_is_cut_off_anywhere_times_out_and_is_aborted() {
    let world = World::new();
    for seed in 0..60 {
        let mut pair = Pair::new(&world, seed % 2 == 0, seed);
        for _ in 0..seed / 4 {
            pair.step();
        }
        pair.is_cut = true;
        pair.run();
        for index in [CLIENT, SERVER] {
            if pair.sides[index].is_open {
                assert_eq!(pair.sides[index].state.next_timeout(), None);
                continue;
            }
            assert_eq!(pair.sides[index].state.next_timeout(), Some(world.start + PATIENCE));
            pair.time_out(index);
            let failure = &pair.sides[index].failure;
            assert!(matches!(failure, Some(Failure::Ended(EndReason::HandshakeTimedOut))), "{failure:?}");
            let now = pair.now;
            assert!(!pair.sides[index].state.end(&EndReason::HandshakeTimedOut, PATIENCE, now));
            pair.drive(index);
            assert!(pair.sides[index].state.is_over());
            assert_eq!(pair.sides[index].aborted.as_deref(), Some("handshake_timed_out"));
        }
    }
}

#[test]
fn an_end_waits_two_seconds_for_a_peer_that_acknowledges_nothing() {
    let world = World::new();
    for (seed, messages) in (0..40).zip([0, 1, 50].into_iter().cycle()) {
        let mut pair = Pair::new(&world, true, seed);
        pair.open();
        pair.is_cut = true;
        for number in 0..messages {
            let how = SendInfo { stream: number % STREAMS, ..SendInfo::default() };
            if pair.sides[SERVER].state.write(b"lost", how).is_some() {
                break;
            }
            pair.drive(SERVER);
        }
        let now = pair.now;
        assert!(pair.sides[SERVER].state.end(&EndReason::ClosedByUs, PATIENCE, now));
        pair.run();
        if messages > 0 {
            assert!(!pair.sides[SERVER].state.is_over(), "seed {seed}");
            assert_eq!(pair.sides[SERVER].state.next_timeout(), Some(now + CLOSE_TIMEOUT));
            pair.time_out(SERVER);
        }
        assert!(pair.sides[SERVER].state.is_over() && pair.sides[SERVER].shut_down, "seed {seed}");
    }
}

#[test]
fn an_action_that_the_kernel_refuses_ends_a_handshake_and_an_ended_association_accepts_no_message() {
    let world = World::new();
    let [client, _] = world.sides(true);
    let mut state = Session::secure(client, world.start + PATIENCE);
    assert!(matches!(state.next_action(), Some(Action::Send { .. })));
    state.action_done(ActionResult::Refused(EndReason::Protocol("no such thing".to_owned())));
    assert_eq!(state.next_action(), None);
    assert!(matches!(state.advance(), Err(Failure::Ended(EndReason::HandshakeFailed(_)))));
    let mut pair = Pair::new(&world, true, 1);
    pair.open();
    let state = &mut pair.sides[CLIENT].state;
    assert_eq!(state.write(b"x", SendInfo::default()), None);
    assert!(state.next_action().is_some());
    state.action_done(ActionResult::Gone);
    assert_eq!(state.sent(), Sent::Gone);
    assert_eq!(state.write(b"y", SendInfo::default()), Some(Sent::Gone));
    // Every end waits for nothing then.
    assert!(state.end(&EndReason::ClosedByUs, PATIENCE, world.start));
    assert_eq!(state.next_action(), Some(&Action::ShutDown));
}

#[test]
fn an_association_in_clear_is_shut_down_or_aborted_at_once() {
    let now = Instant::now();
    for (reason, action) in [
        (EndReason::ClosedByUs, Action::ShutDown),
        (EndReason::ClosedByPeer, Action::ShutDown),
        (EndReason::TooSlow, Action::Abort(EndReason::TooSlow.to_string())),
        (EndReason::HandlerPanicked, Action::Abort("handler_panicked".to_owned())),
    ] {
        let mut state = Session::plain();
        assert_eq!(state.next_action(), None);
        assert_eq!(state.end(&reason, PATIENCE, now), action == Action::ShutDown);
        assert_eq!(state.next_action(), Some(&action));
        state.action_done(ActionResult::Done);
        assert!(state.is_over());
    }
    let mut state = Session::plain();
    assert!(!state.end(&EndReason::Aborted(String::new()), PATIENCE, now));
    assert!(state.is_over() && state.next_action().is_none());
}

//! Properties of the pure parts on seeded random input: the input is the same in every run.

mod fuzz_bodies;
#[path = "support/random.rs"]
mod random;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use peeloff::test_support::cookie::{CookieJar, CookieVerdict};
use peeloff::test_support::frames::{self, Frame, Frames};
use peeloff::test_support::hello::{self, ClientHello, FirstDatagram};
use peeloff::test_support::record::{self, Filtered};
use peeloff::test_support::{PeerCounts, Prefix, RateTable};
use peeloff::{Framing, Limits, Refusal};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use random::Random;

fn seeded(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(0x6347),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Makes a record with a DTLS 1.2 header.
fn record(content_type: u8, epoch: u16, sequence: u64, body: &[u8]) -> Vec<u8> {
    let header = [content_type, 0xfe, 0xfd];
    let sequence = sequence.to_be_bytes();
    [&header, &epoch.to_be_bytes()[..], &sequence[2..], &(body.len() as u16).to_be_bytes(), body].concat()
}

/// The content of a ClientHello.
#[derive(Clone, Debug)]
struct Hello {
    record_sequence: u64,
    message_sequence: u16,
    client_version: u8,
    random: [u8; 32],
    session_id: Vec<u8>,
    cookie: Vec<u8>,
    suites: Vec<[u8; 2]>,
    compression: Vec<u8>,
    extensions: Option<Vec<u8>>,
}

impl Hello {
    fn any() -> impl Strategy<Value = Hello> {
        let numbers = (0_u64..1 << 48, any::<u16>(), any::<u8>(), any::<[u8; 32]>());
        let vectors = (
            vec(any::<u8>(), 0..=32),
            vec(any::<u8>(), 0..=255),
            vec(any::<[u8; 2]>(), 1..60),
            vec(any::<u8>(), 1..5),
            proptest::option::of(vec(any::<u8>(), 0..300)),
        );
        (numbers, vectors).prop_map(|(numbers, (session_id, cookie, suites, compression, extensions))| {
            Hello {
                record_sequence: numbers.0,
                message_sequence: numbers.1,
                client_version: numbers.2,
                random: numbers.3,
                session_id,
                cookie,
                suites,
                compression,
                extensions,
            }
        })
    }

    /// Returns the message's body up to and including the cookie.
    fn front(&self) -> Vec<u8> {
        let mut bytes = vec![0xfe, self.client_version];
        bytes.extend(self.random);
        bytes.push(self.session_id.len() as u8);
        bytes.extend(&self.session_id);
        bytes.push(self.cookie.len() as u8);
        bytes.extend(&self.cookie);
        bytes
    }

    fn message(&self) -> Vec<u8> {
        let (mut bytes, suites) = (self.front(), self.suites.concat());
        bytes.extend((suites.len() as u16).to_be_bytes());
        bytes.extend(suites);
        bytes.push(self.compression.len() as u8);
        bytes.extend(&self.compression);
        if let Some(extensions) = &self.extensions {
            bytes.extend((extensions.len() as u16).to_be_bytes());
            bytes.extend(extensions);
        }
        bytes
    }

    /// Makes a datagram with the first `len` bytes of the message as a fragment.
    fn first_fragment(&self, len: usize) -> Vec<u8> {
        let message = self.message();
        let u24 = |value: usize| (value as u32).to_be_bytes();
        let number = self.message_sequence.to_be_bytes();
        let header = [&[1], &u24(message.len())[1..], &number, &[0; 3], &u24(len)[1..]].concat();
        record(22, 0, self.record_sequence, &[&header, &message[..len]].concat())
    }

    fn datagram(&self) -> Vec<u8> {
        self.first_fragment(self.message().len())
    }

    fn is(&self, parsed: &ClientHello<'_>) -> bool {
        parsed.record_version == 0xfefd
            && parsed.record_sequence == self.record_sequence
            && parsed.message_sequence == self.message_sequence
            && parsed.client_version == u16::from_be_bytes([0xfe, self.client_version])
            && *parsed.random == self.random
            && parsed.session_id == self.session_id
            && parsed.cookie == self.cookie
    }
}

fn parsed(datagram: &[u8]) -> Option<ClientHello<'_>> {
    match hello::classify(datagram) {
        FirstDatagram::ClientHello(hello) => Some(hello),
        _ => None,
    }
}

fn jar() -> CookieJar {
    CookieJar::new(&[1; 32], &[2; 32], Duration::from_secs(60), Instant::now())
}

fn address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        any::<([u8; 4], u16)>().prop_map(SocketAddr::from),
        any::<([u16; 8], u16)>().prop_map(SocketAddr::from)
    ]
}

proptest! {
    #![proptest_config(seeded(300))]

    #[test]
    fn any_bytes_are_classified_without_a_panic(input in vec(any::<u8>(), 0..400)) {
        fuzz_bodies::hello(&input);
        fuzz_bodies::record_filter(&input);
        fuzz_bodies::record_layer(&input);
        fuzz_bodies::control_messages(&input);
        fuzz_bodies::sctp_notifications(&input);
        fuzz_bodies::stream_frames(&input);
        fuzz_bodies::proxy_header(&input);
    }

    #[test]
    fn a_hello_that_a_client_builds_is_read_back(hello in Hello::any()) {
        let datagram = hello.datagram();
        let parsed = parsed(&datagram).expect("a hello");
        prop_assert!(parsed.complete && hello.is(&parsed));
    }

    #[test]
    fn every_truncated_datagram_is_refused(hello in Hello::any()) {
        let datagram = hello.datagram();
        for len in 0..datagram.len() {
            prop_assert_eq!(hello::classify(&datagram[..len]), FirstDatagram::NotDtls);
        }
    }

    #[test]
    fn a_first_fragment_is_a_hello_or_too_short(hello in Hello::any()) {
        let needed = hello.front().len();
        for len in 0..hello.message().len() {
            let datagram = hello.first_fragment(len);
            match hello::classify(&datagram) {
                FirstDatagram::ClientHello(parsed) => {
                    prop_assert!(len >= needed && !parsed.complete && hello.is(&parsed));
                }
                other => prop_assert!(len < needed && other == FirstDatagram::HelloTooShort),
            }
        }
    }

    #[test]
    fn the_answer_is_never_longer_than_the_datagram(hello in Hello::any(), len in 0_usize..2000) {
        let datagram = hello.datagram();
        let answer = hello::hello_verify_request(&parsed(&datagram).unwrap(), len, &[0; 32]);
        prop_assert_eq!(answer.is_some(), len >= hello::HELLO_VERIFY_REQUEST_LEN);
    }

    #[test]
    fn a_cookie_is_good_for_its_two_addresses_alone(
        hello in Hello::any(), local in address(), peer in address(), other in address(),
    ) {
        prop_assume!(other != local && other != peer && local != peer);
        let datagram = hello.datagram();
        let first = parsed(&datagram).unwrap();
        let cookie = jar().make(local, peer, &first);
        let returned = ClientHello { cookie: &cookie, ..first };
        prop_assert!(matches!(jar().verify(local, peer, &returned), CookieVerdict::Valid(_)));
        for (local, peer) in [(local, other), (other, peer), (peer, local)] {
            prop_assert_eq!(jar().verify(local, peer, &returned), CookieVerdict::Invalid);
        }
    }
}

proptest! {
    #![proptest_config(seeded(40))]

    #[test]
    fn a_flipped_byte_before_the_extensions_voids_the_cookie(mut hello in Hello::any(), flip in 1_u8..=255) {
        let jar = jar();
        let (local, peer) = (SocketAddr::from(([192, 0, 2, 1], 5)), SocketAddr::from(([192, 0, 2, 2], 6)));
        hello.cookie = jar.make(local, peer, &parsed(&hello.datagram()).unwrap()).to_vec();
        let mut datagram = hello.datagram();
        let body = hello::RECORD_HEADER_LEN + hello::HANDSHAKE_HEADER_LEN;
        for at in body..body + hello.front().len() {
            datagram[at] ^= flip;
            if let Some(flipped) = parsed(&datagram) {
                let verdict = jar.verify(local, peer, &flipped);
                prop_assert!(!matches!(verdict, CookieVerdict::Valid(_)), "byte {at}");
            }
            datagram[at] ^= flip;
        }
        let verdict = jar.verify(local, peer, &parsed(&datagram).unwrap());
        prop_assert!(matches!(verdict, CookieVerdict::Valid(_)));
    }
}

/// Makes datagrams of mostly plausible records: types, epochs and lengths near the limits, some of them cut
/// short.
fn plausible_datagram() -> impl Strategy<Value = Vec<u8>> {
    let content_type = prop_oneof![8 => 20_u8..=23, 1 => any::<u8>()];
    let epoch = prop_oneof![4 => Just(0_u16), 8 => Just(1), 1 => any::<u16>()];
    let record = (content_type, epoch, any::<u32>(), vec(any::<u8>(), 0..60)).prop_map(
        |(content_type, epoch, sequence, body)| record(content_type, epoch, sequence.into(), &body),
    );
    (vec(record, 0..6), any::<prop::sample::Index>(), any::<bool>()).prop_map(|(records, cut, whole)| {
        let mut datagram = records.concat();
        if !whole && !datagram.is_empty() {
            datagram.truncate(cut.index(datagram.len()));
        }
        datagram
    })
}

proptest! {
    #![proptest_config(seeded(3000))]

    #[test]
    fn only_whole_records_of_expected_types_pass_the_filter(
        datagram in plausible_datagram(),
    ) {
        fuzz_bodies::record_filter(&datagram);
    }

    #[test]
    fn only_what_the_peer_sealed_is_authentic(
        start in any::<[u8; 3]>(), untouched in 0..100_usize, overlay in vec(any::<u8>(), 0..100),
    ) {
        // Zeroes leave the record unchanged up to where the overlay begins.
        fuzz_bodies::record_layer(&[&start[..], &vec![0; untouched], &overlay].concat());
    }

    #[test]
    fn bad_records_behind_good_ones_do_not_stop_the_good_ones(junk in vec(any::<u8>(), 0..80), count in 1_usize..4) {
        let good = record(23, 1, 7, &[0; 30]).repeat(count);
        let datagram = [&good[..], &junk].concat();
        let Filtered::Pass { len } = record::filter(&datagram, 0) else {
            panic!("good records were dropped");
        };
        prop_assert!(len >= good.len());
    }
}

proptest! {
    #![proptest_config(seeded(3000))]

    #[test]
    fn any_notification_is_read_or_refused(
        kind in 0x8000_u16..=0x800e, flags: u16, less in 0_usize..12, fields in vec(any::<u8>(), 0..200),
    ) {
        let len = (8 + fields.len()).saturating_sub(less.saturating_sub(6)) as u32;
        let header = [kind.to_ne_bytes(), flags.to_ne_bytes()].concat();
        fuzz_bodies::sctp_notifications(&[&header[..], &len.to_ne_bytes(), &fields].concat());
    }
}

/// Makes text with many line ends, as peers may send it.
fn text() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![4 => any::<u8>(), 2 => Just(b'\n'), 1 => Just(b'\r')], 0..400)
}

/// Makes messages with their length in front; some lengths are wrong.
fn prefixed() -> impl Strategy<Value = Vec<u8>> {
    let lie = prop_oneof![8 => Just(0_i64), 1 => -3_i64..4, 1 => any::<u32>().prop_map(i64::from)];
    let message = (vec(any::<u8>(), 0..60), lie).prop_map(|(message, lie)| {
        let len = (message.len() as i64 + lie).clamp(0, u32::MAX.into()) as u32;
        [&len.to_be_bytes()[..], &message].concat()
    });
    vec(message, 0..12).prop_map(|messages| messages.concat())
}

proptest! {
    #![proptest_config(seeded(400))]

    #[test]
    fn messages_of_a_stream_are_the_same_however_it_is_cut(
        lines in text(), prefixed in prefixed(), later: bool, limit in 0_u8..80, size: u8,
    ) {
        let later = u8::from(later) * 2;
        fuzz_bodies::stream_frames(&[&[later, limit, size / 8][..], &lines].concat());
        fuzz_bodies::stream_frames(&[&[later + 1, limit, size / 8][..], &prefixed].concat());
    }

    #[test]
    fn sent_messages_are_received(
        messages in vec(vec(any::<u8>(), 0..200), 0..20), lines: bool, size in 1_usize..300,
    ) {
        let framing = if lines { Framing::Lines } else { Framing::LengthPrefixed };
        let mut frames = Frames::new(framing, 200).unwrap();
        let (mut stream, mut found) = (Vec::new(), Vec::new());
        // Returns whether a line can carry the message.
        let carried = |message: &Vec<u8>| !lines || !message.iter().any(|byte| b"\r\n".contains(byte));
        let messages: Vec<Vec<u8>> = messages.into_iter().filter(carried).collect();
        for message in &messages {
            frames::encode(framing, message, &mut stream);
        }
        for read in stream.chunks(size) {
            frames.push(read);
            while let Some(frame) = frames.next_frame() {
                match frame {
                    Frame::Message(message) => found.push(message.to_vec()),
                    Frame::TooLong => prop_assert!(false, "none is too long"),
                }
            }
        }
        prop_assert_eq!(found, messages);
    }
}

proptest! {
    #![proptest_config(seeded(3000))]

    #[test]
    fn a_header_of_a_proxy_is_read_or_refused(
        command in prop_oneof![8 => Just(0x21_u8), 1 => Just(0x20), 1 => any::<u8>()],
        family in prop_oneof![4 => Just(0x11_u8), 4 => Just(0x21), 1 => any::<u8>()],
        rest in vec(any::<u8>(), 0..80), more in 0_u16..4,
    ) {
        let len = (rest.len() as u16).saturating_sub(more).to_be_bytes();
        let head = [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family]].concat();
        fuzz_bodies::proxy_header(&[&head[..], &len, &rest].concat());
    }
}

/// A step in the life of a server with a few addresses on both sides.
#[derive(Clone, Debug)]
enum Step {
    Admit { local: u8, peer: [u8; 3], later: u16 },
    Release(prop::sample::Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let admit = (0_u8..3, [0_u8..3, 0..3, 0..4], 0_u16..200).prop_map(|(local, peer, later)| Step::Admit {
        local,
        peer,
        later,
    });
    vec(prop_oneof![3 => admit, 1 => any::<prop::sample::Index>().prop_map(Step::Release)], 0..120)
}

/// Returns a local address, and a peer that may be on loopback.
fn pair(local: u8, [network, host, port]: [u8; 3]) -> (SocketAddr, SocketAddr) {
    let first = if network == 2 { 127 } else { 10 };
    (([192, 0, 2, local], 5).into(), ([first, 0, network, host], port.into()).into())
}

proptest! {
    #![proptest_config(seeded(300))]

    #[test]
    fn the_ledger_keeps_every_limit_and_forgets_every_peer(
        steps in steps(), caps in [1_usize..40, 1..20, 1..8, 1..12], exempt_loopback: bool,
    ) {
        let limits = Limits::default().max_peers(caps[0]).max_peers_per_local_address(caps[1]).max_peers_per_source(caps[2]).max_peers_per_prefix(caps[3]).new_peers_per_second(20).new_peers_burst(10).exempt_loopback(exempt_loopback);
        let mut peer_counts = PeerCounts::new(limits, (3, 4));
        let mut now = Instant::now();
        let mut live: Vec<(SocketAddr, SocketAddr)> = Vec::new();
        for step in steps {
            match step {
                Step::Release(_) if live.is_empty() => {}
                Step::Release(which) => {
                    let (local, peer) = live.swap_remove(which.index(live.len()));
                    peer_counts.release(local, peer);
                }
                Step::Admit { local, peer, later } => {
                    now += Duration::from_millis(later.into());
                    let (local, peer) = pair(local, peer);
                    let exempt = exempt_loopback && peer.ip().is_loopback();
                    let count = |same: &dyn Fn(&(SocketAddr, SocketAddr)) -> bool| {
                        live.iter().filter(|entry| same(entry)).count()
                    };
                    let full = [
                        live.len() >= caps[0],
                        count(&|entry| entry.0 == local) >= caps[1],
                        !exempt && count(&|entry| entry.1.ip() == peer.ip()) >= caps[2],
                        !exempt
                            && count(&|entry| Prefix::network(entry.1.ip()) == Prefix::network(peer.ip())) >= caps[3],
                    ];
                    let expected = Refusal::ALL.iter().copied().zip(full).find_map(|(refusal, full)| full.then_some(refusal));
                    match peer_counts.admit(local, peer, now) {
                        Ok(()) => {
                            prop_assert_eq!(expected, None);
                            live.push((local, peer));
                        }
                        Err(Refusal::Rate) => prop_assert!(expected.is_none() && !exempt),
                        Err(refusal) => prop_assert_eq!(expected, Some(refusal)),
                    }
                }
            }
            prop_assert_eq!(peer_counts.total(), live.len());
        }
        for (local, peer) in live {
            peer_counts.release(local, peer);
        }
        prop_assert!(peer_counts.is_empty());
    }

    #[test]
    fn no_prefix_gets_more_than_its_burst_and_its_rate(
        arrivals in vec((0_u8..4, prop_oneof![4 => Just(0_u64), 1 => 0_u64..300_000]), 0..300),
        per_second in 1_u32..3000,
        burst in 1_u32..30,
        key: (u64, u64),
    ) {
        let mut table = RateTable::new(per_second, burst, key);
        let (start, mut elapsed) = (Instant::now(), Duration::ZERO);
        let mut admitted: HashMap<u8, Vec<Duration>> = HashMap::new();
        for (number, later) in arrivals {
            elapsed += Duration::from_micros(later);
            let prefix = Prefix::network([10, 0, number, 1].into());
            if table.allow(prefix, start + elapsed) {
                admitted.entry(number).or_default().push(elapsed);
            }
        }
        for times in admitted.values() {
            for (first, from) in times.iter().enumerate() {
                for (last, to) in times.iter().enumerate().skip(first) {
                    let earned = (*to - *from).as_nanos() * u128::from(per_second) / 1_000_000_000;
                    prop_assert!((last - first + 1) as u128 <= u128::from(burst) + earned);
                }
            }
        }
    }
}

impl Random {
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            bytes.push(0);
        }
        let at = self.below(bytes.len());
        match self.below(5) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = [0, 1, 0x7f, 0xfe, 0xff][self.below(5)],
            2 => bytes.truncate(at),
            3 => bytes.insert(at, self.below(256) as u8),
            _ => bytes.extend_from_within(at..),
        }
    }
}

#[test]
fn the_fuzz_targets_hold_on_mutated_input() {
    let message =
        [vec![0xfe, 0xfd], vec![7; 32], vec![0, 0, 0, 2, 0xc0, 0x2b, 1, 0, 0, 4, 0, 23, 0, 0]].concat();
    let header = [1, 0, 0, message.len() as u8, 0, 0, 0, 0, 0, 0, 0, message.len() as u8];
    let hello = record(22, 0, 1, &[&header[..], &message].concat());
    let last_flight =
        [record(22, 0, 2, &[16; 60]), record(20, 0, 3, &[1]), record(22, 1, 0, &[0; 48])].concat();
    let data = [record(23, 1, 1, &[0; 24]), record(23, 1, 2, &[0; 100]), record(21, 1, 3, &[0; 26])].concat();
    // IP_PKTINFO of level SOL_IP in the kernel's layout on 64-bit systems.
    let control = [&28_u64.to_ne_bytes()[..], &0_u32.to_ne_bytes(), &8_u32.to_ne_bytes(), &[0; 16]].concat();
    // SCTP_RCVINFO and SCTP_NXTINFO of level IPPROTO_SCTP.
    let message = |kind: u32, data: &[u8]| {
        let len = 16 + data.len() as u64;
        [&len.to_ne_bytes()[..], &132_u32.to_ne_bytes(), &kind.to_ne_bytes(), data].concat()
    };
    let sctp_control = [message(3, &[1; 28]), vec![0; 4], message(4, &[2; 16])].concat();
    // SCTP_ASSOC_CHANGE with a reason.
    let lost = b"\x01\x80\0\0\x1c\0\0\0\x01\0\0\x0c\x08\0\x08\0\x07\0\0\0\0\x0c\0\x08busy".to_vec();
    let proxied = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x01\x10\0\x11\x51".to_vec();
    let lines = b"\0\x05\x02one\r\n\ntoo long\nlast".to_vec();
    let prefixed = b"\x01\x05\x02\0\0\0\x03one\0\0\0\x08too long\0\0\0\0".to_vec();
    let seeds = [
        hello,
        last_flight,
        data,
        record(21, 0, 1, &[2, 40]),
        control,
        sctp_control,
        lost,
        proxied,
        lines,
        prefixed,
        vec![],
    ];
    let mut random = Random(0x6347);
    for _ in 0..20_000 {
        let mut input = seeds[random.below(seeds.len())].clone();
        for _ in 0..random.below(6) {
            random.mutate(&mut input);
        }
        fuzz_bodies::hello(&input);
        fuzz_bodies::control_messages(&input);
        fuzz_bodies::sctp_notifications(&input);
        fuzz_bodies::stream_frames(&input);
        fuzz_bodies::proxy_header(&input);
        fuzz_bodies::record_filter(&input);
    }
}

//! Both sides in memory, with messages carried by hand: what is done in which order, and what comes out of
//! any order of arrival.

use std::time::{Duration, Instant};

use super::*;
use crate::credentials::{CaBundle, Identity};
use crate::session::context::{self, ClientCredentials, Protocol, ServerCredentials};

/// One side, and what it has done.
struct Side {
    secure: Secure,
    /// Messages for the other side.
    out: Vec<(Vec<u8>, MessageInfo)>,
    added: Option<(u16, [u8; 64])>,
    active: u16,
    deleted: Option<u16>,
    complete: bool,
}

impl Side {
    fn new(secure: Secure) -> Self {
        Self { secure, out: Vec::new(), added: None, active: 0, deleted: None, complete: false }
    }

    /// Carries out what is to be done; everything sent is acknowledged at once.
    fn run(&mut self) {
        while let Some(action) = self.secure.next_action() {
            match action {
                Action::Send(message, how) => {
                    let finished = message[0] == 22 && message[3..5] == [0, 1];
                    if matches!(self.secure, Secure::Dtls(_)) && finished {
                        assert_eq!(self.active, 1, "a Finished with the old key");
                    }
                    let SendInfo { stream, ppid, unordered, .. } = how;
                    self.out
                        .push((message, MessageInfo { stream, ppid, unordered, ..MessageInfo::default() }));
                }
                Action::AwaitDry => {
                    assert_eq!(self.secure.next_action(), None, "nothing is done before the answer");
                    self.secure.dry();
                }
                Action::AddKey(number, key) => self.added = Some((number, key)),
                Action::ActivateKey(number) => {
                    assert_eq!(self.added.map(|(number, _)| number), Some(number), "a key that is not there");
                    self.active = number;
                }
                Action::DeleteKey(number) => {
                    assert_ne!(number, self.active, "the active key");
                    self.deleted = Some(number);
                }
            }
        }
    }

    fn step(&mut self) -> Result<(), Failure> {
        let stepped = self.secure.step();
        self.run();
        self.complete = stepped?;
        Ok(())
    }

    fn hear(&mut self, messages: Vec<(Vec<u8>, MessageInfo)>) {
        for (message, info) in messages {
            self.secure.receive(&message, info, Instant::now());
        }
    }

    /// Everything that can be read now.
    fn read(&mut self) -> Vec<(Vec<u8>, MessageInfo)> {
        let mut buffer = vec![0; 20_000];
        let mut read = Vec::new();
        loop {
            match self.secure.read(&mut buffer) {
                (Read::Message(len), info) => read.push((buffer[..len].to_vec(), info)),
                (Read::Nothing, _) => return read,
                (other, _) => panic!("{other:?} after {} messages", read.len()),
            }
            self.run();
        }
    }
}

struct Contexts {
    server: openssl::ssl::SslContext,
    client: openssl::ssl::SslContext,
}

fn contexts(protocol: Protocol) -> Contexts {
    let identity = Identity::self_signed().unwrap();
    let authorities = CaBundle::from_pem(&identity.certificate_pem()).unwrap();
    let server = ServerCredentials { identity: Some(identity), ..ServerCredentials::default() };
    let client = ClientCredentials { authorities: Some(authorities), ..ClientCredentials::default() };
    Contexts {
        server: context::server(&server, protocol).unwrap(),
        client: context::client(&client, protocol).unwrap(),
    }
}

/// Hands messages over until both sides are through.
fn shake_hands(client: &mut Side, server: &mut Side) -> Result<(), Failure> {
    for _ in 0..20 {
        client.step()?;
        server.hear(std::mem::take(&mut client.out));
        server.step()?;
        client.hear(std::mem::take(&mut server.out));
        if client.complete && server.complete && client.out.is_empty() {
            return Ok(());
        }
    }
    panic!("the handshake does not end");
}

fn dtls(label_with_nul: [bool; 2]) -> (Side, Side) {
    let Contexts { server, client } = contexts(Protocol::Dtls);
    let client = DtlsSctp::connect(&client, "localhost", label_with_nul[0]).unwrap();
    let server = DtlsSctp::accept(&server, label_with_nul[1]).unwrap();
    let (mut client, mut server) = (Side::new(Secure::Dtls(client)), Side::new(Secure::Dtls(server)));
    shake_hands(&mut client, &mut server).unwrap();
    (client, server)
}

fn tls(streams: u16) -> (Side, Side) {
    let Contexts { server, client } = contexts(Protocol::Tls);
    let client = TlsStreams::connect(&client, "localhost", streams).unwrap();
    let server = TlsStreams::accept(&server, streams).unwrap();
    let (mut client, mut server) = (Side::new(Secure::Tls(client)), Side::new(Secure::Tls(server)));
    shake_hands(&mut client, &mut server).unwrap();
    // Further streams of the server, and tickets.
    server.step().unwrap();
    assert!(server.read().is_empty());
    client.hear(std::mem::take(&mut server.out));
    assert!(client.read().is_empty());
    (client, server)
}

fn on(stream: u16) -> SendInfo {
    SendInfo { stream, ppid: 100 + u32::from(stream), ..SendInfo::default() }
}

#[test]
fn both_sides_change_to_the_same_key_and_forget_the_old_one() {
    for labels in [[false, false], [true, true]] {
        let (client, server) = dtls(labels);
        assert_eq!(client.added, server.added);
        assert_eq!(client.added.map(|(number, _)| number), Some(1));
        assert_eq!((client.active, server.active), (1, 1));
        assert_eq!((client.deleted, server.deleted), (Some(0), Some(0)));
    }
    let (client, server) = dtls([true, false]);
    assert_ne!(client.added, server.added, "the label does not matter");
}

#[test]
fn five_thousand_records_in_any_order_across_streams_come_out_once() {
    let (mut client, mut server) = dtls([false, false]);
    const MESSAGES: u32 = 5000;
    for number in 0..MESSAGES {
        let message = number.to_be_bytes();
        assert_eq!(client.secure.write(&message, &on((number % 32) as u16)), Written::Done);
    }
    client.run();
    let mut streams: Vec<std::collections::VecDeque<_>> = vec![Default::default(); 32];
    for (message, info) in std::mem::take(&mut client.out) {
        streams[usize::from(info.stream)].push_back((message, info));
    }
    // The streams are served in a wild but repeatable order, each of them in its own.
    let mut random = 0x6083_u64;
    let mut heard = [const { Vec::new() }; 32];
    while streams.iter().any(|stream| !stream.is_empty()) {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let burst = (random >> 40) % 40;
        let stream = &mut streams[(random >> 59) as usize];
        let messages = (0..burst).filter_map(|_| stream.pop_front()).collect();
        server.hear(messages);
        for (message, info) in server.read() {
            assert_eq!(info.ppid, 100 + u32::from(info.stream));
            heard[usize::from(info.stream)].push(u32::from_be_bytes(message.try_into().unwrap()));
        }
    }
    for (stream, numbers) in heard.iter().enumerate() {
        let sent = (0..MESSAGES).filter(|number| *number as usize % 32 == stream);
        assert!(numbers.iter().copied().eq(sent), "stream {stream}: {} came", numbers.len());
    }
    assert_eq!(server.secure.deadline(), None);
}

#[test]
fn data_that_overtakes_the_last_flight_waits_for_it() {
    let Contexts { server, client } = contexts(Protocol::Dtls);
    let client = DtlsSctp::connect(&client, "localhost", false).unwrap();
    let server = DtlsSctp::accept(&server, false).unwrap();
    let (mut client, mut server) = (Side::new(Secure::Dtls(client)), Side::new(Secure::Dtls(server)));
    client.step().unwrap();
    server.hear(std::mem::take(&mut client.out));
    server.step().unwrap();
    client.hear(std::mem::take(&mut server.out));
    client.step().unwrap();
    server.hear(std::mem::take(&mut client.out));
    server.step().unwrap();
    assert!(server.complete);
    // The server speaks at once, on another stream, and that comes first.
    let last_flight = std::mem::take(&mut server.out);
    assert_eq!(server.secure.write(b"early", &on(5)), Written::Done);
    server.run();
    client.hear(std::mem::take(&mut server.out));
    client.step().unwrap();
    assert!(!client.complete);
    client.hear(last_flight);
    client.step().unwrap();
    assert!(client.complete);
    let read = client.read();
    assert_eq!(
        read.iter().map(|(message, info)| (&message[..], info.stream)).collect::<Vec<_>>(),
        [(&b"early"[..], 5)]
    );
}

#[test]
fn a_goodbye_never_cuts_off_what_was_said_before() {
    let (mut client, mut server) = dtls([false, false]);
    for stream in 1..4 {
        client.secure.write(b"said before", &on(stream));
    }
    client.secure.close();
    client.run();
    let mut messages = std::mem::take(&mut client.out);
    messages.reverse();
    server.hear(vec![messages.remove(0)]);
    assert!(server.read().is_empty());
    server.hear(messages);
    let mut buffer = [0; 64];
    for _ in 0..3 {
        assert!(matches!(server.secure.read(&mut buffer), (Read::Message(11), _)));
    }
    assert!(matches!(server.secure.read(&mut buffer), (Read::Closed, _)));
}

#[test]
fn a_record_that_is_given_up_lets_the_others_through() {
    let (mut client, mut server) = dtls([false, false]);
    for number in 0..100u32 {
        client.secure.write(&number.to_be_bytes(), &on(1));
    }
    client.run();
    let mut messages = std::mem::take(&mut client.out);
    messages.remove(10);
    server.hear(messages);
    assert_eq!(server.read().len(), 73, "63 behind the missing one, and those before it");
    let deadline = server.secure.deadline().unwrap();
    assert_eq!(server.secure.give_up(deadline - Duration::from_millis(1)), 0);
    assert_eq!(server.secure.give_up(deadline), 1);
    assert_eq!(server.read().len(), 26);
}

#[test]
fn every_stream_of_tls_has_a_session_and_messages_keep_their_boundaries() {
    let (mut client, mut server) = tls(4);
    for stream in [3, 0, 2, 1] {
        for size in [1, 16_384] {
            assert_eq!(client.secure.write(&vec![stream as u8; size], &on(stream)), Written::Done);
        }
    }
    assert_eq!(client.secure.write(b"x", &on(4)), Written::NoSuchStream);
    assert_eq!(client.secure.write(b"x", &SendInfo { unordered: true, ..on(0) }), Written::NoSuchStream);
    client.run();
    assert_eq!(client.out.len(), 8, "a message is not one record");
    server.hear(std::mem::take(&mut client.out));
    let read = server.read();
    let sizes: Vec<_> = read.iter().map(|(message, info)| (info.stream, message.len())).collect();
    assert_eq!(sizes, [(3, 1), (3, 16_384), (0, 1), (0, 16_384), (2, 1), (2, 16_384), (1, 1), (1, 16_384)]);
    assert!(read.iter().all(|(message, info)| message.iter().all(|byte| u16::from(*byte) == info.stream)));
}

#[test]
fn a_peer_of_tls_1_2_is_served_too() {
    let Contexts { server, .. } = contexts(Protocol::Tls);
    let mut old = openssl::ssl::SslContext::builder(openssl::ssl::SslMethod::tls_client()).unwrap();
    old.set_max_proto_version(Some(openssl::ssl::SslVersion::TLS1_2)).unwrap();
    let client = TlsStreams::connect(&old.build(), "localhost", 1).unwrap();
    let server = TlsStreams::accept(&server, 1).unwrap();
    let (mut client, mut server) = (Side::new(Secure::Tls(client)), Side::new(Secure::Tls(server)));
    shake_hands(&mut client, &mut server).unwrap();
    assert!(server.secure.facts().cipher.is_some_and(|cipher| cipher.starts_with("ECDHE-ECDSA")));
    assert_eq!(client.secure.write(b"in the old way", &on(0)), Written::Done);
    client.run();
    server.hear(std::mem::take(&mut client.out));
    assert_eq!(server.read().remove(0).0, b"in the old way");
}

#[test]
fn data_on_a_stream_without_a_session_is_the_end() {
    let (mut client, mut server) = tls(2);
    let info = MessageInfo { stream: 2, ..MessageInfo::default() };
    server.secure.receive(b"\x16\x03\x01", info, Instant::now());
    assert!(matches!(server.secure.read(&mut [0; 8]), (Read::Broken(why), _) if why.contains("stream 2")));
    // The other side lives, and can be told.
    assert_eq!(client.secure.write(b"x", &on(1)), Written::Done);
}

#[test]
fn junk_is_no_handshake_and_nothing_panics() {
    let mut random = 1u64;
    for round in 0..200 {
        let Contexts { server, .. } = contexts(if round % 2 == 0 { Protocol::Tls } else { Protocol::Dtls });
        let secure = match round % 2 {
            0 => Secure::Tls(TlsStreams::accept(&server, 2).unwrap()),
            _ => Secure::Dtls(DtlsSctp::accept(&server, false).unwrap()),
        };
        let mut server = Side::new(secure);
        for _ in 0..5 {
            let junk: Vec<u8> = (0..round % 70)
                .map(|_| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1442695);
                    (random >> 33) as u8
                })
                .collect();
            let info = MessageInfo { stream: (random >> 60) as u16 % 3, ..MessageInfo::default() };
            server.secure.receive(&junk, info, Instant::now());
            if server.step().is_err() {
                break;
            }
        }
        assert!(!server.complete);
    }
}

//! Properties that must hold for any input. The fuzz targets run these functions on the fuzzer's input, and
//! `properties.rs` runs them on seeded input.
//!
//! Each function takes arbitrary bytes and panics if the code under test violates a property. The functions parse
//! record headers themselves, so that the parser does not judge its own mistakes.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use peeloff::Framing;
use peeloff::sctp::{self, MalformedNotification, Notification};
use peeloff::test_support::cookie::{CookieJar, CookieVerdict};
use peeloff::test_support::dtls::keys::{Prf, Secrets};
use peeloff::test_support::dtls::suite::Aead;
use peeloff::test_support::dtls::{Opened, Opener, Sealer};
use peeloff::test_support::frames::{self, Frame, Frames};
use peeloff::test_support::hello::{self, ClientHello, FirstDatagram, Record};
use peeloff::test_support::proxy;
use peeloff::test_support::record::{self, DropReason, Filtered};

/// `input` is the first datagram of an unknown peer.
pub fn hello(input: &[u8]) {
    match hello::classify(input) {
        FirstDatagram::ClientHello(hello) => {
            check_hello(&hello, input);
            check_answer(&hello, input);
            check_cookie(&hello);
        }
        FirstDatagram::HelloFragment | FirstDatagram::HelloTooShort => {
            assert!(input.len() >= 25 && input[0] == 22 && input[3..5] == [0, 0] && input[13] == 1);
        }
        FirstDatagram::OtherRecord { content_type, epoch } => {
            assert_eq!((content_type, epoch), (input[0], u16::from_be_bytes([input[3], input[4]])));
        }
        FirstDatagram::NotDtls => {}
    }
}

fn check_hello(hello: &ClientHello<'_>, input: &[u8]) {
    let ClientHello { session_id, cookie, .. } = *hello;
    assert!(session_id.len() <= 32 && cookie.len() <= 255);
    assert_eq!((hello.record_version >> 8, hello.client_version >> 8), (0xfe, 0xfe));
    if input[19..22] != [0; 3] {
        // The first fragment comes later in the datagram.
        return;
    }
    // The fields are where the preceding lengths say, one after the other, and in the first record.
    let mut at = 13 + 12 + 2;
    for (field, prefix) in [(&hello.random[..], 0), (session_id, 1), (cookie, 1)] {
        at += prefix;
        assert_eq!(input[at..at + field.len()], *field);
        at += field.len();
    }
    assert!(at <= wire_len(input).expect("a hello is a record"));
}

fn check_answer(hello: &ClientHello<'_>, input: &[u8]) {
    let answer = hello::hello_verify_request(hello, input.len(), &[7; 32]).expect("a hello is long enough");
    assert!(answer.len() <= input.len());
    assert_eq!(wire_len(&answer), Some(answer.len()));
    assert_eq!(
        answer[5..11],
        hello.record_sequence.to_be_bytes()[2..],
        "the record sequence number is echoed"
    );
    assert!(matches!(hello::classify(&answer), FirstDatagram::OtherRecord { content_type: 22, epoch: 0 }));
    assert_eq!(hello::hello_verify_request(hello, answer.len() - 1, &[7; 32]), None);
}

fn check_cookie(hello: &ClientHello<'_>) {
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let jar = CookieJar::new(&[1; 32], &[2; 32], Duration::from_secs(60), Instant::now());
    // The fuzzer cannot know the secret, so a cookie in the input is a guess.
    let verdict = jar.verify(address(1), address(2), hello);
    assert_eq!(verdict == CookieVerdict::Absent, hello.cookie.is_empty());
    let cookie = jar.make(address(1), address(2), hello);
    let returned = ClientHello { cookie: &cookie, ..*hello };
    assert!(matches!(jar.verify(address(1), address(2), &returned), CookieVerdict::Valid(_)));
    assert_eq!(jar.verify(address(1), address(3), &returned), CookieVerdict::Invalid);
    assert_eq!(jar.verify(address(3), address(2), &returned), CookieVerdict::Invalid);
}

/// `input` is a datagram of the peer during the handshake.
pub fn record_filter(input: &[u8]) {
    record::is_handshake_retransmission(input);
    record::filter(input, 8);
    match record::filter(input, 0) {
        Filtered::Pass { len } => {
            check_records(&input[..len]);
            assert_eq!(record::filter(&input[..len], 0), Filtered::Pass { len });
        }
        Filtered::PlaintextAlert { level, description } => {
            assert_eq!(
                (input[0], &input[3..5], &input[13..15]),
                (21, &[0, 0][..], &[level, description][..])
            );
        }
        Filtered::Drop(reason) => assert_eq!(reason == DropReason::Empty, input.is_empty()),
    }
}

/// The first byte of `input` chooses the cipher suite and the length of the connection ID, the second byte the
/// length of a message, and the third byte where the change begins. The message is sealed with the peer's key,
/// the rest of `input` is combined with the record by exclusive or, and the remainder is appended. Only the
/// unchanged record may be authentic. Each message has a key of its own: otherwise the fuzzer, which remembers
/// the records of earlier runs, would present one of those, which is authentic too.
pub fn record_layer(input: &[u8]) {
    let Some((&[choice, len, offset], overlay)) = input.split_first_chunk() else {
        return;
    };
    let suites = [
        "AES128-GCM",
        "AES256-GCM",
        "CHACHA20-POLY1305",
        "AES128-CCM",
        "AES256-CCM",
        "AES128-CCM8",
        "AES256-CCM8",
    ];
    let cid_lengths = [0, 1, 8, 255];
    let (suite, cid) = (usize::from(choice) % suites.len(), usize::from(choice) / suites.len());
    let aead = Aead::of_suite(suites[suite]).expect("a suite that is known");
    let cid = vec![5; cid_lengths[cid % cid_lengths.len()]];
    let secrets = Secrets {
        prf: Prf::Sha256,
        master: Box::new([len; 48].into()),
        client_random: [1; 32],
        server_random: [2; 32],
    };
    let (keys, _) = secrets.key_block(aead);
    let sealer = Sealer::new(aead, &keys, 1, 1);
    let opener = Opener::new(aead, &keys);
    let mut sealer = sealer.with_connection_id(cid.as_slice().into());
    let mut opener = opener.with_connection_id(cid.as_slice().into());
    let message = vec![len; usize::from(len)];
    let mut record = Vec::new();
    sealer.seal_data(&message, &mut record).expect("a message of 255 bytes at most");
    let (split, rest) = Record::split_with(&record, cid.len()).expect("a whole record");
    assert_eq!((split.wire_len(), split.cid, rest.len()), (record.len(), &cid[..], 0));

    let mut datagram = record.clone();
    let start = usize::from(offset) % record.len();
    let (over, behind) = overlay.split_at(overlay.len().min(record.len() - start));
    datagram[start..].iter_mut().zip(over).for_each(|(byte, over)| *byte ^= over);
    datagram.extend_from_slice(behind);
    let has_record = datagram.windows(record.len()).any(|window| window == record);
    let expected: &[Vec<u8>] = if message.is_empty() { &[] } else { std::slice::from_ref(&message) };
    let messages = authentic(&mut opener, &datagram);
    if datagram.starts_with(&record) {
        assert_eq!(messages, expected, "the record is read whatever follows it");
    } else if !has_record {
        assert!(messages.is_empty(), "{} messages are authentic", messages.len());
    }
    if !messages.is_empty() {
        assert!(authentic(&mut opener, &record).is_empty(), "a record is accepted once");
    }
}

/// Returns the messages in a datagram, which may contain no alert and no handshake message.
fn authentic(opener: &mut Opener, datagram: &[u8]) -> Vec<Vec<u8>> {
    let (mut datagram, mut at, mut messages) = (datagram.to_vec(), 0, Vec::new());
    loop {
        let before = at;
        match opener.open(&mut datagram, &mut at) {
            None => break,
            Some(Opened::Data(range)) => messages.push(datagram[range].to_vec()),
            Some(Opened::Dropped(_)) => {}
            Some(other) => panic!("{other:?} is authentic"),
        }
        assert!(before < at && at <= datagram.len());
    }
    messages
}

/// Checks that a datagram consists of complete records, and that none of them should have been filtered out.
fn check_records(mut bytes: &[u8]) {
    assert!(!bytes.is_empty());
    while !bytes.is_empty() {
        let len = wire_len(bytes).expect("whole records");
        match bytes[3..5] {
            [0, 0] => assert!(matches!(bytes[0], 20 | 22) && len - 13 <= 1 << 14),
            [0, 1] => assert!((24..=(1 << 14) + 2048).contains(&(len - 13))),
            _ => panic!("an epoch that does not occur"),
        }
        bytes = &bytes[len..];
    }
}

/// Returns the length of the record at the front of `bytes` if it is complete.
fn wire_len(bytes: &[u8]) -> Option<usize> {
    let len = 13 + usize::from(u16::from_be_bytes([*bytes.get(11)?, *bytes.get(12)?]));
    (bytes[1] == 0xfe && len <= bytes.len()).then_some(len)
}

/// `input` is what the kernel might have written into a buffer for control messages.
pub fn control_messages(input: &[u8]) {
    peeloff::test_support::control_messages(input);
    let info = peeloff::test_support::sctp_control_messages(input);
    // A header of 16 bytes, and the structure.
    assert!(info.message.is_none() || input.len() >= 16 + 28);
    assert!(info.next.is_none() || input.len() >= 16 + 16);
}

/// `input` is what the kernel might have returned as an SCTP notification.
pub fn sctp_notifications(input: &[u8]) {
    let Ok(notification) = Notification::parse(input) else {
        return;
    };
    let word = |at: usize| u32::from_ne_bytes([input[at], input[at + 1], input[at + 2], input[at + 3]]);
    let len = word(4) as usize;
    assert!((8..=input.len()).contains(&len));
    assert_eq!(
        Notification::parse(&input[..len]).as_ref(),
        Ok(&notification),
        "what follows changes nothing"
    );
    assert_eq!(Notification::parse(&input[..len - 1]), Err(MalformedNotification));
    let variable = match &notification {
        Notification::AssociationChanged { info, .. } => {
            let inside: usize = sctp::error_causes(info).map(|(_, contents)| 4 + contents.len()).sum();
            assert!(inside <= info.len());
            assert_eq!(notification.abort_reason(), sctp::user_abort_reason(info));
            info.len()
        }
        Notification::RemoteError { data, .. } | Notification::Unknown { data, .. } => data.len(),
        Notification::SendFailed { payload, .. } => payload.len(),
        Notification::StreamsReset { streams, .. } => streams.len() * 2,
        _ => 0,
    };
    assert!(variable + 8 <= len);
    match notification.association() {
        None => assert!(matches!(notification, Notification::Unknown { .. })),
        // Each structure has the identifier on a boundary of four bytes.
        Some(id) => assert!((8..len - 3).step_by(4).any(|at| word(at).cast_signed() == id.as_raw())),
    }
}

/// The first bytes of `input` choose the framing, the limit and the size of reads. The rest is what a peer sends.
pub fn stream_frames(input: &[u8]) {
    let Some((&[choice, limit, size], stream)) = input.split_first_chunk() else {
        return;
    };
    let framing = if choice % 2 == 0 { Framing::Lines } else { Framing::LengthPrefixed };
    let (limit, size) = (usize::from(limit), 1 + usize::from(size));
    let mut frames = Frames::new(framing, limit).expect("a framing that has messages");
    let mut found = Vec::new();
    for read in stream.chunks(size) {
        frames.push(read);
        // Messages may also be taken later.
        if choice & 2 == 0 {
            take_frames(&mut frames, limit, &mut found);
        }
    }
    take_frames(&mut frames, limit, &mut found);
    if frames.end() {
        take_frames(&mut frames, limit, &mut found);
    }
    assert!(!frames.end(), "there is one last line at most");
    let expected = match framing {
        Framing::Lines => lines_of(stream, limit),
        _ => prefixed_of(stream, limit),
    };
    assert_eq!(found, expected);
    // Received messages can be sent again, and the other side receives the same messages.
    let mut sent = Vec::new();
    for message in found.iter().flatten() {
        frames::encode(framing, message, &mut sent);
    }
    let mut frames = Frames::new(framing, limit).expect("a framing that has messages");
    frames.push(&sent);
    let (mut again, messages) = (Vec::new(), found.into_iter().flatten().map(Some));
    take_frames(&mut frames, limit, &mut again);
    // A line that ends with `\r` loses that byte the second time.
    if !sent.windows(2).any(|pair| pair == b"\r\n") || framing == Framing::LengthPrefixed {
        assert!(messages.eq(again));
    }
}

/// `None` stands for a message that is too long.
fn take_frames(frames: &mut Frames, limit: usize, found: &mut Vec<Option<Vec<u8>>>) {
    while let Some(frame) = frames.next_frame() {
        found.push(match frame {
            Frame::Message(message) => {
                assert!(message.len() <= limit);
                Some(message.to_vec())
            }
            Frame::TooLong => None,
        });
    }
}

fn lines_of(stream: &[u8], limit: usize) -> Vec<Option<Vec<u8>>> {
    let mut lines: Vec<&[u8]> = stream.split(|byte| *byte == b'\n').collect();
    // There may be nothing after the last newline.
    if lines.last().is_some_and(|line| line.is_empty()) {
        lines.pop();
    }
    let line = |line: &&[u8]| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        (line.len() <= limit).then(|| line.to_vec())
    };
    lines.iter().map(line).collect()
}

fn prefixed_of(mut stream: &[u8], limit: usize) -> Vec<Option<Vec<u8>>> {
    let mut found = Vec::new();
    while let Some((prefix, rest)) = stream.split_first_chunk() {
        let len = u32::from_be_bytes(*prefix) as usize;
        match rest.get(..len) {
            Some(message) => found.push((len <= limit).then(|| message.to_vec())),
            None if len > limit => found.push(None),
            None => {}
        }
        stream = rest.get(len..).unwrap_or_default();
    }
    found
}

/// `input` is the beginning of a connection on which a proxy must name the peer.
pub fn proxy_header(input: &[u8]) {
    let Some((head, after)) = input.split_first_chunk() else {
        return;
    };
    let Ok(len) = proxy::rest(head) else {
        return;
    };
    assert!(len <= proxy::MAX_REST && head.starts_with(b"\r\n\r\n\0\r\nQUIT\n") && head[12] >> 4 == 2);
    let Some(rest) = after.get(..len) else {
        return;
    };
    let Ok(Some(ends)) = proxy::parse(head, rest) else {
        return;
    };
    // The header is for a TCP connection on behalf of another peer.
    assert!(head[12] == 0x21 && matches!(head[13], 0x11 | 0x21));
    let address = if head[13] == 0x11 { 4 } else { 16 };
    let ports = 2 * address;
    let word = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
    assert_eq!((ends.peer.port(), ends.local.port()), (word(ports), word(ports + 2)));
    for (end, at) in [(ends.peer.ip(), 0), (ends.local.ip(), address)] {
        let bytes = &rest[at..at + address];
        match end {
            IpAddr::V4(ip) => assert!(bytes.ends_with(&ip.octets())),
            IpAddr::V6(ip) => assert!(bytes == ip.octets() && ip.to_ipv4_mapped().is_none()),
        }
    }
    assert!(!ends.peer.ip().is_unspecified() && !ends.peer.ip().is_multicast() && ends.peer.port() != 0);
    // Bytes after the addresses change nothing. Without their last byte, the addresses are incomplete.
    assert_eq!(proxy::parse(head, &rest[..ports + 4]), Ok(Some(ends)));
    assert!(proxy::parse(head, &rest[..ports + 3]).is_err());
}

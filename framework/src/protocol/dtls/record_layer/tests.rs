//! The record layer beside OpenSSL's own: the same keys, the same datagrams, the same verdicts.

use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::io::{self, Read, Write};
use std::rc::Rc;

use openssl::ssl::{
    ErrorCode, ShutdownResult, Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslStream,
    SslVersion,
};

use super::*;
use crate::protocol::dtls::keys::{DirectionKeys, Secrets};
use crate::protocol::sctp::simulation::Rng;
use crate::sys::ossl;

const SUITES: [(&str, Aead); 7] = [
    ("PSK-AES128-GCM-SHA256", Aead::Aes128Gcm),
    ("PSK-AES256-GCM-SHA384", Aead::Aes256Gcm),
    ("PSK-CHACHA20-POLY1305", Aead::ChaCha20Poly1305),
    ("PSK-AES128-CCM", Aead::Aes128Ccm),
    ("PSK-AES256-CCM", Aead::Aes256Ccm),
    ("PSK-AES128-CCM8", Aead::Aes128Ccm8),
    ("PSK-AES256-CCM8", Aead::Aes256Ccm8),
];

type Queue = Rc<RefCell<VecDeque<Vec<u8>>>>;

/// One end of a path that carries datagrams.
#[derive(Clone, Default)]
struct Path {
    incoming: Queue,
    outgoing: Queue,
}

impl Read for Path {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let datagram = self.incoming.borrow_mut().pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        buffer[..datagram.len()].copy_from_slice(&datagram);
        Ok(datagram.len())
    }
}

impl Write for Path {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        self.outgoing.borrow_mut().push_back(datagram.to_vec());
        Ok(datagram.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// OpenSSL's session, with what it sealed last.
struct Side {
    ssl: SslStream<Path>,
    path: Path,
    next: u64,
    nonce: u64,
    /// The explicit nonces of its records in epoch 1.
    nonces: Vec<u64>,
}

impl Side {
    fn new(mut context: SslContextBuilder, suite: &str, options: SslOptions, path: Path) -> Self {
        context.set_min_proto_version(Some(SslVersion::DTLS1_2)).unwrap();
        context.set_cipher_list(&format!("{suite}:@SECLEVEL=0")).unwrap();
        context.set_options(options | SslOptions::NO_TICKET | SslOptions::NO_QUERY_MTU);
        let context: SslContext = context.build();
        let ssl = Ssl::new(&context).unwrap();
        let mut ssl = SslStream::new(ssl, path.clone()).unwrap();
        ossl::set_mtu(&mut ssl, 1400);
        Self { ssl, path, next: 0, nonce: 0, nonces: Vec::new() }
    }

    /// Notes which records of epoch 1 are under way to the other side.
    fn check_sealed_records(&mut self) {
        for datagram in self.path.outgoing.borrow().iter() {
            let mut rest = &datagram[..];
            while let Ok((record, behind)) = Record::split(rest) {
                if record.epoch == 1 {
                    let explicit = u64::from_be_bytes(record.body[..8].try_into().unwrap());
                    (self.next, self.nonce) = (record.sequence + 1, explicit.wrapping_add(1));
                    self.nonces.push(explicit);
                }
                rest = behind;
            }
        }
    }

    /// OpenSSL's next record.
    fn write(&mut self, message: &[u8]) -> Vec<u8> {
        assert_eq!(self.ssl.ssl_write(message).unwrap(), message.len());
        self.path.outgoing.borrow_mut().pop_front().unwrap()
    }

    /// What OpenSSL makes of a datagram.
    fn read(&mut self, datagram: &[u8]) -> Vec<Vec<u8>> {
        self.path.incoming.borrow_mut().push_back(datagram.to_vec());
        let mut messages = Vec::new();
        let mut buffer = vec![0; 1 << 14];
        loop {
            match self.ssl.ssl_read(&mut buffer) {
                Ok(len) => messages.push(buffer[..len].to_vec()),
                Err(error) if error.code() == ErrorCode::WANT_READ => return messages,
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}

/// A client and a server that have completed their handshake.
struct Pair {
    client: Side,
    server: Side,
    aead: Aead,
}

impl Pair {
    fn new((suite, aead): (&str, Aead), options: SslOptions) -> Self {
        let (up, down) = (Queue::default(), Queue::default());
        let mut context = SslContext::builder(SslMethod::dtls_client()).unwrap();
        context.set_psk_client_callback(|_, _, identity, key| {
            identity[..2].copy_from_slice(b"a\0");
            key[..16].fill(7);
            Ok(16)
        });
        let path = Path { incoming: Rc::clone(&down), outgoing: Rc::clone(&up) };
        let mut client = Side::new(context, suite, options, path);
        let mut context = SslContext::builder(SslMethod::dtls_server()).unwrap();
        context.set_psk_server_callback(|_, _, key| {
            key[..16].fill(7);
            Ok(16)
        });
        let mut server = Side::new(context, suite, options, Path { incoming: up, outgoing: down });
        let (mut connected, mut accepted) = (false, false);
        while !(connected && accepted) {
            connected = connected || client.ssl.connect().is_ok();
            client.check_sealed_records();
            accepted = accepted || server.ssl.accept().is_ok();
            server.check_sealed_records();
        }
        Self { client, server, aead }
    }

    /// Sealer and opener in the place of OpenSSL's server.
    fn server_layer(&self) -> (Sealer, Opener) {
        let (client, server) = Secrets::of(self.server.ssl.ssl()).unwrap().key_block(self.aead);
        let sealer = Sealer::new(self.aead, &server, self.server.next, self.server.nonce);
        (sealer, Opener::new(self.aead, &client))
    }

    /// Sealer and opener in the place of OpenSSL's client.
    fn client_layer(&self) -> (Sealer, Opener) {
        let (client, server) = Secrets::of(self.client.ssl.ssl()).unwrap().key_block(self.aead);
        let sealer = Sealer::new(self.aead, &client, self.client.next, self.client.nonce);
        (sealer, Opener::new(self.aead, &server))
    }
}

/// The messages of a datagram.
fn messages(opener: &mut Opener, datagram: &[u8]) -> Vec<Vec<u8>> {
    opened(opener, datagram).0
}

fn opened(opener: &mut Opener, datagram: &[u8]) -> (Vec<Vec<u8>>, Vec<Opened>) {
    let (mut datagram, mut at) = (datagram.to_vec(), 0);
    let (mut messages, mut others) = (Vec::new(), Vec::new());
    while let Some(opened) = opener.open(&mut datagram, &mut at) {
        match opened {
            Opened::Data(range) => messages.push(datagram[range].to_vec()),
            other => others.push(other),
        }
    }
    assert_eq!(at, datagram.len());
    (messages, others)
}

fn sealed(sealer: &mut Sealer, message: &[u8]) -> Vec<u8> {
    let mut record = Vec::new();
    sealer.seal_data(message, &mut record).unwrap();
    record
}

#[test]
fn every_suite_is_read_by_openssl_and_reads_openssl() {
    for suite in SUITES {
        let mut pair = Pair::new(suite, SslOptions::empty());
        let (mut server_sealer, mut server_opener) = pair.server_layer();
        let (mut client_sealer, mut client_opener) = pair.client_layer();
        for len in [1, 15, 16, 17, 64, 1200, 1 << 14] {
            let message: Vec<u8> = (0..len).map(|byte| byte as u8).collect();
            let record = pair.client.write(&message);
            assert_eq!(messages(&mut server_opener, &record), [&message[..]], "{suite:?} {len}");
            let record = pair.server.write(&message);
            assert_eq!(messages(&mut client_opener, &record), [&message[..]], "{suite:?} {len}");
            assert_eq!(pair.client.read(&sealed(&mut server_sealer, &message)), [&message[..]]);
            assert_eq!(pair.server.read(&sealed(&mut client_sealer, &message)), [message]);
        }
    }
}

#[test]
fn close_notify_is_understood_both_ways() {
    for suite in SUITES {
        let mut pair = Pair::new(suite, SslOptions::empty());
        let (mut sealer, mut opener) = pair.server_layer();
        assert_eq!(pair.client.ssl.shutdown().unwrap(), ShutdownResult::Sent);
        let record = pair.client.path.outgoing.borrow_mut().pop_front().unwrap();
        let (_, others) = opened(&mut opener, &record);
        assert_eq!(others, [Opened::Alert { level: 1, description: 0, sequence: 1 }], "{suite:?}");
        let mut record = Vec::new();
        sealer.seal_alert(1, 0, &mut record).unwrap();
        pair.client.path.incoming.borrow_mut().push_back(record);
        assert_eq!(pair.client.ssl.shutdown().unwrap(), ShutdownResult::Received, "{suite:?}");
    }
}

#[test]
fn exported_keys_are_those_of_openssl() {
    // SSL_OP_NO_EXTENDED_MASTER_SECRET, which the crate has no name for.
    let without_extended = SslOptions::from_bits_retain(1);
    for suite in [SUITES[0], SUITES[1]] {
        for options in [SslOptions::empty(), without_extended] {
            let pair = Pair::new(suite, options);
            let secrets = Secrets::of(pair.server.ssl.ssl()).unwrap();
            for context in [None, Some(&b""[..]), Some(&b"some context"[..])] {
                let (mut ours, mut theirs) = ([0; 100], [0; 100]);
                secrets.export("EXTRACTOR-dtls_srtp", context, &mut ours).unwrap();
                let ssl = pair.client.ssl.ssl();
                ssl.export_keying_material(&mut theirs, "EXTRACTOR-dtls_srtp", context).unwrap();
                assert_eq!(ours, theirs, "{suite:?} {context:?}");
            }
        }
    }
}

/// What happens to a datagram on its way.
fn mangle(rng: &mut Rng, datagram: &[u8]) -> Vec<u8> {
    let mut mangled = datagram.to_vec();
    let len = mangled.len() as u64;
    match rng.below(8) {
        // Behind the length field. A length that lies makes OpenSSL take what follows for a record of its own, which is
        // its right, and so does the test below.
        0 | 1 => mangled[13 + rng.below(len - 13) as usize] ^= 1 << rng.below(8),
        // The sequence number.
        2 => mangled[5 + rng.below(6) as usize] ^= 1 << rng.below(8),
        // An epoch that is long past or does not come.
        3 => mangled[4] = 4 + rng.below(200) as u8,
        // Cut off, so that it ends inside the record.
        4 => mangled.truncate(14 + rng.below(len - 14) as usize),
        // A content type of DTLS's range (RFC 7983 §7); beyond it our parser gives up on the whole datagram.
        5 => mangled[0] = [22, 23, 24, 63][rng.below(4) as usize],
        _ => {}
    }
    mangled
}

#[test]
fn openssl_and_the_record_layer_give_the_same_verdicts() {
    for (seed, suite) in SUITES.into_iter().enumerate() {
        let mut pair = Pair::new(suite, SslOptions::empty());
        let (_, mut opener) = pair.server_layer();
        let mut rng = Rng::new(seed as u64 + 1);
        let mut sent: VecDeque<Vec<u8>> = VecDeque::new();
        let (mut delivered, mut dropped) = (0, 0);
        for round in 0..3000_u32 {
            let message = vec![round as u8; 1 + rng.below(100) as usize];
            let record = pair.client.write(&message);
            sent.push_back(record);
            // Within the window of 64 that OpenSSL has.
            if sent.len() > 32 {
                sent.pop_front();
            }
            let choice = |rng: &mut Rng, sent: &VecDeque<Vec<u8>>| {
                let index = rng.below(sent.len() as u64) as usize;
                mangle(rng, &sent[index])
            };
            let mut datagram = choice(&mut rng, &sent);
            if rng.below(4) == 0 {
                datagram.extend(choice(&mut rng, &sent));
            }
            let (ours, others) = opened(&mut opener, &datagram);
            assert_eq!(ours, pair.server.read(&datagram), "{suite:?}, round {round}: {others:?}");
            delivered += ours.len();
            dropped += others.len();
        }
        assert!(delivered > 500 && dropped > 500, "{suite:?}: {delivered} delivered, {dropped} dropped");
    }
}

#[test]
fn no_bit_of_a_record_can_be_changed() {
    for suite in SUITES {
        let mut pair = Pair::new(suite, SslOptions::empty());
        let (_, mut opener) = pair.server_layer();
        let record = pair.client.write(b"message");
        for bit in 0..record.len() * 8 {
            let mut forged = record.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            let (messages, others) = opened(&mut opener, &forged);
            assert!(messages.is_empty(), "{suite:?}: bit {bit}");
            assert!(others.iter().all(|other| matches!(other, Opened::Dropped(_))), "{suite:?}: bit {bit}");
        }
        assert_eq!(messages(&mut opener, &record), [b"message"], "forgeries do not move the window");
        let (messages, others) = opened(&mut opener, &record);
        assert_eq!((messages.len(), others), (0, vec![Opened::Dropped(Dropped::Replayed)]));
    }
}

#[test]
fn each_useless_record_has_its_reason_and_the_next_one_is_read() {
    let pair = Pair::new(SUITES[0], SslOptions::empty());
    let (_, mut opener) = pair.server_layer();
    let (mut sealer, _) = pair.client_layer();
    // Without its last byte, the record takes the first byte of the next one in its place. That byte must be wrong.
    let mut records = std::iter::repeat_with(|| sealed(&mut sealer, b"good"));
    let good = records.find(|record| record.last() != Some(&APPLICATION_DATA)).unwrap();
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    let mut short = good[..13 + 23].to_vec();
    short[11..13].copy_from_slice(&23_u16.to_be_bytes());
    let mut long = good[..13].to_vec();
    long[11..13].copy_from_slice(&(16_384 + 24 + 1_u16).to_be_bytes());
    long.resize(13 + 16_384 + 25, 0);
    let mut clear = good.clone();
    clear[3..5].copy_from_slice(&[0, 0]);
    let mut empty = Vec::new();
    sealer.seal(APPLICATION_DATA, b"", 0, &mut empty).unwrap();
    let mut heartbeat = Vec::new();
    sealer.seal(24, b"heartbeat", 0, &mut heartbeat).unwrap();
    let mut odd_alert = Vec::new();
    sealer.seal(ALERT, b"\x02", 0, &mut odd_alert).unwrap();
    for (bad, reason) in [
        (forged, Dropped::Forged),
        (short, Dropped::Length),
        (long, Dropped::Length),
        (clear, Dropped::ForeignEpoch),
        (empty, Dropped::Empty),
        (heartbeat, Dropped::Unexpected),
        (odd_alert, Dropped::Unexpected),
    ] {
        let next = sealed(&mut sealer, b"next");
        let (messages, others) = opened(&mut opener, &[bad, next].concat());
        assert_eq!((messages, others), (vec![b"next".to_vec()], vec![Opened::Dropped(reason)]), "{reason:?}");
    }
    for bad in [&b"GET / HTTP/1.1"[..], &good[..good.len() - 1], &[23]] {
        let next = sealed(&mut sealer, b"lost");
        let (messages, others) = opened(&mut opener, &[bad, &next].concat());
        assert!(messages.is_empty());
        assert!(!others.is_empty());
    }
    let next = sealed(&mut sealer, b"next");
    let (messages, others) = opened(&mut opener, &[good, next].concat());
    assert_eq!((messages, others), (vec![b"good".to_vec(), b"next".to_vec()], vec![]));
}

#[test]
fn a_last_flight_that_comes_again_is_reported_once() {
    let pair = Pair::new(SUITES[0], SslOptions::empty());
    let (_, mut opener) = pair.server_layer();
    let (mut sealer, _) = pair.client_layer();
    // ClientKeyExchange and ChangeCipherSpec in clear, then a Finished.
    let clear = |kind: u8| [&[kind, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1][..], &[1]].concat();
    let mut flight = [clear(HANDSHAKE), clear(CHANGE_CIPHER_SPEC)].concat();
    sealer.seal(HANDSHAKE, &[20; 24], 0, &mut flight).unwrap();
    let (_, others) = opened(&mut opener, &flight);
    assert!(matches!(&others[..], [Opened::Handshake(range)] if range.len() == 24));
    assert_eq!(opened(&mut opener, &flight).1, [Opened::Dropped(Dropped::ReplayedHandshake)]);
}

#[test]
fn a_key_is_given_up_before_its_limits() {
    for suite in SUITES {
        let mut pair = Pair::new(suite, SslOptions::empty());
        let (mut sealer, mut opener) = pair.server_layer();
        sealer.exhaust();
        let mut record = Vec::new();
        sealer.seal_data(b"the last", &mut record).unwrap();
        let len = record.len();
        assert_eq!(sealer.seal_data(b"too many", &mut record), Err(SealError::KeyExhausted));
        assert_eq!(record.len(), len, "nothing is left in the buffer");
        sealer.seal_alert(1, 0, &mut record).unwrap();
        assert_eq!(pair.client.read(&record[..len]), [b"the last".to_vec()]);
        assert!(sealer.next <= 1 << 48);

        let mut forged = pair.client.write(b"message");
        let last = forged.len() - 1;
        forged[last] ^= 1;
        opener.exhaust();
        assert_eq!(opened(&mut opener, &forged).1, [Opened::Dropped(Dropped::Forged)]);
        assert_eq!(opened(&mut opener, &forged).1, [Opened::KeyExhausted]);
    }
}

#[test]
fn a_message_longer_than_a_record_is_refused() {
    let pair = Pair::new(SUITES[0], SslOptions::empty());
    let (mut sealer, _) = pair.server_layer();
    assert_eq!(sealer.seal_data(&vec![0; (1 << 14) + 1], &mut Vec::new()), Err(SealError::TooLong));
}

#[test]
fn no_nonce_is_used_twice_not_even_with_openssl_before_us() {
    for suite in SUITES.into_iter().filter(|(_, aead)| aead.explicit_nonce_len() == 8) {
        let pair = Pair::new(suite, SslOptions::empty());
        let (mut sealer, _) = pair.server_layer();
        let mut nonces: HashSet<u64> = pair.server.nonces.iter().copied().collect();
        assert_eq!(nonces.len(), pair.server.nonces.len());
        assert!(!nonces.is_empty());
        sealer.nonce = sealer.nonce.max(u64::MAX - 5);
        for _ in 0..10 {
            let record = sealed(&mut sealer, b"message");
            assert!(nonces.insert(u64::from_be_bytes(record[13..21].try_into().unwrap())), "{suite:?}");
        }
    }
}

#[test]
fn records_after_numbers_that_were_left_out_are_read_and_a_key_can_leave_some_out_three_times() {
    for (_, aead) in SUITES {
        let (mut sealer, mut opener) = layer_with(aead, b"");
        let first = sealed(&mut sealer, b"message");
        assert_eq!(messages(&mut opener, &first), [b"message"]);
        for _ in 0..3 {
            let (next, nonce) = (sealer.next, sealer.nonce);
            sealer.skip();
            assert_eq!((sealer.next - next, sealer.nonce - nonce), (SKIPPED, SKIPPED), "{aead:?}");
            let record = sealed(&mut sealer, b"message");
            assert_eq!(messages(&mut opener, &record), [b"message"], "{aead:?}");
        }
    }
}

/// Lengths of connection IDs that are tried.
const CID_LENGTHS: [usize; 4] = [0, 1, 8, 255];

/// Sealer and opener of one direction, whose receiver asked for this connection ID.
fn layer_with(aead: Aead, cid: &[u8]) -> (Sealer, Opener) {
    let keys = DirectionKeys { key: [3; 32].into(), iv: [4; 12].into() };
    let sealer = Sealer::new(aead, &keys, 1, 7).with_connection_id(cid.into());
    (sealer, Opener::new(aead, &keys).with_connection_id(cid.into()))
}

#[test]
fn records_with_connection_ids_of_any_length_are_read_back() {
    for (_, aead) in SUITES {
        for len in CID_LENGTHS {
            let cid: Vec<u8> = (0..len).map(|byte| byte as u8).collect();
            let (mut sealer, mut opener) = layer_with(aead, &cid);
            for len in [1, 16, 1200, 1 << 14] {
                let message: Vec<u8> = (0..len).map(|byte| byte as u8).collect();
                let record = sealed(&mut sealer, &message);
                let kind = if cid.is_empty() { APPLICATION_DATA } else { 25 };
                assert_eq!((record[0], &record[11..11 + cid.len()]), (kind, &cid[..]));
                let extra = cid.len() + usize::from(!cid.is_empty());
                assert_eq!(record.len(), 13 + message.len() + aead.overhead() + extra);
                assert_eq!(messages(&mut opener, &record), [message]);
            }
            let mut records = Vec::new();
            sealer.seal_alert(1, 0, &mut records).unwrap();
            sealer.seal_check(&[0; 9], &mut records).unwrap();
            sealer.seal_data(b"the next", &mut records).unwrap();
            let (messages, others) = opened(&mut opener, &records);
            assert_eq!(messages, [b"the next"]);
            assert!(
                matches!(
                    &others[..],
                    [Opened::Alert { level: 1, description: 0, sequence: 5 }, Opened::Check(check)] if check.len() == 9
                ),
                "{others:?}"
            );
        }
    }
}

/// The structures of RFC 9146 §4 and §5.3, put together by hand and encrypted by OpenSSL alone.
#[test]
fn a_record_with_a_connection_id_is_what_the_standard_says() {
    let (mut sealer, mut opener) = layer_with(Aead::Aes128Gcm, b"cid");
    let additional = [&[0xff; 8][..], &[25, 3, 25, 0xfe, 0xfd], &[0, 1, 0, 0, 0, 0, 0, 1], b"cid", &[0, 6]];
    let nonce = [4, 4, 4, 4, 0, 0, 0, 0, 0, 0, 0, 7];
    let cipher = openssl::symm::Cipher::aes_128_gcm();
    let seal = |inner: &[u8], additional: &[u8]| {
        let mut tag = [0; 16];
        let text =
            openssl::symm::encrypt_aead(cipher, &[3; 16], Some(&nonce), additional, inner, &mut tag).unwrap();
        let header = [&[25, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 1], &b"cid"[..]].concat();
        let length = (8 + inner.len() as u16 + 16).to_be_bytes();
        [&header, &length[..], &nonce[4..], &text, &tag].concat()
    };
    let expected = seal(b"hello\x17", &additional.concat());
    assert_eq!(sealed(&mut sealer, b"hello"), expected);
    // With padding, whose length is in the additional data as well.
    let mut padded = additional;
    padded[4] = &[0, 9];
    let record = seal(b"hello\x17\0\0\0", &padded.concat());
    assert_eq!(messages(&mut opener, &record), [b"hello"]);
    // Nothing but padding.
    let (_, mut opener) = layer_with(Aead::Aes128Gcm, b"cid");
    let record = seal(b"\0\0\0\0\0\0", &additional.concat());
    assert_eq!(opened(&mut opener, &record).1, [Opened::Dropped(Dropped::Unexpected)]);
}

#[test]
fn a_record_with_anothers_connection_id_or_none_is_dropped_and_the_next_one_read() {
    let aead = Aead::Aes128Gcm;
    let ((mut sealer, _), (mut other, _)) = (layer_with(aead, b"ours"), layer_with(aead, b"them"));
    let (mut ordinary, mut opener) = layer_with(aead, b"");
    let dropped = [Opened::Dropped(Dropped::ForeignConnectionId)];
    // The receiver did not ask for a connection ID, so it cannot know where the record's length is.
    assert_eq!(messages(&mut opener, &sealed(&mut sealer, b"with one")), [b""; 0]);
    let (_, mut opener) = layer_with(aead, b"ours");
    for foreign in [sealed(&mut other, b"x"), sealed(&mut ordinary, b"x")] {
        let next = sealed(&mut sealer, b"next");
        let (messages, others) = opened(&mut opener, &[foreign, next].concat());
        assert_eq!((messages, &others[..]), (vec![b"next".to_vec()], &dropped[..]));
    }
}

#[test]
fn no_bit_of_a_record_with_a_connection_id_can_be_changed() {
    for (_, aead) in SUITES {
        let (mut sealer, mut opener) = layer_with(aead, b"12345678");
        let record = sealed(&mut sealer, b"message");
        for bit in 0..record.len() * 8 {
            let mut forged = record.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            let (messages, others) = opened(&mut opener, &forged);
            assert!(messages.is_empty(), "{aead:?}: bit {bit}");
            assert!(others.iter().all(|other| matches!(other, Opened::Dropped(_))), "{aead:?}: bit {bit}");
        }
        assert_eq!(messages(&mut opener, &record), [b"message"], "forgeries do not move the window");
    }
}

#[test]
fn only_a_record_that_is_authentic_and_ahead_of_all_others_is_the_newest() {
    let (mut sealer, mut opener) = layer_with(Aead::Aes128Gcm, b"cid");
    let [first, second, third] = [b"1", b"2", b"3"].map(|message| sealed(&mut sealer, message));
    for (record, newest) in [(&second, true), (&first, false), (&third, true)] {
        assert_eq!(messages(&mut opener, record).len(), 1);
        assert_eq!(opener.is_newest(), newest);
    }
}

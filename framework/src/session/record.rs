//! What reaches OpenSSL of the datagrams on an association's own socket.
//!
//! A connected socket keeps other addresses out, but whoever can forge the peer's address can still write to
//! it, and OpenSSL trusts what it reads more than RFC 6347 §4.1.2.7 asks for: some records that fail no
//! signature, because they carry none, end a live association. So each datagram is taken apart by its record
//! headers first, which are in clear:
//!
//! 1. the records are walked from the front; the first that is malformed or has no business here cuts the
//!    datagram off;
//! 2. what is left is passed to OpenSSL, if there is anything of use in it;
//! 3. a ClientHello on a live association is reported: the peer may have restarted (RFC 6347 §4.2.8);
//! 4. so is an alert in clear during the handshake, which only the caller can weigh.
//!
//! Nothing here authenticates anything. A dropped record is one that OpenSSL would have dropped, or should
//! have.

use crate::dispatcher::hello::{ClientHello, FirstDatagram, HANDSHAKE, Record, RecordFlaw, classify};

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
/// Shortest ciphertext while the suite is not known: that of AES-GCM, the longest of the AEAD suites' (RFC
/// 5288 §3). Below it OpenSSL may take a record for a fatal error. A suite with a shorter one loses records
/// of less than 8 bytes that share a datagram with its Finished.
const MIN_CIPHERTEXT_UNKNOWN: usize = 8 + 16;

/// How far an association has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Keys are being agreed on.
    Handshake,
    /// The handshake is complete, and there is no renegotiation: the epoch is 1 and stays 1.
    Established {
        /// Length of the shortest ciphertext of the cipher suite, see [`min_ciphertext`].
        min_ciphertext: usize,
    },
}

/// What to do with a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filtered<'a> {
    /// Feed the front of the datagram to OpenSSL.
    Pass {
        /// How much of it: whole records.
        len: usize,
        /// How many of them are in epoch 1 while the handshake goes on. OpenSSL keeps those until it has the
        /// keys, up to 100 of them at 4 KiB and more each, so the caller has to bound them. 0 once the
        /// association is established.
        next_epoch_records: usize,
    },
    /// A new hello on an established association: the peer may have restarted (RFC 6347 §4.2.8). The old
    /// association must live on until the cookie exchange has shown that the peer, and not somebody else, is
    /// starting over.
    ClientHello(ClientHello<'a>),
    /// An alert in clear, during the handshake. It may be forged, and it may be all that an honest peer can
    /// say.
    PlaintextAlert {
        /// 1: warning, 2: fatal (RFC 5246 §7.2).
        level: u8,
        /// The alert's number (RFC 5246 §7.2).
        description: u8,
    },
    /// Nothing of use, with the reason for the counter.
    Drop(DropReason),
}

/// Why a datagram, or what is left of it, is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// The datagram holds no byte.
    Empty,
    /// The header of a record is malformed, or so is an alert in clear.
    NotDtls,
    /// A record is longer than the rest of the datagram.
    Truncated,
    /// A ciphertext is shorter than any that the suite makes; some versions of OpenSSL end the association
    /// for it (CVE-2026-75806: 21 bytes, header included).
    Undersized,
    /// An alert in clear on an established association: anybody can send it.
    UnauthenticatedAlert,
    /// A record of an epoch that does not occur, or one in clear that may not be: on an established
    /// association, anything but a hello; during the handshake, anything but handshake messages, alerts and
    /// ChangeCipherSpec.
    WrongEpoch,
    /// A record claims more than 2^14 bytes in clear or 2^14 + 2048 encrypted (RFC 6347 §4.1).
    Oversized,
}

impl DropReason {
    /// All of them, in the order of [`index`](Self::index).
    pub const ALL: [DropReason; 7] = [
        DropReason::Empty,
        DropReason::NotDtls,
        DropReason::Truncated,
        DropReason::Undersized,
        DropReason::UnauthenticatedAlert,
        DropReason::WrongEpoch,
        DropReason::Oversized,
    ];

    /// The place in [`ALL`](Self::ALL), for an array of counters.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// A short name in snake case, for labels of metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            DropReason::Empty => "empty",
            DropReason::NotDtls => "not_dtls",
            DropReason::Truncated => "truncated",
            DropReason::Undersized => "undersized",
            DropReason::UnauthenticatedAlert => "unauthenticated_alert",
            DropReason::WrongEpoch => "wrong_epoch",
            DropReason::Oversized => "oversized",
        }
    }
}

impl From<RecordFlaw> for DropReason {
    fn from(flaw: RecordFlaw) -> DropReason {
        match flaw {
            RecordFlaw::Header => DropReason::NotDtls,
            RecordFlaw::Truncated => DropReason::Truncated,
            RecordFlaw::Oversized => DropReason::Oversized,
        }
    }
}

/// Decides about `datagram`, which has come on the socket of an association in `phase`.
pub fn filter(datagram: &[u8], phase: Phase) -> Filtered<'_> {
    if datagram.is_empty() {
        return Filtered::Drop(DropReason::Empty);
    }
    match phase {
        Phase::Handshake => during_handshake(datagram),
        Phase::Established { min_ciphertext } => established(datagram, min_ciphertext),
    }
}

fn during_handshake(datagram: &[u8]) -> Filtered<'_> {
    if let Ok((Record { content_type: ALERT, epoch: 0, body, .. }, _)) = Record::split(datagram) {
        return match *body {
            [level, description] => Filtered::PlaintextAlert { level, description },
            _ => Filtered::Drop(DropReason::NotDtls),
        };
    }
    let mut next_epoch_records = 0;
    let (len, cut) = walk(datagram, |record| match (record.epoch, record.content_type) {
        (0, HANDSHAKE | CHANGE_CIPHER_SPEC) => Ok(()),
        (0, ALERT) => Err(DropReason::UnauthenticatedAlert),
        (1, _) if record.body.len() < MIN_CIPHERTEXT_UNKNOWN => Err(DropReason::Undersized),
        (1, _) => {
            next_epoch_records += 1;
            Ok(())
        }
        _ => Err(DropReason::WrongEpoch),
    });
    match cut {
        Some(reason) if len == 0 => Filtered::Drop(reason),
        _ => Filtered::Pass { len, next_epoch_records },
    }
}

fn established(datagram: &[u8], min_ciphertext: usize) -> Filtered<'_> {
    if let FirstDatagram::ClientHello(hello) = classify(datagram) {
        return Filtered::ClientHello(hello);
    }
    let mut ciphertexts = 0;
    let (len, cut) = walk(datagram, |record| match (record.epoch, record.content_type) {
        // The client's last flight again. OpenSSL skips these, and answers the Finished in epoch 1 that
        // follows them.
        (0, HANDSHAKE | CHANGE_CIPHER_SPEC) => Ok(()),
        (0, ALERT) => Err(DropReason::UnauthenticatedAlert),
        (1, _) if record.body.len() < min_ciphertext => Err(DropReason::Undersized),
        (1, _) => {
            ciphertexts += 1;
            Ok(())
        }
        _ => Err(DropReason::WrongEpoch),
    });
    match ciphertexts {
        0 => Filtered::Drop(cut.unwrap_or(DropReason::WrongEpoch)),
        _ => Filtered::Pass { len, next_epoch_records: 0 },
    }
}

/// Walks the records while `check` takes them: the length of those taken, and why the walk stopped before the
/// end.
fn walk(
    datagram: &[u8],
    mut check: impl FnMut(&Record<'_>) -> Result<(), DropReason>,
) -> (usize, Option<DropReason>) {
    let mut rest = datagram;
    while !rest.is_empty() {
        let checked = Record::split(rest)
            .map_err(DropReason::from)
            .and_then(|(record, next)| check(&record).map(|()| next));
        match checked {
            Ok(next) => rest = next,
            Err(reason) => return (datagram.len() - rest.len(), Some(reason)),
        }
    }
    (datagram.len(), None)
}

/// Whether `datagram` looks like the client's last flight again, which asks for the server's last flight once
/// more (RFC 6347 §4.2.4): it begins with a handshake or ChangeCipherSpec record in clear, or with a
/// handshake record in epoch 1.
///
/// A look at the headers and no more: the answer is worth one flight to the address of an established peer.
pub fn is_handshake_retransmission(datagram: &[u8]) -> bool {
    Record::split(datagram).is_ok_and(|(record, _)| {
        matches!((record.epoch, record.content_type), (0, HANDSHAKE | CHANGE_CIPHER_SPEC) | (1, HANDSHAKE))
    })
}

/// Length of the shortest ciphertext that a suite makes, that of an empty message, by OpenSSL's name for the
/// suite.
///
/// | suite | parts | |
/// |---|---|---|
/// | GCM, CCM | explicit nonce 8, tag 16 | RFC 5288 §3, RFC 6655 §3 |
/// | CCM8 | explicit nonce 8, tag 8 | RFC 6655 §4 |
/// | CHACHA20-POLY1305 | tag 16 | RFC 7905 §2 |
/// | CBC | IV, then MAC and padding in whole blocks | RFC 5246 §6.2.3.2 |
/// | NULL | MAC | RFC 5246 §6.2.3.1 |
///
/// With CBC it is the smaller of what it is with and without encrypt-then-MAC (RFC 7366). An unknown name
/// gives 16, which is in no suite's way.
pub fn min_ciphertext(cipher_name: &str) -> usize {
    let has = |part: &str| cipher_name.contains(part);
    if has("CHACHA20") || has("CCM8") {
        return 16;
    }
    if has("GCM") || has("CCM") {
        return 8 + 16;
    }
    let mac: usize = match cipher_name.rsplit('-').next() {
        Some("SHA") => 20,
        Some("SHA256") => 32,
        Some("SHA384") => 48,
        _ => return 16,
    };
    if has("NULL") {
        return mac;
    }
    let block = if has("DES") || has("IDEA") { 8 } else { 16 };
    let mac_then_encrypt = block + (mac + 1).next_multiple_of(block);
    let encrypt_then_mac = block + block + mac;
    mac_then_encrypt.min(encrypt_then_mac)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatcher::hello::samples::{hello, hello_fragment, hello_message, record};

    const ESTABLISHED: Phase = Phase::Established { min_ciphertext: 24 };
    const DATA: u8 = 23;

    fn pass(len: usize, next_epoch_records: usize) -> Filtered<'static> {
        Filtered::Pass { len, next_epoch_records }
    }

    /// The client's last flight in one datagram: ClientKeyExchange, ChangeCipherSpec, Finished.
    fn last_flight() -> Vec<u8> {
        let key_exchange = record(HANDSHAKE, 0, 2, &[16; 50]);
        [key_exchange, record(CHANGE_CIPHER_SPEC, 0, 3, &[1]), record(HANDSHAKE, 1, 0, &[0; 48])].concat()
    }

    #[test]
    fn application_data_passes_whole() {
        let datagram = [record(DATA, 1, 5, &[0; 24]), record(DATA, 1, 6, &[0; 900])].concat();
        assert_eq!(filter(&datagram, ESTABLISHED), pass(datagram.len(), 0));
    }

    #[test]
    fn an_undersized_record_is_dropped_before_openssl_sees_it() {
        let undersized = record(DATA, 1, 5, &[0; 8]);
        assert_eq!(undersized.len(), 21);
        for phase in [ESTABLISHED, Phase::Handshake] {
            assert_eq!(filter(&undersized, phase), Filtered::Drop(DropReason::Undersized));
        }
        let chacha = Phase::Established { min_ciphertext: 16 };
        assert_eq!(filter(&record(DATA, 1, 5, &[0; 16]), chacha), pass(29, 0));
    }

    #[test]
    fn the_good_records_before_a_bad_one_pass() {
        let good = record(DATA, 1, 5, &[0; 40]);
        for bad in [
            record(DATA, 1, 6, &[0; 23]),
            record(DATA, 2, 0, &[0; 40]),
            record(ALERT, 0, 9, &[2, 40]),
            record(DATA, 0, 9, &[0; 40]),
            b"GET / HTTP/1.1".to_vec(),
            good[..good.len() - 1].to_vec(),
            vec![DATA],
        ] {
            let datagram = [good.clone(), bad].concat();
            assert_eq!(filter(&datagram, ESTABLISHED), pass(good.len(), 0));
        }
    }

    #[test]
    fn each_useless_datagram_has_its_reason() {
        let mut oversized = record(DATA, 1, 0, &[0; 40]);
        oversized[11..13].copy_from_slice(&18_433_u16.to_be_bytes());
        for (datagram, reason) in [
            (vec![], DropReason::Empty),
            (b"hello".to_vec(), DropReason::NotDtls),
            (record(DATA, 1, 5, &[0; 40])[..30].to_vec(), DropReason::Truncated),
            (record(ALERT, 0, 9, &[2, 40]), DropReason::UnauthenticatedAlert),
            (record(DATA, 0, 9, &[0; 40]), DropReason::WrongEpoch),
            (record(DATA, 2, 9, &[0; 40]), DropReason::WrongEpoch),
            (record(HANDSHAKE, 0, 9, &[16; 40]), DropReason::WrongEpoch),
            (oversized, DropReason::Oversized),
        ] {
            assert_eq!(filter(&datagram, ESTABLISHED), Filtered::Drop(reason));
        }
    }

    #[test]
    fn a_hello_on_a_live_association_is_reported_and_its_fragments_are_not() {
        let datagram = hello(&[]);
        let expected = match classify(&datagram) {
            FirstDatagram::ClientHello(hello) => hello,
            other => panic!("{other:?}"),
        };
        assert_eq!(filter(&datagram, ESTABLISHED), Filtered::ClientHello(expected));
        assert_eq!(filter(&datagram, Phase::Handshake), pass(datagram.len(), 0));
        let later = hello_fragment(&hello_message(&[]), 40..50);
        assert_eq!(filter(&later, ESTABLISHED), Filtered::Drop(DropReason::WrongEpoch));
        assert_eq!(filter(&later, Phase::Handshake), pass(later.len(), 0));
    }

    #[test]
    fn the_last_flight_passes_in_both_phases() {
        let datagram = last_flight();
        assert_eq!(filter(&datagram, Phase::Handshake), pass(datagram.len(), 1));
        assert_eq!(filter(&datagram, ESTABLISHED), pass(datagram.len(), 0));
    }

    #[test]
    fn records_of_the_next_epoch_are_counted_during_the_handshake() {
        let datagram =
            [record(DATA, 1, 1, &[0; 30]), record(DATA, 1, 2, &[0; 30]), record(DATA, 2, 1, &[0; 30])]
                .concat();
        assert_eq!(filter(&datagram, Phase::Handshake), pass(2 * 43, 2));
    }

    #[test]
    fn an_alert_in_clear_is_reported_during_the_handshake_and_never_passed() {
        let alert = record(ALERT, 0, 1, &[2, 40]);
        let reported = Filtered::PlaintextAlert { level: 2, description: 40 };
        assert_eq!(filter(&alert, Phase::Handshake), reported);
        let after = [hello(&[]), alert].concat();
        assert_eq!(filter(&after, Phase::Handshake), pass(hello(&[]).len(), 0));
        let malformed = record(ALERT, 0, 1, &[2]);
        assert_eq!(filter(&malformed, Phase::Handshake), Filtered::Drop(DropReason::NotDtls));
    }

    #[test]
    fn data_in_clear_never_reaches_a_handshake() {
        // OpenSSL answers it with a fatal alert.
        let data = record(DATA, 0, 1, b"hello");
        assert_eq!(filter(&data, Phase::Handshake), Filtered::Drop(DropReason::WrongEpoch));
    }

    #[test]
    fn a_plaintext_record_has_a_lower_limit_than_a_ciphertext() {
        let largest = record(HANDSHAKE, 0, 1, &[0; 1 << 14]);
        assert_eq!(filter(&largest, Phase::Handshake), pass(largest.len(), 0));
        let larger = record(HANDSHAKE, 0, 1, &[0; (1 << 14) + 1]);
        assert_eq!(filter(&larger, Phase::Handshake), Filtered::Drop(DropReason::Oversized));
        let ciphertext = record(DATA, 1, 1, &[0; (1 << 14) + 2048]);
        assert_eq!(filter(&ciphertext, ESTABLISHED), pass(ciphertext.len(), 0));
    }

    #[test]
    fn the_last_flight_is_recognised_by_its_first_record() {
        assert!(is_handshake_retransmission(&last_flight()));
        assert!(is_handshake_retransmission(&record(CHANGE_CIPHER_SPEC, 0, 3, &[1])));
        assert!(is_handshake_retransmission(&record(HANDSHAKE, 1, 1, &[0; 48])));
        for other in
            [record(DATA, 1, 3, &[0; 48]), record(ALERT, 0, 3, &[1, 0]), record(HANDSHAKE, 2, 0, &[0; 48])]
        {
            assert!(!is_handshake_retransmission(&other));
        }
        assert!(!is_handshake_retransmission(&[]));
    }

    #[test]
    fn the_minimum_is_what_an_empty_message_takes() {
        for (name, minimum) in [
            ("ECDHE-ECDSA-AES128-GCM-SHA256", 24),
            ("ECDHE-ARIA256-GCM-SHA384", 24),
            ("ECDHE-ECDSA-AES256-CCM", 24),
            ("ECDHE-ECDSA-AES256-CCM8", 16),
            ("ECDHE-RSA-CHACHA20-POLY1305", 16),
            ("ECDHE-RSA-AES128-SHA", 48),
            ("ECDHE-RSA-AES128-SHA256", 64),
            ("ECDHE-RSA-AES256-SHA384", 80),
            ("DES-CBC3-SHA", 32),
            ("PSK-NULL-SHA256", 32),
            ("NULL-SHA", 20),
            ("NO-SUCH-SUITE", 16),
        ] {
            assert_eq!(min_ciphertext(name), minimum, "{name}");
        }
    }

    #[test]
    fn drop_reasons_are_numbered_without_a_gap() {
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert!(!reason.as_str().is_empty());
        }
    }
}

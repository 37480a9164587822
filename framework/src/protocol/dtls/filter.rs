//! Filters the datagrams on an association's own socket before OpenSSL reads them during the handshake. After the
//! handshake the record layer ([`Opener`](crate::protocol::dtls::Opener)) reads them.
//!
//! A connected socket keeps other addresses out, but an attacker who forges the peer's address can still write to it.
//! OpenSSL trusts its input more than RFC 6347 §4.1.2.7 allows: some records that carry no authentication, and so
//! cannot fail it, end a handshake. So each datagram is first split by its record headers, which are not encrypted:
//!
//! 1. The records are checked from the front; the datagram is cut off at the first one that is malformed or not allowed
//!    here.
//! 2. The remaining records, if any are useful, are passed to OpenSSL.
//! 3. An unencrypted alert is reported to the caller, which decides about it.
//!
//! Nothing here authenticates anything. Every dropped record is one that OpenSSL would have dropped, or should have
//! dropped.

use crate::protocol::dtls::hello::{HANDSHAKE, Record, RecordFlaw, TLS12_CID};

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
/// Shortest ciphertext while the suite is not known: that of AES-GCM, the longest among the AEAD suites (RFC 5288 §3).
/// OpenSSL may treat a shorter record as a fatal error. With a suite that has shorter ciphertexts, records of less than
/// 8 bytes that arrive before its Finished are lost.
const MIN_CIPHERTEXT: usize = 8 + 16;

/// Decision about a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filtered {
    /// Pass the beginning of the datagram to OpenSSL.
    Pass {
        /// The number of bytes: complete records, some of which may be in epoch 1.
        len: usize,
    },
    /// An unencrypted alert during the handshake. It may be forged, or it may be all that an honest peer can send.
    PlaintextAlert {
        /// 1: warning, 2: fatal (RFC 5246 §7.2).
        level: u8,
        /// The alert's number (RFC 5246 §7.2).
        description: u8,
    },
    /// The datagram has nothing useful, for this reason.
    Drop(DropReason),
}

/// Reason why a datagram, or the rest of it, is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// The datagram is empty.
    Empty,
    /// The header of a record, or an unencrypted alert, is malformed.
    NotDtls,
    /// A record is longer than the rest of the datagram.
    Truncated,
    /// A ciphertext is shorter than that of any suite; some versions of OpenSSL end the association because of it
    /// (CVE-2026-75806: 21 bytes, header included).
    Undersized,
    /// An unencrypted alert follows other records; anyone can send it.
    UnauthenticatedAlert,
    /// A record is of an unused epoch, or is unencrypted and neither a handshake message nor an alert nor a
    /// ChangeCipherSpec.
    WrongEpoch,
    /// The length field of a record exceeds 2^14 bytes unencrypted or 2^14 + 2048 encrypted (RFC 6347 §4.1).
    Oversized,
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

/// Decides about `datagram`, which arrived on the socket of an association during its handshake. Connection IDs have
/// `cid_len` bytes; with 0 none was requested.
pub fn filter(datagram: &[u8], cid_len: usize) -> Filtered {
    if datagram.is_empty() {
        return Filtered::Drop(DropReason::Empty);
    }
    if let Ok((Record { content_type: ALERT, epoch: 0, body, .. }, _)) = Record::split(datagram) {
        return match *body {
            [level, description] => Filtered::PlaintextAlert { level, description },
            _ => Filtered::Drop(DropReason::NotDtls),
        };
    }
    let (len, cut) = walk(datagram, cid_len, |record| match (record.epoch, record.content_type) {
        (0, HANDSHAKE | CHANGE_CIPHER_SPEC) => Ok(()),
        (0, ALERT) => Err(DropReason::UnauthenticatedAlert),
        // OpenSSL never gets these.
        (1, TLS12_CID) if cid_len > 0 => Ok(()),
        (1, _) if record.body.len() < MIN_CIPHERTEXT => Err(DropReason::Undersized),
        (1, _) => Ok(()),
        _ => Err(DropReason::WrongEpoch),
    });
    match cut {
        Some(reason) if len == 0 => Filtered::Drop(reason),
        _ => Filtered::Pass { len },
    }
}

/// Walks the records while `check` accepts them. Returns the length of the accepted records, and why the walk stopped
/// before the end.
fn walk(
    datagram: &[u8],
    cid_len: usize,
    mut check: impl FnMut(&Record<'_>) -> Result<(), DropReason>,
) -> (usize, Option<DropReason>) {
    let mut rest = datagram;
    while !rest.is_empty() {
        let checked = Record::split_with(rest, cid_len)
            .map_err(DropReason::from)
            .and_then(|(record, next)| check(&record).map(|()| next));
        match checked {
            Ok(next) => rest = next,
            Err(reason) => return (datagram.len() - rest.len(), Some(reason)),
        }
    }
    (datagram.len(), None)
}

/// Returns whether `datagram` looks like a repetition of the client's last flight, which asks for the server's last
/// flight again (RFC 6347 §4.2.4): it begins with an unencrypted handshake or ChangeCipherSpec record, or with a
/// handshake record in epoch 1.
///
/// Only the headers are checked, because the answer costs just one flight to the address of an established peer.
pub fn is_handshake_retransmission(datagram: &[u8]) -> bool {
    Record::split(datagram).is_ok_and(|(record, _)| {
        matches!((record.epoch, record.content_type), (0, HANDSHAKE | CHANGE_CIPHER_SPEC) | (1, HANDSHAKE))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::dtls::hello::samples::{hello, hello_fragment, hello_message, record};

    const DATA: u8 = 23;

    /// The client's last flight in one datagram: ClientKeyExchange, ChangeCipherSpec, Finished.
    fn last_flight() -> Vec<u8> {
        let key_exchange = record(HANDSHAKE, 0, 2, &[16; 50]);
        [key_exchange, record(CHANGE_CIPHER_SPEC, 0, 3, &[1]), record(HANDSHAKE, 1, 0, &[0; 48])].concat()
    }

    fn pass(len: usize) -> Filtered {
        Filtered::Pass { len }
    }

    #[test]
    fn an_undersized_record_is_dropped_before_openssl_sees_it() {
        let undersized = record(DATA, 1, 5, &[0; 8]);
        assert_eq!(undersized.len(), 21);
        assert_eq!(filter(&undersized, 0), Filtered::Drop(DropReason::Undersized));
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
            assert_eq!(filter(&datagram, 0), pass(good.len()));
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
            (record(ALERT, 0, 1, &[2]), DropReason::NotDtls),
            // OpenSSL answers it with a fatal alert.
            (record(DATA, 0, 9, &[0; 40]), DropReason::WrongEpoch),
            (record(DATA, 2, 9, &[0; 40]), DropReason::WrongEpoch),
            (oversized, DropReason::Oversized),
        ] {
            assert_eq!(filter(&datagram, 0), Filtered::Drop(reason));
        }
    }

    #[test]
    fn hellos_their_fragments_and_last_flights_pass() {
        for datagram in [hello(&[]), hello_fragment(&hello_message(&[]), 40..50), last_flight()] {
            assert_eq!(filter(&datagram, 0), pass(datagram.len()));
        }
    }

    #[test]
    fn an_alert_in_clear_is_reported_and_never_passed() {
        let alert = record(ALERT, 0, 1, &[2, 40]);
        assert_eq!(filter(&alert, 0), Filtered::PlaintextAlert { level: 2, description: 40 });
        assert_eq!(filter(&[hello(&[]), alert].concat(), 0), pass(hello(&[]).len()));
    }

    #[test]
    fn a_plaintext_record_has_a_lower_limit_than_a_ciphertext() {
        let largest = record(HANDSHAKE, 0, 1, &[0; 1 << 14]);
        assert_eq!(filter(&largest, 0), pass(largest.len()));
        let larger = record(HANDSHAKE, 0, 1, &[0; (1 << 14) + 1]);
        assert_eq!(filter(&larger, 0), Filtered::Drop(DropReason::Oversized));
        let ciphertext = record(DATA, 1, 1, &[0; (1 << 14) + 2048]);
        assert_eq!(filter(&ciphertext, 0), pass(ciphertext.len()));
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
}

//! Seals and opens the records of an established session (RFC 6347 §4.1) with OpenSSL's AEAD ciphers.
//!
//! # The nonce
//!
//! With AES-GCM and AES-CCM each record carries 8 bytes of its nonce, which must never repeat under one key (RFC 5288
//! §3). OpenSSL has already sealed records with the same key: its Finished, possibly several times. With GCM it starts
//! at a random number and counts up. [`Sealer`] continues counting from there, so no nonce is used twice.

use std::fmt;
use std::ops::Range;

use super::keys::DirectionKeys;
use super::protection::{EPOCH, Header, Protection, VERSION};
use super::replay_window::ReplayWindow;
use super::suite::Aead;
use crate::codec::{Malformed, Reader, Writer};
use crate::protocol::dtls::hello::{HANDSHAKE, RECORD_HEADER_LEN, Record, RecordFlaw, TLS12_CID};

/// Content type of a ChangeCipherSpec record (RFC 5246 §6.2.1).
const CHANGE_CIPHER_SPEC: u8 = 20;
/// Content type of an alert record (RFC 5246 §6.2.1).
const ALERT: u8 = 21;
/// Content type of a record with application data (RFC 5246 §6.2.1).
const APPLICATION_DATA: u8 = 23;
/// Content type of a record with a message of the return routability check (RFC 9853 §4).
const RETURN_ROUTABILITY_CHECK: u8 = 27;
/// The longest plaintext of a record (RFC 5246 §6.2.1).
const MAX_PLAINTEXT: usize = 1 << 14;
/// How many bytes a record with a connection ID may have in addition to its content: the content type and padding (RFC
/// 9146 §4). The limit of the header is larger.
const MAX_INNER_EXCESS: usize = 1024;
/// Records reserved for alerts, so that a session with an exhausted key can still send close_notify.
const RESERVED_FOR_ALERTS: u64 = 64;
/// Records that are left out if another process may have sealed some, within the second for which a hand-over waits. A
/// record takes 2 µs to seal and send. A key may seal four times as many records at least ([`Aead::record_limit`]).
const SKIPPED: u64 = 1 << 21;
/// Records below this number may be a Finished that was repeated a few times.
const MAX_FINISHED_SEQUENCE: u64 = 16;

/// Seals the records of one direction.
pub struct Sealer {
    protection: Protection,
    /// The connection ID that the peer wants to receive; empty for ordinary records.
    cid: Box<[u8]>,
    /// The sequence number of the next record.
    next: u64,
    /// The explicit part of the next record's nonce.
    nonce: u64,
}

/// Reason why a record was not sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealError {
    /// The plaintext has more than 16,384 bytes.
    TooLong,
    /// The key has reached its limit of sealed records ([`Aead::record_limit`]).
    KeyExhausted,
    /// OpenSSL reported an error; memory may be short.
    Crypto,
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "the message is longer than a record carries",
            Self::KeyExhausted => "the key has encrypted as many records as it may",
            Self::Crypto => "OpenSSL cannot encrypt",
        })
    }
}

impl Sealer {
    /// Makes a sealer. `next` is the number of the first record to seal, `nonce` the explicit part of its nonce. Both
    /// follow those of the last record that OpenSSL sealed with this key.
    pub fn new(aead: Aead, keys: &DirectionKeys, next: u64, nonce: u64) -> Self {
        Self { protection: Protection::to_seal(aead, keys), cid: Box::default(), next, nonce }
    }

    /// Seals records with this connection ID of the peer (RFC 9146 §3), of at most 255 bytes; with an empty one it
    /// seals ordinary records.
    #[must_use]
    pub fn with_connection_id(self, cid: Box<[u8]>) -> Self {
        Self { cid, ..self }
    }

    /// Writes the state for another process.
    pub(super) fn save(&self, out: &mut Writer) {
        out.u8(self.protection.aead().number());
        self.protection.keys().save(out);
        out.bytes(&self.cid);
        out.u64(self.next);
        out.u64(self.nonce);
    }

    /// Leaves out the numbers and nonces of records that another process may have sealed.
    pub(super) fn skip(&mut self) {
        self.next = self.next.saturating_add(SKIPPED);
        self.nonce = self.nonce.wrapping_add(SKIPPED);
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    ///
    /// The input is malformed.
    pub(super) fn restore(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let aead = Aead::of_number(from.u8()?).ok_or(Malformed)?;
        let protection = Protection::to_seal(aead, &*DirectionKeys::restore(from)?);
        let cid = restore_cid(from)?;
        Ok(Self { protection, cid, next: from.u64()?, nonce: from.u64()? })
    }

    /// Appends a record with application data to `out`.
    ///
    /// # Errors
    ///
    /// See [`SealError`]; `out` is then unchanged.
    pub fn seal_data(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        if message.len() > MAX_PLAINTEXT {
            return Err(SealError::TooLong);
        }
        self.seal(APPLICATION_DATA, message, RESERVED_FOR_ALERTS, out)
    }

    /// Appends an alert to `out` (RFC 5246 §7.2).
    ///
    /// # Errors
    ///
    /// See [`SealError`]; `out` is then unchanged.
    pub fn seal_alert(&mut self, level: u8, description: u8, out: &mut Vec<u8>) -> Result<(), SealError> {
        self.seal(ALERT, &[level, description], 0, out)
    }

    /// Appends a message of the return routability check to `out` (RFC 9853 §4).
    ///
    /// # Errors
    ///
    /// See [`SealError`]; `out` is then unchanged.
    pub fn seal_check(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        self.seal(RETURN_ROUTABILITY_CHECK, message, RESERVED_FOR_ALERTS, out)
    }

    /// Leaves one record of those that the key may seal, for tests.
    #[cfg(test)]
    pub(crate) fn exhaust(&mut self) {
        self.next = self.protection.aead().record_limit() - RESERVED_FOR_ALERTS - 1;
    }

    fn seal(&mut self, kind: u8, plaintext: &[u8], reserve: u64, out: &mut Vec<u8>) -> Result<(), SealError> {
        if self.next >= self.protection.aead().record_limit() - reserve {
            return Err(SealError::KeyExhausted);
        }
        let header = Header { kind, sequence: self.next, explicit: self.nonce, cid: &self.cid };
        self.protection.seal(header, plaintext, out).map_err(|_| SealError::Crypto)?;
        self.next += 1;
        self.nonce = self.nonce.wrapping_add(1);
        Ok(())
    }
}

/// Opens the records of one direction.
pub struct Opener {
    protection: Protection,
    /// The connection ID that the peer's records must have; empty for ordinary records.
    cid: Box<[u8]>,
    /// `None` if the transport delivers each record once.
    window: Option<ReplayWindow>,
    /// The number of authentic records.
    authentic: u64,
    /// The number of records that failed authentication.
    forgeries: u64,
    /// The last authentic record was the newest so far.
    newest: bool,
}

/// Result of opening one record. Ranges refer to the datagram, which is decrypted in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// Application data of at least one byte.
    Data(Range<usize>),
    /// An alert (RFC 5246 §7.2).
    Alert {
        /// 1: warning, 2: fatal.
        level: u8,
        /// The number of the alert.
        description: u8,
        /// The number of its record.
        sequence: u64,
    },
    /// A handshake message, or a fragment of one, with its header (RFC 6347 §4.2.2): the peer repeats its last flight
    /// or asks for a renegotiation.
    Handshake(Range<usize>),
    /// A message of the return routability check (RFC 9853 §4).
    Check(Range<usize>),
    /// The record was dropped.
    Dropped(Dropped),
    /// Too many records failed authentication, so the key must not be used any longer ([`Aead::forgery_limit`]).
    KeyExhausted,
}

/// Reason why a record was dropped. Drops are only counted, not reported to the peer (RFC 6347 §4.1.2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dropped {
    /// The header is malformed or its length exceeds the datagram, so the rest of the datagram is lost too.
    Malformed,
    /// The record is of an unused epoch or unencrypted.
    ForeignEpoch,
    /// The record has a connection ID other than ours, or none although we asked for one (RFC 9146 §3).
    ForeignConnectionId,
    /// The record is shorter or longer than any record of this cipher suite.
    Length,
    /// A record with this number has already arrived, or the number is too old for the replay window.
    Replayed,
    /// The same for a handshake record, which may be the peer's last flight repeated byte for byte.
    ReplayedHandshake,
    /// The record is not authentic.
    Forged,
    /// The record is authentic and has no content.
    Empty,
    /// The record is authentic, and its content type is not allowed in an established session.
    Unexpected,
}

impl Opener {
    /// Makes an opener.
    pub fn new(aead: Aead, keys: &DirectionKeys) -> Self {
        let (protection, window) = (Protection::to_open(aead, keys), Some(ReplayWindow::default()));
        Self { protection, cid: Box::default(), window, authentic: 0, forgeries: 0, newest: false }
    }

    /// Accepts only records with this connection ID (RFC 9146 §3), of at most 255 bytes; with an empty one only
    /// ordinary records.
    #[must_use]
    pub fn with_connection_id(self, cid: Box<[u8]>) -> Self {
        Self { cid, ..self }
    }

    /// Accepts records in any order, including repeated ones. For SCTP, which delivers each message once but may
    /// reorder without a limit: replay detection would drop late records (RFC 6083 §3.4).
    #[must_use]
    pub fn without_replay_detection(self) -> Self {
        Self { window: None, ..self }
    }

    /// Writes the state for another process.
    pub(super) fn save(&self, out: &mut Writer) {
        out.u8(self.protection.aead().number());
        self.protection.keys().save(out);
        out.bytes(&self.cid);
        out.option(self.window.as_ref(), |out, window| window.save(out));
        out.u64(self.authentic);
        out.u64(self.forgeries);
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    ///
    /// The input is malformed.
    pub(super) fn restore(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let aead = Aead::of_number(from.u8()?).ok_or(Malformed)?;
        let protection = Protection::to_open(aead, &*DirectionKeys::restore(from)?);
        let (cid, window) = (restore_cid(from)?, from.option(ReplayWindow::restore)?);
        Ok(Self { protection, cid, window, authentic: from.u64()?, forgeries: from.u64()?, newest: false })
    }

    /// Returns the number of authentic records so far.
    pub fn authentic(&self) -> u64 {
        self.authentic
    }

    /// Returns the connection ID in the peer's records.
    pub fn connection_id(&self) -> &[u8] {
        &self.cid
    }

    /// Returns whether the last authentic record was also the newest so far; only such a record may change the peer's
    /// address (RFC 9146 §6).
    pub fn is_newest(&self) -> bool {
        self.newest
    }

    /// Leaves one forgery before the key is abandoned, for tests.
    #[cfg(test)]
    pub(crate) fn exhaust(&mut self) {
        self.forgeries = self.protection.aead().forgery_limit() - 2;
    }

    /// Opens the record at `*at` in `datagram` and moves `at` past it. Returns `None` at the end of the datagram.
    ///
    /// Unencrypted handshake messages and ChangeCipherSpec are skipped: they belong to a repeated last flight, whose
    /// Finished follows them.
    pub fn open(&mut self, datagram: &mut [u8], at: &mut usize) -> Option<Opened> {
        loop {
            let rest = datagram.get(*at..).filter(|rest| !rest.is_empty())?;
            let record = match Record::split_with(rest, self.cid.len()) {
                Ok((record, _)) => record,
                Err(RecordFlaw::Oversized | RecordFlaw::Truncated | RecordFlaw::Header) => {
                    *at = datagram.len();
                    return Some(Opened::Dropped(Dropped::Malformed));
                }
            };
            let Record { content_type, version, epoch, sequence, cid, .. } = record;
            let has_own_cid = cid == &*self.cid && (content_type == TLS12_CID) != cid.is_empty();
            let body = *at + RECORD_HEADER_LEN + cid.len()..*at + record.wire_len();
            *at = body.end;
            return Some(match (epoch, content_type) {
                (0, HANDSHAKE | CHANGE_CIPHER_SPEC) => continue,
                (EPOCH, _) if !has_own_cid => Opened::Dropped(Dropped::ForeignConnectionId),
                (EPOCH, _) if version == VERSION => self.open_body(content_type, sequence, datagram, body),
                _ => Opened::Dropped(Dropped::ForeignEpoch),
            });
        }
    }

    fn open_body(&mut self, kind: u8, sequence: u64, datagram: &mut [u8], body: Range<usize>) -> Opened {
        let (aead, excess) = (self.protection.aead(), if self.cid.is_empty() { 0 } else { MAX_INNER_EXCESS });
        let length = body.len().checked_sub(aead.overhead());
        if length.is_none_or(|length| length > MAX_PLAINTEXT + excess) {
            return Opened::Dropped(Dropped::Length);
        }
        if self.window.as_ref().is_some_and(|window| !window.is_new(sequence)) {
            return Opened::Dropped(match kind {
                HANDSHAKE => Dropped::ReplayedHandshake,
                // The content type is encrypted, but a Finished has one of the first numbers.
                TLS12_CID if sequence < MAX_FINISHED_SEQUENCE => Dropped::ReplayedHandshake,
                _ => Dropped::Replayed,
            });
        }
        let opened = self.protection.open(kind, sequence, &self.cid, &mut datagram[body.clone()]);
        let Ok((content, kind)) = opened else {
            self.forgeries += 1;
            return match self.forgeries >= aead.forgery_limit() {
                true => Opened::KeyExhausted,
                false => Opened::Dropped(Dropped::Forged),
            };
        };
        self.authentic += 1;
        self.newest = self.window.as_mut().is_none_or(|window| window.insert(sequence));
        let text = body.start + content.start..body.start + content.end;
        match (kind, &datagram[text.clone()]) {
            (_, content) if content.len() > MAX_PLAINTEXT => Opened::Dropped(Dropped::Length),
            (None, _) => Opened::Dropped(Dropped::Unexpected),
            (_, []) => Opened::Dropped(Dropped::Empty),
            (Some(APPLICATION_DATA), _) => Opened::Data(text),
            (Some(ALERT), &[level, description]) => Opened::Alert { level, description, sequence },
            (Some(HANDSHAKE), _) => Opened::Handshake(text),
            (Some(RETURN_ROUTABILITY_CHECK), _) => Opened::Check(text),
            _ => Opened::Dropped(Dropped::Unexpected),
        }
    }
}

fn restore_cid(from: &mut Reader<'_>) -> Result<Box<[u8]>, Malformed> {
    // The length field is one byte on the wire.
    Some(from.bytes()?).filter(|cid| cid.len() <= 255).map(Into::into).ok_or(Malformed)
}

#[cfg(test)]
#[path = "record_layer/tests.rs"]
mod tests;

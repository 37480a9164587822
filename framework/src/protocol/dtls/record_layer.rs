//! Seals and opens the records of an established session (RFC 6347 §4.1), with OpenSSL's AEAD ciphers.
//!
//! # The nonce
//!
//! With AES-GCM and AES-CCM each record carries 8 bytes of its nonce, which must never repeat under one key (RFC 5288
//! §3). OpenSSL has sealed records with the same key before us: its Finished, perhaps several times. With GCM it begins
//! at a random number and counts up. [`Sealer`] goes on counting from there, so that no number is used twice.

use std::ops::Range;

use openssl::cipher_ctx::CipherCtx;
use openssl::error::ErrorStack;

use super::keys::DirectionKeys;
use super::replay_window::ReplayWindow;
use super::suite::Aead;
use crate::protocol::dtls::hello::{HANDSHAKE, RECORD_HEADER_LEN, Record, RecordFlaw};

/// Content type of a ChangeCipherSpec record (RFC 5246 §6.2.1).
const CHANGE_CIPHER_SPEC: u8 = 20;
/// Content type of an alert record (RFC 5246 §6.2.1).
const ALERT: u8 = 21;
/// Content type of a record with application data (RFC 5246 §6.2.1).
const APPLICATION_DATA: u8 = 23;
/// DTLS 1.2 on the wire.
const VERSION: u16 = 0xfefd;
/// The epoch after the first handshake. There is no other, because renegotiation is refused.
const EPOCH: u16 = 1;
/// The longest plaintext of a record (RFC 5246 §6.2.1).
const MAX_PLAINTEXT: usize = 1 << 14;
/// Records that only alerts may use, so that a session which used up its key can still send close_notify.
const RESERVED_FOR_ALERTS: u64 = 64;

/// Seals the records of one direction.
pub struct Sealer {
    cipher: CipherCtx,
    aead: Aead,
    iv: [u8; 12],
    /// The sequence number of the next record.
    next: u64,
    /// The explicit part of the next record's nonce.
    nonce: u64,
}

/// Why a record was not sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealError {
    /// The plaintext has more than 16,384 bytes.
    TooLong,
    /// The key has sealed as many records as it may ([`Aead::record_limit`]).
    KeyExhausted,
    /// OpenSSL reports an error; memory may be short.
    Crypto,
}

impl Sealer {
    /// `next` is the number of the first record to be sealed, `nonce` the explicit part of its nonce. Both follow those of
    /// the last record that OpenSSL sealed with this key.
    ///
    /// # Errors
    ///
    /// OpenSSL cannot set up the cipher.
    pub fn new(aead: Aead, keys: &DirectionKeys, next: u64, nonce: u64) -> Result<Self, ErrorStack> {
        let mut cipher = CipherCtx::new()?;
        cipher.encrypt_init(Some(aead.cipher()), None, None)?;
        if aead.is_ccm() {
            cipher.set_iv_length(12)?;
            cipher.set_tag_length(aead.tag_len())?;
        }
        cipher.encrypt_init(None, Some(&keys.key[..aead.key_len()]), None)?;
        Ok(Self { cipher, aead, iv: *keys.iv, next, nonce })
    }

    /// Appends a record with application data to `out`.
    ///
    /// # Errors
    ///
    /// See [`SealError`]; `out` is as it was.
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
    /// See [`SealError`]; `out` is as it was.
    pub fn seal_alert(&mut self, level: u8, description: u8, out: &mut Vec<u8>) -> Result<(), SealError> {
        self.seal(ALERT, &[level, description], 0, out)
    }

    fn seal(&mut self, kind: u8, plaintext: &[u8], reserve: u64, out: &mut Vec<u8>) -> Result<(), SealError> {
        if self.next >= self.aead.record_limit() - reserve {
            return Err(SealError::KeyExhausted);
        }
        let start = out.len();
        let explicit = &self.nonce.to_be_bytes()[..self.aead.explicit_nonce_len()];
        out.reserve(RECORD_HEADER_LEN + plaintext.len() + self.aead.overhead());
        out.push(kind);
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&numbered(self.next).to_be_bytes());
        let length = u16::try_from(plaintext.len() + self.aead.overhead()).map_err(|_| SealError::TooLong)?;
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(explicit);
        let body = out.len();
        out.extend_from_slice(plaintext);
        let mut tag = [0; 16];
        let tag = &mut tag[..self.aead.tag_len()];
        if self.encrypt(kind, &mut out[body..], tag).is_err() {
            out.truncate(start);
            return Err(SealError::Crypto);
        }
        out.extend_from_slice(tag);
        self.next += 1;
        self.nonce = self.nonce.wrapping_add(1);
        Ok(())
    }

    fn encrypt(&mut self, kind: u8, text: &mut [u8], tag: &mut [u8]) -> Result<(), ErrorStack> {
        let nonce = nonce(self.aead, &self.iv, self.nonce, self.next);
        let additional = additional_data(self.next, kind, text.len());
        let cipher = &mut self.cipher;
        cipher.encrypt_init(None, None, Some(&nonce))?;
        if self.aead.is_ccm() {
            cipher.set_data_len(text.len())?;
        }
        cipher.cipher_update(&additional, None)?;
        cipher.cipher_update_inplace(text, text.len())?;
        cipher.cipher_final(&mut [])?;
        cipher.tag(tag)
    }
}

/// Opens the records of one direction.
pub struct Opener {
    cipher: CipherCtx,
    aead: Aead,
    iv: [u8; 12],
    window: ReplayWindow,
    /// Records that failed their authentication.
    forgeries: u64,
}

/// What one record came to. A range points into the datagram, which has been decrypted in place.
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
    },
    /// A handshake message, or a fragment of one, with its header (RFC 6347 §4.2.2): the peer sends its last flight again or
    /// asks for a renegotiation.
    Handshake(Range<usize>),
    /// The record is of no use.
    Dropped(Dropped),
    /// So many records failed their authentication that the key must not be used any longer ([`Aead::forgery_limit`]).
    KeyExhausted,
}

/// Why a record was dropped. Nobody is told but the counters (RFC 6347 §4.1.2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dropped {
    /// The header is malformed or claims more than the datagram has, so that the rest of the datagram is lost too.
    Malformed,
    /// The record belongs to no epoch in use, or is in clear.
    ForeignEpoch,
    /// The record is shorter or longer than any of this cipher suite.
    Length,
    /// A record with this number arrived before, or so long ago that nobody knows.
    Replayed,
    /// The same, of a handshake record: perhaps the peer's last flight again, byte for byte.
    ReplayedHandshake,
    /// The record is not authentic.
    Forged,
    /// The record is authentic and has no content.
    Empty,
    /// The record is authentic and of a content type that has no place in an established session.
    Unexpected,
}

impl Opener {
    /// # Errors
    ///
    /// OpenSSL cannot set up the cipher.
    pub fn new(aead: Aead, keys: &DirectionKeys) -> Result<Self, ErrorStack> {
        let mut cipher = CipherCtx::new()?;
        cipher.decrypt_init(Some(aead.cipher()), None, None)?;
        if aead.is_ccm() {
            cipher.set_iv_length(12)?;
            cipher.set_tag_length(aead.tag_len())?;
        }
        cipher.decrypt_init(None, Some(&keys.key[..aead.key_len()]), None)?;
        Ok(Self { cipher, aead, iv: *keys.iv, window: ReplayWindow::default(), forgeries: 0 })
    }

    /// Opens the record at `*at` in `datagram`, and moves `at` behind it; `None` at the end of the datagram.
    ///
    /// Handshake messages and ChangeCipherSpec in clear are passed over: they come with a last flight that is sent again,
    /// whose Finished follows them.
    pub fn open(&mut self, datagram: &mut [u8], at: &mut usize) -> Option<Opened> {
        loop {
            let rest = datagram.get(*at..).filter(|rest| !rest.is_empty())?;
            let record = match Record::split(rest) {
                Ok((record, _)) => record,
                Err(RecordFlaw::Oversized | RecordFlaw::Truncated | RecordFlaw::Header) => {
                    *at = datagram.len();
                    return Some(Opened::Dropped(Dropped::Malformed));
                }
            };
            let Record { content_type, version, epoch, sequence, .. } = record;
            let body = *at + RECORD_HEADER_LEN..*at + record.wire_len();
            *at = body.end;
            return Some(match (epoch, content_type) {
                (0, HANDSHAKE | CHANGE_CIPHER_SPEC) => continue,
                (EPOCH, _) if version == VERSION => self.open_body(content_type, sequence, datagram, body),
                _ => Opened::Dropped(Dropped::ForeignEpoch),
            });
        }
    }

    fn open_body(&mut self, kind: u8, sequence: u64, datagram: &mut [u8], body: Range<usize>) -> Opened {
        let Some(length) = body.len().checked_sub(self.aead.overhead()).filter(|len| *len <= MAX_PLAINTEXT)
        else {
            return Opened::Dropped(Dropped::Length);
        };
        if !self.window.is_new(sequence) {
            return Opened::Dropped(match kind {
                HANDSHAKE => Dropped::ReplayedHandshake,
                _ => Dropped::Replayed,
            });
        }
        let start = body.start + self.aead.explicit_nonce_len();
        let text = start..start + length;
        let (front, tag) = datagram[body.start..body.end].split_at_mut(body.len() - self.aead.tag_len());
        let (explicit, text_bytes) = front.split_at_mut(self.aead.explicit_nonce_len());
        let explicit = explicit.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        if self.decrypt(kind, sequence, explicit, text_bytes, tag).is_err() {
            self.forgeries += 1;
            return match self.forgeries >= self.aead.forgery_limit() {
                true => Opened::KeyExhausted,
                false => Opened::Dropped(Dropped::Forged),
            };
        }
        self.window.insert(sequence);
        match (kind, &datagram[text.clone()]) {
            (_, []) => Opened::Dropped(Dropped::Empty),
            (APPLICATION_DATA, _) => Opened::Data(text),
            (ALERT, &[level, description]) => Opened::Alert { level, description },
            (HANDSHAKE, _) => Opened::Handshake(text),
            _ => Opened::Dropped(Dropped::Unexpected),
        }
    }

    fn decrypt(
        &mut self,
        kind: u8,
        sequence: u64,
        explicit: u64,
        text: &mut [u8],
        tag: &[u8],
    ) -> Result<(), ErrorStack> {
        let nonce = nonce(self.aead, &self.iv, explicit, sequence);
        let additional = additional_data(sequence, kind, text.len());
        let cipher = &mut self.cipher;
        cipher.decrypt_init(None, None, Some(&nonce))?;
        cipher.set_tag(tag)?;
        if self.aead.is_ccm() {
            // CCM checks the tag in the one update that decrypts.
            cipher.set_data_len(text.len())?;
            cipher.cipher_update(&additional, None)?;
            cipher.cipher_update_inplace(text, text.len())?;
            return Ok(());
        }
        cipher.cipher_update(&additional, None)?;
        cipher.cipher_update_inplace(text, text.len())?;
        cipher.cipher_final(&mut [])?;
        Ok(())
    }
}

/// Epoch and sequence number as the record header has them: 16 and 48 bits.
fn numbered(sequence: u64) -> u64 {
    u64::from(EPOCH) << 48 | sequence
}

/// RFC 7905 §2: the number of the record, added to the whole nonce bit by bit. RFC 5288 §3, RFC 6655 §3: the salt, and the
/// part that the record carries.
fn nonce(aead: Aead, iv: &[u8; 12], explicit: u64, sequence: u64) -> [u8; 12] {
    let mut nonce = *iv;
    match aead {
        Aead::ChaCha20Poly1305 => {
            let number = numbered(sequence).to_be_bytes();
            nonce[4..].iter_mut().zip(number).for_each(|(byte, number)| *byte ^= number);
        }
        _ => nonce[4..].copy_from_slice(&explicit.to_be_bytes()),
    }
    nonce
}

/// The additional data of RFC 5246 §6.2.3.3, with epoch and sequence number for TLS's number (RFC 6347 §4.1.2.1).
fn additional_data(sequence: u64, kind: u8, length: usize) -> [u8; 13] {
    let mut data = [0; 13];
    data[..8].copy_from_slice(&numbered(sequence).to_be_bytes());
    data[8] = kind;
    data[9..11].copy_from_slice(&VERSION.to_be_bytes());
    // At most 16,384, so nothing is cut off.
    data[11..].copy_from_slice(&(length as u16).to_be_bytes());
    data
}

#[cfg(test)]
#[path = "record_layer/tests.rs"]
mod tests;

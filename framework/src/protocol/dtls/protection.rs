//! The protection of records in one direction: converts content to a record and back (RFC 6347 §4.1, RFC 9146 §4 and §5).
//!
//! A record with a connection ID has the content type `tls12_cid` and the connection ID after its sequence number. Its
//! real content type follows the content and is encrypted with it, followed by any number of zeros.

use std::ops::Range;

use openssl::error::ErrorStack;

use super::ciphers::{Algorithm, CIPHERS, Direction, KeyId, Keyed};
use super::hello::{RECORD_HEADER_LEN, TLS12_CID};
use super::keys::DirectionKeys;
use super::suite::Aead;
use crate::sys::ossl::gcm_records;

/// The version number of DTLS 1.2 in records.
pub(super) const VERSION: u16 = 0xfefd;
/// The epoch after the first handshake. There is no other, because renegotiation is refused.
pub(super) const EPOCH: u16 = 1;

/// Header fields of a protected record, and the part of the nonce that the record carries.
#[derive(Clone, Copy)]
pub(super) struct Header<'a> {
    /// The content type; with a connection ID, the real one, which is encrypted.
    pub(super) kind: u8,
    pub(super) sequence: u64,
    pub(super) explicit: u64,
    /// The connection ID that the receiver asked for; empty in an ordinary record.
    pub(super) cid: &'a [u8],
}

/// The protection of records in one direction.
///
/// It has the keys and no cipher: each record is encrypted by one of [`CIPHERS`].
pub(super) struct Protection {
    id: KeyId,
    algorithm: Algorithm,
    /// Boxed, because moving the keys would leave copies of them behind.
    keys: Box<DirectionKeys>,
}

impl Protection {
    /// Makes the protection of records that are sent.
    pub(super) fn to_seal(aead: Aead, keys: &DirectionKeys) -> Self {
        Self::new(aead, Direction::Seal, keys)
    }

    /// Makes the protection of records that are received.
    pub(super) fn to_open(aead: Aead, keys: &DirectionKeys) -> Self {
        Self::new(aead, Direction::Open, keys)
    }

    fn new(aead: Aead, direction: Direction, keys: &DirectionKeys) -> Self {
        Self { id: KeyId::next(direction), algorithm: Algorithm { aead, direction }, keys: keys.boxed() }
    }

    pub(super) fn keys(&self) -> &DirectionKeys {
        &self.keys
    }

    pub(super) fn aead(&self) -> Aead {
        self.algorithm.aead
    }

    /// Appends a record to `out`, which is unchanged on failure. The content has at most 16,384 bytes.
    ///
    /// # Errors
    ///
    /// OpenSSL cannot encrypt.
    pub(super) fn seal(
        &mut self,
        header: Header<'_>,
        content: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), ErrorStack> {
        let Header { kind, sequence, explicit, cid } = header;
        let aead = self.aead();
        let (start, overhead) = (out.len(), aead.overhead());
        let inner_len = content.len() + usize::from(!cid.is_empty());
        out.reserve(RECORD_HEADER_LEN + cid.len() + inner_len + overhead);
        out.push(if cid.is_empty() { kind } else { TLS12_CID });
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&numbered(sequence).to_be_bytes());
        out.extend_from_slice(cid);
        // At most 16,385 bytes and the overhead, so the conversion does not truncate.
        out.extend_from_slice(&((inner_len + overhead) as u16).to_be_bytes());
        let body = out.len();
        out.extend_from_slice(&explicit.to_be_bytes()[..aead.explicit_nonce_len()]);
        out.extend_from_slice(content);
        if !cid.is_empty() {
            out.push(kind);
        }
        out.extend_from_slice(&[0; 16][..aead.tag_len()]);
        let sealed = self.encrypt_body(header, &mut out[body..]);
        if sealed.is_err() {
            out.truncate(start);
        }
        sealed
    }

    /// Encrypts a body in place. It begins with the part of the nonce that the record carries, and ends with room for
    /// the tag.
    fn encrypt_body(&mut self, header: Header<'_>, body: &mut [u8]) -> Result<(), ErrorStack> {
        let aead = self.aead();
        let tag_at = body.len() - aead.tag_len();
        if self.goes_at_once(header) {
            let mut additional = ordinary_additional_data(header, tag_at);
            self.with_key(|keyed| keyed.process(header.explicit, &mut additional, body))?;
            // A nonce that this side has not counted could repeat.
            return match body.starts_with(&header.explicit.to_be_bytes()) {
                true => Ok(()),
                false => Err(ErrorStack::get()),
            };
        }
        let (front, tag) = body.split_at_mut(tag_at);
        self.encrypt(header, &mut front[aead.explicit_nonce_len()..], tag)
    }

    /// Returns whether OpenSSL encrypts or decrypts a whole record in one call.
    fn goes_at_once(&self, header: Header<'_>) -> bool {
        gcm_records::LINKED && self.aead().is_gcm() && header.cid.is_empty()
    }

    fn with_key<T>(&self, call: impl FnOnce(&mut Keyed) -> Result<T, ErrorStack>) -> Result<T, ErrorStack> {
        CIPHERS.with_key(self.id, self.algorithm, &self.keys, call)
    }

    fn encrypt(&mut self, header: Header<'_>, text: &mut [u8], tag: &mut [u8]) -> Result<(), ErrorStack> {
        let aead = self.aead();
        let mut additional = [0; AdditionalData::MAX];
        let additional = additional_data(&mut additional, header, text.len());
        self.with_key(|keyed| {
            let (cipher, iv) = keyed.steps();
            let nonce = nonce(aead, iv, header.explicit, header.sequence);
            cipher.encrypt_init(None, None, Some(&nonce))?;
            if aead.is_ccm() {
                cipher.set_data_len(text.len())?;
            }
            cipher.cipher_update(additional, None)?;
            cipher.cipher_update_inplace(text, text.len())?;
            cipher.cipher_final(&mut [])?;
            cipher.tag(tag)
        })
    }

    /// Decrypts the body of a record in place. Returns the range of the content in the body, and its real content type,
    /// which is `None` if the content of a record with a connection ID is all zeros. The body has at least the length
    /// of [`Aead::overhead`].
    ///
    /// # Errors
    ///
    /// The record is not authentic.
    pub(super) fn open(
        &mut self,
        kind: u8,
        sequence: u64,
        cid: &[u8],
        body: &mut [u8],
    ) -> Result<(Range<usize>, Option<u8>), ErrorStack> {
        let tag_at = body.len() - self.aead().tag_len();
        let start = self.aead().explicit_nonce_len();
        let explicit = body[..start].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let header = Header { kind, sequence, explicit, cid };
        if self.goes_at_once(header) {
            let mut additional = ordinary_additional_data(header, body.len());
            self.with_key(|keyed| keyed.process(explicit, &mut additional, body))?;
            return Ok((start..tag_at, Some(kind)));
        }
        let (front, tag) = body.split_at_mut(tag_at);
        let text = &mut front[start..];
        self.decrypt(header, text, tag)?;
        if cid.is_empty() {
            return Ok((start..tag_at, Some(kind)));
        }
        let last = text.iter().rposition(|byte| *byte != 0);
        Ok((start..start + last.unwrap_or(0), last.map(|last| text[last])))
    }

    fn decrypt(&mut self, header: Header<'_>, text: &mut [u8], tag: &[u8]) -> Result<(), ErrorStack> {
        let aead = self.aead();
        let mut additional = [0; AdditionalData::MAX];
        let additional = additional_data(&mut additional, header, text.len());
        self.with_key(|keyed| {
            let (cipher, iv) = keyed.steps();
            let nonce = nonce(aead, iv, header.explicit, header.sequence);
            cipher.decrypt_init(None, None, Some(&nonce))?;
            cipher.set_tag(tag)?;
            if aead.is_ccm() {
                // CCM checks the tag in the single update that decrypts.
                cipher.set_data_len(text.len())?;
                cipher.cipher_update(additional, None)?;
                cipher.cipher_update_inplace(text, text.len())?;
                return Ok(());
            }
            cipher.cipher_update(additional, None)?;
            cipher.cipher_update_inplace(text, text.len())?;
            cipher.cipher_final(&mut [])?;
            Ok(())
        })
    }
}

impl Drop for Protection {
    fn drop(&mut self) {
        CIPHERS.forget(self.id);
    }
}

/// Returns epoch (16 bits) and sequence number (48 bits) as in the record header.
fn numbered(sequence: u64) -> u64 {
    u64::from(EPOCH) << 48 | sequence
}

/// Returns the nonce. RFC 7905 §2: the record number XORed into the nonce from the key block. RFC 5288 §3, RFC 6655 §3:
/// the salt, followed by the part that the record carries.
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

/// Returns the additional data of a record without a connection ID (RFC 5246 §6.2.3.3), with epoch and sequence number
/// in place of TLS's sequence number (RFC 6347 §4.1.2.1).
fn ordinary_additional_data(header: Header<'_>, length: usize) -> [u8; 13] {
    let mut data = [0; 13];
    data[..8].copy_from_slice(&numbered(header.sequence).to_be_bytes());
    data[8] = header.kind;
    data[9..11].copy_from_slice(&VERSION.to_be_bytes());
    // At most 2^14 + 2048 bytes, so the conversion does not truncate.
    data[11..].copy_from_slice(&(length as u16).to_be_bytes());
    data
}

/// Writes the additional data of a record whose encrypted part has `length` bytes into `room`: with a connection ID
/// those of RFC 9146 §5.3.
fn additional_data<'a>(
    room: &'a mut [u8; AdditionalData::MAX],
    header: Header<'_>,
    length: usize,
) -> &'a [u8] {
    let Header { sequence, cid, .. } = header;
    let mut data = AdditionalData { room, len: 0 };
    // A connection ID has at most 255 bytes, and the text at most 2^14 + 2048, so the conversions do not truncate.
    let cid_len = cid.len() as u8;
    if cid.is_empty() {
        data.push(&ordinary_additional_data(header, length));
    } else {
        data.push(&[0xff; 8]);
        data.push(&[TLS12_CID, cid_len, TLS12_CID]);
        data.push(&VERSION.to_be_bytes());
        data.push(&numbered(sequence).to_be_bytes());
        data.push(cid);
        data.push(&(length as u16).to_be_bytes());
    }
    &data.room[..data.len]
}

/// Additional data under construction.
struct AdditionalData<'a> {
    room: &'a mut [u8; AdditionalData::MAX],
    len: usize,
}

impl AdditionalData<'_> {
    /// The length for a record with the longest connection ID.
    const MAX: usize = 8 + 3 + 2 + 8 + 255 + 2;

    fn push(&mut self, bytes: &[u8]) {
        self.room[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    /// Put together by hand from the structure in RFC 9146 §5.3.
    #[test]
    fn additional_data_are_those_of_the_standards() {
        let mut room = [0; AdditionalData::MAX];
        let header = Header { kind: 23, sequence: 0x0203_0405_0607, explicit: 9, cid: &[] };
        let ordinary = [0, 1, 2, 3, 4, 5, 6, 7, 23, 0xfe, 0xfd, 1, 0];
        assert_eq!(additional_data(&mut room, header, 256), ordinary);
        let header = Header { cid: &[0xab, 0xcd, 0xef], ..header };
        let with_cid = [
            &[0xff; 8][..],
            &[25, 3, 25, 0xfe, 0xfd],
            &[0, 1, 2, 3, 4, 5, 6, 7],
            &[0xab, 0xcd, 0xef],
            &[1, 0],
        ];
        assert_eq!(additional_data(&mut room, header, 256), with_cid.concat());
        let longest = Header { cid: &[7; 255], ..header };
        assert_eq!(additional_data(&mut room, longest, 1).len(), AdditionalData::MAX);
    }

    const GCM: [Aead; 2] = [Aead::Aes128Gcm, Aead::Aes256Gcm];

    fn keys() -> DirectionKeys {
        DirectionKeys { key: Zeroizing::new([5; 32]), iv: Zeroizing::new([9; 12]) }
    }

    fn header(sequence: u64, explicit: u64) -> Header<'static> {
        Header { kind: 23, sequence, explicit, cid: &[] }
    }

    /// Seals a record in steps.
    fn by_steps(aead: Aead, header: Header<'_>, content: &[u8]) -> Vec<u8> {
        let (mut body, mut tag) = (content.to_vec(), [0; 16]);
        Protection::to_seal(aead, &keys()).encrypt(header, &mut body, &mut tag).unwrap();
        [&header.explicit.to_be_bytes(), &body[..], &tag].concat()
    }

    #[test]
    fn a_record_sealed_at_once_is_the_one_sealed_in_steps() {
        for aead in GCM {
            let mut at_once = Protection::to_seal(aead, &keys());
            let ours = at_once.id;
            // Numbers that follow each other, and others.
            for (sequence, explicit, len) in
                [(1, 7, 1), (2, 8, 64), (3, 9, 16_384), (4, 11, 0), (5, u64::MAX, 3), (6, 0, 3), (7, 0, 3)]
            {
                let (header, content) = (header(sequence, explicit), vec![sequence as u8; len]);
                let mut record = Vec::new();
                at_once.seal(header, &content, &mut record).unwrap();
                assert_eq!(
                    record[RECORD_HEADER_LEN..],
                    by_steps(aead, header, &content),
                    "{aead:?} {sequence}"
                );
                // Another session takes the cipher, or not.
                if sequence % 2 == 0 {
                    CIPHERS.forget(ours);
                }
            }
        }
    }

    #[test]
    fn a_record_is_opened_at_once_after_forged_ones() {
        for aead in GCM {
            let mut opener = Protection::to_open(aead, &keys());
            for sequence in 1..6 {
                let sealed = by_steps(aead, header(sequence, 100 - sequence), b"message");
                for changed in 0..sealed.len() {
                    let mut forged = sealed.clone();
                    forged[changed] ^= 1;
                    assert!(opener.open(23, sequence, &[], &mut forged).is_err(), "{aead:?} {changed}");
                }
                assert!(opener.open(22, sequence, &[], &mut sealed.clone()).is_err(), "{aead:?}");
                assert!(opener.open(23, sequence + 1, &[], &mut sealed.clone()).is_err(), "{aead:?}");
                let mut body = sealed;
                let (range, kind) = opener.open(23, sequence, &[], &mut body).unwrap();
                assert_eq!((&body[range], kind), (&b"message"[..], Some(23)), "{aead:?}");
            }
        }
    }
}

//! The keys of a DTLS session, and the answer to a record: what is left of a session after its handshake.

use openssl::cipher::Cipher;
use openssl::cipher_ctx::CipherCtx;
use openssl::error::ErrorStack;
use openssl::ssl::SslRef;
use peeloff::test_support::dtls::keys::{DirectionKeys, Secrets};
use peeloff::test_support::dtls::suite::Aead;

/// The sizes of the record header, of the explicit nonce and of the tag, in bytes.
const HEADER: usize = 13;
const NONCE: usize = 8;
const TAG: usize = 16;
/// Content types (RFC 5246 §6.2.1).
pub(super) const ALERT: u8 = 21;
const APPLICATION_DATA: u8 = 23;

/// The keys of a session.
pub(super) struct Keys {
    opener: CipherCtx,
    sealer: CipherCtx,
    their_salt: [u8; 4],
    our_salt: [u8; 4],
    /// The sequence number of the next record.
    sequence: u64,
    nonce: u64,
}

impl Keys {
    /// Returns the keys of a complete handshake. `last` is the last datagram that OpenSSL wrote, whose last
    /// record is the Finished.
    pub(super) fn of(ssl: &SslRef, last: &[u8]) -> Option<Self> {
        let (client, server) = Secrets::of(ssl)?.key_block(Aead::Aes128Gcm);
        let cipher = |keys: &DirectionKeys, seals: bool| -> Result<CipherCtx, ErrorStack> {
            let mut cipher = CipherCtx::new()?;
            match seals {
                true => cipher.encrypt_init(Some(Cipher::aes_128_gcm()), Some(&keys.key[..16]), None)?,
                false => cipher.decrypt_init(Some(Cipher::aes_128_gcm()), Some(&keys.key[..16]), None)?,
            }
            Ok(cipher)
        };
        let salt = |keys: &DirectionKeys| keys.iv.first_chunk().copied();
        // The Finished has 12 bytes after its own header of 12.
        let finished = last.len().checked_sub(HEADER + NONCE + 24 + TAG)?;
        let nonce = u64::from_be_bytes(*last.get(finished + HEADER..)?.first_chunk()?);
        Some(Self {
            opener: cipher(&client, false).ok()?,
            sealer: cipher(&server, true).ok()?,
            their_salt: salt(&client)?,
            our_salt: salt(&server)?,
            sequence: 1,
            nonce: nonce.wrapping_add(1),
        })
    }

    /// Answers a datagram: decrypts the record with application data in place, and encrypts its message again with
    /// the server's key. Returns `None` if the datagram is anything else.
    pub(super) fn answer(&mut self, datagram: &mut [u8]) -> Option<()> {
        let is_data = *datagram.first()? == APPLICATION_DATA && datagram.len() > HEADER + NONCE + TAG;
        is_data.then(|| self.echo(datagram).ok())?
    }

    fn echo(&mut self, record: &mut [u8]) -> Result<(), ErrorStack> {
        let len = record.len() - HEADER - NONCE - TAG;
        let mut tag = [0; TAG];
        tag.copy_from_slice(&record[HEADER + NONCE + len..]);
        let opener = &mut self.opener;
        opener.decrypt_init(None, None, Some(&nonce(self.their_salt, &record[HEADER..])))?;
        opener.set_tag(&tag)?;
        opener.cipher_update(&additional_data(record, len), None)?;
        opener.cipher_update_inplace(&mut record[HEADER + NONCE..], len)?;
        opener.cipher_final(&mut [])?;

        record[3..11].copy_from_slice(&(1 << 48 | self.sequence).to_be_bytes());
        record[HEADER..][..NONCE].copy_from_slice(&self.nonce.to_be_bytes());
        self.sequence += 1;
        self.nonce = self.nonce.wrapping_add(1);
        let sealer = &mut self.sealer;
        sealer.encrypt_init(None, None, Some(&nonce(self.our_salt, &record[HEADER..])))?;
        sealer.cipher_update(&additional_data(record, len), None)?;
        sealer.cipher_update_inplace(&mut record[HEADER + NONCE..], len)?;
        sealer.cipher_final(&mut [])?;
        sealer.tag(&mut tag)?;
        record[HEADER + NONCE + len..].copy_from_slice(&tag);
        Ok(())
    }
}

/// Builds the nonce (RFC 5288 §3).
fn nonce(salt: [u8; 4], explicit: &[u8]) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&salt);
    nonce[4..].copy_from_slice(&explicit[..NONCE]);
    nonce
}

/// Builds the additional data (RFC 5246 §6.2.3.3).
fn additional_data(record: &[u8], len: usize) -> [u8; 13] {
    let mut data = [0; 13];
    data[..8].copy_from_slice(&record[3..11]);
    data[8..11].copy_from_slice(&record[..3]);
    data[11..].copy_from_slice(&(len as u16).to_be_bytes());
    data
}

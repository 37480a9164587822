//! Authenticated chunks (RFC 4895).

use std::io;

use zeroize::Zeroizing;

use super::Options;
use crate::sys::sctp::abi::*;
use crate::sys::sctp::{get_bytes, set_bytes};

/// Algorithms that authenticate chunks (RFC 4895 §3.3, §8.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HmacAlgorithm {
    /// SHA-1, which every endpoint must offer.
    Sha1,
    /// SHA-256.
    Sha256,
    /// Another algorithm, by its identifier.
    Other(u16),
}

impl HmacAlgorithm {
    fn number(self) -> u16 {
        match self {
            Self::Sha1 => 1,
            Self::Sha256 => 3,
            Self::Other(number) => number,
        }
    }
}

/// # Authentication
///
/// Keys are numbered. Key 0 exists from the start and is empty.
impl Options<'_> {
    /// Returns whether chunks may be authenticated at all (SCTP_AUTH_SUPPORTED, RFC 4895); for an association, whether
    /// the peer supports that too.
    pub fn auth_supported(&self) -> io::Result<bool> {
        self.get_value(SCTP_AUTH_SUPPORTED).map(|value| value != 0)
    }

    /// Sets the value of [`auth_supported`](Self::auth_supported) for future associations, regardless of the sysctl
    /// net.sctp.auth_enable.
    pub fn set_auth_supported(&self, on: bool) -> io::Result<()> {
        self.set_value(SCTP_AUTH_SUPPORTED, on.into())
    }

    /// Accepts chunks of this type only if they are authenticated (SCTP_AUTH_CHUNK, RFC 6458 §8.3.2), for future
    /// associations. DATA is 0, FORWARD TSN 0xc0. This cannot be undone. Fails with EACCES without
    /// [`set_auth_supported`](Self::set_auth_supported), and with EINVAL for INIT, INIT ACK, SHUTDOWN COMPLETE and
    /// AUTH.
    pub fn require_auth(&self, chunk: u8) -> io::Result<()> {
        self.set(SCTP_AUTH_CHUNK, &chunk)
    }

    /// Returns the algorithms that the peer may use, the preferred one first (SCTP_HMAC_IDENT, RFC 6458 §8.1.17). On
    /// Linux that is initially SHA-1 only. Fails with EACCES without [`set_auth_supported`](Self::set_auth_supported).
    pub fn hmac_identifiers(&self) -> io::Result<Vec<HmacAlgorithm>> {
        let mut buffer = [0; 64];
        let len = get_bytes(self.fd, SCTP_HMAC_IDENT, &mut buffer)?;
        // struct sctp_hmacalgo { u32 number_of_idents; u16 idents[]; }
        let (count, identifiers) = buffer[..len].split_first_chunk().ok_or(io::ErrorKind::InvalidData)?;
        let identifiers = identifiers.as_chunks().0.iter().take(u32::from_ne_bytes(*count) as usize);
        Ok(identifiers
            .map(|&number| match u16::from_ne_bytes(number) {
                1 => HmacAlgorithm::Sha1,
                3 => HmacAlgorithm::Sha256,
                other => HmacAlgorithm::Other(other),
            })
            .collect())
    }

    /// Sets these algorithms for future associations. Fails with EINVAL if SHA-1 is not among them.
    pub fn set_hmac_identifiers(&self, algorithms: &[HmacAlgorithm]) -> io::Result<()> {
        let count = u32::try_from(algorithms.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut value = count.to_ne_bytes().to_vec();
        value.extend(algorithms.iter().flat_map(|algorithm| algorithm.number().to_ne_bytes()));
        set_bytes(self.fd, SCTP_HMAC_IDENT, &value)
    }

    /// Adds or replaces a key of at most 65,535 bytes (SCTP_AUTH_KEY, RFC 6458 §8.3.3).
    pub fn set_auth_key(&self, number: u16, key: &[u8]) -> io::Result<()> {
        let len = u16::try_from(key.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        // struct sctp_authkey { i32 assoc_id; u16 keynumber, keylength; u8 key[]; }
        let mut value = Zeroizing::new(Vec::with_capacity(8 + key.len()));
        value.extend(self.id().to_ne_bytes());
        value.extend(number.to_ne_bytes());
        value.extend(len.to_ne_bytes());
        value.extend(key);
        set_bytes(self.fd, SCTP_AUTH_KEY, &value)
    }

    /// Returns the number of the key that is used for sending (SCTP_AUTH_ACTIVE_KEY, RFC 6458 §8.1.18).
    pub fn active_auth_key(&self) -> io::Result<u16> {
        self.get(SCTP_AUTH_ACTIVE_KEY, self.key(0)).map(|answer| answer.scact_keynumber)
    }

    /// Uses this key for sending from now on. Fails with EINVAL if it does not exist.
    pub fn activate_auth_key(&self, number: u16) -> io::Result<()> {
        self.set(SCTP_AUTH_ACTIVE_KEY, &self.key(number))
    }

    /// Stops using this key for new messages (SCTP_AUTH_DEACTIVATE_KEY, RFC 6458 §8.3.4).
    /// [`KeyEvent::Free`](crate::sctp::KeyEvent::Free) reports that the last message with this key has been
    /// acknowledged. Fails with EINVAL for the active key.
    pub fn deactivate_auth_key(&self, number: u16) -> io::Result<()> {
        self.set(SCTP_AUTH_DEACTIVATE_KEY, &self.key(number))
    }

    /// Deletes a key (SCTP_AUTH_DELETE_KEY, RFC 6458 §8.3.5). Fails with EINVAL for the active key.
    pub fn delete_auth_key(&self, number: u16) -> io::Result<()> {
        self.set(SCTP_AUTH_DELETE_KEY, &self.key(number))
    }

    fn key(&self, number: u16) -> sctp_authkeyid {
        sctp_authkeyid { scact_assoc_id: self.id(), scact_keynumber: number }
    }

    /// Returns the chunk types that the peer accepts only if they are authenticated (SCTP_PEER_AUTH_CHUNKS, RFC 6458
    /// §8.2.3). Fails with EACCES without [`set_auth_supported`](Self::set_auth_supported).
    pub fn peer_auth_chunks(&self) -> io::Result<Vec<u8>> {
        self.auth_chunks(SCTP_PEER_AUTH_CHUNKS)
    }

    /// Returns the chunk types that this side accepts only if they are authenticated (SCTP_LOCAL_AUTH_CHUNKS, RFC 6458
    /// §8.2.4). Fails with EACCES without [`set_auth_supported`](Self::set_auth_supported).
    pub fn local_auth_chunks(&self) -> io::Result<Vec<u8>> {
        self.auth_chunks(SCTP_LOCAL_AUTH_CHUNKS)
    }

    /// Reads a `struct sctp_authchunks { i32 assoc_id; u32 number_of_chunks; u8 chunks[]; }`
    fn auth_chunks(&self, name: i32) -> io::Result<Vec<u8>> {
        let mut buffer = [0; 8 + 256];
        buffer[..4].copy_from_slice(&self.id().to_ne_bytes());
        get_bytes(self.fd, name, &mut buffer)?;
        let count = u32::from_ne_bytes([buffer[4], buffer[5], buffer[6], buffer[7]]);
        Ok(buffer[8..].iter().copied().take(count as usize).collect())
    }
}

//! Properties of cipher suites that the record layer needs.

use openssl::cipher::{Cipher, CipherRef};

/// An AEAD algorithm of DTLS 1.2's cipher suites.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Aead {
    /// AES-128 in GCM (RFC 5288).
    Aes128Gcm,
    /// AES-256 in GCM (RFC 5288).
    Aes256Gcm,
    /// ChaCha20 with Poly1305 (RFC 7905).
    ChaCha20Poly1305,
    /// AES-128 in CCM with a tag of 16 bytes (RFC 6655, RFC 7251).
    Aes128Ccm,
    /// AES-256 in CCM with a tag of 16 bytes (RFC 6655, RFC 7251).
    Aes256Ccm,
    /// AES-128 in CCM with a tag of 8 bytes (RFC 6655 §4, RFC 7251).
    Aes128Ccm8,
    /// AES-256 in CCM with a tag of 8 bytes (RFC 6655 §4, RFC 7251).
    Aes256Ccm8,
}

impl Aead {
    /// All algorithms.
    const ALL: [Aead; 7] = [
        Aead::Aes128Gcm,
        Aead::Aes256Gcm,
        Aead::ChaCha20Poly1305,
        Aead::Aes128Ccm,
        Aead::Aes256Ccm,
        Aead::Aes128Ccm8,
        Aead::Aes256Ccm8,
    ];

    /// Returns the algorithm of a cipher suite, by OpenSSL's name for the suite; `None` if the suite has an unsupported
    /// one, such as a cipher in CBC mode.
    pub fn of_suite(name: &str) -> Option<Self> {
        let has = |part: &str| name.contains(part);
        Some(match () {
            () if has("CHACHA20-POLY1305") => Self::ChaCha20Poly1305,
            () if has("AES128-GCM") => Self::Aes128Gcm,
            () if has("AES256-GCM") => Self::Aes256Gcm,
            () if has("AES128-CCM8") => Self::Aes128Ccm8,
            () if has("AES256-CCM8") => Self::Aes256Ccm8,
            () if has("AES128-CCM") => Self::Aes128Ccm,
            () if has("AES256-CCM") => Self::Aes256Ccm,
            () => return None,
        })
    }

    /// Returns the number that identifies the algorithm in a hand-over to another process.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Aes128Gcm => 1,
            Self::Aes256Gcm => 2,
            Self::ChaCha20Poly1305 => 3,
            Self::Aes128Ccm => 4,
            Self::Aes256Ccm => 5,
            Self::Aes128Ccm8 => 6,
            Self::Aes256Ccm8 => 7,
        }
    }

    /// Returns the algorithm with this [number](Self::number).
    pub(super) fn of_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|aead| aead.number() == number)
    }

    pub(super) fn cipher(self) -> &'static CipherRef {
        match self {
            Self::Aes128Gcm => Cipher::aes_128_gcm(),
            Self::Aes256Gcm => Cipher::aes_256_gcm(),
            Self::ChaCha20Poly1305 => Cipher::chacha20_poly1305(),
            Self::Aes128Ccm | Self::Aes128Ccm8 => Cipher::aes_128_ccm(),
            Self::Aes256Ccm | Self::Aes256Ccm8 => Cipher::aes_256_ccm(),
        }
    }

    pub(super) fn is_gcm(self) -> bool {
        matches!(self, Self::Aes128Gcm | Self::Aes256Gcm)
    }

    pub(super) fn is_ccm(self) -> bool {
        matches!(self, Self::Aes128Ccm | Self::Aes256Ccm | Self::Aes128Ccm8 | Self::Aes256Ccm8)
    }

    /// Returns the length of a key, in bytes.
    pub fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm | Self::Aes128Ccm | Self::Aes128Ccm8 => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 | Self::Aes256Ccm | Self::Aes256Ccm8 => 32,
        }
    }

    /// Returns the length of the part of the nonce that comes from the key block, in bytes: the whole nonce with
    /// ChaCha20-Poly1305 (RFC 7905 §2), otherwise the salt (RFC 5288 §3, RFC 6655 §3).
    pub fn iv_len(self) -> usize {
        match self {
            Self::ChaCha20Poly1305 => 12,
            _ => 4,
        }
    }

    /// Returns the length of the part of the nonce that each record carries, in bytes.
    pub fn explicit_nonce_len(self) -> usize {
        match self {
            Self::ChaCha20Poly1305 => 0,
            _ => 8,
        }
    }

    /// Returns the length of the authentication tag, in bytes.
    pub fn tag_len(self) -> usize {
        match self {
            Self::Aes128Ccm8 | Self::Aes256Ccm8 => 8,
            _ => 16,
        }
    }

    /// Returns how many bytes a record's body has in addition to the plaintext. A shorter body is not a record of this
    /// suite.
    pub fn overhead(self) -> usize {
        self.explicit_nonce_len() + self.tag_len()
    }

    /// Returns how many records may be sealed with one key (RFC 9147 §4.5.3, whose analysis applies to the same
    /// algorithms in DTLS 1.2): 2^24.5 with AES-GCM, 2^23 with AES-CCM. ChaCha20-Poly1305 has no such limit, so the
    /// sequence number of 48 bits is the limit.
    pub fn record_limit(self) -> u64 {
        match self {
            Self::Aes128Gcm | Self::Aes256Gcm => 23_726_566,
            Self::ChaCha20Poly1305 => 1 << 48,
            _ => 1 << 23,
        }
    }

    /// Returns how many records may fail authentication before the key must be abandoned (RFC 9147 §4.5.3): 2^36 with
    /// AES-GCM and ChaCha20-Poly1305, 2^23.5 with AES-CCM.
    ///
    /// For a tag of 8 bytes RFC 9147 §B.3 gives 2^7. In DTLS 1.2 an attacker who can send from the peer's address could
    /// then end the association with 128 datagrams. The limit here is 2^20, at which the probability that a forgery was
    /// accepted is 2^-44.
    pub fn forgery_limit(self) -> u64 {
        match self {
            Self::Aes128Gcm | Self::Aes256Gcm | Self::ChaCha20Poly1305 => 1 << 36,
            Self::Aes128Ccm | Self::Aes256Ccm => 11_863_283,
            Self::Aes128Ccm8 | Self::Aes256Ccm8 => 1 << 20,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_suite_name_has_its_algorithm() {
        for (name, aead) in [
            ("ECDHE-ECDSA-AES128-GCM-SHA256", Some(Aead::Aes128Gcm)),
            ("ECDHE-RSA-AES256-GCM-SHA384", Some(Aead::Aes256Gcm)),
            ("ECDHE-PSK-CHACHA20-POLY1305", Some(Aead::ChaCha20Poly1305)),
            ("ECDHE-ECDSA-AES128-CCM", Some(Aead::Aes128Ccm)),
            ("PSK-AES256-CCM", Some(Aead::Aes256Ccm)),
            ("PSK-AES128-CCM8", Some(Aead::Aes128Ccm8)),
            ("ECDHE-ECDSA-AES256-CCM8", Some(Aead::Aes256Ccm8)),
            ("ECDHE-RSA-AES128-SHA256", None),
            ("ECDHE-ARIA128-GCM-SHA256", None),
            ("NULL-SHA256", None),
        ] {
            assert_eq!(Aead::of_suite(name), aead, "{name}");
        }
    }

    #[test]
    fn lengths_are_those_of_openssl() {
        for aead in Aead::ALL {
            assert_eq!(aead.cipher().key_length(), aead.key_len(), "{aead:?}");
        }
    }
}

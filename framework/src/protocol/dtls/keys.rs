//! The keys of a session, derived from its master secret (RFC 5246 §6.3 and §8.1, RFC 5705).

use hmac::{Hmac, KeyInit, Mac};
use openssl::ssl::SslRef;
use sha2::{Sha256, Sha384};
use zeroize::Zeroizing;

use super::suite::Aead;
use crate::codec::{Malformed, Reader, Writer};

/// The hash function of a cipher suite's pseudorandom function (RFC 5246 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prf {
    /// The function of most suites.
    Sha256,
    /// The function of suites whose name ends with SHA384.
    Sha384,
}

impl Prf {
    /// Returns the function of a cipher suite, by OpenSSL's name for the suite.
    pub fn of_suite(name: &str) -> Self {
        if name.ends_with("SHA384") { Self::Sha384 } else { Self::Sha256 }
    }

    /// Fills `out` with PRF(secret, label, seed), where the seed is the concatenation of `seeds` (RFC 5246 §5).
    pub fn expand(self, secret: &[u8], label: &[u8], seeds: &[&[u8]], out: &mut [u8]) {
        match self {
            Self::Sha256 => p_hash::<Hmac<Sha256>>(secret, label, seeds, out),
            Self::Sha384 => p_hash::<Hmac<Sha384>>(secret, label, seeds, out),
        }
    }
}

/// Computes P_hash of RFC 5246 §5.
fn p_hash<M: Mac + KeyInit>(secret: &[u8], label: &[u8], seeds: &[&[u8]], out: &mut [u8]) {
    // HMAC takes keys of any length, so this cannot fail.
    let mac = || <M as KeyInit>::new_from_slice(secret).expect("HMAC takes keys of any length");
    let seeded = |mut mac: M| {
        mac.update(label);
        seeds.iter().for_each(|seed| mac.update(seed));
        Zeroizing::new(mac.finalize().into_bytes().to_vec())
    };
    let mut a = seeded(mac());
    for part in out.chunks_mut(a.len()) {
        let mut keyed = mac();
        keyed.update(&a);
        part.copy_from_slice(&seeded(keyed)[..part.len()]);
        let mut next = mac();
        next.update(&a);
        a = Zeroizing::new(next.finalize().into_bytes().to_vec());
    }
}

/// The secrets from which all keys of a session are derived. They are wiped when dropped.
pub struct Secrets {
    /// The pseudorandom function of the cipher suite.
    pub prf: Prf,
    /// The master secret (RFC 5246 §8.1, RFC 7627). It is boxed, because moving it would leave copies behind.
    pub master: Box<Zeroizing<[u8; 48]>>,
    /// The random value of the ClientHello.
    pub client_random: [u8; 32],
    /// The random value of the ServerHello.
    pub server_random: [u8; 32],
}

impl Secrets {
    /// Returns the secrets of an OpenSSL DTLS 1.2 session; `None` before they have been negotiated.
    pub fn of(ssl: &SslRef) -> Option<Self> {
        let mut secrets = Self {
            prf: Prf::of_suite(ssl.current_cipher()?.name()),
            master: Box::new(Zeroizing::new([0; 48])),
            client_random: [0; 32],
            server_random: [0; 32],
        };
        let len = ssl.session()?.master_key(&mut secrets.master[..]);
        ssl.client_random(&mut secrets.client_random);
        ssl.server_random(&mut secrets.server_random);
        (len == secrets.master.len()).then_some(secrets)
    }

    /// Writes the state for another process.
    pub(super) fn save(&self, out: &mut Writer) {
        out.flag(self.prf == Prf::Sha384);
        out.raw(&self.master[..]);
        out.raw(&self.client_random);
        out.raw(&self.server_random);
    }

    /// Reads what [`save`](Self::save) wrote.
    pub(super) fn restore(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let prf = if from.flag()? { Prf::Sha384 } else { Prf::Sha256 };
        let mut master = Box::new(Zeroizing::new([0; 48]));
        master.copy_from_slice(from.raw(48)?);
        Ok(Self { prf, master, client_random: from.array()?, server_random: from.array()? })
    }

    /// Derives the keys that protect records: the client's write keys and the server's write keys.
    pub fn key_block(&self, aead: Aead) -> (DirectionKeys, DirectionKeys) {
        let (key, iv) = (aead.key_len(), aead.iv_len());
        let mut block = Zeroizing::new(vec![0; 2 * (key + iv)]);
        let seeds = [&self.server_random[..], &self.client_random[..]];
        self.prf.expand(&self.master[..], b"key expansion", &seeds, &mut block);
        let (keys, ivs) = block.split_at(2 * key);
        let direction = |index: usize| {
            let mut keys_of_one = DirectionKeys { key: Zeroizing::new([0; 32]), iv: Zeroizing::new([0; 12]) };
            keys_of_one.key[..key].copy_from_slice(&keys[index * key..][..key]);
            keys_of_one.iv[..iv].copy_from_slice(&ivs[index * iv..][..iv]);
            keys_of_one
        };
        (direction(0), direction(1))
    }

    /// Fills `out` with exported keying material (RFC 5705 §4). `None` and an empty context give different values.
    ///
    /// # Errors
    ///
    /// The context has more than 65,535 bytes, or TLS reserves the label for itself (RFC 5705 §4).
    pub fn export(&self, label: &str, context: Option<&[u8]>, out: &mut [u8]) -> Result<(), RefusedLabel> {
        const RESERVED: [&str; 5] = [
            "client finished",
            "server finished",
            "master secret",
            "key expansion",
            "extended master secret",
        ];
        if RESERVED.contains(&label) {
            return Err(RefusedLabel);
        }
        let length =
            context.map(|context| u16::try_from(context.len())).transpose().map_err(|_| RefusedLabel)?;
        let length = length.map(u16::to_be_bytes);
        let seeds = [
            &self.client_random[..],
            &self.server_random[..],
            length.as_ref().map_or(&[], |length| &length[..]),
            context.unwrap_or_default(),
        ];
        self.prf.expand(&self.master[..], label.as_bytes(), &seeds, out);
        Ok(())
    }
}

/// Error: the label or the context of an export cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusedLabel;

/// The keys that protect the records of one direction. They are wiped when dropped.
pub struct DirectionKeys {
    /// The key, in its first [`Aead::key_len`] bytes.
    pub key: Zeroizing<[u8; 32]>,
    /// The salt or the whole nonce, in its first [`Aead::iv_len`] bytes.
    pub iv: Zeroizing<[u8; 12]>,
}

impl DirectionKeys {
    /// Returns a copy in a separate allocation, which does not move.
    pub(super) fn boxed(&self) -> Box<Self> {
        let mut copy = Self::zeroed();
        copy.key.copy_from_slice(&self.key[..]);
        copy.iv.copy_from_slice(&self.iv[..]);
        copy
    }

    fn zeroed() -> Box<Self> {
        Box::new(Self { key: Zeroizing::new([0; 32]), iv: Zeroizing::new([0; 12]) })
    }

    /// Writes the keys.
    pub(super) fn save(&self, out: &mut Writer) {
        out.raw(&self.key[..]);
        out.raw(&self.iv[..]);
    }

    /// Reads what [`save`](Self::save) wrote.
    pub(super) fn restore(from: &mut Reader<'_>) -> Result<Box<Self>, Malformed> {
        let mut keys = Self::zeroed();
        keys.key.copy_from_slice(from.raw(32)?);
        keys.iv.copy_from_slice(from.raw(12)?);
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let digit = |byte: u8| char::from(byte).to_digit(16).unwrap() as u8;
        digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
    }

    /// The test vector for P_SHA256 that the IETF's TLS working group published ("Test vectors for TLS 1.2 PRF").
    #[test]
    fn the_pseudorandom_function_of_sha256_gives_the_published_vector() {
        let secret = bytes("9bbe436ba940f017b17652849a71db35");
        let seed = bytes("a0ba9f936cda311827a6f796ffd5198c");
        let expected = bytes(
            "e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a6b301791e90d35c9c9a46b4e14baf9af
             0fa022f7077def17abfd3797c0564bab4fbc91666e9def9b97fce34f796789baa48082d122ee42c5a72e5a5110fff701
             87347b66",
        );
        let mut out = vec![0; expected.len()];
        Prf::Sha256.expand(&secret, b"test label", &[&seed[..7], &seed[7..]], &mut out);
        assert_eq!(out, expected);
    }

    /// The test vector for P_SHA384 of the same publication.
    #[test]
    fn the_pseudorandom_function_of_sha384_gives_the_published_vector() {
        let secret = bytes("b80b733d6ceefcdc71566ea48e5567df");
        let seed = bytes("cd665cf6a8447dd6ff8b27555edb7465");
        let expected = bytes(
            "7b0c18e9ced410ed1804f2cfa34a336a1c14dffb4900bb5fd7942107e81c83cde9ca0faa60be9fe34f82b1233c9146a0
             e534cb400fed2700884f9dc236f80edd8bfa961144c9e8d792eca722a7b32fc3d416d473ebc2c5fd4abfdad05d918425
             9b5bf8cd4d90fa0d31e2dec479e4f1a26066f2eea9a69236a3e52655c9e9aee691c8f3a26854308d5eaa3be85e0990703d73e56f",
        );
        let mut out = vec![0; expected.len()];
        Prf::Sha384.expand(&secret, b"test label", &[&seed], &mut out);
        assert_eq!(out, expected);
    }

    #[test]
    fn labels_of_tls_itself_are_not_exported() {
        let secrets = Secrets {
            prf: Prf::Sha256,
            master: Box::new(Zeroizing::new([1; 48])),
            client_random: [2; 32],
            server_random: [3; 32],
        };
        let mut out = [0; 16];
        assert_eq!(secrets.export("key expansion", None, &mut out), Err(RefusedLabel));
        assert_eq!(secrets.export("EXPERIMENTAL", Some(&vec![0; 65_536]), &mut out), Err(RefusedLabel));
        assert_eq!(secrets.export("EXPERIMENTAL", Some(&[]), &mut out), Ok(()));
        let mut without = [0; 16];
        secrets.export("EXPERIMENTAL", None, &mut without).unwrap();
        assert_ne!(out, without);
    }
}

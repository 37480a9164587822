//! The ciphers of all sessions.
//!
//! A cipher of OpenSSL with its key takes 1.2 KiB, and two of them are half of what an idle session would need. So
//! sessions have no ciphers of their own. They share a fixed number of them, each of which keeps the key that was used
//! last. A session that sends or receives nothing takes none, and busy sessions find their keys still set. Only if there
//! are more busy sessions than ciphers, a key is set again for each record, which takes 0.2 µs or more.

use std::sync::atomic::{AtomicU64, Ordering};

use openssl::cipher_ctx::CipherCtx;
use openssl::error::ErrorStack;
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::keys::DirectionKeys;
use super::suite::Aead;
use crate::sys::ossl::gcm_records;

/// The ciphers of this process: enough for 16,384 busy sessions. They take 40 MiB once all have been used.
pub(super) static CIPHERS: Ciphers<{ 1 << 15 }> = Ciphers::new();

/// Up to `N` ciphers, each with the key that was used last.
pub(super) struct Ciphers<const N: usize>([Place; N]);

/// A cipher, once a session has used it. Each has a cache line of its own.
#[repr(align(64))]
struct Place(Mutex<Option<Keyed>>);

/// Whether records are sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Seal,
    Open,
}

/// An algorithm in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Algorithm {
    pub(super) aead: Aead,
    pub(super) direction: Direction,
}

/// Identifies a key; unique in this process and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyId(u64);

impl KeyId {
    /// Returns a new number: an even one for a key that seals, an odd one for a key that opens. So both kinds do not
    /// take each other's ciphers, which would have to be set up anew.
    pub(super) fn next(direction: Direction) -> Self {
        static NEXT: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
        let direction = direction as usize;
        Self(2 * NEXT[direction].fetch_add(1, Ordering::Relaxed) + direction as u64)
    }
}

/// A cipher, and the key that is set in it.
pub(super) struct Keyed {
    cipher: CipherCtx,
    algorithm: Algorithm,
    id: KeyId,
    /// The part of the nonce that belongs to the key.
    iv: Zeroizing<[u8; 12]>,
    /// The rest of the nonce that the cipher takes for the next whole record, if one is set.
    next: Option<u64>,
}

impl Keyed {
    fn new(id: KeyId, algorithm: Algorithm, keys: &DirectionKeys) -> Result<Self, ErrorStack> {
        let Algorithm { aead, direction } = algorithm;
        let mut cipher = CipherCtx::new()?;
        match direction {
            Direction::Seal => cipher.encrypt_init(Some(aead.cipher()), None, None)?,
            Direction::Open => cipher.decrypt_init(Some(aead.cipher()), None, None)?,
        }
        if aead.is_ccm() {
            cipher.set_iv_length(12)?;
            cipher.set_tag_length(aead.tag_len())?;
        }
        let mut new = Self { cipher, algorithm, id, iv: Zeroizing::default(), next: None };
        new.set_key(id, keys)?;
        Ok(new)
    }

    /// Sets a key. The cipher cannot be used after an error.
    fn set_key(&mut self, id: KeyId, keys: &DirectionKeys) -> Result<(), ErrorStack> {
        (self.id, self.next) = (id, None);
        *self.iv = *keys.iv;
        let Algorithm { aead, direction } = self.algorithm;
        let key = Some(&keys.key[..aead.key_len()]);
        match direction {
            Direction::Seal => self.cipher.encrypt_init(None, key, None),
            Direction::Open => self.cipher.decrypt_init(None, key, None),
        }
    }

    /// Returns the cipher, for the steps of one record, and the key's part of the nonce.
    pub(super) fn steps(&mut self) -> (&mut CipherCtx, &[u8; 12]) {
        self.next = None;
        (&mut self.cipher, &self.iv)
    }

    /// Encrypts or decrypts the body of a record with AES-GCM at once; see [`gcm_records::process`]. `explicit` is the
    /// part of the nonce that the record carries.
    ///
    /// # Errors
    ///
    /// The record is not authentic, or OpenSSL cannot encrypt.
    pub(super) fn process(
        &mut self,
        explicit: u64,
        additional: &mut [u8; 13],
        body: &mut [u8],
    ) -> Result<(), ErrorStack> {
        let follows = |next| self.algorithm.direction == Direction::Open || next == explicit;
        if !self.next.take().is_some_and(follows) {
            let mut nonce = Zeroizing::new(*self.iv);
            nonce[4..].copy_from_slice(&explicit.to_be_bytes());
            gcm_records::set_nonce(&mut self.cipher, &mut nonce)?;
        }
        gcm_records::process(&mut self.cipher, additional, body)?;
        self.next = Some(explicit.wrapping_add(1));
        Ok(())
    }
}

impl<const N: usize> Ciphers<N> {
    const fn new() -> Self {
        Self([const { Place(Mutex::new(None)) }; N])
    }

    fn place(&self, id: KeyId) -> &Mutex<Option<Keyed>> {
        // The remainder is less than `N`, so the cast does not truncate.
        &self.0[(id.0 % N as u64) as usize].0
    }

    /// Calls `call` with a cipher in which this key is set.
    ///
    /// # Errors
    ///
    /// OpenSSL cannot set up the cipher, or the error of `call`.
    pub(super) fn with_key<T>(
        &self,
        id: KeyId,
        algorithm: Algorithm,
        keys: &DirectionKeys,
        call: impl FnOnce(&mut Keyed) -> Result<T, ErrorStack>,
    ) -> Result<T, ErrorStack> {
        let Some(mut place) = self.place(id).try_lock() else {
            // Another thread is using the cipher. Nobody waits for it.
            return call(&mut Keyed::new(id, algorithm, keys)?);
        };
        let keyed = match &mut *place {
            Some(keyed) if keyed.id == id => keyed,
            Some(keyed) if keyed.algorithm == algorithm => {
                if let Err(error) = keyed.set_key(id, keys) {
                    *place = None;
                    return Err(error);
                }
                keyed
            }
            place => place.insert(Keyed::new(id, algorithm, keys)?),
        };
        call(keyed)
    }

    /// Wipes this key, if it is still set in a cipher.
    pub(super) fn forget(&self, id: KeyId) {
        let mut place = self.place(id).lock();
        if place.as_ref().is_some_and(|keyed| keyed.id == id) {
            // OpenSSL overwrites the memory that it frees.
            *place = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEAL: Algorithm = Algorithm { aead: Aead::Aes128Gcm, direction: Direction::Seal };

    fn keys(number: u8) -> DirectionKeys {
        DirectionKeys { key: Zeroizing::new([number; 32]), iv: Zeroizing::new([number; 12]) }
    }

    #[test]
    fn a_cipher_has_the_key_of_the_session_that_uses_it() {
        let ciphers = Ciphers::<3>::new();
        let sealed = |ciphers: &Ciphers<3>, id, algorithm, number| {
            let mut text = [0; 16];
            let sealed = ciphers.with_key(id, algorithm, &keys(number), |keyed| {
                let (cipher, iv) = keyed.steps();
                assert_eq!(*iv, [number; 12]);
                cipher.encrypt_init(None, None, Some(iv))?;
                cipher.cipher_update_inplace(&mut text, 16)
            });
            assert_eq!(sealed.unwrap(), 16);
            text
        };
        let other = Algorithm { aead: Aead::ChaCha20Poly1305, ..SEAL };
        let ids: Vec<_> = (0..8)
            .map(|number| (KeyId::next(Direction::Seal), if number < 6 { SEAL } else { other }, number))
            .collect();
        // Each alone, and then in turns that take the ciphers from each other.
        let alone: Vec<_> = ids
            .iter()
            .map(|&(id, algorithm, number)| sealed(&Ciphers::new(), id, algorithm, number))
            .collect();
        for _ in 0..3 {
            for (&(id, algorithm, number), expected) in ids.iter().zip(&alone) {
                assert_eq!(sealed(&ciphers, id, algorithm, number), *expected);
                assert_eq!(sealed(&ciphers, id, algorithm, number), *expected);
            }
        }
        let all_differ = alone.iter().enumerate().all(|(at, text)| !alone[..at].contains(text));
        assert!(all_differ, "{alone:?}");
    }

    #[test]
    fn a_cipher_that_another_thread_uses_is_not_waited_for() {
        let (ciphers, id) = (Ciphers::<1>::new(), KeyId::next(Direction::Seal));
        let held = ciphers.place(id).lock();
        assert_eq!(ciphers.with_key(id, SEAL, &keys(1), |keyed| Ok(*keyed.iv)).unwrap(), [1; 12]);
        assert!(held.is_none());
    }

    #[test]
    fn the_key_of_a_session_that_ends_does_not_stay_in_a_cipher() {
        let (ciphers, first, second) =
            (Ciphers::<1>::new(), KeyId::next(Direction::Seal), KeyId::next(Direction::Seal));
        let has = |id| ciphers.place(id).lock().as_ref().is_some_and(|keyed| keyed.id == id);
        ciphers.with_key(first, SEAL, &keys(1), |_| Ok(())).unwrap();
        ciphers.with_key(second, SEAL, &keys(2), |_| Ok(())).unwrap();
        ciphers.forget(first);
        assert!(has(second));
        ciphers.forget(second);
        assert!(ciphers.place(second).lock().is_none());
    }
}

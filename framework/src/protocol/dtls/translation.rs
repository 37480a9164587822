//! Translates records with connection IDs during OpenSSL's handshake, because OpenSSL does not support them (RFC 9146).
//!
//! From epoch 1 on, a peer's records carry the connection ID that we asked for, beginning with its Finished. OpenSSL
//! derives the keys before it reads the Finished. So this module can open the record, seal its content again as an
//! ordinary record with the same key and number, and feed that to OpenSSL. Records that OpenSSL seals are translated in
//! the other direction. Of the two records with one nonce, only one is ever sent.

use std::collections::VecDeque;

use openssl::ssl::SslRef;

use super::hello::{HANDSHAKE, RECORD_HEADER_LEN, Record};
use super::keys::{DirectionKeys, Secrets};
use super::protection::{Header, Protection};
use super::suite::Aead;
use crate::tls::context::connection_ids::agreed;

/// Maximum number of the peer's records that are kept until they can be opened.
const MAX_PENDING: usize = 8;

/// Translates between OpenSSL and a peer that may use connection IDs.
pub(super) struct Translation {
    /// The connection ID that we asked for.
    own: Box<[u8]>,
    /// Records with our connection ID that could not be opened yet.
    pending: VecDeque<Box<[u8]>>,
    ciphers: Option<Ciphers>,
}

/// A record with our connection ID after its translation.
pub(super) enum Translated {
    /// A handshake message, as an ordinary record.
    Handshake(Vec<u8>),
    /// Another record, unchanged; only the open session can read it.
    Other(Box<[u8]>),
    /// A record that is not authentic.
    Forged,
}

impl Translation {
    /// Makes a translation for the connection ID that we asked for.
    pub(super) fn new(own: Box<[u8]>) -> Self {
        Self { own, pending: VecDeque::new(), ciphers: None }
    }

    /// Returns the length of the connection ID in the peer's records.
    pub(super) fn cid_len(&self) -> usize {
        self.own.len()
    }

    /// Keeps a record of the peer that has a connection ID. Returns `false` if the ID is not ours, or if too many
    /// records are kept.
    pub(super) fn keep(&mut self, cid: &[u8], record: &[u8]) -> bool {
        let keeps = !cid.is_empty() && cid == &*self.own && self.pending.len() < MAX_PENDING;
        if keeps {
            self.pending.push_back(record.into());
        }
        keeps
    }

    /// Translates the next kept record; returns `None` if there is none, or no key yet.
    pub(super) fn next(&mut self, ssl: &SslRef) -> Option<Translated> {
        if self.pending.is_empty() || agreed(ssl).is_none() {
            return None;
        }
        // Until a record has been opened, these keys may be premature.
        let mut ciphers = match self.ciphers.take() {
            Some(ciphers) => ciphers,
            None => Ciphers::of(ssl)?,
        };
        let kept = self.pending.pop_front()?;
        let translated = ciphers.incoming(&self.own, &kept);
        if translated.is_some() {
            self.ciphers = Some(ciphers);
        }
        Some(match translated {
            Some(Some(record)) => Translated::Handshake(record),
            Some(None) => Translated::Other(kept),
            None => Translated::Forged,
        })
    }

    /// Returns the records that were not translated.
    pub(super) fn into_pending(self) -> VecDeque<Box<[u8]>> {
        self.pending
    }

    /// Translates a datagram of OpenSSL into one datagram, or into several if it would exceed `mtu`.
    pub(super) fn outgoing(&mut self, ssl: &SslRef, datagram: Vec<u8>, mtu: usize) -> Vec<Vec<u8>> {
        let peer = agreed(ssl).map(|agreed| agreed.peer).filter(|peer| !peer.is_empty());
        let (Some(peer), true) = (peer, has_ciphertext(&datagram)) else { return vec![datagram] };
        // OpenSSL has sealed a record, so these are the session's keys.
        if self.ciphers.is_none() {
            self.ciphers = Ciphers::of(ssl);
        }
        let Some(ciphers) = &mut self.ciphers else { return Vec::new() };
        let (mut datagrams, mut rest) = (vec![Vec::new()], &datagram[..]);
        while let Ok((record, behind)) = Record::split(rest) {
            let mut bytes = rest[..record.wire_len()].to_vec();
            if record.epoch != 0 {
                // Without memory the record is dropped, as if it had been lost.
                bytes = ciphers.outgoing(peer, &record).unwrap_or_default();
            }
            match datagrams.last_mut() {
                Some(last) if last.is_empty() || last.len() + bytes.len() <= mtu => last.extend(bytes),
                _ => datagrams.push(bytes),
            }
            rest = behind;
        }
        datagrams.retain(|datagram| !datagram.is_empty());
        datagrams
    }
}

/// Returns whether a datagram has a record of the epoch after the handshake's.
fn has_ciphertext(datagram: &[u8]) -> bool {
    let mut rest = datagram;
    while let Ok((record, behind)) = Record::split(rest) {
        if record.epoch != 0 {
            return true;
        }
        rest = behind;
    }
    false
}

/// The ciphers of both directions, each for opening and for sealing.
struct Ciphers {
    ours: Pair,
    theirs: Pair,
}

struct Pair {
    open: Protection,
    seal: Protection,
}

impl Pair {
    fn new(aead: Aead, keys: &DirectionKeys) -> Self {
        Self { open: Protection::to_open(aead, keys), seal: Protection::to_seal(aead, keys) }
    }

    /// Opens a record with one connection ID and seals its content with the other. Returns its content type and the new
    /// record.
    fn reseal(&mut self, record: &Record<'_>, cid: &[u8]) -> Option<(u8, Vec<u8>)> {
        let aead = self.open.aead();
        if record.body.len() < aead.overhead() {
            return None;
        }
        let explicit = record.body[..aead.explicit_nonce_len()].iter();
        let explicit = explicit.fold(0, |number, byte| number << 8 | u64::from(*byte));
        let mut body = record.body.to_vec();
        let opened = self.open.open(record.content_type, record.sequence, record.cid, &mut body).ok()?;
        let (content, Some(kind)) = opened else { return None };
        let header = Header { kind, sequence: record.sequence, explicit, cid };
        let mut resealed = Vec::with_capacity(RECORD_HEADER_LEN + cid.len() + record.body.len() + 1);
        self.seal.seal(header, body.get(content)?, &mut resealed).ok()?;
        Some((kind, resealed))
    }
}

impl Ciphers {
    /// Returns the ciphers; `None` before OpenSSL has derived the keys, or if the record layer does not support the
    /// suite.
    fn of(ssl: &SslRef) -> Option<Self> {
        let aead = Aead::of_suite(ssl.current_cipher()?.name())?;
        let (client, server) = Secrets::of(ssl)?.key_block(aead);
        let (ours, theirs) = if ssl.is_server() { (server, client) } else { (client, server) };
        Some(Self { ours: Pair::new(aead, &ours), theirs: Pair::new(aead, &theirs) })
    }

    /// Translates a record of the peer. Returns `None` if it is not authentic, and `Some(None)` if it is not a
    /// handshake record.
    fn incoming(&mut self, own: &[u8], record: &[u8]) -> Option<Option<Vec<u8>>> {
        let (record, _) = Record::split_with(record, own.len()).ok()?;
        let (kind, resealed) = self.theirs.reseal(&record, &[])?;
        Some((kind == HANDSHAKE).then_some(resealed))
    }

    fn outgoing(&mut self, peer: &[u8], record: &Record<'_>) -> Option<Vec<u8>> {
        Some(self.ours.reseal(record, peer)?.1)
    }
}

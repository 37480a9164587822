//! Reassembles a ClientHello from fragments (RFC 6347 §4.2.3), regardless of how they are packed into records and
//! datagrams.
//!
//! Memory is allocated only for a client whose address is proven, because the cookie is in the first fragment. OpenSSL
//! gets the complete message in one record, since `DTLSv1_listen` reads one record and drops the rest of the datagram.

use std::ops::Range;

use super::cookie::AddressProven;
use super::hello::{ClientHello, HANDSHAKE, HANDSHAKE_HEADER_LEN, RECORD_HEADER_LEN, fragments};

/// Maximum number of gaps between received fragments. A fragment that would create more is dropped, and the client
/// retransmits it.
const MAX_GAPS: usize = 64;

/// A ClientHello of which at least the first fragment has arrived.
pub struct HelloAssembly {
    record_version: u16,
    record_sequence: u64,
    message_sequence: u16,
    message: Vec<u8>,
    /// The ranges that have not arrived yet, in order.
    missing: Vec<Range<usize>>,
}

impl HelloAssembly {
    /// Begins with the datagram that has the first fragment; returns `None` if it has none.
    pub fn begin(datagram: &[u8]) -> Option<Self> {
        let (record, first) = fragments(datagram).find(|(_, fragment)| fragment.offset == 0)?;
        let mut assembly = Self {
            record_version: record.version,
            record_sequence: record.sequence,
            message_sequence: first.message_sequence,
            message: vec![0; first.message_len],
            missing: std::iter::once(0..first.message_len).collect(),
        };
        assembly.add(datagram);
        Some(assembly)
    }

    /// Adds the fragments of this message in a further datagram. Bytes that have already arrived are not overwritten.
    pub fn add(&mut self, datagram: &[u8]) {
        for (_, fragment) in fragments(datagram) {
            let is_ours = fragment.message_sequence == self.message_sequence
                && fragment.message_len == self.message.len();
            if is_ours {
                self.fill(fragment.offset, fragment.body);
            }
        }
    }

    fn fill(&mut self, offset: usize, body: &[u8]) {
        let end = offset + body.len();
        let mut missing = Vec::with_capacity(self.missing.len() + 1);
        for gap in &self.missing {
            let (from, to) = (gap.start.max(offset), gap.end.min(end));
            if from >= to {
                missing.push(gap.clone());
                continue;
            }
            missing.extend([gap.start..from, to..gap.end].into_iter().filter(|rest| !rest.is_empty()));
        }
        if missing.len() > MAX_GAPS {
            return;
        }
        for gap in std::mem::replace(&mut self.missing, missing) {
            let (from, to) = (gap.start.max(offset), gap.end.min(end));
            if from < to {
                self.message[from..to].copy_from_slice(&body[from - offset..to - offset]);
            }
        }
    }

    /// Returns the sequence number of the record with the first fragment.
    pub fn record_sequence(&self) -> u64 {
        self.record_sequence
    }

    /// Returns whether the complete message has arrived.
    pub fn is_whole(&self) -> bool {
        self.missing.is_empty()
    }

    /// Returns the unfragmented message in one record, with the sequence number of the record with the first fragment.
    /// The Finished messages are computed over this form (RFC 6347 §4.2.6).
    pub fn record(&self) -> Vec<u8> {
        const CLIENT_HELLO: u8 = 1;
        let len = self.message.len();
        let mut record = Vec::with_capacity(RECORD_HEADER_LEN + HANDSHAKE_HEADER_LEN + len);
        record.push(HANDSHAKE);
        record.extend_from_slice(&self.record_version.to_be_bytes());
        // Epoch 0 and a sequence number of 48 bits.
        record.extend_from_slice(&self.record_sequence.to_be_bytes());
        // The message fits into a record because of `MAX_HELLO_LEN`.
        record.extend_from_slice(&((len + HANDSHAKE_HEADER_LEN) as u16).to_be_bytes());
        let length = &(len as u32).to_be_bytes()[1..];
        record.push(CLIENT_HELLO);
        record.extend_from_slice(length);
        record.extend_from_slice(&self.message_sequence.to_be_bytes());
        record.extend_from_slice(&[0; 3]);
        record.extend_from_slice(length);
        record.extend_from_slice(&self.message);
        record
    }
}

/// A ClientHello whose sender has proven its address; only a verified cookie makes one. Fragments of it may still be
/// missing.
pub(crate) struct VerifiedHello {
    pub(super) assembly: HelloAssembly,
    random: [u8; 32],
}

impl VerifiedHello {
    /// Makes one from a hello that was parsed from this datagram. `_proof` is what
    /// [`CookieJar::verify`](super::cookie::CookieJar::verify) returned for it. Returns `None` if the datagram does not
    /// contain the hello.
    pub(crate) fn new(datagram: &[u8], hello: &ClientHello<'_>, _proof: AddressProven) -> Option<Self> {
        Some(Self { assembly: HelloAssembly::begin(datagram)?, random: *hello.random })
    }

    /// Returns the hello's random.
    pub(crate) fn random(&self) -> [u8; 32] {
        self.random
    }

    /// Returns the sequence number of its record.
    pub(crate) fn record_sequence(&self) -> u64 {
        self.assembly.record_sequence()
    }

    /// Returns whether no fragment of the hello is missing.
    pub(crate) fn is_whole(&self) -> bool {
        self.assembly.is_whole()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::dtls::hello::samples::{hello, hello_fragment, hello_message};
    use crate::protocol::sctp::simulation::Rng;

    #[test]
    fn any_cut_into_fragments_gives_the_message_back() {
        let whole = hello(&[9; 32]);
        let message = hello_message(&[9; 32]);
        for seed in 0..2000 {
            let mut rng = Rng::new(seed);
            let mut cuts: Vec<usize> =
                (0..rng.below(8)).map(|_| rng.below(message.len() as u64 + 1) as usize).collect();
            cuts.extend([0, message.len()]);
            cuts.sort_unstable();
            let mut pieces: Vec<_> =
                cuts.windows(2).map(|cut| hello_fragment(&message, cut[0]..cut[1])).collect();
            // Overlapping ones, which say the same.
            for _ in 0..rng.below(3) {
                let start = rng.below(message.len() as u64) as usize;
                let end = start + rng.below((message.len() - start) as u64 + 1) as usize;
                pieces.push(hello_fragment(&message, start..end));
            }
            let mut datagrams = vec![pieces.remove(0)];
            while !pieces.is_empty() {
                let piece = pieces.swap_remove(rng.below(pieces.len() as u64) as usize);
                match rng.below(2) {
                    0 => datagrams.push(piece),
                    _ => datagrams.last_mut().unwrap().extend(piece),
                }
            }
            let mut assembly = HelloAssembly::begin(&datagrams[0]).unwrap();
            datagrams[1..].iter().for_each(|datagram| assembly.add(datagram));
            assert!(assembly.is_whole(), "{seed}");
            assert_eq!(assembly.record(), whole, "{seed}");
        }
    }

    #[test]
    fn fragments_of_another_message_change_nothing() {
        let message = hello_message(&[9; 32]);
        let mut assembly = HelloAssembly::begin(&hello_fragment(&message, 0..60)).unwrap();
        let mut longer = message.clone();
        longer.push(0);
        assembly.add(&hello_fragment(&longer, 60..longer.len()));
        let mut another_number = hello_fragment(&message, 60..message.len());
        another_number[RECORD_HEADER_LEN + 5] ^= 1;
        assembly.add(&another_number);
        assert!(!assembly.is_whole());
        assembly.add(&hello_fragment(&message, 60..message.len()));
        assert_eq!(assembly.record(), hello(&[9; 32]));
    }

    #[test]
    fn a_later_fragment_begins_nothing() {
        let message = hello_message(&[]);
        assert!(HelloAssembly::begin(&hello_fragment(&message, 1..message.len())).is_none());
    }

    #[test]
    fn the_number_of_gaps_is_bounded() {
        let message = vec![0; 1000];
        let mut assembly = HelloAssembly::begin(&hello_fragment(&message, 0..1)).unwrap();
        for at in (2..1000).step_by(2) {
            assembly.add(&hello_fragment(&message, at..at + 1));
        }
        assert!(assembly.missing.len() <= MAX_GAPS);
        assembly.add(&hello_fragment(&message, 0..1000));
        assert!(assembly.is_whole());
    }
}

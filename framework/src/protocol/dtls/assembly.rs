//! Puts a ClientHello together that comes in fragments (RFC 6347 §4.2.3), however they are packed into records and datagrams.
//!
//! Memory is kept only for a client whose address is proven: the cookie stands in the first fragment. OpenSSL gets the whole
//! message in one record, because `DTLSv1_listen` takes one record and drops the rest of the datagram.

use std::ops::Range;

use super::cookie::AddressProven;
use super::hello::{ClientHello, HANDSHAKE, HANDSHAKE_HEADER_LEN, RECORD_HEADER_LEN, fragments};

/// Gaps between the fragments that came so far, at most. A fragment that would make more is dropped, and comes again.
const MAX_GAPS: usize = 64;

/// A ClientHello of which at least the first fragment has come.
pub struct HelloAssembly {
    record_version: u16,
    record_sequence: u64,
    message_sequence: u16,
    message: Vec<u8>,
    /// What has not come yet, in order.
    missing: Vec<Range<usize>>,
}

impl HelloAssembly {
    /// Begins with the datagram that has the first fragment; `None` where it has none.
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

    /// Takes the fragments of this message in a further datagram. What is there stays as it came first.
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

    /// The number of the record that the first fragment came in.
    pub fn record_sequence(&self) -> u64 {
        self.record_sequence
    }

    /// Whether all of the message has come.
    pub fn is_whole(&self) -> bool {
        self.missing.is_empty()
    }

    /// The message unfragmented, in one record with the number of the one that its first fragment came in. The Finished
    /// messages are computed over this form (RFC 6347 §4.2.6).
    pub fn record(&self) -> Vec<u8> {
        const CLIENT_HELLO: u8 = 1;
        let len = self.message.len();
        let mut record = Vec::with_capacity(RECORD_HEADER_LEN + HANDSHAKE_HEADER_LEN + len);
        record.push(HANDSHAKE);
        record.extend_from_slice(&self.record_version.to_be_bytes());
        // Epoch 0, and 48 bits of sequence number.
        record.extend_from_slice(&self.record_sequence.to_be_bytes());
        // A message fits into a record: `MAX_HELLO_LEN`.
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

/// A ClientHello whose sender proved its address; only a verified cookie makes one. Fragments of it may still be missing.
pub(crate) struct VerifiedHello {
    pub(super) assembly: HelloAssembly,
    random: [u8; 32],
}

impl VerifiedHello {
    /// The proof is what [`CookieJar::verify`](super::cookie::CookieJar::verify) gave for this hello, which was
    /// parsed from this datagram. `None` where it was not.
    pub(crate) fn new(datagram: &[u8], hello: &ClientHello<'_>, _proof: AddressProven) -> Option<Self> {
        Some(Self { assembly: HelloAssembly::begin(datagram)?, random: *hello.random })
    }

    /// The hello's random.
    pub(crate) fn random(&self) -> [u8; 32] {
        self.random
    }

    /// The number of its record.
    pub(crate) fn record_sequence(&self) -> u64 {
        self.assembly.record_sequence()
    }

    /// Whether no fragment of the hello is to follow.
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

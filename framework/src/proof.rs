//! Whether a peer on plain UDP is where its datagrams say, and how much it may be sent before that is known.
//!
//! Whoever can forge a source address makes a server send to a third party. So until the peer has returned a token that
//! was sent to its address, all datagrams to it together are at most three times as long as those from it, with their
//! headers (RFC 8085 §3.1; RFC 9000 §8 does the same for QUIC).

use std::fmt;

use crate::sys::sync::atomic::{AtomicBool, Ordering};

/// How many times as much may go as came.
const FACTOR: u64 = 3;

/// Random bytes of a token, which has two characters for each.
const RANDOM: usize = 6;

/// The token of one peer, and whether it came back.
pub(crate) struct Proof {
    token: String,
    given: AtomicBool,
}

impl Proof {
    /// A token from OpenSSL's random source. Where that fails, none is ever right.
    pub(crate) fn new() -> Self {
        let mut random = [0; RANDOM];
        let drawn = openssl::rand::rand_bytes(&mut random).is_ok();
        let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { token: if drawn { hex } else { String::new() }, given: AtomicBool::new(false) }
    }

    /// Goes on from another process, which asked for this token.
    pub(crate) fn resumed(token: String, given: bool) -> Self {
        Self { token, given: AtomicBool::new(given) }
    }

    /// The token, and whether it came back.
    pub(crate) fn state(&self) -> (&str, bool) {
        (&self.token, self.given.load(Ordering::Relaxed))
    }

    /// The token, until it came back.
    pub(crate) fn token(&self) -> Option<&str> {
        (!self.given.load(Ordering::Relaxed)).then_some(&*self.token)
    }

    /// Takes note of a message: the proof is given if it ends with the token, white space aside. A source that sends everything
    /// back (an echo service, whose address was forged) would return a question that has the token further in front.
    pub(crate) fn hear(&self, message: &[u8]) {
        let Some(token) = self.token() else { return };
        if !token.is_empty() && message.trim_ascii_end().ends_with(token.as_bytes()) {
            self.given.store(true, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proof").field("given", &self.given).finish_non_exhaustive()
    }
}

/// Datagrams in one direction.
#[derive(Clone, Copy)]
pub(crate) struct Traffic {
    pub(crate) datagrams: u64,
    pub(crate) bytes: u64,
}

/// Whether a datagram of `len` bytes may follow what was sent, where so much came. `headers`: bytes of the headers of IP
/// and UDP.
pub(crate) fn allows(came: Traffic, sent: Traffic, len: usize, headers: u64) -> bool {
    let after = sent.bytes + len as u64 + (sent.datagrams + 1) * headers;
    after <= FACTOR * (came.bytes + came.datagrams * headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_times_as_much_may_go_as_came_and_no_byte_more() {
        let traffic = |datagrams, bytes| Traffic { datagrams, bytes };
        for (came, sent, most) in [
            (traffic(1, 0), traffic(0, 0), 56),
            (traffic(1, 100), traffic(0, 0), 356),
            (traffic(1, 100), traffic(2, 200), 100),
            (traffic(2, 10), traffic(5, 0), 30),
        ] {
            assert!(allows(came, sent, most, 28), "{most}");
            assert!(!allows(came, sent, most + 1, 28), "{most}");
        }
        assert!(!allows(traffic(0, 0), traffic(0, 0), 0, 28));
    }

    #[test]
    fn only_the_token_is_a_proof() {
        let (proof, other) = (Proof::new(), Proof::new());
        let token = proof.token().unwrap().to_owned();
        assert_eq!(token.len(), 2 * RANDOM);
        let question = format!("* type /here {token} to come in\n");
        for wrong in ["", &token[1..], other.token().unwrap(), &question] {
            proof.hear(wrong.as_bytes());
            assert_eq!(proof.token(), Some(&*token), "{wrong}");
        }
        proof.hear(format!("/here {token}\n").as_bytes());
        assert_eq!(proof.token(), None);
    }
}

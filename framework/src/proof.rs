//! Proof that a peer on plain UDP owns its source address, and the limit on what it may be sent before that.
//!
//! Anyone who can forge a source address can make a server send to a third party. So until the peer has returned a
//! token that was sent to its address, all datagrams to it together may be at most three times as long as those from
//! it, including headers (RFC 8085 §3.1; RFC 9000 §8 does the same for QUIC).

use std::fmt;

use crate::sys::sync::atomic::{AtomicBool, Ordering};

/// How many times the received bytes may be sent.
const FACTOR: u64 = 3;

/// Random bytes of a token, each written as two characters.
const RANDOM: usize = 6;

/// The token of one peer, and whether the peer has returned it.
pub(crate) struct Proof {
    token: String,
    proven: AtomicBool,
}

impl Proof {
    /// Makes a token from OpenSSL's random source. If that fails, no token is ever accepted.
    pub(crate) fn new() -> Self {
        let mut random = [0; RANDOM];
        let drawn = openssl::rand::rand_bytes(&mut random).is_ok();
        let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { token: if drawn { hex } else { String::new() }, proven: AtomicBool::new(false) }
    }

    /// Restores a proof that another process requested.
    pub(crate) fn resumed(token: String, proven: bool) -> Self {
        Self { token, proven: AtomicBool::new(proven) }
    }

    /// Returns the token, and whether the peer has returned it.
    pub(crate) fn state(&self) -> (&str, bool) {
        (&self.token, self.proven.load(Ordering::Relaxed))
    }

    /// Returns the token until the peer has returned it.
    pub(crate) fn token(&self) -> Option<&str> {
        (!self.proven.load(Ordering::Relaxed)).then_some(&*self.token)
    }

    /// Checks a message of the peer: the proof is complete if the message ends with the token, ignoring white space. A
    /// victim that echoes everything (an echo service whose address was forged) would return a request that has the
    /// token further in front, so it does not pass.
    pub(crate) fn check_message(&self, message: &[u8]) {
        let Some(token) = self.token() else { return };
        if !token.is_empty() && message.trim_ascii_end().ends_with(token.as_bytes()) {
            self.proven.store(true, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proof").field("proven", &self.proven).finish_non_exhaustive()
    }
}

/// The traffic in one direction.
#[derive(Clone, Copy)]
pub(crate) struct Traffic {
    pub(crate) datagrams: u64,
    pub(crate) bytes: u64,
}

/// Returns whether a datagram of `len` bytes may follow the traffic `sent`, given the traffic that `came`. `headers` is
/// the length of the IP and UDP headers in bytes.
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
            proof.check_message(wrong.as_bytes());
            assert_eq!(proof.token(), Some(&*token), "{wrong}");
        }
        proof.check_message(format!("/here {token}\n").as_bytes());
        assert_eq!(proof.token(), None);
    }
}

//! Notices that an SCTP peer acknowledges nothing though it answers heartbeats: its program does not read, or
//! its kernel throws away what comes (a wrong key of SCTP-AUTH). Linux retransmits for ever then.
//!
//! Looked at only while something is under way, a few times in the bound.

use std::time::{Duration, Instant};

/// What is known of an association's progress.
#[derive(Debug)]
pub(crate) struct Stall {
    bound: Duration,
    /// When to look next; `None` while nothing was sent since everything was acknowledged.
    next: Option<Instant>,
    /// Messages that had been sent when everything was acknowledged.
    sent: u64,
    /// Chunks that were acknowledged when that number changed last, and when it did.
    acknowledged: Option<(u64, Instant)>,
}

/// Looks in one bound.
const LOOKS: u32 = 4;

impl Stall {
    /// Without acknowledgement for `bound` an association is over.
    pub(crate) fn new(bound: Duration) -> Self {
        // Looked at once in any case: the end of a handshake may be under way.
        Self { bound, next: None, sent: u64::MAX, acknowledged: None }
    }

    /// When to [look](Self::look), if so many messages have been sent.
    pub(crate) fn deadline(&mut self, sent: u64, now: Instant) -> Option<Instant> {
        if self.next.is_none() && sent != self.sent {
            self.next = now.checked_add(self.bound / LOOKS);
        }
        self.next
    }

    /// `sent` messages, of which so many chunks are acknowledged and so many are not. `true`: nothing was
    /// acknowledged for the bound.
    pub(crate) fn look(&mut self, sent: u64, acknowledged: u64, unacknowledged: u64, now: Instant) -> bool {
        self.next = None;
        if unacknowledged == 0 {
            self.sent = sent;
            self.acknowledged = None;
            return false;
        }
        self.next = now.checked_add(self.bound / LOOKS);
        match self.acknowledged {
            Some((before, since)) if before == acknowledged => now.duration_since(since) >= self.bound,
            _ => {
                self.acknowledged = Some((acknowledged, now));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_secs(8);

    #[test]
    fn a_quiet_association_is_not_looked_at() {
        let (mut stall, now) = (Stall::new(BOUND), Instant::now());
        assert_eq!(stall.deadline(0, now), Some(now + BOUND / 4));
        assert!(!stall.look(0, 1, 0, now + BOUND / 4));
        assert_eq!(stall.deadline(0, now + BOUND), None);
        assert_eq!(stall.deadline(1, now + BOUND), Some(now + BOUND + BOUND / 4));
    }

    #[test]
    fn an_association_without_progress_is_over_after_the_bound_and_one_with_some_is_not() {
        let (mut stall, start) = (Stall::new(BOUND), Instant::now());
        let at = |quarters: u32| start + BOUND / 4 * quarters;
        assert!(!stall.look(9, 5, 4, at(1)));
        assert!(!stall.look(9, 5, 4, at(4)));
        assert!(!stall.look(9, 6, 3, at(5)));
        assert!(!stall.look(9, 6, 3, at(8)));
        assert!(stall.look(9, 6, 3, at(9)));
    }
}

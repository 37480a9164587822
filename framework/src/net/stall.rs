//! Detects an SCTP peer that acknowledges no data although it answers heartbeats: its program does not read, or its
//! kernel discards the data (because of a wrong SCTP-AUTH key). Linux would retransmit forever.
//!
//! Checked only while data is unacknowledged, a few times within the time limit.

use std::time::{Duration, Instant};

/// The progress of an association.
#[derive(Debug)]
pub(crate) struct Stall {
    bound: Duration,
    /// When to check next; `None` while nothing has been sent since everything was acknowledged.
    next: Option<Instant>,
    /// The number of messages that had been sent when everything was acknowledged.
    sent: u64,
    /// The number of acknowledged chunks at its last change, and when that was.
    acknowledged: Option<(u64, Instant)>,
}

/// Number of checks within the time limit.
const CHECKS: u32 = 4;

impl Stall {
    /// Makes the state of an association that ends after `bound` without an acknowledgement.
    pub(crate) fn new(bound: Duration) -> Self {
        // The first check is made in any case, because the end of a handshake may be unacknowledged.
        Self { bound, next: None, sent: u64::MAX, acknowledged: None }
    }

    /// Returns when to [check](Self::check), given that `sent` messages have been sent.
    pub(crate) fn deadline(&mut self, sent: u64, now: Instant) -> Option<Instant> {
        if self.next.is_none() && sent != self.sent {
            self.next = now.checked_add(self.bound / CHECKS);
        }
        self.next
    }

    /// Checks the progress after `sent` messages, with these numbers of acknowledged and unacknowledged chunks. Returns
    /// `true` if nothing was acknowledged within the time limit.
    pub(crate) fn check(&mut self, sent: u64, acknowledged: u64, unacknowledged: u64, now: Instant) -> bool {
        self.next = None;
        if unacknowledged == 0 {
            self.sent = sent;
            self.acknowledged = None;
            return false;
        }
        self.next = now.checked_add(self.bound / CHECKS);
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
    fn a_quiet_association_is_not_checked() {
        let (mut stall, now) = (Stall::new(BOUND), Instant::now());
        assert_eq!(stall.deadline(0, now), Some(now + BOUND / 4));
        assert!(!stall.check(0, 1, 0, now + BOUND / 4));
        assert_eq!(stall.deadline(0, now + BOUND), None);
        assert_eq!(stall.deadline(1, now + BOUND), Some(now + BOUND + BOUND / 4));
    }

    #[test]
    fn an_association_without_progress_is_over_after_the_bound_and_one_with_some_is_not() {
        let (mut stall, start) = (Stall::new(BOUND), Instant::now());
        let at = |quarters: u32| start + BOUND / 4 * quarters;
        assert!(!stall.check(9, 5, 4, at(1)));
        assert!(!stall.check(9, 5, 4, at(4)));
        assert!(!stall.check(9, 6, 3, at(5)));
        assert!(!stall.check(9, 6, 3, at(8)));
        assert!(stall.check(9, 6, 3, at(9)));
    }
}

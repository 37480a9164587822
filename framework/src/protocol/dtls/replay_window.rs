//! The sliding window that detects replayed records (RFC 6347 §4.1.2.6).

use crate::codec::{Malformed, Reader, Writer};

/// Remembers which of the last [`WIDTH`](Self::WIDTH) sequence numbers have arrived.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayWindow {
    /// The highest sequence number that has arrived, plus one; 0 before the first.
    next: u64,
    /// Bit `n` stands for the number `next - 1 - n`.
    arrived: u128,
}

impl ReplayWindow {
    /// How far behind the newest record a record may be and still be accepted: twice the minimum of RFC 6347 §4.1.2.6,
    /// because paths over several links reorder more than a few packets.
    pub const WIDTH: u64 = 128;

    /// Writes the state for another process.
    pub(super) fn save(&self, out: &mut Writer) {
        out.u64(self.next);
        out.u128(self.arrived);
    }

    /// Reads what [`save`](Self::save) wrote.
    pub(super) fn restore(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { next: from.u64()?, arrived: from.u128()? })
    }

    /// Returns whether a record with this number may be new. A number older than the window is not, because nothing is
    /// known about it.
    pub fn is_new(&self, sequence: u64) -> bool {
        match self.next.checked_sub(sequence + 1) {
            None => true,
            Some(behind) if behind < Self::WIDTH => self.arrived & (1 << behind) == 0,
            Some(_) => false,
        }
    }

    /// Notes that the record with this number has arrived. Call it only after the record has been authenticated;
    /// otherwise an attacker could move the window past the peer's records. Returns whether it is the newest record so
    /// far.
    pub fn insert(&mut self, sequence: u64) -> bool {
        match (sequence + 1).checked_sub(self.next) {
            Some(ahead) if ahead > 0 => {
                self.arrived = match u32::try_from(ahead) {
                    Ok(ahead) => self.arrived.checked_shl(ahead).unwrap_or(0) | 1,
                    Err(_) => 1,
                };
                self.next = sequence + 1;
                true
            }
            _ => {
                let behind = self.next - 1 - sequence;
                if behind < Self::WIDTH {
                    self.arrived |= 1 << behind;
                }
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// What RFC 6347 §4.1.2.6 describes, without arithmetic on bits.
    #[derive(Default)]
    struct Model {
        arrived: BTreeSet<u64>,
    }

    impl Model {
        fn is_new(&self, sequence: u64) -> bool {
            let too_old = self.arrived.last().is_some_and(|newest| newest.saturating_sub(sequence) >= 128);
            !too_old && !self.arrived.contains(&sequence)
        }
    }

    proptest! {
        #[test]
        fn the_window_agrees_with_a_set_of_numbers(
            start in prop_oneof![Just(0), 0..1_u64 << 47],
            steps in prop::collection::vec(prop_oneof![8 => 0..200_u64, 1 => 0..1_u64 << 40], 1..400),
        ) {
            let (mut window, mut model) = (ReplayWindow::default(), Model::default());
            let mut base = start;
            for step in steps {
                // A walk that moves forward slowly, jumps now and then, and looks back a lot.
                let sequence = base.saturating_sub(100) + step;
                prop_assert_eq!(window.is_new(sequence), model.is_new(sequence), "{}", sequence);
                if window.is_new(sequence) {
                    let newest = model.arrived.last().is_none_or(|newest| sequence > *newest);
                    prop_assert_eq!(window.insert(sequence), newest, "{}", sequence);
                    model.arrived.insert(sequence);
                }
                prop_assert!(!window.is_new(sequence));
                base = base.max(sequence);
            }
        }
    }

    #[test]
    fn the_edge_of_the_window_is_exact() {
        let mut window = ReplayWindow::default();
        window.insert(1000);
        assert!(!window.is_new(1000));
        assert!(window.is_new(1000 - 127));
        assert!(!window.is_new(1000 - 128));
        window.insert(1000 - 127);
        assert!(!window.is_new(1000 - 127));
        window.insert(1001);
        assert!(!window.is_new(1000 - 127));
        assert!(window.is_new(1000 - 126));
    }

    #[test]
    fn the_first_and_the_last_number_are_accepted_once() {
        let mut window = ReplayWindow::default();
        let last = (1 << 48) - 1;
        for sequence in [0, last] {
            assert!(window.is_new(sequence));
            window.insert(sequence);
            assert!(!window.is_new(sequence));
        }
        assert!(!window.is_new(0));
    }
}

//! Rate limits for new peers: token buckets in constant memory, selected by a keyed hash.

use std::fmt;
use std::hash::BuildHasher;
#[allow(deprecated, reason = "the only hasher of the standard library that takes a key")]
use std::hash::SipHasher;
use std::time::{Duration, Instant};

use super::Prefix;

/// The rate of new peers of each prefix, in constant memory: [`SLOTS`](Self::SLOTS) numbers of 8 bytes, 32 KiB,
/// regardless of the number of prefixes.
///
/// Each number is a token bucket, stored as the time at which it will be full again. (This is the virtual scheduling
/// algorithm of ITU-T I.371, also called GCRA: one integer per bucket, and no accumulating rounding error.) A prefix
/// has *two* slots, chosen by a keyed hash. A peer is admitted if the fuller bucket allows it, and both are charged.
///
/// * Every admission is charged to both slots, so neither is ever fuller than a bucket of the prefix's own would be:
///   **no prefix exceeds its burst and its rate**, regardless of which prefixes share its slots.
/// * Sharing can only make the limit stricter, and does so only if *both* slots are exhausted by others: with 40 such
///   prefixes at once, for one innocent prefix in 2,600. The key is secret, so an attacker cannot aim.
/// * Exhausting all slots takes a flood from thousands of networks: forged sources on plain UDP, or a botnet. New peers
///   from all networks are then delayed, and live peers are not affected.
pub struct RateTable {
    /// For each bucket, the time in nanoseconds after `start` at which it is full.
    full_at: Box<[u64; RateTable::SLOTS]>,
    start: Option<Instant>,
    rate: Rate,
    key: HashKey,
}

impl RateTable {
    /// The number of buckets.
    pub const SLOTS: usize = 4096;

    /// Returns a table of full buckets, which hold `burst` tokens and gain `per_second`. If either is 0, no peer is
    /// admitted; `u32::MAX` per second means no limit.
    pub fn new(per_second: u32, burst: u32, key: (u64, u64)) -> RateTable {
        RateTable {
            full_at: Box::new([0; RateTable::SLOTS]),
            start: None,
            rate: Rate::new(per_second, burst),
            key: HashKey(key.0, key.1),
        }
    }

    /// Changes the rate. If it differs from the previous one, all buckets become full.
    pub fn set_rate(&mut self, per_second: u32, burst: u32) {
        let rate = Rate::new(per_second, burst);
        if rate != self.rate {
            self.rate = rate;
            self.full_at.fill(0);
        }
    }

    /// Returns whether a peer of `prefix` may be admitted at `now`; if so, charges it.
    pub fn allow(&mut self, prefix: Prefix, now: Instant) -> bool {
        let Rate::Limited { interval, depth } = self.rate else {
            return true;
        };
        let now = nanos(now.saturating_duration_since(*self.start.get_or_insert(now)));
        let hash = self.key.hash_one(prefix) as usize;
        let slots = [hash % Self::SLOTS, hash / Self::SLOTS % Self::SLOTS];
        let fuller = slots.map(|slot| self.full_at[slot]).into_iter().min().unwrap_or(0);
        let charged = fuller.max(now).saturating_add(interval);
        if charged - now > depth {
            return false;
        }
        for slot in slots {
            self.full_at[slot] = self.full_at[slot].max(charged);
        }
        true
    }
}

impl fmt::Debug for RateTable {
    /// Omits the slots and the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateTable").field("rate", &self.rate).finish_non_exhaustive()
    }
}

/// The parameters of a bucket, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rate {
    Unlimited,
    Limited {
        /// Time until the next token.
        interval: u64,
        /// Time until an empty bucket is full. Less than an interval if the bucket holds no token; at most 136 years.
        depth: u64,
    },
}

impl Rate {
    fn new(per_second: u32, burst: u32) -> Rate {
        match (per_second, burst) {
            (0, _) | (_, 0) => Rate::Limited { interval: 1, depth: 0 },
            (u32::MAX, _) => Rate::Unlimited,
            _ => {
                // Rounded up, so the rate is never exceeded.
                let interval = 1_000_000_000_u64.div_ceil(per_second.into());
                Rate::Limited { interval, depth: interval * u64::from(burst) }
            }
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// SipHash with a key from the caller, like `RandomState` without its own random source.
#[derive(Clone, Copy)]
pub(super) struct HashKey(pub(super) u64, pub(super) u64);

#[allow(deprecated, reason = "see the import")]
impl BuildHasher for HashKey {
    type Hasher = SipHasher;

    fn build_hasher(&self) -> SipHasher {
        SipHasher::new_with_keys(self.0, self.1)
    }
}

impl fmt::Debug for HashKey {
    /// Omits the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn prefix(number: u32) -> Prefix {
        Prefix::network(Ipv4Addr::from_bits(number << 8).into())
    }

    /// How many of `attempts` the prefix gets through at `now`.
    fn admitted(table: &mut RateTable, prefix: Prefix, now: Instant, attempts: usize) -> usize {
        (0..attempts).filter(|_| table.allow(prefix, now)).count()
    }

    #[test]
    fn the_burst_comes_at_once_and_then_the_rate() {
        let mut table = RateTable::new(10, 20, (1, 2));
        let start = Instant::now();
        assert_eq!(admitted(&mut table, prefix(1), start, 50), 20);
        assert_eq!(admitted(&mut table, prefix(1), start + Duration::from_millis(99), 50), 0);
        assert_eq!(admitted(&mut table, prefix(1), start + Duration::from_millis(100), 50), 1);
        assert_eq!(admitted(&mut table, prefix(1), start + Duration::from_millis(600), 50), 5);
        assert_eq!(admitted(&mut table, prefix(1), start + Duration::from_secs(60), 50), 20);
    }

    #[test]
    fn one_prefix_does_not_use_up_the_rate_of_another() {
        let mut table = RateTable::new(10, 20, (1, 2));
        let now = Instant::now();
        admitted(&mut table, prefix(1), now, 50);
        assert_eq!(admitted(&mut table, prefix(2), now, 50), 20);
    }

    #[test]
    fn few_suffer_from_many_exhausted_prefixes() {
        let mut table = RateTable::new(10, 20, (1, 2));
        let now = Instant::now();
        for number in 0..40 {
            admitted(&mut table, prefix(number), now, 20);
        }
        let refused = (1000..11_000).filter(|&number| !table.allow(prefix(number), now)).count();
        assert!(refused < 50, "{refused} of 10,000");
    }

    #[test]
    fn a_million_prefixes_take_no_more_memory_than_one() {
        let mut table = RateTable::new(10, 20, (1, 2));
        let now = Instant::now();
        for number in 0..1_000_000 {
            table.allow(prefix(number), now);
        }
        assert_eq!(size_of_val(&*table.full_at), 32 << 10);
        assert!(size_of::<RateTable>() <= 96);
    }

    #[test]
    fn a_rate_of_zero_allows_no_peer_and_the_maximum_allows_all() {
        let now = Instant::now();
        for (per_second, burst, through) in
            [(0, 5, 0), (5, 0, 0), (u32::MAX, 0, 0), (u32::MAX, 1, 500), (1, u32::MAX, 500)]
        {
            let mut table = RateTable::new(per_second, burst, (1, 2));
            assert_eq!(admitted(&mut table, prefix(1), now, 500), through, "{per_second}/s, burst {burst}");
        }
    }

    #[test]
    fn a_changed_rate_holds_at_once_and_an_unchanged_one_forgets_nothing() {
        let mut table = RateTable::new(1, 20, (1, 2));
        let now = Instant::now();
        admitted(&mut table, prefix(1), now, 20);
        table.set_rate(1, 20);
        assert_eq!(admitted(&mut table, prefix(1), now, 50), 0);
        table.set_rate(1000, 5);
        assert_eq!(admitted(&mut table, prefix(1), now, 50), 5);
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_is_no_way_in() {
        let mut table = RateTable::new(10, 20, (1, 2));
        let now = Instant::now() + Duration::from_secs(100);
        assert_eq!(admitted(&mut table, prefix(1), now, 50), 20);
        assert_eq!(admitted(&mut table, prefix(1), now - Duration::from_secs(50), 50), 0);
    }
}

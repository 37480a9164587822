//! How fast strangers may come: token buckets in constant memory, under a keyed hash.

use std::fmt;
use std::hash::BuildHasher;
#[allow(deprecated, reason = "the only hasher of the standard library that takes a key")]
use std::hash::SipHasher;
use std::time::{Duration, Instant};

use super::Prefix;

/// How fast each prefix brings new peers, in memory that does not grow: [`SLOTS`](Self::SLOTS) numbers of 8
/// bytes, 32 KiB, whatever the number of prefixes.
///
/// Each number is a token bucket, kept as the time at which it will be full again. (This is the virtual
/// scheduling of ITU-T I.371, alias GCRA: one integer a bucket, and no rounding that adds up.) A prefix has
/// *two* slots, chosen by a keyed hash; it may bring a peer where the fuller bucket allows one, and both are
/// charged.
///
/// * Every admission is charged to both slots, so neither is ever fuller than a bucket of the prefix's own
///   would be: **no prefix gets more than its burst and its rate**, whoever shares its slots.
/// * Sharing can only make it stricter, and does so only where *both* slots are exhausted by others: with 40
///   such prefixes at once, for one innocent prefix in 2,600. The key is secret, so nobody can aim.
/// * Exhausting all slots takes a flood from thousands of networks: forged sources on plain UDP, or a botnet.
///   Then strangers wait their turn wherever they are from, and peers that are live already notice nothing.
pub struct RateTable {
    /// Nanoseconds after `start` at which the bucket is full.
    full_at: Box<[u64; RateTable::SLOTS]>,
    start: Option<Instant>,
    rate: Rate,
    key: HashKey,
}

impl RateTable {
    /// How many buckets there are.
    pub const SLOTS: usize = 4096;

    /// A table of full buckets, which hold `burst` tokens and gain `per_second`. 0 in either lets nobody
    /// through, and `u32::MAX` a second is no limit.
    pub fn new(per_second: u32, burst: u32, key: (u64, u64)) -> RateTable {
        RateTable {
            full_at: Box::new([0; RateTable::SLOTS]),
            start: None,
            rate: Rate::new(per_second, burst),
            key: HashKey(key.0, key.1),
        }
    }

    /// Changes the rate. Where it differs from the one before, all buckets become full.
    pub fn set_rate(&mut self, per_second: u32, burst: u32) {
        let rate = Rate::new(per_second, burst);
        if rate != self.rate {
            self.rate = rate;
            self.full_at.fill(0);
        }
    }

    /// Whether `prefix` may bring a peer at `now`; if so, the peer is charged to it.
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
    /// Leaves the slots and the key out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateTable").field("rate", &self.rate).finish_non_exhaustive()
    }
}

/// A bucket's measures, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rate {
    Unlimited,
    Limited {
        /// Until the next token.
        interval: u64,
        /// Until an empty bucket is full. Less than an interval if the bucket holds nothing; never more than
        /// 136 years.
        depth: u64,
    },
}

impl Rate {
    fn new(per_second: u32, burst: u32) -> Rate {
        match (per_second, burst) {
            (0, _) | (_, 0) => Rate::Limited { interval: 1, depth: 0 },
            (u32::MAX, _) => Rate::Unlimited,
            _ => {
                // Rounded up, so that the rate is never exceeded.
                let interval = 1_000_000_000_u64.div_ceil(per_second.into());
                Rate::Limited { interval, depth: interval * u64::from(burst) }
            }
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// SipHash under a key of the caller's: what `RandomState` is, without a random source of its own.
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
    /// Leaves the key out.
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
    fn zero_lets_nobody_through_and_max_everybody() {
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

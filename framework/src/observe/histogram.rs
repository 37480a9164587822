//! Histograms of durations.

use std::time::Duration;

use crate::sys::sync::atomic::{AtomicU64, Ordering};

/// The upper bounds of the buckets in nanoseconds, without the last bucket, which has none.
const BOUNDS: [u64; 22] = [
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// Durations that several threads count without waiting for each other.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    /// The sum in nanoseconds.
    sum: AtomicU64,
}

impl Histogram {
    /// Counts a duration.
    pub(crate) fn observe(&self, duration: Duration) {
        // The type holds 584 years in nanoseconds.
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| *bound < nanos);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Returns the current counts.
    pub(crate) fn snapshot(&self) -> Distribution {
        Distribution {
            buckets: self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect(),
            sum: Duration::from_nanos(self.sum.load(Ordering::Relaxed)),
        }
    }
}

/// A snapshot of a histogram of durations. Its sum and its buckets are read one after another, not at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    buckets: Vec<u64>,
    sum: Duration,
}

impl Distribution {
    /// Returns how many durations were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Returns the sum of all durations.
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// Returns the buckets, shortest durations first: the upper bound of each bucket, `None` for the last one, which
    /// takes all longer durations, and the number of durations in this bucket alone.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        let bounds = BOUNDS.iter().map(|nanos| Some(Duration::from_nanos(*nanos)));
        bounds.chain([None]).zip(self.buckets.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_in_the_first_bucket_that_reaches_to_it() {
        let histogram = Histogram::default();
        let durations = [0, 1_000, 1_001, 9_999_999_999, 10_000_000_000, 10_000_000_001];
        durations.iter().for_each(|nanos| histogram.observe(Duration::from_nanos(*nanos)));
        let seen = histogram.snapshot();
        let filled: Vec<_> = seen.buckets().filter(|(_, count)| *count > 0).collect();
        let bound = |nanos| Some(Duration::from_nanos(nanos));
        assert_eq!(filled, [(bound(1_000), 2), (bound(2_500), 1), (bound(10_000_000_000), 2), (None, 1)]);
        assert_eq!((seen.count(), seen.sum()), (6, Duration::from_nanos(durations.iter().sum())));
    }
}

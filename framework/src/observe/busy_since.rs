//! Detects whether a thread that serves many peers makes progress.
//!
//! A thread that waits for work is alive, even if no work arrives for a long time, so nothing wakes it for this check.
//! A thread that works records when it began. If that was long ago, the thread is held up or has panicked.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::sys::sync::atomic::{AtomicU64, Ordering};

/// When a thread began to process the work for which it was last woken.
#[derive(Debug, Default)]
pub(crate) struct BusySince(AtomicU64);

impl BusySince {
    /// Notes that the thread has been woken.
    pub(crate) fn begin(&self, now: Instant) {
        self.0.store(number(now), Ordering::Relaxed);
    }

    /// Notes that the thread is about to wait for work.
    pub(crate) fn begin_wait(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Returns how long the thread has been working; zero while it waits.
    pub(crate) fn busy_for(&self, now: Instant) -> Duration {
        match self.0.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_nanos(number(now).saturating_sub(since)),
        }
    }
}

/// Returns nanoseconds since the first call; never 0.
fn number(now: Instant) -> u64 {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    let since = now.saturating_duration_since(*FIRST.get_or_init(|| now));
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_busy_from_when_it_is_woken_until_it_waits_again() {
        let (busy_since, began) = (BusySince::default(), Instant::now());
        busy_since.begin(began);
        // The first time of all is as good as any other.
        busy_since.begin(began + Duration::from_secs(1));
        assert_eq!(busy_since.busy_for(began + Duration::from_secs(8)), Duration::from_secs(7));
        busy_since.begin_wait();
        assert_eq!(busy_since.busy_for(began + Duration::from_secs(9)), Duration::ZERO);
    }
}

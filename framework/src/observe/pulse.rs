//! Whether a thread that serves many gets on.
//!
//! A thread that waits for something to do is alive, however long nothing comes, so nothing wakes it for this. A thread that
//! works says since when. If that is long ago, it is held up; so is one that has panicked.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::sys::sync::atomic::{AtomicU64, Ordering};

/// Since when a thread works on what it found when it was last woken.
#[derive(Debug, Default)]
pub(crate) struct Pulse(AtomicU64);

impl Pulse {
    /// The thread has been woken.
    pub(crate) fn begin(&self, now: Instant) {
        self.0.store(number(now), Ordering::Relaxed);
    }

    /// The thread is about to wait for something to do.
    pub(crate) fn rest(&self) {
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

/// Nanoseconds since the first time that was asked for; never 0.
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
        let (pulse, began) = (Pulse::default(), Instant::now());
        pulse.begin(began);
        // The first time of all is as good as any other.
        pulse.begin(began + Duration::from_secs(1));
        assert_eq!(pulse.busy_for(began + Duration::from_secs(8)), Duration::from_secs(7));
        pulse.rest();
        assert_eq!(pulse.busy_for(began + Duration::from_secs(9)), Duration::ZERO);
    }
}

//! The clock of an association: the system's, or a virtual one that moves only on request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::sys::sync::atomic::{AtomicU64, Ordering};

/// The monotonic clock, or a virtual one. Clones of a virtual clock show the same time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clock(Option<Arc<Virtual>>);

#[derive(Debug)]
struct Virtual {
    start: Instant,
    /// Nanoseconds since the start.
    passed: AtomicU64,
}

/// How far a virtual clock can go, so that deadlines can still be added to its times.
const FARTHEST: u64 = YEAR.as_secs() * 1_000_000_000;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

impl Clock {
    /// Makes a clock that stands still at the current time until [`advance`](Self::advance) is called.
    pub(crate) fn frozen() -> Self {
        Self(Some(Arc::new(Virtual { start: Instant::now(), passed: AtomicU64::new(0) })))
    }

    /// Returns the time.
    pub(crate) fn now(&self) -> Instant {
        match &self.0 {
            None => Instant::now(),
            Some(clock) => clock.start + Duration::from_nanos(clock.passed.load(Ordering::SeqCst)),
        }
    }

    /// Advances a virtual clock. Called by one thread at a time.
    pub(crate) fn advance(&self, by: Duration) {
        if let Some(Virtual { passed, .. }) = self.0.as_deref() {
            let by = u64::try_from(by.as_nanos()).unwrap_or(FARTHEST);
            passed.store(passed.load(Ordering::SeqCst).saturating_add(by).min(FARTHEST), Ordering::SeqCst);
        }
    }
}

/// Returns the time that lies `timeout` after `now`; if the clock cannot represent that, a time a year away.
pub(crate) fn later(now: Instant, timeout: Duration) -> Instant {
    now.checked_add(timeout).unwrap_or(now + YEAR)
}

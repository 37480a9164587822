//! How the monitor of the loops is woken and stopped.

use std::time::{Duration, Instant};

use crate::sys::sync::atomic::{AtomicBool, Ordering};
use crate::sys::sync::{Condvar, Mutex};

/// Tells the monitor that there is something to see.
#[derive(Default)]
pub(super) struct Watch {
    asleep: AtomicBool,
    state: Mutex<bool>,
    changed: Condvar,
}

impl Watch {
    /// A loop has begun a turn.
    pub(super) fn look(&self) {
        if self.asleep.load(Ordering::SeqCst) {
            self.asleep.store(false, Ordering::SeqCst);
            let _state = self.state.lock();
            self.changed.notify_one();
        }
    }

    /// Ends the monitor.
    pub(super) fn stop(&self) {
        *self.state.lock() = true;
        self.changed.notify_one();
    }

    /// Waits for so long, or until there is something to see, where there is a way to tell; `false`: the monitor ends.
    pub(super) fn wait(&self, period: Duration, until_new: Option<&dyn Fn() -> bool>) -> bool {
        let mut stopped = self.state.lock();
        let Some(nothing_new) = until_new else {
            if !*stopped {
                self.changed.wait_until(&mut stopped, Instant::now() + period);
            }
            return !*stopped;
        };
        self.asleep.store(true, Ordering::SeqCst);
        // A turn that began before that is seen here, and one that begins later wakes the monitor.
        while !*stopped && self.asleep.load(Ordering::SeqCst) && nothing_new() {
            self.changed.wait(&mut stopped);
        }
        self.asleep.store(false, Ordering::SeqCst);
        !*stopped
    }
}

//! Wakes and stops the monitor of the loops.

use std::time::{Duration, Instant};

use crate::sys::sync::atomic::{AtomicBool, Ordering};
use crate::sys::sync::{Condvar, Mutex};

/// Lets the monitor sleep while the loops are idle.
#[derive(Default)]
pub(super) struct MonitorWaker {
    asleep: AtomicBool,
    state: Mutex<bool>,
    changed: Condvar,
}

impl MonitorWaker {
    /// Wakes the monitor if it sleeps, because a loop has begun a turn.
    pub(super) fn wake(&self) {
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

    /// Waits for the period. With `while_idle`, a function that returns whether all loops are still idle, waits instead
    /// until one begins a turn. Returns `false` if the monitor has to end.
    pub(super) fn wait(&self, period: Duration, while_idle: Option<&dyn Fn() -> bool>) -> bool {
        let mut stopped = self.state.lock();
        let Some(are_idle) = while_idle else {
            if !*stopped {
                self.changed.wait_until(&mut stopped, Instant::now() + period);
            }
            return !*stopped;
        };
        self.asleep.store(true, Ordering::SeqCst);
        // The check below sees a turn that began before the store; a turn that begins later wakes the monitor.
        while !*stopped && self.asleep.load(Ordering::SeqCst) && are_idle() {
            self.changed.wait(&mut stopped);
        }
        self.asleep.store(false, Ordering::SeqCst);
        !*stopped
    }
}

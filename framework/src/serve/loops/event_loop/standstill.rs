//! How a loop stands still while its peers are handed over: it reads nothing more, gives all turns that wait, sends what is queued,
//! and lets go of the lock of its state. What comes meanwhile stays in the kernel's queues.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::{Loop, State};
use crate::sys::epoll::{wait_readable, wait_writable};
use crate::sys::sync::MutexGuard;
use crate::sys::sync::atomic::Ordering;

/// How long the turns that wait are given, and the send buffers have to take what is queued.
const PATIENCE: Duration = Duration::from_millis(250);

impl Loop {
    /// Has the loop stand still. [`await_pause`](Self::await_pause) comes next.
    pub(in crate::serve::loops) fn pause(&self) {
        *self.pause.until.lock() = Some(Instant::now() + PATIENCE);
        self.pause.wanted.store(true, Ordering::SeqCst);
        self.letters.wake();
    }

    /// Waits until the loop stands still; `false`: it does not by then. Must not be called on a loop's thread.
    pub(in crate::serve::loops) fn await_pause(&self, deadline: Instant) -> bool {
        let mut state = self.state.lock();
        while !state.parked && !self.stop.load(Ordering::Acquire) {
            if self.pause.changed.wait_until(&mut state, deadline).timed_out() {
                return state.parked;
            }
        }
        // Nothing is sent by two processes at once, and nothing may be left behind.
        let until = Instant::now() + PATIENCE;
        while let Some(full) = state.sockets.iter().find(|socket| !socket.flush()) {
            let left = until.saturating_duration_since(Instant::now());
            let has_room = wait_writable(full.socket.as_fd(), Some(left));
            if left.is_zero() || !has_room.unwrap_or(false) {
                return false;
            }
        }
        state.parked
    }

    /// Has the loop go on.
    pub(in crate::serve::loops) fn go_on(&self) {
        self.pause.wanted.store(false, Ordering::SeqCst);
        // Under the lock, so that the loop does not miss it.
        drop(self.state.lock());
        self.pause.changed.notify_all();
    }

    /// Whether turns may be taken although the loop is to stand still.
    pub(super) fn may_settle(&self) -> bool {
        self.pause.until.lock().is_some_and(|until| Instant::now() < until)
    }

    /// Waits for a letter, for a few milliseconds at most.
    pub(super) fn await_letter(&self) {
        let _ = wait_readable(self.letters.bell.as_fd(), Some(Duration::from_millis(5)));
        self.letters.bell.reset();
    }

    /// Stands still until the loop is to go on or to end.
    pub(super) fn park(&self, state: &mut MutexGuard<'_, State>) {
        state.flush(&self.epoll);
        state.parked = true;
        self.pause.changed.notify_all();
        while self.pause.is_wanted() && !self.stop.load(Ordering::Acquire) {
            self.pause.changed.wait(state);
        }
        state.parked = false;
    }
}

//! Pauses a loop while its peers are handed over: the loop reads nothing more, carries out all turns that wait, sends
//! the queued datagrams, and releases the lock of its state. Datagrams that arrive meanwhile stay in the kernel's
//! queues.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::{Loop, State};
use crate::sys::epoll::{wait_readable, wait_writable};
use crate::sys::sync::MutexGuard;
use crate::sys::sync::atomic::Ordering;

/// The time for the turns that wait, and the time for the send buffers to take the queued datagrams.
const PATIENCE: Duration = Duration::from_millis(250);

impl Loop {
    /// Tells the loop to pause. [`await_pause`](Self::await_pause) comes next.
    pub(in crate::serve::loops) fn pause(&self) {
        *self.pause.until.lock() = Some(Instant::now() + PATIENCE);
        self.pause.wanted.store(true, Ordering::SeqCst);
        self.mailbox.wake();
    }

    /// Waits until the loop is paused. Returns `false` if it is not by then. Must not be called on a loop's thread.
    pub(in crate::serve::loops) fn await_pause(&self, deadline: Instant) -> bool {
        let mut state = self.state.lock();
        while !state.parked && !self.stop.load(Ordering::Acquire) {
            if self.pause.changed.wait_until(&mut state, deadline).timed_out() {
                return state.parked;
            }
        }
        // Two processes must not send at the same time, so the loop must have sent everything before.
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

    /// Lets the loop continue.
    pub(in crate::serve::loops) fn resume(&self) {
        self.pause.wanted.store(false, Ordering::SeqCst);
        // Taking the lock makes sure that the loop does not miss the notification.
        drop(self.state.lock());
        self.pause.changed.notify_all();
    }

    /// Returns whether there is still time for turns although the loop must pause.
    pub(super) fn may_finish_turns(&self) -> bool {
        self.pause.until.lock().is_some_and(|until| Instant::now() < until)
    }

    /// Waits for a message, for a few milliseconds at most.
    pub(super) fn await_message(&self) {
        let _ = wait_readable(self.mailbox.wakeup.as_fd(), Some(Duration::from_millis(5)));
        self.mailbox.wakeup.reset();
    }

    /// Blocks until the loop may continue or has to end.
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

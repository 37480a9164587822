//! A request to a loop to pause.

use std::time::Instant;

use crate::sys::sync::atomic::{AtomicBool, Ordering};
use crate::sys::sync::{Condvar, Mutex};

/// The state of the request, which the requesting thread and the loop share.
pub(super) struct Pause {
    pub(super) wanted: AtomicBool,
    /// The time at which the loop pauses even if turns wait.
    pub(super) until: Mutex<Option<Instant>>,
    /// Notified when the loop has paused, and when it may continue.
    pub(super) changed: Condvar,
}

impl Pause {
    /// Makes a request. If `begins`, the loop is paused from its start on.
    pub(super) fn new(begins: bool) -> Self {
        Self { wanted: AtomicBool::new(begins), until: Mutex::default(), changed: Condvar::new() }
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst)
    }

    /// Wakes a paused loop, which then checks whether it has to end.
    pub(super) fn notify(&self) {
        self.changed.notify_all();
    }
}

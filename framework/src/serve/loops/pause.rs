//! How a loop is told to stand still.

use std::time::Instant;

use crate::sys::sync::atomic::{AtomicBool, Ordering};
use crate::sys::sync::{Condvar, Mutex};

/// Whether a loop is to stand still.
pub(super) struct Pause {
    pub(super) wanted: AtomicBool,
    /// When the loop stands still, whatever turns wait.
    pub(super) until: Mutex<Option<Instant>>,
    /// The loop stands still, or is to go on.
    pub(super) changed: Condvar,
}

impl Pause {
    /// `begins`: the loop stands still from its beginning on.
    pub(super) fn new(begins: bool) -> Self {
        Self { wanted: AtomicBool::new(begins), until: Mutex::default(), changed: Condvar::new() }
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst)
    }

    /// The loop looks whether it is to end.
    pub(super) fn notify(&self) {
        self.changed.notify_all();
    }
}

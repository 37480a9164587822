//! Pauses the dispatcher while its listeners are handed over.

use std::time::Instant;

use crate::sys::sync::{Condvar, Mutex};

/// The decision about the listeners after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The dispatcher continues with the listeners.
    Resume,
    /// Another process has the listeners.
    HandOver,
}

#[derive(Default)]
struct State {
    reached: bool,
    verdict: Option<Verdict>,
}

/// Pauses one dispatcher once.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

impl Gate {
    /// Blocks the dispatcher until the decision about the listeners has been made, and returns it.
    pub(crate) fn wait(&self) -> Verdict {
        let mut state = self.state.lock();
        state.reached = true;
        self.changed.notify_all();
        loop {
            if let Some(verdict) = state.verdict {
                return verdict;
            }
            self.changed.wait(&mut state);
        }
    }

    /// Waits until the dispatcher is paused. Returns `false` if it is not by then.
    pub(crate) fn await_pause(&self, deadline: Instant) -> bool {
        let mut state = self.state.lock();
        while !state.reached {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return state.reached;
            }
        }
        true
    }

    /// Lets the dispatcher continue, at once or as soon as it reaches the gate.
    pub(crate) fn open(&self, verdict: Verdict) {
        self.state.lock().verdict = Some(verdict);
        self.changed.notify_all();
    }
}

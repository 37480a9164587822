//! Where the dispatcher stands still while its listeners are handed over.

use std::time::Instant;

use crate::sys::sync::{Condvar, Mutex};

/// What becomes of the listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The dispatcher goes on with them.
    Resume,
    /// Another process has them.
    Give,
}

#[derive(Default)]
struct State {
    reached: bool,
    verdict: Option<Verdict>,
}

/// Stops one dispatcher once.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

impl Gate {
    /// The dispatcher stands still until it is told what becomes of the listeners.
    pub(crate) fn stand_still(&self) -> Verdict {
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

    /// Waits until the dispatcher stands still; `false`: it does not by then.
    pub(crate) fn await_stop(&self, deadline: Instant) -> bool {
        let mut state = self.state.lock();
        while !state.reached {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return state.reached;
            }
        }
        true
    }

    /// Has the dispatcher go on, now or when it comes here.
    pub(crate) fn open(&self, verdict: Verdict) {
        self.state.lock().verdict = Some(verdict);
        self.changed.notify_all();
    }
}

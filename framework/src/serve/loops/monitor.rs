//! The monitor: a thread that detects when a loop is held up, and gives the loop to another thread.

use std::sync::Arc;
use std::time::Duration;

use super::event_loop::Loop;
use super::monitor_waker::MonitorWaker;
use crate::observe::bump;

/// The time between two looks at loops that are busy. A loop that is in the same turn at both looks is held up.
const PERIOD: Duration = Duration::from_millis(4);
/// The number of looks at idle loops before the monitor sleeps.
const QUIET_LOOKS: u32 = 12;

/// Watches the loops until they are stopped.
pub(super) fn run(waker: &MonitorWaker, loops: &[Arc<Loop>]) {
    let mut seen: Vec<u64> = loops.iter().map(|on| on.turn()).collect();
    let mut quiet = 0;
    while waker.wait(PERIOD, (quiet >= QUIET_LOOKS).then_some(&|| nothing_new(loops, &seen))) {
        quiet += 1;
        for (on, seen) in loops.iter().zip(&mut seen) {
            let turn = on.turn();
            let in_turn = turn % 2 == 1;
            if in_turn && turn == *seen && !on.hand_over(turn) {
                bump(&on.context.shared.counters.loops_held_up);
            }
            if in_turn || turn != *seen {
                quiet = 0;
            }
            *seen = turn;
        }
    }
}

/// Returns whether no turn has begun or ended since the last look.
fn nothing_new(loops: &[Arc<Loop>], seen: &[u64]) -> bool {
    loops.iter().zip(seen).all(|(on, seen)| on.turn() == *seen)
}

//! The monitor: a thread that detects when a loop is held up, and gives the loop to another thread.

use std::sync::Arc;
use std::time::Duration;

use super::event_loop::Loop;
use super::monitor_waker::MonitorWaker;
use crate::observe::bump;
use crate::sys::thread;

/// The time between two checks of busy loops. A loop that is in the same turn at both checks is held up, unless its
/// thread only waits for a processor.
const PERIOD: Duration = Duration::from_millis(4);
/// The number of checks of idle loops before the monitor sleeps.
const QUIET_CHECKS: u32 = 12;

/// Watches the loops until they are stopped.
pub(super) fn run(waker: &MonitorWaker, loops: &[Arc<Loop>]) {
    let mut seen: Vec<u64> = loops.iter().map(|on| on.turn()).collect();
    // The processor time of each loop's thread when its turn was seen first.
    let mut times = vec![None; loops.len()];
    let mut quiet = 0;
    while waker.wait(PERIOD, (quiet >= QUIET_CHECKS).then_some(&|| nothing_new(loops, &seen))) {
        quiet += 1;
        for ((on, seen), time) in loops.iter().zip(&mut seen).zip(&mut times) {
            let turn = on.turn();
            let in_turn = turn % 2 == 1;
            if in_turn && turn != *seen {
                *time = thread::processor_time(on.thread());
            }
            if in_turn && turn == *seen && is_held_up(on.thread(), *time) && !on.hand_over(turn) {
                bump(&on.context.shared.counters.loops_held_up);
            }
            if in_turn || turn != *seen {
                quiet = 0;
            }
            *seen = turn;
        }
    }
}

/// Returns whether no turn has begun or ended since the last check.
fn nothing_new(loops: &[Arc<Loop>], seen: &[u64]) -> bool {
    loops.iter().zip(seen).all(|(on, seen)| on.turn() == *seen)
}

/// Returns whether a thread is blocked in a callback, or has computed for a period since its processor time was
/// `before`. Otherwise it only waits for a processor, and a spare thread would not get one sooner.
fn is_held_up(number: libc::pid_t, before: Option<Duration>) -> bool {
    let Some((before, now)) = before.zip(thread::processor_time(number)) else { return true };
    cfg!(shuttle) || now.saturating_sub(before) >= PERIOD || !thread::is_runnable(number)
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::sync::mpsc::sync_channel;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_thread_holds_its_loop_up_while_it_sleeps_or_computes_but_not_while_it_waits_for_a_processor() {
        let (own, now) = (thread::number(), || thread::processor_time(thread::number()));
        // This thread runs, and has not computed since.
        assert!(!is_held_up(own, now()));
        let before = now();
        while now().zip(before).is_some_and(|(now, before)| now - before < PERIOD) {}
        assert!(is_held_up(own, before));

        let (tell, told) = sync_channel(0);
        let (end, ended) = sync_channel::<()>(0);
        let sleeper = std::thread::spawn(move || {
            tell.send(thread::number()).unwrap();
            let _ = ended.recv();
        });
        let number = told.recv().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is_held_up(number, thread::processor_time(number)) {
            assert!(Instant::now() < deadline, "it does not fall asleep");
            std::thread::yield_now();
        }
        drop(end);
        sleeper.join().unwrap();
        assert!(is_held_up(number, thread::processor_time(number)), "a thread that has ended");
    }
}

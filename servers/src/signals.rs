//! Handles signals. The first SIGINT or SIGTERM asks the program to end, and a second one ends it at once. SIGHUP
//! asks a server to reload, and SIGUSR2 asks it to hand over to a new process.
//!
//! Supervisors and wrappers often signal a process and then its process group, so two signals arrive within a
//! millisecond. A signal within half a second of the first therefore does not count as a second one.
//!
//! SIGPIPE needs no handling: the Rust runtime ignores it, so writing to a closed pipe returns an error.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR2};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use signal_hook::low_level;

use crate::failure::Failure;
use crate::logging;

/// For how long after the first signal another one does not count.
const SAME: Duration = Duration::from_millis(500);

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// SIGHUP asks the server to read the configuration and the credentials again.
    Reload,
    /// SIGUSR2 asks the server to hand over to a new process.
    HandOver,
    /// SIGINT or SIGTERM, by its number, asks the program to end.
    End(i32),
}

/// Returns the exit code of a program that a signal ended, as shells define it: 130 for SIGINT, 143 for SIGTERM.
pub fn exit_code(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// Catches SIGINT and SIGTERM of this process, and runs `action` with the number of the first one, on a thread of
/// its own.
///
/// A second signal, half a second later or more, is logged and ends the process with its [`exit_code`]. A third
/// signal ends it inside the signal handler, which works whatever the threads are doing.
///
/// # Errors
///
/// Returns an error if the system refuses a signal handler, a pipe or a thread.
pub fn on_first_signal(action: impl FnOnce(i32) + Send + 'static) -> Result<(), Failure> {
    let mut action = Some(action);
    catch(&[], move |asked| {
        if let (Asked::End(signal), Some(action)) = (asked, action.take()) {
            action(signal);
        }
    })
}

/// Does the same for a server: also runs `action` for every SIGHUP and SIGUSR2 before the first SIGINT or
/// SIGTERM. After that, SIGHUP and SIGUSR2 do nothing.
///
/// # Errors
///
/// The same as those of [`on_first_signal`].
pub fn on_signals(action: impl FnMut(Asked) + Send + 'static) -> Result<(), Failure> {
    catch(&[SIGHUP, SIGUSR2], action)
}

fn catch(more: &[i32], action: impl FnMut(Asked) + Send + 'static) -> Result<(), Failure> {
    try_catch(more, action).map_err(|error| {
        let advice = "check the limits on descriptors and threads";
        Failure::new(1, format_args!("cannot catch signals ({error}): {advice}"))
    })
}

fn try_catch(more: &[i32], mut action: impl FnMut(Asked) + Send + 'static) -> io::Result<()> {
    let ending = Arc::new(AtomicBool::new(false));
    // Handlers run in the order of registration. In the opposite order, the second signal could wake the thread
    // below, and its own handler could then find the flag set.
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, i32::from(exit_code(signal)), Arc::clone(&ending))?;
    }
    let mut signals = Signals::new([SIGINT, SIGTERM].iter().chain(more))?;
    // The action may block, for example in a reload that hangs. Neither the first signal nor the second may wait
    // for it. The queue holds at most one reload, the hand-overs that were asked for, and one end.
    let (ask, asked) = crossbeam_channel::unbounded();
    thread::Builder::new()
        .name("signal-actions".to_owned())
        .spawn(move || asked.iter().for_each(&mut action))?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut first: Option<Instant> = None;
        for signal in signals.forever() {
            match (signal, first) {
                // If a reload is queued and has not begun, another one would change nothing.
                (SIGHUP, None) if ask.is_empty() => drop(ask.send(Asked::Reload)),
                (SIGHUP, None) => {}
                (SIGUSR2, None) => drop(ask.send(Asked::HandOver)),
                (SIGHUP | SIGUSR2, Some(_)) => {}
                (_, None) => {
                    first = Some(Instant::now());
                    let _ = ask.send(Asked::End(signal));
                }
                (_, Some(first)) if first.elapsed() < SAME => {}
                (_, Some(_)) => {
                    ending.store(true, Ordering::SeqCst);
                    tracing::warn!(signal, "received a second signal: ending at once");
                    logging::flush();
                    low_level::exit(i32::from(exit_code(signal)));
                }
            }
        }
    })?;
    Ok(())
}

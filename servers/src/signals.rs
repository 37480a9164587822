//! SIGINT and SIGTERM: the first asks, a second one ends at once. SIGHUP asks a server to reload, SIGUSR2 to
//! hand itself over to a new process.
//!
//! Supervisors and wrappers often signal a process and then its group, so that two signals arrive within a millisecond. A
//! signal within half a second of the first counts as the first.
//!
//! SIGPIPE needs nothing here: the Rust runtime ignores it, so a closed pipe is an error of the
//! write.

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

/// How long a repeated signal counts as the same one.
const SAME: Duration = Duration::from_millis(500);

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// SIGHUP: to read the configuration and the credentials again.
    Reload,
    /// SIGUSR2: to hand the server over to a new process.
    HandOver,
    /// SIGINT or SIGTERM, by its number: to end.
    End(i32),
}

/// The exit code of a program that a signal ended, as shells have it: 130 for SIGINT, 143 for
/// SIGTERM.
pub fn exit_code(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// Takes over SIGINT and SIGTERM of this process, and runs `action` with the number of the first,
/// on a thread of its own.
///
/// A second one, half a second later or more, is logged and ends the process with its [`exit_code`]. A third one does so inside the
/// signal handler, which works whatever the threads are doing.
///
/// # Errors
///
/// The system refuses a signal handler, a pipe or a thread.
pub fn on_first_signal(action: impl FnOnce(i32) + Send + 'static) -> Result<(), Failure> {
    let mut action = Some(action);
    catch(&[], move |asked| {
        if let (Asked::End(signal), Some(action)) = (asked, action.take()) {
            action(signal);
        }
    })
}

/// The same for a server: `action` is run for every SIGHUP and SIGUSR2 too, until the first of the others. After
/// that these do nothing.
///
/// # Errors
///
/// As [`on_first_signal`].
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
    // Actions run in the order of registration. The other way round the second signal could wake the thread below, and then find
    // its flag set while it is still being handled.
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, i32::from(exit_code(signal)), Arc::clone(&ending))?;
    }
    let mut signals = Signals::new([SIGINT, SIGTERM].iter().chain(more))?;
    // The action may block, for example for a reload that hangs, and neither the first signal nor the second may wait for it.
    // At most one reload and one end are in the queue.
    let (ask, asked) = crossbeam_channel::unbounded();
    thread::Builder::new()
        .name("signal-actions".to_owned())
        .spawn(move || asked.iter().for_each(&mut action))?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut first: Option<Instant> = None;
        for signal in signals.forever() {
            match (signal, first) {
                // A reload that has not begun is as good as another one.
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
                    tracing::warn!(signal, "a second signal: ending at once");
                    logging::flush();
                    low_level::exit(i32::from(exit_code(signal)));
                }
            }
        }
    })?;
    Ok(())
}

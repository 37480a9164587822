//! SIGINT and SIGTERM: the first asks, the second ends at once. SIGHUP asks a server to reload.
//!
//! SIGPIPE needs nothing here: the Rust runtime ignores it, so a closed pipe is an error of the
//! write.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;

use crate::failure::Failure;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// SIGHUP: to read the configuration and the credentials again.
    Reload,
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
/// The second ends the process with its [`exit_code`], inside the signal handler: that works
/// whatever the other threads are doing.
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

/// The same for a server: `action` is run for every SIGHUP too, until the first of the others. After
/// that SIGHUP does nothing.
///
/// # Errors
///
/// As [`on_first_signal`].
pub fn on_signals(action: impl FnMut(Asked) + Send + 'static) -> Result<(), Failure> {
    catch(&[SIGHUP], action)
}

fn catch(more: &[i32], action: impl FnMut(Asked) + Send + 'static) -> Result<(), Failure> {
    try_catch(more, action).map_err(|error| {
        let advice = "check the limits on descriptors and threads";
        Failure::new(1, format_args!("cannot catch signals ({error}): {advice}"))
    })
}

fn try_catch(more: &[i32], mut action: impl FnMut(Asked) + Send + 'static) -> io::Result<()> {
    let asked = Arc::new(AtomicBool::new(false));
    let mut signals = Signals::new([SIGINT, SIGTERM].iter().chain(more))?;
    for signal in [SIGINT, SIGTERM] {
        // Actions run in the order of registration, so the first signal finds the flag still clear.
        flag::register_conditional_shutdown(signal, i32::from(exit_code(signal)), Arc::clone(&asked))?;
        flag::register(signal, Arc::clone(&asked))?;
    }
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        // Signals that have no action any more are still caught, so they do nothing.
        for signal in signals.forever() {
            if signal == SIGHUP {
                action(Asked::Reload);
            } else {
                return action(Asked::End(signal));
            }
        }
    })?;
    Ok(())
}

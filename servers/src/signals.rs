//! SIGINT and SIGTERM: the first asks, the second ends at once.
//!
//! SIGPIPE needs nothing here: the Rust runtime ignores it, so a closed pipe is an error of the
//! write.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;

use crate::failure::Failure;

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
    catch(action).map_err(|error| {
        let advice = "check the limits on descriptors and threads";
        Failure::new(1, format_args!("cannot catch signals ({error}): {advice}"))
    })
}

fn catch(action: impl FnOnce(i32) + Send + 'static) -> io::Result<()> {
    let asked = Arc::new(AtomicBool::new(false));
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    for signal in [SIGINT, SIGTERM] {
        // Actions run in the order of registration, so the first signal finds the flag still clear.
        flag::register_conditional_shutdown(signal, i32::from(exit_code(signal)), Arc::clone(&asked))?;
        flag::register(signal, Arc::clone(&asked))?;
    }
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            action(signal);
        }
    })?;
    Ok(())
}

//! The threads of the bare servers.

use std::thread;

/// The stack of a thread; the loops need two pages of it.
pub(super) const STACK: usize = 64 << 10;
/// The longest message, in bytes.
pub(super) const LONGEST: usize = 2048;

/// Starts a thread with a small stack, which ends the process if its loop fails.
pub(super) fn start(
    name: &'static str,
    serve: impl FnOnce() -> std::io::Result<()> + Send + 'static,
) -> std::io::Result<()> {
    let run = move || {
        if let Err(error) = serve() {
            eprintln!("the bare server ({name}): {error}");
            std::process::exit(1);
        }
    };
    thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

//! Echo servers without a framework, to compare with: the loops that a programmer would write in C, with no check,
//! no deadline and no counter.

mod datagrams;
mod streams;

use std::error::Error;
use std::thread;

use peeloff::Address;

pub use datagrams::{batches, epoll, fan_out};

/// Of a thread: the loops need two pages of it.
const STACK: usize = 64 << 10;
/// Bytes of a message at most.
const LONGEST: usize = 2048;

/// Starts a server with a blocking thread for each peer, on UDP, SCTP or TCP, and says where it listens.
///
/// # Errors
///
/// The listener cannot be opened.
pub fn threads(listen: &Address) -> Result<(), Box<dyn Error>> {
    match listen.scheme {
        scheme if scheme.is_stream() => streams::tcp(listen),
        scheme if scheme.is_sctp() => streams::sctp(listen),
        _ => datagrams::threads(listen),
    }
}

/// A thread with a small stack that ends the process when its loop fails.
fn start(
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

//! Echo servers without a framework, to compare with: the loops that a programmer would write in C, with no check,
//! no deadline and no counter.

mod datagrams;
mod streams;
mod thread;

use std::error::Error;

use peeloff::Address;

pub use datagrams::{batches, epoll, fan_out};

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

//! Echo servers without a framework, to compare with: the loops that a programmer would write in C, with no check,
//! no deadline and no counter.

mod datagrams;
mod secured;
mod sessions;
mod streams;
mod thread;

use std::error::Error;

use peeloff::{Address, Scheme};

use crate::role::Serving;

pub use datagrams::{batches, epoll, fan_out};

/// Starts a server on DTLS with one socket and one thread for all peers, and says where it listens.
///
/// # Errors
///
/// The listener cannot be opened.
pub fn sessions(serving: &Serving) -> Result<(), Box<dyn Error>> {
    sessions::serve(serving)
}

/// Starts a server with a blocking thread for each peer, and says where it listens. Sessions are OpenSSL's, on DTLS and TLS.
///
/// # Errors
///
/// The listener cannot be opened, or there is no such server for the scheme.
pub fn threads(serving: &Serving) -> Result<(), Box<dyn Error>> {
    let listen: Address = serving.listen.parse()?;
    match listen.scheme {
        Scheme::Dtls => secured::dtls(serving),
        Scheme::Tls => secured::tls(serving),
        Scheme::Tcp => streams::tcp(&listen),
        scheme if scheme.is_sctp() => streams::sctp(&listen),
        _ => datagrams::threads(&listen),
    }
}

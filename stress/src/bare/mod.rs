//! Echo servers without a framework to compare with: the loops that a programmer would write in C, without
//! checks, timeouts or counters.

mod datagrams;
mod keys;
mod secured;
mod sessions;
mod streams;
mod thread;

use std::error::Error;

use peeloff::{Address, Scheme};

use crate::role::Serving;

pub use datagrams::{batches, epoll, fan_out};

/// Starts a DTLS server with one socket and one thread for all peers, and prints its address.
///
/// # Errors
///
/// Returns an error if the listener cannot be opened.
pub fn sessions(serving: &Serving) -> Result<(), Box<dyn Error>> {
    sessions::serve(serving)
}

/// Starts a DTLS server with a blocking thread for each peer, which uses OpenSSL's session for the handshake only, and
/// prints its address.
///
/// # Errors
///
/// Returns an error if the listener cannot be opened.
pub fn threads_with_evp(serving: &Serving) -> Result<(), Box<dyn Error>> {
    secured::dtls_with_evp(serving)
}

/// Starts a server with a blocking thread for each peer, and prints its address. On DTLS and TLS, OpenSSL handles
/// the sessions.
///
/// # Errors
///
/// Returns an error if the listener cannot be opened, or if there is no such server for the scheme.
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

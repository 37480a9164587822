//! Knows how clients connect to a target.

use std::error::Error;
use std::net::SocketAddr;

use openssl::ssl::{SslContext, SslSession};
use peeloff::Scheme;

use crate::secure::{LastSession, Suite};

/// Makes clients of one target.
#[derive(Clone)]
pub struct Dialer {
    pub(super) scheme: Scheme,
    pub(super) address: SocketAddr,
    context: Option<(SslContext, LastSession)>,
}

impl Dialer {
    /// Makes a dialer for a target. Secure schemes need a suite.
    ///
    /// # Errors
    ///
    /// Returns an error, whose text is one sentence, if the protocol is not supported here, or if OpenSSL does
    /// not know the group.
    pub fn new(scheme: Scheme, address: SocketAddr, suite: Option<Suite>) -> Result<Self, Box<dyn Error>> {
        if scheme.is_sctp() {
            return Err("only the program echo supports SCTP; give a target on udp, dtls, tcp or tls".into());
        }
        let context = suite.map(|suite| {
            suite.client().map_err(|why| format!("OpenSSL does not accept the group {}: {why}", suite.group))
        });
        Ok(Self { scheme, address, context: context.transpose()? })
    }

    /// Returns the last session that a client received.
    pub fn last_session(&self) -> Option<SslSession> {
        self.context.as_ref()?.1.lock().ok()?.clone()
    }

    pub(super) fn context(&self) -> Option<&SslContext> {
        self.context.as_ref().map(|(context, _)| context)
    }
}

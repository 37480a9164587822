//! How clients get to a target.

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
    /// For a target; secure ones need a suite.
    ///
    /// # Errors
    ///
    /// One sentence: the protocol cannot be spoken here, or OpenSSL does not know the group.
    pub fn new(scheme: Scheme, address: SocketAddr, suite: Option<Suite>) -> Result<Self, Box<dyn Error>> {
        if scheme.is_sctp() {
            return Err("only echo speaks SCTP; give a target on udp, dtls, tcp or tls".into());
        }
        let context = suite.map(|suite| {
            suite.client().map_err(|why| format!("OpenSSL does not take the group {}: {why}", suite.group))
        });
        Ok(Self { scheme, address, context: context.transpose()? })
    }

    /// The session that a client got last.
    pub fn last_session(&self) -> Option<SslSession> {
        self.context.as_ref()?.1.lock().ok()?.clone()
    }

    pub(super) fn context(&self) -> Option<&SslContext> {
        self.context.as_ref().map(|(context, _)| context)
    }
}

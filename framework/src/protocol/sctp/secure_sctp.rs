//! A secured SCTP association: DTLS over it (RFC 6083) or TLS over its streams (RFC 3436), with one interface.
//!
//! 1. `connect` has a ClientHello to send at once, `accept` waits for one.
//! 2. Each message from the kernel goes to [`receive`](SecureSctp::receive) until that reports a complete handshake.
//!    From then on the caller calls [`read`](SecureSctp::read) until it returns [`Nothing`](Read::Nothing), and only
//!    then passes in the next message. Nothing else bounds the amount of unread data.
//! 3. After every call, including failed ones, the caller carries out [`next_action`](SecureSctp::next_action) until it
//!    returns `None`. After an [`Action::AwaitDry`] it calls [`dry`](SecureSctp::dry) when the kernel has no
//!    unacknowledged data.

pub(crate) use super::action::{Action, Refused};
use super::dtls_sctp::DtlsSctp;
use super::tls_streams::TlsStreams;
use crate::protocol::Read;
use crate::protocol::exporter::{Exporter, RefusedExport};
use crate::sctp::{MessageInfo, SendInfo};
use crate::tls::{Failure, HandshakeSummary};

/// A session of one of the two protocols.
pub(crate) enum SecureSctp {
    Tls(Box<TlsStreams>),
    Dtls(Box<DtlsSctp>),
}

/// Calls the same method on either variant.
macro_rules! either {
    ($self:ident.$method:ident($($argument:expr),*)) => {
        match $self {
            SecureSctp::Tls(session) => session.$method($($argument),*),
            SecureSctp::Dtls(session) => session.$method($($argument),*),
        }
    };
}

impl SecureSctp {
    /// Handles one SCTP message, whose memory may be exchanged. Returns `true` when the handshake is complete. After
    /// that, [`read`](Self::read) reports errors.
    pub(crate) fn receive(&mut self, message: &mut Vec<u8>, info: MessageInfo) -> Result<bool, Failure> {
        either!(self.receive(message, info))
    }

    /// Returns whether the handshake is complete.
    #[cfg(test)]
    pub(crate) fn is_complete(&self) -> bool {
        either!(self.is_complete())
    }

    /// Secures every stream that this side begins. Returns `true` when that is done.
    pub(crate) fn open_all(&mut self) -> Result<bool, Failure> {
        match self {
            Self::Tls(session) => session.open_all(),
            Self::Dtls(session) => Ok(session.is_complete()),
        }
    }

    /// Returns whether the peer has closed, although earlier data may be missing.
    pub(crate) fn is_closed_by_peer(&self) -> bool {
        match self {
            Self::Tls(_) => false,
            Self::Dtls(session) => session.is_closed_by_peer(),
        }
    }

    /// Returns whether messages can be sent on `stream`.
    #[cfg(test)]
    pub(crate) fn is_open(&self, stream: u16) -> bool {
        match self {
            Self::Tls(session) => session.is_open(stream),
            Self::Dtls(session) => session.is_complete(),
        }
    }

    /// Returns the source of exported keying material: with a session for each stream, that of stream 0.
    pub(crate) fn exporter(&self) -> Result<Exporter<'_>, RefusedExport> {
        either!(self.exporter())
    }

    /// Returns the results of the handshake.
    pub(crate) fn summary(&self) -> HandshakeSummary {
        either!(self.summary())
    }

    /// Reads the next message, with its metadata.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> (Read, MessageInfo) {
        either!(self.read(buffer))
    }

    /// Returns whether [`read`](Self::read) may find more.
    pub(crate) fn has_more(&self) -> bool {
        either!(self.has_more())
    }

    /// Encrypts one message, which becomes one SCTP message.
    pub(crate) fn write(&mut self, message: &[u8], info: SendInfo) -> Result<(), Refused> {
        either!(self.write(message, info))
    }

    /// Queues a close_notify, once.
    pub(crate) fn close(&mut self) {
        either!(self.close());
    }

    /// Returns the next action. `None`: there is none, or none before [`dry`](Self::dry).
    pub(crate) fn next_action(&mut self) -> Option<Action> {
        either!(self.next_action())
    }

    /// Ends the wait that an [`Action::AwaitDry`] requested.
    pub(crate) fn dry(&mut self) {
        either!(self.dry());
    }
}

#[cfg(test)]
mod tests;

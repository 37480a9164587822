//! A secured SCTP association: DTLS over it (RFC 6083) or TLS over its streams (RFC 3436), driven alike.
//!
//! 1. `connect` has a ClientHello to send at once, `accept` waits for one.
//! 2. Each message from the kernel goes to [`receive`](SecureSctp::receive), until it says that the handshake
//!    is complete; then [`read`](SecureSctp::read) gives messages until there is [`Nothing`](Read::Nothing),
//!    and only then the next one goes in: nothing else bounds what waits to be read.
//! 3. After every call, errors included, the caller carries out [`next_action`](SecureSctp::next_action)
//!    until it is `None`. After an [`Action::AwaitDry`] it calls [`dry`](SecureSctp::dry) when the kernel has
//!    nothing outstanding.

pub(crate) use super::action::{Action, Refused};
use super::dtls_sctp::DtlsSctp;
use super::tls_streams::TlsStreams;
use crate::protocol::Read;
use crate::protocol::exporter::{Exporter, RefusedExport};
use crate::sctp::{MessageInfo, SendInfo};
use crate::tls::{Facts, Failure};

/// Either of the two.
pub(crate) enum SecureSctp {
    Tls(Box<TlsStreams>),
    Dtls(Box<DtlsSctp>),
}

/// Calls the same method of whichever it is.
macro_rules! either {
    ($self:ident.$method:ident($($argument:expr),*)) => {
        match $self {
            SecureSctp::Tls(session) => session.$method($($argument),*),
            SecureSctp::Dtls(session) => session.$method($($argument),*),
        }
    };
}

impl SecureSctp {
    /// Takes one SCTP message in, whose memory may be exchanged; `true` when the handshake is complete. Once it is,
    /// whatever goes wrong comes out of [`read`](Self::read).
    pub(crate) fn receive(&mut self, message: &mut Vec<u8>, info: MessageInfo) -> Result<bool, Failure> {
        either!(self.receive(message, info))
    }

    /// Whether the handshake is complete.
    #[cfg(test)]
    pub(crate) fn is_complete(&self) -> bool {
        either!(self.is_complete())
    }

    /// Has every stream secured that this side begins; `true` when that is done.
    pub(crate) fn open_all(&mut self) -> Result<bool, Failure> {
        match self {
            Self::Tls(session) => session.open_all(),
            Self::Dtls(session) => Ok(session.is_complete()),
        }
    }

    /// Whether the peer has said that nothing more comes, though something may be missing.
    pub(crate) fn is_closed_by_peer(&self) -> bool {
        match self {
            Self::Tls(_) => false,
            Self::Dtls(session) => session.is_closed_by_peer(),
        }
    }

    /// Whether messages can be sent on `stream`.
    #[cfg(test)]
    pub(crate) fn is_open(&self, stream: u16) -> bool {
        match self {
            Self::Tls(session) => session.is_open(stream),
            Self::Dtls(session) => session.is_complete(),
        }
    }

    /// What keying material is exported from: with a session for each stream that of stream 0.
    pub(crate) fn exporter(&self) -> Result<Exporter<'_>, RefusedExport> {
        either!(self.exporter())
    }

    /// What the handshake settled.
    pub(crate) fn facts(&self) -> Facts {
        either!(self.facts())
    }

    /// The next message, with what came with it.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> (Read, MessageInfo) {
        either!(self.read(buffer))
    }

    /// Whether [`read`](Self::read) has something to look at.
    pub(crate) fn has_more(&self) -> bool {
        either!(self.has_more())
    }

    /// Secures one message, which becomes one SCTP message.
    pub(crate) fn write(&mut self, message: &[u8], info: SendInfo) -> Result<(), Refused> {
        either!(self.write(message, info))
    }

    /// Says goodbye, once.
    pub(crate) fn close(&mut self) {
        either!(self.close());
    }

    /// What to do next. `None`: nothing, or nothing until [`dry`](Self::dry).
    pub(crate) fn next_action(&mut self) -> Option<Action> {
        either!(self.next_action())
    }

    /// The wait that an [`Action::AwaitDry`] asked for is over.
    pub(crate) fn dry(&mut self) {
        either!(self.dry());
    }
}

#[cfg(test)]
mod tests;

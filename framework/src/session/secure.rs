//! Security over SCTP without a socket: messages of the peer go in, and what is to be done with the
//! association comes out as [`Action`]s, to be carried out in their order.

use std::time::Instant;

use super::dtls::{Facts, Read};
use super::dtls_sctp::DtlsSctp;
use super::handshake::Failure;
use super::tls_streams::TlsStreams;
use crate::sctp::{MessageInfo, SendInfo};

/// What is to be done with the association.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Send this message.
    Send(Vec<u8>, SendInfo),
    /// Wait until everything that was sent is acknowledged, then call [`Secure::dry`]. Nothing follows
    /// before that.
    AwaitDry,
    /// Add a shared key of SCTP-AUTH.
    AddKey(u16, [u8; 64]),
    /// Authenticate with this key what is sent from now on.
    ActivateKey(u16),
    /// Forget this key.
    DeleteKey(u16),
}

/// What became of a message that was to be written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// It is among the actions.
    Done,
    /// There is no session for this stream, or not for messages of this kind.
    NoSuchStream,
    /// The session is of no use any more.
    Broken(String),
}

/// One side of an association.
pub(crate) enum Secure {
    /// TLS on each stream pair (RFC 3436).
    Tls(TlsStreams),
    /// DTLS records as messages (RFC 6083).
    Dtls(DtlsSctp),
}

impl Secure {
    /// Goes on with the handshake; `true` when it is complete. What it wants done is among the
    /// actions, also after a failure (an alert).
    pub(crate) fn step(&mut self) -> Result<bool, Failure> {
        match self {
            Self::Tls(tls) => tls.step(),
            Self::Dtls(dtls) => dtls.step(),
        }
    }

    /// Takes a message of the peer.
    pub(crate) fn receive(&mut self, message: &[u8], info: MessageInfo, now: Instant) {
        match self {
            Self::Tls(tls) => tls.receive(message, info),
            Self::Dtls(dtls) => dtls.receive(message, info, now),
        }
    }

    /// Reads the next message of what was received, and what came with it.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> (Read, MessageInfo) {
        match self {
            Self::Tls(tls) => tls.read(buffer),
            Self::Dtls(dtls) => dtls.read(buffer),
        }
    }

    /// Encrypts a message.
    pub(crate) fn write(&mut self, message: &[u8], how: &SendInfo) -> Written {
        match self {
            Self::Tls(tls) => tls.write(message, how),
            Self::Dtls(dtls) => dtls.write(message, how),
        }
    }

    /// Says goodbye.
    pub(crate) fn close(&mut self) {
        match self {
            Self::Tls(tls) => tls.close(),
            Self::Dtls(dtls) => dtls.close(),
        }
    }

    /// The next thing to do.
    pub(crate) fn next_action(&mut self) -> Option<Action> {
        match self {
            Self::Tls(tls) => tls.next_action(),
            Self::Dtls(dtls) => dtls.next_action(),
        }
    }

    /// Everything that was sent is acknowledged.
    pub(crate) fn dry(&mut self) {
        if let Self::Dtls(dtls) = self {
            dtls.dry();
        }
    }

    /// When to [give up](Self::give_up) waiting for records.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Tls(_) => None,
            Self::Dtls(dtls) => dtls.deadline(),
        }
    }

    /// Waits no longer for records that are missing; returns how many those are.
    pub(crate) fn give_up(&mut self, now: Instant) -> u64 {
        match self {
            Self::Tls(_) => 0,
            Self::Dtls(dtls) => dtls.give_up(now),
        }
    }

    /// What the handshake settled.
    pub(crate) fn facts(&self) -> Facts {
        match self {
            Self::Tls(tls) => tls.facts(),
            Self::Dtls(dtls) => dtls.facts(),
        }
    }
}

#[cfg(test)]
mod tests;

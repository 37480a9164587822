//! What a secured association asks its driver to do, and why it does not send a message.

use std::fmt;

use zeroize::Zeroizing;

use crate::sctp::SendInfo;

/// What the caller must do next, in the order given.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Send one SCTP message.
    Send { payload: Vec<u8>, info: SendInfo },
    /// Wait until the peer has acknowledged everything (SCTP_SENDER_DRY_EVENT, RFC 6458 §6.1.9).
    AwaitDry,
    /// Add a shared key (SCTP_AUTH_KEY, RFC 6458 §8.3.2).
    AddKey { number: u16, key: Box<Zeroizing<[u8; 64]>> },
    /// Sign with it from now on (SCTP_AUTH_ACTIVE_KEY, §8.1.17).
    ActivateKey(u16),
    /// Take it away (SCTP_AUTH_DELETE_KEY, §8.3.5).
    DeleteKey(u16),
    /// Shut the association down (SCTP_EOF, RFC 6458 §5.3.4): everything that was sent arrives.
    ShutDown,
    /// Abort it (SCTP_ABORT), and tell the peer this reason.
    Abort(String),
}

impl fmt::Debug for Action {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send { payload, info } => write!(f, "Send({} bytes, {info:?})", payload.len()),
            Self::AwaitDry => f.write_str("AwaitDry"),
            Self::AddKey { number, .. } => write!(f, "AddKey({number})"),
            Self::ActivateKey(number) => write!(f, "ActivateKey({number})"),
            Self::DeleteKey(number) => write!(f, "DeleteKey({number})"),
            Self::ShutDown => f.write_str("ShutDown"),
            Self::Abort(reason) => write!(f, "Abort({reason:?})"),
        }
    }
}

/// Why a message was not sent. The session lives, except after `Broken`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The handshake is not complete; with TLS, that of this stream, which a client has begun herewith: try
    /// again when the stream is open.
    NotOpen,
    /// This side has closed.
    Closed,
    /// OpenSSL drops empty records.
    Empty,
    /// Longer than a record carries.
    TooLong { limit: usize },
    /// TLS needs the order of a stream.
    Unordered,
    /// TLS needs every record.
    Unreliable,
    /// No such stream is secured.
    NoSuchStream { streams: u16 },
    /// The session is of no use any more.
    Broken(String),
}

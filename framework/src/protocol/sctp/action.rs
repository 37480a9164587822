//! Actions that a secured association requests from its driver, and reasons why it does not send a message.

use std::fmt;

use zeroize::Zeroizing;

use crate::sctp::SendInfo;

/// An action for the caller, to be carried out in the given order.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Send one SCTP message.
    Send { payload: Vec<u8>, info: SendInfo },
    /// Wait until the peer has acknowledged everything (SCTP_SENDER_DRY_EVENT, RFC 6458 §6.1.9).
    AwaitDry,
    /// Add a shared key (SCTP_AUTH_KEY, RFC 6458 §8.3.2).
    AddKey { number: u16, key: Box<Zeroizing<[u8; 64]>> },
    /// Authenticate with this key from now on (SCTP_AUTH_ACTIVE_KEY, §8.1.17).
    ActivateKey(u16),
    /// Delete this key (SCTP_AUTH_DELETE_KEY, §8.3.5).
    DeleteKey(u16),
    /// Shut the association down (SCTP_EOF, RFC 6458 §5.3.4): all sent messages arrive.
    ShutDown,
    /// Abort the association (SCTP_ABORT), and send the peer this reason.
    Abort(String),
}

impl fmt::Debug for Action {
    /// Omits the key.
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

/// Reason why a message was not sent. The session continues, except after `Broken`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The handshake is not complete. With TLS this is the handshake of the stream, which a client begins with this
    /// call: try again when the stream is open.
    NotOpen,
    /// This side has closed.
    Closed,
    /// The message is empty; OpenSSL drops empty records.
    Empty,
    /// The message is longer than a record can carry.
    TooLong { limit: usize },
    /// The message is unordered; TLS needs the order of a stream.
    Unordered,
    /// The message may be abandoned; TLS needs every record.
    Unreliable,
    /// The stream is not among those that are secured.
    NoSuchStream { streams: u16 },
    /// The session has failed.
    Broken(String),
}

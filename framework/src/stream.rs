//! Settings for streams of bytes (TCP, and TLS over it): framing and limits.

use crate::config::setters;

/// Defines what a message is on a stream of bytes. Both sides must use the same framing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Framing {
    /// No framing: a received message is whatever one read returned, up to the buffer's length, and a sent message goes
    /// out unchanged. Message boundaries are lost.
    #[default]
    Raw,
    /// Each message is a line. It is received without its `\n` or `\r\n`, and sent with a `\n` appended unless it ends
    /// with one. A message with several line ends arrives as several messages.
    Lines,
    /// A length field precedes each message: four bytes, big endian.
    LengthPrefixed,
}

/// Settings of TCP connections, with and without TLS.
///
/// A connection takes at most `max_message` bytes of memory for received data and `max_pending` (or one message, if
/// that is longer) for data to be sent, in addition to the kernel's buffers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpSettings {
    /// The framing. Default: [`Framing::Raw`].
    pub framing: Framing,
    /// The longest message, in bytes; with [`Framing::Raw`] the longest that a [`Sender`](crate::Sender) accepts in one
    /// call. A longer message from the peer is discarded and reported as
    /// [`Error::MessageRefused`](crate::Error::MessageRefused). Default: 64 KiB.
    pub max_message: usize,
    /// How many bytes may wait, beyond the kernel's send buffer, for a peer that does not read. A further message has
    /// to wait or is refused. Default: 256 KiB.
    pub max_pending: usize,
    /// Whether a peer may renegotiate a TLS 1.2 session (RFC 5246 §7.4.1.1), at most eight times. TLS 1.3 has no
    /// renegotiation. Default: `false`; the peer then gets a no_renegotiation alert.
    pub renegotiation: bool,
}

setters!(TcpSettings { framing: Framing, max_message: usize, max_pending: usize, renegotiation: bool });

impl Default for TcpSettings {
    fn default() -> Self {
        Self {
            framing: Framing::default(),
            max_message: 64 << 10,
            max_pending: 256 << 10,
            renegotiation: false,
        }
    }
}

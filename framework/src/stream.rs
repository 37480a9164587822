//! Streams of bytes (TCP, and TLS over it) as messages: what a handler chooses, and how it is done.

use crate::config::setters;

/// What a message is on a stream of bytes. Both sides have to mean the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Framing {
    /// Nothing: a message that is received is what a read found, up to the buffer's length, and what is sent
    /// goes out as it is. Boundaries are lost.
    #[default]
    Raw,
    /// A message is a line. It is received without its `\n` or `\r\n`, and sent with a `\n` behind it, unless it
    /// ends with one. A message with more of them arrives as several.
    Lines,
    /// A message has its length in front of it: four bytes, big endian.
    LengthPrefixed,
}

/// How TCP connections are used, in clear and with TLS.
///
/// A connection takes at most `max_message` bytes of memory for what comes and `max_pending`, or one message,
/// for what goes, beside the kernel's buffers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpSettings {
    /// What a message is. Default: [`Framing::Raw`].
    pub framing: Framing,
    /// The longest message, in bytes; with [`Framing::Raw`] the longest that a
    /// [`Sender`](crate::Sender) takes at once. A longer one that comes is thrown away and shows as
    /// [`Error::MessageRefused`](crate::Error::MessageRefused). Default: 64 KiB.
    pub max_message: usize,
    /// Bytes that wait for a peer that does not read, beyond the kernel's send buffer. A message that finds
    /// more than that has to wait, or is refused. Default: 256 KiB.
    pub max_pending: usize,
    /// Whether a peer may renegotiate a TLS 1.2 session (RFC 5246 §7.4.1.1), eight times at most. TLS 1.3 has
    /// no such thing. Default: `false`, it is told no_renegotiation.
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

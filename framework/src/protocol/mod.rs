//! Protocols without I/O: bytes in, bytes and events out. Nothing in this folder uses a socket, a thread, a clock or a
//! random source, so all of it runs in tests exactly as in a server.

pub(crate) mod alert;
pub(crate) mod deadlines;
pub mod dtls;
pub(crate) mod exporter;
pub(crate) mod sctp;
pub mod stream;

use crate::error::EndReason;

/// The longest plaintext of a record of TLS or DTLS, in bytes (RFC 6347 §4.1, RFC 5246 §6.2.1).
pub(crate) const RECORD_MAX: usize = 16_384;

/// The most bytes that a DTLS record has besides its plaintext: the header with the longest connection ID (RFC 9146
/// §4), the inner content type, the nonce, and the tag.
pub(crate) const RECORD_OVERHEAD_MAX: usize = 13 + 255 + 1 + 8 + 16;

/// Result of sending a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The message was sent. On UDP it may still be dropped, as any datagram.
    Done,
    /// The socket's send buffer is full; nothing was sent.
    Full,
    /// The kernel reports that the message is too long.
    TooLarge,
    /// The association has no such stream, the stream is not secured, or it cannot carry this kind of message.
    NoSuchStream,
    /// The message was encrypted and is kept until the send buffer has room; the worker has to flush it.
    Parked,
    /// The peer's address is not proven, and the message would exceed what may be sent to it; nothing was sent.
    Unproven,
    /// The peer has ended the association; buffered messages from it can still be read.
    Gone,
    /// The association has reached its maximum lifetime; nothing was sent.
    Expired,
    /// The session or its socket has failed; the association ends for this reason.
    Broken(EndReason),
}

/// Result of reading from a session.
#[derive(Debug)]
pub(crate) enum Read {
    /// One message of this many bytes is in the buffer.
    Message(usize),
    /// One message that is longer than the buffer, complete.
    Long(Vec<u8>),
    /// A message was longer than the limit and is lost.
    TooLong,
    /// The input contains no complete message.
    Nothing,
    /// The peer sent a close_notify.
    Closed,
    /// The peer sent a fatal alert, or OpenSSL reported an error.
    Broken(String),
    /// The peer restarted; the datagram is its ClientHello with a valid cookie.
    Restarted(Box<[u8]>),
}

impl Read {
    /// Copies a message into the buffer if it fits.
    pub(crate) fn message(message: &[u8], buffer: &mut [u8]) -> Self {
        match buffer.get_mut(..message.len()) {
            Some(room) => {
                room.copy_from_slice(message);
                Self::Message(message.len())
            }
            None => Self::Long(message.to_vec()),
        }
    }
}

//! Protocols without I/O: bytes in, bytes and events out. Nothing in this folder knows a socket, a thread, a clock or
//! a random source, so all of it runs in tests as it runs in a server.

pub(crate) mod alert;
pub mod dtls;
pub(crate) mod sctp;
pub mod stream;

/// The longest plaintext of a record of TLS or DTLS, in bytes (RFC 6347 §4.1, RFC 5246 §6.2.1).
pub(crate) const RECORD_MAX: usize = 16_384;

/// What sending a message came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It left, or as good: UDP promises no more.
    Done,
    /// The socket's send buffer is full; nothing was sent.
    Full,
    /// The kernel says that it is too long.
    TooLarge,
    /// The association has no such stream, or none that is secured, or not for this kind of message.
    NoSuchStream,
    /// Encrypted, and kept until the send buffer has room: the worker has to see to that.
    Parked,
    /// The address of the peer is not proven, and this would be too much for it; nothing was sent.
    Unproven,
    /// The peer has ended the association; what it said before can still be read.
    Gone,
    /// The session is of no use any more.
    Broken(String),
}

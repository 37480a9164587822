//! Protocols without I/O: bytes in, bytes and events out. Nothing in this folder knows a socket, a thread, a clock or
//! a random source, so all of it runs in tests as it runs in a server.

pub(crate) mod alert;
pub(crate) mod deadlines;
pub mod dtls;
pub(crate) mod exporter;
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
    /// The association has lasted for as long as it may; nothing was sent.
    Expired,
    /// The session is of no use any more.
    Broken(String),
}

/// What reading from a session came to.
#[derive(Debug)]
pub(crate) enum Read {
    /// One message of so many bytes is in the buffer.
    Message(usize),
    /// One message that is longer than the buffer: here is all of it.
    Long(Vec<u8>),
    /// A message was longer than the limit and is lost.
    TooLong,
    /// No message in what has come.
    Nothing,
    /// close_notify.
    Closed,
    /// A fatal alert, or an error of OpenSSL's.
    Broken(String),
    /// The peer began anew; the datagram is its ClientHello with a valid cookie.
    Restarted(Box<[u8]>),
}

impl Read {
    /// Puts a message into the buffer, if it has room for it.
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

//! Errors of a hand-over of a server from one process to another.

use std::io;

use crate::codec::Malformed;

/// Reason why a server was not handed over. The old process continues to serve, and the new one does not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandOverError {
    /// The descriptor is not an AF_UNIX socket of type SOCK_SEQPACKET; [`hand_over_sockets`](crate::hand_over_sockets)
    /// makes a pair.
    #[error("the descriptor is not a socket for a hand-over (AF_UNIX, SOCK_SEQPACKET)")]
    Unfit,
    /// The process at the other end runs as another user.
    #[error("the other process runs as user {uid}, not as the user of this one; start both as the same user")]
    OtherUser {
        /// Its effective user ID, as the kernel reports it.
        uid: u32,
    },
    /// The server is already being handed over, has been handed over, is shutting down, or still waits for its own
    /// predecessor to release peers.
    #[error(
        "the server is already being handed over, is shutting down, or still waits for its predecessor to end"
    )]
    Busy,
    /// The other process has ended or has closed the socket. Its log gives the reason.
    #[error("the other process has ended before the server was handed over; its log gives the reason")]
    Gone,
    /// The other process did not answer in time.
    #[error("the other process did not answer in time")]
    TimedOut,
    /// The dispatcher or an event loop did not stop within two seconds, or a send buffer stayed full.
    #[error("the server did not stop in time: a callback blocks, or a send buffer is full")]
    HeldUp,
    /// The other process sent a message that is not part of a hand-over, or that is truncated.
    #[error("the other process sent a message that is not part of a hand-over")]
    Malformed,
    /// A part of the server's state has more bytes than a message can carry.
    #[error("a message to the other process would be too long")]
    TooLong,
    /// A system call failed.
    #[error("the socket to the other process failed: {0}")]
    Io(#[source] io::Error),
}

impl From<Malformed> for HandOverError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

//! Why a server could not be handed over from one process to another.

use std::io;

use crate::codec::Malformed;

/// Why a server was not handed over. The process that has it goes on to serve, and the other one does not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandOverError {
    /// The descriptor is no socket of AF_UNIX and SOCK_SEQPACKET; [`hand_over_sockets`](crate::hand_over_sockets) makes a pair.
    #[error("the descriptor is no socket for a hand-over (AF_UNIX, SOCK_SEQPACKET)")]
    Unfit,
    /// The process at the other end runs as another user.
    #[error("the other process runs as user {uid}, and not as this one; start both as the same user")]
    OtherUser {
        /// Its effective user, as the kernel tells.
        uid: u32,
    },
    /// The server is being handed over already, has been, is shutting down, or has peers itself that the process before it has
    /// not let go of yet.
    #[error(
        "the server is being handed over already, shuts down, or is still waiting for the process before it to end"
    )]
    Busy,
    /// The other process has ended, or has closed the socket. What it logged says why.
    #[error("the other process has ended before the server was handed over; its log says why")]
    Gone,
    /// The other process did not answer in time.
    #[error("the other process did not answer in time")]
    TimedOut,
    /// The dispatcher or an event loop did not come to a stand within two seconds, or a send buffer stayed full.
    #[error("the server is held up and did not come to a stand: a callback blocks, or a send buffer is full")]
    HeldUp,
    /// The other process sent something that is no part of a hand-over, or is cut off.
    #[error("the other process sent something that is no part of a hand-over")]
    Malformed,
    /// Something has more bytes than a message takes.
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

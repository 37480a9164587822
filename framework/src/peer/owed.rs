//! How long a peer may take for its messages.

use std::time::Instant;

/// Since when the peer of a stream with a framing owes a message.
#[derive(Default)]
pub(super) struct Owed {
    /// The handler waits for the first one.
    pub(super) first: Option<Instant>,
    /// One has begun, and the handler waits for the rest.
    pub(super) rest: Option<Instant>,
}

//! Options for messages that a peer does not take.

use clap::{Args, ValueEnum};
use peeloff::{OutboxLimits, Overflow};

use crate::values::{Size, count};

/// What happens to a message for a peer whose outbox is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OverflowPolicy {
    /// Over UDP and DTLS the oldest message is dropped; over other transports the peer is disconnected.
    ByTransport,
    /// The oldest queued message is dropped.
    DropOldest,
    /// The new message is dropped.
    DropNewest,
    /// The peer is disconnected.
    Disconnect,
}

impl From<OverflowPolicy> for Overflow {
    fn from(policy: OverflowPolicy) -> Self {
        match policy {
            OverflowPolicy::ByTransport => Self::ByTransport,
            OverflowPolicy::DropOldest => Self::DropOldest,
            OverflowPolicy::DropNewest => Self::DropNewest,
            OverflowPolicy::Disconnect => Self::Disconnect,
        }
    }
}

/// Limits on what waits for a peer that event loops serve.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Serving")]
pub struct OutboxArgs {
    /// Queue at most this many messages for a peer that does not read.
    ///
    /// The limit applies with --serve loops, to messages that fit neither into the kernel's send buffer nor into
    /// --max-pending. With --serve threads the peer's thread waits for room instead, up to --send-timeout.
    #[arg(long, value_name = "N", value_parser = count::<usize>, default_value_t = OutboxLimits::default().max_messages)]
    pub outbox: usize,

    /// Queue at most this many bytes for a peer that does not read.
    #[arg(long, value_name = "BYTES", default_value_t = Size(OutboxLimits::default().max_bytes))]
    pub outbox_bytes: Size,

    /// Choose what happens to a message when --outbox or --outbox-bytes is reached.
    ///
    /// `by-transport` drops the oldest message over UDP and DTLS. Over SCTP, TCP and TLS it disconnects the peer, because
    /// these transports must not lose a message unnoticed.
    #[arg(long, value_name = "POLICY", default_value = "by-transport")]
    pub overflow: OverflowPolicy,
}

impl OutboxArgs {
    /// Returns the limits as the framework takes them.
    pub fn to_limits(self) -> OutboxLimits {
        OutboxLimits::default()
            .max_messages(self.outbox)
            .max_bytes(self.outbox_bytes.0)
            .overflow(self.overflow.into())
    }
}

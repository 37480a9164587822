//! What only SCTP has: streams, payload protocol identifiers, several addresses, partial
//! reliability, notifications ([RFC 6458](https://www.rfc-editor.org/rfc/rfc6458),
//! [sctp(7)](https://man7.org/linux/man-pages/man7/sctp.7.html)).
//!
//! A handler that does not care needs nothing of this: [`Peer::recv`](crate::Peer::recv) and
//! [`Peer::send`](crate::Peer::send) carry messages on any transport.

mod cause;
mod notification;
mod options;
mod settings;
pub(crate) mod sockaddr;
mod socket;

use std::fmt;
use std::time::Duration;

use crate::config::setters;

pub use cause::{ErrorCause, error_causes, user_abort_reason};
pub use notification::{
    AssociationState, KeyEvent, MalformedNotification, Notification, NotificationKind, Outcome, PathState,
};
pub use options::{
    AssociationCounters, AssociationParameters, AssociationPhase, DelayedSack, FragmentInterleave, Heartbeat,
    HmacAlgorithm, InitParameters, MtuChange, Options, PathChange, PathInfo, PathParameters,
    PathReachability, PathThresholds, Policy, PrStatus, ResetDirection, Rto, SackDelay, Status,
    StreamRequests, StreamScheduler,
};
pub use settings::Settings;
pub use socket::{Received, Socket, is_supported};

/// The kernel's number for an association, which names it on a one-to-many socket (`sctp_assoc_t`,
/// RFC 6458).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AssocId(i32);

impl AssocId {
    /// Associations to come on a one-to-many socket, and the one association of any other socket
    /// (SCTP_FUTURE_ASSOC). The default.
    pub const FUTURE: Self = Self(0);
    /// All associations that exist on a one-to-many socket (SCTP_CURRENT_ASSOC); for setting only.
    pub const CURRENT: Self = Self(1);
    /// Both (SCTP_ALL_ASSOC); for setting only.
    pub const ALL: Self = Self(2);

    /// The association with this number of the kernel's.
    pub const fn from_raw(number: i32) -> Self {
        Self(number)
    }

    /// The kernel's number.
    pub const fn as_raw(self) -> i32 {
        self.0
    }
}

impl fmt::Display for AssocId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How one message is sent (`struct sctp_sndinfo` and `struct sctp_prinfo`, RFC 6458 §5.3.4 and
/// §5.3.7). The default is stream 0, payload protocol identifier 0, ordered and reliable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct SendInfo {
    /// The stream, below the number of outgoing streams.
    pub stream: u16,
    /// The payload protocol identifier, as a number (network byte order on the wire).
    pub ppid: u32,
    /// Whether the message may overtake others of its stream.
    pub unordered: bool,
    /// How hard the kernel tries.
    pub reliability: Reliability,
    /// Comes back in a notification that the message could not be sent.
    pub context: u32,
}

setters!(SendInfo { stream: u16, ppid: u32, unordered: bool, reliability: Reliability, context: u32 });

/// How hard the kernel tries to bring a message to the peer (RFC 7496, RFC 3758). Only a peer that
/// supports partial reliability lets it give up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reliability {
    /// As long as the association lives.
    #[default]
    Reliable,
    /// For this long at most, counted in milliseconds.
    Lifetime(Duration),
    /// With this many retransmissions at most.
    Retransmissions(u32),
    /// Until the send buffer has no room for a message of higher priority; 0 is the highest.
    Priority(u32),
}

/// What came with a message (`struct sctp_rcvinfo`, RFC 6458 §5.3.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct MessageInfo {
    /// The stream that it came on.
    pub stream: u16,
    /// The payload protocol identifier, as a number (network byte order on the wire).
    pub ppid: u32,
    /// Whether it may have overtaken others of its stream.
    pub unordered: bool,
    /// The stream sequence number; means nothing for an unordered message.
    pub ssn: u16,
    /// The transmission sequence number of its first chunk.
    pub tsn: u32,
    /// The cumulative TSN when it was delivered.
    pub cumulative_tsn: u32,
    /// What [`Options::set_context`] said for the association.
    pub context: u32,
}

impl MessageInfo {
    /// How to answer on the same stream, with the same identifier and order.
    pub fn reply(&self) -> SendInfo {
        SendInfo { stream: self.stream, ppid: self.ppid, unordered: self.unordered, ..SendInfo::default() }
    }
}

/// What is known of the message behind the one just received (`struct sctp_nxtinfo`, RFC 6458 §5.3.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct NextInfo {
    /// The stream that it came on.
    pub stream: u16,
    /// The payload protocol identifier, as a number.
    pub ppid: u32,
    /// Whether it may have overtaken others of its stream.
    pub unordered: bool,
    /// Whether it is a notification.
    pub notification: bool,
    /// Its bytes, as far as they have arrived.
    pub len: u32,
    /// The association that it came on.
    pub association: AssocId,
}

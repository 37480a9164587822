//! Features that only SCTP has: streams, payload protocol identifiers, multi-homing, partial reliability and
//! notifications ([RFC 6458](https://www.rfc-editor.org/rfc/rfc6458),
//! [sctp(7)](https://man7.org/linux/man-pages/man7/sctp.7.html)).
//!
//! A handler that does not use these features needs nothing of this module: [`Peer::recv`](crate::Peer::recv) and
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

/// The kernel's identifier of an association on a one-to-many socket (`sctp_assoc_t`, RFC 6458).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AssocId(i32);

impl AssocId {
    /// Future associations on a one-to-many socket, and the one association of any other socket (SCTP_FUTURE_ASSOC).
    /// The default.
    pub const FUTURE: Self = Self(0);
    /// All existing associations on a one-to-many socket (SCTP_CURRENT_ASSOC); only for setting options.
    pub const CURRENT: Self = Self(1);
    /// All existing and future associations (SCTP_ALL_ASSOC); only for setting options.
    pub const ALL: Self = Self(2);

    /// Returns the identifier with this number from the kernel.
    pub const fn from_raw(number: i32) -> Self {
        Self(number)
    }

    /// Returns the kernel's number.
    pub const fn as_raw(self) -> i32 {
        self.0
    }
}

impl fmt::Display for AssocId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Options for sending one message (`struct sctp_sndinfo` and `struct sctp_prinfo`, RFC 6458 §5.3.4 and §5.3.7). The
/// default is stream 0, payload protocol identifier 0, ordered and reliable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct SendInfo {
    /// The stream; smaller than the number of outgoing streams.
    pub stream: u16,
    /// The payload protocol identifier, as a number (network byte order on the wire).
    pub ppid: u32,
    /// Whether the message may overtake others of its stream.
    pub unordered: bool,
    /// When the kernel may abandon the message.
    pub reliability: Reliability,
    /// A number that is returned in the notification if the message could not be sent.
    pub context: u32,
}

setters!(SendInfo { stream: u16, ppid: u32, unordered: bool, reliability: Reliability, context: u32 });

/// When the kernel may abandon a message instead of retransmitting it (RFC 7496, RFC 3758). It can only do so if the
/// peer supports partial reliability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reliability {
    /// Never, while the association lives.
    #[default]
    Reliable,
    /// After this time, in milliseconds.
    Lifetime(Duration),
    /// After this many retransmissions.
    Retransmissions(u32),
    /// When the send buffer has no room for a message of higher priority; 0 is the highest.
    Priority(u32),
}

/// Metadata of a received message (`struct sctp_rcvinfo`, RFC 6458 §5.3.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct MessageInfo {
    /// The stream of the message.
    pub stream: u16,
    /// The payload protocol identifier, as a number (network byte order on the wire).
    pub ppid: u32,
    /// Whether the message is unordered, so that it may have overtaken others of its stream.
    pub unordered: bool,
    /// The stream sequence number; without meaning for an unordered message.
    pub ssn: u16,
    /// The transmission sequence number of its first chunk.
    pub tsn: u32,
    /// The cumulative TSN at the time of delivery.
    pub cumulative_tsn: u32,
    /// The value that [`Options::set_context`] set for the association.
    pub context: u32,
}

impl MessageInfo {
    /// Returns the options for an answer on the same stream, with the same identifier and order.
    pub fn reply(&self) -> SendInfo {
        SendInfo { stream: self.stream, ppid: self.ppid, unordered: self.unordered, ..SendInfo::default() }
    }
}

/// Metadata of the message after the one just received (`struct sctp_nxtinfo`, RFC 6458 §5.3.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct NextInfo {
    /// The stream of the message.
    pub stream: u16,
    /// The payload protocol identifier, as a number.
    pub ppid: u32,
    /// Whether the message is unordered, so that it may have overtaken others of its stream.
    pub unordered: bool,
    /// Whether it is a notification.
    pub notification: bool,
    /// The number of its bytes that have arrived.
    pub len: u32,
    /// The association of the message.
    pub association: AssocId,
}

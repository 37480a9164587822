//! Notifications: events that the kernel reports between the messages of an association (RFC 6458 §6).

use std::net::SocketAddr;

use super::cause::{ErrorCause, user_abort_reason};
use super::{AssocId, Reliability, SendInfo, sockaddr};

/// An event of an association. It is read in place of a message
/// ([`Received::notification`](super::Received::notification)) if the socket has subscribed to its kind
/// ([`Options::subscribe`](super::Options::subscribe)).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notification {
    /// An association has begun or ended (SCTP_ASSOC_CHANGE, RFC 6458 §6.1.1).
    AssociationChanged {
        /// The association.
        association: AssocId,
        /// Its new state.
        state: AssociationState,
        /// The error cause, if one was given. Linux writes it in network byte order; this is the number.
        error: Option<ErrorCause>,
        /// Streams that this side may send on.
        outbound_streams: u16,
        /// Streams that the peer may send on.
        inbound_streams: u16,
        /// The causes in the ABORT chunk that ended the association, for [`error_causes`](super::error_causes) and
        /// [`user_abort_reason`]. Linux leaves out the chunk's header, which RFC 6458 includes.
        info: Vec<u8>,
    },
    /// The state of an address of the peer has changed (SCTP_PEER_ADDR_CHANGE, RFC 6458 §6.1.2).
    PathChanged {
        /// The association.
        association: AssocId,
        /// The address.
        address: SocketAddr,
        /// Its new state.
        state: PathState,
        /// The kernel's error number (`enum sctp_sn_error`); 0 if it gives none.
        error: u32,
    },
    /// The peer reported an error with an ERROR chunk (SCTP_REMOTE_ERROR, RFC 6458 §6.1.3).
    RemoteError {
        /// The association.
        association: AssocId,
        /// The first cause.
        error: ErrorCause,
        /// The contents of the cause, padded to four bytes. Linux leaves out the cause's header.
        data: Vec<u8>,
    },
    /// A message was abandoned or could not be sent any more (SCTP_SEND_FAILED, RFC 6458 §6.1.4, and
    /// SCTP_SEND_FAILED_EVENT, §6.1.11). There is one notification for every chunk of a long message.
    SendFailed {
        /// The association.
        association: AssocId,
        /// Whether this is the deprecated event of RFC 6458 §6.1.4.
        deprecated: bool,
        /// Whether the message was transmitted at least once; the peer may even have received it.
        transmitted: bool,
        /// The kernel's error number; 0 if it gives none.
        error: u32,
        /// The options of the send, without the reliability.
        info: SendInfo,
        /// Whether `payload` is the beginning of the message.
        first: bool,
        /// Whether `payload` is the end of the message.
        last: bool,
        /// The message, or the part of it that one chunk carried.
        payload: Vec<u8>,
    },
    /// The peer will not send anything more (SCTP_SHUTDOWN_EVENT, RFC 6458 §6.1.5).
    PeerShutDown {
        /// The association.
        association: AssocId,
    },
    /// The number that the peer set with [`Options::set_adaptation_layer`](super::Options::set_adaptation_layer)
    /// (SCTP_ADAPTATION_INDICATION, RFC 6458 §6.1.6).
    AdaptationIndication {
        /// The association.
        association: AssocId,
        /// The peer's number.
        indication: u32,
    },
    /// The rest of a partly delivered message will not arrive (SCTP_PARTIAL_DELIVERY_EVENT, RFC 6458 §6.1.7).
    PartialDelivery {
        /// The association.
        association: AssocId,
        /// Whether the delivery was aborted; no other event is defined.
        aborted: bool,
        /// The stream of the message.
        stream: u32,
        /// The stream sequence number of the message.
        sequence: u32,
    },
    /// A key is used now or no longer, or the peer does not authenticate (SCTP_AUTHENTICATION_EVENT, RFC 6458 §6.1.8).
    Authentication {
        /// The association.
        association: AssocId,
        /// The event.
        event: KeyEvent,
        /// The number of the key.
        key: u16,
        /// The number of another key, for which RFC 6458 has a field; on Linux always 0.
        alternate: u16,
    },
    /// All sent data has been acknowledged (SCTP_SENDER_DRY_EVENT, RFC 6458 §6.1.9).
    SenderDry {
        /// The association.
        association: AssocId,
    },
    /// Streams were reset to sequence number 0, or the reset failed (SCTP_STREAM_RESET_EVENT, RFC 6525 §6.1.1).
    StreamsReset {
        /// The association.
        association: AssocId,
        /// Whether the streams are those of the peer's messages.
        inbound: bool,
        /// Whether the streams are those of this side's messages.
        outbound: bool,
        /// The outcome of the request.
        outcome: Outcome,
        /// The streams; an empty list stands for all.
        streams: Vec<u16>,
    },
    /// All streams and the transmission sequence numbers were reset, or the reset failed (SCTP_ASSOC_RESET_EVENT, RFC
    /// 6525 §6.1.2).
    AssociationReset {
        /// The association.
        association: AssocId,
        /// The outcome of the request.
        outcome: Outcome,
        /// The next transmission sequence number of this side.
        local_tsn: u32,
        /// The next transmission sequence number of the peer.
        remote_tsn: u32,
    },
    /// Streams were added, or the request failed (SCTP_STREAM_CHANGE_EVENT, RFC 6525 §6.1.3).
    StreamsAdded {
        /// The association.
        association: AssocId,
        /// The outcome of the request.
        outcome: Outcome,
        /// Streams that the peer may send on: the total according to RFC 6525, on Linux the added ones.
        inbound_streams: u16,
        /// Streams that this side may send on: the total according to RFC 6525, on Linux the added ones.
        outbound_streams: u16,
    },
    /// A notification of a kind that this library does not know.
    Unknown {
        /// The type.
        kind: u16,
        /// The flags.
        flags: u16,
        /// The bytes after the header.
        data: Vec<u8>,
    },
}

/// The new state of an association (`sac_state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AssociationState {
    /// The association is established; the first notification of any association (SCTP_COMM_UP).
    Up,
    /// The association is lost: it was aborted, or the peer no longer answers (SCTP_COMM_LOST).
    Lost,
    /// The peer lost the association and established it again (SCTP_RESTART). For the layers above, that is another
    /// peer.
    Restarted,
    /// The association was shut down gracefully (SCTP_SHUTDOWN_COMP).
    ShutDown,
    /// The association could not be established (SCTP_CANT_STR_ASSOC).
    CannotStart,
    /// A state that this library does not know.
    Other(u16),
}

/// The new state of an address of the peer (`spc_state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PathState {
    /// The address answers (SCTP_ADDR_AVAILABLE).
    Available,
    /// The address does not answer (SCTP_ADDR_UNREACHABLE).
    Unreachable,
    /// The address no longer belongs to the peer (SCTP_ADDR_REMOVED).
    Removed,
    /// The address now belongs to the peer (SCTP_ADDR_ADDED).
    Added,
    /// The address is now the primary one (SCTP_ADDR_MADE_PRIM).
    MadePrimary,
    /// The address has answered for the first time (SCTP_ADDR_CONFIRMED).
    Confirmed,
    /// The address may have failed (SCTP_ADDR_POTENTIALLY_FAILED, RFC 7829); reported only with
    /// [`Options::set_expose_potentially_failed`](super::Options::set_expose_potentially_failed).
    PotentiallyFailed,
    /// A state that this library does not know.
    Other(u32),
}

/// An event of a key (`auth_indication`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyEvent {
    /// The peer uses the key now (SCTP_AUTH_NEW_KEY).
    New,
    /// Neither side uses the key any more, so it may be deleted (SCTP_AUTH_FREE_KEY).
    Free,
    /// The peer does not authenticate (SCTP_AUTH_NO_AUTH).
    NoAuthentication,
    /// An event that this library does not know.
    Other(u32),
}

/// Outcome of a request to change streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The request was carried out.
    Done,
    /// The peer refused the request.
    Denied,
    /// The request failed.
    Failed,
}

/// The kinds of notification that a socket can subscribe to, with the kernel's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
#[non_exhaustive]
pub enum NotificationKind {
    /// [`Notification::AssociationChanged`]
    AssociationChanged = 0x8001,
    /// [`Notification::PathChanged`]
    PathChanged,
    /// [`Notification::SendFailed`] of RFC 6458 §6.1.4, deprecated.
    SendFailedDeprecated,
    /// [`Notification::RemoteError`]
    RemoteError,
    /// [`Notification::PeerShutDown`]
    PeerShutDown,
    /// [`Notification::PartialDelivery`]
    PartialDelivery,
    /// [`Notification::AdaptationIndication`]
    AdaptationIndication,
    /// [`Notification::Authentication`]
    Authentication,
    /// [`Notification::SenderDry`]
    SenderDry,
    /// [`Notification::StreamsReset`]
    StreamsReset,
    /// [`Notification::AssociationReset`]
    AssociationReset,
    /// [`Notification::StreamsAdded`]
    StreamsAdded,
    /// [`Notification::SendFailed`]
    SendFailed,
}

impl NotificationKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 13] = [
        Self::AssociationChanged,
        Self::PathChanged,
        Self::SendFailedDeprecated,
        Self::RemoteError,
        Self::PeerShutDown,
        Self::PartialDelivery,
        Self::AdaptationIndication,
        Self::Authentication,
        Self::SenderDry,
        Self::StreamsReset,
        Self::AssociationReset,
        Self::StreamsAdded,
        Self::SendFailed,
    ];

    /// Returns the kernel's number (`enum sctp_sn_type`).
    pub const fn number(self) -> u16 {
        self as u16
    }
}

/// Error for bytes that are not a notification: too short, or shorter than their length field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a malformed SCTP notification")]
pub struct MalformedNotification;

impl Notification {
    /// Parses a notification that is complete in `bytes`; bytes after it are ignored. It accesses only these bytes and
    /// never panics.
    ///
    /// # Errors
    ///
    /// [`MalformedNotification`] if its length field exceeds the number of bytes, or is too small for its kind.
    pub fn parse(bytes: &[u8]) -> Result<Self, MalformedNotification> {
        Self::read(bytes).ok_or(MalformedNotification)
    }

    /// Returns the association of the notification; `None` for an unknown kind.
    pub fn association(&self) -> Option<AssocId> {
        match *self {
            Self::AssociationChanged { association, .. }
            | Self::PathChanged { association, .. }
            | Self::RemoteError { association, .. }
            | Self::SendFailed { association, .. }
            | Self::PeerShutDown { association }
            | Self::AdaptationIndication { association, .. }
            | Self::PartialDelivery { association, .. }
            | Self::Authentication { association, .. }
            | Self::SenderDry { association }
            | Self::StreamsReset { association, .. }
            | Self::AssociationReset { association, .. }
            | Self::StreamsAdded { association, .. } => Some(association),
            Self::Unknown { .. } => None,
        }
    }

    /// Returns the kind; `None` for an unknown one.
    pub fn kind(&self) -> Option<NotificationKind> {
        use NotificationKind as Kind;
        Some(match self {
            Self::AssociationChanged { .. } => Kind::AssociationChanged,
            Self::PathChanged { .. } => Kind::PathChanged,
            Self::RemoteError { .. } => Kind::RemoteError,
            Self::SendFailed { deprecated: true, .. } => Kind::SendFailedDeprecated,
            Self::SendFailed { .. } => Kind::SendFailed,
            Self::PeerShutDown { .. } => Kind::PeerShutDown,
            Self::AdaptationIndication { .. } => Kind::AdaptationIndication,
            Self::PartialDelivery { .. } => Kind::PartialDelivery,
            Self::Authentication { .. } => Kind::Authentication,
            Self::SenderDry { .. } => Kind::SenderDry,
            Self::StreamsReset { .. } => Kind::StreamsReset,
            Self::AssociationReset { .. } => Kind::AssociationReset,
            Self::StreamsAdded { .. } => Kind::StreamsAdded,
            Self::Unknown { .. } => return None,
        })
    }

    /// Returns why the peer ended an association that was lost: the reason that its user gave, or else the error cause;
    /// `None` if neither was given.
    pub fn cause(&self) -> Option<String> {
        let Self::AssociationChanged { error, info, .. } = self else { return None };
        let clean = |reason: String| {
            let clean: String = reason.chars().filter(|c| !c.is_control()).take(200).collect();
            if clean.is_empty() { "no reason given".to_owned() } else { clean }
        };
        let given = user_abort_reason(info).map(clean);
        let cause = || super::error_causes(info).next().map(|(cause, _)| cause).or(*error);
        given.or_else(|| cause().map(|cause| cause.to_string()))
    }

    /// Returns the reason that the peer's user gave for an abort ([`user_abort_reason`]).
    pub fn abort_reason(&self) -> Option<String> {
        match self {
            Self::AssociationChanged { info, .. } => user_abort_reason(info),
            _ => None,
        }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut header = Fields(bytes);
        let (kind, flags, len) = (header.half()?, header.half()?, header.word()?);
        let mut fields = Fields(bytes.get(8..usize::try_from(len).ok()?)?);
        Some(match NotificationKind::ALL.into_iter().find(|known| known.number() == kind) {
            None => Self::Unknown { kind, flags, data: fields.0.to_vec() },
            Some(NotificationKind::AssociationChanged) => {
                let state = match fields.half()? {
                    0 => AssociationState::Up,
                    1 => AssociationState::Lost,
                    2 => AssociationState::Restarted,
                    3 => AssociationState::ShutDown,
                    4 => AssociationState::CannotStart,
                    other => AssociationState::Other(other),
                };
                let error = u16::from_be(fields.half()?);
                Self::AssociationChanged {
                    state,
                    error: (error != 0).then_some(ErrorCause::new(error)),
                    outbound_streams: fields.half()?,
                    inbound_streams: fields.half()?,
                    association: fields.association()?,
                    info: fields.0.to_vec(),
                }
            }
            Some(NotificationKind::PathChanged) => {
                let (address, _) = sockaddr::parse(fields.take(128)?)?;
                let state = match fields.word()? {
                    0 => PathState::Available,
                    1 => PathState::Unreachable,
                    2 => PathState::Removed,
                    3 => PathState::Added,
                    4 => PathState::MadePrimary,
                    5 => PathState::Confirmed,
                    6 => PathState::PotentiallyFailed,
                    other => PathState::Other(other),
                };
                let error = fields.word()?;
                Self::PathChanged { association: fields.association()?, address, state, error }
            }
            Some(NotificationKind::RemoteError) => {
                let error = ErrorCause::new(u16::from_be(fields.half()?));
                fields.half()?; // Padding.
                Self::RemoteError { error, association: fields.association()?, data: fields.0.to_vec() }
            }
            Some(kind @ (NotificationKind::SendFailed | NotificationKind::SendFailedDeprecated)) => {
                let deprecated = kind == NotificationKind::SendFailedDeprecated;
                let error = fields.word()?;
                let (stream, chunk_flags, ppid, context) =
                    if deprecated { fields.sndrcvinfo()? } else { fields.sndinfo()? };
                // Linux stores the flags of the DATA chunk here (RFC 9260 §3.3.1), not those of sndinfo.
                let unordered = chunk_flags & 4 != 0;
                Self::SendFailed {
                    deprecated,
                    transmitted: flags != 0,
                    error,
                    info: SendInfo { stream, ppid, unordered, reliability: Reliability::Reliable, context },
                    first: chunk_flags & 2 != 0,
                    last: chunk_flags & 1 != 0,
                    association: fields.association()?,
                    payload: fields.0.to_vec(),
                }
            }
            Some(NotificationKind::PeerShutDown) => Self::PeerShutDown { association: fields.association()? },
            Some(NotificationKind::AdaptationIndication) => {
                Self::AdaptationIndication { indication: fields.word()?, association: fields.association()? }
            }
            Some(NotificationKind::PartialDelivery) => Self::PartialDelivery {
                aborted: fields.word()? == 0,
                association: fields.association()?,
                stream: fields.word()?,
                sequence: fields.word()?,
            },
            Some(NotificationKind::Authentication) => {
                let (key, alternate) = (fields.half()?, fields.half()?);
                let event = match fields.word()? {
                    0 => KeyEvent::New,
                    1 => KeyEvent::Free,
                    2 => KeyEvent::NoAuthentication,
                    other => KeyEvent::Other(other),
                };
                Self::Authentication { event, key, alternate, association: fields.association()? }
            }
            Some(NotificationKind::SenderDry) => Self::SenderDry { association: fields.association()? },
            Some(NotificationKind::StreamsReset) => Self::StreamsReset {
                association: fields.association()?,
                inbound: flags & 1 != 0,
                outbound: flags & 2 != 0,
                outcome: outcome(flags),
                streams: fields.0.as_chunks().0.iter().map(|&stream| u16::from_ne_bytes(stream)).collect(),
            },
            Some(NotificationKind::AssociationReset) => Self::AssociationReset {
                association: fields.association()?,
                outcome: outcome(flags),
                local_tsn: fields.word()?,
                remote_tsn: fields.word()?,
            },
            Some(NotificationKind::StreamsAdded) => Self::StreamsAdded {
                association: fields.association()?,
                outcome: outcome(flags),
                inbound_streams: fields.half()?,
                outbound_streams: fields.half()?,
            },
        })
    }
}

/// Reads the outcome from the flags: SCTP_STREAM_RESET_DENIED is 4 and SCTP_STREAM_RESET_FAILED 8, with the same values
/// for the others.
fn outcome(flags: u16) -> Outcome {
    match flags {
        _ if flags & 4 != 0 => Outcome::Denied,
        _ if flags & 8 != 0 => Outcome::Failed,
        _ => Outcome::Done,
    }
}

/// Reads the fields of a C structure one after another.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn half(&mut self) -> Option<u16> {
        self.take(2)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
    }

    fn word(&mut self) -> Option<u32> {
        self.take(4)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
    }

    fn association(&mut self) -> Option<AssocId> {
        self.word().map(|number| AssocId::from_raw(number.cast_signed()))
    }

    /// Reads stream, flags, payload protocol identifier and context of a `struct sctp_sndinfo`.
    fn sndinfo(&mut self) -> Option<(u16, u16, u32, u32)> {
        let info = (self.half()?, self.half()?, u32::from_be(self.word()?), self.word()?);
        self.word()?; // The association, which comes again.
        Some(info)
    }

    /// Reads the same of a `struct sctp_sndrcvinfo`.
    fn sndrcvinfo(&mut self) -> Option<(u16, u16, u32, u32)> {
        let stream = self.half()?;
        self.half()?; // The stream sequence number.
        let flags = self.half()?;
        self.half()?; // Padding.
        let (ppid, context) = (u32::from_be(self.word()?), self.word()?);
        self.take(16)?; // Time to live, two TSNs, and the association, which comes again.
        Some((stream, flags, ppid, context))
    }
}

#[cfg(test)]
mod tests;

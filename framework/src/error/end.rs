//! Reasons why associations end.

use std::fmt;
use std::io;

/// Reason why an association has ended.
///
/// The reason comes from the side that ended the association first, even if the handler has not read the peer's close
/// yet. The table shows what a server reports; for a client, exchange the sides:
///
/// | what happens | `udp` | `dtls` | `tcp` | `tls` | `sctp` | `sctp+tls`, `sctp+dtls` |
/// |---|---|---|---|---|---|---|
/// | the peer closes, and the handler reads that | (idle) | closed_by_peer | closed_by_peer | closed_by_peer | closed_by_peer | closed_by_peer |
/// | the peer closes, and the handler returns without reading that | closed_by_us | closed_by_peer | closed_by_peer | closed_by_peer | closed_by_peer | closed_by_peer |
/// | the peer closes, and a send of the handler fails | (no send fails) | (no send fails) | closed_by_peer | closed_by_peer | closed_by_peer | closed_by_peer |
/// | the handler returns, or a thread calls `close` | closed_by_us | closed_by_us | closed_by_us | closed_by_us | closed_by_us | closed_by_us |
/// | the peer aborts or resets | (idle) | protocol (a fatal alert) | aborted | aborted | aborted | aborted |
/// | the peer's process dies | (idle) | (idle) | closed_by_peer | truncated | closed_by_peer | truncated |
/// | the same, with unread data in its socket | (idle) | (idle) | aborted | aborted | aborted | aborted |
/// | the peer's host disappears | (idle) | (idle) | unreachable, once something is sent | as `tcp` | unreachable | unreachable |
/// | the peer does not read what is sent to it | (messages are lost) | (messages are lost) | too_slow | too_slow | too_slow | too_slow |
/// | the peer sends a message that is too long, and the handler returns that error | (cannot happen) | (cannot happen) | message_refused | message_refused | message_refused | (cannot happen) |
/// | the peer is silent; reaches its lifetime; the server drains | idle; lifetime; shutdown | the same | the same | the same | the same | the same |
///
/// Parentheses mean that the protocol cannot report the event; the idle timeout then ends the association.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// The peer closed: with a close_notify (RFC 5246 §7.2.1), on SCTP a SHUTDOWN, on TCP without TLS a FIN.
    ClosedByPeer,
    /// The handler returned, or a thread called `close`.
    ClosedByUs,
    /// Nothing authentic has arrived from the peer for [`Timeouts::idle`](crate::Timeouts::idle).
    Idle,
    /// [`Timeouts::lifetime`](crate::Timeouts::lifetime) has passed.
    Lifetime,
    /// The server shut down: the grace period ended, or the handler finished within it.
    Shutdown,
    /// The peer began a new association from the same address and port, with a valid cookie (RFC 6347 §4.2.8).
    Replaced,
    /// The handshake, or the wait for a PROXY header, was evicted for a newer one, because their number had reached its
    /// limit.
    Evicted,
    /// The handshake was not complete after [`Timeouts::handshake`](crate::Timeouts::handshake).
    HandshakeTimedOut,
    /// The handshake failed; the text is OpenSSL's message or the name of an alert.
    HandshakeFailed(String),
    /// The peer sent a fatal alert, or OpenSSL reported a protocol error of the peer.
    Protocol(String),
    /// The handler returned an error.
    HandlerFailed,
    /// The handler panicked.
    HandlerPanicked,
    /// A system call on the association's socket failed permanently.
    Io(io::ErrorKind),
    /// No thread could be started for the peer, and too many peers were waiting for one.
    NoThread,
    /// The peer aborted the SCTP association (RFC 9260 §9.1), or reset the TCP connection (RFC 9293 §3.5.2); the text
    /// is its reason.
    Aborted(String),
    /// The peer does not answer on any of its addresses: neither retransmissions and heartbeats of SCTP
    /// ([`Settings::dead_after`](crate::sctp::Settings::dead_after)), nor retransmissions of TCP (ETIMEDOUT, or the last
    /// ICMP error before it).
    Unreachable,
    /// The peer's TLS connection, or its secured SCTP association, ended without a close_notify (RFC 8446 §6.1, RFC
    /// 6083 §4.7), so an attacker on the path may have truncated it.
    Truncated,
    /// The peer does not take what is sent to it: its outbox ([`OutboxLimits`](crate::OutboxLimits)) was full, the
    /// handler returned [`Error::SendBufferFull`](crate::Error::SendBufferFull), or on SCTP the peer acknowledged no
    /// data for [`Settings::dead_after`](crate::sctp::Settings::dead_after) although it acknowledged heartbeats. SCTP
    /// aborts the association, TCP resets the connection.
    TooSlow,
    /// The peer proved its identity and was not authorized; the text gives the reason
    /// ([`Credentials::authorize`](crate::Credentials::authorize),
    /// [`Credentials::revoked`](crate::Credentials::revoked)).
    NotAuthorized(String),
    /// Another process has taken over the peer, which does not notice
    /// ([`Handle::hand_over`](crate::Handle::hand_over)).
    HandedOver,
    /// The peer of a stream with a framing sent no complete message within
    /// [`Timeouts::first_message`](crate::Timeouts::first_message).
    NoFirstMessage,
    /// The peer began a message and did not complete it within [`Timeouts::frame`](crate::Timeouts::frame).
    FrameTimedOut,
    /// The peer sent a message longer than `limit` bytes, and the handler returned that error
    /// ([`Error::MessageRefused`](crate::Error::MessageRefused)). SCTP aborts the association with this reason, TCP
    /// resets the connection.
    MessageRefused {
        /// The longest message that is accepted, in bytes.
        limit: usize,
    },
}

impl EndReason {
    /// Returns whether nothing went wrong. After an orderly end [`Peer::recv`](crate::Peer::recv) returns `Ok(None)`
    /// rather than an error.
    pub fn is_orderly(&self) -> bool {
        matches!(
            self,
            Self::ClosedByPeer
                | Self::ClosedByUs
                | Self::Idle
                | Self::NoFirstMessage
                | Self::Lifetime
                | Self::Shutdown
                | Self::Replaced
                | Self::HandedOver
        )
    }
}

/// Declares [`EndKind`] from the variants of [`EndReason`] and their names.
macro_rules! end_kinds {
    ($($variant:ident $name:literal,)*) => {
        /// The kinds of [`EndReason`], without the details of the reasons; [`EndReason::kind`] returns one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum EndKind {
            $(
                #[doc = concat!("[`EndReason::", stringify!($variant), "`], called `", $name, "`.")]
                $variant,
            )*
        }

        impl EndKind {
            /// All kinds.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Returns the name in snake case, for log lines and labels of metrics.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }

        impl EndReason {
            /// Returns the kind, under which [`Stats::ended`](crate::Stats::ended) counts the end.
            pub const fn kind(&self) -> EndKind {
                match self {
                    $(Self::$variant { .. } => EndKind::$variant,)*
                }
            }
        }
    };
}

end_kinds! {
    ClosedByPeer "closed_by_peer",
    ClosedByUs "closed_by_us",
    Idle "idle",
    Lifetime "lifetime",
    Shutdown "shutdown",
    Replaced "replaced",
    HandedOver "handed_over",
    Evicted "evicted",
    HandshakeTimedOut "handshake_timed_out",
    HandshakeFailed "handshake_failed",
    Protocol "protocol",
    HandlerFailed "handler_failed",
    HandlerPanicked "handler_panicked",
    Io "io",
    NoThread "no_thread",
    Aborted "aborted",
    Unreachable "unreachable",
    Truncated "truncated",
    TooSlow "too_slow",
    NotAuthorized "not_authorized",
    NoFirstMessage "no_first_message",
    FrameTimedOut "frame_timed_out",
    MessageRefused "message_refused",
}

impl EndKind {
    /// Returns the position in [`ALL`](Self::ALL), for an array of counters.
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for EndKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClosedByPeer => f.write_str("the peer closed"),
            Self::ClosedByUs => f.write_str("closed by this side"),
            Self::Idle => f.write_str("the peer was silent for the idle timeout"),
            Self::Lifetime => f.write_str("the lifetime has passed"),
            Self::Shutdown => f.write_str("the server shut down"),
            Self::Replaced => f.write_str("the peer began a new association from the same port"),
            Self::HandedOver => f.write_str("another process serves the peer"),
            Self::Evicted => f.write_str("the handshake was evicted for a newer one"),
            Self::HandshakeTimedOut => f.write_str("the handshake was not complete in time"),
            Self::HandshakeFailed(why) => write!(f, "the handshake failed: {why}"),
            Self::Protocol(why) => write!(f, "protocol error: {why}"),
            Self::HandlerFailed => f.write_str("the handler returned an error"),
            Self::HandlerPanicked => f.write_str("the handler panicked"),
            Self::Io(kind) => write!(f, "the socket failed: {kind}"),
            Self::NoThread => f.write_str("no thread could be started for it"),
            Self::Aborted(why) => write!(f, "the peer aborted: {why}"),
            Self::Unreachable => f.write_str("the peer answers on none of its addresses"),
            Self::Truncated => f.write_str("the connection ended without a close_notify"),
            Self::TooSlow => f.write_str("the peer does not take what is sent to it"),
            Self::NotAuthorized(why) => write!(f, "the peer is not authorized: {why}"),
            Self::NoFirstMessage => f.write_str("the peer sent no first message in time"),
            Self::FrameTimedOut => f.write_str("the peer did not complete a message in time"),
            Self::MessageRefused { limit } => {
                write!(f, "the peer sent a message that is longer than {limit} bytes")
            }
        }
    }
}

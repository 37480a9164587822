//! Why associations end.

use std::fmt;
use std::io;

/// Why an association is over.
///
/// The reason is that of the side which ended it first, also where the handler has not read the peer's goodbye yet. What a
/// server reports, and the same with the sides exchanged for a client:
///
/// | what happens | `udp` | `dtls` | `tcp` | `tls` | `sctp` | `sctp+tls`, `sctp+dtls` |
/// |---|---|---|---|---|---|---|
/// | the peer closes, the handler reads it | (idle) | closed_by_peer | closed_by_peer | closed_by_peer | closed_by_peer | closed_by_peer |
/// | the peer closes, the handler returns without reading it | closed_by_us | closed_by_peer | closed_by_peer | closed_by_peer | closed_by_peer | closed_by_peer |
/// | the peer closes, the handler learns it from a failed send | (no send fails) | (no send fails) | closed_by_peer | closed_by_peer | closed_by_peer | closed_by_peer |
/// | the handler returns, or somebody calls `close` | closed_by_us | closed_by_us | closed_by_us | closed_by_us | closed_by_us | closed_by_us |
/// | the peer aborts or resets | (idle) | protocol (a fatal alert) | aborted | aborted | aborted | aborted |
/// | the peer's process dies | (idle) | (idle) | closed_by_peer | truncated | closed_by_peer | truncated |
/// | the same, with data that it had not read | (idle) | (idle) | aborted | aborted | aborted | aborted |
/// | the peer's host is gone | (idle) | (idle) | unreachable, once something is sent | as `tcp` | unreachable | unreachable |
/// | the peer takes nothing of what is sent to it | (messages are lost) | (messages are lost) | too_slow | too_slow | too_slow | too_slow |
/// | the peer sends a message that is too long, and the handler gives up | (cannot be) | (cannot be) | message_refused | message_refused | message_refused | (cannot be) |
/// | the peer says nothing; lives too long; the server drains | idle; lifetime; shutdown | the same | the same | the same | the same | the same |
///
/// In brackets: the protocol has no word for it, so the idle timeout is what ends the association.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// The peer said goodbye: a close_notify (RFC 5246 §7.2.1), on SCTP a SHUTDOWN, on TCP in clear a FIN.
    ClosedByPeer,
    /// The handler returned, or somebody called `close`.
    ClosedByUs,
    /// Nothing authentic came from the peer for [`Timeouts::idle`](crate::Timeouts::idle).
    Idle,
    /// [`Timeouts::lifetime`](crate::Timeouts::lifetime) is over.
    Lifetime,
    /// The server shut down; the grace period was over, or the handler had finished in it.
    Shutdown,
    /// The peer began anew from the same address and port, with a valid cookie (RFC 6347 §4.2.8).
    Replaced,
    /// The handshake, or the wait for a PROXY header, made way for a newer one at the cap on these.
    Evicted,
    /// The handshake was not complete after [`Timeouts::handshake`](crate::Timeouts::handshake).
    HandshakeTimedOut,
    /// The handshake failed; the text is OpenSSL's or an alert's name.
    HandshakeFailed(String),
    /// The peer sent a fatal alert, or a protocol error that OpenSSL reports.
    Protocol(String),
    /// The handler returned an error.
    HandlerFailed,
    /// The handler panicked.
    HandlerPanicked,
    /// A system call on the association's socket failed for good.
    Io(io::ErrorKind),
    /// No thread could be started for it, and too many peers were waiting for one.
    NoThread,
    /// The peer aborted the SCTP association (RFC 9260 §9.1), or reset the TCP connection (RFC 9293 §3.5.2); the text
    /// is its reason.
    Aborted(String),
    /// The peer answers on none of its addresses: neither retransmissions and heartbeats of SCTP
    /// ([`Settings::dead_after`](crate::sctp::Settings::dead_after)), nor retransmissions of TCP (ETIMEDOUT).
    Unreachable,
    /// The peer's TLS connection, or its secured SCTP association, ended without a close_notify (RFC 8446 §6.1, RFC 6083
    /// §4.7): it may be cut short, by anybody on the path.
    Truncated,
    /// The peer does not take what is sent to it: its outbox ([`OutboxLimits`](crate::OutboxLimits)) was full, the handler returned
    /// [`Error::SendBufferFull`](crate::Error::SendBufferFull), or on SCTP nothing was acknowledged for
    /// [`Settings::dead_after`](crate::sctp::Settings::dead_after) although heartbeats are. SCTP aborts, TCP resets.
    TooSlow,
    /// The peer proved who it is and may not come in; the text says why
    /// ([`Credentials::authorize`](crate::Credentials::authorize), [`Credentials::revoked`](crate::Credentials::revoked)).
    NotAuthorized(String),
    /// Another process has taken the peer over, which notices nothing
    /// ([`Handle::hand_over`](crate::Handle::hand_over)).
    HandedOver,
    /// The peer of a stream with a framing sent no whole message for
    /// [`Timeouts::first_message`](crate::Timeouts::first_message).
    NoFirstMessage,
    /// The peer began a message and did not complete it in [`Timeouts::frame`](crate::Timeouts::frame).
    FrameTimedOut,
    /// The peer sent a message that is longer than `limit` bytes, and the handler returned that error
    /// ([`Error::MessageRefused`](crate::Error::MessageRefused)). SCTP aborts with this as the reason, TCP resets.
    MessageRefused {
        /// The longest message that is taken, in bytes.
        limit: usize,
    },
}

impl EndReason {
    /// Whether this is how associations end when nothing went wrong: what makes
    /// [`Peer::recv`](crate::Peer::recv) return `Ok(None)` rather than an error.
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

/// Declares [`EndKind`] by the variants of [`EndReason`] and their names.
macro_rules! end_kinds {
    ($($variant:ident $name:literal,)*) => {
        /// The kinds of [`EndReason`], without what the reasons say beyond that; [`EndReason::kind`] returns one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum EndKind {
            $(
                #[doc = concat!("[`EndReason::", stringify!($variant), "`], called `", $name, "`.")]
                $variant,
            )*
        }

        impl EndKind {
            /// All of them.
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
    /// Returns the place in [`ALL`](Self::ALL), for an array of counters.
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
            Self::Lifetime => f.write_str("the lifetime is over"),
            Self::Shutdown => f.write_str("the server shut down"),
            Self::Replaced => f.write_str("the peer began anew from the same port"),
            Self::HandedOver => f.write_str("another process serves the peer"),
            Self::Evicted => f.write_str("the handshake made way for a newer one"),
            Self::HandshakeTimedOut => f.write_str("the handshake was not complete in time"),
            Self::HandshakeFailed(why) => write!(f, "the handshake failed: {why}"),
            Self::Protocol(why) => write!(f, "protocol error: {why}"),
            Self::HandlerFailed => f.write_str("the handler returned an error"),
            Self::HandlerPanicked => f.write_str("the handler panicked"),
            Self::Io(kind) => write!(f, "the socket failed: {kind}"),
            Self::NoThread => f.write_str("no thread could be started for it"),
            Self::Aborted(why) => write!(f, "the peer aborted: {why}"),
            Self::Unreachable => f.write_str("the peer answers on none of its addresses"),
            Self::Truncated => f.write_str("the connection ended without a goodbye"),
            Self::TooSlow => f.write_str("the peer does not take what is sent to it"),
            Self::NotAuthorized(why) => write!(f, "the peer may not come in: {why}"),
            Self::NoFirstMessage => f.write_str("the peer sent no first message in time"),
            Self::FrameTimedOut => f.write_str("the peer did not complete a message in time"),
            Self::MessageRefused { limit } => {
                write!(f, "the peer sent a message that is longer than {limit} bytes")
            }
        }
    }
}

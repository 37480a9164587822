//! What calls on a peer and at start-up can fail with.

mod identity;

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

pub use self::identity::IdentityError;

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
    /// The peer answers on none of its addresses: retransmissions and heartbeats of SCTP found nobody
    /// ([`Settings::dead_after`](crate::sctp::Settings::dead_after)), or retransmissions of TCP (ETIMEDOUT).
    Unreachable,
    /// The peer's TLS connection, or its secured SCTP association, ended without a close_notify (RFC 8446 §6.1, RFC 6083
    /// §4.7): it may be cut short, by anybody on the path.
    Truncated,
    /// The peer does not take what is sent to it: its [`Outbox`](crate::Outbox) was full, the handler returned
    /// [`Error::SendBufferFull`], or on SCTP nothing was acknowledged for
    /// [`Settings::dead_after`](crate::sctp::Settings::dead_after) although heartbeats are. SCTP aborts, TCP resets.
    TooSlow,
    /// The peer proved who it is and may not come in; the text says why
    /// ([`Credentials::authorize`](crate::Credentials::authorize), [`Credentials::revoked`](crate::Credentials::revoked)).
    NotAuthorized(String),
    /// The peer of a stream with a framing sent no whole message for
    /// [`Timeouts::first_message`](crate::Timeouts::first_message).
    NoFirstMessage,
    /// The peer began a message and did not complete it in [`Timeouts::frame`](crate::Timeouts::frame).
    FrameTimedOut,
    /// The peer sent a message that is longer than `limit` bytes, and the handler returned that error
    /// ([`Error::MessageRefused`]). SCTP aborts with this as the reason, TCP resets.
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
        )
    }

    /// The counter of this reason in [`Stats::ended`](crate::Stats::ended).
    pub fn label(&self) -> &'static str {
        Self::LABELS[self.index()]
    }

    /// The labels of all reasons, in the order of [`Stats::ended`](crate::Stats::ended).
    pub const LABELS: [&'static str; 22] = [
        "closed_by_peer",
        "closed_by_us",
        "idle",
        "lifetime",
        "shutdown",
        "replaced",
        "evicted",
        "handshake_timed_out",
        "handshake_failed",
        "protocol",
        "handler_failed",
        "handler_panicked",
        "io",
        "no_thread",
        "aborted",
        "unreachable",
        "truncated",
        "too_slow",
        "not_authorized",
        "no_first_message",
        "frame_timed_out",
        "message_refused",
    ];

    pub(crate) fn index(&self) -> usize {
        match self {
            Self::ClosedByPeer => 0,
            Self::ClosedByUs => 1,
            Self::Idle => 2,
            Self::Lifetime => 3,
            Self::Shutdown => 4,
            Self::Replaced => 5,
            Self::Evicted => 6,
            Self::HandshakeTimedOut => 7,
            Self::HandshakeFailed(_) => 8,
            Self::Protocol(_) => 9,
            Self::HandlerFailed => 10,
            Self::HandlerPanicked => 11,
            Self::Io(_) => 12,
            Self::NoThread => 13,
            Self::Aborted(_) => 14,
            Self::Unreachable => 15,
            Self::Truncated => 16,
            Self::TooSlow => 17,
            Self::NotAuthorized(_) => 18,
            Self::NoFirstMessage => 19,
            Self::FrameTimedOut => 20,
            Self::MessageRefused { .. } => 21,
        }
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

/// What a call on a [`Peer`](crate::Peer) can fail with. An error that
/// [is fatal](Error::is_fatal) means that the association is over; noise from the network never
/// surfaces here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The time given to the call is over. The association lives.
    #[error("nothing came in the time given")]
    TimedOut,
    /// The message is longer than the transport can carry. The association lives.
    #[error("a message of {size} bytes is longer than the {limit} that can be sent as one")]
    MessageTooLarge {
        /// Bytes of the message.
        size: usize,
        /// Bytes that would have fitted.
        limit: usize,
    },
    /// DTLS has no way to carry an empty message (OpenSSL drops empty records), SCTP has none, and on a stream
    /// without [`Framing`](crate::Framing) it is nothing. The association lives.
    #[error("only datagrams in clear and streams with a framing carry empty messages")]
    EmptyMessage,
    /// The SCTP association has fewer streams, or this one has no TLS session, or TLS was asked for an
    /// unordered message. Nothing was sent, and the association lives.
    #[error("no message like this can be sent on stream {stream}")]
    NoSuchStream {
        /// Which was asked for.
        stream: u16,
    },
    /// A message came that is longer than
    /// [`Settings::max_message`](crate::sctp::Settings::max_message) on SCTP or
    /// [`StreamSettings::max_message`](crate::StreamSettings::max_message) on TCP. It is lost, and the
    /// association lives: the handler may tell the peer in its own protocol. If it returns this error instead, the
    /// association is aborted, and the peer learns why ([`EndReason::MessageRefused`]).
    #[error("a message came that is longer than {limit} bytes")]
    MessageRefused {
        /// Bytes that would have been taken.
        limit: usize,
    },
    /// A call that needs TLS or DTLS, on a transport in clear. The association lives.
    #[error("there are no keys without TLS or DTLS")]
    NotSecure,
    /// A call that needs SCTP, on another transport.
    #[error("{0} has no such thing; it takes SCTP")]
    NeedsSctp(crate::address::Scheme),
    /// The message that came is longer than the buffer. It is kept for the next call, and the
    /// association lives.
    #[error("the buffer is too small for a message of {needed} bytes")]
    BufferTooSmall {
        /// Bytes of the message.
        needed: usize,
    },
    /// The socket took nothing for [`Timeouts::send`](crate::Timeouts::send). The message was not
    /// sent and the association lives. If the handler returns this error, the association is aborted
    /// ([`EndReason::TooSlow`]).
    #[error("the socket's send buffer stayed full")]
    SendBufferFull,
    /// The peer has not proven its address, and was sent as much as it may be until then
    /// ([`ServerBuilder::udp_proof`](crate::ServerBuilder::udp_proof)). The message was not sent and the association
    /// lives.
    #[error("the peer has not proven its address, and may not be sent more until then")]
    Unproven,
    /// The association is over.
    #[error("the association is over: {0}")]
    Ended(EndReason),
    /// The handler's own error.
    #[error(transparent)]
    Handler(Box<dyn StdError + Send + Sync>),
}

impl Error {
    /// Wraps an error of the handler's own, so that `?` can end the association with it.
    pub fn handler(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Handler(error.into())
    }

    /// Whether the association is over.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Ended(_) | Self::Handler(_))
    }
}

impl From<io::Error> for Error {
    /// An I/O error of the handler's own (a file, another socket).
    fn from(error: io::Error) -> Self {
        Self::Handler(error.into())
    }
}

/// Why [`Sender::try_send`](crate::Sender::try_send) did not send; each gives the message back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrySendError<M> {
    /// The socket's send buffer is full: nothing was sent; try later, or drop the message.
    #[error("the socket's send buffer is full")]
    Full(M),
    /// Longer (or, but on plain UDP, shorter: empty) than can be sent as one; or there is no such
    /// stream.
    #[error("the message cannot be sent as one")]
    Unsendable(M),
    /// The peer has not proven its address; see [`Error::Unproven`].
    #[error("the peer has not proven its address, and may not be sent more until then")]
    Unproven(M),
    /// The association is over.
    #[error("the association is over")]
    Ended(M),
}

impl<M> TrySendError<M> {
    /// The message that was not sent.
    pub fn into_message(self) -> M {
        match self {
            Self::Full(message)
            | Self::Unsendable(message)
            | Self::Unproven(message)
            | Self::Ended(message) => message,
        }
    }
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No address to listen on.
    #[error("no address to listen on; give at least one, such as dtls://127.0.0.1:4433")]
    NoListener,
    /// The address cannot be used.
    #[error(transparent)]
    Address(#[from] crate::address::AddressError),
    /// Another socket has the port.
    #[error(
        "{address} is in use by another socket; choose another port, or end the program that has it (ss -ulpn shows it)"
    )]
    AddressInUse {
        /// What was asked for.
        address: SocketAddr,
    },
    /// The address is not this host's.
    #[error(
        "{address} is not an address of this host; choose one that `ip address` lists, or allow addresses that come later (ServerBuilder::freebind)"
    )]
    AddressNotAvailable {
        /// What was asked for.
        address: SocketAddr,
    },
    /// A privileged port.
    #[error(
        "no permission to listen on {address}; ports below 1024 need CAP_NET_BIND_SERVICE, so choose a higher one or grant it"
    )]
    PermissionDenied {
        /// What was asked for.
        address: SocketAddr,
    },
    /// A listener for TLS or DTLS without certificate and without PSK.
    #[error("a secure listener needs an identity (certificate and key) or pre-shared keys")]
    NoIdentity,
    /// A listener behind a proxy that is not on TCP.
    #[error("the PROXY protocol goes with tcp:// and tls://, not with {scheme}://")]
    NoProxy {
        /// Its scheme.
        scheme: crate::address::Scheme,
    },
    /// The kernel has no SCTP.
    #[error(transparent)]
    NoSctp(#[from] NoSctp),
    /// The credentials are of no use.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The limit on descriptors leaves none for a peer.
    #[error(
        "the limit of {limit} descriptors leaves none for a peer; allow at least {needed}, and one more for each further peer (ulimit -n, or LimitNOFILE= of a systemd unit)"
    )]
    NoDescriptors {
        /// The limit of the process (RLIMIT_NOFILE, getrlimit(2)).
        limit: u64,
        /// The smallest limit with which one peer can be served.
        needed: u64,
    },
    /// A system call failed.
    #[error("{doing} failed: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
}

/// This kernel has no SCTP, or keeps it from us (`modprobe sctp` loads the module where there is one).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this kernel has no SCTP: load its module (modprobe sctp), or try it in a virtual machine with scripts/sctp-vm"
)]
pub struct NoSctp;

impl NoSctp {
    /// Whether making an SCTP socket failed for this reason.
    pub(crate) fn is(error: &io::Error) -> bool {
        matches!(
            error.raw_os_error(),
            Some(libc::EPROTONOSUPPORT | libc::ESOCKTNOSUPPORT | libc::EAFNOSUPPORT)
        )
    }
}

/// Why a client has no association.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address cannot be used.
    #[error(transparent)]
    Address(#[from] crate::address::AddressError),
    /// The credentials are of no use.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The kernel has no SCTP.
    #[error(transparent)]
    NoSctp(#[from] NoSctp),
    /// Nobody takes SCTP associations or TCP connections there.
    #[error("no association with {peer}: {why}; check that a server listens there")]
    Refused {
        /// Who was asked.
        peer: SocketAddr,
        /// What the peer or the kernel said.
        why: String,
    },
    /// No handshake, or on SCTP no association, in the time given.
    #[error("no association with {peer} within {timeout:?}{}; check that a server of this scheme listens there", if *.unreachable { " (the host says that nothing listens on that port)" } else { "" })]
    TimedOut {
        /// Who was asked.
        peer: SocketAddr,
        /// How long.
        timeout: Duration,
        /// Whether an ICMP port unreachable came back.
        unreachable: bool,
    },
    /// The server's certificate does not verify.
    #[error(
        "the certificate of {peer} does not verify: {why}; name its authority (CA), or accept any certificate if you must"
    )]
    Unverified {
        /// Whose.
        peer: SocketAddr,
        /// OpenSSL's words.
        why: String,
    },
    /// The handshake failed. Where the server refused in clear this comes 2 s after its alert,
    /// which anybody could have forged: the handshake goes on for as long.
    #[error("the handshake with {peer} failed: {why}")]
    Handshake {
        /// With whom.
        peer: SocketAddr,
        /// OpenSSL's words, or the alert's name.
        why: String,
    },
    /// The address to connect from is of no use.
    #[error("cannot connect from {local}: {source}; name a free address of this host")]
    Bind {
        /// Which address.
        local: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A system call failed.
    #[error("cannot reach {peer}: {source}")]
    Io {
        /// Whom.
        peer: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

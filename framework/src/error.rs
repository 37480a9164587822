//! What calls on a peer and at start-up can fail with.

mod end;
mod hand_over;
mod identity;

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::iter;
use std::net::SocketAddr;
use std::time::Duration;

pub use self::end::{EndKind, EndReason};
pub use self::hand_over::HandOverError;
pub use self::identity::IdentityError;

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
    /// [`TcpSettings::max_message`](crate::TcpSettings::max_message) on TCP. It is lost, and the
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
    /// An export from a DTLS session that kept no secret for it: see [`Credentials::exporters`](crate::Credentials::exporters).
    /// The association lives.
    #[error(
        "this session keeps no secret to export from; the credentials' option `exporters` makes it do so"
    )]
    NoExporters,
    /// An export whose label is one of TLS 1.2's own (RFC 5705 §4), or whose context is longer than 65,535 bytes. The association
    /// lives.
    #[error("the label or the context of this export cannot be used")]
    BadExport,
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
    /// The socket's send buffer has no room: for [`Timeouts::send`](crate::Timeouts::send) in a call that waits for room,
    /// at this moment in one that does not. The message was not sent and the association lives. If the handler returns this
    /// error, the association is aborted ([`EndReason::TooSlow`]).
    #[error("the socket's send buffer is full")]
    SendBufferFull,
    /// The peer has not proven its address, and was sent as much as it may be until then
    /// ([`ServerBuilder::udp_proof`](crate::ServerBuilder::udp_proof)). The message was not sent and the association
    /// lives.
    #[error("the peer has not proven its address, and may not be sent more until then")]
    Unproven,
    /// The association is over.
    #[error("the association is over: {0}")]
    Ended(EndReason),
    /// The kernel refused a socket option; or `?` made this of an [`io::Error`] of the handler's own, such as that of a file.
    /// The association lives.
    #[error(transparent)]
    Io(io::Error),
}

/// Errors of which one causes the next, at most. A chain may be endless: nothing forbids an error to name itself.
const LONGEST_CHAIN: usize = 64;

impl Error {
    /// Whether the association is over.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Ended(_))
    }

    /// Returns the first `Error` among `error` and its causes.
    pub(crate) fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        iter::successors(Some(error), |error| cause_of(*error))
            .take(LONGEST_CHAIN)
            .find_map(|error| error.downcast_ref())
    }
}

impl From<io::Error> for Error {
    /// Returns the `Error` that `error` was made of, as those of [`PeerStream`](crate::PeerStream) are; else it is
    /// [`Error::Io`].
    fn from(error: io::Error) -> Self {
        error.downcast().unwrap_or_else(Self::Io)
    }
}

/// Returns the next error of a chain, also the one that an [`io::Error`] was made of, which its `source` leaves out.
fn cause_of<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

/// Displays an error and its causes: `cannot save the order: no space left on device`.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn StdError + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let causes = iter::successors(self.0.source(), |error| (*error).source());
        causes.take(LONGEST_CHAIN).try_for_each(|cause| write!(f, ": {cause}"))
    }
}

impl From<Error> for io::Error {
    /// For [`PeerStream`](crate::PeerStream) and other code whose errors are [`io::Error`]s. The kind is that of
    /// [`std::net::TcpStream`] for the same event: `TimedOut` also where the send buffer stayed full, `UnexpectedEof` where
    /// the peer's end was not authentic ([`EndReason::Truncated`]), `ConnectionReset` where the peer aborted,
    /// `BrokenPipe` and `ConnectionAborted` where the association had ended before, `InvalidData` for errors of the
    /// protocol, `InvalidInput` for messages that cannot be sent; otherwise `Other`.
    fn from(error: Error) -> Self {
        use io::ErrorKind as Kind;
        if let Error::Io(error) = error {
            return error;
        }
        let kind = match &error {
            Error::TimedOut | Error::SendBufferFull => Kind::TimedOut,
            Error::MessageTooLarge { .. } | Error::EmptyMessage | Error::NoSuchStream { .. } => {
                Kind::InvalidInput
            }
            Error::Ended(EndReason::Truncated) => Kind::UnexpectedEof,
            Error::Ended(EndReason::Aborted(_)) => Kind::ConnectionReset,
            Error::Ended(EndReason::ClosedByPeer) => Kind::BrokenPipe,
            Error::Ended(EndReason::Unreachable) => Kind::HostUnreachable,
            Error::Ended(EndReason::Protocol(_)) => Kind::InvalidData,
            Error::Ended(EndReason::Io(kind)) => *kind,
            Error::Ended(_) => Kind::ConnectionAborted,
            _ => Kind::Other,
        };
        Self::new(kind, error)
    }
}

/// Returned by [`Sender::try_send`](crate::Sender::try_send): the message that was not sent, and the reason.
///
/// `?` converts it to an [`Error`], and to a [`HandlerError`](crate::HandlerError) where the message is `'static`, `Send` and
/// `Sync`. For one that is borrowed write `.map_err(Error::from)?` there.
pub struct TrySendError<M> {
    /// The message. Nothing of it was sent.
    pub message: M,
    /// Why it was not sent: [`Error::SendBufferFull`] (try later, or drop the message), [`Error::MessageTooLarge`],
    /// [`Error::EmptyMessage`], [`Error::NoSuchStream`], [`Error::Unproven`] or [`Error::Ended`].
    pub error: Error,
}

impl<M> fmt::Debug for TrySendError<M> {
    /// Leaves the message out, which may be long or secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrySendError").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<M> fmt::Display for TrySendError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the message was not sent")
    }
}

impl<M> StdError for TrySendError<M> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.error)
    }
}

impl<M> From<TrySendError<M>> for Error {
    fn from(failed: TrySendError<M>) -> Self {
        failed.error
    }
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No address to listen on.
    #[error("no address to listen on; give at least one, such as dtls://127.0.0.1:4433")]
    NoListener,
    /// The server of another process could not be taken over, and that one goes on to serve.
    #[error("cannot take the server over: {0}")]
    TakeOver(#[from] HandOverError),
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
    /// The hook for socket options ([`ServerBuilder::socket_options`](crate::ServerBuilder::socket_options)) failed for
    /// this listener.
    #[error("the hook for socket options failed for the listener on {address}: {source}")]
    SocketOptions {
        /// What is listened on.
        address: SocketAddr,
        /// What the hook returned.
        source: io::Error,
    },
    /// A socket of the user's cannot be the listener
    /// ([`ServerBuilder::listen_on`](crate::ServerBuilder::listen_on)).
    #[error("the socket that was given for {scheme}:// cannot be its listener: {why}")]
    UnfitSocket {
        /// What it was given for.
        scheme: crate::address::Scheme,
        /// What it lacks, and what to do.
        why: String,
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
    /// The hook for socket options ([`Client::socket_options`](crate::Client::socket_options)) failed.
    #[error("the hook for socket options failed for the socket to {peer}: {source}")]
    SocketOptions {
        /// The address that the client connects to.
        peer: SocketAddr,
        /// What the hook returned.
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

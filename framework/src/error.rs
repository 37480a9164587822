//! Errors of calls on a peer, of the start of a server, and of connects.

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

/// Error of a call on a [`Peer`](crate::Peer). After an error that [is fatal](Error::is_fatal) the association has
/// ended. Noise from the network never causes an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The timeout of the call has passed. The association continues.
    #[error("no message arrived within the timeout")]
    TimedOut,
    /// The message is longer than the transport can carry. The association continues.
    #[error("a message of {size} bytes is longer than the limit of {limit} bytes")]
    MessageTooLarge {
        /// Length of the message in bytes.
        size: usize,
        /// Length of the longest message that fits, in bytes.
        limit: usize,
    },
    /// DTLS cannot carry an empty message (OpenSSL drops empty records), SCTP has none, and a stream without
    /// [`Framing`](crate::Framing) has no boundaries that would show one. The association continues.
    #[error("only plain UDP and streams with a framing carry empty messages")]
    EmptyMessage,
    /// The SCTP association has fewer streams, or this stream has no TLS session, or an unordered message was to be
    /// sent with TLS. The message was not sent, and the association continues.
    #[error("this message cannot be sent on stream {stream}")]
    NoSuchStream {
        /// The stream that was requested.
        stream: u16,
    },
    /// The peer sent a message that is longer than [`Settings::max_message`](crate::sctp::Settings::max_message) on
    /// SCTP or [`TcpSettings::max_message`](crate::TcpSettings::max_message) on TCP. The message is lost, and the
    /// association continues, so the handler may inform the peer in its own protocol. If the handler returns this error
    /// instead, the association is aborted, and the peer receives the reason ([`EndReason::MessageRefused`]).
    #[error("the peer sent a message that is longer than {limit} bytes")]
    MessageRefused {
        /// The length limit in bytes.
        limit: usize,
    },
    /// The call needs TLS or DTLS, and the transport has neither. The association continues.
    #[error("there are no keys to export without TLS or DTLS")]
    NotSecure,
    /// The DTLS session did not keep a secret to export from; see
    /// [`Credentials::exporters`](crate::Credentials::exporters). The association continues.
    #[error(
        "this session keeps no secret to export from; the credentials' option `exporters` makes it do so"
    )]
    NoExporters,
    /// The label of an export is reserved by TLS 1.2 (RFC 5705 §4), or its context is longer than 65,535 bytes. The
    /// association continues.
    #[error("the label or the context of this export cannot be used")]
    BadExport,
    /// The received message is longer than the buffer. It is kept for the next call, and the association continues.
    #[error("the buffer is too small for a message of {needed} bytes")]
    BufferTooSmall {
        /// Length of the message in bytes.
        needed: usize,
    },
    /// The socket's send buffer has no room. A call that waits for room returns this after
    /// [`Timeouts::send`](crate::Timeouts::send), other calls at once. The message was not sent, and the association
    /// continues. If the handler returns this error, the association is aborted ([`EndReason::TooSlow`]).
    #[error("the socket's send buffer is full")]
    SendBufferFull,
    /// The peer has not proven its address, and has been sent as much as it may be sent until then
    /// ([`ServerBuilder::udp_proof`](crate::ServerBuilder::udp_proof)). The message was not sent, and the association
    /// continues.
    #[error("the peer has not proven its address, and nothing more may be sent to it until it has")]
    Unproven,
    /// The association has ended.
    #[error("the association has ended: {0}")]
    Ended(EndReason),
    /// The kernel refused a socket option, or `?` converted an [`io::Error`] of the handler's own, such as that of a
    /// file. The association continues.
    #[error(transparent)]
    Io(io::Error),
}

/// Maximum number of causes that are followed. A chain may be endless, because an error can name itself as its source.
const LONGEST_CHAIN: usize = 64;

impl Error {
    /// Returns whether the association has ended.
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
    /// Returns the `Error` inside `error` if there is one, as in the errors of [`PeerStream`](crate::PeerStream);
    /// otherwise [`Error::Io`].
    fn from(error: io::Error) -> Self {
        error.downcast().unwrap_or_else(Self::Io)
    }
}

/// Returns the next error of a chain. This includes the error inside an [`io::Error`], which its `source` leaves out.
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
    /// Converts the error for [`PeerStream`](crate::PeerStream) and other code whose errors are [`io::Error`]s. The
    /// kind is the one that [`std::net::TcpStream`] has for the same event: `TimedOut` also if the send buffer stayed
    /// full, `UnexpectedEof` if the peer's end was not authentic ([`EndReason::Truncated`]), `ConnectionReset` if the
    /// peer aborted, `BrokenPipe` or `ConnectionAborted` if the association had ended before, `InvalidData` for
    /// protocol errors, `InvalidInput` for messages that cannot be sent, and otherwise `Other`.
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

/// Error of [`Sender::try_send`](crate::Sender::try_send): the message that was not sent, and the reason.
///
/// `?` converts it to an [`Error`], and to a [`HandlerError`](crate::HandlerError) if the message is `'static`, `Send`
/// and `Sync`. For a borrowed message, write `.map_err(Error::from)?` in the second case.
pub struct TrySendError<M> {
    /// The message. No part of it was sent.
    pub message: M,
    /// The reason: [`Error::SendBufferFull`] (try later, or drop the message), [`Error::MessageTooLarge`],
    /// [`Error::EmptyMessage`], [`Error::NoSuchStream`], [`Error::Unproven`] or [`Error::Ended`].
    pub error: Error,
}

impl<M> fmt::Debug for TrySendError<M> {
    /// Omits the message, which may be long or secret.
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

/// Reason why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The builder has no address to listen on.
    #[error("no address to listen on; give at least one, such as dtls://127.0.0.1:4433")]
    NoListener,
    /// The server of another process could not be taken over; that process continues to serve.
    #[error("cannot take over the server: {0}")]
    TakeOver(#[from] HandOverError),
    /// The address cannot be used.
    #[error(transparent)]
    Address(#[from] crate::address::AddressError),
    /// Another socket uses the port.
    #[error(
        "{address} is in use by another socket; choose another port, or end the program that uses it (ss -tuSlpn shows it)"
    )]
    AddressInUse {
        /// The requested address.
        address: SocketAddr,
    },
    /// The address does not belong to this host.
    #[error(
        "{address} is not an address of this host; choose one that `ip address` lists, or allow addresses that come later (ServerBuilder::freebind)"
    )]
    AddressNotAvailable {
        /// The requested address.
        address: SocketAddr,
    },
    /// The port is privileged.
    #[error(
        "no permission to listen on {address}; ports below 1024 need CAP_NET_BIND_SERVICE, so choose a higher one or grant it"
    )]
    PermissionDenied {
        /// The requested address.
        address: SocketAddr,
    },
    /// A listener for TLS or DTLS has neither a certificate nor a pre-shared key.
    #[error(
        "a secure listener needs an identity (ServerBuilder::identity; for an experiment Identity::self_signed) or pre-shared keys (ServerBuilder::psk)"
    )]
    NoIdentity,
    /// A listener behind a proxy is not on TCP.
    #[error("the PROXY protocol works with tcp:// and tls://, not with {scheme}://")]
    NoProxy {
        /// The scheme of the listener.
        scheme: crate::address::Scheme,
    },
    /// The hook for socket options ([`ServerBuilder::socket_options`](crate::ServerBuilder::socket_options)) failed for
    /// this listener.
    #[error("the hook for socket options failed for the listener on {address}: {source}")]
    SocketOptions {
        /// The address of the listener.
        address: SocketAddr,
        /// The error that the hook returned.
        source: io::Error,
    },
    /// The socket given to [`ServerBuilder::listen_on`](crate::ServerBuilder::listen_on) cannot be a listener.
    #[error("the socket that was given for {scheme}:// cannot be its listener: {why}")]
    UnfitSocket {
        /// The scheme that it was given for.
        scheme: crate::address::Scheme,
        /// What the socket lacks, and what to do.
        why: String,
    },
    /// The kernel has no SCTP.
    #[error(transparent)]
    NoSctp(#[from] NoSctp),
    /// The credentials cannot be used.
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
        /// The operation that failed.
        doing: String,
        /// The system's error.
        source: io::Error,
    },
}

/// This kernel has no SCTP, or does not let this process use it (`modprobe sctp` loads the module if it is installed).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this kernel has no SCTP: load its module (modprobe sctp), or try it in a virtual machine with scripts/sctp-vm"
)]
pub struct NoSctp;

impl NoSctp {
    /// Returns whether making an SCTP socket failed for this reason.
    pub(crate) fn is(error: &io::Error) -> bool {
        matches!(
            error.raw_os_error(),
            Some(libc::EPROTONOSUPPORT | libc::ESOCKTNOSUPPORT | libc::EAFNOSUPPORT)
        )
    }
}

/// Reason why a client could not connect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address cannot be used.
    #[error(transparent)]
    Address(#[from] crate::address::AddressError),
    /// The credentials cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The kernel has no SCTP.
    #[error(transparent)]
    NoSctp(#[from] NoSctp),
    /// No server accepts SCTP associations or TCP connections at the address.
    #[error("no association with {peer}: {why}; check that a server listens there")]
    Refused {
        /// The address of the server.
        peer: SocketAddr,
        /// The reason that the peer or the kernel gave.
        why: String,
    },
    /// The handshake, or on SCTP the association, was not complete within the timeout.
    #[error("no association with {peer} within {timeout:?}{}; check that a server of this scheme listens there", if *.unreachable { " (the host says that nothing listens on that port)" } else { "" })]
    TimedOut {
        /// The address of the server.
        peer: SocketAddr,
        /// The timeout.
        timeout: Duration,
        /// Whether an ICMP port unreachable was received.
        unreachable: bool,
    },
    /// The server's certificate does not verify.
    #[error(
        "the certificate of {peer} does not verify: {why}; it must be valid now, come from an authority that the client trusts (Client::ca) and name the host (Client::server_name)"
    )]
    Unverified {
        /// The address of the server.
        peer: SocketAddr,
        /// OpenSSL's message.
        why: String,
    },
    /// The handshake failed. If the server refused with an unencrypted alert, this error comes 2 s after it: anyone
    /// could have forged the alert, so the handshake continues for that long.
    #[error("the handshake with {peer} failed: {why}")]
    Handshake {
        /// The address of the server.
        peer: SocketAddr,
        /// OpenSSL's message, or the name of the alert.
        why: String,
    },
    /// The local address cannot be used.
    #[error("cannot connect from {local}: {source}; use a free address of this host")]
    Bind {
        /// The local address.
        local: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The hook for socket options ([`Client::socket_options`](crate::Client::socket_options)) failed.
    #[error("the hook for socket options failed for the socket to {peer}: {source}")]
    SocketOptions {
        /// The address that the client connects to.
        peer: SocketAddr,
        /// The error that the hook returned.
        source: io::Error,
    },
    /// A system call failed.
    #[error("cannot reach {peer}: {source}")]
    Io {
        /// The address of the server.
        peer: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
}

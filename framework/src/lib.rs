//! One worker thread per peer, for servers on UDP, DTLS, SCTP, TCP and TLS on Linux.
//!
//! A *dispatcher* thread meets strangers on the listeners, has them prove their address, and makes a
//! connected socket for each new peer, peels its SCTP association off, or accepts its TCP connection. A *worker* thread then runs that
//! peer's own handshake and the [`PeerHandler`], which is straight-line, blocking code:
//!
//! ```
//! use peeloff::{CaBundle, Client, Error, Identity, Peer, Server};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let identity = Identity::self_signed()?;
//! let trust = CaBundle::from_pem(&identity.certificate_pem())?;
//! let server = Server::builder()
//!     .listen("dtls://127.0.0.1:0")
//!     .identity(identity)
//!     .start(|peer: &mut Peer| -> Result<(), Error> {
//!         let mut buffer = [0; 2048];
//!         while let Some(len) = peer.recv(&mut buffer)? {
//!             peer.send(&buffer[..len])?;
//!         }
//!         Ok(())
//!     })?;
//!
//! let mut client = Client::builder().ca(trust).connect(&server.addresses()[0])?;
//! client.send(b"hello")?;
//! let mut buffer = [0; 2048];
//! assert_eq!(client.recv(&mut buffer)?, Some(5));
//! assert_eq!(&buffer[..5], b"hello");
//! # client.close();
//! # server.handle().shutdown(std::time::Duration::from_secs(1));
//! # Ok(()) }
//! ```
//!
//! * [`Server`] and [`ServerBuilder`] start a server, a [`Handle`] shuts it down.
//! * [`PeerHandler`] or [`PeerEvents`] is what you write; [`Peer`] and [`Sender`] are what you get.
//! * [`Limits`] and [`Timeouts`] bound everything; [`Stats`] counts everything, and [`Metrics`] is what a monitoring system reads.
//! * [`Client`] is the other side.
//! * [`testing`] has peers over memory, to test handlers without a network.
//!
//! The same handler serves `udp://`, `dtls://`, `tcp://`, `tls://`, `sctp://`, `sctp+tls://` and `sctp+dtls://`
//! ([`Scheme`]). On TCP, [`Framing`] says what a message is; what only SCTP has is in [`sctp`] and
//! [`Peer::sctp`].
//!
//! Plain UDP has no proof of address: whoever can forge a source can open associations, up to the
//! limits. DTLS 1.2 (RFC 6347) proves it with a cookie before anything is kept.

#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("peeloff runs on Linux only: it relies on epoll, recvmmsg and Linux's sockets");

mod address;
mod admission;
mod association;
mod audit;
mod client;
mod codec;
mod config;
mod connection_ids;
mod credentials;
mod drive;
mod error;
mod events;
pub mod guide;
mod handler;
mod metrics;
mod net;
mod new_socket;
mod observe;
mod outbox;
mod peer;
mod printable;
mod proof;
mod protocol;
pub mod sctp;
mod sender;
mod serve;
mod server;
mod stream;
mod sys;
#[cfg(feature = "test-support")]
pub mod test_support;
pub mod testing;
mod tls;

pub use address::{Address, AddressError, Host, Scheme};
pub use admission::{Limits, Refusal};
pub use association::AssociationId;
pub use client::Client;
pub use config::{Sockets, Timeouts};
pub use connection_ids::{ConnectionIdLength, ConnectionIds};
pub use credentials::{
    AlgorithmError, CaBundle, CipherSuites, ClientAuth, Credentials, Expiration, Groups, Identity,
    PeerCertificate, PeerIdentity, PublicKey, RevocationList, SharedKeys,
};
pub use error::{
    ConnectError, EndKind, EndReason, Error, HandOverError, IdentityError, NoSctp, StartError, TrySendError,
};
pub use events::{Callbacks, Message, PeerEvents};
pub use handler::{Admission, HandlerError, Incoming, PeerHandler};
pub use metrics::{Family, FamilyKind, Health, ListenerMetrics, Metrics, Sample, SampleValue};
pub use new_socket::{NewSocket, SocketRole};
pub use observe::{Distribution, Entry, EntryKind, Stats};
pub use outbox::{OutboxLimits, Overflow, PostOutcome};
pub use peer::{Event, Peer, PeerStream, SctpPeer, Sender};
pub use server::builder::ServerBuilder;
pub use server::{
    HandedOver, Handle, Predecessor, Server, ShutdownReport, hand_over_sockets, inherited_descriptor,
    raise_fd_limit, tune_malloc,
};
pub use stream::{Framing, TcpSettings};

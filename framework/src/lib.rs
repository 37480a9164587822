//! One worker thread per peer, for servers on UDP, DTLS, SCTP, TCP and TLS on Linux.
//!
//! A *dispatcher* thread reads the listeners and has unknown peers prove their address. For each new peer it makes a
//! connected UDP socket, peels off the SCTP association, or accepts the TCP connection. A *worker* thread then runs
//! that peer's handshake and the [`PeerHandler`], which is straight-line, blocking code:
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
//! * [`Server`] and [`ServerBuilder`] start a server, and a [`Handle`] shuts it down.
//! * [`PeerHandler`] or [`PeerEvents`] is what you implement; [`Peer`] and [`Sender`] are what your code receives.
//! * [`Limits`] and [`Timeouts`] bound what peers can take; [`Stats`] has the counters, and [`Metrics`] is the snapshot
//!   for a monitoring system.
//! * [`Client`] connects to a server.
//! * [`testing`] has peers over memory, to test handlers without a network.
//! * [`guide`] is a guide in nine chapters, which begins with [your first server](guide::first_server).
//!
//! The same handler serves `udp://`, `dtls://`, `tcp://`, `tls://`, `sctp://`, `sctp+tls://` and `sctp+dtls://`
//! ([`Scheme`]). On TCP, [`Framing`] defines what a message is. Features that only SCTP has are in [`sctp`] and
//! [`Peer::sctp`].
//!
//! Plain UDP does not prove addresses: anyone who can forge a source address can open associations, up to the limits.
//! DTLS 1.2 (RFC 6347) proves the address with a cookie before the server keeps any state.

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

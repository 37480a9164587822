//! Drivers, which move bytes between a socket and the state machine of a protocol, on the thread that serves the peer.

pub(crate) mod handshake;
pub(crate) mod memory;
pub(crate) mod open;
pub(crate) mod opening;
pub(crate) mod sctp;
mod session;
pub(crate) mod stream;

pub(crate) use self::session::{Session, release_record, transmit, with_record};

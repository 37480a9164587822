//! Drivers: they move bytes between a socket and a protocol's state machine, on the thread of one peer.

pub(crate) mod handshake;

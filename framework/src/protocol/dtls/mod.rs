//! DTLS 1.2 (RFC 6347): hellos and cookies before the handshake, the handshake, and the keys, replay window and records
//! of an established session.
//!
//! OpenSSL performs the handshake. When it is complete, [`keys`] derives the keys of the records, and OpenSSL's session
//! is freed: it takes more than 40 KiB, [`Sealer`] and [`Opener`] together 0.3.

pub(crate) mod assembly;
mod ciphers;
pub mod cookie;
mod datagrams;
pub mod filter;
pub(crate) mod handshake;
pub mod hello;
pub mod keys;
pub(crate) mod paths;
mod protection;
pub(crate) mod recent_hellos;
pub mod record_layer;
pub mod replay_window;
pub(crate) mod restart;
pub(crate) mod session;
pub mod suite;
pub(crate) mod takeover;
mod translation;

#[cfg(test)]
mod tests;

pub use self::record_layer::{Dropped, Opened, Opener, SealError, Sealer};

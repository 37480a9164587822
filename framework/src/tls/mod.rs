//! OpenSSL: the contexts of servers and clients, and handshakes over memory. No socket, no clock.

pub(crate) mod context;
pub(crate) mod engine;
pub(crate) mod handshake;
pub(crate) mod summary;

pub(crate) use self::handshake::{Failure, Resume};
pub(crate) use self::summary::HandshakeSummary;

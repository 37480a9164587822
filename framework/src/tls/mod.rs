//! OpenSSL: the contexts of servers and clients, and handshakes over memory. No socket, no clock.

pub(crate) mod context;
pub(crate) mod engine;
pub(crate) mod facts;
pub(crate) mod handshake;

pub(crate) use self::facts::Facts;
pub(crate) use self::handshake::{Failure, Resume};

//! Layers on a stream of bytes: a proxy's header, TLS, frames.

pub mod frames;
pub mod proxy;
pub(crate) mod session;

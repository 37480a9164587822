//! Protocols without I/O: bytes in, bytes and events out. Nothing in this folder knows a socket, a thread, a clock or
//! a random source, so all of it runs in tests as it runs in a server.

pub(crate) mod alert;
pub mod dtls;

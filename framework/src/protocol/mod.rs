//! Protocols without I/O: bytes in, bytes and events out. Nothing in this folder knows a socket, a thread, a clock or
//! a random source, so all of it runs in tests as it runs in a server.

pub(crate) mod alert;
pub mod dtls;
pub(crate) mod sctp;
pub mod stream;

/// The longest plaintext of a record of TLS or DTLS, in bytes (RFC 6347 §4.1, RFC 5246 §6.2.1).
pub(crate) const RECORD_MAX: usize = 16_384;

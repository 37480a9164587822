//! TLS (RFC 3436) and DTLS (RFC 6083) over SCTP.

pub(crate) mod action;
pub(crate) mod dtls_sctp;
pub(crate) mod secure_sctp;
#[cfg(test)]
pub(crate) mod simulation;
pub(crate) mod tls_streams;
pub(crate) mod window;

//! SCTP associations without encryption, with TLS (RFC 3436) and with DTLS (RFC 6083).

pub(crate) mod action;
pub(crate) mod dtls_sctp;
pub(crate) mod secure_sctp;
pub(crate) mod session;
#[cfg(test)]
pub(crate) mod simulation;
pub(crate) mod tls_streams;

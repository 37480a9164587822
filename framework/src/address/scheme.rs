//! The protocols of an address.

use std::fmt;

/// The protocol at an [`Address`](super::Address).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Scheme {
    /// Plain datagrams, without encryption and authentication.
    Udp,
    /// DTLS 1.2 over UDP ([RFC 6347](https://www.rfc-editor.org/rfc/rfc6347)).
    Dtls,
    /// SCTP ([RFC 9260](https://www.rfc-editor.org/rfc/rfc9260)), without encryption and authentication.
    Sctp,
    /// TLS 1.2 and 1.3 over SCTP ([RFC 3436](https://www.rfc-editor.org/rfc/rfc3436)).
    SctpTls,
    /// DTLS 1.2 over SCTP ([RFC 6083](https://www.rfc-editor.org/rfc/rfc6083)).
    SctpDtls,
    /// TCP ([RFC 9293](https://www.rfc-editor.org/rfc/rfc9293)): a stream of bytes, without encryption and
    /// authentication.
    Tcp,
    /// TLS 1.2 and 1.3 over TCP ([RFC 8446](https://www.rfc-editor.org/rfc/rfc8446)).
    Tls,
}

impl Scheme {
    /// All schemes, for help texts.
    pub const ALL: &[Scheme] = &[
        Scheme::Udp,
        Scheme::Dtls,
        Scheme::Tcp,
        Scheme::Tls,
        Scheme::Sctp,
        Scheme::SctpTls,
        Scheme::SctpDtls,
    ];

    /// Returns the scheme as it is written in a URL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Scheme::Udp => "udp",
            Scheme::Dtls => "dtls",
            Scheme::Sctp => "sctp",
            Scheme::SctpTls => "sctp+tls",
            Scheme::SctpDtls => "sctp+dtls",
            Scheme::Tcp => "tcp",
            Scheme::Tls => "tls",
        }
    }

    /// Returns whether messages are encrypted, after a handshake.
    pub const fn is_secure(self) -> bool {
        match self {
            Scheme::Udp | Scheme::Sctp | Scheme::Tcp => false,
            Scheme::Dtls | Scheme::SctpTls | Scheme::SctpDtls | Scheme::Tls => true,
        }
    }

    /// Returns whether the scheme runs over SCTP: messages have streams, and hosts may have several addresses.
    pub const fn is_sctp(self) -> bool {
        matches!(self, Scheme::Sctp | Scheme::SctpTls | Scheme::SctpDtls)
    }

    /// Returns whether the scheme runs over SCTP or TCP: every message arrives, in order, or the association ends.
    pub const fn is_reliable(self) -> bool {
        self.is_sctp() || self.is_stream()
    }

    /// Returns whether the scheme runs over TCP: bytes without boundaries, which [`Framing`](crate::Framing) divides
    /// into messages.
    pub const fn is_stream(self) -> bool {
        matches!(self, Scheme::Tcp | Scheme::Tls)
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

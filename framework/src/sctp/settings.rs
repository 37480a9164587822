//! What is set on SCTP listeners and clients before their first association.

use std::time::Duration;

/// How SCTP associations are made: of a server's listeners, or of a client. Everything else can be
/// set on an association while it lives, through [`Options`](super::Options).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// Streams in each direction that are asked for; the peer may grant fewer. Default: 64.
    pub streams: u16,
    /// An association whose peer answers nothing (no data acknowledged, no heartbeat) is over after so
    /// long at the latest; with data under way, which is sent again more often, after a third of it. A path
    /// is given up for another one, where there is one, in three fifths of either. Default: 30 s. `None`
    /// leaves the kernel's values, which come to several minutes.
    ///
    /// The kernel counts unanswered retransmissions and heartbeats, five in all; their interval and the
    /// largest retransmission timeout follow from this.
    pub dead_after: Option<Duration>,
    /// The longest message that is put together for a handler, in bytes; a longer one is an error
    /// of `recv`, and is thrown away. Also the longest that is sent in clear, if the send buffer
    /// (`net.core.wmem_max`, without CAP_NET_ADMIN) allows that. Default: 1 MiB.
    pub max_message: usize,
    /// Stream pairs that have a TLS session on `sctp+tls://` (RFC 3436): a server's most, a client's
    /// number. Default: 1, stream 0 alone.
    pub tls_streams: u16,
    /// Take the exporter's label with its terminating NUL on `sctp+dtls://`, as OpenSSL up to 1.1.1j
    /// and 3.0-alpha11 did (its SSL_MODE_DTLS_SCTP_LABEL_LENGTH_BUG is the reverse). Default: `false`.
    pub dtls_label_with_nul: bool,
    /// Let the peer reset streams and add some, and let the handler ask for that (RFC 6525).
    /// Default: `false`.
    pub stream_reconfiguration: bool,
    /// Let addresses be added to and removed from live associations (RFC 5061). Switches SCTP-AUTH
    /// on. Default: `false`.
    pub dynamic_addresses: bool,
    /// The UDP port of the peer, for SCTP in UDP (RFC 6951); needs `net.sctp.udp_port`. Default:
    /// `None`.
    pub udp_encapsulation_port: Option<u16>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            streams: 64,
            dead_after: Some(Duration::from_secs(30)),
            max_message: 1 << 20,
            tls_streams: 1,
            dtls_label_with_nul: false,
            stream_reconfiguration: false,
            dynamic_addresses: false,
            udp_encapsulation_port: None,
        }
    }
}

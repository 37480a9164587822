//! What is set on SCTP listeners and clients before their first association.

use std::time::Duration;

use super::options::{HmacAlgorithm, StreamScheduler};
use crate::config::setters;

/// How SCTP associations are made: of a server's listeners, or of a client. Everything else can be
/// set on an association while it lives, through [`Options`](super::Options).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// Streams that are asked for to send on, and unless [`inbound_streams`](Self::inbound_streams) says otherwise to
    /// receive on; the peer may grant fewer. Default: 64.
    pub streams: u16,
    /// Streams that the peer may send on, at most (RFC 9260 §5.1.1). An answer on the stream of its question needs as many
    /// of one as of the other. Default: `None`, as many as [`streams`](Self::streams).
    pub inbound_streams: Option<u16>,
    /// INITs that are sent before a peer counts as unreachable (SCTP_INITMSG, RFC 6458 §8.1.3). Default: `None`, the
    /// kernel's 8. [`Client::timeout`](crate::Client::timeout) may end the attempt earlier.
    pub init_attempts: Option<u16>,
    /// The longest wait between two INITs, at most 65,535 ms. Default: `None`, the kernel's 60 s.
    pub init_timeout: Option<Duration>,
    /// The retransmission timeout before anything is measured (SCTP_RTOINFO, RFC 9260 §6.3.1). Default: `None`, as
    /// [`dead_after`](Self::dead_after) wants it, else the kernel's 3 s.
    pub rto_initial: Option<Duration>,
    /// The shortest retransmission timeout. Default: `None`, likewise, else the kernel's 1 s.
    pub rto_min: Option<Duration>,
    /// The longest retransmission timeout. A value above the one that [`dead_after`](Self::dead_after) makes, 2/25 of it,
    /// has a silent peer given up later. Default: `None`, likewise, else the kernel's 60 s.
    pub rto_max: Option<Duration>,
    /// The differentiated services code point of every packet (RFC 2474), 0 to 63. Default: `None`, 0.
    pub dscp: Option<u8>,
    /// How long the cookie of an association that is being set up stays good (RFC 9260 §5.1.3). Default: `None`, the
    /// kernel's 60 s.
    pub cookie_life: Option<Duration>,
    /// Which stream's message is sent next. Default: `None`, the kernel's, which is first come, first served.
    pub scheduler: Option<StreamScheduler>,
    /// What chunks are authenticated with, best first (RFC 4895 §3.3); SHA-1 must be among them. Switches SCTP-AUTH on if
    /// not empty. Default: empty, the kernel's, which are SHA-256 and SHA-1.
    pub hmac_algorithms: Vec<HmacAlgorithm>,
    /// The adaptation layer indication that the peer is told (RFC 5061 §4.2.6). Default: `None`, 0.
    pub adaptation_indication: Option<u32>,
    /// Let long messages of different streams alternate on the wire (I-DATA, RFC 8260), where the peer can do that too.
    /// Needs the sysctl `net.sctp.intl_enable`. Default: `false`.
    pub interleaving: bool,
    /// Let senders give messages up (PR-SCTP, RFC 3758), where the peer can do that too. Default: `true`.
    pub partial_reliability: bool,
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

setters!(Settings { streams: u16, inbound_streams: Option<u16>, init_attempts: Option<u16>, init_timeout: Option<Duration>, rto_initial: Option<Duration>, rto_min: Option<Duration>, rto_max: Option<Duration>, dscp: Option<u8>, cookie_life: Option<Duration>, scheduler: Option<StreamScheduler>, hmac_algorithms: Vec<HmacAlgorithm>, adaptation_indication: Option<u32>, interleaving: bool, partial_reliability: bool, dead_after: Option<Duration>, max_message: usize, tls_streams: u16, dtls_label_with_nul: bool, stream_reconfiguration: bool, dynamic_addresses: bool, udp_encapsulation_port: Option<u16> });

impl Default for Settings {
    fn default() -> Self {
        Self {
            streams: 64,
            inbound_streams: None,
            init_attempts: None,
            init_timeout: None,
            rto_initial: None,
            rto_min: None,
            rto_max: None,
            dscp: None,
            cookie_life: None,
            scheduler: None,
            hmac_algorithms: Vec::new(),
            adaptation_indication: None,
            interleaving: false,
            partial_reliability: true,
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

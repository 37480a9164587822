//! Settings of SCTP listeners and clients that apply before their first association.

use std::time::Duration;

use super::options::{HmacAlgorithm, StreamScheduler};
use crate::config::setters;

/// Parameters of the SCTP associations of a server or a client. Other parameters can be set on a live association,
/// through [`Options`](super::Options).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// How many streams to request for sending, and for receiving unless [`inbound_streams`](Self::inbound_streams) is
    /// set; the peer may grant fewer. Default: 64.
    pub streams: u16,
    /// How many streams the peer may send on (RFC 9260 §5.1.1). To answer on the stream of the request, a side needs as
    /// many outbound as inbound streams. Default: `None`, as many as [`streams`](Self::streams).
    pub inbound_streams: Option<u16>,
    /// How many INITs are sent before a peer counts as unreachable (SCTP_INITMSG, RFC 6458 §8.1.3). Default: `None`,
    /// the kernel's 8. [`Client::timeout`](crate::Client::timeout) may end the attempt earlier.
    pub init_attempts: Option<u16>,
    /// The longest interval between two INITs, at most 65,535 ms. Default: `None`, the kernel's 60 s.
    pub init_timeout: Option<Duration>,
    /// The retransmission timeout before the first measurement (SCTP_RTOINFO, RFC 9260 §6.3.1). Default: `None`, the
    /// value that follows from [`dead_after`](Self::dead_after), or the kernel's 3 s.
    pub rto_initial: Option<Duration>,
    /// The shortest retransmission timeout. Default: `None`, the value that follows from
    /// [`dead_after`](Self::dead_after), or the kernel's 1 s.
    pub rto_min: Option<Duration>,
    /// The longest retransmission timeout. Default: `None`, the value that follows from
    /// [`dead_after`](Self::dead_after), 2/25 of it, or the kernel's 60 s. A larger value delays the detection of a
    /// silent peer.
    pub rto_max: Option<Duration>,
    /// The differentiated services code point of every packet (RFC 2474), 0 to 63. Default: `None`, which means 0.
    pub dscp: Option<u8>,
    /// How long the state cookie of a new association is valid (RFC 9260 §5.1.3). Default: `None`, the kernel's 60 s.
    pub cookie_life: Option<Duration>,
    /// The scheduler that chooses the stream of the next message. Default: `None`, the kernel's: first come, first
    /// served.
    pub scheduler: Option<StreamScheduler>,
    /// The algorithms that authenticate chunks, best first (RFC 4895 §3.3); SHA-1 must be among them. A list that is
    /// not empty turns SCTP-AUTH on. Default: empty, the kernel's: SHA-256 and SHA-1.
    pub hmac_algorithms: Vec<HmacAlgorithm>,
    /// The adaptation layer indication that is sent to the peer (RFC 5061 §4.2.6). Default: `None`, which means 0.
    pub adaptation_indication: Option<u32>,
    /// Whether long messages of different streams may be interleaved on the wire (I-DATA, RFC 8260), if the peer
    /// supports that too. Needs the sysctl `net.sctp.intl_enable`. Default: `false`.
    pub interleaving: bool,
    /// Whether senders may abandon messages (PR-SCTP, RFC 3758), if the peer supports that too. Default: `true`.
    pub partial_reliability: bool,
    /// Maximum time after which an association ends if its peer answers nothing: no data is acknowledged, and no
    /// heartbeat. If data is outstanding, which is retransmitted more often, the association ends after a third of this
    /// time. If the peer has several paths, a path fails after three fifths of either. Default: 30 s. `None` keeps the
    /// kernel's values, which amount to several minutes.
    ///
    /// The kernel counts unanswered retransmissions and heartbeats, five in all; their interval and the longest
    /// retransmission timeout are computed from this value.
    pub dead_after: Option<Duration>,
    /// The longest message that is reassembled for a handler, in bytes. A longer one is discarded and makes `recv`
    /// return an error. It is also the longest message that can be sent without TLS or DTLS, if the send buffer
    /// (`net.core.wmem_max`, without CAP_NET_ADMIN) has room for it. Default: 1 MiB.
    pub max_message: usize,
    /// Stream pairs with a TLS session on `sctp+tls://` (RFC 3436): the maximum for a server, the number for a client.
    /// Default: 1, stream 0 only.
    pub tls_streams: u16,
    /// Whether `sctp+dtls://` uses the exporter's label with its terminating NUL, as OpenSSL up to 1.1.1j and
    /// 3.0-alpha11 did (its SSL_MODE_DTLS_SCTP_LABEL_LENGTH_BUG is the reverse). Default: `false`.
    pub dtls_label_with_nul: bool,
    /// Whether the peer may reset and add streams, and whether the handler may request that (RFC 6525). Default:
    /// `false`.
    pub stream_reconfiguration: bool,
    /// Whether addresses may be added to and removed from live associations (RFC 5061). `true` turns SCTP-AUTH on.
    /// Default: `false`.
    pub dynamic_addresses: bool,
    /// The UDP port of the peer, for SCTP in UDP (RFC 6951); needs the sysctl `net.sctp.udp_port`. Default: `None`.
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

//! Settings of a socket before its first association, and requirements for associations.

use std::io;
use std::time::Duration;

use socket2::Socket;

use super::sctp::abort;
use crate::address::Scheme;
use crate::sctp::{
    self, FragmentInterleave, Heartbeat, InitParameters, NotificationKind, Options, PathChange, Rto,
    Settings, StreamRequests,
};
use crate::sys::socket::{set_receive_buffer, set_send_buffer};
use crate::tls::Failure;

/// Requested size of the send and receive buffers, in bytes.
const BUFFER: usize = 1 << 20;

/// Chunk types (RFC 9260 §3.2, RFC 3758 §3.2).
const CHUNK_DATA: u8 = 0;
const CHUNK_FORWARD_TSN: u8 = 0xc0;

/// Configures a socket; its future associations inherit all settings.
pub(crate) fn configure(socket: &sctp::Socket, scheme: Scheme, settings: &Settings) -> io::Result<()> {
    let options = socket.options();
    let init = options.init()?;
    let init = InitParameters {
        outbound_streams: settings.streams,
        max_inbound_streams: settings.inbound_streams.unwrap_or(settings.streams),
        max_attempts: settings.init_attempts.unwrap_or(init.max_attempts),
        max_timeout: settings.init_timeout.unwrap_or(init.max_timeout),
    };
    named("init_attempts or init_timeout", options.set_init(init))?;
    let mut rto = options.rto()?;
    if let Some(dead_after) = settings.dead_after {
        let pace = Pace::new(dead_after);
        rto = pace.rto;
        options.set_association_max_retransmissions(pace.association_retransmissions)?;
        let heartbeat = Some(Heartbeat::Every(pace.heartbeat));
        let max_retransmissions = Some(pace.path_retransmissions);
        options.change_path(None, PathChange { heartbeat, max_retransmissions, ..PathChange::default() })?;
    }
    named("rto_initial, rto_min or rto_max", options.set_rto(adjust(rto, settings)))?;
    options.set_nodelay(true)?;
    options.set_receive_message_info(true)?;
    use NotificationKind as Kind;
    for kind in [Kind::AssociationChanged, Kind::PeerShutDown, Kind::PartialDelivery, Kind::PathChanged] {
        options.subscribe(kind, true)?;
    }
    // A message must fit into the send buffer.
    set_send_buffer(socket.as_socket(), settings.max_message.max(BUFFER))?;
    set_receive_buffer(socket.as_socket(), BUFFER)?;
    set_protocol(options, settings)?;
    set_extensions(options, scheme, settings)
}

/// Sets the options of the base protocol (RFC 9260).
fn set_protocol(options: Options<'_>, settings: &Settings) -> io::Result<()> {
    if let Some(dscp) = settings.dscp {
        // The DSCP is the upper six bits of the octet.
        let change = PathChange { dscp: Some(dscp << 2), ..PathChange::default() };
        named("dscp", options.change_path(None, change))?;
    }
    if let Some(life) = settings.cookie_life {
        named("cookie_life", options.set_cookie_life(life))?;
    }
    if let Some(scheduler) = settings.scheduler {
        named("scheduler", options.set_stream_scheduler(scheduler))?;
    }
    Ok(())
}

/// Sets the options of protocol extensions.
fn set_extensions(options: Options<'_>, scheme: Scheme, settings: &Settings) -> io::Result<()> {
    if !settings.partial_reliability {
        options.set_partial_reliability_supported(false)?;
    }
    if let Some(indication) = settings.adaptation_indication {
        named("adaptation_indication", options.set_adaptation_layer(indication))?;
    }
    if settings.interleaving {
        options.set_fragment_interleave(FragmentInterleave::Streams)?;
        options.set_interleaving_supported(true).map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM) => io::Error::other("interleaving needs the sysctl net.sctp.intl_enable=1"),
            _ => error,
        })?;
    }
    if scheme == Scheme::SctpDtls || settings.dynamic_addresses || !settings.hmac_algorithms.is_empty() {
        options.set_auth_supported(true)?;
    }
    if !settings.hmac_algorithms.is_empty() {
        named("hmac_algorithms", options.set_hmac_identifiers(&settings.hmac_algorithms))?;
    }
    if scheme == Scheme::SctpDtls {
        // RFC 6083 §4.5 and RFC 3758: only authenticated chunks may affect the data.
        options.require_auth(CHUNK_DATA)?;
        options.require_auth(CHUNK_FORWARD_TSN)?;
    }
    if settings.dynamic_addresses {
        options.set_asconf_supported(true)?;
    }
    if settings.stream_reconfiguration {
        options.set_reconfig_supported(true)?;
        options.enable_stream_requests(StreamRequests {
            reset_streams: true,
            reset_association: true,
            add_streams: true,
        })?;
    }
    if let Some(port) = settings.udp_encapsulation_port {
        options.set_remote_udp_encapsulation_port(None, Some(port))?;
    }
    Ok(())
}

/// Adds the name of the setting to an error of the kernel.
fn named(setting: &str, result: io::Result<()>) -> io::Result<()> {
    result.map_err(|error| {
        io::Error::other(format!("this kernel does not accept the value of {setting} ({error})"))
    })
}

/// Combines the settings with the default values, adjusting the values that are not set.
fn adjust(rto: Rto, settings: &Settings) -> Rto {
    let max = settings.rto_max.unwrap_or(rto.max.max(settings.rto_min.unwrap_or_default()));
    let max = max.max(settings.rto_initial.filter(|_| settings.rto_max.is_none()).unwrap_or_default());
    let min = settings.rto_min.unwrap_or(rto.min.min(max));
    let min = min.min(settings.rto_initial.filter(|_| settings.rto_min.is_none()).unwrap_or(min));
    let initial = settings.rto_initial.unwrap_or(rto.initial.clamp(min.min(max), max));
    Rto { initial, min, max }
}

/// Refuses a peer that accepts or sends data without authentication. If both sides support FORWARD-TSN chunks, these
/// must be authenticated too, because they discard data (RFC 6083 §4.5, RFC 3758).
pub(crate) fn require_auth(socket: &Socket) -> Result<(), Failure> {
    let options = Options::of(socket);
    let chunks = options.peer_auth_chunks().unwrap_or_default();
    let mut needed = vec![(CHUNK_DATA, "DATA")];
    // For an association, Linux returns whether its peer supports it.
    if options.partial_reliability_supported().unwrap_or(true) {
        needed.push((CHUNK_FORWARD_TSN, "FORWARD-TSN"));
    }
    match needed.into_iter().find(|(chunk, _)| !chunks.contains(chunk)) {
        None => Ok(()),
        Some((_, name)) => {
            abort(socket, format!("SCTP-AUTH must cover {name} chunks").as_bytes());
            Err(Failure::of(format!(
                "the peer does not authenticate {name} chunks (SCTP-AUTH, RFC 4895), which DTLS over SCTP needs"
            )))
        }
    }
}

/// The timers and limits with which the kernel detects in time that a peer has failed.
struct Pace {
    rto: Rto,
    heartbeat: Duration,
    association_retransmissions: u16,
    path_retransmissions: u16,
}

impl Pace {
    /// Computes the timers for a failure that is detected within `dead_after`. The association fails with the fifth
    /// unanswered retransmission or heartbeat, a path with the third (RFC 9260 §8.1, §8.2). Heartbeats are sent at an
    /// interval of the heartbeat time plus one RTO, which varies by up to half of itself (§8.3). So each fifth of
    /// `dead_after` is divided: two fifths of it for the heartbeat time, and three fifths for an RTO of two fifths that
    /// is half as long again.
    fn new(dead_after: Duration) -> Self {
        const RETRANSMISSIONS: u16 = 4;
        let turn = dead_after / u32::from(RETRANSMISSIONS + 1);
        let max = (turn * 2 / 5).max(Duration::from_millis(10));
        let default = Duration::from_secs(1);
        Self {
            rto: Rto { initial: default.min(max), max, min: default.min(max) },
            heartbeat: max,
            association_retransmissions: RETRANSMISSIONS,
            path_retransmissions: RETRANSMISSIONS / 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_that_are_not_set_follow_from_those_that_are() {
        let seconds = Duration::from_secs;
        let kernel = Rto { initial: seconds(3), min: seconds(1), max: seconds(60) };
        let adjusted = |initial: Option<u64>, min: Option<u64>, max: Option<u64>| {
            let (rto_initial, rto_min, rto_max) = (initial.map(seconds), min.map(seconds), max.map(seconds));
            let settings = Settings { rto_initial, rto_min, rto_max, ..Settings::default() };
            let Rto { initial, min, max } = adjust(kernel, &settings);
            (initial.as_secs(), min.as_secs(), max.as_secs())
        };
        assert_eq!(adjusted(None, None, None), (3, 1, 60));
        assert_eq!(adjusted(Some(5), None, None), (5, 1, 60));
        assert_eq!(adjusted(None, Some(5), None), (5, 5, 60));
        assert_eq!(adjusted(None, Some(90), None), (90, 90, 90));
        assert_eq!(adjusted(None, None, Some(2)), (2, 1, 2));
        assert_eq!(adjusted(Some(90), None, None), (90, 1, 90));
        assert_eq!(adjusted(Some(4), Some(2), Some(8)), (4, 2, 8));
    }
}

//! Options of paths: each address of the peer is a path with its own timers and limits.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::{Options, from_milliseconds, nonzero};
use crate::sctp::sockaddr;
use crate::sys::sctp::abi::*;
use crate::sys::sctp::milliseconds;

/// State of a path (SCTP_GET_PEER_ADDR_INFO, RFC 6458 §8.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PathInfo {
    /// The address of the peer.
    pub address: SocketAddr,
    /// Whether it answers.
    pub reachability: PathReachability,
    /// The congestion window, in bytes.
    pub congestion_window: u32,
    /// The smoothed round-trip time.
    pub round_trip: Duration,
    /// The retransmission timeout.
    pub rto: Duration,
    /// The path MTU, in bytes.
    pub mtu: u32,
}

/// Whether an address of the peer answers (`spinfo_state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PathReachability {
    /// The address answers (SCTP_ACTIVE).
    Active,
    /// The address does not answer (SCTP_INACTIVE).
    Inactive,
    /// The address may have failed (SCTP_POTENTIALLY_FAILED, RFC 7829).
    PotentiallyFailed,
    /// The address has not answered yet (SCTP_UNCONFIRMED).
    Unconfirmed,
    /// The state is not known.
    Unknown,
    /// A state that this library does not know.
    Other(i32),
}

/// Parameters of a path (SCTP_PEER_ADDR_PARAMS, RFC 6458 §8.1.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PathParameters {
    /// The interval of heartbeats while the path is idle.
    pub heartbeat: Heartbeat,
    /// The path becomes inactive after this many consecutive retransmissions without an answer.
    pub max_retransmissions: u16,
    /// The path MTU in bytes; 0 before it is known.
    pub mtu: u32,
    /// Whether the path MTU is discovered.
    pub mtu_discovery: bool,
    /// How long an acknowledgement may be delayed.
    pub sack_delay: SackDelay,
    /// The IPv6 flow label, if one was set.
    pub flow_label: Option<u32>,
    /// The DSCP, in the upper six bits, if one was set.
    pub dscp: Option<u8>,
}

/// Changes of [`PathParameters`]; `None`, the default, leaves a parameter unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PathChange {
    /// The interval of heartbeats while the path is idle.
    pub heartbeat: Option<Heartbeat>,
    /// The limit of [`PathParameters::max_retransmissions`]; not 0.
    pub max_retransmissions: Option<u16>,
    /// The path MTU.
    pub mtu: Option<MtuChange>,
    /// How long an acknowledgement may be delayed.
    pub sack_delay: Option<SackDelay>,
    /// The IPv6 flow label; Linux ignores it if the path or the socket is IPv4.
    pub flow_label: Option<u32>,
    /// The DSCP, in the upper six bits.
    pub dscp: Option<u8>,
}

/// The interval of heartbeats while a path is idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Heartbeat {
    /// No heartbeats.
    Off,
    /// One heartbeat after this interval plus the retransmission timeout.
    Every(Duration),
}

/// A change of the path MTU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MtuChange {
    /// The path MTU is discovered.
    Discover,
    /// The path MTU is fixed to this many bytes, at least 512.
    Fixed(u32),
}

/// How long an acknowledgement may be delayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SackDelay {
    /// Acknowledgements are not delayed.
    Off,
    /// Acknowledgements are delayed for up to this time, at most 500 ms.
    UpTo(Duration),
}

/// Thresholds for the failure of a path (SCTP_PEER_ADDR_THLDS_V2, RFC 7829 §7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PathThresholds {
    /// Retransmissions without an answer after which the path is inactive.
    pub max_retransmissions: u16,
    /// Retransmissions after which the path is potentially failed and another one is used.
    pub potentially_failed: u16,
    /// Retransmissions after which another path permanently becomes the primary one; `None`: never.
    pub primary_switchover: Option<u16>,
}

/// The kernel's value for "never" in `spt_pathcpthld`.
const NEVER: u16 = u16::MAX;

/// # Paths
///
/// `address` is one of the peer's addresses. If it may be `None`, that stands for all paths of an association,
/// including future ones.
impl Options<'_> {
    /// Returns the state of a path (SCTP_GET_PEER_ADDR_INFO, RFC 6458 §8.2.2). Fails with EACCES for a potentially
    /// failed path that [`set_expose_potentially_failed`](Self::set_expose_potentially_failed) hides.
    pub fn path_info(&self, address: SocketAddr) -> io::Result<PathInfo> {
        let answer = self.get(SCTP_GET_PEER_ADDR_INFO, ask_info(self.id(), storage(Some(address))))?;
        Ok(PathInfo::read(answer).ok_or(io::ErrorKind::InvalidData)?)
    }

    /// Returns the state of all paths, one for each address of the peer.
    pub fn paths(&self) -> io::Result<Vec<PathInfo>> {
        self.peer_addresses()?.into_iter().map(|address| self.path_info(address)).collect()
    }

    /// Returns the parameters of a path (SCTP_PEER_ADDR_PARAMS, RFC 6458 §8.1.12).
    pub fn path_parameters(&self, address: Option<SocketAddr>) -> io::Result<PathParameters> {
        let answer = self.get(SCTP_PEER_ADDR_PARAMS, self.paddrparams(address))?;
        let flags = answer.spp_flags;
        let heartbeat = from_milliseconds(answer.spp_hbinterval);
        let delay = from_milliseconds(answer.spp_sackdelay);
        Ok(PathParameters {
            heartbeat: if flags & SPP_HB_ENABLE != 0 { Heartbeat::Every(heartbeat) } else { Heartbeat::Off },
            max_retransmissions: answer.spp_pathmaxrxt,
            mtu: answer.spp_pathmtu,
            mtu_discovery: flags & SPP_PMTUD_ENABLE != 0,
            sack_delay: if flags & SPP_SACKDELAY_ENABLE != 0 {
                SackDelay::UpTo(delay)
            } else {
                SackDelay::Off
            },
            flow_label: (flags & SPP_IPV6_FLOWLABEL != 0).then_some(answer.spp_ipv6_flowlabel),
            dscp: (flags & SPP_DSCP != 0).then_some(answer.spp_dscp),
        })
    }

    /// Changes the parameters that are set in `change`.
    pub fn change_path(&self, address: Option<SocketAddr>, change: PathChange) -> io::Result<()> {
        let mut value = self.paddrparams(address);
        let mut flags = 0;
        match change.heartbeat {
            None => {}
            Some(Heartbeat::Off) => flags |= SPP_HB_DISABLE,
            Some(Heartbeat::Every(Duration::ZERO)) => flags |= SPP_HB_ENABLE | SPP_HB_TIME_IS_ZERO,
            Some(Heartbeat::Every(interval)) => {
                flags |= SPP_HB_ENABLE;
                value.spp_hbinterval = milliseconds(interval);
            }
        }
        if let Some(count) = change.max_retransmissions {
            value.spp_pathmaxrxt = nonzero(count)?;
        }
        match change.mtu {
            None => {}
            Some(MtuChange::Discover) => flags |= SPP_PMTUD_ENABLE,
            Some(MtuChange::Fixed(mtu)) => {
                flags |= SPP_PMTUD_DISABLE;
                value.spp_pathmtu = nonzero(mtu)?;
            }
        }
        match change.sack_delay {
            None => {}
            Some(SackDelay::Off) => flags |= SPP_SACKDELAY_DISABLE,
            Some(SackDelay::UpTo(delay)) => {
                flags |= SPP_SACKDELAY_ENABLE;
                value.spp_sackdelay = nonzero(milliseconds(delay))?;
            }
        }
        if let Some(label) = change.flow_label {
            flags |= SPP_IPV6_FLOWLABEL;
            value.spp_ipv6_flowlabel = label;
        }
        if let Some(dscp) = change.dscp {
            flags |= SPP_DSCP;
            value.spp_dscp = dscp;
        }
        value.spp_flags = flags;
        self.set(SCTP_PEER_ADDR_PARAMS, &value)
    }

    /// Sends a heartbeat on a path at once (SPP_HB_DEMAND).
    pub fn heartbeat_now(&self, address: SocketAddr) -> io::Result<()> {
        let mut value = self.paddrparams(Some(address));
        value.spp_flags = SPP_HB_DEMAND;
        self.set(SCTP_PEER_ADDR_PARAMS, &value)
    }

    fn paddrparams(&self, address: Option<SocketAddr>) -> sctp_paddrparams {
        sctp_paddrparams {
            spp_assoc_id: self.id(),
            spp_address: storage(address),
            spp_hbinterval: 0,
            spp_pathmaxrxt: 0,
            spp_pathmtu: 0,
            spp_sackdelay: 0,
            spp_flags: 0,
            spp_ipv6_flowlabel: 0,
            spp_dscp: 0,
            padding: 0,
        }
    }

    /// Returns the thresholds of a path (SCTP_PEER_ADDR_THLDS_V2, RFC 7829 §7.2; Linux 5.5).
    pub fn path_thresholds(&self, address: Option<SocketAddr>) -> io::Result<PathThresholds> {
        let question = sctp_paddrthlds_v2 {
            spt_assoc_id: self.id(),
            spt_address: storage(address),
            spt_pathmaxrxt: 0,
            spt_pathpfthld: 0,
            spt_pathcpthld: 0,
        };
        let answer = self.get(SCTP_PEER_ADDR_THLDS_V2, question)?;
        let switchover = answer.spt_pathcpthld;
        Ok(PathThresholds {
            max_retransmissions: answer.spt_pathmaxrxt,
            potentially_failed: answer.spt_pathpfthld,
            primary_switchover: (switchover != NEVER).then_some(switchover),
        })
    }

    /// Sets all three thresholds. Fails with EINVAL if `primary_switchover` is below `potentially_failed`.
    pub fn set_path_thresholds(&self, address: Option<SocketAddr>, value: PathThresholds) -> io::Result<()> {
        let value = sctp_paddrthlds_v2 {
            spt_assoc_id: self.id(),
            spt_address: storage(address),
            spt_pathmaxrxt: nonzero(value.max_retransmissions)?,
            spt_pathpfthld: value.potentially_failed,
            spt_pathcpthld: value.primary_switchover.unwrap_or(NEVER),
        };
        self.set(SCTP_PEER_ADDR_THLDS_V2, &value)
    }

    /// Returns whether the state "potentially failed" is reported (SCTP_EXPOSE_POTENTIALLY_FAILED_STATE, RFC 7829
    /// §7.3); `None` if neither this option nor net.sctp.pf_expose is set.
    pub fn expose_potentially_failed(&self) -> io::Result<Option<bool>> {
        Ok(match self.get_value(SCTP_EXPOSE_POTENTIALLY_FAILED_STATE)? {
            0 => None,
            value => Some(value == SCTP_PF_EXPOSE_ENABLE),
        })
    }

    /// Sets the value of [`expose_potentially_failed`](Self::expose_potentially_failed).
    pub fn set_expose_potentially_failed(&self, on: bool) -> io::Result<()> {
        let value = if on { SCTP_PF_EXPOSE_ENABLE } else { SCTP_PF_EXPOSE_DISABLE };
        self.set_value(SCTP_EXPOSE_POTENTIALLY_FAILED_STATE, value)
    }

    /// Returns the peer's UDP port for packets that are encapsulated in UDP (SCTP_REMOTE_UDP_ENCAPS_PORT, RFC 6951
    /// §6.1; Linux 5.11); `None`: no encapsulation. The port of this host is net.sctp.udp_port.
    pub fn remote_udp_encapsulation_port(&self, address: Option<SocketAddr>) -> io::Result<Option<u16>> {
        let answer = self.get(SCTP_REMOTE_UDP_ENCAPS_PORT, self.udpencaps(address, None))?;
        let port = u16::from_be(answer.sue_port);
        Ok((port != 0).then_some(port))
    }

    /// Sets the value of [`remote_udp_encapsulation_port`](Self::remote_udp_encapsulation_port).
    pub fn set_remote_udp_encapsulation_port(
        &self,
        address: Option<SocketAddr>,
        port: Option<u16>,
    ) -> io::Result<()> {
        self.set(SCTP_REMOTE_UDP_ENCAPS_PORT, &self.udpencaps(address, port))
    }

    fn udpencaps(&self, address: Option<SocketAddr>, port: Option<u16>) -> sctp_udpencaps {
        sctp_udpencaps {
            sue_assoc_id: self.id(),
            sue_address: storage(address),
            sue_port: port.unwrap_or(0).to_be(),
        }
    }

    /// Returns how often the path MTU is probed without the help of ICMP (SCTP_PLPMTUD_PROBE_INTERVAL, RFC 8899; Linux
    /// 5.14); `None`: it is not probed.
    pub fn probe_interval(&self, address: Option<SocketAddr>) -> io::Result<Option<Duration>> {
        let answer = self.get(SCTP_PLPMTUD_PROBE_INTERVAL, self.probeinterval(address, 0))?;
        Ok((answer.spi_interval != 0).then(|| from_milliseconds(answer.spi_interval)))
    }

    /// Sets the value of [`probe_interval`](Self::probe_interval). Fails with EINVAL below 5 s.
    pub fn set_probe_interval(
        &self,
        address: Option<SocketAddr>,
        interval: Option<Duration>,
    ) -> io::Result<()> {
        let interval = interval.map_or(Ok(0), |interval| nonzero(milliseconds(interval)))?;
        self.set(SCTP_PLPMTUD_PROBE_INTERVAL, &self.probeinterval(address, interval))
    }

    fn probeinterval(&self, address: Option<SocketAddr>, interval: u32) -> sctp_probeinterval {
        sctp_probeinterval { spi_assoc_id: self.id(), spi_address: storage(address), spi_interval: interval }
    }
}

impl PathInfo {
    /// Converts the kernel's structure; returns `None` if it has no address.
    pub(super) fn read(info: sctp_paddrinfo) -> Option<Self> {
        let (address, _) = sockaddr::parse(&{ info.spinfo_address }.bytes)?;
        Some(Self {
            address,
            reachability: match info.spinfo_state {
                0 => PathReachability::Inactive,
                1 => PathReachability::PotentiallyFailed,
                2 => PathReachability::Active,
                3 => PathReachability::Unconfirmed,
                0xffff => PathReachability::Unknown,
                other => PathReachability::Other(other),
            },
            congestion_window: info.spinfo_cwnd,
            round_trip: from_milliseconds(info.spinfo_srtt),
            rto: from_milliseconds(info.spinfo_rto),
            mtu: info.spinfo_mtu,
        })
    }
}

/// Returns the structure that asks for the state of a path.
pub(super) fn ask_info(association: i32, address: Storage) -> sctp_paddrinfo {
    sctp_paddrinfo {
        spinfo_assoc_id: association,
        spinfo_address: address,
        spinfo_state: 0,
        spinfo_cwnd: 0,
        spinfo_srtt: 0,
        spinfo_rto: 0,
        spinfo_mtu: 0,
    }
}

/// Returns the structure for an address, or an empty one.
pub(super) fn storage(address: Option<SocketAddr>) -> Storage {
    let mut storage = Storage::NONE;
    if let Some(address) = address {
        storage.bytes = sockaddr::to_storage(address).0;
    }
    storage
}

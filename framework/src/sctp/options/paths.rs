//! Each address of the peer is a path, with timers and limits of its own.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::{Options, from_milliseconds, nonzero};
use crate::sctp::sockaddr;
use crate::sys::sctp::abi::*;
use crate::sys::sctp::milliseconds;

/// What is known of a path (SCTP_GET_PEER_ADDR_INFO, RFC 6458 §8.2.2).
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
    /// It does (SCTP_ACTIVE).
    Active,
    /// It does not (SCTP_INACTIVE).
    Inactive,
    /// It may not (SCTP_POTENTIALLY_FAILED, RFC 7829).
    PotentiallyFailed,
    /// It has not answered yet (SCTP_UNCONFIRMED).
    Unconfirmed,
    /// Nothing is known of it.
    Unknown,
    /// Something that this does not know.
    Other(i32),
}

/// How a path is watched (SCTP_PEER_ADDR_PARAMS, RFC 6458 §8.1.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PathParameters {
    /// How often it is tried while idle.
    pub heartbeat: Heartbeat,
    /// After so many retransmissions in a row without an answer the path is inactive.
    pub max_retransmissions: u16,
    /// The path MTU in bytes; 0 before anything is known.
    pub mtu: u32,
    /// Whether the path MTU is discovered.
    pub mtu_discovery: bool,
    /// How long an acknowledgement may wait.
    pub sack_delay: SackDelay,
    /// The IPv6 flow label, if one was set.
    pub flow_label: Option<u32>,
    /// The DSCP, in the upper six bits, if one was set.
    pub dscp: Option<u8>,
}

/// What to change of [`PathParameters`]; `None`, the default, leaves it as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PathChange {
    /// How often an idle path is tried.
    pub heartbeat: Option<Heartbeat>,
    /// The limit of [`PathParameters::max_retransmissions`]; not 0.
    pub max_retransmissions: Option<u16>,
    /// The path MTU.
    pub mtu: Option<MtuChange>,
    /// How long an acknowledgement may wait.
    pub sack_delay: Option<SackDelay>,
    /// The IPv6 flow label; Linux passes over it where the path or the socket is IPv4.
    pub flow_label: Option<u32>,
    /// The DSCP, in the upper six bits.
    pub dscp: Option<u8>,
}

/// How often an idle path is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Heartbeat {
    /// Never.
    Off,
    /// After so long, and the retransmission timeout.
    Every(Duration),
}

/// The path MTU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MtuChange {
    /// Is discovered.
    Discover,
    /// Is this many bytes, 512 at least.
    Fixed(u32),
}

/// How long an acknowledgement may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SackDelay {
    /// Not at all.
    Off,
    /// So long, at most 500 ms.
    UpTo(Duration),
}

/// When a path is given up (SCTP_PEER_ADDR_THLDS_V2, RFC 7829 §7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PathThresholds {
    /// Retransmissions without an answer after which it is inactive.
    pub max_retransmissions: u16,
    /// Retransmissions after which it is potentially failed and another is used.
    pub potentially_failed: u16,
    /// Retransmissions after which another becomes the primary for good; `None`: never.
    pub primary_switchover: Option<u16>,
}

/// What the kernel takes for "never" in `spt_pathcpthld`.
const NEVER: u16 = u16::MAX;

/// # Paths
///
/// `address` is one of the peer's addresses; where it may be `None`, that is all of an association, and those to
/// come.
impl Options<'_> {
    /// SCTP_GET_PEER_ADDR_INFO (RFC 6458 §8.2.2). EACCES for a potentially failed path that
    /// [`set_expose_potentially_failed`](Self::set_expose_potentially_failed) hides.
    pub fn path_info(&self, address: SocketAddr) -> io::Result<PathInfo> {
        let answer = self.get(SCTP_GET_PEER_ADDR_INFO, ask_info(self.id(), storage(Some(address))))?;
        Ok(PathInfo::read(answer).ok_or(io::ErrorKind::InvalidData)?)
    }

    /// All paths: one for each address of the peer.
    pub fn paths(&self) -> io::Result<Vec<PathInfo>> {
        self.peer_addresses()?.into_iter().map(|address| self.path_info(address)).collect()
    }

    /// SCTP_PEER_ADDR_PARAMS (RFC 6458 §8.1.12).
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

    /// Changes what `change` names.
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

    /// Tries a path of an association at once (SPP_HB_DEMAND).
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

    /// SCTP_PEER_ADDR_THLDS_V2 (RFC 7829 §7.2; Linux 5.5).
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

    /// Sets all three. EINVAL if `primary_switchover` is below `potentially_failed`.
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

    /// Whether it is told that a path has potentially failed (SCTP_EXPOSE_POTENTIALLY_FAILED_STATE, RFC 7829
    /// §7.3); `None`: nothing was set, and net.sctp.pf_expose has no say either.
    pub fn expose_potentially_failed(&self) -> io::Result<Option<bool>> {
        Ok(match self.get_value(SCTP_EXPOSE_POTENTIALLY_FAILED_STATE)? {
            0 => None,
            value => Some(value == SCTP_PF_EXPOSE_ENABLE),
        })
    }

    /// Sets that.
    pub fn set_expose_potentially_failed(&self, on: bool) -> io::Result<()> {
        let value = if on { SCTP_PF_EXPOSE_ENABLE } else { SCTP_PF_EXPOSE_DISABLE };
        self.set_value(SCTP_EXPOSE_POTENTIALLY_FAILED_STATE, value)
    }

    /// The UDP port of the peer to which packets go inside UDP (SCTP_REMOTE_UDP_ENCAPS_PORT, RFC 6951 §6.1;
    /// Linux 5.11); `None`: not inside UDP. This host's own port is net.sctp.udp_port.
    pub fn remote_udp_encapsulation_port(&self, address: Option<SocketAddr>) -> io::Result<Option<u16>> {
        let answer = self.get(SCTP_REMOTE_UDP_ENCAPS_PORT, self.udpencaps(address, None))?;
        let port = u16::from_be(answer.sue_port);
        Ok((port != 0).then_some(port))
    }

    /// Sets that.
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

    /// How often the path MTU is probed without help of ICMP (SCTP_PLPMTUD_PROBE_INTERVAL, RFC 8899; Linux
    /// 5.14); `None`: it is not.
    pub fn probe_interval(&self, address: Option<SocketAddr>) -> io::Result<Option<Duration>> {
        let answer = self.get(SCTP_PLPMTUD_PROBE_INTERVAL, self.probeinterval(address, 0))?;
        Ok((answer.spi_interval != 0).then(|| from_milliseconds(answer.spi_interval)))
    }

    /// Sets that; EINVAL below 5 s.
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
    /// `None` where there is no address.
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

/// A question about a path.
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

/// The address, or none.
pub(super) fn storage(address: Option<SocketAddr>) -> Storage {
    let mut storage = Storage::NONE;
    if let Some(address) = address {
        storage.bytes = sockaddr::to_storage(address).0;
    }
    storage
}

//! Timers, limits, state and addresses of an association.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::{Options, PathInfo, from_milliseconds, nonzero, nonzero_milliseconds, paths};
use crate::sctp::{AssocId, NotificationKind, sockaddr};
use crate::sys::sctp::abi::*;
use crate::sys::sctp::{self, get_growing};

/// Retransmission timeouts (SCTP_RTOINFO, RFC 6458 §8.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rto {
    /// The timeout before the first measurement.
    pub initial: Duration,
    /// The minimum.
    pub min: Duration,
    /// The maximum.
    pub max: Duration,
}

/// Parameters of an association (SCTP_ASSOCINFO, RFC 6458 §8.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct AssociationParameters {
    /// The association is lost after this many consecutive retransmissions without an answer, over all paths.
    pub max_retransmissions: u16,
    /// The number of the peer's addresses.
    pub peer_addresses: u16,
    /// The peer's receive window, in bytes.
    pub peer_window: u32,
    /// This side's receive window, in bytes.
    pub local_window: u32,
    /// How long a state cookie of this side is valid.
    pub cookie_life: Duration,
}

/// Parameters of the request for an association (SCTP_INITMSG, RFC 6458 §8.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InitParameters {
    /// Streams to send on; the peer may grant fewer.
    pub outbound_streams: u16,
    /// Maximum number of streams that the peer may send on.
    pub max_inbound_streams: u16,
    /// Maximum number of INITs.
    pub max_attempts: u16,
    /// The longest interval between two INITs; at most 65,535 ms.
    pub max_timeout: Duration,
}

/// Status of an association (SCTP_STATUS, RFC 6458 §8.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Status {
    /// The association.
    pub association: AssocId,
    /// Its state.
    pub phase: AssociationPhase,
    /// The peer's receive window, in bytes.
    pub peer_window: u32,
    /// DATA chunks that were sent and not yet acknowledged.
    pub unacknowledged: u16,
    /// DATA chunks that were received and not yet read.
    pub pending: u16,
    /// Streams that the peer may send on.
    pub inbound_streams: u16,
    /// Streams that this side may send on.
    pub outbound_streams: u16,
    /// The longest message that fits into one chunk, in bytes.
    pub fragmentation_point: u32,
    /// The primary path; `None` before there is one.
    pub primary: Option<PathInfo>,
}

/// State of an association (RFC 9260 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the states of RFC 9260")]
pub enum AssociationPhase {
    Closed,
    CookieWait,
    CookieEchoed,
    Established,
    ShutdownPending,
    ShutdownSent,
    ShutdownReceived,
    ShutdownAckSent,
    Other(i32),
}

/// Linux's counters of an association (SCTP_GET_ASSOC_STATS; not in any RFC).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct AssociationCounters {
    /// The longest retransmission timeout since this was last read, and the peer's address that had it; `None` if it
    /// has not changed.
    pub max_rto: Option<(SocketAddr, Duration)>,
    /// SACK chunks received.
    pub sacks_received: u64,
    /// SACK chunks sent.
    pub sacks_sent: u64,
    /// Packets received.
    pub packets_received: u64,
    /// Packets sent.
    pub packets_sent: u64,
    /// Chunks retransmitted.
    pub retransmitted_chunks: u64,
    /// Transmission sequence numbers received that were beyond the expected one.
    pub out_of_order: u64,
    /// DATA chunks received twice.
    pub duplicates: u64,
    /// Gaps that the peer reported.
    pub gaps: u64,
    /// Unordered DATA chunks received.
    pub unordered_received: u64,
    /// Unordered DATA chunks sent.
    pub unordered_sent: u64,
    /// Ordered DATA chunks received.
    pub ordered_received: u64,
    /// Ordered DATA chunks sent.
    pub ordered_sent: u64,
    /// Control chunks received.
    pub control_received: u64,
    /// Control chunks sent.
    pub control_sent: u64,
}

/// # Associations
impl Options<'_> {
    /// Returns the status (SCTP_STATUS, RFC 6458 §8.2.1). Fails with EINVAL if there is no association.
    pub fn status(&self) -> io::Result<Status> {
        let question = sctp_status {
            sstat_assoc_id: self.id(),
            sstat_state: 0,
            sstat_rwnd: 0,
            sstat_unackdata: 0,
            sstat_penddata: 0,
            sstat_instrms: 0,
            sstat_outstrms: 0,
            sstat_fragmentation_point: 0,
            sstat_primary: paths::ask_info(0, Storage::NONE),
        };
        let answer = self.get(SCTP_STATUS, question)?;
        Ok(Status {
            association: AssocId::from_raw(answer.sstat_assoc_id),
            // Linux counts from 1 (SCTP_CLOSED); 0 is SCTP_EMPTY, which does not occur.
            phase: match answer.sstat_state {
                1 => AssociationPhase::Closed,
                2 => AssociationPhase::CookieWait,
                3 => AssociationPhase::CookieEchoed,
                4 => AssociationPhase::Established,
                5 => AssociationPhase::ShutdownPending,
                6 => AssociationPhase::ShutdownSent,
                7 => AssociationPhase::ShutdownReceived,
                8 => AssociationPhase::ShutdownAckSent,
                other => AssociationPhase::Other(other),
            },
            peer_window: answer.sstat_rwnd,
            unacknowledged: answer.sstat_unackdata,
            pending: answer.sstat_penddata,
            inbound_streams: answer.sstat_instrms,
            outbound_streams: answer.sstat_outstrms,
            fragmentation_point: answer.sstat_fragmentation_point,
            primary: PathInfo::read(answer.sstat_primary),
        })
    }

    /// Returns the retransmission timeouts (SCTP_RTOINFO, RFC 6458 §8.1.1).
    pub fn rto(&self) -> io::Result<Rto> {
        let question = sctp_rtoinfo { srto_assoc_id: self.id(), srto_initial: 0, srto_max: 0, srto_min: 0 };
        let answer = self.get(SCTP_RTOINFO, question)?;
        Ok(Rto {
            initial: from_milliseconds(answer.srto_initial),
            min: from_milliseconds(answer.srto_min),
            max: from_milliseconds(answer.srto_max),
        })
    }

    /// Sets all three timeouts. Fails with EINVAL unless `min` ≤ `initial` ≤ `max`.
    pub fn set_rto(&self, rto: Rto) -> io::Result<()> {
        let value = sctp_rtoinfo {
            srto_assoc_id: self.id(),
            srto_initial: nonzero_milliseconds(rto.initial)?,
            srto_max: nonzero_milliseconds(rto.max)?,
            srto_min: nonzero_milliseconds(rto.min)?,
        };
        self.set(SCTP_RTOINFO, &value)
    }

    /// Returns the parameters of the association (SCTP_ASSOCINFO, RFC 6458 §8.1.2).
    pub fn association_parameters(&self) -> io::Result<AssociationParameters> {
        let answer = self.get(SCTP_ASSOCINFO, self.assocparams(0, 0))?;
        Ok(AssociationParameters {
            max_retransmissions: answer.sasoc_asocmaxrxt,
            peer_addresses: answer.sasoc_number_peer_destinations,
            peer_window: answer.sasoc_peer_rwnd,
            local_window: answer.sasoc_local_rwnd,
            cookie_life: from_milliseconds(answer.sasoc_cookie_life),
        })
    }

    /// Sets [`AssociationParameters::max_retransmissions`]. Fails with EINVAL if there are several paths and the value
    /// exceeds the sum of their limits.
    pub fn set_association_max_retransmissions(&self, count: u16) -> io::Result<()> {
        self.set(SCTP_ASSOCINFO, &self.assocparams(nonzero(count)?, 0))
    }

    /// Sets [`AssociationParameters::cookie_life`].
    pub fn set_cookie_life(&self, life: Duration) -> io::Result<()> {
        self.set(SCTP_ASSOCINFO, &self.assocparams(0, nonzero_milliseconds(life)?))
    }

    fn assocparams(&self, retransmissions: u16, cookie_life: u32) -> sctp_assocparams {
        sctp_assocparams {
            sasoc_assoc_id: self.id(),
            sasoc_asocmaxrxt: retransmissions,
            sasoc_number_peer_destinations: 0,
            sasoc_peer_rwnd: 0,
            sasoc_local_rwnd: 0,
            sasoc_cookie_life: cookie_life,
        }
    }

    /// Returns the INIT parameters of the socket (SCTP_INITMSG, RFC 6458 §8.1.3).
    pub fn init(&self) -> io::Result<InitParameters> {
        let question = sctp_initmsg {
            sinit_num_ostreams: 0,
            sinit_max_instreams: 0,
            sinit_max_attempts: 0,
            sinit_max_init_timeo: 0,
        };
        let answer = self.get(SCTP_INITMSG, question)?;
        Ok(InitParameters {
            outbound_streams: answer.sinit_num_ostreams,
            max_inbound_streams: answer.sinit_max_instreams,
            max_attempts: answer.sinit_max_attempts,
            max_timeout: from_milliseconds(answer.sinit_max_init_timeo.into()),
        })
    }

    /// Sets all four parameters, for future associations.
    pub fn set_init(&self, init: InitParameters) -> io::Result<()> {
        let timeout = nonzero_milliseconds(init.max_timeout)?;
        let value = sctp_initmsg {
            sinit_num_ostreams: nonzero(init.outbound_streams)?,
            sinit_max_instreams: nonzero(init.max_inbound_streams)?,
            sinit_max_attempts: nonzero(init.max_attempts)?,
            sinit_max_init_timeo: u16::try_from(timeout).map_err(|_| io::ErrorKind::InvalidInput)?,
        };
        self.set(SCTP_INITMSG, &value)
    }

    /// Returns how long an association of a one-to-many socket may be idle before it is shut down (SCTP_AUTOCLOSE, RFC
    /// 6458 §8.1.8); `None`: without a limit. Fails with EOPNOTSUPP on a one-to-one socket.
    pub fn autoclose(&self) -> io::Result<Option<Duration>> {
        let seconds = self.get_number(SCTP_AUTOCLOSE)?;
        Ok((seconds != 0).then(|| Duration::from_secs(seconds.into())))
    }

    /// Sets the value of [`autoclose`](Self::autoclose) for future associations, in seconds, rounded up. Linux caps it
    /// at net.sctp.max_autoclose.
    pub fn set_autoclose(&self, idle: Option<Duration>) -> io::Result<()> {
        let seconds = match idle {
            None => 0,
            Some(idle) => nonzero(idle.as_nanos().div_ceil(1_000_000_000))?,
        };
        self.set(SCTP_AUTOCLOSE, &u32::try_from(seconds).unwrap_or(u32::MAX))
    }

    /// Returns the adaptation indication that this side sends in INIT and INIT ACK (SCTP_ADAPTATION_LAYER, RFC 6458
    /// §8.1.10). Peers receive it in a [`Notification::AdaptationIndication`](crate::sctp::Notification).
    pub fn adaptation_layer(&self) -> io::Result<u32> {
        self.get_number(SCTP_ADAPTATION_LAYER)
    }

    /// Sets the value of [`adaptation_layer`](Self::adaptation_layer) for future associations.
    pub fn set_adaptation_layer(&self, indication: u32) -> io::Result<()> {
        self.set(SCTP_ADAPTATION_LAYER, &indication)
    }

    /// Returns whether the socket is subscribed to notifications of this kind (SCTP_EVENT, RFC 6458 §6.2.2).
    pub fn is_subscribed(&self, kind: NotificationKind) -> io::Result<bool> {
        let question = sctp_event { se_assoc_id: self.id(), se_type: kind.number(), se_on: 0 };
        self.get(SCTP_EVENT, question).map(|answer| answer.se_on != 0)
    }

    /// Subscribes to notifications of this kind, or cancels the subscription. Future associations and peeled sockets
    /// inherit the subscriptions of the socket.
    pub fn subscribe(&self, kind: NotificationKind, on: bool) -> io::Result<()> {
        let value = sctp_event { se_assoc_id: self.id(), se_type: kind.number(), se_on: on.into() };
        self.set(SCTP_EVENT, &value)
    }

    /// Returns the number of associations of a one-to-many socket (SCTP_GET_ASSOC_NUMBER, RFC 6458 §8.2.5). Fails with
    /// EOPNOTSUPP on other sockets.
    pub fn association_count(&self) -> io::Result<u32> {
        self.get_number(SCTP_GET_ASSOC_NUMBER)
    }

    /// Returns the associations of a one-to-many socket (SCTP_GET_ASSOC_ID_LIST, RFC 6458 §8.2.6). Fails with EINVAL if
    /// there are more than 262,143, and with EOPNOTSUPP on other sockets.
    pub fn association_ids(&self) -> io::Result<Vec<AssocId>> {
        let answer = get_growing(self.fd, SCTP_GET_ASSOC_ID_LIST, &[], libc::EINVAL)?;
        let (count, ids) = answer.split_first_chunk().ok_or(io::ErrorKind::InvalidData)?;
        let ids = ids.as_chunks().0.iter().map(|&id| AssocId::from_raw(i32::from_ne_bytes(id)));
        Ok(ids.take(u32::from_ne_bytes(*count) as usize).collect())
    }

    /// Returns the counters of an association (SCTP_GET_ASSOC_STATS, Linux only), and restarts the measurement of
    /// `max_rto`.
    pub fn counters(&self) -> io::Result<AssociationCounters> {
        let question = sctp_assoc_stats {
            sas_assoc_id: self.id(),
            sas_obs_rto_ipaddr: Storage::NONE,
            sas_maxrto: 0,
            sas_isacks: 0,
            sas_osacks: 0,
            sas_opackets: 0,
            sas_ipackets: 0,
            sas_rtxchunks: 0,
            sas_outofseqtsns: 0,
            sas_idupchunks: 0,
            sas_gapcnt: 0,
            sas_ouodchunks: 0,
            sas_iuodchunks: 0,
            sas_oodchunks: 0,
            sas_iodchunks: 0,
            sas_octrlchunks: 0,
            sas_ictrlchunks: 0,
        };
        let answer = self.get(SCTP_GET_ASSOC_STATS, question)?;
        let max_rto = sockaddr::parse(&answer.sas_obs_rto_ipaddr.bytes)
            .map(|(address, _)| (address, Duration::from_millis(answer.sas_maxrto)));
        Ok(AssociationCounters {
            max_rto,
            sacks_received: answer.sas_isacks,
            sacks_sent: answer.sas_osacks,
            packets_received: answer.sas_ipackets,
            packets_sent: answer.sas_opackets,
            retransmitted_chunks: answer.sas_rtxchunks,
            out_of_order: answer.sas_outofseqtsns,
            duplicates: answer.sas_idupchunks,
            gaps: answer.sas_gapcnt,
            unordered_received: answer.sas_iuodchunks,
            unordered_sent: answer.sas_ouodchunks,
            ordered_received: answer.sas_iodchunks,
            ordered_sent: answer.sas_oodchunks,
            control_received: answer.sas_ictrlchunks,
            control_sent: answer.sas_octrlchunks,
        })
    }
}

/// # Addresses
impl Options<'_> {
    /// Returns the addresses of the peer (`sctp_getpaddrs`, RFC 6458 §9.3).
    pub fn peer_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.addresses(SCTP_GET_PEER_ADDRS)
    }

    /// Returns the addresses of this side (`sctp_getladdrs`, RFC 6458 §9.5): those of the association or, with
    /// [`AssocId::FUTURE`] on a one-to-many socket, those of the socket. For a wildcard the kernel returns the
    /// addresses of this host.
    pub fn local_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.addresses(SCTP_GET_LOCAL_ADDRS)
    }

    /// Reads a `struct sctp_getaddrs { i32 assoc_id; u32 addr_num; u8 addrs[]; }`
    fn addresses(&self, name: i32) -> io::Result<Vec<SocketAddr>> {
        // With id 0 the kernel returns the socket's addresses, even if the socket has only one association.
        let id = self.status().map_or(self.id(), |status| status.association.as_raw());
        let answer = get_growing(self.fd, name, &id.to_ne_bytes(), libc::ENOMEM)?;
        let (_, answer) = answer.split_first_chunk::<4>().ok_or(io::ErrorKind::InvalidData)?;
        let (count, addresses) = answer.split_first_chunk().ok_or(io::ErrorKind::InvalidData)?;
        Ok(sockaddr::unpack(addresses, u32::from_ne_bytes(*count) as usize))
    }

    /// Adds local addresses (`sctp_bindx`, RFC 6458 §9.1) on the port of the socket; port 0 stands for it. If both
    /// sides have [`set_asconf_supported`](Self::set_asconf_supported), the peers of established associations are
    /// informed with ASCONF (RFC 5061).
    pub fn add_local_addresses(&self, addresses: &[SocketAddr]) -> io::Result<()> {
        sctp::bind_add(self.fd, addresses)
    }

    /// Removes local addresses, which must have the port of the socket. Fails with EBUSY for the last one.
    pub fn remove_local_addresses(&self, addresses: &[SocketAddr]) -> io::Result<()> {
        sctp::bind_remove(self.fd, addresses)
    }

    /// Returns the primary address of the peer (SCTP_PRIMARY_ADDR, RFC 6458 §8.1.9).
    pub fn primary(&self) -> io::Result<SocketAddr> {
        let question = sctp_prim { ssp_assoc_id: self.id(), ssp_addr: Storage::NONE };
        let answer = self.get(SCTP_PRIMARY_ADDR, question)?;
        let address = sockaddr::parse(&{ answer.ssp_addr }.bytes);
        Ok(address.ok_or(io::ErrorKind::InvalidData)?.0)
    }

    /// Sets the primary address to one of the peer's addresses.
    pub fn set_primary(&self, address: SocketAddr) -> io::Result<()> {
        self.set(SCTP_PRIMARY_ADDR, &self.prim(address))
    }

    /// Asks the peer to use this address of this side as primary (SCTP_SET_PEER_PRIMARY_ADDR, RFC 6458 §8.3.1). Fails
    /// with EPERM unless both sides have [`set_asconf_supported`](Self::set_asconf_supported).
    pub fn set_peer_primary(&self, address: SocketAddr) -> io::Result<()> {
        self.set(SCTP_SET_PEER_PRIMARY_ADDR, &self.prim(address))
    }

    fn prim(&self, address: SocketAddr) -> sctp_prim {
        sctp_prim { ssp_assoc_id: self.id(), ssp_addr: paths::storage(Some(address)) }
    }

    /// Returns whether IPv4 peers of an IPv6 socket have IPv4-mapped addresses (SCTP_I_WANT_MAPPED_V4_ADDR, RFC 6458
    /// §8.1.15). This library always returns mapped addresses as IPv4, so it shows no difference.
    pub fn mapped_v4(&self) -> io::Result<bool> {
        self.get_flag(SCTP_I_WANT_MAPPED_V4_ADDR)
    }

    /// Sets the value of [`mapped_v4`](Self::mapped_v4).
    pub fn set_mapped_v4(&self, on: bool) -> io::Result<()> {
        self.set_flag(SCTP_I_WANT_MAPPED_V4_ADDR, on)
    }

    /// Returns whether peers are informed about addresses that this host gains or loses (SCTP_AUTO_ASCONF, RFC 6458
    /// §8.1.23).
    pub fn auto_asconf(&self) -> io::Result<bool> {
        self.get_flag(SCTP_AUTO_ASCONF)
    }

    /// Sets the value of [`auto_asconf`](Self::auto_asconf); fails with EINVAL unless the socket is bound to a
    /// wildcard.
    pub fn set_auto_asconf(&self, on: bool) -> io::Result<()> {
        self.set_flag(SCTP_AUTO_ASCONF, on)
    }

    /// Returns whether addresses may change during an association (SCTP_ASCONF_SUPPORTED, RFC 5061); for an
    /// association, whether the peer supports that too.
    pub fn asconf_supported(&self) -> io::Result<bool> {
        self.get_value(SCTP_ASCONF_SUPPORTED).map(|value| value != 0)
    }

    /// Sets the value of [`asconf_supported`](Self::asconf_supported) for future associations.
    pub fn set_asconf_supported(&self, on: bool) -> io::Result<()> {
        self.set_value(SCTP_ASCONF_SUPPORTED, on.into())
    }

    /// Returns whether several one-to-one sockets of one user may share a port (SCTP_REUSE_PORT, RFC 6458 §8.1.27).
    pub fn reuse_port(&self) -> io::Result<bool> {
        self.get_flag(SCTP_REUSE_PORT)
    }

    /// Sets the value of [`reuse_port`](Self::reuse_port) before the socket is bound. Fails with EFAULT on a bound
    /// socket (Linux) and with EOPNOTSUPP on a one-to-many socket.
    pub fn set_reuse_port(&self, on: bool) -> io::Result<()> {
        self.set_flag(SCTP_REUSE_PORT, on)
    }
}

//! The kernel's SCTP interface: numbers and structures of RFC 6458 and of Linux's
//! [`<linux/sctp.h>`](https://github.com/torvalds/linux/blob/master/include/uapi/linux/sctp.h), under their original
//! names.
//!
//! This file contains only declarations. If C packs a structure so that fields lose their alignment, the declaration is
//! `packed` too. Addresses are [`Storage`], plain bytes.
#![allow(non_camel_case_types, reason = "the names of C")]

/// The level of every option and control message here.
pub(crate) const IPPROTO_SCTP: i32 = libc::IPPROTO_SCTP;

pub(crate) const SCTP_RTOINFO: i32 = 0;
pub(crate) const SCTP_ASSOCINFO: i32 = 1;
pub(crate) const SCTP_INITMSG: i32 = 2;
pub(crate) const SCTP_NODELAY: i32 = 3;
pub(crate) const SCTP_AUTOCLOSE: i32 = 4;
pub(crate) const SCTP_SET_PEER_PRIMARY_ADDR: i32 = 5;
pub(crate) const SCTP_PRIMARY_ADDR: i32 = 6;
pub(crate) const SCTP_ADAPTATION_LAYER: i32 = 7;
pub(crate) const SCTP_DISABLE_FRAGMENTS: i32 = 8;
pub(crate) const SCTP_PEER_ADDR_PARAMS: i32 = 9;
pub(crate) const SCTP_I_WANT_MAPPED_V4_ADDR: i32 = 12;
pub(crate) const SCTP_MAXSEG: i32 = 13;
pub(crate) const SCTP_STATUS: i32 = 14;
pub(crate) const SCTP_GET_PEER_ADDR_INFO: i32 = 15;
pub(crate) const SCTP_DELAYED_SACK: i32 = 16;
pub(crate) const SCTP_CONTEXT: i32 = 17;
pub(crate) const SCTP_FRAGMENT_INTERLEAVE: i32 = 18;
pub(crate) const SCTP_PARTIAL_DELIVERY_POINT: i32 = 19;
pub(crate) const SCTP_MAX_BURST: i32 = 20;
pub(crate) const SCTP_AUTH_CHUNK: i32 = 21;
pub(crate) const SCTP_HMAC_IDENT: i32 = 22;
pub(crate) const SCTP_AUTH_KEY: i32 = 23;
pub(crate) const SCTP_AUTH_ACTIVE_KEY: i32 = 24;
pub(crate) const SCTP_AUTH_DELETE_KEY: i32 = 25;
pub(crate) const SCTP_PEER_AUTH_CHUNKS: i32 = 26;
pub(crate) const SCTP_LOCAL_AUTH_CHUNKS: i32 = 27;
pub(crate) const SCTP_GET_ASSOC_NUMBER: i32 = 28;
pub(crate) const SCTP_GET_ASSOC_ID_LIST: i32 = 29;
pub(crate) const SCTP_AUTO_ASCONF: i32 = 30;
pub(crate) const SCTP_RECVRCVINFO: i32 = 32;
pub(crate) const SCTP_RECVNXTINFO: i32 = 33;
pub(crate) const SCTP_DEFAULT_SNDINFO: i32 = 34;
pub(crate) const SCTP_AUTH_DEACTIVATE_KEY: i32 = 35;
pub(crate) const SCTP_REUSE_PORT: i32 = 36;
pub(crate) const SCTP_PEER_ADDR_THLDS_V2: i32 = 37;
pub(crate) const SCTP_SOCKOPT_BINDX_ADD: i32 = 100;
pub(crate) const SCTP_SOCKOPT_BINDX_REM: i32 = 101;
pub(crate) const SCTP_SOCKOPT_PEELOFF: i32 = 102;
pub(crate) const SCTP_GET_PEER_ADDRS: i32 = 108;
pub(crate) const SCTP_GET_LOCAL_ADDRS: i32 = 109;
pub(crate) const SCTP_SOCKOPT_CONNECTX3: i32 = 111;
pub(crate) const SCTP_GET_ASSOC_STATS: i32 = 112;
pub(crate) const SCTP_PR_SUPPORTED: i32 = 113;
pub(crate) const SCTP_DEFAULT_PRINFO: i32 = 114;
pub(crate) const SCTP_PR_ASSOC_STATUS: i32 = 115;
pub(crate) const SCTP_PR_STREAM_STATUS: i32 = 116;
pub(crate) const SCTP_RECONFIG_SUPPORTED: i32 = 117;
pub(crate) const SCTP_ENABLE_STREAM_RESET: i32 = 118;
pub(crate) const SCTP_RESET_STREAMS: i32 = 119;
pub(crate) const SCTP_RESET_ASSOC: i32 = 120;
pub(crate) const SCTP_ADD_STREAMS: i32 = 121;
pub(crate) const SCTP_SOCKOPT_PEELOFF_FLAGS: i32 = 122;
pub(crate) const SCTP_STREAM_SCHEDULER: i32 = 123;
pub(crate) const SCTP_STREAM_SCHEDULER_VALUE: i32 = 124;
pub(crate) const SCTP_INTERLEAVING_SUPPORTED: i32 = 125;
pub(crate) const SCTP_EVENT: i32 = 127;
pub(crate) const SCTP_ASCONF_SUPPORTED: i32 = 128;
pub(crate) const SCTP_AUTH_SUPPORTED: i32 = 129;
pub(crate) const SCTP_ECN_SUPPORTED: i32 = 130;
pub(crate) const SCTP_EXPOSE_POTENTIALLY_FAILED_STATE: i32 = 131;
pub(crate) const SCTP_REMOTE_UDP_ENCAPS_PORT: i32 = 132;
pub(crate) const SCTP_PLPMTUD_PROBE_INTERVAL: i32 = 133;

// Types of control messages.
pub(crate) const SCTP_SNDINFO: i32 = 2;
pub(crate) const SCTP_RCVINFO: i32 = 3;
pub(crate) const SCTP_NXTINFO: i32 = 4;
pub(crate) const SCTP_PRINFO: i32 = 5;
pub(crate) const SCTP_AUTHINFO: i32 = 6;
pub(crate) const SCTP_DSTADDRV4: i32 = 7;
pub(crate) const SCTP_DSTADDRV6: i32 = 8;

// Flags of `snd_flags` and `rcv_flags`.
pub(crate) const SCTP_UNORDERED: u16 = 1 << 0;
pub(crate) const SCTP_ADDR_OVER: u16 = 1 << 1;
pub(crate) const SCTP_ABORT: u16 = 1 << 2;
pub(crate) const SCTP_NOTIFICATION: u16 = 0x8000;
pub(crate) const SCTP_EOF: u16 = 0x200;

/// A flag in `msg_flags`: a notification was read.
pub(crate) const MSG_NOTIFICATION: i32 = 0x8000;

// Policies of partial reliability.
pub(crate) const SCTP_PR_SCTP_NONE: u16 = 0;
pub(crate) const SCTP_PR_SCTP_TTL: u16 = 0x10;
pub(crate) const SCTP_PR_SCTP_RTX: u16 = 0x20;
pub(crate) const SCTP_PR_SCTP_PRIO: u16 = 0x30;
pub(crate) const SCTP_PR_SCTP_ALL: u16 = 0x80;

// `spp_flags`.
pub(crate) const SPP_HB_ENABLE: u32 = 1 << 0;
pub(crate) const SPP_HB_DISABLE: u32 = 1 << 1;
pub(crate) const SPP_HB_DEMAND: u32 = 1 << 2;
pub(crate) const SPP_PMTUD_ENABLE: u32 = 1 << 3;
pub(crate) const SPP_PMTUD_DISABLE: u32 = 1 << 4;
pub(crate) const SPP_SACKDELAY_ENABLE: u32 = 1 << 5;
pub(crate) const SPP_SACKDELAY_DISABLE: u32 = 1 << 6;
pub(crate) const SPP_HB_TIME_IS_ZERO: u32 = 1 << 7;
pub(crate) const SPP_IPV6_FLOWLABEL: u32 = 1 << 8;
pub(crate) const SPP_DSCP: u32 = 1 << 9;

// Requests to change streams that a peer may make, and directions of a reset.
pub(crate) const SCTP_ENABLE_RESET_STREAM_REQ: u32 = 1;
pub(crate) const SCTP_ENABLE_RESET_ASSOC_REQ: u32 = 2;
pub(crate) const SCTP_ENABLE_CHANGE_ASSOC_REQ: u32 = 4;
pub(crate) const SCTP_STREAM_RESET_INCOMING: u16 = 1;
pub(crate) const SCTP_STREAM_RESET_OUTGOING: u16 = 2;

// Values of SCTP_EXPOSE_POTENTIALLY_FAILED_STATE.
pub(crate) const SCTP_PF_EXPOSE_DISABLE: u32 = 1;
pub(crate) const SCTP_PF_EXPOSE_ENABLE: u32 = 2;

/// A type for which any bytes are valid, because the kernel may write any.
///
/// # Safety
///
/// Only for integers, arrays of them, and C structures made of such.
pub(crate) unsafe trait Plain: Copy {}

/// `struct sockaddr_storage`, as bytes.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Storage {
    pub(crate) bytes: [u8; 128],
    align: [usize; 0],
}

impl Storage {
    /// All zeros: no address, which most options take as all addresses.
    pub(crate) const NONE: Self = Self { bytes: [0; 128], align: [] };
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct sctp_initmsg {
    pub(crate) sinit_num_ostreams: u16,
    pub(crate) sinit_max_instreams: u16,
    pub(crate) sinit_max_attempts: u16,
    pub(crate) sinit_max_init_timeo: u16,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct sctp_sndinfo {
    pub(crate) snd_sid: u16,
    pub(crate) snd_flags: u16,
    pub(crate) snd_ppid: u32,
    pub(crate) snd_context: u32,
    pub(crate) snd_assoc_id: i32,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct sctp_rtoinfo {
    pub(crate) srto_assoc_id: i32,
    pub(crate) srto_initial: u32,
    pub(crate) srto_max: u32,
    pub(crate) srto_min: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct sctp_assocparams {
    pub(crate) sasoc_assoc_id: i32,
    pub(crate) sasoc_asocmaxrxt: u16,
    pub(crate) sasoc_number_peer_destinations: u16,
    pub(crate) sasoc_peer_rwnd: u32,
    pub(crate) sasoc_local_rwnd: u32,
    pub(crate) sasoc_cookie_life: u32,
}

/// `struct sctp_prim` and `struct sctp_setpeerprim`.
#[derive(Clone, Copy)]
#[repr(C, packed(4))]
pub(crate) struct sctp_prim {
    pub(crate) ssp_assoc_id: i32,
    pub(crate) ssp_addr: Storage,
}

#[derive(Clone, Copy)]
#[repr(C, packed)]
pub(crate) struct sctp_paddrparams {
    pub(crate) spp_assoc_id: i32,
    pub(crate) spp_address: Storage,
    pub(crate) spp_hbinterval: u32,
    pub(crate) spp_pathmaxrxt: u16,
    pub(crate) spp_pathmtu: u32,
    pub(crate) spp_sackdelay: u32,
    pub(crate) spp_flags: u32,
    pub(crate) spp_ipv6_flowlabel: u32,
    pub(crate) spp_dscp: u8,
    pub(crate) padding: u8,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct sctp_authkeyid {
    pub(crate) scact_assoc_id: i32,
    pub(crate) scact_keynumber: u16,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct sctp_sack_info {
    pub(crate) sack_assoc_id: i32,
    pub(crate) sack_delay: u32,
    pub(crate) sack_freq: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct sctp_assoc_value {
    pub(crate) assoc_id: i32,
    pub(crate) assoc_value: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct sctp_stream_value {
    pub(crate) assoc_id: i32,
    pub(crate) stream_id: u16,
    pub(crate) stream_value: u16,
}

#[derive(Clone, Copy)]
#[repr(C, packed(4))]
pub(crate) struct sctp_paddrinfo {
    pub(crate) spinfo_assoc_id: i32,
    pub(crate) spinfo_address: Storage,
    pub(crate) spinfo_state: i32,
    pub(crate) spinfo_cwnd: u32,
    pub(crate) spinfo_srtt: u32,
    pub(crate) spinfo_rto: u32,
    pub(crate) spinfo_mtu: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct sctp_status {
    pub(crate) sstat_assoc_id: i32,
    pub(crate) sstat_state: i32,
    pub(crate) sstat_rwnd: u32,
    pub(crate) sstat_unackdata: u16,
    pub(crate) sstat_penddata: u16,
    pub(crate) sstat_instrms: u16,
    pub(crate) sstat_outstrms: u16,
    pub(crate) sstat_fragmentation_point: u32,
    pub(crate) sstat_primary: sctp_paddrinfo,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct sctp_assoc_stats {
    pub(crate) sas_assoc_id: i32,
    pub(crate) sas_obs_rto_ipaddr: Storage,
    pub(crate) sas_maxrto: u64,
    pub(crate) sas_isacks: u64,
    pub(crate) sas_osacks: u64,
    pub(crate) sas_opackets: u64,
    pub(crate) sas_ipackets: u64,
    pub(crate) sas_rtxchunks: u64,
    pub(crate) sas_outofseqtsns: u64,
    pub(crate) sas_idupchunks: u64,
    pub(crate) sas_gapcnt: u64,
    pub(crate) sas_ouodchunks: u64,
    pub(crate) sas_iuodchunks: u64,
    pub(crate) sas_oodchunks: u64,
    pub(crate) sas_iodchunks: u64,
    pub(crate) sas_octrlchunks: u64,
    pub(crate) sas_ictrlchunks: u64,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct sctp_peeloff_arg_t {
    pub(crate) associd: i32,
    pub(crate) sd: i32,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct sctp_peeloff_flags_arg_t {
    pub(crate) p_arg: sctp_peeloff_arg_t,
    pub(crate) flags: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct sctp_getaddrs_old {
    pub(crate) assoc_id: i32,
    pub(crate) addr_num: i32,
    pub(crate) addrs: *const u8,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct sctp_paddrthlds_v2 {
    pub(crate) spt_assoc_id: i32,
    pub(crate) spt_address: Storage,
    pub(crate) spt_pathmaxrxt: u16,
    pub(crate) spt_pathpfthld: u16,
    pub(crate) spt_pathcpthld: u16,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct sctp_prstatus {
    pub(crate) sprstat_assoc_id: i32,
    pub(crate) sprstat_sid: u16,
    pub(crate) sprstat_policy: u16,
    pub(crate) sprstat_abandoned_unsent: u64,
    pub(crate) sprstat_abandoned_sent: u64,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct sctp_default_prinfo {
    pub(crate) pr_assoc_id: i32,
    pub(crate) pr_value: u32,
    pub(crate) pr_policy: u16,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct sctp_add_streams {
    pub(crate) sas_assoc_id: i32,
    pub(crate) sas_instrms: u16,
    pub(crate) sas_outstrms: u16,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct sctp_event {
    pub(crate) se_assoc_id: i32,
    pub(crate) se_type: u16,
    pub(crate) se_on: u8,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct sctp_udpencaps {
    pub(crate) sue_assoc_id: i32,
    pub(crate) sue_address: Storage,
    /// In network byte order, which neither the header nor RFC 6951 mentions.
    pub(crate) sue_port: u16,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct sctp_probeinterval {
    pub(crate) spi_assoc_id: i32,
    pub(crate) spi_address: Storage,
    pub(crate) spi_interval: u32,
}

/// Implements [`Plain`] for structures declared above.
macro_rules! plain {
    ($($name:ty),* $(,)?) => {$(
        // SAFETY: integers, arrays of them, and structures of such: any bytes are valid.
        unsafe impl Plain for $name {}
    )*};
}

plain! {
    u8, i32, u32, sctp_initmsg, sctp_sndinfo, sctp_rtoinfo, sctp_assocparams, sctp_prim, sctp_paddrparams,
    sctp_authkeyid, sctp_sack_info, sctp_assoc_value, sctp_stream_value, sctp_paddrinfo, sctp_status,
    sctp_assoc_stats, sctp_peeloff_arg_t, sctp_peeloff_flags_arg_t, sctp_paddrthlds_v2, sctp_prstatus,
    sctp_default_prinfo, sctp_add_streams, sctp_event, sctp_udpencaps, sctp_probeinterval,
}

/// The sizes that a C compiler computes on a 64-bit machine, and the offsets that packing changes.
#[cfg(target_pointer_width = "64")]
const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<Storage>() == 128 && align_of::<Storage>() == 8);
    assert!(size_of::<sctp_initmsg>() == 8);
    assert!(size_of::<sctp_sndinfo>() == 16);
    assert!(size_of::<sctp_rtoinfo>() == 16);
    assert!(size_of::<sctp_assocparams>() == 20);
    assert!(size_of::<sctp_prim>() == 132);
    assert!(size_of::<sctp_paddrparams>() == 156);
    assert!(offset_of!(sctp_paddrparams, spp_pathmtu) == 138);
    assert!(offset_of!(sctp_paddrparams, spp_flags) == 146);
    assert!(offset_of!(sctp_paddrparams, spp_dscp) == 154);
    assert!(size_of::<sctp_authkeyid>() == 8);
    assert!(size_of::<sctp_sack_info>() == 12);
    assert!(size_of::<sctp_assoc_value>() == 8);
    assert!(size_of::<sctp_stream_value>() == 8);
    assert!(size_of::<sctp_paddrinfo>() == 152);
    assert!(offset_of!(sctp_paddrinfo, spinfo_state) == 132);
    assert!(size_of::<sctp_status>() == 176);
    assert!(offset_of!(sctp_status, sstat_primary) == 24);
    assert!(size_of::<sctp_assoc_stats>() == 256);
    assert!(offset_of!(sctp_assoc_stats, sas_maxrto) == 136);
    assert!(size_of::<sctp_peeloff_arg_t>() == 8);
    assert!(size_of::<sctp_peeloff_flags_arg_t>() == 12);
    assert!(size_of::<sctp_getaddrs_old>() == 16);
    assert!(size_of::<sctp_paddrthlds_v2>() == 144);
    assert!(offset_of!(sctp_paddrthlds_v2, spt_pathmaxrxt) == 136);
    assert!(size_of::<sctp_prstatus>() == 24);
    assert!(size_of::<sctp_default_prinfo>() == 12);
    assert!(size_of::<sctp_add_streams>() == 8);
    assert!(size_of::<sctp_event>() == 8);
    assert!(size_of::<sctp_udpencaps>() == 144);
    assert!(offset_of!(sctp_udpencaps, sue_port) == 136);
    assert!(size_of::<sctp_probeinterval>() == 144);
    assert!(offset_of!(sctp_probeinterval, spi_interval) == 136);
};

//! Control messages ([cmsg(3)](https://man7.org/linux/man-pages/man3/cmsg.3.html)) as plain bytes: a parser that trusts
//! no length field, and the one message that the dispatcher sends. SCTP's control messages are in `sctp/control.rs`.
//!
//! There are no pointers here, so a fuzzer can feed it any bytes.

use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The local address of a datagram (IP_PKTINFO, see [ip(7)](https://man7.org/linux/man-pages/man7/ip.7.html);
/// IPV6_PKTINFO, RFC 3542 §6.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketInfo {
    /// The address of this host to reply from. On IPv4 this is `ipi_spec_dst`, which differs from the header's
    /// destination for a broadcast; on IPv6 it is the header's destination.
    pub local: Option<IpAddr>,
    /// The index of the interface that the datagram arrived on; 0 if unknown.
    pub interface: u32,
}

/// The size of `struct cmsghdr`; below it, the alignment of every message.
pub(crate) const HEADER: usize = size_of::<libc::cmsghdr>();
const ALIGN: usize = size_of::<usize>();

/// Room for the control messages of one datagram: on a dual-stack socket an IPv4 datagram has both IP_PKTINFO and
/// IPV6_PKTINFO, and on a shared socket it may have UDP_GRO too.
pub(crate) const SPACE: usize = 128;

/// A buffer with the alignment that the kernel requires.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct ControlBuffer(pub(crate) [u8; SPACE]);

/// Reads the packet information from a control buffer. Messages of other kinds, truncated messages and wrong lengths
/// are skipped. If there is both IPv4 and IPv6 information, the IPv4 information is used: its `ipi_spec_dst` is the
/// address to reply from.
pub fn packet_info(control: &[u8]) -> PacketInfo {
    received(control).0
}

/// Reads the packet information like [`packet_info`], and the length of the datagrams that the payload consists of
/// (UDP_GRO, see [udp(7)](https://man7.org/linux/man-pages/man7/udp.7.html)), if it has more than one.
pub(crate) fn received(mut control: &[u8]) -> (PacketInfo, Option<usize>) {
    let mut info = PacketInfo::default();
    let mut segment = None;
    while let Some((level, kind, data, rest)) = next(control) {
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                if let Some((interface, addresses)) = data.split_first_chunk()
                    && let Some(local) = local_v4(addresses)
                {
                    info.interface = u32::from_ne_bytes(*interface);
                    info.local = Some(local.into());
                }
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                if let Some((address, index)) = data.split_first_chunk::<16>()
                    && let (Some(index), None | Some(IpAddr::V6(_))) = (index.first_chunk::<4>(), info.local)
                {
                    info.interface = u32::from_ne_bytes(*index);
                    info.local = Some(Ipv6Addr::from(*address).to_canonical());
                }
            }
            (libc::IPPROTO_UDP, libc::UDP_GRO) => {
                let len = data.first_chunk().and_then(|len| usize::try_from(i32::from_ne_bytes(*len)).ok());
                segment = len.filter(|len| *len > 0);
            }
            _ => {}
        }
        control = rest;
    }
    (info, segment)
}

/// Reads the address to reply from, which follows the interface in a `struct in_pktinfo`: `ipi_spec_dst`. The kernel
/// omits it for a datagram that arrived before IP_PKTINFO was set; the result is then the header's destination,
/// `ipi_addr`, unless that is a group.
fn local_v4(addresses: &[u8]) -> Option<Ipv4Addr> {
    let (source, rest) = addresses.split_first_chunk::<4>()?;
    let source = Ipv4Addr::from(*source);
    if !source.is_unspecified() {
        return Some(source);
    }
    let hit = Ipv4Addr::from(*rest.first_chunk::<4>()?);
    let is_one_host = !hit.is_unspecified() && !hit.is_multicast() && !hit.is_broadcast();
    is_one_host.then_some(hit)
}

/// Returns the first message of a control buffer (level, type, data) and the rest of the buffer.
pub(crate) fn next(control: &[u8]) -> Option<(i32, i32, &[u8], &[u8])> {
    let header = control.get(..HEADER)?;
    let (len, kinds) = header.split_first_chunk::<{ size_of::<usize>() }>()?;
    let len = usize::from_ne_bytes(*len);
    let level = i32::from_ne_bytes(*kinds.first_chunk()?);
    let kind = i32::from_ne_bytes(*kinds.get(4..)?.first_chunk()?);
    let data = control.get(HEADER..len)?;
    let rest = control.get(len.next_multiple_of(ALIGN)..).unwrap_or_default();
    Some((level, kind, data, rest))
}

/// Writes the control message that sets the source address of a datagram to `local` (and, for a link-local address, the
/// interface). Returns its length. An IPv4 source uses IP_PKTINFO on an AF_INET6 socket too.
pub(crate) fn write_source(local: IpAddr, interface: u32, out: &mut ControlBuffer) -> usize {
    let mut data = [0u8; 20];
    let (level, kind, used) = match local {
        IpAddr::V4(address) => {
            // struct in_pktinfo { int ipi_ifindex; in_addr ipi_spec_dst; in_addr ipi_addr; }
            data[4..8].copy_from_slice(&address.octets());
            (libc::IPPROTO_IP, libc::IP_PKTINFO, 12)
        }
        IpAddr::V6(address) => {
            // struct in6_pktinfo { in6_addr ipi6_addr; unsigned ipi6_ifindex; }
            data[..16].copy_from_slice(&address.octets());
            if address.is_unicast_link_local() {
                data[16..].copy_from_slice(&interface.to_ne_bytes());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, 20)
        }
    };
    write(level, kind, &data[..used], &mut out.0)
}

/// Writes the control message that makes the kernel cut a datagram into datagrams of this length (UDP_SEGMENT). Returns
/// its length.
pub(crate) fn write_segment_length(len: u16, out: &mut [u8]) -> usize {
    write(libc::IPPROTO_UDP, libc::UDP_SEGMENT, &len.to_ne_bytes(), out)
}

/// Writes one control message to the front of `out`, which must have room for it. Returns its length, including the
/// padding that aligns the next message if `out` has room for that.
pub(crate) fn write(level: i32, kind: i32, data: &[u8], out: &mut [u8]) -> usize {
    let len = HEADER + data.len();
    let (size, kinds) = out.split_at_mut(size_of::<usize>());
    size.copy_from_slice(&len.to_ne_bytes());
    kinds[..4].copy_from_slice(&level.to_ne_bytes());
    kinds[4..8].copy_from_slice(&kind.to_ne_bytes());
    out[HEADER..len].copy_from_slice(data);
    len.next_multiple_of(ALIGN).min(out.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(local: IpAddr, interface: u32) -> Vec<u8> {
        let mut buffer = ControlBuffer([0; SPACE]);
        let len = write_source(local, interface, &mut buffer);
        buffer.0[..len].to_vec()
    }

    #[test]
    fn written_packet_info_is_read_back() {
        for local in ["10.0.0.7", "2001:db8::7", "fe80::1"] {
            let local: IpAddr = local.parse().unwrap();
            assert_eq!(packet_info(&written(local, 3)).local, Some(local));
        }
        assert_eq!(packet_info(&written("fe80::1".parse().unwrap(), 3)).interface, 3);
    }

    #[test]
    fn ipv4_information_wins_over_its_mapped_twin_in_either_order() {
        let v4 = written("10.0.0.7".parse().unwrap(), 0);
        let v6 = written("2001:db8::7".parse().unwrap(), 0);
        let expected: Option<IpAddr> = Some("10.0.0.7".parse().unwrap());
        assert_eq!(packet_info(&[v4.clone(), v6.clone()].concat()).local, expected);
        assert_eq!(packet_info(&[v6, v4].concat()).local, expected);
    }

    #[test]
    fn a_datagram_queued_before_ip_pktinfo_has_the_destination_in_its_header() {
        let told = |hit: [u8; 4]| {
            let mut data = [0; 12];
            data[8..].copy_from_slice(&hit);
            let mut buffer = ControlBuffer([0; SPACE]);
            let len = write(libc::IPPROTO_IP, libc::IP_PKTINFO, &data, &mut buffer.0);
            packet_info(&buffer.0[..len]).local
        };
        assert_eq!(told([192, 0, 2, 7]), Some("192.0.2.7".parse().unwrap()));
        for group in [[224, 0, 0, 1], [255; 4], [0; 4]] {
            assert_eq!(told(group), None);
        }
    }

    #[test]
    fn a_truncated_message_tells_nothing() {
        let whole = written("2001:db8::7".parse().unwrap(), 0);
        for len in 0..HEADER + 20 {
            assert_eq!(packet_info(&whole[..len]), PacketInfo::default(), "cut at {len}");
        }
    }

    #[test]
    fn a_length_that_lies_ends_the_walk() {
        for len in [0usize, 1, 15, usize::MAX, usize::MAX - 7] {
            let mut message = written("10.0.0.7".parse().unwrap(), 0);
            message[..8].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(packet_info(&message), PacketInfo::default());
        }
    }
}

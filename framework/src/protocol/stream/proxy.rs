//! The PROXY protocol, version 2: the address of the client behind a proxy. Pure.
//!
//! A proxy in front of the server sends this header before any other data on each connection
//! ([specification](https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt), §2.2): a signature of twelve bytes,
//! version and command, address family and protocol, the length of the rest, the addresses, and further values, which
//! are skipped. Any host that can connect to such a listener can claim any address, so only the proxy may reach it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::address::canonical::canonical;

/// Length of the fixed part of the header, which contains the length of the rest.
pub const HEAD: usize = 16;

/// Maximum length of the rest: the addresses (36 bytes) and further values. A longer header is refused.
pub const MAX_REST: usize = 2048;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The two ends of the connection to the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxiedAddresses {
    /// The address that connected to the proxy.
    pub peer: SocketAddr,
    /// The address that it connected to.
    pub local: SocketAddr,
}

/// A partly received header.
pub(crate) struct Header {
    /// The received bytes, and room for the bytes that are known to be missing.
    bytes: Vec<u8>,
    filled: usize,
}

impl Default for Header {
    fn default() -> Self {
        Self { bytes: vec![0; HEAD], filled: 0 }
    }
}

impl Header {
    /// Returns the buffer for the next read. Bytes after the header do not fit into it.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.filled..]
    }

    /// Notes that `len` bytes were read. Returns `None` if some are missing, and otherwise the result of [`parse`].
    ///
    /// # Errors
    ///
    /// As [`rest`] and [`parse`].
    pub(crate) fn filled(&mut self, len: usize) -> Result<Option<Option<ProxiedAddresses>>, &'static str> {
        self.filled += len;
        let Some((head, behind)) = self.bytes[..self.filled].split_first_chunk() else { return Ok(None) };
        let rest = rest(head)?;
        if behind.len() < rest {
            self.bytes.resize(HEAD + rest, 0);
            return Ok(None);
        }
        parse(head, behind).map(Some)
    }
}

/// Returns how many bytes follow the [`HEAD`].
///
/// # Errors
///
/// The header is not of version 2, or it is too long.
pub fn rest(head: &[u8; HEAD]) -> Result<usize, &'static str> {
    if head[..12] != SIGNATURE[..] {
        return Err("it does not begin with the signature of the PROXY protocol, version 2");
    }
    if head[12] >> 4 != 2 {
        return Err("its version of the PROXY protocol is not 2");
    }
    let len = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if len > MAX_REST { Err("its PROXY header is longer than 2,048 bytes") } else { Ok(len) }
}

/// Parses the addresses in `rest`, all bytes after `head`. Returns `None` if the proxy connects on its own behalf (a
/// health check), or for a family without IP addresses.
///
/// # Errors
///
/// The header is invalid: it has an unknown command, a protocol other than TCP, or addresses that are truncated or
/// unusable.
pub fn parse(head: &[u8; HEAD], rest: &[u8]) -> Result<Option<ProxiedAddresses>, &'static str> {
    let v4 = |bytes: &[u8; 4]| Ipv4Addr::from(*bytes);
    let v6 = |bytes: &[u8; 16]| Ipv6Addr::from(*bytes);
    let port = |bytes: &[u8; 2]| u16::from_be_bytes(*bytes);
    match head[12] & 15 {
        // LOCAL: the addresses are to be ignored.
        0 => return Ok(None),
        1 => {}
        _ => return Err("its PROXY header has an unknown command"),
    }
    let addresses = match head[13] {
        0x00 => return Ok(None),
        0x11 => {
            let (source, after) = rest.split_first_chunk().ok_or(CUT)?;
            let (target, after) = after.split_first_chunk().ok_or(CUT)?;
            let (from, after) = after.split_first_chunk().ok_or(CUT)?;
            let (to, _) = after.split_first_chunk().ok_or(CUT)?;
            ProxiedAddresses { peer: (v4(source), port(from)).into(), local: (v4(target), port(to)).into() }
        }
        0x21 => {
            let (source, after) = rest.split_first_chunk().ok_or(CUT)?;
            let (target, after) = after.split_first_chunk().ok_or(CUT)?;
            let (from, after) = after.split_first_chunk().ok_or(CUT)?;
            let (to, _) = after.split_first_chunk().ok_or(CUT)?;
            ProxiedAddresses { peer: (v6(source), port(from)).into(), local: (v6(target), port(to)).into() }
        }
        0x12 | 0x22 => return Err("its PROXY header is for datagrams"),
        0x31 | 0x32 => return Ok(None),
        _ => return Err("its PROXY header has an unknown address family"),
    };
    // Mapped addresses are converted first, so that the checks apply to the IPv4 address.
    let addresses = ProxiedAddresses { peer: canonical(addresses.peer), local: canonical(addresses.local) };
    let ip = addresses.peer.ip();
    let broadcast = ip == IpAddr::V4(Ipv4Addr::BROADCAST);
    if ip.is_unspecified() || ip.is_multicast() || broadcast || addresses.peer.port() == 0 {
        return Err("its PROXY header has a source address that no peer can have");
    }
    Ok(Some(addresses))
}

const CUT: &str = "its PROXY header is too short for its addresses";

#[cfg(test)]
mod tests {
    use super::*;

    fn head(command: u8, family: u8, len: u16) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        head[..12].copy_from_slice(SIGNATURE);
        (head[12], head[13]) = (0x20 | command, family);
        head[14..].copy_from_slice(&len.to_be_bytes());
        head
    }

    #[test]
    fn a_header_in_any_pieces_is_read_and_what_comes_behind_it_is_left() {
        let rest = [192, 0, 2, 1, 198, 51, 100, 2, 0x12, 0x34, 0x01, 0xbb, 3, 0, 0];
        for (command, most) in [(0, 0), (1, rest.len())] {
            let wire = [&head(command, 0x11, most as u16)[..], &rest[..most], b"behind"].concat();
            for piece in 1..=wire.len() {
                let (mut header, mut wire) = (Header::default(), &wire[..]);
                let addresses = loop {
                    let room = header.room();
                    let len = room.len().min(piece);
                    let (came, left) = wire.split_at(len);
                    room[..len].copy_from_slice(came);
                    wire = left;
                    if let Some(addresses) = header.filled(len).unwrap() {
                        break addresses;
                    }
                };
                assert_eq!((addresses.is_some(), wire), (command == 1, &b"behind"[..]));
            }
        }
    }

    #[test]
    fn addresses_of_both_families_are_read() {
        let rest = [192, 0, 2, 1, 198, 51, 100, 2, 0x12, 0x34, 0x01, 0xbb];
        let addresses = parse(&head(1, 0x11, 12), &rest).unwrap().unwrap();
        assert_eq!(addresses.peer, "192.0.2.1:4660".parse().unwrap());
        assert_eq!(addresses.local, "198.51.100.2:443".parse().unwrap());
        let mut rest = [0; 36];
        (rest[0], rest[1], rest[15], rest[31]) = (0x20, 0x01, 1, 2);
        (rest[33], rest[35]) = (7, 8);
        let addresses = parse(&head(1, 0x21, 36), &rest).unwrap().unwrap();
        assert_eq!(addresses.peer, "[2001::1]:7".parse().unwrap());
    }

    #[test]
    fn a_mapped_address_counts_as_the_one_that_it_maps() {
        let mut rest = [0; 36];
        rest[10..16].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 1]);
        rest[31] = 1;
        (rest[33], rest[35]) = (7, 8);
        let addresses = parse(&head(1, 0x21, 36), &rest).unwrap().unwrap();
        assert_eq!(addresses.peer, "192.0.2.1:7".parse().unwrap());
    }

    #[test]
    fn a_peer_that_cannot_be_one_is_refused_also_where_it_is_mapped() {
        for ip in [[0, 0, 0, 0], [224, 0, 0, 1], [255, 255, 255, 255]] {
            let mut rest = [0; 36];
            rest[10..12].copy_from_slice(&[0xff, 0xff]);
            rest[12..16].copy_from_slice(&ip);
            (rest[31], rest[33], rest[35]) = (1, 7, 8);
            assert!(parse(&head(1, 0x21, 36), &rest).is_err(), "{ip:?}");
        }
    }

    #[test]
    fn a_local_command_of_a_proxy_has_no_addresses() {
        for (command, family) in [(0, 0x11), (0, 0), (1, 0), (1, 0x31)] {
            assert_eq!(parse(&head(command, family, 0), &[]), Ok(None));
        }
    }

    #[test]
    fn invalid_headers_are_refused() {
        for (head, rest) in [
            (head(1, 0x11, 11), &[1; 11][..]),
            (head(1, 0x21, 12), &[1; 12]),
            (head(2, 0x11, 12), &[1; 12]),
            (head(1, 0x12, 12), &[1; 12]),
            (head(1, 0x41, 12), &[1; 12]),
            (head(1, 0x11, 12), &[0; 12]),
            (head(1, 0x11, 12), &[255; 12]),
        ] {
            assert!(parse(&head, rest).is_err(), "{head:?} {rest:?}");
        }
    }

    #[test]
    fn other_protocols_are_no_header() {
        assert!(rest(b"GET / HTTP/1.1\r\n").is_err());
        assert!(rest(b"PROXY TCP4 1.2.3").is_err());
        let mut first = head(1, 0x11, 12);
        first[12] = 0x11;
        assert!(rest(&first).is_err());
        assert!(rest(&head(1, 0x11, 2049)).is_err());
        assert_eq!(rest(&head(1, 0x11, 2048)), Ok(2048));
    }
}

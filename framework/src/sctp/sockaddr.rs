//! Conversion of socket addresses to and from the kernel's `struct sockaddr_in` and `struct sockaddr_in6`
//! ([ip(7)](https://man7.org/linux/man-pages/man7/ip.7.html),
//! [ipv6(7)](https://man7.org/linux/man-pages/man7/ipv6.7.html)).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::address::canonical::canonical;

const V4_LEN: usize = 16;
const V6_LEN: usize = 28;

/// Packs the addresses one after another, each with the length of its family.
pub(crate) fn pack(addresses: &[SocketAddr]) -> Vec<u8> {
    let mut out = Vec::with_capacity(addresses.len() * V6_LEN);
    for address in addresses {
        let (storage, len) = to_storage(*address);
        out.extend_from_slice(&storage[..len]);
    }
    out
}

/// Unpacks at most `count` addresses that follow one another in `bytes`; stops at the first invalid one.
pub(crate) fn unpack(mut bytes: &[u8], count: usize) -> Vec<SocketAddr> {
    let next = || {
        let (address, len) = parse(bytes)?;
        bytes = bytes.get(len..).unwrap_or_default();
        Some(address)
    };
    std::iter::from_fn(next).take(count).collect()
}

/// Returns a `struct sockaddr_storage` with the address, and how many bytes of it are used.
pub(crate) fn to_storage(address: SocketAddr) -> ([u8; 128], usize) {
    let mut out = [0; 128];
    out[2..4].copy_from_slice(&address.port().to_be_bytes());
    match address {
        SocketAddr::V4(v4) => {
            out[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            out[4..8].copy_from_slice(&v4.ip().octets());
            (out, V4_LEN)
        }
        SocketAddr::V6(v6) => {
            out[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            out[8..24].copy_from_slice(&v6.ip().octets());
            out[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
            (out, V6_LEN)
        }
    }
}

/// Parses the address at the start of `bytes`. Returns its [`canonical`] form and its length there.
pub(crate) fn parse(bytes: &[u8]) -> Option<(SocketAddr, usize)> {
    let (family, rest) = bytes.split_first_chunk::<2>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let port = u16::from_be_bytes(*port);
    match i32::from(u16::from_ne_bytes(*family)) {
        libc::AF_INET if bytes.len() >= V4_LEN => {
            let address = Ipv4Addr::from(*rest.first_chunk::<4>()?);
            Some((SocketAddr::new(address.into(), port), V4_LEN))
        }
        libc::AF_INET6 if bytes.len() >= V6_LEN => {
            let (address, scope) = rest.get(4..)?.split_first_chunk::<16>()?;
            let address = Ipv6Addr::from(*address);
            let address = SocketAddrV6::new(address, port, 0, u32::from_ne_bytes(*scope.first_chunk()?));
            Some((canonical(address.into()), V6_LEN))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_addresses_are_unpacked() {
        let addresses: Vec<SocketAddr> = ["127.0.0.1:5", "[2001:db8::1]:6", "[fe80::1%3]:7", "10.0.0.9:0"]
            .map(|address| address.parse().unwrap())
            .to_vec();
        let packed = pack(&addresses);
        assert_eq!(packed.len(), 2 * V4_LEN + 2 * V6_LEN);
        assert_eq!(unpack(&packed, 9), addresses);
        assert_eq!(unpack(&packed, 2), addresses[..2]);
        assert_eq!(unpack(&packed[..packed.len() - 1], 9), addresses[..3]);
    }

    #[test]
    fn an_address_has_one_form() {
        let packed = pack(&["[::1%1]:9".parse().unwrap()]);
        assert_eq!(unpack(&packed, 1), ["[::1]:9".parse().unwrap()]);
        let packed = pack(&["[::ffff:10.0.0.7]:9".parse().unwrap()]);
        assert_eq!(unpack(&packed, 1), ["10.0.0.7:9".parse().unwrap()]);
    }
}

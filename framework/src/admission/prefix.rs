//! What peers are counted under: addresses in their one form, and the networks they are in.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// The one form of an address that has several: IPv4 rather than IPv4-mapped IPv6, no flow label, and a scope
/// for link-local addresses alone (RFC 4007 §6), the only ones that it is part of.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match (address, address.ip().to_canonical()) {
        (SocketAddr::V6(v6), IpAddr::V6(ip)) => {
            let scope = if ip.is_unicast_link_local() { v6.scope_id() } else { 0 };
            SocketAddrV6::new(ip, v6.port(), 0, scope).into()
        }
        (_, ip) => SocketAddr::new(ip, address.port()),
    }
}

/// A network that addresses are counted under.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// IPv4 in its mapped form, which no IPv6 prefix has: those addresses count as IPv4.
    network: u128,
    bits: u8,
}

impl Prefix {
    /// The network of `ip`: `v4_bits` long for IPv4, mapped or not, and `v6_bits` for IPv6. Scopes do not
    /// matter.
    pub fn from_ip(ip: IpAddr, v4_bits: u8, v6_bits: u8) -> Prefix {
        let (address, bits) = match ip.to_canonical() {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped(), 96 + v4_bits.min(32)),
            IpAddr::V6(v6) => (v6, v6_bits.min(128)),
        };
        let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
        Prefix { network: address.to_bits() & mask, bits }
    }

    /// The address itself, /32 or /128.
    pub fn host(ip: IpAddr) -> Prefix {
        Prefix::from_ip(ip, 32, 128)
    }

    /// What one owner is taken to have: a /24 or a /56.
    pub fn network(ip: IpAddr) -> Prefix {
        Prefix::from_ip(ip, 24, 56)
    }
}

impl fmt::Display for Prefix {
    /// As in `192.0.2.0/24`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network = Ipv6Addr::from_bits(self.network);
        match network.to_ipv4_mapped() {
            Some(v4) if self.bits >= 96 => write!(f, "{v4}/{}", self.bits - 96),
            _ => write!(f, "{network}/{}", self.bits),
        }
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_prefix_covers_its_network_and_no_more() {
        assert_eq!(Prefix::network(ip("192.0.2.1")), Prefix::network(ip("192.0.2.254")));
        assert_ne!(Prefix::network(ip("192.0.2.1")), Prefix::network(ip("192.0.3.1")));
        assert_eq!(Prefix::network(ip("2001:db8:1:200::1")), Prefix::network(ip("2001:db8:1:2ff:f::9")));
        assert_ne!(Prefix::network(ip("2001:db8:1:200::1")), Prefix::network(ip("2001:db8:1:300::1")));
        assert_ne!(Prefix::host(ip("192.0.2.0")), Prefix::network(ip("192.0.2.0")));
    }

    #[test]
    fn mapped_addresses_count_as_ipv4_and_never_as_ipv6() {
        assert_eq!(Prefix::host(ip("::ffff:192.0.2.1")), Prefix::host(ip("192.0.2.1")));
        assert_ne!(Prefix::from_ip(ip("0.0.0.0"), 0, 0), Prefix::from_ip(ip("::"), 0, 0));
    }

    #[test]
    fn a_prefix_is_shown_as_its_family_writes_it() {
        assert_eq!(Prefix::network(ip("192.0.2.77")).to_string(), "192.0.2.0/24");
        assert_eq!(Prefix::network(ip("2001:db8:1:2ff::1")).to_string(), "2001:db8:1:200::/56");
        assert_eq!(Prefix::from_ip(ip("192.0.2.77"), 0, 0).to_string(), "0.0.0.0/0");
        assert_eq!(Prefix::from_ip(ip("2001:db8::"), 0, 0).to_string(), "::/0");
    }

    #[test]
    fn an_address_has_one_form() {
        let form = |text: &str| canonical(text.parse().unwrap()).to_string();
        assert_eq!(form("[::ffff:192.0.2.1]:7"), "192.0.2.1:7");
        assert_eq!(form("[2001:db8::1%3]:7"), "[2001:db8::1]:7");
        assert_eq!(form("[fe80::1%3]:7"), "[fe80::1%3]:7");
        let labelled = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 7, 99, 0);
        assert_eq!(canonical(labelled.into()), "[::1]:7".parse().unwrap());
    }
}

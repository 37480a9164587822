//! Networks for which peers are counted.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// A network for which peers are counted.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// IPv4 in its mapped form, which no IPv6 prefix has, since mapped addresses count as IPv4.
    network: u128,
    bits: u8,
}

impl Prefix {
    /// Returns the network of `ip`: `v4_bits` long for IPv4, mapped or not, and `v6_bits` for IPv6. Scopes are ignored.
    pub fn from_ip(ip: IpAddr, v4_bits: u8, v6_bits: u8) -> Prefix {
        let (address, bits) = match ip.to_canonical() {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped(), 96 + v4_bits.min(32)),
            IpAddr::V6(v6) => (v6, v6_bits.min(128)),
        };
        let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
        Prefix { network: address.to_bits() & mask, bits }
    }

    /// Returns the address itself, a /32 or /128.
    pub fn host(ip: IpAddr) -> Prefix {
        Prefix::from_ip(ip, 32, 128)
    }

    /// Returns the network that presumably belongs to one owner: a /24 or a /56.
    pub fn network(ip: IpAddr) -> Prefix {
        Prefix::from_ip(ip, 24, 56)
    }
}

impl fmt::Display for Prefix {
    /// Writes it as in `192.0.2.0/24`.
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
}

//! The canonical form of a socket address.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

/// Returns the canonical form of an address: IPv4 rather than IPv4-mapped IPv6, no flow label, and a scope only for
/// link-local addresses, which are the only ones that it is part of (RFC 4007 §6). Linux sets a scope on others too: on
/// SCTP, `::1` of a peer is in the scope of `lo`.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match (address, address.ip().to_canonical()) {
        (SocketAddr::V6(v6), IpAddr::V6(ip)) => {
            let scope = if ip.is_unicast_link_local() { v6.scope_id() } else { 0 };
            SocketAddrV6::new(ip, v6.port(), 0, scope).into()
        }
        (_, ip) => SocketAddr::new(ip, address.port()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

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

//! Errors of addresses; each message says what to write instead.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use thiserror::Error;

use super::scheme::Scheme;

/// Reason why a text is not an [`Address`](super::Address), or why an address could not be resolved. The message is one
/// sentence that says what to write.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AddressError {
    /// The `://` is missing.
    #[error("{0:?} has no scheme: write it as a URL, such as dtls://127.0.0.1:4433 or udp://127.0.0.1:4433")]
    MissingScheme(String),
    /// The scheme is none of [`Scheme::ALL`].
    #[error("{0:?} is not a known scheme: use one of {list}", list = scheme_list())]
    UnknownScheme(String),
    /// The host before the port is missing.
    #[error("{0} has no host: write an address, a name, or * for every local address")]
    MissingHost(String),
    /// The port after the host is missing.
    #[error("{url} has no port: write {suggestion} (or port 0 to let the kernel pick one)")]
    MissingPort {
        /// The text that was parsed.
        url: String,
        /// The same text with a port.
        suggestion: String,
    },
    /// The port is not a number below 65,536.
    #[error("{port:?} in {url} is not a port: use a number from 0 to 65535")]
    BadPort {
        /// The text that was parsed.
        url: String,
        /// The port in it.
        port: String,
    },
    /// There is a colon too many: an IPv6 address lacks its brackets.
    #[error("{url} has an IPv6 address without brackets: write {suggestion}")]
    MissingBrackets {
        /// The text that was parsed.
        url: String,
        /// The same text with brackets.
        suggestion: String,
    },
    /// The bracket is not closed, or it is followed by something other than a port.
    #[error("{0} has unbalanced brackets: write an IPv6 host as in dtls://[::1]:4433")]
    BadBrackets(String),
    /// The text in brackets is not an IPv6 address.
    #[error(
        "{host:?} in {url} is not an IPv6 address: brackets are for addresses such as [::1] or [fe80::1%eth0]"
    )]
    BadIpv6 {
        /// The text that was parsed.
        url: String,
        /// The text in the brackets.
        host: String,
    },
    /// The host has only digits and dots, but is not an IPv4 address.
    #[error("{host:?} in {url} is not an IPv4 address: write four numbers from 0 to 255, such as 127.0.0.1")]
    BadIpv4 {
        /// The text that was parsed.
        url: String,
        /// The host in it.
        host: String,
    },
    /// The host cannot be a name.
    #[error(
        "{host:?} in {url} is not a host name: use letters, digits, hyphens and dots (for other letters the xn-- form)"
    )]
    BadName {
        /// The text that was parsed.
        url: String,
        /// The host in it.
        host: String,
    },
    /// A client is to connect to port 0, which only a listener may have.
    #[error("{0} has port 0, which only a listener may have: write the port on which the server listens")]
    PortZero(String),
    /// A user name or a password precedes an `@`.
    #[error("{0} has a user name, which has no meaning here: remove everything up to the @")]
    UserInfo(String),
    /// A part that begins with `/` follows the port.
    #[error("{url} has a path, which has no meaning here: remove {path:?}")]
    Path {
        /// The text that was parsed.
        url: String,
        /// The part to remove.
        path: String,
    },
    /// A query or a fragment follows the port.
    #[error("{url} has a query or fragment, which has no meaning here: remove {extra:?}")]
    Query {
        /// The text that was parsed.
        url: String,
        /// The part to remove.
        extra: String,
    },
    /// An address that is valid on every interface has a zone.
    #[error("{url} names a zone, but {address} is not link-local: remove %{zone}")]
    NeedlessZone {
        /// The text that was parsed.
        url: String,
        /// The address in it.
        address: Ipv6Addr,
        /// Its zone.
        zone: String,
    },
    /// The zone is empty, or cannot be an interface.
    #[error("{0} has a bad zone: after the % write an interface's name or index, such as eth0 or 2")]
    BadZone(String),
    /// A link-local address has no zone, so it cannot be bound or connected to.
    #[error(
        "{address} is link-local and needs its interface: write it as in {scheme}://[{address}%eth0]:{port}"
    )]
    MissingZone {
        /// The scheme of the address.
        scheme: Scheme,
        /// The address.
        address: Ipv6Addr,
        /// The port of the address.
        port: u16,
    },
    /// The zone is not an interface of this host.
    #[error(
        "the zone {zone:?} is not a network interface of this host ({cause}): see `ip link` for their names"
    )]
    UnknownZone {
        /// The zone.
        zone: String,
        /// The kernel's error.
        cause: io::Error,
    },
    /// Several hosts are listed, on a transport that has one.
    #[error("{url} lists several addresses, which only SCTP has: give each its own {scheme}:// URL")]
    ListNeedsSctp {
        /// The text that was parsed.
        url: String,
        /// Its scheme.
        scheme: Scheme,
    },
    /// A host before the last one of a list has a port.
    #[error("{host:?} in {url} has a port or lacks brackets: a list has one port, after its last address")]
    PortInList {
        /// The text that was parsed.
        url: String,
        /// The host in it.
        host: String,
    },
    /// An address occurs twice in a list.
    #[error("{address} is in the list twice: write each address once")]
    RepeatedAddress {
        /// The address.
        address: IpAddr,
    },
    /// A list contains a wildcard address.
    #[error(
        "a list cannot have a wildcard (*, 0.0.0.0, ::) in it: write the wildcard alone, or the addresses"
    )]
    WildcardInList,
    /// A list contains a multicast or broadcast address.
    #[error("{address} is not a unicast address, which SCTP requires: write addresses of one host")]
    NotUnicast {
        /// The address.
        address: IpAddr,
    },
    /// A list mixes loopback or link-local addresses with others.
    #[error(
        "{first} and {other} are of different scope, so no peer reaches both: list only loopback, only link-local or only other addresses"
    )]
    MixedScopes {
        /// The first address of the list.
        first: IpAddr,
        /// The first address of another scope.
        other: IpAddr,
    },
    /// The resolver does not know the name.
    #[error("cannot resolve {name} ({cause}): check the spelling, or write an IP address")]
    Resolve {
        /// The name.
        name: String,
        /// The resolver's error.
        cause: io::Error,
    },
}

/// Needed by functions that take any type that converts to an [`Address`](super::Address): the conversion of an address
/// to itself cannot fail.
impl From<Infallible> for AddressError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

fn scheme_list() -> String {
    Scheme::ALL.iter().map(|scheme| format!("{scheme}://")).collect::<Vec<_>>().join(", ")
}

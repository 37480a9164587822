//! What can be wrong with an address, and what to write instead.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use thiserror::Error;

use super::scheme::Scheme;

/// Why a text is not an [`Address`](super::Address), or an address could not be resolved; the message is one
/// sentence that says what to write.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AddressError {
    /// There is no `://`.
    #[error("{0:?} has no scheme: write it as a URL, such as dtls://127.0.0.1:4433 or udp://127.0.0.1:4433")]
    MissingScheme(String),
    /// The scheme is none of [`Scheme::ALL`].
    #[error("{0:?} is not a known scheme: use one of {list}", list = scheme_list())]
    UnknownScheme(String),
    /// There is no host before the port.
    #[error("{0} has no host: write an address, a name, or * for every local address")]
    MissingHost(String),
    /// There is no port after the host.
    #[error("{url} has no port: write {suggestion} (or port 0 to let the kernel pick one)")]
    MissingPort {
        /// What was parsed.
        url: String,
        /// The same with a port.
        suggestion: String,
    },
    /// The port is not a number below 65,536.
    #[error("{port:?} in {url} is not a port: use a number from 0 to 65535")]
    BadPort {
        /// What was parsed.
        url: String,
        /// The port in it.
        port: String,
    },
    /// A colon too many: an IPv6 address without its brackets.
    #[error("{url} has an IPv6 address without brackets: write {suggestion}")]
    MissingBrackets {
        /// What was parsed.
        url: String,
        /// The same with brackets.
        suggestion: String,
    },
    /// The bracket is not closed, or something else than a port follows it.
    #[error("{0} has unbalanced brackets: write an IPv6 host as in dtls://[::1]:4433")]
    BadBrackets(String),
    /// What stands in brackets is not an IPv6 address.
    #[error(
        "{host:?} in {url} is not an IPv6 address: brackets are for addresses such as [::1] or [fe80::1%eth0]"
    )]
    BadIpv6 {
        /// What was parsed.
        url: String,
        /// What stands in the brackets.
        host: String,
    },
    /// Digits and dots, but no IPv4 address.
    #[error("{host:?} in {url} is not an IPv4 address: write four numbers from 0 to 255, such as 127.0.0.1")]
    BadIpv4 {
        /// What was parsed.
        url: String,
        /// The host in it.
        host: String,
    },
    /// The host cannot be a name.
    #[error(
        "{host:?} in {url} is not a host name: use letters, digits, hyphens and dots (for other letters the xn-- form)"
    )]
    BadName {
        /// What was parsed.
        url: String,
        /// The host in it.
        host: String,
    },
    /// A user or password before an `@`.
    #[error("{0} has a user name, which has no meaning here: remove everything up to the @")]
    UserInfo(String),
    /// Something after the port that begins with `/`.
    #[error("{url} has a path, which has no meaning here: remove {path:?}")]
    Path {
        /// What was parsed.
        url: String,
        /// The part to remove.
        path: String,
    },
    /// A query or a fragment.
    #[error("{url} has a query or fragment, which has no meaning here: remove {extra:?}")]
    Query {
        /// What was parsed.
        url: String,
        /// The part to remove.
        extra: String,
    },
    /// A zone on an address that is valid on every interface.
    #[error("{url} names a zone, but {address} is not link-local: remove %{zone}")]
    NeedlessZone {
        /// What was parsed.
        url: String,
        /// The address in it.
        address: Ipv6Addr,
        /// Its zone.
        zone: String,
    },
    /// The zone is empty, or cannot be an interface.
    #[error("{0} has a bad zone: after the % write an interface's name or index, such as eth0 or 2")]
    BadZone(String),
    /// A link-local address without a zone cannot be bound or called.
    #[error(
        "{address} is link-local and needs its interface: write it as in {scheme}://[{address}%eth0]:{port}"
    )]
    MissingZone {
        /// The scheme it was for.
        scheme: Scheme,
        /// The address.
        address: Ipv6Addr,
        /// The port it was for.
        port: u16,
    },
    /// The zone is not an interface of this host.
    #[error(
        "the zone {zone:?} is no network interface of this host ({cause}): see `ip link` for their names"
    )]
    UnknownZone {
        /// The zone.
        zone: String,
        /// What the kernel said.
        cause: io::Error,
    },
    /// Several hosts, on a transport that has one.
    #[error("{url} lists several addresses, which only SCTP has: give each its own {scheme}:// URL")]
    ListNeedsSctp {
        /// What was parsed.
        url: String,
        /// Its scheme.
        scheme: Scheme,
    },
    /// A port before the end of a list.
    #[error("{host:?} in {url} has a port or lacks brackets: a list has one port, behind its last address")]
    PortInList {
        /// What was parsed.
        url: String,
        /// The host in it.
        host: String,
    },
    /// An address twice in a list.
    #[error("{address} stands in the list twice: name each address once")]
    RepeatedAddress {
        /// Which.
        address: IpAddr,
    },
    /// A wildcard among others.
    #[error(
        "a list cannot have a wildcard (*, 0.0.0.0, ::) in it: write the wildcard alone, or the addresses"
    )]
    WildcardInList,
    /// A multicast or broadcast address.
    #[error("{address} is no unicast address, and SCTP has no others: name addresses of one host")]
    NotUnicast {
        /// Which.
        address: IpAddr,
    },
    /// Loopback or link-local addresses beside others.
    #[error(
        "{first} and {other} are of different scope, so that no peer reaches both: list only loopback, only link-local or only other addresses"
    )]
    MixedScopes {
        /// The first of the list.
        first: IpAddr,
        /// The one that does not go with it.
        other: IpAddr,
    },
    /// The resolver does not know the name.
    #[error("cannot resolve {name} ({cause}): check the spelling, or write an IP address")]
    Resolve {
        /// The name.
        name: String,
        /// What the resolver said.
        cause: io::Error,
    },
}

/// For functions that take whatever converts to an [`Address`](super::Address): an address itself always does.
impl From<Infallible> for AddressError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

fn scheme_list() -> String {
    Scheme::ALL.iter().map(|scheme| format!("{scheme}://")).collect::<Vec<_>>().join(", ")
}

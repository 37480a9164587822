//! Addresses of listeners and peers, written as URLs: `dtls://127.0.0.1:4433`.
//!
//! An [`Address`] is what a user writes; [`Address::resolve`] turns it into socket addresses. The text is checked once,
//! in [`Address::from_str`](FromStr::from_str), and every error says in one sentence what to write instead.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs};
use std::str::FromStr;

use crate::sys::if_nametoindex;

pub(crate) mod canonical;
mod error;
mod scheme;

pub use error::AddressError;
pub use scheme::Scheme;

/// The address of a listener or a server: a scheme, a host and a port.
///
/// The text form is `scheme://host:port` with one of these hosts:
///
/// | host | meaning |
/// |---|---|
/// | `127.0.0.1` | an IPv4 address |
/// | `[::1]` | an IPv6 address, in brackets |
/// | `[fe80::1%eth0]`, `[fe80::1%25eth0]`, `[fe80::1%2]` | a link-local address with its zone: an interface's name or index |
/// | `example.org` | a name, looked up by [`resolve`](Self::resolve) |
/// | `*` | every local address, the same as `[::]` |
/// | `10.0.0.1,10.0.1.1`, `10.0.0.1,[fd00::1]` | SCTP only: several addresses of one host, the first preferred |
///
/// The port is required; with 0 the kernel chooses one. A path, a query, a fragment or user information is refused. The
/// zone may follow a plain `%` or the `%25` of [RFC 6874](https://www.rfc-editor.org/rfc/rfc6874); a zone that itself
/// begins with `25` needs the latter.
///
/// ```
/// use peeloff::{Address, Scheme};
///
/// let address: Address = "dtls://[::1]:4433".parse()?;
/// assert_eq!(address.scheme, Scheme::Dtls);
/// assert_eq!(address.to_string(), "dtls://[::1]:4433");
/// # Ok::<(), peeloff::AddressError>(())
/// ```
///
/// Functions that need an address, such as [`ServerBuilder::listen`](crate::ServerBuilder::listen), also accept a text
/// or any other type that converts by [`TryInto`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// The protocol.
    pub scheme: Scheme,
    /// The host, as it was written.
    pub host: Host,
    /// Further addresses of the same host. Only SCTP uses them (multi-homing, RFC 9260 §6.4).
    pub alternates: Vec<Host>,
    /// The port; 0 lets the kernel choose one when it is bound.
    pub port: u16,
}

/// The host of an [`Address`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Host {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address and, if it is link-local, its zone: an interface's name or index. An
    /// IPv4-mapped address stays as it was given.
    V6(Ipv6Addr, Option<String>),
    /// A name for the resolver.
    Name(String),
}

impl Address {
    /// Returns the address of a bound or connected socket.
    ///
    /// The scope id of a link-local address becomes a numeric zone; for other addresses it has no meaning and is left
    /// out.
    pub fn from_socket(scheme: Scheme, socket: SocketAddr) -> Self {
        Self { scheme, host: Host::from_socket(socket), alternates: Vec::new(), port: socket.port() }
    }

    /// Returns the address of an SCTP endpoint that has these socket addresses, the first preferred. Their port is the
    /// port of the first one. Returns `None` for an empty list.
    pub fn from_sockets(scheme: Scheme, sockets: &[SocketAddr]) -> Option<Self> {
        let (first, rest) = sockets.split_first()?;
        let alternates = rest.iter().copied().map(Host::from_socket).collect();
        Some(Self { alternates, ..Self::from_socket(scheme, *first) })
    }

    /// Returns the socket addresses of this address, in the resolver's order and without duplicates; at least one. The
    /// addresses of a list belong together: one SCTP endpoint has them all.
    ///
    /// A literal address costs at most one system call, to look up its zone. A name blocks for as long as the system's
    /// resolver does.
    ///
    /// # Errors
    ///
    /// A name is unknown, a zone is not an interface of this host, a link-local address has no zone, or the addresses
    /// of a list cannot belong to one endpoint.
    pub fn resolve(&self) -> Result<Vec<SocketAddr>, AddressError> {
        let mut found = self.resolve_host(&self.host)?;
        for host in &self.alternates {
            for address in self.resolve_host(host)? {
                if found.contains(&address) {
                    return Err(AddressError::RepeatedAddress { address: address.ip() });
                }
                found.push(address);
            }
        }
        if !self.alternates.is_empty() {
            check_list(&found)?;
        }
        Ok(found)
    }

    fn resolve_host(&self, host: &Host) -> Result<Vec<SocketAddr>, AddressError> {
        match host {
            Host::V4(v4) => Ok(vec![SocketAddr::new(IpAddr::V4(*v4), self.port)]),
            Host::V6(v6, zone) => {
                let scope = match zone {
                    Some(zone) => scope_id(zone)?,
                    None if needs_zone(v6) => {
                        return Err(AddressError::MissingZone {
                            scheme: self.scheme,
                            address: *v6,
                            port: self.port,
                        });
                    }
                    None => 0,
                };
                Ok(vec![SocketAddrV6::new(*v6, self.port, 0, scope).into()])
            }
            Host::Name(name) => look_up(name, self.port),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(url: &str) -> Result<Self, AddressError> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(AddressError::MissingScheme(url.to_owned()));
        };
        let scheme: Scheme = scheme.parse()?;
        refuse_extras(url, rest)?;
        let hosts = split_list(rest);
        let (last, before) = hosts.split_last().expect("a split has at least one part");
        if !before.is_empty() && !scheme.is_sctp() {
            return Err(AddressError::ListNeedsSctp { url: url.to_owned(), scheme });
        }
        let (last, port) = split_port(url, scheme, last)?;
        let mut hosts = Vec::with_capacity(hosts.len());
        for &host in before.iter().chain([&last]) {
            if host.is_empty() {
                return Err(AddressError::MissingHost(url.to_owned()));
            }
            if !host.starts_with('[') && host.contains(':') {
                return Err(AddressError::PortInList { url: url.to_owned(), host: host.to_owned() });
            }
            hosts.push(parse_host(url, host)?);
        }
        let host = hosts.remove(0);
        Ok(Self { scheme, host, alternates: hosts, port })
    }
}

impl TryFrom<&str> for Address {
    type Error = AddressError;

    fn try_from(url: &str) -> Result<Self, AddressError> {
        url.parse()
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(url: String) -> Result<Self, AddressError> {
        url.parse()
    }
}

impl TryFrom<&String> for Address {
    type Error = AddressError;

    fn try_from(url: &String) -> Result<Self, AddressError> {
        url.parse()
    }
}

impl From<&Address> for Address {
    fn from(address: &Address) -> Self {
        address.clone()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        for host in &self.alternates {
            write!(f, ",{host}")?;
        }
        write!(f, ":{}", self.port)
    }
}

impl FromStr for Scheme {
    type Err = AddressError;

    /// Parses a scheme without its `://`, in upper or lower case.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        Scheme::ALL
            .iter()
            .copied()
            .find(|scheme| scheme.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| AddressError::UnknownScheme(text.to_owned()))
    }
}

impl Host {
    fn from_socket(socket: SocketAddr) -> Self {
        match socket {
            SocketAddr::V4(v4) => Host::V4(*v4.ip()),
            SocketAddr::V6(v6) => {
                let zoned = v6.scope_id() != 0 && needs_zone(v6.ip());
                Host::V6(*v6.ip(), zoned.then(|| v6.scope_id().to_string()))
            }
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::V4(v4) => write!(f, "{v4}"),
            Host::V6(v6, None) => write!(f, "[{v6}]"),
            // A plain `%25x` would be parsed as the zone `x`.
            Host::V6(v6, Some(zone)) if zone.starts_with("25") && zone.len() > 2 => {
                write!(f, "[{v6}%25{zone}]")
            }
            Host::V6(v6, Some(zone)) => write!(f, "[{v6}%{zone}]"),
            Host::Name(name) => f.write_str(name),
        }
    }
}

/// Refuses the parts of a URL that an address does not have. Called before anything is split at a colon.
fn refuse_extras(url: &str, rest: &str) -> Result<(), AddressError> {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, extra) = rest.split_at(end);
    if authority.contains('@') {
        return Err(AddressError::UserInfo(url.to_owned()));
    }
    match extra.chars().next() {
        None => Ok(()),
        Some('/') => Err(AddressError::Path { url: url.to_owned(), path: extra.to_owned() }),
        Some(_) => Err(AddressError::Query { url: url.to_owned(), extra: extra.to_owned() }),
    }
}

/// Splits at the commas outside brackets (a zone may contain a comma).
fn split_list(rest: &str) -> Vec<&str> {
    let mut depth = 0usize;
    rest.split(|c| {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
    .collect()
}

/// Checks that these can be the addresses of one SCTP endpoint: unicast addresses, all of the same scope, because a
/// peer that reaches one scope does not reach the other (RFC 9260 §5.1.2, RFC 6458 §9.1).
fn check_list(addresses: &[SocketAddr]) -> Result<(), AddressError> {
    let Some(first) = addresses.first().map(SocketAddr::ip) else { return Ok(()) };
    for address in addresses.iter().map(SocketAddr::ip) {
        if address.is_unspecified() {
            return Err(AddressError::WildcardInList);
        }
        if address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return Err(AddressError::NotUnicast { address });
        }
        let link_local = |ip: IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let scope = |ip: IpAddr| (ip.to_canonical().is_loopback(), link_local(ip));
        if scope(first) != scope(address) {
            return Err(AddressError::MixedScopes { first, other: address });
        }
    }
    Ok(())
}

/// Splits `host:port`; a host in brackets keeps its brackets.
fn split_port<'a>(url: &str, scheme: Scheme, rest: &'a str) -> Result<(&'a str, u16), AddressError> {
    let missing_port = |host: &str| match host {
        "" => AddressError::MissingHost(url.to_owned()),
        _ => AddressError::MissingPort { url: url.to_owned(), suggestion: format!("{scheme}://{host}:4433") },
    };
    let (host, port) = if rest.starts_with('[') {
        let Some(close) = rest.find(']') else {
            return Err(AddressError::BadBrackets(url.to_owned()));
        };
        let (host, tail) = rest.split_at(close + 1);
        match tail.strip_prefix(':') {
            Some(port) => (host, port),
            None if tail.is_empty() => return Err(missing_port(host)),
            None => return Err(AddressError::BadBrackets(url.to_owned())),
        }
    } else {
        let Some((host, port)) = rest.rsplit_once(':') else {
            return Err(missing_port(rest));
        };
        if host.contains(':') {
            // `::1` alone, or `::1:4433` with its port.
            let suggestion = match rest.parse::<Ipv6Addr>() {
                Ok(v6) if host.parse::<Ipv6Addr>().is_err() => format!("{scheme}://[{v6}]:4433"),
                _ => format!("{scheme}://[{host}]:{port}"),
            };
            return Err(AddressError::MissingBrackets { url: url.to_owned(), suggestion });
        }
        (host, port)
    };
    if host.is_empty() {
        return Err(AddressError::MissingHost(url.to_owned()));
    }
    if port.is_empty() {
        return Err(missing_port(host));
    }
    // `u16::from_str` would accept a leading `+`.
    match port.parse() {
        Ok(number) if port.bytes().all(|byte| byte.is_ascii_digit()) => Ok((host, number)),
        _ => Err(AddressError::BadPort { url: url.to_owned(), port: port.to_owned() }),
    }
}

fn parse_host(url: &str, host: &str) -> Result<Host, AddressError> {
    if let Some(inner) = host.strip_prefix('[') {
        return parse_v6(url, inner.strip_suffix(']').unwrap_or(inner));
    }
    if host == "*" {
        return Ok(Host::V6(Ipv6Addr::UNSPECIFIED, None));
    }
    if let Ok(v4) = host.parse() {
        return Ok(Host::V4(v4));
    }
    // The resolver would accept `127.1` or `2130706433` as an address, but here such a text is more likely a mistake.
    if host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(AddressError::BadIpv4 { url: url.to_owned(), host: host.to_owned() });
    }
    if is_name(host) {
        Ok(Host::Name(host.to_owned()))
    } else {
        Err(AddressError::BadName { url: url.to_owned(), host: host.to_owned() })
    }
}

/// Parses the text between the brackets.
fn parse_v6(url: &str, inner: &str) -> Result<Host, AddressError> {
    let (address, zone) = match inner.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (inner, None),
    };
    let Ok(v6) = address.parse::<Ipv6Addr>() else {
        return Err(AddressError::BadIpv6 { url: url.to_owned(), host: inner.to_owned() });
    };
    let Some(zone) = zone else {
        return Ok(Host::V6(v6, None));
    };
    let zone = zone.strip_prefix("25").filter(|rest| !rest.is_empty()).unwrap_or(zone);
    if !is_zone(zone) {
        return Err(AddressError::BadZone(url.to_owned()));
    }
    if !needs_zone(&v6) {
        return Err(AddressError::NeedlessZone { url: url.to_owned(), address: v6, zone: zone.to_owned() });
    }
    Ok(Host::V6(v6, Some(zone.to_owned())))
}

/// Returns whether the address needs a zone because it is valid on one interface only: link-local unicast, and
/// multicast of interface or link scope.
fn needs_zone(v6: &Ipv6Addr) -> bool {
    v6.is_unicast_link_local() || matches!(v6.segments()[0] & 0xff0f, 0xff01 | 0xff02)
}

/// Returns whether the text can be an interface: a name that the kernel's `dev_valid_name` accepts (at most 15 bytes,
/// IFNAMSIZ without its NUL), or an index other than 0.
fn is_zone(zone: &str) -> bool {
    if zone.bytes().all(|byte| byte.is_ascii_digit()) {
        return zone.parse::<u32>().is_ok_and(|index| index != 0);
    }
    zone.len() <= 15
        && zone.chars().all(|c| !c.is_whitespace() && !c.is_control() && !matches!(c, ':' | '%' | '[' | ']'))
}

/// Returns whether the text can be passed to a resolver: letters, digits, hyphens and underscores in labels of at most
/// 63 bytes.
fn is_name(host: &str) -> bool {
    let labels = host.strip_suffix('.').unwrap_or(host);
    labels.len() <= 253
        && labels.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        })
}

/// Returns the index of the interface that a zone names.
fn scope_id(zone: &str) -> Result<u32, AddressError> {
    match zone.parse() {
        Ok(index) => Ok(index),
        Err(_) => {
            if_nametoindex(zone).map_err(|cause| AddressError::UnknownZone { zone: zone.to_owned(), cause })
        }
    }
}

/// Asks the system's resolver, and removes duplicates, which a hosts file can produce.
fn look_up(name: &str, port: u16) -> Result<Vec<SocketAddr>, AddressError> {
    let failed = |cause| AddressError::Resolve { name: name.to_owned(), cause };
    let mut found: Vec<SocketAddr> = Vec::new();
    for address in (name, port).to_socket_addrs().map_err(failed)? {
        if !found.contains(&address) {
            found.push(address);
        }
    }
    if found.is_empty() {
        return Err(failed(io::Error::new(io::ErrorKind::NotFound, "the name has no addresses")));
    }
    Ok(found)
}

#[cfg(test)]
mod tests;

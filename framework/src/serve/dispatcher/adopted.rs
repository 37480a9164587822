//! Checks listening sockets that the user made.
//!
//! The sockets of UDP peers are bound to the port of their listener. For that the kernel requires SO_REUSEADDR on both
//! sockets, and it can be set after bind(2). SO_REUSEPORT cannot: a socket joins a group when it is bound. If the user
//! bound the socket with SO_REUSEPORT, the group may have members in other processes, and a program that always chooses
//! this socket would take their datagrams away. So the peers of such a listener do not use the
//! [group](super::child::Recipe::Group).

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, Socket, Type};

use crate::address::Scheme;
use crate::error::StartError;

/// A socket of the user's that can be the listener of a scheme.
pub(crate) struct Adopted {
    pub(super) socket: Socket,
    pub(super) scheme: Scheme,
    pub(super) address: SocketAddr,
}

/// The properties of a socket.
struct Found {
    domain: Domain,
    kind: Kind,
    local: Option<SocketAddr>,
    /// Whether it is connected to a peer.
    connected: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Kind(Type, Option<Protocol>);

impl Adopted {
    /// Checks the socket and sets it to close on exec. Clears the options that the sockets of peers must not inherit:
    /// SO_LINGER, with which a close resets or blocks, and the socket's timeouts.
    pub(crate) fn new(scheme: Scheme, socket: OwnedFd) -> Result<Self, StartError> {
        let socket = Socket::from(socket);
        let found =
            Found::of(&socket).map_err(|error| unfit(scheme, format!("it is not a socket ({error})")))?;
        let address = found.address(scheme).map_err(|why| unfit(scheme, why))?;
        let prepared = socket.set_cloexec(true).and_then(|()| {
            socket.set_linger(None)?;
            socket.set_read_timeout(None)?;
            socket.set_write_timeout(None)
        });
        prepared.map_err(|error| unfit(scheme, error.to_string()))?;
        Ok(Self { socket, scheme, address })
    }

    pub(crate) fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Returns the address that it is bound to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the error that the socket cannot be the listener because a system call failed.
    pub(super) fn cannot(&self, doing: &str, error: &io::Error) -> StartError {
        unfit(self.scheme, format!("{doing} failed ({error})"))
    }

    pub(super) fn unfit(&self, why: impl Into<String>) -> StartError {
        unfit(self.scheme, why.into())
    }
}

fn unfit(scheme: Scheme, why: String) -> StartError {
    StartError::UnfitSocket { scheme, why }
}

impl Found {
    fn of(socket: &Socket) -> io::Result<Self> {
        Ok(Self {
            domain: socket.domain()?,
            kind: Kind(socket.r#type()?, socket.protocol()?),
            local: socket.local_addr()?.as_socket(),
            connected: socket.peer_addr().is_ok(),
        })
    }

    /// Returns the address of the listener, or the reason why the socket cannot be a listener of the scheme.
    fn address(&self, scheme: Scheme) -> Result<SocketAddr, String> {
        let wanted = match scheme {
            _ if scheme.is_sctp() => Kind(Type::SEQPACKET, Some(Protocol::from(libc::IPPROTO_SCTP))),
            _ if scheme.is_stream() => Kind(Type::STREAM, Some(Protocol::TCP)),
            _ => Kind(Type::DGRAM, Some(Protocol::UDP)),
        };
        match self {
            Self { domain, .. } if ![Domain::IPV4, Domain::IPV6].contains(domain) => {
                Err(format!("its address family is {domain:?}; make a socket of AF_INET or AF_INET6"))
            }
            Self { kind, .. } if *kind != wanted => {
                Err(format!("it is {kind}, and this scheme takes {wanted}"))
            }
            Self { connected: true, .. } => {
                Err("it is connected to a peer; pass the listener (Accept=no in a socket unit of systemd)"
                    .into())
            }
            Self { local: Some(local), .. } if local.port() != 0 => match local {
                SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some() => {
                    Err(format!("it is bound to {local}, an IPv4 address; make a socket of AF_INET"))
                }
                local => Ok(*local),
            },
            _ => Err("it is not bound to a port; bind it first".into()),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(kind, protocol) = self;
        match protocol.map(i32::from) {
            Some(libc::IPPROTO_SCTP) if *kind == Type::SEQPACKET => {
                f.write_str("a one-to-many socket of SCTP (SOCK_SEQPACKET)")
            }
            Some(libc::IPPROTO_SCTP) => f.write_str("a one-to-one socket of SCTP (SOCK_STREAM)"),
            Some(libc::IPPROTO_TCP) => f.write_str("a socket of TCP (SOCK_STREAM)"),
            Some(libc::IPPROTO_UDP) => f.write_str("a socket of UDP (SOCK_DGRAM)"),
            protocol => write!(f, "a socket of type {kind:?} and protocol {protocol:?}"),
        }
    }
}

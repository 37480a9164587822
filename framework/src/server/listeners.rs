//! What a server listens on, as it was asked for and as it is bound.

use std::os::fd::OwnedFd;

use crate::address::{Address, Scheme};
use crate::error::StartError;
use crate::net::shared::SharedListener;
use crate::sctp::Settings;
use crate::serve::dispatcher::child::Options;
use crate::serve::dispatcher::{Adopted, SctpListener, TcpListener, UdpListener};

/// What is listened on.
pub(super) struct Listen {
    pub(super) on: Endpoint,
    /// Connections begin with a PROXY header.
    pub(super) proxied: bool,
}

pub(super) enum Endpoint {
    Address(Address),
    Socket(Scheme, OwnedFd),
}

impl Listen {
    pub(super) fn scheme(&self) -> Scheme {
        match &self.on {
            Endpoint::Address(address) => address.scheme,
            Endpoint::Socket(scheme, _) => *scheme,
        }
    }
}

/// The listeners of a server before its start.
#[derive(Default)]
pub(super) struct Listeners {
    /// How many loops there are for the sockets of UDP to be shared; `None`: each peer gets one of its own.
    pub(super) loops: Option<usize>,
    pub(super) udp: Vec<UdpListener>,
    pub(super) shared: Vec<SharedListener>,
    pub(super) sctp: Vec<SctpListener>,
    pub(super) tcp: Vec<TcpListener>,
    pub(super) addresses: Vec<Address>,
}

impl Listeners {
    /// Binds what was asked for, or takes the socket.
    pub(super) fn bind(
        &mut self,
        listen: Listen,
        options: Options,
        settings: &Settings,
    ) -> Result<(), StartError> {
        let (scheme, proxied) = (listen.scheme(), listen.proxied);
        if proxied && !scheme.is_stream() {
            return Err(StartError::NoProxy { scheme });
        }
        let address = match listen.on {
            Endpoint::Address(address) => address,
            Endpoint::Socket(_, socket) => {
                let adopted = Adopted::new(scheme, socket)?;
                match scheme {
                    _ if scheme.is_sctp() => {
                        self.add_sctp(SctpListener::adopt(adopted, options, settings)?);
                    }
                    _ if scheme.is_stream() => self.add_tcp(TcpListener::adopt(adopted, options, proxied)?),
                    _ if self.loops.is_some() => self.add_shared(SharedListener::adopt(adopted)?),
                    _ => self.add_udp(UdpListener::adopt(adopted, options)?),
                }
                return Ok(());
            }
        };
        let found = address.resolve()?;
        if scheme.is_sctp() {
            self.add_sctp(SctpListener::bind(scheme, &found, options, settings)?);
            return Ok(());
        }
        for socket in found {
            match self.loops {
                _ if scheme.is_stream() => {
                    self.add_tcp(TcpListener::bind(scheme, socket, options.clone(), proxied)?);
                }
                Some(loops) => {
                    self.add_shared(SharedListener::bind(scheme, socket, options.clone(), loops)?);
                }
                None => self.add_udp(UdpListener::bind(scheme, socket, options.clone())?),
            }
        }
        Ok(())
    }

    fn add_udp(&mut self, listener: UdpListener) {
        self.addresses.push(listener.address());
        self.udp.push(listener);
    }

    fn add_shared(&mut self, listener: SharedListener) {
        self.addresses.push(listener.address());
        self.shared.push(listener);
    }

    fn add_sctp(&mut self, listener: SctpListener) {
        self.addresses.push(listener.address());
        self.sctp.push(listener);
    }

    fn add_tcp(&mut self, listener: TcpListener) {
        self.addresses.push(listener.address());
        self.tcp.push(listener);
    }
}

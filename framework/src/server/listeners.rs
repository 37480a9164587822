//! The listeners of a server: as they were requested, and as they are bound.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::address::{Address, Scheme};
use crate::error::StartError;
use crate::net::shared::SharedListener;
use crate::sctp::Settings;
use crate::serve::dispatcher::child::Options;
use crate::serve::dispatcher::{Adopted, SctpListener, TcpListener, UdpListener};
use crate::serve::handover::export::Export;
use crate::serve::handover::new_process::Predecessor;

/// A listen address or socket, with its options.
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
    /// The number of event loops that share UDP sockets; `None` if each peer gets a socket of its own.
    pub(super) loops: Option<usize>,
    pub(super) udp: Vec<UdpListener>,
    pub(super) shared: Vec<SharedListener>,
    pub(super) sctp: Vec<SctpListener>,
    pub(super) tcp: Vec<TcpListener>,
    pub(super) addresses: Vec<Address>,
    /// The listeners that another process hands over.
    pub(super) offers: Option<Predecessor>,
    /// The listeners that this process can hand over later.
    pub(super) exports: Vec<Export>,
}

impl Listeners {
    /// Binds the requested address, or adopts the socket.
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
                // The other process has the same listener, whose sockets its peers share.
                if let Some(offer) = self.offer(scheme, &[adopted.address()], proxied) {
                    return self.take(offer, options, settings);
                }
                return self.adopt(vec![adopted], proxied, false, options, settings);
            }
        };
        let found = address.resolve()?;
        if scheme.is_sctp() {
            if let Some(offer) = self.offer(scheme, &found, proxied) {
                return self.take(offer, options, settings);
            }
            return self.add_sctp(SctpListener::bind(scheme, &found, options, settings)?, true);
        }
        for socket in found {
            if let Some(offer) = self.offer(scheme, &[socket], proxied) {
                self.take(offer, options.clone(), settings)?;
                continue;
            }
            match self.loops {
                _ if scheme.is_stream() => {
                    self.add_tcp(
                        TcpListener::bind(scheme, socket, options.clone(), proxied)?,
                        proxied,
                        true,
                    )?;
                }
                Some(loops) => {
                    self.add_shared(SharedListener::bind(scheme, socket, options.clone(), loops)?, true)?;
                }
                None => self.add_udp(UdpListener::bind(scheme, socket, options.clone())?, true)?,
            }
        }
        Ok(())
    }

    /// Returns what the other process has at these addresses.
    fn offer(&mut self, scheme: Scheme, addresses: &[SocketAddr], proxied: bool) -> Option<Export> {
        let number = self.number();
        self.offers.as_mut()?.take(scheme, addresses, proxied, number)
    }

    /// Takes over a listener of the other process.
    fn take(&mut self, offer: Export, options: Options, settings: &Settings) -> Result<(), StartError> {
        let Export { scheme, proxied, own, sockets, .. } = offer;
        let adopted: Result<Vec<_>, _> =
            sockets.into_iter().map(|socket| Adopted::new(scheme, socket)).collect();
        self.adopt(adopted?, proxied, own, options, settings)
    }

    /// Adopts sockets that are already bound: one, or a group.
    fn adopt(
        &mut self,
        mut adopted: Vec<Adopted>,
        proxied: bool,
        own: bool,
        options: Options,
        settings: &Settings,
    ) -> Result<(), StartError> {
        let scheme = adopted.first().map_or(Scheme::Udp, Adopted::scheme);
        let is_datagram = !scheme.is_sctp() && !scheme.is_stream();
        if is_datagram && self.loops.is_some() {
            return self.add_shared(SharedListener::adopt(adopted)?, own);
        }
        let (Some(one), true) = (adopted.pop(), adopted.is_empty()) else {
            let why = "its peers shared a group of sockets, and cannot have sockets of their own here: leave \
                       `sockets` as it was";
            return Err(StartError::UnfitSocket { scheme, why: why.to_owned() });
        };
        match scheme {
            _ if scheme.is_sctp() => self.add_sctp(SctpListener::adopt(one, options, settings)?, own),
            _ if scheme.is_stream() => self.add_tcp(TcpListener::adopt(one, options, proxied)?, proxied, own),
            _ => self.add_udp(UdpListener::adopt(one, options, own)?, own),
        }
    }

    fn add_udp(&mut self, listener: UdpListener, own: bool) -> Result<(), StartError> {
        self.export(listener.scheme(), &listener.address(), false, own, &[listener.socket()])?;
        self.udp.push(listener);
        Ok(())
    }

    fn add_shared(&mut self, listener: SharedListener, own: bool) -> Result<(), StartError> {
        let listener = SharedListener { number: self.number(), ..listener };
        let sockets: Vec<_> = listener.sockets.iter().map(AsFd::as_fd).collect();
        self.export(listener.scheme, &listener.address(), false, own, &sockets)?;
        self.shared.push(listener);
        Ok(())
    }

    fn add_sctp(&mut self, listener: SctpListener, own: bool) -> Result<(), StartError> {
        self.export(listener.scheme(), &listener.address(), false, own, &[listener.socket()])?;
        self.sctp.push(listener);
        Ok(())
    }

    fn add_tcp(&mut self, listener: TcpListener, proxied: bool, own: bool) -> Result<(), StartError> {
        self.export(listener.scheme(), &listener.address(), proxied, own, &[listener.socket()])?;
        self.tcp.push(listener);
        Ok(())
    }

    /// Returns the number of the next listener. A server cannot have more listeners than the type holds.
    fn number(&self) -> u16 {
        u16::try_from(self.addresses.len()).unwrap_or(u16::MAX)
    }

    /// Keeps duplicates of a listener's descriptors for a later hand-over.
    fn export(
        &mut self,
        scheme: Scheme,
        address: &Address,
        proxied: bool,
        own: bool,
        sockets: &[BorrowedFd<'_>],
    ) -> Result<(), StartError> {
        let copies: io::Result<Vec<_>> = sockets.iter().map(BorrowedFd::try_clone_to_owned).collect();
        let sockets = copies.map_err(|source| StartError::Io {
            doing: "keeping the sockets of a listener".to_owned(),
            source,
        })?;
        let number = self.number();
        let addresses = address.resolve()?;
        self.exports.push(Export { number, scheme, addresses, proxied, own, sockets });
        self.addresses.push(address.clone());
        Ok(())
    }
}

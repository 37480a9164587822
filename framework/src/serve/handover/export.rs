//! Listeners that one process passes on to another.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use crate::address::Scheme;
use crate::codec::{Malformed, Reader, Writer};

/// A listener, with its own descriptors of the listener's sockets.
#[derive(Debug)]
pub(crate) struct Export {
    /// Its number among the listeners of the old server.
    pub(crate) number: u16,
    pub(crate) scheme: Scheme,
    /// The addresses that it is bound to; there can be several with SCTP.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Whether connections begin with a PROXY header.
    pub(crate) proxied: bool,
    /// Whether the server bound the sockets itself. Otherwise the program gave them to the server.
    pub(crate) own: bool,
    /// One socket, or the group of sockets that the loops of a server share.
    pub(crate) sockets: Vec<OwnedFd>,
}

impl Export {
    /// Writes everything but the sockets.
    pub(super) fn save(&self, out: &mut Writer) {
        out.u16(self.number);
        out.text(Some(self.scheme.as_str()));
        self.addresses.iter().for_each(|address| out.option(Some(*address), Writer::address));
        out.flag(false);
        out.flag(self.proxied);
        out.flag(self.own);
    }

    /// Reads what [`save`](Self::save) wrote.
    pub(super) fn read(mut from: Reader<'_>, sockets: Vec<OwnedFd>) -> Result<Self, Malformed> {
        let (number, scheme) = (from.u16()?, from.text()?.ok_or(Malformed)?);
        let scheme = Scheme::ALL.iter().copied().find(|known| known.as_str() == scheme).ok_or(Malformed)?;
        let mut addresses = Vec::new();
        while let Some(address) = from.option(Reader::address)? {
            addresses.push(address);
        }
        let (proxied, own) = (from.flag()?, from.flag()?);
        from.end()?;
        Ok(Self { number, scheme, addresses, proxied, own, sockets })
    }

    /// Returns whether this is the requested listener, at these addresses; port 0 stands for any port.
    pub(crate) fn matches(&self, scheme: Scheme, addresses: &[SocketAddr], proxied: bool) -> bool {
        let is_at = |(own, wanted): (&SocketAddr, &SocketAddr)| {
            own.ip() == wanted.ip() && [0, own.port()].contains(&wanted.port())
        };
        self.scheme == scheme
            && self.proxied == proxied
            && self.addresses.len() == addresses.len()
            && self.addresses.iter().zip(addresses).all(is_at)
    }
}

//! Listeners on their way from one process to another.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use crate::address::Scheme;
use crate::codec::{Malformed, Reader, Writer};

/// A listener, with descriptors of its own of its sockets.
#[derive(Debug)]
pub(crate) struct Export {
    /// Its number among the listeners of the server that it comes from.
    pub(crate) number: u16,
    pub(crate) scheme: Scheme,
    /// Where it is bound; several with SCTP.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Connections begin with a PROXY header.
    pub(crate) proxied: bool,
    /// The server bound it, and did not get it from its user.
    pub(crate) own: bool,
    /// One, or the group that the loops of a server share.
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

    /// Whether this is the listener that is asked for: at these addresses, where port 0 is any.
    pub(crate) fn is(&self, scheme: Scheme, addresses: &[SocketAddr], proxied: bool) -> bool {
        let is_at = |(own, wanted): (&SocketAddr, &SocketAddr)| {
            own.ip() == wanted.ip() && [0, own.port()].contains(&wanted.port())
        };
        self.scheme == scheme
            && self.proxied == proxied
            && self.addresses.len() == addresses.len()
            && self.addresses.iter().zip(addresses).all(is_at)
    }
}

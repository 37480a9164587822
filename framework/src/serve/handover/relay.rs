//! Relays datagrams between the two processes. Both have the same sockets, but only the new process reads them, so it
//! passes on datagrams for peers of the old one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::channel::Channel;
use super::frame;
use crate::codec::{Malformed, Reader, Writer};
use crate::net::udp::Stray;
use crate::sys::sync::atomic::{AtomicBool, Ordering};
use crate::sys::sync::{Condvar, Mutex};

/// The payload of a datagram.
type Payload<'a> = &'a [u8];

/// A datagram on its way between the processes.
pub(crate) struct Relayed {
    pub(crate) stray: Stray,
    /// The number of the loop of its peer, in the old process.
    pub(crate) on: u8,
    /// The index of the shared socket at which it arrived, or `None` for a listener whose peers have their own sockets.
    pub(crate) index: Option<u8>,
}

/// Passes datagrams on to the other process.
pub(crate) struct Relay {
    channel: Arc<Channel>,
    out: Mutex<Writer>,
    remote: Mutex<RemotePeers>,
    /// Whether `remote` may have a peer.
    any: AtomicBool,
    has_ended: Mutex<bool>,
    ended: Condvar,
}

/// The peers that the other process serves, and the numbers of their loops.
#[derive(Default)]
struct RemotePeers {
    by_addresses: HashMap<(SocketAddr, SocketAddr), u8>,
    by_connection_id: HashMap<Box<[u8]>, u8>,
}

impl Relay {
    pub(crate) fn new(channel: Arc<Channel>) -> Self {
        let (out, remote, any) = (Mutex::new(Writer::new()), Mutex::default(), AtomicBool::new(false));
        Self { channel, out, remote, any, has_ended: Mutex::new(false), ended: Condvar::default() }
    }

    /// Returns the socket to the other process.
    pub(crate) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Notes that a peer stays in the other process, on the loop with this number.
    pub(crate) fn add_remote(&self, local: SocketAddr, peer: SocketAddr, connection_id: &[u8], on: u8) {
        let mut remote = self.remote.lock();
        remote.by_addresses.insert((local, peer), on);
        if !connection_id.is_empty() {
            remote.by_connection_id.insert(connection_id.into(), on);
        }
        self.any.store(true, Ordering::Release);
    }

    /// Notes that the other process has no peer at this address any more.
    pub(crate) fn remove_remote(&self, local: SocketAddr, peer: SocketAddr, connection_id: Option<&[u8]>) {
        let mut remote = self.remote.lock();
        remote.by_addresses.remove(&(local, peer));
        connection_id.map(|cid| remote.by_connection_id.remove(cid));
        if remote.by_addresses.is_empty() && remote.by_connection_id.is_empty() {
            self.any.store(false, Ordering::Release);
        }
    }

    /// Returns the number of the loop on which the other process has a peer with this address or this connection ID.
    pub(crate) fn find_remote(
        &self,
        local: SocketAddr,
        peer: SocketAddr,
        connection_id: Option<&[u8]>,
    ) -> Option<u8> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let remote = self.remote.lock();
        let by_id = connection_id.and_then(|cid| remote.by_connection_id.get(cid));
        by_id.or_else(|| remote.by_addresses.get(&(local, peer))).copied()
    }

    /// Passes a datagram on; never blocks. Returns `false` if it is lost because the other process does not read.
    pub(crate) fn pass(
        &self,
        (local, peer, interface): (SocketAddr, SocketAddr, u32),
        payload: Payload<'_>,
        on: u8,
        index: Option<u8>,
    ) -> bool {
        let mut out = self.out.lock();
        out.clear();
        out.u8(frame::DATAGRAM);
        out.u8(on);
        out.option(index, Writer::u8);
        out.address(local);
        out.address(peer);
        out.u32(interface);
        out.bytes(payload);
        self.channel.try_send(&out)
    }

    /// Notes that the other process has ended, and forgets its peers.
    pub(crate) fn end(&self) {
        self.any.store(false, Ordering::Release);
        *self.remote.lock() = RemotePeers::default();
        self.channel.close();
        *self.has_ended.lock() = true;
        self.ended.notify_all();
    }

    /// Waits until the other process has ended. Returns `false` if it has not by then.
    pub(crate) fn await_end(&self, deadline: Instant) -> bool {
        let mut has_ended = self.has_ended.lock();
        while !*has_ended && Instant::now() < deadline {
            self.ended.wait_until(&mut has_ended, deadline);
        }
        *has_ended
    }
}

impl Relayed {
    pub(crate) fn read(mut from: Reader<'_>) -> Result<Self, Malformed> {
        let (on, index) = (from.u8()?, from.option(Reader::u8)?);
        let (local, peer, interface) = (from.address()?, from.address()?, from.u32()?);
        let payload = from.bytes()?.into();
        from.end()?;
        Ok(Self { stray: Stray { local, peer, interface, payload }, on, index })
    }
}

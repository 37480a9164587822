//! A connected UDP socket that one worker reads.
//!
//! Waiting costs only the read itself: the worker blocks in recvmsg(2), with its deadline in SO_RCVTIMEO, which is set
//! only when it changes. A thread that needs the worker's attention shuts the socket down for reading. That wakes the
//! worker and cannot be undone, so from then on the worker waits by edge-triggered epoll, which takes two more system
//! calls. This happens at the end of an association's life, and for the rare datagram that reached the listener late.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::Socket;

use super::epoll_wait::EpollWait;
use super::wait::{Arrival, AssociationInfo, ReadTimeout, await_readable, place};
use crate::address::Scheme;
use crate::error::EndReason;
use crate::net::attention::Attention;
use crate::net::attention::signal;
use crate::observe::{Counters, bump};
use crate::protocol::Sent;
use crate::protocol::dtls::hello::{self, FirstDatagram, connection_id};
use crate::sys::control::PacketInfo;
use crate::sys::epoll::is_shut_down;
use crate::sys::errno::{is_icmp, is_memory};
use crate::sys::message::{self, DATAGRAM_MAX, Received};
use crate::sys::socket::disconnect;

/// Maximum number of datagrams that are checked when the socket is closed.
const LAST_READS: usize = 256;

/// Receives datagrams of other peers that arrived on an association's socket.
pub(crate) trait StraySink: Send + Sync {
    /// Takes a datagram. Its `local` is the address that it was sent to, if that is known.
    fn take(&self, stray: Stray);
}

/// A datagram that arrived on the wrong socket, or that was left by an association that ended.
#[derive(Debug)]
pub(crate) struct Stray {
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) interface: u32,
    pub(crate) payload: Box<[u8]>,
}

/// The worker's end of a peer's socket.
pub(crate) struct UdpTransport {
    socket: Arc<Socket>,
    association: AssociationInfo,
    attention: Arc<Attention>,
    counters: Arc<Counters>,
    /// `None` on the client's side, where only the kernel checks the source.
    strays: Option<Arc<dyn StraySink>>,
    timeout: ReadTimeout,
    /// In use once the socket has been shut down for reading, or while output is pending.
    epoll_wait: EpollWait,
    /// The socket was shut down for reading, so reads no longer block.
    shut: bool,
    /// Output is pending: a wait also ends when there is room for it.
    pub(crate) await_room: bool,
    /// An ICMP port unreachable has arrived.
    pub(crate) unreachable: bool,
    /// Set once the datagrams that were queued before connect() have been read; addresses need no check afterwards,
    /// unless the socket is reconnected.
    pub(crate) early_datagrams_read: bool,
    /// The socket has been connected to another address or from another port, so datagrams of other sources may have
    /// been queued.
    reconnected: bool,
    /// ClientHellos of the peer that begin another association. They are passed on when the socket is closed.
    late: Vec<Box<[u8]>>,
    /// The connection ID in the peer's records, empty if they have none, and the length of other peers' connection IDs.
    cid: (Box<[u8]>, usize),
    /// The source of the last datagram, unless it is the peer's address.
    source: Option<SocketAddr>,
}

/// Maximum number of ClientHellos that are kept for a successor.
const MAX_LATE: usize = 64;

/// Result of one read of the socket.
enum ReadOutcome {
    /// A datagram of the peer with this many bytes.
    Datagram(usize),
    /// A datagram of another peer, which has been passed on.
    Foreign,
    /// The socket was shut down for reading, so reads find nothing and no longer block.
    Shut,
}

impl UdpTransport {
    pub(crate) fn new(
        socket: Arc<Socket>,
        association: AssociationInfo,
        attention: Arc<Attention>,
        counters: Arc<Counters>,
        strays: Option<Arc<dyn StraySink>>,
    ) -> Self {
        attention.wake_by_shutdown(&socket);
        let epoll_wait = EpollWait::Blocking;
        let timeout = ReadTimeout::default();
        Self {
            socket,
            association,
            attention,
            counters,
            strays,
            timeout,
            epoll_wait,
            shut: false,
            await_room: false,
            unreachable: false,
            early_datagrams_read: false,
            reconnected: false,
            late: Vec::new(),
            cid: Default::default(),
            source: None,
        }
    }

    /// Sets the connection ID in the peer's records, which may be empty. Records with another connection ID of `length`
    /// bytes belong to another peer.
    pub(crate) fn expect_connection_id(&mut self, cid: &[u8], length: usize) {
        self.cid = (cid.into(), length);
    }

    /// Sets the peer's new address, to which the socket is connected.
    pub(crate) fn set_peer_address(&mut self, peer: SocketAddr) {
        self.association.peer = peer;
        self.reconnected = true;
    }

    /// Connects the socket again from another port. Returns its local address.
    pub(crate) fn change_port(&mut self) -> io::Result<SocketAddr> {
        self.reconnected = true;
        let port = |socket: &Socket| socket.local_addr().map(|address| address.as_socket());
        let before = port(&self.socket)?;
        // The kernel may choose the same port again.
        for _ in 0..8 {
            disconnect(&self.socket)?;
            self.socket.connect(&self.association.peer.into())?;
            if let Some(after) =
                port(&self.socket)?.filter(|after| Some(after.port()) != before.map(|before| before.port()))
            {
                return Ok(after);
            }
        }
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Returns the source of the last datagram, unless it is the peer's address.
    pub(crate) fn source(&self) -> Option<SocketAddr> {
        self.source
    }

    pub(crate) fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    /// Waits for one datagram of the peer; those of the inbox come before those of the socket. Its bytes go to `first`,
    /// and the rest to `overflow`. If neither has room, `overflow` is allocated once there is a datagram. Blocks until
    /// `deadline`. Data that has already arrived is delivered even if the deadline has passed.
    pub(crate) fn recv(
        &mut self,
        first: &mut [u8],
        overflow: &mut Vec<u8>,
        now: Instant,
        deadline: Option<Instant>,
    ) -> Arrival {
        if self.attention.signals() & signal::INBOX != 0
            && let Some(delivered) = self.attention.take_delivered()
        {
            self.source = delivered.from.filter(|from| *from != self.association.peer);
            return Arrival::Message(place(&delivered.payload, first, overflow));
        }
        self.source = None;
        if !self.shut && !self.await_room && self.epoll_wait.return_to_blocking(&self.socket, &self.attention)
        {
            return Arrival::Woken;
        }
        let mut now = now;
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(now));
            let blocking = self.epoll_wait.is_blocking() && !self.await_room && left != Some(Duration::ZERO);
            if blocking {
                self.timeout.set(&self.socket, left);
            }
            if blocking
                && first.is_empty()
                && overflow.capacity() == 0
                && let Some(arrival) = await_readable(&self.socket, left)
            {
                return arrival;
            }
            match self.read(first, overflow, blocking) {
                Ok(ReadOutcome::Datagram(len)) => return Arrival::Message(len),
                Ok(ReadOutcome::Foreign) => {}
                Ok(ReadOutcome::Shut) => {
                    self.shut = true;
                    if let Some(arrival) = self.wait(left) {
                        return arrival;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if left == Some(Duration::ZERO) {
                        return Arrival::TimedOut;
                    }
                    if !blocking && let Some(arrival) = self.wait(left) {
                        return arrival;
                    }
                }
                Err(error) => {
                    if let Some(arrival) = self.handle_read_error(error) {
                        return arrival;
                    }
                }
            }
            now = Instant::now();
        }
    }

    /// Reads one datagram and checks which peer it belongs to.
    // Kept out of line, so that its stack frame does not exist while the peer is quiet.
    #[inline(never)]
    fn read(&self, first: &mut [u8], overflow: &mut Vec<u8>, wait: bool) -> io::Result<ReadOutcome> {
        let socket = self.socket.as_fd();
        let certain = self.early_datagrams_read && first.is_empty();
        let Received { len, source, info } = match certain {
            // The kernel delivers the peer's datagrams only, and it takes time to write their source. An empty datagram
            // has to be told from a read of a socket that was shut down.
            true if !self.shut && !self.reconnected => match message::read_spare(socket, overflow, wait)? {
                0 if is_shut_down(socket) => return Ok(ReadOutcome::Shut),
                len => Received { len, source: Some(self.association.peer), info: PacketInfo::default() },
            },
            true => message::recv_from(socket, overflow, wait)?,
            false => message::recv(socket, first, overflow, wait)?,
        };
        Ok(match source {
            None => ReadOutcome::Shut,
            Some(source) if source == self.association.peer && !self.has_other_connection_id(overflow) => {
                ReadOutcome::Datagram(len)
            }
            Some(source) => {
                self.give_back(source, info, first, overflow, len);
                ReadOutcome::Foreign
            }
        })
    }

    /// Returns whether a datagram from the peer's address has the connection ID of another peer, which has moved to
    /// that address.
    fn has_other_connection_id(&self, datagram: &[u8]) -> bool {
        let (cid, length) = &self.cid;
        connection_id(datagram, *length).is_some_and(|found| found != &**cid)
    }

    /// Waits by epoll, because the queue is empty and reads do not block. Returns `None` if the caller should read
    /// again.
    fn wait(&mut self, left: Option<Duration>) -> Option<Arrival> {
        let Self { socket, attention, counters, await_room, .. } = self;
        self.epoll_wait.wait(socket, attention, counters, *await_room, left)
    }

    /// Passes a datagram of another association to the dispatcher, which finds out where it belongs.
    fn give_back(&self, source: SocketAddr, info: PacketInfo, first: &[u8], overflow: &[u8], len: usize) {
        let Some(strays) = &self.strays else { return };
        let mut local = self.association.local;
        if let Some(hit) = info.local {
            local.set_ip(hit);
        }
        let mut payload = Vec::with_capacity(len);
        payload.extend_from_slice(&first[..len.min(first.len())]);
        payload.extend_from_slice(overflow);
        bump(&self.counters.strays);
        strays.take(Stray { local, peer: source, interface: info.interface, payload: payload.into() });
    }

    /// Keeps a datagram of the peer that begins another association for the dispatcher, which gets it once the socket
    /// is closed. Returns `false` for other datagrams.
    pub(crate) fn keep_for_successor(&mut self, datagram: &[u8]) -> bool {
        let begins = self.strays.is_some() && self.begins_association(datagram);
        if begins && self.late.len() < MAX_LATE {
            self.late.push(datagram.into());
        }
        begins
    }

    /// Returns whether this datagram of the peer begins another association.
    fn begins_association(&self, datagram: &[u8]) -> bool {
        let AssociationInfo { scheme, hello_random, .. } = &self.association;
        *scheme == Scheme::Dtls
            && matches!(hello::classify(datagram), FirstDatagram::ClientHello(hello) if hello.random != hello_random)
    }

    /// Handles an error of a read. Returns `None` if the caller should read again, otherwise why the association ends.
    fn handle_read_error(&mut self, error: io::Error) -> Option<Arrival> {
        if error.kind() == io::ErrorKind::Interrupted {
            return None;
        }
        if is_icmp(&error) {
            self.unreachable |= error.kind() == io::ErrorKind::ConnectionRefused;
            bump(&self.counters.icmp_errors);
            return None;
        }
        if is_memory(&error) {
            bump(&self.counters.out_of_memory);
            std::thread::yield_now();
            return None;
        }
        Some(Arrival::Over(EndReason::Io(error.kind())))
    }
}

impl Drop for UdpTransport {
    /// Passes on the remaining datagrams of other peers before the socket is closed: those that arrived between its
    /// bind and its connect, and the ClientHello of a client that uses this peer's port now.
    fn drop(&mut self) {
        if self.strays.is_none() {
            return;
        }
        self.counters.count_last_drops(&self.socket);
        for hello in std::mem::take(&mut self.late) {
            let info = PacketInfo::default();
            self.give_back(self.association.peer, info, &[], &hello, hello.len());
        }
        let mut payload = Vec::with_capacity(DATAGRAM_MAX);
        for _ in 0..LAST_READS {
            match message::recv(self.socket.as_fd(), &mut [], &mut payload, false) {
                Ok(Received { source: Some(source), .. })
                    if source == self.association.peer && !self.begins_association(&payload) => {}
                Ok(Received { source: Some(source), len, info }) => {
                    self.give_back(source, info, &[], &payload, len);
                }
                Ok(Received { source: None, .. }) => break,
                Err(error) if is_icmp(&error) => {}
                Err(_) => break,
            }
        }
    }
}

/// Returns the length of the longest payload of a datagram, in bytes: 65,535 minus the headers (RFC 768, RFC 791, RFC
/// 8200).
pub(crate) fn longest(peer_is_v4: bool) -> usize {
    if peer_is_v4 { 65_507 } else { 65_527 }
}

/// Sends one datagram; never blocks. The kernel reports a pending ICMP error *instead* of sending, so the call is then
/// repeated.
pub(crate) fn send(socket: &Socket, datagram: &[u8]) -> Sent {
    send_by(|| message::send(socket.as_fd(), datagram))
}

/// Sends one datagram to an address other than the connected one; never blocks.
pub(crate) fn send_to(socket: &Socket, to: SocketAddr, datagram: &[u8]) -> Sent {
    send_by(|| message::send_to(socket.as_fd(), to, datagram))
}

fn send_by(send: impl Fn() -> io::Result<usize>) -> Sent {
    let mut attempts = 0;
    loop {
        let Err(error) = send() else { return Sent::Done };
        attempts += 1;
        match error.raw_os_error() {
            Some(libc::EAGAIN) => return Sent::Full,
            Some(libc::EINTR) => {}
            _ if is_memory(&error) => return Sent::Full,
            // The first EMSGSIZE may be an ICMP report; the second is about the size of this datagram.
            _ if is_icmp(&error) && attempts < 3 => {}
            Some(libc::EMSGSIZE) => return Sent::TooLarge,
            // No host, no route, a firewall rule (EPERM), or a blackhole route (EINVAL, ip-route(8)): the datagram
            // counts as lost on the way.
            Some(libc::EPERM | libc::EINVAL) => return Sent::Done,
            _ if is_icmp(&error) => return Sent::Done,
            _ => return Sent::Broken(EndReason::Io(error.kind())),
        }
    }
}

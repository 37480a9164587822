//! A UDP socket that many peers share, and how one of them sends and waits on it.
//!
//! An event loop reads the socket and assigns its datagrams to peers. Datagrams to the peers are queued here, in order,
//! and sent with few system calls: at the end of the loop's turn, or at once if another thread sends.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::Socket;

use super::attention::{Attention, Waker, signal};
use super::clock::later;
use super::wait::{Arrival, place};
use crate::address::Scheme;
use crate::observe::{Counters, Listening};
use crate::protocol::Sent;
use crate::sys::batch::Outgoing;
use crate::sys::control::PacketInfo;
use crate::sys::epoll::wait_writable;
use crate::sys::eventfd::EventFd;
use crate::sys::socket::set_merged_receive;
use crate::sys::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sys::sync::{Condvar, Mutex};

/// Maximum number of queued datagrams, and of their bytes; more are sent before the end of the turn.
const MAX_QUEUED: usize = 64;
const MAX_BYTES: usize = 64 << 10;
/// Maximum capacity of the read buffer that a waiting thread keeps, in bytes.
const MAX_KEPT: usize = 2 << 10;

/// A listener whose sockets are shared by its peers; it is bound and not yet served.
pub(crate) struct SharedListener {
    /// One socket for each loop, or fewer.
    pub(crate) sockets: Vec<Socket>,
    pub(crate) scheme: Scheme,
    pub(crate) address: SocketAddr,
    /// The number of the listener in the server.
    pub(crate) number: u16,
}

/// A socket that many peers share.
pub(crate) struct SharedSocket {
    pub(crate) socket: Arc<Socket>,
    pub(crate) scheme: Scheme,
    /// The address that it is bound to.
    pub(crate) address: SocketAddr,
    /// The number of its listener.
    pub(crate) listener: u16,
    /// Its position in its group. Connection IDs begin with this number, which must stay the same when a process with
    /// another number of loops takes over the group.
    pub(crate) index: u8,
    /// Counts the socket while this process reads it.
    listening: Mutex<Option<Listening>>,
    /// Another process reads the socket; this process still sends to peers on it.
    handed_over: AtomicBool,
    outgoing: Mutex<Outgoing>,
    /// The thread that sends the queued datagrams at the end of its turn; 0 if there is none.
    batching: AtomicUsize,
    /// The peers whose messages wait for room.
    waiting: Mutex<Vec<Arc<Attention>>>,
    /// Tells the loop to wait for room.
    full: Arc<EventFd>,
}

/// Returns a number that identifies the calling thread.
fn thread_id() -> usize {
    thread_local!(static MARK: u8 = const { 0 });
    MARK.with(|mark| std::ptr::from_ref(mark).addr())
}

impl SharedSocket {
    /// Wraps a socket of a listener, with its position in its group. `full` becomes readable when the send buffer is
    /// full.
    pub(crate) fn new(
        socket: Socket,
        scheme: Scheme,
        address: SocketAddr,
        (listener, index): (u16, u8),
        full: Arc<EventFd>,
        counters: &Arc<Counters>,
    ) -> Self {
        if let Err(error) = set_merged_receive(&socket) {
            tracing::debug!(%address, %error, "the kernel cannot receive several datagrams as one");
        }
        let socket = Arc::new(socket);
        let listening = Mutex::new(Some(Listening::new(counters, Some(&socket))));
        let (outgoing, waiting) = (Mutex::default(), Mutex::default());
        let (handed_over, batching) = (AtomicBool::new(false), AtomicUsize::new(0));
        Self {
            socket,
            scheme,
            address,
            listener,
            index,
            listening,
            handed_over,
            outgoing,
            batching,
            waiting,
            full,
        }
    }

    /// Returns whether datagrams to this address may arrive at the socket.
    pub(crate) fn is_at(&self, local: SocketAddr) -> bool {
        let ip = self.address.ip();
        self.address.port() == local.port() && (ip.is_unspecified() || ip == local.ip())
    }

    /// Notes that another process reads the socket from now on.
    pub(crate) fn mark_handed_over(&self) {
        self.handed_over.store(true, Ordering::Release);
        self.stop_listening();
    }

    /// Notes that this process does not read the socket any more.
    pub(crate) fn stop_listening(&self) {
        let _listening = self.listening.lock().take();
    }

    /// Returns whether another process reads the socket.
    pub(crate) fn is_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Acquire)
    }

    /// Makes datagrams of the calling thread wait for [`end_turn`](Self::end_turn) from now on.
    pub(crate) fn begin_turn(&self) {
        self.batching.store(thread_id(), Ordering::Relaxed);
    }

    /// Sends the queued datagrams, and stops queueing. Returns `false` if the send buffer is full.
    pub(crate) fn end_turn(&self) -> bool {
        self.batching.store(0, Ordering::Relaxed);
        self.flush()
    }

    /// Sends the queued datagrams. Returns `false` if the send buffer is full.
    pub(crate) fn flush(&self) -> bool {
        let mut outgoing = self.outgoing.lock();
        if !outgoing.is_empty() {
            outgoing.send(self.socket.as_fd());
        }
        outgoing.is_empty()
    }

    /// Sends or queues a datagram. Never blocks.
    pub(crate) fn send(&self, peer: SocketAddr, source: PacketInfo, datagram: &[u8]) -> Sent {
        let mut outgoing = self.outgoing.lock();
        let batching = self.batching.load(Ordering::Relaxed) == thread_id();
        let is_many = |outgoing: &Outgoing| outgoing.len() >= MAX_QUEUED || outgoing.byte_len() >= MAX_BYTES;
        if is_many(&outgoing) || (!batching && !outgoing.is_empty()) {
            outgoing.send(self.socket.as_fd());
            if is_many(&outgoing) || (!batching && !outgoing.is_empty()) {
                return Sent::Full;
            }
        }
        let source = self.address.ip().is_unspecified().then_some(source);
        outgoing.push(peer, source, self.address.is_ipv6(), datagram);
        if !batching {
            outgoing.send(self.socket.as_fd());
            // It is the only queued datagram, and is sent when there is room.
            if !outgoing.is_empty() {
                self.full.notify();
            }
        }
        Sent::Done
    }

    /// Registers a peer whose message waits for room.
    fn await_room(&self, attention: &Arc<Attention>) {
        if !attention.awaits_room.swap(true, Ordering::AcqRel) {
            self.waiting.lock().push(Arc::clone(attention));
            self.full.notify();
        }
    }

    /// Wakes the peers that wait for room.
    pub(crate) fn wake_waiting(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        for attention in waiting {
            attention.awaits_room.store(false, Ordering::Release);
            attention.wake();
        }
    }
}

/// The path to one peer.
#[derive(Clone)]
pub(crate) struct SharedPath {
    pub(crate) socket: Arc<SharedSocket>,
    pub(crate) peer: SocketAddr,
    /// The local address that the peer sends to, from which it is answered.
    pub(crate) source: PacketInfo,
}

impl SharedPath {
    /// Sends one datagram; never blocks.
    pub(crate) fn send(&self, datagram: &[u8]) -> Sent {
        self.socket.send(self.peer, self.source, datagram)
    }
}

/// A wait of a peer's thread that another thread ends.
#[derive(Default)]
struct ThreadWaker {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Waker for ThreadWaker {
    fn wake(&self) {
        *self.woken.lock() = true;
        self.changed.notify_one();
    }
}

/// The receiving end of one peer: the loop that reads the socket passes datagrams to it.
pub(crate) struct SharedTransport {
    socket: Arc<SharedSocket>,
    attention: Arc<Attention>,
    /// Present if the peer has a thread, which waits here for its inbox.
    waker: Option<Arc<ThreadWaker>>,
    /// The datagram that the loop has just read for this peer; further ones follow in `more`.
    datagram: Option<Arrived>,
    #[allow(clippy::box_collection, reason = "most peers have none, and 24 bytes less each")]
    more: Option<Box<VecDeque<Arrived>>>,
    /// The source of the last datagram, if it may differ from the peer's address.
    source: Option<Box<SocketAddr>>,
}

/// A datagram, and its source, if that may differ from the peer's address.
type Arrived = (Vec<u8>, Option<Box<SocketAddr>>);

impl SharedTransport {
    /// Makes the transport of a peer with a thread of its own.
    pub(crate) fn waiting(socket: Arc<SharedSocket>, attention: Arc<Attention>) -> Self {
        let waker = Arc::new(ThreadWaker::default());
        attention.wake_by(Arc::clone(&waker) as _, None);
        Self { socket, attention, waker: Some(waker), datagram: None, more: None, source: None }
    }

    /// Makes the transport of a peer that a loop drives; its waits end at once.
    pub(crate) fn driven(socket: Arc<SharedSocket>, attention: Arc<Attention>) -> Self {
        Self { socket, attention, waker: None, datagram: None, more: None, source: None }
    }

    /// Returns the socket that the peer shares.
    pub(crate) fn socket(&self) -> &Arc<SharedSocket> {
        &self.socket
    }

    /// Returns whether nothing waits to be read.
    pub(crate) fn is_idle(&self) -> bool {
        self.datagram.is_none() && self.more.is_none()
    }

    /// Gives the peer a datagram that comes after those of its inbox.
    pub(crate) fn put(&mut self, datagram: Vec<u8>, from: Option<SocketAddr>) {
        let arrived = (datagram, from.map(Box::new));
        match self.datagram {
            None => self.datagram = Some(arrived),
            Some(_) => self.more.get_or_insert_default().push_back(arrived),
        }
    }

    /// Returns the source of the last datagram, if it may differ from the peer's address.
    pub(crate) fn source(&self) -> Option<SocketAddr> {
        self.source.as_deref().copied()
    }

    /// Takes the next of the datagrams behind the first.
    fn next(&mut self) -> Option<Arrived> {
        let more = self.more.as_mut()?;
        let next = more.pop_front();
        if more.is_empty() {
            self.more = None;
        }
        next
    }

    /// Waits for one datagram of the peer: its bytes go to `first`, and the rest to `overflow`. Blocks until
    /// `deadline`, but not on a loop's thread. Data that has already arrived is delivered even if the deadline has
    /// passed.
    pub(crate) fn recv(
        &mut self,
        first: &mut [u8],
        overflow: &mut Vec<u8>,
        deadline: Option<Instant>,
    ) -> Arrival {
        loop {
            if self.attention.signals() & signal::INBOX != 0
                && let Some(delivered) = self.attention.take_delivered()
            {
                self.source = delivered.from.map(Box::new);
                return Arrival::Message(place(&delivered.payload, first, overflow));
            }
            self.source = None;
            if let Some((mut datagram, from)) = self.datagram.take() {
                self.source = from;
                self.datagram = self.next();
                let len = datagram.len();
                if !first.is_empty() {
                    place(&datagram, first, overflow);
                    datagram.clear();
                }
                // The memory is reused.
                if overflow.is_empty() {
                    std::mem::swap(overflow, &mut datagram);
                }
                return Arrival::Message(len);
            }
            let Some(waker) = &self.waker else { return Arrival::TimedOut };
            // The last datagram has been read, so a quiet peer does not keep its memory.
            if overflow.capacity() > MAX_KEPT {
                *overflow = Vec::new();
            }
            let mut woken = waker.woken.lock();
            if std::mem::take(&mut *woken) {
                if self.attention.signals() & signal::INBOX != 0 {
                    continue;
                }
                return Arrival::Woken;
            }
            match deadline {
                Some(deadline) if Instant::now() >= deadline => return Arrival::TimedOut,
                Some(deadline) => drop(waker.changed.wait_until(&mut woken, deadline)),
                None => waker.changed.wait(&mut woken),
            }
        }
    }

    /// Waits until there may be room to send. Returns `false` if there is none within the timeout.
    pub(crate) fn wait_for_room(&self, timeout: Duration) -> bool {
        let until = later(Instant::now(), timeout);
        while !self.socket.flush() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || !wait_writable(self.socket.socket.as_fd(), Some(left)).unwrap_or(false) {
                return false;
            }
        }
        true
    }

    /// Sets whether the peer is woken when there is room to send.
    pub(crate) fn await_room(&self, wanted: bool) {
        if wanted {
            self.socket.await_room(&self.attention);
        }
    }
}

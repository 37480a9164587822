//! The relation to one peer, as every thread sees it: what senders, the dispatcher and shutdown
//! share with the worker that serves it.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use socket2::Socket;

use crate::address::Scheme;
use crate::error::EndReason;
use crate::outbox::{Outbox, Queue};
use crate::proof::{self, Proof, Traffic};
use crate::protocol::stream::proxy::Ends;
use crate::sctp::{self, MessageInfo, NotificationKind};
use crate::session::{Session, transmit};
use crate::sys::epoll::Epoll;
use crate::sys::message;
use crate::sys::sync::Mutex;
use crate::sys::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

/// Names an association; unique in this process, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AssociationId(u64);

impl AssociationId {
    fn next() -> Self {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// The number itself.
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for AssociationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What other threads want the worker to notice; bits of [`Association::signals`].
pub(crate) mod signal {
    /// The server drains: end when the peer is quiet.
    pub(crate) const DRAIN: u8 = 1;
    /// Somebody called `close`.
    pub(crate) const CLOSE: u8 = 2;
    /// The handshake makes way for a newer one.
    pub(crate) const EVICT: u8 = 4;
    /// The grace period is over.
    pub(crate) const STOP: u8 = 8;
    /// Datagrams wait in the inbox.
    pub(crate) const INBOX: u8 = 16;
    /// Something found no room in the send buffer: send it when there is some.
    pub(crate) const FLUSH: u8 = 32;
    /// The peer's outbox is full, and it is to be disconnected for that.
    pub(crate) const TOO_SLOW: u8 = 64;
    /// After these nothing of the peer is read any more.
    pub(crate) const FINAL: u8 = CLOSE | EVICT | STOP | TOO_SLOW;
}

/// Most datagrams that wait in an inbox: those that came before the child socket was there, and
/// late ones. As many as the listener's receive buffer holds small ones for one peer; memory is
/// bounded by [`INBOX_BYTES`] too.
const INBOX_DATAGRAMS: usize = 4096;
/// Most bytes that wait in an inbox.
const INBOX_BYTES: usize = 1 << 20;

/// One association. The worker owns its life; everybody else holds it through an `Arc` and can
/// send, signal or look at it.
///
/// Lock order: `link` before `outbox`; `wake` and `inbox` are leaves. None is held across a blocking call or
/// a handler.
pub(crate) struct Association {
    pub(crate) id: AssociationId,
    pub(crate) scheme: Scheme,
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) opened: Instant,
    /// The random of the ClientHello that it began with; zeroes without one. A hello with the same
    /// random is the same hello.
    pub(crate) hello_random: [u8; 32],
    /// Session and socket while the association is open.
    pub(crate) link: Mutex<Link>,
    /// What waits for room; only whoever holds `link` looks.
    pub(crate) outbox: Mutex<Queue>,
    pub(crate) outbox_bound: Outbox,
    /// The number of the listener, where a PROXY header comes first.
    pub(crate) proxied_listener: Option<usize>,
    /// What the peer has to return before it is sent much, on plain UDP where that is asked for.
    pub(crate) proof: Option<Proof>,
    /// Who is behind the proxy, once that is known.
    proxied: OnceLock<Ends>,
    wake: Mutex<Wake>,
    inbox: Mutex<Inbox>,
    signals: AtomicU8,
    /// Counts against the cap on half-open handshakes.
    pub(crate) half_open: AtomicBool,
    /// The worker is waiting for the peer, so whatever comes is seen to.
    pub(crate) reading: AtomicBool,
    /// This is the client of a resumed session, whose last flight is not confirmed: sending looks whether the server asks
    /// for it.
    pub(crate) answers_in_send: AtomicBool,
    /// Messages received, and their bytes; the worker alone counts.
    pub(crate) received: AtomicU64,
    pub(crate) received_bytes: AtomicU64,
    /// Messages sent, and their bytes; whoever holds `link` counts.
    pub(crate) sent: AtomicU64,
    pub(crate) sent_bytes: AtomicU64,
    /// Messages that found no room in the outbox.
    pub(crate) dropped: AtomicU64,
}

/// What sending goes through.
pub(crate) enum Link {
    /// The handshake has not ended.
    Opening,
    /// Session and socket.
    Open(Session),
    /// Over, and why.
    Ended(EndReason),
}

/// How to interrupt the worker's wait.
enum Wake {
    /// No worker yet: it looks at the signals when it starts.
    Unborn,
    /// It blocks in a read of the socket: shutting that down for reading wakes it.
    Blocking(Arc<Socket>),
    /// It waits by epoll, for these events: re-arming the socket there wakes it.
    Watching(Arc<Socket>, Arc<Epoll>, u32),
    /// It blocks in a read of an SCTP socket. Shut down for reading, that would acknowledge and throw
    /// away what still comes; a notification wakes it as well.
    Notifying(Arc<Socket>),
    /// It waits for nothing any more.
    Gone,
}

#[derive(Default)]
struct Inbox {
    queue: VecDeque<Parcel>,
    bytes: usize,
    closed: bool,
}

/// What another thread read for an association.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parcel {
    /// A datagram, or (part of) an SCTP message.
    pub(crate) payload: Box<[u8]>,
    /// What came with an SCTP message.
    pub(crate) info: MessageInfo,
    /// No further part of the message is to follow.
    pub(crate) complete: bool,
}

impl Parcel {
    /// A datagram.
    pub(crate) fn datagram(payload: &[u8]) -> Self {
        Self { payload: payload.into(), info: MessageInfo::default(), complete: true }
    }
}

/// What became of a datagram given to [`Association::deliver`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// It waits for the worker.
    Queued,
    /// No room: it is lost.
    Full,
    /// The association has just gone: look for its successor.
    Gone,
}

impl Association {
    pub(crate) fn new(scheme: Scheme, local: SocketAddr, peer: SocketAddr) -> Self {
        Self {
            id: AssociationId::next(),
            scheme,
            local,
            peer,
            opened: Instant::now(),
            hello_random: [0; 32],
            link: Mutex::new(Link::Opening),
            outbox: Mutex::default(),
            outbox_bound: Outbox::default(),
            proxied_listener: None,
            proof: None,
            proxied: OnceLock::new(),
            wake: Mutex::new(Wake::Unborn),
            inbox: Mutex::default(),
            signals: AtomicU8::new(0),
            half_open: AtomicBool::new(false),
            reading: AtomicBool::new(false),
            answers_in_send: AtomicBool::new(false),
            received: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    /// Of a peer whose ClientHello had this random.
    pub(crate) fn with_hello(mut self, random: [u8; 32]) -> Self {
        self.hello_random = random;
        self
    }

    /// With this bound of what waits for the peer.
    pub(crate) fn with_outbox(mut self, bound: Outbox) -> Self {
        self.outbox_bound = Outbox { overflow: bound.overflow.resolve(self.scheme), ..bound };
        self
    }

    /// Of a peer on plain UDP that has to prove its address.
    pub(crate) fn with_proof(mut self) -> Self {
        self.proof = Some(Proof::new());
        self
    }

    /// Whether the peer may be sent so many bytes as one datagram, as far as its address is proven.
    pub(crate) fn may_send(&self, len: usize) -> bool {
        if self.proof.as_ref().is_none_or(|proof| proof.token().is_none()) {
            return true;
        }
        let traffic = |datagrams: &AtomicU64, bytes: &AtomicU64| Traffic {
            datagrams: datagrams.load(Ordering::Relaxed),
            bytes: bytes.load(Ordering::Relaxed),
        };
        // RFC 791, RFC 8200, RFC 768.
        let headers = if self.peer.is_ipv4() { 20 + 8 } else { 40 + 8 };
        let came = traffic(&self.received, &self.received_bytes);
        proof::allows(came, traffic(&self.sent, &self.sent_bytes), len, headers)
    }

    /// Of a connection to this listener that begins with a PROXY header.
    pub(crate) fn behind_proxy(mut self, listener: usize) -> Self {
        self.proxied_listener = Some(listener);
        self
    }

    /// Where the peer is: behind the proxy, if there is one that said so.
    pub(crate) fn peer_address(&self) -> SocketAddr {
        self.proxied.get().map_or(self.peer, |ends| ends.peer)
    }

    /// The address that the peer asked for.
    pub(crate) fn local_address(&self) -> SocketAddr {
        self.proxied.get().map_or(self.local, |ends| ends.local)
    }

    /// The proxy said who is behind it.
    pub(crate) fn set_proxied(&self, ends: Ends) {
        // It says so once.
        let _ = self.proxied.set(ends);
    }

    /// The signals raised so far.
    pub(crate) fn signals(&self) -> u8 {
        self.signals.load(Ordering::Acquire)
    }

    /// Raises a signal and wakes the worker if that is news.
    pub(crate) fn raise(&self, signal: u8) {
        if self.signals.fetch_or(signal, Ordering::AcqRel) & signal == 0 {
            self.wake();
        }
    }

    /// Raises a signal on the worker's own thread, which is not waiting.
    pub(crate) fn note(&self, signal: u8) {
        self.signals.fetch_or(signal, Ordering::AcqRel);
    }

    /// Takes a signal back, which has been seen to.
    pub(crate) fn lower(&self, signal: u8) {
        self.signals.fetch_and(!signal, Ordering::AcqRel);
    }

    fn wake(&self) {
        match &*self.wake.lock() {
            Wake::Blocking(socket) => message::shutdown_read(&**socket),
            Wake::Notifying(socket) => {
                let last = self.signals() & signal::FINAL != 0 || self.half_open.load(Ordering::Acquire);
                // The kernel says SCTP_SENDER_DRY_EVENT at once where nothing is unacknowledged, and
                // else as soon as nothing is (RFC 6458 §6.1.9).
                if last || sctp::Options::of(&**socket).subscribe(NotificationKind::SenderDry, true).is_err()
                {
                    message::shutdown_read(&**socket);
                }
            }
            Wake::Watching(socket, epoll, events) => {
                use std::os::fd::AsFd;
                let _ = epoll.modify(socket.as_fd(), *events, 0);
            }
            Wake::Unborn | Wake::Gone => {}
        }
    }

    /// The worker is about to block in reads of `socket`. It must look at the signals after this.
    pub(crate) fn wake_by_shutdown(&self, socket: &Arc<Socket>) {
        *self.wake.lock() = Wake::Blocking(Arc::clone(socket));
    }

    /// The worker is about to block in reads of an SCTP `socket`. It must look at the signals after
    /// this.
    pub(crate) fn wake_by_notification(&self, socket: &Arc<Socket>) {
        *self.wake.lock() = Wake::Notifying(Arc::clone(socket));
    }

    /// The worker waits by `epoll` for these events from now on. It must look at the signals after this.
    pub(crate) fn wake_by_epoll(&self, socket: &Arc<Socket>, epoll: &Arc<Epoll>, events: u32) {
        *self.wake.lock() = Wake::Watching(Arc::clone(socket), Arc::clone(epoll), events);
    }

    /// Lets go of the socket: nobody needs to be woken any more.
    pub(crate) fn wake_no_more(&self) {
        *self.wake.lock() = Wake::Gone;
    }

    /// The socket, for whoever watches over the last flight.
    pub(crate) fn socket(&self) -> Option<Arc<Socket>> {
        match &*self.wake.lock() {
            Wake::Blocking(socket) | Wake::Watching(socket, ..) | Wake::Notifying(socket) => {
                Some(Arc::clone(socket))
            }
            Wake::Unborn | Wake::Gone => None,
        }
    }

    /// Hands what came from this peer to the worker, which gets it in order and before anything that
    /// it reads from the socket later. With `wake` false the worker is known not to have started.
    pub(crate) fn deliver(&self, parcel: Parcel, wake: bool) -> Delivery {
        {
            let mut inbox = self.inbox.lock();
            if inbox.closed {
                return Delivery::Gone;
            }
            if inbox.queue.len() >= INBOX_DATAGRAMS || inbox.bytes + parcel.payload.len() > INBOX_BYTES {
                return Delivery::Full;
            }
            inbox.bytes += parcel.payload.len();
            inbox.queue.push_back(parcel);
            let raised = self.signals.fetch_or(signal::INBOX, Ordering::AcqRel) & signal::INBOX;
            if raised != 0 || !wake {
                return Delivery::Queued;
            }
        }
        self.wake();
        Delivery::Queued
    }

    /// The oldest of what is in the inbox.
    pub(crate) fn take_delivered(&self) -> Option<Parcel> {
        let mut inbox = self.inbox.lock();
        let parcel = inbox.queue.pop_front();
        inbox.bytes -= parcel.as_ref().map_or(0, |parcel| parcel.payload.len());
        if inbox.queue.is_empty() {
            self.lower(signal::INBOX);
        }
        parcel
    }

    /// Takes what is left in the inbox and lets nothing more in.
    pub(crate) fn close_inbox(&self) -> VecDeque<Parcel> {
        let mut inbox = self.inbox.lock();
        inbox.closed = true;
        std::mem::take(&mut inbox.queue)
    }

    /// Counts a message of the peer's.
    pub(crate) fn count_received(&self, len: usize) {
        add(&self.received, 1);
        add(&self.received_bytes, len as u64);
    }

    /// Counts a message to the peer.
    pub(crate) fn count_sent(&self, len: usize) {
        add(&self.sent, 1);
        add(&self.sent_bytes, len as u64);
    }

    /// Whether the peer may still ask for the last flight of the handshake.
    pub(crate) fn keeps_flight(&self) -> bool {
        match &*self.link.lock() {
            Link::Opening => true,
            Link::Open(Session::Dtls(session, _)) => session.keeps_flight(),
            _ => false,
        }
    }

    /// Sends the last flight again; `false` where there is none to send.
    pub(crate) fn repeat_last_flight(&self) -> bool {
        let Link::Open(Session::Dtls(session, socket)) = &mut *self.link.lock() else { return false };
        let kept = session.keeps_flight();
        session.repeat_last_flight();
        transmit(session, socket);
        kept
    }

    /// It is too late for the peer to ask for the last flight.
    pub(crate) fn forget_last_flight(&self) {
        if let Link::Open(Session::Dtls(session, _)) = &mut *self.link.lock() {
            session.confirm();
        }
    }
}

/// Adds where only one thread at a time does, so that no locked instruction is needed.
fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed) + more, Ordering::Relaxed);
}

impl fmt::Debug for Association {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "association {} {}://{} from {}", self.id, self.scheme, self.local, self.peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn association() -> Association {
        let address = "127.0.0.1:1".parse().unwrap();
        Association::new(Scheme::Udp, address, address)
    }

    #[test]
    fn the_inbox_keeps_order_and_clears_its_signal() {
        let association = association();
        assert_eq!(association.deliver(Parcel::datagram(b"one"), true), Delivery::Queued);
        assert_eq!(association.deliver(Parcel::datagram(b"two"), true), Delivery::Queued);
        assert_eq!(association.signals(), signal::INBOX);
        assert_eq!(association.take_delivered(), Some(Parcel::datagram(b"one")));
        assert_eq!(association.take_delivered(), Some(Parcel::datagram(b"two")));
        assert_eq!(association.signals(), 0);
        assert_eq!(association.take_delivered(), None);
    }

    #[test]
    fn the_inbox_is_bounded_in_datagrams_and_in_bytes() {
        let small = association();
        for _ in 0..INBOX_DATAGRAMS {
            assert_eq!(small.deliver(Parcel::datagram(b""), true), Delivery::Queued);
        }
        assert_eq!(small.deliver(Parcel::datagram(b""), true), Delivery::Full);
        let large = association();
        let datagram = vec![0; INBOX_BYTES / 16];
        for _ in 0..16 {
            assert_eq!(large.deliver(Parcel::datagram(&datagram), true), Delivery::Queued);
        }
        assert_eq!(large.deliver(Parcel::datagram(b"x"), true), Delivery::Full);
        assert!(large.take_delivered().is_some());
        assert_eq!(large.deliver(Parcel::datagram(b"x"), true), Delivery::Queued);
    }

    #[test]
    fn what_is_left_in_a_closed_inbox_is_given_back() {
        let association = association();
        association.deliver(Parcel::datagram(b"late"), true);
        assert_eq!(association.close_inbox().len(), 1);
        assert_eq!(association.deliver(Parcel::datagram(b"later"), true), Delivery::Gone);
    }
}

//! The relation to one peer, as every thread sees it: what senders, the dispatcher and shutdown
//! share with the worker that serves it.

mod saved;

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::address::Scheme;
use crate::config::Timeouts;
use crate::drive::open::Open;
use crate::drive::{Session, transmit};
use crate::error::{EndReason, Error};
use crate::net;
use crate::net::attention::{Attention, signal};
use crate::net::clock::{Clock, later};
use crate::observe::Counters;
use crate::outbox::{OutboxLimits, Queue};
use crate::proof::{self, Proof, Traffic};
use crate::protocol::exporter::RefusedExport;
use crate::protocol::stream::proxy::Ends;
use crate::sys::sync::Mutex;
use crate::sys::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::tls::Facts;

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

/// One association. The worker owns its life; everybody else holds it through an `Arc` and can
/// send, signal or look at it.
///
/// Lock order: `link` before `outbox`; `moved` is a leaf. None is held across a blocking call or
/// a handler.
pub(crate) struct Association {
    pub(crate) id: AssociationId,
    pub(crate) scheme: Scheme,
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    /// What is counted of its listener.
    pub(crate) counters: Arc<Counters>,
    /// The time that it goes by.
    pub(crate) clock: Clock,
    pub(crate) opened: Instant,
    /// The random of the ClientHello that it began with; zeroes without one. A hello with the same
    /// random is the same hello.
    pub(crate) hello_random: [u8; 32],
    /// Session and socket while the association is open.
    pub(crate) link: Mutex<Link>,
    /// What was settled before the association opened.
    settled: OnceLock<Settled>,
    /// Why it has ended, or is about to; set under the lock of `link`.
    ended: OnceLock<EndReason>,
    /// What waits for room; only whoever holds `link` looks.
    pub(crate) outbox: Mutex<Queue>,
    pub(crate) outbox_bound: OutboxLimits,
    /// The number of the listener, where a PROXY header comes first.
    pub(crate) proxied_listener: Option<u32>,
    /// What the peer has to return before it is sent much, on plain UDP where that is asked for.
    pub(crate) proof: Option<Box<Proof>>,
    /// Who is behind the proxy, once that is known.
    proxied: OnceLock<Box<Ends>>,
    /// The connection ID that the peer is to put into its records, on DTLS where a server has them; else empty.
    pub(crate) connection_id: Box<[u8]>,
    /// What the loop that reads for the peer calls it, if there is one.
    pub(crate) loop_token: std::sync::atomic::AtomicU64,
    /// Where one of the addresses has changed, because the peer's connection ID has told another one.
    moved: Mutex<Option<Box<Moved>>>,
    /// How others reach the worker.
    pub(crate) attention: Arc<Attention>,
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
    /// What of these numbers another process has counted, in the same order.
    carried: Option<Box<[u64; 5]>>,
}

/// Addresses that are others by now than at the beginning.
#[derive(Default)]
struct Moved {
    local: Option<SocketAddr>,
    peer: Option<SocketAddr>,
}

/// What sending goes through.
pub(crate) enum Link {
    /// The handshake has not ended.
    Opening,
    /// Session, socket and deadlines.
    Open(Open),
    /// Nothing can be sent any more.
    Ended,
}

/// What stays the same from when an association opens.
#[derive(Default)]
struct Settled {
    facts: Facts,
    max_message: usize,
    min_message: usize,
}

impl Association {
    pub(crate) fn new(scheme: Scheme, local: SocketAddr, peer: SocketAddr, counters: Arc<Counters>) -> Self {
        Self {
            id: AssociationId::next(),
            scheme,
            local,
            peer,
            counters,
            clock: Clock::default(),
            opened: Instant::now(),
            hello_random: [0; 32],
            link: Mutex::new(Link::Opening),
            settled: OnceLock::new(),
            ended: OnceLock::new(),
            outbox: Mutex::default(),
            outbox_bound: OutboxLimits::default(),
            proxied_listener: None,
            proof: None,
            proxied: OnceLock::new(),
            connection_id: Box::default(),
            loop_token: std::sync::atomic::AtomicU64::new(u64::MAX),
            moved: Mutex::new(None),
            attention: Arc::default(),
            reading: AtomicBool::new(false),
            answers_in_send: AtomicBool::new(false),
            received: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            carried: None,
        }
    }

    /// Of a peer whose ClientHello had this random.
    pub(crate) fn with_hello(mut self, random: [u8; 32]) -> Self {
        self.hello_random = random;
        self
    }

    /// Opened now by this clock.
    pub(crate) fn with_clock(mut self, clock: Clock) -> Self {
        self.opened = clock.now();
        self.clock = clock;
        self
    }

    /// With this bound of what waits for the peer.
    pub(crate) fn with_outbox(mut self, bound: OutboxLimits) -> Self {
        self.outbox_bound = OutboxLimits { overflow: bound.overflow.resolve(self.scheme), ..bound };
        self
    }

    /// Of a peer on plain UDP that has to prove its address.
    pub(crate) fn with_proof(mut self) -> Self {
        self.proof = Some(Box::new(Proof::new()));
        self
    }

    /// Opens the association, so that others can send. The caller owns its socket.
    pub(crate) fn open(&self, session: Session, facts: Facts, timeouts: &Timeouts) {
        let (max_message, min_message) = (session.max_message(self.peer.is_ipv4()), session.min_message());
        // It opens once.
        let _ = self.settled.set(Settled { facts, max_message, min_message });
        *self.link.lock() = Link::Open(Open::new(session, timeouts, self.opened, self.now()));
    }

    /// Ends the association for everybody who sends. Returns what was open, for the caller to close; `None` where it was not
    /// open, or where somebody else has ended it, whose reason stays.
    pub(crate) fn end(&self, reason: &EndReason) -> Option<Open> {
        self.end_link(&mut self.link.lock(), reason)
    }

    /// Ends the association like [`end`](Self::end). The caller holds the lock of `link`.
    pub(crate) fn end_link(&self, link: &mut Link, reason: &EndReason) -> Option<Open> {
        self.ended.get_or_init(|| reason.clone());
        match std::mem::replace(link, Link::Ended) {
            Link::Open(open) => Some(open),
            Link::Opening | Link::Ended => None,
        }
    }

    /// Has the association's own thread end it for this reason, if there is none yet. Returns the reason that holds.
    pub(crate) fn ask_to_end(&self, reason: EndReason) -> &EndReason {
        // Both under the lock: the dispatcher, which reads in place of a busy handler, stops at the signal.
        let _link = self.link.lock();
        let reason = self.ended.get_or_init(|| reason);
        self.attention.raise(signal::CLOSE);
        reason
    }

    /// Why the association has ended, or is about to; `None` while it lives.
    pub(crate) fn end_reason(&self) -> Option<&EndReason> {
        self.ended.get()
    }

    fn settled(&self) -> &Settled {
        self.settled.get_or_init(Settled::default)
    }

    /// What the handshake settled, if there was one.
    pub(crate) fn facts(&self) -> &Facts {
        &self.settled().facts
    }

    /// The longest message that can be sent, in bytes.
    pub(crate) fn max_message(&self) -> usize {
        self.settled().max_message
    }

    /// Refuses a message that is too long, or empty where that cannot be sent.
    pub(crate) fn check_size(&self, message: &[u8]) -> Result<(), Error> {
        let Settled { max_message, min_message, .. } = *self.settled();
        match message.len() {
            size if size > max_message => Err(self.too_large(message)),
            size if size < min_message => Err(Error::EmptyMessage),
            _ => Ok(()),
        }
    }

    /// Returns the error for a message that is too long for the transport.
    pub(crate) fn too_large(&self, message: &[u8]) -> Error {
        Error::MessageTooLarge { size: message.len(), limit: self.max_message() }
    }

    /// Fills `out` with exported keying material.
    pub(crate) fn export(&self, label: &str, context: Option<&[u8]>, out: &mut [u8]) -> Result<(), Error> {
        match &*self.link.lock() {
            Link::Open(open) => {
                let exported =
                    open.session.exporter().and_then(|exporter| exporter.export(label, context, out));
                exported.map_err(|refused| match refused {
                    RefusedExport::NoSession => Error::NotSecure,
                    RefusedExport::NotKept => Error::NoExporters,
                    RefusedExport::Argument => Error::BadExport,
                })
            }
            _ => Err(Error::Ended(self.end_reason().cloned().unwrap_or(EndReason::ClosedByUs))),
        }
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
        // A server has fewer descriptors than that.
        self.proxied_listener = Some(listener as u32);
        self
    }

    /// Returns the time.
    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Returns how long ago the peer was admitted.
    pub(crate) fn age(&self) -> Duration {
        self.now().saturating_duration_since(self.opened)
    }

    /// Returns the deadline so long from now.
    pub(crate) fn after(&self, timeout: Duration) -> Instant {
        later(self.now(), timeout)
    }

    /// Of a peer that is to put this connection ID into its records.
    pub(crate) fn with_connection_id(mut self, cid: Box<[u8]>) -> Self {
        self.connection_id = cid;
        self
    }

    /// Where the peer is: behind the proxy, if there is one that said so.
    pub(crate) fn peer_address(&self) -> SocketAddr {
        self.proxied.get().map_or_else(|| self.current_peer(), |ends| ends.peer)
    }

    /// Where the peer was when it was admitted; the limits go on counting it there. A place is asked for at admission alone,
    /// so a peer that moves can neither take one from others at its new address nor leave one behind that nobody gives back.
    pub(crate) fn admitted_address(&self) -> SocketAddr {
        self.proxied.get().map_or(self.peer, |ends| ends.peer)
    }

    /// Whether the peer is known by its connection ID wherever it is: both sides have agreed on it.
    pub(crate) fn is_known_by_connection_id(&self) -> bool {
        !self.connection_id.is_empty()
            && self.settled.get().is_some_and(|settled| settled.facts.connection_ids)
    }

    /// The address that the peer is sent to.
    pub(crate) fn current_peer(&self) -> SocketAddr {
        self.moved.lock().as_ref().and_then(|moved| moved.peer).unwrap_or(self.peer)
    }

    /// The peer is at this address by now.
    pub(crate) fn set_current_peer(&self, peer: SocketAddr) {
        self.moved.lock().get_or_insert_default().peer = Some(peer);
    }

    /// The address that the peer asked for.
    pub(crate) fn local_address(&self) -> SocketAddr {
        let moved = || self.moved.lock().as_ref().and_then(|moved| moved.local);
        self.proxied.get().map_or_else(|| moved().unwrap_or(self.local), |ends| ends.local)
    }

    /// This side is at this address by now.
    pub(crate) fn set_local_address(&self, local: SocketAddr) {
        self.moved.lock().get_or_insert_default().local = Some(local);
    }

    /// The proxy said who is behind it.
    pub(crate) fn set_proxied(&self, ends: Ends) {
        // It says so once.
        let _ = self.proxied.set(Box::new(ends));
    }

    /// What another process has counted of the messages received, their bytes, the messages sent, their bytes, and those dropped.
    pub(crate) fn carried(&self) -> [u64; 5] {
        self.carried.as_deref().copied().unwrap_or_default()
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

    /// What its socket needs to know.
    pub(crate) fn ends(&self) -> net::Ends {
        let Self { scheme, local, hello_random, .. } = *self;
        net::Ends { scheme, local, peer: self.current_peer(), hello_random }
    }

    /// Whether the peer may still ask for the last flight of the handshake.
    pub(crate) fn keeps_flight(&self) -> bool {
        match &*self.link.lock() {
            Link::Opening => true,
            Link::Open(Open { session: Session::Dtls(session, _), .. }) => session.keeps_flight(),
            _ => false,
        }
    }

    /// Sends the last flight again; `false` where there is none to send.
    pub(crate) fn repeat_last_flight(&self) -> bool {
        let Link::Open(Open { session: Session::Dtls(session, egress), .. }) = &mut *self.link.lock() else {
            return false;
        };
        let kept = session.keeps_flight();
        session.repeat_last_flight();
        transmit(session, egress);
        kept
    }

    /// It is too late for the peer to ask for the last flight.
    pub(crate) fn forget_last_flight(&self) {
        if let Link::Open(Open { session: Session::Dtls(session, _), .. }) = &mut *self.link.lock() {
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

//! The association with one peer, as every thread sees it: the state that senders, the dispatcher and shutdown share
//! with the worker that serves the peer.

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
use crate::protocol::stream::proxy::ProxiedAddresses;
use crate::sys::sync::Mutex;
use crate::sys::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::tls::HandshakeSummary;

/// Identifies an association; unique in this process and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AssociationId(u64);

impl AssociationId {
    fn next() -> Self {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Returns the number of the identifier.
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for AssociationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One association. The worker owns its life cycle; other threads hold it through an `Arc` and can send, set signals
/// and read its state.
///
/// Lock order: `link` before `outbox`; `moved` is a leaf. No lock is held across a blocking call or a handler.
#[repr(C)]
pub(crate) struct Association {
    // The fields up to `established` are used for each message. They come first, so that they share cache lines.
    /// The clock of its deadlines.
    pub(crate) clock: Clock,
    /// Signals and wake-ups from other threads to the worker.
    pub(crate) attention: Arc<Attention>,
    /// The counters of its listener.
    pub(crate) counters: Arc<Counters>,
    /// The token that the peer has to return before it may be sent much, on plain UDP if the server asks for that.
    pub(crate) proof: Option<Box<Proof>>,
    /// Messages received and their bytes; only the worker counts.
    pub(crate) received: AtomicU64,
    pub(crate) received_bytes: AtomicU64,
    /// Messages sent and their bytes; counted while `link` is held.
    pub(crate) sent: AtomicU64,
    pub(crate) sent_bytes: AtomicU64,
    /// The session and the deadlines while the association is open.
    pub(crate) link: Mutex<Link>,
    /// Messages that wait for room; accessed only while `link` is held.
    pub(crate) outbox: Mutex<Queue>,
    /// The current addresses, if one has changed because the peer's connection ID arrived from elsewhere or the client
    /// moved.
    moved: Mutex<Option<Box<Moved>>>,
    /// The addresses in the PROXY header, once it has been read.
    proxied: OnceLock<Box<ProxiedAddresses>>,
    /// Why it has ended, or is about to; set under the lock of `link`.
    ended: OnceLock<EndReason>,
    pub(crate) local: SocketAddr,
    pub(crate) scheme: Scheme,
    /// The worker is waiting for the peer, so arriving data is read at once.
    pub(crate) reading: AtomicBool,
    /// Set on the client of a resumed session while its last flight is not confirmed: a send then checks whether the
    /// server asks for the flight.
    pub(crate) answers_in_send: AtomicBool,
    /// The place of the association among those of its server.
    pub(crate) place: AtomicU32,
    /// The properties that were fixed when the association opened.
    established: OnceLock<Established>,
    pub(crate) peer: SocketAddr,
    pub(crate) id: AssociationId,
    pub(crate) opened: Instant,
    /// The random of the ClientHello that began the association; zeros if there was none. A hello with the same random
    /// is the same hello.
    pub(crate) hello_random: [u8; 32],
    pub(crate) outbox_bound: OutboxLimits,
    /// The connection ID that the peer has to put into its records, on DTLS if the server uses them; otherwise empty.
    pub(crate) connection_id: Box<[u8]>,
    /// The token of the peer in the event loop that reads for it, if there is one.
    pub(crate) loop_token: std::sync::atomic::AtomicU64,
    /// Messages that did not fit into the outbox.
    pub(crate) dropped: AtomicU64,
    /// The part of these numbers that another process has counted, in the same order.
    carried: Option<Box<[u64; 5]>>,
    /// The number of the listener, if its connections begin with a PROXY header.
    pub(crate) proxied_listener: Option<u32>,
}

/// Addresses that have changed since the association began.
#[derive(Default)]
struct Moved {
    local: Option<SocketAddr>,
    peer: Option<SocketAddr>,
}

/// The state that a send goes through.
pub(crate) enum Link {
    /// The handshake has not ended.
    Opening,
    /// Session, socket and deadlines.
    Open(Open),
    /// The association has ended; nothing can be sent.
    Ended,
}

/// Properties that do not change once an association is open.
#[derive(Default)]
#[repr(C)]
struct Established {
    max_message: usize,
    min_message: usize,
    summary: HandshakeSummary,
}

impl Association {
    pub(crate) fn new(scheme: Scheme, local: SocketAddr, peer: SocketAddr, counters: Arc<Counters>) -> Self {
        Self {
            id: AssociationId::next(),
            scheme,
            local,
            peer,
            place: AtomicU32::new(0),
            counters,
            clock: Clock::default(),
            opened: Instant::now(),
            hello_random: [0; 32],
            link: Mutex::new(Link::Opening),
            established: OnceLock::new(),
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

    /// Sets the random of the peer's ClientHello.
    pub(crate) fn with_hello(mut self, random: [u8; 32]) -> Self {
        self.hello_random = random;
        self
    }

    /// Uses this clock, and sets the time of opening to its current time.
    pub(crate) fn with_clock(mut self, clock: Clock) -> Self {
        self.opened = clock.now();
        self.clock = clock;
        self
    }

    /// Sets the bound of the outbox.
    pub(crate) fn with_outbox(mut self, bound: OutboxLimits) -> Self {
        self.outbox_bound = OutboxLimits { overflow: bound.overflow.resolve(self.scheme), ..bound };
        self
    }

    /// Requires the peer, on plain UDP, to prove its address.
    pub(crate) fn with_proof(mut self) -> Self {
        self.proof = Some(Box::new(Proof::new()));
        self
    }

    /// Opens the association, so that other threads can send. The caller owns its socket.
    pub(crate) fn open(&self, session: Session, summary: HandshakeSummary, timeouts: &Timeouts) {
        let (max_message, min_message) = (session.max_message(self.peer.is_ipv4()), session.min_message());
        // Already set only if the association opened before, which happens once.
        let _ = self.established.set(Established { summary, max_message, min_message });
        *self.link.lock() = Link::Open(Open::new(session, timeouts, self.opened, self.now()));
    }

    /// Ends the association for all senders. Returns the open state for the caller to close. Returns `None` if the
    /// association was not open, or if another thread has ended it; the earlier reason then stays.
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

    /// Asks the association's own thread to end it for this reason, unless it has a reason already. Returns the reason
    /// that applies.
    pub(crate) fn ask_to_end(&self, reason: EndReason) -> &EndReason {
        // Both steps happen under the lock, because the dispatcher, which reads in place of a busy handler, stops at
        // the signal.
        let _link = self.link.lock();
        let reason = self.ended.get_or_init(|| reason);
        self.attention.raise(signal::CLOSE);
        reason
    }

    /// Returns why the association has ended, or is about to end; `None` otherwise.
    pub(crate) fn end_reason(&self) -> Option<&EndReason> {
        self.ended.get()
    }

    fn established(&self) -> &Established {
        self.established.get_or_init(Established::default)
    }

    /// Returns the results of the handshake, if there was one.
    pub(crate) fn summary(&self) -> &HandshakeSummary {
        &self.established().summary
    }

    /// Returns the length of the longest message that can be sent, in bytes.
    pub(crate) fn max_message(&self) -> usize {
        self.established().max_message
    }

    /// Checks that a message is neither too long nor empty on a transport without empty messages.
    pub(crate) fn check_size(&self, message: &[u8]) -> Result<(), Error> {
        let Established { max_message, min_message, .. } = *self.established();
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

    /// Returns whether a datagram of `len` bytes may be sent to the peer, given how far its address is proven.
    pub(crate) fn may_send(&self, len: usize) -> bool {
        if self.proof.as_ref().is_none_or(|proof| proof.token().is_none()) {
            return true;
        }
        let traffic = |datagrams: &AtomicU64, bytes: &AtomicU64| Traffic {
            datagrams: datagrams.load(Ordering::Relaxed),
            bytes: bytes.load(Ordering::Relaxed),
        };
        // Header lengths of IPv4 (RFC 791), IPv6 (RFC 8200) and UDP (RFC 768).
        let headers = if self.peer.is_ipv4() { 20 + 8 } else { 40 + 8 };
        let came = traffic(&self.received, &self.received_bytes);
        proof::allows(came, traffic(&self.sent, &self.sent_bytes), len, headers)
    }

    /// Marks a connection to this listener as one that begins with a PROXY header.
    pub(crate) fn behind_proxy(mut self, listener: usize) -> Self {
        // A server cannot have so many listeners, since each takes a descriptor.
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

    /// Returns the deadline that lies `timeout` from now.
    pub(crate) fn after(&self, timeout: Duration) -> Instant {
        later(self.now(), timeout)
    }

    /// Sets the connection ID that the peer has to put into its records.
    pub(crate) fn with_connection_id(mut self, cid: Box<[u8]>) -> Self {
        self.connection_id = cid;
        self
    }

    /// Returns the peer's address: the one in the PROXY header if there is one.
    pub(crate) fn peer_address(&self) -> SocketAddr {
        self.proxied.get().map_or_else(|| self.current_peer(), |addresses| addresses.peer)
    }

    /// Returns the peer's address at its admission, for which the limits continue to count it. A place is booked only
    /// at admission, so a peer that changes its address cannot take a place from others at the new address, and cannot
    /// leave a booked place behind at the old one.
    pub(crate) fn admitted_address(&self) -> SocketAddr {
        self.proxied.get().map_or(self.peer, |addresses| addresses.peer)
    }

    /// Returns whether the peer is recognized by its connection ID at any address, because both sides have agreed on
    /// it.
    pub(crate) fn is_known_by_connection_id(&self) -> bool {
        !self.connection_id.is_empty()
            && self.established.get().is_some_and(|established| established.summary.connection_ids)
    }

    /// Returns the address that datagrams to the peer are sent to.
    pub(crate) fn current_peer(&self) -> SocketAddr {
        self.moved.lock().as_ref().and_then(|moved| moved.peer).unwrap_or(self.peer)
    }

    /// Sets the peer's current address.
    pub(crate) fn set_current_peer(&self, peer: SocketAddr) {
        self.moved.lock().get_or_insert_default().peer = Some(peer);
    }

    /// Returns the address of this host that the peer contacted.
    pub(crate) fn local_address(&self) -> SocketAddr {
        let moved = || self.moved.lock().as_ref().and_then(|moved| moved.local);
        self.proxied.get().map_or_else(|| moved().unwrap_or(self.local), |addresses| addresses.local)
    }

    /// Sets the current address of this side.
    pub(crate) fn set_local_address(&self, local: SocketAddr) {
        self.moved.lock().get_or_insert_default().local = Some(local);
    }

    /// Sets the addresses from the PROXY header.
    pub(crate) fn set_proxied(&self, addresses: ProxiedAddresses) {
        // Already set only if there was a second header, which cannot happen.
        let _ = self.proxied.set(Box::new(addresses));
    }

    /// Returns the counts that another process has made: messages received, their bytes, messages sent, their bytes,
    /// messages dropped.
    pub(crate) fn carried(&self) -> [u64; 5] {
        self.carried.as_deref().copied().unwrap_or_default()
    }

    /// Counts a message from the peer.
    pub(crate) fn count_received(&self, len: usize) {
        add(&self.received, 1);
        add(&self.received_bytes, len as u64);
    }

    /// Counts a message to the peer.
    pub(crate) fn count_sent(&self, len: usize) {
        add(&self.sent, 1);
        add(&self.sent_bytes, len as u64);
    }

    /// Returns the addresses and the protocol, for the socket.
    pub(crate) fn info(&self) -> net::AssociationInfo {
        let Self { scheme, local, hello_random, .. } = *self;
        net::AssociationInfo { scheme, local, peer: self.current_peer(), hello_random }
    }

    /// Returns whether the peer may still ask for the last flight of the handshake.
    pub(crate) fn keeps_flight(&self) -> bool {
        match &*self.link.lock() {
            Link::Opening => true,
            Link::Open(Open { session: Session::Dtls(session, _), .. }) => session.keeps_flight(),
            _ => false,
        }
    }

    /// Sends the last flight again. Returns `false` if there is none.
    pub(crate) fn repeat_last_flight(&self) -> bool {
        let Link::Open(Open { session: Session::Dtls(session, egress), .. }) = &mut *self.link.lock() else {
            return false;
        };
        let kept = session.keeps_flight();
        session.repeat_last_flight();
        transmit(session, egress);
        kept
    }

    /// Discards the last flight, because the peer can no longer ask for it.
    pub(crate) fn forget_last_flight(&self) {
        if let Link::Open(Open { session: Session::Dtls(session, _), .. }) = &mut *self.link.lock() {
            session.discard_last_flight();
        }
    }
}

/// Adds to a counter that only one thread changes at a time, so no locked instruction is needed.
fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed) + more, Ordering::Relaxed);
}

impl fmt::Debug for Association {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "association {} {}://{} from {}", self.id, self.scheme, self.local, self.peer)
    }
}

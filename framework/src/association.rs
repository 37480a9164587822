//! The relation to one peer, as every thread sees it: what senders, the dispatcher and shutdown
//! share with the worker that serves it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::address::Scheme;
use crate::drive::{Session, transmit};
use crate::error::EndReason;
use crate::net;
use crate::net::attention::Attention;
use crate::outbox::{Outbox, Queue};
use crate::proof::{self, Proof, Traffic};
use crate::protocol::stream::proxy::Ends;
use crate::sys::sync::Mutex;
use crate::sys::sync::atomic::{AtomicBool, AtomicU64, Ordering};

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
/// Lock order: `link` before `outbox`. Neither is held across a blocking call or
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
            attention: Arc::default(),
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
        let Self { scheme, local, peer, hello_random, .. } = *self;
        net::Ends { scheme, local, peer, hello_random }
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

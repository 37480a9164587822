//! Peers over memory, to test handlers without a network, a certificate or a sleep.
//!
//! A [`Pair`] makes a [`Peer`] and its other end, the [`Remote`], which the test controls. Above the socket everything
//! is the framework's real code: the framing of streams, message limits, deadlines, drains, the outbox. There is no
//! handshake: messages are not encrypted, and the test sets the peer's identity.
//!
//! A test can prepare all input, run the handler, and check what it sent. Nothing in it waits:
//!
//! ```
//! use std::time::Duration;
//!
//! use peeloff::testing::pair;
//! use peeloff::{Error, Peer, Scheme};
//!
//! fn greet(peer: &mut Peer) -> Result<(), Error> {
//!     let mut buffer = [0; 64];
//!     match peer.recv_timeout(&mut buffer, Duration::from_secs(60)) {
//!         Ok(Some(len)) => peer.send(&[b"hello, ", &buffer[..len]].concat()),
//!         Ok(None) => Ok(()),
//!         Err(Error::TimedOut) => peer.send(b"too slow"),
//!         Err(error) => Err(error),
//!     }
//! }
//!
//! # fn main() -> Result<(), Error> {
//! let (mut peer, remote) = pair(Scheme::Dtls);
//! remote.send("Ada");
//! greet(&mut peer)?;
//! assert_eq!(remote.recv().as_deref(), Some(&b"hello, Ada"[..]));
//!
//! let (mut peer, remote) = pair(Scheme::Dtls);
//! remote.elapse(Duration::from_secs(60));
//! greet(&mut peer)?;
//! assert_eq!(remote.recv().as_deref(), Some(&b"too slow"[..]));
//! # Ok(()) }
//! ```
//!
//! Alternatively the handler runs on its own thread, as in a server, and the test communicates with it:
//!
//! ```
//! use peeloff::testing::Pair;
//! use peeloff::{EndReason, Error, Peer, Scheme};
//!
//! let remote = Pair::new(Scheme::Sctp).serve(|peer: &mut Peer| -> Result<(), Error> {
//!     let mut message = Vec::new();
//!     while peer.recv_into(&mut message)?.is_some() {
//!         peer.reply(&message)?;
//!     }
//!     Ok(())
//! });
//! for text in ["one", "two"] {
//!     remote.send(text);
//!     assert_eq!(remote.recv().as_deref(), Some(text.as_bytes()));
//! }
//! remote.close();
//! assert_eq!(remote.wait_for_end(), Some(EndReason::ClosedByPeer));
//! ```
//!
//! # Time
//!
//! The peer's clock stands still and moves only with [`Remote::elapse`]. It applies to timeouts of the peer's methods,
//! to the server's [`Timeouts`], and to the timers of [`PeerEvents`](crate::PeerEvents).
//! [`Instant::now`](std::time::Instant::now) still returns the real time, so a handler should call [`Peer::now`] or
//! [`Sender::now`](crate::Sender::now).
//!
//! # Limits
//!
//! [`SctpPeer::options`](crate::SctpPeer::options) returns an error, because there is no kernel to ask, and
//! [`Sender::sctp_options`](crate::Sender::sctp_options) returns `None`. There are no session keys, so
//! [`Peer::export_keying_material`] returns [`NotSecure`](crate::Error::NotSecure). While a handler does not receive or
//! send, its deadlines are not checked; a server's dispatcher would do that in its place.
//!
//! # Every wait is bounded
//!
//! If the peer waits and the test provides no input, its clock jumps to the deadline after the
//! [patience](Pair::patience), ten seconds of real time. A wait without a deadline ends the association with
//! [`EndReason::Aborted`], whose text explains that. The waits of a [`Remote`] end after the same time.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use crate::address::Scheme;
use crate::association::Association;
use crate::config::Timeouts;
use crate::credentials::PeerIdentity;
use crate::drive::Session;
use crate::drive::memory::MemorySession;
use crate::drive::stream::StreamSession;
use crate::error::EndReason;
use crate::handler::{Incoming, PeerHandler};
use crate::net::Transport;
use crate::net::attention::signal;
use crate::net::backlog::Outlet;
use crate::net::clock::Clock;
use crate::net::feed::{Feed, Input};
use crate::net::memory::MemoryTransport;
use crate::net::sink::Sink;
use crate::outbox::OutboxLimits;
use crate::peer::{Opened, Parts, Peer};
use crate::protocol::stream::frames::encode;
use crate::sctp::{MessageInfo, Notification, SendInfo, Settings};
use crate::serve::worker;
use crate::stream::{Framing, TcpSettings};
use crate::tls::HandshakeSummary;

/// Default maximum of a wait, in real time.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes a peer over memory, and its other end, with default settings: see [`Pair`].
pub fn pair(scheme: Scheme) -> (Peer, Remote) {
    Pair::new(scheme).open()
}

/// Describes a peer over memory: its identity, and the configuration of the server.
///
/// ```
/// use peeloff::testing::Pair;
/// use peeloff::{Framing, PeerIdentity, Scheme, TcpSettings};
///
/// let (mut peer, remote) = Pair::new(Scheme::Tls)
///     .identity(PeerIdentity::Psk(b"sensor-17".to_vec()))
///     .alpn("coap")
///     .tcp(TcpSettings::default().framing(Framing::Lines))
///     .open();
/// remote.send_bytes("hel");
/// remote.send_bytes("lo\nand m");
/// let mut line = Vec::new();
/// assert_eq!(peer.recv_into(&mut line)?, Some(5));
/// assert_eq!((line.as_slice(), peer.alpn()), (&b"hello"[..], Some("coap")));
/// # Ok::<(), peeloff::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Pair {
    scheme: Scheme,
    summary: HandshakeSummary,
    local: SocketAddr,
    peer: SocketAddr,
    timeouts: Timeouts,
    tcp: TcpSettings,
    sctp: Settings,
    outbox: OutboxLimits,
    udp_proof: bool,
    patience: Duration,
}

impl Pair {
    /// Describes an anonymous peer of this protocol, with the address 192.0.2.1:50000, at a server with default
    /// settings and the address 198.51.100.1:4433. [`addresses`](Self::addresses) sets others, for tests in which several
    /// peers meet.
    pub fn new(scheme: Scheme) -> Self {
        let cipher = match scheme {
            Scheme::Tls | Scheme::SctpTls => Some("TLS_AES_256_GCM_SHA384"),
            Scheme::Dtls | Scheme::SctpDtls => Some("ECDHE-ECDSA-AES256-GCM-SHA384"),
            _ => None,
        };
        Self {
            scheme,
            summary: HandshakeSummary { cipher: cipher.map(Cow::Borrowed), ..HandshakeSummary::default() },
            local: SocketAddr::from(([198, 51, 100, 1], 4433)),
            peer: SocketAddr::from(([192, 0, 2, 1], 50_000)),
            timeouts: Timeouts::default(),
            tcp: TcpSettings::default(),
            sctp: Settings::default(),
            outbox: OutboxLimits::default(),
            udp_proof: false,
            patience: PATIENCE,
        }
    }

    /// Sets the identity that the peer proved. [`PeerCertificate::from_pem`](crate::PeerCertificate::from_pem) reads a
    /// certificate.
    pub fn identity(mut self, identity: PeerIdentity) -> Self {
        self.summary.identity = identity;
        self
    }

    /// Sets the cipher suite. Default: a suite with AES-256-GCM for secure protocols.
    pub fn cipher(mut self, cipher: &str) -> Self {
        self.summary.cipher = Some(Cow::Owned(cipher.to_owned()));
        self
    }

    /// Sets the negotiated application protocol.
    pub fn alpn(mut self, protocol: &str) -> Self {
        self.summary.alpn = Some(protocol.into());
        self
    }

    /// Sets the server name that the peer asked for.
    pub fn server_name(mut self, name: &str) -> Self {
        self.summary.server_name = Some(name.into());
        self
    }

    /// Sets the negotiated SRTP profile.
    pub fn srtp_profile(mut self, profile: &str) -> Self {
        self.summary.srtp = Some(profile.into());
        self
    }

    /// Sets whether the handshake resumed an earlier session.
    pub fn resumed(mut self, resumed: bool) -> Self {
        self.summary.resumed = resumed;
        self
    }

    /// Sets the address of the server that the peer contacted, and the peer's own address.
    pub fn addresses(mut self, local: SocketAddr, peer: SocketAddr) -> Self {
        (self.local, self.peer) = (local, peer);
        self
    }

    /// Sets the deadlines, as [`ServerBuilder::timeouts`](crate::ServerBuilder::timeouts) does.
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// Sets the parameters of TCP and TLS, as [`ServerBuilder::tcp`](crate::ServerBuilder::tcp) does.
    pub fn tcp(mut self, settings: TcpSettings) -> Self {
        self.tcp = settings;
        self
    }

    /// Sets the parameters of SCTP, as [`ServerBuilder::sctp`](crate::ServerBuilder::sctp) does. Only the longest
    /// message and the numbers of streams have an effect.
    pub fn sctp(mut self, settings: Settings) -> Self {
        self.sctp = settings;
        self
    }

    /// Sets how much may wait for the peer, as [`ServerBuilder::outbox`](crate::ServerBuilder::outbox) does.
    pub fn outbox(mut self, limits: OutboxLimits) -> Self {
        self.outbox = limits;
        self
    }

    /// Sets whether a peer on plain UDP has to prove its address, as
    /// [`ServerBuilder::udp_proof`](crate::ServerBuilder::udp_proof) does.
    pub fn udp_proof(mut self, wanted: bool) -> Self {
        self.udp_proof = wanted;
        self
    }

    /// Sets the maximum duration of any wait, in real time. Default: 10 s.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Returns the argument with which [`PeerHandler::admit`] would be called for such a peer.
    pub fn incoming(&self) -> Incoming {
        Incoming::new(self.scheme, self.local, self.peer)
    }

    /// Opens the association. The thread that calls the peer's methods serves it.
    pub fn open(self) -> (Peer, Remote) {
        let Self { scheme, summary, local, peer, timeouts, tcp, sctp, outbox, udp_proof, patience } = self;
        let framing = if scheme.is_stream() { tcp.framing } else { Framing::Raw };
        let clock = Clock::frozen();
        let feed = Arc::new(Feed::new(clock.clone(), patience));
        let sink = Arc::new(Sink::new(Arc::clone(&feed), scheme, framing));
        let association =
            Association::new(scheme, local, peer, Arc::default()).with_clock(clock).with_outbox(outbox);
        let association = Arc::new(match udp_proof && scheme == Scheme::Udp {
            true => association.with_proof(),
            false => association,
        });
        let session = match scheme.is_stream() {
            true => Session::Stream(Box::new(StreamSession::plain(Outlet::Memory(Arc::clone(&sink)), &tcp))),
            false => {
                let sink = Arc::clone(&sink);
                Session::Memory(Box::new(MemorySession::new(sink, scheme, peer.is_ipv4(), &sctp)))
            }
        };
        let (min_message, max_message) = (session.min_message(), session.max_message(peer.is_ipv4()));
        let attention = Arc::clone(&association.attention);
        let transport =
            MemoryTransport::new(Arc::clone(&feed), Arc::clone(&sink), attention, scheme, max_message);
        let peer = Peer::open(Parts {
            association: Arc::clone(&association),
            opened: Opened { transport: Transport::Memory(Box::new(transport)), session, summary },
            timeouts,
            owner: None,
            driven: false,
        });
        let numbers = Mutex::default();
        (peer, Remote { association, feed, sink, framing, min_message, patience, numbers })
    }

    /// Runs a handler for the peer on a thread of its own and then ends the association, as a server does.
    /// [`PeerHandler::admit`] is not called. To serve several peers with one handler, pass closures that call a shared
    /// one.
    pub fn serve(self, handler: impl PeerHandler) -> Remote {
        let (mut peer, remote) = self.open();
        // If no thread can be started, the peer is dropped, and its other end sees that.
        let _ = thread::Builder::new()
            .name("peeloff-test".to_owned())
            .spawn(move || worker::serve(&mut peer, &handler));
        remote
    }
}

/// The other end of a peer over memory: it sends messages to the handler, receives the handler's messages, and controls
/// events.
///
/// Messages, notifications, elapsed time, a drain and the end reach the handler in the order of the calls on this
/// value. These calls never block. At most 65,536 of them, with 64 MiB of messages, wait for the handler.
///
/// All methods may be called from any thread. Dropping the value [closes](Self::close) the peer's side.
pub struct Remote {
    association: Arc<Association>,
    feed: Arc<Feed>,
    sink: Arc<Sink>,
    framing: Framing,
    min_message: usize,
    patience: Duration,
    numbers: Mutex<Numbers>,
}

/// The SCTP sequence numbers.
#[derive(Default)]
struct Numbers {
    tsn: u32,
    ssn: HashMap<u16, u16>,
}

impl Remote {
    /// Sends one message to the handler; on a stream, with the framing of the server. Returns `false` if the message
    /// never reaches the handler: the association has ended, too many calls wait, or the message is empty on a
    /// transport without empty messages. A message longer than the server's limit is
    /// [refused](crate::Error::MessageRefused) there.
    pub fn send(&self, message: impl AsRef<[u8]>) -> bool {
        self.send_with(message, &SendInfo::default())
    }

    /// Sends one message like [`send`](Self::send); on SCTP on this stream, with this payload protocol identifier and
    /// order.
    pub fn send_with(&self, message: impl AsRef<[u8]>, how: &SendInfo) -> bool {
        let message = message.as_ref();
        if self.framing != Framing::Raw {
            let mut framed = Vec::new();
            encode(self.framing, message, &mut framed);
            return self.put(framed, MessageInfo::default());
        }
        let mut numbers = self.numbers.lock();
        let info = if self.association.scheme.is_sctp() { numbers.next(how) } else { MessageInfo::default() };
        self.put(message.to_vec(), info)
    }

    /// Sends bytes of a stream unchanged. The server's framing divides them into messages: one, several, or a part of
    /// one. On other transports the bytes are one message.
    pub fn send_bytes(&self, bytes: impl AsRef<[u8]>) -> bool {
        self.put(bytes.as_ref().to_vec(), MessageInfo::default())
    }

    fn put(&self, message: Vec<u8>, info: MessageInfo) -> bool {
        let is_empty = message.is_empty() && (self.min_message > 0 || self.framing != Framing::Raw);
        !is_empty && self.feed.put(Input::Message(message, info))
    }

    /// Delivers an SCTP notification. The handler receives it if it has [subscribed](crate::SctpPeer::subscribe) to its
    /// kind. A notification that reports the end of the association ends it.
    pub fn notify(&self, notification: Notification) -> bool {
        self.feed.put(Input::Notification(Box::new(notification)))
    }

    /// Lets this much time pass on the peer's clock while the handler waits for the peer; a deadline within that time
    /// passes at once. While the handler waits for room to send, time also passes before input that was sent earlier
    /// and has not been read.
    pub fn elapse(&self, time: Duration) -> bool {
        self.feed.put(Input::Passed(time))
    }

    /// Delivers an ICMP port unreachable from the peer's host: see [`Peer::take_unreachable`].
    pub fn port_unreachable(&self) -> bool {
        self.feed.put(Input::Unreachable)
    }

    /// Makes the server drain: its grace period begins.
    pub fn drain(&self) {
        self.signal(signal::DRAIN);
    }

    /// Ends the server's grace period, which ends the association.
    pub fn stop(&self) {
        self.signal(signal::STOP);
    }

    fn signal(&self, signal: u8) {
        // Raised at once if no input is pending before it, also for a handler that waits for something other than the
        // peer.
        if !self.feed.put_behind(Input::Signal(signal)) {
            self.association.attention.raise(signal);
        }
    }

    /// Closes the peer's side, after the input that was sent before. Plain UDP has no close, so there the peer is
    /// silent for the idle timeout.
    pub fn close(&self) {
        self.end_with(match self.association.scheme {
            Scheme::Udp => EndReason::Idle,
            _ => EndReason::ClosedByPeer,
        });
    }

    /// Ends the association for this reason, such as [`EndReason::Unreachable`], after the input that was sent before.
    pub fn end_with(&self, reason: EndReason) {
        self.feed.put(Input::Over(reason));
    }

    /// Receives what the peer was sent: one message, or the bytes of one write on a stream without framing. Blocks
    /// until something arrives, at most for the [patience](Pair::patience) of the pair. Returns `None` if nothing
    /// arrived, or if the association has ended and nothing is left.
    pub fn recv(&self) -> Option<Vec<u8>> {
        self.recv_with().map(|(message, _)| message)
    }

    /// Receives like [`recv`](Self::recv), together with the options with which the message was sent on SCTP.
    pub fn recv_with(&self) -> Option<(Vec<u8>, SendInfo)> {
        self.sink.take(self.patience)
    }

    /// Receives like [`recv`](Self::recv), but never blocks.
    pub fn try_recv(&self) -> Option<Vec<u8>> {
        self.try_recv_with().map(|(message, _)| message)
    }

    /// Receives like [`recv_with`](Self::recv_with), but never blocks.
    pub fn try_recv_with(&self) -> Option<(Vec<u8>, SendInfo)> {
        self.sink.take(Duration::ZERO)
    }

    /// Limits how much may wait to be received here, like a send buffer: the number of messages, on TCP and TLS the
    /// number of bytes. Beyond that [`Sender::try_send`](crate::Sender::try_send) fails with
    /// [`SendBufferFull`](crate::Error::SendBufferFull), [`Sender::post`](crate::Sender::post) uses the outbox, and
    /// [`Peer::send`] waits. With 0 there is no room at all, as with a peer that reads nothing. `usize::MAX` removes
    /// the limit, up to 65,536 messages (on TCP and TLS, as many writes) and 64 MiB.
    pub fn set_room(&self, room: usize) {
        self.sink.set_room(room);
    }

    /// Returns why the association ended, from the server's point of view; `None` while it lives. Never blocks.
    pub fn end_reason(&self) -> Option<EndReason> {
        self.association.end_reason().cloned()
    }

    /// Waits until the association ends, and returns the reason from the server's point of view. Blocks at most for the
    /// [patience](Pair::patience) of the pair; returns `None` if the association has not ended by then.
    pub fn wait_for_end(&self) -> Option<EndReason> {
        self.sink.wait_for_end(self.patience);
        self.end_reason()
    }

    /// Returns the reason that the handler passed to [`SctpPeer::abort`](crate::SctpPeer::abort), if it called that.
    pub fn abort_reason(&self) -> Option<Vec<u8>> {
        self.sink.abort_reason()
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.close();
        self.sink.mark_abandoned();
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Remote").field(&self.association).finish()
    }
}

impl Numbers {
    /// Returns the metadata of a message that is sent with these options.
    fn next(&mut self, how: &SendInfo) -> MessageInfo {
        let SendInfo { stream, ppid, unordered, .. } = *how;
        let ssn = match unordered {
            true => 0,
            false => {
                let next = self.ssn.entry(stream).or_default();
                *next = next.wrapping_add(1);
                next.wrapping_sub(1)
            }
        };
        self.tsn = self.tsn.wrapping_add(1);
        MessageInfo { stream, ppid, unordered, ssn, tsn: self.tsn, cumulative_tsn: self.tsn, context: 0 }
    }
}

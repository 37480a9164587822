//! Peers over memory, to test handlers without a network, a certificate or a sleep.
//!
//! A [`Pair`] makes a [`Peer`] whose other end, the [`Remote`], is in the hand of the test. Above the socket everything is the
//! framework's own code: the framing of streams, limits of messages, deadlines, drains, the outbox. The handshake is left out:
//! messages are in clear, and the test says who the peer is.
//!
//! A test can say everything beforehand, run the handler, and look at what it sent. Nothing in it waits:
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
//! Or the handler runs on a thread of its own, as in a server, and the test talks with it:
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
//! The peer's clock stands still, except for what [`Remote::elapse`] says. Timeouts of the peer's methods and the server's
//! [`Timeouts`] go by this clock, and so do the timers of [`PeerEvents`](crate::PeerEvents). A handler that asks
//! [`Instant::now`](std::time::Instant::now) gets the real time: have it ask [`Peer::now`] or [`Sender::now`](crate::Sender::now).
//!
//! # What needs a socket or a handshake
//!
//! [`SctpPeer::options`](crate::SctpPeer::options) is an error, since there is no kernel to ask, and
//! [`Sender::sctp_options`](crate::Sender::sctp_options) is `None`. Nothing is exported:
//! [`Peer::export_keying_material`] says [`NotSecure`](crate::Error::NotSecure). While a handler is busy elsewhere, nothing is
//! done in its place: its deadlines are looked at when it receives or sends.
//!
//! # Nothing waits for ever
//!
//! A wait of the peer's for which the test provides nothing jumps to its deadline after the [patience](Pair::patience) of
//! real time, ten seconds, and without a deadline the association ends as [`EndReason::Aborted`], with a text that says so.
//! The waits of a [`Remote`] end after the same time.

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
use crate::tls::Facts;

/// How long a wait lasts at most, in real time, unless the test says otherwise.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes a peer over memory, and its other end, with everything else as it is by default: see [`Pair`].
pub fn pair(scheme: Scheme) -> (Peer, Remote) {
    Pair::new(scheme).open()
}

/// What a peer over memory is like: who it is, and how the server is configured.
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
    facts: Facts,
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
    /// Describes an anonymous peer of this protocol, with the address 192.0.2.1:50000, at a server with default options and
    /// the address 198.51.100.1:4433.
    pub fn new(scheme: Scheme) -> Self {
        let cipher = match scheme {
            Scheme::Tls | Scheme::SctpTls => Some("TLS_AES_256_GCM_SHA384"),
            Scheme::Dtls | Scheme::SctpDtls => Some("ECDHE-ECDSA-AES256-GCM-SHA384"),
            _ => None,
        };
        Self {
            scheme,
            facts: Facts { cipher: cipher.map(Cow::Borrowed), ..Facts::default() },
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

    /// Sets who the peer proved to be. [`PeerCertificate::from_pem`](crate::PeerCertificate::from_pem) reads a certificate.
    pub fn identity(mut self, identity: PeerIdentity) -> Self {
        self.facts.identity = identity;
        self
    }

    /// Sets the cipher suite. By default secure protocols have one with AES-256-GCM.
    pub fn cipher(mut self, cipher: &str) -> Self {
        self.facts.cipher = Some(Cow::Owned(cipher.to_owned()));
        self
    }

    /// Sets the application protocol that was agreed on.
    pub fn alpn(mut self, protocol: &str) -> Self {
        self.facts.alpn = Some(protocol.into());
        self
    }

    /// Sets the server name that the peer asked for.
    pub fn server_name(mut self, name: &str) -> Self {
        self.facts.server_name = Some(name.into());
        self
    }

    /// Sets the SRTP profile that was agreed on.
    pub fn srtp_profile(mut self, profile: &str) -> Self {
        self.facts.srtp = Some(profile.into());
        self
    }

    /// Sets whether the handshake resumed an earlier session.
    pub fn resumed(mut self, resumed: bool) -> Self {
        self.facts.resumed = resumed;
        self
    }

    /// Sets the address of the server that the peer talks to, and the peer's own.
    pub fn addresses(mut self, local: SocketAddr, peer: SocketAddr) -> Self {
        (self.local, self.peer) = (local, peer);
        self
    }

    /// Sets the deadlines, as [`ServerBuilder::timeouts`](crate::ServerBuilder::timeouts) does.
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// Sets how TCP and TLS are used, as [`ServerBuilder::tcp`](crate::ServerBuilder::tcp) does.
    pub fn tcp(mut self, settings: TcpSettings) -> Self {
        self.tcp = settings;
        self
    }

    /// Sets how SCTP is used, as [`ServerBuilder::sctp`](crate::ServerBuilder::sctp) does. Only the longest message and the
    /// numbers of streams matter here.
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

    /// Sets how long any wait lasts at most, in real time. Default: 10 s.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Returns what [`PeerHandler::admit`] is asked about such a peer.
    pub fn incoming(&self) -> Incoming {
        Incoming::new(self.scheme, self.local, self.peer)
    }

    /// Opens the association. The peer is served by whatever thread calls its methods.
    pub fn open(self) -> (Peer, Remote) {
        let Self { scheme, facts, local, peer, timeouts, tcp, sctp, outbox, udp_proof, patience } = self;
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
            opened: Opened { transport: Transport::Memory(Box::new(transport)), session, facts },
            timeouts,
            home: None,
            driven: false,
        });
        let numbers = Mutex::default();
        (peer, Remote { association, feed, sink, framing, min_message, patience, numbers })
    }

    /// Has a handler serve the peer on a thread of its own, and end the association, as a server does.
    /// [`PeerHandler::admit`] is not asked. A closure that calls a shared handler has several peers served by one.
    pub fn serve(self, handler: impl PeerHandler) -> Remote {
        let (mut peer, remote) = self.open();
        // Without a thread the peer is dropped, and its other end sees that.
        let _ = thread::Builder::new()
            .name("peeloff-test".to_owned())
            .spawn(move || worker::serve(&mut peer, &handler));
        remote
    }
}

/// The other end of a peer over memory: what the peer says, what it is sent, and what happens to it.
///
/// What comes to the handler comes in the order of the calls here: messages, notifications, time, a drain, the end. These
/// calls never block. At most 65,536 of them, with 64 MiB of messages, wait for the handler.
///
/// All methods may be called from any thread. When the value is dropped, the peer says [goodbye](Self::close).
pub struct Remote {
    association: Arc<Association>,
    feed: Arc<Feed>,
    sink: Arc<Sink>,
    framing: Framing,
    min_message: usize,
    patience: Duration,
    numbers: Mutex<Numbers>,
}

/// The sequence numbers of SCTP.
#[derive(Default)]
struct Numbers {
    tsn: u32,
    ssn: HashMap<u16, u16>,
}

impl Remote {
    /// Says one message; on a stream, with the framing of the server. Returns `false` where it never comes to the handler: the
    /// association is over, too much waits, or the message is empty on a transport that has no empty ones. A message that
    /// is longer than the server allows is [refused](crate::Error::MessageRefused) there.
    pub fn send(&self, message: impl AsRef<[u8]>) -> bool {
        self.send_with(message, &SendInfo::default())
    }

    /// Says one message like [`send`](Self::send), on SCTP on this stream, with this payload protocol identifier and order.
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

    /// Says bytes of a stream as they are, of which the server's framing makes messages: one, several, or a part of one. On
    /// other transports these bytes are a message.
    pub fn send_bytes(&self, bytes: impl AsRef<[u8]>) -> bool {
        self.put(bytes.as_ref().to_vec(), MessageInfo::default())
    }

    fn put(&self, message: Vec<u8>, info: MessageInfo) -> bool {
        let is_empty = message.is_empty() && (self.min_message > 0 || self.framing != Framing::Raw);
        !is_empty && self.feed.put(Input::Message(message, info))
    }

    /// Has SCTP tell this. The handler sees it if it [subscribed](crate::SctpPeer::subscribe) to its kind. One that says
    /// that the association is over ends it.
    pub fn notify(&self, notification: Notification) -> bool {
        self.feed.put(Input::Notification(Box::new(notification)))
    }

    /// Has so much time pass on the peer's clock while the handler waits for the peer: a deadline that lies within it is over
    /// at once. While the handler waits for room to send, time passes also before what was said earlier and is not read.
    pub fn elapse(&self, time: Duration) -> bool {
        self.feed.put(Input::Passed(time))
    }

    /// Has the peer's host say with an ICMP message that nothing listens there: see [`Peer::take_unreachable`].
    pub fn port_unreachable(&self) -> bool {
        self.feed.put(Input::Unreachable)
    }

    /// Has the server drain: its grace period begins.
    pub fn drain(&self) {
        self.signal(signal::DRAIN);
    }

    /// Has the server's grace period be over, which ends the association.
    pub fn stop(&self) {
        self.signal(signal::STOP);
    }

    fn signal(&self, signal: u8) {
        // At once where nothing comes before it, also for a handler that waits for something else than the peer.
        if !self.feed.put_behind(Input::Signal(signal)) {
            self.association.attention.raise(signal);
        }
    }

    /// Says goodbye, once what was said before is received. Plain UDP has no goodbye: there the peer is silent for the idle
    /// timeout.
    pub fn close(&self) {
        self.end_with(match self.association.scheme {
            Scheme::Udp => EndReason::Idle,
            _ => EndReason::ClosedByPeer,
        });
    }

    /// Ends the association for this reason, such as [`EndReason::Unreachable`], once what was said before is received.
    pub fn end_with(&self, reason: EndReason) {
        self.feed.put(Input::Over(reason));
    }

    /// Receives what the peer was sent: one message, or what was written at once to a stream without framing. Blocks until
    /// something comes, for the [patience](Pair::patience) of the pair at most. `None`: nothing came, or the association is over
    /// and nothing more comes.
    pub fn recv(&self) -> Option<Vec<u8>> {
        self.recv_with().map(|(message, _)| message)
    }

    /// Receives like [`recv`](Self::recv); on SCTP with the way in which the message was sent.
    pub fn recv_with(&self) -> Option<(Vec<u8>, SendInfo)> {
        self.sink.take(self.patience)
    }

    /// Receives like [`recv`](Self::recv), and never blocks.
    pub fn try_recv(&self) -> Option<Vec<u8>> {
        self.try_recv_with().map(|(message, _)| message)
    }

    /// Receives like [`recv_with`](Self::recv_with), and never blocks.
    pub fn try_recv_with(&self) -> Option<(Vec<u8>, SendInfo)> {
        self.sink.take(Duration::ZERO)
    }

    /// Limits how much may wait here to be received, as a send buffer does: messages, on TCP and TLS bytes. Beyond that
    /// [`Sender::try_send`](crate::Sender::try_send) says `Full`, [`Sender::post`](crate::Sender::post) uses the outbox,
    /// and [`Peer::send`] waits. With 0 there is no room for anything, as with a peer that reads nothing; `usize::MAX` takes
    /// the limit away, up to 65,536 messages, on TCP and TLS as many writes, and 64 MiB.
    pub fn set_room(&self, room: usize) {
        self.sink.set_room(room);
    }

    /// Returns why the association is over, as the server sees it; `None`: it is not. Never blocks.
    pub fn end_reason(&self) -> Option<EndReason> {
        self.association.end_reason().cloned()
    }

    /// Waits until the association is over, and returns why, as the server sees it. Blocks for the
    /// [patience](Pair::patience) of the pair at most; `None`: it is not over by then.
    pub fn wait_for_end(&self) -> Option<EndReason> {
        self.sink.wait_for_end(self.patience);
        self.end_reason()
    }

    /// Returns the reason that the handler gave to [`SctpPeer::abort`](crate::SctpPeer::abort), if it called that.
    pub fn abort_reason(&self) -> Option<Vec<u8>> {
        self.sink.abort_reason()
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.close();
        self.sink.desert();
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Remote").field(&self.association).finish()
    }
}

impl Numbers {
    /// What comes with a message that is sent in this way.
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

//! What a handler holds: the peer.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::address::Scheme;
use crate::association::{Association, AssociationId, Link};
use crate::audit;
use crate::config::Timeouts;
use crate::credentials::PeerIdentity;
use crate::drive::Session;
use crate::error::{EndReason, Error};
use crate::net::Transport;
use crate::net::after;
use crate::net::attention::signal;
use crate::observe::{Counters, log_limited};
use crate::proof::Proof;
use crate::protocol::Sent;
use crate::protocol::stream::frames::Frames;
use crate::sctp::{MessageInfo, Notification, SendInfo};
pub use crate::sender::Sender;
use crate::sender::lock_and_send;
use crate::sys::epoll::wait_writable;
use crate::tls::Facts;

mod owed;
mod receive;
mod sctp;
mod stream;

use self::owed::Owed;
pub use self::sctp::{Event, SctpPeer};

/// One peer, as its handler (or a client) sees it: messages in, messages out.
///
/// All calls run on the calling thread, which is the peer's own. Others send through a
/// [`Sender`].
///
/// The association ends when the value is dropped, at the latest.
pub struct Peer {
    association: Arc<Association>,
    /// `None` once the association is over.
    transport: Option<Transport>,
    layers: Layers,
    facts: Facts,
    timeouts: Timeouts,
    counters: Arc<Counters>,
    /// Gives the addresses free when the association is over; `None` on the client's side.
    home: Option<Arc<dyn Home>>,
    /// Where datagrams are read to. For DTLS a whole record, for plain UDP what the handler's
    /// buffer has no room for; pages are touched as far as datagrams reach.
    scratch: Vec<u8>,
    /// What came with the last message on SCTP.
    info: MessageInfo,
    /// Makes messages of a stream.
    frames: Option<Frames>,
    /// Since when the peer owes a message.
    owed: Owed,
    /// A message that was longer than the handler's buffer.
    kept: Option<Vec<u8>>,
    /// The session may hold another message of the last datagram.
    more: bool,
    /// Notifications that came while nobody asked for them; see [`SctpPeer::subscribe`].
    notifications: VecDeque<Notification>,
    /// The handler has been told that the server drains.
    told_to_drain: bool,
    /// When this peer's thread saw that the server drains.
    draining_since: Option<Instant>,
    /// When records that are held back for earlier ones are given up waiting for.
    held_until: Option<Instant>,
    last_heard: Instant,
    /// The memory that only the handshake needed was given back.
    settled: bool,
    /// A message came since `last_heard` was set.
    heard: bool,
    max_message: usize,
    min_message: usize,
    /// What nobody has read is searched for the peer's end.
    ending: bool,
    end: Option<EndReason>,
}

/// Where associations come from and go to: the server.
pub(crate) trait Home: Send + Sync {
    /// The association is over and its socket closed, or handed on.
    fn left(&self, association: &Association, reason: &EndReason, leftover: Option<Leftover>);
}

/// What an association leaves to its successor.
pub(crate) enum Leftover {
    /// The datagram that begins it.
    Datagram(Box<[u8]>),
    /// The SCTP socket, which has it already.
    Socket(Arc<Socket>),
}

/// What a [`Peer`] is made of.
pub(crate) struct Parts {
    pub(crate) association: Arc<Association>,
    pub(crate) opened: Opened,
    pub(crate) timeouts: Timeouts,
    pub(crate) counters: Arc<Counters>,
    pub(crate) home: Option<Arc<dyn Home>>,
}

/// What the handshake made, where there was one.
pub(crate) struct Opened {
    pub(crate) transport: Transport,
    pub(crate) session: Session,
    pub(crate) facts: Facts,
}

/// What a message of the transport is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layers {
    /// A message for the handler.
    Plain,
    /// DTLS records over UDP.
    Dtls,
    /// Records of TLS or DTLS over SCTP.
    SecureSctp,
    /// A piece of a stream in clear, with a framing.
    Frames,
    /// A piece of a stream of TLS records.
    Tls,
}

/// Notifications kept for a handler that does not ask for them; the oldest go first.
const MAX_NOTIFICATIONS: usize = 256;

impl Peer {
    /// Opens the association: from here on others can send.
    pub(crate) fn open(parts: Parts) -> Self {
        let Opened { transport, session, facts } = parts.opened;
        let max_message = session.max_message(parts.association.peer.is_ipv4());
        let min_message = session.min_message();
        let layers = match &session {
            Session::Plain(_) => Layers::Plain,
            Session::Dtls(..) => Layers::Dtls,
            Session::Sctp(session) if session.is_secure() => Layers::SecureSctp,
            Session::Stream(session) if session.core().is_secure() => Layers::Tls,
            Session::Stream(session) if session.core().frames().is_some() => Layers::Frames,
            Session::Sctp(_) | Session::Stream(_) => Layers::Plain,
        };
        let frames = match &session {
            Session::Stream(session) => session.core().frames(),
            _ => None,
        };
        *parts.association.link.lock() = Link::Open(session);
        let mut transport = transport;
        if let (Transport::Udp(transport), Layers::Dtls) = (&mut transport, layers) {
            // Its handshake came after that.
            transport.is_settled = true;
        }
        // The thread of a client is its user's.
        let settled = parts.home.is_none() || !matches!(layers, Layers::Dtls | Layers::Tls);
        Self {
            association: parts.association,
            transport: Some(transport),
            layers,
            facts,
            timeouts: parts.timeouts,
            counters: parts.counters,
            home: parts.home,
            // A peer that never says anything needs none.
            scratch: Vec::new(),
            info: MessageInfo::default(),
            frames,
            owed: Owed::default(),
            kept: None,
            // Something may have come with the end of the handshake.
            more: matches!(layers, Layers::SecureSctp | Layers::Tls | Layers::Dtls),
            notifications: VecDeque::new(),
            told_to_drain: false,
            draining_since: None,
            held_until: None,
            last_heard: Instant::now(),
            settled,
            heard: false,
            max_message,
            min_message,
            ending: false,
            end: None,
        }
    }

    /// Waits for one message and puts it into `buffer`; blocks until one comes or the association
    /// ends. `Ok(Some(n))`: a message of `n` bytes; it may be empty on plain UDP. `Ok(None)`: the
    /// association is over in an orderly way ([`end_reason`](Self::end_reason) says which), or
    /// the server [drains](Self::is_draining) and nothing is waiting: a handler may return, or
    /// finish what it is at; `recv` goes on to work until the grace period is over.
    ///
    /// # Errors
    ///
    /// [`Error::BufferTooSmall`]: the message is kept, call again with a larger buffer.
    /// [`Error::Ended`]: the association is over, and not in an orderly way.
    pub fn recv(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Error> {
        self.message_until(buffer, None)
    }

    /// As [`recv`](Self::recv), for so long at most. A timeout of zero takes what is there.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`], after which the association lives; else as [`recv`](Self::recv).
    pub fn recv_timeout(&mut self, buffer: &mut [u8], timeout: Duration) -> Result<Option<usize>, Error> {
        self.message_until(buffer, Instant::now().checked_add(timeout))
    }

    /// As [`recv_timeout`](Self::recv_timeout), until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`recv_timeout`](Self::recv_timeout).
    pub fn recv_deadline(&mut self, buffer: &mut [u8], deadline: Instant) -> Result<Option<usize>, Error> {
        self.message_until(buffer, Some(deadline))
    }

    /// Sends one message. Blocks only where the socket's send buffer is full, and on TCP what may wait behind it
    /// ([`StreamSettings::max_pending`](crate::StreamSettings::max_pending)), for [`Timeouts::send`] at most.
    /// What waits is sent while the handler is in `recv`, with the next message, or at the end. That it was
    /// sent does not mean that it arrived. A stream without framing takes any length; there, after an error, a
    /// part of it may have been sent.
    ///
    /// # Errors
    ///
    /// [`Error::MessageTooLarge`], [`Error::EmptyMessage`], [`Error::SendBufferFull`]: not sent, and
    /// the association lives. [`Error::Ended`]: it is over. `SendBufferFull` comes at once where a peer that
    /// renegotiates ([`StreamSettings::renegotiation`](crate::StreamSettings::renegotiation)) said something
    /// that has to be received first.
    pub fn send(&mut self, message: &[u8]) -> Result<(), Error> {
        self.send_with(message, &SendInfo::default())
    }

    fn send_with(&mut self, message: &[u8], how: &SendInfo) -> Result<(), Error> {
        if message.len() > self.max_message {
            if self.is_raw_stream() {
                return message.chunks(self.max_message).try_for_each(|piece| self.send_with(piece, how));
            }
            return Err(Error::MessageTooLarge { size: message.len(), limit: self.max_message });
        }
        if message.len() < self.min_message {
            return Err(Error::EmptyMessage);
        }
        if self.timeouts.lifetime.is_some_and(|most| self.association.opened.elapsed() >= most) {
            self.finish_with(EndReason::Lifetime, None);
        }
        let mut deadline = None;
        loop {
            match lock_and_send(&self.association, message, how) {
                Some(Sent::Done) => return Ok(()),
                Some(Sent::Parked) => {
                    self.note_unsent();
                    return Ok(());
                }
                Some(Sent::Unproven) => return Err(Error::Unproven),
                Some(Sent::NoSuchStream) => return Err(Error::NoSuchStream { stream: how.stream }),
                // What came before can still be received.
                Some(Sent::Gone) => return Err(Error::Ended(EndReason::ClosedByPeer)),
                Some(Sent::TooLarge) => {
                    return Err(Error::MessageTooLarge { size: message.len(), limit: self.max_message });
                }
                Some(Sent::Broken(why)) => {
                    return Err(Error::Ended(self.finish_with(EndReason::Protocol(why), None)));
                }
                None => return Err(Error::Ended(self.finish_with(EndReason::ClosedByUs, None))),
                Some(Sent::Full) => {}
            }
            let now = Instant::now();
            let deadline = *deadline.get_or_insert_with(|| after(self.timeouts.send));
            if self.awaits_handshake() {
                self.hear_handshake(deadline)?;
                continue;
            }
            // A handler that only sends must notice a stalled peer, too.
            let look = self.watch_for_stall(now);
            let Some(transport) = &self.transport else { continue };
            if now >= deadline {
                return Err(Error::SendBufferFull);
            }
            let until = look.map_or(deadline, |look| look.min(deadline));
            if !wait_for_room(transport, until.saturating_duration_since(now)) && until == deadline {
                return Err(Error::SendBufferFull);
            }
        }
    }

    /// What the peer has to return in a message before it may be sent more than three times what came from it
    /// ([`ServerBuilder::udp_proof`](crate::ServerBuilder::udp_proof)): 12 hexadecimal digits, at the end of a
    /// message (white space may follow). Ask for it by a message that does not end with it: a source that sends back whatever
    /// it gets must not pass. The message in which it came is received like any other. `None`: there is nothing to prove, or no more.
    pub fn proof_token(&self) -> Option<&str> {
        self.association.proof.as_ref().and_then(Proof::token)
    }

    /// A handle with which any thread can send to this peer.
    pub fn sender(&self) -> Sender {
        Sender::new(Arc::clone(&self.association), self.max_message, self.min_message)
    }

    /// Ends the association in an orderly way: close_notify (RFC 5246 §7.2.1) where there is one, on SCTP a
    /// shutdown (RFC 9260 §9.2), before which everything that was sent arrives, and the socket is closed.
    /// On secured SCTP it blocks until what was sent is acknowledged, for two seconds at most, on TCP until the
    /// kernel has it, for one. Dropping the peer, or returning from the handler, does the same.
    pub fn close(&mut self) {
        self.finish_unless_ended(EndReason::ClosedByUs);
    }

    /// Where the peer is; behind a proxy, as that says.
    pub fn peer_address(&self) -> SocketAddr {
        self.association.peer_address()
    }

    /// The address of this host that the peer talks to; never a wildcard.
    pub fn local_address(&self) -> SocketAddr {
        self.association.local_address()
    }

    /// The protocol spoken.
    pub fn scheme(&self) -> Scheme {
        self.association.scheme
    }

    /// The name of this association.
    pub fn id(&self) -> AssociationId {
        self.association.id
    }

    /// Who the peer proved to be in the handshake.
    pub fn identity(&self) -> &PeerIdentity {
        &self.facts.identity
    }

    /// The cipher suite in OpenSSL's spelling, such as `ECDHE-ECDSA-AES256-GCM-SHA384`; `None`
    /// without encryption.
    pub fn cipher(&self) -> Option<&str> {
        self.facts.cipher.as_deref()
    }

    /// The application protocol agreed on (ALPN, RFC 7301), if there is one.
    pub fn alpn(&self) -> Option<&str> {
        self.facts.alpn.as_deref()
    }

    /// The name that the client asked for (server name indication, RFC 6066 §3), if it did.
    pub fn server_name(&self) -> Option<&str> {
        self.facts.server_name.as_deref()
    }

    /// The SRTP profile agreed on (RFC 5764), in OpenSSL's spelling, such as `SRTP_AES128_CM_SHA1_80`.
    pub fn srtp_profile(&self) -> Option<&str> {
        self.facts.srtp.as_deref()
    }

    /// Whether the handshake resumed an earlier session, so that the peer did not show its certificate again.
    pub fn is_resumed(&self) -> bool {
        self.facts.resumed
    }

    /// Keys for something else that both sides derive from this session (RFC 5705, RFC 8446 §7.5), as many bytes as
    /// `out` has; on TLS over SCTP from that of stream 0. For SRTP (RFC 5764 §4.2) the label is
    /// `EXTRACTOR-dtls_srtp`, without a context.
    ///
    /// # Errors
    ///
    /// [`Error::NotSecure`] on a transport in clear, or where OpenSSL cannot; [`Error::Ended`].
    pub fn export_keying_material(
        &self,
        label: &str,
        context: Option<&[u8]>,
        out: &mut [u8],
    ) -> Result<(), Error> {
        let link = self.association.link.lock();
        match &*link {
            Link::Open(session) if session.export(label, context, out) => Ok(()),
            Link::Open(_) => Err(Error::NotSecure),
            _ => Err(Error::Ended(self.end.clone().unwrap_or(EndReason::ClosedByUs))),
        }
    }

    /// Whether the server is shutting down: finish, the grace period is running.
    pub fn is_draining(&self) -> bool {
        self.association.attention.signals() & signal::DRAIN != 0
    }

    /// Whether the peer's host has said since the last call, with an ICMP port unreachable, that nothing
    /// listens there. It ends nothing, as anyone can forge it: it is a reason to ask the peer for a sign.
    /// Always false on transports other than UDP and DTLS.
    pub fn take_unreachable(&mut self) -> bool {
        match &mut self.transport {
            Some(Transport::Udp(transport)) => std::mem::take(&mut transport.unreachable),
            _ => false,
        }
    }

    /// Why the association is over; `None` while it is not.
    pub fn end_reason(&self) -> Option<&EndReason> {
        self.end.as_ref()
    }

    /// The longest message that [`send`](Self::send) takes, in bytes: 16,384 on DTLS and on TLS over SCTP, 65,507
    /// or 65,527 on UDP (above the path MTU, about 1,400 bytes, IP fragments it),
    /// [`Settings::max_message`](crate::sctp::Settings::max_message) on SCTP,
    /// [`StreamSettings::max_message`](crate::StreamSettings::max_message) on TCP and TLS.
    pub fn max_message_size(&self) -> usize {
        self.max_message
    }

    /// Ends the association if it is not over, and says why it is.
    pub(crate) fn finish(&mut self) -> EndReason {
        let draining = self.association.attention.signals() & (signal::DRAIN | signal::STOP) != 0;
        self.finish_unless_ended(if draining { EndReason::Shutdown } else { EndReason::ClosedByUs })
    }

    /// Ends the association for this reason, unless the peer has ended it before and nobody has read that yet.
    fn finish_unless_ended(&mut self, reason: EndReason) -> EndReason {
        self.look_for_end();
        self.finish_with(reason, None)
    }

    /// As [`finish`](Self::finish), for this reason. The order matters: goodbye, then the socket,
    /// then the addresses, so that there is never a second socket for them. On SCTP it may block until
    /// the peer has what was sent, for [`Timeouts::send`] at most.
    pub(crate) fn finish_with(&mut self, reason: EndReason, leftover: Option<Leftover>) -> EndReason {
        if let Some(end) = &self.end {
            return end.clone();
        }
        let link = std::mem::replace(&mut *self.association.link.lock(), Link::Ended(reason.clone()));
        let mut leftover = leftover;
        let reason = match (link, self.transport.take()) {
            (Link::Open(mut session), transport) => {
                match (&mut session, transport) {
                    (Session::Sctp(session), Some(Transport::Sctp(mut transport))) => {
                        if transport.restarted {
                            leftover = Some(Leftover::Socket(Arc::clone(transport.socket())));
                        } else {
                            session.end(&mut transport, &reason, self.timeouts.send);
                        }
                    }
                    (Session::Stream(session), _transport) => {
                        let stopped = self.association.attention.signals() & signal::STOP != 0;
                        session.end(&reason, if stopped { Duration::ZERO } else { self.timeouts.send });
                    }
                    (session, _transport) => {
                        if !matches!(reason, EndReason::Protocol(_) | EndReason::Replaced) {
                            session.close(Instant::now());
                        }
                    }
                }
                reason
            }
            // Somebody else ended it (a shutdown that could not wait).
            (Link::Ended(earlier), _) => {
                *self.association.link.lock() = Link::Ended(earlier.clone());
                earlier
            }
            (Link::Opening, _) => reason,
        };
        let lost = self.association.outbox.lock().clear();
        self.association.dropped.fetch_add(lost, Ordering::Relaxed);
        self.association.attention.wake_no_more();
        self.end = Some(reason.clone());
        if matches!(reason, EndReason::TooSlow | EndReason::MessageRefused { .. } | EndReason::Unreachable) {
            log_limited!(info, peer = %self.peer_address(), %reason, "ended an association");
        }
        if let Some(home) = self.home.take() {
            let silent = self.association.received.load(Ordering::Relaxed) == 0;
            if silent && matches!(reason, EndReason::NoFirstMessage | EndReason::FrameTimedOut) {
                audit::silent(&self.association, &self.facts, &reason);
            }
            audit::ended(&self.association, &self.facts, &reason);
            home.left(&self.association, &reason, leftover);
        }
        reason
    }
}

/// Waits until the socket takes data; `false` if it does not in time.
fn wait_for_room(transport: &Transport, timeout: Duration) -> bool {
    use std::os::fd::AsFd;
    wait_writable(transport.socket().as_fd(), Some(timeout)).unwrap_or(false)
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.finish();
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("association", &self.association).finish_non_exhaustive()
    }
}

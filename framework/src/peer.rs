//! What a handler holds: the peer.

use std::collections::VecDeque;
use std::fmt;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::address::Scheme;
use crate::association::Association;
use crate::audit;
use crate::config::Timeouts;
use crate::drive::Session;
use crate::drive::open::Open;
use crate::error::{EndKind, EndReason, Error};
use crate::net::Transport;
use crate::net::attention::signal;
use crate::observe::{bump, log_limited};
use crate::protocol::Sent;
use crate::protocol::dtls::session::Move;
use crate::sctp::{MessageInfo, Notification, SendInfo};
pub use crate::sender::Sender;
use crate::sender::{about_the_peer, flush, lock_and_send};
use crate::tls::Facts;

mod driven;
mod io;
mod receive;
mod saved;
mod sctp;
mod stream;

pub use self::io::PeerStream;
pub(crate) use self::receive::Next;
pub(crate) use self::saved::{Late, Saved};
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
    /// What is read from the socket is a message as it is.
    is_direct: bool,
    /// Messages are pieces of a stream, which have no ends of their own.
    is_raw_stream: bool,
    /// The limit of a send (`Timeouts::send`).
    send_timeout: Duration,
    /// Gives the addresses free when the association is over; `None` on the client's side.
    home: Option<Arc<dyn Home>>,
    /// Where datagrams are read to. For DTLS a whole record, for plain UDP what the handler's
    /// buffer has no room for; pages are touched as far as datagrams reach.
    scratch: Vec<u8>,
    /// What came with the last message on SCTP.
    info: MessageInfo,
    /// A message that was longer than the handler's buffer.
    kept: Option<Box<[u8]>>,
    /// Notifications that came while nobody asked for them; see [`SctpPeer::subscribe`].
    #[allow(clippy::box_collection, reason = "most peers have none, and 24 bytes less each")]
    notifications: Option<Box<VecDeque<Notification>>>,
    /// Where the peer was before its address changed, until the handler is told.
    moved_from: Option<Box<SocketAddr>>,
    /// When the handler was given its last message, where it is timed.
    delivered: Option<Instant>,
    /// The handler has been told that the server drains.
    told_to_drain: bool,
    /// The server drained when the peer's handshake was complete.
    opened_draining: bool,
    /// When this peer's thread saw that the server drains.
    draining_since: Option<Instant>,
    /// Since when the peer is quiet, until its thread has given back the memory that only the handshake needed.
    quiet_from: Option<Instant>,
    /// What nobody has read is searched for the peer's end.
    ending: bool,
    /// What was counted last of an error or a panic of the handler.
    failure: Option<EndKind>,
    /// The last call stopped at the time for it, and left what may have come unread.
    leaves_unread: bool,
    /// A loop drives the peer: it waits for nothing, and there is no thread that could give memory back.
    driven: bool,
    /// The end that has begun and waits for the peer.
    farewell: Option<Box<Farewell>>,
}

/// What is left of an association until its end is over.
struct Farewell {
    /// Where there is something to be said.
    session: Option<Session>,
    transport: Transport,
    leftover: Option<Leftover>,
}

impl Farewell {
    /// Gets the end on. Does not block. `None`: it is over; otherwise it is to be called again then, or when there is room.
    fn go_on(&mut self, now: Instant) -> Option<Instant> {
        self.session.as_mut()?.continue_end(now)
    }
}

/// Where associations come from and go to: the server.
pub(crate) trait Home: Send + Sync {
    /// The handler of a peer is about to run on its own thread: others look after the peer meanwhile.
    fn handler_runs(&self);

    /// A peer is quiet for the first time, and has given back what its handshake needed.
    fn settled(&self);

    /// The peer of an association is somewhere else by now. `false`: it cannot be found there, and stays where it was.
    fn follow(&self, association: &Association, moved: Move) -> bool;

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
    pub(crate) home: Option<Arc<dyn Home>>,
    /// A loop drives the peer, so that it has no thread of its own.
    pub(crate) driven: bool,
}

/// What the handshake made, where there was one.
pub(crate) struct Opened {
    pub(crate) transport: Transport,
    pub(crate) session: Session,
    pub(crate) facts: Facts,
}

/// Notifications kept for a handler that does not ask for them; the oldest go first.
const MAX_NOTIFICATIONS: usize = 256;

impl Peer {
    /// Opens the association: from here on others can send.
    pub(crate) fn open(parts: Parts) -> Self {
        let Opened { transport, session, facts } = parts.opened;
        let scheme = parts.association.scheme;
        let (is_direct, is_raw_stream) = (session.is_direct(), scheme.is_stream() && !session.is_framed());
        let now = parts.association.now();
        match &parts.home {
            Some(home) if !parts.driven => home.handler_runs(),
            _ => {}
        }
        // Nobody else has to look after one that is driven.
        parts.association.reading.store(parts.driven, Ordering::SeqCst);
        let mut transport = transport;
        if let (Transport::Udp(transport), Scheme::Dtls) = (&mut transport, scheme) {
            // Its handshake came after that.
            transport.is_settled = true;
            if let Session::Dtls(session, _) = &session {
                let length = parts.association.connection_id.len().max(session.connection_id().len());
                transport.expect_connection_id(session.connection_id(), length);
            }
        }
        let opened_draining = parts.association.attention.signals() & signal::DRAIN != 0;
        parts.association.open(session, facts, &parts.timeouts);
        // The thread of a client is its user's.
        let settles = parts.home.is_some() && !parts.driven && matches!(scheme, Scheme::Dtls | Scheme::Tls);
        Self {
            association: parts.association,
            transport: Some(transport),
            is_direct,
            is_raw_stream,
            send_timeout: parts.timeouts.send,
            home: parts.home,
            // A peer that never says anything needs none.
            scratch: Vec::new(),
            info: MessageInfo::default(),
            kept: None,
            notifications: None,
            moved_from: None,
            delivered: None,
            told_to_drain: false,
            opened_draining,
            draining_since: None,
            quiet_from: settles.then_some(now),
            ending: false,
            failure: None,
            leaves_unread: false,
            driven: parts.driven,
            farewell: None,
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
    /// [`Error::BufferTooSmall`]: the message is kept, call again with a larger buffer, or use
    /// [`recv_into`](Self::recv_into) with a vector that grows.
    /// [`Error::Ended`]: the association is over, and not in an orderly way.
    pub fn recv(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Error> {
        self.message_until(buffer, None)
    }

    /// As [`recv`](Self::recv), for so long at most. With a timeout of zero it does not wait.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`], after which the association lives; else as [`recv`](Self::recv).
    pub fn recv_timeout(&mut self, buffer: &mut [u8], timeout: Duration) -> Result<Option<usize>, Error> {
        self.message_until(buffer, self.association.now().checked_add(timeout))
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
    /// ([`TcpSettings::max_pending`](crate::TcpSettings::max_pending)), for [`Timeouts::send`] at most.
    /// What waits is sent once there is room: at once while the handler is in `recv`, else within two seconds. That it was
    /// sent does not mean that it arrived. A stream without framing takes any length; there, after an error, a
    /// part of it may have been sent.
    ///
    /// # Errors
    ///
    /// [`Error::MessageTooLarge`], [`Error::EmptyMessage`], [`Error::SendBufferFull`]: not sent, and
    /// the association lives. [`Error::Ended`]: it is over. `SendBufferFull` comes at once where a peer that
    /// renegotiates ([`TcpSettings::renegotiation`](crate::TcpSettings::renegotiation)) said something
    /// that has to be received first.
    pub fn send(&mut self, message: &[u8]) -> Result<(), Error> {
        self.send_with(message, &SendInfo::default())
    }

    fn send_with(&mut self, message: &[u8], how: &SendInfo) -> Result<(), Error> {
        let limit = self.association.max_message();
        if self.is_raw_stream && message.len() > limit {
            return message.chunks(limit).try_for_each(|piece| self.send_with(piece, how));
        }
        self.association.check_size(message)?;
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
                Some(Sent::TooLarge) => return Err(self.association.too_large(message)),
                Some(Sent::Broken(why)) => {
                    return Err(Error::Ended(self.finish_with(EndReason::Protocol(why), None)));
                }
                Some(Sent::Expired) => return Err(Error::Ended(self.finish_with(EndReason::Lifetime, None))),
                None => return Err(Error::Ended(self.finish_with(EndReason::ClosedByUs, None))),
                Some(Sent::Full) => {}
            }
            let now = self.association.now();
            let deadline = *deadline.get_or_insert_with(|| self.association.after(self.send_timeout));
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
            if !transport.wait_for_room(until.saturating_duration_since(now)) && until == deadline {
                return Err(Error::SendBufferFull);
            }
        }
    }

    /// A handle with which any thread can send to this peer.
    pub fn sender(&self) -> Sender {
        Sender::new(Arc::clone(&self.association))
    }

    /// Ends the association in an orderly way: close_notify (RFC 5246 §7.2.1) where there is one, on SCTP a
    /// shutdown (RFC 9260 §9.2), before which everything that was sent arrives, and the socket is closed.
    /// On secured SCTP it blocks until what was sent is acknowledged, for two seconds at most, on TCP until the
    /// kernel has it, for one. Dropping the peer, or returning from the handler, does the same.
    pub fn close(&mut self) {
        self.finish();
    }

    /// Whether the peer's host has said since the last call, with an ICMP port unreachable, that nothing
    /// listens there. It ends nothing, as anyone can forge it: it is a reason to ask the peer for a sign.
    /// Always false on transports other than UDP and DTLS.
    pub fn take_unreachable(&mut self) -> bool {
        match &mut self.transport {
            Some(Transport::Udp(transport)) => std::mem::take(&mut transport.unreachable),
            Some(Transport::Memory(transport)) => std::mem::take(&mut transport.unreachable),
            _ => false,
        }
    }

    /// Goes on from another local port, which the kernel chooses, as after a NAT has forgotten the old one. The server knows this
    /// client by its connection ID ([`Client::connection_ids`](crate::Client::connection_ids)) from the next message on. Never blocks.
    ///
    /// # Errors
    ///
    /// [`std::io::ErrorKind::Unsupported`] where there are no connection IDs, on the server's side, and where
    /// [`Client::bind`](crate::Client::bind) chose the port; [`std::io::ErrorKind::NotConnected`] after the end.
    pub fn change_port(&mut self) -> std::io::Result<()> {
        let Some(transport) = &self.transport else { return Err(std::io::ErrorKind::NotConnected.into()) };
        match transport {
            Transport::Udp(transport) if self.home.is_none() && self.association.facts().connection_ids => {
                let local = transport.change_port()?;
                self.association.set_local_address(local);
                Ok(())
            }
            _ => Err(std::io::ErrorKind::Unsupported.into()),
        }
    }

    /// Where the peer was before its address changed; once.
    pub(crate) fn take_moved(&mut self) -> Option<SocketAddr> {
        self.moved_from.take().map(|from| *from)
    }

    /// Ends the association, unless the peer has ended it before and nobody has read that yet; returns the reason.
    pub(crate) fn finish(&mut self) -> EndReason {
        if self.association.attention.signals() & signal::TOO_SLOW != 0 {
            return self.finish_with(EndReason::TooSlow, None);
        }
        self.look_for_end();
        let draining = self.association.attention.signals() & (signal::DRAIN | signal::STOP) != 0;
        self.finish_with(if draining { EndReason::Shutdown } else { EndReason::ClosedByUs }, None)
    }

    /// Ends the association because its handler failed or panicked. That counts also where it is over already, and once:
    /// [`Callbacks`](crate::Callbacks) end it before their result comes here.
    pub(crate) fn fail(&mut self, failure: EndReason) -> EndReason {
        let kind = failure.kind();
        if self.failure.replace(kind) != Some(kind) {
            bump(match kind {
                EndKind::HandlerPanicked => &self.association.counters.handler_panics,
                _ => &self.association.counters.handler_errors,
            });
        }
        self.finish_with(failure, None)
    }

    /// As [`finish`](Self::finish), for this reason. The order matters: goodbye, then the socket,
    /// then the addresses, so that there is never a second socket for them. On SCTP it may block until
    /// the peer has what was sent, for [`Timeouts::send`] at most.
    #[cold]
    #[inline(never)]
    pub(crate) fn finish_with(&mut self, reason: EndReason, leftover: Option<Leftover>) -> EndReason {
        let is_settled = self.association.end_reason().is_some();
        if !is_settled && matches!(reason, EndReason::ClosedByUs | EndReason::Shutdown) {
            // What was posted before leaves first, as far as there is room for it now.
            flush(&self.association);
        }
        let open = self.association.end(&reason);
        let begins_anew = reason == EndReason::Replaced;
        // Somebody else may have ended it, who could not wait, or settled why it ends.
        let reason = self.association.end_reason().cloned().unwrap_or(reason);
        let Some(transport) = self.transport.take() else { return reason };
        let (mut leftover, mut farewell) = (leftover, None);
        if let Transport::Sctp(transport) = &transport
            && (begins_anew || reason == EndReason::Replaced)
        {
            // The peer began anew: the socket has its next association, unless somebody has shut it for reading meanwhile.
            self.association.attention.wake_no_more();
            match self.association.attention.is_shut() {
                false => leftover = Some(Leftover::Socket(Arc::clone(transport.socket()))),
                true => crate::net::sctp::abort(transport.socket(), b"closed"),
            }
        } else if let Some(Open { mut session, .. }) = open {
            let is_stopped = self.association.attention.signals() & signal::STOP != 0;
            let (patience, now) = (session.patience(self.send_timeout, is_stopped), Instant::now());
            session.begin_end(&reason, patience, now);
            farewell = Some(session);
        }
        let mut farewell = Farewell { session: farewell, transport, leftover };
        if self.driven {
            if farewell.go_on(Instant::now()).is_some() {
                self.farewell = Some(Box::new(farewell));
                return reason;
            }
        } else if let Some(session) = &mut farewell.session {
            session.await_end();
        }
        self.part(&reason, farewell);
        reason
    }

    /// The socket is closed, or handed on: the addresses are free.
    fn part(&mut self, reason: &EndReason, farewell: Farewell) {
        let Farewell { session, transport, leftover } = farewell;
        if session.is_some() {
            transport.discard();
        }
        drop((session, transport));
        let lost = self.association.outbox.lock().clear();
        self.association.dropped.fetch_add(lost, Ordering::Relaxed);
        self.association.attention.wake_no_more();
        if matches!(reason, EndReason::TooSlow | EndReason::MessageRefused { .. } | EndReason::Unreachable) {
            log_limited!(info, peer = %self.peer_address(), %reason, "ended an association");
        }
        if let Some(home) = self.home.take() {
            let silent = self.association.received.load(Ordering::Relaxed) == 0;
            if silent && matches!(reason, EndReason::NoFirstMessage | EndReason::FrameTimedOut) {
                audit::silent(&self.association, reason);
            }
            home.left(&self.association, reason, leftover);
        }
    }
}

about_the_peer!(Peer);

impl Drop for Peer {
    fn drop(&mut self) {
        self.finish();
        self.cut_farewell();
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("association", &self.association).finish_non_exhaustive()
    }
}

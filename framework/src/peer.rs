//! The peer, as a handler or a client holds it.

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
use crate::drive::open::Open;
use crate::drive::{Session, with_record};
use crate::error::{EndKind, EndReason, Error};
use crate::net::Transport;
use crate::net::attention::signal;
use crate::observe::{bump, log_limited};
use crate::protocol::dtls::session::Move;
use crate::protocol::{RECORD_OVERHEAD_MAX, Sent};
use crate::sctp::{MessageInfo, Notification, SendInfo};
pub use crate::sender::Sender;
use crate::sender::{about_the_peer, flush, lock_and_send};
use crate::tls::HandshakeSummary;

mod driven;
mod io;
mod receive;
mod saved;
mod sctp;
mod stream;

pub use self::io::PeerStream;
pub(crate) use self::receive::Next;
pub(crate) use self::saved::{PendingOutput, Saved};
pub use self::sctp::{Event, SctpPeer};

/// One peer, as its handler (or a client) sees it: it receives messages and sends messages.
///
/// All calls run on the calling thread, which is the peer's own. Other threads send through a [`Sender`].
///
/// Dropping the value ends the association.
#[repr(C)]
pub struct Peer {
    // The fields up to `info` are used for each message. They come first, so that they share cache lines.
    association: Arc<Association>,
    /// `None` once the association has ended.
    transport: Option<Transport>,
    /// Buffer for reads from the socket. On DTLS it holds a whole record, on plain UDP the part of a datagram that does
    /// not fit into the handler's buffer. Only the pages that datagrams fill are touched. Between calls nothing is kept in
    /// it, and a send may use its memory.
    scratch: Vec<u8>,
    /// A message that was longer than the handler's buffer.
    kept: Option<Box<[u8]>>,
    /// The address before the peer's last change of address, until the handler has been told.
    moved_from: Option<Box<SocketAddr>>,
    /// When the handler received its last message, if that message is timed.
    delivered: Option<Instant>,
    /// When the peer last sent something; `None` once its thread has returned the memory that only the handshake
    /// needed.
    quiet_from: Option<Instant>,
    /// The bytes read from the socket are the message as it is.
    is_direct: bool,
    /// Messages are pieces of a byte stream without boundaries.
    is_raw_stream: bool,
    /// The handler has been told that the server drains.
    told_to_drain: bool,
    /// The server drained when the peer's handshake was complete.
    opened_draining: bool,
    /// Unread data is being searched for the peer's end.
    ending: bool,
    /// The last call stopped at its deadline and may have left data unread.
    leaves_unread: bool,
    /// An event loop drives the peer: calls do not wait, and there is no thread of its own whose memory could be
    /// returned.
    driven: bool,
    /// The failure of the handler (error or panic) that was counted last.
    failure: Option<EndKind>,
    /// Metadata of the last message on SCTP.
    info: MessageInfo,
    /// How long a send waits for room (`Timeouts::send`).
    send_timeout: Duration,
    /// Releases the addresses when the association has ended; `None` on the client's side.
    owner: Option<Arc<dyn AssociationOwner>>,
    /// Notifications that arrived while the handler asked only for messages; see [`SctpPeer::subscribe`].
    #[allow(clippy::box_collection, reason = "most peers have none, and 24 bytes less each")]
    notifications: Option<Box<VecDeque<Notification>>>,
    /// When this peer's thread saw that the server drains.
    draining_since: Option<Instant>,
    /// A closing association that still waits for its peer.
    closing: Option<Box<Closing>>,
}

/// The parts of an association that are needed until it has closed.
struct Closing {
    /// The session, if it still has something to send.
    session: Option<Session>,
    transport: Transport,
    for_successor: Option<ForSuccessor>,
}

impl Closing {
    /// Continues the close without blocking. Returns `None` once it is complete; otherwise call again at the returned
    /// time, or when the socket is writable.
    fn continue_end(&mut self, now: Instant) -> Option<Instant> {
        self.session.as_mut()?.continue_end(now)
    }
}

/// The owner of associations, the server: it provides and releases their addresses.
pub(crate) trait AssociationOwner: Send + Sync {
    /// Notes that the handler of a peer is about to run on its own thread; the dispatcher watches the peer meanwhile.
    fn handler_started(&self);

    /// Notes that a peer has become quiet for the first time and has returned the memory that its handshake needed.
    fn peer_became_quiet(&self);

    /// Registers a peer's new address. Returns `false` if the peer cannot be registered there and keeps its old
    /// address.
    fn change_peer_address(&self, association: &Association, moved: Move) -> bool;

    /// Notes that the association has ended, and that its socket has been closed or passed on.
    fn association_ended(
        &self,
        association: &Association,
        reason: &EndReason,
        for_successor: Option<ForSuccessor>,
    );

    /// Notes that the association of a peer is about to end while the peer's handler still runs.
    /// [`handler_returned`](Self::handler_returned) follows.
    fn handler_outlives_association(&self);

    /// Notes that this handler has returned.
    fn handler_returned(&self);
}

/// What an association passes to its successor.
pub(crate) enum ForSuccessor {
    /// The datagram that begins the successor.
    Datagram(Box<[u8]>),
    /// The SCTP socket, on which the kernel has already set up the successor.
    Socket(Arc<Socket>),
}

/// The constituents of a [`Peer`].
pub(crate) struct Parts {
    pub(crate) association: Arc<Association>,
    pub(crate) opened: Opened,
    pub(crate) timeouts: Timeouts,
    pub(crate) owner: Option<Arc<dyn AssociationOwner>>,
    /// An event loop drives the peer, so it has no thread of its own.
    pub(crate) driven: bool,
}

/// Result of the opening, including the handshake if there is one.
pub(crate) struct Opened {
    pub(crate) transport: Transport,
    pub(crate) session: Session,
    pub(crate) summary: HandshakeSummary,
}

/// Notifications kept for a handler that does not read them; the oldest are dropped first.
const MAX_NOTIFICATIONS: usize = 256;

impl Peer {
    /// Opens the association; from then on other threads can send.
    pub(crate) fn open(parts: Parts) -> Self {
        let Opened { transport, session, summary } = parts.opened;
        let scheme = parts.association.scheme;
        let (is_direct, is_raw_stream) = (session.is_direct(), scheme.is_stream() && !session.is_framed());
        let now = parts.association.now();
        match &parts.owner {
            Some(owner) if !parts.driven => owner.handler_started(),
            _ => {}
        }
        // An event loop watches its peer itself, so no other thread has to.
        parts.association.reading.store(parts.driven, Ordering::SeqCst);
        let mut transport = transport;
        if let (Transport::Udp(transport), Scheme::Dtls) = (&mut transport, scheme) {
            // The handshake ran after the socket was connected, so it has read the datagrams that were queued before.
            transport.early_datagrams_read = true;
            if let Session::Dtls(session, _) = &session {
                let length = parts.association.connection_id.len().max(session.connection_id().len());
                transport.expect_connection_id(session.connection_id(), length);
            }
        }
        let opened_draining = parts.association.attention.signals() & signal::DRAIN != 0;
        parts.association.open(session, summary, &parts.timeouts);
        // The thread of a client belongs to the program, so its memory is left alone.
        let releases_memory =
            parts.owner.is_some() && !parts.driven && matches!(scheme, Scheme::Dtls | Scheme::Tls);
        Self {
            association: parts.association,
            transport: Some(transport),
            is_direct,
            is_raw_stream,
            send_timeout: parts.timeouts.send,
            owner: parts.owner,
            // Allocated by the first read, so a peer that never sends needs none.
            scratch: Vec::new(),
            info: MessageInfo::default(),
            kept: None,
            notifications: None,
            moved_from: None,
            delivered: None,
            told_to_drain: false,
            opened_draining,
            draining_since: None,
            quiet_from: releases_memory.then_some(now),
            ending: false,
            failure: None,
            leaves_unread: false,
            driven: parts.driven,
            closing: None,
        }
    }

    /// Waits for one message and writes it into `buffer`. Blocks until a message arrives or the association ends.
    /// `Ok(Some(n))` is a message of `n` bytes; on plain UDP it may be empty. `Ok(None)` has two causes: the
    /// association ended in an orderly way ([`end_reason`](Self::end_reason) gives the reason), or the server
    /// [drains](Self::is_draining) and no message is pending. In the second case the handler may return, or finish its
    /// work first: `recv` continues to work until the grace period ends.
    ///
    /// # Errors
    ///
    /// [`Error::BufferTooSmall`]: the message is kept; call again with a larger buffer, or use
    /// [`recv_into`](Self::recv_into) with a vector that grows. [`Error::Ended`]: the association has ended, and not in
    /// an orderly way.
    pub fn recv(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Error> {
        self.message_until(buffer, None)
    }

    /// Receives like [`recv`](Self::recv), but waits at most `timeout`. A timeout of zero does not wait.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`], after which the association continues; otherwise as [`recv`](Self::recv).
    pub fn recv_timeout(&mut self, buffer: &mut [u8], timeout: Duration) -> Result<Option<usize>, Error> {
        self.message_until(buffer, self.association.now().checked_add(timeout))
    }

    /// Receives like [`recv_timeout`](Self::recv_timeout), but waits until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`recv_timeout`](Self::recv_timeout).
    pub fn recv_deadline(&mut self, buffer: &mut [u8], deadline: Instant) -> Result<Option<usize>, Error> {
        self.message_until(buffer, Some(deadline))
    }

    /// Sends one message. Blocks only while the socket's send buffer is full (on TCP, while the pending data has also
    /// reached [`TcpSettings::max_pending`](crate::TcpSettings::max_pending)), at most for [`Timeouts::send`]. Pending
    /// data is sent when there is room: at once while the handler is in `recv`, otherwise within two seconds. A
    /// successful send does not mean that the message has arrived. A stream without framing takes a message of any
    /// length; after an error, part of it may have been sent.
    ///
    /// # Errors
    ///
    /// [`Error::MessageTooLarge`], [`Error::EmptyMessage`], [`Error::SendBufferFull`]: the message was not sent, and
    /// the association continues. [`Error::Unproven`]: the same, on plain UDP with
    /// [`ServerBuilder::udp_proof`](crate::ServerBuilder::udp_proof). [`Error::Ended`]: the association has ended.
    /// `SendBufferFull` is returned at once if a peer that renegotiates
    /// ([`TcpSettings::renegotiation`](crate::TcpSettings::renegotiation)) has sent data that must be received first.
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
            match self.try_send(message, how) {
                Some(Sent::Done) => return Ok(()),
                Some(Sent::Parked) => {
                    self.note_unsent();
                    return Ok(());
                }
                Some(Sent::Unproven) => return Err(Error::Unproven),
                Some(Sent::NoSuchStream) => return Err(Error::NoSuchStream { stream: how.stream }),
                // Messages that the peer sent before it closed can still be received.
                Some(Sent::Gone) => return Err(Error::Ended(EndReason::ClosedByPeer)),
                Some(Sent::TooLarge) => return Err(self.association.too_large(message)),
                Some(Sent::Broken(reason)) => return Err(Error::Ended(self.finish_with(reason, None))),
                Some(Sent::Expired) => return Err(Error::Ended(self.finish_with(EndReason::Lifetime, None))),
                None => return Err(Error::Ended(self.finish_with(EndReason::ClosedByUs, None))),
                Some(Sent::Full) => {}
            }
            let now = self.association.now();
            let deadline = *deadline.get_or_insert_with(|| self.association.after(self.send_timeout));
            if self.awaits_handshake() {
                self.receive_handshake(deadline)?;
                continue;
            }
            // A handler that only sends must also notice a stalled peer.
            let next_check = self.check_for_stall(now);
            let Some(transport) = &self.transport else { continue };
            if now >= deadline {
                return Err(Error::SendBufferFull);
            }
            let until = next_check.map_or(deadline, |next_check| next_check.min(deadline));
            if !transport.wait_for_room(until.saturating_duration_since(now)) && until == deadline {
                return Err(Error::SendBufferFull);
            }
        }
    }

    /// Sends a message if there is room. A record is sealed in the memory of the datagram that was read last, which the
    /// processor still has in its cache, unless the record may be longer than that memory.
    fn try_send(&mut self, message: &[u8], how: &SendInfo) -> Option<Sent> {
        let Self { association, scratch, .. } = self;
        if scratch.capacity() < message.len() + RECORD_OVERHEAD_MAX {
            return with_record(|record| lock_and_send(association, message, how, record));
        }
        scratch.clear();
        lock_and_send(association, message, how, scratch)
    }

    /// Returns a handle with which any thread can send to this peer.
    pub fn sender(&self) -> Sender {
        Sender::new(Arc::clone(&self.association))
    }

    /// Ends the association in an orderly way and closes the socket. The peer receives a close_notify (RFC 5246 §7.2.1)
    /// if the protocol has one, and on SCTP a shutdown (RFC 9260 §9.2), before which all sent messages arrive. Blocks
    /// on secured SCTP until the sent messages are acknowledged, at most two seconds, and on TCP until the kernel has
    /// taken all data, at most one second. Dropping the peer, or returning from the handler, does the same.
    pub fn close(&mut self) {
        self.finish();
    }

    /// Returns whether an ICMP port unreachable has arrived for this peer since the last call. It does not end the
    /// association, because anyone can forge it; treat it as a reason to ask the peer for a sign of life. Always
    /// `false` on transports other than UDP and DTLS.
    pub fn take_unreachable(&mut self) -> bool {
        match &mut self.transport {
            Some(Transport::Udp(transport)) => std::mem::take(&mut transport.unreachable),
            Some(Transport::Memory(transport)) => std::mem::take(&mut transport.unreachable),
            _ => false,
        }
    }

    /// Moves to another local port, which the kernel chooses, as if a NAT had dropped its mapping. From the next
    /// message on, the server recognizes this client by its connection ID
    /// ([`Client::connection_ids`](crate::Client::connection_ids)). Never blocks.
    ///
    /// # Errors
    ///
    /// [`std::io::ErrorKind::Unsupported`] without connection IDs, on the server's side, and if
    /// [`Client::bind`](crate::Client::bind) chose the port; [`std::io::ErrorKind::NotConnected`] after the end of the
    /// association.
    pub fn change_port(&mut self) -> std::io::Result<()> {
        let Some(transport) = &mut self.transport else {
            return Err(std::io::ErrorKind::NotConnected.into());
        };
        match transport {
            Transport::Udp(transport)
                if self.owner.is_none() && self.association.summary().connection_ids =>
            {
                let local = transport.change_port()?;
                self.association.set_local_address(local);
                Ok(())
            }
            _ => Err(std::io::ErrorKind::Unsupported.into()),
        }
    }

    /// Returns the address before the peer's last change of address, once.
    pub(crate) fn take_moved(&mut self) -> Option<SocketAddr> {
        self.moved_from.take().map(|from| *from)
    }

    /// Ends the association and returns the reason. If the peer has ended it before and that has not been read yet, the
    /// peer's end is the reason.
    pub(crate) fn finish(&mut self) -> EndReason {
        if self.association.attention.signals() & signal::TOO_SLOW != 0 {
            return self.finish_with(EndReason::TooSlow, None);
        }
        self.look_for_end();
        let draining = self.association.attention.signals() & (signal::DRAIN | signal::STOP) != 0;
        self.finish_with(if draining { EndReason::Shutdown } else { EndReason::ClosedByUs }, None)
    }

    /// Ends the association because its handler failed or panicked. A failure is counted even if the association has
    /// already ended, but only once: [`Callbacks`](crate::Callbacks) end it before the result of their handler arrives
    /// here.
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

    /// Ends the association like [`finish`](Self::finish), for this reason. The order is fixed: first close_notify,
    /// then the socket, then the addresses, so that a pair of addresses never has two sockets. On SCTP it may block
    /// until the peer has acknowledged the sent messages, at most for [`Timeouts::send`].
    #[cold]
    #[inline(never)]
    pub(crate) fn finish_with(
        &mut self,
        reason: EndReason,
        for_successor: Option<ForSuccessor>,
    ) -> EndReason {
        let has_ended = self.association.end_reason().is_some();
        if !has_ended && matches!(reason, EndReason::ClosedByUs | EndReason::Shutdown) {
            // Messages in the outbox are sent first, as far as the send buffer has room now.
            flush(&self.association);
        }
        let open = self.association.end(&reason);
        let begins_anew = reason == EndReason::Replaced;
        // Another thread that cannot wait may have ended the association or set the reason.
        let reason = self.association.end_reason().cloned().unwrap_or(reason);
        let Some(transport) = self.transport.take() else { return reason };
        let (mut for_successor, mut closing) = (for_successor, None);
        if let Transport::Sctp(transport) = &transport
            && (begins_anew || reason == EndReason::Replaced)
        {
            // The peer restarted: its next association uses the same socket, unless another thread has shut that down
            // for reading.
            self.association.attention.wake_no_more();
            match self.association.attention.is_shut() {
                false => for_successor = Some(ForSuccessor::Socket(Arc::clone(transport.socket()))),
                true => crate::net::sctp::abort(transport.socket(), b"closed"),
            }
        } else if let Some(Open { mut session, .. }) = open {
            let is_stopped = self.association.attention.signals() & signal::STOP != 0;
            let (patience, now) = (session.patience(self.send_timeout, is_stopped), Instant::now());
            session.begin_end(&reason, patience, now);
            closing = Some(session);
        }
        let mut closing = Closing { session: closing, transport, for_successor };
        if self.driven {
            if closing.continue_end(Instant::now()).is_some() {
                self.closing = Some(Box::new(closing));
                return reason;
            }
        } else if let Some(session) = &mut closing.session {
            session.await_end();
        }
        self.complete_end(&reason, closing);
        reason
    }

    /// Completes the end: closes the socket or passes it on, and releases the addresses.
    fn complete_end(&mut self, reason: &EndReason, closing: Closing) {
        let Closing { session, transport, for_successor } = closing;
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
        if let Some(owner) = &self.owner {
            let silent = self.association.received.load(Ordering::Relaxed) == 0;
            if silent && matches!(reason, EndReason::NoFirstMessage | EndReason::FrameTimedOut) {
                audit::silent(&self.association, reason);
            }
            // Before the association is forgotten, so that a shutdown sees one or the other.
            owner.handler_outlives_association();
            owner.association_ended(&self.association, reason, for_successor);
        }
    }
}

about_the_peer!(Peer);

impl Drop for Peer {
    fn drop(&mut self) {
        self.finish();
        self.end_now();
        self.owner.iter().for_each(|owner| owner.handler_returned());
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("association", &self.association).finish_non_exhaustive()
    }
}

//! Handlers made of callbacks: [`PeerEvents`], and [`Callbacks`], which runs them on a peer's own thread.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use crate::error::{EndReason, Error};
use crate::handler::{Admission, HandlerError, Incoming, PeerHandler, conclude};
use crate::peer::{Next, Peer, Sender};
use crate::sctp::{MessageInfo, Notification, NotificationKind, SendInfo};

/// Capacity of the message buffer that a quiet peer keeps, in bytes: the smallest read of a stream.
const MAX_KEPT: usize = 2 << 10;

/// A handler as a set of callbacks; [`Callbacks`] turns it into a [`PeerHandler`].
///
/// ```
/// use peeloff::{Callbacks, EndReason, HandlerError, Message, PeerEvents, Sender, Server};
///
/// struct Adder;
///
/// impl PeerEvents for Adder {
///     type State = i64;
///
///     fn open(&self, peer: &Sender) -> Result<i64, HandlerError> {
///         println!("{} is {:?}", peer.peer_address(), peer.identity());
///         Ok(0)
///     }
///
///     fn message(&self, sum: &mut i64, peer: &Sender, message: Message<'_>) -> Result<(), HandlerError> {
///         *sum += std::str::from_utf8(&message)?.trim().parse::<i64>()?;
///         peer.send(sum.to_string().as_bytes())?;
///         Ok(())
///     }
///
///     fn close(&self, sum: i64, peer: &Sender, reason: EndReason) {
///         println!("{} left at {sum}: {reason}", peer.peer_address());
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = Server::builder().listen("udp://127.0.0.1:0").start(Callbacks::new(Adder))?;
/// # server.handle().shutdown(std::time::Duration::ZERO);
/// # Ok(()) }
/// ```
///
/// # Contract
///
/// * [`open`](Self::open) is the first callback of a peer and [`close`](Self::close) the last. The callbacks of one
///   peer never overlap and come in the order of the events; those of different peers run at the same time.
/// * The callbacks of one peer may run on different threads. Keep a peer's data in [`State`](Self::State), not in
///   thread-locals.
/// * A callback sends with the [`Sender`], which never blocks. A callback that blocks delays the later callbacks of its
///   peer.
/// * To end the association, call [`Sender::close`] or return an error. After that only `close` is called, and no
///   message arrives.
/// * [`PeerHandler`] describes what each error means. If a send to another peer fails and a callback passes that error
///   on, it ends its own peer. A panic ends this association only; the state is then dropped and `close` is not called.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not implement the callbacks of `PeerEvents`",
    note = "`ServerBuilder::start` serves a function, a closure or another `PeerHandler`"
)]
pub trait PeerEvents: Send + Sync + 'static {
    /// What the callbacks keep for one peer.
    type State: Send + 'static;

    /// Decides whether to accept a new peer, as [`PeerHandler::admit`] does.
    fn admit(&self, incoming: &Incoming) -> Admission {
        let _ = incoming;
        Admission::Accept
    }

    /// Makes the state of a peer whose association has just opened: after the handshake, before the first message.
    ///
    /// # Errors
    ///
    /// An error ends the association. `close` is not called, because there is no state.
    fn open(&self, peer: &Sender) -> Result<Self::State, HandlerError>;

    /// Handles a message.
    ///
    /// # Errors
    ///
    /// An error ends the association.
    fn message(
        &self,
        state: &mut Self::State,
        peer: &Sender,
        message: Message<'_>,
    ) -> Result<(), HandlerError>;

    /// Handles the arrival of a message longer than `limit` bytes, which has been discarded. Only SCTP, TCP and TLS
    /// have such a limit: [`Settings::max_message`](crate::sctp::Settings::max_message) and
    /// [`TcpSettings::max_message`](crate::TcpSettings::max_message). The association continues if this returns `Ok`,
    /// so a callback can inform the peer in its own protocol.
    ///
    /// # Errors
    ///
    /// The default returns [`Error::MessageRefused`], which aborts the association and sends the peer the reason.
    fn message_refused(
        &self,
        state: &mut Self::State,
        peer: &Sender,
        limit: usize,
    ) -> Result<(), HandlerError> {
        let _ = (state, peer);
        Err(Error::MessageRefused { limit }.into())
    }

    /// Returns the SCTP notifications for which [`notification`](Self::notification) is called (RFC 6458 §6.1). The
    /// default is none. The method is called for each SCTP peer, after `open`. If the kernel does not support one of
    /// the notifications, the association ends with that error.
    fn notifications(&self) -> &[NotificationKind] {
        &[]
    }

    /// Handles an SCTP notification.
    ///
    /// # Errors
    ///
    /// An error ends the association.
    fn notification(
        &self,
        state: &mut Self::State,
        peer: &Sender,
        notification: &Notification,
    ) -> Result<(), HandlerError> {
        let _ = (state, peer, notification);
        Ok(())
    }

    /// Handles a change of the peer's address, on DTLS with connection IDs
    /// ([`ServerBuilder::connection_ids`](crate::ServerBuilder::connection_ids)): [`Sender::peer_address`] is the new
    /// address, and `previous` is the one before.
    ///
    /// # Errors
    ///
    /// An error ends the association.
    fn address_changed(
        &self,
        state: &mut Self::State,
        peer: &Sender,
        previous: SocketAddr,
    ) -> Result<(), HandlerError> {
        let _ = (state, peer, previous);
        Ok(())
    }

    /// Returns when [`timeout`](Self::timeout) is due next; `None`, the default, if no timer is set. It is called after
    /// each other callback, so it suffices to keep an [`Instant`] in the state. Compute that instant from
    /// [`Sender::now`].
    fn next_timeout(&self, state: &Self::State) -> Option<Instant> {
        let _ = state;
        None
    }

    /// Handles the timer that was due at [`next_timeout`](Self::next_timeout), which should return a later time or
    /// `None` afterwards. `now` is the due time or later: a timer that is due runs before the next message is read, and
    /// between two timer calls the peer's data gets a turn.
    ///
    /// # Errors
    ///
    /// An error ends the association.
    fn timeout(&self, state: &mut Self::State, peer: &Sender, now: Instant) -> Result<(), HandlerError> {
        let _ = (state, peer, now);
        Ok(())
    }

    /// Handles the start of a server shutdown. It is called once: as soon as the peer is quiet, or after a second if it
    /// is not. The default closes the association. An implementation that does not close it lets the association
    /// continue until the peer or a callback closes it, or the grace period ends.
    ///
    /// # Errors
    ///
    /// An error ends the association.
    fn draining(&self, state: &mut Self::State, peer: &Sender) -> Result<(), HandlerError> {
        let _ = state;
        peer.close();
        Ok(())
    }

    /// Serializes the state of a peer for the process that takes over the server
    /// ([`Handle::hand_over`](crate::Handle::hand_over)); that process passes the bytes to [`restore`](Self::restore).
    /// With `None`, the default, the peer stays in this process, which drains.
    ///
    /// It is called for UDP and DTLS peers that share sockets, on the thread that runs the hand-over, while no other
    /// callback of the peer runs. It must not block, because no peer is served meanwhile. It must not change the state:
    /// this process continues to serve the peer if the other process fails. A peer whose state is longer than 64 KiB is
    /// not handed over.
    ///
    /// After a hand-over, [`close`](Self::close) is called with [`EndReason::HandedOver`].
    fn save(&self, state: &Self::State, peer: &Sender) -> Option<Vec<u8>> {
        let _ = (state, peer);
        None
    }

    /// Makes the state of a peer that another process has served so far, from the bytes that its [`save`](Self::save)
    /// returned. It replaces [`open`](Self::open) and runs on the thread that starts the server. Messages sent from it
    /// wait until the hand-over is complete.
    ///
    /// # Errors
    ///
    /// An error leaves the peer in the other process. The default returns an error.
    fn restore(&self, saved: &[u8], peer: &Sender) -> Result<Self::State, HandlerError> {
        let _ = (saved, peer);
        Err("these callbacks restore no state".into())
    }

    /// Receives the state back after the association has ended for `reason`; nothing can be sent to the peer any more.
    /// The peer's addresses are already free: a new association from the same address may have opened.
    /// [`Handle::shutdown`](crate::Handle::shutdown) waits for this call, until its grace period is over.
    fn close(&self, state: Self::State, peer: &Sender, reason: EndReason) {
        let _ = (state, peer, reason);
    }
}

/// A message as a callback receives it; it dereferences to its bytes.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    bytes: &'a [u8],
    info: Option<MessageInfo>,
}

impl<'a> Message<'a> {
    /// Makes a message of these bytes, for tests that call a callback themselves. `info` is the SCTP metadata of the
    /// message.
    pub fn new(bytes: &'a [u8], info: Option<MessageInfo>) -> Self {
        Self { bytes, info }
    }

    /// Returns the content. It may be empty on plain UDP and on streams with a framing.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns the stream, the payload protocol identifier and the order of a message that arrived over SCTP; `None` on
    /// any other transport.
    pub fn info(&self) -> Option<MessageInfo> {
        self.info
    }

    /// Returns the send options for an answer with [`Sender::send_with`]: on SCTP the same stream, payload protocol
    /// identifier and order. Other transports ignore them.
    pub fn reply(&self) -> SendInfo {
        self.info.as_ref().map(MessageInfo::reply).unwrap_or_default()
    }
}

impl Deref for Message<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

impl AsRef<[u8]> for Message<'_> {
    fn as_ref(&self) -> &[u8] {
        self.bytes
    }
}

impl fmt::Debug for Message<'_> {
    /// Omits the content, which may be long or secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message").field("len", &self.bytes.len()).field("info", &self.info).finish()
    }
}

/// Turns [`PeerEvents`] into a [`PeerHandler`]: each peer's callbacks run on its own thread.
/// [`ServerBuilder::start_events`](crate::ServerBuilder::start_events) serves them with few threads instead.
///
/// [`handle`](PeerHandler::handle) works on any [`Peer`], so a test can run the callbacks itself, and a client can use
/// callbacks too.
pub struct Callbacks<E>(Arc<E>);

impl<E: PeerEvents> Callbacks<E> {
    /// Turns the callbacks into a handler for [`ServerBuilder::start`](crate::ServerBuilder::start).
    pub fn new(events: E) -> Self {
        Self(Arc::new(events))
    }

    /// Turns shared callbacks into a handler.
    pub(crate) fn shared(events: Arc<E>) -> Self {
        Self(events)
    }
}

impl<E: PeerEvents> PeerHandler for Callbacks<E> {
    fn admit(&self, incoming: &Incoming) -> Admission {
        self.0.admit(incoming)
    }

    fn handle(&self, peer: &mut Peer) -> Result<(), HandlerError> {
        let mut open = Open::begin(&self.0, peer)?;
        let mut message = Vec::new();
        let outcome = loop {
            match open.step(peer, &mut message, true) {
                Ok(Step::Over) => break Ok(()),
                Ok(Step::Called | Step::Quiet) => {}
                Err(error) => break Err(error),
            }
            if message.capacity() > MAX_KEPT {
                message = Vec::new();
            }
        };
        let reason = conclude(peer, &outcome);
        open.close(reason);
        outcome
    }
}

/// Callbacks with their types erased, for code that drives peers itself.
pub(crate) trait AnyEvents: Send + Sync {
    /// Calls `open`.
    fn begin(&self, peer: &mut Peer) -> Result<Box<dyn AnyOpen>, HandlerError>;

    /// Calls `restore`.
    fn resume(&self, saved: &[u8], peer: &mut Peer) -> Result<Box<dyn AnyOpen>, HandlerError>;
}

/// A peer between its first callback and its last.
pub(crate) trait AnyOpen: Send {
    /// Runs at most one callback for the next event, and the timer callback if it is due. Waits for an event if
    /// `may_wait` is set.
    fn step(&mut self, peer: &mut Peer, message: &mut Vec<u8>, may_wait: bool) -> Result<Step, HandlerError>;

    /// Returns when the timer of the callbacks is due.
    fn next_timeout(&self) -> Option<Instant>;

    /// Calls `save`.
    fn save(&self) -> Option<Vec<u8>>;

    /// Calls `close`.
    fn close(self: Box<Self>, reason: EndReason);
}

/// Result of [`AnyOpen::step`].
pub(crate) enum Step {
    /// More callbacks may be due.
    Called,
    /// No event was pending.
    Quiet,
    /// The association has ended.
    Over,
}

impl<E: PeerEvents> AnyEvents for Arc<E> {
    fn begin(&self, peer: &mut Peer) -> Result<Box<dyn AnyOpen>, HandlerError> {
        Ok(Open::begin(self, peer)?)
    }

    fn resume(&self, saved: &[u8], peer: &mut Peer) -> Result<Box<dyn AnyOpen>, HandlerError> {
        let sender = peer.sender();
        let state = self.restore(saved, &sender)?;
        Ok(Box::new(Open { events: Arc::clone(self), sender, state, is_subscribed: true }))
    }
}

/// The callbacks of one open peer and their arguments.
struct Open<E: PeerEvents> {
    events: Arc<E>,
    sender: Sender,
    state: E::State,
    is_subscribed: bool,
}

impl<E: PeerEvents> Open<E> {
    fn begin(events: &Arc<E>, peer: &mut Peer) -> Result<Box<Self>, HandlerError> {
        let sender = peer.sender();
        let state = events.open(&sender)?;
        Ok(Box::new(Self { events: Arc::clone(events), sender, state, is_subscribed: false }))
    }

    fn subscribe(&self, peer: &mut Peer) -> Result<(), Error> {
        let Some(mut sctp) = peer.sctp() else { return Ok(()) };
        self.events.notifications().iter().try_for_each(|kind| sctp.subscribe(*kind, true))
    }
}

impl<E: PeerEvents> AnyOpen for Open<E> {
    fn step(&mut self, peer: &mut Peer, message: &mut Vec<u8>, may_wait: bool) -> Result<Step, HandlerError> {
        if !std::mem::replace(&mut self.is_subscribed, true) {
            self.subscribe(peer)?;
        }
        let Self { events, sender, state, .. } = self;
        let mut due = events.next_timeout(state);
        // The timer runs at most once between two reads, so a timer that is always due does not starve the peer, and a
        // peer that never pauses does not starve the timer.
        if let Some(at) = due
            && let now = sender.now()
            && at <= now
            && !sender.is_closing()
        {
            events.timeout(state, sender, now)?;
            due = events.next_timeout(state);
        }
        // With a time that has passed, only data that has already arrived is read.
        let until = if may_wait { due } else { Some(peer.opened_at()) };
        match peer.next_into(message, until) {
            Ok(Next::Message(_)) => {
                // The message came from the new address, and answers go there.
                if let Some(previous) = peer.take_moved() {
                    events.address_changed(state, sender, previous)?;
                }
                events.message(state, sender, Message::new(message, peer.message_info()))?;
            }
            Ok(Next::Notification(notification)) => events.notification(state, sender, &notification)?,
            Ok(Next::Moved(previous)) => events.address_changed(state, sender, previous)?,
            Ok(Next::Over) if peer.end_reason().is_some() => return Ok(Step::Over),
            Ok(Next::Over) => events.draining(state, sender)?,
            Err(Error::MessageRefused { limit }) => events.message_refused(state, sender, limit)?,
            Err(Error::TimedOut) => return Ok(Step::Quiet),
            Err(error) => return Err(error.into()),
        }
        Ok(Step::Called)
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.events.next_timeout(&self.state)
    }

    fn save(&self) -> Option<Vec<u8>> {
        self.events.save(&self.state, &self.sender)
    }

    fn close(self: Box<Self>, reason: EndReason) {
        let Self { events, sender, state, .. } = *self;
        events.close(state, &sender, reason);
    }
}

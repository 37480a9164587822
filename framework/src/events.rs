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

/// Memory for messages that a peer keeps while it is quiet, in bytes: what a read of a stream takes at least.
const MOST_KEPT: usize = 2 << 10;

/// A handler as a set of callbacks; [`Callbacks`] makes it a [`PeerHandler`].
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
/// * [`open`](Self::open) is the first callback of a peer and [`close`](Self::close) the last. The callbacks of one peer never
///   overlap and keep the order of what they tell; those of different peers run at the same time.
/// * Nothing promises that the callbacks of a peer run on one thread. Keep what belongs to a peer in
///   [`State`](Self::State), not in thread-locals.
/// * A callback sends with the [`Sender`], which never blocks. A callback that blocks delays the later ones of its peer.
/// * To end the association, call [`Sender::close`] or return an error. No message comes after that, only `close`.
/// * What an error means is written at [`PeerHandler`]; that of a send to another peer ends this one, too, if it is passed on.
///   A panic ends this association alone; then the state is dropped and
///   `close` is not called.
pub trait PeerEvents: Send + Sync + 'static {
    /// What the callbacks keep for one peer.
    type State: Send + 'static;

    /// Decides whether to take a new peer, as [`PeerHandler::admit`] does.
    fn admit(&self, incoming: &Incoming) -> Admission {
        let _ = incoming;
        Admission::Accept
    }

    /// Makes the state of a peer whose association has opened: after the handshake, before any message.
    ///
    /// # Errors
    ///
    /// An error ends the association. `close` is not called, as there is no state.
    fn open(&self, peer: &Sender) -> Result<Self::State, HandlerError>;

    /// Takes a message.
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

    /// Takes note of a message that was longer than `limit` bytes and was thrown away, on SCTP, TCP and TLS: their limits are
    /// [`Settings::max_message`](crate::sctp::Settings::max_message) and
    /// [`TcpSettings::max_message`](crate::TcpSettings::max_message). With `Ok` the association goes on, so a callback may tell
    /// the peer in its own protocol.
    ///
    /// # Errors
    ///
    /// The default returns [`Error::MessageRefused`], which aborts the association and tells the peer the reason.
    fn message_refused(
        &self,
        state: &mut Self::State,
        peer: &Sender,
        limit: usize,
    ) -> Result<(), HandlerError> {
        let _ = (state, peer);
        Err(Error::MessageRefused { limit }.into())
    }

    /// Returns which notifications of SCTP the callback [`notification`](Self::notification) is called for
    /// (RFC 6458 §6.1). The default is none. It is asked for each SCTP peer, after `open`; if the kernel does not know one of
    /// them, the association ends with that error.
    fn notifications(&self) -> &[NotificationKind] {
        &[]
    }

    /// Takes a notification of SCTP.
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

    /// Takes note that the peer's address has changed, on DTLS with connection IDs
    /// ([`ServerBuilder::connection_ids`](crate::ServerBuilder::connection_ids)): [`Sender::peer_address`] is the new one, and
    /// `previous` was the one before.
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

    /// Returns when [`timeout`](Self::timeout) is due next; `None`, the default, while there is nothing to wait for. It is asked
    /// after each other callback, so a state that keeps an [`Instant`] is all it takes. Reckon it from [`Sender::now`].
    fn next_timeout(&self, state: &Self::State) -> Option<Instant> {
        let _ = state;
        None
    }

    /// Does what was due at [`next_timeout`](Self::next_timeout), which should return a later time or `None` from then on. `now` is
    /// that time or a later one: after a message the timer comes first if it is due, and between two calls whatever the peer has
    /// sent gets its turn.
    ///
    /// # Errors
    ///
    /// An error ends the association.
    fn timeout(&self, state: &mut Self::State, peer: &Sender, now: Instant) -> Result<(), HandlerError> {
        let _ = (state, peer, now);
        Ok(())
    }

    /// Takes note that the server shuts down: called once, as soon as the peer is quiet, or after a second if it is not. The
    /// default closes the association. Without that it goes on until its peer or a callback closes it, or the grace period ends.
    ///
    /// # Errors
    ///
    /// An error ends the association.
    fn draining(&self, state: &mut Self::State, peer: &Sender) -> Result<(), HandlerError> {
        let _ = state;
        peer.close();
        Ok(())
    }

    /// Writes the state of a peer for the process that takes the server over
    /// ([`Handle::hand_over`](crate::Handle::hand_over)), whose [`restore`](Self::restore) reads it. `None`, the default: the
    /// peer stays in this process, which drains. It is asked for peers of UDP and DTLS that share sockets, while no other callback of
    /// the peer runs, on the thread that hands over, and must not block: nobody is served meanwhile. Where the other process then does not
    /// go on, this one does, so the state stays as it is. Of an answer longer than 64 KiB nothing is handed over.
    ///
    /// After a hand-over [`close`](Self::close) is called with [`EndReason::HandedOver`].
    fn save(&self, state: &Self::State, peer: &Sender) -> Option<Vec<u8>> {
        let _ = (state, peer);
        None
    }

    /// Makes the state of a peer that another process has served so far, in place of [`open`](Self::open), from what its
    /// [`save`](Self::save) wrote. It runs on the thread that starts the server. What it sends waits until the peer is here for good.
    ///
    /// # Errors
    ///
    /// An error, which the default is, leaves the peer in the other process.
    fn restore(&self, saved: &[u8], peer: &Sender) -> Result<Self::State, HandlerError> {
        let _ = (saved, peer);
        Err("these callbacks restore no state".into())
    }

    /// Takes the state back. The association has ended for this `reason`, and nothing can be sent to the peer any more. Its
    /// addresses are free by then: the next association from there may have opened, and
    /// [`Handle::shutdown`](crate::Handle::shutdown) may have returned.
    fn close(&self, state: Self::State, peer: &Sender, reason: EndReason) {
        let _ = (state, peer, reason);
    }
}

/// A message, as a callback receives it; it dereferences to its bytes.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    bytes: &'a [u8],
    info: Option<MessageInfo>,
}

impl<'a> Message<'a> {
    /// Makes a message of these bytes, for tests that call a callback themselves. `info` is what came with it on SCTP.
    pub fn new(bytes: &'a [u8], info: Option<MessageInfo>) -> Self {
        Self { bytes, info }
    }

    /// Returns the content. On plain UDP and on streams with a framing it may be empty.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns the stream, the payload protocol identifier and the order of a message that came over SCTP; `None` on any other
    /// transport.
    pub fn info(&self) -> Option<MessageInfo> {
        self.info
    }

    /// Returns how to answer it with [`Sender::send_with`]: on SCTP on the same stream, with the same payload protocol identifier
    /// and order. Other transports ignore that.
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
    /// Leaves the content out, which may be long or secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message").field("len", &self.bytes.len()).field("info", &self.info).finish()
    }
}

/// Makes [`PeerEvents`] a [`PeerHandler`]: each peer's callbacks run on its own thread.
/// [`ServerBuilder::start_events`](crate::ServerBuilder::start_events) serves them with few threads instead.
///
/// [`handle`](PeerHandler::handle) works on any [`Peer`], so a test may run the callbacks by hand, and a client may use
/// callbacks, too.
pub struct Callbacks<E>(Arc<E>);

impl<E: PeerEvents> Callbacks<E> {
    /// Makes the callbacks a handler for [`ServerBuilder::start`](crate::ServerBuilder::start).
    pub fn new(events: E) -> Self {
        Self(Arc::new(events))
    }

    /// Makes callbacks that are shared a handler.
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
            if message.capacity() > MOST_KEPT {
                message = Vec::new();
            }
        };
        let reason = conclude(peer, &outcome);
        open.close(reason);
        outcome
    }
}

/// Callbacks of any kind, for those who drive peers themselves.
pub(crate) trait AnyEvents: Send + Sync {
    /// Calls `open`.
    fn begin(&self, peer: &mut Peer) -> Result<Box<dyn AnyOpen>, HandlerError>;

    /// Calls `restore`.
    fn resume(&self, saved: &[u8], peer: &mut Peer) -> Result<Box<dyn AnyOpen>, HandlerError>;
}

/// A peer between its first callback and its last.
pub(crate) trait AnyOpen: Send {
    /// Calls back at most once for what comes next, and once for the timer. Waits for what comes, if it may.
    fn step(&mut self, peer: &mut Peer, message: &mut Vec<u8>, may_wait: bool) -> Result<Step, HandlerError>;

    /// When the timer of the callbacks is due.
    fn next_timeout(&self) -> Option<Instant>;

    /// Calls `save`.
    fn save(&self) -> Option<Vec<u8>>;

    /// Calls `close`.
    fn close(self: Box<Self>, reason: EndReason);
}

/// What came of [`AnyOpen::step`].
pub(crate) enum Step {
    /// There may be more to call back for.
    Called,
    /// There was nothing.
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

/// What the callbacks of one peer are called with.
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
        // One call between two reads: neither a timer that is always due nor a peer that never pauses keeps the other
        // from its turn.
        if let Some(at) = due
            && let now = sender.now()
            && at <= now
            && !sender.is_closing()
        {
            events.timeout(state, sender, now)?;
            due = events.next_timeout(state);
        }
        // A time that is over takes what is there.
        let until = if may_wait { due } else { Some(peer.opened_at()) };
        match peer.next_into(message, until) {
            Ok(Next::Message(_)) => {
                // It came from there, and is answered there.
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

//! Sends to a peer from any thread.

mod about;
#[cfg(all(test, shuttle))]
mod model;

use std::fmt;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use crate::association::{Association, Link};
use crate::drive::open::{Hold, Open};
use crate::drive::{Session, with_record};
use crate::error::{EndReason, Error, TrySendError};
use crate::net::attention::{InboxItem, signal};
use crate::outbox::{Overflow, PostOutcome, Pushed, Queue};
use crate::protocol::Sent;
use crate::protocol::dtls::filter::is_handshake_retransmission;
use crate::sctp::{Options, SendInfo};
use crate::sys::message;
use crate::sys::sync::atomic::Ordering;

pub(crate) use self::about::about_the_peer;

/// How long after a resumed handshake a client checks whether the server asks for its last flight. Every server has
/// given up by then.
const ANSWERING: Duration = Duration::from_secs(120);
/// Maximum number of repeated flights that one send reads from the socket.
const MAX_REPEATS: usize = 16;
/// Room for the first record of any repeated flight, in bytes.
const HEAD: usize = 2048;

/// Sends to one peer. It can be cloned, and used from any thread while the peer's own thread waits in `recv` or runs
/// other code.
///
/// The calling thread encrypts and sends the message; the peer's thread is not woken. If the socket's send buffer is
/// full (on TCP, with [`TcpSettings::max_pending`](crate::TcpSettings::max_pending) further bytes), messages wait in
/// the peer's outbox. All of these are bounded. A sender does not keep the association alive.
#[derive(Clone)]
pub struct Sender {
    association: Arc<Association>,
}

impl Sender {
    pub(crate) fn new(association: Arc<Association>) -> Self {
        Self { association }
    }

    /// Sends one message, or copies it into the peer's bounded outbox ([`OutboxLimits`](crate::OutboxLimits)) if there
    /// is no room. Messages leave the outbox when there is room: at once while the peer's handler waits in `recv`,
    /// otherwise within two seconds. Messages keep their order. Never blocks on the network, but may wait for another
    /// thread that is encrypting a message to the same peer.
    ///
    /// This is the call for most uses. [`post`](Self::post) avoids the copy if many peers get the same message, and
    /// reports what happened to it. [`try_send`](Self::try_send) does not use the outbox and returns an unsent message.
    ///
    /// # Errors
    ///
    /// With each error the message is not sent. [`Error::SendBufferFull`]: the outbox has no room either. With
    /// [`Overflow::DropNewest`] it is full; with [`Overflow::DropOldest`] this happens only if the message alone is
    /// longer than [`max_bytes`](crate::OutboxLimits::max_bytes), or if the outbox may hold no message.
    /// [`Error::Ended`]: the association has ended, or ends now because the outbox is full ([`Overflow::Disconnect`]).
    /// Also [`Error::MessageTooLarge`], [`Error::EmptyMessage`], [`Error::Unproven`].
    ///
    /// A handler that passes an error on with `?` ends its own peer, even if this sender belongs to another peer.
    pub fn send(&self, message: &[u8]) -> Result<(), Error> {
        self.send_with(message, &SendInfo::default())
    }

    /// Sends like [`send`](Self::send), with the stream and the other options that SCTP offers to a sender; other
    /// transports ignore them.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), and [`Error::NoSuchStream`].
    pub fn send_with(&self, message: &[u8], how: &SendInfo) -> Result<(), Error> {
        self.association.check_size(message)?;
        match self.offer(message, || Arc::from(message), how) {
            Offered::Sent(sent) => self.conclude(sent, message, how),
            Offered::Queued(_) => Ok(()),
            Offered::Refused if self.disconnects() => Err(Error::Ended(EndReason::TooSlow)),
            Offered::Refused => Err(Error::SendBufferFull),
        }
    }

    /// Sends one message if there is room for it now. Never blocks on the network, but may wait for another thread that
    /// is encrypting a message to the same peer.
    ///
    /// # Errors
    ///
    /// Each error returns the message.
    pub fn try_send<M: AsRef<[u8]>>(&self, message: M) -> Result<(), TrySendError<M>> {
        self.try_send_with(message, &SendInfo::default())
    }

    /// Sends like [`try_send`](Self::try_send), with the stream and the other options that SCTP offers to a sender;
    /// other transports ignore them.
    ///
    /// # Errors
    ///
    /// Each error returns the message.
    pub fn try_send_with<M: AsRef<[u8]>>(&self, message: M, how: &SendInfo) -> Result<(), TrySendError<M>> {
        let bytes = message.as_ref();
        let sent = self.association.check_size(bytes).and_then(|()| {
            let sent = with_record(|record| lock_and_send(&self.association, bytes, how, record));
            self.conclude(sent, bytes, how)
        });
        match sent {
            Ok(()) => Ok(()),
            Err(error) => Err(TrySendError { message, error }),
        }
    }

    /// Sends one shared message, or queues it in the peer's outbox like [`send`](Self::send), without a copy: one
    /// buffer serves any number of peers. In the common case the calling thread sends, and no other thread is woken.
    /// Never blocks on the network, but may wait for another thread that is encrypting a message to the same peer.
    pub fn post(&self, message: &Arc<[u8]>) -> PostOutcome {
        self.post_with(message, &SendInfo::default())
    }

    /// Posts like [`post`](Self::post), with the stream and the other options that SCTP offers to a sender; other
    /// transports ignore them.
    pub fn post_with(&self, message: &Arc<[u8]>, how: &SendInfo) -> PostOutcome {
        if self.association.check_size(message).is_err() {
            return PostOutcome::Unsendable;
        }
        match self.offer(message, || Arc::clone(message), how) {
            Offered::Sent(sent) => match self.conclude(sent, message, how) {
                Ok(()) => PostOutcome::Sent,
                Err(Error::Ended(_)) => PostOutcome::Ended,
                Err(Error::Unproven) => {
                    self.association.dropped.fetch_add(1, Ordering::Relaxed);
                    PostOutcome::Dropped
                }
                Err(_) => PostOutcome::Unsendable,
            },
            Offered::Queued(0) => PostOutcome::Queued,
            Offered::Refused if self.disconnects() => PostOutcome::Disconnected,
            Offered::Queued(_) | Offered::Refused => PostOutcome::Dropped,
        }
    }

    /// Sends a message, or queues it in the outbox if there is no room.
    fn offer(&self, message: &[u8], shared: impl FnOnce() -> Arc<[u8]>, how: &SendInfo) -> Offered {
        let association = &*self.association;
        answer_repeated_flight(association);
        let mut link = association.link.lock();
        let Link::Open(open) = &mut *link else { return Offered::Sent(None) };
        if open.hold == Hold::Refuse {
            return Offered::Sent(None);
        }
        let mut outbox = association.outbox.lock();
        let sent = with_record(|record| send_behind(association, open, &mut outbox, message, how, record));
        if sent != Sent::Full {
            if matches!(sent, Sent::Done | Sent::Parked) {
                association.count_sent(message.len());
            }
            return Offered::Sent(Some(sent));
        }
        let pushed = outbox.push(shared(), how, &association.outbox_bound);
        let (offered, dropped, signal) = match pushed {
            Pushed::Queued(dropped) => (Offered::Queued(dropped), dropped, signal::FLUSH),
            Pushed::Refused if self.disconnects() => (Offered::Refused, 1, signal::TOO_SLOW),
            Pushed::Refused => (Offered::Refused, 1, 0),
        };
        // Counted under the lock, so that the final counts of an association that ends next include it.
        association.dropped.fetch_add(dropped, Ordering::Relaxed);
        drop((outbox, link));
        if signal != 0 {
            association.attention.raise(signal);
        }
        offered
    }

    /// Signals the work that a send leaves to the peer's thread, and returns the error of a failed send.
    fn conclude(&self, sent: Option<Sent>, message: &[u8], how: &SendInfo) -> Result<(), Error> {
        Err(match sent {
            Some(Sent::Done) => return Ok(()),
            Some(Sent::Parked) => {
                self.association.attention.raise(signal::FLUSH);
                return Ok(());
            }
            Some(Sent::Full) => Error::SendBufferFull,
            Some(Sent::Unproven) => Error::Unproven,
            Some(Sent::TooLarge) => self.association.too_large(message),
            Some(Sent::NoSuchStream) => Error::NoSuchStream { stream: how.stream },
            Some(Sent::Gone) => Error::Ended(EndReason::ClosedByPeer),
            Some(Sent::Expired) => Error::Ended(self.association.ask_to_end(EndReason::Lifetime).clone()),
            Some(Sent::Broken(reason)) => Error::Ended(self.association.ask_to_end(reason).clone()),
            None => Error::Ended(self.end_reason().cloned().unwrap_or(EndReason::ClosedByUs)),
        })
    }

    /// Returns whether a peer is disconnected when its outbox is full.
    fn disconnects(&self) -> bool {
        self.association.outbox_bound.overflow == Overflow::Disconnect
    }

    /// Calls `call` with the SCTP options of this association, such as its streams and paths. Returns `None` on any
    /// other transport, when the association has ended, and for a peer of [`testing`](crate::testing), which has no
    /// socket.
    pub fn sctp_options<T>(&self, call: impl FnOnce(Options<'_>) -> T) -> Option<T> {
        let socket = self.association.attention.socket().filter(|_| self.scheme().is_sctp())?;
        Some(call(Options::of(&*socket)))
    }

    /// Asks the peer's thread to end the association: its `recv` returns, now or when it is called next. Before that,
    /// messages in the outbox are sent as far as the send buffer has room, and the rest is dropped. The reason is
    /// [`EndReason::ClosedByUs`] even if the peer has already closed and that has not been read yet.
    pub fn close(&self) {
        self.association.attention.raise(signal::CLOSE);
    }

    /// Returns whether another thread has asked to end the association.
    pub(crate) fn is_closing(&self) -> bool {
        self.association.attention.signals() & signal::FINAL != 0
    }

    /// Returns whether the association has ended.
    pub fn is_ended(&self) -> bool {
        self.end_reason().is_some()
    }
}

about_the_peer!(Sender);

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sender").field(&self.association).finish()
    }
}

/// Result of sending a message that may wait.
enum Offered {
    /// The message was not queued, and this is the result of sending it; `None` if the association is not open.
    Sent(Option<Sent>),
    /// The message is queued, and this many older messages were dropped.
    Queued(u64),
    /// The outbox had no room either.
    Refused,
}

/// Sends a message under the lock of the link; the send itself never blocks. Returns `None` if the association is not
/// open. After [`Sent::Parked`] the caller has to notify the worker. `record` is an empty buffer for records.
pub(crate) fn lock_and_send(
    association: &Association,
    message: &[u8],
    how: &SendInfo,
    record: &mut Vec<u8>,
) -> Option<Sent> {
    answer_repeated_flight(association);
    let mut link = association.link.lock();
    let Link::Open(open) = &mut *link else { return None };
    if open.hold == Hold::Refuse {
        return None;
    }
    let sent = send_behind(association, open, &mut association.outbox.lock(), message, how, record);
    if matches!(sent, Sent::Done | Sent::Parked) {
        association.count_sent(message.len());
    }
    Some(sent)
}

/// Sends the last flight of a resumed handshake again if the server repeats its own flight because the client's was
/// lost (RFC 6347 §4.2.4). Without this, a client that sends and never reads would send into an incomplete handshake.
/// Never blocks.
fn answer_repeated_flight(association: &Association) {
    if !association.answers_in_send.load(Ordering::Relaxed) || association.reading.load(Ordering::Relaxed) {
        return;
    }
    if association.opened.elapsed() > ANSWERING || !association.keeps_flight() {
        association.answers_in_send.store(false, Ordering::Relaxed);
        return association.forget_last_flight();
    }
    let Some(socket) = association.attention.socket() else { return };
    let mut head = [0; HEAD];
    let mut repeated = false;
    for _ in 0..MAX_REPEATS {
        let Ok(len) = message::peek(socket.as_fd(), &mut head) else { break };
        if !is_handshake_retransmission(&head[..len]) || association.reading.load(Ordering::Relaxed) {
            break;
        }
        // Removed from the queue, so that the next send does not answer it again.
        let mut datagram = Vec::new();
        if message::recv_from(socket.as_fd(), &mut datagram, false).is_err() {
            break;
        }
        if is_handshake_retransmission(&datagram) {
            repeated = true;
        } else {
            // The peer's own thread has begun to read and has taken the datagram that was peeked at.
            association.attention.deliver(InboxItem::datagram(&datagram), true);
        }
    }
    if repeated {
        association.repeat_last_flight();
    }
}

/// Sends a message of this association after those that wait in its outbox.
fn send_behind(
    association: &Association,
    open: &mut Open,
    outbox: &mut Queue,
    message: &[u8],
    how: &SendInfo,
    record: &mut Vec<u8>,
) -> Sent {
    let Open { session, deadlines, hold } = open;
    if deadlines.limits_lifetime() && deadlines.is_past_lifetime(association.now()) {
        return Sent::Expired;
    }
    if *hold != Hold::Free || (!outbox.is_empty() && empty(association, session, outbox, record)) {
        return Sent::Full;
    }
    transmit(association, session, message, how, record)
}

/// Sends a message if the peer's address is proven well enough for its length.
fn transmit(
    association: &Association,
    session: &mut Session,
    message: &[u8],
    how: &SendInfo,
    record: &mut Vec<u8>,
) -> Sent {
    match association.may_send(message.len()) {
        true => session.send(message, how, record),
        false => Sent::Unproven,
    }
}

/// Sends the messages of the outbox as far as there is room, and counts them. Returns `true` if some are left.
fn empty(association: &Association, session: &mut Session, outbox: &mut Queue, record: &mut Vec<u8>) -> bool {
    let (mut dropped, mut left) = (0, false);
    while let Some((message, how)) = outbox.front() {
        match transmit(association, session, message, how, record) {
            Sent::Full => {
                left = true;
                break;
            }
            Sent::Done | Sent::Parked => association.count_sent(message.len()),
            // The message is too large for a path that has changed, or the association has ended; no caller waits for
            // the result.
            _ => dropped += 1,
        }
        outbox.pop();
    }
    association.dropped.fetch_add(dropped, Ordering::Relaxed);
    left
}

/// Sends pending output on the worker's thread. Returns `true` if some is left.
pub(crate) fn flush(association: &Association) -> bool {
    let mut link = association.link.lock();
    let Link::Open(Open { session, hold: Hold::Free, .. }) = &mut *link else { return false };
    let left = !session.flush();
    let mut outbox = association.outbox.lock();
    if left || outbox.is_empty() {
        return left;
    }
    with_record(|record| empty(association, session, &mut outbox, record)) || session.has_unsent()
}

//! Sending to a peer from any thread.

mod about;
#[cfg(all(test, shuttle))]
mod model;

use std::fmt;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use crate::association::{Association, Link};
use crate::drive::Session;
use crate::drive::open::{Hold, Open};
use crate::error::{EndReason, Error, TrySendError};
use crate::net::attention::{Parcel, signal};
use crate::outbox::{Overflow, PostOutcome, Pushed, Queue};
use crate::protocol::Sent;
use crate::protocol::dtls::filter::is_handshake_retransmission;
use crate::sctp::{Options, SendInfo};
use crate::sys::message;
use crate::sys::sync::atomic::Ordering;

pub(crate) use self::about::about_the_peer;

/// How long after a resumed handshake a client looks whether the server asks for its last flight: by then every server has
/// given up.
const ANSWERING: Duration = Duration::from_secs(120);
/// Repeated flights that one send takes from the socket at most.
const MAX_REPEATS: usize = 16;
/// Holds the first record of any repeated flight.
const HEAD: usize = 2048;

/// Sends to one peer; clonable, and usable from any thread while the peer's own thread waits in
/// `recv` or is busy with something else.
///
/// A message is encrypted and sent by the calling thread; the peer's thread is not woken. Where the socket's send buffer is
/// full, on TCP with [`TcpSettings::max_pending`](crate::TcpSettings::max_pending) bytes more, messages wait in the peer's
/// outbox: each of these is bounded. A sender does not keep the association alive.
#[derive(Clone)]
pub struct Sender {
    association: Arc<Association>,
}

impl Sender {
    pub(crate) fn new(association: Arc<Association>) -> Self {
        Self { association }
    }

    /// Sends one message, or copies it into the peer's bounded outbox ([`OutboxLimits`](crate::OutboxLimits)) where there is no
    /// room. From there it leaves once there is: at once where the peer's handler waits in `recv`, else within two seconds;
    /// messages keep their order. Never blocks on the network, but may wait for another thread that is just encrypting to the
    /// same peer.
    ///
    /// This is the call for most uses. [`post`](Self::post) spares the copy where many peers get the same message, and tells
    /// what became of it; [`try_send`](Self::try_send) leaves the outbox alone and gives the message back.
    ///
    /// # Errors
    ///
    /// Each means that this message is not sent. [`Error::SendBufferFull`]: the outbox has no room, too; with
    /// [`Overflow::DropNewest`] because it is full, with [`Overflow::DropOldest`] only because this message alone is longer than
    /// [`max_bytes`](crate::OutboxLimits::max_bytes), or no message may wait. [`Error::Ended`]: the association has ended, or
    /// ends because the outbox is full ([`Overflow::Disconnect`]). [`Error::MessageTooLarge`], [`Error::EmptyMessage`],
    /// [`Error::Unproven`].
    ///
    /// A handler that passes an error on with `?` ends its own peer, also where this is the sender of another one.
    pub fn send(&self, message: &[u8]) -> Result<(), Error> {
        self.send_with(message, &SendInfo::default())
    }

    /// Sends like [`send`](Self::send), with the stream and everything else that SCTP lets a sender choose; other transports
    /// ignore it.
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

    /// Sends one message if there is room for it now. Never blocks on the network, but may wait for another thread that is just
    /// encrypting to the same peer.
    ///
    /// # Errors
    ///
    /// Each gives the message back.
    pub fn try_send<M: AsRef<[u8]>>(&self, message: M) -> Result<(), TrySendError<M>> {
        self.try_send_with(message, &SendInfo::default())
    }

    /// Sends like [`try_send`](Self::try_send), with the stream and everything else that SCTP lets a sender choose; other
    /// transports ignore it.
    ///
    /// # Errors
    ///
    /// Each gives the message back.
    pub fn try_send_with<M: AsRef<[u8]>>(&self, message: M, how: &SendInfo) -> Result<(), TrySendError<M>> {
        let bytes = message.as_ref();
        let sent = self.association.check_size(bytes).and_then(|()| {
            let sent = lock_and_send(&self.association, bytes, how);
            self.conclude(sent, bytes, how)
        });
        match sent {
            Ok(()) => Ok(()),
            Err(error) => Err(TrySendError { message, error }),
        }
    }

    /// Sends one message that is shared, or leaves it in the peer's outbox like [`send`](Self::send), without a copy: one buffer
    /// serves any number of peers. In the common case the calling thread sends, and no other one is woken. Never blocks on the
    /// network.
    pub fn post(&self, message: &Arc<[u8]>) -> PostOutcome {
        self.post_with(message, &SendInfo::default())
    }

    /// Posts like [`post`](Self::post), with the stream and everything else that SCTP lets a sender choose; other transports
    /// ignore it.
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

    /// Sends a message, or leaves it in the outbox where there is no room.
    fn offer(&self, message: &[u8], shared: impl FnOnce() -> Arc<[u8]>, how: &SendInfo) -> Offered {
        let association = &*self.association;
        answer_repeated_flight(association);
        let mut link = association.link.lock();
        let Link::Open(open) = &mut *link else { return Offered::Sent(None) };
        if open.hold == Hold::Refuse {
            return Offered::Sent(None);
        }
        let mut outbox = association.outbox.lock();
        let sent = send_behind(association, open, &mut outbox, message, how);
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
        // Under the lock: an end that comes next counts it.
        association.dropped.fetch_add(dropped, Ordering::Relaxed);
        drop((outbox, link));
        if signal != 0 {
            association.attention.raise(signal);
        }
        offered
    }

    /// Tells the peer's thread what a send leaves to it, and returns the error of one that failed.
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
            Some(Sent::Broken(why)) => {
                Error::Ended(self.association.ask_to_end(EndReason::Protocol(why)).clone())
            }
            None => Error::Ended(self.end_reason().cloned().unwrap_or(EndReason::ClosedByUs)),
        })
    }

    /// Whether a peer that does not take what is sent to it is disconnected.
    fn disconnects(&self) -> bool {
        self.association.outbox_bound.overflow == Overflow::Disconnect
    }

    /// Calls `call` with the SCTP options of this association, such as its streams and paths. Returns `None` on any other
    /// transport, when the association has ended, and for a peer of [`testing`](crate::testing), which has no socket.
    pub fn sctp_options<T>(&self, call: impl FnOnce(Options<'_>) -> T) -> Option<T> {
        let socket = self.association.attention.socket().filter(|_| self.scheme().is_sctp())?;
        Some(call(Options::of(&*socket)))
    }

    /// Asks the peer's thread to end the association: its `recv` returns, now or when it is called
    /// next. Messages in the outbox are sent before that as far as there is room for them, and the rest is dropped. The reason is
    /// [`EndReason::ClosedByUs`] also where the peer has said goodbye and nobody has read that yet.
    pub fn close(&self) {
        self.association.attention.raise(signal::CLOSE);
    }

    /// Returns whether somebody wants the association to end.
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

/// What became of a message that may wait.
enum Offered {
    /// There was room, and this came of it; `None`: the association is not open.
    Sent(Option<Sent>),
    /// It waits, and so many older ones are dropped.
    Queued(u64),
    /// There was no room in the outbox either.
    Refused,
}

/// Sends under the lock of the link; the send itself never blocks. `None`: not open. After [`Sent::Parked`] the
/// worker has to be told.
pub(crate) fn lock_and_send(association: &Association, message: &[u8], how: &SendInfo) -> Option<Sent> {
    answer_repeated_flight(association);
    let mut link = association.link.lock();
    let Link::Open(open) = &mut *link else { return None };
    if open.hold == Hold::Refuse {
        return None;
    }
    let sent = send_behind(association, open, &mut association.outbox.lock(), message, how);
    if matches!(sent, Sent::Done | Sent::Parked) {
        association.count_sent(message.len());
    }
    Some(sent)
}

/// Sends the last flight of a resumed handshake again, where the server repeats its own because that is lost (RFC 6347
/// §4.2.4). Without this a client that sends and never reads would send into a handshake that is not complete. Never blocks.
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
        // Else the next send would answer the same one.
        let mut datagram = Vec::new();
        if message::recv_from(socket.as_fd(), &mut datagram, false).is_err() {
            break;
        }
        if is_handshake_retransmission(&datagram) {
            repeated = true;
        } else {
            // The peer's own thread has begun to read, and took the other one.
            association.attention.deliver(Parcel::datagram(&datagram), true);
        }
    }
    if repeated {
        association.repeat_last_flight();
    }
}

/// Sends a message of this association behind those that wait.
fn send_behind(
    association: &Association,
    open: &mut Open,
    outbox: &mut Queue,
    message: &[u8],
    how: &SendInfo,
) -> Sent {
    let Open { session, deadlines, hold } = open;
    if deadlines.limits_lifetime() && deadlines.is_past_lifetime(association.now()) {
        return Sent::Expired;
    }
    if *hold != Hold::Free || (!outbox.is_empty() && empty(association, session, outbox)) {
        return Sent::Full;
    }
    transmit(association, session, message, how)
}

/// Sends a message, if the peer may be sent so much.
fn transmit(association: &Association, session: &mut Session, message: &[u8], how: &SendInfo) -> Sent {
    if association.may_send(message.len()) { session.send(message, how) } else { Sent::Unproven }
}

/// Sends what waits for this association, as far as there is room, and counts it; `true` where some is left.
fn empty(association: &Association, session: &mut Session, outbox: &mut Queue) -> bool {
    let (mut dropped, mut left) = (0, false);
    while let Some((message, how)) = outbox.front() {
        match transmit(association, session, message, how) {
            Sent::Full => {
                left = true;
                break;
            }
            Sent::Done | Sent::Parked => association.count_sent(message.len()),
            // Too large for a path that has changed, or the association is over: nobody waits for it.
            _ => dropped += 1,
        }
        outbox.pop();
    }
    association.dropped.fetch_add(dropped, Ordering::Relaxed);
    left
}

/// Sends what found no room, on the worker's thread; `true` where some of it is left.
pub(crate) fn flush(association: &Association) -> bool {
    let mut link = association.link.lock();
    let Link::Open(Open { session, hold: Hold::Free, .. }) = &mut *link else { return false };
    let left = !session.flush();
    let mut outbox = association.outbox.lock();
    if left || outbox.is_empty() {
        return left;
    }
    empty(association, session, &mut outbox) || session.has_unsent()
}

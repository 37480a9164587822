//! Sending to a peer from any thread.

#[cfg(all(test, shuttle))]
mod model;

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use crate::address::Scheme;
use crate::association::{Association, AssociationId, Link};
use crate::drive::Session;
use crate::error::TrySendError;
use crate::net::attention::{Parcel, signal};
use crate::outbox::{Overflow, Posted, Pushed, Queue};
use crate::protocol::Sent;
use crate::protocol::dtls::filter::is_handshake_retransmission;
use crate::sctp::SendInfo;
use crate::sys::message;
use crate::sys::sync::atomic::Ordering;

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
/// A message is encrypted and sent by the calling thread; the peer's thread is not woken. The queue
/// behind it is the socket's send buffer, on TCP with
/// [`StreamSettings::max_pending`](crate::StreamSettings::max_pending) bytes more, and for
/// [`post`](Self::post) the peer's outbox: each is bounded. A sender does not keep the association alive.
#[derive(Clone)]
pub struct Sender {
    association: Arc<Association>,
    max_message: usize,
    min_message: usize,
}

impl Sender {
    pub(crate) fn new(association: Arc<Association>, max_message: usize, min_message: usize) -> Self {
        Self { association, max_message, min_message }
    }

    /// Sends one message, without ever blocking on the network. It may wait for another thread
    /// that is just encrypting to the same peer.
    ///
    /// # Errors
    ///
    /// Each gives the message back.
    pub fn try_send<M: AsRef<[u8]>>(&self, message: M) -> Result<(), TrySendError<M>> {
        self.try_send_with(message, &SendInfo::default())
    }

    /// As [`try_send`](Self::try_send), with the stream and all else that SCTP lets a sender choose;
    /// other transports ignore it.
    ///
    /// # Errors
    ///
    /// Each gives the message back; [`TrySendError::Unsendable`] also where there is no such stream.
    pub fn try_send_with<M: AsRef<[u8]>>(&self, message: M, how: &SendInfo) -> Result<(), TrySendError<M>> {
        let bytes = message.as_ref();
        if bytes.len() > self.max_message || bytes.len() < self.min_message {
            return Err(TrySendError::Unsendable(message));
        }
        match lock_and_send(&self.association, bytes, how) {
            Some(Sent::Done) => Ok(()),
            Some(Sent::Parked) => {
                self.association.attention.raise(signal::FLUSH);
                Ok(())
            }
            Some(Sent::Full) => Err(TrySendError::Full(message)),
            Some(Sent::Unproven) => Err(TrySendError::Unproven(message)),
            Some(Sent::TooLarge | Sent::NoSuchStream) => Err(TrySendError::Unsendable(message)),
            Some(Sent::Gone) => Err(TrySendError::Ended(message)),
            Some(Sent::Broken(_)) => {
                self.close();
                Err(TrySendError::Ended(message))
            }
            None => Err(TrySendError::Ended(message)),
        }
    }

    /// Sends one message, or leaves it in the peer's bounded [`Outbox`](crate::Outbox) where there is no room,
    /// for the peer's own thread to send once there is: as soon as that waits in `recv`. Messages that wait
    /// keep their order and are shared, not copied: one buffer serves any number of peers. Never blocks on
    /// the network; in the common case the calling thread sends, and no other one is woken.
    pub fn post(&self, message: &Arc<[u8]>) -> Posted {
        self.post_with(message, &SendInfo::default())
    }

    /// As [`post`](Self::post), with the stream and all else that SCTP lets a sender choose; other transports
    /// ignore it.
    pub fn post_with(&self, message: &Arc<[u8]>, how: &SendInfo) -> Posted {
        if message.len() > self.max_message || message.len() < self.min_message {
            return Posted::Unsendable;
        }
        let association = &*self.association;
        answer_repeated_flight(association);
        let (posted, signal) = {
            let mut link = association.link.lock();
            let Link::Open(session) = &mut *link else { return Posted::Ended };
            let mut outbox = association.outbox.lock();
            match send_behind(association, session, &mut outbox, message, how) {
                sent @ (Sent::Done | Sent::Parked) => {
                    association.count_sent(message.len());
                    (Posted::Sent, if sent == Sent::Parked { signal::FLUSH } else { 0 })
                }
                Sent::Full => match outbox.push(message, how, &association.outbox_bound) {
                    Pushed::Queued(0) => (Posted::Queued, signal::FLUSH),
                    Pushed::Queued(dropped) => {
                        association.dropped.fetch_add(dropped, Ordering::Relaxed);
                        (Posted::Dropped, signal::FLUSH)
                    }
                    Pushed::Refused => {
                        association.dropped.fetch_add(1, Ordering::Relaxed);
                        match association.outbox_bound.overflow {
                            Overflow::Disconnect => (Posted::Disconnected, signal::TOO_SLOW),
                            _ => (Posted::Dropped, 0),
                        }
                    }
                },
                Sent::TooLarge | Sent::NoSuchStream => (Posted::Unsendable, 0),
                Sent::Unproven => {
                    association.dropped.fetch_add(1, Ordering::Relaxed);
                    (Posted::Dropped, 0)
                }
                Sent::Gone => (Posted::Ended, 0),
                Sent::Broken(_) => (Posted::Ended, signal::CLOSE),
            }
        };
        if signal != 0 {
            association.attention.raise(signal);
        }
        posted
    }

    /// Asks the peer's thread to end the association: its `recv` returns, now or when it is called
    /// next.
    pub fn close(&self) {
        self.association.attention.raise(signal::CLOSE);
    }

    /// Whether the association is over.
    pub fn is_ended(&self) -> bool {
        matches!(*self.association.link.lock(), Link::Ended(_))
    }

    /// The name of the association.
    pub fn id(&self) -> AssociationId {
        self.association.id
    }

    /// Where the peer is.
    pub fn peer_address(&self) -> SocketAddr {
        self.association.peer_address()
    }

    /// The address of this host that the peer talks to.
    pub fn local_address(&self) -> SocketAddr {
        self.association.local_address()
    }

    /// The protocol spoken.
    pub fn scheme(&self) -> Scheme {
        self.association.scheme
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sender").field(&self.association).finish()
    }
}

/// Sends under the lock of the link; the send itself never blocks. `None`: not open. After [`Sent::Parked`] the
/// worker has to be told.
pub(crate) fn lock_and_send(association: &Association, message: &[u8], how: &SendInfo) -> Option<Sent> {
    answer_repeated_flight(association);
    let mut link = association.link.lock();
    let Link::Open(session) = &mut *link else { return None };
    let sent = send_behind(association, session, &mut association.outbox.lock(), message, how);
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
    session: &mut Session,
    outbox: &mut Queue,
    message: &[u8],
    how: &SendInfo,
) -> Sent {
    if !outbox.is_empty() && empty(association, session, outbox) {
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
    let Link::Open(session) = &mut *link else { return false };
    let left = !session.flush();
    let mut outbox = association.outbox.lock();
    if left || outbox.is_empty() {
        return left;
    }
    empty(association, session, &mut outbox) || session.has_unsent()
}

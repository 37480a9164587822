//! Sending to a peer from any thread.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::address::Scheme;
use crate::association::{Association, AssociationId, Link, signal};
use crate::error::TrySendError;
use crate::sctp::SendInfo;
use crate::session::Sent;

/// Sends to one peer; clonable, and usable from any thread while the peer's own thread waits in
/// `recv` or is busy with something else.
///
/// A message is encrypted and sent by the calling thread; the peer's thread is not woken. The queue
/// behind it is the socket's send buffer, so it is bounded. A sender does not keep the association
/// alive.
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
            Some(Sent::Done | Sent::Parked) => Ok(()),
            Some(Sent::Full) => Err(TrySendError::Full(message)),
            Some(Sent::TooLarge | Sent::NoSuchStream) => Err(TrySendError::Unsendable(message)),
            Some(Sent::Gone) => Err(TrySendError::Ended(message)),
            Some(Sent::Broken(_)) => {
                self.close();
                Err(TrySendError::Ended(message))
            }
            None => Err(TrySendError::Ended(message)),
        }
    }

    /// Asks the peer's thread to end the association: its `recv` returns, now or when it is called
    /// next.
    pub fn close(&self) {
        self.association.raise(signal::CLOSE);
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
        self.association.peer
    }

    /// The address of this host that the peer talks to.
    pub fn local_address(&self) -> SocketAddr {
        self.association.local
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

/// Sends under the lock of the link; the send itself never blocks. `None`: not open.
pub(crate) fn lock_and_send(association: &Association, message: &[u8], how: &SendInfo) -> Option<Sent> {
    let mut link = association.link.lock();
    let Link::Open(session) = &mut *link else { return None };
    let sent = session.send(message, how);
    drop(link);
    if matches!(sent, Sent::Done | Sent::Parked) {
        association.sent.fetch_add(1, Ordering::Relaxed);
    }
    if sent == Sent::Parked {
        association.raise(signal::FLUSH);
    }
    Some(sent)
}

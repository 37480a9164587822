//! SCTP features of a peer beyond sending and receiving.

use std::fmt;
use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Next, Peer};
use crate::error::{EndReason, Error};
use crate::net::Transport;
use crate::sctp::{MessageInfo, Notification, NotificationKind, Options, SendInfo};

/// A peer on SCTP, with the features that only SCTP has; [`Peer::sctp`] makes one.
pub struct SctpPeer<'peer> {
    peer: &'peer mut Peer,
}

/// Result of [`SctpPeer::recv_event`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A message of this many bytes is in the buffer, with its metadata.
    Message(usize, MessageInfo),
    /// A notification that the handler [subscribed](SctpPeer::subscribe) to.
    Notification(Notification),
}

impl Peer {
    /// Returns the SCTP interface of the peer; `None` on any other transport and once the association has ended.
    pub fn sctp(&mut self) -> Option<SctpPeer<'_>> {
        (self.transport.is_some() && self.scheme().is_sctp()).then_some(SctpPeer { peer: self })
    }

    /// Returns the metadata of the last received message, and the default before the first message; `None` on
    /// transports other than SCTP.
    pub fn message_info(&self) -> Option<MessageInfo> {
        self.scheme().is_sctp().then_some(self.info)
    }

    /// Sends one message as an answer to the last received one: on SCTP on the same stream, with the same payload
    /// protocol identifier and order; on other transports as [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), and [`Error::NoSuchStream`] if the peer used a stream on which this side may not send.
    pub fn reply(&mut self, message: &[u8]) -> Result<(), Error> {
        let how = self.info.reply();
        self.send_with(message, &how)
    }
}

impl SctpPeer<'_> {
    /// Waits for a message or a notification, whichever comes first; returns `None` in the cases of [`Peer::recv`].
    /// Blocks as that does, on the calling thread, which is the peer's own.
    ///
    /// # Errors
    ///
    /// As [`Peer::recv`].
    pub fn recv_event(&mut self, buffer: &mut [u8]) -> Result<Option<Event>, Error> {
        self.event_until(buffer, None)
    }

    /// Waits like [`recv_event`](Self::recv_event), at most for `timeout`. A timeout of zero does not wait.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`], after which the association continues; otherwise as [`Peer::recv`].
    pub fn recv_event_timeout(
        &mut self,
        buffer: &mut [u8],
        timeout: Duration,
    ) -> Result<Option<Event>, Error> {
        self.event_until(buffer, self.peer.association.now().checked_add(timeout))
    }

    fn event_until(&mut self, buffer: &mut [u8], user: Option<Instant>) -> Result<Option<Event>, Error> {
        if let Some(notification) = self.next_notification() {
            return Ok(Some(Event::Notification(notification)));
        }
        Ok(match self.peer.next_until(buffer, user)? {
            Next::Message(len) => Some(Event::Message(len, self.peer.info)),
            // Only DTLS over UDP has connection IDs.
            Next::Moved(_) => None,
            Next::Notification(notification) => Some(Event::Notification(*notification)),
            Next::Over => None,
        })
    }

    /// Returns the oldest notification that arrived while [`Peer::recv`] waited for messages. Never blocks. The last
    /// 256 notifications are kept.
    pub fn next_notification(&mut self) -> Option<Notification> {
        self.peer.notifications.as_mut()?.pop_front()
    }

    /// Subscribes to a kind of notification, or cancels the subscription (SCTP_EVENT, RFC 6458 §6.2.2). The framework
    /// receives the notifications that it needs in any case.
    ///
    /// # Errors
    ///
    /// The kernel does not support this kind.
    pub fn subscribe(&mut self, kind: NotificationKind, wanted: bool) -> Result<(), Error> {
        use NotificationKind as Kind;
        let ours = matches!(
            kind,
            Kind::AssociationChanged | Kind::PeerShutDown | Kind::PartialDelivery | Kind::PathChanged
        );
        if let Some(Transport::Memory(transport)) = &mut self.peer.transport {
            transport.subscribe(kind, wanted);
            return Ok(());
        }
        if wanted || !ours {
            self.options()?.subscribe(kind, wanted)?;
        }
        if let Some(Transport::Sctp(transport)) = &mut self.peer.transport {
            transport.subscribe(kind, wanted);
        }
        Ok(())
    }

    /// Sends one message with the stream and the options in `how`; otherwise as [`Peer::send`].
    ///
    /// # Errors
    ///
    /// As [`Peer::send`], and [`Error::NoSuchStream`].
    pub fn send(&mut self, message: &[u8], how: &SendInfo) -> Result<(), Error> {
        self.peer.send_with(message, how)
    }

    /// Aborts the association at once. Messages that have not been delivered yet are lost. The peer receives the first
    /// 400 bytes of `reason` (RFC 9260 §9.1, cause 12).
    pub fn abort(self, reason: &[u8]) {
        let reason = &reason[..reason.len().min(400)];
        // Ended first, so that nothing is sent after the ABORT; messages in the outbox are lost too. If another thread
        // has already ended the association, its socket may belong to a successor.
        let ended = self.peer.association.end(&EndReason::ClosedByUs);
        match &self.peer.transport {
            _ if ended.is_none() => {}
            Some(Transport::Sctp(transport)) => crate::net::sctp::abort(transport.socket(), reason),
            Some(Transport::Memory(transport)) => transport.abort(reason),
            _ => {}
        }
        self.peer.finish_with(EndReason::ClosedByUs, None);
    }

    /// Returns the options of this association: addresses, paths, streams, timers.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] once the association has ended. On a peer of [`testing`](crate::testing), which has no socket,
    /// an [`io::Error`] of kind [`Unsupported`](io::ErrorKind::Unsupported).
    pub fn options(&self) -> Result<Options<'_>, Error> {
        match &self.peer.transport {
            Some(Transport::Sctp(transport)) => Ok(Options::of(&**transport.socket())),
            Some(_) => {
                let why = "a peer of peeloff::testing has no socket, so it has no options of one";
                Err(io::Error::new(io::ErrorKind::Unsupported, why).into())
            }
            None => Err(Error::Ended(self.peer.end_reason().cloned().unwrap_or(EndReason::ClosedByUs))),
        }
    }

    /// Returns the metadata of the last received message.
    pub fn message_info(&self) -> MessageInfo {
        self.peer.info
    }
}

/// SCTP parts of the receive loop of [`Peer`].
impl Peer {
    pub(super) fn message_limit(&self) -> usize {
        match &self.transport {
            Some(Transport::Sctp(transport)) => transport.limit(),
            _ => self.association.max_message(),
        }
    }

    /// Ends the association if its peer has acknowledged nothing for too long. Returns when to check again.
    pub(super) fn check_for_stall(&mut self, now: Instant) -> Option<Instant> {
        let sent = self.association.sent.load(Ordering::Relaxed);
        let Some(Transport::Sctp(transport)) = &mut self.transport else { return None };
        let next_check = transport.next_stall_check(sent, now)?;
        if now < next_check {
            return Some(next_check);
        }
        if transport.is_stalled(sent, now) {
            self.finish_with(EndReason::TooSlow, None);
            return None;
        }
        transport.next_stall_check(sent, now)
    }
}

impl fmt::Debug for SctpPeer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SctpPeer").field(&self.peer).finish()
    }
}

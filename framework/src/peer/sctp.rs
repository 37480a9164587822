//! What a handler can do with a peer on SCTP beyond sending and receiving.

use std::fmt;
use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Next, Peer};
use crate::error::{EndReason, Error};
use crate::net::Transport;
use crate::sctp::{MessageInfo, Notification, NotificationKind, Options, SendInfo};

/// A peer on SCTP, with what only SCTP has; [`Peer::sctp`] makes one.
pub struct SctpPeer<'peer> {
    peer: &'peer mut Peer,
}

/// What [`SctpPeer::recv_event`] found.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A message of so many bytes is in the buffer, and what came with it.
    Message(usize, MessageInfo),
    /// Something that was [subscribed](SctpPeer::subscribe) to.
    Notification(Notification),
}

impl Peer {
    /// The peer as one on SCTP; `None` on any other transport, and when the association is over.
    pub fn sctp(&mut self) -> Option<SctpPeer<'_>> {
        (self.transport.is_some() && self.scheme().is_sctp()).then_some(SctpPeer { peer: self })
    }

    /// What came with the message that was received last; `None` on any other transport than SCTP.
    /// The default before the first message.
    pub fn message_info(&self) -> Option<MessageInfo> {
        self.scheme().is_sctp().then_some(self.info)
    }

    /// Sends one message as an answer to what was received last: on SCTP on the same stream, with the
    /// same payload protocol identifier and order; elsewhere as [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), and [`Error::NoSuchStream`] where the peer may send on a stream that
    /// this side may not.
    pub fn reply(&mut self, message: &[u8]) -> Result<(), Error> {
        let how = self.info.reply();
        self.send_with(message, &how)
    }
}

impl SctpPeer<'_> {
    /// Waits for a message or a notification, whichever comes first; `None` as [`Peer::recv`]. Blocks
    /// as that does, on the calling thread, which is the peer's own.
    ///
    /// # Errors
    ///
    /// As [`Peer::recv`].
    pub fn recv_event(&mut self, buffer: &mut [u8]) -> Result<Option<Event>, Error> {
        self.event_until(buffer, None)
    }

    /// As [`recv_event`](Self::recv_event), for so long at most. With a timeout of zero it does not wait.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`], after which the association lives; else as [`Peer::recv`].
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

    /// The oldest notification that came while [`Peer::recv`] waited for messages; never blocks. The
    /// last 256 are kept.
    pub fn next_notification(&mut self) -> Option<Notification> {
        self.peer.notifications.as_mut()?.pop_front()
    }

    /// Asks to be told of something, or not any more (SCTP_EVENT, RFC 6458 §6.2.2). The framework
    /// sees what it needs to see in any case.
    ///
    /// # Errors
    ///
    /// The kernel does not know this kind.
    pub fn subscribe(&mut self, kind: NotificationKind, wanted: bool) -> Result<(), Error> {
        use NotificationKind as Kind;
        let ours = matches!(
            kind,
            Kind::AssociationChanged | Kind::PeerShutDown | Kind::PartialDelivery | Kind::PathChanged
        );
        if let Some(Transport::Memory(transport)) = &mut self.peer.transport {
            transport.want(kind, wanted);
            return Ok(());
        }
        if wanted || !ours {
            self.options()?.subscribe(kind, wanted)?;
        }
        if let Some(Transport::Sctp(transport)) = &mut self.peer.transport {
            transport.want(kind, wanted);
        }
        Ok(())
    }

    /// Sends one message on the stream and in the way that `how` says; else as [`Peer::send`].
    ///
    /// # Errors
    ///
    /// As [`Peer::send`], and [`Error::NoSuchStream`].
    pub fn send(&mut self, message: &[u8], how: &SendInfo) -> Result<(), Error> {
        self.peer.send_with(message, how)
    }

    /// Ends the association at once: what is not delivered yet is lost, and the peer is told the reason
    /// (RFC 9260 §9.1, cause 12), of which 400 bytes are sent at most.
    pub fn abort(self, reason: &[u8]) {
        let reason = &reason[..reason.len().min(400)];
        // First, so that nothing is sent after the abort: what waits in the outbox is lost, too. If somebody else has ended the
        // association, its socket may be another's.
        let ended = self.peer.association.end(&EndReason::ClosedByUs);
        match &self.peer.transport {
            _ if ended.is_none() => {}
            Some(Transport::Sctp(transport)) => crate::net::sctp::abort(transport.socket(), reason),
            Some(Transport::Memory(transport)) => transport.abort(reason),
            _ => {}
        }
        self.peer.finish_with(EndReason::ClosedByUs, None);
    }

    /// The options of this association: addresses, paths, streams, timers.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`]: it is over. On a peer of [`testing`](crate::testing), which has no socket, an
    /// [`io::Error`] of the kind [`Unsupported`](io::ErrorKind::Unsupported).
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

    /// What came with the message that was received last.
    pub fn message_info(&self) -> MessageInfo {
        self.peer.info
    }
}

/// The calls that [`Peer`]'s loop leaves to this file.
impl Peer {
    pub(super) fn message_limit(&self) -> usize {
        match &self.transport {
            Some(Transport::Sctp(transport)) => transport.limit(),
            _ => self.association.max_message(),
        }
    }

    /// Ends the association if its peer has acknowledged nothing for too long. Returns when to look again.
    pub(super) fn watch_for_stall(&mut self, now: Instant) -> Option<Instant> {
        let sent = self.association.sent.load(Ordering::Relaxed);
        let Some(Transport::Sctp(transport)) = &mut self.transport else { return None };
        let look = transport.look_at(sent, now)?;
        if now < look {
            return Some(look);
        }
        if transport.is_stalled(sent, now) {
            self.finish_with(EndReason::TooSlow, None);
            return None;
        }
        transport.look_at(sent, now)
    }
}

impl fmt::Debug for SctpPeer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SctpPeer").field(&self.peer).finish()
    }
}

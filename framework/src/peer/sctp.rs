//! What a handler can do with a peer on SCTP beyond sending and receiving.

use std::fmt;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Peer;
use super::receive::Next;
use crate::association::Link;
use crate::drive::Session;
use crate::error::{EndReason, Error};
use crate::net::Transport;
use crate::sctp::{MessageInfo, Notification, NotificationKind, Options, SendInfo};
use crate::tls::Read;

/// Longer than records are held back.
const HELD_AT_MOST: Duration = Duration::from_secs(3600);

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
        matches!(self.transport, Some(Transport::Sctp(_))).then_some(SctpPeer { peer: self })
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

    /// As [`recv_event`](Self::recv_event), for so long at most. A timeout of zero takes what is there.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`], after which the association lives; else as [`Peer::recv`].
    pub fn recv_event_timeout(
        &mut self,
        buffer: &mut [u8],
        timeout: Duration,
    ) -> Result<Option<Event>, Error> {
        self.event_until(buffer, Instant::now().checked_add(timeout))
    }

    fn event_until(&mut self, buffer: &mut [u8], user: Option<Instant>) -> Result<Option<Event>, Error> {
        if let Some(notification) = self.next_notification() {
            return Ok(Some(Event::Notification(notification)));
        }
        Ok(match self.peer.next_until(buffer, user)? {
            Next::Message(len) => Some(Event::Message(len, self.peer.info)),
            Next::Notification(notification) => Some(Event::Notification(*notification)),
            Next::Over => None,
        })
    }

    /// The oldest notification that came while [`Peer::recv`] waited for messages; never blocks. The
    /// last 256 are kept.
    pub fn next_notification(&mut self) -> Option<Notification> {
        self.peer.notifications.pop_front()
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
        if let Some(transport) = &self.peer.transport {
            crate::net::sctp::abort(transport.socket(), &reason[..reason.len().min(400)]);
        }
        self.peer.finish_with(EndReason::ClosedByUs, None);
    }

    /// The options of this association: addresses, paths, streams, timers.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`]: it is over.
    pub fn options(&self) -> Result<Options<'_>, Error> {
        match &self.peer.transport {
            Some(transport) => Ok(Options::of(&**transport.socket())),
            None => Err(Error::Ended(self.peer.end.clone().unwrap_or(EndReason::ClosedByUs))),
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
            _ => self.max_message,
        }
    }

    /// A message of a secured association is in the scratch.
    pub(super) fn take_secured(&mut self, buffer: &mut [u8]) -> Result<Option<Next>, Error> {
        let now = Instant::now();
        let info = self.info;
        let scratch = std::mem::take(&mut self.scratch);
        if let Link::Open(Session::Sctp(session)) = &mut *self.association.link.lock() {
            session.feed(&scratch, info, now);
        }
        self.scratch = scratch;
        self.scratch.clear();
        self.read_secured(buffer)
    }

    /// Reads the next message of a secured association.
    pub(super) fn read_secured(&mut self, buffer: &mut [u8]) -> Result<Option<Next>, Error> {
        let (read, more) = match &mut *self.association.link.lock() {
            Link::Open(Session::Sctp(session)) => {
                let (read, info) = session.read(buffer);
                if matches!(read, Read::Message(_) | Read::Long(_)) {
                    self.info = info;
                }
                self.held_until = session.deadline();
                (read, session.has_more())
            }
            _ => (Read::Nothing, false),
        };
        self.take_outcome((read, more), buffer)
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

    /// The association is over without an alert: why; `None` where records that were held back are still to be read.
    pub(super) fn secure_end(&mut self) -> Option<EndReason> {
        if self.held_until.is_some() {
            // What they wait for does not come any more.
            self.give_up_waiting(Instant::now() + HELD_AT_MOST);
            return None;
        }
        Some(EndReason::Truncated)
    }

    /// Records that were held back for an earlier one have waited for long enough.
    pub(super) fn give_up_waiting(&mut self, now: Instant) {
        let skipped = match &mut *self.association.link.lock() {
            Link::Open(Session::Sctp(session)) => session.give_up_waiting(now),
            _ => 0,
        };
        self.counters.records_given_up.fetch_add(skipped, std::sync::atomic::Ordering::Relaxed);
        self.held_until = None;
        self.more = true;
    }
}

impl fmt::Debug for SctpPeer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SctpPeer").field(&self.peer).finish()
    }
}

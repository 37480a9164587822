//! Hand-over of a peer that an event loop drives, to another process or from one.
//!
//! 1. [`Peer::save`] writes everything, and messages to the peer wait in its outbox from then on. Until the other
//!    process has confirmed that it serves the peer, [`Peer::release`] makes this process continue, after
//!    [`Peer::reclaim`] if the other process may have sent anything.
//! 2. [`Peer::pending_output`] returns the messages that wait in the outbox by then. From then on senders get the error
//!    that the association has ended.
//! 3. [`Peer::forget`] forgets the peer in this process without sending it anything.

use std::sync::Arc;
use std::time::Instant;

use super::Peer;
use crate::association::Association;
use crate::codec::{Malformed, Reader, Writer};
use crate::drive::Session;
use crate::drive::open::Hold;
use crate::error::EndReason;
use crate::net::Transport;
use crate::net::attention::signal;
use crate::net::egress::Egress;
use crate::net::shared::{SharedPath, SharedSocket};
use crate::outbox::Pushed;
use crate::protocol::dtls;
use crate::protocol::dtls::restart::{Cookies, Restart};
use crate::sctp::SendInfo;
use crate::sys::control::PacketInfo;
use crate::sys::sync::atomic::Ordering;

/// Output that was pending for a peer when it was handed over.
pub(crate) struct PendingOutput {
    pub(crate) messages: Vec<Box<[u8]>>,
    /// A thread has asked to close the association.
    pub(crate) closes: bool,
}

impl Peer {
    /// Writes the peer, and makes messages to it wait from then on. Returns `false` if it cannot be handed over now, or
    /// ever.
    pub(crate) fn save(&self, now: Instant, out: &mut Writer) -> bool {
        let is_busy = self.kept.is_some()
            || self.notifications.as_ref().is_some_and(|kept| !kept.is_empty())
            || self.moved_from.is_some()
            || self.told_to_drain
            || self.ending
            || self.closing.is_some()
            || self.association.attention.signals() & !signal::FLUSH != 0
            || !matches!(&self.transport, Some(Transport::Shared(transport)) if transport.is_idle());
        if is_busy || self.association.end_reason().is_some() {
            return false;
        }
        self.with_open(|open| {
            let (session, path) = match &open.session {
                Session::Plain(Egress::Shared(path)) => (None, path),
                Session::Dtls(session, Egress::Shared(path)) => (Some(session), path),
                _ => return false,
            };
            self.association.save(now, out);
            out.option(path.source.local, Writer::ip);
            out.u32(path.source.interface);
            out.duration(now.saturating_duration_since(open.deadlines.last_received()));
            let saved = session.is_none_or(|session| session.save(now, out));
            if saved {
                open.hold = Hold::Queue;
            }
            saved
        })
        .unwrap_or(false)
    }

    /// Returns the socket that the peer shares.
    pub(crate) fn shared_socket(&self) -> Option<&Arc<SharedSocket>> {
        match &self.transport {
            Some(Transport::Shared(transport)) => Some(transport.socket()),
            _ => None,
        }
    }

    /// Continues normally: the peer stays in this process, or its hand-over to this process is complete.
    pub(crate) fn release(&self) {
        self.with_open(|open| open.hold = Hold::Free);
        if !self.association.outbox.lock().is_empty() {
            self.association.attention.note(signal::FLUSH);
        }
        self.association.attention.wake();
    }

    /// Queues a message that was sent to the peer during the hand-over. `None` stands for a request to close the
    /// association.
    pub(crate) fn add_pending(&self, message: Option<&[u8]>) {
        let association = &self.association;
        let Some(message) = message else { return association.attention.note(signal::CLOSE) };
        let pushed =
            association.outbox.lock().push(message.into(), &SendInfo::default(), &association.outbox_bound);
        let dropped = match pushed {
            Pushed::Queued(dropped) => dropped,
            Pushed::Refused => 1,
        };
        association.dropped.fetch_add(dropped, Ordering::Relaxed);
    }

    /// Returns the messages that wait for the peer; from then on nothing can be sent to it from this process.
    pub(crate) fn pending_output(&self) -> PendingOutput {
        let messages = self.with_open(|open| {
            open.hold = Hold::Refuse;
            self.association.outbox.lock().iter().map(Box::from).collect()
        });
        let closes = self.association.attention.signals() & signal::FINAL != 0;
        PendingOutput { messages: messages.unwrap_or_default(), closes }
    }

    /// Prepares the peer to continue in this process, although another process may have sent to it. That process has
    /// ended. [`release`](Self::release) comes next.
    pub(crate) fn reclaim(&self) {
        self.with_open(|open| {
            if let Session::Dtls(session, _) = &mut open.session {
                session.skip_records();
            }
        });
    }

    /// Forgets the peer, which another process serves now.
    pub(crate) fn forget(&mut self) {
        drop(self.association.end(&EndReason::HandedOver));
        (self.transport, self.owner) = (None, None);
        self.association.outbox.lock().clear();
        self.association.attention.wake_no_more();
    }
}

/// The state of a peer that is not in its association.
pub(crate) struct Saved {
    pub(crate) session: Session,
    /// When the peer last sent something.
    pub(crate) last_received: Instant,
}

impl Saved {
    /// Reads the part that [`Peer::save`] wrote after the association. The association shares this socket.
    pub(crate) fn read(
        from: &mut Reader<'_>,
        association: &Association,
        socket: Arc<SharedSocket>,
        cookies: &Arc<Cookies>,
        now: Instant,
    ) -> Result<Self, Malformed> {
        let source = PacketInfo { local: from.option(Reader::ip)?, interface: from.u32()? };
        let last_received = now.checked_sub(from.duration()?).unwrap_or(now);
        let peer = association.current_peer();
        let egress = Egress::Shared(SharedPath { socket, peer, source });
        let session = match association.scheme.is_secure() {
            false => Session::Plain(egress),
            true => {
                let restart =
                    Restart::new(Arc::clone(cookies), association.hello_random, association.local, peer);
                let session =
                    dtls::session::Session::restore(from, restart, Arc::clone(&association.counters), now)?;
                Session::Dtls(Box::new(session), egress)
            }
        };
        Ok(Self { session, last_received })
    }
}

impl Peer {
    /// Prepares a peer that has just arrived from another process: its messages are held back until it is
    /// [released](Self::release).
    pub(crate) fn resume(&self, last_received: Instant) {
        let received = self.association.received.load(Ordering::Relaxed);
        self.with_open(|open| {
            open.deadlines.resume(received, last_received);
            open.hold = Hold::Queue;
        });
    }
}

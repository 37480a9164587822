//! Looks after peers whose handler is busy elsewhere. While a handler waits in `recv`, the peer's own thread does this:
//!
//! * If a DTLS client repeats its last flight because the server's was lost (RFC 6347 §4.2.4), the server's last flight
//!   is sent again.
//! * If a DTLS client restarts (§4.2.8), it is challenged. With its cookie it replaces the association, and the hello
//!   goes to the successor. The handler learns of it from its next call.
//! * If an SCTP peer restarts (SCTP_RESTART), the association ends, and the handler learns of it from its next call.
//!   The successor is served when the handler has returned.
//! * If an SCTP peer acknowledges nothing for too long, the association is aborted.
//! * If the association is past its lifetime, it ends, and the handler learns of it from its next call.
//! * If output waits for room in the send buffer, it is sent as soon as there is room.
//!
//! One timer serves all these peers, and it runs only while some handler runs.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::association::{Association, AssociationId, Link};
use crate::drive::open::Open;
use crate::drive::{Session, transmit};
use crate::error::EndReason;
use crate::net::attention::{Delivery, InboxItem, signal};
use crate::net::sctp::{abort, check_for_stall, end_by};
use crate::net::stall::Stall;
use crate::observe::bump;
use crate::protocol::Read;
use crate::protocol::dtls::filter::is_handshake_retransmission;
use crate::protocol::dtls::session::Session as DtlsSession;
use crate::sctp::Notification;
use crate::sender;
use crate::serve::shared::Shared;
use crate::sys::message::{self, Received};
use crate::sys::sctp;
use crate::sys::sync::atomic::Ordering;

/// The time between two looks. A handler that received no message between two looks has been busy at least this long.
const PERIOD: Duration = Duration::from_secs(1);

/// The most datagrams that one look reads in place of a handler.
const MAX_READS: usize = 256;

/// The most bytes that are kept for one handler. Further datagrams are lost, as they would be in a socket whose buffer
/// is full; further SCTP messages stay in the socket.
const MAX_KEPT: usize = 128 << 10;

/// The handlers that were busy at the last look.
#[derive(Default)]
pub(super) struct Busy {
    next_check: Option<Instant>,
    handlers: HashMap<AssociationId, Handler>,
}

/// A handler that was busy at the last look.
struct Handler {
    /// The number of messages that it had received.
    received: u64,
    /// Watches whether an SCTP peer acknowledges messages.
    stall: Option<Stall>,
    /// The notification that ends an SCTP association has been read, so nothing follows.
    at_end: bool,
}

impl Busy {
    /// Returns when to look next, and `None` while every handler waits for its peer.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.next_check
    }

    /// Looks at the busy handlers if it is time for that.
    pub(super) fn tick(&mut self, shared: &Shared, now: Instant) {
        match self.next_check {
            None if shared.handler_started.load(Ordering::SeqCst) => self.next_check = Some(now + PERIOD),
            Some(next) if now >= next => self.check(shared, now),
            _ => {}
        }
    }

    fn check(&mut self, shared: &Shared, now: Instant) {
        // The flag is cleared before the search, so a handler that begins to run meanwhile sets it again.
        shared.handler_started.store(false, Ordering::SeqCst);
        let mut before = std::mem::take(&mut self.handlers);
        for association in shared.registry.busy() {
            let received = association.received.load(Ordering::Relaxed);
            let handler = match before.remove(&association.id) {
                Some(mut handler) if handler.received == received => {
                    check_peer(&association, &mut handler, now);
                    handler
                }
                known => {
                    let at_end = known.is_some_and(|handler| handler.at_end);
                    Handler { received, stall: shared.sctp.dead_after.map(Stall::new), at_end }
                }
            };
            self.handlers.insert(association.id, handler);
        }
        self.next_check = (!self.handlers.is_empty()).then(|| now + PERIOD);
    }
}

/// Does the work that the thread of this peer does while it waits for the peer. Never blocks.
fn check_peer(association: &Association, handler: &mut Handler, now: Instant) {
    let mut link = association.link.lock();
    let Link::Open(Open { session, deadlines, .. }) = &mut *link else { return };
    let over = match session {
        _ if deadlines.is_past_lifetime(now) => Some(EndReason::Lifetime),
        Session::Dtls(session, egress) => {
            let over = read_for_handler(association, session, now);
            transmit(session, egress);
            over
        }
        Session::Sctp(_) => check_sctp(association, handler, now),
        _ => None,
    };
    let Some(reason) = over else {
        drop(link);
        if association.attention.signals() & signal::FLUSH != 0 {
            sender::flush(association);
        }
        return;
    };
    let ended = association.end_link(&mut link, &reason);
    if association.scheme.is_sctp() && reason == EndReason::Replaced {
        // The socket belongs to the successor, so it must not be shut down to wake this handler. If it was shut down
        // before, that holds for the successor, too, which is then aborted when the handler returns.
        return association.attention.wake_no_more();
    }
    drop(link);
    if let (Some(Open { mut session, .. }), EndReason::Lifetime) = (ended, &reason) {
        session.begin_end(&reason, Duration::ZERO, now);
        session.continue_end(now);
    }
    association.attention.raise(signal::CLOSE);
}

/// Looks after an SCTP association whose thread does not read. Returns the reason if the association has ended.
fn check_sctp(association: &Association, handler: &mut Handler, now: Instant) -> Option<EndReason> {
    let socket = association.attention.socket()?;
    if let Some(reason) = read_sctp_for_handler(association, &socket, handler) {
        return Some(reason);
    }
    let sent = association.sent.load(Ordering::Relaxed);
    let stalled = handler.stall.as_mut().is_some_and(|stall| check_for_stall(&socket, stall, sent, now));
    stalled.then(|| {
        abort(&socket, EndReason::TooSlow.to_string().as_bytes());
        EndReason::TooSlow
    })
}

/// Reads up to the peer's restart, and queues everything else for the handler, in order. After a restart the handler
/// gets nothing more: messages of the old association that it has not read are lost, as on DTLS.
fn read_sctp_for_handler(
    association: &Association,
    socket: &Socket,
    handler: &mut Handler,
) -> Option<EndReason> {
    let attention = &association.attention;
    let mut payload = Vec::new();
    for _ in 0..MAX_READS {
        let stops = association.reading.load(Ordering::SeqCst) || attention.signals() & signal::FINAL != 0;
        if stops || handler.at_end || !attention.has_room(MAX_KEPT) {
            break;
        }
        let Ok(received) = sctp::recv(socket.as_fd(), &mut [], &mut payload, false) else { break };
        if received.len == 0 {
            break;
        }
        if received.notification
            && received.complete
            && let Some(reason) = Notification::parse(&payload).ok().as_ref().and_then(end_by)
        {
            if reason == EndReason::Replaced {
                bump(&association.counters.sctp_restarts);
                return Some(reason);
            }
            handler.at_end = true;
        }
        let info = received.info.map(|(info, _)| info).unwrap_or_default();
        let (complete, notification) = (received.complete, received.notification);
        let item = InboxItem {
            payload: payload.as_slice().into(),
            from: None,
            info,
            complete,
            notification,
            room: None,
        };
        attention.deliver(item, false);
    }
    None
}

/// Reads the datagrams that have arrived, and queues those for the handler. Returns the reason if the association has
/// ended.
fn read_for_handler(association: &Association, session: &mut DtlsSession, now: Instant) -> Option<EndReason> {
    let attention = &association.attention;
    let socket = attention.socket()?;
    let mut datagram = Vec::new();
    for _ in 0..MAX_READS {
        if association.reading.load(Ordering::SeqCst) {
            break;
        }
        match message::recv_from(socket.as_fd(), &mut datagram, false) {
            Ok(Received { source: Some(source), .. }) if source == association.current_peer() => {}
            _ => break,
        }
        let restarted = match session.handle_hello(&mut datagram, now) {
            Some(Read::Restarted(hello)) => {
                datagram = hello.into();
                true
            }
            Some(_) => continue,
            None if session.keeps_flight() && is_handshake_retransmission(&datagram) => {
                session.repeat_last_flight();
                bump(&association.counters.last_flights_resent);
                continue;
            }
            None => false,
        };
        let has_room = restarted || attention.delivered_bytes() + datagram.len() <= MAX_KEPT;
        if !has_room || attention.deliver(InboxItem::datagram(&datagram), false) == Delivery::Full {
            bump(&association.counters.records_dropped);
        }
        if restarted {
            return Some(EndReason::Replaced);
        }
    }
    // The handler's thread may have checked for signals before these datagrams were queued.
    if association.reading.load(Ordering::SeqCst) && attention.signals() & signal::INBOX != 0 {
        attention.wake();
    }
    None
}

//! The last flight of a handshake can be lost, and then the client sends its own again (RFC 6347
//! §4.2.4) until somebody answers. While the handler waits in `recv` its worker does; while it is
//! busy, or only sends, the dispatcher does: it looks at such a peer after a second, and if nothing
//! has come from it yet, watches its socket.

use std::collections::{HashMap, VecDeque};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::address::Scheme;
use crate::association::{Association, Link};
use crate::observe::bump;
use crate::protocol::dtls::filter;
use crate::serve::shared::Shared;
use crate::sys::epoll::{Epoll, READABLE_EDGE};
use crate::sys::message;

/// Tokens of watched sockets have this bit, and the association's number below it.
pub(super) const TOKENS: u64 = 1 << 62;

/// First look after this, then after twice as long, and so on.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// No look after the seventh, two minutes on: a client has given up by then.
const LOOKS: usize = 7;

/// The associations whose last flight is not known to have arrived.
#[derive(Default)]
pub(super) struct Guard {
    /// One queue for each interval, so that each is in the order of its deadlines.
    queues: [VecDeque<Look>; LOOKS],
    watched: HashMap<u64, Weak<Association>>,
}

/// When to look at whom.
struct Look {
    at: Instant,
    id: u64,
    association: Weak<Association>,
}

/// Whether the token is one of a watched socket.
pub(super) fn is_guarded(token: u64) -> bool {
    token & TOKENS != 0 && token != super::WAKE
}

impl Guard {
    /// Starts to look after an association.
    pub(super) fn watch(&mut self, association: &Arc<Association>) {
        if association.scheme == Scheme::Dtls {
            let (at, id) = (Instant::now() + FIRST_LOOK, association.id.as_u64());
            self.queues[0].push_back(Look { at, id, association: Arc::downgrade(association) });
        }
    }

    /// When to look next.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.queues.iter().filter_map(|queue| queue.front()).map(|look| look.at).min()
    }

    /// Looks at those whose time has come.
    pub(super) fn tick(&mut self, epoll: &Epoll, now: Instant) {
        for interval in 0..self.queues.len() {
            while self.queues[interval].front().is_some_and(|look| look.at <= now) {
                let Some(look) = self.queues[interval].pop_front() else { break };
                let association = look.association.upgrade();
                let unconfirmed = |one: &Arc<Association>| one.keeps_flight();
                let Some(association) = association.filter(unconfirmed) else {
                    self.watched.remove(&look.id);
                    continue;
                };
                let wait = FIRST_LOOK * (1 << (interval + 1));
                if interval + 1 == self.queues.len() {
                    self.forget(&association, epoll);
                    continue;
                }
                self.queues[interval + 1].push_back(Look { at: now + wait, ..look });
                let open = matches!(*association.link.lock(), Link::Open(_));
                if open && !association.reading.load(Ordering::Relaxed) {
                    self.start_watching(&association, epoll);
                }
            }
        }
    }

    fn start_watching(&mut self, association: &Arc<Association>, epoll: &Epoll) {
        let id = association.id.as_u64();
        let Some(socket) = association.attention.socket() else { return };
        if !self.watched.contains_key(&id) && epoll.add(socket.as_fd(), READABLE_EDGE, TOKENS | id).is_ok() {
            self.watched.insert(id, Arc::downgrade(association));
        }
    }

    fn forget(&mut self, association: &Association, epoll: &Epoll) {
        association.forget_last_flight();
        if self.watched.remove(&association.id.as_u64()).is_some()
            && let Some(socket) = association.attention.socket()
        {
            let _ = epoll.remove(socket.as_fd());
        }
    }

    /// Something came to a watched socket. If it looks like the client's last flight and nobody is
    /// reading, ours goes out again; the datagram stays where it is.
    pub(super) fn ready(&mut self, token: u64, shared: &Shared) {
        let id = token & !TOKENS;
        let Some(association) = self.watched.get(&id).and_then(Weak::upgrade) else {
            self.watched.remove(&id);
            return;
        };
        if !association.keeps_flight() || association.reading.load(Ordering::Relaxed) {
            return;
        }
        let Some(socket) = association.attention.socket() else { return };
        let mut head = [0; 2048];
        let Ok(len) = message::peek(socket.as_fd(), &mut head) else { return };
        if filter::is_handshake_retransmission(&head[..len]) && association.repeat_last_flight() {
            bump(&shared.counters.last_flights_resent);
        }
    }
}

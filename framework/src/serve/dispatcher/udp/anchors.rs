//! Anchors: the listeners on specific addresses under a wildcard listener. An anchor exists from the first peer of an
//! address until some time after its last.
//!
//! No datagram may be lost when an anchor is closed. So the anchor is *retired* first: it is connected to itself, which
//! stops the kernel from delivering to it ([`child::retire`]), and read until its queue is empty. From then on the
//! wildcard listener gets the datagrams to its address. The socket is closed a moment later, when no processor can
//! still be about to queue a datagram for which it had looked up the socket before.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::observe::log_limited;
use crate::serve::dispatcher::child::{self, Options, Recipes};
use crate::serve::dispatcher::listener::{Held, Listener, Listeners, probe_ip};
use crate::serve::dispatcher::token::Token;
use crate::serve::registry::Registry;
use crate::sys::epoll::Epoll;

/// The most anchors of a server. For further addresses, children are drained and checked instead.
const MAX_ANCHORS: usize = 1024;
/// How long an anchor stays without a peer, so that peers that come one after the other can share it.
const MAX_IDLE: Duration = Duration::from_secs(60);
/// The most anchors without a peer. If there are more, the next look retires those that have had no peer for the
/// longest time.
const MAX_IDLE_ANCHORS: usize = 64;
/// How soon the dispatcher looks again if there are more anchors than that. Otherwise it looks every [`MAX_IDLE`].
const CROWDED: Duration = Duration::from_secs(1);
/// How long a retired anchor stays open. A processor queues a datagram within microseconds after it has looked up the
/// socket.
const RETIREMENT: Duration = Duration::from_secs(1);

/// The index of a wildcard listener, and an address of this host.
type Place = (usize, SocketAddr);

#[derive(Default)]
pub(super) struct Anchors {
    live: HashMap<Place, Anchor>,
    /// The indices of retired anchors, with the time to close them.
    retired: VecDeque<(Instant, usize)>,
    next_check: Option<Instant>,
}

struct Anchor {
    index: usize,
    /// The last look at which it had a peer.
    needed: Instant,
}

impl Anchors {
    /// Returns the listener whose children can have this address, and whether it was made just now. This is the
    /// listener at `index` itself, or, under a wildcard, the anchor, which is made when its first peer comes. If
    /// `local` is the wildcard itself, because the kernel did not report the destination address, there is no anchor.
    pub(super) fn find_or_open(
        &mut self,
        listeners: &mut Listeners,
        index: usize,
        local: SocketAddr,
        epoll: &Epoll,
    ) -> (usize, bool) {
        let listener = &listeners[index];
        if !listener.address.ip().is_unspecified() || local.ip().is_unspecified() {
            return (index, false);
        }
        let now = Instant::now();
        if let Some(anchor) = self.live.get_mut(&(index, local)) {
            anchor.needed = now;
            return (anchor.index, false);
        }
        if self.live.len() + self.retired.len() >= MAX_ANCHORS {
            log_limited!(warn, %local, "too many local addresses have peers; the sockets of further peers are drained and checked");
            return (index, false);
        }
        let (scheme, options) = (listener.scheme, Options { v6_only: true, ..listener.options.clone() });
        let socket = match child::anchor(local, &options) {
            Ok(socket) => socket,
            Err(error) => {
                log_limited!(warn, %local, %error, "cannot listen on this address; the sockets of its peers are drained and checked");
                return (index, false);
            }
        };
        let recipes = Recipes::probe(probe_ip(local, &options));
        let until = listener.consumed + listener.capacity;
        let mut made = Listener::new(socket, scheme, local, options, recipes, listener.counters());
        made.muted = true;
        let anchor = listeners.insert(made);
        if epoll.add(listeners[anchor].socket.as_fd(), 0, Token::Udp(anchor).into()).is_err() {
            listeners.remove(anchor);
            return (index, false);
        }
        listeners[index].held.push((until, Held::Anchor(anchor)));
        self.live.insert((index, local), Anchor { index: anchor, needed: now });
        let next_check = now + self.interval();
        self.next_check = Some(self.next_check.map_or(next_check, |planned| planned.min(next_check)));
        (anchor, true)
    }

    /// Returns when [`take_expired`](Self::take_expired) or [`retire_idle`](Self::retire_idle) has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let close = self.retired.front().map(|&(at, _)| at);
        [close, self.next_check].into_iter().flatten().min()
    }

    /// Returns a retired anchor that can be closed now, after the caller has read it for the last time.
    pub(super) fn take_expired(&mut self, now: Instant) -> Option<usize> {
        let &(at, index) = self.retired.front()?;
        (at <= now).then(|| {
            self.retired.pop_front();
            index
        })
    }

    /// Retires anchors whose local address has had no peer for a minute. The caller reads them until their queues are
    /// empty.
    pub(super) fn retire_idle(
        &mut self,
        listeners: &mut Listeners,
        registry: &Registry,
        now: Instant,
    ) -> Vec<usize> {
        if self.next_check.is_none_or(|at| now < at) {
            return Vec::new();
        }
        let places = superfluous(self.idle(listeners, registry, now));
        let retired = places.into_iter().filter_map(|place| self.retire(place, listeners, now)).collect();
        self.next_check = (!self.live.is_empty()).then(|| now + self.interval());
        retired
    }

    /// Retires all anchors, because another process has their wildcard listeners. The caller reads them until their
    /// queues are empty.
    pub(super) fn retire_all(&mut self, listeners: &mut Listeners, now: Instant) -> Vec<usize> {
        self.next_check = None;
        let places: Vec<Place> = self.live.keys().copied().collect();
        places.into_iter().filter_map(|place| self.retire(place, listeners, now)).collect()
    }

    /// Returns the anchors without a peer, and how long they have had none.
    fn idle(&mut self, listeners: &Listeners, registry: &Registry, now: Instant) -> Vec<(Place, Duration)> {
        let mut idle = Vec::new();
        for (place, anchor) in &mut self.live {
            if listeners[anchor.index].muted || registry.peers_at(place.1) > 0 {
                anchor.needed = now;
            } else {
                idle.push((*place, now.saturating_duration_since(anchor.needed)));
            }
        }
        idle
    }

    fn retire(&mut self, place: Place, listeners: &mut Listeners, now: Instant) -> Option<usize> {
        let Anchor { index, .. } = self.live.remove(&place)?;
        // It fails if the host has lost the address, and then no datagram arrives there either.
        let _ = child::retire(&listeners[index].socket, place.1);
        listeners[index].retired_to = Some(place.0);
        self.retired.push_back((now + RETIREMENT, index));
        Some(index)
    }

    /// Returns the time until the next look.
    fn interval(&self) -> Duration {
        if self.live.len() > MAX_IDLE_ANCHORS { CROWDED } else { MAX_IDLE }
    }
}

/// Chooses the anchors to retire, from those without a peer and the times for which they have had none.
fn superfluous<P>(mut idle: Vec<(P, Duration)>) -> Vec<P> {
    idle.sort_by_key(|&(_, time)| std::cmp::Reverse(time));
    let surplus = idle.len().saturating_sub(MAX_IDLE_ANCHORS);
    let goes = |(rank, (_, time)): &(usize, (P, Duration))| *rank < surplus || *time >= MAX_IDLE;
    idle.into_iter().enumerate().take_while(goes).map(|(_, (place, _))| place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_without_a_peer_goes_after_a_minute() {
        let idle = [59, 60, 61].map(|seconds| (seconds, Duration::from_secs(seconds)));
        assert_eq!(superfluous(idle.to_vec()), [61, 60]);
    }

    #[test]
    fn of_many_without_a_peer_the_longest_idle_go_at_once() {
        let idle: Vec<_> =
            (0..MAX_IDLE_ANCHORS as u64 + 2).map(|at| (at, Duration::from_millis(at))).collect();
        let most = MAX_IDLE_ANCHORS as u64;
        assert_eq!(superfluous(idle), [most + 1, most]);
        let few: Vec<_> = (0..most).map(|at| (at, Duration::from_millis(at))).collect();
        assert_eq!(superfluous(few), [0_u64; 0]);
    }
}

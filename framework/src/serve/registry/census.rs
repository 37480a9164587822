//! All associations in fixed places, so that their numbers can be added up in parts, with the lock released in between.
//!
//! A walk counts each association that is there when it begins once: when the walk reaches its place, or when the
//! association ends before that. So a number that only grows is never smaller in a later walk.

use std::sync::Arc;

use crate::association::Association;
use crate::observe::{ByListener, Counters, Stats};
use crate::sys::sync::atomic::{AtomicU64, Ordering};

/// The number of places that a walk visits while other threads wait; this takes about 30 µs. Models have fewer.
const PART: usize = if cfg!(shuttle) { 1 } else { 256 };

/// The associations by their places.
#[derive(Default)]
pub(super) struct Census {
    places: Vec<Option<Arc<Association>>>,
    vacant: Vec<u32>,
    walk: Option<Walk>,
}

/// A walk under way.
struct Walk {
    /// The place that it visits next.
    next: usize,
    listeners: Vec<Arc<Counters>>,
    /// The numbers of each listener so far.
    stats: Vec<Stats>,
}

impl Census {
    /// Gives an association a place.
    pub(super) fn insert(&mut self, association: &Arc<Association>) {
        let place = self.vacant.pop().unwrap_or_else(|| {
            self.places.push(None);
            (self.places.len() - 1) as u32
        });
        association.place.store(place, Ordering::Relaxed);
        self.places[place as usize] = Some(Arc::clone(association));
    }

    /// Removes an association that has a place and whose numbers have not been added to its listener's yet.
    pub(super) fn remove(&mut self, association: &Association) {
        let place = association.place.load(Ordering::Relaxed);
        if let Some(walk) = self.walk.as_mut().filter(|walk| walk.next <= place as usize) {
            walk.count(association);
        }
        self.places[place as usize] = None;
        self.vacant.push(place);
        if self.vacant.len() == self.places.len() {
            self.places.clear();
            self.vacant.clear();
            self.places.shrink_to(64);
            self.vacant.shrink_to(64);
        }
    }

    /// Returns the part of the places that begins with this one, and `None` after the last. An association keeps its
    /// place, so a caller that goes through all parts visits each association once, except those that come or go
    /// meanwhile.
    pub(super) fn part(&self, from: usize) -> Option<&[Option<Arc<Association>>]> {
        self.places.get(from..).filter(|rest| !rest.is_empty()).map(|rest| &rest[..rest.len().min(PART)])
    }

    /// Begins a walk with the numbers of peers that have left.
    pub(super) fn begin(&mut self, listeners: &ByListener) {
        let stats = listeners.iter().map(|(_, counters)| counters.snapshot()).collect();
        let listeners = listeners.iter().map(|(_, counters)| Arc::clone(counters)).collect();
        self.walk = Some(Walk { next: 0, listeners, stats });
    }

    /// Visits the next part of the places. Returns the numbers of each listener after the last part.
    pub(super) fn visit_next_part(&mut self) -> Option<Vec<Stats>> {
        let walk = self.walk.as_mut()?;
        let part = self.places.iter().skip(walk.next).take(PART);
        part.flatten().for_each(|association| walk.count(association));
        walk.next += PART;
        if walk.next < self.places.len() {
            return None;
        }
        self.walk.take().map(|walk| walk.stats)
    }
}

impl Walk {
    fn count(&mut self, association: &Association) {
        let of = |counters: &Arc<Counters>| Arc::ptr_eq(counters, &association.counters);
        let Some(place) = self.listeners.iter().position(of) else { return };
        let stats = &mut self.stats[place];
        let read = |number: &AtomicU64, carried: u64| number.load(Ordering::Relaxed).saturating_sub(carried);
        stats.peers += 1;
        stats.half_open += u64::from(association.attention.half_open.load(Ordering::Acquire));
        let [received, received_bytes, sent, sent_bytes, dropped] = association.carried();
        stats.messages_received += read(&association.received, received);
        stats.messages_sent += read(&association.sent, sent);
        stats.messages_dropped += read(&association.dropped, dropped);
        stats.received_bytes += read(&association.received_bytes, received_bytes);
        stats.sent_bytes += read(&association.sent_bytes, sent_bytes);
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::address::{Address, Scheme};

    const LOCAL: &str = "192.0.2.1:1";

    fn peer(listeners: &ByListener) -> Arc<Association> {
        let address: SocketAddr = LOCAL.parse().unwrap();
        let counters = Arc::clone(listeners.of_udp(address));
        let peer = Arc::new(Association::new(Scheme::Udp, address, address, counters));
        peer.count_received(10);
        peer
    }

    #[test]
    fn a_walk_stops_after_each_part_and_counts_each_peer_once_while_peers_come_and_go() {
        let listeners = ByListener::new(&[Address::from_socket(Scheme::Udp, LOCAL.parse().unwrap())]);
        let mut census = Census::default();
        let peers: Vec<_> = (0..3 * PART).map(|_| peer(&listeners)).collect();
        peers.iter().for_each(|peer| census.insert(peer));
        census.begin(&listeners);
        assert!(census.visit_next_part().is_none());
        // An association that has been counted leaves, and so does one that has not; two new ones take their places.
        census.remove(&peers[0]);
        census.remove(&peers[2 * PART]);
        let added = [peer(&listeners), peer(&listeners)];
        added.iter().for_each(|peer| census.insert(peer));
        assert!(census.visit_next_part().is_none());
        let [stats] = census.visit_next_part().unwrap().try_into().unwrap();
        // One of the new associations has a place that the walk had not reached yet.
        let count = 3 * PART as u64 + 1;
        assert_eq!((stats.peers, stats.messages_received, stats.received_bytes), (count, count, 10 * count));
        // Each association that stays is visited once.
        let (mut met, mut next) = (Vec::new(), 0);
        while let Some(part) = census.part(next) {
            assert!(part.len() <= PART);
            met.extend(part.iter().flatten().map(|peer| peer.id));
            next += part.len();
            if next == PART {
                census.remove(&peers[1]);
                census.insert(&peers[1]);
            }
        }
        assert_eq!(met.len(), met.iter().collect::<std::collections::HashSet<_>>().len());
        assert_eq!(met.len(), 3 * PART);
        census.begin(&listeners);
        peers[1..2 * PART]
            .iter()
            .chain(&peers[2 * PART + 1..])
            .chain(&added)
            .for_each(|peer| census.remove(peer));
        let [stats] = census.visit_next_part().unwrap().try_into().unwrap();
        assert_eq!(stats.peers, 3 * PART as u64);
        assert!(census.places.is_empty() && census.vacant.is_empty());
    }
}

//! The registry: the live associations by their addresses, and the counts that decide about admission.

mod census;
#[cfg(all(test, shuttle))]
mod model;
mod places;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use self::census::Census;
use self::places::{Key, Places};
use crate::admission::{Limits, PeerCounts, Refusal};
use crate::association::{Association, AssociationId};
use crate::error::EndReason;
use crate::net::attention::{InboxItem, signal};
use crate::observe::{ByListener, Stats};
use crate::protocol::dtls::session::Move;
use crate::protocol::stream::proxy::ProxiedAddresses;
use crate::sys::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sys::sync::{Condvar, Mutex, yield_lock};

/// The age below which a handshake is not evicted, so that an honest one has time for a retransmission. Models do not
/// wait.
const EVICTION_AGE: Duration = Duration::from_secs(if cfg!(shuttle) { 0 } else { 2 });

/// All live associations. The lock is held for look-ups and bookkeeping, and for no system call other than a wake-up.
pub(crate) struct Registry {
    table: Mutex<Table>,
    /// Locked while the numbers of all peers are added up. It is locked before `table`, and never by a thread that
    /// serves peers.
    counting: Mutex<()>,
    emptied: Condvar,
    /// The number of handlers that still run although the association of their peer has been removed.
    outliving_handlers: AtomicUsize,
    drains: AtomicBool,
}

struct Table {
    associations: Places,
    census: Census,
    /// The DTLS associations that have a connection ID, by that ID.
    connection_ids: HashMap<Box<[u8]>, Arc<Association>>,
    peer_counts: PeerCounts,
    /// Handshakes in the order in which they began. Finished handshakes stay until they reach the front.
    half_open: VecDeque<(Instant, Weak<Association>)>,
    /// Connections whose PROXY header is incomplete, by the number of their listener, the oldest first.
    awaiting_header: HashMap<u32, BTreeMap<AssociationId, Arc<Association>>>,
    draining: Option<Drain>,
    /// The end of the grace period of a shutdown.
    grace: Option<Instant>,
}

/// What a drain does with handshakes under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drain {
    /// The handshakes end at once.
    BreakOff,
    /// The handshakes are finished, and then their peers are drained.
    Finish,
}

impl Registry {
    /// Makes an empty registry. `key` must be random.
    pub(crate) fn new(limits: Limits, key: (u64, u64)) -> Self {
        Self {
            table: Mutex::new(Table {
                associations: Places::default(),
                census: Census::default(),
                connection_ids: HashMap::new(),
                peer_counts: PeerCounts::new(limits, key),
                half_open: VecDeque::new(),
                awaiting_header: HashMap::new(),
                draining: None,
                grace: None,
            }),
            counting: Mutex::new(()),
            emptied: Condvar::new(),
            outliving_handlers: AtomicUsize::new(0),
            drains: AtomicBool::new(false),
        }
    }

    /// Returns the UDP or DTLS association between these addresses.
    pub(crate) fn find(&self, local: SocketAddr, peer: SocketAddr) -> Option<Arc<Association>> {
        self.table.lock().associations.get(&Key::Addresses(local, peer)).cloned()
    }

    /// Returns the DTLS association whose records have this connection ID.
    pub(crate) fn find_by_connection_id(&self, cid: &[u8]) -> Option<Arc<Association>> {
        self.table.lock().connection_ids.get(cid).cloned()
    }

    /// Moves an association to a new address of its peer, where it is found from now on. Another association at that
    /// address is displaced in two cases: if its own peer uses a connection ID, because it can then be found at any
    /// address; or if the moved peer has answered from the new address, because no other peer can then be there.
    /// Otherwise returns `false`, so that a forged source address cannot cut off a peer.
    pub(crate) fn change_peer_address(&self, association: &Association, moved_to: Move) -> bool {
        let mut table = self.table.lock();
        let associations = &mut table.associations;
        if !associations.has(association) {
            return false;
        }
        let (from, to) = (associations.key_of(association), Key::Addresses(association.local, moved_to.to));
        match associations.get(&to) {
            Some(other) if other.id == association.id => return true,
            // Before the end of its handshake it is not known whether the peer uses its connection ID.
            Some(other) if !moved_to.is_checked && !other.is_known_by_connection_id() => return false,
            _ => {}
        }
        if let Some(other) = associations.remove(&to) {
            associations.insert(Key::Name(other.id), other);
        }
        if let Some(association) = associations.remove(&from) {
            associations.insert(to, association);
        }
        true
    }

    /// Books a place for a new peer. [`insert`](Self::insert) or [`cancel`](Self::cancel) must follow. The limit on
    /// peers of a local address applies only if the peer has its own socket.
    pub(crate) fn book(&self, local: SocketAddr, peer: SocketAddr, own_socket: bool) -> Result<(), Refusal> {
        let mut table = self.table.lock();
        if table.draining.is_some() {
            return Err(Refusal::Draining);
        }
        match own_socket {
            true => table.peer_counts.admit(local, peer, Instant::now()),
            false => table.peer_counts.admit_sharing(local, peer, Instant::now()),
        }
    }

    /// Returns the number of live and booked peers of a local address, over all protocols.
    pub(crate) fn peers_at(&self, local: SocketAddr) -> usize {
        self.table.lock().peer_counts.at_local_address(local)
    }

    /// Books a place for a connection from a proxy. The limits on source addresses do not apply to the proxy's address.
    pub(crate) fn book_proxy(&self, local: SocketAddr, proxy: SocketAddr) -> Result<(), Refusal> {
        let mut table = self.table.lock();
        if table.draining.is_some() {
            return Err(Refusal::Draining);
        }
        table.peer_counts.admit_proxy(local, proxy)
    }

    /// Books a place for the peer that the proxy has named, in place of the proxy's. Changes nothing if that is
    /// refused.
    pub(crate) fn book_proxied(
        &self,
        association: &Association,
        addresses: ProxiedAddresses,
    ) -> Result<(), Refusal> {
        let mut table = self.table.lock();
        let (local, proxy) = (association.local, association.peer);
        table.peer_counts.transfer(local, proxy, addresses.peer, Instant::now())?;
        association.set_proxied(addresses);
        Ok(())
    }

    /// Counts a connection that must begin with a PROXY header, before it is inserted. At the limit of its listener,
    /// the oldest connections of that listener are evicted; a header that has already arrived is still read.
    pub(crate) fn await_header(&self, association: &Arc<Association>) -> Result<(), Refusal> {
        let Some(listener) = association.proxied_listener else { return Ok(()) };
        let mut table = self.table.lock();
        let most = table.peer_counts.limits().max_awaiting_header;
        if most == 0 {
            return Err(Refusal::MaxHalfOpen);
        }
        let waiting = table.awaiting_header.entry(listener).or_default();
        while waiting.len() >= most
            && let Some((_, oldest)) = waiting.pop_first()
        {
            // The signal is raised under the lock, so that it never reaches a connection whose header has arrived.
            oldest.attention.raise(signal::EVICT);
        }
        waiting.insert(association.id, Arc::clone(association));
        Ok(())
    }

    /// Notes that the PROXY header of this connection is complete, so that the connection is no longer evicted.
    pub(crate) fn end_header_wait(&self, association: &Association) {
        let mut table = self.table.lock();
        table.forget_header(association);
        association.attention.lower(signal::EVICT);
        table.note_drain(association);
    }

    /// Releases the place of an association that was booked and will not be inserted.
    pub(crate) fn cancel(&self, association: &Association) {
        let mut table = self.table.lock();
        table.end_handshake(association);
        table.forget_header(association);
        self.release_in(&mut table, association.local, association.peer);
    }

    /// Releases the place of a peer that was booked and has no association.
    pub(crate) fn release(&self, local: SocketAddr, peer: SocketAddr) {
        self.release_in(&mut self.table.lock(), local, peer);
    }

    fn release_in(&self, table: &mut Table, local: SocketAddr, peer: SocketAddr) {
        table.peer_counts.release(local, peer);
        if table.has_no_bookings() {
            self.emptied.notify_all();
        }
    }

    /// Books a handshake for a new association, before it is inserted. At the limit the oldest handshake is evicted if
    /// it is old enough; otherwise the new one is refused.
    pub(crate) fn begin_handshake(&self, association: &Arc<Association>) -> Result<(), Refusal> {
        let now = Instant::now();
        let mut evicted = None;
        let mut table = self.table.lock();
        if table.peer_counts.begin_handshake().is_err() {
            let oldest = table.oldest_handshake(now).ok_or(Refusal::MaxHalfOpen)?;
            table.end_handshake(&oldest);
            evicted = Some(oldest);
            table.peer_counts.begin_handshake()?;
        }
        association.attention.half_open.store(true, Ordering::Release);
        // Finished handshakes at the front are removed, so the queue only spans the time since the oldest handshake
        // under way began.
        while table.half_open.front().is_some_and(|(_, old)| !is_half_open(old)) {
            table.half_open.pop_front();
        }
        table.half_open.push_back((now, Arc::downgrade(association)));
        drop(table);
        if let Some(evicted) = evicted {
            evicted.attention.raise(signal::EVICT);
        }
        Ok(())
    }

    /// Notes that the handshake of this association is complete. The thread that serves the peer calls this.
    pub(crate) fn end_handshake(&self, association: &Association) {
        if association.attention.half_open.load(Ordering::Acquire) {
            let mut table = self.table.lock();
            table.end_handshake(association);
            table.note_drain(association);
        }
    }

    /// Makes a booked association findable. Returns `false` if there is one between these addresses already.
    pub(crate) fn insert(&self, association: &Arc<Association>) -> bool {
        let mut table = self.table.lock();
        if let Some(signal) = table.draining.and_then(|drain| table.drain_signal(drain, association)) {
            association.attention.raise(signal);
        }
        let key = table.associations.key_of(association);
        table.insert(key, association)
    }

    /// Books an association that comes from another process, regardless of the limits, and makes it findable by its
    /// addresses, or only by its connection ID if `is_found` is false. Returns `false` if another association has these
    /// addresses.
    pub(crate) fn insert_transferred(&self, association: &Arc<Association>, is_found: bool) -> bool {
        let mut table = self.table.lock();
        let key = match is_found {
            true => Key::Addresses(association.local, association.current_peer()),
            false => Key::Name(association.id),
        };
        if !table.insert(key, association) {
            return false;
        }
        table.peer_counts.book_transferred(association.local, association.peer);
        true
    }

    /// Returns the number of associations.
    pub(crate) fn len(&self) -> usize {
        self.table.lock().associations.len()
    }

    /// Removes an association that has ended and given up its socket, and releases its place. Both happen under one
    /// lock: an observer that sees the end counted also sees the place free, and the other way round. Returns what has
    /// arrived meanwhile for the successor.
    pub(crate) fn remove(&self, association: &Association, reason: &EndReason) -> VecDeque<InboxItem> {
        let mut table = self.table.lock();
        let is_there = table.associations.has(association);
        if is_there {
            table.census.remove(association);
        }
        table.end_handshake(association);
        table.forget_header(association);
        let counters = &association.counters;
        counters.count_end(reason);
        let left = association.attention.close_inbox();
        if is_there {
            let key = table.associations.key_of(association);
            table.associations.remove(&key);
            table.connection_ids.remove(&association.connection_id);
            table.peer_counts.release(association.local, association.admitted_address());
        }
        let [received, received_bytes, sent, sent_bytes, dropped] = association.carried();
        let fold = |from: &AtomicU64, carried: u64, into: &AtomicU64| {
            into.fetch_add(from.swap(0, Ordering::Relaxed).saturating_sub(carried), Ordering::Relaxed);
        };
        fold(&association.received, received, &counters.messages_received);
        fold(&association.sent, sent, &counters.messages_sent);
        fold(&association.dropped, dropped, &counters.messages_dropped);
        fold(&association.received_bytes, received_bytes, &counters.received_bytes);
        fold(&association.sent_bytes, sent_bytes, &counters.sent_bytes);
        if table.associations.is_empty() {
            table.associations.shrink_to(64);
            table.connection_ids.shrink_to(64);
            table.half_open.clear();
        }
        if table.has_no_bookings() {
            self.emptied.notify_all();
        }
        left
    }

    /// Refuses new peers from now on, and signals a drain to all associations. Returns the number of associations.
    pub(crate) fn drain(&self, drain: Drain) -> usize {
        let count = {
            let mut table = self.table.lock();
            table.draining = Some(drain);
            self.drains.store(true, Ordering::SeqCst);
            table.associations.len()
        };
        // An association that is inserted from now on is signalled by its thread, and perhaps here too.
        let signals = self.collect(|table, association| {
            table.drain_signal(drain, association).map(|signal| (Arc::clone(association), signal))
        });
        for (association, signal) in &signals {
            association.attention.raise(*signal);
        }
        count
    }

    /// Returns the open associations whose handlers are not waiting for their peer.
    pub(crate) fn busy(&self) -> Vec<Arc<Association>> {
        let is_busy = |association: &Arc<Association>| {
            let is_open = !association.attention.half_open.load(Ordering::Acquire);
            is_open && !association.reading.load(Ordering::SeqCst)
        };
        self.collect(|_, association| is_busy(association).then(|| Arc::clone(association)))
    }

    /// Returns all live associations.
    pub(crate) fn all(&self) -> Vec<Arc<Association>> {
        self.collect(|_, association| Some(Arc::clone(association)))
    }

    /// Collects the results of `take` for all associations. One that comes or goes during the walk may be left out. The
    /// lock is yielded to waiting threads after each part of the walk.
    fn collect<T>(&self, take: impl Fn(&Table, &Arc<Association>) -> Option<T>) -> Vec<T> {
        let (mut all, mut next) = (Vec::with_capacity(self.len()), 0);
        let mut table = self.table.lock();
        while let Some(part) = table.census.part(next) {
            all.extend(part.iter().flatten().filter_map(|association| take(&table, association)));
            next += part.len();
            yield_lock(&mut table);
        }
        all
    }

    /// Notes that a handler still runs after [`remove`](Self::remove), which follows, until
    /// [`handler_returned`](Self::handler_returned).
    pub(crate) fn handler_outlives_association(&self) {
        self.outliving_handlers.fetch_add(1, Ordering::SeqCst);
    }

    /// Notes that such a handler has returned.
    pub(crate) fn handler_returned(&self) {
        if self.outliving_handlers.fetch_sub(1, Ordering::SeqCst) == 1 && self.drains.load(Ordering::SeqCst) {
            // The notification is sent under the lock, so that a thread that is about to wait does not miss it.
            let _table = self.table.lock();
            self.emptied.notify_all();
        }
    }

    /// Returns the number of handlers that still run although their peers have left.
    pub(crate) fn outliving_handlers(&self) -> usize {
        self.outliving_handlers.load(Ordering::SeqCst)
    }

    /// Waits until there is no association, no booked peer that is still to be inserted, and no handler that still
    /// runs. Returns `false` if there is one at `deadline`.
    pub(crate) fn wait_until_empty(&self, deadline: Instant) -> bool {
        self.empties(|_| deadline)
    }

    /// Waits in the same way until the end of the grace period, which another thread may shorten meanwhile.
    pub(crate) fn wait_through_grace(&self) -> bool {
        self.empties(|table| table.grace.unwrap_or_else(Instant::now))
    }

    /// Ends the grace period at this time, unless it ends earlier anyway.
    pub(crate) fn shorten_grace(&self, until: Instant) {
        let mut table = self.table.lock();
        table.grace = Some(table.grace.map_or(until, |grace| grace.min(until)));
        self.emptied.notify_all();
    }

    fn empties(&self, deadline: impl Fn(&Table) -> Instant) -> bool {
        let mut table = self.table.lock();
        let is_empty = |table: &Table| table.has_no_bookings() && self.outliving_handlers() == 0;
        while !is_empty(&table) {
            let until = deadline(&table);
            if self.emptied.wait_until(&mut table, until).timed_out() {
                return is_empty(&table);
            }
        }
        true
    }

    /// Changes the limits for new peers.
    pub(crate) fn set_limits(&self, limits: Limits) {
        self.table.lock().peer_counts.set_limits(limits);
    }

    /// Returns the numbers of each listener, including those that only the registry knows. They are added up under its
    /// lock, under which [`remove`](Self::remove) counts, but in parts, and threads that wait for the lock get it
    /// between the parts.
    pub(crate) fn stats(&self, listeners: &ByListener) -> Vec<Stats> {
        let _counting = self.counting.lock();
        listeners.iter().for_each(|(_, counters)| counters.count_kernel_drops());
        let mut table = self.table.lock();
        table.census.begin(listeners);
        let mut all = loop {
            if let Some(all) = table.census.visit_next_part() {
                break all;
            }
            yield_lock(&mut table);
        };
        for association in table.awaiting_header.values().flat_map(BTreeMap::values) {
            let mut counters = listeners.iter().map(|(_, counters)| counters);
            if let Some(place) = counters.position(|counters| Arc::ptr_eq(counters, &association.counters)) {
                all[place].awaiting_header += 1;
            }
        }
        all
    }

    /// Returns the limit that would refuse the next peer, whatever its address is, and `None` if there is room.
    pub(crate) fn is_full(&self) -> Option<Refusal> {
        let table = self.table.lock();
        let (peer_counts, limits) = (&table.peer_counts, table.peer_counts.limits());
        match () {
            () if table.draining.is_some() => Some(Refusal::Draining),
            () if peer_counts.total() >= limits.max_peers => Some(Refusal::MaxPeers),
            () if peer_counts.half_open() >= limits.max_half_open => Some(Refusal::MaxHalfOpen),
            () => None,
        }
    }

    /// Returns the limits in effect.
    pub(crate) fn limits(&self) -> Limits {
        *self.table.lock().peer_counts.limits()
    }
}

impl Table {
    /// Makes an association findable. Returns `false` if there is one with this key already.
    fn insert(&mut self, key: Key, association: &Arc<Association>) -> bool {
        if !self.associations.insert(key, Arc::clone(association)) {
            return false;
        }
        self.census.insert(association);
        let cid = &association.connection_id;
        if !cid.is_empty() {
            self.connection_ids.insert(cid.clone(), Arc::clone(association));
        }
        true
    }

    /// Returns the signal that tells an association of a drain, or `None` if it gets the signal after its handshake.
    fn drain_signal(&self, drain: Drain, association: &Association) -> Option<u8> {
        let awaits_header = |listener| {
            self.awaiting_header.get(&listener).is_some_and(|waiting| waiting.contains_key(&association.id))
        };
        let is_opening = association.attention.half_open.load(Ordering::Acquire)
            || association.proxied_listener.is_some_and(awaits_header);
        match drain {
            _ if !is_opening => Some(signal::DRAIN),
            Drain::BreakOff => Some(signal::BREAK_OFF),
            Drain::Finish => None,
        }
    }

    /// Signals a drain to an association that has not been signalled yet. Runs on the thread that serves the
    /// association.
    fn note_drain(&self, association: &Association) {
        if self.draining.is_some() {
            // The client may already know that the handshake is complete, so the association is drained and not broken
            // off.
            if !association.attention.half_open.load(Ordering::Acquire) {
                association.attention.lower(signal::BREAK_OFF);
            }
            association.attention.note(signal::DRAIN);
        }
    }

    /// Returns whether there is neither an association nor one between its booking and its insertion.
    fn has_no_bookings(&self) -> bool {
        self.peer_counts.total() == 0
    }

    /// Notes that the handshake of this association, if there is one, has ended. The flag changes only under the lock.
    fn end_handshake(&mut self, association: &Association) {
        if association.attention.half_open.swap(false, Ordering::AcqRel) {
            self.peer_counts.end_handshake();
        }
    }

    /// Notes that this connection no longer waits for a PROXY header, if it did.
    fn forget_header(&mut self, association: &Association) {
        if let Some(listener) = association.proxied_listener
            && let Some(waiting) = self.awaiting_header.get_mut(&listener)
        {
            waiting.remove(&association.id);
        }
    }

    /// Takes the oldest handshake out of the queue if it is old enough to be evicted.
    fn oldest_handshake(&mut self, now: Instant) -> Option<Arc<Association>> {
        loop {
            let (began, association) = self.half_open.front()?;
            if !is_half_open(association) {
                self.half_open.pop_front();
                continue;
            }
            if now.saturating_duration_since(*began) < EVICTION_AGE {
                return None;
            }
            return self.half_open.pop_front().and_then(|(_, association)| association.upgrade());
        }
    }
}

fn is_half_open(association: &Weak<Association>) -> bool {
    association.upgrade().is_some_and(|association| association.attention.half_open.load(Ordering::Acquire))
}

//! The peers of a loop, found by their addresses, by their connection IDs, by their tokens, and by their timers.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use hashbrown::HashTable;

use super::entry::{Datagram, Entry};
use super::mailbox::PeerWaker;
use super::token::Token;
use crate::association::Association;

/// The most datagrams, and bytes in them, that wait for one peer.
const MAX_DATAGRAMS: u32 = 256;
const MAX_BYTES: u32 = 256 << 10;
/// The datagrams and bytes that wait for all peers of a loop when it stops reading; then the kernel's buffer fills, and
/// the kernel drops datagrams.
const MAX_ALL_DATAGRAMS: usize = 8192;
const MAX_ALL_BYTES: usize = 16 << 20;
/// The datagrams and bytes that wait for all peers in their handshakes. Further ones are dropped, so that such peers,
/// whose turns take long, do not keep the loop from reading the datagrams of open peers.
const MAX_HANDSHAKING_DATAGRAMS: usize = MAX_ALL_DATAGRAMS / 2;
const MAX_HANDSHAKING_BYTES: usize = MAX_ALL_BYTES / 2;

/// One peer.
pub(super) struct Slot {
    pub(super) association: Arc<Association>,
    /// The address by which it is found.
    peer: SocketAddr,
    pub(super) waker: Arc<PeerWaker>,
    /// Taken out while a thread drives the peer; always `None` if the peer has its own thread.
    pub(super) entry: Option<Box<Entry>>,
    /// Datagrams whose turn came while the entry was out.
    #[allow(clippy::box_collection, reason = "most peers have none, and 16 bytes less each")]
    held: Option<Box<Vec<Datagram>>>,
    /// The number of datagrams that wait for the peer, and of their bytes.
    datagrams: u32,
    bytes: u32,
    /// Whether a turn without a datagram is queued.
    is_queued: bool,
    /// Whether such a turn was requested while the entry was out.
    is_due: bool,
    /// Whether the peer shares a socket, and so is found by its addresses.
    is_shared: bool,
    /// The time of its timer, if one is set.
    timer: Option<Instant>,
}

impl Slot {
    /// Returns whether datagrams wait for the peer.
    pub(super) fn has_more(&self) -> bool {
        self.datagrams > 0
    }
}

/// The place of a slot, of two cache lines.
#[repr(align(64))]
struct Place {
    /// The number of peers that have had the place before.
    generation: u32,
    slot: Option<Slot>,
}

impl Place {
    fn token(&self, index: u32) -> Token {
        Token::new(index, self.generation)
    }
}

/// All peers of a loop.
pub(super) struct Slots {
    places: Vec<Place>,
    free: Vec<u32>,
    by_addresses: HashTable<u32>,
    by_connection_id: HashMap<Box<[u8]>, Token>,
    /// Has random keys, because unknown peers choose the addresses.
    hasher: RandomState,
    /// May contain timers that are no longer set; each is dropped when it becomes the first.
    timers: BinaryHeap<Reverse<(Instant, Token)>>,
    /// The turns of open peers.
    ready: Turns,
    /// The turns of peers in their handshake, each of which takes long.
    handshaking: Turns,
    /// The number of turns of open peers since the last turn of a handshake.
    turns: u32,
    /// The time at which the present round began.
    now: Instant,
}

/// A turn that waits: the peer, a datagram for it if there is one, and the time since which the turn waits.
type Turn = (Token, Option<Datagram>, Instant);

/// Turns that wait, with the number of their datagrams and of the bytes in these.
#[derive(Default)]
struct Turns {
    queue: VecDeque<Turn>,
    datagrams: usize,
    bytes: usize,
}

impl Turns {
    /// Returns whether this many datagrams or bytes wait.
    fn is_full(&self, datagrams: usize, bytes: usize) -> bool {
        self.datagrams >= datagrams || self.bytes >= bytes
    }

    fn push_back(&mut self, turn: Turn) {
        self.count(&turn);
        self.queue.push_back(turn);
    }

    fn push_front(&mut self, turn: Turn) {
        self.count(&turn);
        self.queue.push_front(turn);
    }

    fn count(&mut self, (_, datagram, _): &Turn) {
        if let Some((datagram, _)) = datagram {
            self.datagrams += 1;
            self.bytes += datagram.len();
        }
    }

    fn pop_front(&mut self) -> Option<Turn> {
        let turn = self.queue.pop_front()?;
        if let Some((datagram, _)) = &turn.1 {
            self.datagrams -= 1;
            self.bytes -= datagram.len();
        }
        Some(turn)
    }
}

/// The number of turns of open peers before one turn of a handshake, while both wait.
const TURNS: u32 = 16;

impl Slots {
    pub(super) fn new() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
            by_addresses: HashTable::new(),
            by_connection_id: HashMap::new(),
            hasher: RandomState::new(),
            timers: BinaryHeap::new(),
            ready: Turns::default(),
            handshaking: Turns::default(),
            turns: 0,
            now: Instant::now(),
        }
    }

    /// Begins a round, in which the loop reads what has arrived by now.
    pub(super) fn begin_round(&mut self, now: Instant) {
        self.now = now;
    }

    /// Finds the peer between these addresses.
    pub(super) fn find(&self, local: SocketAddr, peer: SocketAddr) -> Option<Token> {
        let hash = hash(&self.hasher, local, peer);
        let found = self.by_addresses.find(hash, |&index| {
            let slot = self.places[index as usize].slot.as_ref();
            slot.is_some_and(|slot| slot.peer == peer && slot.association.local == local)
        })?;
        Some(self.places[*found as usize].token(*found))
    }

    /// Makes a slot for an association. `make_waker` makes its waker.
    pub(super) fn insert(
        &mut self,
        association: &Arc<Association>,
        is_shared: bool,
        make_waker: impl FnOnce(Token) -> Arc<PeerWaker>,
    ) -> Token {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: 0, slot: None });
            // The cast cannot overflow: memory cannot hold that many associations.
            (self.places.len() - 1) as u32
        });
        let place = &mut self.places[index as usize];
        let token = place.token(index);
        place.slot = Some(Slot {
            association: Arc::clone(association),
            peer: association.peer,
            waker: make_waker(token),
            entry: None,
            held: None,
            datagrams: 0,
            bytes: 0,
            is_queued: false,
            is_due: false,
            is_shared,
            timer: None,
        });
        association.loop_token.store(token.as_u64(), Ordering::Release);
        if !is_shared {
            return token;
        }
        if !association.connection_id.is_empty() {
            self.by_connection_id.insert(association.connection_id.clone(), token);
        }
        self.place_address(index);
        token
    }

    /// Makes a peer findable by its addresses.
    fn place_address(&mut self, index: u32) {
        let Self { places, by_addresses, hasher, .. } = self;
        let hash_of = |index: &u32| {
            let slot = places[*index as usize].slot.as_ref();
            slot.map_or(0, |slot| hash(hasher, slot.association.local, slot.peer))
        };
        by_addresses.insert_unique(hash_of(&index), index, hash_of);
    }

    /// Stops a peer from being found by its addresses.
    fn displace_address(&mut self, index: u32) {
        let Some(slot) = &self.places[index as usize].slot else { return };
        let hash = hash(&self.hasher, slot.association.local, slot.peer);
        if let Ok(found) = self.by_addresses.find_entry(hash, |found| *found == index) {
            found.remove();
        }
    }

    /// Moves a peer to a new address. A peer that had this address is found only by its connection ID from now on.
    pub(super) fn change_peer_address(&mut self, token: Token, peer: SocketAddr) {
        let Some(local) = self.get(token).map(|slot| slot.association.local) else { return };
        if let Some(other) = self.find(local, peer) {
            self.displace_address(other.index() as u32);
        }
        let index = token.index() as u32;
        self.displace_address(index);
        if let Some(slot) = self.get(token) {
            slot.peer = peer;
            self.place_address(index);
        }
    }

    /// Makes a peer findable at this address, or, without an address, only by its connection ID.
    pub(super) fn find_at(&mut self, token: Token, peer: Option<SocketAddr>) {
        match peer {
            Some(peer) => self.change_peer_address(token, peer),
            None => self.displace_address(token.index() as u32),
        }
    }

    /// Returns whether the peer is found by its addresses.
    pub(super) fn is_found_by_address(&mut self, token: Token) -> bool {
        let Some((local, peer)) = self.get(token).map(|slot| (slot.association.local, slot.peer)) else {
            return false;
        };
        self.find(local, peer) == Some(token)
    }

    /// Returns the association and the address of a peer that shares a socket.
    pub(super) fn shared(&mut self, token: Token) -> Option<(Arc<Association>, SocketAddr)> {
        let slot = self.get(token).filter(|slot| slot.is_shared)?;
        Some((Arc::clone(&slot.association), slot.peer))
    }

    /// Finds the peer whose records have this connection ID.
    pub(super) fn find_by_connection_id(&self, cid: &[u8]) -> Option<Token> {
        self.by_connection_id.get(cid).copied()
    }

    /// Frees a slot.
    pub(super) fn remove(&mut self, token: Token) -> Option<Slot> {
        let slot = self.get(token)?;
        let (is_shared, association) = (slot.is_shared, Arc::clone(&slot.association));
        if is_shared {
            self.displace_address(token.index() as u32);
            self.by_connection_id.remove(&association.connection_id);
        }
        let index = token.index();
        let place = &mut self.places[index];
        place.generation = place.generation.wrapping_add(1);
        let left = place.slot.take();
        self.free.push(index as u32);
        if self.free.len() == self.places.len() {
            // The last of many peers has left, so the memory of the queues is released.
            (self.ready, self.handshaking) = (Turns::default(), Turns::default());
            self.timers = BinaryHeap::new();
        }
        left
    }

    /// Returns the slot, unless another peer has it by now.
    pub(super) fn get(&mut self, token: Token) -> Option<&mut Slot> {
        let place = self.places.get_mut(token.index())?;
        let is_same = Token::new(0, place.generation).generation() == token.generation();
        place.slot.as_mut().filter(|_| is_same)
    }

    /// Returns the tokens of all peers.
    pub(super) fn tokens(&self) -> Vec<Token> {
        let all = self.places.iter().enumerate();
        let taken = all.filter(|(_, place)| place.slot.is_some());
        taken.map(|(index, place)| place.token(index as u32)).collect()
    }

    /// Queues a turn for a peer, behind the turns that already wait.
    pub(super) fn queue(&mut self, token: Token) {
        let Some(slot) = self.get(token) else { return };
        let Some(entry) = &slot.entry else {
            slot.is_due = true;
            return;
        };
        let is_handshaking = entry.is_handshaking();
        if !std::mem::replace(&mut slot.is_queued, true) {
            if is_handshaking { &mut self.handshaking } else { &mut self.ready }
                .push_back((token, None, self.now));
        }
    }

    /// Queues a turn with a datagram for a peer, behind the turns that already wait. Returns the datagram if too many
    /// wait for the peer.
    pub(super) fn queue_datagram(
        &mut self,
        token: Token,
        datagram: Vec<u8>,
        from: Option<SocketAddr>,
    ) -> Result<(), Vec<u8>> {
        let is_handshaking_full = self.handshaking.is_full(MAX_HANDSHAKING_DATAGRAMS, MAX_HANDSHAKING_BYTES);
        let Some(slot) = self.get(token) else { return Err(datagram) };
        let is_handshaking = slot.entry.as_ref().is_some_and(|entry| entry.is_handshaking());
        let bytes = u32::try_from(datagram.len()).unwrap_or(u32::MAX);
        let is_full = slot.datagrams >= MAX_DATAGRAMS || slot.bytes.saturating_add(bytes) > MAX_BYTES;
        if is_full || (is_handshaking && is_handshaking_full) {
            return Err(datagram);
        }
        slot.datagrams += 1;
        slot.bytes += bytes;
        let turns = if is_handshaking { &mut self.handshaking } else { &mut self.ready };
        turns.push_back((token, Some((datagram, from)), self.now));
        Ok(())
    }

    /// Returns whether so many datagrams wait that the loop must not read more.
    pub(super) fn is_full(&self) -> bool {
        let Self { ready, handshaking, .. } = self;
        ready.datagrams + handshaking.datagrams >= MAX_ALL_DATAGRAMS
            || ready.bytes + handshaking.bytes >= MAX_ALL_BYTES
    }

    /// Takes out the entry whose turn is next. Returns its datagram, if there is one, and the time since which the turn
    /// has waited.
    pub(super) fn next(&mut self) -> Option<(Token, Box<Entry>, Option<Datagram>, Instant)> {
        loop {
            let handshake_first = !self.has_ready() || self.turns >= TURNS;
            let (token, datagram, since) = match handshake_first {
                true => self
                    .handshaking
                    .pop_front()
                    .inspect(|_| self.turns = 0)
                    .or_else(|| self.ready.pop_front()),
                false => self.ready.pop_front().inspect(|_| self.turns += 1),
            }?;
            let Some(slot) = self.get(token) else { continue };
            match (slot.entry.take(), datagram) {
                (Some(entry), datagram) => {
                    match &datagram {
                        Some((datagram, _)) => {
                            slot.datagrams -= 1;
                            // It was counted by `queue_datagram`, so the cast does not truncate.
                            slot.bytes -= datagram.len() as u32;
                        }
                        None => slot.is_queued = false,
                    }
                    return Some((token, entry, datagram, since));
                }
                (None, Some(datagram)) => slot.held.get_or_insert_default().push(datagram),
                (None, None) => (slot.is_queued, slot.is_due) = (false, true),
            }
        }
    }

    /// Puts a peer's entry back, and queues what arrived while it was out.
    pub(super) fn put_back(&mut self, token: Token, entry: Box<Entry>) {
        let Some(slot) = self.get(token) else { return };
        slot.entry = Some(entry);
        let is_due = std::mem::take(&mut slot.is_due);
        if let Some(mut held) = slot.held.take() {
            while let Some(datagram) = held.pop() {
                // These datagrams go in front of those that arrived later.
                self.ready.push_front((token, Some(datagram), self.now));
            }
        }
        if is_due {
            self.queue(token);
        }
    }

    /// Returns whether an open peer waits for a turn.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.queue.is_empty()
    }

    /// Returns whether some entry is taken out.
    pub(super) fn has_running_elsewhere(&self) -> bool {
        self.places.iter().any(|place| matches!(place.slot, Some(Slot { entry: None, .. })))
    }

    /// Returns whether any peer waits for a turn.
    pub(super) fn has_queued(&self) -> bool {
        !self.ready.queue.is_empty() || !self.handshaking.queue.is_empty()
    }

    /// Sets the timer of a peer, or removes it. The timer may fire too early: if it was set before, it stays as it is
    /// while at least half of the time until `at` would pass before it fires. So a deadline that moves with each
    /// message costs almost nothing, and the timer of a handshake does not fire after the handshake.
    pub(super) fn set_timer(&mut self, token: Token, at: Option<Instant>) {
        let now = self.now;
        let Some(slot) = self.get(token) else { return };
        if let (Some(at), Some(timer)) = (at, slot.timer)
            && timer <= at
            && timer >= now + at.saturating_duration_since(now) / 2
        {
            return;
        }
        slot.timer = at;
        self.timers.extend(at.map(|at| Reverse((at, token))));
    }

    /// Returns when the first timer fires.
    pub(super) fn next_timer(&mut self) -> Option<Instant> {
        loop {
            let Reverse((at, token)) = *self.timers.peek()?;
            if self.get(token).is_some_and(|slot| slot.timer == Some(at)) {
                return Some(at);
            }
            self.timers.pop();
        }
    }

    /// Queues turns for the peers whose timers have fired.
    pub(super) fn fire(&mut self, now: Instant) {
        while self.next_timer().is_some_and(|at| at <= now) {
            let Some(Reverse((_, token))) = self.timers.pop() else { break };
            self.set_timer(token, None);
            self.queue(token);
        }
    }
}

/// Hashes a pair of addresses. SipHash gets them in one piece, which takes less than half as long as field by field.
fn hash(keys: &RandomState, local: SocketAddr, peer: SocketAddr) -> u64 {
    let mut bytes = [0; 36];
    let mut len = 0;
    for address in [local, peer] {
        let mut add = |part: &[u8]| {
            bytes[len..len + part.len()].copy_from_slice(part);
            len += part.len();
        };
        match address.ip() {
            IpAddr::V4(ip) => add(&ip.octets()),
            IpAddr::V6(ip) => add(&ip.octets()),
        }
        add(&address.port().to_be_bytes());
    }
    let mut hasher = keys.build_hasher();
    hasher.write(&bytes[..len]);
    hasher.finish()
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::address::Scheme;
    use crate::serve::loops::mailbox::LoopMailbox;

    fn insert(slots: &mut Slots, port: u16) -> Token {
        let mailbox = Arc::new(LoopMailbox::new().unwrap());
        let (local, peer) = ("127.0.0.1:1".parse().unwrap(), SocketAddr::from(([127, 0, 0, 1], port)));
        let association = Arc::new(Association::new(Scheme::Udp, local, peer, Arc::default()));
        slots.insert(&association, true, |token| PeerWaker::new(&mailbox, token))
    }

    #[test]
    fn a_timer_does_not_fire_long_before_the_deadline_of_its_peer() {
        let mut slots = Slots::new();
        let start = Instant::now();
        let at = |seconds| Some(start + Duration::from_secs(seconds));
        slots.begin_round(start);
        let token = insert(&mut slots, 2);
        slots.set_timer(token, at(1));
        assert_eq!(slots.next_timer(), at(1));
        // The handshake is over.
        slots.set_timer(token, at(60));
        assert_eq!(slots.next_timer(), at(60));
        // Messages move the deadline, and the timer follows now and then.
        for (now, deadline, timer) in [(1, 61, 60), (29, 89, 60), (31, 91, 91), (32, 40, 40), (33, 93, 93)] {
            slots.begin_round(at(now).unwrap());
            slots.set_timer(token, at(deadline));
            assert_eq!(slots.next_timer(), at(timer), "at {now} s");
        }
        slots.set_timer(token, None);
        assert_eq!(slots.next_timer(), None);
    }

    #[test]
    fn timers_fire_once_and_not_for_peers_that_have_left() {
        let mut slots = Slots::new();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let [first, left, last] = [(2, 1), (3, 2), (4, 3)].map(|(port, deadline)| {
            let token = insert(&mut slots, port);
            slots.set_timer(token, Some(at(deadline)));
            token
        });
        slots.remove(left);
        slots.fire(at(2));
        assert_eq!(slots.next_timer(), Some(at(3)));
        let is_due = |slots: &mut Slots, token| slots.get(token).unwrap().is_due;
        assert_eq!((is_due(&mut slots, first), is_due(&mut slots, last)), (true, false));
        slots.remove(first);
        slots.remove(last);
        assert_eq!(slots.next_timer(), None);
    }

    #[test]
    fn turns_are_full_at_a_number_of_datagrams_or_of_bytes() {
        let token = insert(&mut Slots::new(), 2);
        let mut turns = Turns::default();
        turns.push_back((token, None, Instant::now()));
        for len in [10, 20] {
            assert!(!turns.is_full(2, 30));
            turns.push_back((token, Some((vec![0; len], None)), Instant::now()));
        }
        assert!(turns.is_full(2, 31) && turns.is_full(3, 30) && !turns.is_full(3, 31));
        assert!(turns.pop_front().is_some_and(|(_, datagram, _)| datagram.is_none()));
        turns.push_front((token, Some((vec![0; 1], None)), Instant::now()));
        assert!(turns.is_full(3, 31));
        while turns.pop_front().is_some() {}
        assert_eq!((turns.datagrams, turns.bytes), (0, 0));
    }

    #[test]
    fn datagrams_of_peers_that_have_left_are_no_longer_counted() {
        let mailbox = Arc::new(LoopMailbox::new().unwrap());
        let (local, peer) = ("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
        let mut slots = Slots::new();
        for _ in 0..=MAX_ALL_DATAGRAMS {
            let association = Arc::new(Association::new(Scheme::Udp, local, peer, Arc::default()));
            let token = slots.insert(&association, true, |token| PeerWaker::new(&mailbox, token));
            assert_eq!(slots.find(local, peer), Some(token));
            slots.queue_datagram(token, vec![0; 10], None).unwrap();
            assert!(slots.remove(token).is_some());
            assert_eq!(slots.find(local, peer), None);
        }
        assert!(!slots.is_full());
        assert!(slots.next().is_none());
    }
}

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
const MAX_DATAGRAMS: usize = 256;
const MAX_BYTES: usize = 256 << 10;
/// The datagrams and bytes that wait for all peers of a loop when it stops reading; then the kernel's buffer fills, and
/// the kernel drops datagrams.
const MAX_ALL_DATAGRAMS: usize = 8192;
const MAX_ALL_BYTES: usize = 16 << 20;

/// One peer.
pub(super) struct Slot {
    pub(super) association: Arc<Association>,
    /// The address by which it is found.
    peer: SocketAddr,
    pub(super) waker: Arc<PeerWaker>,
    /// Taken out while a thread drives the peer; always `None` if the peer has its own thread.
    pub(super) entry: Option<Box<Entry>>,
    /// Datagrams whose turn came while the entry was out.
    held: Vec<Datagram>,
    /// The number of datagrams that wait for the peer, and of their bytes.
    datagrams: usize,
    bytes: usize,
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
        self.datagrams > 0 || !self.held.is_empty()
    }
}

enum Place {
    Occupied(Slot),
    /// The slot is free.
    Free,
}

/// All peers of a loop.
pub(super) struct Slots {
    places: Vec<(u32, Place)>,
    free: Vec<u32>,
    by_addresses: HashTable<u32>,
    by_connection_id: HashMap<Box<[u8]>, Token>,
    /// Has random keys, because unknown peers choose the addresses.
    hasher: RandomState,
    timers: BinaryHeap<Reverse<(Instant, Token)>>,
    /// The turns of open peers.
    ready: VecDeque<Turn>,
    /// The turns of peers in their handshake, each of which takes long.
    handshaking: VecDeque<Turn>,
    /// The number of turns of open peers since the last turn of a handshake.
    turns: u32,
    /// The number of datagrams that wait, and of their bytes.
    datagrams: usize,
    bytes: usize,
    /// The time at which the present round began.
    now: Instant,
}

/// A turn that waits: the peer, a datagram for it if there is one, and the time since which the turn waits.
type Turn = (Token, Option<Datagram>, Instant);

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
            ready: VecDeque::new(),
            handshaking: VecDeque::new(),
            turns: 0,
            datagrams: 0,
            bytes: 0,
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
        let found = self.by_addresses.find(hash, |&index| match &self.places[index as usize].1 {
            Place::Occupied(slot) => slot.peer == peer && slot.association.local == local,
            Place::Free => false,
        })?;
        Some(Token::new(*found, self.places[*found as usize].0))
    }

    /// Makes a slot for an association. `make_waker` makes its waker.
    pub(super) fn insert(
        &mut self,
        association: &Arc<Association>,
        is_shared: bool,
        make_waker: impl FnOnce(Token) -> Arc<PeerWaker>,
    ) -> Token {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push((0, Place::Free));
            // The cast cannot overflow: memory cannot hold that many associations.
            (self.places.len() - 1) as u32
        });
        let (generation, place) = &mut self.places[index as usize];
        let token = Token::new(index, *generation);
        *place = Place::Occupied(Slot {
            association: Arc::clone(association),
            peer: association.peer,
            waker: make_waker(token),
            entry: None,
            held: Vec::new(),
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
        let hash_of = |index: &u32| match &places[*index as usize].1 {
            Place::Occupied(slot) => hash(hasher, slot.association.local, slot.peer),
            Place::Free => 0,
        };
        by_addresses.insert_unique(hash_of(&index), index, hash_of);
    }

    /// Stops a peer from being found by its addresses.
    fn displace_address(&mut self, index: u32) {
        let Place::Occupied(slot) = &self.places[index as usize].1 else { return };
        let hash = hash(&self.hasher, slot.association.local, slot.peer);
        if let Ok(found) = self.by_addresses.find_entry(hash, |found| *found == index) {
            found.remove();
        }
    }

    /// Moves a peer to a new address. A peer that had this address is found only by its connection ID from now on.
    pub(super) fn follow(&mut self, token: Token, peer: SocketAddr) {
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
            Some(peer) => self.follow(token, peer),
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
        let (generation, place) = &mut self.places[index];
        *generation = generation.wrapping_add(1);
        self.free.push(index as u32);
        let left = std::mem::replace(place, Place::Free);
        if self.free.len() == self.places.len() {
            // The last of many peers has left, so the memory of the queues is released.
            let (ready, handshaking) = (VecDeque::new(), VecDeque::new());
            (self.timers, self.ready, self.handshaking) = (BinaryHeap::new(), ready, handshaking);
            // The datagrams that waited in the queues have been dropped with them.
            (self.datagrams, self.bytes) = (0, 0);
        }
        match left {
            Place::Occupied(slot) => Some(slot),
            Place::Free => None,
        }
    }

    /// Returns the slot, unless another peer has it by now.
    pub(super) fn get(&mut self, token: Token) -> Option<&mut Slot> {
        match self.places.get_mut(token.index())? {
            (generation, Place::Occupied(slot))
                if Token::new(0, *generation).generation() == token.generation() =>
            {
                Some(slot)
            }
            _ => None,
        }
    }

    /// Returns the tokens of all peers.
    pub(super) fn tokens(&self) -> Vec<Token> {
        let all = self.places.iter().enumerate();
        let taken = all.filter(|(_, (_, place))| matches!(place, Place::Occupied(_)));
        taken.map(|(index, (generation, _))| Token::new(index as u32, *generation)).collect()
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
        let Some(slot) = self.get(token) else { return Err(datagram) };
        if slot.datagrams >= MAX_DATAGRAMS || slot.bytes + datagram.len() > MAX_BYTES {
            return Err(datagram);
        }
        slot.datagrams += 1;
        slot.bytes += datagram.len();
        let is_handshaking = slot.entry.as_ref().is_some_and(|entry| entry.is_handshaking());
        self.datagrams += 1;
        self.bytes += datagram.len();
        if is_handshaking { &mut self.handshaking } else { &mut self.ready }.push_back((
            token,
            Some((datagram, from)),
            self.now,
        ));
        Ok(())
    }

    /// Returns whether so many datagrams wait that the loop must not read more.
    pub(super) fn is_full(&self) -> bool {
        self.datagrams >= MAX_ALL_DATAGRAMS || self.bytes >= MAX_ALL_BYTES
    }

    /// Takes out the entry whose turn is next. Returns its datagram, if there is one, and the time since which the turn
    /// has waited.
    pub(super) fn next(&mut self) -> Option<(Token, Box<Entry>, Option<Datagram>, Instant)> {
        loop {
            let handshake_first = self.ready.is_empty() || self.turns >= TURNS;
            let (token, datagram, since) = match handshake_first {
                true => self
                    .handshaking
                    .pop_front()
                    .inspect(|_| self.turns = 0)
                    .or_else(|| self.ready.pop_front()),
                false => self.ready.pop_front().inspect(|_| self.turns += 1),
            }?;
            if let Some((datagram, _)) = &datagram {
                self.datagrams -= 1;
                self.bytes -= datagram.len();
            }
            let Some(slot) = self.get(token) else { continue };
            match (slot.entry.take(), datagram) {
                (Some(entry), datagram) => {
                    match &datagram {
                        Some((datagram, _)) => {
                            slot.datagrams -= 1;
                            slot.bytes -= datagram.len();
                        }
                        None => slot.is_queued = false,
                    }
                    return Some((token, entry, datagram, since));
                }
                (None, Some(datagram)) => slot.held.push(datagram),
                (None, None) => (slot.is_queued, slot.is_due) = (false, true),
            }
        }
    }

    /// Puts a peer's entry back, and queues what arrived while it was out.
    pub(super) fn put_back(&mut self, token: Token, entry: Box<Entry>) {
        let Some(slot) = self.get(token) else { return };
        slot.entry = Some(entry);
        let is_due = std::mem::take(&mut slot.is_due);
        let mut held = std::mem::take(&mut slot.held);
        while let Some(datagram) = held.pop() {
            self.datagrams += 1;
            self.bytes += datagram.0.len();
            // These datagrams go in front of those that arrived later.
            self.ready.push_front((token, Some(datagram), self.now));
        }
        if is_due {
            self.queue(token);
        }
    }

    /// Returns whether an open peer waits for a turn.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Returns whether some entry is taken out.
    pub(super) fn has_running_elsewhere(&self) -> bool {
        self.places.iter().any(|(_, place)| matches!(place, Place::Occupied(Slot { entry: None, .. })))
    }

    /// Returns whether any peer waits for a turn.
    pub(super) fn has_queued(&self) -> bool {
        !self.ready.is_empty() || !self.handshaking.is_empty()
    }

    /// Sets a timer for a peer, unless it has an earlier one.
    pub(super) fn set_timer(&mut self, token: Token, at: Option<Instant>) {
        let (Some(at), Some(slot)) = (at, self.get(token)) else { return };
        // An earlier timer sets the next one when it fires, so a deadline that moves with each message costs nothing.
        if slot.timer.is_none_or(|timer| at < timer) {
            slot.timer = Some(at);
            self.timers.push(Reverse((at, token)));
        }
    }

    /// Returns when the first timer fires.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// Queues turns for the peers whose timers have fired.
    pub(super) fn fire(&mut self, now: Instant) {
        while let Some(Reverse((at, token))) = self.timers.peek().copied()
            && at <= now
        {
            self.timers.pop();
            if let Some(slot) = self.get(token)
                && slot.timer == Some(at)
            {
                slot.timer = None;
                self.queue(token);
            }
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
    use super::*;
    use crate::address::Scheme;
    use crate::serve::loops::mailbox::LoopMailbox;

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

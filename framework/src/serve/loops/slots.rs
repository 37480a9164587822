//! The peers of a loop: found by their addresses, by what others call them, and by when they have to be looked at.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use hashbrown::HashTable;

use super::entry::{Datagram, Entry};
use super::letters::PeerBell;
use super::token::Token;
use crate::association::Association;

/// Datagrams, and bytes of them, that wait for one peer at most.
const MAX_DATAGRAMS: usize = 256;
const MAX_BYTES: usize = 256 << 10;
/// Those that wait for all peers of a loop before it reads no more: then the kernel's buffer fills, and drops.
const MAX_ALL_DATAGRAMS: usize = 8192;
const MAX_ALL_BYTES: usize = 16 << 20;

/// One peer.
pub(super) struct Slot {
    pub(super) association: Arc<Association>,
    /// Where it is found.
    peer: SocketAddr,
    pub(super) bell: Arc<PeerBell>,
    /// Taken out while it is driven; never there where a thread of its own serves it.
    pub(super) entry: Option<Box<Entry>>,
    /// Datagrams whose turn came while it was out.
    held: Vec<Datagram>,
    /// How many wait for it in all, and how many bytes they have.
    datagrams: usize,
    bytes: usize,
    /// A turn without a datagram waits.
    is_queued: bool,
    /// Somebody wanted such a turn while it was out.
    is_due: bool,
    /// It is found by its addresses, because it shares a socket.
    is_shared: bool,
    /// Where the timers have it, if they do.
    timer: Option<Instant>,
}

impl Slot {
    /// Whether something waits for the peer.
    pub(super) fn has_more(&self) -> bool {
        self.datagrams > 0 || !self.held.is_empty()
    }
}

enum Place {
    Taken(Slot),
    /// The slot is free.
    Free,
}

/// All peers of a loop.
pub(super) struct Slots {
    places: Vec<(u32, Place)>,
    free: Vec<u32>,
    by_addresses: HashTable<u32>,
    by_connection_id: HashMap<Box<[u8]>, Token>,
    /// Keyed at random, because strangers choose the addresses.
    hasher: RandomState,
    timers: BinaryHeap<Reverse<(Instant, Token)>>,
    /// Turns of those that are open.
    ready: VecDeque<Turn>,
    /// Turns of those in their handshake, each of which takes long.
    shaking: VecDeque<Turn>,
    /// Turns of the others since one in its handshake had one.
    turns: u32,
    /// Datagrams that wait, and their bytes.
    datagrams: usize,
    bytes: usize,
    /// When the present round began.
    now: Instant,
}

/// A peer that is to be looked at, for a datagram of its own or for something else, and since when.
type Turn = (Token, Option<Datagram>, Instant);

/// So many turns of peers that are open come before one of a handshake, while there are both.
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
            shaking: VecDeque::new(),
            turns: 0,
            datagrams: 0,
            bytes: 0,
            now: Instant::now(),
        }
    }

    /// The loop begins to read what has come by now.
    pub(super) fn begin_round(&mut self, now: Instant) {
        self.now = now;
    }

    /// Finds the peer between these addresses.
    pub(super) fn find(&self, local: SocketAddr, peer: SocketAddr) -> Option<Token> {
        let hash = hash(&self.hasher, local, peer);
        let found = self.by_addresses.find(hash, |&index| match &self.places[index as usize].1 {
            Place::Taken(slot) => slot.peer == peer && slot.association.local == local,
            Place::Free => false,
        })?;
        Some(Token::new(*found, self.places[*found as usize].0))
    }

    /// Makes a slot. `ring` makes its bell.
    pub(super) fn insert(
        &mut self,
        association: &Arc<Association>,
        is_shared: bool,
        ring: impl FnOnce(Token) -> Arc<PeerBell>,
    ) -> Token {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push((0, Place::Free));
            // So many associations do not fit into any memory.
            (self.places.len() - 1) as u32
        });
        let (generation, place) = &mut self.places[index as usize];
        let token = Token::new(index, *generation);
        *place = Place::Taken(Slot {
            association: Arc::clone(association),
            peer: association.peer,
            bell: ring(token),
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

    /// Has a peer found by its addresses.
    fn place_address(&mut self, index: u32) {
        let Self { places, by_addresses, hasher, .. } = self;
        let hash_of = |index: &u32| match &places[*index as usize].1 {
            Place::Taken(slot) => hash(hasher, slot.association.local, slot.peer),
            Place::Free => 0,
        };
        by_addresses.insert_unique(hash_of(&index), index, hash_of);
    }

    /// Has a peer found by its addresses no more.
    fn displace_address(&mut self, index: u32) {
        let Place::Taken(slot) = &self.places[index as usize].1 else { return };
        let hash = hash(&self.hasher, slot.association.local, slot.peer);
        if let Ok(found) = self.by_addresses.find_entry(hash, |found| *found == index) {
            found.remove();
        }
    }

    /// The peer is at this address by now. Who was found there is found by its connection ID alone.
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

    /// Has a peer found at this address, or by its connection ID alone.
    pub(super) fn find_at(&mut self, token: Token, peer: Option<SocketAddr>) {
        match peer {
            Some(peer) => self.follow(token, peer),
            None => self.displace_address(token.index() as u32),
        }
    }

    /// Whether the peer is found by its addresses.
    pub(super) fn is_found_by_address(&mut self, token: Token) -> bool {
        let Some((local, peer)) = self.get(token).map(|slot| (slot.association.local, slot.peer)) else {
            return false;
        };
        self.find(local, peer) == Some(token)
    }

    /// A peer that shares a socket, and where it is.
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
            // A crowd was here and is gone.
            let (ready, shaking) = (VecDeque::new(), VecDeque::new());
            (self.timers, self.ready, self.shaking) = (BinaryHeap::new(), ready, shaking);
            // What waited in those has gone with them.
            (self.datagrams, self.bytes) = (0, 0);
        }
        match left {
            Place::Taken(slot) => Some(slot),
            Place::Free => None,
        }
    }

    /// The slot, unless it is another one's by now.
    pub(super) fn get(&mut self, token: Token) -> Option<&mut Slot> {
        match self.places.get_mut(token.index())? {
            (generation, Place::Taken(slot))
                if Token::new(0, *generation).generation() == token.generation() =>
            {
                Some(slot)
            }
            _ => None,
        }
    }

    /// All peers.
    pub(super) fn tokens(&self) -> Vec<Token> {
        let all = self.places.iter().enumerate();
        let taken = all.filter(|(_, (_, place))| matches!(place, Place::Taken(_)));
        taken.map(|(index, (generation, _))| Token::new(index as u32, *generation)).collect()
    }

    /// Gives a peer a turn, behind those that wait already.
    pub(super) fn queue(&mut self, token: Token) {
        let Some(slot) = self.get(token) else { return };
        let Some(entry) = &slot.entry else {
            slot.is_due = true;
            return;
        };
        let shakes = entry.shakes_hands();
        if !std::mem::replace(&mut slot.is_queued, true) {
            if shakes { &mut self.shaking } else { &mut self.ready }.push_back((token, None, self.now));
        }
    }

    /// Gives a peer a turn for a datagram, behind those that wait already. The datagram comes back where too many wait for it.
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
        let shakes = slot.entry.as_ref().is_some_and(|entry| entry.shakes_hands());
        self.datagrams += 1;
        self.bytes += datagram.len();
        if shakes { &mut self.shaking } else { &mut self.ready }.push_back((
            token,
            Some((datagram, from)),
            self.now,
        ));
        Ok(())
    }

    /// Whether so many datagrams wait that no more are to be read.
    pub(super) fn is_full(&self) -> bool {
        self.datagrams >= MAX_ALL_DATAGRAMS || self.bytes >= MAX_ALL_BYTES
    }

    /// Takes out the peer whose turn it is, with its datagram if there is one, and says since when it has waited.
    pub(super) fn next(&mut self) -> Option<(Token, Box<Entry>, Option<Datagram>, Instant)> {
        loop {
            let shaking_first = self.ready.is_empty() || self.turns >= TURNS;
            let (token, datagram, since) = match shaking_first {
                true => {
                    self.shaking.pop_front().inspect(|_| self.turns = 0).or_else(|| self.ready.pop_front())
                }
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

    /// Puts a peer back, which goes on with what came while it was out.
    pub(super) fn put_back(&mut self, token: Token, entry: Box<Entry>) {
        let Some(slot) = self.get(token) else { return };
        slot.entry = Some(entry);
        let is_due = std::mem::take(&mut slot.is_due);
        let mut held = std::mem::take(&mut slot.held);
        while let Some(datagram) = held.pop() {
            self.datagrams += 1;
            self.bytes += datagram.0.len();
            // Before those that came later.
            self.ready.push_front((token, Some(datagram), self.now));
        }
        if is_due {
            self.queue(token);
        }
    }

    /// Whether somebody who is open waits for a turn.
    pub(super) fn is_anybody_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether some peer has its turn.
    pub(super) fn is_anybody_out(&self) -> bool {
        self.places.iter().any(|(_, place)| matches!(place, Place::Taken(Slot { entry: None, .. })))
    }

    /// Whether somebody waits for a turn.
    pub(super) fn is_anybody_queued(&self) -> bool {
        !self.ready.is_empty() || !self.shaking.is_empty()
    }

    /// Has a peer looked at then, unless it is before that.
    pub(super) fn set_timer(&mut self, token: Token, at: Option<Instant>) {
        let (Some(at), Some(slot)) = (at, self.get(token)) else { return };
        // One that is there for an earlier time is set anew when it fires, so that a deadline which moves with each message
        // costs nothing.
        if slot.timer.is_none_or(|timer| at < timer) {
            slot.timer = Some(at);
            self.timers.push(Reverse((at, token)));
        }
    }

    /// When the first timer fires.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// Gives those a turn whose timers have fired.
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

/// Hashes a pair of addresses. They go into SipHash in one piece, which takes less than half as long as field by field.
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
    use crate::serve::loops::letters::Letters;

    #[test]
    fn what_waited_for_peers_that_have_left_counts_no_more() {
        let letters = Arc::new(Letters::new().unwrap());
        let (local, peer) = ("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
        let mut slots = Slots::new();
        for _ in 0..=MAX_ALL_DATAGRAMS {
            let association = Arc::new(Association::new(Scheme::Udp, local, peer, Arc::default()));
            let token = slots.insert(&association, true, |token| PeerBell::new(&letters, token));
            assert_eq!(slots.find(local, peer), Some(token));
            slots.queue_datagram(token, vec![0; 10], None).unwrap();
            assert!(slots.remove(token).is_some());
            assert_eq!(slots.find(local, peer), None);
        }
        assert!(!slots.is_full());
        assert!(slots.next().is_none());
    }
}

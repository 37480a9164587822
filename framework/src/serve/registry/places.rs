//! A table of associations by their keys. The table stores only a pointer for each, because the association has its
//! key.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;

use hashbrown::HashTable;

use crate::association::{Association, AssociationId};

/// The key of an association, which is unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// The local and the peer address, which identify a peer on UDP sockets.
    Addresses(SocketAddr, SocketAddr),
    /// The association's ID, for protocols whose associations the kernel distinguishes (SCTP, TCP).
    Name(AssociationId),
}

impl Key {
    /// Returns the key of an association whose peer has not moved.
    fn of(association: &Association) -> Self {
        if association.scheme.is_sctp() || association.scheme.is_stream() {
            Self::Name(association.id)
        } else {
            Self::Addresses(association.local, association.peer)
        }
    }
}

/// The associations, one for each key.
#[derive(Default)]
pub(super) struct Places {
    table: HashTable<Arc<Association>>,
    /// The keys of associations whose peer has moved, or whose address another peer has moved to.
    moved: Moved,
    hasher: RandomState,
}

#[derive(Default)]
struct Moved(HashMap<AssociationId, Key>);

impl Moved {
    fn key_of(&self, association: &Association) -> Key {
        // Peers seldom move, so the map is nearly always empty.
        let moved = if self.0.is_empty() { None } else { self.0.get(&association.id) };
        moved.copied().unwrap_or_else(|| Key::of(association))
    }
}

impl Places {
    /// Returns the key of this association, whether it is in the table or not.
    pub(super) fn key_of(&self, association: &Association) -> Key {
        self.moved.key_of(association)
    }

    /// Returns the association with this key.
    pub(super) fn get(&self, key: &Key) -> Option<&Arc<Association>> {
        self.table.find(self.hasher.hash_one(key), |found| self.moved.key_of(found) == *key)
    }

    /// Returns whether the table has exactly this association.
    pub(super) fn has(&self, association: &Association) -> bool {
        self.get(&self.key_of(association)).is_some_and(|found| found.id == association.id)
    }

    /// Inserts an association under a key. Returns `false` and does nothing if another one has this key.
    pub(super) fn insert(&mut self, key: Key, association: Arc<Association>) -> bool {
        if self.get(&key).is_some() {
            return false;
        }
        if key != Key::of(&association) {
            self.moved.0.insert(association.id, key);
        }
        let Self { table, moved, hasher } = self;
        table.insert_unique(hasher.hash_one(key), association, |other| hasher.hash_one(moved.key_of(other)));
        true
    }

    /// Removes the association with this key. From then on it has its first key again.
    pub(super) fn remove(&mut self, key: &Key) -> Option<Arc<Association>> {
        let Self { table, moved, hasher } = self;
        let found = table.find_entry(hasher.hash_one(key), |found| moved.key_of(found) == *key).ok()?;
        let (association, _) = found.remove();
        moved.0.remove(&association.id);
        Some(association)
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Releases the memory that is not needed for this many associations.
    pub(super) fn shrink_to(&mut self, least: usize) {
        let Self { table, moved, hasher } = self;
        table.shrink_to(least, |other| hasher.hash_one(moved.key_of(other)));
        moved.0.shrink_to(least);
    }
}

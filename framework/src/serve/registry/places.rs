//! Associations by what makes them unique. Of each only a pointer is kept: the rest of its key is in itself.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;

use hashbrown::HashTable;

use crate::association::{Association, AssociationId};

/// What makes an association unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// Local and peer address, which are all that UDP sockets have.
    Addresses(SocketAddr, SocketAddr),
    /// Its own name, where the kernel tells associations apart by itself (SCTP, TCP).
    Name(AssociationId),
}

impl Key {
    /// That of an association whose peer has not moved.
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
    /// The keys of those that have moved, or whose address another one has moved to.
    moved: Moved,
    hasher: RandomState,
}

#[derive(Default)]
struct Moved(HashMap<AssociationId, Key>);

impl Moved {
    fn key_of(&self, association: &Association) -> Key {
        // Hardly ever has anybody moved.
        let moved = if self.0.is_empty() { None } else { self.0.get(&association.id) };
        moved.copied().unwrap_or_else(|| Key::of(association))
    }
}

impl Places {
    /// By what this association is found, or would be.
    pub(super) fn key_of(&self, association: &Association) -> Key {
        self.moved.key_of(association)
    }

    /// The one with this key.
    pub(super) fn get(&self, key: &Key) -> Option<&Arc<Association>> {
        self.table.find(self.hasher.hash_one(key), |found| self.moved.key_of(found) == *key)
    }

    /// Whether exactly this one is here.
    pub(super) fn has(&self, association: &Association) -> bool {
        self.get(&self.key_of(association)).is_some_and(|found| found.id == association.id)
    }

    /// Puts an association under a key; `false`: there is another one, and nothing is done.
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

    /// Takes out the one with this key, which from then on has the key that it began with.
    pub(super) fn remove(&mut self, key: &Key) -> Option<Arc<Association>> {
        let Self { table, moved, hasher } = self;
        let found = table.find_entry(hasher.hash_one(key), |found| moved.key_of(found) == *key).ok()?;
        let (association, _) = found.remove();
        moved.0.remove(&association.id);
        Some(association)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Association>> {
        self.table.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Gives back what more than so many took.
    pub(super) fn shrink_to(&mut self, least: usize) {
        let Self { table, moved, hasher } = self;
        table.shrink_to(least, |other| hasher.hash_one(moved.key_of(other)));
        moved.0.shrink_to(least);
    }
}

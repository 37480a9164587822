//! Tokens, which name the peers of a loop.

use std::sync::atomic::Ordering;

use crate::association::Association;

/// Names a peer of a loop. The lower half is the index of its slot, and above it is the number of the slot's earlier
/// uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Token(u64);

impl Token {
    /// Makes a token. Its highest bit is always 0, so other tokens of epoll can have that bit set.
    pub(super) fn new(index: u32, generation: u32) -> Self {
        Self(u64::from(generation & (u32::MAX >> 1)) << 32 | u64::from(index))
    }

    /// Returns the token of an association whose datagrams a loop reads, if there is one.
    pub(super) fn of(association: &Association) -> Option<Self> {
        match association.loop_token.load(Ordering::Acquire) {
            u64::MAX => None,
            number => Some(Self(number)),
        }
    }

    /// Returns the number that epoll stores for this token.
    pub(super) fn as_u64(self) -> u64 {
        self.0
    }

    /// Returns the token for a number that epoll has stored.
    pub(super) fn from_u64(number: u64) -> Self {
        Self(number)
    }

    pub(super) fn index(self) -> usize {
        (self.0 & u64::from(u32::MAX)) as usize
    }

    pub(super) fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

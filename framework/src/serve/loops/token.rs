//! What the peers of a loop are called.

use std::sync::atomic::Ordering;

use crate::association::Association;

/// Names a peer of a loop: the index of its slot, and above it how often that was used before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Token(u64);

impl Token {
    /// Of all numbers that fit, the upper half is free for others.
    pub(super) fn new(index: u32, generation: u32) -> Self {
        Self(u64::from(generation & (u32::MAX >> 1)) << 32 | u64::from(index))
    }

    /// Of an association that a loop reads for.
    pub(super) fn of(association: &Association) -> Option<Self> {
        match association.loop_token.load(Ordering::Acquire) {
            u64::MAX => None,
            number => Some(Self(number)),
        }
    }

    /// The number by which epoll knows it.
    pub(super) fn as_u64(self) -> u64 {
        self.0
    }

    /// The token that epoll knows by this number.
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

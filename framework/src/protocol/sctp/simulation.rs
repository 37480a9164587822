//! A seeded random source, and a simulation of SCTP's reordering of messages.

use std::collections::VecDeque;

/// xorshift64*: the same numbers for the same seed.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Returns a number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }
}

/// One direction of an association: messages of a stream keep their order unless they are unordered.
pub(crate) struct Wire<T> {
    streams: Vec<VecDeque<T>>,
    unordered: Vec<T>,
}

impl<T> Wire<T> {
    pub(crate) fn new(streams: usize) -> Self {
        Self { streams: (0..streams).map(|_| VecDeque::new()).collect(), unordered: Vec::new() }
    }

    pub(crate) fn send(&mut self, stream: u16, unordered: bool, message: T) {
        if unordered {
            self.unordered.push(message);
        } else {
            self.streams[usize::from(stream)].push_back(message);
        }
    }

    /// Returns a random one of the messages that may arrive next.
    pub(crate) fn arrive(&mut self, rng: &mut Rng) -> Option<T> {
        let mut ready: Vec<usize> =
            (0..self.streams.len()).filter(|&index| !self.streams[index].is_empty()).collect();
        ready.extend((0..self.unordered.len()).map(|_| self.streams.len()));
        if ready.is_empty() {
            return None;
        }
        match ready[rng.below(ready.len() as u64) as usize] {
            index if index < self.streams.len() => self.streams[index].pop_front(),
            _ => {
                let index = rng.below(self.unordered.len() as u64) as usize;
                Some(self.unordered.swap_remove(index))
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.unordered.is_empty() && self.streams.iter().all(VecDeque::is_empty)
    }
}

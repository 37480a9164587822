//! Distinguishes the processes that use the same name one after the other.
//!
//! A process draws a random number at its start. A process that takes over from another one has the next number,
//! so readers of their bulletins can distinguish a hand-over from two processes that have the same name by
//! mistake. Pure, except for [`Instance::draw`].

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::str::FromStr;

use crate::failure::Failure;

/// The largest number of hand-overs between two processes that count as one server.
const GENERATIONS: u64 = 1 << 16;

/// The number of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Instance(pub u64);

impl Instance {
    /// Draws a random number that practically no other process has.
    ///
    /// # Errors
    ///
    /// Returns an error if `/dev/urandom` cannot be read.
    pub fn draw() -> Result<Self, Failure> {
        let mut bytes = [0; 8];
        match File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)) {
            Ok(()) => Ok(Self(u64::from_ne_bytes(bytes))),
            Err(error) => {
                Err(Failure::new(1, format_args!("cannot read /dev/urandom ({error}): make it there")))
            }
        }
    }

    /// Returns the number of the process that takes over from this one.
    pub fn successor(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    /// Returns whether `later` has taken over from this process, directly or through others.
    pub fn precedes(self, later: Self) -> bool {
        (1..GENERATIONS).contains(&later.0.wrapping_sub(self.0))
    }

    /// Returns whether both are the same server, before and after a hand-over.
    pub fn is_same_server(self, other: Self) -> bool {
        self == other || self.precedes(other) || other.precedes(self)
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Instance {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_differs_from_another_server() {
        for first in [Instance(7), Instance(u64::MAX)] {
            let second = first.successor();
            let third = second.successor();
            assert!(first.precedes(second) && first.precedes(third) && !third.precedes(first));
            assert!(!first.precedes(first) && third.is_same_server(first));
            assert_eq!(third.to_string().parse(), Ok(third));
        }
        assert!(!Instance(7).is_same_server(Instance(7 << 32)));
    }
}

//! ClientHellos whose association is over. A client that had to wait says its hello again (RFC 6347 §4.2.4), and the second
//! may be read when the client has come and gone. Its cookie is good, but an association for it would speak to nobody, or to
//! whoever has the port next, who would take the answer for that to its own hello.
//!
//! So are those whose client was refused: it has been told so, and the same hello opens nothing when there is room again.
//!
//! Pure: the time is an argument.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::protocol::alert::Alert;

/// How long a hello is remembered: what a listener's queue keeps is younger.
const MEMORY: Duration = Duration::from_secs(10);

/// Hellos remembered at most. Each has one place by its hash; a later one that falls there takes it.
const PLACES: usize = 8192;

/// Remembers hellos.
pub(crate) struct Spent {
    /// With a random key, so that nobody can choose whose place to take.
    hasher: RandomState,
    began: Instant,
    places: Vec<Place>,
}

/// A hello that is remembered; zeroes where there is none.
#[derive(Clone, Copy, Default)]
struct Place {
    hash: u64,
    /// When it is forgotten, in milliseconds since the beginning.
    until: u64,
    fate: Fate,
}

/// What became of a hello.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It began an association, which is over.
    #[default]
    Over,
    /// Its client was refused with this alert.
    Refused(Alert),
}

impl Spent {
    pub(crate) fn new(now: Instant) -> Self {
        Self { hasher: RandomState::new(), began: now, places: vec![Place::default(); PLACES] }
    }

    /// Remembers what became of the hello of this random.
    pub(crate) fn note(
        &mut self,
        local: SocketAddr,
        peer: SocketAddr,
        random: &[u8; 32],
        fate: Fate,
        now: Instant,
    ) {
        let hash = self.hasher.hash_one((local, peer, random));
        let until = self.milliseconds(now + MEMORY);
        self.places[place(hash)] = Place { hash, until, fate };
    }

    /// What became of the hello of this random; `None` where it is not remembered.
    pub(crate) fn fate(
        &self,
        local: SocketAddr,
        peer: SocketAddr,
        random: &[u8; 32],
        now: Instant,
    ) -> Option<Fate> {
        let hash = self.hasher.hash_one((local, peer, random));
        let place = self.places[place(hash)];
        (place.hash == hash && self.milliseconds(now) < place.until).then_some(place.fate)
    }

    fn milliseconds(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }
}

fn place(hash: u64) -> usize {
    usize::try_from(hash % PLACES as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> (SocketAddr, SocketAddr) {
        ("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap())
    }

    #[test]
    fn a_hello_is_known_for_a_while_and_only_from_its_own_addresses() {
        let (now, (local, peer)) = (Instant::now(), addresses());
        let mut spent = Spent::new(now);
        assert_eq!(spent.fate(local, peer, &[7; 32], now), None);
        spent.note(local, peer, &[7; 32], Fate::Over, now);
        assert_eq!(spent.fate(local, peer, &[7; 32], now), Some(Fate::Over));
        assert_eq!(spent.fate(local, peer, &[8; 32], now), None);
        assert_eq!(spent.fate(peer, local, &[7; 32], now), None);
        assert_eq!(spent.fate(local, peer, &[7; 32], now + MEMORY / 2), Some(Fate::Over));
        assert_eq!(spent.fate(local, peer, &[7; 32], now + MEMORY), None);
        let refused = Fate::Refused(Alert::ACCESS_DENIED);
        spent.note(local, peer, &[7; 32], refused, now);
        assert_eq!(spent.fate(local, peer, &[7; 32], now), Some(refused));
    }

    #[test]
    fn the_latest_are_known_whatever_their_number() {
        let (now, (local, peer)) = (Instant::now(), addresses());
        let mut spent = Spent::new(now);
        let random = |number: u32| {
            let mut random = [0; 32];
            random[..4].copy_from_slice(&number.to_be_bytes());
            random
        };
        for number in 0..10 * PLACES as u32 {
            spent.note(local, peer, &random(number), Fate::Over, now);
            assert_eq!(spent.fate(local, peer, &random(number), now), Some(Fate::Over));
        }
        assert_eq!(spent.places.len(), PLACES);
    }
}

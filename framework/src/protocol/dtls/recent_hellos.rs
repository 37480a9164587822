//! Remembers ClientHellos whose association has ended. A client that has to wait retransmits its hello (RFC 6347
//! §4.2.4), and the retransmission may be read after its association has ended. Its cookie is valid, but an association
//! for it would have no client; or its answer would reach the next program on that port, which would take it for an
//! answer to its own hello.
//!
//! It also remembers the hellos of refused clients: they have received an alert, and the same hello must not open an
//! association when there is room again.
//!
//! Pure: the time is an argument.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::protocol::alert::Alert;

/// How long a hello is remembered; datagrams in a listener's queue are younger than that.
const REMEMBERED_FOR: Duration = Duration::from_secs(10);

/// Maximum number of remembered hellos. Each has one place, chosen by its hash; a later hello with the same place
/// replaces it.
const PLACES: usize = 8192;

/// Remembers hellos.
pub(crate) struct RecentHellos {
    /// Has a random key, so that an attacker cannot choose which place to overwrite.
    hasher: RandomState,
    began: Instant,
    places: Vec<Place>,
}

/// A remembered hello; zeros if there is none.
#[derive(Clone, Copy, Default)]
struct Place {
    hash: u64,
    /// When it expires, in milliseconds since the start.
    until: u64,
    outcome: HelloOutcome,
}

/// The outcome of a hello.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum HelloOutcome {
    /// It began an association, which has ended.
    #[default]
    Over,
    /// Its client was refused with this alert.
    Refused(Alert),
}

impl RecentHellos {
    pub(crate) fn new(now: Instant) -> Self {
        Self { hasher: RandomState::new(), began: now, places: vec![Place::default(); PLACES] }
    }

    /// Remembers the outcome of the hello with this random.
    pub(crate) fn note(
        &mut self,
        local: SocketAddr,
        peer: SocketAddr,
        random: &[u8; 32],
        outcome: HelloOutcome,
        now: Instant,
    ) {
        let hash = self.hasher.hash_one((local, peer, random));
        let until = self.milliseconds(now + REMEMBERED_FOR);
        self.places[place(hash)] = Place { hash, until, outcome };
    }

    /// Returns the outcome of the hello with this random; `None` if it is not remembered.
    pub(crate) fn outcome(
        &self,
        local: SocketAddr,
        peer: SocketAddr,
        random: &[u8; 32],
        now: Instant,
    ) -> Option<HelloOutcome> {
        let hash = self.hasher.hash_one((local, peer, random));
        let place = self.places[place(hash)];
        (place.hash == hash && self.milliseconds(now) < place.until).then_some(place.outcome)
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
        let mut recent_hellos = RecentHellos::new(now);
        assert_eq!(recent_hellos.outcome(local, peer, &[7; 32], now), None);
        recent_hellos.note(local, peer, &[7; 32], HelloOutcome::Over, now);
        assert_eq!(recent_hellos.outcome(local, peer, &[7; 32], now), Some(HelloOutcome::Over));
        assert_eq!(recent_hellos.outcome(local, peer, &[8; 32], now), None);
        assert_eq!(recent_hellos.outcome(peer, local, &[7; 32], now), None);
        assert_eq!(
            recent_hellos.outcome(local, peer, &[7; 32], now + REMEMBERED_FOR / 2),
            Some(HelloOutcome::Over)
        );
        assert_eq!(recent_hellos.outcome(local, peer, &[7; 32], now + REMEMBERED_FOR), None);
        let refused = HelloOutcome::Refused(Alert::ACCESS_DENIED);
        recent_hellos.note(local, peer, &[7; 32], refused, now);
        assert_eq!(recent_hellos.outcome(local, peer, &[7; 32], now), Some(refused));
    }

    #[test]
    fn the_latest_are_known_whatever_their_number() {
        let (now, (local, peer)) = (Instant::now(), addresses());
        let mut recent_hellos = RecentHellos::new(now);
        let random = |number: u32| {
            let mut random = [0; 32];
            random[..4].copy_from_slice(&number.to_be_bytes());
            random
        };
        for number in 0..10 * PLACES as u32 {
            recent_hellos.note(local, peer, &random(number), HelloOutcome::Over, now);
            assert_eq!(recent_hellos.outcome(local, peer, &random(number), now), Some(HelloOutcome::Over));
        }
        assert_eq!(recent_hellos.places.len(), PLACES);
    }
}

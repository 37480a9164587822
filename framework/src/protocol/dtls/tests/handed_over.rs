//! Open sessions that are handed over to another process, and then handed over again.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::codec::{Malformed, Reader, Writer};

impl Pair<'_> {
    fn restored(&self, saved: &[u8]) -> Result<Session, Malformed> {
        // Of the restart's state, only the addresses and the cookies matter here.
        let restart = Restart::new(Arc::clone(&self.cookies), [0; 32], address(SERVER), address(CLIENT));
        let mut from = Reader::new(saved);
        let session = Session::restore(&mut from, restart, Arc::clone(&self.world.counters), self.now)?;
        from.end()?;
        Ok(session)
    }

    /// Hands the server's session over to another process, if it is open. Checks that it is written there in the same
    /// way.
    fn hand_over(&mut self) -> Vec<u8> {
        let mut out = Writer::new();
        let Some(Life::Open(session)) = &self.sides[SERVER].life else { return Vec::new() };
        assert!(session.save(self.now, &mut out));
        let saved = out.finish().unwrap().to_vec();
        let restored = self.restored(&saved).unwrap();
        out.clear();
        assert!(restored.save(self.now, &mut out));
        assert_eq!(out.finish().unwrap(), saved);
        self.sides[SERVER].life = Some(Life::Open(Box::new(restored)));
        saved
    }
}

#[test]
fn messages_arrive_once_over_a_faulty_network_while_the_session_is_handed_over() {
    for seed in 0..100 {
        let world = World::with_cids(CID_LENGTHS[seed as usize % CID_LENGTHS.len()]);
        let faults =
            Faults { lost: seed % 20, duplicated: 20 + seed % 31, late: seed % 50, forged: seed % 23 };
        let mut pair = Pair::new(&world, seed, Faults::default());
        pair.run_for(Duration::from_secs(1));
        pair.assert_open("at first");
        pair.faults = faults;
        for number in 0..20_u8 {
            for side in [CLIENT, SERVER] {
                pair.say(side, &[side as u8, number]);
                pair.hand_over();
                pair.run_for(Duration::from_millis(7));
            }
        }
        pair.run_for(Duration::from_secs(2));
        pair.assert_open(&format!("seed {seed}"));
        for side in [CLIENT, SERVER] {
            let came = &pair.sides[side].messages;
            let mut once = came.clone();
            once.sort();
            once.dedup();
            assert_eq!(once.len(), came.len(), "seed {seed}: a message came twice");
            assert!(faults.lost > 0 || came.len() == 20, "seed {seed}: {} of 20", came.len());
        }
    }
}

#[test]
fn a_lost_last_flight_is_sent_again_by_the_process_that_took_the_session_over() {
    let world = World::new();
    let mut pair = Pair::new(&world, 1, Faults::default());
    pair.run_for(Duration::from_millis(24));
    pair.dropped[SERVER] = vec![pair.sent[SERVER] + 1];
    pair.run_for(Duration::from_millis(500));
    assert!(pair.is_open(SERVER) && !pair.is_open(CLIENT));
    pair.hand_over();
    pair.run_for(Duration::from_secs(1));
    pair.assert_open("the flight was said again");
    ping_pong(&mut pair);
}

#[test]
fn a_session_that_is_cut_off_anywhere_is_none() {
    let world = World::with_cids([8, 8]);
    let mut pair = Pair::new(&world, 1, Faults::default());
    pair.run_for(Duration::from_millis(100));
    let saved = pair.hand_over();
    assert!(saved.len() < 1024, "{} bytes", saved.len());
    for len in 0..saved.len() {
        assert!(pair.restored(&saved[..len]).is_err(), "{len} of {}", saved.len());
    }
    // No content may cause a panic.
    let mut rng = Rng::new(1);
    for _ in 0..2000 {
        let mut garbled = saved.clone();
        for _ in 0..=rng.below(3) {
            let at = rng.below(garbled.len() as u64) as usize;
            garbled[at] = rng.below(256) as u8;
        }
        if let Ok(mut session) = pair.restored(&garbled) {
            session.seal(b"x", &mut Vec::new());
            session.handle_datagram(&mut vec![23; 100], None, &mut [0; 100], pair.now);
        }
    }
}

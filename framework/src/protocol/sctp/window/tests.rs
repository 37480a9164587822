use std::collections::{BTreeSet, HashMap};

use super::*;
use crate::protocol::sctp::simulation::{Rng, Wire};

const DATA: u8 = 23;

fn held(sequence: u64, content_type: u8, stream: u16) -> Held {
    let info = MessageInfo { stream, ..MessageInfo::default() };
    Held { sequence, content_type, record: vec![0; 40], info }
}

/// What OpenSSL's replay check does, and what must not happen to any record.
#[derive(Default)]
struct Receiver {
    newest: Option<u64>,
    seen: BTreeSet<u64>,
    streams: HashMap<u16, u64>,
}

impl Receiver {
    fn feed(&mut self, record: &Held, unordered: bool) {
        let sequence = record.sequence;
        assert!(self.newest.is_none_or(|newest| newest.saturating_sub(sequence) <= 63), "{sequence} is old");
        assert!(self.seen.insert(sequence), "{sequence} twice");
        self.newest = self.newest.max(Some(sequence));
        if !unordered {
            let before = self.streams.insert(record.info.stream, sequence);
            assert!(before.is_none_or(|before| before < sequence), "stream order");
        }
    }
}

fn sequences(window: &mut Window) -> Vec<u64> {
    std::iter::from_fn(|| {
        let record = window.take()?;
        window.settle(true);
        Some(record.sequence)
    })
    .collect()
}

#[test]
fn every_record_comes_out_once_however_streams_overtake_each_other() {
    for seed in 0..40 {
        let mut rng = Rng::new(seed);
        let mut wire = Wire::new(32);
        let mut unordered = BTreeSet::new();
        let total = 2000;
        for sequence in 0..total {
            let last = sequence == total - 1;
            let stream = if last { 0 } else { rng.below(32) as u16 };
            let overtakes = !last && rng.below(4) == 0;
            if overtakes {
                unordered.insert(sequence);
            }
            wire.send(stream, overtakes, held(sequence, if last { ALERT } else { DATA }, stream));
        }
        let now = Instant::now();
        let mut window = Window::new(HOLD);
        let mut receiver = Receiver::default();
        while let Some(record) = wire.arrive(&mut rng) {
            window.insert(record, now);
            while let Some(record) = window.take() {
                if record.content_type == ALERT {
                    assert_eq!(receiver.seen.len() as u64, record.sequence);
                }
                receiver.feed(&record, unordered.contains(&record.sequence));
                window.settle(true);
            }
        }
        assert_eq!(receiver.seen.len() as u64, total);
        assert_eq!(window.counts(), Counts::default());
        assert_eq!(window.deadline(), None);
    }
}

#[test]
fn a_record_63_ahead_goes_on_and_64_ahead_waits() {
    let now = Instant::now();
    let mut window = Window::new(HOLD);
    window.insert(held(64, DATA, 1), now);
    window.insert(held(63, DATA, 2), now);
    assert_eq!(sequences(&mut window), [63]);
    window.insert(held(0, DATA, 0), now);
    assert_eq!(sequences(&mut window), [0, 64]);
}

#[test]
fn a_gap_is_given_up_after_the_hold_and_what_comes_late_is_still_taken() {
    let start = Instant::now();
    let mut window = Window::new(HOLD);
    for sequence in [1, 2, 500, 501, 502] {
        window.insert(held(sequence, DATA, 1), start);
    }
    assert_eq!(sequences(&mut window), [1, 2]);
    assert_eq!(window.deadline(), Some(start + HOLD));
    window.expire(start + HOLD);
    let record = window.take().unwrap();
    assert_eq!((record.sequence, window.settle(true)), (500, 498));
    assert_eq!(sequences(&mut window), [501, 502]);
    assert_eq!(window.deadline(), None);
    window.insert(held(490, DATA, 3), start + HOLD);
    window.insert(held(490, DATA, 3), start + HOLD);
    window.insert(held(2, DATA, 3), start + HOLD);
    assert_eq!(sequences(&mut window), [490]);
    assert_eq!(window.counts(), Counts { skipped: 498, old: 1, duplicate: 1, ..Counts::default() });
}

#[test]
fn an_alert_waits_for_what_is_before_it_but_not_for_ever() {
    let start = Instant::now();
    let mut window = Window::new(HOLD);
    window.insert(held(2, ALERT, 0), start);
    window.insert(held(1, DATA, 1), start);
    assert_eq!(sequences(&mut window), [1]);
    assert!(!window.is_ready());
    window.expire(start + HOLD);
    assert_eq!(sequences(&mut window), [2]);
    assert_eq!(window.counts().skipped, 1);
}

#[test]
fn too_much_behind_a_gap_gives_it_up() {
    let now = Instant::now();
    let mut window = Window::new(HOLD);
    for sequence in 100..100 + MAX_HELD as u64 {
        window.insert(held(sequence, DATA, 1), now);
    }
    assert!(!window.is_ready());
    window.insert(held(100 + MAX_HELD as u64, DATA, 1), now);
    assert_eq!(sequences(&mut window).len(), MAX_HELD + 1);
    assert_eq!(window.counts(), Counts { skipped: 100, crowded_out: 100, ..Counts::default() });
}

#[test]
fn a_forged_record_moves_nothing_and_takes_nobodys_place() {
    let start = Instant::now();
    let mut window = Window::new(HOLD);
    window.insert(held(0, DATA, 7), start);
    window.insert(held(1 << 30, DATA, 7), start);
    window.insert(held(1 << 40, DATA, 7), start);
    assert_eq!(window.take().unwrap().sequence, 0);
    assert_eq!(window.settle(false), 0);
    window.insert(held(0, DATA, 0), start);
    assert_eq!(sequences(&mut window), [0]);
    window.expire(start + HOLD);
    assert_eq!(window.take().unwrap().sequence, 1 << 30);
    assert_eq!(window.settle(false), 0);
    window.insert(held(1, DATA, 0), start + HOLD);
    assert_eq!(sequences(&mut window), [1]);
    assert_eq!(window.counts(), Counts { forged: 2, implausible: 1, ..Counts::default() });
}

#[test]
fn abandoned_records_cost_one_hold_and_nothing_else() {
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let mut now = Instant::now();
        let mut window = Window::new(HOLD);
        let mut wire = Wire::new(8);
        let mut sent = BTreeSet::new();
        for sequence in 0..5000 {
            if rng.below(100) != 0 {
                let stream = rng.below(8) as u16;
                wire.send(stream, false, held(sequence, DATA, stream));
                sent.insert(sequence);
            }
        }
        let mut receiver = Receiver::default();
        while !wire.is_empty() || window.deadline().is_some() {
            match wire.arrive(&mut rng) {
                Some(record) => window.insert(record, now),
                None => {
                    now += HOLD;
                    window.expire(now);
                }
            }
            while let Some(record) = window.take() {
                receiver.feed(&record, false);
                window.settle(true);
            }
        }
        let lost: Vec<_> = sent.difference(&receiver.seen).collect();
        assert!(window.counts().crowded_out > 0 || lost.is_empty(), "{lost:?}");
    }
}

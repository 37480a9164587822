//! Holds DTLS records back that come too early over SCTP.
//!
//! OpenSSL drops a record that is more than 63 behind the newest it has seen, in silence, as
//! a replay (RFC 6347 §4.1.2.6). Over SCTP nothing is a replay, and a record may be any number behind: it
//! waits for a retransmission while other streams go on. Sequence numbers are in clear, so
//! whatever would leave a missing one more than 63 behind waits here. An alert waits for everything
//! before it, or a close_notify would cut off what was said before it.
//!
//! A sender may give a message up (RFC 3758), and its record never comes. So the wait has an end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::sctp::MessageInfo;

/// How far behind the newest record OpenSSL takes one.
const REACH: u64 = 63;

/// The most that is held. A peer that makes more of it waits for its own records in vain.
const MAX_RECORDS: usize = 4096;
const MAX_BYTES: usize = 4 << 20;

/// The record type of alerts (RFC 5246 §6.2.1).
const ALERT: u8 = 21;

/// The records of one epoch on their way to OpenSSL.
#[derive(Debug)]
pub(crate) struct Window {
    /// The first sequence number that was not let through, nor given up.
    next: u64,
    /// Those above it that were let through: at most [`REACH`] of them.
    passed: BTreeSet<u64>,
    held: BTreeMap<u64, Held>,
    bytes: usize,
    hold: Duration,
    /// What may be fed, in this order.
    ready: VecDeque<(Vec<u8>, MessageInfo)>,
    /// Records that were missing when the wait was over.
    given_up: u64,
}

#[derive(Debug)]
struct Held {
    record: Vec<u8>,
    info: MessageInfo,
    since: Instant,
}

impl Window {
    /// `hold` is how long a missing record is waited for.
    pub(crate) fn new(hold: Duration) -> Self {
        Self {
            next: 0,
            passed: BTreeSet::new(),
            held: BTreeMap::new(),
            bytes: 0,
            hold,
            ready: VecDeque::new(),
            given_up: 0,
        }
    }

    /// Takes a record with its sequence number; `false`: it is a duplicate.
    pub(crate) fn offer(&mut self, sequence: u64, record: Vec<u8>, info: MessageInfo, now: Instant) -> bool {
        if sequence < self.next || self.passed.contains(&sequence) || self.held.contains_key(&sequence) {
            return false;
        }
        self.bytes += record.len();
        self.held.insert(sequence, Held { record, info, since: now });
        self.release();
        while self.held.len() > MAX_RECORDS || self.bytes > MAX_BYTES {
            self.skip();
        }
        true
    }

    /// The next record to be fed.
    pub(crate) fn take(&mut self) -> Option<(Vec<u8>, MessageInfo)> {
        self.ready.pop_front()
    }

    /// When to [give up](Self::give_up) waiting; `None` while nothing is held.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.held.values().map(|held| held.since + self.hold).min()
    }

    /// Lets through what has waited for long enough.
    pub(crate) fn give_up(&mut self, now: Instant) {
        while self.deadline().is_some_and(|deadline| deadline <= now) {
            self.skip();
        }
    }

    /// How many records were given up since this was asked last.
    pub(crate) fn take_given_up(&mut self) -> u64 {
        std::mem::take(&mut self.given_up)
    }

    /// Lets through, from the oldest on, what leaves nothing too far behind.
    fn release(&mut self) {
        while let Some((&sequence, held)) = self.held.first_key_value() {
            let alert = held.record.first() == Some(&ALERT);
            if sequence - self.next > if alert { 0 } else { REACH } {
                return;
            }
            let Some(held) = self.held.remove(&sequence) else { return };
            self.bytes -= held.record.len();
            self.ready.push_back((held.record, held.info));
            self.passed.insert(sequence);
            while self.passed.remove(&self.next) {
                self.next += 1;
            }
        }
    }

    /// Waits no longer for anything before the oldest record that is held.
    fn skip(&mut self) {
        let Some(&oldest) = self.held.keys().next() else { return };
        let came = self.passed.range(..oldest).count() as u64;
        self.given_up += oldest.saturating_sub(self.next).saturating_sub(came);
        self.passed = self.passed.split_off(&oldest);
        self.next = self.next.max(oldest);
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: u8 = 23;
    const HOLD: Duration = Duration::from_secs(10);

    fn record(kind: u8, sequence: u64) -> Vec<u8> {
        [&[kind][..], &sequence.to_be_bytes()].concat()
    }

    fn offer(window: &mut Window, kind: u8, sequence: u64, now: Instant) -> bool {
        window.offer(sequence, record(kind, sequence), MessageInfo::default(), now)
    }

    fn taken(window: &mut Window) -> Vec<u64> {
        let number = |record: Vec<u8>| u64::from_be_bytes(record[1..].try_into().unwrap());
        std::iter::from_fn(|| window.take()).map(|(record, _)| number(record)).collect()
    }

    #[test]
    fn a_record_waits_only_if_a_missing_one_would_be_too_far_behind() {
        let (mut window, now) = (Window::new(HOLD), Instant::now());
        for sequence in 1..=63 {
            assert!(offer(&mut window, DATA, sequence, now));
        }
        assert!(taken(&mut window).into_iter().eq(1..=63));
        offer(&mut window, DATA, 64, now);
        offer(&mut window, DATA, 65, now);
        assert_eq!(taken(&mut window), []);
        offer(&mut window, DATA, 0, now);
        assert_eq!(taken(&mut window), [0, 64, 65]);
        assert_eq!(window.deadline(), None);
    }

    #[test]
    fn an_alert_waits_for_everything_before_it() {
        let (mut window, now) = (Window::new(HOLD), Instant::now());
        offer(&mut window, ALERT, 2, now);
        offer(&mut window, DATA, 1, now);
        assert_eq!(taken(&mut window), [1]);
        offer(&mut window, DATA, 0, now);
        assert_eq!(taken(&mut window), [0, 2]);
    }

    #[test]
    fn a_record_that_never_comes_is_given_up_in_time() {
        let (mut window, now) = (Window::new(HOLD), Instant::now());
        for sequence in [1, 3, 200, 201] {
            offer(&mut window, DATA, sequence, now);
        }
        assert_eq!(taken(&mut window), [1, 3]);
        window.give_up(now + HOLD / 2);
        assert_eq!(taken(&mut window), []);
        assert_eq!(window.deadline(), Some(now + HOLD));
        window.give_up(now + HOLD);
        assert_eq!(taken(&mut window), [200, 201]);
        assert_eq!((window.take_given_up(), window.take_given_up()), (200 - 2, 0));
        assert!(!offer(&mut window, DATA, 0, now), "what was given up is too late");
    }

    #[test]
    fn duplicates_are_told() {
        let (mut window, now) = (Window::new(HOLD), Instant::now());
        for sequence in [0, 5, 100] {
            assert!(offer(&mut window, DATA, sequence, now));
            assert!(!offer(&mut window, DATA, sequence, now));
        }
    }

    #[test]
    fn what_is_held_is_bounded() {
        let (mut window, now) = (Window::new(HOLD), Instant::now());
        for sequence in 0..10_000 {
            offer(&mut window, DATA, 100 + sequence * 2, now);
        }
        assert!(window.held.len() <= MAX_RECORDS);
        assert!(window.take_given_up() > 0);
        let big = vec![DATA; 1 << 20];
        let mut window = Window::new(HOLD);
        for sequence in 0..10 {
            window.offer(100 + sequence * 2, big.clone(), MessageInfo::default(), now);
        }
        assert!(window.bytes <= MAX_BYTES, "{}", window.bytes);
    }

    #[test]
    fn any_order_comes_out_whole_and_never_more_than_the_reach_behind() {
        // A permutation that is far from sorted, the same in every run.
        for step in [7u64, 641, 1009, 2011] {
            let (mut window, now) = (Window::new(HOLD), Instant::now());
            let mut out = Vec::new();
            for index in 0..2048 {
                offer(&mut window, DATA, index * step % 2048, now);
                out.extend(taken(&mut window));
            }
            let mut newest = 0;
            for sequence in &out {
                newest = newest.max(*sequence);
                assert!(newest - sequence <= REACH, "{sequence} after {newest}");
            }
            out.sort_unstable();
            assert!(out.into_iter().eq(0..2048), "step {step}");
        }
    }
}

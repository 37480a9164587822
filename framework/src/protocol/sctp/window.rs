//! The order in which the records of an epoch may be fed to OpenSSL.
//!
//! SCTP loses nothing, but streams and unordered messages overtake each other, and OpenSSL silently drops a
//! record that is more than 63 behind the newest it has authenticated (RFC 6347 §4.1.2.6; it has no switch).
//! Sequence numbers are in clear, so:
//!
//! 1. A record goes on at once while the oldest missing one is at most 63 behind it, and is held otherwise.
//! 2. Held records go on in ascending order. A sender numbers the messages of a stream in the order in which
//!    it sends them, so that order is kept.
//! 3. An alert waits for everything before it: a close_notify would end the session for data under way.
//! 4. Partial reliability makes gaps that nothing fills (RFC 3758). A gap is given up when a record has
//!    waited for it for so long, or when too much is held.
//!
//! What is fed is not yet authentic: the caller says what OpenSSL made of it, and only authentic records move
//! the window. So a forged record, however far ahead, costs others nothing but a slot; one that no sender can
//! have come to is not even held. The caller must not take a second record before it has settled the first.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::sctp::MessageInfo;

const ALERT: u8 = 21;

/// How far behind the newest a record may be.
const BEHIND: u64 = 63;

/// How far ahead of the oldest missing record one may be: at a million records a second, more than an hour of
/// which nothing arrived. AES-GCM's limit for one key is lower.
const AHEAD: u64 = 1 << 32;

/// What may be held.
const MAX_HELD: usize = 4096;
const MAX_HELD_BYTES: usize = 4 * 1024 * 1024;

/// How long a gap may keep records.
pub(crate) const HOLD: Duration = Duration::from_secs(10);

/// One record on its way to OpenSSL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) sequence: u64,
    pub(crate) content_type: u8,
    /// Header and body.
    pub(crate) record: Vec<u8>,
    /// What came with the message that it was in.
    pub(crate) info: MessageInfo,
}

/// What did not go through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Sequence numbers that were given up.
    pub(crate) skipped: u64,
    /// Of those, how many because too much was held.
    pub(crate) crowded_out: u64,
    /// Records more than 63 behind the newest.
    pub(crate) old: u64,
    /// Records that had been there.
    pub(crate) duplicate: u64,
    /// Records too far ahead to be held.
    pub(crate) implausible: u64,
    /// Records that were fed and were not authentic.
    pub(crate) forged: u64,
}

/// The records of one epoch.
pub(crate) struct Window {
    hold: Duration,
    /// The oldest sequence number that is missing and may still come.
    oldest_missing: u64,
    /// The newest authentic one.
    newest: Option<u64>,
    /// Bit n: the record n behind the newest was authentic.
    seen: u64,
    /// By sequence number, then by arrival: a forged record must not take the place of the real one.
    held: BTreeMap<(u64, u64), Held>,
    held_bytes: usize,
    /// When each of the held ones came, by arrival.
    arrivals: BTreeMap<u64, Instant>,
    next_arrival: u64,
    /// The latest time that the caller has told.
    now: Option<Instant>,
    /// The record that was taken and is not settled, and whether it was taken over a gap because of time or
    /// room.
    taken: Option<(u64, Forced)>,
    counts: Counts,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Forced {
    No,
    ByTime,
    ByRoom,
}

impl Window {
    /// Gaps are given up after `hold`.
    pub(crate) fn new(hold: Duration) -> Self {
        Self {
            hold,
            oldest_missing: 0,
            newest: None,
            seen: 0,
            held: BTreeMap::new(),
            held_bytes: 0,
            arrivals: BTreeMap::new(),
            next_arrival: 0,
            now: None,
            taken: None,
            counts: Counts::default(),
        }
    }

    /// Takes a record in.
    pub(crate) fn insert(&mut self, held: Held, now: Instant) {
        self.expire(now);
        if self.refuses(held.sequence) {
            return;
        }
        if held.sequence > self.oldest_missing.saturating_add(AHEAD) {
            self.counts.implausible += 1;
            return;
        }
        let arrival = self.next_arrival;
        self.next_arrival += 1;
        self.held_bytes += held.record.len();
        self.arrivals.insert(arrival, now);
        self.held.insert((held.sequence, arrival), held);
    }

    /// Tells the time.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.now = self.now.max(Some(now));
    }

    /// Counts the wait of everything held from `now` on.
    pub(crate) fn restart_waits(&mut self, now: Instant) {
        self.expire(now);
        self.arrivals.values_mut().for_each(|arrival| *arrival = now);
    }

    /// The content type of the record that [`take`](Self::take) would give.
    pub(crate) fn next_type(&mut self) -> Option<u8> {
        let ((sequence, arrival), _) = self.next()?;
        self.held.get(&(sequence, arrival)).map(|held| held.content_type)
    }

    /// Whether [`take`](Self::take) would give a record.
    pub(crate) fn is_ready(&self) -> bool {
        self.held.first_key_value().is_some_and(|(_, held)| self.verdict(held).is_some())
    }

    /// The next record that may be fed.
    pub(crate) fn take(&mut self) -> Option<Held> {
        debug_assert!(self.taken.is_none(), "the record before is settled");
        let (key, forced) = self.next()?;
        let held = self.remove(key)?;
        self.taken = Some((held.sequence, forced));
        Some(held)
    }

    /// Says what OpenSSL made of the record taken last; gives how many sequence numbers were given up for it.
    pub(crate) fn settle(&mut self, authentic: bool) -> u64 {
        let Some((sequence, forced)) = self.taken.take() else { return 0 };
        if !authentic {
            self.counts.forged += 1;
            return 0;
        }
        let mut skipped = 0;
        if forced != Forced::No && sequence > self.oldest_missing {
            // Everything seen above the oldest missing one is at most 63 above it.
            let window = self.oldest_missing..sequence.min(self.oldest_missing + BEHIND + 1);
            let seen = window.filter(|&older| self.has_seen(older)).count() as u64;
            skipped = sequence - self.oldest_missing - seen;
            self.oldest_missing = sequence;
            self.counts.skipped += skipped;
            if forced == Forced::ByRoom {
                self.counts.crowded_out += skipped;
            }
        }
        self.mark(sequence);
        while self.has_seen(self.oldest_missing) {
            self.oldest_missing += 1;
        }
        skipped
    }

    /// When the next gap is given up, if there is one.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.arrivals.values().next().and_then(|arrival| arrival.checked_add(self.hold))
    }

    /// Whether more is held than may be.
    pub(crate) fn is_crowded(&self) -> bool {
        self.held.len() > MAX_HELD || self.held_bytes > MAX_HELD_BYTES
    }

    /// What did not go through so far.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// The key of the lowest record held, if it may go on. What has become a duplicate while it was held goes
    /// away here.
    fn next(&mut self) -> Option<((u64, u64), Forced)> {
        loop {
            let (&key, held) = self.held.first_key_value()?;
            let forced = self.verdict(held)?;
            if !self.refuses(key.0) {
                return Some((key, forced));
            }
            self.remove(key);
        }
    }

    /// Whether a record that is the lowest held may go on; `None`: not yet.
    fn verdict(&self, held: &Held) -> Option<Forced> {
        let reach = if held.content_type == ALERT { 0 } else { BEHIND };
        if held.sequence <= self.oldest_missing.saturating_add(reach) {
            Some(Forced::No)
        } else if self.is_crowded() {
            Some(Forced::ByRoom)
        } else if self.deadline().is_some_and(|deadline| self.now >= Some(deadline)) {
            Some(Forced::ByTime)
        } else {
            None
        }
    }

    fn remove(&mut self, key: (u64, u64)) -> Option<Held> {
        let held = self.held.remove(&key)?;
        self.held_bytes -= held.record.len();
        self.arrivals.remove(&key.1);
        Some(held)
    }

    /// Whether OpenSSL would drop it unread; counts it then.
    fn refuses(&mut self, sequence: u64) -> bool {
        let Some(newest) = self.newest else { return false };
        if newest.saturating_sub(sequence) > BEHIND {
            self.counts.old += 1;
            return true;
        }
        let duplicate = self.has_seen(sequence);
        self.counts.duplicate += u64::from(duplicate);
        duplicate
    }

    fn has_seen(&self, sequence: u64) -> bool {
        let behind = self.newest.and_then(|newest| newest.checked_sub(sequence));
        behind.is_some_and(|behind| behind <= BEHIND && self.seen >> behind & 1 == 1)
    }

    fn mark(&mut self, sequence: u64) {
        match self.newest {
            Some(newest) if sequence <= newest => {
                let behind = newest - sequence;
                self.seen |= if behind <= BEHIND { 1 << behind } else { 0 };
            }
            newest => {
                let by = newest.map_or(u64::MAX, |newest| sequence - newest);
                self.seen = u32::try_from(by).ok().and_then(|by| self.seen.checked_shl(by)).unwrap_or(0) | 1;
                self.newest = Some(sequence);
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! Decides which of two processes delivers the bulletins that both receive during a hand-over. Pure.
//!
//! 1. The old process delivers bulletins until it saves its first member. It saves with each member the number of the
//!    last bulletin that it has heard from each process, and keeps what comes from then on.
//! 2. The new process keeps all bulletins until it serves. Then it delivers those with higher numbers. From the others
//!    it only learns who is in which room.
//! 3. The old process then delivers what it has kept to the members that it still has; to all of them if the hand-over
//!    has failed.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;

use crate::chat::bulletin::Bulletin;
use crate::chat::instance::Instance;

/// The largest number of bulletins that are kept. Beyond that the oldest one is delivered.
const KEPT: usize = 4096;
/// The largest number of processes whose numbers are remembered. A further one replaces the one that has been silent
/// for the longest time.
const PROCESSES: usize = 256;

/// What this process has heard from the others.
#[derive(Debug, Default)]
pub struct Hearing {
    /// The number of the last bulletin of each process, and when it arrived.
    heard: HashMap<Instance, (u64, Instant)>,
    /// The numbers that the previous process had heard when it saved its members.
    before: HashMap<Instance, u64>,
    /// The bulletins that wait during a hand-over.
    kept: Option<VecDeque<Bulletin>>,
    /// The numbers, for the members that are saved.
    saved: Option<Arc<str>>,
}

impl Hearing {
    /// Keeps bulletins from now on.
    pub fn hold(&mut self) {
        self.kept.get_or_insert_default();
    }

    /// Keeps bulletins from now on, and returns the numbers of those before, for the process that takes over. `own` is
    /// the number of this process's last bulletin, which its members have received.
    pub fn save(&mut self, own: (Instance, u64)) -> Arc<str> {
        self.hold();
        let heard = self.heard.iter().map(|(instance, (number, _))| (*instance, *number));
        let text = || {
            let mut text = String::new();
            for (instance, number) in heard.chain([own]) {
                let _ = write!(text, "{instance}.{number:x} ");
            }
            text.into()
        };
        Arc::clone(self.saved.get_or_insert_with(text))
    }

    /// Reads what the previous process has [saved](Self::save). It is the same with each member.
    pub fn resume(&mut self, saved: &str) {
        if self.before.is_empty() {
            let read = |mark: &str| {
                let (instance, number) = mark.split_once('.')?;
                Some((instance.parse().ok()?, u64::from_str_radix(number, 16).ok()?))
            };
            self.before = saved.split_whitespace().take(PROCESSES + 1).filter_map(read).collect();
        }
    }

    /// Returns the next bulletin to process, if any, and whether members are to receive it.
    pub fn take(&mut self, bulletin: Bulletin, now: Instant) -> Option<(Bulletin, bool)> {
        let next = match &mut self.kept {
            Some(kept) => {
                kept.push_back(bulletin);
                (kept.len() > KEPT).then(|| kept.pop_front()).flatten()?
            }
            None => bulletin,
        };
        let is_new = self.note(&next, now);
        Some((next, is_new))
    }

    /// Keeps no bulletins any more, and returns those that were kept, and whether members are to receive them.
    pub fn release(&mut self, now: Instant) -> Vec<(Bulletin, bool)> {
        self.saved = None;
        let kept = self.kept.take().unwrap_or_default();
        let note = |bulletin: Bulletin| {
            let is_new = self.note(&bulletin, now);
            (bulletin, is_new)
        };
        kept.into_iter().map(note).collect()
    }

    /// Notes that a bulletin is processed. Returns whether the previous process had not heard it.
    fn note(&mut self, Bulletin { instance, number, .. }: &Bulletin, now: Instant) -> bool {
        if *number == 0 {
            return true;
        }
        if self.heard.len() >= PROCESSES && !self.heard.contains_key(instance) {
            let silent = self.heard.iter().min_by_key(|(_, (_, at))| *at).map(|(instance, _)| *instance);
            silent.map(|silent| self.heard.remove(&silent));
        }
        self.heard.insert(*instance, (*number, now));
        self.before.get(instance).is_none_or(|before| number > before)
    }
}

//! Clients that are there and talk.
//!
//! Open loop: each client sends at its own fixed times, spread over the interval, whatever became of the earlier
//! messages; latency counts from the time at which a message was to leave. Closed loop: each has a window of
//! messages under way, and latency counts from the sending.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::error::Error;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use mio::{Events, Poll};
use rayon::prelude::*;

use super::{LOOK, Link, Received, wait};
use crate::latency::Latency;
use crate::message::{Ledger, Tally};
use crate::stop::Stop;

/// How fast clients talk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Each has so many messages under way.
    Window(usize),
    /// All together send so many per second.
    Rate(f64),
}

/// What clients say.
#[derive(Clone, Copy, Debug)]
pub struct Talk {
    /// How fast.
    pub pace: Pace,
    /// Bytes of a message.
    pub payload: usize,
    /// For how long.
    pub duration: Duration,
    /// Messages in all at most.
    pub count: Option<u64>,
    /// How long an answer may take before it is lost.
    pub answer: Duration,
}

/// What became of it.
#[derive(Clone, Debug, Default)]
pub struct Talked {
    /// Of the messages.
    pub tally: Tally,
    /// From when a message was to leave until its answer was there.
    pub latency: Latency,
    /// From when a message was to leave until it left: the client's own lateness.
    pub lateness: Latency,
    /// Clients whose server ended them.
    pub ended: u64,
    /// For how long there was talk.
    pub took: Duration,
}

impl Talked {
    pub(super) fn add(&mut self, other: &Self) {
        self.tally = self.tally.plus(other.tally);
        self.latency.add(&other.latency);
        self.lateness.add(&other.lateness);
        self.ended += other.ended;
        self.took = self.took.max(other.took);
    }
}

/// Has them talk, on `threads` of rayon's. Blocks for the duration, and until the last answer came or is lost.
///
/// # Errors
///
/// Epoll fails.
pub fn run(
    links: &mut [Link],
    talk: &Talk,
    threads: usize,
    stop: &Stop,
    bar: &ProgressBar,
) -> Result<Talked, Box<dyn Error>> {
    let (clients, each) = (links.len().max(1), links.len().div_ceil(threads.max(1)).max(1));
    let shares: Vec<Result<Talked, String>> = links
        .par_chunks_mut(each)
        .enumerate()
        .map(|(share, links)| {
            Share::new(links, talk, share * each, clients)
                .and_then(|share| share.run(stop, bar))
                .map_err(|why| format!("the clients' side failed: {why}"))
        })
        .collect();
    let mut all = Talked::default();
    for share in shares {
        all.add(&share?);
    }
    Ok(all)
}

/// What one thread does.
struct Share<'a> {
    links: &'a mut [Link],
    talk: &'a Talk,
    ledgers: Vec<Ledger<Instant>>,
    ended: Vec<bool>,
    /// When each sends next, in an open loop.
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    interval: Duration,
    /// How many this thread may send.
    left: u64,
    sending: bool,
    poll: Poll,
    message: Vec<u8>,
    buffer: Vec<u8>,
    talked: Talked,
}

impl<'a> Share<'a> {
    fn new(links: &'a mut [Link], talk: &'a Talk, first: usize, clients: usize) -> std::io::Result<Self> {
        let poll = Poll::new()?;
        for (index, link) in links.iter().enumerate() {
            link.register(poll.registry(), index)?;
        }
        let ledgers =
            (0..links.len()).map(|index| Ledger::new((first + index) as u64, talk.payload)).collect();
        let interval = match talk.pace {
            Pace::Rate(rate) => Duration::from_secs_f64(clients as f64 / rate.max(1e-3)),
            Pace::Window(_) => Duration::ZERO,
        };
        let left = talk.count.map_or(u64::MAX, |count| {
            let (links, first, clients) = (links.len() as u64, first as u64, clients as u64);
            // Shares that add up to the whole.
            count * (first + links) / clients - count * first / clients
        });
        let began = Instant::now();
        let due = match talk.pace {
            Pace::Window(_) => BinaryHeap::new(),
            Pace::Rate(_) => (0..links.len())
                .map(|index| {
                    Reverse((began + interval.mul_f64((first + index) as f64 / clients as f64), index))
                })
                .collect(),
        };
        Ok(Self {
            ended: vec![false; links.len()],
            links,
            talk,
            ledgers,
            due,
            interval,
            left,
            sending: true,
            poll,
            message: Vec::new(),
            buffer: Vec::new(),
            talked: Talked::default(),
        })
    }

    fn run(mut self, stop: &Stop, bar: &ProgressBar) -> std::io::Result<Talked> {
        let began = Instant::now();
        let end = began + self.talk.duration;
        let mut events = Events::with_capacity(1024);
        (0..self.links.len()).for_each(|index| self.fill_window(index));
        let (mut looked, mut shown) = (began, 0);
        loop {
            let now = Instant::now();
            if self.sending && (now >= end || stop.wanted() || self.left == 0) {
                self.sending = false;
                self.talked.took = now.duration_since(began);
            }
            if !self.sending && self.ledgers.iter().all(|ledger| ledger.under_way() == 0) {
                break;
            }
            if now.duration_since(looked) >= LOOK {
                looked = now;
                self.give_up(now);
                let echoes = self.ledgers.iter().map(|ledger| ledger.tally.echoes).sum::<u64>();
                bar.inc(echoes - shown);
                shown = echoes;
            }
            self.send_due(now);
            let next = self.due.peek().map(|Reverse((due, _))| *due).filter(|_| self.sending);
            let until = if self.sending { Some(next.map_or(end, |next| next.min(end))) } else { None };
            wait(&mut self.poll, &mut events, until)?;
            for event in &events {
                let index = event.token().0;
                let _ = self.links[index].flush();
                self.read(index);
            }
        }
        self.talked.tally = self.ledgers.iter().fold(Tally::default(), |sum, ledger| sum.plus(ledger.tally));
        self.talked.ended = self.ended.iter().filter(|ended| **ended).count() as u64;
        for link in self.links.iter() {
            link.forget(self.poll.registry())?;
        }
        Ok(self.talked)
    }

    fn send_due(&mut self, now: Instant) {
        while let Some(&Reverse((due, index))) = self.due.peek().filter(|_| self.sending) {
            if due > now || self.left == 0 {
                return;
            }
            self.due.pop();
            if !self.ended[index] {
                self.due.push(Reverse((due + self.interval, index)));
                self.talked.lateness.record(Instant::now().duration_since(due));
                self.send(index, due);
            }
        }
    }

    fn fill_window(&mut self, index: usize) {
        let Pace::Window(window) = self.talk.pace else { return };
        while self.sending && self.left > 0 && !self.ended[index] && self.ledgers[index].under_way() < window
        {
            self.send(index, Instant::now());
        }
    }

    fn send(&mut self, index: usize, intended: Instant) {
        self.left -= 1;
        self.ledgers[index].next(&mut self.message, intended);
        if self.links[index].send(&self.message).is_err() {
            self.end(index);
        }
    }

    fn end(&mut self, index: usize) {
        self.ended[index] = true;
        self.ledgers[index].give_up(|_| true);
    }

    fn read(&mut self, index: usize) {
        loop {
            match self.links[index].receive(&mut self.buffer, self.talk.payload) {
                Received::Nothing => return,
                Received::Ended => return self.end(index),
                Received::Message => {
                    if let Some(intended) = self.ledgers[index].came(&self.buffer) {
                        self.talked.latency.record(intended.elapsed());
                    }
                    self.fill_window(index);
                }
            }
        }
    }

    fn give_up(&mut self, now: Instant) {
        let answer = self.talk.answer;
        for index in 0..self.links.len() {
            let lost =
                self.ledgers[index].give_up(|intended| now.saturating_duration_since(*intended) > answer);
            if lost > 0 {
                self.fill_window(index);
            }
        }
    }
}

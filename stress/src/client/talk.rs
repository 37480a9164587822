//! Clients that are there and talk.
//!
//! Open loop: each client sends at its own fixed times, spread over the interval, whatever became of the earlier
//! messages; latency counts from the time at which a message was to leave. Closed loop: each has a window of
//! messages under way, and latency counts from the sending. All together have so many under way at most: beyond that clients
//! take turns, because a server with one socket has one queue.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::error::Error;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use rayon::prelude::*;

use super::{Carrier, Clients, Event, LOOK, Share};
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
    /// Messages of all clients that are under way at most, in a closed loop.
    pub together: usize,
    /// Of so many clients one is counted apart.
    pub apart: Option<u64>,
}

/// What became of it.
#[derive(Clone, Debug, Default)]
pub struct Talked {
    /// Of the messages.
    pub tally: Tally,
    /// Of the messages of those that are not counted apart.
    pub others: Tally,
    /// From when a message was to leave until its answer was there, of those that are not counted apart.
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
        self.others = self.others.plus(other.others);
        self.latency.add(&other.latency);
        self.lateness.add(&other.lateness);
        self.ended += other.ended;
        self.took = self.took.max(other.took);
    }
}

/// Has the first `active` clients talk, on a thread of rayon's for each share of them. Blocks for the duration, and until the last
/// answer came or is lost.
///
/// # Errors
///
/// Epoll or the sockets fail.
pub fn run(
    clients: &mut Clients,
    active: usize,
    talk: &Talk,
    stop: &Stop,
    bar: &ProgressBar,
) -> Result<Talked, Box<dyn Error>> {
    let threads = clients.shares.len();
    let shares: Vec<Result<Talked, String>> = clients
        .shares
        .par_iter_mut()
        .enumerate()
        .map(|(thread, Share { carrier, present })| {
            let count = (active + threads - 1 - thread) / threads;
            let speakers = &present[..count.min(present.len())];
            let place = Place { thread, threads, clients: active.max(1) };
            Conversation::new(speakers, talk, place)
                .run(carrier.as_mut(), stop, bar)
                .map_err(|why| format!("the clients' side failed: {why}"))
        })
        .collect();
    let mut all = Talked::default();
    for share in shares {
        all.add(&share?);
    }
    Ok(all)
}

/// Which thread this is, of how many, and how many clients talk on all.
#[derive(Clone, Copy)]
struct Place {
    thread: usize,
    threads: usize,
    clients: usize,
}

impl Place {
    /// This thread's part of a number, of which all threads have the whole.
    fn part(self, number: u64) -> u64 {
        let (thread, threads) = (self.thread as u64, self.threads as u64);
        number / threads + u64::from(thread < number % threads)
    }
}

/// One that talks.
struct Speaker {
    /// Its index at the carrier.
    client: usize,
    ledger: Ledger<Instant>,
    ended: bool,
    apart: bool,
}

/// What one thread does.
struct Conversation<'a> {
    talk: &'a Talk,
    speakers: Vec<Speaker>,
    /// The speaker that a client is.
    speaker_of: Vec<Option<usize>>,
    /// When each sends next, in an open loop.
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    interval: Duration,
    /// Whose turn it is, in a closed loop: once for each message that may leave.
    turns: VecDeque<usize>,
    /// Messages that may be under way together, in a closed loop.
    together: usize,
    under_way: usize,
    /// How many this thread may send.
    left: u64,
    sending: bool,
    message: Vec<u8>,
    talked: Talked,
}

impl<'a> Conversation<'a> {
    fn new(clients: &[usize], talk: &'a Talk, place: Place) -> Self {
        let number = |index: usize| index * place.threads + place.thread;
        let mut speaker_of = vec![None; clients.iter().max().map_or(0, |most| most + 1)];
        let speaker = |(index, &client): (usize, &usize)| {
            speaker_of[client] = Some(index);
            let number = number(index) as u64;
            let apart = talk.apart.is_some_and(|of| number.is_multiple_of(of));
            Speaker { client, ledger: Ledger::new(number, talk.payload), ended: false, apart }
        };
        let speakers: Vec<Speaker> = clients.iter().enumerate().map(speaker).collect();
        let (mut due, mut turns, mut interval) = (BinaryHeap::new(), VecDeque::new(), Duration::ZERO);
        match talk.pace {
            Pace::Window(window) => {
                (0..window).for_each(|_| turns.extend(0..speakers.len()));
            }
            Pace::Rate(rate) => {
                let began = Instant::now();
                interval = Duration::from_secs_f64(place.clients as f64 / rate.max(1e-3));
                let at = |index: usize| began + interval.mul_f64(number(index) as f64 / place.clients as f64);
                due = (0..speakers.len()).map(|index| Reverse((at(index), index))).collect();
            }
        }
        Self {
            talk,
            speakers,
            speaker_of,
            due,
            interval,
            turns,
            together: (talk.together / place.threads).max(1),
            under_way: 0,
            left: talk.count.map_or(u64::MAX, |count| place.part(count)),
            sending: true,
            message: Vec::new(),
            talked: Talked::default(),
        }
    }

    fn run(mut self, carrier: &mut dyn Carrier, stop: &Stop, bar: &ProgressBar) -> std::io::Result<Talked> {
        carrier.expect(self.talk.payload);
        let began = Instant::now();
        let end = began + self.talk.duration;
        let (mut looked, mut shown) = (began, 0);
        loop {
            let now = Instant::now();
            if self.sending && (now >= end || stop.wanted() || self.left == 0) {
                self.sending = false;
                self.talked.took = now.duration_since(began);
            }
            if !self.sending && self.under_way == 0 {
                break;
            }
            if now.duration_since(looked) >= LOOK {
                looked = now;
                self.give_up(now);
                bar.inc(self.talked.latency.count() - shown);
                shown = self.talked.latency.count();
            }
            self.send_due(carrier, now);
            self.take_turns(carrier);
            let next = self.due.peek().map(|Reverse((due, _))| *due);
            let until = self.sending.then(|| next.map_or(end, |next| next.min(end)));
            carrier.wait(until, &mut |client, event| self.happened(client, event))?;
        }
        for speaker in &self.speakers {
            self.talked.tally = self.talked.tally.plus(speaker.ledger.tally);
            if !speaker.apart {
                self.talked.others = self.talked.others.plus(speaker.ledger.tally);
            }
        }
        self.talked.ended = self.speakers.iter().filter(|speaker| speaker.ended).count() as u64;
        Ok(self.talked)
    }

    fn send_due(&mut self, carrier: &mut dyn Carrier, now: Instant) {
        while let Some(&Reverse((due, index))) = self.due.peek().filter(|_| self.sending) {
            if due > now || self.left == 0 {
                return;
            }
            self.due.pop();
            if !self.speakers[index].ended {
                self.due.push(Reverse((due + self.interval, index)));
                self.talked.lateness.record(Instant::now().duration_since(due));
                self.send(carrier, index, due);
            }
        }
    }

    fn take_turns(&mut self, carrier: &mut dyn Carrier) {
        while self.sending && self.left > 0 && self.under_way < self.together {
            let Some(index) = self.turns.pop_front() else { return };
            if !self.speakers[index].ended {
                self.send(carrier, index, Instant::now());
            }
        }
    }

    fn send(&mut self, carrier: &mut dyn Carrier, index: usize, intended: Instant) {
        self.left -= 1;
        self.under_way += 1;
        let speaker = &mut self.speakers[index];
        speaker.ledger.next(&mut self.message, intended);
        if carrier.send(speaker.client, &self.message).is_err() {
            self.end(index);
        }
    }

    fn end(&mut self, index: usize) {
        let speaker = &mut self.speakers[index];
        speaker.ended = true;
        self.under_way -= speaker.ledger.give_up(|_| true);
    }

    fn happened(&mut self, client: usize, event: Event<'_>) {
        let Some(Some(index)) = self.speaker_of.get(client).copied() else { return };
        match event {
            Event::Message(message) => {
                let speaker = &mut self.speakers[index];
                let Some(intended) = speaker.ledger.came(message) else { return };
                if !speaker.apart {
                    self.talked.latency.record(intended.elapsed());
                }
                self.answered(index, 1);
            }
            Event::Ended(..) => self.end(index),
            Event::Open { .. } | Event::Stalled => {}
        }
    }

    /// So many of a speaker's messages are not under way any more.
    fn answered(&mut self, index: usize, count: usize) {
        self.under_way -= count;
        if matches!(self.talk.pace, Pace::Window(_)) {
            self.turns.extend(std::iter::repeat_n(index, count));
        }
    }

    fn give_up(&mut self, now: Instant) {
        let answer = self.talk.answer;
        for index in 0..self.speakers.len() {
            let ledger = &mut self.speakers[index].ledger;
            let lost = ledger.give_up(|intended| now.saturating_duration_since(*intended) > answer);
            self.answered(index, lost);
        }
    }
}

//! Runs connected clients that send messages.
//!
//! In an open loop each client sends at fixed times, spread over the interval, whether or not earlier messages
//! have been answered. Latency counts from the time at which a message was due. In a closed loop each client has
//! a window of messages in flight, and latency counts from the time of sending. The number of messages in flight
//! of all clients together is limited. Beyond the limit clients take turns, because a server with one socket has
//! one queue.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::error::Error;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use rayon::prelude::*;

use super::{CHECK_INTERVAL, ClientDriver, Clients, Event, Share};
use crate::latency::Latency;
use crate::message::{Outstanding, Tally};
use crate::stop::Stop;

/// How fast clients send.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Each client has this many messages in flight.
    Window(usize),
    /// All clients together send this many messages per second.
    Rate(f64),
}

/// The parameters of a conversation.
#[derive(Clone, Copy, Debug)]
pub struct Talk {
    /// How fast clients send.
    pub pace: Pace,
    /// Bytes of a message.
    pub payload: usize,
    /// The duration.
    pub duration: Duration,
    /// The largest number of messages.
    pub count: Option<u64>,
    /// How long an answer may take before it counts as lost.
    pub answer: Duration,
    /// The largest number of messages of all clients in flight, in a closed loop.
    pub together: usize,
    /// One of this many clients is counted separately.
    pub apart: Option<u64>,
}

/// The results of a conversation.
#[derive(Clone, Debug, Default)]
pub struct TalkResults {
    /// The results of all messages.
    pub tally: Tally,
    /// The results of the messages of clients that are not counted separately.
    pub others: Tally,
    /// The time from when a message was due until its answer arrived, for clients that are not counted
    /// separately.
    pub latency: Latency,
    /// The time from when a message was due until it was sent: the client's own lateness.
    pub lateness: Latency,
    /// The number of clients that the server has ended.
    pub ended: u64,
    /// The duration of the conversation.
    pub took: Duration,
}

impl TalkResults {
    pub(super) fn add(&mut self, other: &Self) {
        self.tally = self.tally.plus(other.tally);
        self.others = self.others.plus(other.others);
        self.latency.add(&other.latency);
        self.lateness.add(&other.lateness);
        self.ended += other.ended;
        self.took = self.took.max(other.took);
    }
}

/// Lets the first `active` clients send messages, with a thread of rayon for each share of them. Blocks for the
/// duration, and until the last answer has arrived or is lost.
///
/// # Errors
///
/// Returns an error if epoll or a socket fails.
pub fn run(
    clients: &mut Clients,
    active: usize,
    talk: &Talk,
    stop: &Stop,
    bar: &ProgressBar,
) -> Result<TalkResults, Box<dyn Error>> {
    let threads = clients.shares.len();
    let shares: Vec<Result<TalkResults, String>> = clients
        .shares
        .par_iter_mut()
        .enumerate()
        .map(|(thread, Share { driver, connected })| {
            let count = (active + threads - 1 - thread) / threads;
            let talkers = &connected[..count.min(connected.len())];
            let place = Place { thread, threads, clients: active.max(1) };
            Conversation::new(talkers, talk, place)
                .run(driver.as_mut(), stop, bar)
                .map_err(|why| format!("the clients' side failed: {why}"))
        })
        .collect();
    let mut all = TalkResults::default();
    for share in shares {
        all.add(&share?);
    }
    Ok(all)
}

/// A thread's place among all: its number, the number of threads, and the number of clients on all threads.
#[derive(Clone, Copy)]
struct Place {
    thread: usize,
    threads: usize,
    clients: usize,
}

impl Place {
    /// Returns this thread's share of a number that is divided among all threads.
    fn share_of(self, number: u64) -> u64 {
        let (thread, threads) = (self.thread as u64, self.threads as u64);
        number / threads + u64::from(thread < number % threads)
    }
}

/// A client that sends.
struct Talker {
    /// The index of the client at its driver.
    client: usize,
    outstanding: Outstanding<Instant>,
    ended: bool,
    apart: bool,
}

/// The work of one thread.
struct Conversation<'a> {
    talk: &'a Talk,
    talkers: Vec<Talker>,
    /// The talker of each client.
    talker_of: Vec<Option<usize>>,
    /// When each talker sends next, in an open loop.
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    interval: Duration,
    /// The talkers whose turn it is, in a closed loop: one entry for each message that may leave.
    turns: VecDeque<usize>,
    /// The largest number of messages in flight together, in a closed loop.
    together: usize,
    under_way: usize,
    /// How many more messages this thread may send.
    left: u64,
    sending: bool,
    message: Vec<u8>,
    talked: TalkResults,
}

impl<'a> Conversation<'a> {
    fn new(clients: &[usize], talk: &'a Talk, place: Place) -> Self {
        let number = |index: usize| index * place.threads + place.thread;
        let mut talker_of = vec![None; clients.iter().max().map_or(0, |most| most + 1)];
        let talker = |(index, &client): (usize, &usize)| {
            talker_of[client] = Some(index);
            let number = number(index) as u64;
            let apart = talk.apart.is_some_and(|of| number.is_multiple_of(of));
            Talker { client, outstanding: Outstanding::new(number, talk.payload), ended: false, apart }
        };
        let talkers: Vec<Talker> = clients.iter().enumerate().map(talker).collect();
        let (mut due, mut turns, mut interval) = (BinaryHeap::new(), VecDeque::new(), Duration::ZERO);
        match talk.pace {
            Pace::Window(window) => {
                (0..window).for_each(|_| turns.extend(0..talkers.len()));
            }
            Pace::Rate(rate) => {
                let began = Instant::now();
                interval = Duration::from_secs_f64(place.clients as f64 / rate.max(1e-3));
                let at = |index: usize| began + interval.mul_f64(number(index) as f64 / place.clients as f64);
                due = (0..talkers.len()).map(|index| Reverse((at(index), index))).collect();
            }
        }
        Self {
            talk,
            talkers,
            talker_of,
            due,
            interval,
            turns,
            together: (talk.together / place.threads).max(1),
            under_way: 0,
            left: talk.count.map_or(u64::MAX, |count| place.share_of(count)),
            sending: true,
            message: Vec::new(),
            talked: TalkResults::default(),
        }
    }

    fn run(
        mut self,
        driver: &mut dyn ClientDriver,
        stop: &Stop,
        bar: &ProgressBar,
    ) -> std::io::Result<TalkResults> {
        driver.expect(self.talk.payload);
        let began = Instant::now();
        let end = began + self.talk.duration;
        let (mut last_check, mut shown) = (began, 0);
        loop {
            let now = Instant::now();
            if self.sending && (now >= end || stop.wanted() || self.left == 0) {
                self.sending = false;
                self.talked.took = now.duration_since(began);
            }
            if !self.sending && self.under_way == 0 {
                break;
            }
            if now.duration_since(last_check) >= CHECK_INTERVAL {
                last_check = now;
                self.give_up(now);
                bar.inc(self.talked.latency.count() - shown);
                shown = self.talked.latency.count();
            }
            self.send_due(driver, now);
            self.send_turns(driver);
            let next = self.due.peek().map(|Reverse((due, _))| *due);
            let until = self.sending.then(|| next.map_or(end, |next| next.min(end)));
            driver.wait(until, &mut |client, event| self.handle_event(client, event))?;
        }
        for talker in &self.talkers {
            self.talked.tally = self.talked.tally.plus(talker.outstanding.tally);
            if !talker.apart {
                self.talked.others = self.talked.others.plus(talker.outstanding.tally);
            }
        }
        self.talked.ended = self.talkers.iter().filter(|talker| talker.ended).count() as u64;
        Ok(self.talked)
    }

    /// Sends the messages that are due, in an open loop.
    fn send_due(&mut self, driver: &mut dyn ClientDriver, now: Instant) {
        while let Some(&Reverse((due, index))) = self.due.peek().filter(|_| self.sending) {
            if due > now || self.left == 0 {
                return;
            }
            self.due.pop();
            if !self.talkers[index].ended {
                self.due.push(Reverse((due + self.interval, index)));
                self.talked.lateness.record(Instant::now().duration_since(due));
                self.send(driver, index, due);
            }
        }
    }

    /// Sends messages of the talkers whose turn it is, in a closed loop.
    fn send_turns(&mut self, driver: &mut dyn ClientDriver) {
        while self.sending && self.left > 0 && self.under_way < self.together {
            let Some(index) = self.turns.pop_front() else { return };
            if !self.talkers[index].ended {
                self.send(driver, index, Instant::now());
            }
        }
    }

    fn send(&mut self, driver: &mut dyn ClientDriver, index: usize, intended: Instant) {
        self.left -= 1;
        self.under_way += 1;
        let talker = &mut self.talkers[index];
        talker.outstanding.next(&mut self.message, intended);
        if driver.send(talker.client, &self.message).is_err() {
            self.end(index);
        }
    }

    fn end(&mut self, index: usize) {
        let talker = &mut self.talkers[index];
        talker.ended = true;
        self.under_way -= talker.outstanding.give_up(|_| true);
    }

    fn handle_event(&mut self, client: usize, event: Event<'_>) {
        let Some(Some(index)) = self.talker_of.get(client).copied() else { return };
        match event {
            Event::Message(message) => {
                let talker = &mut self.talkers[index];
                let Some(intended) = talker.outstanding.handle_answer(message) else { return };
                if !talker.apart {
                    self.talked.latency.record(intended.elapsed());
                }
                self.answered(index, 1);
            }
            Event::Ended(..) => self.end(index),
            Event::Open { .. } | Event::Stalled => {}
        }
    }

    /// Removes this many of a talker's messages from those in flight.
    fn answered(&mut self, index: usize, count: usize) {
        self.under_way -= count;
        if matches!(self.talk.pace, Pace::Window(_)) {
            self.turns.extend(std::iter::repeat_n(index, count));
        }
    }

    /// Counts the answers that took too long as lost.
    fn give_up(&mut self, now: Instant) {
        let answer = self.talk.answer;
        for index in 0..self.talkers.len() {
            let outstanding = &mut self.talkers[index].outstanding;
            let lost = outstanding.give_up(|intended| now.saturating_duration_since(*intended) > answer);
            self.answered(index, lost);
        }
    }
}

//! Runs clients that connect, send messages, and stay or disconnect.
//!
//! In an open loop client number n is due at n divided by the rate, whether or not earlier clients have finished,
//! and its latency counts from then. In a closed loop a fixed number of clients is active, and the next one
//! connects when one has finished.

use std::collections::HashMap;
use std::error::Error;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use openssl::ssl::SslSession;
use rayon::prelude::*;

use super::{CHECK_INTERVAL, ClientDriver, Clients, Event, Retransmissions, Share};
use crate::latency::Latency;
use crate::message::{Outstanding, SHORTEST, Tally};
use crate::stop::Stop;

/// When the next client connects.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// This many clients are active at the same time; the next one connects when one has finished.
    Together(usize),
    /// This many clients connect per second.
    Rate(f64),
}

/// The parameters of the clients.
#[derive(Clone)]
pub struct Load {
    /// The number of clients.
    pub count: usize,
    /// When the next client connects.
    pub pace: Pace,
    /// The number of messages of each client, sent one after the other.
    pub messages: u32,
    /// Bytes of a message.
    pub payload: usize,
    /// Whether the clients stay connected.
    pub stay: bool,
    /// The session to resume.
    pub session: Option<SslSession>,
    /// When no more clients connect.
    pub until: Option<Instant>,
    /// How long an answer may take.
    pub answer: Duration,
    /// How long connecting may take.
    pub patience: Duration,
}

impl Load {
    /// Describes this many clients that connect as fast as they can, 64 at a time, send nothing and stay.
    pub fn of(count: usize) -> Self {
        Self {
            count,
            pace: Pace::Together(64),
            messages: 0,
            payload: 64,
            stay: true,
            session: None,
            until: None,
            answer: Duration::from_secs(2),
            patience: Duration::from_secs(15),
        }
    }
}

/// The results of the clients.
#[derive(Default)]
pub struct LoadResults {
    /// Completed handshakes.
    pub completed: u64,
    /// Completed handshakes that resumed a session.
    pub resumed: u64,
    /// Clients that failed.
    pub failed: u64,
    /// The reason of the first failure.
    pub why: Option<String>,
    /// Clients that retransmitted.
    pub retransmitted: u64,
    /// Clients that retransmitted after a second without an answer.
    pub timed: u64,
    /// Datagrams that were sent again.
    pub retransmitted_datagrams: u64,
    /// The time from when a client was due until it was connected.
    pub connect: Latency,
    /// The time from a message to its answer.
    pub echo: Latency,
    /// The results of the messages.
    pub tally: Tally,
    /// The time from the first client until the last one has finished.
    pub took: Duration,
}

impl LoadResults {
    fn add(&mut self, other: Self) {
        self.completed += other.completed;
        self.resumed += other.resumed;
        self.failed += other.failed;
        self.why = self.why.take().or(other.why);
        self.retransmitted += other.retransmitted;
        self.timed += other.timed;
        self.retransmitted_datagrams += other.retransmitted_datagrams;
        self.connect.add(&other.connect);
        self.echo.add(&other.echo);
        self.tally = self.tally.plus(other.tally);
        self.took = self.took.max(other.took);
    }
}

/// Connects the clients, with a thread of rayon for each share; those that stay are then among `clients`. Blocks
/// until all have finished or failed.
///
/// # Errors
///
/// Returns an error if epoll or a socket fails.
pub fn run(
    clients: &mut Clients,
    load: &Load,
    stop: &Stop,
    bar: &ProgressBar,
) -> Result<LoadResults, Box<dyn Error>> {
    let (began, threads) = (Instant::now(), clients.shares.len());
    let shares: Vec<Result<LoadResults, String>> = clients
        .shares
        .par_iter_mut()
        .enumerate()
        .map(|(thread, share)| {
            LoadRun::new(load)
                .run(share, (thread, threads), began, stop, bar)
                .map_err(|why| format!("the clients' side failed: {why}"))
        })
        .collect();
    let mut all = LoadResults::default();
    for share in shares {
        all.add(share?);
    }
    Ok(all)
}

/// A client that has not finished.
struct ActiveClient {
    /// When the client was due.
    intended: Instant,
    /// When the client fails.
    deadline: Instant,
    connected: bool,
    outstanding: Outstanding<Instant>,
}

/// The work of one thread.
struct LoadRun<'a> {
    load: &'a Load,
    under_way: HashMap<usize, ActiveClient>,
    /// Clients that send a message next.
    to_send: Vec<usize>,
    /// Clients that have finished.
    finished: Vec<usize>,
    done: LoadResults,
    message: Vec<u8>,
}

impl<'a> LoadRun<'a> {
    fn new(load: &'a Load) -> Self {
        Self {
            load,
            under_way: HashMap::new(),
            to_send: Vec::new(),
            finished: Vec::new(),
            done: LoadResults::default(),
            message: Vec::new(),
        }
    }

    fn run(
        mut self,
        share: &mut Share,
        (thread, threads): (usize, usize),
        began: Instant,
        stop: &Stop,
        bar: &ProgressBar,
    ) -> std::io::Result<LoadResults> {
        let Share { driver, connected } = share;
        driver.expect(self.load.payload);
        let (mut next, mut last_check) = (thread, Instant::now());
        loop {
            let now = Instant::now();
            let over = stop.wanted() || self.load.until.is_some_and(|until| now >= until);
            let more = next < self.load.count && !over;
            if !more && self.under_way.is_empty() || stop.wanted() {
                break;
            }
            let intended = match self.load.pace {
                Pace::Rate(rate) => began + Duration::from_secs_f64(next as f64 / rate.max(1e-3)),
                Pace::Together(_) => now,
            };
            let room = match self.load.pace {
                Pace::Together(most) => self.under_way.len() < (most / threads).max(1),
                Pace::Rate(_) => true,
            };
            let before = self.done.completed + self.done.failed;
            if more && room && intended <= now {
                self.begin_client(driver.as_mut(), next, intended);
                next += threads;
                // In a closed loop, start all clients that may start before reading anything.
                if matches!(self.load.pace, Pace::Together(_)) {
                    continue;
                }
            }
            let due = (more && room && matches!(self.load.pace, Pace::Rate(_))).then_some(intended);
            driver.wait(due, &mut |index, event| self.handle_event(index, event))?;
            let now = Instant::now();
            if now.duration_since(last_check) >= CHECK_INTERVAL {
                last_check = now;
                self.give_up(driver.as_mut(), now);
            }
            for index in std::mem::take(&mut self.to_send) {
                self.send_message(driver.as_mut(), index);
            }
            for index in std::mem::take(&mut self.finished) {
                self.count(driver.retransmissions(index));
                match self.load.stay {
                    true => connected.push(index),
                    false => driver.close(index),
                }
            }
            bar.inc(self.done.completed + self.done.failed - before);
        }
        // Clients that have not finished are closed.
        self.under_way.keys().for_each(|index| driver.close(*index));
        // Otherwise the last close_notify alerts would wait for further clients, and the server would keep the
        // peers.
        driver.flush();
        self.done.took = began.elapsed();
        Ok(self.done)
    }

    /// Starts client number `number`, which was due at `intended`.
    fn begin_client(&mut self, driver: &mut dyn ClientDriver, number: usize, intended: Instant) {
        match driver.begin(self.load.session.as_ref()) {
            Err(why) => self.fail(why.to_string()),
            Ok(index) => {
                let deadline = Instant::now() + self.load.patience;
                let outstanding = Outstanding::new(number as u64, self.load.payload.max(SHORTEST));
                self.under_way
                    .insert(index, ActiveClient { intended, deadline, connected: false, outstanding });
            }
        }
    }

    fn fail(&mut self, why: String) {
        self.done.failed += 1;
        self.done.why.get_or_insert(why);
    }

    fn count(&mut self, retransmissions: Retransmissions) {
        self.done.retransmitted += u64::from(retransmissions.datagrams > 0);
        self.done.timed += u64::from(retransmissions.timer);
        self.done.retransmitted_datagrams += u64::from(retransmissions.datagrams);
    }

    fn handle_event(&mut self, index: usize, event: Event<'_>) {
        let Some(active) = self.under_way.get_mut(&index) else { return };
        match event {
            Event::Open { resumed } => {
                active.connected = true;
                self.done.connect.record(active.intended.elapsed());
                self.done.completed += 1;
                self.done.resumed += u64::from(resumed);
                match self.load.messages {
                    0 => self.finish(index),
                    _ => self.to_send.push(index),
                }
            }
            Event::Message(message) => {
                if let Some(sent) = active.outstanding.handle_answer(message) {
                    self.done.echo.record(sent.elapsed());
                }
                if active.outstanding.under_way() == 0 {
                    match active.outstanding.tally.sent >= u64::from(self.load.messages) {
                        true => self.finish(index),
                        false => self.to_send.push(index),
                    }
                }
            }
            Event::Ended(why, retransmissions) => {
                self.count(retransmissions);
                if let Some(mut active) = self.under_way.remove(&index) {
                    active.outstanding.give_up(|_| true);
                    self.done.tally = self.done.tally.plus(active.outstanding.tally);
                    match active.connected {
                        false => self.fail(why),
                        true => drop(self.done.why.get_or_insert(why)),
                    }
                }
            }
            Event::Stalled => {}
        }
    }

    /// Handles a client that has finished.
    fn finish(&mut self, index: usize) {
        if let Some(active) = self.under_way.remove(&index) {
            self.done.tally = self.done.tally.plus(active.outstanding.tally);
            self.finished.push(index);
        }
    }

    /// Sends the next message of a client.
    fn send_message(&mut self, driver: &mut dyn ClientDriver, index: usize) {
        let Some(active) =
            self.under_way.get_mut(&index).filter(|active| active.outstanding.under_way() == 0)
        else {
            return;
        };
        let now = Instant::now();
        active.outstanding.next(&mut self.message, now);
        active.deadline = now + self.load.answer;
        // A message that cannot be sent counts as lost after its timeout.
        let _ = driver.send(index, &self.message);
    }

    /// Gives up clients that took too long.
    fn give_up(&mut self, driver: &mut dyn ClientDriver, now: Instant) {
        let late = |(_, active): &(&usize, &ActiveClient)| now >= active.deadline;
        let late: Vec<usize> = self.under_way.iter().filter(late).map(|(index, _)| *index).collect();
        for index in late {
            let Some(active) = self.under_way.get_mut(&index) else { continue };
            active.outstanding.give_up(|_| true);
            if active.connected {
                // The client was connected, and its message was lost.
                self.finish(index);
            } else {
                self.under_way.remove(&index);
                self.count(driver.retransmissions(index));
                driver.close(index);
                self.fail(format!("the handshake did not complete within {:?}", self.load.patience));
            }
        }
    }
}

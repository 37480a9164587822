//! Clients that come, say something, and stay or leave.
//!
//! Open loop: client number n is to come at n divided by the rate, whatever became of the earlier ones, and its
//! latency counts from then. Closed loop: so many are under way, and the next comes when one is done.

use std::collections::HashMap;
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use mio::{Events, Poll};
use openssl::ssl::SslSession;
use rayon::prelude::*;

use super::{Dialer, Link, Received, wait};
use crate::latency::Latency;
use crate::message::{Ledger, SHORTEST, Tally};
use crate::stop::Stop;

/// How clients follow each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// So many at once; the next comes when one is done.
    Together(usize),
    /// So many per second.
    Rate(f64),
}

/// What clients are to do.
#[derive(Clone)]
pub struct Visits {
    /// Clients in all.
    pub count: usize,
    /// How they follow each other.
    pub pace: Pace,
    /// Messages that each says, one after the other.
    pub messages: u32,
    /// Bytes of a message.
    pub payload: usize,
    /// Whether they stay.
    pub stay: bool,
    /// The session that they resume.
    pub session: Option<SslSession>,
    /// When no more come.
    pub until: Option<Instant>,
    /// How long an answer may take.
    pub answer: Duration,
    /// Whether they come from addresses of 127.0.0.0/8 in turn, a thousand from each.
    pub spread: bool,
}

impl Visits {
    /// So many that come as fast as they can, 64 at once, say nothing and stay.
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
            spread: false,
        }
    }
}

/// What became of them.
#[derive(Default)]
pub struct Visited {
    /// Those that stay.
    pub links: Vec<Link>,
    /// Handshakes completed.
    pub completed: u64,
    /// Of these, resumed ones.
    pub resumed: u64,
    /// Clients that came to nothing.
    pub failed: u64,
    /// Why, the first of them.
    pub why: Option<String>,
    /// Clients that sent a flight again.
    pub retransmitted: u64,
    /// Datagrams that were sent again.
    pub datagrams_again: u64,
    /// From when a client was to come until it was connected.
    pub connect: Latency,
    /// From a message to its answer.
    pub echo: Latency,
    /// Of the messages.
    pub tally: Tally,
    /// From the first client to the end of the last one's business.
    pub took: Duration,
}

impl Visited {
    fn add(&mut self, other: Self) {
        self.links.extend(other.links);
        self.completed += other.completed;
        self.resumed += other.resumed;
        self.failed += other.failed;
        self.why = self.why.take().or(other.why);
        self.retransmitted += other.retransmitted;
        self.datagrams_again += other.datagrams_again;
        self.connect.add(&other.connect);
        self.echo.add(&other.echo);
        self.tally = self.tally.plus(other.tally);
        self.took = self.took.max(other.took);
    }
}

/// Has them come, on `threads` of rayon's. Blocks until all have done what they were to do, or gave up.
///
/// # Errors
///
/// Epoll fails.
pub fn run(
    dialer: &Dialer,
    visits: &Visits,
    threads: usize,
    stop: &Stop,
    bar: &ProgressBar,
) -> Result<Visited, Box<dyn Error>> {
    let began = Instant::now();
    let shares: Vec<Result<Visited, String>> = (0..threads)
        .into_par_iter()
        .map(|thread| {
            Share::new(dialer, visits, (thread, threads), began)
                .and_then(|share| share.run(stop, bar))
                .map_err(|why| format!("the clients' side failed: {why}"))
        })
        .collect();
    let mut all = Visited::default();
    for share in shares {
        all.add(share?);
    }
    Ok(all)
}

/// A client that is not done.
struct Visitor {
    link: Link,
    /// When it was to come.
    intended: Instant,
    /// When it gives up.
    deadline: Instant,
    connected: bool,
    ledger: Ledger<Instant>,
}

/// What one thread does.
struct Share<'a> {
    dialer: &'a Dialer,
    visits: &'a Visits,
    share: (usize, usize),
    began: Instant,
    poll: Poll,
    under_way: HashMap<usize, Visitor>,
    done: Visited,
    message: Vec<u8>,
    buffer: Vec<u8>,
}

impl<'a> Share<'a> {
    fn new(
        dialer: &'a Dialer,
        visits: &'a Visits,
        share: (usize, usize),
        began: Instant,
    ) -> std::io::Result<Self> {
        Ok(Self {
            dialer,
            visits,
            share,
            began,
            poll: Poll::new()?,
            under_way: HashMap::new(),
            done: Visited::default(),
            message: Vec::new(),
            buffer: Vec::new(),
        })
    }

    fn run(mut self, stop: &Stop, bar: &ProgressBar) -> std::io::Result<Visited> {
        let (thread, threads) = self.share;
        let mut next = thread;
        let mut events = Events::with_capacity(1024);
        let mut looked = Instant::now();
        loop {
            let now = Instant::now();
            let over = stop.wanted() || self.visits.until.is_some_and(|until| now >= until);
            let more = next < self.visits.count && !over;
            if !more && self.under_way.is_empty() || stop.wanted() {
                break;
            }
            let intended = match self.visits.pace {
                Pace::Rate(rate) => self.began + Duration::from_secs_f64(next as f64 / rate.max(1e-3)),
                Pace::Together(_) => now,
            };
            let room = match self.visits.pace {
                Pace::Together(most) => self.under_way.len() < (most / threads).max(1),
                Pace::Rate(_) => true,
            };
            if more && room && intended <= now {
                self.come(next, intended);
                next += threads;
                // In a closed loop all that may come do so before anything is read.
                if matches!(self.visits.pace, Pace::Together(_)) {
                    continue;
                }
            }
            let due = (more && room && matches!(self.visits.pace, Pace::Rate(_))).then_some(intended);
            wait(&mut self.poll, &mut events, due)?;
            let before = self.done.completed + self.done.failed;
            for event in &events {
                self.go_on(event.token().0);
            }
            let now = Instant::now();
            if now.duration_since(looked) >= super::LOOK {
                looked = now;
                self.look_for_late_ones(now);
            }
            bar.inc(self.done.completed + self.done.failed - before);
        }
        self.done.took = self.began.elapsed();
        Ok(self.done)
    }

    fn come(&mut self, number: usize, intended: Instant) {
        let from = self.visits.spread.then(|| {
            let host = u32::from(Ipv4Addr::new(127, 1, 0, 1)) + (number / 1000) as u32;
            SocketAddr::new(IpAddr::V4(host.into()), 0)
        });
        let begun = self.dialer.begin(from, self.visits.session.as_ref()).and_then(|link| {
            link.register(self.poll.registry(), number)?;
            Ok(link)
        });
        match begun {
            Err(why) => self.fail(why.to_string()),
            Ok(link) => {
                let deadline = Instant::now() + self.dialer.patience();
                let ledger = Ledger::new(number as u64, self.visits.payload.max(SHORTEST));
                let visitor = Visitor { link, intended, deadline, connected: false, ledger };
                self.under_way.insert(number, visitor);
                self.go_on(number);
            }
        }
    }

    fn fail(&mut self, why: String) {
        self.done.failed += 1;
        self.done.why.get_or_insert(why);
    }

    /// Does what there is to do for a client; takes it away when it is done.
    fn go_on(&mut self, number: usize) {
        let Some(mut visitor) = self.under_way.remove(&number) else { return };
        match self.advance(&mut visitor) {
            Ok(false) => drop(self.under_way.insert(number, visitor)),
            Ok(true) => self.finish(visitor),
            Err(why) => {
                self.count(&visitor);
                match visitor.connected {
                    false => self.fail(why),
                    true => drop(self.done.why.get_or_insert(why)),
                }
            }
        }
    }

    /// `true` where the client has done all it was to do.
    fn advance(&mut self, visitor: &mut Visitor) -> Result<bool, String> {
        if !visitor.connected {
            if !visitor.link.step().map_err(|why| why.to_string())? {
                return Ok(false);
            }
            visitor.connected = true;
            self.done.connect.record(visitor.intended.elapsed());
            self.done.completed += 1;
            self.done.resumed += u64::from(visitor.link.is_resumed());
            if self.visits.messages == 0 {
                return Ok(true);
            }
            self.say(visitor)?;
        }
        visitor.link.flush().map_err(|why| why.to_string())?;
        loop {
            match visitor.link.receive(&mut self.buffer, self.visits.payload) {
                Received::Nothing => return Ok(false),
                Received::Ended => {
                    visitor.ledger.give_up(|_| true);
                    return Err("the server ended the connection".to_owned());
                }
                Received::Message => {
                    if let Some(sent) = visitor.ledger.came(&self.buffer) {
                        self.done.echo.record(sent.elapsed());
                    }
                    if visitor.ledger.under_way() == 0 {
                        if visitor.ledger.tally.sent >= u64::from(self.visits.messages) {
                            return Ok(true);
                        }
                        self.say(visitor)?;
                    }
                }
            }
        }
    }

    fn say(&mut self, visitor: &mut Visitor) -> Result<(), String> {
        let now = Instant::now();
        visitor.ledger.next(&mut self.message, now);
        visitor.deadline = now + self.visits.answer;
        visitor.link.send(&self.message).map_err(|why| why.to_string())
    }

    fn count(&mut self, visitor: &Visitor) {
        let again = visitor.link.retransmissions();
        self.done.retransmitted += u64::from(again > 0);
        self.done.datagrams_again += again;
        self.done.tally = self.done.tally.plus(visitor.ledger.tally);
    }

    fn finish(&mut self, visitor: Visitor) {
        self.count(&visitor);
        match self.visits.stay {
            true => self.done.links.push(visitor.link),
            false => visitor.link.close(),
        }
    }

    /// Sends flights again that are overdue, and gives up on those that took too long.
    fn look_for_late_ones(&mut self, now: Instant) {
        let late = |visitor: &Visitor| visitor.link.is_late(now) || now >= visitor.deadline;
        let numbers: Vec<usize> =
            self.under_way.iter().filter(|(_, visitor)| late(visitor)).map(|(number, _)| *number).collect();
        for number in numbers {
            let given_up = self.under_way.get(&number).is_some_and(|visitor| now >= visitor.deadline);
            if !given_up {
                self.go_on(number);
            } else if let Some(mut visitor) = self.under_way.remove(&number) {
                visitor.ledger.give_up(|_| true);
                match visitor.connected {
                    // It came, and what it said was lost.
                    true => self.finish(visitor),
                    false => {
                        self.count(&visitor);
                        self.fail(format!("nobody answered within {:?}", self.dialer.patience()));
                    }
                }
            }
        }
    }
}

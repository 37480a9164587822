//! One client that speaks, and many that hear it.

use std::io;
use std::time::Instant;

use indicatif::ProgressBar;
use mio::{Events, Poll};

use super::talk::{Pace, Talk, Talked};
use super::{LOOK, Link, Received, wait};
use crate::message::{Ledger, Tally};
use crate::stop::Stop;

/// Has `sender` speak and everybody in `receivers` check what is heard. In a closed loop the next message leaves when
/// all have the last one. The tally is that of deliveries: one for each message and receiver.
///
/// # Errors
///
/// Epoll fails, or the sender is ended.
pub fn run(
    sender: &mut Link,
    receivers: &mut [Link],
    talk: &Talk,
    stop: &Stop,
    bar: &ProgressBar,
) -> io::Result<Talked> {
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(1024));
    for (index, link) in receivers.iter().enumerate() {
        link.register(poll.registry(), index)?;
    }
    sender.register(poll.registry(), receivers.len())?;
    // To everybody the sender is client 0, and all hear the same messages.
    let mut ledgers: Vec<Ledger<Instant>> = receivers.iter().map(|_| Ledger::new(0, talk.payload)).collect();
    let mut talked = Talked::default();
    let (mut message, mut buffer) = (Vec::new(), Vec::new());
    let began = Instant::now();
    let end = began + talk.duration;
    let (mut sent, mut missing, mut looked) = (0u64, 0usize, began);
    loop {
        let now = Instant::now();
        let over = now >= end || stop.wanted() || talk.count.is_some_and(|count| sent >= count);
        if over && talked.took.is_zero() {
            talked.took = now.duration_since(began);
        }
        if over && missing == 0 {
            break;
        }
        let due = match talk.pace {
            Pace::Rate(rate) => {
                Some(began + std::time::Duration::from_secs_f64(sent as f64 / rate.max(1e-3)))
            }
            Pace::Window(_) => (missing == 0).then_some(now),
        };
        if let Some(due) = due.filter(|due| !over && *due <= now) {
            talked.lateness.record(now.duration_since(due));
            ledgers.iter_mut().for_each(|ledger| ledger.next(&mut message, due));
            missing += ledgers.len();
            sender.send(&message)?;
            sent += 1;
            bar.inc(1);
        }
        wait(&mut poll, &mut events, due.filter(|_| !over))?;
        for event in &events {
            let index = event.token().0;
            if index == receivers.len() {
                sender.flush()?;
                continue;
            }
            while receivers[index].receive(&mut buffer, talk.payload) == Received::Message {
                if let Some(intended) = ledgers[index].came(&buffer) {
                    talked.latency.record(intended.elapsed());
                    missing -= 1;
                }
            }
        }
        let now = Instant::now();
        if now.duration_since(looked) >= LOOK {
            looked = now;
            for ledger in &mut ledgers {
                missing -= ledger.give_up(|intended| now.saturating_duration_since(*intended) > talk.answer);
            }
        }
    }
    talked.tally = ledgers.iter().fold(Tally::default(), |sum, ledger| sum.plus(ledger.tally));
    Ok(talked)
}

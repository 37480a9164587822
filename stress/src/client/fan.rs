//! Runs one client that sends, and many that receive its messages.

use std::io;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use super::talk::{Pace, Talk, TalkResults};
use super::{CHECK_INTERVAL, Clients, Event, Share};
use crate::message::{Outstanding, Tally};
use crate::stop::Stop;

/// Lets the client that connected last send, and lets all others check what they receive. All clients must be on
/// one thread. In a closed loop the next message leaves when all have received the last one. The tally counts
/// deliveries: one for each message and receiver.
///
/// # Errors
///
/// Returns an error if epoll or a socket fails, or if there is no client to send.
pub fn run(clients: &mut Clients, talk: &Talk, stop: &Stop, bar: &ProgressBar) -> io::Result<TalkResults> {
    let [Share { driver, connected }] = &mut clients.shares[..] else {
        return Err(io::Error::other("the sender and the receivers are not on one thread"));
    };
    let Some((&sender, receivers)) = connected.split_last() else {
        return Err(io::Error::other("there is no client to send"));
    };
    driver.expect(talk.payload);
    let mut receiver_of = vec![None; connected.iter().max().map_or(0, |most| most + 1)];
    receivers.iter().enumerate().for_each(|(index, &client)| receiver_of[client] = Some(index));
    // Every receiver takes the sender for client 0, and all receive the same messages.
    let mut outstanding_of: Vec<Outstanding<Instant>> =
        receivers.iter().map(|_| Outstanding::new(0, talk.payload)).collect();
    let (mut talked, mut message) = (TalkResults::default(), Vec::new());
    let began = Instant::now();
    let end = began + talk.duration;
    let (mut sent, mut missing, mut last_check) = (0u64, 0usize, began);
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
            Pace::Rate(rate) => Some(began + Duration::from_secs_f64(sent as f64 / rate.max(1e-3))),
            Pace::Window(_) => (missing == 0).then_some(now),
        };
        if let Some(due) = due.filter(|due| !over && *due <= now) {
            talked.lateness.record(now.duration_since(due));
            outstanding_of.iter_mut().for_each(|outstanding| outstanding.next(&mut message, due));
            missing += outstanding_of.len();
            driver.send(sender, &message)?;
            sent += 1;
            bar.inc(1);
        }
        driver.wait(due.filter(|_| !over), &mut |client, event| {
            let receiver = receiver_of.get(client).copied().flatten();
            if let (Some(receiver), Event::Message(message)) = (receiver, event)
                && let Some(intended) = outstanding_of[receiver].handle_answer(message)
            {
                talked.latency.record(intended.elapsed());
                missing -= 1;
            }
        })?;
        let now = Instant::now();
        if now.duration_since(last_check) >= CHECK_INTERVAL {
            last_check = now;
            for outstanding in &mut outstanding_of {
                missing -=
                    outstanding.give_up(|intended| now.saturating_duration_since(*intended) > talk.answer);
            }
        }
    }
    talked.tally =
        outstanding_of.iter().fold(Tally::default(), |sum, outstanding| sum.plus(outstanding.tally));
    Ok(talked)
}

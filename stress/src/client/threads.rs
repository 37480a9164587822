//! Clients on SCTP: peeloff's own client, each with a thread and one message in flight.

use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use peeloff::{Address, Client, Peer};
use rayon::prelude::*;

use super::talk::{Talk, TalkResults};
use crate::message::Outstanding;
use crate::stop::Stop;

/// Connects this many clients, as many at a time as rayon has threads. Each fails after its timeout.
///
/// # Errors
///
/// Returns the first failure.
pub fn connect(address: &Address, count: usize, patience: Duration) -> Result<Vec<Peer>, Box<dyn Error>> {
    let client = Client::builder().danger_accept_any_certificate().timeout(patience);
    let peers: Result<Vec<_>, _> = (0..count).into_par_iter().map(|_| client.connect(address)).collect();
    Ok(peers?)
}

/// Lets each client send a message and wait for its answer, repeatedly; the window is 1.
///
/// # Errors
///
/// Returns an error if no thread can be started.
pub fn run(
    peers: &mut [Peer],
    talk: &Talk,
    stop: &Stop,
    bar: &ProgressBar,
) -> Result<TalkResults, Box<dyn Error>> {
    let (over, left) = (AtomicBool::new(false), AtomicU64::new(talk.count.unwrap_or(u64::MAX)));
    let began = Instant::now();
    let mut all = TalkResults::default();
    thread::scope(|scope| -> Result<(), Box<dyn Error>> {
        let (over, left) = (&over, &left);
        let mut threads = Vec::new();
        for (number, peer) in peers.iter_mut().enumerate() {
            let run = move || run_client(peer, number as u64, talk, over, left);
            let thread = thread::Builder::new().stack_size(128 << 10).spawn_scoped(scope, run);
            if thread.is_err() {
                over.store(true, Ordering::Relaxed);
            }
            threads.push(thread?);
        }
        while began.elapsed() < talk.duration && !stop.wanted() && left.load(Ordering::Relaxed) > 0 {
            bar.tick();
            stop.wait(talk.duration.saturating_sub(began.elapsed()).min(Duration::from_millis(100)));
        }
        over.store(true, Ordering::Relaxed);
        all.took = began.elapsed();
        for thread in threads {
            all.add(&thread.join().unwrap_or_default());
        }
        Ok(())
    })?;
    Ok(all)
}

fn run_client(peer: &mut Peer, number: u64, talk: &Talk, over: &AtomicBool, left: &AtomicU64) -> TalkResults {
    let (mut talked, mut outstanding) = (TalkResults::default(), Outstanding::new(number, talk.payload));
    let (mut message, mut answer) = (Vec::new(), vec![0; talk.payload + 64]);
    let one_less = |left: u64| left.checked_sub(1);
    while !over.load(Ordering::Relaxed)
        && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    {
        outstanding.next(&mut message, Instant::now());
        if peer.send(&message).is_err() {
            talked.ended += 1;
            break;
        }
        let deadline = Instant::now() + talk.answer;
        while outstanding.under_way() > 0 {
            match peer.recv_deadline(&mut answer, deadline) {
                Ok(Some(len)) => {
                    if let Some(sent) = outstanding.handle_answer(&answer[..len]) {
                        talked.latency.record(sent.elapsed());
                    }
                }
                Err(error) if !error.is_fatal() => drop(outstanding.give_up(|_| true)),
                Ok(None) | Err(_) => {
                    outstanding.give_up(|_| true);
                    talked.ended += 1;
                    over.store(true, Ordering::Relaxed);
                }
            }
        }
    }
    outstanding.give_up(|_| true);
    talked.tally = outstanding.tally;
    talked.others = outstanding.tally;
    talked
}

//! Clients by the thousand.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use peeloff::{Address, Client, ConnectError, Error, Peer};
use rayon::prelude::*;

/// How long an answer may take before it counts as lost.
pub const ANSWER: Duration = Duration::from_secs(2);

/// Connects `count` peers, as many at a time as rayon has threads. Handlers never run on rayon;
/// connecting clients may, for each ends by its timeout.
///
/// # Errors
///
/// The first failure.
pub fn connect(address: &Address, count: usize) -> Result<Vec<Peer>, ConnectError> {
    let client = Client::builder().danger_accept_any_certificate();
    (0..count).into_par_iter().map(|_| client.connect(address)).collect()
}

/// What a crowd of talkers came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Talk {
    /// Messages that came back as they went.
    pub echoes: u64,
    /// Messages that did not come back in [`ANSWER`].
    pub lost: u64,
    /// Messages that came back changed, or that were another peer's or another round's.
    pub wrong: u64,
}

/// Has each of `peers` send messages of `payload` bytes and wait for each to come back, for
/// `duration`, each on a thread of its own. Every byte is checked: a message carries its peer's
/// number and its round.
pub fn talk(peers: &mut [Peer], payload: usize, duration: Duration) -> Talk {
    let over = AtomicBool::new(false);
    let talks = thread::scope(|scope| {
        let over = &over;
        let threads: Vec<_> = peers
            .iter_mut()
            .enumerate()
            .map(|(number, peer)| scope.spawn(move || talk_alone(peer, number as u64, payload, over)))
            .collect();
        let end = Instant::now() + duration;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            thread::park_timeout(left);
        }
        over.store(true, Ordering::Relaxed);
        threads.into_iter().map(|thread| thread.join().unwrap_or_default()).collect::<Vec<_>>()
    });
    talks.iter().fold(Talk::default(), |sum, talk| Talk {
        echoes: sum.echoes + talk.echoes,
        lost: sum.lost + talk.lost,
        wrong: sum.wrong + talk.wrong,
    })
}

fn talk_alone(peer: &mut Peer, number: u64, payload: usize, over: &AtomicBool) -> Talk {
    let mut talk = Talk::default();
    let mut message = vec![0u8; payload];
    let mut answer = vec![0u8; payload + 1];
    for round in 0u64.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        fill(&mut message, number, round);
        if peer.send(&message).is_err() {
            talk.lost += 1;
            break;
        }
        match peer.recv_timeout(&mut answer, ANSWER) {
            Ok(Some(len)) if answer[..len] == message[..] => talk.echoes += 1,
            Ok(Some(_)) => talk.wrong += 1,
            Err(Error::TimedOut) => talk.lost += 1,
            Ok(None) | Err(_) => {
                talk.lost += 1;
                break;
            }
        }
    }
    talk
}

/// Bytes that no other peer and no other round has (for payloads of 16 bytes and more).
fn fill(message: &mut [u8], number: u64, round: u64) {
    let seed = [number.to_le_bytes(), round.to_le_bytes()].concat();
    for (index, byte) in message.iter_mut().enumerate() {
        *byte = seed[index % seed.len()].wrapping_add((index / seed.len()) as u8);
    }
}

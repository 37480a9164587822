//! Clients that begin and do not go on, and clients that say much and read nothing.

use std::io;
use std::time::{Duration, Instant};

use mio::{Events, Poll};

use super::{Dialer, Link, wait};
use crate::message;
use crate::stop::Stop;

/// How long the first answers may take.
const FIRST: Duration = Duration::from_secs(2);

/// Begins so many handshakes and stops as soon as the server has something to keep: behind the hello with the cookie,
/// behind TLS's hello, or behind TCP's handshake.
///
/// # Errors
///
/// No descriptors or ports are left.
pub fn stall(dialer: &Dialer, count: usize, stop: &Stop) -> io::Result<Vec<Link>> {
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(1024));
    let mut links = Vec::with_capacity(count);
    for index in 0..count {
        let link = dialer.begin(None, None)?;
        link.register(poll.registry(), index)?;
        links.push((link, false));
    }
    let end = Instant::now() + FIRST;
    while links.iter().any(|(_, stalled)| !stalled) && Instant::now() < end && !stop.wanted() {
        wait(&mut poll, &mut events, None)?;
        for event in &events {
            let (link, stalled) = &mut links[event.token().0];
            if !*stalled {
                // One answer, one more flight. Who is refused is as stalled.
                let _ = link.step();
                *stalled = true;
            }
        }
    }
    Ok(links.into_iter().map(|(link, _)| link).collect())
}

/// Has each client send so many messages, and none read what comes back.
pub fn say_and_ignore(links: &mut [Link], messages: u64, payload: usize) {
    let mut message = vec![0; payload.max(message::SHORTEST)];
    for (number, link) in links.iter_mut().enumerate() {
        for sequence in 0..messages {
            message::fill(&mut message, number as u64, sequence);
            if link.send(&message).is_err() || link.is_full() {
                break;
            }
        }
    }
}

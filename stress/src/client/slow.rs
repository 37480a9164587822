//! Runs clients that never finish their handshake, and clients that send much and read nothing.

use std::io;
use std::time::{Duration, Instant};

use super::{Clients, Event};
use crate::message;
use crate::stop::Stop;

/// How long the first answers may take.
const FIRST: Duration = Duration::from_secs(2);

/// Starts this many handshakes and stops each as soon as the server holds state for it: after the hello with the
/// cookie, after TLS's hello, or after TCP's handshake. They stay as long as the clients exist.
///
/// # Errors
///
/// Returns an error if no descriptors or ports are left.
pub fn stall(clients: &mut Clients, count: usize, stop: &Stop) -> io::Result<()> {
    let Some(share) = clients.shares.first_mut() else { return Ok(()) };
    share.driver.stall();
    for _ in 0..count {
        share.driver.begin(None)?;
    }
    let (mut stalled, end) = (0, Instant::now() + FIRST);
    while stalled < count && Instant::now() < end && !stop.wanted() {
        share.driver.wait(None, &mut |_, event| {
            // A refused client counts as stalled too.
            stalled += usize::from(matches!(event, Event::Stalled | Event::Ended(..)));
        })?;
    }
    Ok(())
}

/// Sends this many messages from each client, and reads no answers.
pub fn send_without_reading(clients: &mut Clients, messages: u64, payload: usize) {
    let mut message = vec![0; payload.max(message::SHORTEST)];
    for share in &mut clients.shares {
        for (number, &client) in share.connected.iter().enumerate() {
            for sequence in 0..messages {
                message::fill(&mut message, number as u64, sequence);
                if share.driver.send(client, &message).is_err() || share.driver.is_full(client) {
                    break;
                }
            }
        }
        share.driver.flush();
    }
}

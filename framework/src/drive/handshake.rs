//! Runs the opening of an association: on the thread of its peer, or one round at a time.

use std::time::Instant;

use super::opening::Opening;
use super::session::Session;
use crate::error::EndReason;
use crate::net::attention::{Attention, signal};
use crate::net::{Arrival, Transport};
use crate::sys::message::DATAGRAM_MAX;
use crate::tls::{Failure, HandshakeSummary};

/// The most messages that one turn takes.
const MAX_ARRIVALS: usize = 8;

/// Runs a handshake to its end, and blocks until then.
///
/// # Errors
///
/// Fails if the handshake fails; the peer has then been informed.
pub(crate) fn run(
    mut opening: Opening,
    transport: &mut Transport,
    attention: &Attention,
) -> Result<(Session, HandshakeSummary), Failure> {
    let mut input = Vec::new();
    let mut advanced = opening.start(Instant::now());
    // A handshake that is complete or has failed is not affected by later signals.
    while let Ok(false) = advanced {
        let rounds = round(&mut opening, transport, attention, &mut input, true);
        advanced = rounds.map(|round| matches!(round, Round::Open));
    }
    match advanced {
        Ok(_) => {
            transport.await_room(opening.awaits_room());
            if opening.awaits_room() {
                attention.note(signal::FLUSH);
            }
            opening.finish()
        }
        Err(failure) => {
            if let Some(mut session) = opening.give_up(&failure, Instant::now()) {
                session.await_end();
                transport.discard();
            }
            Err(failure)
        }
    }
}

/// Continues a handshake with the data that has arrived. Does not wait. [`Round::Advanced`] means that there may be
/// more.
///
/// # Errors
///
/// Fails if the handshake fails. The caller must inform the peer ([`Opening::give_up`]).
pub(crate) fn turn(
    opening: &mut Opening,
    transport: &mut Transport,
    attention: &Attention,
    input: &mut Vec<u8>,
) -> Result<Round, Failure> {
    for _ in 0..MAX_ARRIVALS {
        match round(opening, transport, attention, input, false)? {
            Round::Advanced => {}
            done => return Ok(done),
        }
    }
    Ok(Round::Advanced)
}

/// The result of a round.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    /// The session is open.
    Open,
    /// Data arrived.
    Advanced,
    /// No data arrived.
    Quiet,
}

/// Takes one message that has arrived, and waits for one if it may.
fn round(
    opening: &mut Opening,
    transport: &mut Transport,
    attention: &Attention,
    input: &mut Vec<u8>,
    may_wait: bool,
) -> Result<Round, Failure> {
    let now = Instant::now();
    let interrupted = interrupted(attention);
    let until = match &interrupted {
        None if may_wait => opening.next_timeout(),
        None => Some(now),
        // A connection that is evicted is still served if its whole header has already arrived.
        Some(EndReason::Evicted) if opening.awaits_header() => Some(now),
        Some(reason) => return Err(Failure::Ended(reason.clone())),
    };
    transport.await_room(opening.awaits_room());
    input.clear();
    // On shared sockets, a loop provides each datagram with its own memory.
    if !matches!(transport, Transport::Shared(_)) {
        input.reserve(DATAGRAM_MAX);
    }
    let mut arrival = transport.recv(opening.room(), input, now, until);
    // A peer's address may change only after its session is open, so a datagram from another address is ignored.
    if transport.source().is_some() && matches!(arrival, Arrival::Message(_)) {
        arrival = Arrival::Woken;
    }
    if let (Some(reason), Arrival::TimedOut) = (interrupted, &arrival) {
        return Err(Failure::Ended(reason));
    }
    let info = transport.message_info().unwrap_or_default();
    let is_quiet = matches!(arrival, Arrival::TimedOut);
    Ok(match opening.handle_arrival(arrival, input, info, Instant::now())? {
        true => Round::Open,
        false if is_quiet => Round::Quiet,
        false => Round::Advanced,
    })
}

/// Returns the reason if another thread has signalled that the handshake must end. A drain alone does not end it.
pub(crate) fn interrupted(attention: &Attention) -> Option<EndReason> {
    let signals = attention.signals();
    if signals & (signal::CLOSE | signal::STOP | signal::BREAK_OFF) != 0 {
        return Some(EndReason::Shutdown);
    }
    (signals & signal::EVICT != 0).then_some(EndReason::Evicted)
}

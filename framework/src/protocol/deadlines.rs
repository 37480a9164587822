//! The deadlines of an association: its lifetime, and the time within which its peer has to send messages. Pure.

use std::time::{Duration, Instant};

use crate::config::Timeouts;
use crate::error::EndReason;

/// The deadlines of an open association.
#[derive(Debug)]
pub(crate) struct Deadlines {
    /// When the association ends regardless of its use.
    lifetime: Option<Instant>,
    idle: Option<Duration>,
    /// The number of received messages at the last call of [`count`](Self::count).
    received: u64,
    /// When that number last changed.
    last_received: Instant,
    /// Present if messages can be incomplete.
    frames: Option<Box<Frames>>,
}

/// The deadlines of the first message, and of the rest of a message that has begun.
#[derive(Debug)]
struct Frames {
    first: Option<Duration>,
    rest: Option<Duration>,
    /// Since when each is awaited.
    first_awaited: Option<Instant>,
    rest_awaited: Option<Instant>,
}

impl Deadlines {
    /// Returns the deadlines of an association that opened at `opened`. `framed` means that its messages can be
    /// incomplete.
    pub(crate) fn new(timeouts: &Timeouts, framed: bool, opened: Instant, now: Instant) -> Self {
        let frames = Frames {
            first: timeouts.first_message,
            rest: timeouts.frame,
            first_awaited: None,
            rest_awaited: None,
        };
        Self {
            lifetime: timeouts.lifetime.and_then(|most| opened.checked_add(most)),
            idle: timeouts.idle,
            received: 0,
            last_received: now,
            frames: framed.then(|| Box::new(frames)),
        }
    }

    /// Continues from another process that received the last of `received` messages at `last_received`.
    pub(crate) fn resume(&mut self, received: u64, last_received: Instant) {
        (self.received, self.last_received) = (received, last_received);
    }

    /// Turns all deadlines off.
    pub(crate) fn disarm(&mut self) {
        (self.lifetime, self.idle, self.frames) = (None, None, None);
    }

    /// Notes that `received` messages have arrived in total.
    pub(crate) fn count(&mut self, received: u64, now: Instant) {
        if self.received != received {
            (self.received, self.last_received) = (received, now);
        }
    }

    /// Notes that a message is complete or lost; the next one has its own deadline.
    pub(crate) fn complete(&mut self) {
        if let Some(frames) = &mut self.frames {
            frames.rest_awaited = None;
        }
    }

    /// Notes that no complete message is left and that the peer is awaited. `begun`: part of a message has arrived.
    pub(crate) fn await_message(&mut self, begun: bool, now: Instant) {
        let Some(frames) = &mut self.frames else { return };
        if self.received == 0 {
            frames.first_awaited.get_or_insert(now);
        }
        if begun {
            frames.rest_awaited.get_or_insert(now);
        }
    }

    /// Returns when the last message arrived.
    pub(crate) fn last_received(&self) -> Instant {
        self.last_received
    }

    /// Returns whether the association has a maximum lifetime.
    pub(crate) fn limits_lifetime(&self) -> bool {
        self.lifetime.is_some()
    }

    /// Returns whether the association has reached its maximum lifetime.
    pub(crate) fn is_past_lifetime(&self, now: Instant) -> bool {
        self.lifetime.is_some_and(|end| now >= end)
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) next returns a reason.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let ends = [self.lifetime, self.first_due(), self.rest_due(), self.idle_due()];
        ends.into_iter().flatten().min()
    }

    /// Returns why the association ends, if a deadline has passed while the peer was awaited.
    pub(crate) fn handle_timeout(&self, now: Instant) -> Option<EndReason> {
        let is_over = |due: Option<Instant>| due.is_some_and(|due| now >= due);
        [
            (self.lifetime, EndReason::Lifetime),
            (self.first_due(), EndReason::NoFirstMessage),
            (self.rest_due(), EndReason::FrameTimedOut),
            (self.idle_due(), EndReason::Idle),
        ]
        .into_iter()
        .find_map(|(due, reason)| is_over(due).then_some(reason))
    }

    /// Returns whether no complete message has arrived within the idle timeout.
    pub(crate) fn is_idle(&self, now: Instant) -> bool {
        self.idle_due().is_some_and(|due| now >= due)
    }

    fn idle_due(&self) -> Option<Instant> {
        self.last_received.checked_add(self.idle?)
    }

    fn first_due(&self) -> Option<Instant> {
        let frames = self.frames.as_ref().filter(|_| self.received == 0)?;
        frames.first_awaited?.checked_add(frames.first?)
    }

    fn rest_due(&self) -> Option<Instant> {
        let frames = self.frames.as_ref()?;
        frames.rest_awaited?.checked_add(frames.rest?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn deadlines(framed: bool) -> (Deadlines, Instant) {
        let timeouts = Timeouts {
            idle: Some(20 * SECOND),
            first_message: Some(3 * SECOND),
            frame: Some(5 * SECOND),
            lifetime: Some(60 * SECOND),
            ..Timeouts::default()
        };
        let start = Instant::now();
        (Deadlines::new(&timeouts, framed, start, start), start)
    }

    /// Checks that the association ends for this reason at this second, and not before.
    fn ends(deadlines: &Deadlines, start: Instant, second: u32, reason: &EndReason) {
        let at = start + second * SECOND;
        assert_eq!(deadlines.next_timeout(), Some(at), "{reason}");
        assert_eq!(deadlines.handle_timeout(at - SECOND / 1000), None, "{reason}");
        assert_eq!(deadlines.handle_timeout(at).as_ref(), Some(reason));
    }

    #[test]
    fn the_first_message_has_its_own_time_and_every_one_the_time_for_its_rest() {
        let (mut deadlines, start) = deadlines(true);
        let at = |second: u32| start + second * SECOND;
        // Time that the handler takes is not the peer's.
        assert_eq!(deadlines.next_timeout(), Some(at(20)));
        deadlines.await_message(false, at(2));
        deadlines.await_message(false, at(4));
        ends(&deadlines, start, 5, &EndReason::NoFirstMessage);
        deadlines.count(1, at(5));
        deadlines.complete();
        deadlines.await_message(true, at(6));
        deadlines.await_message(true, at(9));
        ends(&deadlines, start, 11, &EndReason::FrameTimedOut);
        deadlines.complete();
        deadlines.count(2, at(10));
        deadlines.await_message(false, at(10));
        ends(&deadlines, start, 30, &EndReason::Idle);
        assert!(!deadlines.is_idle(at(29)) && deadlines.is_idle(at(30)));
    }

    #[test]
    fn a_peer_whose_messages_are_complete_has_no_message_deadline() {
        let (mut deadlines, start) = deadlines(false);
        deadlines.await_message(false, start);
        ends(&deadlines, start, 20, &EndReason::Idle);
    }

    #[test]
    fn the_lifetime_ends_a_peer_that_talks() {
        let (mut deadlines, start) = deadlines(true);
        for second in 1..60 {
            deadlines.count(u64::from(second), start + second * SECOND);
        }
        ends(&deadlines, start, 60, &EndReason::Lifetime);
        assert!(deadlines.is_past_lifetime(start + 60 * SECOND));
        deadlines.disarm();
        assert_eq!(deadlines.next_timeout(), None);
    }
}

//! The life of an SCTP association, from its handshake to its end: messages, acknowledgements and the time go in,
//! actions come out.
//!
//! 1. The driver carries out each [`next_action`](Session::next_action) and reports the result with
//!    [`action_done`](Session::action_done). Records have a fixed order once they are made, so nothing follows a record
//!    that found no room.
//! 2. If there is no action, [`awaits`](Session::awaits) tells what has to happen on the socket first.
//! 3. At [`next_timeout`](Session::next_timeout) the driver calls [`handle_timeout`](Session::handle_timeout).
//! 4. After [`end`](Session::end) the driver continues like this until [`is_over`](Session::is_over).

use std::time::{Duration, Instant};

use super::secure_sctp::{Action, Refused, SecureSctp};
use crate::error::EndReason;
use crate::protocol::{Read, Sent};
use crate::sctp::{MessageInfo, SendInfo};
use crate::tls::{Failure, HandshakeSummary};

/// How long a close may wait for acknowledgements.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The security state, if there is one, and the state of the association. Used by one thread at a time.
pub(crate) struct Session {
    /// `None` without encryption.
    secure: Option<SecureSctp>,
    state: State,
    /// The action that is being carried out, or that found the send buffer full.
    current: Option<Action>,
    awaits: Option<Awaits>,
    /// Why nothing can be sent any more.
    trouble: Option<ActionResult>,
}

enum State {
    Handshaking {
        deadline: Instant,
    },
    Open,
    /// Pending messages are sent, at the latest until then; after that the association is shut down, or aborted at
    /// once.
    Closing {
        until: Instant,
        last: Action,
    },
    Over,
}

/// An event that has to happen before the next action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Awaits {
    /// The send buffer has room: call [`Session::handle_room`].
    Room,
    /// The peer has acknowledged everything (SCTP_SENDER_DRY_EVENT): call [`Session::handle_dry`].
    Dry,
}

/// Result of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ActionResult {
    Done,
    /// The send buffer is full; nothing was sent.
    Full,
    /// The association has ended.
    Gone,
    /// The kernel refused the action, and the association ends for this reason.
    Refused(EndReason),
}

impl Session {
    /// Makes an open association without encryption.
    pub(crate) fn plain() -> Self {
        Self { secure: None, state: State::Open, current: None, awaits: None, trouble: None }
    }

    /// Makes an association whose handshake begins, and fails at `deadline` if it is not complete.
    pub(crate) fn secure(secure: SecureSctp, deadline: Instant) -> Self {
        Self { secure: Some(secure), state: State::Handshaking { deadline }, ..Self::plain() }
    }

    /// Returns the security layer of the association.
    pub(crate) fn security(&self) -> Option<&SecureSctp> {
        self.secure.as_ref()
    }

    /// Handles a message of the peer, whose memory may be exchanged. Once the handshake is complete,
    /// [`read`](Self::read) reports errors.
    ///
    /// # Errors
    ///
    /// The handshake has failed.
    pub(crate) fn handle_message(&mut self, message: &mut Vec<u8>, info: MessageInfo) -> Result<(), Failure> {
        match &mut self.secure {
            Some(secure) => secure.receive(message, info).map(drop),
            None => Ok(()),
        }
    }

    /// Notes that the peer has acknowledged everything.
    pub(crate) fn handle_dry(&mut self) {
        if self.awaits == Some(Awaits::Dry) {
            self.awaits = None;
            if let Some(secure) = &mut self.secure {
                secure.dry();
            }
        }
    }

    /// Notes that the send buffer may have room.
    pub(crate) fn handle_room(&mut self) {
        self.awaits = self.awaits.filter(|awaits| *awaits != Awaits::Room);
    }

    /// Returns the event that has to happen before the next action.
    pub(crate) fn awaits(&self) -> Option<Awaits> {
        self.awaits
    }

    /// Returns when to call [`handle_timeout`](Self::handle_timeout).
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Handshaking { deadline: at } | State::Closing { until: at, .. } => Some(*at),
            State::Open | State::Over => None,
        }
    }

    /// Handles an expired timer: a handshake fails, and a close stops waiting.
    ///
    /// # Errors
    ///
    /// The handshake has failed.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Result<(), Failure> {
        match &self.state {
            State::Handshaking { deadline } if now >= *deadline => {
                return Err(Failure::Ended(EndReason::HandshakeTimedOut));
            }
            State::Closing { until, .. } if now >= *until => self.stop_waiting(),
            _ => {}
        }
        Ok(())
    }

    /// Advances the handshake. Returns `true` when only output of it is pending.
    ///
    /// # Errors
    ///
    /// The handshake has failed.
    pub(crate) fn advance(&mut self) -> Result<bool, Failure> {
        if let Some(ActionResult::Refused(reason)) = &self.trouble {
            return Err(Failure::of(reason.to_string()));
        }
        self.secure.as_mut().map_or(Ok(true), SecureSctp::open_all)
    }

    /// Returns the results of the handshake once it is complete and all of it has been sent; the association is then
    /// open.
    ///
    /// # Errors
    ///
    /// As [`advance`](Self::advance).
    pub(crate) fn opened(&mut self) -> Result<Option<HandshakeSummary>, Failure> {
        let is_handshaking = matches!(self.state, State::Handshaking { .. });
        if !is_handshaking || !self.advance()? || self.has_unsent() || self.trouble.is_some() {
            return Ok(None);
        }
        self.state = State::Open;
        Ok(Some(self.secure.as_ref().map(SecureSctp::summary).unwrap_or_default()))
    }

    /// Encrypts a message, to be sent by the next action. Returns `None` if the driver has to carry that out;
    /// [`sent`](Self::sent) then returns the result.
    pub(crate) fn write(&mut self, message: &[u8], how: SendInfo) -> Option<Sent> {
        // The order of records is fixed when they are made, so earlier ones are sent first.
        if let unsent @ (Sent::Gone | Sent::Broken(_)) = self.sent() {
            return Some(unsent);
        }
        if self.has_unsent() {
            return Some(Sent::Full);
        }
        let refused = self.secure.as_mut()?.write(message, how).err()?;
        Some(match refused {
            Refused::Closed => Sent::Gone,
            Refused::Empty | Refused::TooLong { .. } => Sent::TooLarge,
            Refused::Broken(why) => Sent::Broken(EndReason::Protocol(why)),
            Refused::NotOpen | Refused::NoSuchStream { .. } | Refused::Unordered | Refused::Unreliable => {
                Sent::NoSuchStream
            }
        })
    }

    /// Returns the result of the last written message.
    pub(crate) fn sent(&self) -> Sent {
        match &self.trouble {
            Some(ActionResult::Refused(reason)) => Sent::Broken(reason.clone()),
            Some(_) => Sent::Gone,
            None if self.has_unsent() => Sent::Parked,
            None => Sent::Done,
        }
    }

    /// Returns whether output waits for room, or for the acknowledgement of everything before it.
    pub(crate) fn has_unsent(&self) -> bool {
        self.current.is_some() || self.awaits.is_some()
    }

    /// Reads the next message of the received data.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> (Read, MessageInfo) {
        match &mut self.secure {
            Some(secure) => secure.read(buffer),
            None => (Read::Nothing, MessageInfo::default()),
        }
    }

    /// Ends the association for this reason as gracefully as the reason allows. Pending messages are sent and
    /// acknowledged, which may take `patience`, at most two seconds. Returns `false` if the association has ended
    /// already or is aborted.
    pub(crate) fn end(&mut self, reason: &EndReason, patience: Duration, now: Instant) -> bool {
        let last = match reason {
            // The association has ended.
            EndReason::Aborted(_) | EndReason::Io(_) => {
                self.state = State::Over;
                return false;
            }
            EndReason::Unreachable
            | EndReason::Protocol(_)
            | EndReason::HandlerFailed
            | EndReason::HandlerPanicked
            | EndReason::HandshakeTimedOut
            | EndReason::Evicted
            | EndReason::NoThread => Action::Abort(reason.kind().as_str().to_owned()),
            // The peer's user is informed that messages are lost (RFC 9260 §3.3.10.12).
            EndReason::TooSlow | EndReason::MessageRefused { .. } => Action::Abort(reason.to_string()),
            _ => Action::ShutDown,
        };
        let is_gentle = last == Action::ShutDown;
        let closes = is_gentle && !matches!(reason, EndReason::HandshakeFailed(_) | EndReason::ClosedByPeer);
        if let Some(secure) = &mut self.secure
            && closes
        {
            secure.close();
        }
        self.state = State::Closing { until: now + patience.min(CLOSE_TIMEOUT), last };
        if !is_gentle || self.trouble.is_some() {
            self.stop_waiting();
        }
        is_gentle
    }

    /// Returns the deadline of a close. `None`: none has begun, or it is complete.
    pub(crate) fn ends_by(&self) -> Option<Instant> {
        match &self.state {
            State::Closing { until, .. } => Some(*until),
            _ => None,
        }
    }

    /// Makes a close stop waiting for output and acknowledgements.
    pub(crate) fn stop_waiting(&mut self) {
        if let State::Closing { last, .. } = &self.state {
            self.current = Some(last.clone());
            self.awaits = None;
        }
    }

    /// Returns whether nothing is left to do.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Returns the next action. `None`: there is none, or none before the event of [`awaits`](Self::awaits).
    pub(crate) fn next_action(&mut self) -> Option<&Action> {
        if self.awaits.is_some() || self.is_over() || (self.trouble.is_some() && self.ends_by().is_none()) {
            return None;
        }
        if self.current.is_none() {
            self.current = self.secure.as_mut().and_then(SecureSctp::next_action);
        }
        if self.current == Some(Action::AwaitDry) {
            (self.current, self.awaits) = (None, Some(Awaits::Dry));
            return None;
        }
        if let (None, State::Closing { last, .. }) = (&self.current, &self.state) {
            self.current = Some(last.clone());
        }
        self.current.as_ref()
    }

    /// Reports the result of the action.
    pub(crate) fn action_done(&mut self, result: ActionResult) {
        if matches!(self.current, Some(Action::ShutDown | Action::Abort(_))) {
            self.current = None;
            self.state = State::Over;
            return;
        }
        match result {
            ActionResult::Done => self.current = None,
            ActionResult::Full => self.awaits = Some(Awaits::Room),
            result => {
                (self.current, self.trouble) = (None, Some(result));
                self.stop_waiting();
            }
        }
    }
}

#[cfg(test)]
mod tests;

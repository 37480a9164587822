//! Pending output: it waits for room in a socket's send buffer, or for a TLS handshake in the middle of a session.

use std::time::Instant;

use super::Peer;
use crate::drive::Session;
use crate::drive::stream::StreamSession;
use crate::error::{EndReason, Error};
use crate::net::{Arrival, Transport};

impl Peer {
    /// Sends pending output. If some of it is left, it is sent when the socket becomes writable; on SCTP a signal
    /// reports that.
    pub(super) fn flush(&mut self) {
        use crate::net::attention::signal::FLUSH;
        self.association.attention.lower(FLUSH);
        let left = crate::sender::flush(&self.association);
        if let Some(transport) = &mut self.transport {
            transport.await_room(left);
        }
        if left {
            self.note_unsent();
        }
    }

    /// Notes that output is pending. An SCTP socket has to be asked to report when there is room.
    pub(super) fn note_unsent(&self) {
        use crate::net::attention::signal::FLUSH;
        if matches!(self.transport, Some(Transport::Sctp(_))) {
            self.association.attention.raise(FLUSH);
        } else {
            self.association.attention.note(FLUSH);
        }
    }

    /// Returns whether messages wait for a handshake in the middle of the session.
    pub(super) fn awaits_handshake(&self) -> bool {
        self.with_stream(|stream| stream.awaits_handshake()).unwrap_or(false)
    }

    fn with_stream<T>(&self, call: impl FnOnce(&mut StreamSession) -> T) -> Option<T> {
        self.with_open(|open| match &mut open.session {
            Session::Stream(session) => Some(call(session)),
            _ => None,
        })?
    }

    /// Reads from the peer until that handshake is complete, so that messages can be sent again. Blocks until
    /// `deadline`.
    pub(super) fn receive_handshake(&mut self, deadline: Instant) -> Result<(), Error> {
        loop {
            if !self.awaits_handshake() {
                return Ok(());
            }
            let Some(advanced) = self.with_stream(StreamSession::advance) else { return Ok(()) };
            match advanced {
                Ok(true) if !self.awaits_handshake() => return Ok(()),
                // A peer that keeps sending must not defeat the deadline.
                Ok(true) if self.association.now() >= deadline => return Err(Error::SendBufferFull),
                Ok(true) => {}
                Ok(false) => return Err(Error::SendBufferFull),
                Err(why) => return Err(Error::Ended(self.finish_with(EndReason::Protocol(why), None))),
            }
            self.flush();
            match self.wait(&mut [], self.association.now(), Some(deadline)) {
                Arrival::Message(_) => {
                    let mut scratch = std::mem::take(&mut self.scratch);
                    self.with_stream(|session| session.feed(&mut scratch));
                    self.scratch = scratch;
                }
                Arrival::TimedOut => return Err(Error::SendBufferFull),
                Arrival::Over(reason) => {
                    let reason =
                        if reason == EndReason::ClosedByPeer { EndReason::Truncated } else { reason };
                    return Err(Error::Ended(self.finish_with(reason, None)));
                }
                _ => {}
            }
        }
    }
}

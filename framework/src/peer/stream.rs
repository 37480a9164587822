//! How the messages of a stream come out of what was read: through TLS where there is one, and through the framing.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::receive::Next;
use super::{Layers, Peer};
use crate::association::Link;
use crate::drive::Session;
use crate::error::{EndReason, Error};
use crate::net::Arrival;
use crate::protocol::stream::frames::Frame;
use crate::tls::Read;

/// What is read of TLS at once where a framing takes it: a record.
const PIECE: usize = 16 << 10;

impl Peer {
    /// When the first message, or one that has begun, must be whole, and why the association is over if it is not. To be
    /// asked before a wait, with nothing whole left to give out.
    pub(super) fn message_due(&mut self, now: Instant) -> Option<(Instant, EndReason)> {
        let frames = self.frames.as_ref()?;
        let due = |since: &mut Option<Instant>, most: Option<Duration>, reason: EndReason| {
            let since = *since.get_or_insert(now);
            most.and_then(|most| since.checked_add(most)).map(|due| (due, reason))
        };
        let is_silent = self.association.received.load(Ordering::Relaxed) == 0;
        let first = is_silent
            .then(|| due(&mut self.owed.first, self.timeouts.first_message, EndReason::NoFirstMessage))
            .flatten();
        let rest = frames
            .is_begun()
            .then(|| due(&mut self.owed.rest, self.timeouts.frame, EndReason::FrameTimedOut))
            .flatten();
        [first, rest].into_iter().flatten().min_by_key(|(due, _)| *due)
    }

    /// Bytes of the stream are in the scratch.
    pub(super) fn take_bytes(&mut self, buffer: &mut [u8]) -> Result<Option<Next>, Error> {
        let mut scratch = std::mem::take(&mut self.scratch);
        match (&mut self.frames, self.layers) {
            (Some(frames), Layers::Frames) => frames.push(&scratch),
            _ => {
                if let Link::Open(Session::Stream(session)) = &mut *self.association.link.lock() {
                    session.feed(&mut scratch);
                }
            }
        }
        scratch.clear();
        self.scratch = scratch;
        self.read_stream(buffer)
    }

    /// The next message of what was read, if it is all there.
    pub(super) fn read_stream(&mut self, buffer: &mut [u8]) -> Result<Option<Next>, Error> {
        loop {
            if let Some(next) = self.next_frame(buffer)? {
                return Ok(Some(next));
            }
            if self.layers == Layers::Frames {
                self.more = false;
                return Ok(None);
            }
            let direct = self.frames.is_none() && !buffer.is_empty();
            let mut piece = std::mem::take(&mut self.scratch);
            if !direct {
                piece.resize(PIECE, 0);
            }
            let mut unsent = false;
            let (read, more) = match &mut *self.association.link.lock() {
                Link::Open(Session::Stream(session)) => {
                    let read = session.read(if direct { &mut *buffer } else { &mut piece });
                    session.give_back(&mut piece);
                    // An answer of OpenSSL's may have found no room.
                    unsent = session.has_unsent();
                    (read, session.core().has_more())
                }
                _ => (Read::Nothing, false),
            };
            if unsent {
                self.note_unsent();
            }
            let taken = match (read, &mut self.frames) {
                (Read::Message(len), Some(frames)) => {
                    frames.push(&piece[..len]);
                    None
                }
                (Read::Message(len), None) if !direct => Some(Read::Long(piece[..len].to_vec())),
                // The close_notify is found once more, behind the last line.
                (Read::Closed, Some(frames)) => (!frames.end()).then_some(Read::Closed),
                (read, _) => Some(read),
            };
            piece.clear();
            self.scratch = piece;
            if let Some(read) = taken {
                return self.take_outcome((read, more), buffer);
            }
        }
    }

    /// A message that is whole.
    fn next_frame(&mut self, buffer: &mut [u8]) -> Result<Option<Next>, Error> {
        let Some(frames) = &mut self.frames else { return Ok(None) };
        let limit = frames.limit();
        let found = match frames.next_frame() {
            None => return Ok(None),
            Some(Frame::TooLong) => None,
            Some(Frame::Message(message)) => match buffer.get_mut(..message.len()) {
                Some(room) => {
                    room.copy_from_slice(message);
                    Some(Ok(message.len()))
                }
                None => Some(Err(message.to_vec())),
            },
        };
        self.more = true;
        // What follows has its own time.
        self.owed.rest = None;
        match found {
            None => self.refuse_long(limit).map_or(Ok(None), Err),
            Some(Ok(len)) => {
                self.count_message(len);
                Ok(Some(Next::Message(len)))
            }
            Some(Err(message)) => {
                self.count_message(message.len());
                let needed = message.len();
                self.kept = Some(message);
                Err(Error::BufferTooSmall { needed })
            }
        }
    }

    /// The connection is at its end: why the association is over; `None` where a last line is still to be
    /// read.
    pub(super) fn stream_end(&mut self) -> Option<EndReason> {
        if let Link::Open(Session::Stream(session)) = &*self.association.link.lock()
            && session.was_reset()
        {
            return Some(crate::net::tcp::was_reset());
        }
        if self.layers == Layers::Tls {
            return Some(EndReason::Truncated);
        }
        if self.frames.as_mut().is_some_and(|frames| frames.end()) {
            self.more = true;
            return None;
        }
        Some(EndReason::ClosedByPeer)
    }

    /// Sends what found no room. What is left is sent when there is room; SCTP tells then by a signal.
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

    /// Remembers that something waits for room.
    pub(super) fn note_unsent(&self) {
        use crate::net::attention::signal::FLUSH;
        if self.association.scheme.is_sctp() {
            self.association.attention.raise(FLUSH);
        } else {
            self.association.attention.note(FLUSH);
        }
    }

    /// Whether messages wait for a handshake in the middle of the session.
    pub(super) fn awaits_handshake(&self) -> bool {
        match &*self.association.link.lock() {
            Link::Open(Session::Stream(session)) => session.awaits_handshake(),
            _ => false,
        }
    }

    /// Hears the peer until that handshake is over, so that there is room for messages again. Blocks until
    /// `deadline`.
    pub(super) fn hear_handshake(&mut self, deadline: Instant) -> Result<(), Error> {
        loop {
            let advanced = match &mut *self.association.link.lock() {
                Link::Open(Session::Stream(session)) if session.awaits_handshake() => session.advance(),
                _ => return Ok(()),
            };
            self.more = true;
            match advanced {
                Ok(true) if !self.awaits_handshake() => return Ok(()),
                // A peer that goes on sending must not stop the clock.
                Ok(true) if Instant::now() >= deadline => return Err(Error::SendBufferFull),
                Ok(true) => {}
                Ok(false) => return Err(Error::SendBufferFull),
                Err(why) => return Err(Error::Ended(self.finish_with(EndReason::Protocol(why), None))),
            }
            self.flush();
            match self.wait(&mut [], Instant::now(), Some(deadline)) {
                Arrival::Message(_) => {
                    let mut scratch = std::mem::take(&mut self.scratch);
                    if let Link::Open(Session::Stream(session)) = &mut *self.association.link.lock() {
                        session.feed(&mut scratch);
                    }
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

    /// Whether the handler gets a stream of bytes as it is.
    pub(super) fn is_raw_stream(&self) -> bool {
        self.association.scheme.is_stream() && self.frames.is_none()
    }
}

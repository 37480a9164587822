//! An open association: takes data from its peer, returns messages, and keeps deadlines. Nothing here blocks.

use std::net::SocketAddr;
use std::time::Instant;

use super::session::{Session, transmit};
use crate::config::Timeouts;
use crate::error::EndReason;
use crate::protocol::Read;
use crate::protocol::deadlines::Deadlines;
use crate::sctp::MessageInfo;

/// The session of an open association, and its deadlines.
pub(crate) struct Open {
    pub(crate) session: Session,
    pub(crate) deadlines: Deadlines,
    /// Whether messages may leave.
    pub(crate) hold: Hold,
}

/// Whether messages to a peer may leave. During a hand-over only one of the two processes may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Messages are sent.
    Free,
    /// Messages wait in the outbox, for this process or for the other.
    Queue,
    /// Messages are refused, because the other process has the peer and the outbox.
    Refuse,
}

/// The next event of an open association.
pub(crate) enum Polled {
    /// Data was read.
    Read(Read),
    /// Nothing is left to read; wait for the peer, until this time at most.
    Wait(Option<Instant>),
    /// The association has ended, even if its peer has sent more.
    Over(EndReason),
}

impl Open {
    /// Makes the state of an association that opened at `opened`.
    pub(crate) fn new(session: Session, timeouts: &Timeouts, opened: Instant, now: Instant) -> Self {
        let deadlines = Deadlines::new(timeouts, session.is_framed(), opened, now);
        Self { session, deadlines, hold: Hold::Free }
    }

    /// Takes the data that was read from the socket, and reads the first message in it. The memory of `input` is empty
    /// afterwards. `from` is the source address of a datagram, unless it is the peer's current address.
    pub(crate) fn handle_input(
        &mut self,
        input: &mut Vec<u8>,
        from: Option<SocketAddr>,
        info: &mut MessageInfo,
        buffer: &mut [u8],
        now: Instant,
    ) -> Read {
        match &mut self.session {
            Session::Plain(_) | Session::Memory(_) => {}
            Session::Dtls(session, egress) => {
                let read = session.handle_datagram(input, from, buffer, now);
                transmit(session, egress);
                return self.note(read);
            }
            Session::Sctp(session) => {
                session.feed(input, *info);
                input.clear();
            }
            Session::Stream(session) => session.feed(input),
        }
        self.read(buffer, input, info, now)
    }

    /// Reads the next message of the data that has arrived, or returns how long to wait. `received` is the number of
    /// messages that the peer has sent so far. `piece` is working memory.
    pub(crate) fn poll(
        &mut self,
        received: u64,
        buffer: &mut [u8],
        piece: &mut Vec<u8>,
        info: &mut MessageInfo,
        now: Instant,
    ) -> Polled {
        self.deadlines.count(received, now);
        // The lifetime is checked before the peer's data, because it applies whatever the peer sends.
        if self.deadlines.is_past_lifetime(now) {
            return Polled::Over(EndReason::Lifetime);
        }
        if self.session.has_more() {
            match self.read(buffer, piece, info, now) {
                Read::Nothing => {}
                read => return Polled::Read(read),
            }
        }
        let mut due = None;
        if let Session::Dtls(session, egress) = &mut self.session {
            session.handle_timeout(now);
            transmit(session, egress);
            due = session.next_timeout();
        }
        self.deadlines.await_message(self.session.is_begun(), now);
        Polled::Wait(self.deadlines.next_timeout().into_iter().chain(due).min())
    }

    fn read(&mut self, buffer: &mut [u8], piece: &mut Vec<u8>, info: &mut MessageInfo, now: Instant) -> Read {
        let read = match &mut self.session {
            Session::Plain(_) | Session::Memory(_) => Read::Nothing,
            Session::Dtls(session, egress) => {
                let read = session.read(buffer, now);
                transmit(session, egress);
                read
            }
            Session::Sctp(session) => {
                let (read, with) = session.read(buffer);
                if matches!(read, Read::Message(_) | Read::Long(_)) {
                    *info = with;
                }
                read
            }
            Session::Stream(session) => session.read(buffer, piece),
        };
        self.note(read)
    }

    fn note(&mut self, read: Read) -> Read {
        if matches!(read, Read::Message(_) | Read::Long(_) | Read::TooLong) {
            self.deadlines.complete();
        }
        read
    }

    /// Takes the end of the peer's data. Returns the reason for the end of the association, or `None` if something is
    /// still to be read.
    pub(crate) fn handle_end_of_stream(&mut self) -> Option<EndReason> {
        match &mut self.session {
            Session::Stream(session) => session.handle_end_of_stream(),
            Session::Sctp(session) if session.is_secure() && !session.is_closed_by_peer() => {
                Some(EndReason::Truncated)
            }
            _ => Some(EndReason::ClosedByPeer),
        }
    }
}

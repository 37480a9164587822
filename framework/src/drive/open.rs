//! An open association: what its peer sends goes in, messages come out, and deadlines are kept. Nothing here blocks.

use std::net::SocketAddr;
use std::time::Instant;

use super::session::{Session, transmit};
use crate::config::Timeouts;
use crate::error::EndReason;
use crate::protocol::Read;
use crate::protocol::deadlines::Deadlines;
use crate::sctp::MessageInfo;

/// The session of an open association, and how long it lasts.
pub(crate) struct Open {
    pub(crate) session: Session,
    pub(crate) deadlines: Deadlines,
    /// Whether messages may leave.
    pub(crate) hold: Hold,
}

/// Whether messages to a peer may leave: while it is handed over, only one of two processes may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// They leave.
    Free,
    /// They wait in the outbox, for this process or for the other.
    Queue,
    /// They are not taken: the other process has what waited.
    Refuse,
}

/// What comes next in an open association.
pub(crate) enum Polled {
    /// Something was read.
    Read(Read),
    /// Nothing is left to read. The peer is waited for, until then at most.
    Wait(Option<Instant>),
    /// The association is over, whatever else its peer has sent.
    Over(EndReason),
}

impl Open {
    /// Of an association that opened then.
    pub(crate) fn new(session: Session, timeouts: &Timeouts, opened: Instant, now: Instant) -> Self {
        let deadlines = Deadlines::new(timeouts, session.is_framed(), opened, now);
        Self { session, deadlines, hold: Hold::Free }
    }

    /// Takes what was read from the socket, whose memory comes back empty, and reads the first message in it. `from`: where
    /// a datagram came from, unless that is the current address of the peer.
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

    /// Reads the next message of what has come, or says how long to wait. `received`: messages that the peer has sent so far.
    /// `piece` is memory to work with.
    pub(crate) fn poll(
        &mut self,
        received: u64,
        buffer: &mut [u8],
        piece: &mut Vec<u8>,
        info: &mut MessageInfo,
        now: Instant,
    ) -> Polled {
        self.deadlines.count(received, now);
        // This one holds whatever the peer sends, so it comes before what it has sent.
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

    /// The peer sends no more: why the association is over, or `None` where there is still something to read.
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

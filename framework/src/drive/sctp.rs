//! Carries out the actions of an SCTP association's state on its socket. Only the wait for the end of one blocks.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::error::EndReason;
use crate::net::sctp::{abort, send};
use crate::protocol::sctp::secure_sctp::{Action, SecureSctp};
use crate::protocol::sctp::session::{ActionResult, Awaits, Session};
use crate::protocol::{RECORD_MAX, Read, Sent};
use crate::sctp::{MessageInfo, NotificationKind, Options, SendInfo, Settings};
use crate::sys::epoll::{Epoll, READABLE_EDGE, wait_writable};
use crate::sys::sctp::abi::SCTP_EOF;
use crate::tls::Failure;

/// The sending side of an association. One thread uses it at a time.
pub(crate) struct SctpSession {
    socket: Arc<Socket>,
    pub(super) state: Session,
    max_message: usize,
    /// The number of streams to the peer.
    streams: u16,
}

impl SctpSession {
    /// Makes the session of an association in clear.
    pub(crate) fn plain(socket: Arc<Socket>, settings: &Settings) -> Self {
        // A message must fit into the send buffer, which may be smaller than the program requested.
        let buffer = socket.send_buffer_size().unwrap_or(settings.max_message);
        let max_message = settings.max_message.min(buffer);
        Self { socket, state: Session::plain(), max_message, streams: u16::MAX }
    }

    /// Makes the session of a secured association, before its handshake, which fails if it is not complete at
    /// `deadline`.
    pub(crate) fn secure(socket: Arc<Socket>, secure: SecureSctp, deadline: Instant) -> Self {
        let streams = Options::of(&*socket).status().map_or(1, |status| status.outbound_streams);
        Self { socket, state: Session::secure(secure, deadline), max_message: RECORD_MAX, streams }
    }

    /// Continues the handshake with the data that has arrived, as far as there is room. Returns `true` when it is
    /// complete. The transport is informed when there may be more to do.
    pub(crate) fn step(&mut self) -> Result<bool, Failure> {
        self.look_for_room();
        self.state.advance()?;
        self.carry_out();
        if self.state.opened()?.is_some() {
            return Ok(true);
        }
        if self.state.awaits().is_some() {
            // When the peer has acknowledged everything, there is room as well.
            let asked = Options::of(&*self.socket).subscribe(NotificationKind::SenderDry, true);
            asked.map_err(|error| Failure::of(error.to_string()))?;
        }
        Ok(false)
    }

    /// Carries out the pending actions, as far as there is room; never blocks.
    fn carry_out(&mut self) {
        let options = Options::of(&*self.socket);
        while let Some(action) = self.state.next_action() {
            let done = match action {
                Action::Send { payload, info } => Ok(send(&self.socket, payload, info, 0)),
                // The state waits for this by itself.
                Action::AwaitDry => Ok(Sent::Done),
                Action::AddKey { number, key } => {
                    options.set_auth_key(*number, &key[..]).map(|()| Sent::Done)
                }
                Action::ActivateKey(number) => options.activate_auth_key(*number).map(|()| Sent::Done),
                Action::DeleteKey(number) => options.delete_auth_key(*number).map(|()| Sent::Done),
                Action::ShutDown => Ok(send(&self.socket, &[], &SendInfo::default(), SCTP_EOF)),
                Action::Abort(reason) => {
                    abort(&self.socket, reason.as_bytes());
                    Ok(Sent::Done)
                }
            };
            self.state.action_done(match done {
                Ok(Sent::Done) => ActionResult::Done,
                Ok(Sent::Full) => ActionResult::Full,
                Ok(Sent::Gone) => ActionResult::Gone,
                Ok(Sent::Broken(reason)) => ActionResult::Refused(reason),
                Ok(other) => ActionResult::Refused(EndReason::Protocol(format!("{other:?}"))),
                Err(error) => {
                    ActionResult::Refused(EndReason::Protocol(format!("the keys of SCTP-AUTH: {error}")))
                }
            });
        }
    }

    /// Retries actions that may have become possible. Also asks whether everything is acknowledged, because the kernel
    /// may have reported that earlier, to another request.
    fn look_for_room(&mut self) {
        self.state.handle_room();
        if self.state.awaits() == Some(Awaits::Dry)
            && Options::of(&*self.socket).status().is_ok_and(|status| status.unacknowledged == 0)
        {
            self.state.handle_dry();
        }
    }

    /// Returns the state of TLS or DTLS, if the association has one.
    pub(crate) fn security(&self) -> Option<&SecureSctp> {
        self.state.security()
    }

    /// Returns whether messages are records of TLS or DTLS.
    pub(crate) fn is_secure(&self) -> bool {
        self.state.security().is_some()
    }

    /// Returns the size of the longest message, in bytes.
    pub(crate) fn max_message(&self) -> usize {
        self.max_message
    }

    /// Sends one message; never blocks.
    pub(crate) fn write(&mut self, message: &[u8], how: &SendInfo) -> Sent {
        if !self.is_secure() {
            return send(&self.socket, message, how, 0);
        }
        self.flush();
        // The stream is checked before a record gets its number, because the peer would miss a number that is not sent.
        if how.stream >= self.streams {
            // Streams may have been added since (RFC 6525).
            self.streams = Options::of(&*self.socket).status().map_or(0, |status| status.outbound_streams);
            if how.stream >= self.streams {
                return Sent::NoSuchStream;
            }
        }
        if let Some(unsent) = self.state.write(message, *how) {
            return unsent;
        }
        self.carry_out();
        self.state.sent()
    }

    /// Takes a message with records in it, whose memory may be exchanged.
    pub(crate) fn feed(&mut self, records: &mut Vec<u8>, info: MessageInfo) {
        // The next read reports errors that occur after the handshake.
        let _ = self.state.handle_message(records, info);
    }

    /// Reads the next message of the data that was fed.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> (Read, MessageInfo) {
        let read = self.state.read(buffer);
        // The read may have produced an answer to a key update, a ticket, or an alert.
        self.carry_out();
        read
    }

    /// Returns whether [`read`](Self::read) may find something.
    pub(crate) fn has_more(&self) -> bool {
        self.state.security().is_some_and(SecureSctp::has_more)
    }

    /// Returns whether the peer has announced its end, although earlier messages may still be missing.
    pub(crate) fn is_closed_by_peer(&self) -> bool {
        self.state.security().is_some_and(SecureSctp::is_closed_by_peer)
    }

    /// Sends the waiting records, as far as that is possible now. Returns `false` if some are left.
    pub(crate) fn flush(&mut self) -> bool {
        self.look_for_room();
        self.carry_out();
        !self.has_unsent()
    }

    /// Returns whether a record waits for room, or for the acknowledgement of all records before it.
    pub(crate) fn has_unsent(&self) -> bool {
        self.state.has_unsent()
    }

    /// Begins the end of the association for this reason, as gently as the reason allows. Pending data may take
    /// `patience`, and two seconds at most.
    pub(crate) fn begin_end(&mut self, reason: &EndReason, patience: Duration, now: Instant) {
        self.state.end(reason, patience, now);
    }

    /// Sends what is left to send, as far as that is possible now. Returns `None` if the association has ended.
    /// Otherwise call this again at the returned time, or when [`await_progress`](Self::await_progress) would return.
    /// Reads nothing, because the socket may already be shut down for reading.
    pub(crate) fn continue_end(&mut self, now: Instant) -> Option<Instant> {
        self.state.handle_room();
        loop {
            self.carry_out();
            let until = self.state.ends_by()?;
            match self.state.awaits() {
                Some(Awaits::Dry) if now < until => match self.is_dry() {
                    Ok(true) => self.state.handle_dry(),
                    Ok(false) => return Some(until),
                    Err(_) => self.state.stop_waiting(),
                },
                Some(Awaits::Room) if now < until => return Some(until),
                _ => self.state.stop_waiting(),
            }
        }
    }

    /// Returns whether everything that was sent is acknowledged. If not, the kernel will report it
    /// (SCTP_SENDER_DRY_EVENT).
    fn is_dry(&self) -> io::Result<bool> {
        let options = Options::of(&*self.socket);
        options.subscribe(NotificationKind::SenderDry, true)?;
        Ok(options.status()?.unacknowledged == 0)
    }

    /// Waits until an end may continue. Returns `false` after a timeout. The caller keeps `watch` from one wait to the
    /// next.
    pub(crate) fn await_progress(&self, watch: &mut Option<Epoll>, left: Duration) -> bool {
        if self.state.awaits() != Some(Awaits::Dry) {
            return wait_writable(self.socket.as_fd(), Some(left)).unwrap_or(false);
        }
        // Edge-triggered, because a socket that is shut down for reading or has data to read is always readable.
        let add = || {
            let epoll = Epoll::new()?;
            epoll.add(self.socket.as_fd(), READABLE_EDGE, 0)?;
            io::Result::Ok(epoll)
        };
        let epoll = match watch.take().map_or_else(add, Ok) {
            Ok(epoll) => watch.insert(epoll),
            Err(_) => return false,
        };
        epoll.wait(&mut Vec::new(), Some(left)).is_ok()
    }
}

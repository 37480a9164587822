//! What is sent over an SCTP association, in clear or as records of TLS or DTLS.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openssl::ssl::SslRef;
use socket2::Socket;

use crate::drive::handshake::interrupted;
use crate::error::EndReason;
use crate::net::Arrival;
use crate::net::after;
use crate::net::attention::Attention;
use crate::net::sctp::{SctpTransport, abort, send};
use crate::protocol::RECORD_MAX;
use crate::protocol::Sent;
use crate::protocol::sctp::secure_sctp::{Action, Refused, SecureSctp};
use crate::sctp::{MessageInfo, NotificationKind, Options, SendInfo, Settings};
use crate::sys::epoll::{Epoll, READABLE_EDGE, wait_writable};
use crate::sys::message::DATAGRAM_MAX;
use crate::sys::sctp::abi::SCTP_EOF;
use crate::tls::{Facts, Failure, Read};

/// The association as everybody sends to it. One thread at a time.
pub(crate) struct SctpSession {
    socket: Arc<Socket>,
    max_message: usize,
    /// `None`: in clear.
    secure: Option<SecureSctp>,
    /// What was encrypted and found the send buffer full. Nothing is encrypted while there is any.
    parked: Option<Action>,
    /// Nothing is sent until the kernel says that everything is acknowledged.
    awaits_dry: bool,
    /// Streams to the peer.
    streams: u16,
}

/// How far [`SctpSession::run`] came.
#[derive(Debug, PartialEq, Eq)]
enum Ran {
    /// Everything is done.
    All,
    /// The send buffer is full.
    Full,
    /// Everything that was sent has to be acknowledged first.
    AwaitsDry,
    /// The association is over.
    Gone,
    /// The kernel refuses.
    Refused(String),
}

impl SctpSession {
    /// In clear.
    pub(crate) fn plain(socket: Arc<Socket>, settings: &Settings) -> Self {
        // A message has to fit the send buffer, which may be smaller than was asked for.
        let buffer = socket.send_buffer_size().unwrap_or(settings.max_message);
        Self {
            socket,
            max_message: settings.max_message.min(buffer),
            secure: None,
            parked: None,
            awaits_dry: false,
            streams: u16::MAX,
        }
    }

    /// Runs the handshake to its end; blocks until then, at most until `deadline`.
    pub(crate) fn secure(
        socket: Arc<Socket>,
        secure: SecureSctp,
        transport: &mut SctpTransport,
        attention: &Attention,
        deadline: Instant,
    ) -> Result<(Self, Facts), Failure> {
        let streams = Options::of(&*socket).status().map_or(1, |status| status.outbound_streams);
        let secure = Some(secure);
        let mut session =
            Self { socket, max_message: RECORD_MAX, secure, parked: None, awaits_dry: false, streams };
        match session.shake_hands(transport, attention, deadline) {
            Ok(facts) => Ok((session, facts)),
            Err(failure) => {
                // An alert may be among what is still to be said.
                let reason = match &failure {
                    Failure::Ended(reason) => reason.clone(),
                    Failure::Unverified(why) => EndReason::HandshakeFailed(why.clone()),
                    Failure::Restarted(_) | Failure::RestartedSctp => return Err(failure),
                };
                session.end(transport, &reason, FAREWELL);
                Err(failure)
            }
        }
    }

    fn shake_hands(
        &mut self,
        transport: &mut SctpTransport,
        attention: &Attention,
        deadline: Instant,
    ) -> Result<Facts, Failure> {
        let mut message = Vec::with_capacity(DATAGRAM_MAX);
        loop {
            let complete = self.secure.as_mut().map_or(Ok(true), SecureSctp::open_all)?;
            let ran = self.settle(transport, deadline)?;
            if complete && ran == Ran::All {
                return Ok(self.secure.as_ref().map(SecureSctp::facts).unwrap_or_default());
            }
            if let Some(reason) = interrupted(attention) {
                return Err(Failure::Ended(reason));
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(Failure::Ended(EndReason::HandshakeTimedOut));
            }
            match transport.recv(&mut [], &mut message, now, Some(deadline)) {
                Arrival::Message(_) => {
                    if let Some(secure) = &mut self.secure {
                        secure.receive(&message, transport.info, Instant::now())?;
                    }
                }
                Arrival::Dry => self.heard_dry(),
                Arrival::Notification(_) | Arrival::Woken | Arrival::TimedOut => {}
                Arrival::TooLong => return Err(failed("a message is too long for a handshake")),
                Arrival::Over(EndReason::Replaced) => {
                    return Err(Failure::RestartedSctp);
                }
                Arrival::Over(EndReason::ClosedByPeer) => {
                    return Err(failed("the peer closed during the handshake"));
                }
                Arrival::Over(reason) => return Err(Failure::Ended(reason)),
            }
        }
    }

    /// Does what is to be done, waiting for room where there is none, until all of it is done or
    /// everything has to be acknowledged first; then the kernel is asked to say when that is so.
    fn settle(&mut self, transport: &SctpTransport, deadline: Instant) -> Result<Ran, Failure> {
        loop {
            match self.run() {
                Ran::Full => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let room = !left.is_zero()
                        && wait_writable(self.socket.as_fd(), Some(left.min(ROOM))).unwrap_or(false);
                    if !room && Instant::now() >= deadline {
                        return Err(Failure::Ended(EndReason::HandshakeTimedOut));
                    }
                }
                Ran::AwaitsDry => {
                    let options = Options::of(&**transport.socket());
                    let asked = options.subscribe(NotificationKind::SenderDry, true);
                    asked.map_err(|error| failed(&error.to_string()))?;
                    return Ok(Ran::AwaitsDry);
                }
                Ran::Gone => return Ok(Ran::Gone),
                Ran::Refused(why) => return Err(failed(&why)),
                Ran::All => return Ok(Ran::All),
            }
        }
    }

    /// Does what is to be done, as far as there is room; never blocks.
    fn run(&mut self) -> Ran {
        let Some(secure) = &mut self.secure else { return Ran::All };
        if self.awaits_dry {
            return Ran::AwaitsDry;
        }
        while let Some(action) = self.parked.take().or_else(|| secure.next_action()) {
            let options = Options::of(&*self.socket);
            let done = match &action {
                Action::Send { payload, info } => match send(&self.socket, payload, info, 0) {
                    Sent::Done => Ok(()),
                    Sent::Full => {
                        self.parked = Some(action);
                        return Ran::Full;
                    }
                    Sent::Gone => return Ran::Gone,
                    other => return Ran::Refused(format!("{other:?}")),
                },
                Action::AwaitDry => {
                    self.awaits_dry = true;
                    return Ran::AwaitsDry;
                }
                Action::AddKey { number, key } => options.set_auth_key(*number, key),
                Action::ActivateKey(number) => options.activate_auth_key(*number),
                Action::DeleteKey(number) => options.delete_auth_key(*number),
            };
            if let Err(error) = done {
                return Ran::Refused(format!("the keys of SCTP-AUTH: {error}"));
            }
        }
        Ran::All
    }

    fn dry(&mut self) {
        self.awaits_dry = false;
        if let Some(secure) = &mut self.secure {
            secure.dry();
        }
    }

    /// The kernel said that everything is acknowledged; perhaps long ago, when somebody else had asked.
    fn heard_dry(&mut self) {
        if Options::of(&*self.socket).status().is_ok_and(|status| status.unacknowledged == 0) {
            self.dry();
        }
    }

    /// OpenSSL's own of stream 0, where messages are encrypted.
    pub(crate) fn ssl(&self) -> Option<&SslRef> {
        self.secure.as_ref()?.ssl()
    }

    /// Whether messages are records of TLS or DTLS.
    pub(crate) fn is_secure(&self) -> bool {
        self.secure.is_some()
    }

    /// The longest message, in bytes.
    pub(crate) fn max_message(&self) -> usize {
        self.max_message
    }

    /// Sends one message; never blocks.
    pub(crate) fn write(&mut self, message: &[u8], how: &SendInfo) -> Sent {
        if self.secure.is_none() {
            return send(&self.socket, message, how, 0);
        }
        // The order of records is fixed when they are made, so an earlier one goes first.
        match self.run() {
            Ran::All => {}
            Ran::Full | Ran::AwaitsDry => return Sent::Full,
            Ran::Gone => return Sent::Gone,
            Ran::Refused(why) => return Sent::Broken(why),
        }
        // Checked before a record has a number: one that is missing would be waited for.
        if how.stream >= self.streams {
            // There may be more of them since (RFC 6525).
            self.streams = Options::of(&*self.socket).status().map_or(0, |status| status.outbound_streams);
            if how.stream >= self.streams {
                return Sent::NoSuchStream;
            }
        }
        match self.secure.as_mut().map_or(Ok(()), |secure| secure.write(message, *how)) {
            Ok(()) => {}
            Err(Refused::Closed) => return Sent::Gone,
            Err(Refused::Empty | Refused::TooLong { .. }) => return Sent::TooLarge,
            Err(Refused::Broken(why)) => return Sent::Broken(why),
            Err(
                Refused::NotOpen | Refused::NoSuchStream { .. } | Refused::Unordered | Refused::Unreliable,
            ) => return Sent::NoSuchStream,
        }
        match self.run() {
            Ran::All => Sent::Done,
            Ran::Full | Ran::AwaitsDry => Sent::Parked,
            Ran::Gone => Sent::Gone,
            Ran::Refused(why) => Sent::Broken(why),
        }
    }

    /// Takes a message with records in it.
    pub(crate) fn feed(&mut self, records: &[u8], info: MessageInfo, now: Instant) {
        if let Some(secure) = &mut self.secure {
            // What is wrong after the handshake comes out of the next read.
            let _ = secure.receive(records, info, now);
        }
    }

    /// Reads the next message of what was fed.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> (Read, MessageInfo) {
        let Some(secure) = &mut self.secure else { return (Read::Nothing, MessageInfo::default()) };
        let read = secure.read(buffer);
        // A key update, a ticket, an alert; what finds no room goes with the next message.
        self.run();
        read
    }

    /// Whether [`read`](Self::read) has something to look at.
    pub(crate) fn has_more(&self) -> bool {
        self.secure.as_ref().is_some_and(SecureSctp::has_more)
    }

    /// When records that are held back are given up waiting for.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.secure.as_ref().and_then(SecureSctp::deadline)
    }

    /// Gives up waiting; returns how many records are missing.
    pub(crate) fn give_up_waiting(&mut self, now: Instant) -> u64 {
        let Some(secure) = &mut self.secure else { return 0 };
        let before = secure.given_up();
        secure.tick(now);
        secure.given_up() - before
    }

    /// Sends what was parked, as far as there is room; `false` if some of it is left.
    pub(crate) fn flush(&mut self) -> bool {
        self.run() != Ran::Full
    }

    /// Whether a record waits for room.
    pub(crate) fn has_unsent(&self) -> bool {
        self.parked.is_some()
    }

    /// Ends the association once everything that was sent is acknowledged. Blocks until `deadline` at most, and only where
    /// messages are encrypted.
    pub(crate) fn close(&mut self, deadline: Instant) {
        if let Some(secure) = &mut self.secure {
            secure.close();
        }
        self.take_leave(deadline);
        let _ = send(&self.socket, &[], &SendInfo::default(), SCTP_EOF);
    }

    /// Ends the association for this reason, as gently as it allows. Blocks for `patience` at most.
    pub(crate) fn end(&mut self, transport: &mut SctpTransport, reason: &EndReason, patience: Duration) {
        match reason {
            // It is over.
            EndReason::Aborted(_) | EndReason::Io(_) => return,
            EndReason::Unreachable
            | EndReason::Protocol(_)
            | EndReason::HandlerFailed
            | EndReason::HandlerPanicked
            | EndReason::HandshakeTimedOut
            | EndReason::Evicted
            | EndReason::NoThread => return abort(&self.socket, reason.label().as_bytes()),
            // The peer's user learns that messages are lost (RFC 9260 §3.3.10.12).
            EndReason::TooSlow | EndReason::MessageRefused { .. } => {
                return abort(&self.socket, reason.to_string().as_bytes());
            }
            _ => {}
        }
        let deadline = after(patience.min(FAREWELL));
        if !matches!(reason, EndReason::HandshakeFailed(_) | EndReason::ClosedByPeer)
            && let Some(secure) = &mut self.secure
        {
            secure.close();
        }
        self.take_leave(deadline);
        let _ = send(&self.socket, &[], &SendInfo::default(), SCTP_EOF);
        transport.discard();
    }

    /// Says what is still to be said, and waits for the acknowledgements that it takes.
    fn take_leave(&mut self, deadline: Instant) {
        loop {
            match self.run() {
                Ran::All | Ran::Gone | Ran::Refused(_) => return,
                Ran::Full => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() || !wait_writable(self.socket.as_fd(), Some(left)).unwrap_or(false) {
                        return;
                    }
                }
                Ran::AwaitsDry => {
                    if !self.is_dry_by(deadline) {
                        return;
                    }
                    self.dry();
                }
            }
        }
    }

    /// Waits until everything that was sent is acknowledged; `false` if it is not by `deadline`, or the association is
    /// over. Reads nothing: the socket may be shut down for reading by now.
    fn is_dry_by(&self, deadline: Instant) -> bool {
        let options = Options::of(&*self.socket);
        // An edge, since a socket that is shut down for reading or has something to read is always readable.
        let watch = Epoll::new().and_then(|epoll| {
            epoll.add(self.socket.as_fd(), READABLE_EDGE, 0)?;
            options.subscribe(NotificationKind::SenderDry, true)?;
            Ok(epoll)
        });
        let Ok(epoll) = watch else { return false };
        let mut ready = Vec::new();
        loop {
            match options.status() {
                Ok(status) if status.unacknowledged == 0 => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || epoll.wait(&mut ready, Some(left)).is_err() {
                return false;
            }
        }
    }
}

fn failed(why: &str) -> Failure {
    Failure::Ended(EndReason::HandshakeFailed(why.to_owned()))
}

/// How long a goodbye may take, and a look whether there is room.
const FAREWELL: Duration = Duration::from_secs(2);
const ROOM: Duration = Duration::from_millis(200);

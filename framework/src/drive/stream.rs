//! The sending side of a TCP connection: its state, and the bytes for which the kernel has no room, which are sent
//! before anything later. Only the wait for room blocks.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use openssl::ssl::SslContext;
use socket2::Socket;

use crate::error::EndReason;
use crate::net::backlog::{Backlog, Outlet, Written};
use crate::protocol::stream::frames::PREFIX;
use crate::protocol::stream::session::{Encoded, Stream};
use crate::protocol::{Read, Sent};
use crate::stream::TcpSettings;
use crate::tls::{Failure, Resume};

/// The bytes that OpenSSL may produce by itself (answers to key updates, alerts) and that may wait in addition to
/// messages. The connection to a peer that requests more and reads nothing is given up.
const SLACK: usize = 64 << 10;

/// The most bytes that TLS adds to a record (RFC 5246 §6.2.3, RFC 8446 §5.2).
const RECORD_OVERHEAD: usize = 320;

/// The time that the end of an association waits for the peer to take the sent data.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The session of a TCP connection. One thread uses it at a time.
pub(crate) struct StreamSession {
    pub(super) core: Stream,
    backlog: Backlog,
    max_pending: usize,
    /// The time at which an end that has begun is cut short.
    ends_by: Option<Instant>,
}

impl StreamSession {
    /// Makes the session of a connection in clear.
    pub(crate) fn plain(outlet: impl Into<Outlet>, settings: &TcpSettings) -> Self {
        Self::new(Stream::plain(settings), outlet.into(), settings)
    }

    /// Makes the server's side of TLS, before its handshake.
    pub(crate) fn accept(
        context: &SslContext,
        outlet: impl Into<Outlet>,
        settings: &TcpSettings,
    ) -> Result<Self, Failure> {
        Ok(Self::new(Stream::accept(context, settings)?, outlet.into(), settings))
    }

    /// Makes the client's side of TLS, before its handshake. `name` is the name that the server must prove.
    pub(crate) fn connect(
        context: &SslContext,
        socket: Arc<Socket>,
        name: Option<&str>,
        resume: Option<&Resume<'_>>,
        settings: &TcpSettings,
    ) -> Result<Self, Failure> {
        Ok(Self::new(Stream::connect(context, name, resume, settings)?, socket.into(), settings))
    }

    fn new(core: Stream, outlet: Outlet, settings: &TcpSettings) -> Self {
        let largest = settings.max_pending.max(settings.max_message + PREFIX) / 16 * 17 + RECORD_OVERHEAD;
        let limit = if core.is_secure() { largest + SLACK } else { usize::MAX };
        let backlog = Backlog::new(outlet, limit);
        Self { core, backlog, max_pending: settings.max_pending, ends_by: None }
    }

    /// Returns the state of the connection, for reading.
    pub(crate) fn core(&self) -> &Stream {
        &self.core
    }

    /// Continues the handshake with the data that was fed, and sends its messages as far as there is room. Returns
    /// `true` when it is complete.
    pub(crate) fn step(&mut self) -> Result<bool, Failure> {
        let stepped = self.state().step();
        let wrote = self.push();
        self.backlog.flush();
        match wrote {
            Written::Failed(reason) if stepped.is_ok() => Err(Failure::Ended(reason)),
            Written::Broken(why) if stepped.is_ok() => Err(Failure::of(why)),
            _ => stepped,
        }
    }

    /// Returns the state of the connection, for a call that may write.
    fn state(&mut self) -> &mut Stream {
        self.core.set_room(self.backlog.room());
        &mut self.core
    }

    /// Sends the output of a call. Data that the kernel does not take waits.
    fn push(&mut self) -> Written {
        let wrote = match self.core.outgoing() {
            [] if self.backlog.is_empty() => Written::All,
            [] => Written::Some,
            bytes => self.backlog.write(bytes),
        };
        self.core.sent();
        wrote
    }

    /// Sends one message; never blocks.
    pub(crate) fn write(&mut self, message: &[u8]) -> Sent {
        let waiting = match self.send_deferred() {
            Ok(()) => self.unsent(),
            Err(sent) => return sent,
        };
        if waiting > 0 && waiting + message.len() > self.max_pending {
            return Sent::Full;
        }
        self.core.set_room(self.backlog.room());
        let wrote = match self.core.encode(message) {
            Encoded::Clear(bytes) => {
                let wrote = self.backlog.write(bytes);
                self.core.sent();
                wrote
            }
            Encoded::Sealed => self.push(),
            Encoded::Later => Written::Some,
            Encoded::Closed => Written::Gone,
            Encoded::Broken(why) => Written::Broken(why),
        };
        match wrote {
            Written::All => Sent::Done,
            Written::Some => Sent::Parked,
            Written::Gone => Sent::Gone,
            Written::Failed(reason) => Sent::Broken(reason),
            Written::Broken(why) => Sent::Broken(EndReason::Protocol(why)),
        }
    }

    /// Sends the waiting data, as far as there is room. Returns `false` if some of it is left.
    pub(crate) fn flush(&mut self) -> bool {
        // The next read reports a broken session.
        let _ = self.send_deferred();
        !self.has_unsent()
    }

    /// Returns whether data waits for room, or for the end of a handshake.
    pub(crate) fn has_unsent(&self) -> bool {
        self.unsent() > 0
    }

    /// Returns whether messages wait for a handshake. Then room is not enough: data of the peer must be read.
    pub(crate) fn awaits_handshake(&self) -> bool {
        self.core.deferred() > 0
    }

    fn unsent(&self) -> usize {
        self.backlog.len() + self.core.deferred()
    }

    /// Sends the data that waits for room and, after a handshake, the messages that waited for it.
    fn send_deferred(&mut self) -> Result<(), Sent> {
        let mut wrote = if self.backlog.is_empty() { Written::All } else { self.backlog.flush() };
        if matches!(wrote, Written::All | Written::Some) && self.awaits_handshake() {
            wrote = match self.state().encode_deferred() {
                Encoded::Closed => Written::Gone,
                Encoded::Broken(why) => Written::Broken(why),
                _ => self.push(),
            };
        }
        match wrote {
            Written::Gone => Err(Sent::Gone),
            Written::Failed(reason) => Err(Sent::Broken(reason)),
            Written::Broken(why) => Err(Sent::Broken(EndReason::Protocol(why))),
            Written::All | Written::Some => Ok(()),
        }
    }

    /// Takes the bytes that were read from the socket. `bytes` is empty afterwards.
    pub(crate) fn feed(&mut self, bytes: &mut Vec<u8>) {
        self.core.feed(bytes);
    }

    /// Reads the next message of the data that was fed. `piece` is working memory, and is empty afterwards.
    pub(crate) fn read(&mut self, buffer: &mut [u8], piece: &mut Vec<u8>) -> Read {
        let read = self.state().read(buffer, piece);
        match self.push() {
            Written::Broken(why) => Read::Broken(why),
            // If the connection has ended, an answer is lost, but the peer's earlier data can still be read.
            _ => read,
        }
    }

    /// Takes the end of the peer's data. Returns the reason for the end of the association, or `None` if a last line is
    /// still to be read.
    pub(crate) fn handle_end_of_stream(&mut self) -> Option<EndReason> {
        if let Some(reason) = &self.backlog.failed {
            return Some(reason.clone());
        }
        if self.core.is_secure() {
            return Some(EndReason::Truncated);
        }
        (!self.core.end_of_stream()).then_some(EndReason::ClosedByPeer)
    }

    /// Continues a handshake that messages wait for, with the data that was fed. Returns `false` if it cannot continue
    /// before the peer's application data in front of it is read.
    pub(crate) fn advance(&mut self) -> Result<bool, String> {
        let advanced = self.state().advance();
        match self.push() {
            Written::Broken(why) => Err(why),
            _ => advanced,
        }
    }

    /// Begins the end of the connection for this reason, as gently as the reason allows. Waiting data may take
    /// `patience`, and a second at most.
    pub(crate) fn begin_end(&mut self, reason: &EndReason, patience: Duration, now: Instant) {
        if matches!(reason, EndReason::TooSlow | EndReason::MessageRefused { .. }) {
            // Waiting data is discarded, and a reset tells the peer that messages are lost.
            self.backlog.reset();
            return;
        }
        if !matches!(reason, EndReason::Protocol(_)) {
            self.state().close();
            self.push();
        }
        self.ends_by = Some(now + patience.min(CLOSE_TIMEOUT));
    }

    /// Begins an end without close_notify, after a handshake that failed. An alert may wait for room until `until`.
    pub(crate) fn begin_end_without_close_notify(&mut self, until: Instant) {
        self.ends_by = Some(until);
    }

    /// Sends the waiting data, as far as there is room, and then shuts the connection down. Returns `None` if the
    /// connection has ended. Otherwise call this again at the returned time, or when there is room.
    pub(crate) fn continue_end(&mut self, now: Instant) -> Option<Instant> {
        let until = self.ends_by?;
        if self.backlog.flush() == Written::Some && now < until {
            return Some(until);
        }
        self.ends_by = None;
        self.backlog.shut_down();
        None
    }

    /// Waits until there may be room. Returns `false` after a timeout.
    pub(crate) fn wait_for_room(&self, timeout: Duration) -> bool {
        self.backlog.wait_for_room(timeout)
    }
}

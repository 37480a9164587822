//! A TCP connection as everybody sends to it: its state, and the bytes that the kernel has no room for, which go before
//! anything later. Nothing here blocks but the wait for room.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use openssl::ssl::SslContext;
use socket2::Socket;

use crate::error::EndReason;
use crate::net::backlog::{Backlog, Outlet, Wrote};
use crate::protocol::stream::frames::PREFIX;
use crate::protocol::stream::session::{Encoded, Stream};
use crate::protocol::{Read, Sent};
use crate::stream::TcpSettings;
use crate::tls::{Failure, Resume};

/// Bytes of OpenSSL's own (answers to key updates, alerts) that may wait beyond what messages may take. A
/// peer that asks for more and reads nothing is given up.
const SLACK: usize = 64 << 10;

/// What TLS adds to a record at the most (RFC 5246 §6.2.3, RFC 8446 §5.2).
const RECORD_OVERHEAD: usize = 320;

/// How long the end of an association waits for a peer to take what was sent.
const FAREWELL: Duration = Duration::from_secs(1);

/// One thread at a time.
pub(crate) struct StreamSession {
    pub(super) core: Stream,
    backlog: Backlog,
    max_pending: usize,
    /// Until when an end that has begun goes on at most.
    ends_by: Option<Instant>,
}

impl StreamSession {
    /// In clear.
    pub(crate) fn plain(outlet: impl Into<Outlet>, settings: &TcpSettings) -> Self {
        Self::new(Stream::plain(settings), outlet.into(), settings)
    }

    /// The server's side of TLS, before its handshake.
    pub(crate) fn accept(
        context: &SslContext,
        outlet: impl Into<Outlet>,
        settings: &TcpSettings,
    ) -> Result<Self, Failure> {
        Ok(Self::new(Stream::accept(context, settings)?, outlet.into(), settings))
    }

    /// The client's side of TLS; `name` is who the server must prove to be.
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

    /// The state of the connection, to be looked at.
    pub(crate) fn core(&self) -> &Stream {
        &self.core
    }

    /// Gets the handshake on, with what was fed; `true` when it is complete. What it says is sent as far as there is room.
    pub(crate) fn step(&mut self) -> Result<bool, Failure> {
        let stepped = self.state().step();
        let wrote = self.push();
        self.backlog.flush();
        match wrote {
            Wrote::Broken(why) if stepped.is_ok() => Err(Failure::of(why)),
            _ => stepped,
        }
    }

    /// The state of the connection, for a call that may write.
    fn state(&mut self) -> &mut Stream {
        self.core.set_room(self.backlog.room());
        &mut self.core
    }

    /// Sends what a call wrote. What the kernel does not take waits.
    fn push(&mut self) -> Wrote {
        let wrote = match self.core.outgoing() {
            [] if self.backlog.is_empty() => Wrote::All,
            [] => Wrote::Some,
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
            Encoded::Later => Wrote::Some,
            Encoded::Closed => Wrote::Gone,
            Encoded::Broken(why) => Wrote::Broken(why),
        };
        match wrote {
            Wrote::All => Sent::Done,
            Wrote::Some => Sent::Parked,
            Wrote::Gone => Sent::Gone,
            Wrote::Broken(why) => Sent::Broken(why),
        }
    }

    /// Sends what waits, as far as there is room; `false` if some of it is left.
    pub(crate) fn flush(&mut self) -> bool {
        // What is broken shows with the next read.
        let _ = self.send_deferred();
        !self.has_unsent()
    }

    /// Whether something waits for room, or for the end of a handshake.
    pub(crate) fn has_unsent(&self) -> bool {
        self.unsent() > 0
    }

    /// Whether messages wait for a handshake, so that room does not help: the peer has to be heard.
    pub(crate) fn awaits_handshake(&self) -> bool {
        self.core.deferred() > 0
    }

    fn unsent(&self) -> usize {
        self.backlog.len() + self.core.deferred()
    }

    /// Sends what waits for room and, where a handshake is over, what that held up.
    fn send_deferred(&mut self) -> Result<(), Sent> {
        let mut wrote = if self.backlog.is_empty() { Wrote::All } else { self.backlog.flush() };
        if matches!(wrote, Wrote::All | Wrote::Some) && self.awaits_handshake() {
            wrote = match self.state().encode_deferred() {
                Encoded::Closed => Wrote::Gone,
                Encoded::Broken(why) => Wrote::Broken(why),
                _ => self.push(),
            };
        }
        match wrote {
            Wrote::Gone => Err(Sent::Gone),
            Wrote::Broken(why) => Err(Sent::Broken(why)),
            Wrote::All | Wrote::Some => Ok(()),
        }
    }

    /// Takes in what was read from the socket. `bytes` comes back empty.
    pub(crate) fn feed(&mut self, bytes: &mut Vec<u8>) {
        self.core.feed(bytes);
    }

    /// Reads the next message of what was fed. `piece` is memory to work with, and comes back empty.
    pub(crate) fn read(&mut self, buffer: &mut [u8], piece: &mut Vec<u8>) -> Read {
        let read = self.state().read(buffer, piece);
        match self.push() {
            Wrote::Broken(why) => Read::Broken(why),
            // Where the peer has gone an answer is lost, and what the peer sent before can still be read.
            _ => read,
        }
    }

    /// The peer sends no more: why the association is over, or `None` where there is still a last line to read.
    pub(crate) fn handle_end_of_stream(&mut self) -> Option<EndReason> {
        if self.backlog.reset {
            return Some(crate::net::tcp::was_reset());
        }
        if self.core.is_secure() {
            return Some(EndReason::Truncated);
        }
        (!self.core.end_of_stream()).then_some(EndReason::ClosedByPeer)
    }

    /// Gets a handshake that messages wait for on, with what was fed. `false` where it cannot go on before the
    /// peer's data in front of it is read.
    pub(crate) fn advance(&mut self) -> Result<bool, String> {
        let advanced = self.state().advance();
        match self.push() {
            Wrote::Broken(why) => Err(why),
            _ => advanced,
        }
    }

    /// Begins the end of the connection for this reason, as gently as it allows. What waits may take `patience` and a second at
    /// most.
    pub(crate) fn begin_end(&mut self, reason: &EndReason, patience: Duration, now: Instant) {
        if matches!(reason, EndReason::TooSlow | EndReason::MessageRefused { .. }) {
            // What waits is thrown away, and the peer learns by a reset that messages are lost.
            self.backlog.reset();
            return;
        }
        if !matches!(reason, EndReason::Protocol(_)) {
            self.state().close();
            self.push();
        }
        self.ends_by = Some(now + patience.min(FAREWELL));
    }

    /// Begins an end without a goodbye, after a handshake that failed: an alert may wait, until then at most.
    pub(crate) fn hang_up_by(&mut self, until: Instant) {
        self.ends_by = Some(until);
    }

    /// Sends what waits, as far as there is room, and then says that nothing more comes. `None`: the connection is over.
    /// Otherwise this is to be called again at that time, or when there is room.
    pub(crate) fn continue_end(&mut self, now: Instant) -> Option<Instant> {
        let until = self.ends_by?;
        if self.backlog.flush() == Wrote::Some && now < until {
            return Some(until);
        }
        self.ends_by = None;
        self.backlog.hang_up();
        None
    }

    /// Waits until there may be room; `false`: there is none after so long.
    pub(crate) fn wait_for_room(&self, timeout: Duration) -> bool {
        self.backlog.wait_for_room(timeout)
    }
}

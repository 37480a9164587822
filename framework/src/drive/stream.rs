//! A TCP connection as everybody sends to it: its state, and the bytes that the kernel has no room for, which go before
//! anything later. Nothing here blocks but the handshake and the end.

#[cfg(test)]
mod tests;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openssl::ssl::SslContext;
use socket2::Socket;

use crate::drive::handshake::interrupted;
use crate::error::EndReason;
use crate::net::attention::{Attention, signal};
use crate::net::backlog::{Backlog, Wrote};
use crate::net::tcp::TcpTransport;
use crate::net::{Arrival, after};
use crate::protocol::Sent;
use crate::protocol::stream::frames::PREFIX;
use crate::protocol::stream::session::{Encoded, Stream};
use crate::stream::StreamSettings;
use crate::sys::epoll::wait_writable;
use crate::sys::message::{self, DATAGRAM_MAX};
use crate::tls::{Facts, Failure, Read, Resume};

/// Bytes of OpenSSL's own (answers to key updates, alerts) that may wait beyond what messages may take. A
/// peer that asks for more and reads nothing is given up.
const SLACK: usize = 64 << 10;

/// What TLS adds to a record at the most (RFC 5246 §6.2.3, RFC 8446 §5.2).
const RECORD_OVERHEAD: usize = 320;

/// How long the end of an association waits for a peer to take what was sent.
const FAREWELL: Duration = Duration::from_secs(1);

/// Unread bytes that are thrown away at the end: a close with unread data resets the connection (RFC 9293
/// §3.10.4, RFC 2525 §2.17), and with it what the peer has not read.
const DISCARD: usize = 1 << 20;

/// One thread at a time.
pub(crate) struct StreamSession {
    core: Stream,
    backlog: Backlog,
    max_pending: usize,
}

impl StreamSession {
    /// In clear.
    pub(crate) fn plain(socket: Arc<Socket>, settings: &StreamSettings) -> Self {
        Self::new(Stream::plain(settings), socket, settings)
    }

    /// The server's side of TLS, before its handshake.
    pub(crate) fn accept(
        context: &SslContext,
        socket: Arc<Socket>,
        settings: &StreamSettings,
    ) -> Result<Self, Failure> {
        Ok(Self::new(Stream::accept(context, settings)?, socket, settings))
    }

    /// The client's side of TLS; `name` is who the server must prove to be.
    pub(crate) fn connect(
        context: &SslContext,
        socket: Arc<Socket>,
        name: Option<&str>,
        resume: Option<&Resume<'_>>,
        settings: &StreamSettings,
    ) -> Result<Self, Failure> {
        Ok(Self::new(Stream::connect(context, name, resume, settings)?, socket, settings))
    }

    fn new(core: Stream, socket: Arc<Socket>, settings: &StreamSettings) -> Self {
        let largest = settings.max_pending.max(settings.max_message + PREFIX) / 16 * 17 + RECORD_OVERHEAD;
        let limit = if core.is_secure() { largest + SLACK } else { usize::MAX };
        let backlog = Backlog::new(socket, limit);
        Self { core, backlog, max_pending: settings.max_pending }
    }

    /// The state of the connection, to be looked at.
    pub(crate) fn core(&self) -> &Stream {
        &self.core
    }

    /// Runs the handshake to its end, if there is one; blocks until then, at most until `deadline`.
    pub(crate) fn shake_hands(
        &mut self,
        transport: &mut TcpTransport,
        attention: &Attention,
        deadline: Instant,
    ) -> Result<Facts, Failure> {
        let shaken = self.handshake(transport, attention, deadline);
        if shaken.is_err() {
            // An alert says why.
            self.backlog.flush();
            self.hang_up();
        }
        shaken
    }

    fn handshake(
        &mut self,
        transport: &mut TcpTransport,
        attention: &Attention,
        deadline: Instant,
    ) -> Result<Facts, Failure> {
        let mut bytes = Vec::new();
        loop {
            let complete = self.step()?;
            self.backlog.flush();
            transport.await_room = self.has_unsent();
            if complete {
                if transport.await_room {
                    attention.note(signal::FLUSH);
                }
                return Ok(self.core.facts());
            }
            if let Some(reason) = interrupted(attention) {
                return Err(Failure::Ended(reason));
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(Failure::Ended(EndReason::HandshakeTimedOut));
            }
            self.give_back(&mut bytes);
            bytes.reserve(DATAGRAM_MAX);
            match transport.recv(&mut [], &mut bytes, now, Some(deadline)) {
                Arrival::Message(_) => self.feed(&mut bytes),
                Arrival::Over(EndReason::ClosedByPeer) => {
                    let why = "the peer closed during the handshake".to_owned();
                    return Err(Failure::Ended(EndReason::HandshakeFailed(why)));
                }
                Arrival::Over(reason) => return Err(Failure::Ended(reason)),
                _ => {}
            }
        }
    }

    /// One step of the handshake; `true` when it is complete.
    fn step(&mut self) -> Result<bool, Failure> {
        let stepped = self.state().step();
        match self.push() {
            Wrote::Broken(why) if stepped.is_ok() => Err(Failure::Ended(EndReason::HandshakeFailed(why))),
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

    /// Whether a write found that the peer had reset the connection.
    pub(crate) fn was_reset(&self) -> bool {
        self.backlog.reset
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

    /// Gives the memory of what was fed back, once all of it is read.
    pub(crate) fn give_back(&mut self, bytes: &mut Vec<u8>) {
        self.core.give_back(bytes);
    }

    /// Decrypts what was fed, a record at most. In clear there is nothing to decrypt: [`Read::Nothing`].
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Read {
        let read = self.state().read(buffer);
        match self.push() {
            Wrote::Broken(why) => Read::Broken(why),
            // Where the peer has gone an answer is lost, and what the peer sent before can still be read.
            _ => read,
        }
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

    /// Says goodbye, without waiting for anything.
    pub(crate) fn close(&mut self) {
        self.state().close();
        self.push();
        self.backlog.flush();
        self.hang_up();
    }

    /// Ends the connection for this reason, as gently as that allows. Blocks until the peer has taken what
    /// was sent, for `patience` and for a second at most.
    pub(crate) fn end(&mut self, reason: &EndReason, patience: Duration) {
        if matches!(reason, EndReason::TooSlow | EndReason::MessageRefused { .. }) {
            // What waits is thrown away, and the peer learns by a reset that messages are lost.
            let _ = self.backlog.socket.set_linger(Some(Duration::ZERO));
            return;
        }
        if !matches!(reason, EndReason::Protocol(_)) {
            self.state().close();
            self.push();
        }
        let deadline = after(patience.min(FAREWELL));
        while self.backlog.flush() == Wrote::Some {
            let left = deadline.saturating_duration_since(Instant::now());
            let socket = &self.backlog.socket;
            if left.is_zero() || !wait_writable(socket.as_fd(), Some(left)).unwrap_or(false) {
                break;
            }
        }
        self.hang_up();
    }

    /// Tells the peer that nothing more comes, and throws away what it still said.
    fn hang_up(&self) {
        let socket = &self.backlog.socket;
        let _ = socket.shutdown(std::net::Shutdown::Write);
        let (mut scrap, mut left) = ([0; 4096], DISCARD);
        while let Ok(len @ 1..) = message::read(socket.as_fd(), &mut scrap, false) {
            left = left.saturating_sub(len);
            if left == 0 {
                break;
            }
        }
    }
}

//! What is sent over a TCP connection, in clear or as records of TLS.
//!
//! Nothing here blocks. What the kernel has no room for waits in [`Pending`], in order, and goes before
//! anything later. OpenSSL writes there too and is never told to wait: so a read that has to answer (a key
//! update, a ticket, a renegotiation) and a write in the middle of that need no state of their own. One case is
//! left, a message that is to be sent while a handshake waits for the peer (a renegotiation, or half a key
//! update): it is kept as it is until that is over. Only reads get such a handshake on, because OpenSSL takes
//! the peer's data in the middle of it from there alone.

mod pending;
#[cfg(test)]
mod tests;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openssl::ssl::{ErrorCode, Ssl, SslContext, SslRef, SslStream};
use socket2::Socket;

use self::pending::{Pending, StreamIo, Wrote};
use crate::association::Association;
use crate::error::EndReason;
use crate::net::Arrival;
use crate::net::after;
use crate::net::attention::signal;
use crate::net::tcp::TcpTransport;
use crate::protocol::Sent;
use crate::protocol::stream::frames::{Frames, PREFIX, encode};
use crate::stream::{Framing, StreamSettings};
use crate::sys::epoll::wait_writable;
use crate::sys::message::{self, DATAGRAM_MAX};
use crate::sys::ossl::{self, Handshakes};
use crate::tls::handshake::{broken, client_ssl, describe, progress, server_ssl};
use crate::tls::{Facts, Failure, Read, Resume};

/// Bytes of OpenSSL's own (answers to key updates, alerts) that may wait beyond what messages may take. A
/// peer that asks for more and reads nothing is given up.
const SLACK: usize = 64 << 10;

/// What TLS adds to a record at the most (RFC 5246 §6.2.3, RFC 8446 §5.2).
const RECORD_OVERHEAD: usize = 320;

/// Renegotiations that one peer may ask for.
const MAX_RENEGOTIATIONS: u32 = 8;

/// How long the end of an association waits for a peer to take what was sent.
const FAREWELL: Duration = Duration::from_secs(1);

/// Unread bytes that are thrown away at the end: a close with unread data resets the connection (RFC 9293
/// §3.10.4, RFC 2525 §2.17), and with it what the peer has not read.
const DISCARD: usize = 1 << 20;

/// A connection as everybody sends to it. One thread at a time.
pub(crate) struct StreamSession {
    layer: Layer,
    framing: Framing,
    max_message: usize,
    max_pending: usize,
    /// A message with what its framing adds.
    framed: Vec<u8>,
    /// Bytes of messages that a handshake in the middle of the session holds up.
    deferred: Vec<u8>,
    /// Where a peer may renegotiate: handshakes so far, the first one too.
    handshakes: Option<Handshakes>,
}

enum Layer {
    Clear(Pending),
    Tls(Box<SslStream<StreamIo>>),
}

impl StreamSession {
    /// In clear.
    pub(crate) fn plain(socket: Arc<Socket>, settings: &StreamSettings) -> Self {
        Self::new(Layer::Clear(Pending::new(socket, usize::MAX)), settings)
    }

    /// The server's side of TLS, before its handshake.
    pub(crate) fn accept(
        context: &SslContext,
        socket: Arc<Socket>,
        settings: &StreamSettings,
    ) -> Result<Self, Failure> {
        let mut ssl = server_ssl(context)?;
        let handshakes = settings.renegotiation.then(|| ossl::allow_renegotiation(&mut ssl));
        Ok(Self { handshakes, ..Self::secure(ssl, socket, settings)? })
    }

    /// The client's side of TLS; `name` is who the server must prove to be.
    pub(crate) fn connect(
        context: &SslContext,
        socket: Arc<Socket>,
        name: Option<&str>,
        resume: Option<&Resume<'_>>,
        settings: &StreamSettings,
    ) -> Result<Self, Failure> {
        Self::secure(client_ssl(context, name, resume)?, socket, settings)
    }

    fn secure(ssl: Ssl, socket: Arc<Socket>, settings: &StreamSettings) -> Result<Self, Failure> {
        let largest = settings.max_pending.max(settings.max_message + PREFIX) / 16 * 17 + RECORD_OVERHEAD;
        let io = StreamIo::new(Pending::new(socket, largest + SLACK));
        let stream = SslStream::new(ssl, io).map_err(broken)?;
        Ok(Self::new(Layer::Tls(Box::new(stream)), settings))
    }

    fn new(layer: Layer, settings: &StreamSettings) -> Self {
        Self {
            layer,
            framing: settings.framing,
            max_message: settings.max_message.max(1),
            max_pending: settings.max_pending,
            framed: Vec::new(),
            deferred: Vec::new(),
            handshakes: None,
        }
    }

    /// Runs the handshake to its end, if there is one; blocks until then, at most until `deadline`.
    pub(crate) fn shake_hands(
        &mut self,
        transport: &mut TcpTransport,
        association: &Association,
        deadline: Instant,
    ) -> Result<Facts, Failure> {
        let shaken = self.handshake(transport, association, deadline);
        if shaken.is_err() {
            // An alert says why.
            self.pending_mut().flush();
            self.hang_up();
        }
        shaken
    }

    fn handshake(
        &mut self,
        transport: &mut TcpTransport,
        association: &Association,
        deadline: Instant,
    ) -> Result<Facts, Failure> {
        let mut bytes = Vec::new();
        loop {
            let complete = match &mut self.layer {
                Layer::Clear(_) => true,
                Layer::Tls(stream) => progress(stream)?,
            };
            self.pending_mut().flush();
            transport.await_room = self.has_unsent();
            if complete {
                if transport.await_room {
                    association.attention.note(signal::FLUSH);
                }
                return Ok(match &self.layer {
                    Layer::Clear(_) => Facts::default(),
                    Layer::Tls(stream) => Facts::of(stream.ssl()),
                });
            }
            let signals = association.attention.signals();
            if signals & (signal::CLOSE | signal::STOP | signal::DRAIN) != 0 {
                return Err(Failure::Ended(EndReason::Shutdown));
            }
            if signals & signal::EVICT != 0 {
                return Err(Failure::Ended(EndReason::Evicted));
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

    /// OpenSSL's own, where messages are encrypted.
    pub(crate) fn ssl(&self) -> Option<&SslRef> {
        match &self.layer {
            Layer::Clear(_) => None,
            Layer::Tls(stream) => Some(stream.ssl()),
        }
    }

    /// Whether messages are encrypted.
    pub(crate) fn is_secure(&self) -> bool {
        matches!(self.layer, Layer::Tls(_))
    }

    /// What makes messages of what comes, where there are any.
    pub(crate) fn frames(&self) -> Option<Frames> {
        Frames::new(self.framing, self.max_message)
    }

    /// Whether a write found that the peer had reset the connection.
    pub(crate) fn was_reset(&self) -> bool {
        self.pending().reset
    }

    /// The longest message, in bytes.
    pub(crate) fn max_message(&self) -> usize {
        self.max_message
    }

    /// The shortest message, in bytes.
    pub(crate) fn min_message(&self) -> usize {
        usize::from(self.framing == Framing::Raw)
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
        let mut framed = std::mem::take(&mut self.framed);
        framed.clear();
        let bytes = match self.framing {
            Framing::Raw => message,
            framing => {
                encode(framing, message, &mut framed);
                &framed
            }
        };
        let sent = match &mut self.layer {
            Layer::Clear(pending) => pending.write(bytes),
            Layer::Tls(stream) if self.deferred.is_empty() => write_tls(stream, bytes),
            Layer::Tls(_) => Wrote::Later,
        };
        let sent = match sent {
            Wrote::All => Sent::Done,
            Wrote::Some => Sent::Parked,
            Wrote::Later => {
                self.deferred.extend_from_slice(bytes);
                Sent::Parked
            }
            Wrote::Gone => Sent::Gone,
            Wrote::Broken(why) => Sent::Broken(why),
        };
        if framed.capacity() <= KEPT {
            self.framed = framed;
        }
        sent
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
        !self.deferred.is_empty()
    }

    fn unsent(&self) -> usize {
        self.pending().len() + self.deferred.len()
    }

    /// Sends what waits for room and, where a handshake is over, what that held up.
    fn send_deferred(&mut self) -> Result<(), Sent> {
        if !self.pending().is_empty() {
            match self.pending_mut().flush() {
                Wrote::Gone => return Err(Sent::Gone),
                Wrote::Broken(why) => return Err(Sent::Broken(why)),
                _ => {}
            }
        }
        if let Layer::Tls(stream) = &mut self.layer
            && !self.deferred.is_empty()
        {
            match write_tls(stream, &self.deferred) {
                Wrote::Later => {}
                Wrote::Gone => return Err(Sent::Gone),
                Wrote::Broken(why) => return Err(Sent::Broken(why)),
                Wrote::All | Wrote::Some => self.deferred = Vec::new(),
            }
        }
        Ok(())
    }

    /// Takes in what was read from the socket. `bytes` comes back empty.
    pub(crate) fn feed(&mut self, bytes: &mut Vec<u8>) {
        if let Layer::Tls(stream) = &mut self.layer {
            stream.get_mut().feed(bytes);
        }
        bytes.clear();
    }

    /// Gives the memory of what was fed back, once all of it is read.
    pub(crate) fn give_back(&mut self, bytes: &mut Vec<u8>) {
        if let Layer::Tls(stream) = &mut self.layer {
            stream.get_mut().give_back(bytes);
        }
    }

    /// Reads what is there of the stream, at most a record. Only for TLS: in clear nothing was fed.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Read {
        let Layer::Tls(stream) = &mut self.layer else { return Read::Nothing };
        let result = stream.ssl_read(buffer);
        self.after_reading(result)
    }

    /// Gets a handshake that messages wait for on, with what was fed. `false` where it cannot go on before the
    /// peer's data in front of it is read.
    pub(crate) fn advance(&mut self) -> Result<bool, String> {
        let Layer::Tls(stream) = &mut self.layer else { return Ok(true) };
        let result = stream.ssl_peek(&mut [0]);
        match self.after_reading(result) {
            Read::Nothing => Ok(true),
            Read::Broken(why) => Err(why),
            _ => Ok(!self.awaits_handshake()),
        }
    }

    fn after_reading(&mut self, result: Result<usize, openssl::ssl::Error>) -> Read {
        let read = match result {
            Ok(len) => Read::Message(len),
            Err(error) => match error.code() {
                ErrorCode::WANT_READ | ErrorCode::WANT_WRITE => Read::Nothing,
                ErrorCode::ZERO_RETURN => Read::Closed,
                _ => Read::Broken(describe(&error)),
            },
        };
        let begun = self.handshakes.as_ref().map_or(0, Handshakes::begun);
        if begun > 1 + MAX_RENEGOTIATIONS {
            return Read::Broken("the peer renegotiates again and again".to_owned());
        }
        if !self.deferred.is_empty() {
            // What is wrong shows with the next read.
            let _ = self.send_deferred();
        }
        read
    }

    /// Whether [`read`](Self::read) has something to look at.
    pub(crate) fn has_more(&self) -> bool {
        match &self.layer {
            Layer::Clear(_) => false,
            Layer::Tls(stream) => !stream.get_ref().is_drained() || ossl::has_pending(stream.ssl()),
        }
    }

    /// Says goodbye, without waiting for anything.
    pub(crate) fn close(&mut self) {
        if let Layer::Tls(stream) = &mut self.layer {
            let _ = stream.shutdown();
        }
        self.pending_mut().flush();
        self.hang_up();
    }

    /// Ends the connection for this reason, as gently as that allows. Blocks until the peer has taken what
    /// was sent, for `patience` and for a second at most.
    pub(crate) fn end(&mut self, reason: &EndReason, patience: Duration) {
        if matches!(reason, EndReason::TooSlow | EndReason::MessageRefused { .. }) {
            // What waits is thrown away, and the peer learns by a reset that messages are lost.
            let _ = self.pending().socket.set_linger(Some(Duration::ZERO));
            return;
        }
        if let Layer::Tls(stream) = &mut self.layer
            && !matches!(reason, EndReason::Protocol(_))
        {
            let _ = stream.shutdown();
        }
        let deadline = after(patience.min(FAREWELL));
        while self.pending_mut().flush() == Wrote::Some {
            let left = deadline.saturating_duration_since(Instant::now());
            let socket = &self.pending().socket;
            if left.is_zero() || !wait_writable(socket.as_fd(), Some(left)).unwrap_or(false) {
                break;
            }
        }
        self.hang_up();
    }

    /// Tells the peer that nothing more comes, and throws away what it still said.
    fn hang_up(&self) {
        let socket = &self.pending().socket;
        let _ = socket.shutdown(std::net::Shutdown::Write);
        let (mut scrap, mut left) = ([0; 4096], DISCARD);
        while let Ok(len @ 1..) = message::read(socket.as_fd(), &mut scrap, false) {
            left = left.saturating_sub(len);
            if left == 0 {
                break;
            }
        }
    }

    fn pending(&self) -> &Pending {
        match &self.layer {
            Layer::Clear(pending) => pending,
            Layer::Tls(stream) => &stream.get_ref().pending,
        }
    }

    fn pending_mut(&mut self) -> &mut Pending {
        match &mut self.layer {
            Layer::Clear(pending) => pending,
            Layer::Tls(stream) => &mut stream.get_mut().pending,
        }
    }
}

/// Bytes of memory that are kept between messages.
const KEPT: usize = 4096;

/// Encrypts a message; OpenSSL writes its records to where they go.
fn write_tls(stream: &mut SslStream<StreamIo>, message: &[u8]) -> Wrote {
    if message.is_empty() {
        return Wrote::All;
    }
    // A write would get the handshake on, and call the peer's data in the middle of it an error.
    if !stream.ssl().is_init_finished() {
        return Wrote::Later;
    }
    let result = stream.ssl_write(message);
    let pending = &mut stream.get_mut().pending;
    match result {
        Ok(_) => match pending.failed.take() {
            Some(failed) => failed,
            None if pending.is_empty() => Wrote::All,
            None => Wrote::Some,
        },
        // Nothing is ever full, so this is a handshake.
        Err(error) if matches!(error.code(), ErrorCode::WANT_READ | ErrorCode::WANT_WRITE) => Wrote::Later,
        Err(error) if error.code() == ErrorCode::ZERO_RETURN => Wrote::Gone,
        Err(error) => pending.failed.take().unwrap_or_else(|| Wrote::Broken(describe(&error))),
    }
}

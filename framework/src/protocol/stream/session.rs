//! The bytes of one connection, with or without TLS: converts messages to bytes and back.
//!
//! OpenSSL writes to memory that accepts everything. So a read that has to answer (a key update, a ticket, a
//! renegotiation), and a write in the middle of that, need no extra state. One case remains: a message that is to be
//! sent while a handshake waits for the peer (a renegotiation, or half a key update). It is kept unencrypted until the
//! handshake is complete. Only reads advance such a handshake, because only they make OpenSSL accept the peer's data in
//! the middle of it.

use std::io;

use openssl::ssl::{ErrorCode, Ssl, SslContext, SslRef, SslStream};

use super::frames::{Frame, Frames, encode};
use crate::protocol::Read;
use crate::stream::{Framing, TcpSettings};
use crate::sys::ossl::{self, Handshakes};
use crate::tls::handshake::{broken, client_ssl, describe, progress, server_ssl};
use crate::tls::{Failure, HandshakeSummary, Resume};

/// Maximum number of renegotiations that one peer may request.
pub(crate) const MAX_RENEGOTIATIONS: u32 = 8;

/// Bytes of memory that are kept between messages.
const KEPT: usize = 4096;

/// How many bytes are decrypted at once for a framing: one record.
const PIECE: usize = 16 << 10;

/// The state of a connection. After each call the caller sends the [`outgoing`](Self::outgoing) bytes and calls
/// [`sent`](Self::sent).
pub(crate) struct Stream {
    /// `None` without TLS.
    tls: Option<Box<SslStream<Pipe>>>,
    framing: Framing,
    /// Divides the bytes into messages, if there is a framing.
    frames: Option<Frames>,
    /// The bytes that were fed have not been read completely.
    unread: bool,
    max_message: usize,
    /// A message with its framing.
    framed: Vec<u8>,
    /// Bytes of messages that wait for a handshake in the middle of the session.
    deferred: Vec<u8>,
    /// Counts the handshakes, including the first one, if a peer may renegotiate.
    handshakes: Option<Handshakes>,
}

/// Result of encoding a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Encoded<'a> {
    /// These bytes are to be sent.
    Clear(&'a [u8]),
    /// The encrypted bytes are among the [outgoing](Stream::outgoing) bytes.
    Sealed,
    /// The message is kept until a handshake is complete.
    Later,
    /// This side has closed the session.
    Closed,
    /// The session has failed.
    Broken(String),
}

impl Stream {
    /// Makes a connection without TLS.
    pub(crate) fn plain(settings: &TcpSettings) -> Self {
        let max_message = settings.max_message.max(1);
        Self {
            tls: None,
            framing: settings.framing,
            frames: Frames::new(settings.framing, max_message),
            unread: false,
            max_message,
            framed: Vec::new(),
            deferred: Vec::new(),
            handshakes: None,
        }
    }

    /// Makes the server's side of TLS, before its handshake.
    pub(crate) fn accept(context: &SslContext, settings: &TcpSettings) -> Result<Self, Failure> {
        let mut ssl = server_ssl(context)?;
        let handshakes = settings.renegotiation.then(|| ossl::allow_renegotiation(&mut ssl));
        Ok(Self { handshakes, ..Self::secure(ssl, settings)? })
    }

    /// Makes the client's side of TLS; `name` is the name that the server must prove.
    pub(crate) fn connect(
        context: &SslContext,
        name: Option<&str>,
        resume: Option<&Resume<'_>>,
        settings: &TcpSettings,
    ) -> Result<Self, Failure> {
        Self::secure(client_ssl(context, name, resume)?, settings)
    }

    fn secure(ssl: Ssl, settings: &TcpSettings) -> Result<Self, Failure> {
        let stream = SslStream::new(ssl, Pipe::default()).map_err(broken)?;
        // Data may arrive together with the end of the handshake.
        Ok(Self { tls: Some(Box::new(stream)), unread: true, ..Self::plain(settings) })
    }

    /// Runs one step of the handshake, if there is one. Returns `true` when it is complete. After a failure there may
    /// be an alert to send.
    pub(crate) fn step(&mut self) -> Result<bool, Failure> {
        self.tls.as_deref_mut().map_or(Ok(true), progress)
    }

    /// Returns the results of the handshake.
    pub(crate) fn summary(&self) -> HandshakeSummary {
        self.ssl().map(HandshakeSummary::of).unwrap_or_default()
    }

    /// Returns the underlying `SslRef`, if messages are encrypted.
    pub(crate) fn ssl(&self) -> Option<&SslRef> {
        self.tls.as_ref().map(|stream| stream.ssl())
    }

    /// Returns whether messages are encrypted.
    pub(crate) fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// Returns whether messages have the boundaries that the other end gave them, and are not pieces of a stream.
    pub(crate) fn is_framed(&self) -> bool {
        self.frames.is_some()
    }

    /// Returns whether a message has begun and is incomplete. Valid when nothing is left to [`read`](Self::read).
    pub(crate) fn is_begun(&self) -> bool {
        self.frames.as_ref().is_some_and(Frames::is_begun)
    }

    /// Returns the maximum length of a message, in bytes.
    pub(crate) fn max_message(&self) -> usize {
        self.max_message
    }

    /// Returns the minimum length of a message, in bytes.
    pub(crate) fn min_message(&self) -> usize {
        usize::from(self.framing == Framing::Raw)
    }

    /// Sets how many bytes OpenSSL may write before they are sent. Beyond that the session fails.
    pub(crate) fn set_room(&mut self, bytes: usize) {
        if let Some(stream) = &mut self.tls {
            stream.get_mut().room = bytes;
        }
    }

    /// Returns the bytes that OpenSSL wrote and that are to be sent.
    pub(crate) fn outgoing(&self) -> &[u8] {
        self.tls.as_ref().map_or(&[], |stream| &stream.get_ref().outgoing)
    }

    /// Notes that everything has been sent. Its memory is reused, or freed if it is large.
    pub(crate) fn sent(&mut self) {
        let outgoing = self.tls.as_mut().map(|stream| &mut stream.get_mut().outgoing);
        for memory in std::iter::once(&mut self.framed).chain(outgoing) {
            memory.clear();
            if memory.capacity() > KEPT {
                *memory = Vec::new();
            }
        }
    }

    /// Encodes a message, which is no longer than [`max_message`](Self::max_message).
    pub(crate) fn encode<'a>(&'a mut self, message: &'a [u8]) -> Encoded<'a> {
        let bytes = match self.framing {
            Framing::Raw => message,
            framing => {
                encode(framing, message, &mut self.framed);
                &self.framed
            }
        };
        let Some(stream) = &mut self.tls else { return Encoded::Clear(bytes) };
        let sealed = match self.deferred.is_empty() {
            true => seal(stream, bytes),
            false => Encoded::Later,
        };
        if sealed == Encoded::Later {
            self.deferred.extend_from_slice(bytes);
        }
        sealed
    }

    /// Encodes the messages that waited for a handshake, if it is complete.
    pub(crate) fn encode_deferred(&mut self) -> Encoded<'static> {
        let Some(stream) = self.tls.as_mut().filter(|_| !self.deferred.is_empty()) else {
            return Encoded::Sealed;
        };
        let sealed = seal(stream, &self.deferred);
        if sealed == Encoded::Sealed {
            self.deferred = Vec::new();
        }
        sealed
    }

    /// Returns how many bytes of messages wait for a handshake, which needs data from the peer.
    pub(crate) fn deferred(&self) -> usize {
        self.deferred.len()
    }

    /// Adds received bytes and empties `bytes`. Without TLS and framing there is nothing to do: the bytes are the
    /// message.
    pub(crate) fn feed(&mut self, bytes: &mut Vec<u8>) {
        match (&mut self.tls, &mut self.frames) {
            (Some(stream), _) => stream.get_mut().feed(bytes),
            (None, Some(frames)) => frames.push(bytes),
            (None, None) => {}
        }
        self.unread = true;
        bytes.clear();
    }

    /// Handles the end of the stream. Returns `true` if it completes a last message, which is to be read.
    pub(crate) fn end_of_stream(&mut self) -> bool {
        let last = self.tls.is_none() && self.frames.as_mut().is_some_and(Frames::end);
        self.unread |= last;
        last
    }

    /// Returns the memory of the fed bytes once all of them have been read.
    pub(crate) fn give_back(&mut self, bytes: &mut Vec<u8>) {
        if let Some(stream) = &mut self.tls {
            stream.get_mut().give_back(bytes);
        }
    }

    /// Reads the next message of the fed bytes. `piece` is working memory, and is empty afterwards.
    pub(crate) fn read(&mut self, buffer: &mut [u8], piece: &mut Vec<u8>) -> Read {
        let read = self.next_message(buffer, piece);
        piece.clear();
        self.unread &= !matches!(read, Read::Nothing);
        self.give_back(piece);
        read
    }

    fn next_message(&mut self, buffer: &mut [u8], piece: &mut Vec<u8>) -> Read {
        loop {
            if let Some(frames) = &mut self.frames
                && let Some(frame) = frames.next_frame()
            {
                return match frame {
                    Frame::TooLong => Read::TooLong,
                    Frame::Message(message) => Read::message(message, buffer),
                };
            }
            let Some(stream) = &mut self.tls else { return Read::Nothing };
            // Without this check OpenSSL would search for a record in vain, which takes as long as reading a short one.
            if stream.get_ref().is_drained() && !ossl::has_pending(stream.ssl()) {
                return Read::Nothing;
            }
            let direct = self.frames.is_none() && !buffer.is_empty();
            if !direct {
                piece.resize(PIECE, 0);
            }
            let result = stream.ssl_read(if direct { &mut *buffer } else { piece });
            match (self.after_reading(result), &mut self.frames) {
                (Read::Message(len), Some(frames)) => frames.push(&piece[..len]),
                (Read::Message(len), None) if !direct => return Read::Long(piece[..len].to_vec()),
                (Read::Closed, Some(frames)) => match frames.end() {
                    // The next read finds the close_notify again, after the last line.
                    true => {}
                    false => return Read::Closed,
                },
                (read, _) => return read,
            }
        }
    }

    /// Advances a handshake that messages wait for, with the fed bytes. Returns `false` if it cannot continue before
    /// the peer's earlier data has been read.
    pub(crate) fn advance(&mut self) -> Result<bool, String> {
        let Some(stream) = &mut self.tls else { return Ok(true) };
        let result = stream.ssl_peek(&mut [0]);
        self.unread = true;
        match self.after_reading(result) {
            Read::Nothing => Ok(true),
            Read::Broken(why) => Err(why),
            _ => Ok(self.deferred.is_empty()),
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
            return Read::Broken("the peer renegotiates too often".to_owned());
        }
        // The next read reports an error.
        let _ = self.encode_deferred();
        read
    }

    /// Returns whether [`read`](Self::read) may find more.
    pub(crate) fn has_more(&self) -> bool {
        self.unread
    }

    /// Queues a close_notify (RFC 5246 §7.2.1), once.
    pub(crate) fn close(&mut self) {
        if let Some(stream) = &mut self.tls {
            let _ = stream.shutdown();
        }
    }
}

/// Encrypts a message; OpenSSL writes its records to the pipe.
fn seal(stream: &mut SslStream<Pipe>, message: &[u8]) -> Encoded<'static> {
    if message.is_empty() {
        return Encoded::Sealed;
    }
    // A write would advance the handshake, and treat the peer's data in the middle of it as an error.
    if !stream.ssl().is_init_finished() {
        return Encoded::Later;
    }
    match stream.ssl_write(message) {
        Ok(_) => Encoded::Sealed,
        // The pipe is never full, so this is a handshake.
        Err(error) if matches!(error.code(), ErrorCode::WANT_READ | ErrorCode::WANT_WRITE) => Encoded::Later,
        Err(error) if error.code() == ErrorCode::ZERO_RETURN => Encoded::Closed,
        Err(error) => Encoded::Broken(describe(&error)),
    }
}

/// The pipe that OpenSSL reads from and writes to. Called from C, so it must obey this contract: a read returns fed
/// bytes or WouldBlock, and a write takes everything or fails permanently.
#[derive(Default)]
struct Pipe {
    incoming: Vec<u8>,
    /// How many of these bytes have been read.
    read: usize,
    outgoing: Vec<u8>,
    /// Maximum number of outgoing bytes.
    room: usize,
}

impl Pipe {
    fn is_drained(&self) -> bool {
        self.read == self.incoming.len()
    }

    fn feed(&mut self, bytes: &mut Vec<u8>) {
        if self.is_drained() {
            // The allocations are exchanged instead of copied.
            std::mem::swap(&mut self.incoming, bytes);
            self.read = 0;
        } else {
            self.incoming.extend_from_slice(bytes);
        }
    }

    fn give_back(&mut self, bytes: &mut Vec<u8>) {
        if self.is_drained() && bytes.capacity() == 0 {
            *bytes = std::mem::take(&mut self.incoming);
            bytes.clear();
            self.read = 0;
        }
    }
}

impl io::Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_drained() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let unread = &self.incoming[self.read..];
        let len = unread.len().min(buffer.len());
        buffer[..len].copy_from_slice(&unread[..len]);
        self.read += len;
        Ok(len)
    }
}

impl io::Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.outgoing.len() + bytes.len() > self.room {
            return Err(io::Error::new(
                io::ErrorKind::BrokenPipe,
                "the peer does not read the responses that it requests",
            ));
        }
        self.outgoing.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;

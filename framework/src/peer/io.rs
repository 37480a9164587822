//! Receiving into a vector, and streams without framing as [`Read`] and [`Write`].

use std::fmt;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use super::{Next, Peer};
use crate::error::Error;
use crate::sender;

/// Smallest room, in bytes, that a vector gets for the next piece of a stream: an Ethernet packet.
const LEAST_ROOM: usize = 2 << 10;
/// Largest room that one call fills, in bytes: a TLS record.
const MAX_ROOM: usize = 16 << 10;

impl Peer {
    /// Waits for one message like [`recv`](Self::recv), and replaces the content of `message` with it. The vector grows
    /// as needed, up to the longest message that the transport takes, so [`Error::BufferTooSmall`] never occurs. The
    /// returned number is the vector's new length; without a message the vector is empty. Capacity beyond 16 KiB is
    /// released when the next message arrives. On a stream without framing one call reads as much as the vector has
    /// capacity for, at least 2 KiB and at most 16 KiB.
    ///
    /// ```
    /// # use peeloff::{Error, Peer};
    /// fn echo(peer: &mut Peer) -> Result<(), Error> {
    ///     let mut message = Vec::new();
    ///     while peer.recv_into(&mut message)?.is_some() {
    ///         peer.send(&message)?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv), except [`Error::BufferTooSmall`].
    pub fn recv_into(&mut self, message: &mut Vec<u8>) -> Result<Option<usize>, Error> {
        self.vector_until(message, None)
    }

    /// Receives like [`recv_into`](Self::recv_into), but waits at most `timeout`. A timeout of zero does not wait.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`], after which the association continues; otherwise as [`recv_into`](Self::recv_into).
    pub fn recv_into_timeout(
        &mut self,
        message: &mut Vec<u8>,
        timeout: Duration,
    ) -> Result<Option<usize>, Error> {
        self.vector_until(message, self.association.now().checked_add(timeout))
    }

    fn vector_until(
        &mut self,
        message: &mut Vec<u8>,
        until: Option<Instant>,
    ) -> Result<Option<usize>, Error> {
        loop {
            match self.next_into(message, until)? {
                Next::Message(len) => return Ok(Some(len)),
                Next::Over => return Ok(None),
                Next::Moved(_) => {}
                Next::Notification(notification) => self.keep(notification),
            }
        }
    }

    /// Waits until `until` for the next event; a message replaces the content of `message`.
    pub(crate) fn next_into(&mut self, message: &mut Vec<u8>, until: Option<Instant>) -> Result<Next, Error> {
        if message.capacity() > MAX_ROOM {
            message.clear();
            message.shrink_to(MAX_ROOM);
        }
        // A message that does not fit comes in its own allocation, so a peer that sends little holds little memory.
        let least = if self.is_raw_stream { LEAST_ROOM } else { 0 };
        message.resize(message.capacity().clamp(least, MAX_ROOM), 0);
        let mut received = self.next_until(message, until);
        match (&received, self.kept.take()) {
            (Ok(Next::Message(len)), _) => message.truncate(*len),
            (Err(Error::BufferTooSmall { needed }), Some(long)) => {
                received = Ok(Next::Message(*needed));
                *message = long.into_vec();
            }
            _ => message.clear(),
        }
        received
    }

    /// Returns the peer as a stream of bytes, for libraries that work on [`Read`] and [`Write`]. Returns `None` if
    /// messages have boundaries: on UDP, DTLS and SCTP, and on TCP and TLS with a [`Framing`](crate::Framing) other
    /// than [`Raw`](crate::Framing::Raw).
    ///
    /// ```
    /// use std::io::{BufRead, BufReader, Write};
    ///
    /// # use peeloff::{Error, Peer};
    /// fn shout(peer: &mut Peer) -> Result<(), Error> {
    ///     let Some(stream) = peer.as_stream() else { return Ok(()) };
    ///     let mut reader = BufReader::new(stream);
    ///     let mut line = String::new();
    ///     while reader.read_line(&mut line)? > 0 {
    ///         reader.get_mut().write_all(line.to_uppercase().as_bytes())?;
    ///         line.clear();
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn as_stream(&mut self) -> Option<PeerStream<'_>> {
        self.is_raw_stream.then_some(PeerStream { peer: self, read_timeout: None })
    }
}

/// A peer on `tcp://` or `tls://` without framing, as a stream of bytes; [`Peer::as_stream`] makes one. Calls run on
/// the calling thread.
///
/// An [`io::Error`] of this type wraps an [`Error`] and converts back to it, so a handler may use `?` on it.
/// `io::Error::from` describes its kind.
pub struct PeerStream<'peer> {
    peer: &'peer mut Peer,
    read_timeout: Option<Duration>,
}

impl PeerStream<'_> {
    /// Sets how long a read waits at most; after that it fails with [`io::ErrorKind::TimedOut`], and the connection
    /// continues. A timeout of zero does not wait. With `None`, the default, a read waits until bytes arrive or the
    /// connection ends ([`Timeouts::idle`](crate::Timeouts::idle)).
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.read_timeout = timeout;
    }

    /// Returns the peer, for its identity and addresses.
    pub fn peer(&self) -> &Peer {
        self.peer
    }
}

impl Read for PeerStream<'_> {
    /// Blocks until at least one byte arrives. Returns 0 at the end: the peer or this side has closed, or the idle
    /// timeout has passed. It also returns 0 once when the server [drains](Peer::is_draining) and no data is pending,
    /// so that a library finishes; later reads continue to work until the grace period ends. On TLS, an end of the TCP
    /// stream without a close_notify is [`io::ErrorKind::UnexpectedEof`], because an attacker may have truncated the
    /// stream.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let until = self.read_timeout.and_then(|timeout| self.peer.association.now().checked_add(timeout));
        match self.peer.message_until(buffer, until) {
            Ok(read) => Ok(read.unwrap_or(0)),
            // An earlier `recv` with an empty buffer kept this data.
            Err(Error::BufferTooSmall { .. }) => {
                let kept = self.peer.kept.take().unwrap_or_default();
                let (now, later) = kept.split_at(buffer.len().min(kept.len()));
                buffer[..now.len()].copy_from_slice(now);
                self.peer.kept = (!later.is_empty()).then(|| later.into());
                Ok(now.len())
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Write for PeerStream<'_> {
    /// Sends all of `bytes`, or the first [`max_message_size`](Peer::max_message_size) of them. Blocks while there is
    /// no room, at most for [`Timeouts::send`](crate::Timeouts::send), and then fails with [`io::ErrorKind::TimedOut`].
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(self.peer.max_message_size())];
        if !piece.is_empty() {
            self.peer.send(piece)?;
        }
        Ok(piece.len())
    }

    /// Blocks until the kernel has taken all written data, at most for [`Timeouts::send`](crate::Timeouts::send).
    fn flush(&mut self) -> io::Result<()> {
        let deadline = self.peer.association.after(self.peer.send_timeout);
        while sender::flush(&self.peer.association) {
            if self.peer.awaits_handshake() {
                self.peer.receive_handshake(deadline)?;
                continue;
            }
            let left = deadline.saturating_duration_since(self.peer.association.now());
            let Some(transport) = &self.peer.transport else { break };
            if left.is_zero() || !transport.wait_for_room(left) {
                self.peer.note_unsent();
                return Err(Error::SendBufferFull.into());
            }
        }
        Ok(())
    }
}

impl fmt::Debug for PeerStream<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PeerStream").field(&self.peer).finish()
    }
}

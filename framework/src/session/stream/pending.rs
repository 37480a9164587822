//! The way out of a connection, and what OpenSSL has for a socket.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use socket2::Socket;

use crate::sys::errno::is_memory;
use crate::sys::message;

/// What became of bytes that were to be written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wrote {
    /// The kernel has them all.
    All,
    /// Some wait for room.
    Some,
    /// Nothing was written: a handshake has to end first.
    Later,
    /// The peer has ended the connection; what it said before can still be read.
    Gone,
    /// The connection is of no use any more.
    Broken(String),
}

/// The way out: the socket, and the bytes that it has no room for.
pub(super) struct Pending {
    pub(super) socket: Arc<Socket>,
    bytes: Vec<u8>,
    /// How many of them are gone.
    sent: usize,
    /// Bytes that may wait at most.
    limit: usize,
    /// What the last write by OpenSSL failed with.
    pub(super) failed: Option<Wrote>,
    /// A write found that the peer had reset the connection. A later read does not say so again.
    pub(super) reset: bool,
}

impl Pending {
    pub(super) fn new(socket: Arc<Socket>, limit: usize) -> Self {
        Self { socket, bytes: Vec::new(), sent: 0, limit, failed: None, reset: false }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes bytes behind those that wait.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Wrote {
        let mut written = 0;
        if self.is_empty() {
            match self.send(bytes) {
                Ok(len) if len == bytes.len() => return Wrote::All,
                Ok(len) => written = len,
                Err(failed) => return failed,
            }
        }
        if self.len() + bytes.len() - written > self.limit {
            return Wrote::Broken("the peer reads nothing of the answers that it asks for".to_owned());
        }
        self.bytes.extend_from_slice(&bytes[written..]);
        Wrote::Some
    }

    /// Sends what waits, as far as there is room.
    pub(super) fn flush(&mut self) -> Wrote {
        while !self.is_empty() {
            match self.send_waiting() {
                Ok(0) => {
                    if self.sent > self.bytes.len() / 2 {
                        self.bytes.drain(..self.sent);
                        self.sent = 0;
                    }
                    return Wrote::Some;
                }
                Ok(len) => self.sent += len,
                Err(failed) => {
                    self.bytes = Vec::new();
                    self.sent = 0;
                    return failed;
                }
            }
        }
        self.bytes = Vec::new();
        self.sent = 0;
        Wrote::All
    }

    fn send_waiting(&mut self) -> Result<usize, Wrote> {
        let bytes = std::mem::take(&mut self.bytes);
        let sent = self.send(&bytes[self.sent..]);
        self.bytes = bytes;
        sent
    }

    /// How many bytes the kernel takes now; 0 where it has no room.
    fn send(&mut self, bytes: &[u8]) -> Result<usize, Wrote> {
        loop {
            let error = match message::send(self.socket.as_fd(), bytes) {
                Ok(len) => return Ok(len),
                Err(error) => error,
            };
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EAGAIN) => return Ok(0),
                _ if is_memory(&error) => return Ok(0),
                Some(code @ (libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN | libc::ESHUTDOWN)) => {
                    // EPIPE where the peer's FIN came before its reset.
                    self.reset |= code == libc::ECONNRESET;
                    return Err(Wrote::Gone);
                }
                _ => return Err(Wrote::Broken(error.to_string())),
            }
        }
    }
}

/// What OpenSSL reads from and writes to. Trusted code (it is called from C): a read gives bytes that were
/// fed or WouldBlock, a write takes everything, or fails for good. It takes everything also where the peer
/// is gone: an answer that nobody waits for must not keep what the peer said before from being read.
pub(super) struct StreamIo {
    incoming: Vec<u8>,
    /// How many of them are read.
    read: usize,
    pub(super) pending: Pending,
}

impl StreamIo {
    pub(super) fn new(pending: Pending) -> Self {
        Self { incoming: Vec::new(), read: 0, pending }
    }

    pub(super) fn is_drained(&self) -> bool {
        self.read == self.incoming.len()
    }

    pub(super) fn feed(&mut self, bytes: &mut Vec<u8>) {
        if self.is_drained() {
            // Memory goes back and forth instead of being copied.
            std::mem::swap(&mut self.incoming, bytes);
            self.read = 0;
        } else {
            self.incoming.extend_from_slice(bytes);
        }
    }

    /// Gives the memory of what was fed back, once all of it is read.
    pub(super) fn give_back(&mut self, bytes: &mut Vec<u8>) {
        if self.is_drained() && bytes.capacity() == 0 {
            *bytes = std::mem::take(&mut self.incoming);
            bytes.clear();
            self.read = 0;
        }
    }
}

impl io::Read for StreamIo {
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

impl io::Write for StreamIo {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.pending.write(bytes) {
            Wrote::All | Wrote::Some | Wrote::Later => Ok(bytes.len()),
            Wrote::Gone => {
                self.pending.failed = Some(Wrote::Gone);
                Ok(bytes.len())
            }
            failed => {
                self.pending.failed = Some(failed);
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

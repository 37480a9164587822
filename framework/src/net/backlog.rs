//! The way out of a connection: its socket, and the bytes that the kernel has no room for.

use std::os::fd::AsFd;
use std::sync::Arc;

use socket2::Socket;

use crate::sys::errno::is_memory;
use crate::sys::message;

/// What became of bytes that were to be written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wrote {
    /// The kernel has them all.
    All,
    /// Some wait for room.
    Some,
    /// The peer has ended the connection; what it said before can still be read.
    Gone,
    /// The connection is of no use any more.
    Broken(String),
}

/// The bytes that wait, in order, and the socket that they wait for.
pub(crate) struct Backlog {
    pub(crate) socket: Arc<Socket>,
    bytes: Vec<u8>,
    /// How many of them are gone.
    sent: usize,
    /// Bytes that may wait at most.
    limit: usize,
    /// A write found that the peer had reset the connection. A later read does not say so again.
    pub(crate) reset: bool,
}

impl Backlog {
    pub(crate) fn new(socket: Arc<Socket>, limit: usize) -> Self {
        Self { socket, bytes: Vec::new(), sent: 0, limit, reset: false }
    }

    /// How many bytes may still be written.
    pub(crate) fn room(&self) -> usize {
        self.limit.saturating_sub(self.len())
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes bytes behind those that wait.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Wrote {
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
    pub(crate) fn flush(&mut self) -> Wrote {
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

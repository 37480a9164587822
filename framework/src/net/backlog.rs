//! The output of a connection: its socket or memory, and the bytes that wait for room there.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use socket2::Socket;

use super::sink::Sink;
use super::tcp::{end, reset};
use crate::error::EndReason;
use crate::sys::epoll::wait_writable;
use crate::sys::errno::is_memory;
use crate::sys::message;

/// Result of a write.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// The kernel has taken all bytes.
    All,
    /// Some bytes wait for room.
    Some,
    /// The peer has ended the connection; buffered data from it can still be read.
    Gone,
    /// The socket has failed, and the connection ends for this reason; buffered data can still be read.
    Failed(EndReason),
    /// The peer has broken the protocol.
    Broken(String),
}

/// The destination of a connection's bytes.
pub(crate) enum Outlet {
    Socket(Arc<Socket>),
    Memory(Arc<Sink>),
}

impl From<Arc<Socket>> for Outlet {
    fn from(socket: Arc<Socket>) -> Self {
        Self::Socket(socket)
    }
}

/// Maximum number of unread bytes that are discarded at the end. A close with unread data resets the connection (RFC
/// 9293 §3.10.4, RFC 2525 §2.17), and the peer then loses what it has not read.
const DISCARD: usize = 1 << 20;

/// The bytes that wait, in order, and their destination.
pub(crate) struct Backlog {
    outlet: Outlet,
    bytes: Vec<u8>,
    /// How many of these bytes have been sent.
    sent: usize,
    /// Maximum number of bytes that may wait.
    limit: usize,
    /// Why the connection has ended, if a write reported it: the kernel does not report it to a later read.
    pub(crate) failed: Option<EndReason>,
}

impl Backlog {
    pub(crate) fn new(outlet: Outlet, limit: usize) -> Self {
        Self { outlet, bytes: Vec::new(), sent: 0, limit, failed: None }
    }

    /// Returns how many more bytes may be written.
    pub(crate) fn room(&self) -> usize {
        self.limit.saturating_sub(self.len())
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes bytes after those that wait.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Written {
        let mut written = 0;
        if self.is_empty() {
            match self.send(bytes) {
                Ok(len) if len == bytes.len() => return Written::All,
                Ok(len) => written = len,
                Err(failed) => return failed,
            }
        }
        if self.len() + bytes.len() - written > self.limit {
            return Written::Broken("the peer does not read the responses that it requests".to_owned());
        }
        self.bytes.extend_from_slice(&bytes[written..]);
        Written::Some
    }

    /// Sends the bytes that wait, as far as there is room.
    pub(crate) fn flush(&mut self) -> Written {
        while !self.is_empty() {
            match self.send_waiting() {
                Ok(0) => {
                    if self.sent > self.bytes.len() / 2 {
                        self.bytes.drain(..self.sent);
                        self.sent = 0;
                    }
                    return Written::Some;
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
        Written::All
    }

    fn send_waiting(&mut self) -> Result<usize, Written> {
        let bytes = std::mem::take(&mut self.bytes);
        let sent = self.send(&bytes[self.sent..]);
        self.bytes = bytes;
        sent
    }

    /// Waits until there may be room. Returns `false` if there is none within the timeout.
    pub(crate) fn wait_for_room(&self, timeout: Duration) -> bool {
        match &self.outlet {
            Outlet::Socket(socket) => wait_writable(socket.as_fd(), Some(timeout)).unwrap_or(false),
            Outlet::Memory(sink) => sink.wait_for_room(timeout),
        }
    }

    /// Makes the next close discard waiting bytes and reset the connection.
    pub(crate) fn reset(&self) {
        if let Outlet::Socket(socket) = &self.outlet {
            reset(socket);
        }
    }

    /// Shuts the connection down: sends a FIN, and discards the unread data of the peer.
    pub(crate) fn shut_down(&self) {
        let Outlet::Socket(socket) = &self.outlet else { return };
        let _ = socket.shutdown(std::net::Shutdown::Write);
        let (mut scrap, mut left) = ([0; 4096], DISCARD);
        while let Ok(len @ 1..) = message::read(socket.as_fd(), &mut scrap, false) {
            left = left.saturating_sub(len);
            if left == 0 {
                break;
            }
        }
    }

    /// Sends bytes and returns how many found room.
    fn send(&mut self, bytes: &[u8]) -> Result<usize, Written> {
        let socket = match &self.outlet {
            Outlet::Socket(socket) => socket,
            Outlet::Memory(sink) => return sink.write(bytes).ok_or(Written::Gone),
        };
        loop {
            let error = match message::send(socket.as_fd(), bytes) {
                Ok(len) => return Ok(len),
                Err(error) => error,
            };
            match error.raw_os_error() {
                Some(libc::EINTR) => continue,
                Some(libc::EAGAIN) => return Ok(0),
                _ if is_memory(&error) => return Ok(0),
                // EPIPE means that the peer's FIN came before its reset, or that an earlier write reported a failure.
                Some(libc::EPIPE | libc::ENOTCONN | libc::ESHUTDOWN) => {}
                _ => self.failed = Some(end(&error)),
            }
            return Err(match &self.failed {
                None | Some(EndReason::Aborted(_)) => Written::Gone,
                Some(reason) => Written::Failed(reason.clone()),
            });
        }
    }
}

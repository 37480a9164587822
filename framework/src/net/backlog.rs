//! The way out of a connection: its socket, or memory, and the bytes that find no room there.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use socket2::Socket;

use super::sink::Sink;
use super::tcp::reset;
use crate::sys::epoll::wait_writable;
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

/// Where the bytes of a connection go.
pub(crate) enum Outlet {
    Socket(Arc<Socket>),
    Memory(Arc<Sink>),
}

impl From<Arc<Socket>> for Outlet {
    fn from(socket: Arc<Socket>) -> Self {
        Self::Socket(socket)
    }
}

/// Unread bytes that are thrown away at the end: a close with unread data resets the connection (RFC 9293
/// §3.10.4, RFC 2525 §2.17), and with it what the peer has not read.
const DISCARD: usize = 1 << 20;

/// The bytes that wait, in order, and where they are to go.
pub(crate) struct Backlog {
    outlet: Outlet,
    bytes: Vec<u8>,
    /// How many of them are gone.
    sent: usize,
    /// Bytes that may wait at most.
    limit: usize,
    /// A write found that the peer had reset the connection. A later read does not say so again.
    pub(crate) reset: bool,
}

impl Backlog {
    pub(crate) fn new(outlet: Outlet, limit: usize) -> Self {
        Self { outlet, bytes: Vec::new(), sent: 0, limit, reset: false }
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
            return Wrote::Broken("the peer does not read the responses that it requests".to_owned());
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

    /// Waits until there may be room; `false`: there is none after so long.
    pub(crate) fn wait_for_room(&self, timeout: Duration) -> bool {
        match &self.outlet {
            Outlet::Socket(socket) => wait_writable(socket.as_fd(), Some(timeout)).unwrap_or(false),
            Outlet::Memory(sink) => sink.wait_for_room(timeout),
        }
    }

    /// What waits is thrown away, and closed next the connection is reset.
    pub(crate) fn reset(&self) {
        if let Outlet::Socket(socket) = &self.outlet {
            reset(socket);
        }
    }

    /// Tells the peer that nothing more comes, and throws away what it still said.
    pub(crate) fn hang_up(&self) {
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

    /// How many bytes find room now.
    fn send(&mut self, bytes: &[u8]) -> Result<usize, Wrote> {
        let socket = match &self.outlet {
            Outlet::Socket(socket) => socket,
            Outlet::Memory(sink) => return sink.write(bytes).ok_or(Wrote::Gone),
        };
        loop {
            let error = match message::send(socket.as_fd(), bytes) {
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

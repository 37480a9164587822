//! A TCP connection that one worker reads.
//!
//! As on UDP, the worker blocks in the read itself, and a thread that needs its attention shuts the socket down for
//! reading. Linux continues to accept the peer's data after that, and TCP_INFO tells whether the end of stream that a
//! read then finds comes from the peer.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::Socket;

use super::epoll_wait::EpollWait;
use super::wait::{Arrival, ReadTimeout, await_readable};
use crate::error::EndReason;
use crate::net::attention::Attention;
use crate::observe::{Counters, bump};
use crate::sys::errno::{is_icmp, is_memory};
use crate::sys::{message, socket::is_tcp_at_end};

/// The worker's end of a connection.
pub(crate) struct TcpTransport {
    socket: Arc<Socket>,
    attention: Arc<Attention>,
    counters: Arc<Counters>,
    timeout: ReadTimeout,
    epoll_wait: EpollWait,
    /// The socket was shut down for reading, so reads no longer block.
    shut: bool,
    /// Output is pending: a wait also ends when there is room for it.
    pub(crate) await_room: bool,
}

impl TcpTransport {
    pub(crate) fn new(socket: Arc<Socket>, attention: Arc<Attention>, counters: Arc<Counters>) -> Self {
        attention.wake_by_shutdown(&socket);
        let (timeout, epoll_wait) = (ReadTimeout::default(), EpollWait::Blocking);
        Self { socket, attention, counters, timeout, epoll_wait, shut: false, await_room: false }
    }

    pub(crate) fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    /// Waits for bytes of the peer: into `first` if that has room, otherwise into `overflow`, which is allocated only
    /// when bytes have arrived. Blocks until `deadline`. Data that has already arrived is delivered even if the
    /// deadline has passed.
    pub(crate) fn recv(
        &mut self,
        first: &mut [u8],
        overflow: &mut Vec<u8>,
        now: Instant,
        deadline: Option<Instant>,
    ) -> Arrival {
        let mut now = now;
        if !self.shut && !self.await_room && self.epoll_wait.return_to_blocking(&self.socket, &self.attention)
        {
            return Arrival::Woken;
        }
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(now));
            let blocking = self.epoll_wait.is_blocking() && !self.await_room && left != Some(Duration::ZERO);
            if blocking {
                self.timeout.set(&self.socket, left);
            }
            if blocking
                && first.is_empty()
                && overflow.capacity() == 0
                && let Some(arrival) = await_readable(&self.socket, left)
            {
                return arrival;
            }
            let read = match first.is_empty() {
                true => message::read_spare(self.socket.as_fd(), overflow, blocking),
                false => message::read(self.socket.as_fd(), first, blocking),
            };
            let nothing = match read {
                Ok(0) => match is_tcp_at_end(&self.socket) {
                    Ok(false) => {
                        self.shut = true;
                        true
                    }
                    Ok(true) => return Arrival::Over(EndReason::ClosedByPeer),
                    Err(error) => return Arrival::Over(end(&error)),
                },
                Ok(len) => return Arrival::Message(len),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if left == Some(Duration::ZERO) {
                        return Arrival::TimedOut;
                    }
                    !blocking
                }
                Err(error) => match self.handle_read_error(&error) {
                    true => false,
                    false => return Arrival::Over(end(&error)),
                },
            };
            if nothing {
                let Self { socket, attention, counters, .. } = self;
                if let Some(arrival) =
                    self.epoll_wait.wait(socket, attention, counters, self.await_room, left)
                {
                    return arrival;
                }
            }
            now = Instant::now();
        }
    }

    /// Handles an error of a read. Returns whether the caller should read again; otherwise the connection has failed.
    fn handle_read_error(&self, error: &io::Error) -> bool {
        if is_memory(error) {
            bump(&self.counters.out_of_memory);
            std::thread::yield_now();
            return true;
        }
        error.kind() == io::ErrorKind::Interrupted
    }
}

/// Returns why a connection has ended whose read or write fails with this error (tcp(7)).
pub(crate) fn end(error: &io::Error) -> EndReason {
    match error.raw_os_error() {
        Some(libc::ECONNRESET) => was_reset(),
        // A reset after the peer's FIN: its program had ended when it received our data.
        Some(libc::EPIPE) => EndReason::ClosedByPeer,
        // The peer did not answer until the kernel gave up. It then reports the last ICMP message or failed look-up of
        // a route, if there was one (RFC 1122 §4.2.3.9); EINVAL is a blackhole route (ip-route(8)).
        Some(libc::ETIMEDOUT | libc::EINVAL) => EndReason::Unreachable,
        _ if is_icmp(error) => EndReason::Unreachable,
        _ => EndReason::Io(error.kind()),
    }
}

/// Returns the reason for a connection that the peer reset (RFC 9293 §3.5.2).
pub(crate) fn was_reset() -> EndReason {
    EndReason::Aborted("the connection was reset".to_owned())
}

/// Makes the next close reset the connection, which informs the peer at once and leaves no TIME-WAIT.
pub(crate) fn reset(socket: &Socket) {
    let _ = socket.set_linger(Some(Duration::ZERO));
}

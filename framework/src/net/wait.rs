//! Common parts of waiting on sockets.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use socket2::Socket;

use super::clock::later;
use crate::address::Scheme;
use crate::error::EndReason;
use crate::sctp::Notification;
use crate::sys::epoll::wait_readable;

/// Returns the deadline that lies `timeout` from now; if the clock cannot represent that, a time a year away.
pub(crate) fn after(timeout: Duration) -> Instant {
    later(Instant::now(), timeout)
}

/// What a socket needs to know about its association.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AssociationInfo {
    pub(crate) scheme: Scheme,
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    /// The random of the ClientHello that began the association; zeros if there was none.
    pub(crate) hello_random: [u8; 32],
}

/// Result of a wait.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// A message of the peer (a datagram, an SCTP message, a piece of a stream) with this many bytes.
    Message(usize),
    /// The end of a message that was too long and is lost.
    TooLong,
    /// A notification that the handler has subscribed to.
    Notification(Box<Notification>),
    /// All sent data is acknowledged, or a signal was raised.
    Dry,
    /// A signal may have been raised: check the signals, and wait again.
    Woken,
    /// The deadline has passed.
    TimedOut,
    /// The association has ended.
    Over(EndReason),
}

/// The current value of SO_RCVTIMEO; `None` means no timeout.
#[derive(Debug, Default)]
pub(super) struct ReadTimeout(Option<Duration>);

impl ReadTimeout {
    /// Sets SO_RCVTIMEO unless its value is close enough. The kernel counts in ticks of a few milliseconds anyway, and
    /// a timeout that fires early only causes another iteration.
    pub(super) fn set(&mut self, socket: &Socket, wanted: Option<Duration>) {
        let near = match (self.0, wanted) {
            (None, None) => true,
            (Some(set), Some(wanted)) => set.abs_diff(wanted) <= (wanted / 256).max(Duration::from_millis(4)),
            _ => false,
        };
        if !near && socket.set_read_timeout(wanted).is_ok() {
            self.0 = wanted;
        }
    }
}

/// Waits until the socket is readable, if there is no buffer to read into. Returns `None` if it may be readable.
pub(super) fn await_readable(socket: &Socket, left: Option<Duration>) -> Option<Arrival> {
    match wait_readable(socket.as_fd(), left) {
        Ok(true) => None,
        Ok(false) => Some(Arrival::TimedOut),
        Err(error) => Some(Arrival::Over(EndReason::Io(error.kind()))),
    }
}

/// Copies a message to where a read would have put it: into `first`, and the rest into `overflow`. Returns its length.
pub(super) fn place(message: &[u8], first: &mut [u8], overflow: &mut Vec<u8>) -> usize {
    let (head, rest) = message.split_at(message.len().min(first.len()));
    first[..head.len()].copy_from_slice(head);
    overflow.clear();
    overflow.extend_from_slice(rest);
    message.len()
}

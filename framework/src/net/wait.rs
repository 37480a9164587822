//! What waits on sockets have in common.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use socket2::Socket;

use super::clock::later;
use crate::address::Scheme;
use crate::error::EndReason;
use crate::sctp::Notification;
use crate::sys::epoll::wait_readable;

/// The deadline so long from now; one that the clock cannot express is a year away.
pub(crate) fn after(timeout: Duration) -> Instant {
    later(Instant::now(), timeout)
}

/// What a socket needs to know of its association.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) scheme: Scheme,
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    /// The random of the ClientHello that it began with; zeroes without one.
    pub(crate) hello_random: [u8; 32],
}

/// What a wait ended with.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// A message of the peer (a datagram, an SCTP message, a piece of a stream), of so many bytes.
    Message(usize),
    /// The end of a message that was too long and is lost.
    TooLong,
    /// Something that the handler asked to be told of.
    Notification(Box<Notification>),
    /// Everything that was sent is acknowledged, or somebody raised a signal.
    Dry,
    /// Somebody raised a signal, or nothing at all: look, and wait again.
    Woken,
    /// The deadline is over.
    TimedOut,
    /// The socket is of no use any more.
    Over(EndReason),
}

/// SO_RCVTIMEO as it is set; `None` is for ever.
#[derive(Debug, Default)]
pub(super) struct ReadTimeout(Option<Duration>);

impl ReadTimeout {
    /// Sets SO_RCVTIMEO unless it is as good as what is wanted. The kernel counts in ticks of a
    /// few milliseconds anyway; a timeout that fires early only makes the loop go round.
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

/// Waits for something to read where there is nothing to read to; `None`: there may be something.
pub(super) fn await_readable(socket: &Socket, left: Option<Duration>) -> Option<Arrival> {
    match wait_readable(socket.as_fd(), left) {
        Ok(true) => None,
        Ok(false) => Some(Arrival::TimedOut),
        Err(error) => Some(Arrival::Over(EndReason::Io(error.kind()))),
    }
}

/// Puts a message where a read would have: into `first`, and what has no room there into
/// `overflow`. Returns its length.
pub(super) fn place(message: &[u8], first: &mut [u8], overflow: &mut Vec<u8>) -> usize {
    let (head, rest) = message.split_at(message.len().min(first.len()));
    first[..head.len()].copy_from_slice(head);
    overflow.clear();
    overflow.extend_from_slice(rest);
    message.len()
}

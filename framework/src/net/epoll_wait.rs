//! Waiting by epoll, for sockets whose reads cannot block: they were shut down for reading to wake the worker, or the
//! worker also waits for room to send.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use socket2::Socket;

use super::wait::Arrival;
use crate::error::EndReason;
use crate::net::attention::Attention;
use crate::observe::{Counters, bump};
use crate::sys::epoll::{EITHER_EDGE, Epoll, READABLE_EDGE};

/// Retry interval when no descriptor is available for an epoll instance.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// How a worker waits.
pub(super) enum EpollWait {
    /// In blocking reads.
    Blocking,
    /// By epoll, for these events.
    Epoll(Arc<Epoll>, u32),
    /// No descriptor was available for an epoll instance; retried after each interval.
    NoDescriptor,
}

impl EpollWait {
    /// Returns whether reads block.
    pub(super) fn is_blocking(&self) -> bool {
        matches!(self, Self::Blocking)
    }

    /// Returns to blocking reads. Returns `true` if the worker waited by epoll before: signals may have been raised
    /// meanwhile, and the caller must check them.
    pub(super) fn return_to_blocking(&mut self, socket: &Arc<Socket>, attention: &Attention) -> bool {
        let was_blocking = self.is_blocking();
        if !was_blocking {
            *self = Self::Blocking;
            attention.wake_by_shutdown(socket);
        }
        !was_blocking
    }

    /// Waits until the socket is readable or, with `room`, writable, at most for `left`. The caller then checks the
    /// signals and reads again. Returns `None` if nothing happened.
    pub(super) fn wait(
        &mut self,
        socket: &Arc<Socket>,
        attention: &Attention,
        counters: &Counters,
        room: bool,
        left: Option<Duration>,
    ) -> Option<Arrival> {
        if left == Some(Duration::ZERO) {
            return Some(Arrival::TimedOut);
        }
        let wanted = if room { EITHER_EDGE } else { READABLE_EDGE };
        match self {
            Self::Epoll(epoll, events) if *events == wanted => {
                let mut ready = Vec::new();
                return match epoll.wait(&mut ready, left) {
                    Err(error) => Some(Arrival::Over(EndReason::Io(error.kind()))),
                    Ok(()) if ready.is_empty() => None,
                    Ok(()) => Some(Arrival::Woken),
                };
            }
            Self::Epoll(epoll, events) => {
                *events = wanted;
                let _ = epoll.modify(socket.as_fd(), wanted, 0);
                attention.wake_by_epoll(socket, epoll, wanted);
            }
            Self::Blocking | Self::NoDescriptor => self.begin(socket, attention, counters, wanted, left),
        }
        // An event may have occurred before the registration.
        Some(Arrival::Woken)
    }

    fn begin(
        &mut self,
        socket: &Arc<Socket>,
        attention: &Attention,
        counters: &Counters,
        wanted: u32,
        left: Option<Duration>,
    ) {
        let epoll = Epoll::new().and_then(|epoll| {
            epoll.add(socket.as_fd(), wanted, 0)?;
            Ok(Arc::new(epoll))
        });
        match epoll {
            Ok(epoll) => {
                attention.wake_by_epoll(socket, &epoll, wanted);
                *self = Self::Epoll(epoll, wanted);
            }
            Err(_) => {
                bump(&counters.out_of_descriptors);
                if matches!(self, Self::NoDescriptor) {
                    std::thread::park_timeout(left.map_or(RETRY_INTERVAL, |left| left.min(RETRY_INTERVAL)));
                }
                *self = Self::NoDescriptor;
            }
        }
    }
}

//! [epoll(7)](https://man7.org/linux/man-pages/man7/epoll.7.html).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::cvt;

/// Readable, level-triggered.
pub(crate) const READABLE: u32 = libc::EPOLLIN as u32;
/// Writable, level-triggered.
pub(crate) const WRITABLE: u32 = libc::EPOLLOUT as u32;
/// Readable or writable, level-triggered.
pub(crate) const READABLE_OR_WRITABLE: u32 = (libc::EPOLLIN | libc::EPOLLOUT) as u32;
/// Readable, edge-triggered: one event for each arrival.
pub(crate) const READABLE_EDGE: u32 = (libc::EPOLLIN | libc::EPOLLET) as u32;
/// Readable or writable, edge-triggered: one event for each change.
pub(crate) const EITHER_EDGE: u32 = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLET) as u32;

/// An epoll instance.
#[derive(Debug)]
pub(crate) struct Epoll(OwnedFd);

impl Epoll {
    /// Calls epoll_create1(2) with EPOLL_CLOEXEC.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: the call takes no pointers.
        let fd = cvt(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the kernel has just made this descriptor, and nothing else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Calls epoll_ctl(2) with EPOLL_CTL_ADD.
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, events: u32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, events, token)
    }

    /// Calls epoll_ctl(2) with EPOLL_CTL_MOD, which also queues the event again if its condition holds.
    pub(crate) fn modify(&self, fd: BorrowedFd<'_>, events: u32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, events, token)
    }

    /// Calls epoll_ctl(2) with EPOLL_CTL_DEL, which is needed if another process has the same socket open.
    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) {
        // Fails for a descriptor that is not registered.
        let _ = self.control(libc::EPOLL_CTL_DEL, fd, 0, 0);
    }

    fn control(&self, op: i32, fd: BorrowedFd<'_>, events: u32, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: token };
        let fd = fd.as_raw_fd();
        // SAFETY: both descriptors are open for the call, `event` is valid for reads.
        cvt(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), op, fd, &mut event) }).map(drop)
    }

    /// Blocks until an event or the timeout (`None`: without a limit), and appends the tokens of ready descriptors to
    /// `tokens`. Returns without tokens if a signal interrupts it.
    pub(crate) fn wait(&self, tokens: &mut Vec<u64>, timeout: Option<Duration>) -> io::Result<()> {
        const MAX_EVENTS: usize = 64;
        // In a model nothing may block.
        #[cfg(shuttle)]
        if timeout != Some(Duration::ZERO) {
            let began = std::time::Instant::now();
            return super::sync::model::poll(|| match self.wait(tokens, Some(Duration::ZERO)) {
                Ok(()) if tokens.is_empty() && timeout.is_none_or(|most| began.elapsed() < most) => None,
                done => Some(done),
            });
        }
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; MAX_EVENTS];
        // SAFETY: `events` has room for MAX_EVENTS entries.
        let ready = cvt(unsafe {
            libc::epoll_wait(
                self.0.as_raw_fd(),
                events.as_mut_ptr(),
                MAX_EVENTS as libc::c_int,
                millis(timeout),
            )
        });
        match ready {
            Ok(count) => tokens.extend(events[..count as usize].iter().map(|event| event.u64)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until `fd` is writable (POLLOUT) or the timeout has passed; returns `false` in the latter case. See
/// [poll(2)](https://man7.org/linux/man-pages/man2/poll.2.html). Blocks.
pub(crate) fn wait_writable(fd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<bool> {
    wait_for(fd, libc::POLLOUT, timeout)
}

/// Waits until `fd` is readable (POLLIN) or the timeout has passed; returns `false` in the latter case. See
/// [poll(2)](https://man7.org/linux/man-pages/man2/poll.2.html). Blocks.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<bool> {
    wait_for(fd, libc::POLLIN, timeout)
}

/// Returns whether a datagram socket has been shut down for reading.
pub(crate) fn is_shut_down(socket: BorrowedFd<'_>) -> bool {
    poll(socket, libc::POLLRDHUP, Some(Duration::ZERO)).is_ok_and(|found| found & libc::POLLRDHUP != 0)
}

fn wait_for(fd: BorrowedFd<'_>, events: libc::c_short, timeout: Option<Duration>) -> io::Result<bool> {
    match poll(fd, events, timeout) {
        Ok(found) => Ok(found != 0),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
        Err(error) => Err(error),
    }
}

/// Waits for one of these events. Returns the events that were found, also errors, or 0 after the timeout.
fn poll(fd: BorrowedFd<'_>, events: libc::c_short, timeout: Option<Duration>) -> io::Result<libc::c_short> {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
    // SAFETY: one valid pollfd for a count of one.
    cvt(unsafe { libc::poll(&mut poll, 1, millis(timeout)) })?;
    Ok(poll.revents)
}

/// Returns milliseconds, rounded up so that a wait never ends before its deadline; -1 means no limit.
fn millis(timeout: Option<Duration>) -> libc::c_int {
    match timeout {
        None => -1,
        Some(timeout) => {
            let millis = timeout.as_nanos().div_ceil(1_000_000);
            libc::c_int::try_from(millis).unwrap_or(libc::c_int::MAX)
        }
    }
}

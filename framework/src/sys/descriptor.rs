//! Descriptors that a process is started with.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use super::cvt;

/// [fcntl(2)](https://man7.org/linux/man-pages/man2/fcntl.2.html), F_DUPFD_CLOEXEC: returns another descriptor for what
/// this number stands for.
pub(crate) fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers and touches no memory. It closes nothing, so whoever owns the number keeps it.
    let duplicate = cvt(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) })?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(duplicate) })
}

//! Descriptors that a process inherits.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use super::cvt;

/// Duplicates the descriptor with this number ([fcntl(2)](https://man7.org/linux/man-pages/man2/fcntl.2.html),
/// F_DUPFD_CLOEXEC).
pub(crate) fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers and accesses no memory. It closes nothing, so the owner of the number keeps it.
    let duplicate = cvt(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) })?;
    // SAFETY: the kernel has just made this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(duplicate) })
}

//! System calls and OpenSSL calls that no crate binds: one function, one call, no policy.
//!
//! This is the only module in which `unsafe` is allowed. All functions here obey this contract: a failing call returns
//! an [`std::io::Error`] with the kernel's errno; descriptors are `OwnedFd` or `BorrowedFd`, never integers; no
//! function blocks unless its name or its documentation says so.
#![allow(unsafe_code)]

pub(crate) mod batch;
pub(crate) mod control;
pub(crate) mod descriptor;
pub(crate) mod epoll;
pub(crate) mod errno;
pub(crate) mod eventfd;
pub(crate) mod footprint;
pub(crate) mod limits;
pub(crate) mod message;
pub(crate) mod ossl;
pub(crate) mod raw_keys;
pub(crate) mod sctp;
pub(crate) mod socket;
pub(crate) mod sync;
pub(crate) mod thread;
pub(crate) mod tickets;
pub(crate) mod unix;

use std::ffi::CString;
use std::io;

/// Converts the `-1` of a system call to the errno of the failure.
pub(crate) fn cvt(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Converts like [`cvt`], for calls that return a size.
pub(crate) fn cvt_size(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Returns the index of the named network interface; see
/// [if_nametoindex(3)](https://man7.org/linux/man-pages/man3/if_nametoindex.3.html).
pub(crate) fn if_nametoindex(name: &str) -> io::Result<u32> {
    let name = CString::new(name).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: `name` is a NUL-terminated string that outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

//! System calls for SCTP: options, [sendmsg(2)](https://man7.org/linux/man-pages/man2/sendmsg.2.html) and
//! [recvmsg(2)](https://man7.org/linux/man-pages/man2/recvmsg.2.html) with SCTP's control messages, and the functions
//! that Linux offers as socket options and other systems in a C library (`sctp_bindx` and others, RFC 6458 §9).

pub(crate) mod abi;
pub(crate) mod control;

use std::io;
use std::mem::{self, MaybeUninit, size_of};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use socket2::SockAddr;

use self::abi::*;
use self::control::SendControl;
pub(crate) use self::control::milliseconds;
use super::message::{DATAGRAM_MAX, Raw, recvmsg};
use super::{cvt, cvt_size};
use crate::sctp::sockaddr;
use crate::sctp::{MessageInfo, NextInfo, SendInfo};

/// Result of [`recv`].
#[derive(Debug)]
pub(crate) struct Received {
    /// The number of bytes of the message, of a part of it, or of the notification. 0 without a notification means that
    /// the socket was shut down for reading.
    pub(crate) len: usize,
    /// The peer's address from which it came.
    pub(crate) source: Option<SocketAddr>,
    /// MSG_EOR: the message is complete.
    pub(crate) complete: bool,
    /// MSG_NOTIFICATION: this is a notification from the kernel.
    pub(crate) notification: bool,
    /// SCTP_RCVINFO and the association, if the socket requests it (SCTP_RECVRCVINFO).
    pub(crate) info: Option<(MessageInfo, i32)>,
    /// SCTP_NXTINFO, if the socket requests it (SCTP_RECVNXTINFO) and another message has arrived.
    pub(crate) next: Option<NextInfo>,
}

/// Receives one message or notification, or a part of it, into `first`, and the rest into the spare capacity of
/// `overflow`. `overflow` is cleared first, gets room for [`DATAGRAM_MAX`] bytes, and holds exactly the rest
/// afterwards. Bytes that fit into neither come with the next call. Blocks according to the socket's mode and
/// SO_RCVTIMEO (EAGAIN after the timeout), or not at all if `wait` is false.
pub(crate) fn recv(
    socket: BorrowedFd<'_>,
    first: &mut [u8],
    overflow: &mut Vec<u8>,
    wait: bool,
) -> io::Result<Received> {
    overflow.clear();
    overflow.reserve(DATAGRAM_MAX);
    let received = recv_into(socket, first, overflow.spare_capacity_mut(), wait)?;
    // SAFETY: the kernel wrote `len` bytes, first into `first`, then into the spare capacity.
    unsafe { overflow.set_len(received.len.saturating_sub(first.len())) };
    Ok(received)
}

/// Receives like [`recv`], with one buffer.
pub(crate) fn recv_one(socket: BorrowedFd<'_>, buffer: &mut [u8], wait: bool) -> io::Result<Received> {
    recv_into(socket, buffer, &mut [], wait)
}

fn recv_into(
    socket: BorrowedFd<'_>,
    first: &mut [u8],
    spare: &mut [MaybeUninit<u8>],
    wait: bool,
) -> io::Result<Received> {
    let Raw { len, source, flags, control } = recvmsg(socket, first, spare, wait, control::receive_info)?;
    Ok(Received {
        len,
        source,
        complete: flags & libc::MSG_EOR != 0,
        notification: flags & MSG_NOTIFICATION != 0,
        info: control.message,
        next: control.next,
    })
}

/// Sends one message, which must not be empty, without blocking and without SIGPIPE. `association` selects the peer on
/// a one-to-many socket and has no meaning on others. `flags` are SCTP_EOF (which requires an empty message),
/// SCTP_ABORT (the message is the reason) and others.
///
/// SCTP_SNDINFO is always passed, even if it has the default values, because otherwise the kernel would use the values
/// of SCTP_DEFAULT_SNDINFO.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    payload: &[u8],
    association: i32,
    info: &SendInfo,
    flags: u16,
) -> io::Result<usize> {
    send_control(socket, payload, None, &SendControl::new(association, info, flags))
}

/// Sends like [`send`], authenticated with the key of this number (SCTP_AUTHINFO, RFC 6458 §5.3.8).
pub(crate) fn send_with_key(
    socket: BorrowedFd<'_>,
    payload: &[u8],
    association: i32,
    info: &SendInfo,
    key: u16,
) -> io::Result<usize> {
    let mut control = SendControl::new(association, info, 0);
    control.key(key);
    send_control(socket, payload, None, &control)
}

/// How many additional addresses [`send_to`] accepts.
const OTHERS: usize = 5;

/// Sends like [`send`] to the peer with the address `to`. A one-to-many socket first associates with the peer if
/// necessary; `others` are then up to five additional addresses of the peer (SCTP_DSTADDRV4, SCTP_DSTADDRV6, RFC 6458
/// §5.3.9).
pub(crate) fn send_to(
    socket: BorrowedFd<'_>,
    payload: &[u8],
    to: SocketAddr,
    others: &[IpAddr],
    info: &SendInfo,
    flags: u16,
) -> io::Result<usize> {
    let mut control = SendControl::new(0, info, flags);
    if others.len() > OTHERS || !others.iter().all(|&other| control.destination(other)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    send_control(socket, payload, Some(&SockAddr::from(to)), &control)
}

fn send_control(
    socket: BorrowedFd<'_>,
    payload: &[u8],
    to: Option<&SockAddr>,
    control: &SendControl,
) -> io::Result<usize> {
    let mut part = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
    let control = control.as_bytes();
    // SAFETY: msghdr is plain data, all zeroes is a valid value of it.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    if let Some(to) = to {
        header.msg_name = to.as_ptr().cast_mut().cast();
        header.msg_namelen = to.len();
    }
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_ptr().cast_mut().cast();
    header.msg_controllen = control.len() as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: every pointer in `header` is to memory of the stated length that outlives the call, and
    // sendmsg writes to none of it.
    cvt_size(unsafe { libc::sendmsg(socket.as_raw_fd(), &header, flags) })
}

/// Calls [setsockopt(2)](https://man7.org/linux/man-pages/man2/setsockopt.2.html) at the level of SCTP.
pub(crate) fn set<T: Plain>(socket: BorrowedFd<'_>, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of `value`.
    unsafe { set_raw(socket, name, (&raw const *value).cast(), size_of::<T>()) }
}

/// Sets an option like [`set`], for options of variable length.
pub(crate) fn set_bytes(socket: BorrowedFd<'_>, name: i32, value: &[u8]) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of a slice.
    unsafe { set_raw(socket, name, value.as_ptr(), value.len()) }
}

/// # Safety
///
/// `value` points to `len` bytes.
unsafe fn set_raw(socket: BorrowedFd<'_>, name: i32, value: *const u8, len: usize) -> io::Result<()> {
    let len = libc::socklen_t::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the caller ensures the pointer and the length.
    cvt(unsafe { libc::setsockopt(socket.as_raw_fd(), IPPROTO_SCTP, name, value.cast(), len) }).map(drop)
}

/// Calls [getsockopt(2)](https://man7.org/linux/man-pages/man2/getsockopt.2.html) at the level of SCTP. `question` is
/// the kernel's input, such as the association; the result is the answer.
pub(crate) fn get<T: Plain>(socket: BorrowedFd<'_>, name: i32, mut question: T) -> io::Result<T> {
    // SAFETY: the pointer and the length are those of `question`, for which any bytes are valid.
    unsafe { get_raw(socket, name, (&raw mut question).cast(), size_of::<T>()) }?;
    Ok(question)
}

/// Reads an option like [`get`], for options of variable length. Returns how many bytes of `buffer` are the answer.
pub(crate) fn get_bytes(socket: BorrowedFd<'_>, name: i32, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the pointer and the length are those of a slice.
    let (_, len) = unsafe { get_raw(socket, name, buffer.as_mut_ptr(), buffer.len()) }?;
    Ok(len)
}

/// Reads an option like [`get_bytes`], with a buffer that grows up to a MiB while the kernel finds it too small (ENOMEM
/// or EINVAL, as given in `too_small`). The answer replaces `question` and is followed by zeros. Only the count in the
/// answer is reliable, not its length, because for SCTP_GET_LOCAL_ADDRS Linux omits the header from the length.
pub(crate) fn get_growing(
    socket: BorrowedFd<'_>,
    name: i32,
    question: &[u8],
    too_small: i32,
) -> io::Result<Vec<u8>> {
    let mut buffer = question.to_vec();
    for size in [1 << 10, 1 << 14, 1 << 17, 1 << 20] {
        buffer.resize(size, 0);
        match get_bytes(socket, name, &mut buffer) {
            Ok(_) => return Ok(buffer),
            Err(error) if error.raw_os_error() == Some(too_small) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::from_raw_os_error(too_small))
}

/// Returns the result of the call, and the length that the kernel wrote.
///
/// # Safety
///
/// `value` points to `len` bytes, which the kernel may overwrite with any.
unsafe fn get_raw(socket: BorrowedFd<'_>, name: i32, value: *mut u8, len: usize) -> io::Result<(i32, usize)> {
    let room = len;
    let mut len = libc::socklen_t::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the caller ensures the pointer and the length.
    let result =
        cvt(unsafe { libc::getsockopt(socket.as_raw_fd(), IPPROTO_SCTP, name, value.cast(), &mut len) })?;
    Ok((result, (len as usize).min(room)))
}

/// Adds local addresses on the same port: `sctp_bindx` with SCTP_BINDX_ADD_ADDR (RFC 6458 §9.1). The peers of
/// established associations are informed (RFC 5061) if both sides have enabled that.
pub(crate) fn bind_add(socket: BorrowedFd<'_>, addresses: &[SocketAddr]) -> io::Result<()> {
    set_bytes(socket, SCTP_SOCKOPT_BINDX_ADD, &sockaddr::pack(addresses))
}

/// Removes local addresses: `sctp_bindx` with SCTP_BINDX_REM_ADDR (RFC 6458 §9.1).
pub(crate) fn bind_remove(socket: BorrowedFd<'_>, addresses: &[SocketAddr]) -> io::Result<()> {
    set_bytes(socket, SCTP_SOCKOPT_BINDX_REM, &sockaddr::pack(addresses))
}

/// Associates with the peer that has all these addresses: `sctp_connectx` (RFC 6458 §9.9). Blocks according to the
/// socket's mode and SO_SNDTIMEO. Returns the association and whether it is established; on a non-blocking socket it is
/// not established yet.
pub(crate) fn connect(socket: BorrowedFd<'_>, addresses: &[SocketAddr]) -> io::Result<(i32, bool)> {
    let packed = sockaddr::pack(addresses);
    let bytes = i32::try_from(packed.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut argument = sctp_getaddrs_old { assoc_id: 0, addr_num: bytes, addrs: packed.as_ptr() };
    let len = size_of::<sctp_getaddrs_old>();
    // SAFETY: the pointer and the length are those of `argument`, which points to `packed`; the kernel writes only the
    // association, and `argument` is not used as pointers afterwards.
    match unsafe { get_raw(socket, SCTP_SOCKOPT_CONNECTX3, (&raw mut argument).cast(), len) } {
        Ok(_) => Ok((argument.assoc_id, true)),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok((argument.assoc_id, false)),
        Err(error) => Err(error),
    }
}

/// Moves the association to a socket of its own: `sctp_peeloff_flags` with SOCK_CLOEXEC (RFC 6458 §9.2). If the kernel
/// has only SCTP_SOCKOPT_PEELOFF, this uses it and [fcntl(2)](https://man7.org/linux/man-pages/man2/fcntl.2.html).
///
/// If the descriptor table is full, this fails with EMFILE *and destroys the association*.
pub(crate) fn peel_off(socket: BorrowedFd<'_>, association: i32) -> io::Result<OwnedFd> {
    let p_arg = sctp_peeloff_arg_t { associd: association, sd: -1 };
    let question = sctp_peeloff_flags_arg_t { p_arg, flags: libc::SOCK_CLOEXEC.cast_unsigned() };
    match get(socket, SCTP_SOCKOPT_PEELOFF_FLAGS, question) {
        // SAFETY: the kernel has just made this descriptor, and nothing else owns it.
        Ok(answer) => Ok(unsafe { OwnedFd::from_raw_fd(answer.p_arg.sd) }),
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
            let answer = get(socket, SCTP_SOCKOPT_PEELOFF, p_arg)?;
            // SAFETY: as above.
            let peeled = unsafe { OwnedFd::from_raw_fd(answer.sd) };
            // SAFETY: the call takes no pointers.
            cvt(unsafe { libc::fcntl(peeled.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) })?;
            Ok(peeled)
        }
        Err(error) => Err(error),
    }
}

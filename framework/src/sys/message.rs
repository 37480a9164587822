//! Receiving and sending single datagrams: [recvmsg(2)](https://man7.org/linux/man-pages/man2/recvmsg.2.html),
//! [send(2)](https://man7.org/linux/man-pages/man2/send.2.html).

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;

use socket2::{SockAddr, SockAddrStorage};

use super::control::{self, ControlBuffer, PacketInfo, SPACE};
use super::{cvt, cvt_size};
use crate::address::canonical::canonical;

/// Slightly more than the longest datagram, so that nothing is ever truncated.
pub(crate) const DATAGRAM_MAX: usize = 65_536;

/// Result of [`recv`].
#[derive(Debug)]
pub(crate) struct Received {
    /// The number of bytes of the datagram.
    pub(crate) len: usize,
    /// `None` if there was no datagram because the socket was shut down for reading. An empty datagram has a source.
    pub(crate) source: Option<SocketAddr>,
    /// The destination address, if the socket requests packet information.
    pub(crate) info: PacketInfo,
}

/// Receives one datagram into `first`, and the rest into the spare capacity of `overflow`. `overflow` is cleared first,
/// gets room for any datagram, and holds exactly the rest afterwards. Blocks according to the socket's mode and
/// SO_RCVTIMEO (EAGAIN after the timeout), or not at all if `wait` is false.
pub(crate) fn recv(
    socket: BorrowedFd<'_>,
    first: &mut [u8],
    overflow: &mut Vec<u8>,
    wait: bool,
) -> io::Result<Received> {
    // In a model nothing may block.
    #[cfg(shuttle)]
    if wait {
        return super::sync::model::poll(|| match recv(socket, first, overflow, false) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            received => Some(received),
        });
    }
    overflow.clear();
    overflow.reserve(DATAGRAM_MAX);
    let received = recvmsg(socket, first, overflow.spare_capacity_mut(), wait, control::packet_info)?;
    // SAFETY: the kernel wrote `len` bytes, first into `first`, then into the spare capacity.
    unsafe { overflow.set_len(received.len.saturating_sub(first.len())) };
    Ok(Received { len: received.len, source: received.source, info: received.control })
}

/// Result of [`recvmsg`], with its parsed control messages.
pub(super) struct Raw<C> {
    /// The number of bytes that were written.
    pub(super) len: usize,
    /// The sender, if the kernel reports it.
    pub(super) source: Option<SocketAddr>,
    /// MSG_EOR and similar flags.
    pub(super) flags: libc::c_int,
    pub(super) control: C,
}

/// Calls recvmsg(2) with two consecutive buffers. Blocks according to the socket's mode and SO_RCVTIMEO, or not at all
/// if `wait` is false.
pub(super) fn recvmsg<C>(
    socket: BorrowedFd<'_>,
    first: &mut [u8],
    spare: &mut [MaybeUninit<u8>],
    wait: bool,
    read_control: impl FnOnce(&[u8]) -> C,
) -> io::Result<Raw<C>> {
    let mut parts = [
        libc::iovec { iov_base: first.as_mut_ptr().cast(), iov_len: first.len() },
        libc::iovec { iov_base: spare.as_mut_ptr().cast(), iov_len: spare.len() },
    ];
    // Zeroed, because the kernel counts the padding after a control message without writing it (`put_cmsg`).
    let mut control = ControlBuffer([0; SPACE]);
    let mut name = SockAddrStorage::zeroed();
    // SAFETY: msghdr is plain data, all zeroes is a valid value of it.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_name = (&raw mut name).cast();
    header.msg_namelen = name.size_of();
    header.msg_iov = parts.as_mut_ptr();
    header.msg_iovlen = parts.len() as _;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = SPACE as _;
    let flags = if wait { 0 } else { libc::MSG_DONTWAIT };
    // SAFETY: every pointer in `header` is to memory of the stated length that outlives the call.
    let len = cvt_size(unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, flags) })?;
    let source = (header.msg_namelen > 0).then(|| socket_address(name, header.msg_namelen)).flatten();
    let used = (header.msg_controllen as usize).min(SPACE);
    Ok(Raw { len, source, flags: header.msg_flags, control: read_control(&control.0[..used]) })
}

/// Returns the [`canonical`] form of the address in `name`.
pub(super) fn socket_address(name: SockAddrStorage, len: libc::socklen_t) -> Option<SocketAddr> {
    // SAFETY: the kernel wrote an address of this length into the storage.
    unsafe { SockAddr::new(name, len) }.as_socket().map(canonical)
}

/// Sends one datagram to this address, on a connected or unconnected socket, without blocking and without SIGPIPE.
pub(crate) fn send_to(socket: BorrowedFd<'_>, to: SocketAddr, datagram: &[u8]) -> io::Result<usize> {
    let (to, flags) = (SockAddr::from(to), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
    // SAFETY: the pointers and the lengths are those of a slice and of an address, which outlive the call.
    cvt_size(unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            datagram.as_ptr().cast(),
            datagram.len(),
            flags,
            to.as_ptr().cast(),
            to.len(),
        )
    })
}

/// Sends one datagram on a connected socket, without blocking and without SIGPIPE.
pub(crate) fn send(socket: BorrowedFd<'_>, datagram: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the pointer and the length are those of a slice; no address is given.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_sendto,
            socket.as_raw_fd(),
            datagram.as_ptr(),
            datagram.len(),
            flags,
            ptr::null::<libc::sockaddr>(),
            0,
        )
    };
    cvt_size(sent as libc::ssize_t)
}

/// Reads bytes of a stream into `buffer`, which is not empty; 0 means the end of the stream, or a shutdown for reading.
/// Blocks according to the socket's mode and SO_RCVTIMEO (EAGAIN after the timeout), or not at all if `wait` is false.
pub(crate) fn read(socket: BorrowedFd<'_>, buffer: &mut [u8], wait: bool) -> io::Result<usize> {
    // SAFETY: the pointer and the length are those of a slice.
    unsafe { receive(socket, buffer.as_mut_ptr(), buffer.len(), wait) }
}

/// Reads bytes of a stream, or one datagram, like [`read`] into the spare capacity of `buffer`, which is cleared first
/// and has room for [`DATAGRAM_MAX`].
pub(crate) fn read_spare(socket: BorrowedFd<'_>, buffer: &mut Vec<u8>, wait: bool) -> io::Result<usize> {
    buffer.clear();
    buffer.reserve(DATAGRAM_MAX);
    let spare = buffer.spare_capacity_mut();
    // SAFETY: the pointer and the length are those of the spare capacity.
    let len = unsafe { receive(socket, spare.as_mut_ptr().cast(), spare.len(), wait) }?;
    // SAFETY: the kernel wrote the first `len` bytes of it.
    unsafe { buffer.set_len(len) };
    Ok(len)
}

/// Receives one datagram like [`recv`] into the spare capacity of `buffer`, without packet information, which saves
/// much of the cost of the call.
pub(crate) fn recv_from(socket: BorrowedFd<'_>, buffer: &mut Vec<u8>, wait: bool) -> io::Result<Received> {
    buffer.clear();
    buffer.reserve(DATAGRAM_MAX);
    let spare = buffer.spare_capacity_mut();
    let mut name = SockAddrStorage::zeroed();
    let mut name_len = name.size_of();
    // SAFETY: pointers and lengths are those of the spare capacity and of the storage.
    let len = unsafe {
        let name = (&raw mut name).cast();
        receive_from(socket, spare.as_mut_ptr().cast(), spare.len(), wait, name, &raw mut name_len)
    }?;
    // SAFETY: the kernel wrote the first `len` bytes of it.
    unsafe { buffer.set_len(len) };
    let source = (name_len > 0).then(|| socket_address(name, name_len)).flatten();
    Ok(Received { len, source, info: PacketInfo::default() })
}

/// Calls recvfrom(2) without requesting the source.
///
/// # Safety
///
/// `buffer` is valid for writes of `len` bytes.
unsafe fn receive(socket: BorrowedFd<'_>, buffer: *mut u8, len: usize, wait: bool) -> io::Result<usize> {
    // SAFETY: as the caller ensures; no address is requested.
    unsafe { receive_from(socket, buffer, len, wait, ptr::null_mut(), ptr::null_mut()) }
}

/// Calls [recvfrom(2)](https://man7.org/linux/man-pages/man2/recvfrom.2.html) by its number, as [`send`] does. glibc's
/// own functions are POSIX cancellation points, and each enables and disables cancellation with two atomic operations.
/// No thread is cancelled here.
///
/// # Safety
///
/// `buffer` is valid for writes of `len` bytes, and `name` of `*name_len`, or both are null.
unsafe fn receive_from(
    socket: BorrowedFd<'_>,
    buffer: *mut u8,
    len: usize,
    wait: bool,
    name: *mut libc::sockaddr,
    name_len: *mut libc::socklen_t,
) -> io::Result<usize> {
    let flags = if wait { 0 } else { libc::MSG_DONTWAIT };
    // SAFETY: as the caller ensures.
    let received =
        unsafe { libc::syscall(libc::SYS_recvfrom, socket.as_raw_fd(), buffer, len, flags, name, name_len) };
    cvt_size(received as libc::ssize_t)
}

/// Reads the first datagram of the queue without removing it; never blocks. Bytes that do not fit into `buffer` are
/// omitted.
pub(crate) fn peek(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_PEEK;
    // SAFETY: the pointer and the length are those of a slice.
    cvt_size(unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), flags) })
}

/// Calls [shutdown(2)](https://man7.org/linux/man-pages/man2/shutdown.2.html) with SHUT_RD, which wakes a thread that
/// is blocked in a read of this socket. From then on reads never block. Datagrams still arrive and can be read.
pub(crate) fn shutdown_read(socket: &impl AsFd) {
    // SAFETY: the call takes no pointers.
    let _ = cvt(unsafe { libc::shutdown(socket.as_fd().as_raw_fd(), libc::SHUT_RD) });
}

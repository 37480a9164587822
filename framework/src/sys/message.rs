//! Receiving and sending datagrams:
//! [recvmsg(2)](https://man7.org/linux/man-pages/man2/recvmsg.2.html),
//! [recvmmsg(2)](https://man7.org/linux/man-pages/man2/recvmmsg.2.html),
//! [send(2)](https://man7.org/linux/man-pages/man2/send.2.html),
//! [sendmmsg(2)](https://man7.org/linux/man-pages/man2/sendmmsg.2.html).

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;

use socket2::{SockAddr, SockAddrStorage};

use super::control::{self, ControlBuffer, PacketInfo, SPACE};
use super::errno::is_memory;
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
fn socket_address(name: SockAddrStorage, len: libc::socklen_t) -> Option<SocketAddr> {
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

/// One datagram of a [`Batch`].
pub(crate) struct Datagram<'a> {
    /// The sender; `None` for an address family other than IP.
    pub(crate) source: Option<SocketAddr>,
    /// The destination address.
    pub(crate) info: PacketInfo,
    /// The content of the datagram.
    pub(crate) payload: &'a [u8],
}

/// Room for several datagrams received by one system call. The memory is reserved at once, but only the pages that
/// datagrams fill are touched, so junk can use at most 2 MiB.
pub(crate) struct Batch {
    payloads: Vec<Vec<u8>>,
    names: Vec<SockAddrStorage>,
    controls: Vec<ControlBuffer>,
    headers: Vec<libc::mmsghdr>,
    filled: usize,
}

/// Maximum number of datagrams that one call of recvmmsg(2) receives.
pub(crate) const BATCH: usize = 32;

impl Batch {
    /// Makes an empty batch.
    pub(crate) fn new() -> Self {
        Self {
            payloads: (0..BATCH).map(|_| Vec::with_capacity(DATAGRAM_MAX)).collect(),
            names: (0..BATCH).map(|_| SockAddrStorage::zeroed()).collect(),
            controls: vec![ControlBuffer([0; SPACE]); BATCH],
            headers: Vec::with_capacity(BATCH),
            filled: 0,
        }
    }

    /// Receives the queued datagrams, up to [`BATCH`]; never blocks. Returns how many.
    pub(crate) fn recv(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.filled = 0;
        let mut parts: [libc::iovec; BATCH] = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH];
        self.headers.clear();
        for (index, payload) in self.payloads.iter_mut().enumerate() {
            payload.clear();
            payload.reserve(DATAGRAM_MAX);
            parts[index].iov_base = payload.as_mut_ptr().cast();
            parts[index].iov_len = DATAGRAM_MAX;
            // SAFETY: mmsghdr is plain data, all zeroes is a valid value of it.
            let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
            header.msg_hdr.msg_name = (&raw mut self.names[index]).cast();
            header.msg_hdr.msg_namelen = size_of::<SockAddrStorage>() as libc::socklen_t;
            header.msg_hdr.msg_iov = &raw mut parts[index];
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = self.controls[index].0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = SPACE as _;
            self.headers.push(header);
        }
        // SAFETY: every header points to memory of the stated length that outlives the call.
        let count = cvt(unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        })?;
        self.filled = count as usize;
        for (payload, header) in self.payloads.iter_mut().zip(&self.headers[..self.filled]) {
            // SAFETY: the kernel wrote this many bytes of the capacity.
            unsafe { payload.set_len(header.msg_len as usize) };
        }
        Ok(self.filled)
    }

    /// Returns the datagram at `index`, which must be below the result of [`Batch::recv`].
    pub(crate) fn get(&self, index: usize) -> Datagram<'_> {
        assert!(index < self.filled, "a datagram that was not received");
        let header = &self.headers[index];
        let name_len = header.msg_hdr.msg_namelen;
        // SAFETY: the storage is plain data, so a copy of it is valid too.
        let name = unsafe { ptr::read(&self.names[index]) };
        let control = &self.controls[index].0;
        let used = header.msg_hdr.msg_controllen.min(control.len());
        Datagram {
            source: socket_address(name, name_len),
            info: control::packet_info(&control[..used]),
            payload: &self.payloads[index],
        }
    }
}

// SAFETY: the pointers in `headers` are only followed inside `recv`, which first sets them to memory that the batch
// owns.
unsafe impl Send for Batch {}

/// Datagrams that are sent together, each to its own address.
#[derive(Default)]
pub(crate) struct Outgoing {
    queued: Vec<Queued>,
    /// Their contents, one after another.
    bytes: Vec<u8>,
    /// Memory for the system call.
    headers: Vec<libc::mmsghdr>,
    parts: Vec<libc::iovec>,
    controls: Vec<(ControlBuffer, usize)>,
}

struct Queued {
    destination: SockAddr,
    source: Option<PacketInfo>,
    /// The end of its content in `bytes`.
    end: usize,
}

impl Outgoing {
    /// Queues `payload` for `peer`. `source` is the source address, for a socket that is bound to a wildcard. `mapped`
    /// means that the socket is AF_INET6, so an IPv4 destination is written as IPv4-mapped.
    pub(crate) fn push(
        &mut self,
        peer: SocketAddr,
        source: Option<PacketInfo>,
        mapped: bool,
        payload: &[u8],
    ) {
        let destination = match peer {
            SocketAddr::V4(v4) if mapped => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
            other => other,
        };
        self.bytes.extend_from_slice(payload);
        let source = source.filter(|source| source.local.is_some());
        self.queued.push(Queued { destination: destination.into(), source, end: self.bytes.len() });
    }

    /// Returns whether nothing is queued.
    pub(crate) fn is_empty(&self) -> bool {
        self.queued.is_empty()
    }

    /// Returns how many datagrams are queued.
    pub(crate) fn len(&self) -> usize {
        self.queued.len()
    }

    /// Returns how many bytes are queued.
    pub(crate) fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// Discards the queued datagrams.
    pub(crate) fn clear(&mut self) {
        self.queued.clear();
        self.bytes.clear();
    }

    /// Sends the queued datagrams without blocking. Returns how many were sent. A datagram that the kernel refuses, for
    /// example because the destination is unreachable, is dropped. Datagrams that find the send buffer full stay
    /// queued.
    pub(crate) fn send(&mut self, socket: BorrowedFd<'_>) -> usize {
        let Self { queued, bytes, headers, parts, controls } = self;
        headers.clear();
        parts.clear();
        controls.clear();
        let mut start = 0;
        for datagram in queued.iter() {
            let payload = &mut bytes[start..datagram.end];
            start = datagram.end;
            parts.push(libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() });
            if let Some(PacketInfo { local: Some(local), interface }) = datagram.source {
                let mut control = ControlBuffer([0; SPACE]);
                let len = control::write_source(local, interface, &mut control);
                controls.push((control, len));
            }
        }
        let mut sources = controls.iter_mut();
        for (datagram, part) in queued.iter().zip(parts.iter_mut()) {
            // SAFETY: mmsghdr is plain data, all zeroes is a valid value of it.
            let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
            header.msg_hdr.msg_name = datagram.destination.as_ptr().cast_mut().cast();
            header.msg_hdr.msg_namelen = datagram.destination.len();
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            if datagram.source.is_some()
                && let Some((control, len)) = sources.next()
            {
                header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
                header.msg_hdr.msg_controllen = *len as _;
            }
            headers.push(header);
        }
        let (mut sent, mut next) = (0, 0);
        while next < headers.len() {
            let rest = &mut headers[next..];
            // SAFETY: every header points to memory of the stated length that outlives the call.
            let result = cvt(unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    rest.as_mut_ptr(),
                    rest.len().min(libc::UIO_MAXIOV as usize) as libc::c_uint,
                    (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
                )
            });
            match result {
                Ok(count) => {
                    sent += count as usize;
                    next += count as usize;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock || is_memory(&error) => break,
                // The kernel refused the first of the rest; continue after it.
                Err(_) => next += 1,
            }
        }
        self.forget(next);
        sent
    }

    /// Removes the first `count` queued datagrams.
    fn forget(&mut self, count: usize) {
        if count == self.queued.len() {
            return self.clear();
        }
        let Some(last) = count.checked_sub(1) else { return };
        let gone = self.queued[last].end;
        self.queued.drain(..count);
        self.bytes.drain(..gone);
        self.queued.iter_mut().for_each(|datagram| datagram.end -= gone);
    }
}

// SAFETY: the pointers in `headers` and `parts` are only followed inside `send`, which first sets them to memory that
// this value owns.
unsafe impl Send for Outgoing {}

/// Calls [shutdown(2)](https://man7.org/linux/man-pages/man2/shutdown.2.html) with SHUT_RD, which wakes a thread that
/// is blocked in a read of this socket. From then on reads never block. Datagrams still arrive and can be read.
pub(crate) fn shutdown_read(socket: &impl AsFd) {
    // SAFETY: the call takes no pointers.
    let _ = cvt(unsafe { libc::shutdown(socket.as_fd().as_raw_fd(), libc::SHUT_RD) });
}

//! Messages and descriptors between two processes, over an unnamed AF_UNIX socket
//! ([unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html)).

use std::io;
use std::mem::{self, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::control::{HEADER, next, write};
use super::{cvt, cvt_size};

/// Maximum number of descriptors in one message; the kernel permits 253 (SCM_MAX_FD).
pub(crate) const MAX_DESCRIPTORS: usize = 64;

/// Room for the descriptors and the credentials of one message, each with its header.
const SPACE: usize = 2 * HEADER + MAX_DESCRIPTORS * size_of::<RawFd>() + 64;

/// A buffer with the alignment that the kernel requires.
#[repr(C, align(8))]
struct Control([u8; SPACE]);

/// A received message and its sender.
#[derive(Debug)]
pub(crate) struct Arrived {
    /// The number of bytes of the message; 0 at the end of the connection.
    pub(crate) len: usize,
    pub(crate) descriptors: Vec<OwnedFd>,
    /// The sender's effective user ID at the time of sending, as the kernel reports it (SO_PASSCRED).
    pub(crate) uid: Option<u32>,
    /// The message, or its descriptors, did not fit.
    pub(crate) truncated: bool,
}

/// Calls [sendmsg(2)](https://man7.org/linux/man-pages/man2/sendmsg.2.html) with SCM_RIGHTS, without SIGPIPE. Blocks
/// according to the socket's mode and SO_SNDTIMEO, or not at all if `wait` is false.
///
/// # Errors
///
/// EINVAL for more descriptors than [`MAX_DESCRIPTORS`], and the errors of the call.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    message: &[u8],
    descriptors: &[BorrowedFd<'_>],
    wait: bool,
) -> io::Result<()> {
    if descriptors.len() > MAX_DESCRIPTORS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let numbers: Vec<u8> = descriptors.iter().flat_map(|fd| fd.as_raw_fd().to_ne_bytes()).collect();
    let mut control = Control([0; SPACE]);
    // sendmsg(2) only reads from it.
    let mut part = libc::iovec { iov_base: message.as_ptr().cast_mut().cast(), iov_len: message.len() };
    // SAFETY: msghdr is plain data, all zeroes is a valid value of it.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    if !numbers.is_empty() {
        let used = write(libc::SOL_SOCKET, libc::SCM_RIGHTS, &numbers, &mut control.0);
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = used as _;
    }
    let flags = libc::MSG_NOSIGNAL | if wait { 0 } else { libc::MSG_DONTWAIT };
    // SAFETY: every pointer in `header` is to memory of the stated length that outlives the call.
    cvt_size(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, flags) }).map(drop)
}

/// Calls [recvmsg(2)](https://man7.org/linux/man-pages/man2/recvmsg.2.html) into `buffer`. Received descriptors have
/// close-on-exec set. Blocks according to the socket's mode and SO_RCVTIMEO.
///
/// # Errors
///
/// The errors of the call.
pub(crate) fn recv(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Arrived> {
    let mut control = Control([0; SPACE]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: msghdr is plain data, all zeroes is a valid value of it.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = SPACE as _;
    // SAFETY: every pointer in `header` is to memory of the stated length that outlives the call.
    let len =
        cvt_size(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) })?;
    let truncated = header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
    let mut arrived = Arrived { len, descriptors: Vec::new(), uid: None, truncated };
    let mut rest = &control.0[..(header.msg_controllen as usize).min(SPACE)];
    while let Some((level, kind, data, behind)) = next(rest) {
        match (level, kind) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                let numbers = data.chunks_exact(size_of::<RawFd>());
                let numbers = numbers.filter_map(|bytes| Some(RawFd::from_ne_bytes(*bytes.first_chunk()?)));
                // SAFETY: the kernel has just made these descriptors for this process, and nothing else owns them.
                arrived.descriptors.extend(numbers.map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
            }
            // struct ucred { pid_t pid; uid_t uid; gid_t gid; }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => {
                arrived.uid = data.get(4..8).and_then(|uid| Some(u32::from_ne_bytes(*uid.first_chunk()?)));
            }
            _ => {}
        }
        rest = behind;
    }
    Ok(arrived)
}

/// Returns the effective user ID of the process that made the pair of sockets (SO_PEERCRED).
///
/// # Errors
///
/// The errors of [getsockopt(2)](https://man7.org/linux/man-pages/man2/getsockopt.2.html).
pub(crate) fn maker_uid(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut found = libc::ucred { pid: 0, uid: libc::uid_t::MAX, gid: 0 };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    let (fd, level, name) = (socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED);
    // SAFETY: the pointer and the length are those of `found`.
    cvt(unsafe { libc::getsockopt(fd, level, name, (&raw mut found).cast(), &raw mut len) })?;
    Ok(found.uid)
}

/// Returns the effective user ID of this process ([geteuid(2)](https://man7.org/linux/man-pages/man2/geteuid.2.html)).
pub(crate) fn own_uid() -> u32 {
    // SAFETY: the call takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    use socket2::{Domain, Socket, Type};

    use super::*;

    fn pair() -> (Socket, Socket) {
        let (one, other) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        other.set_passcred(true).unwrap();
        (one, other)
    }

    #[test]
    fn a_message_comes_whole_with_its_descriptors_and_its_sender() {
        let (one, other) = pair();
        let (mut reader, mut writer) = io::pipe().unwrap();
        send(one.as_fd(), b"hello", &[writer.as_fd(), writer.as_fd()], true).unwrap();
        send(one.as_fd(), b"again", &[], true).unwrap();
        let mut buffer = [0; 64];
        let arrived = recv(other.as_fd(), &mut buffer).unwrap();
        assert_eq!((&buffer[..arrived.len], arrived.descriptors.len()), (&b"hello"[..], 2));
        assert_eq!((arrived.uid, arrived.truncated), (Some(own_uid()), false));
        std::fs::File::from(arrived.descriptors.into_iter().next().unwrap()).write_all(b"x").unwrap();
        writer.write_all(b"y").unwrap();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "xy");
        assert_eq!(recv(other.as_fd(), &mut buffer).unwrap().descriptors.len(), 0);
        drop(one);
        assert_eq!(recv(other.as_fd(), &mut buffer).unwrap().len, 0);
    }

    #[test]
    fn a_message_that_does_not_fit_says_so_and_its_maker_is_known() {
        let (one, other) = pair();
        send(one.as_fd(), &[7; 65], &[], true).unwrap();
        assert!(recv(other.as_fd(), &mut [0; 64]).unwrap().truncated);
        assert_eq!(maker_uid(other.as_fd()).unwrap(), own_uid());
        let many = vec![one.as_fd(); MAX_DESCRIPTORS + 1];
        assert_eq!(send(one.as_fd(), b"x", &many, true).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}

//! Socket options that `socket2` leaves out.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd};

use socket2::Socket;

use super::cvt;

fn set<T>(socket: &Socket, level: i32, name: i32, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and the length are those of `value`.
    cvt(unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw const *value).cast(), len) })
        .map(drop)
}

/// Sets IP_PKTINFO, which reports the local address of each datagram.
pub(crate) fn set_packet_info_v4(socket: &Socket) -> io::Result<()> {
    set(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, &1 as &libc::c_int)
}

/// Sets IPV6_RECVPKTINFO (RFC 3542 §6.2).
pub(crate) fn set_packet_info_v6(socket: &Socket) -> io::Result<()> {
    set(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, &1 as &libc::c_int)
}

/// Calls [connect(2)](https://man7.org/linux/man-pages/man2/connect.2.html) with AF_UNSPEC: the UDP socket then has no
/// peer, and no port either unless it was bound to one.
pub(crate) fn disconnect(socket: &Socket) -> io::Result<()> {
    let nobody = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    let len = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: the pointer and the length are those of `nobody`.
    cvt(unsafe { libc::connect(socket.as_fd().as_raw_fd(), &raw const nobody, len) }).map(drop)
}

/// Sets SO_ATTACH_REUSEPORT_CBPF with the program `ret #0`: the first socket of the group (the listener) gets every
/// datagram, regardless of the hash. See [socket(7)](https://man7.org/linux/man-pages/man7/socket.7.html).
pub(crate) fn attach_first_of_group(socket: &Socket) -> io::Result<()> {
    const RETURN_CONSTANT: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let mut program = [libc::sock_filter { code: RETURN_CONSTANT, jt: 0, jf: 0, k: 0 }];
    let program = libc::sock_fprog { len: 1, filter: program.as_mut_ptr() };
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, &program)
}

/// Sets IPV6_FREEBIND or IP_FREEBIND, which permits binding to an address that this host does not have (yet).
pub(crate) fn set_freebind(socket: &Socket, v6: bool) -> io::Result<()> {
    if v6 {
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_FREEBIND, &1 as &libc::c_int)
    } else {
        set(socket, libc::IPPROTO_IP, libc::IP_FREEBIND, &1 as &libc::c_int)
    }
}

/// Sets SO_SNDBUFFORCE, which needs CAP_NET_ADMIN, or else SO_SNDBUF, which `net.core.wmem_max` limits silently.
pub(crate) fn set_send_buffer(socket: &Socket, bytes: usize) -> io::Result<()> {
    let size = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    set(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &size)
        .or_else(|_| set(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, &size))
}

/// Sets SO_RCVBUFFORCE or SO_RCVBUF, which `net.core.rmem_max` limits silently.
pub(crate) fn set_receive_buffer(socket: &Socket, bytes: usize) -> io::Result<()> {
    let size = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    set(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &size)
        .or_else(|_| set(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, &size))
}

/// Returns whether a TCP socket's peer has sent its FIN, or the connection has ended (TCP_INFO; see
/// [tcp(7)](https://man7.org/linux/man-pages/man7/tcp.7.html)). A read that returns nothing may also mean that this
/// side was shut down.
pub(crate) fn is_tcp_at_end(socket: &Socket) -> io::Result<bool> {
    /// States in which the peer may still send, from `net/tcp_states.h`.
    const OPEN: [u8; 3] = [1, 4, 5];
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the pointer and the length are those of `info`.
    cvt(unsafe {
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &mut len)
    })?;
    // SAFETY: tcp_info is plain data that was initialized with zeros.
    Ok(!OPEN.contains(&unsafe { info.assume_init() }.tcpi_state))
}

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

/// Sets UDP_GRO ([udp(7)](https://man7.org/linux/man-pages/man7/udp.7.html)): datagrams of one peer that the kernel has
/// handled as segments of one are received as one, which [`Batch`](super::batch::Batch) divides.
pub(crate) fn set_merged_receive(socket: &Socket) -> io::Result<()> {
    set(socket, libc::IPPROTO_UDP, libc::UDP_GRO, &1 as &libc::c_int)
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

/// Sets SO_ATTACH_REUSEPORT_CBPF: of the datagrams that begin with the byte `first`, the byte at `at` is the number of the
/// socket of the group that gets them. The kernel distributes all others, and those that name no socket, by their
/// addresses as before.
pub(crate) fn attach_selection_by_byte(socket: &Socket, first: u8, at: u32) -> io::Result<()> {
    // `reuseport_select_sock` in Linux falls back to the hash of the addresses if there is no socket with the number.
    const NONE: u32 = u32::MAX;
    const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    const JUMP_IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let step = |code: u32, (jt, jf), k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        step(LOAD_BYTE, (0, 0), 0),
        step(JUMP_IF_EQUAL, (0, 2), first.into()),
        step(LOAD_BYTE, (0, 0), at),
        step(libc::BPF_RET | libc::BPF_A, (0, 0), 0),
        step(libc::BPF_RET | libc::BPF_K, (0, 0), NONE),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
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

/// Returns how many datagrams, or on a TCP listener connection requests, the kernel has dropped since the socket was
/// made, modulo 2³² (SO_MEMINFO, since Linux 4.12; [sock_diag(7)](https://man7.org/linux/man-pages/man7/sock_diag.7.html)
/// describes the numbers). The receive buffer or the backlog was full, or, rarely, a checksum was wrong.
pub(crate) fn drops(socket: &Socket) -> io::Result<u32> {
    const DROPS: usize = libc::SK_MEMINFO_DROPS as usize;
    let mut info = [0_u32; DROPS + 1];
    let mut len = size_of_val(&info) as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the pointer and the length are those of `info`.
    cvt(unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_MEMINFO, info.as_mut_ptr().cast(), &mut len)
    })?;
    Ok(info[DROPS])
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

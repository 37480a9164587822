//! Receiving and sending many datagrams by one call:
//! [recvmmsg(2)](https://man7.org/linux/man-pages/man2/recvmmsg.2.html),
//! [sendmmsg(2)](https://man7.org/linux/man-pages/man2/sendmmsg.2.html), and segments (UDP_GRO, UDP_SEGMENT,
//! [udp(7)](https://man7.org/linux/man-pages/man7/udp.7.html)).

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use socket2::{SockAddr, SockAddrStorage};

use super::control::{self, ControlBuffer, PacketInfo, SPACE};
use super::cvt;
use super::errno::is_memory;
use super::message::{DATAGRAM_MAX, socket_address};

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
    /// The source and destination of each payload.
    paths: Vec<(Option<SocketAddr>, PacketInfo)>,
    /// The datagrams: the index of the payload that contains it, and its bytes there.
    datagrams: Vec<(usize, Range<usize>)>,
}

/// Maximum number of payloads that one call of recvmmsg(2) receives. Each is a datagram, or, on a socket with UDP_GRO,
/// up to 64 datagrams of one peer.
pub(crate) const BATCH: usize = 32;

impl Batch {
    /// Makes an empty batch.
    pub(crate) fn new() -> Self {
        Self {
            payloads: (0..BATCH).map(|_| Vec::with_capacity(DATAGRAM_MAX)).collect(),
            names: (0..BATCH).map(|_| SockAddrStorage::zeroed()).collect(),
            controls: vec![ControlBuffer([0; SPACE]); BATCH],
            headers: Vec::with_capacity(BATCH),
            paths: Vec::with_capacity(BATCH),
            datagrams: Vec::with_capacity(BATCH),
        }
    }

    /// Receives the queued datagrams, at most [`BATCH`] payloads; never blocks. Returns how many datagrams. Payloads of
    /// several datagrams (UDP_GRO, see [udp(7)](https://man7.org/linux/man-pages/man7/udp.7.html)) are divided.
    pub(crate) fn recv(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut parts: [libc::iovec; BATCH] = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH];
        self.headers.clear();
        self.paths.clear();
        self.datagrams.clear();
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
        let filled = cvt(unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        })? as usize;
        for (index, header) in self.headers[..filled].iter().enumerate() {
            let len = header.msg_len as usize;
            // SAFETY: the kernel wrote this many bytes of the capacity.
            unsafe { self.payloads[index].set_len(len) };
            // SAFETY: the storage is plain data, so a copy of it is valid too.
            let name = unsafe { ptr::read(&self.names[index]) };
            let control = &self.controls[index].0;
            let used = header.msg_hdr.msg_controllen.min(control.len());
            let (info, segment) = control::received(&control[..used]);
            self.paths.push((socket_address(name, header.msg_hdr.msg_namelen), info));
            self.datagrams.extend(segments(len, segment).map(|bytes| (index, bytes)));
        }
        Ok(self.datagrams.len())
    }

    /// Returns whether the last call of [`Batch::recv`] filled the batch, so that the socket's queue may have more.
    pub(crate) fn is_full(&self) -> bool {
        self.paths.len() == BATCH
    }

    /// Returns the datagram at `index`, which must be below the result of [`Batch::recv`].
    pub(crate) fn get(&self, index: usize) -> Datagram<'_> {
        let (payload, bytes) = &self.datagrams[index];
        let (source, info) = self.paths[*payload];
        Datagram { source, info, payload: &self.payloads[*payload][bytes.clone()] }
    }
}

/// Returns where the datagrams are in a payload of `len` bytes. Each has `segment` bytes, the last one at most as many.
/// Without `segment` the payload is one datagram.
fn segments(len: usize, segment: Option<usize>) -> impl Iterator<Item = Range<usize>> {
    let segment = segment.unwrap_or(len).max(1);
    (0..len.max(1)).step_by(segment).map(move |start| start..(start + segment).min(len))
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
    runs: Vec<Run>,
    /// The number of calls in which no segments are sent, because the kernel has refused some.
    without_segments: u32,
}

/// The longest datagrams that are sent as segments, in bytes. Longer ones do not fit into packets of most networks.
const MAX_SEGMENT: usize = 1472;
/// The most datagrams that are sent as segments of one (UDP_MAX_SEGMENTS before Linux 6.9), and the most bytes in them.
const MAX_SEGMENTS: usize = 64;
const MAX_SEGMENTED: usize = 65_000;
/// The number of calls that send each datagram by itself after the kernel has refused segments.
const CALLS_WITHOUT_SEGMENTS: u32 = 256;

/// Datagrams that are sent as segments of one, or a single datagram.
struct Run {
    /// The index of the first one.
    first: usize,
    datagrams: usize,
    /// Whether there is a control message.
    has_control: bool,
}

/// Returns how many of the datagrams can be sent as segments of one, at least one. All but the last have one length.
/// `start` is where the content of the first one begins.
fn run_length(queued: &[Queued], start: usize) -> usize {
    let [first, rest @ ..] = queued else { return 0 };
    let (segment, mut before) = (first.end - start, first);
    if segment == 0 || segment > MAX_SEGMENT {
        return 1;
    }
    let mut count = 1;
    for next in rest {
        let len = next.end - before.end;
        let fits = (1..=segment).contains(&len) && next.end - start <= MAX_SEGMENTED && count < MAX_SEGMENTS;
        if !fits || next.destination != first.destination || next.source != first.source {
            break;
        }
        count += 1;
        if len < segment {
            break;
        }
        before = next;
    }
    count
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
    ///
    /// Datagrams of one length to one destination that follow each other are sent as segments of one (UDP_SEGMENT,
    /// [udp(7)](https://man7.org/linux/man-pages/man7/udp.7.html)). They leave the host as they would by themselves.
    pub(crate) fn send(&mut self, socket: BorrowedFd<'_>) -> usize {
        let (mut sent, mut next, mut done) = (0, 0, 0);
        self.without_segments = self.without_segments.saturating_sub(1);
        self.prepare(next);
        while done < self.headers.len() {
            let rest = &mut self.headers[done..];
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
                    let count = count as usize;
                    let datagrams: usize =
                        self.runs[done..done + count].iter().map(|run| run.datagrams).sum();
                    sent += datagrams;
                    next += datagrams;
                    done += count;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock || is_memory(&error) => break,
                // The segments may be longer than packets to this destination, or the kernel or the device may not make
                // segments.
                Err(_) if self.runs[done].datagrams > 1 => {
                    self.without_segments = CALLS_WITHOUT_SEGMENTS;
                    self.prepare(next);
                    done = 0;
                }
                // The kernel refused the first of the rest; continue after it.
                Err(_) => (next, done) = (next + 1, done + 1),
            }
        }
        self.forget(next);
        sent
    }

    /// Prepares the system call for the queued datagrams from this one on.
    fn prepare(&mut self, first: usize) {
        let Self { queued, bytes, headers, parts, controls, runs, without_segments } = self;
        headers.clear();
        parts.clear();
        controls.clear();
        runs.clear();
        let (mut next, mut start) = (first, first.checked_sub(1).map_or(0, |before| queued[before].end));
        while let Some(datagram) = queued.get(next) {
            let segment = datagram.end - start;
            let datagrams = if *without_segments == 0 { run_length(&queued[next..], start) } else { 1 };
            let end = queued[next + datagrams - 1].end;
            let payload = &mut bytes[start..end];
            parts.push(libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() });
            let (mut control, mut len) = (ControlBuffer([0; SPACE]), 0);
            if let Some(PacketInfo { local: Some(local), interface }) = datagram.source {
                len = control::write_source(local, interface, &mut control);
            }
            if datagrams > 1 {
                len += control::write_segment_length(segment as u16, &mut control.0[len..]);
            }
            if len > 0 {
                controls.push((control, len));
            }
            runs.push(Run { first: next, datagrams, has_control: len > 0 });
            (next, start) = (next + datagrams, end);
        }
        let mut controls = controls.iter_mut();
        for (run, part) in runs.iter().zip(parts.iter_mut()) {
            // SAFETY: mmsghdr is plain data, all zeroes is a valid value of it.
            let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
            let destination = &queued[run.first].destination;
            header.msg_hdr.msg_name = destination.as_ptr().cast_mut().cast();
            header.msg_hdr.msg_namelen = destination.len();
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            if run.has_control
                && let Some((control, len)) = controls.next()
            {
                header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
                header.msg_hdr.msg_controllen = *len as _;
            }
            headers.push(header);
        }
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

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use socket2::SockRef;

    use super::*;
    use crate::sys::socket::{set_merged_receive, set_packet_info_v4};

    fn sockets<const N: usize>() -> [UdpSocket; N] {
        std::array::from_fn(|_| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        })
    }

    /// Returns the lengths of all datagrams that have arrived. Their bytes must be those that were queued.
    fn arrived(socket: &UdpSocket) -> Vec<usize> {
        let mut buffer = vec![0; DATAGRAM_MAX];
        let mut arrived = Vec::new();
        while let Ok(len) = socket.recv(&mut buffer) {
            assert!(buffer[..len].iter().all(|byte| usize::from(*byte) == len % 251));
            arrived.push(len);
        }
        arrived
    }

    fn push(outgoing: &mut Outgoing, to: &UdpSocket, lengths: &[usize]) {
        for &len in lengths {
            outgoing.push(to.local_addr().unwrap(), None, false, &vec![(len % 251) as u8; len]);
        }
    }

    #[test]
    fn datagrams_arrive_one_by_one_whatever_their_lengths_and_destinations_are() {
        let [from, one, other] = sockets();
        let mut outgoing = Outgoing::default();
        let lengths = [100, 100, 100, 7, 7, 0, 7, 1472, 1472, 1473, 1473, 30_000, 8, 9, 9, 9, 0, 0, 9, 9];
        push(&mut outgoing, &one, &lengths);
        push(&mut outgoing, &other, &[9, 9]);
        push(&mut outgoing, &one, &[9]);
        push(&mut outgoing, &other, &[9, 9]);
        assert_eq!(outgoing.send(from.as_fd()), lengths.len() + 5);
        assert!(outgoing.is_empty());
        assert_eq!(arrived(&one), [&lengths[..], &[9]].concat());
        assert_eq!(arrived(&other), [9; 4]);
        // More than the segments of one datagram.
        push(&mut outgoing, &one, &[1; 3 * MAX_SEGMENTS + 1]);
        assert_eq!(outgoing.send(from.as_fd()), 3 * MAX_SEGMENTS + 1);
        assert_eq!(arrived(&one).len(), 3 * MAX_SEGMENTS + 1);
        for _ in 0..2 {
            push(&mut outgoing, &one, &[1400; 50]);
            assert_eq!(outgoing.send(from.as_fd()), 50);
            assert_eq!(arrived(&one), [1400; 50]);
        }
    }

    #[test]
    fn datagrams_of_one_length_to_one_destination_are_sent_as_segments() {
        let [from, to] = sockets();
        set_merged_receive(&SockRef::from(&to)).unwrap();
        let mut outgoing = Outgoing::default();
        push(&mut outgoing, &to, &[100, 100, 100, 30]);
        assert_eq!(outgoing.send(from.as_fd()), 4);
        // This socket receives them as the one datagram as which they passed through the kernel.
        assert_eq!(to.recv(&mut [0; 500]).unwrap(), 330);
    }

    #[test]
    fn datagrams_that_the_kernel_received_as_one_are_divided_and_keep_their_order() {
        let from = UdpSocket::bind("0.0.0.0:0").unwrap();
        let [to, other] = sockets();
        let socket = SockRef::from(&to);
        set_packet_info_v4(&socket).unwrap();
        let lengths = [&[100; 70][..], &[30], &[0], &[7, 7], &[9], &[1472, 1472, 1472]].concat();
        let mut merged = 0;
        for is_set in [false, true] {
            if is_set {
                set_merged_receive(&socket).unwrap();
            }
            let mut outgoing = Outgoing::default();
            push(&mut outgoing, &to, &lengths);
            assert_eq!(outgoing.send(from.as_fd()), lengths.len());
            other.send_to(&[1], to.local_addr().unwrap()).unwrap();
            let (mut batch, mut arrived) = (Batch::new(), Vec::new());
            while let Ok(received) = batch.recv(to.as_fd()) {
                merged = merged.max(received - batch.paths.len());
                for datagram in (0..received).map(|index| batch.get(index)) {
                    assert_eq!(datagram.info.local, Some([127, 0, 0, 1].into()));
                    arrived.push((datagram.source.unwrap().port(), datagram.payload.to_vec()));
                }
            }
            let port = from.local_addr().unwrap().port();
            let mut expected: Vec<_> =
                lengths.iter().map(|len| (port, vec![(len % 251) as u8; *len])).collect();
            expected.push((other.local_addr().unwrap().port(), vec![1]));
            assert_eq!(arrived, expected);
            assert_eq!(merged > 0, is_set);
        }
    }

    #[test]
    fn segments_that_the_kernel_refuses_are_sent_one_by_one_and_nothing_behind_them_is_lost() {
        let [from, to] = sockets();
        let mut outgoing = Outgoing::default();
        // Nobody can send to port 0.
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        for _ in 0..2 {
            push(&mut outgoing, &to, &[50, 50]);
            (0..3).for_each(|_| outgoing.push(nowhere, None, false, &[0; 50]));
            push(&mut outgoing, &to, &[50, 50, 50]);
            assert_eq!(outgoing.send(from.as_fd()), 5);
            assert_eq!(arrived(&to), [50; 5]);
            assert!(outgoing.is_empty() && outgoing.without_segments > 0);
        }
    }

    #[test]
    fn segments_leave_from_the_address_that_was_given() {
        let from = UdpSocket::bind("0.0.0.0:0").unwrap();
        let [to] = sockets();
        let source = "127.0.0.9".parse().unwrap();
        let mut outgoing = Outgoing::default();
        for _ in 0..3 {
            let info = PacketInfo { local: Some(source), interface: 0 };
            outgoing.push(to.local_addr().unwrap(), Some(info), false, &[5; 5]);
        }
        assert_eq!(outgoing.send(from.as_fd()), 3);
        for _ in 0..3 {
            let (len, found) = to.recv_from(&mut [0; 10]).unwrap();
            assert_eq!((len, found.ip()), (5, source));
        }
    }
}

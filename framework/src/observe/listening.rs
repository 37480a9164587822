//! Listening sockets: they are counted while they exist, and so is what the kernel drops there.

use std::sync::Arc;

use socket2::Socket;

use super::{Counters, bump};
use crate::sys::socket::drops;
use crate::sys::sync::atomic::Ordering;

impl Counters {
    /// Counts what the kernel has dropped at the listening sockets since the last look. One system call for each
    /// socket.
    pub(crate) fn count_kernel_drops(&self) {
        for (socket, seen) in &mut *self.sockets.0.lock() {
            self.count_drops(socket, seen);
        }
    }

    /// Counts what the kernel has dropped at a socket of a single peer, which is about to be closed.
    pub(crate) fn count_last_drops(&self, socket: &Socket) {
        self.count_drops(socket, &mut 0);
    }

    fn count_drops(&self, socket: &Socket, seen: &mut u32) {
        // Kernels before 4.12 do not have the option.
        let Ok(now) = drops(socket) else { return };
        let more = now.wrapping_sub(std::mem::replace(seen, now));
        self.dropped_by_kernel.fetch_add(u64::from(more), Ordering::Relaxed);
    }
}

/// A listening socket; it is counted while this value lives.
pub(crate) struct Listening {
    counters: Arc<Counters>,
    socket: Option<Arc<Socket>>,
}

impl Listening {
    /// Counts a listening socket, and what the kernel drops at `socket` from now on. What it has dropped before may have
    /// been counted by another process. For SCTP the kernel counts no drops.
    pub(crate) fn new(counters: &Arc<Counters>, socket: Option<&Arc<Socket>>) -> Self {
        bump(&counters.listeners);
        if let Some(socket) = socket {
            let seen = drops(socket).unwrap_or(0);
            counters.sockets.0.lock().push((Arc::clone(socket), seen));
        }
        Self { counters: Arc::clone(counters), socket: socket.cloned() }
    }

    /// Returns the counters of its listener.
    pub(crate) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let Self { counters, socket } = self;
        if let Some(socket) = socket {
            let mut sockets = counters.sockets.0.lock();
            if let Some(place) = sockets.iter().position(|(known, _)| Arc::ptr_eq(known, socket)) {
                let (_, mut seen) = sockets.swap_remove(place);
                counters.count_drops(socket, &mut seen);
            }
        }
        counters.listeners.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::net::{SocketAddr, UdpSocket};

    use socket2::{Domain, SockAddr, Type};

    use super::*;

    fn bound(kind: Type) -> (Arc<Socket>, SockAddr) {
        let socket = Socket::new(Domain::IPV4, kind, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let address = socket.local_addr().unwrap();
        (Arc::new(socket), address)
    }

    fn counted(counters: &Counters) -> u64 {
        counters.count_kernel_drops();
        counters.dropped_by_kernel.load(Ordering::Relaxed)
    }

    #[test]
    fn datagrams_that_find_no_room_are_counted_once_and_only_while_the_socket_listens() {
        const SENT: u64 = 500;
        let counters = Arc::new(Counters::default());
        let (socket, address) = bound(Type::DGRAM);
        socket.set_recv_buffer_size(8 << 10).unwrap();
        socket.set_nonblocking(true).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(address.as_socket().unwrap()).unwrap();
        // The kernel queues or drops a datagram on loopback before the call of its sender returns.
        let send = || (0..SENT).for_each(|_| assert_eq!(sender.send(&[0; 100]).unwrap(), 100));
        let read = || std::iter::from_fn(|| socket.recv(&mut []).ok()).count() as u64;

        send();
        let before = SENT - read();
        assert!(before > 0, "the buffer holds all");
        let listening = Listening::new(&counters, Some(&socket));
        assert_eq!(counted(&counters), 0, "others have counted these");
        send();
        let dropped = SENT - read();
        assert_eq!((counted(&counters), counted(&counters)), (dropped, dropped));
        send();
        let dropped = dropped + SENT - read();
        drop(listening);
        assert_eq!(counted(&counters), dropped, "the last ones are counted at the end");
        send();
        assert_eq!(counted(&counters), dropped);
        assert_eq!(counters.listeners.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn connection_requests_beyond_the_backlog_are_counted() {
        let counters = Arc::new(Counters::default());
        let (socket, address) = bound(Type::STREAM);
        socket.listen(0).unwrap();
        let _listening = Listening::new(&counters, Some(&socket));
        let connect = || {
            let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            client.set_nonblocking(true).unwrap();
            let _ = client.connect(&address);
            client
        };
        // A backlog of 0 has room for one connection.
        let _first = connect();
        assert_eq!(counted(&counters), 0);
        // Clients that wait longer than a second ask again.
        let _others = [connect(), connect(), connect()];
        assert!(counted(&counters) >= 3);
    }
}

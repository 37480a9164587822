//! Memory of quiet peers whose callbacks run on their threads: after a long message they keep a small buffer at most.

mod support;

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};

use peak_alloc::PeakAlloc;
use peeloff::{Callbacks, Framing, ServerBuilder, Sockets, TcpSettings};
use support::{DEADLINE, Echo, Running, until};

/// Counts what the process has allocated. The clients are plain sockets, which allocate nothing.
#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const PEERS: usize = 32;

/// The largest buffer for messages that a quiet peer keeps, in bytes.
const KEPT: usize = 2048;

/// What a framing may keep beside that for each direction, in bytes.
const KEPT_BY_FRAMING: usize = 4096;

/// Allocations that do not depend on the number of peers, in bytes: one buffer for a read, and small things.
const SLACK: usize = 80 << 10;

/// Returns whether this many worker threads wait, each with the buffer of its next read.
fn workers_wait(count: usize) -> bool {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(Result::unwrap);
    let statuses = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok());
    let workers = statuses.filter(|status| status.starts_with("Name:\tpeeloff-w"));
    workers.filter(|status| status.contains("State:\tS")).count() == count
}

/// Has each client exchange messages of these lengths, and checks the memory after each length.
fn check<C>(url: &str, connect: impl Fn() -> C, exchange: impl Fn(&mut C, usize), allowed: usize) {
    let mut clients: Vec<C> = (0..PEERS).map(|_| connect()).collect();
    let mut exchange_all = |len| clients.iter_mut().for_each(|client| exchange(client, len));
    exchange_all(1);
    until("all workers wait", || workers_wait(PEERS).then_some(()));
    let before = MEMORY.current_usage();
    let limit = before + PEERS * allowed + SLACK;
    for len in [KEPT, KEPT + 1, 10_000, 60_000] {
        exchange_all(len);
        // A thread may still be about to wait again.
        until(&format!("{url}: little memory after messages of {len} bytes"), || {
            (MEMORY.current_usage() <= limit).then_some(())
        });
    }
}

/// Both checks are in one test, because another one's memory would be counted too.
#[test]
fn a_quiet_peer_with_callbacks_keeps_a_buffer_of_two_kibibytes_at_most() {
    for sockets in [Sockets::PerPeer, Sockets::Shared] {
        let configure = |builder: ServerBuilder| builder.sockets(sockets);
        let running = Running::with("udp://127.0.0.1:0", configure, Callbacks::new(Echo));
        let connect = || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(running.address()).unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            (socket, vec![0; 65_536])
        };
        let exchange = |(socket, buffer): &mut (UdpSocket, Vec<u8>), len| {
            socket.send(&buffer[..len]).unwrap();
            assert_eq!(socket.recv(buffer).unwrap(), len);
        };
        // On a shared socket the datagram itself is a second buffer.
        let buffers = if sockets == Sockets::Shared { 2 } else { 1 };
        check("udp", connect, exchange, buffers * KEPT);
        drop(running);
        until("no workers are left", || workers_wait(0).then_some(()));
    }

    let mut settings = TcpSettings::default();
    settings.framing = Framing::LengthPrefixed;
    let running = Running::with("tcp://127.0.0.1:0", |builder| builder.tcp(settings), Callbacks::new(Echo));
    let connect = || {
        let stream = TcpStream::connect(running.address()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        (stream, vec![0; 65_540])
    };
    let exchange = |(stream, buffer): &mut (TcpStream, Vec<u8>), len: usize| {
        let length = u32::try_from(len).unwrap().to_be_bytes();
        buffer[..4].copy_from_slice(&length);
        stream.write_all(&buffer[..len + 4]).unwrap();
        stream.read_exact(&mut buffer[..len + 4]).unwrap();
        assert_eq!(buffer[..4], length);
    };
    check("tcp", connect, exchange, KEPT + 2 * KEPT_BY_FRAMING);
}

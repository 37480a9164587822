//! Measures posting one message to many peers from one thread.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use peeloff::test_support::sender;
use peeloff::{OutboxLimits, Overflow, PostOutcome};

const LENGTH: usize = 100;

/// Measures [`Sender::post`](peeloff::Sender::post) to a peer that accepts everything, to one that accepts
/// nothing, and to one that accepts nothing and whose outbox is full.
pub fn post(criterion: &mut Criterion) {
    let message: Arc<[u8]> = Arc::from([7; LENGTH]);
    let mut group = criterion.benchmark_group("outbox");
    group.throughput(Throughput::Elements(1));

    // Nobody reads this socket, so the kernel discards what does not fit, which the sender does not notice.
    let there = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket on loopback");
    let here = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket on loopback");
    here.connect(there.local_addr().expect("it is bound")).expect("loopback is there");
    let fast = sender(here.into(), OutboxLimits::default());
    group.bench_function("sent", |bench| bench.iter(|| assert_eq!(fast.post(&message), PostOutcome::Sent)));

    for (name, overflow) in [("drop_oldest", Overflow::DropOldest), ("drop_newest", Overflow::DropNewest)] {
        let (here, _there) = clogged();
        let mut bound = OutboxLimits::default();
        bound.overflow = overflow;
        let slow = sender(here.into(), bound);
        while slow.post(&message) == PostOutcome::Queued {}
        group.bench_function(name, |bench| {
            bench.iter(|| assert_eq!(slow.post(&message), PostOutcome::Dropped))
        });
    }

    let (here, _there) = clogged();
    let here = OwnedFd::from(here);
    group.bench_function("queued", |bench| {
        bench.iter_custom(|rounds| {
            let (mut left, mut taken) = (rounds, Duration::ZERO);
            while left > 0 {
                // Fill an empty outbox up to its limit.
                let slow = sender(here.try_clone().expect("a descriptor").into(), OutboxLimits::default());
                let filled = left.min(OutboxLimits::default().max_messages as u64);
                let began = Instant::now();
                for _ in 0..filled {
                    assert_eq!(slow.post(&message), PostOutcome::Queued);
                }
                taken += began.elapsed();
                left -= filled;
            }
            taken
        });
    });
    group.finish();
}

/// Makes a socket whose buffer is full, and its other end. The socket refuses a datagram that does not fit, which
/// UDP on loopback never does.
fn clogged() -> (UnixDatagram, UnixDatagram) {
    let (here, there) = UnixDatagram::pair().expect("a pair of sockets");
    here.set_nonblocking(true).expect("a socket");
    while here.send(&[7; LENGTH]).is_ok() {}
    (here, there)
}

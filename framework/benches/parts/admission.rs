//! Measures whether a peer may be admitted, beside this many other peers.

use std::hint::black_box;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput};
use peeloff::test_support::PeerCounts;
use peeloff::{Limits, Refusal};

use crate::{KEY, local, peer};

/// The limit that one source reaches first is the one that refuses.
fn limited() -> Limits {
    Limits::UNLIMITED.max_peers_per_source(1).new_peers_per_second(1_000_000)
}

/// Measures [`PeerCounts::admit`] for a peer that leaves again, and for one that is refused.
pub fn admit(criterion: &mut Criterion) {
    let (local, now) = (local(), Instant::now());
    let mut group = criterion.benchmark_group("admission");
    group.throughput(Throughput::Elements(1));
    for count in [1, 1_000, 15_000] {
        let mut peer_counts = PeerCounts::new(limited(), KEY);
        for number in 0..count {
            peer_counts.admit(local, peer(number), now).expect("no limit is reached");
        }
        group.bench_function(BenchmarkId::new("admit_and_release", count), |bench| {
            bench.iter(|| {
                peer_counts.admit(local, black_box(peer(count)), now).expect("no limit is reached");
                peer_counts.release(local, peer(count));
            });
        });
        group.bench_function(BenchmarkId::new("refuse", count), |bench| {
            bench.iter(|| {
                assert_eq!(peer_counts.admit(local, black_box(peer(0)), now), Err(Refusal::MaxPeersPerSource))
            });
        });
    }
    group.finish();
}

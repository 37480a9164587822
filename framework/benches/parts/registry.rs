//! Measures the table of live associations, beside this many others.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use peeloff::Limits;
use peeloff::test_support::{Member, Table};

use crate::{KEY, local, peer};

/// The number of peers that come and go together, so that reading the clock does not dominate the measurement.
const CROWD: u32 = 16;

fn book(table: &Table, number: u32) -> Member {
    table.book(local(), peer(number)).expect("no limit is reached")
}

/// Measures looking up, inserting and removing.
pub fn table(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("registry");
    group.throughput(Throughput::Elements(1));
    for count in [1, 1_000, 15_000] {
        let table = Table::new(Limits::UNLIMITED, KEY);
        for number in 0..count {
            assert!(table.insert(&book(&table, number)));
        }
        let mut number = 0;
        group.bench_function(BenchmarkId::new("find", count), |bench| {
            bench.iter(|| {
                // Use another peer each time, as in a server.
                number = (number + 7919) % count;
                assert!(table.find(local(), black_box(peer(number))));
            });
        });
        group.bench_function(BenchmarkId::new("find_unknown_peer", count), |bench| {
            bench.iter(|| assert!(!table.find(local(), black_box(peer(count)))));
        });
        let mut come_and_go = |name, of: fn((Duration, Duration)) -> Duration| {
            group.bench_function(BenchmarkId::new(name, count), |bench| {
                bench.iter_custom(|rounds| {
                    let crowds = rounds.div_ceil(CROWD.into());
                    let taken = (0..crowds).map(|_| of(crowd(&table, count))).sum::<Duration>();
                    taken.mul_f64(rounds as f64 / (crowds * u64::from(CROWD)) as f64)
                });
            });
        };
        come_and_go("insert", |(inserting, _)| inserting);
        come_and_go("remove", |(_, removing)| removing);
    }
    group.finish();
}

/// Measures inserting a crowd that is booked, and removing it.
fn crowd(table: &Table, first: u32) -> (Duration, Duration) {
    let members: Vec<Member> = (0..CROWD).map(|number| book(table, first + number)).collect();
    let began = Instant::now();
    for member in &members {
        assert!(table.insert(member));
    }
    let inserted = Instant::now();
    members.iter().for_each(|member| table.remove(member));
    (inserted - began, inserted.elapsed())
}

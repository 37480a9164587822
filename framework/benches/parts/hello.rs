//! Measures the cost of an unknown peer's datagram before any state is kept for it.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use peeloff::test_support::cookie::{CookieJar, CookieVerdict};
use peeloff::test_support::hello::{self, ClientHello, FirstDatagram};

use crate::{local, peer};

const PERIOD: Duration = Duration::from_secs(60);

/// Makes a datagram with a ClientHello of usual size: 30 suites and this many bytes of extensions.
fn datagram(cookie: &[u8], extensions: usize) -> Vec<u8> {
    let mut message = vec![0xfe, 0xfd];
    message.extend([7; 32]);
    message.push(0);
    message.push(cookie.len() as u8);
    message.extend(cookie);
    message.extend([0, 60]);
    message.extend([0xc0; 60]);
    message.extend([1, 0]);
    message.extend((extensions as u16).to_be_bytes());
    message.extend(vec![0; extensions]);
    let length = &(message.len() as u32).to_be_bytes()[1..];
    let fragment = [&[1][..], length, &[0, 0], &[0; 3], length, &message].concat();
    let record = [&[22, 0xfe, 0xff][..], &[0; 8], &(fragment.len() as u16).to_be_bytes(), &fragment];
    record.concat()
}

fn parsed(datagram: &[u8]) -> ClientHello<'_> {
    match hello::classify(datagram) {
        FirstDatagram::ClientHello(hello) => hello,
        other => panic!("{other:?}"),
    }
}

/// Measures [`hello::classify`] for hellos that get an answer and for datagrams that do not.
pub fn classify(criterion: &mut Criterion) {
    let whole = datagram(&[], 100);
    let long = datagram(&[], 1100);
    let mut forged = whole.clone();
    forged[1] = 3;
    parsed(&long);
    let mut group = criterion.benchmark_group("hello");
    for (name, datagram) in [("whole", whole), ("long", long), ("not_dtls", forged)] {
        group.throughput(Throughput::Elements(1));
        group.bench_function(name, |bench| bench.iter(|| hello::classify(black_box(&datagram))));
    }
    group.finish();
}

/// Measures making and verifying cookies: one HMAC each, and one for each secret if the cookie is forged.
pub fn cookies(criterion: &mut Criterion) {
    let jar = CookieJar::new(&[1; 32], &[2; 32], PERIOD, Instant::now());
    let (local, peer) = (local(), peer(0));
    let first = datagram(&[], 100);
    let cookie = jar.make(local, peer, &parsed(&first));
    let (valid, forged) = (datagram(&cookie, 100), datagram(&[9; 32], 100));
    let mut group = criterion.benchmark_group("cookie");
    group.throughput(Throughput::Elements(1));
    let hello = parsed(&first);
    group.bench_function("make", |bench| bench.iter(|| jar.make(local, black_box(peer), &hello)));
    group.bench_function("challenge", |bench| {
        bench.iter(|| {
            let hello = parsed(black_box(&first));
            hello::hello_verify_request(&hello, first.len(), &jar.make(local, peer, &hello))
        });
    });
    let (right, wrong) = (parsed(&valid), parsed(&forged));
    assert!(matches!(jar.verify(local, peer, &right), CookieVerdict::Valid(_)));
    assert_eq!(jar.verify(local, peer, &wrong), CookieVerdict::Invalid);
    group.bench_function("verify", |bench| bench.iter(|| jar.verify(local, black_box(peer), &right)));
    group.bench_function("refuse", |bench| bench.iter(|| jar.verify(local, black_box(peer), &wrong)));
    group.finish();
}

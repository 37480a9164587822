//! Measures the pure parts, and those that threads share: `cargo bench -p peeloff` takes about a minute. The
//! crate `peeloff-stress` measures whole servers.

mod admission;
mod hello;
mod outbox;
mod registry;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

/// The secret of the keyed hashes.
const KEY: (u64, u64) = (0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);

fn local() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 4433))
}

/// Returns another peer for each number; 250 of them share a /24 network.
fn peer(number: u32) -> SocketAddr {
    let address = u32::from(Ipv4Addr::new(10, 0, 0, 1)) + number / 250 * 256 + number % 250;
    SocketAddr::from((Ipv4Addr::from(address), 50_000))
}

fn quick() -> Criterion {
    let (warm_up, measured) = (Duration::from_millis(300), Duration::from_secs(1));
    Criterion::default().sample_size(40).warm_up_time(warm_up).measurement_time(measured).without_plots()
}

criterion_group! {
    name = parts;
    config = quick();
    targets = hello::classify, hello::cookies, admission::admit, registry::table, outbox::post
}
criterion_main!(parts);

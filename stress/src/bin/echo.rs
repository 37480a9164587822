//! N peers, of which A talk: the server's CPU per handshake and per echo, its memory per idle
//! peer, and whether every byte came back.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use peeloff::Address;
use peeloff_stress::outside::Usage;
use peeloff_stress::{crowd, server};

/// Measures an echo server, by default peeloff's own in a process of its own.
#[derive(Parser)]
struct Cli {
    /// The server to measure, such as dtls://127.0.0.1:4433; by default one is started.
    #[arg(long, value_name = "URL")]
    target: Option<Address>,
    /// The process of that server, for its CPU and memory.
    #[arg(long, requires = "target", value_name = "PID")]
    pid: Option<u32>,
    /// The protocol of the server that is started: dtls or udp.
    #[arg(long, default_value = "dtls", value_name = "SCHEME")]
    scheme: String,
    /// Peers in all.
    #[arg(long, default_value_t = 1000)]
    peers: usize,
    /// Peers that talk.
    #[arg(long, default_value_t = 64)]
    active: usize,
    /// Bytes of a message, 16 at least.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(16..=1400))]
    payload: u16,
    /// Seconds of talk.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    duration: u64,
    /// Processor for the server that is started.
    #[arg(long, value_name = "CPU")]
    pin: Option<usize>,
    #[arg(long = "be-the-server", hide = true)]
    serve: Option<String>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.serve {
        Some(listen) => server::serve(listen),
        None => run(&cli),
    };
    peeloff_stress::conclude("echo", outcome)
}

fn run(cli: &Cli) -> Result<(), Box<dyn std::error::Error>> {
    peeloff::raise_fd_limit()?;
    let target = match &cli.target {
        Some(address) => server::Target::running(address.clone(), cli.pid),
        None => server::Target::start(&cli.scheme, cli.pin)?,
    };
    let usage = || target.pid.map(Usage::of).transpose();
    // One peer first, so that what is paid once is not counted for each.
    drop(crowd::connect(&target.address, 1)?);

    let (before, began) = (usage()?, Instant::now());
    let mut peers = crowd::connect(&target.address, cli.peers)?;
    let connected = began.elapsed();
    if cli.scheme == "udp" {
        // On plain UDP a peer is one by its first message.
        crowd::talk(&mut peers, usize::from(cli.payload), Duration::from_millis(200));
    }
    let opened = usage()?;
    println!("{:<34}{:>12}", "peers", cli.peers);
    println!("{:<34}{:>12.2} s", "connected in", connected.as_secs_f64());
    if let (Some(before), Some(opened)) = (before, opened) {
        let each = |after: u64, before: u64| after.saturating_sub(before) as f64 / cli.peers as f64;
        let cpu = opened.cpu.saturating_sub(before.cpu).as_secs_f64() * 1e6 / cli.peers as f64;
        println!("{:<34}{cpu:>12.1} µs", "server CPU per handshake");
        println!("{:<34}{:>12.1} KiB", "server RSS per peer", each(opened.rss_kib, before.rss_kib));
        let stack = each(opened.kernel_stack_kib, before.kernel_stack_kib);
        println!("{:<34}{stack:>12.1} KiB", "kernel stack per peer (system-wide)");
        let slab = each(opened.slab_kib, before.slab_kib);
        println!("{:<34}{slab:>12.1} KiB", "slab per peer (both ends)");
        println!("{:<34}{:>12}", "server threads", opened.threads);
        println!("{:<34}{:>12}", "server descriptors", opened.fds);
    }

    let active = cli.active.min(peers.len());
    let before = usage()?;
    let talk = crowd::talk(&mut peers[..active], usize::from(cli.payload), Duration::from_secs(cli.duration));
    let after = usage()?;
    println!("{:<34}{:>12}", "peers that talk", active);
    println!("{:<34}{:>12}", "bytes of a message", cli.payload);
    println!("{:<34}{:>12.0}", "echoes per second", talk.echoes as f64 / cli.duration as f64);
    if let (Some(before), Some(after)) = (before, after) {
        let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64() * 1e6 / talk.echoes.max(1) as f64;
        println!("{:<34}{cpu:>12.2} µs", "server CPU per echo");
    }
    println!("{:<34}{:>12}", "lost", talk.lost);
    println!("{:<34}{:>12}", "wrong", talk.wrong);
    if talk.wrong > 0 {
        return Err("messages came back changed, or to the wrong peer".into());
    }
    Ok(())
}

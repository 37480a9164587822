//! What a datagram of an unknown peer costs the kernel beside so many children on one address: it
//! walks them all to find that none is its (on loopback, in the sender's own system call).

use std::net::UdpSocket;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use peeloff_stress::{crowd, server};

/// Prints the curve for a server that it starts.
#[derive(Parser)]
struct Cli {
    /// Children at which to measure, ascending.
    #[arg(long, value_delimiter = ',', default_value = "0,1000,2000,4000,8000")]
    children: Vec<usize>,
    /// Datagrams sent at each.
    #[arg(long, default_value_t = 5000)]
    datagrams: u32,
    #[arg(long = "be-the-server", hide = true)]
    serve: Option<String>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.serve {
        Some(listen) => server::serve(listen),
        None => run(&cli),
    };
    peeloff_stress::conclude("unknown", outcome)
}

fn run(cli: &Cli) -> Result<(), Box<dyn std::error::Error>> {
    peeloff::raise_fd_limit()?;
    let target = server::Target::start("dtls", None)?;
    let address = target.address.resolve()?[0];
    let mut peers = Vec::new();
    println!("{:>10}  {:>24}", "children", "µs per unknown datagram");
    for &wanted in &cli.children {
        peers.extend(crowd::connect(&target.address, wanted.saturating_sub(peers.len()))?);
        let stranger = UdpSocket::bind("127.0.0.1:0")?;
        // Five rounds, of which the median counts.
        let mut rounds: Vec<f64> = Vec::new();
        for _ in 0..5 {
            let began = Instant::now();
            for _ in 0..cli.datagrams / 5 {
                // Not DTLS: the dispatcher drops it unanswered.
                stranger.send_to(b"?", address)?;
            }
            rounds.push(began.elapsed().as_secs_f64() * 1e6 / f64::from(cli.datagrams / 5));
        }
        rounds.sort_by(f64::total_cmp);
        println!("{:>10}  {:>24.1}", peers.len(), rounds[2]);
    }
    Ok(())
}

//! What a peeloff server costs per message on SCTP or TCP beside a bare loop that does the same without it, and what
//! an idle association takes in memory.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use peeloff::{Address, NoSctp, Peer};
use peeloff_stress::bare::{self, SERVE_BARE};
use peeloff_stress::outside::Usage;
use peeloff_stress::server::{self, SERVE, Target};
use peeloff_stress::{conclude, crowd};

/// Measures peeloff's echo server on SCTP or TCP against a bare loop of one thread per association, both in
/// processes of their own and with the same clients in turn: CPU per message, and memory per idle
/// association. SCTP needs a kernel that has it.
#[derive(Parser)]
struct Cli {
    /// What runs below.
    #[arg(long, value_enum, default_value = "tcp")]
    over: Over,
    /// Associations at which to measure.
    #[arg(long, value_delimiter = ',', default_value = "1,64")]
    associations: Vec<usize>,
    /// How many of them talk at most, each with one message under way.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1000))]
    active: u16,
    /// Bytes of a message, 16 at least.
    #[arg(long, value_delimiter = ',', default_value = "64,1200",
          value_parser = clap::value_parser!(u16).range(16..=1400))]
    payload: Vec<u16>,
    /// Rounds, in each of which every server has its turn.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Milliseconds of talk in a turn.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    turn: u64,
    /// Idle associations for the memory; 0 leaves that out.
    #[arg(long, default_value_t = 1000)]
    idle: usize,
    #[arg(long = "be-the-server", hide = true)]
    serve: Option<String>,
    #[arg(long = "be-the-bare-server", hide = true)]
    serve_bare: Option<Address>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Over {
    Sctp,
    Tcp,
}

/// What is measured: a name, the argument that makes this binary be it, and what it listens on.
type Server = (&'static str, &'static str, &'static str);

const ON_SCTP: [Server; 4] = [
    ("bare", SERVE_BARE, "sctp"),
    ("sctp", SERVE, "sctp"),
    ("sctp+tls", SERVE, "sctp+tls"),
    ("sctp+dtls", SERVE, "sctp+dtls"),
];
const ON_TCP: [Server; 3] = [("bare", SERVE_BARE, "tcp"), ("tcp", SERVE, "tcp"), ("tls", SERVE, "tls")];

impl Cli {
    fn servers(&self) -> &'static [Server] {
        match self.over {
            Over::Sctp => &ON_SCTP,
            Over::Tcp => &ON_TCP,
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match (&cli.serve, &cli.serve_bare) {
        (Some(listen), _) => server::serve(listen),
        (_, Some(listen)) => bare::serve(listen),
        _ => run(&cli),
    };
    conclude("cost", outcome)
}

fn run(cli: &Cli) -> Result<(), Box<dyn Error>> {
    if cli.over == Over::Sctp && !peeloff::sctp::is_supported() {
        return Err(NoSctp.into());
    }
    peeloff::raise_fd_limit()?;
    println!("server CPU per message, in µs: the median of {} turns of {} ms", cli.rounds, cli.turn);
    println!("(lowest to highest); the ratio is the median of those of the rounds");
    for &associations in &cli.associations {
        for &payload in &cli.payload {
            measure(cli, associations, usize::from(payload))?;
        }
    }
    if cli.idle > 0 {
        println!("\nKiB per idle association, of {} (what is the kernel's: both ends)", cli.idle);
        println!(
            "{:>10} {:>12} {:>13} {:>8} {:>10}",
            "server", "server RSS", "kernel stack", "slab", "machine"
        );
        for &(name, role, scheme) in cli.servers() {
            remember(name, &Target::start_as(role, scheme, None)?, cli.idle)?;
        }
    }
    Ok(())
}

/// Prints what a message costs each server.
fn measure(cli: &Cli, associations: usize, payload: usize) -> Result<(), Box<dyn Error>> {
    let active = associations.min(usize::from(cli.active));
    let mut contestants = Vec::new();
    for &(_, role, scheme) in cli.servers() {
        let target = Target::start_as(role, scheme, None)?;
        let peers = crowd::connect(&target.address, associations)?;
        contestants.push((target, peers));
    }
    let mut costs = vec![Vec::new(); contestants.len()];
    let mut rates = costs.clone();
    // What is paid once is paid before the first round.
    for (target, peers) in &mut contestants {
        turn(target, &mut peers[..active], payload, Duration::from_millis(100))?;
    }
    for round in 0..cli.rounds {
        let mut order: Vec<usize> = (0..contestants.len()).collect();
        if round % 2 == 1 {
            // Nobody is always the one behind the same other.
            order.reverse();
        }
        for index in order {
            let (target, peers) = &mut contestants[index];
            let (cost, rate) = turn(target, &mut peers[..active], payload, Duration::from_millis(cli.turn))?;
            costs[index].push(cost);
            rates[index].push(rate);
        }
    }
    println!("\n{associations} associations, {active} talk, {payload} bytes");
    println!("{:>10} {:>8} {:>19} {:>10} {:>8} {:>15}", "server", "µs", "", "per second", "ratio", "");
    for (index, (name, ..)) in cli.servers().iter().enumerate() {
        let ratios = costs[index].iter().zip(&costs[0]).map(|(cost, bare)| cost / bare).collect();
        let (cost, ratio) = (Spread::of(costs[index].clone()), Spread::of(ratios));
        let range = format!("({:.1} to {:.1})", cost.lowest, cost.highest);
        print!(
            "{name:>10} {:>8.1} {range:>19} {:>10.0}",
            cost.median,
            Spread::of(rates[index].clone()).median
        );
        match index {
            0 => println!(),
            _ => println!(
                " {:>8.2} {:>15}",
                ratio.median,
                format!("({:.2} to {:.2})", ratio.lowest, ratio.highest)
            ),
        }
    }
    Ok(())
}

/// Has the peers talk for a while: microseconds of the server's CPU per message, and messages per second.
fn turn(
    target: &Target,
    peers: &mut [Peer],
    payload: usize,
    time: Duration,
) -> Result<(f64, f64), Box<dyn Error>> {
    let before = usage(target)?;
    let talk = crowd::talk(peers, payload, time);
    let cpu = usage(target)?.cpu.saturating_sub(before.cpu);
    if talk.lost + talk.wrong > 0 || talk.echoes == 0 {
        return Err(format!("{}: {talk:?}", target.address).into());
    }
    let echoes = talk.echoes as f64;
    Ok((cpu.as_secs_f64() * 1e6 / echoes, echoes / time.as_secs_f64()))
}

/// Prints what an idle association takes.
fn remember(name: &str, target: &Target, count: usize) -> Result<(), Box<dyn Error>> {
    // One first, so that what is paid once is not counted for each.
    let _first = crowd::connect(&target.address, 1)?;
    let before = usage(target)?;
    let mut peers = crowd::connect(&target.address, count)?;
    // The last of them has been handed to its thread when it answers.
    turn(target, &mut peers[count - 1..], 64, Duration::from_millis(100))?;
    let after = usage(target)?;
    let each = |after: u64, before: u64| after.saturating_sub(before) as f64 / count as f64;
    println!(
        "{name:>10} {:>12.1} {:>13.1} {:>8.1} {:>10.1}",
        each(after.rss_kib, before.rss_kib),
        each(after.kernel_stack_kib, before.kernel_stack_kib),
        each(after.slab_kib, before.slab_kib),
        each(before.available_kib, after.available_kib),
    );
    Ok(())
}

fn usage(target: &Target) -> std::io::Result<Usage> {
    Usage::of(target.pid.unwrap_or_default())
}

struct Spread {
    lowest: f64,
    median: f64,
    highest: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self { lowest: values[0], median: values[values.len() / 2], highest: values[values.len() - 1] }
    }
}

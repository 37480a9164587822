//! Connects N peers that send nothing. Reports their memory, and whether any thread of the server wakes up for
//! them.

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use peeloff::Scheme;
use peeloff_stress::client::talk::{self, Pace, Talk};
use peeloff_stress::client::{Dialer, load};
use peeloff_stress::figures;
use peeloff_stress::floor::{self, Question};
use peeloff_stress::options::{self, Bench, Common, Scenario};
use peeloff_stress::outside::Usage;
use peeloff_stress::role::Serve;
use peeloff_stress::target::{Role, Target};

/// Measures peers that are connected and send nothing.
#[derive(Parser)]
#[command(name = "idle", version)]
struct Cli {
    #[command(flatten)]
    common: Common,
    /// Number of peers.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    peers: u32,
    /// How long the peers send nothing.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    duration: Duration,
}

fn main() -> ExitCode {
    options::main::<Cli>()
}

impl Scenario for Cli {
    const NAME: &'static str = "idle";

    fn common(&self) -> &Common {
        &self.common
    }

    fn run(&self, bench: &mut Bench) -> Result<(), Box<dyn Error>> {
        bench.probe()?;
        bench.report.option("peers", self.peers);
        bench.report.option("quiet for", humantime::format_duration(self.duration));
        let mut clients = bench.clients()?;
        let (before, own) = (bench.target.usage()?, Usage::own()?);
        let bar = bench.progress("peers", u64::from(self.peers));
        let load = bench.load(self.peers as usize);
        let results = load::run(&mut clients, &load, &bench.stop, &bar)?;
        bar.finish_and_clear();
        figures::own(&mut bench.report, &clients, &own, "handshake", results.completed)?;
        let each = Usage::own()?.since(&own).rss_kib as f64 / clients.len().max(1) as f64;
        bench.report.plain("clients' own RSS per peer", each, "KiB");
        let quiet = bench.target.usage()?;
        let bar = bench.progress("quiet", 0);
        let began = Instant::now();
        bench.stop.wait(self.duration);
        bar.finish_and_clear();
        let (after, seconds) = (bench.target.usage()?, began.elapsed().as_secs_f64());
        let peers = clients.len();
        if let (Some(before), Some(quiet), Some(after)) = (before, quiet, after) {
            figures::held(&mut bench.report, &after.since(&before), &after, peers);
            let idle = after.since(&quiet);
            let report = &mut bench.report;
            let seconds = seconds.max(1e-9);
            report.lower("server CPU while quiet", idle.cpu.as_secs_f64() * 1e3 / seconds, "ms/s");
            report.lower("server wake-ups while quiet", idle.wake_ups as f64 / seconds, "/s");
            let machine = after.since(&before).available_kib as f64 / peers.max(1) as f64;
            report.lower("machine's memory per peer (both ends)", machine, "KiB");
        }
        if let Some(suite) = bench.suite().filter(|_| bench.common.floor) {
            let count = 500.min(self.peers as usize);
            let floor = floor::ask(&Question::Memory { suite, count }, bench.common.pin)?;
            if let Some(row) = bench.report.rows.iter_mut().find(|row| row.name == "server RSS per peer") {
                row.over(floor, "OpenSSL's session in memory");
            }
        }
        let bare = self.bare(bench)?;
        if let Some(row) = bench.report.rows.iter_mut().find(|row| row.name == "server RSS per peer")
            && let Some(bare) = bare.filter(|_| bench.common.serve == Serve::Loops)
        {
            row.over(bare, "bare socket, batches, EVP");
        }
        figures::results(&mut bench.report, &results);
        // Check that the server still serves each of them.
        let talk = Talk {
            pace: Pace::Window(1),
            payload: 64,
            duration: Duration::from_secs(30),
            count: Some(peers as u64),
            answer: bench.common.answer,
            together: 1024,
            apart: None,
        };
        let bar = bench.progress("still there", peers as u64);
        let talked = talk::run(&mut clients, peers, &talk, &bench.stop, &bar)?;
        bar.finish_and_clear();
        figures::tally(&mut bench.report, &talked.tally);
        Ok(())
    }
}

impl Cli {
    /// Returns the memory of as many peers in a bare loop that keeps only their keys.
    fn bare(&self, bench: &mut Bench) -> Result<Option<f64>, Box<dyn Error>> {
        let common = &bench.common;
        if bench.scheme() != Scheme::Dtls || !common.floor {
            return Ok(None);
        }
        let bare = Target::start(Role::BareEvp, "dtls", common)?;
        let mut clients = Dialer::new(Scheme::Dtls, bare.socket, bench.suite())?.clients(bench.threads())?;
        let before = bare.usage()?;
        let bar = bench.progress("floor", u64::from(self.peers));
        load::run(&mut clients, &bench.load(self.peers as usize), &bench.stop, &bar)?;
        bar.finish_and_clear();
        let Some((before, after)) = before.zip(bare.usage()?) else { return Ok(None) };
        let each = after.since(&before).rss_kib as f64 / clients.len().max(1) as f64;
        bench.report.plain("bare socket, batches, EVP: RSS per peer", each, "KiB");
        Ok(Some(each))
    }
}

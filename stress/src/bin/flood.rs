//! Attacks the server with datagrams from unknown peers while honest peers are served. Reports whether the honest
//! peers notice, and what the server spends on the attack. With `--children`, measures the cost of an unknown
//! peer's datagram beside many connected peers.

use std::error::Error;
use std::net::UdpSocket;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use peeloff::Scheme;
use peeloff_stress::client::load;
use peeloff_stress::figures;
use peeloff_stress::flood::{Flood, Flooded, Kind};
use peeloff_stress::honest::{self, Honest, HonestArgs};
use peeloff_stress::options::{self, Bench, Common, Scenario};
use peeloff_stress::report::{Plot, Series};
use peeloff_stress::secure::Suite;
use peeloff_stress::target::{Role, Target};

/// Measures honest peers under a flood of cookieless hellos or junk from many addresses.
#[derive(Parser)]
#[command(name = "flood", version)]
struct Cli {
    #[command(flatten)]
    common: Common,
    /// What the attackers send.
    #[arg(long, value_enum, default_value = "hellos")]
    kind: Kind,
    /// Datagrams per second of all attackers together.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Number of attackers, each with an address of its own in 127.0.0.0/8.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    sources: u32,
    #[command(flatten)]
    honest: HonestArgs,
    /// Measure instead what an unknown peer's datagram costs beside these numbers of connected peers, in
    /// ascending order.
    #[arg(long, value_delimiter = ',', value_name = "PEERS")]
    children: Vec<u32>,
    /// Datagrams sent at each of these numbers.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(5..))]
    datagrams: u32,
}

fn main() -> ExitCode {
    options::main::<Cli>()
}

impl Scenario for Cli {
    const NAME: &'static str = "flood";

    fn common(&self) -> &Common {
        &self.common
    }

    fn run(&self, bench: &mut Bench) -> Result<(), Box<dyn Error>> {
        if !matches!(bench.scheme(), Scheme::Udp | Scheme::Dtls) {
            return Err("a flood consists of datagrams; give a target on udp or dtls".into());
        }
        bench.probe()?;
        if !self.children.is_empty() {
            return self.curve(bench);
        }
        let suite = bench.suite();
        let suite =
            suite.unwrap_or(Suite { dtls: true, auth: self.common.auth, group: self.common.group.clone() });
        let mut flood = Flood::new(bench.target.socket, self.kind, self.sources, &suite)?;
        bench
            .report
            .option("flood", format!("{:?}, {}/s from {} addresses", self.kind, self.rate, self.sources));
        let mut honest = Honest::connect(bench, &self.honest)?;
        let bar = bench.progress("in quiet", 0);
        let quiet = honest.run(bench, self.honest.duration)?;
        bar.finish_and_clear();
        let (before, began) = (bench.target.usage()?, Instant::now());
        let over = AtomicBool::new(false);
        let bar = bench.progress("in the flood", 0);
        let (busy, flooded) = thread::scope(|scope| {
            let flooding = scope.spawn(|| flood.run(Some(self.rate), &over));
            let busy = honest.run(bench, self.honest.duration);
            over.store(true, Ordering::Relaxed);
            flooding.thread().unpark();
            (busy, flooding.join())
        });
        bar.finish_and_clear();
        let (busy, flooded) = (busy?, flooded.map_err(|_| "the flood's thread failed")??);
        let (after, seconds) = (bench.target.usage()?, began.elapsed().as_secs_f64().max(1e-9));
        let report = &mut bench.report;
        report.plain("datagrams of unknown peers", flooded.sent as f64, "");
        report.plain("of them answered", flooded.answers as f64, "");
        if let (Some(before), Some(after)) = (before, after) {
            let grown = after.since(&before);
            report.lower("server RSS grown", grown.rss_kib as f64, "KiB");
            report.lower("threads grown", grown.threads as f64, "");
            report.lower("descriptors grown", grown.fds as f64, "");
            report.plain("server CPU", grown.cpu.as_secs_f64() * 1e3 / seconds, "ms/s");
        }
        honest::report(report, &quiet, &busy, "in the flood");
        drop(honest);
        if bench.common.floor && self.kind == Kind::Hellos && bench.scheme() == Scheme::Dtls {
            self.flat_out(bench, &suite)?;
        }
        Ok(())
    }
}

impl Cli {
    /// Sends as many hellos as the target accepts, to the server and to a bare loop that sends them back.
    /// Compares the answers per second of the server's CPU time, so that the clients' own speed does not matter.
    fn flat_out(&self, bench: &mut Bench, suite: &Suite) -> Result<(), Box<dyn Error>> {
        let common = &bench.common;
        let bare = Target::start(Role::BareBatches, "udp", common)?;
        let (server, _) = self.answers(bench, &bench.target, suite)?;
        let (floor, flooded) = self.answers(bench, &bare, suite)?;
        if flooded.answers == 0 {
            return Err("the bare loop answered nothing".into());
        }
        if let (Some(server), Some(floor)) = (server, floor) {
            let name = "hellos answered per second of server CPU";
            bench.report.higher(name, server, "/s").over(floor, "bare recvmmsg and sendmmsg");
        }
        Ok(())
    }

    fn answers(
        &self,
        bench: &Bench,
        target: &Target,
        suite: &Suite,
    ) -> Result<(Option<f64>, Flooded), Box<dyn Error>> {
        let mut flood = Flood::new(target.socket, Kind::Hellos, self.sources, suite)?;
        let before = target.usage()?;
        let over = AtomicBool::new(false);
        let bar = bench.progress("flat out", 0);
        let flooded = thread::scope(|scope| {
            let flooding = scope.spawn(|| flood.run(None, &over));
            bench.stop.wait(self.honest.duration.min(Duration::from_secs(2)));
            over.store(true, Ordering::Relaxed);
            flooding.join()
        });
        bar.finish_and_clear();
        let flooded = flooded.map_err(|_| "the flood's thread failed")??;
        let used = before.zip(target.usage()?).map(|(before, after)| after.since(&before));
        Ok((used.map(|used| flooded.answers as f64 / used.cpu.as_secs_f64().max(1e-9)), flooded))
    }

    /// Measures an unknown peer's datagram. The kernel searches all children of an address and finds that none
    /// belongs to the sender. On loopback it does so in the sender's own system call, which is what is measured.
    fn curve(&self, bench: &mut Bench) -> Result<(), Box<dyn Error>> {
        let mut clients = bench.clients()?;
        let mut points = Vec::new();
        for &wanted in &self.children {
            let missing = (wanted as usize).saturating_sub(clients.len());
            let bar = bench.progress("peers", missing as u64);
            let results = load::run(&mut clients, &bench.load(missing), &bench.stop, &bar)?;
            bar.finish_and_clear();
            let other = UdpSocket::bind("127.0.0.1:0")?;
            // Run five rounds and report the median.
            let (each, mut rounds) = (self.datagrams / 5, Vec::new());
            let before = bench.target.usage()?;
            for _ in 0..5 {
                let began = Instant::now();
                for _ in 0..each {
                    // The byte is not DTLS, so a server drops it without an answer.
                    other.send_to(b"?", bench.target.socket)?;
                }
                rounds.push(began.elapsed().as_secs_f64() * 1e6 / f64::from(each));
            }
            rounds.sort_by(f64::total_cmp);
            bench.report.lower(&format!("unknown datagram beside {wanted}"), rounds[2], "µs");
            // The server may still be reading the last datagrams.
            bench.stop.wait(Duration::from_millis(100));
            if let Some(used) = before.zip(bench.target.usage()?).map(|(before, after)| after.since(&before))
            {
                let name = format!("server CPU per unknown datagram beside {wanted}");
                figures::cpu(&mut bench.report, &name, &used, u64::from(5 * each));
            }
            points.push((clients.len() as f64, rounds[2]));
            if clients.len() < wanted as usize {
                let why = results.why.unwrap_or_else(|| "the run ended".to_owned());
                bench.report.note(format!("Only {} of {wanted} peers could connect: {why}.", clients.len()));
                break;
            }
        }
        bench.report.plain("clients connected", clients.len() as f64, "");
        let series = vec![Series { name: "median".to_owned(), points }];
        let title = "A datagram of an unknown peer".to_owned();
        bench.report.plots.push(Plot { title, x: "connected peers".to_owned(), y: "µs".to_owned(), series });
        Ok(())
    }
}

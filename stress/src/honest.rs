//! Runs honest clients during an attack: peers that send at a rate, and new clients.

use std::error::Error;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;

use crate::client::Clients;
use crate::client::load::{self, Load, LoadResults};
use crate::client::talk::{self, Pace, Talk, TalkResults};
use crate::figures;
use crate::options::Bench;
use crate::report::Report;

/// The options for honest clients.
#[derive(Args, Clone, Debug)]
pub struct HonestArgs {
    /// Honest peers that send messages.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    honest: u32,
    /// Messages per second of all honest peers together.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    honest_rate: u32,
    /// Honest clients that connect meanwhile.
    #[arg(long, default_value_t = 20)]
    newcomers: u32,
    /// How long the honest peers are measured, once without and once with the attack.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub duration: Duration,
}

/// Honest clients that stay connected for the whole run, and a place for others that connect meanwhile.
pub struct Honest {
    clients: Clients,
    /// Where clients connect during a measurement.
    new_clients: Clients,
    rate: u32,
    newcomers: usize,
}

/// The results of one measurement.
pub struct HonestResults {
    /// The results of the connected peers.
    pub talked: TalkResults,
    /// The results of the new clients.
    pub results: LoadResults,
}

impl Honest {
    /// Connects the peers, which stay. Together they will send `rate` messages per second, and `newcomers`
    /// clients will connect during each measurement.
    ///
    /// # Errors
    ///
    /// Returns an error if a peer cannot connect.
    pub fn connect(bench: &mut Bench, args: &HonestArgs) -> Result<Self, Box<dyn Error>> {
        let (peers, rate, newcomers) = (args.honest as usize, args.honest_rate, args.newcomers as usize);
        bench.report.option("honest", format!("{peers} peers, {rate}/s"));
        let dialer = bench.dialer()?;
        let (mut clients, new_clients) = (dialer.clients(1)?, dialer.clients(1)?);
        let load = Load { messages: 1, ..bench.load(peers) };
        let results = load::run(&mut clients, &load, &bench.stop, &ProgressBar::hidden())?;
        if results.failed > 0 {
            let why = results.why.unwrap_or_default();
            return Err(format!("{} honest peers could not connect: {why}", results.failed).into());
        }
        Ok(Self { clients, new_clients, rate, newcomers })
    }

    /// Runs one measurement: the peers send for this long, while new clients connect at equal intervals.
    ///
    /// # Errors
    ///
    /// Returns an error if the clients' side fails.
    pub fn run(&mut self, bench: &Bench, duration: Duration) -> Result<HonestResults, Box<dyn Error>> {
        let talk = Talk {
            pace: Pace::Rate(f64::from(self.rate)),
            payload: 64,
            duration,
            count: None,
            answer: bench.common.answer,
            together: usize::MAX,
            apart: None,
        };
        let pace = load::Pace::Rate((self.newcomers as f64 / duration.as_secs_f64().max(1e-3)).max(1e-3));
        let come = Load { pace, messages: 1, stay: false, ..bench.load(self.newcomers) };
        let (clients, new_clients) = (&mut self.clients, &mut self.new_clients);
        let bar = ProgressBar::hidden();
        std::thread::scope(|scope| {
            let newcomers = scope
                .spawn(|| load::run(new_clients, &come, &bench.stop, &bar).map_err(|why| why.to_string()));
            let talked = talk::run(clients, clients.len(), &talk, &bench.stop, &bar);
            let results = newcomers.join().map_err(|_| "the newcomers' thread failed")??;
            Ok(HonestResults { talked: talked?, results })
        })
    }
}

/// Reports the results, compared with those without the attack.
pub fn report(report: &mut Report, quiet: &HonestResults, busy: &HonestResults, what: &str) {
    for (percentile, name) in [(50.0, "p50"), (99.0, "p99")] {
        let value = busy.talked.latency.percentile(percentile);
        let floor = quiet.talked.latency.percentile(percentile);
        report.lower(&format!("honest echo {name} {what}"), value, "µs").over(floor, "the same in quiet");
    }
    let connect = busy.results.connect.percentile(50.0);
    let floor = quiet.results.connect.percentile(50.0);
    report.lower(&format!("honest connect p50 {what}"), connect, "µs").over(floor, "the same in quiet");
    report.plain("newcomers that got in", busy.results.completed as f64, "");
    report.lower("newcomers that did not", busy.results.failed as f64, "");
    report.lower("newcomers that retransmitted", busy.results.retransmitted as f64, "");
    figures::tally(report, &busy.talked.tally.plus(busy.results.tally));
    if let Some(why) = &busy.results.why {
        report.note(format!("The first newcomer that failed: {why}."));
    }
    let mut plot = figures::percentiles("Latency of honest peers", Vec::new());
    plot.series.push(quiet.talked.latency.series("in quiet"));
    plot.series.push(busy.talked.latency.series(what));
    report.plots.push(plot);
}

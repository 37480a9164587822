//! Honest clients while somebody else is not: peers that talk at a rate, and newcomers.

use std::error::Error;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;

use crate::client::Clients;
use crate::client::talk::{self, Pace, Talk, Talked};
use crate::client::visits::{self, Visited, Visits};
use crate::figures;
use crate::options::Bench;
use crate::report::Report;

/// Who they are, on the command line.
#[derive(Args, Clone, Debug)]
pub struct HonestArgs {
    /// Honest peers that talk.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    honest: u32,
    /// Messages per second of them all together.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    honest_rate: u32,
    /// Honest clients that come meanwhile.
    #[arg(long, default_value_t = 20)]
    newcomers: u32,
    /// How long they are served, once in quiet and once beside the others.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub duration: Duration,
}

/// Who is there and is to be served all the while.
pub struct Honest {
    clients: Clients,
    /// Newcomers come here.
    lobby: Clients,
    rate: u32,
    newcomers: usize,
}

/// What became of them in a while.
pub struct While {
    /// Of those that talk.
    pub talked: Talked,
    /// Of the newcomers.
    pub visited: Visited,
}

impl Honest {
    /// Has so many peers come and stay; they will say `rate` messages per second together, and `newcomers` will
    /// come in each while.
    ///
    /// # Errors
    ///
    /// They do not get in.
    pub fn enter(bench: &mut Bench, args: &HonestArgs) -> Result<Self, Box<dyn Error>> {
        let (peers, rate, newcomers) = (args.honest as usize, args.honest_rate, args.newcomers as usize);
        bench.report.option("honest", format!("{peers} peers, {rate}/s"));
        let dialer = bench.dialer()?;
        let (mut clients, lobby) = (dialer.clients(1)?, dialer.clients(1)?);
        let visits = Visits { messages: 1, ..bench.visits(peers) };
        let visited = visits::run(&mut clients, &visits, &bench.stop, &ProgressBar::hidden())?;
        if visited.failed > 0 {
            let why = visited.why.unwrap_or_default();
            return Err(format!("{} honest peers did not get in: {why}", visited.failed).into());
        }
        Ok(Self { clients, lobby, rate, newcomers })
    }

    /// Has them talk for so long, while newcomers come in equal intervals.
    ///
    /// # Errors
    ///
    /// The clients' side fails.
    pub fn serve(&mut self, bench: &Bench, duration: Duration) -> Result<While, Box<dyn Error>> {
        let talk = Talk {
            pace: Pace::Rate(f64::from(self.rate)),
            payload: 64,
            duration,
            count: None,
            answer: bench.common.answer,
            together: usize::MAX,
            apart: None,
        };
        let pace = visits::Pace::Rate((self.newcomers as f64 / duration.as_secs_f64().max(1e-3)).max(1e-3));
        let come = Visits { pace, messages: 1, stay: false, ..bench.visits(self.newcomers) };
        let (clients, lobby) = (&mut self.clients, &mut self.lobby);
        let bar = ProgressBar::hidden();
        std::thread::scope(|scope| {
            let newcomers =
                scope.spawn(|| visits::run(lobby, &come, &bench.stop, &bar).map_err(|why| why.to_string()));
            let talked = talk::run(clients, clients.len(), &talk, &bench.stop, &bar);
            let visited = newcomers.join().map_err(|_| "the newcomers' thread failed")??;
            Ok(While { talked: talked?, visited })
        })
    }
}

/// Says what became of them, beside what becomes of them in quiet.
pub fn say(report: &mut Report, quiet: &While, busy: &While, what: &str) {
    for (percentile, name) in [(50.0, "p50"), (99.0, "p99")] {
        let value = busy.talked.latency.percentile(percentile);
        let floor = quiet.talked.latency.percentile(percentile);
        report.lower(&format!("honest echo {name} {what}"), value, "µs").over(floor, "the same in quiet");
    }
    let connect = busy.visited.connect.percentile(50.0);
    let floor = quiet.visited.connect.percentile(50.0);
    report.lower(&format!("honest connect p50 {what}"), connect, "µs").over(floor, "the same in quiet");
    report.plain("newcomers that got in", busy.visited.completed as f64, "");
    report.lower("newcomers that did not", busy.visited.failed as f64, "");
    report.lower("newcomers that retransmitted", busy.visited.retransmitted as f64, "");
    figures::tally(report, &busy.talked.tally.plus(busy.visited.tally));
    if let Some(why) = &busy.visited.why {
        report.note(format!("The first newcomer that failed: {why}."));
    }
    let mut plot = figures::percentiles("Latency of honest peers", Vec::new());
    plot.series.push(quiet.talked.latency.series("in quiet"));
    plot.series.push(busy.talked.latency.series(what));
    report.plots.push(plot);
}

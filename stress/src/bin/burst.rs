//! Connects N clients at the same instant. Reports whether any client has to retransmit, and how long the last
//! one waits.

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use peeloff_stress::client::load::{self, Load, Pace};
use peeloff_stress::figures;
use peeloff_stress::floor::{self, Question};
use peeloff_stress::options::{self, Bench, Common, Scenario};
use peeloff_stress::outside::Usage;

/// Measures clients that all connect at the same instant.
#[derive(Parser)]
#[command(name = "burst", version)]
struct Cli {
    #[command(flatten)]
    common: Common,
    /// Number of clients; several numbers are measured one after the other.
    #[arg(long, value_delimiter = ',', default_value = "500", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    clients: Vec<u32>,
}

fn main() -> ExitCode {
    options::main::<Cli>()
}

impl Scenario for Cli {
    const NAME: &'static str = "burst";

    fn common(&self) -> &Common {
        &self.common
    }

    fn run(&self, bench: &mut Bench) -> Result<(), Box<dyn Error>> {
        bench.probe()?;
        let list: Vec<String> = self.clients.iter().map(u32::to_string).collect();
        bench.report.option("clients", list.join(", "));
        let floor = match bench.suite().filter(|_| bench.common.floor) {
            Some(suite) => {
                let cookie = suite.dtls;
                let question = Question::Handshake { suite, cookie, resumed: false };
                Some(floor::ask(&question, bench.common.pin)? * 1e6)
            }
            None => None,
        };
        let mut plot = figures::percentiles("From the instant to the open session", Vec::new());
        for &clients in &self.clients {
            let count = clients as usize;
            let load = Load {
                pace: Pace::Together(count),
                messages: u32::from(bench.suite().is_none()),
                ..bench.load(count)
            };
            let mut comers = bench.clients()?;
            let (before, own) = (bench.target.usage()?, Usage::own()?);
            let bar = bench.progress("burst", u64::from(clients));
            let results = load::run(&mut comers, &load, &bench.stop, &bar)?;
            bar.finish_and_clear();
            let after = bench.target.usage()?;
            let report = &mut bench.report;
            report.plain(&format!("connected of {clients}"), results.completed as f64, "");
            report.lower(&format!("failed of {clients}"), results.failed as f64, "");
            report.lower(&format!("retransmitted of {clients}"), results.retransmitted as f64, "");
            report.lower(&format!("after a second without an answer of {clients}"), results.timed as f64, "");
            report.lower(&format!("time of {clients}"), results.took.as_secs_f64() * 1e3, "ms");
            if let (Some(before), Some(after)) = (before, after) {
                let used = after.since(&before);
                let name = format!("server CPU per handshake of {clients}");
                let row = figures::cpu(report, &name, &used, results.completed);
                if let (Some(row), Some(floor)) = (row, floor) {
                    row.over(floor, "OpenSSL in memory");
                }
            }
            figures::own(report, &comers, &own, &format!("handshake of {clients}"), results.completed)?;
            results.connect.describe(report, &format!("connect of {clients}"));
            plot.series.push(results.connect.series(&format!("{clients} at once")));
            if let Some(why) = results.why {
                report.note(format!("The first failure of {clients}: {why}."));
            }
            // Disconnect these clients before the next ones connect.
            comers.close();
        }
        bench.report.plots.push(plot);
        Ok(())
    }
}

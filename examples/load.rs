//! A load of one's own with the stress library: clients that come at a rate, say a few messages and leave, as sensors do that wake up.
//!
//! A scenario says what clients do and which figures it reports. The library does the rest: options, the server to measure (peeloff's, or
//! any by `--target`), up to 100,000 clients on few sockets, checks of every byte, tables, JSON and HTML.
//!
//! ```text
//! cargo run --release -p peeloff-examples --bin load -- --rate 200
//! cargo run --release -p peeloff-examples --bin load -- --target dtls://127.0.0.1:4433 --html report.html
//! ```

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use peeloff_stress::client::load::{self, Load, Pace};
use peeloff_stress::figures;
use peeloff_stress::options::{self, Bench, Common, Scenario};

/// Measures sensors that wake up, report and sleep again.
#[derive(Parser)]
#[command(name = "load", version)]
struct Sensors {
    #[command(flatten)]
    common: Common,
    /// Sensors in all.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    sensors: u32,
    /// Sensors that wake up in a second.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Messages of each, which the server echoes.
    #[arg(long, default_value_t = 3)]
    messages: u32,
}

impl Scenario for Sensors {
    const NAME: &'static str = "load";

    fn common(&self) -> &Common {
        &self.common
    }

    fn run(&self, bench: &mut Bench) -> Result<(), Box<dyn Error>> {
        // One echo first: a server that does not answer is an error, not a figure.
        bench.probe()?;
        let count = self.sensors as usize;
        let load = Load {
            pace: Pace::Rate(f64::from(self.rate)),
            messages: self.messages,
            payload: 32,
            stay: false,
            ..bench.load(count)
        };
        let mut sensors = bench.clients()?;
        let before = bench.target.usage()?;
        let bar = bench.progress("sensors", u64::from(self.sensors));
        let results = load::run(&mut sensors, &load, &bench.stop, &bar)?;
        bar.finish_and_clear();
        let after = bench.target.usage()?;
        let report = &mut bench.report;
        report.option("sensors per second", self.rate);
        report.plain("sensors that reported", results.completed as f64, "");
        report.lower("sensors that failed", results.failed as f64, "");
        if let (Some(before), Some(after)) = (before, after) {
            figures::cpu(report, "server CPU per sensor", &after.since(&before), results.completed);
        }
        results.connect.describe(report, "connect");
        results.echo.describe(report, "echo");
        figures::tally(report, &results.tally);
        report.notes.extend(results.why.map(|why| format!("The first failure: {why}.")));
        Ok(())
    }

    /// With a sensor that failed, the program ends with 1.
    fn objection(&self, report: &peeloff_stress::report::Report) -> Option<String> {
        let failed = report.find("sensors that failed")?.value;
        (failed > 0.0).then(|| format!("{failed} sensors could not report"))
    }
}

fn main() -> ExitCode {
    options::main::<Sensors>()
}

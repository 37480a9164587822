//! Connects clients that never finish their handshake, or that send much and read nothing, while honest peers are
//! served.

use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use peeloff_stress::client::load::{self, Load};
use peeloff_stress::client::slow;
use peeloff_stress::honest::{self, Honest, HonestArgs};
use peeloff_stress::options::{self, Bench, Common, Scenario};

/// Measures honest peers beside stalled handshakes and slow readers.
#[derive(Parser)]
#[command(name = "slowloris", version)]
struct Cli {
    #[command(flatten)]
    common: Common,
    /// Handshakes that are started and never finished.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(0..=20_000))]
    stalled: u32,
    /// Peers that send much and read nothing.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=20_000))]
    slow: u32,
    /// Messages of 1,200 bytes that each slow peer sends.
    #[arg(long, default_value_t = 1000)]
    slow_messages: u64,
    #[command(flatten)]
    honest: HonestArgs,
}

fn main() -> ExitCode {
    options::main::<Cli>()
}

impl Scenario for Cli {
    const NAME: &'static str = "slowloris";

    fn common(&self) -> &Common {
        &self.common
    }

    fn run(&self, bench: &mut Bench) -> Result<(), Box<dyn Error>> {
        bench.probe()?;
        bench.report.option("stalled", self.stalled);
        bench.report.option("slow", format!("{}, {} messages each", self.slow, self.slow_messages));
        let mut honest = Honest::connect(bench, &self.honest)?;
        let bar = bench.progress("in quiet", 0);
        let quiet = honest.run(bench, self.honest.duration)?;
        bar.finish_and_clear();

        let (before, began) = (bench.target.usage()?, Instant::now());
        let load = Load { messages: 0, ..bench.load(self.slow as usize) };
        let mut slow = bench.clients()?;
        let bar = bench.progress("slow readers", u64::from(self.slow));
        load::run(&mut slow, &load, &bench.stop, &bar)?;
        bar.finish_and_clear();
        slow::send_without_reading(&mut slow, self.slow_messages, 1200);
        // Plain UDP has no handshake to stall.
        let stalls = bench.suite().is_some() || bench.scheme().is_stream();
        let stalled = if stalls { self.stalled as usize } else { 0 };
        let mut stallers = bench.dialer()?.clients(1)?;
        slow::stall(&mut stallers, stalled, &bench.stop)?;
        let bar = bench.progress("beside them", 0);
        let busy = honest.run(bench, self.honest.duration)?;
        bar.finish_and_clear();
        let (after, seconds) = (bench.target.usage()?, began.elapsed().as_secs_f64().max(1e-9));

        let report = &mut bench.report;
        report.plain("stalled handshakes", stalled as f64, "");
        report.plain("slow readers", slow.len() as f64, "");
        if let (Some(before), Some(after)) = (before, after) {
            let grown = after.since(&before);
            let each = (stalled + slow.len()).max(1) as f64;
            report.lower("server RSS for each of them", grown.rss_kib as f64 / each, "KiB");
            report.plain("threads for them", grown.threads as f64, "");
            report.plain("descriptors for them", grown.fds as f64, "");
            report.plain("server CPU", grown.cpu.as_secs_f64() * 1e3 / seconds, "ms/s");
        }
        honest::report(report, &quiet, &busy, "beside them");
        Ok(())
    }
}

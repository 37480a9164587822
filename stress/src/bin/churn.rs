//! Connects clients that exchange messages and disconnect, for hours if wanted. Reports what the server still
//! holds afterwards.

use std::error::Error;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use peeloff::Scheme;
use peeloff_stress::client::load::{self, Load, Pace};
use peeloff_stress::figures;
use peeloff_stress::floor::{self, Question};
use peeloff_stress::options::{self, Bench, Common, Scenario};
use peeloff_stress::outside::Usage;
use peeloff_stress::report::{Plot, Report, Series};

/// Measures what a server still holds after clients have come and gone.
#[derive(Parser)]
#[command(name = "churn", version)]
struct Cli {
    #[command(flatten)]
    common: Common,
    /// How long clients come and go.
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Largest number of clients.
    #[arg(long)]
    count: Option<u32>,
    /// Clients that are connected at the same time (closed loop).
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..))]
    together: u16,
    /// Clients per second (open loop).
    #[arg(long, value_name = "PER SECOND", conflicts_with = "together", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Messages of each client.
    #[arg(long, default_value_t = 3)]
    messages: u32,
    /// Bytes of a message.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(16..=1400))]
    payload: u16,
    /// Clients that come and go before the measurement starts.
    #[arg(long, default_value_t = 2000)]
    warm_up: u32,
    /// How long the server may take afterwards to release what it keeps for further clients.
    #[arg(long, default_value = "15s", value_parser = humantime::parse_duration)]
    settle: Duration,
    /// Exit with code 1 if descriptors, threads or more than 4 MiB of memory are left behind, or if a client
    /// failed. Without a leak, memory differs by up to 1.3 MiB both ways, because the free pieces of the heap are
    /// elsewhere each time.
    #[arg(long)]
    strict: bool,
}

fn main() -> ExitCode {
    options::main::<Cli>()
}

impl Scenario for Cli {
    const NAME: &'static str = "churn";

    fn common(&self) -> &Common {
        &self.common
    }

    fn objection(&self, report: &Report) -> Option<String> {
        let too_much = |(name, most): &(&str, f64)| report.find(name).is_none_or(|row| row.value > *most);
        let limits = [
            ("clients that failed", 0.0),
            ("descriptors left behind", 0.0),
            ("threads left behind", 0.0),
            ("memory left behind", 4096.0),
        ];
        let (name, most) = limits.into_iter().filter(|_| self.strict).find(too_much)?;
        Some(match report.find(name) {
            Some(row) => {
                format!(
                    "{}, and at most {most} is accepted",
                    format!("{name}: {} {}", row.value, row.unit).trim()
                )
            }
            None => format!("{name}: not known; --strict needs the server's process ID, see --pid"),
        })
    }

    fn run(&self, bench: &mut Bench) -> Result<(), Box<dyn Error>> {
        let first = bench.target.usage()?;
        bench.probe()?;
        let mut clients = bench.clients()?;
        let load = Load {
            pace: match self.rate {
                Some(rate) => Pace::Rate(f64::from(rate)),
                None => Pace::Together(usize::from(self.together)),
            },
            messages: self.messages.max(u32::from(bench.suite().is_none())),
            payload: usize::from(self.payload),
            stay: false,
            ..bench.load(self.warm_up as usize)
        };
        bench.report.option(
            "they come",
            self.rate.map_or(format!("{} at once", self.together), |rate| format!("{rate}/s")),
        );
        bench.report.option("messages of each", load.messages);
        let bar = bench.progress("warming up", u64::from(self.warm_up));
        load::run(&mut clients, &load, &bench.stop, &bar)?;
        bar.finish_and_clear();
        self.settle(bench, first)?;
        let before = bench.target.usage()?;

        let load = Load {
            count: self.count.map_or(usize::MAX, |count| count as usize),
            until: Some(Instant::now() + self.duration),
            ..load
        };
        let bar = bench.progress("come and gone", u64::from(self.count.unwrap_or(0)));
        let over = AtomicBool::new(false);
        let (results, samples) = thread::scope(|scope| {
            let sampler = scope.spawn(|| sample(bench.target.pid, &over));
            let results = load::run(&mut clients, &load, &bench.stop, &bar);
            over.store(true, Ordering::Relaxed);
            sampler.thread().unpark();
            (results, sampler.join().unwrap_or_default())
        });
        let results = results?;
        bar.finish_and_clear();
        let busy = bench.target.usage()?;
        self.settle(bench, before)?;
        let after = bench.target.usage()?;

        let floor = match bench.suite().filter(|_| bench.common.floor) {
            Some(suite) => {
                let cookie = suite.dtls;
                let question = Question::Handshake { suite, cookie, resumed: false };
                Some(floor::ask(&question, bench.common.pin)? * 1e6)
            }
            None => None,
        };
        let report = &mut bench.report;
        let per_second = results.completed as f64 / results.took.as_secs_f64().max(1e-9);
        report.higher("clients per second", per_second, "/s");
        if let (Some(before), Some(busy), Some(after)) = (before, busy, after) {
            let name = "server CPU per client";
            if let Some(row) = figures::cpu(report, name, &busy.since(&before), results.completed)
                && let Some(floor) = floor
            {
                row.over(floor, "OpenSSL's handshake in memory");
            }
            let drift = |after: u64, before: u64| after as f64 - before as f64;
            report.lower("descriptors left behind", drift(after.fds, before.fds), "");
            report.lower("threads left behind", drift(after.threads, before.threads), "");
            report.lower("memory left behind", drift(after.rss_kib, before.rss_kib), "KiB");
        }
        if bench.target.address.scheme == Scheme::Udp {
            report.note("Plain UDP has no close: what is left behind stays until the server's idle timeout.");
        }
        figures::results(report, &results);
        results.echo.describe(report, "echo");
        figures::tally(report, &results.tally);
        let series = |name: &str, pick: fn(&Usage) -> f64| Series {
            name: name.to_owned(),
            points: samples.iter().map(|(at, usage)| (at.as_secs_f64(), pick(usage))).collect(),
        };
        for (title, y, pick) in [
            ("Resident memory", "KiB", (|usage| usage.rss_kib as f64) as fn(&Usage) -> f64),
            ("Descriptors and threads", "", |usage| usage.fds as f64),
        ] {
            let mut all = vec![series(if y.is_empty() { "descriptors" } else { "memory" }, pick)];
            if y.is_empty() {
                all.push(series("threads", |usage| usage.threads as f64));
            }
            let plot =
                Plot { title: title.to_owned(), x: "seconds".to_owned(), y: y.to_owned(), series: all };
            report.plots.push(plot);
        }
        Ok(())
    }
}

impl Cli {
    /// Waits until the server has no more threads than before, or until `settle` has passed.
    fn settle(&self, bench: &Bench, before: Option<Usage>) -> Result<(), Box<dyn Error>> {
        let Some(before) = before else { return Ok(()) };
        let end = Instant::now() + self.settle;
        let bar = bench.progress("settling", 0);
        while Instant::now() < end && !bench.stop.wanted() {
            let now = bench.target.usage()?;
            if now.is_some_and(|now| now.threads <= before.threads && now.fds <= before.fds) {
                break;
            }
            bar.tick();
            bench.stop.wait(Duration::from_millis(100));
        }
        bar.finish_and_clear();
        Ok(())
    }
}

/// Reads the server's figures ten times a second at first and then less and less often, a thousand times at most.
fn sample(pid: Option<u32>, over: &AtomicBool) -> Vec<(Duration, Usage)> {
    let (began, mut step, mut samples) = (Instant::now(), Duration::from_millis(100), Vec::new());
    let Some(pid) = pid else { return samples };
    while !over.load(Ordering::Relaxed) {
        let Ok(usage) = Usage::of(pid) else { break };
        samples.push((began.elapsed(), usage));
        if samples.len() >= 1000 {
            let mut index = 0;
            samples.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            step *= 2;
        }
        thread::park_timeout(step);
    }
    samples
}

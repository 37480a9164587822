//! Clients that come as fast as a rate or a server lets them: the server's CPU for a handshake, beside that of
//! OpenSSL's in memory.

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use peeloff::Scheme;
use peeloff_stress::client::visits::{self, Pace, Visits};
use peeloff_stress::floor::{self, Question};
use peeloff_stress::options::{self, Bench, Common, Scenario};
use peeloff_stress::target::{Role, Target};
use peeloff_stress::{figures, latency::Latency};

/// Measures handshakes: full, resumed, with a shared key or with certificates on both sides.
#[derive(Parser)]
#[command(name = "handshake", version)]
struct Cli {
    #[command(flatten)]
    common: Common,
    /// Clients in all.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    count: u32,
    /// Clients per second, whatever becomes of them (open loop).
    #[arg(long, value_name = "PER SECOND", conflicts_with = "together", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Handshakes under way at once (closed loop).
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    together: u16,
    /// They resume the session of one that was there before.
    #[arg(long)]
    resumed: bool,
    /// They leave as soon as they are connected, instead of staying.
    #[arg(long)]
    leave: bool,
    /// The longest that new clients come.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    duration: Duration,
}

fn main() -> ExitCode {
    options::main::<Cli>()
}

impl Scenario for Cli {
    const NAME: &'static str = "handshake";

    fn common(&self) -> &Common {
        &self.common
    }

    fn run(&self, bench: &mut Bench) -> Result<(), Box<dyn Error>> {
        bench.probe()?;
        let dialer = bench.dialer()?;
        let secure = bench.suite();
        let pace = match self.rate {
            Some(rate) => Pace::Rate(f64::from(rate)),
            None => Pace::Together(usize::from(self.together)),
        };
        let mut visits = Visits {
            pace,
            stay: !self.leave,
            // Where there is no handshake a peer is one by its first message.
            messages: u32::from(secure.is_none()),
            answer: bench.common.answer,
            ..Visits::of(self.count as usize)
        };
        if self.resumed {
            // TLS 1.3 sends its tickets behind the handshake; whoever waits for an answer has them.
            let first = Visits { messages: 1, stay: false, ..Visits::of(1) };
            visits::run(&dialer, &first, 1, &bench.stop, &bench.progress("a session to resume", 1))?;
            visits.session = Some(
                dialer.last_session().ok_or("the server gave no session to resume; leave out --resumed")?,
            );
        }
        bench.report.option("clients", self.count);
        bench.report.option(
            "pace",
            self.rate.map_or(format!("{} at once", self.together), |rate| format!("{rate}/s")),
        );
        bench.report.option("resumed", self.resumed);
        bench.report.option("they", self.business());

        visits.until = Some(Instant::now() + self.duration);
        let before = bench.target.usage()?;
        let bar = bench.progress("handshakes", u64::from(self.count));
        let visited = visits::run(&dialer, &visits, bench.threads(), &bench.stop, &bar)?;
        let after = bench.target.usage()?;
        bar.finish_and_clear();

        let floor = if bench.common.floor { self.floor(bench, &visits)? } else { None };
        let crowd = if bench.common.floor { self.crowd(bench)? } else { None };
        let report = &mut bench.report;
        let per_second = visited.completed as f64 / visited.took.as_secs_f64().max(1e-9);
        report.higher("handshakes per second", per_second, "/s");
        if let (Some(before), Some(after)) = (before, after) {
            let used = after.since(&before);
            let row = figures::cpu(report, "server CPU per handshake", &used, visited.completed);
            if let (Some(row), Some((value, of))) = (row, &floor) {
                row.over(*value, of);
            }
            if let Some(crowd) = crowd {
                let name = format!("in memory, {} in turn, they {}", self.together, self.business());
                report.plain(&name, crowd, "µs");
            }
            if !self.leave {
                figures::held(report, &used, &after, visited.completed as usize);
            }
        }
        figures::visited(report, &visited);
        report.plain("resumed", visited.resumed as f64, "");
        if self.resumed && visited.resumed < visited.completed {
            report.note("Not every handshake resumed the session: the server did not take it each time.");
        }
        if secure.is_none() {
            figures::tally(report, &visited.tally);
        }
        report.plots.push(figures::percentiles(
            "From the intended start to the open session",
            vec![series(&visited.connect)],
        ));
        Ok(())
    }
}

fn series(latency: &Latency) -> peeloff_stress::report::Series {
    latency.series("connect")
}

impl Cli {
    fn business(&self) -> &'static str {
        if self.leave { "leave" } else { "stay" }
    }

    /// In microseconds: OpenSSL's handshake in memory once more, but with as many under way as the clients make, so that
    /// none of them finds its memory in the processor's caches, and staying or leaving as they do.
    fn crowd(&self, bench: &Bench) -> Result<Option<f64>, Box<dyn Error>> {
        let Some(suite) = bench.suite().filter(|_| self.rate.is_none()) else { return Ok(None) };
        let question = Question::Crowd {
            suite,
            resumed: self.resumed,
            count: self.count as usize,
            together: self.together as usize,
            keep: !self.leave,
        };
        Ok(Some(floor::ask(&question, bench.common.pin)? * 1e6))
    }

    /// In microseconds: OpenSSL's handshake in memory, or a bare server's CPU for the same clients.
    fn floor(&self, bench: &Bench, visits: &Visits) -> Result<Option<(f64, String)>, Box<dyn Error>> {
        if let Some(suite) = bench.suite() {
            let cookie = suite.dtls && !self.resumed;
            let question = Question::Handshake { suite, cookie, resumed: self.resumed };
            let of = match (self.resumed, cookie) {
                (true, _) => "OpenSSL in memory, resumed",
                (_, true) => "OpenSSL in memory, with cookie",
                _ => "OpenSSL in memory",
            };
            return Ok(Some((floor::ask(&question, bench.common.pin)? * 1e6, of.to_owned())));
        }
        if !matches!(bench.scheme(), Scheme::Udp | Scheme::Tcp) {
            return Ok(None);
        }
        let common = &bench.common;
        let bare = Target::start(Role::BareThreads, bench.scheme().as_str(), common.auth, common.pin)?;
        let dialer = peeloff_stress::client::Dialer::new(bench.scheme(), bare.socket, None, common.patience)?;
        let again = Visits { until: Some(Instant::now() + self.duration), ..visits.clone() };
        let before = bare.usage()?;
        let bar = bench.progress("floor", u64::from(self.count));
        let visited = visits::run(&dialer, &again, bench.threads(), &bench.stop, &bar)?;
        let after = bare.usage()?;
        bar.finish_and_clear();
        let used = before.zip(after).map(|(before, after)| after.since(&before));
        let each = used.map(|used| used.cpu.as_secs_f64() * 1e6 / visited.completed.max(1) as f64);
        Ok(each.map(|each| (each, "bare thread per peer".to_owned())))
    }
}

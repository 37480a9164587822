//! Connects clients at a rate or at the server's full speed. Reports the server's CPU time per handshake,
//! compared with OpenSSL's handshake in memory.

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use peeloff::Scheme;
use peeloff_stress::client::load::{self, Load, Pace};
use peeloff_stress::client::{Clients, Dialer};
use peeloff_stress::floor::{self, Question};
use peeloff_stress::options::{self, Bench, Common, Scenario};
use peeloff_stress::outside::Usage;
use peeloff_stress::target::{Role, Target};
use peeloff_stress::{figures, latency::Latency};

/// Measures handshakes: full, resumed, with a pre-shared key or with certificates on both sides.
#[derive(Parser)]
#[command(name = "handshake", version)]
struct Cli {
    #[command(flatten)]
    common: Common,
    /// Number of clients.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    count: u32,
    /// Clients per second, independent of the server's progress (open loop).
    #[arg(long, value_name = "PER SECOND", conflicts_with = "together", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Handshakes in progress at the same time (closed loop).
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    together: u16,
    /// Resume the session of an earlier client.
    #[arg(long)]
    resumed: bool,
    /// Disconnect each client as soon as it is connected.
    #[arg(long)]
    leave: bool,
    /// Measure instead what a handshake costs beside these numbers of peers that stay connected, in ascending
    /// order. The clients that are measured disconnect.
    #[arg(long, value_delimiter = ',', value_name = "PEERS", conflicts_with_all = ["resumed", "leave"])]
    kept: Vec<u32>,
    /// How long new clients may connect.
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
        let mut clients = dialer.clients(bench.threads())?;
        let secure = bench.suite();
        let pace = match self.rate {
            Some(rate) => Pace::Rate(f64::from(rate)),
            None => Pace::Together(usize::from(self.together)),
        };
        let mut load = Load {
            pace,
            stay: !self.leave,
            // Without a handshake, the server learns of a peer only by its first message.
            messages: u32::from(secure.is_none()),
            ..bench.load(self.count as usize)
        };
        if !self.kept.is_empty() {
            return self.beside(bench, &Load { stay: false, ..load });
        }
        if self.resumed {
            // TLS 1.3 sends its tickets after the handshake. A client that has waited for an answer has them.
            let first = Load { messages: 1, stay: false, ..bench.load(1) };
            load::run(&mut clients, &first, &bench.stop, &bench.progress("a session to resume", 1))?;
            load.session = Some(
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

        load.until = Some(Instant::now() + self.duration);
        let (before, own) = (bench.target.usage()?, Usage::own()?);
        let bar = bench.progress("handshakes", u64::from(self.count));
        let results = load::run(&mut clients, &load, &bench.stop, &bar)?;
        let after = bench.target.usage()?;
        bar.finish_and_clear();
        figures::own(&mut bench.report, &clients, &own, "handshake", results.completed)?;

        let floor = if bench.common.floor { self.floor(bench, &load)? } else { None };
        let crowd = if bench.common.floor { self.crowd(bench)? } else { None };
        if bench.common.floor && bench.scheme() == Scheme::Dtls {
            let bare = Target::start(Role::BareEvp, "dtls", &bench.common)?;
            let mut clients =
                Dialer::new(Scheme::Dtls, bare.socket, secure.clone())?.clients(bench.threads())?;
            // The bare server gives no sessions to resume.
            let load = Load { session: None, until: Some(Instant::now() + self.duration), ..load.clone() };
            if let Some(each) = self.cost(bench, &bare, &mut clients, &load)?.filter(|_| !self.resumed) {
                bench.report.plain("bare socket, batches, EVP: CPU per handshake", each, "µs");
            }
        }
        let report = &mut bench.report;
        let per_second = results.completed as f64 / results.took.as_secs_f64().max(1e-9);
        report.higher("handshakes per second", per_second, "/s");
        if let (Some(before), Some(after)) = (before, after) {
            let used = after.since(&before);
            let row = figures::cpu(report, "server CPU per handshake", &used, results.completed);
            if let (Some(row), Some((value, of))) = (row, &floor) {
                row.over(*value, of);
            }
            if let Some(crowd) = crowd {
                let name = format!("in memory, {} in turn, they {}", self.together, self.business());
                report.plain(&name, crowd, "µs");
            }
            if !self.leave {
                figures::held(report, &used, &after, results.completed as usize);
            }
        }
        figures::results(report, &results);
        report.plain("resumed", results.resumed as f64, "");
        if self.resumed && results.resumed < results.completed {
            report.note("Not every handshake resumed the session: the server did not accept it each time.");
        }
        if secure.is_none() {
            figures::tally(report, &results.tally);
        }
        report.plots.push(figures::percentiles(
            "From the intended start to the open session",
            vec![series(&results.connect)],
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

    /// Measures OpenSSL's handshake in memory again, in microseconds, with as many handshakes in progress as the
    /// clients have, so that no handshake finds its memory in the processor's caches. The sessions stay or end as
    /// those of the clients do.
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

    /// Returns the floor in microseconds: OpenSSL's handshake in memory, or a bare server's CPU time for the same
    /// clients.
    fn floor(&self, bench: &Bench, load: &Load) -> Result<Option<(f64, String)>, Box<dyn Error>> {
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
        let bare = Target::start(Role::BareThreads, bench.scheme().as_str(), common)?;
        let mut clients = Dialer::new(bench.scheme(), bare.socket, None)?.clients(bench.threads())?;
        let again = Load { until: Some(Instant::now() + self.duration), ..load.clone() };
        let each = self.cost(bench, &bare, &mut clients, &again)?;
        Ok(each.map(|each| (each, "bare thread per peer".to_owned())))
    }

    /// Returns what each of these clients costs a server, in microseconds of its CPU time.
    fn cost(
        &self,
        bench: &Bench,
        server: &Target,
        clients: &mut Clients,
        load: &Load,
    ) -> Result<Option<f64>, Box<dyn Error>> {
        let before = server.usage()?;
        let bar = bench.progress("handshakes", load.count as u64);
        let results = load::run(clients, load, &bench.stop, &bar)?;
        bar.finish_and_clear();
        let used = before.zip(server.usage()?).map(|(before, after)| after.since(&before));
        Ok(used.map(|used| used.cpu.as_secs_f64() * 1e6 / results.completed.max(1) as f64))
    }

    /// Reports the cost of a handshake beside each number of connected peers, as a ratio to the cost beside the
    /// first number. Measures the same with a bare loop.
    fn beside(&self, bench: &mut Bench, load: &Load) -> Result<(), Box<dyn Error>> {
        bench.report.option("clients", self.count);
        let common = &bench.common;
        let mut servers = vec![("", Target::running(&bench.target.address, bench.target.pid)?)];
        if common.floor && bench.scheme() == Scheme::Dtls {
            let bare = Target::start(Role::BareEvp, "dtls", common)?;
            servers.push(("bare socket, batches, EVP: ", bare));
        }
        for (who, server) in &servers {
            let dialer = Dialer::new(bench.scheme(), server.socket, bench.suite())?;
            let (mut kept, mut comers) = (dialer.clients(bench.threads())?, dialer.clients(bench.threads())?);
            let mut first = None;
            for &wanted in &self.kept {
                let missing = (wanted as usize).saturating_sub(kept.len());
                let (own, before) = (Usage::own()?, server.usage()?);
                let bar = bench.progress("peers", missing as u64);
                let results = load::run(&mut kept, &bench.load(missing), &bench.stop, &bar)?;
                bar.finish_and_clear();
                if kept.len() < wanted as usize {
                    let why = results.why.unwrap_or_else(|| "the run ended".to_owned());
                    bench
                        .report
                        .note(format!("{who}only {} of {wanted} peers could connect: {why}.", kept.len()));
                    break;
                }
                let name = format!("{who}server RSS per peer of the {missing} until {wanted}");
                if let Some(grown) = before.zip(server.usage()?).map(|(before, after)| after.since(&before)) {
                    bench.report.lower(&name, grown.rss_kib as f64 / missing.max(1) as f64, "KiB");
                }
                let each = Usage::own()?.since(&own).rss_kib as f64 / missing.max(1) as f64;
                bench.report.plain(&format!("{who}clients' own RSS per peer until {wanted}"), each, "KiB");
                let load = Load { until: Some(Instant::now() + self.duration), ..load.clone() };
                let Some(cost) = self.cost(bench, server, &mut comers, &load)? else { continue };
                let name = format!("{who}server CPU per handshake beside {wanted}");
                let row = bench.report.lower(&name, cost, "µs");
                if let Some((wanted, first)) = first {
                    row.over(first, &format!("the same beside {wanted}"));
                }
                first.get_or_insert((wanted, cost));
            }
        }
        Ok(())
    }
}

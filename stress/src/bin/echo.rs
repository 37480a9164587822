//! Connects N peers, of which A send messages. Reports latency, loss and the server's CPU time per message, and
//! compares them with bare loops and with OpenSSL's session in memory.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use indicatif::ProgressBar;
use peeloff::{Address, NoSctp, Peer, Scheme};
use peeloff_stress::client::load;
use peeloff_stress::client::talk::{self, Pace, Talk, TalkResults};
use peeloff_stress::client::{Clients, Dialer, threads};
use peeloff_stress::floor::{self, Question};
use peeloff_stress::options::{self, Bench, Common, Scenario, Stop};
use peeloff_stress::outside::Usage;
use peeloff_stress::target::{Role, Target};
use peeloff_stress::{figures, product};

/// Measures echoes: of one peer or of thousands, at full speed or at a fixed rate.
#[derive(Parser)]
#[command(name = "echo", version)]
struct Cli {
    #[command(flatten)]
    common: Common,
    /// Number of connected peers.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    peers: u32,
    /// Number of peers that send messages; the others are only connected.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    active: u32,
    /// Bytes of a message; several sizes are measured one after the other.
    #[arg(long, value_delimiter = ',', default_value = "64,1200", value_parser = clap::value_parser!(u16).range(16..=1400))]
    payload: Vec<u16>,
    /// Messages that each peer has in flight (closed loop).
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    window: u16,
    /// Largest number of messages that all peers together have in flight (closed loop); beyond it the peers take
    /// turns. A server with one socket can queue a few thousand.
    #[arg(long, default_value_t = 2048, conflicts_with = "rate", value_parser = clap::value_parser!(u32).range(1..))]
    under_way: u32,
    /// Messages per second of all peers together, independent of the answers (open loop).
    #[arg(long, value_name = "PER SECOND", conflicts_with = "window", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// How long the peers send in each turn.
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Largest number of messages of a turn.
    #[arg(long)]
    messages: Option<u64>,
    /// Turns of each server; the report has the median.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=999))]
    turns: u16,
    /// Make the handler sleep 50 ms for each message of every sixteenth peer, and measure the others with and
    /// without these sleepers.
    #[arg(long, conflicts_with = "target")]
    sleeper: bool,
}

fn main() -> ExitCode {
    options::main::<Cli>()
}

/// The names of the floors that the figures are compared with.
const THREADS: &str = "bare thread per peer";
const THREADS_EVP: &str = "bare thread per peer, EVP";
const BATCHES: &str = "bare socket, batches";
const EVP: &str = "bare socket, batches, EVP";
/// A process can have only as many threads as the kernel's default for memory maps allows (vm.max_map_count).
const MAX_THREADS: u64 = 16_000;
/// The most peers of a third server with a thread for each: the kernel's default has room for 32,768 threads in all.
const MOST_EVP_THREADS: u32 = 4_000;

/// A server with its peers, and the results of its turns.
struct MeasuredServer {
    name: &'static str,
    target: Target,
    peers: Peers,
    turns: Vec<Turn>,
}

enum Peers {
    Driven(Clients),
    Threads(Vec<Peer>),
}

struct Turn {
    talked: TalkResults,
    /// The server's CPU time for each echo, in microseconds.
    cpu: Option<f64>,
    used: Option<Usage>,
    /// The clients' own CPU time for each echo, in microseconds.
    own: f64,
}

impl Scenario for Cli {
    const NAME: &'static str = "echo";

    fn common(&self) -> &Common {
        &self.common
    }

    fn run(&self, bench: &mut Bench) -> Result<(), Box<dyn Error>> {
        if bench.scheme().is_sctp() {
            if !peeloff::sctp::is_supported() {
                return Err(NoSctp.into());
            }
            if self.rate.is_some() || self.window > 1 || self.sleeper {
                return Err(
                    "SCTP is measured with one message in flight; leave out --rate, --window and --sleeper"
                        .into(),
                );
            }
        } else {
            bench.probe()?;
        }
        let report = &mut bench.report;
        report.option("peers", self.peers);
        report.option("that talk", self.active.min(self.peers));
        report
            .option("pace", self.rate.map_or(format!("window {}", self.window), |rate| format!("{rate}/s")));
        report.option("turns", format!("{} of {}", self.turns, humantime::format_duration(self.duration)));
        if self.rate.is_none() {
            report.note(
                "Closed loop: latency is that of clients that wait for each answer, at the server's full speed. \
                 For latency at a load, give --rate.",
            );
        }
        let mut servers = vec![self.connect_to(bench, "the server", None)?];
        if self.sleeper {
            servers.push(self.connect_to(bench, "with sleepers", Some(Role::Sleepers))?);
        }
        if bench.common.floor {
            let datagrams = matches!(bench.scheme(), Scheme::Udp | Scheme::Dtls);
            // This floor needs a descriptor for each peer, and perhaps a thread.
            let room = peeloff::raise_fd_limit()?.min(MAX_THREADS) > u64::from(self.peers) + 200;
            if room {
                servers.push(self.connect_to(bench, THREADS, Some(Role::BareThreads))?);
            } else {
                bench.report.note("There is no floor with a thread or a descriptor per peer, because there are too many peers.");
            }
            if bench.scheme() == Scheme::Dtls && room && self.peers <= MOST_EVP_THREADS {
                servers.push(self.connect_to(bench, THREADS_EVP, Some(Role::BareThreadsEvp))?);
            }
            if datagrams && room {
                servers.push(self.connect_to(bench, "bare epoll", Some(Role::BareEpoll))?);
            }
            if datagrams {
                servers.push(self.connect_to(bench, BATCHES, Some(Role::BareBatches))?);
            }
            if bench.scheme() == Scheme::Dtls {
                servers.push(self.connect_to(bench, EVP, Some(Role::BareEvp))?);
            }
        }
        let mut plot = figures::percentiles("Latency", Vec::new());
        for &payload in &self.payload {
            let payload = usize::from(payload);
            for turn in 0..self.turns {
                let mut order: Vec<usize> = (0..servers.len()).collect();
                if turn % 2 == 1 {
                    // Alternate the order, so that no server always runs directly after the same one.
                    order.reverse();
                }
                for index in order {
                    let bar = bench.progress(servers[index].name, 0);
                    let turn = self.turn(bench, &mut servers[index], payload, &bar)?;
                    bar.finish_and_clear();
                    servers[index].turns.push(turn);
                }
            }
            self.report_server(bench, &servers, payload)?;
            let latency = &servers[0].turns[0].talked.latency;
            plot.series.push(latency.series(&format!("{payload} B")));
            servers.iter_mut().for_each(|measured| measured.turns.clear());
        }
        bench.report.plots.push(plot);
        Ok(())
    }
}

impl Cli {
    /// Connects all peers to the target itself, or to a server that is started in a role.
    fn connect_to(
        &self,
        bench: &mut Bench,
        name: &'static str,
        role: Option<Role>,
    ) -> Result<MeasuredServer, Box<dyn Error>> {
        let common = &bench.common;
        let (target, suite) = match role {
            None => (Target::running(&bench.target.address, bench.target.pid)?, bench.suite()),
            Some(Role::Sleepers) => {
                let scheme = bench.scheme().as_str();
                (Target::start(Role::Sleepers, scheme, common)?, bench.suite())
            }
            Some(Role::BareThreads) => {
                let scheme = bench.scheme();
                let scheme = if scheme.is_sctp() { below(scheme) } else { scheme.as_str() };
                let suite = bench.suite().filter(|_| scheme != "sctp");
                (Target::start(Role::BareThreads, scheme, common)?, suite)
            }
            Some(role @ (Role::BareEvp | Role::BareThreadsEvp)) => {
                (Target::start(role, "dtls", common)?, bench.suite())
            }
            Some(role) => (Target::start(role, below(bench.scheme()), common)?, None),
        };
        let (before, own) = (target.usage()?, Usage::own()?);
        let peers = self.connect(bench, &target.address, suite)?;
        let mut measured = MeasuredServer { name, target, peers, turns: Vec::new() };
        // Pay one-time costs before the first turn. On UDP a peer becomes known by its first message.
        let warm = Talk {
            duration: Duration::from_secs(5),
            count: Some(u64::from(self.peers)),
            ..self.talk(bench, 64)
        };
        let warm = Talk { pace: Pace::Window(1), ..warm };
        match &mut measured.peers {
            Peers::Driven(clients) => {
                talk::run(clients, self.peers as usize, &warm, &bench.stop, &ProgressBar::hidden())?
            }
            Peers::Threads(peers) => threads::run(peers, &warm, &bench.stop, &ProgressBar::hidden())?,
        };
        // Read this only now: on UDP and SCTP, clients are connected before the server knows about them.
        if let (None, Some(before), Some(after)) = (role, before, measured.target.usage()?) {
            figures::held(&mut bench.report, &after.since(&before), &after, self.peers as usize);
            let each = Usage::own()?.since(&own).rss_kib as f64 / f64::from(self.peers);
            bench.report.plain("clients' own RSS per peer", each, "KiB");
        }
        Ok(measured)
    }

    fn connect(
        &self,
        bench: &Bench,
        address: &Address,
        suite: Option<peeloff_stress::secure::Suite>,
    ) -> Result<Peers, Box<dyn Error>> {
        let common = &bench.common;
        if address.scheme.is_sctp() {
            return Ok(Peers::Threads(threads::connect(address, self.peers as usize, common.patience)?));
        }
        let dialer = Dialer::new(address.scheme, address.resolve()?[0], suite)?;
        let mut clients = dialer.clients(bench.threads())?;
        let bar = bench.progress("peers", u64::from(self.peers));
        let load = bench.load(self.peers as usize);
        let results = load::run(&mut clients, &load, &bench.stop, &bar)?;
        bar.finish_and_clear();
        match results.why {
            Some(why) if results.failed > 0 => Err(format!(
                "{} of {} peers could not connect to {address}: {why}",
                results.failed, self.peers
            )
            .into()),
            _ => Ok(Peers::Driven(clients)),
        }
    }

    fn talk(&self, bench: &Bench, payload: usize) -> Talk {
        let pace =
            self.rate.map_or(Pace::Window(usize::from(self.window)), |rate| Pace::Rate(f64::from(rate)));
        Talk {
            pace,
            payload,
            duration: self.duration,
            count: self.messages,
            answer: bench.common.answer,
            together: self.under_way as usize,
            apart: self.sleeper.then_some(product::SLEEPER_OF),
        }
    }

    fn turn(
        &self,
        bench: &Bench,
        measured: &mut MeasuredServer,
        payload: usize,
        bar: &ProgressBar,
    ) -> Result<Turn, Box<dyn Error>> {
        let talk = self.talk(bench, payload);
        let (before, own) = (measured.target.usage()?, Usage::own()?);
        let active = (self.active as usize).min(self.peers as usize);
        let stop: &Stop = &bench.stop;
        let talked = match &mut measured.peers {
            Peers::Driven(clients) => talk::run(clients, active, &talk, stop, bar)?,
            Peers::Threads(peers) => threads::run(&mut peers[..active], &talk, stop, bar)?,
        };
        let used = before.zip(measured.target.usage()?).map(|(before, after)| after.since(&before));
        let echoes = talked.tally.echoes;
        let cpu = used.filter(|_| echoes > 0).map(|used| used.cpu.as_secs_f64() * 1e6 / echoes as f64);
        let own = Usage::own()?.since(&own).cpu.as_secs_f64() * 1e6 / echoes.max(1) as f64;
        Ok(Turn { talked, cpu, used, own })
    }

    fn report_server(
        &self,
        bench: &mut Bench,
        servers: &[MeasuredServer],
        payload: usize,
    ) -> Result<(), Box<dyn Error>> {
        let cost =
            |measured: &MeasuredServer| median(measured.turns.iter().filter_map(|turn| turn.cpu).collect());
        let crypto = |sessions: u32| -> Result<f64, Box<dyn Error>> {
            match bench.suite().filter(|_| bench.common.floor && !bench.scheme().is_sctp()) {
                Some(suite) => {
                    let sessions = usize::try_from(sessions)?;
                    Ok(floor::ask(&Question::Echo { suite, payload, sessions }, bench.common.pin)? * 1e6)
                }
                None => Ok(0.0),
            }
        };
        let (warm, crypto) = (crypto(1)?, crypto(self.active.min(self.peers))?);
        let is_secured = bench.suite().is_some() && !bench.scheme().is_sctp();
        let of =
            if is_secured { "bare thread per peer with OpenSSL's session" } else { "bare thread per peer" };
        let batches = if is_secured { EVP } else { BATCHES };
        let report = &mut bench.report;
        let server = &servers[0];
        let floor_of = |name: &str| servers.iter().find(|measured| measured.name == name).and_then(cost);
        if let Some(cpu) = cost(server) {
            let row = report.lower(&format!("server CPU per echo, {payload} B"), cpu, "µs");
            if let Some(floor) = floor_of(THREADS) {
                row.over(floor, of);
            }
            // The loop to compare with a server that has one socket.
            if let Some(floor) = floor_of(batches) {
                report
                    .lower(&format!("server CPU per echo, beside one bare socket, {payload} B"), cpu, "µs")
                    .over(floor, batches);
            }
        }
        for measured in &servers[1..] {
            if let Some(cpu) = cost(measured).filter(|_| measured.name != "with sleepers") {
                report.plain(&format!("{} CPU per echo, {payload} B", measured.name), cpu, "µs");
            }
        }
        if crypto > 0.0 {
            report.plain(
                &format!("OpenSSL's session in memory, one peer after the other, {payload} B"),
                crypto,
                "µs",
            );
            report.plain(
                &format!("OpenSSL's session in memory, always the same peer, {payload} B"),
                warm,
                "µs",
            );
        }
        if let Some(asleep) = servers.iter().find(|measured| measured.name == "with sleepers") {
            self.report_sleepers(report, server, asleep, payload);
        }
        let own = median(server.turns.iter().map(|turn| turn.own).collect());
        report.plain(&format!("clients' own CPU per echo, {payload} B"), own.unwrap_or_default(), "µs");
        for measured in servers {
            if let Peers::Driven(clients) = &measured.peers {
                figures::dropped(report, clients.dropped());
            }
            let lost = measured.turns.iter().map(|turn| turn.talked.tally.lost).sum::<u64>();
            if lost > 0 && measured.name != server.name {
                report.note(format!("{}: {lost} messages of {payload} B were lost.", measured.name));
            }
        }
        let what = format!("echo {payload} B");
        // Report the median turn by throughput.
        let mut order: Vec<&Turn> = server.turns.iter().collect();
        order.sort_by_key(|turn| turn.talked.tally.echoes);
        figures::talked(report, &order[order.len() / 2].talked, &what);
        if let Some(used) = order[order.len() / 2].used {
            let echoes = order[order.len() / 2].talked.tally.echoes.max(1);
            report.lower(
                &format!("server wake-ups per echo, {payload} B"),
                used.wake_ups as f64 / echoes as f64,
                "",
            );
        }
        let all =
            server.turns.iter().fold(Default::default(), |sum: peeloff_stress::message::Tally, turn| {
                sum.plus(turn.talked.tally)
            });
        let earlier =
            ["messages sent", "messages echoed", "lost", "duplicates", "corrupt", "cross-delivered"];
        let before: Vec<f64> =
            earlier.iter().map(|name| report.find(name).map_or(0.0, |row| row.value)).collect();
        report.rows.retain(|row| !earlier.contains(&row.name.as_str()));
        figures::tally(report, &all);
        for (name, before) in earlier.iter().zip(before) {
            report.rows.iter_mut().filter(|row| row.name == *name).for_each(|row| row.value += before);
        }
        Ok(())
    }

    /// Reports the other peers' figures with sleepers among them as a ratio to those without sleepers.
    fn report_sleepers(
        &self,
        report: &mut peeloff_stress::report::Report,
        awake: &MeasuredServer,
        asleep: &MeasuredServer,
        payload: usize,
    ) {
        let of = product::SLEEPER_OF;
        let all = |measured: &MeasuredServer, figure: fn(&TalkResults) -> f64| {
            median(measured.turns.iter().map(|turn| figure(&turn.talked)).collect()).unwrap_or_default()
        };
        let rate = |talked: &TalkResults| talked.others.echoes as f64 / talked.took.as_secs_f64().max(1e-9);
        let name = format!("others' echoes with 1 of {of} asleep, {payload} B");
        report.higher(&name, all(asleep, rate), "/s").over(all(awake, rate), "the same without sleepers");
        let p99 = |talked: &TalkResults| talked.latency.percentile(99.0);
        let name = format!("others' echo p99 with 1 of {of} asleep, {payload} B");
        report.lower(&name, all(asleep, p99), "µs").over(all(awake, p99), "the same without sleepers");
        let lost =
            |talked: &TalkResults| 100.0 * talked.others.lost as f64 / talked.others.sent.max(1) as f64;
        let name = format!("others' messages lost with 1 of {of} asleep, {payload} B");
        report.lower(&name, all(asleep, lost), "%");
    }
}

/// Returns the scheme of the same transport without security.
fn below(scheme: Scheme) -> &'static str {
    match scheme {
        scheme if scheme.is_sctp() => "sctp",
        scheme if scheme.is_stream() => "tcp",
        _ => "udp",
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

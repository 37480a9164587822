//! N peers, of which A talk: latency, loss and the server's CPU for a message, beside bare loops and the session's
//! crypto in memory.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use indicatif::ProgressBar;
use peeloff::{Address, NoSctp, Peer, Scheme};
use peeloff_stress::client::talk::{self, Pace, Talk, Talked};
use peeloff_stress::client::visits::{self, Visits};
use peeloff_stress::client::{Dialer, Link, threads};
use peeloff_stress::floor::{self, Question};
use peeloff_stress::options::{self, Bench, Common, Scenario, Stop};
use peeloff_stress::outside::Usage;
use peeloff_stress::target::{Role, Target};
use peeloff_stress::{figures, product};

/// Measures echoes: of one peer or of thousands, as fast as they can or at a rate.
#[derive(Parser)]
#[command(name = "echo", version)]
struct Cli {
    #[command(flatten)]
    common: Common,
    /// Peers in all.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    peers: u32,
    /// Peers that talk; the others are there.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    active: u32,
    /// Bytes of a message; several are measured one after the other.
    #[arg(long, value_delimiter = ',', default_value = "64,1200", value_parser = clap::value_parser!(u16).range(16..=1400))]
    payload: Vec<u16>,
    /// Messages that each peer has under way (closed loop).
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    window: u16,
    /// Messages per second of all peers together, whatever becomes of them (open loop).
    #[arg(long, value_name = "PER SECOND", conflicts_with = "window", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// How long they talk in each turn.
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Messages of a turn at most.
    #[arg(long)]
    messages: Option<u64>,
    /// Turns of each server, of which the median counts.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=999))]
    turns: u16,
    /// The handler of every sixteenth peer sleeps 50 ms for each message; the others are measured with and without
    /// that.
    #[arg(long, conflicts_with = "target")]
    sleeper: bool,
}

fn main() -> ExitCode {
    options::main::<Cli>()
}

/// A server with its peers, and what its turns came to.
struct Contestant {
    name: &'static str,
    target: Target,
    peers: Peers,
    turns: Vec<Turn>,
}

enum Peers {
    Links(Vec<Link>),
    Threads(Vec<Peer>),
}

struct Turn {
    talked: Talked,
    /// Microseconds of the server's CPU for each echo.
    cpu: Option<f64>,
    used: Option<Usage>,
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
                    "SCTP is measured with one message under way; leave out --rate, --window and --sleeper"
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
        let mut contestants = vec![self.enter(bench, "the server", None)?];
        if self.sleeper {
            contestants.push(self.enter(bench, "with sleepers", Some(Role::Sleepers))?);
        }
        if bench.common.floor {
            contestants.push(self.enter(bench, "bare thread per peer", Some(Role::BareThreads))?);
            // Each contestant has as many peers, and this process a descriptor for each of them.
            let room = peeloff::raise_fd_limit()? > 4 * u64::from(self.peers) + 64;
            if !room {
                bench.report.note("The limit on descriptors leaves no room for more floors than one.");
            }
            if room && matches!(bench.scheme(), Scheme::Udp | Scheme::Dtls) {
                contestants.push(self.enter(bench, "bare epoll", Some(Role::BareEpoll))?);
                contestants.push(self.enter(bench, "bare socket, batches", Some(Role::BareBatches))?);
            }
        }
        let mut plot = figures::percentiles("Latency", Vec::new());
        for &payload in &self.payload {
            let payload = usize::from(payload);
            for turn in 0..self.turns {
                let mut order: Vec<usize> = (0..contestants.len()).collect();
                if turn % 2 == 1 {
                    // Nobody is always the one behind the same other.
                    order.reverse();
                }
                for index in order {
                    let bar = bench.progress(contestants[index].name, 0);
                    let turn = self.turn(bench, &mut contestants[index], payload, &bar)?;
                    bar.finish_and_clear();
                    contestants[index].turns.push(turn);
                }
            }
            self.say(bench, &contestants, payload)?;
            let latency = &contestants[0].turns[0].talked.latency;
            plot.series.push(latency.series(&format!("{payload} B")));
            contestants.iter_mut().for_each(|contestant| contestant.turns.clear());
        }
        bench.report.plots.push(plot);
        Ok(())
    }
}

impl Cli {
    /// The target itself, or a server in a role, with all its peers.
    fn enter(
        &self,
        bench: &mut Bench,
        name: &'static str,
        role: Option<Role>,
    ) -> Result<Contestant, Box<dyn Error>> {
        let common = &bench.common;
        let (target, suite) = match role {
            None => (Target::running(&bench.target.address, bench.target.pid)?, bench.suite()),
            Some(Role::Sleepers) => {
                let scheme = bench.scheme().as_str();
                (Target::start(Role::Sleepers, scheme, common.auth, common.pin)?, bench.suite())
            }
            Some(role) => (Target::start(role, below(bench.scheme()), common.auth, common.pin)?, None),
        };
        let before = target.usage()?;
        let peers = self.connect(bench, &target.address, suite)?;
        let mut contestant = Contestant { name, target, peers, turns: Vec::new() };
        // What is paid once is paid before the first turn; on UDP a peer is one by its first message.
        let warm = Talk {
            duration: Duration::from_secs(5),
            count: Some(u64::from(self.peers)),
            ..self.talk(bench, 64)
        };
        let warm = Talk { pace: Pace::Window(1), ..warm };
        let threads = bench.threads();
        match &mut contestant.peers {
            Peers::Links(links) => talk::run(links, &warm, threads, &bench.stop, &ProgressBar::hidden())?,
            Peers::Threads(peers) => threads::run(peers, &warm, &bench.stop, &ProgressBar::hidden())?,
        };
        // Not before: on UDP and SCTP clients are connected before the server knows of them.
        if let (None, Some(before), Some(after)) = (role, before, contestant.target.usage()?) {
            figures::held(&mut bench.report, &after.since(&before), &after, self.peers as usize);
        }
        Ok(contestant)
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
        let dialer = Dialer::new(address.scheme, address.resolve()?[0], suite, common.patience)?;
        let bar = bench.progress("peers", u64::from(self.peers));
        let visits = Visits::of(self.peers as usize);
        let visited = visits::run(&dialer, &visits, bench.threads(), &bench.stop, &bar)?;
        bar.finish_and_clear();
        match visited.why {
            Some(why) if visited.failed > 0 => {
                Err(format!("{} of {} peers did not get in at {address}: {why}", visited.failed, self.peers)
                    .into())
            }
            _ => Ok(Peers::Links(visited.links)),
        }
    }

    fn talk(&self, bench: &Bench, payload: usize) -> Talk {
        let pace =
            self.rate.map_or(Pace::Window(usize::from(self.window)), |rate| Pace::Rate(f64::from(rate)));
        Talk { pace, payload, duration: self.duration, count: self.messages, answer: bench.common.answer }
    }

    fn turn(
        &self,
        bench: &Bench,
        contestant: &mut Contestant,
        payload: usize,
        bar: &ProgressBar,
    ) -> Result<Turn, Box<dyn Error>> {
        let talk = self.talk(bench, payload);
        let before = contestant.target.usage()?;
        let active = (self.active as usize).min(self.peers as usize);
        let stop: &Stop = &bench.stop;
        let talked = match &mut contestant.peers {
            Peers::Links(links) => {
                let active = active.min(links.len());
                talk::run(&mut links[..active], &talk, bench.threads(), stop, bar)?
            }
            Peers::Threads(peers) => threads::run(&mut peers[..active], &talk, stop, bar)?,
        };
        let used = before.zip(contestant.target.usage()?).map(|(before, after)| after.since(&before));
        let echoes = talked.tally.echoes;
        let cpu = used.filter(|_| echoes > 0).map(|used| used.cpu.as_secs_f64() * 1e6 / echoes as f64);
        Ok(Turn { talked, cpu, used })
    }

    fn say(
        &self,
        bench: &mut Bench,
        contestants: &[Contestant],
        payload: usize,
    ) -> Result<(), Box<dyn Error>> {
        let cost =
            |contestant: &Contestant| median(contestant.turns.iter().filter_map(|turn| turn.cpu).collect());
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
        let report = &mut bench.report;
        let server = &contestants[0];
        let bare =
            contestants.iter().find(|contestant| contestant.name == "bare thread per peer").and_then(cost);
        if let Some(cpu) = cost(server) {
            let row = report.lower(&format!("server CPU per echo, {payload} B"), cpu, "µs");
            if let Some(bare) = bare {
                let of = if crypto > 0.0 {
                    "bare thread per peer + crypto in memory"
                } else {
                    "bare thread per peer"
                };
                row.over(bare + crypto, of);
            }
        }
        for contestant in &contestants[1..] {
            if let Some(cpu) = cost(contestant).filter(|_| contestant.name != "with sleepers") {
                report.plain(&format!("{} CPU per echo, {payload} B", contestant.name), cpu, "µs");
            }
        }
        if crypto > 0.0 {
            report.plain(
                &format!("crypto in memory, one session after the other, {payload} B"),
                crypto,
                "µs",
            );
            report.plain(&format!("crypto in memory, always the same session, {payload} B"), warm, "µs");
        }
        if let Some(asleep) = contestants.iter().find(|contestant| contestant.name == "with sleepers") {
            self.say_sleepers(report, server, asleep, payload);
        }
        let what = format!("echo {payload} B");
        // Of the median turn by throughput.
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

    /// What all peers came to with sleepers among them, as a multiple of those that do not sleep without any.
    fn say_sleepers(
        &self,
        report: &mut peeloff_stress::report::Report,
        awake: &Contestant,
        asleep: &Contestant,
        payload: usize,
    ) {
        let rate = |contestant: &Contestant| {
            let rates = contestant.turns.iter();
            median(
                rates.map(|turn| turn.talked.tally.echoes as f64 / turn.talked.took.as_secs_f64()).collect(),
            )
        };
        if let (Some(awake), Some(asleep)) = (rate(awake), rate(asleep)) {
            let name = format!("echoes with 1 of {} asleep, {payload} B", product::SLEEPER_OF);
            report.higher(&name, asleep, "/s").over(awake, "the same without sleepers");
        }
    }
}

/// What is below a session, without security.
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

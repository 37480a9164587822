//! What all stress binaries are told on the command line, and the frame of every run: target, progress, Ctrl-C,
//! report.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser};
use indicatif::{ProgressBar, ProgressStyle};
use peeloff::{Address, Scheme};

use crate::client::visits::{self, Visits};
use crate::client::{Clients, Dialer};
use crate::report::{self, Report};
use crate::role::{Serve, Sockets};
use crate::secure::{Auth, Suite};
pub use crate::stop::Stop;
use crate::target::{self, How, Role, Target};

/// What every scenario is told.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// The server to measure, such as dtls://127.0.0.1:4433; without it one is started.
    #[arg(long, value_name = "URL", help_heading = "Target")]
    pub target: Option<Address>,
    /// The process of that server, for its CPU and memory.
    #[arg(long, requires = "target", value_name = "PID", help_heading = "Target")]
    pub pid: Option<u32>,
    /// The protocol of the server that is started: udp, dtls, tcp, tls, sctp, sctp+tls or sctp+dtls.
    #[arg(
        long,
        default_value = "dtls",
        value_name = "SCHEME",
        conflicts_with = "target",
        help_heading = "Target"
    )]
    pub scheme: Scheme,
    /// The processor of the server that is started, and of the floors (taskset(1)).
    #[arg(long, value_name = "CPU", help_heading = "Target")]
    pub pin: Option<usize>,
    /// How server and clients know each other.
    #[arg(long, value_enum, default_value_t, help_heading = "Target")]
    pub auth: Auth,
    /// What runs the handlers of the server that is started.
    #[arg(long, value_enum, default_value_t, conflicts_with = "target", help_heading = "Target")]
    pub serve: Serve,
    /// Which sockets its peers have on UDP and DTLS. Without it each has its own under --serve threads, and all share those of the
    /// listener under --serve loops.
    #[arg(long, value_enum, conflicts_with = "target", help_heading = "Target")]
    pub sockets: Option<Sockets>,
    /// The group of the key exchange, in OpenSSL's words.
    #[arg(long, default_value = "P-256", value_name = "GROUP", help_heading = "Target")]
    pub group: String,
    /// Threads of the clients' side.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256), help_heading = "Clients")]
    pub client_threads: u16,
    /// How long an answer may take before it is lost.
    #[arg(long, default_value = "2s", value_name = "TIME", value_parser = humantime::parse_duration, help_heading = "Clients")]
    pub answer: Duration,
    /// How long a connection may take to be made.
    #[arg(long, default_value = "15s", value_name = "TIME", value_parser = humantime::parse_duration, help_heading = "Clients")]
    pub patience: Duration,
    /// Measures what the machine could do at best too, and says the ratio.
    #[arg(long, help_heading = "Report")]
    pub floor: bool,
    /// Writes the report as JSON; - is standard output.
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub json: Option<PathBuf>,
    /// Writes the report as one HTML page.
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub html: Option<PathBuf>,
    /// Says what changed since the run that wrote this JSON.
    #[arg(long, value_name = "OLD.json", help_heading = "Report")]
    pub compare: Option<PathBuf>,
    /// Shows no progress.
    #[arg(long, short, help_heading = "Report")]
    pub quiet: bool,
}

impl From<&Common> for How {
    fn from(common: &Common) -> Self {
        let Common { auth, serve, sockets, pin, .. } = *common;
        Self { auth, serve, sockets, pin }
    }
}

/// A scenario: its own options, what they are called in the report, and how it runs.
pub trait Scenario: Parser {
    /// The name of the binary.
    const NAME: &'static str;

    /// What all scenarios are told.
    fn common(&self) -> &Common;

    /// The server that is started where no target is given.
    fn role(&self) -> Role {
        Role::Echo
    }

    /// What is wrong with a server of which this was reported; then the binary ends with 1. Bytes that came back wrong are
    /// always wrong.
    fn objection(&self, _report: &Report) -> Option<String> {
        None
    }

    /// Runs, and puts into the report what came of it.
    ///
    /// # Errors
    ///
    /// One sentence: there is nothing to report.
    fn run(&self, bench: &mut Bench) -> Result<(), Box<dyn Error>>;
}

/// What a scenario works with.
pub struct Bench {
    /// What it was told.
    pub common: Common,
    /// The server.
    pub target: Target,
    /// Where the figures go.
    pub report: Report,
    /// Whether to end early.
    pub stop: Stop,
}

/// A stress binary's whole `main`. Ends with 0; with 1 where bytes came back wrong, or the scenario
/// objects to what it saw; with 2 and one sentence where
/// nothing could be measured.
pub fn main<S: Scenario>() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let outcome = match target::be_another(&arguments) {
        Some(outcome) => outcome.map(|()| true),
        None => perform(&S::parse()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("{}: {error}", S::NAME);
            ExitCode::from(2)
        }
    }
}

fn perform<S: Scenario>(scenario: &S) -> Result<bool, Box<dyn Error>> {
    let common = scenario.common().clone();
    // A file that cannot be read or written is said before the measuring, not after it.
    let older = common.compare.as_deref().map(Report::read).transpose()?;
    [&common.json, &common.html].into_iter().flatten().try_for_each(|path| report::check_folder(path))?;
    peeloff::raise_fd_limit()?;
    // A loop keeps its thread of rayon's for as long as it runs, and two scenarios have two more of them.
    let threads = usize::from(common.client_threads) + 2;
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let stop = Stop::on_signals()?;
    let target = match &common.target {
        Some(address) => Target::running(address, common.pid)?,
        None => Target::start(scenario.role(), common.scheme.as_str(), &common)?,
    };
    let mut report = Report::new(S::NAME, &target.address.to_string());
    if common.target.is_none() {
        report.target = format!("peeloff, {}", common.scheme);
        report.option(
            "served by",
            if common.serve == Serve::Loops { "event loops" } else { "a thread for each peer" },
        );
        if matches!(common.scheme, Scheme::Udp | Scheme::Dtls) {
            report.option(
                "sockets",
                match (common.sockets, common.serve) {
                    (Some(Sockets::Shared), _) | (None, Serve::Loops) => "shared",
                    (Some(Sockets::PerPeer), _) | (None, Serve::Threads) => "one for each peer",
                },
            );
        }
    }
    if target.address.scheme.is_secure() {
        report.option("auth", common.auth.as_str());
        report.option("group", &common.group);
    }
    let pin = common.pin.map_or("none".to_owned(), |cpu| cpu.to_string());
    // A server that runs already was pinned by whoever started it.
    let pinned = if common.target.is_some() { "floors' processor" } else { "server's processor" };
    report.option(pinned, pin);
    report.option("client threads", common.client_threads);
    let mut bench = Bench { common, target, report, stop };
    scenario.run(&mut bench)?;
    let Bench { common, mut report, stop, .. } = bench;
    report.interrupted = stop.wanted();
    if common.floor && report.rows.iter().all(|row| row.floor.is_none()) {
        report.note(match (&common.target, common.pid) {
            (Some(_), None) => "Without --pid there is no figure of the server to set beside a floor.",
            _ => "There is no floor for this: no figure has a ratio.",
        });
    }
    let to_stdout = common.json.as_deref().is_some_and(|path| path.as_os_str() == "-");
    if !to_stdout {
        print!("{}", report.to_table());
        older.iter().for_each(|older| print!("{}", report.compared_with(older)));
    }
    if let Some(path) = &common.json {
        report::write(path, &report.to_json())?;
    }
    if let Some(path) = &common.html {
        report::write(path, &report.to_html(older.as_ref()))?;
    }
    let wrong =
        ["corrupt", "cross-delivered"].iter().filter_map(|name| report.find(name)).any(|row| row.value > 0.0);
    let objection = scenario.objection(&report);
    if let Some(objection) = &objection {
        eprintln!("{}: {objection}", S::NAME);
    }
    Ok(!wrong && objection.is_none())
}

impl Bench {
    /// The protocol that is spoken.
    pub fn scheme(&self) -> Scheme {
        self.target.address.scheme
    }

    /// What handshakes agree on, where there are any.
    pub fn suite(&self) -> Option<Suite> {
        let scheme = self.scheme();
        scheme.is_secure().then(|| Suite {
            dtls: matches!(scheme, Scheme::Dtls | Scheme::SctpDtls),
            auth: self.common.auth,
            group: self.common.group.clone(),
        })
    }

    /// How clients get to the target.
    ///
    /// # Errors
    ///
    /// One sentence: this scenario cannot speak that protocol, or OpenSSL does not know the group.
    pub fn dialer(&self) -> Result<Dialer, Box<dyn Error>> {
        Dialer::new(self.scheme(), self.target.socket, self.suite())
    }

    /// Room for clients of the target.
    ///
    /// # Errors
    ///
    /// As [`dialer`](Self::dialer), or no descriptor is left.
    pub fn clients(&self) -> Result<Clients, Box<dyn Error>> {
        Ok(self.dialer()?.clients(self.threads())?)
    }

    /// So many clients that come as fast as they can, 64 at once, and stay. On plain UDP each has to say something first: a
    /// peer is one by that.
    pub fn visits(&self, count: usize) -> Visits {
        Visits {
            messages: u32::from(self.suite().is_none() && !self.scheme().is_stream()),
            answer: self.common.answer,
            patience: self.common.patience,
            ..Visits::of(count)
        }
    }

    /// A bar for so many things to do; `0` where only the time counts.
    pub fn progress(&self, what: &'static str, count: u64) -> ProgressBar {
        if self.common.quiet {
            return ProgressBar::hidden();
        }
        let bar = if count == 0 { ProgressBar::no_length() } else { ProgressBar::new(count) };
        let template = match count {
            0 => "{msg} {spinner} {elapsed} · {human_pos} done, {per_sec}",
            _ => "{msg} {wide_bar} {human_pos} of {human_len}, {per_sec}, {elapsed}",
        };
        // A template that does not parse is as good as the default one.
        bar.with_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        )
        .with_message(what)
    }
}

impl Bench {
    /// Has one client come and say something, so that what is paid once is not counted, and whoever is not there
    /// is noticed.
    ///
    /// # Errors
    ///
    /// One sentence that names the target: nobody answers, or not with what was said.
    pub fn probe(&self) -> Result<(), Box<dyn Error>> {
        let patience = self.common.patience.min(Duration::from_secs(5));
        let one = Visits { messages: 1, stay: false, patience, ..self.visits(1) };
        let mut clients = self.dialer()?.clients(1)?;
        let visited = visits::run(&mut clients, &one, &self.stop, &ProgressBar::hidden())?;
        let address = &self.target.address;
        let tally = visited.tally;
        match visited.why {
            Some(why) if visited.completed == 0 => {
                Err(format!("{address} cannot be measured: {why}; check --target, --auth and --group").into())
            }
            _ if tally.corrupt + tally.cross > 0 => Err(format!(
                "{address} answers something else than what was said; it has to be an echo server"
            )
            .into()),
            _ if tally.echoes == 0 && !self.stop.wanted() => Err(format!(
                "{address} did not echo a message within {:?}; check --target, it has to be an echo server",
                self.common.answer
            )
            .into()),
            _ => Ok(()),
        }
    }

    /// Threads of the clients' side.
    pub fn threads(&self) -> usize {
        usize::from(self.common.client_threads)
    }
}

//! The options that all stress binaries share, and the frame of every run: target, progress, Ctrl-C and report.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser};
use indicatif::{ProgressBar, ProgressStyle};
use peeloff::{Address, Scheme};

use crate::client::load::{self, Load};
use crate::client::{Clients, Dialer};
use crate::report::{self, Report};
use crate::role::{Serve, Sockets};
use crate::secure::{Auth, Suite};
pub use crate::stop::Stop;
use crate::target::{self, How, Role, Target};

/// The options of every scenario.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// Measure this running server, such as dtls://127.0.0.1:4433; without it, the program starts one.
    #[arg(long, value_name = "URL", help_heading = "Target")]
    pub target: Option<Address>,
    /// Process ID of that server, to read its CPU time and memory.
    #[arg(long, requires = "target", value_name = "PID", help_heading = "Target")]
    pub pid: Option<u32>,
    /// Protocol of the server that is started: udp, dtls, tcp, tls, sctp, sctp+tls or sctp+dtls.
    #[arg(
        long,
        default_value = "dtls",
        value_name = "SCHEME",
        conflicts_with = "target",
        help_heading = "Target"
    )]
    pub scheme: Scheme,
    /// Processor of the server that is started, and of the floors (taskset(1)).
    #[arg(long, value_name = "CPU", help_heading = "Target")]
    pub pin: Option<usize>,
    /// How server and clients authenticate each other.
    #[arg(long, value_enum, default_value_t, help_heading = "Target")]
    pub auth: Auth,
    /// What runs the handlers of the server that is started.
    #[arg(long, value_enum, default_value_t, conflicts_with = "target", help_heading = "Target")]
    pub serve: Serve,
    /// Which sockets the peers of that server have on UDP and DTLS. Without it, each peer has its own under
    /// --serve threads, and all share those of the listener under --serve loops.
    #[arg(long, value_enum, conflicts_with = "target", help_heading = "Target")]
    pub sockets: Option<Sockets>,
    /// Group of the key exchange, in OpenSSL's spelling.
    #[arg(long, default_value = "P-256", value_name = "GROUP", help_heading = "Target")]
    pub group: String,
    /// Number of threads for the clients.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256), help_heading = "Clients")]
    pub client_threads: u16,
    /// How long an answer may take before it counts as lost.
    #[arg(long, default_value = "2s", value_name = "TIME", value_parser = humantime::parse_duration, help_heading = "Clients")]
    pub answer: Duration,
    /// How long connecting may take.
    #[arg(long, default_value = "15s", value_name = "TIME", value_parser = humantime::parse_duration, help_heading = "Clients")]
    pub patience: Duration,
    /// Measure the best that the machine can do too, and report the ratio.
    #[arg(long, help_heading = "Report")]
    pub floor: bool,
    /// Write the report as JSON to this file; - is standard output.
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub json: Option<PathBuf>,
    /// Write the report as one HTML page to this file.
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub html: Option<PathBuf>,
    /// Report what has changed since the run that wrote this JSON file.
    #[arg(long, value_name = "OLD.json", help_heading = "Report")]
    pub compare: Option<PathBuf>,
    /// Show no progress.
    #[arg(long, short, help_heading = "Report")]
    pub quiet: bool,
}

impl From<&Common> for How {
    fn from(common: &Common) -> Self {
        let Common { auth, serve, sockets, pin, .. } = *common;
        Self { auth, serve, sockets, pin }
    }
}

/// A scenario: its own options, their names in the report, and how it runs.
pub trait Scenario: Parser {
    /// The name of the binary.
    const NAME: &'static str;

    /// Returns the options that all scenarios share.
    fn common(&self) -> &Common;

    /// Returns the role of the server to start if no target is given.
    fn role(&self) -> Role {
        Role::Echo
    }

    /// Returns what is wrong with a server that has this report; the binary then exits with code 1. Bytes that
    /// came back changed are an error in every scenario.
    fn objection(&self, _report: &Report) -> Option<String> {
        None
    }

    /// Runs the scenario and adds its results to the report.
    ///
    /// # Errors
    ///
    /// Returns an error, whose text is one sentence, if there is nothing to report.
    fn run(&self, bench: &mut Bench) -> Result<(), Box<dyn Error>>;
}

/// The environment of a scenario.
pub struct Bench {
    /// The options.
    pub common: Common,
    /// The server.
    pub target: Target,
    /// The report that the figures go to.
    pub report: Report,
    /// Whether the user wants to end the run.
    pub stop: Stop,
}

/// Runs a stress binary. The exit code is 0 on success, 1 if bytes came back changed or the scenario objects to
/// the results, and 2, with one sentence, if nothing could be measured.
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
    // Report a file that cannot be read or written before the measurement, not after it.
    let older = common.compare.as_deref().map(Report::read).transpose()?;
    [&common.json, &common.html].into_iter().flatten().try_for_each(|path| report::check_folder(path))?;
    peeloff::raise_fd_limit()?;
    // A loop occupies its thread of rayon's for as long as it runs, and two scenarios have two more loops.
    let threads = usize::from(common.client_threads) + 2;
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let stop = Stop::on_signals()?;
    let mut target = match &common.target {
        Some(address) => Target::running(address, common.pid)?,
        None => Target::start(scenario.role(), common.scheme.as_str(), &common)?,
    };
    target.watch(stop.clone());
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
    // The user has pinned a server that was running already.
    let pinned = if common.target.is_some() { "floors' processor" } else { "server's processor" };
    report.option(pinned, pin);
    report.option("client threads", common.client_threads);
    let mut bench = Bench { common, target, report, stop };
    let run = scenario.run(&mut bench);
    bench.target.check()?;
    run?;
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
    /// Returns the scheme of the target.
    pub fn scheme(&self) -> Scheme {
        self.target.address.scheme
    }

    /// Returns the parameters of handshakes, if there are handshakes.
    pub fn suite(&self) -> Option<Suite> {
        let scheme = self.scheme();
        scheme.is_secure().then(|| Suite {
            dtls: matches!(scheme, Scheme::Dtls | Scheme::SctpDtls),
            auth: self.common.auth,
            group: self.common.group.clone(),
        })
    }

    /// Returns a dialer for clients of the target.
    ///
    /// # Errors
    ///
    /// Returns an error, whose text is one sentence, if this scenario does not support the protocol, or if
    /// OpenSSL does not know the group.
    pub fn dialer(&self) -> Result<Dialer, Box<dyn Error>> {
        Dialer::new(self.scheme(), self.target.socket, self.suite())
    }

    /// Makes room for clients of the target.
    ///
    /// # Errors
    ///
    /// The same as those of [`dialer`](Self::dialer), or an error if no descriptor is left.
    pub fn clients(&self) -> Result<Clients, Box<dyn Error>> {
        Ok(self.dialer()?.clients(self.threads())?)
    }

    /// Describes this many clients that connect as fast as they can, 64 at a time, and stay. On plain UDP each
    /// sends a message first, because the server learns of it only by that.
    pub fn load(&self, count: usize) -> Load {
        Load {
            messages: u32::from(self.suite().is_none() && !self.scheme().is_stream()),
            answer: self.common.answer,
            patience: self.common.patience,
            ..Load::of(count)
        }
    }

    /// Makes a progress bar for this many items, or without a length if `count` is 0.
    pub fn progress(&self, what: &'static str, count: u64) -> ProgressBar {
        if self.common.quiet {
            return ProgressBar::hidden();
        }
        let bar = if count == 0 { ProgressBar::no_length() } else { ProgressBar::new(count) };
        let template = match count {
            0 => "{msg} {spinner} {elapsed} · {human_pos} done, {per_sec}",
            _ => "{msg} {wide_bar} {human_pos} of {human_len}, {per_sec}, {elapsed}",
        };
        // If the template does not parse, the default one is used.
        bar.with_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        )
        .with_message(what)
    }
}

impl Bench {
    /// Connects one client that exchanges a message, so that one-time costs are not measured and a missing server
    /// is noticed.
    ///
    /// # Errors
    ///
    /// Returns an error, whose text is one sentence with the target, if no server answers or if the answer
    /// differs from the message.
    pub fn probe(&self) -> Result<(), Box<dyn Error>> {
        let patience = self.common.patience.min(Duration::from_secs(5));
        let one = Load { messages: 1, stay: false, patience, ..self.load(1) };
        let mut clients = self.dialer()?.clients(1)?;
        let results = load::run(&mut clients, &one, &self.stop, &ProgressBar::hidden())?;
        let address = &self.target.address;
        let tally = results.tally;
        match results.why {
            Some(why) if results.completed == 0 => {
                Err(format!("{address} cannot be measured: {why}; check --target, --auth and --group").into())
            }
            _ if tally.corrupt + tally.cross > 0 => Err(format!(
                "{address} answered with another message than it was sent; it must be an echo server"
            )
            .into()),
            _ if tally.echoes == 0 && !self.stop.wanted() => Err(format!(
                "{address} did not echo a message within {:?}; check --target, it must be an echo server",
                self.common.answer
            )
            .into()),
            _ => Ok(()),
        }
    }

    /// Returns the number of threads for the clients.
    pub fn threads(&self) -> usize {
        usize::from(self.common.client_threads)
    }
}

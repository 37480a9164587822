//! Logs: always on standard error, so that standard output stays for data.

mod style;

use std::env;
use std::io::{self, Write};
use std::panic;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::Args;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, reload};

pub use self::style::LogFormat;
use self::style::Style;
use crate::access_log::{self, AccessLog, AccessLogArgs};
use crate::failure::Failure;
use crate::log_queue::LogQueue;

/// How much is logged.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logging")]
pub struct LogArgs {
    /// Log more: -v for details, -vv for everything.
    #[arg(short, long, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,

    /// Log less: -q for warnings and errors, -qq for errors alone.
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub quiet: u8,

    /// Log what this filter selects, such as `warn,peeloff=trace`.
    ///
    /// It replaces -v and -q. Without all three the environment variable RUST_LOG is such a filter.
    #[arg(long, visible_alias = "log-level", value_name = "FILTER")]
    pub log: Option<String>,

    /// Write the log as text, or as JSON.
    ///
    /// Under systemd, lines of both begin with their priority for the journal, and those of text have no time, because the
    /// journal knows it.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// The log of this process, once it is started.
static LOGGER: OnceLock<Logger> = OnceLock::new();

struct Logger {
    level: u8,
    queue: LogQueue,
    change: Box<dyn Fn(EnvFilter) + Send + Sync>,
    access: AccessLog,
    turn_access: Box<dyn Fn(bool) + Send + Sync>,
}

impl LogArgs {
    /// Sends the log of this process to standard error, through a bounded queue, and panics to the log; `level` is 0
    /// for errors, 1 for warnings, 2 for what -v adds to. A second call changes nothing.
    ///
    /// # Errors
    ///
    /// The filter cannot be understood, or the system has no thread.
    pub fn start(&self, level: u8) -> Result<(), Failure> {
        let (filter, style) = (self.filter(level)?, Style::of(self.log_format));
        let notice = move |lost, output: &mut dyn Write| style.write_notice(lost, output);
        let queue = LogQueue::start("log", io::stderr(), Arc::default(), notice).map_err(|error| {
            Failure::new(
                1,
                format_args!("cannot start a thread for the log ({error}): check the limit on threads"),
            )
        })?;
        LOGGER.get_or_init(|| {
            let writer = queue.clone();
            let (filter, handle) = reload::Layer::new(filter);
            let lines = style.lines(move || writer.clone()).with_filter(filter);
            let access = AccessLog::default();
            let (access_lines, turn) = access_log::layer(style.access_lines(access.clone()));
            // Only another logger of this process can be in the way, and that is as good.
            let _ = tracing_subscriber::registry().with(lines).with(access_lines).try_init();
            // Fails only if there is no logger any more.
            let change = move |filter| drop(handle.reload(filter));
            // The default hook writes to standard error and waits for its reader.
            panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
            Logger { level, queue, change: Box::new(change), access, turn_access: Box::new(turn) }
        });
        Ok(())
    }

    /// Checks these options, and gives what makes the running log follow them.
    ///
    /// # Errors
    ///
    /// The filter cannot be understood.
    pub(crate) fn prepare(&self) -> Result<impl FnOnce() + use<>, Failure> {
        let logger = LOGGER.get();
        let filter = self.filter(logger.map_or(0, |logger| logger.level))?;
        Ok(move || {
            if let Some(logger) = logger {
                (logger.change)(filter);
            }
        })
    }

    fn filter(&self, level: u8) -> Result<EnvFilter, Failure> {
        match &self.log {
            Some(text) => EnvFilter::try_new(text).map_err(|error| {
                Failure::input(format_args!(
                    "--log {text:?} is not a filter ({error}): write a level, or module=level, with commas between them"
                ))
            }),
            None if self.verbose == 0 && self.quiet == 0 => match env::var("RUST_LOG") {
                Ok(text) if !text.is_empty() => EnvFilter::try_new(&text).map_err(|error| {
                    Failure::input(format_args!(
                        "RUST_LOG={text:?} is not a filter ({error}): write a level, or module=level, with commas \
                         between them, or unset it"
                    ))
                }),
                _ => Ok(EnvFilter::new(level_name(level))),
            },
            None => {
                let level = level.saturating_add(self.verbose).saturating_sub(self.quiet);
                Ok(EnvFilter::new(level_name(level)))
            }
        }
    }
}

/// Opens the access log, if there is to be one, and gives what begins to write it. The log has been started.
///
/// # Errors
///
/// The file cannot be opened.
pub(crate) fn prepare_access(args: &AccessLogArgs) -> Result<impl FnOnce() + use<>, Failure> {
    let logger = LOGGER.get();
    let prepared = logger.map(|logger| logger.access.prepare(args)).transpose()?;
    Ok(move || {
        if let (Some(logger), Some(take)) = (logger, prepared) {
            (logger.turn_access)(take());
        }
    })
}

/// Lines of the access log that were dropped.
pub(crate) fn lost_access_lines() -> u64 {
    LOGGER.get().map_or(0, |logger| logger.access.lost())
}

/// Lines of the log that were dropped because nobody read it.
pub(crate) fn lost_lines() -> u64 {
    LOGGER.get().map_or(0, |logger| logger.queue.lost())
}

/// Writes a line to standard error as it is, through the queue of the log where that has been started, so that it waits for no
/// reader.
pub(crate) fn say(line: std::fmt::Arguments<'_>) {
    let line = format!("{line}\n");
    // A failure (a closed standard error) is nothing that could be reported anywhere.
    let _ = match LOGGER.get() {
        Some(logger) => logger.queue.clone().write_all(line.as_bytes()),
        None => io::stderr().write_all(line.as_bytes()),
    };
}

/// Waits until the log is written, a second at most; for the end of the program.
pub(crate) fn flush() {
    if let Some(logger) = LOGGER.get() {
        logger.queue.flush(Duration::from_secs(1));
        logger.access.flush(Duration::from_secs(1));
    }
}

fn level_name(level: u8) -> &'static str {
    match level {
        0 => "error",
        1 => "warn",
        2 => "info",
        3 => "debug",
        _ => "trace",
    }
}

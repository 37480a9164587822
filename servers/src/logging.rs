//! Logs to standard error, so that standard output carries data only.

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

/// Options of the log.
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
    /// The filter replaces -v and -q. Without any of the three, the environment variable RUST_LOG is used as the
    /// filter.
    #[arg(long, visible_alias = "log-level", value_name = "FILTER")]
    pub log: Option<String>,

    /// Write the log as text, or as JSON.
    ///
    /// Under systemd, lines in both formats begin with their priority for the journal, and text lines have no
    /// time, because the journal records it.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// The log of this process, once it is started.
static LOGGER: OnceLock<Logger> = OnceLock::new();

struct Logger {
    level: u8,
    style: Style,
    queue: LogQueue,
    change: Box<dyn Fn(EnvFilter) + Send + Sync>,
    access: AccessLog,
    turn_access: Box<dyn Fn(bool) + Send + Sync>,
}

impl LogArgs {
    /// Sends the log and the panics of this process to standard error through a bounded queue. `level` is the
    /// level without -v and -q: 0 for errors, 1 for warnings, 2 for information. A second call changes nothing.
    ///
    /// # Errors
    ///
    /// Returns an error if the filter is not valid, or if no thread can be started.
    pub fn start(&self, level: u8) -> Result<(), Failure> {
        let (filter, style) = (self.filter(level)?, Style::of(self.log_format));
        let notice =
            move |lost, _: Option<&io::Error>, output: &mut dyn Write| style.write_notice(lost, output);
        // Each notice precedes a line that can be written, so there are not too many notices.
        let every = Duration::ZERO;
        let started = LogQueue::start("log", io::stderr(), Arc::default(), every, Box::new(notice));
        let queue = started.map_err(|error| {
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
            // This fails only if the process has another logger already, which serves as well.
            let _ = tracing_subscriber::registry().with(lines).with(access_lines).try_init();
            // The reload fails only if the logger no longer exists.
            let change = move |filter| drop(handle.reload(filter));
            // The default hook writes to standard error directly and would block if nobody reads it.
            panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
            Logger { level, style, queue, change: Box::new(change), access, turn_access: Box::new(turn) }
        });
        Ok(())
    }

    /// Checks these options, and returns a function that applies them to the running log.
    ///
    /// # Errors
    ///
    /// Returns an error if the filter is not valid.
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

/// Opens the access log if the options ask for one. Returns a function that starts to write it. The main log must
/// have been started.
///
/// # Errors
///
/// Returns an error if the file cannot be opened.
pub(crate) fn prepare_access(args: &AccessLogArgs) -> Result<impl FnOnce() + use<>, Failure> {
    let logger = LOGGER.get();
    let prepared = logger.map(|logger| logger.access.prepare(args)).transpose()?;
    Ok(move || {
        if let (Some(logger), Some(take)) = (logger, prepared) {
            (logger.turn_access)(take());
        }
    })
}

/// Returns the number of dropped lines of the access log.
pub(crate) fn lost_access_lines() -> u64 {
    LOGGER.get().map_or(0, |logger| logger.access.lost())
}

/// Returns the number of lines of the log that were dropped because nobody read it.
pub(crate) fn lost_lines() -> u64 {
    LOGGER.get().map_or(0, |logger| logger.queue.lost())
}

/// Writes a line to standard error without a level or time. Uses the queue of the log if the log has been
/// started, and then does not block.
pub(crate) fn say(line: std::fmt::Arguments<'_>) {
    let line = format!("{line}\n");
    // If standard error is closed, there is no place left to report the failure.
    let _ = match LOGGER.get() {
        Some(logger) => logger.queue.clone().write_all(line.as_bytes()),
        None => io::stderr().write_all(line.as_bytes()),
    };
}

/// Waits until the logs are written, for a second each at most. The program calls this before it exits.
pub(crate) fn flush() {
    if let Some(logger) = LOGGER.get() {
        // Flushing the access log may write to the main log.
        logger.access.flush(Duration::from_secs(1));
        logger.queue.flush(Duration::from_secs(1));
    }
}

/// Writes to standard error why the program ends, in the format of the log if it has been started, and otherwise
/// in the format that the command line and the environment ask for. Blocks until the text is read.
pub(crate) fn say_last(program: &str, why: &str) {
    let style = LOGGER.get().map_or_else(Style::asked_for, |logger| logger.style);
    let mut line = Vec::new();
    // If standard error is closed, there is no place left to report the failure.
    let _ = style.write_failure(program, why, &mut line).and_then(|()| io::stderr().write_all(&line));
}

/// Returns whether a program reads standard error, and takes each line for a message.
pub(crate) fn is_for_programs() -> bool {
    LOGGER.get().map_or_else(Style::asked_for, |logger| logger.style).is_for_programs()
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

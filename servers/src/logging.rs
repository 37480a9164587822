//! Logs: always on standard error, so that standard output stays for data.

use std::env;
use std::io::{self, IsTerminal, Write};
use std::panic;
use std::sync::OnceLock;
use std::time::Duration;

use clap::Args;
use tracing_subscriber::EnvFilter;

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
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
}

/// The log of this process, once it is started.
static LOGGER: OnceLock<Logger> = OnceLock::new();

struct Logger {
    level: u8,
    queue: LogQueue,
    change: Box<dyn Fn(EnvFilter) + Send + Sync>,
}

impl LogArgs {
    /// Sends the log of this process to standard error, through a bounded queue, and panics to the log; `level` is 0
    /// for errors, 1 for warnings, 2 for what -v adds to. A second call changes nothing.
    ///
    /// # Errors
    ///
    /// The filter cannot be understood, or the system has no thread.
    pub fn start(&self, level: u8) -> Result<(), Failure> {
        let filter = self.filter(level)?;
        let queue = LogQueue::start(io::stderr()).map_err(|error| {
            Failure::new(
                1,
                format_args!("cannot start a thread for the log ({error}): check the limit on threads"),
            )
        })?;
        LOGGER.get_or_init(|| {
            let writer = queue.clone();
            let builder = tracing_subscriber::fmt()
                .with_env_filter(filter)
                .with_writer(move || writer.clone())
                .with_ansi(io::stderr().is_terminal())
                .with_target(false)
                // Its report goes through `eprintln!`, which panics when standard error is closed: a
                // log must never end a server.
                .log_internal_errors(false)
                .with_filter_reloading();
            let handle = builder.reload_handle();
            // Only another logger of this process can be in the way, and that is as good.
            drop(builder.try_init());
            // Fails only if there is no logger any more.
            let change = move |filter| drop(handle.reload(filter));
            // The default hook writes to standard error and waits for its reader.
            panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
            Logger { level, queue, change: Box::new(change) }
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

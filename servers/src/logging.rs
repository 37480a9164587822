//! Logs: always on standard error, so that standard output stays for data.

use std::io::{self, IsTerminal};

use clap::Args;
use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// How much is logged.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logging")]
pub struct LogArgs {
    /// Log more; twice for everything.
    #[arg(short, long, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,

    /// Log only warnings; twice for errors only.
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub quiet: u8,

    /// Log what this filter selects, such as `warn,peeloff=trace`, instead of -v and -q.
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
}

impl LogArgs {
    /// Sends the log of this process to standard error; `level` is 0 for errors, 1 for warnings, 2
    /// for what -v adds to.
    ///
    /// # Errors
    ///
    /// The filter cannot be understood.
    pub fn start(&self, level: u8) -> Result<(), Failure> {
        let filter = match &self.log {
            Some(text) => EnvFilter::try_new(text).map_err(|error| {
                Failure::input(format_args!(
                    "--log {text:?} is not a filter ({error}): write a level, or module=level, with commas between them"
                ))
            })?,
            None => EnvFilter::new(level_name((level + self.verbose).saturating_sub(self.quiet))),
        };
        let started = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal())
            .with_target(false)
            // Its report goes through `eprintln!`, which panics when standard error is closed: a
            // log must never end a server.
            .log_internal_errors(false)
            .try_init();
        // Only a second call in one process can fail, and the first logger is as good.
        drop(started);
        Ok(())
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

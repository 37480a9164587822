//! What a line of the log looks like.

use std::env;
use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use clap::ValueEnum;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{self as lines, FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people: the message, and what belongs to it as `name=value`.
    Text,
    /// For programs: an object of JSON a line.
    Json,
}

/// How lines are written, and to what.
#[derive(Clone, Copy)]
pub(super) struct Style {
    format: LogFormat,
    /// systemd's journal reads standard error.
    for_journal: bool,
}

type Lines<S> = Box<dyn Layer<S> + Send + Sync>;

impl Style {
    pub(super) fn of(format: LogFormat) -> Self {
        Self { format, for_journal: stderr_is_journal() }
    }

    /// Writes the lines of the log.
    pub(super) fn lines<S, W>(self, writer: W) -> Lines<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
        W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
    {
        // Its report goes through `eprintln!`, which panics when standard error is closed: a log must never end a server.
        let layer = lines::layer().with_writer(writer).log_internal_errors(false);
        match (self.format, self.for_journal) {
            (LogFormat::Text, false) => {
                layer.with_target(false).with_ansi(io::stderr().is_terminal()).boxed()
            }
            (LogFormat::Text, true) => {
                let layer = layer.with_target(false).with_ansi(false).without_time();
                layer.map_event_format(Prioritized).boxed()
            }
            (LogFormat::Json, false) => layer.json().flatten_event(true).with_current_span(false).boxed(),
            (LogFormat::Json, true) => layer
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .map_event_format(Prioritized)
                .boxed(),
        }
    }

    /// Writes the lines of the access log, all of which have the same level and target.
    pub(super) fn access_lines<S, W>(self, writer: W) -> Lines<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
        W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
    {
        let layer = lines::layer().with_writer(writer).log_internal_errors(false).with_ansi(false);
        let layer = layer.with_target(false).with_level(false);
        match self.format {
            LogFormat::Text => layer.boxed(),
            LogFormat::Json => layer.json().flatten_event(true).with_current_span(false).boxed(),
        }
    }

    /// Writes that so many lines were dropped.
    pub(super) fn write_notice(self, lost: u64, output: &mut dyn Write) -> io::Result<()> {
        let priority = if self.for_journal { Priority(Level::WARN).to_string() } else { String::new() };
        let text = "lines of this log were dropped because it was not read";
        match self.format {
            LogFormat::Text => writeln!(output, "{priority}{lost} {text}"),
            LogFormat::Json => writeln!(
                output,
                "{priority}{{\"level\":\"WARN\",\"message\":\"{lost} {text}\",\"lost\":{lost}}}"
            ),
        }
    }
}

/// Whether standard error goes to the journal, which says so by device and inode
/// ([systemd.exec(5)](https://www.freedesktop.org/software/systemd/man/latest/systemd.exec.html), JOURNAL_STREAM).
fn stderr_is_journal() -> bool {
    let Ok(journal) = env::var("JOURNAL_STREAM") else { return false };
    let stderr = io::stderr().as_fd().try_clone_to_owned().map(File::from);
    let Ok(found) = stderr.and_then(|stderr| stderr.metadata()) else { return false };
    journal == format!("{}:{}", found.dev(), found.ino())
}

/// The priority of a line as the journal reads it
/// ([sd-daemon(3)](https://www.freedesktop.org/software/systemd/man/latest/sd-daemon.html)).
struct Priority(Level);

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Level::ERROR => "<3>",
            Level::WARN => "<4>",
            Level::INFO => "<6>",
            _ => "<7>",
        })
    }
}

/// Puts the priority before a line.
struct Prioritized<F>(F);

impl<S, N, F> FormatEvent<S, N> for Prioritized<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "{}", Priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

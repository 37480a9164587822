//! Formats the lines of the log.

use std::env;
use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

use clap::ValueEnum;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{self as lines, FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// The format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text for people: the message, and its fields as `name=value`.
    Text,
    /// JSON for programs: one object a line.
    Json,
}

/// The format of the lines and the destination that it is for.
#[derive(Clone, Copy)]
pub(super) struct Style {
    format: LogFormat,
    /// Whether systemd's journal reads standard error.
    for_journal: bool,
}

type Lines<S> = Box<dyn Layer<S> + Send + Sync>;

impl Style {
    pub(super) fn of(format: LogFormat) -> Self {
        Self { format, for_journal: stderr_is_journal() }
    }

    /// Returns the style for messages before the options are known, or if they are wrong.
    pub(super) fn asked_for() -> Self {
        let arguments = env::args_os().map(|argument| argument.to_string_lossy().into_owned());
        let arguments: Vec<String> = arguments.collect();
        let on_command_line = arguments.iter().enumerate().find_map(|(at, argument)| {
            match argument.strip_prefix("--log-format")? {
                "" => arguments.get(at + 1).cloned(),
                value => value.strip_prefix('=').map(str::to_owned),
            }
        });
        let asked = on_command_line.or_else(|| env::var("PEELOFF_LOG_FORMAT").ok());
        let format = asked.and_then(|name| LogFormat::from_str(name.trim(), false).ok());
        Self::of(format.unwrap_or(LogFormat::Text))
    }

    pub(super) fn is_for_programs(self) -> bool {
        self.for_journal || self.format == LogFormat::Json
    }

    /// Returns a layer that writes the lines of the log.
    pub(super) fn lines<S, W>(self, writer: W) -> Lines<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
        W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
    {
        // With this turned on, an error would go through `eprintln!`, which panics if standard error is closed. A
        // log must never end a server.
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

    /// Returns a layer that writes the lines of the access log, which all have the same level and target.
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

    /// Writes a line with the number of dropped lines.
    pub(super) fn write_notice(self, lost: u64, output: &mut dyn Write) -> io::Result<()> {
        let text = format!("{lost} log lines were dropped because nobody read the log");
        match self.format {
            LogFormat::Text => writeln!(output, "{}{text}", self.priority(Level::WARN)),
            LogFormat::Json => self.write_object(Level::WARN, &text, ("lost", lost.into()), output),
        }
    }

    /// Writes why a program ends.
    pub(super) fn write_failure(self, program: &str, why: &str, output: &mut dyn Write) -> io::Result<()> {
        match self.format {
            LogFormat::Text => writeln!(output, "{}{program}: {why}", self.priority(Level::ERROR)),
            LogFormat::Json => self.write_object(Level::ERROR, why, ("program", program.into()), output),
        }
    }

    /// Writes a line in the format of the log.
    fn write_object(
        self,
        level: Level,
        message: &str,
        (name, value): (&str, serde_json::Value),
        output: &mut dyn Write,
    ) -> io::Result<()> {
        let timestamp = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
        let object = serde_json::json!({
            "timestamp": timestamp,
            "level": level.as_str(),
            "message": message,
            "target": module_path!(),
            name: value,
        });
        writeln!(output, "{}{object}", self.priority(level))
    }

    fn priority(self, level: Level) -> String {
        if self.for_journal { Priority(level).to_string() } else { String::new() }
    }
}

/// Returns whether standard error goes to the journal. The variable JOURNAL_STREAM names the journal's device and
/// inode ([systemd.exec(5)](https://www.freedesktop.org/software/systemd/man/latest/systemd.exec.html)).
fn stderr_is_journal() -> bool {
    let Ok(journal) = env::var("JOURNAL_STREAM") else { return false };
    let stderr = io::stderr().as_fd().try_clone_to_owned().map(File::from);
    let Ok(found) = stderr.and_then(|stderr| stderr.metadata()) else { return false };
    journal == format!("{}:{}", found.dev(), found.ino())
}

/// Formats the priority of a line for the journal
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

/// Writes the priority before each line.
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

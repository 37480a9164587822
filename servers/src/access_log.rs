//! The access log: a line for each peer that has left.
//!
//! The framework reports each end as an event with the target [`TARGET`]. Its lines go through a queue of their own, so neither
//! a full disk nor a pipe that nobody reads holds up a peer or the other log.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use parking_lot::Mutex;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, reload};

use crate::failure::Failure;
use crate::log_queue::LogQueue;

/// The target of the framework's events about peers that have left.
const TARGET: &str = "peeloff::access";

/// Whether there is an access log.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logging")]
pub struct AccessLogArgs {
    /// Write a line about each peer that leaves to this file.
    ///
    /// The line has the peer, its identity, how long it was there, its messages and bytes, and why it left. `-` stands for standard
    /// output. SIGHUP opens the file again, so that it can be rotated. Lines that cannot be written, because the disk is full or
    /// nobody reads a pipe, are dropped and counted.
    #[arg(long, value_name = "FILE")]
    pub access_log: Option<AccessLogPath>,
}

/// A file, or standard output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLogPath(PathBuf);

impl FromStr for AccessLogPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("there is no path: write one".to_owned()) } else { Ok(Self(text.into())) }
    }
}

impl fmt::Display for AccessLogPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

impl AccessLogPath {
    fn is_stdout(&self) -> bool {
        self.0.as_os_str() == "-"
    }

    /// Opens what lines are appended to. Never waits for a reader.
    fn open(&self) -> Result<Box<dyn Write + Send>, Failure> {
        if self.is_stdout() {
            return Ok(Box::new(io::stdout()));
        }
        let opened = self.open_file();
        let file = opened.map_err(|error| {
            let hint = match error.raw_os_error() {
                Some(nix::libc::ENXIO) => "nobody reads this pipe: start its reader first",
                _ if error.kind() == io::ErrorKind::NotFound => "make its folder first",
                _ => "name a file that this user may write",
            };
            Failure::about("--access-log", format_args!("{self} cannot be opened ({error}): {hint}"))
        })?;
        Ok(Box::new(file))
    }

    fn open_file(&self) -> io::Result<File> {
        // Without O_NONBLOCK the open of a pipe waits for its reader.
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o640).custom_flags(OFlag::O_NONBLOCK.bits());
        let file = options.open(&self.0)?;
        if file.metadata()?.file_type().is_fifo() {
            // From here on the queue's thread may wait.
            fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
        }
        Ok(file)
    }
}

/// Where lines go, if they go anywhere.
#[derive(Clone, Default)]
pub(crate) struct AccessLog {
    queue: Arc<Mutex<Option<LogQueue>>>,
    lost: Arc<AtomicU64>,
}

impl AccessLog {
    /// Opens the file, and gives what takes it into use.
    ///
    /// # Errors
    ///
    /// It cannot be opened, or the system has no thread.
    pub(crate) fn prepare(&self, args: &AccessLogArgs) -> Result<impl FnOnce() -> bool + use<>, Failure> {
        let queue = args.access_log.as_ref().map(|path| self.start(path)).transpose()?;
        let place = Arc::clone(&self.queue);
        Ok(move || {
            let is_on = queue.is_some();
            // The former one writes what it has, and ends.
            *place.lock() = queue;
            is_on
        })
    }

    fn start(&self, path: &AccessLogPath) -> Result<LogQueue, Failure> {
        let (output, lost) = (path.open()?, Arc::clone(&self.lost));
        // Every line of the file is about a peer, so this goes into the other log.
        let notice = |lost, _: &mut dyn Write| {
            tracing::warn!(lost, "lines of the access log were dropped, because they could not be written");
            Ok(())
        };
        LogQueue::start("access-log", output, lost, notice).map_err(|error| {
            Failure::new(
                1,
                format_args!("cannot start a thread for --access-log ({error}): check the limit on threads"),
            )
        })
    }

    /// Lines that were dropped.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Waits until what was logged is written, for so long at most.
    pub(crate) fn flush(&self, patience: Duration) {
        let queue = self.queue.lock().clone();
        queue.inspect(|queue| queue.flush(patience));
    }
}

/// Makes a layer that gives each peer's end to `lines`, and what turns it on and off. It is off at first.
pub(crate) fn layer<S>(lines: Box<dyn Layer<S> + Send + Sync>) -> (impl Layer<S>, impl Fn(bool) + use<S>)
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let (filter, handle) = reload::Layer::new(targets(false));
    // Fails only if there is no log any more.
    (lines.with_filter(filter), move |on| drop(handle.reload(targets(on))))
}

fn targets(on: bool) -> Targets {
    Targets::new().with_target(TARGET, if on { LevelFilter::DEBUG } else { LevelFilter::OFF })
}

impl<'a> MakeWriter<'a> for AccessLog {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(self.queue.lock().clone())
    }
}

/// Takes one line.
pub(crate) struct Line(Option<LogQueue>);

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.as_mut().map_or(Ok(line.len()), |queue| queue.write(line))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

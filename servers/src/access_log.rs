//! The access log: a line for each peer that has left.
//!
//! The framework reports each end as an event with the target `TARGET`. The lines go through a queue of their
//! own, so neither a full disk nor a pipe that no process reads delays a peer or the main log.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use nix::fcntl::{AT_FDCWD, AtFlags, FcntlArg, OFlag, fcntl};
use nix::unistd::{AccessFlags, faccessat};
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

/// The shortest interval between two notices in the main log about dropped lines.
const NOTICES: Duration = Duration::from_secs(60);

/// Options of the access log.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logging")]
pub struct AccessLogArgs {
    /// Write a line about each peer that leaves to this file.
    ///
    /// The line has the peer's address, its identity, how long it was connected, its messages and bytes, and why
    /// it left. `-` stands for standard output. At SIGHUP the server opens the file again, so that you can rotate
    /// it. The server drops and counts lines that it cannot write because the disk is full or no process reads
    /// the pipe, and reports that in the main log once a minute.
    #[arg(long, value_name = "FILE")]
    pub access_log: Option<PathBuf>,
}

impl AccessLogArgs {
    /// Checks that the file could be opened, without creating it.
    ///
    /// # Errors
    ///
    /// Returns an error if it could not be opened.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match &self.access_log {
            Some(path) if !is_stdout(path) => check_file(path).map_err(|error| explain(path, &error)),
            _ => Ok(()),
        }
    }
}

/// The destination of the lines, if there is an access log.
#[derive(Clone, Default)]
pub(crate) struct AccessLog {
    open: Arc<Mutex<Option<Open>>>,
    lost: Arc<AtomicU64>,
}

#[derive(Clone)]
struct Open {
    path: PathBuf,
    queue: LogQueue,
}

impl AccessLog {
    /// Opens the file. Returns a function that puts it in use and returns whether there is an access log.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be opened, or if no thread can be started.
    pub(crate) fn prepare(&self, args: &AccessLogArgs) -> Result<impl FnOnce() -> bool + use<>, Failure> {
        let opened = args.access_log.as_ref().map(|path| self.open(path)).transpose()?;
        let place = Arc::clone(&self.open);
        Ok(move || {
            let is_on = opened.is_some();
            // The previous queue writes the lines that it has, and ends.
            *place.lock() = opened;
            is_on
        })
    }

    fn open(&self, path: &Path) -> Result<Open, Failure> {
        // Keep the queue of standard output, because its reader may be slow and there is no second standard
        // output to open.
        let same = self.open.lock().clone().filter(|open| is_stdout(path) && open.path == path);
        if let Some(same) = same {
            return Ok(same);
        }
        let output: Box<dyn Write + Send> = match is_stdout(path) {
            true => Box::new(io::stdout()),
            false => Box::new(open_file(path).map_err(|error| explain(path, &error))?),
        };
        // Every line of the access log is about a peer, so this notice goes into the main log.
        let file = path.to_owned();
        let notice = move |lost, error: Option<&io::Error>, _: &mut dyn Write| {
            let file = file.display();
            match error {
                Some(error) => {
                    tracing::warn!(lost, %file, %error, "access log lines were dropped because they could not be written");
                }
                None => {
                    tracing::warn!(lost, %file, "access log lines were dropped because the log's reader is too slow");
                }
            }
            Ok(())
        };
        let started =
            LogQueue::start("access-log", output, Arc::clone(&self.lost), NOTICES, Box::new(notice));
        let queue = started.map_err(|error| {
            let why =
                format_args!("cannot start a thread for --access-log ({error}): check the limit on threads");
            Failure::new(1, why)
        })?;
        Ok(Open { path: path.to_owned(), queue })
    }

    /// Returns the number of dropped lines.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Waits until the queued lines are written, for `patience` at most.
    pub(crate) fn flush(&self, patience: Duration) {
        let open = self.open.lock().clone();
        open.inspect(|open| open.queue.flush(patience));
    }
}

fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn explain(path: &Path, error: &io::Error) -> Failure {
    let hint = match error.raw_os_error() {
        Some(nix::libc::ENXIO) => "no process reads this pipe: start its reader first",
        _ if error.kind() == io::ErrorKind::NotFound => "create its folder first",
        _ => "name a file that this user can write",
    };
    Failure::about("--access-log", format_args!("{} cannot be opened ({error}): {hint}", path.display()))
}

/// Checks whether `open_file` could open this path. Does not open a pipe, because its reader would see the pipe
/// close afterwards.
fn check_file(path: &Path) -> io::Result<()> {
    let may = |path: &Path| Ok(faccessat(AT_FDCWD, path, AccessFlags::W_OK, AtFlags::AT_EACCESS)?);
    match fs::metadata(path) {
        Ok(found) if found.file_type().is_fifo() => may(path),
        Ok(_) => OpenOptions::new().append(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path).map(drop),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if path.as_os_str().as_bytes().ends_with(b"/") {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            // A path of one component has an empty parent.
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.unwrap_or(Path::new("."));
            // `open_file` would create the file that the link points to.
            match fs::read_link(path) {
                Ok(target) => check_file(&folder.join(target)),
                Err(_) => may(folder),
            }
        }
        Err(error) => Err(error),
    }
}

/// Opens the file that lines are appended to. Never waits for the reader of a pipe.
fn open_file(path: &Path) -> io::Result<File> {
    // Without O_NONBLOCK, opening a pipe waits for its reader.
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o640).custom_flags(OFlag::O_NONBLOCK.bits());
    let file = options.open(path)?;
    if file.metadata()?.file_type().is_fifo() {
        // From now on, only the queue's thread writes, and it may block.
        fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
    }
    Ok(file)
}

/// Makes a layer that gives each peer's end to `lines`, and a function that turns the layer on and off. The layer
/// starts turned off.
pub(crate) fn layer<S>(lines: Box<dyn Layer<S> + Send + Sync>) -> (impl Layer<S>, impl Fn(bool) + use<S>)
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let (filter, handle) = reload::Layer::new(targets(false));
    // The reload fails only if the logger no longer exists.
    (lines.with_filter(filter), move |on| drop(handle.reload(targets(on))))
}

fn targets(on: bool) -> Targets {
    Targets::new().with_target(TARGET, if on { LevelFilter::DEBUG } else { LevelFilter::OFF })
}

impl<'a> MakeWriter<'a> for AccessLog {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(self.open.lock().as_ref().map(|open| open.queue.clone()))
    }
}

/// A writer for one line.
pub(crate) struct Line(Option<LogQueue>);

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.as_mut().map_or(Ok(line.len()), |queue| queue.write(line))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

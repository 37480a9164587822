//! Hands the server over to a new process of the same program at SIGUSR2. The new process runs the program file
//! that is there at this time.
//!
//! The new process inherits the hand-over's socket as its standard input, which a server does not use otherwise.
//! The two processes therefore need not agree on a descriptor number, and no descriptor stays open afterwards.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use peeloff::{HandOverError, HandedOver, Handle, Predecessor, hand_over_sockets, inherited_descriptor};
use signal_hook::consts::SIGUSR2;
use socket2::{Domain, SockRef, Type};

use crate::explain;
use crate::failure::Failure;
use crate::signals::Asked;
use crate::systemd::{self, PassedSocket};

/// The environment variable that makes a process take a server over, with the socket on its standard input.
const VARIABLE: &str = "PEELOFF_TAKE_OVER";

/// The path of this program. After a newer file has replaced it, the kernel no longer reports this path.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Texts for the new process, which gets them through its environment: names and values.
static PASSED_TEXTS: Mutex<Vec<(&str, String)>> = Mutex::new(Vec::new());

/// Called after each attempt to hand over.
static AFTER: OnceLock<Box<dyn Fn() + Send + Sync>> = OnceLock::new();

/// How long a new process that has closed its socket may take to log the reason and to exit.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a process that was handed over waits before its end until it can pass a signal on.
const SIGNAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Records the path of this program. If another process has started this one to take its server over, moves the
/// socket away from standard input and asks the other process what it has. Blocks until it answers, for ten
/// seconds at most.
///
/// # Errors
///
/// Returns an error if the descriptor cannot be duplicated, if `/dev/null` cannot be opened, or if the other
/// process does not answer or has ended, so that no process waits for a new server any more.
pub(crate) fn inherited() -> Result<Option<Predecessor>, Failure> {
    if let Ok(path) = env::current_exe() {
        PROGRAM.get_or_init(|| path);
    }
    if !is_successor() {
        return Ok(None);
    }
    let taken = inherited_descriptor(0).and_then(|socket| {
        nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
        Ok(socket)
    });
    let socket = taken.map_err(|error| {
        Failure::new(1, format_args!("cannot take the socket of the previous process ({error})"))
    })?;
    let predecessor = Predecessor::ask(socket);
    predecessor.map(Some).map_err(|error| explain::start(error.into()))
}

/// Returns whether another process has started this one to take its server over. Returns false once
/// [`inherited`] has taken the socket.
pub(crate) fn is_successor() -> bool {
    env::var_os(VARIABLE).is_some() && is_for_a_hand_over(&io::stdin())
}

/// Returns the text that the previous process has passed under a name. Returns none if there is none, and after
/// [`inherited`].
pub(crate) fn inherited_text(name: &str) -> Option<String> {
    is_successor().then(|| env::var(name).ok()).flatten()
}

/// Passes a text to the process that takes over from this one. The text is in the environment of that process,
/// so it must not be secret.
pub(crate) fn pass_text(name: &'static str, text: String) {
    let mut texts = PASSED_TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    texts.retain(|(known, _)| *known != name);
    texts.push((name, text));
}

/// Has a function called after each attempt to hand this server over, successful or not, on the thread of the
/// hand-over. A second call does nothing.
pub(crate) fn after_each(call: impl Fn() + Send + Sync + 'static) {
    let _ = AFTER.set(Box::new(call));
}

/// Returns whether this is the socket of a hand-over. A program that inherits the environment of a server has
/// another standard input, so it does not take part in a hand-over by mistake. The parent's process ID is no
/// criterion, because the old process may have ended.
fn is_for_a_hand_over(input: &impl AsFd) -> bool {
    let socket = SockRef::from(input);
    socket.domain().is_ok_and(|domain| domain == Domain::UNIX)
        && socket.r#type().is_ok_and(|kind| kind == Type::SEQPACKET)
}

/// Starts the process that takes the server over, and remembers it.
pub(crate) struct Successor {
    handle: Handle,
    /// Asks this process to end.
    asked: SyncSender<Asked>,
    /// Options that the new process needs in addition to those of this process.
    more: Vec<String>,
    outcome: Arc<Outcome>,
}

/// Whether the server goes on in another process, and whether it is to end.
#[derive(Default)]
struct Outcome {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The process that serves now.
    serves: Option<Pid>,
    /// The signal that ends this process.
    ended_by: Option<i32>,
    /// Whether the log says that the new process serves.
    announced: bool,
}

impl Successor {
    /// Prepares the hand-over of a server that listens on these sockets of systemd. The new process gets the
    /// listeners from this one, so it must ask for them by their addresses.
    pub(crate) fn new(handle: Handle, asked: SyncSender<Asked>, passed: &[PassedSocket]) -> Self {
        let listens = |argument: OsString| argument.to_string_lossy().starts_with("--listen");
        let option = |socket: &PassedSocket| {
            let option = if socket.proxied { "--listen-proxied" } else { "--listen" };
            format!("{option}={}", socket.address)
        };
        let more = if env::args_os().any(listens) { Vec::new() } else { passed.iter().map(option).collect() };
        Self { handle, asked, more, outcome: Arc::default() }
    }

    /// Starts the new process and hands the server over to it, on a thread of its own. Once the new process
    /// serves, this process is asked to end. If the hand-over fails, nothing changes, and the log has the reason.
    pub(crate) fn start(&self) {
        // When the first process of a PID namespace ends, the kernel kills all others in it (pid_namespaces(7)).
        if std::process::id() == 1 {
            tracing::error!(
                "not handed over, everything stays as it was: this is process 1 of its container, and when it ends, \
                 the kernel ends all others; replace the container instead"
            );
            return;
        }
        let (handle, asked, more) = (self.handle.clone(), self.asked.clone(), self.more.clone());
        let outcome = Arc::clone(&self.outcome);
        let run = move || match hand_over(&handle, &more) {
            Ok((child, given)) => {
                let pid = child.id();
                outcome.serves(Pid::from_raw(pid.cast_signed()));
                // It may end before this one does.
                let _ =
                    thread::Builder::new().name("successor".to_owned()).spawn(move || wait_and_log(child));
                systemd::main_process(pid);
                outcome.announce();
                log_given(pid, &given);
                let _ = asked.send(Asked::End(SIGUSR2));
            }
            Err(why) => tracing::error!("not handed over, everything stays as it was: {why}"),
        };
        if let Err(error) = thread::Builder::new().name("hand-over".to_owned()).spawn(run) {
            tracing::error!(%error, "not handed over, everything stays as it was: cannot start a thread for the hand-over");
        }
    }

    /// Notes that this signal ends the server. If a new process serves already, or is about to, that one ends too.
    /// Returns false if the log says already that the new process serves: then the signal is for this process alone.
    pub(crate) fn end(&self, signal: i32) -> bool {
        self.outcome.end(signal)
    }

    /// Waits until the process that has the server has got the signal that ended this one, for ten seconds at most. For a server
    /// that [was handed over](Handle::is_handed_over).
    pub(crate) fn await_signal(&self) {
        let state = self.outcome.state.lock().unwrap_or_else(PoisonError::into_inner);
        let _ =
            self.outcome.changed.wait_timeout_while(state, SIGNAL_TIMEOUT, |state| state.serves.is_none());
    }
}

impl Outcome {
    /// The server goes on in this process.
    fn serves(&self, pid: Pid) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.serves = Some(pid);
        state.pass_on();
        self.changed.notify_all();
    }

    fn announce(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).announced = true;
    }

    fn end(&self, signal: i32) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.announced {
            return false;
        }
        state.ended_by = Some(signal);
        state.pass_on();
        true
    }
}

impl State {
    /// Sends the signal on, once there are both.
    fn pass_on(&self) {
        let (Some(pid), Some(signal)) = (self.serves, self.ended_by) else { return };
        tracing::info!(%pid, signal, "the new process, which serves already, is to end as well");
        let sent = Signal::try_from(signal).and_then(|signal| kill(pid, signal));
        if let Err(error) = sent {
            tracing::error!(%pid, %error, "cannot end the new process");
        }
    }
}

/// Waits for the end of the process that serves, and says so where that is none in good order. Blocks.
fn wait_and_log(mut child: Child) {
    let pid = child.id();
    match child.wait() {
        Ok(status) if status.success() => tracing::info!(pid, "the new process has ended"),
        Ok(status) => tracing::error!(
            pid,
            %status,
            "the new process has ended, and its peers and listeners with it; start the server anew"
        ),
        Err(error) => tracing::warn!(pid, %error, "cannot wait for the new process"),
    }
}

/// Logs that the new process serves from now on.
fn log_given(pid: u32, given: &HandedOver) {
    let HandedOver { listeners, peers, staying, paused, .. } = given;
    tracing::info!(
        pid,
        listeners,
        peers,
        staying,
        ?paused,
        "a new process serves; this one ends with its last peer"
    );
}

fn hand_over(handle: &Handle, more: &[String]) -> Result<(Child, HandedOver), String> {
    let (own, other) =
        hand_over_sockets().map_err(|error| format!("cannot make sockets for the hand-over ({error})"))?;
    let mut child = spawn(other, more).map_err(|error| format!("cannot start the new process ({error})"))?;
    let pid = child.id();
    let handed_over = handle.hand_over(own);
    AFTER.get().inspect(|after| after());
    match handed_over {
        Ok(given) => Ok((child, given)),
        Err(error) => {
            // The new process has nothing to serve. If it ends by itself, it has logged the reason.
            if !(matches!(error, HandOverError::Gone) && exits_in_time(&mut child)) {
                let _ = child.kill();
            }
            let ended = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
            Err(format!("{error}; the new process, {pid}, ended ({ended})"))
        }
    }
}

/// Waits until a process ends, for `EXIT_TIMEOUT` at most. Blocks.
fn exits_in_time(child: &mut Child) -> bool {
    let give_up = Instant::now() + EXIT_TIMEOUT;
    loop {
        match child.try_wait() {
            Ok(None) if Instant::now() < give_up => thread::sleep(Duration::from_millis(10)),
            ended => return matches!(ended, Ok(Some(_))),
        }
    }
}

fn spawn(socket: OwnedFd, more: &[String]) -> io::Result<Child> {
    let program = PROGRAM.get().ok_or(io::ErrorKind::NotFound)?;
    let mut command = Command::new(program);
    // These variables name the process that systemd started. With them, the new process would not notify
    // systemd's watchdog.
    for name in ["WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        command.env_remove(name);
    }
    let texts = PASSED_TEXTS.lock().unwrap_or_else(PoisonError::into_inner).clone();
    command
        .envs(texts)
        .args(env::args_os().skip(1))
        .args(more)
        .env(VARIABLE, "1")
        .stdin(Stdio::from(socket))
        .spawn()
}

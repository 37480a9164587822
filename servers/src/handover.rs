//! SIGUSR2: a new process of the same program, from the file as it is now, takes the server over.
//!
//! It inherits the socket for that as its standard input, which a server has no other use for: so no descriptor needs a
//! number that both agree on, and none is left open behind it.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::{Duration, Instant};

use peeloff::{HandOverError, HandedOver, Handle, Predecessor, hand_over_sockets, inherited_descriptor};
use signal_hook::consts::SIGUSR2;
use socket2::{Domain, SockRef, Type};

use crate::explain;
use crate::failure::Failure;
use crate::signals::Asked;
use crate::systemd::{self, PassedSocket};

/// The environment variable that tells a process to take a server over, with the socket on its standard input.
const VARIABLE: &str = "PEELOFF_TAKE_OVER";

/// The file of this program. Once a newer one has its place, the kernel no longer says where that is.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// How long a new process that has closed its socket may take to say why, and to end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Notes where this program is, and takes the socket out of the standard input if another process has started this one to take
/// its server over, and asks that one what it has. Blocks until it answers, for ten seconds at most.
///
/// # Errors
///
/// The descriptor cannot be duplicated, there is no `/dev/null`, or the other process does not answer, or has ended meanwhile: then
/// nobody has asked for a server any more.
pub(crate) fn inherited() -> Result<Option<Predecessor>, Failure> {
    if let Ok(path) = env::current_exe() {
        PROGRAM.get_or_init(|| path);
    }
    if env::var_os(VARIABLE).is_none() || !is_for_a_hand_over(&io::stdin()) {
        return Ok(None);
    }
    let taken = inherited_descriptor(0).and_then(|socket| {
        nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
        Ok(socket)
    });
    let socket = taken.map_err(|error| {
        Failure::new(1, format_args!("cannot take the socket of the process before this one ({error})"))
    })?;
    let predecessor = Predecessor::ask(socket);
    predecessor.map(Some).map_err(|error| explain::start(error.into()))
}

/// Whether this is a socket for a hand-over. Programs that inherit the environment from a server have another standard input, and
/// are not misled. Whose child this process is says nothing: the old process may have ended.
fn is_for_a_hand_over(input: &impl AsFd) -> bool {
    let socket = SockRef::from(input);
    socket.domain().is_ok_and(|domain| domain == Domain::UNIX)
        && socket.r#type().is_ok_and(|kind| kind == Type::SEQPACKET)
}

/// How a new process is started, and told from.
pub(crate) struct Successor {
    handle: Handle,
    /// Hears that this process is to end.
    asked: SyncSender<Asked>,
    /// Options that this process was not started with.
    more: Vec<String>,
}

impl Successor {
    /// Of a server that listens on these sockets of systemd's. The new process gets the listeners from this one, so it has
    /// to ask for them by their addresses.
    pub(crate) fn new(handle: Handle, asked: SyncSender<Asked>, passed: &[PassedSocket]) -> Self {
        let listens = |argument: OsString| argument.to_string_lossy().starts_with("--listen");
        let option = |socket: &PassedSocket| {
            let option = if socket.proxied { "--listen-proxied" } else { "--listen" };
            format!("{option}={}", socket.address)
        };
        let more = if env::args_os().any(listens) { Vec::new() } else { passed.iter().map(option).collect() };
        Self { handle, asked, more }
    }

    /// Starts the new process and hands the server over to it, on a thread of its own. Once that serves, this process hears that it is
    /// to end; if it does not, everything stays as it is, and the log says why.
    pub(crate) fn start(&self) {
        // With the first process of a PID namespace the kernel kills all others in it (pid_namespaces(7)).
        if std::process::id() == 1 {
            tracing::error!(
                "not handed over, everything stays as it was: this is process 1 of its container, and the kernel \
                 ends all others with it; replace the container instead"
            );
            return;
        }
        let (handle, asked, more) = (self.handle.clone(), self.asked.clone(), self.more.clone());
        let run = move || match hand_over(&handle, &more) {
            Ok((pid, given)) => {
                served_by(pid, &given);
                let _ = asked.send(Asked::End(SIGUSR2));
            }
            Err(why) => tracing::error!("not handed over, everything stays as it was: {why}"),
        };
        if let Err(error) = thread::Builder::new().name("hand-over".to_owned()).spawn(run) {
            tracing::error!(%error, "not handed over, everything stays as it was: no thread for it");
        }
    }
}

/// The process of this number is the server from now on.
fn served_by(pid: u32, given: &HandedOver) {
    systemd::main_process(pid);
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

fn hand_over(handle: &Handle, more: &[String]) -> Result<(u32, HandedOver), String> {
    let (own, other) = hand_over_sockets().map_err(|error| format!("no sockets for it ({error})"))?;
    let mut child = spawn(other, more).map_err(|error| format!("cannot start the new process ({error})"))?;
    let pid = child.id();
    match handle.hand_over(own) {
        Ok(given) => {
            // It may end before this one does.
            let reap = move || child.wait();
            let _ = thread::Builder::new().name("successor".to_owned()).spawn(reap);
            Ok((pid, given))
        }
        Err(error) => {
            // It has nothing to serve. Where it ends by itself, its own words are in the log.
            if !(matches!(error, HandOverError::Gone) && ends_by_itself(&mut child)) {
                let _ = child.kill();
            }
            let ended = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
            Err(format!("{error}; the new process, {pid}, ended ({ended})"))
        }
    }
}

/// Waits for the end of a process, for so long as it may take for its last words. Blocks.
fn ends_by_itself(child: &mut Child) -> bool {
    let give_up = Instant::now() + LAST_WORDS;
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
    // What names the process that systemd has started would keep the new one from being watched over.
    for name in ["WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        command.env_remove(name);
    }
    command.args(env::args_os().skip(1)).args(more).env(VARIABLE, "1").stdin(Stdio::from(socket)).spawn()
}

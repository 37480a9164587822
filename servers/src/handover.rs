//! SIGUSR2: a new process of the same program, from the file as it is now, takes the server over.
//!
//! It inherits the socket for that as its standard input, which a server has no other use for: so no descriptor needs a
//! number that both agree on, and none is left open behind it.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::SyncSender;
use std::thread;

use peeloff::{HandedOver, Handle, Predecessor, hand_over_sockets, inherited_descriptor};
use signal_hook::consts::SIGUSR2;

use crate::explain;
use crate::failure::Failure;
use crate::signals::Asked;

/// The environment variable that tells a process to take a server over.
const VARIABLE: &str = "PEELOFF_TAKE_OVER";

/// The file of this program. Once a newer one has its place, the kernel no longer says where that is.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Notes where this program is, and takes the socket out of the standard input if another process has started this one to take
/// its server over, and asks that one what it has. Blocks until it answers, for ten seconds at most.
///
/// # Errors
///
/// The descriptor cannot be duplicated, there is no `/dev/null`, or the other process does not answer.
pub(crate) fn inherited() -> Result<Option<Predecessor>, Failure> {
    if let Ok(path) = env::current_exe() {
        PROGRAM.get_or_init(|| path);
    }
    if env::var_os(VARIABLE).is_none_or(|value| value != OsString::from(parent())) {
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

/// The process that has started this one. The variable names it, so that programs which inherit the environment from a server are
/// not misled.
fn parent() -> String {
    std::os::unix::process::parent_id().to_string()
}

/// Starts the new process and hands the server over to it, on a thread of its own. Once that serves, `asked` hears that this process
/// is to end; if it does not, everything stays as it is, and the log says why.
pub(crate) fn start(handle: Handle, asked: SyncSender<Asked>) {
    let run = move || match hand_over(&handle) {
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

/// The process of this number is the server from now on: whoever watches over the server has to be told so here.
fn served_by(pid: u32, given: &HandedOver) {
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

fn hand_over(handle: &Handle) -> Result<(u32, HandedOver), String> {
    let (own, other) = hand_over_sockets().map_err(|error| format!("no sockets for it ({error})"))?;
    let mut child = spawn(other).map_err(|error| format!("cannot start the new process ({error})"))?;
    let pid = child.id();
    match handle.hand_over(own) {
        Ok(given) => {
            // It may end before this one does.
            let reap = move || child.wait();
            let _ = thread::Builder::new().name("successor".to_owned()).spawn(reap);
            Ok((pid, given))
        }
        Err(error) => {
            // It has nothing to serve. Where it has ended by itself, its own words are in the log.
            let _ = child.kill();
            let ended = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
            Err(format!("{error}; the new process, {pid}, ended ({ended})"))
        }
    }
}

fn spawn(socket: OwnedFd) -> io::Result<Child> {
    let program = PROGRAM.get().ok_or(io::ErrorKind::NotFound)?;
    Command::new(program)
        .args(env::args_os().skip(1))
        .env(VARIABLE, std::process::id().to_string())
        .stdin(Stdio::from(socket))
        .spawn()
}

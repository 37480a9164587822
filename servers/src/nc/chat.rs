//! A terminal for chats: the line that is being typed stays whole while others come in.
//!
//! Two threads: the caller's receives and prints, `stdin` has the line editor. Where standard input or output
//! is no terminal, lines go through as they are.

use std::io::{self, IsTerminal, Write};
use std::thread;
use std::time::Duration;

use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use peeloff::{Error, Peer, Sender};
use rustyline::error::ReadlineError;
use rustyline::{Config, DefaultEditor, ExternalPrinter};

use crate::chat::text::clean;
use crate::failure::Failure;
use crate::nc::BROKEN;
use crate::nc::talk::{Manner, explain, send, talk};

/// After so long without a line from the server an empty one goes out, so that the server and what is in
/// between do not take this side for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// A line that leaves no trace: one up, one down.
const NOTHING: &str = "\x1b[A\n";

/// Chats until either side says goodbye.
pub(super) fn converse(peer: &mut Peer, manner: Manner) -> Result<(), Failure> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return talk(peer, manner);
    }
    let mut editor = DefaultEditor::with_config(Config::builder().auto_add_history(true).build())
        .map_err(|error| terminal_failed(&error))?;
    let mut printer = editor.create_external_printer().map_err(|error| terminal_failed(&error))?;
    // The editor's thread is cut off where the server ends it, in the middle of a line.
    let _restored = Terminal::as_it_is();
    let to = peer.sender();
    thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || type_lines(editor, &to, manner))
        .map_err(|error| Failure::new(BROKEN, format_args!("cannot start a thread: {error}")))?;
    let mut buffer = vec![0; 2048];
    loop {
        match peer.recv_timeout(&mut buffer, KEEP_ALIVE) {
            Ok(Some(length)) => {
                for line in String::from_utf8_lossy(&buffer[..length]).lines() {
                    // A server may be no friend of the terminal.
                    let line = clean(line);
                    printer.print(format!("{line}\n")).map_err(|error| terminal_failed(&error))?;
                }
            }
            Ok(None) => {
                // The printer has room for one line, so with the second of these in it the last real
                // one is on the screen. They fail where the editor has ended, which needs no printer.
                let _ = printer.print(NOTHING.to_owned()).and_then(|()| printer.print(NOTHING.to_owned()));
                return Ok(());
            }
            Err(Error::TimedOut) => match peer.send(b"\n") {
                Err(error) if error.is_fatal() => return Err(explain(error)),
                _ => {}
            },
            Err(Error::BufferTooSmall { needed }) => buffer.resize(needed, 0),
            Err(error) => return Err(explain(error)),
        }
    }
}

/// Runs on the thread `stdin`: sends what is typed, until the end of input.
fn type_lines(mut editor: DefaultEditor, to: &Sender, manner: Manner) {
    loop {
        match editor.readline("> ") {
            Ok(line) => match send(to, format!("{line}\n").as_bytes(), &manner.how) {
                Ok(true) => {}
                Ok(false) => break,
                Err(failure) => {
                    tracing::error!("{failure}");
                    break;
                }
            },
            Err(ReadlineError::Eof | ReadlineError::Interrupted) => break,
            Err(error) => {
                tracing::error!(%error, "cannot read the terminal");
                break;
            }
        }
    }
    to.close();
}

fn terminal_failed(error: &ReadlineError) -> Failure {
    Failure::new(BROKEN, format_args!("cannot use the terminal ({error}): give the input by a pipe"))
}

/// The terminal's settings, which come back when this is dropped.
struct Terminal(Option<Termios>);

impl Terminal {
    fn as_it_is() -> Self {
        Self(tcgetattr(io::stdin()).ok())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(settings) = &self.0 {
            // Nobody is left to tell if this fails. The prompt has no newline.
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, settings);
            let _ = writeln!(io::stdout());
        }
    }
}

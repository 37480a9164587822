//! A terminal for chats: the line that is being typed stays whole while others come in.
//!
//! Two threads: the caller's receives, prints and watches whether the server answers; `stdin` has the line
//! editor and sends. They share a [`Link`]. What either knows about the server is the [`Ledger`]'s.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::termios::{InputFlags, LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use parking_lot::{Condvar, Mutex};
use peeloff::sctp::SendInfo;
use peeloff::{Error, Peer, Scheme, Sender};
use rustyline::error::ReadlineError;
use rustyline::{Config, DefaultEditor, ExternalPrinter};
use textwrap::Options;

use crate::chat::text::clean;
use crate::failure::Failure;
use crate::nc::exit::BROKEN;
use crate::nc::ledger::Ledger;
use crate::nc::talk::{explain, send};

/// How often the clock is looked at while nothing comes.
const TICK: Duration = Duration::from_secs(1);
/// How long the prompt waits for the answer to the line before, which it may depend on.
const PATIENCE: Duration = Duration::from_secs(1);
/// The pause between two tries to reach a server that is gone.
const PAUSE: Duration = Duration::from_secs(2);
/// The width of a terminal that does not tell it.
const WIDTH: usize = 80;

/// A line that leaves no trace: one up, one down.
const NOTHING: &str = "\x1b[A\n";

/// Whether somebody sits at a terminal.
pub(super) fn is_on_terminal() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// The association of the moment, as both threads and the signals need it.
pub(super) struct Link {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    to: Sender,
    ledger: Ledger,
    /// This side wants to end.
    quit: bool,
}

impl Link {
    /// The link over a new association.
    pub(super) fn new(to: Sender) -> Arc<Self> {
        let ledger = Ledger::new(matches!(to.scheme(), Scheme::Udp | Scheme::Dtls), Instant::now());
        Arc::new(Self { state: Mutex::new(State { to, ledger, quit: false }), changed: Condvar::new() })
    }

    /// Ends the chat from this side.
    pub(super) fn quit(&self) {
        let mut state = self.state.lock();
        state.quit = true;
        state.to.close();
        self.changed.notify_all();
    }

    /// Works on what is known, and wakes the thread that waits for it.
    fn with<T>(&self, work: impl FnOnce(&mut Ledger) -> T) -> T {
        let mut state = self.state.lock();
        let result = work(&mut state.ledger);
        self.changed.notify_all();
        result
    }

    /// Waits until the server has answered what was sent, or is not going to, and gives the prompt.
    fn prompt(&self) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.state.lock();
        while !state.ledger.is_settled() && !state.quit {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state.ledger.prompt()
    }

    /// Waits before the next try; false if this side wants to end.
    fn pause(&self) -> bool {
        let deadline = Instant::now() + PAUSE;
        let mut state = self.state.lock();
        while !state.quit && !self.changed.wait_until(&mut state, deadline).timed_out() {}
        !state.quit
    }

    /// Puts a new association in the place of the last; false if this side wants to end.
    fn replace(&self, to: Sender) -> bool {
        let mut state = self.state.lock();
        state.to = to;
        !state.quit
    }
}

/// Chats until either side says goodbye. Where a server of `peeloff-chat` is gone without a goodbye, `connect` is
/// called until it gives a new association; it gives none where the next try may be better.
pub(super) fn converse(
    peer: &mut Peer,
    how: SendInfo,
    link: &Arc<Link>,
    connect: impl Fn() -> Result<Option<Peer>, Failure>,
) -> Result<(), Failure> {
    let mut editor = DefaultEditor::with_config(Config::builder().auto_add_history(true).build())
        .map_err(|error| terminal_failed(&error))?;
    let mut screen = Screen(editor.create_external_printer().map_err(|error| terminal_failed(&error))?);
    let to_stdin = Screen(editor.create_external_printer().map_err(|error| terminal_failed(&error))?);
    // The editor's thread is cut off where the server ends it, in the middle of a line.
    let _restored = Terminal::quiet();
    // On UDP nobody is there before something came.
    send_now(peer, "\n");
    let shared = Arc::clone(link);
    thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || type_lines(editor, to_stdin, &shared, &how))
        .map_err(|error| Failure::new(BROKEN, format_args!("cannot start a thread: {error}")))?;
    loop {
        let outcome = listen(peer, &mut screen, link);
        // Where the editor has ended, nothing can be printed, and nothing need be.
        if link.state.lock().quit {
            break;
        }
        let Some(why) = outcome? else { break };
        peer.close();
        screen.notice(&why)?;
        let lost = link.with(|ledger| ledger.lose(Instant::now()));
        lost.iter().try_for_each(|line| screen.notice(line))?;
        match reconnect(link, &connect)? {
            Some(next) => *peer = next,
            None => break,
        }
        send_now(peer, "\n");
    }
    screen.flush();
    Ok(())
}

/// Serves one association until its end. Gives the reason if another one is worth a try.
fn listen(
    peer: &mut Peer,
    screen: &mut Screen<impl ExternalPrinter>,
    link: &Link,
) -> Result<Option<String>, Failure> {
    let mut message = Vec::new();
    loop {
        match peer.recv_into_timeout(&mut message, TICK) {
            Ok(Some(_)) => {
                for line in String::from_utf8_lossy(&message).lines() {
                    // A server may be no friend of the terminal.
                    let line = clean(line);
                    let outcome = link.with(|ledger| ledger.hear(&line, Instant::now()));
                    outcome.notices.iter().try_for_each(|notice| screen.notice(notice))?;
                    if outcome.show {
                        screen.show(&line)?;
                    }
                    outcome.send.into_iter().for_each(|lines| send_now(peer, &lines));
                }
            }
            Err(Error::TimedOut) => {}
            ended @ (Ok(None) | Err(_)) => {
                let state = link.state.lock();
                if state.quit || state.ledger.is_leaving() {
                    return Ok(None);
                }
                let known = state.ledger.is_known();
                drop(state);
                let why = match ended {
                    Err(error) if !known => return Err(explain(error)),
                    Err(Error::Ended(reason)) => reason.to_string(),
                    Err(error) => error.to_string(),
                    _ if known => peer.end_reason().map(ToString::to_string).unwrap_or_default(),
                    _ => {
                        screen.notice("the server has ended the connection")?;
                        return Ok(None);
                    }
                };
                return Ok(Some(format!("the server is gone ({why}); trying to reach it again")));
            }
        }
        let (unreachable, now) = (peer.take_unreachable(), Instant::now());
        let (outcome, hopeless) =
            link.with(|ledger| (ledger.look(unreachable, now), ledger.is_hopeless(now)));
        outcome.notices.iter().try_for_each(|notice| screen.notice(notice))?;
        outcome.send.into_iter().for_each(|question| send_now(peer, &question));
        // A server that was started anew knows nothing of the session; plain UDP has none.
        if hopeless && peer.scheme() == Scheme::Dtls {
            return Ok(Some("the server is gone; trying to reach it again".to_owned()));
        }
    }
}

/// Tries until there is a new association; none if this side wants to end.
fn reconnect(
    link: &Link,
    connect: &impl Fn() -> Result<Option<Peer>, Failure>,
) -> Result<Option<Peer>, Failure> {
    while link.pause() {
        if let Some(peer) = connect()? {
            return Ok(link.replace(peer.sender()).then_some(peer));
        }
    }
    Ok(None)
}

/// Sends what the ledger asks for. The ledger repeats what is lost, and the next receive finds an end, so errors are of no
/// interest here.
fn send_now(peer: &mut Peer, text: &str) {
    let _ = peer.send(text.as_bytes());
}

/// Runs on the thread `stdin`: sends what is typed, until the end of input.
fn type_lines(
    mut editor: DefaultEditor,
    mut screen: Screen<impl ExternalPrinter>,
    link: &Link,
    how: &SendInfo,
) {
    loop {
        match editor.readline(&link.prompt()) {
            Ok(line) => {
                let mut state = link.state.lock();
                let (text, number) = state.ledger.write(&line, Instant::now());
                let to = state.to.clone();
                drop(state);
                let why = match send(&to, text.as_bytes(), how) {
                    Ok(true) => continue,
                    Ok(false) => "the server is gone".to_owned(),
                    Err(failure) => failure.to_string(),
                };
                link.with(|ledger| ledger.fail(number));
                if screen.notice(&format!("not delivered ({why}): {line}")).is_err() {
                    break;
                }
            }
            Err(ReadlineError::Eof | ReadlineError::Interrupted) => break,
            Err(error) => {
                tracing::error!(%error, "cannot read the terminal");
                break;
            }
        }
    }
    link.quit();
}

/// Prints above the line that is being typed.
struct Screen<P>(P);

impl<P: ExternalPrinter> Screen<P> {
    /// Prints a line of the server's, wrapped at the width of the terminal.
    fn show(&mut self, line: &str) -> Result<(), Failure> {
        let width = terminal_size::terminal_size().map_or(WIDTH, |(width, _)| usize::from(width.0));
        self.0.print(wrap(line, width) + "\n").map_err(|error| terminal_failed(&error))
    }

    /// Prints a line of this program's.
    fn notice(&mut self, line: &str) -> Result<(), Failure> {
        self.show(&format!("-- {line}"))
    }

    /// Waits until what was printed is on the screen.
    fn flush(&mut self) {
        // The printer has room for one line, so with the second of these in it the last real one is on the
        // screen. They fail where the editor has ended, which needs no printer.
        let _ = self.0.print(NOTHING.to_owned()).and_then(|()| self.0.print(NOTHING.to_owned()));
    }
}

/// Breaks a line between words, and indents the lines that follow.
fn wrap(line: &str, width: usize) -> String {
    // A narrower terminal wraps by itself.
    let options = Options::new(width.max(20)).subsequent_indent("    ");
    textwrap::fill(line, options)
}

fn terminal_failed(error: &ReadlineError) -> Failure {
    Failure::new(BROKEN, format_args!("cannot use the terminal ({error}): give the input by a pipe"))
}

/// The terminal's settings, which come back when this is dropped.
struct Terminal(Option<Termios>);

impl Terminal {
    /// Keys between two prompts are for the next one: they are neither echoed nor joined to lines. Ctrl-C is a
    /// signal then.
    fn quiet() -> Self {
        let settings = tcgetattr(io::stdin()).ok();
        if let Some(mut quiet) = settings.clone() {
            quiet.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
            quiet.input_flags.remove(InputFlags::ICRNL);
            // Without it they are echoed twice, and nothing worse.
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &quiet);
        }
        Self(settings)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_break_between_words() {
        let line = "[lobby] alice: a line that is longer than the terminal is wide";
        assert_eq!(
            wrap(line, 30),
            "[lobby] alice: a line that is\n    longer than the terminal\n    is wide"
        );
        assert_eq!(wrap("short", 30), "short");
        // A word that fits no line is cut, and wide characters count twice.
        assert_eq!(wrap(&"x".repeat(50), 30), format!("{}\n    {}", "x".repeat(26), "x".repeat(24)));
        assert_eq!(wrap("漢字漢字漢字 漢字漢字漢字", 20).lines().count(), 2);
    }
}

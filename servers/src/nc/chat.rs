//! A terminal for chats: the line that the user types stays whole while lines from others arrive.
//!
//! The chat has two threads. The caller's thread receives, prints, and checks whether the server answers. The
//! thread `stdin` runs the line editor and sends. They share a [`Link`]. The [`ServerView`] keeps what both know
//! about the server.

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
use crate::nc::server_view::ServerView;
use crate::nc::talk::{explain, send};

/// How often the caller's thread checks the clock while no message arrives.
const TICK: Duration = Duration::from_secs(1);
/// How long the prompt waits for the answer to the previous line, because the answer can change the prompt.
const PATIENCE: Duration = Duration::from_secs(1);
/// The pause between two attempts to reach a server that is gone.
const PAUSE: Duration = Duration::from_secs(2);
/// The width of a terminal that does not report it.
const WIDTH: usize = 80;

/// A line that leaves no trace: one line up, one line down.
const NOTHING: &str = "\x1b[A\n";

/// Returns whether a user reads and writes on a terminal.
pub(super) fn is_on_terminal() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// The current association, shared by both threads and the signal handler.
pub(super) struct Link {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    to: Sender,
    view: ServerView,
    /// Whether the user wants to quit.
    quit: bool,
}

impl Link {
    /// Makes the link for a new association.
    pub(super) fn new(to: Sender) -> Arc<Self> {
        let view = ServerView::new(matches!(to.scheme(), Scheme::Udp | Scheme::Dtls), Instant::now());
        Arc::new(Self { state: Mutex::new(State { to, view, quit: false }), changed: Condvar::new() })
    }

    /// Ends the chat from this side.
    pub(super) fn quit(&self) {
        let mut state = self.state.lock();
        state.quit = true;
        state.to.close();
        self.changed.notify_all();
    }

    /// Runs `work` on the view, and wakes the thread that waits for a change.
    fn with<T>(&self, work: impl FnOnce(&mut ServerView) -> T) -> T {
        let mut state = self.state.lock();
        let result = work(&mut state.view);
        self.changed.notify_all();
        result
    }

    /// Waits until the server has answered the last line, or until no answer is expected any more. Returns the
    /// prompt.
    fn prompt(&self) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.state.lock();
        while !state.view.is_settled() && !state.quit {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state.view.prompt()
    }

    /// Waits before the next attempt. Returns false if the user wants to quit.
    fn pause(&self) -> bool {
        let deadline = Instant::now() + PAUSE;
        let mut state = self.state.lock();
        while !state.quit && !self.changed.wait_until(&mut state, deadline).timed_out() {}
        !state.quit
    }

    /// Replaces the association by a new one. Returns false if the user wants to quit.
    fn replace(&self, to: Sender) -> bool {
        let mut state = self.state.lock();
        state.to = to;
        !state.quit
    }
}

/// Chats until the user quits or the server says goodbye. If a server of `peeloff-chat` disappears without a
/// goodbye, calls `connect` until it returns a new association; it returns none if a later attempt may succeed.
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
    // If the server ends the chat, the editor's thread is stopped in the middle of a line.
    let _restored = Terminal::quiet();
    // On UDP the server does not know this peer until it has received a datagram.
    send_now(peer, "\n");
    let shared = Arc::clone(link);
    thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || type_lines(editor, to_stdin, &shared, &how))
        .map_err(|error| Failure::new(BROKEN, format_args!("cannot start a thread: {error}")))?;
    loop {
        let outcome = listen(peer, &mut screen, link);
        // After the editor has ended, nothing can be printed, and nothing needs to be.
        if link.state.lock().quit {
            break;
        }
        let Some(why) = outcome? else { break };
        peer.close();
        screen.notice(&why)?;
        let lost = link.with(|view| view.handle_end(Instant::now()));
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

/// Serves one association until it ends. Returns the reason if the program should connect again.
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
                    // The server may send escape sequences.
                    let line = clean(line);
                    let outcome = link.with(|view| view.handle_line(&line, Instant::now()));
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
                if state.quit || state.view.is_leaving() {
                    return Ok(None);
                }
                let known = state.view.is_known();
                drop(state);
                let why = match ended {
                    Err(error) if !known => return Err(explain(error)),
                    Err(Error::Ended(reason)) => reason.to_string(),
                    Err(error) => error.to_string(),
                    _ if known => peer.end_reason().map(ToString::to_string).unwrap_or_default(),
                    _ => {
                        screen.notice("the server has closed the connection")?;
                        return Ok(None);
                    }
                };
                return Ok(Some(format!("the server is gone ({why}); trying to reach it again")));
            }
        }
        let (unreachable, now) = (peer.take_unreachable(), Instant::now());
        let (outcome, hopeless) =
            link.with(|view| (view.handle_timeout(unreachable, now), view.is_hopeless(now)));
        outcome.notices.iter().try_for_each(|notice| screen.notice(notice))?;
        outcome.send.into_iter().for_each(|question| send_now(peer, &question));
        // A server that was restarted does not know the session. Plain UDP has no session.
        if hopeless && peer.scheme() == Scheme::Dtls {
            return Ok(Some("the server is gone; trying to reach it again".to_owned()));
        }
    }
}

/// Tries to connect until there is a new association. Returns none if the user wants to quit.
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

/// Sends what the view asks for. Errors are ignored: the view repeats lost lines, and the next receive
/// reports the end of the association.
fn send_now(peer: &mut Peer, text: &str) {
    let _ = peer.send(text.as_bytes());
}

/// Runs on the thread `stdin`: sends what the user types, until the input ends.
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
                let (text, number) = state.view.write(&line, Instant::now());
                let to = state.to.clone();
                drop(state);
                let why = match send(&to, text.as_bytes(), how) {
                    Ok(true) => continue,
                    Ok(false) => "the server is gone".to_owned(),
                    Err(failure) => failure.to_string(),
                };
                link.with(|view| view.fail(number));
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

/// Prints above the line that the user is typing.
struct Screen<P>(P);

impl<P: ExternalPrinter> Screen<P> {
    /// Prints a line from the server, wrapped at the width of the terminal.
    fn show(&mut self, line: &str) -> Result<(), Failure> {
        let width = terminal_size::terminal_size().map_or(WIDTH, |(width, _)| usize::from(width.0));
        self.0.print(wrap(line, width) + "\n").map_err(|error| terminal_failed(&error))
    }

    /// Prints a line of this program.
    fn notice(&mut self, line: &str) -> Result<(), Failure> {
        self.show(&format!("-- {line}"))
    }

    /// Waits until everything that was printed is on the screen.
    fn flush(&mut self) {
        // The printer's queue has room for one line. Once it accepts the second of these, the last real line is
        // on the screen. The calls fail if the editor has ended, and then no printer is needed.
        let _ = self.0.print(NOTHING.to_owned()).and_then(|()| self.0.print(NOTHING.to_owned()));
    }
}

/// Breaks a line between words, and indents the continuation lines.
fn wrap(line: &str, width: usize) -> String {
    // A narrower terminal wraps the lines itself.
    let options = Options::new(width.max(20)).subsequent_indent("    ");
    textwrap::fill(line, options)
}

fn terminal_failed(error: &ReadlineError) -> Failure {
    Failure::new(BROKEN, format_args!("cannot use the terminal ({error}): give the input through a pipe"))
}

/// The terminal's settings, which are restored when this value is dropped.
struct Terminal(Option<Termios>);

impl Terminal {
    /// Keeps keys that are typed between two prompts for the next prompt: they are neither echoed nor joined to
    /// lines. Ctrl-C sends a signal meanwhile.
    fn quiet() -> Self {
        let settings = tcgetattr(io::stdin()).ok();
        if let Some(mut quiet) = settings.clone() {
            quiet.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
            quiet.input_flags.remove(InputFlags::ICRNL);
            // If this fails, such keys are echoed twice, which does no harm.
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &quiet);
        }
        Self(settings)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(settings) = &self.0 {
            // A failure cannot be reported here. The prompt did not end with a newline, so write one.
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
        // A word that is too long for a line is cut, and wide characters count twice.
        assert_eq!(wrap(&"x".repeat(50), 30), format!("{}\n    {}", "x".repeat(26), "x".repeat(24)));
        assert_eq!(wrap("漢字漢字漢字 漢字漢字漢字", 20).lines().count(), 2);
    }
}

//! Runs the real programs, and writes the files that they read.
//!
//! Every wait has a deadline, and none is a sleep: output arrives over channels, and the end of a program is the
//! end of its output.

// Each test program uses a part of this module.
#![allow(dead_code)]

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// How long a step may take before a test fails. It is generous, for slow machines.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub const ECHO: &str = env!("CARGO_BIN_EXE_peeloff-echo");
pub const CHAT: &str = env!("CARGO_BIN_EXE_peeloff-chat");
pub const NC: &str = env!("CARGO_BIN_EXE_peeloff-nc");

/// A running program; dropping it kills the program.
pub struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Output,
    stderr: Output,
}

/// The result of a program.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; none if a signal ended the program.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Program {
    /// Starts a program with pipes for its standard input and outputs.
    pub fn start(program: &str, arguments: &[&str]) -> Self {
        Self::start_with_outputs(program, arguments, Stdio::piped(), Stdio::piped())
    }

    /// Starts a program with additional environment variables.
    pub fn start_in<K: AsRef<OsStr>, V: AsRef<OsStr>>(
        environment: impl IntoIterator<Item = (K, V)>,
        program: &str,
        arguments: &[&str],
    ) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).envs(environment);
        Self::spawn(command, [(); 3].map(|()| Stdio::piped()))
    }

    /// Starts a program with other outputs.
    pub fn start_with_outputs(program: &str, arguments: &[&str], stdout: Stdio, stderr: Stdio) -> Self {
        Self::start_with(program, arguments, [Stdio::piped(), stdout, stderr])
    }

    /// Starts a program with another standard input.
    pub fn start_with_input(program: &str, arguments: &[&str], stdin: Stdio) -> Self {
        Self::start_with(program, arguments, [stdin, Stdio::piped(), Stdio::piped()])
    }

    fn start_with(program: &str, arguments: &[&str], ends: [Stdio; 3]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments);
        Self::spawn(command, ends)
    }

    /// Starts a command with this input and these outputs.
    pub fn spawn(mut command: Command, [stdin, stdout, stderr]: [Stdio; 3]) -> Self {
        command.stdin(stdin).stdout(stdout).stderr(stderr);
        let mut child = command.spawn().unwrap();
        Self {
            stdin: child.stdin.take(),
            stdout: Output::of(child.stdout.take()),
            stderr: Output::of(child.stderr.take()),
            child,
        }
    }

    /// Writes to the program's standard input.
    pub fn write(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("standard input is open");
        stdin.write_all(text.as_bytes()).unwrap();
        stdin.flush().unwrap();
    }

    /// Closes the program's standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Returns the next line on standard output, without its newline.
    pub fn line(&mut self) -> String {
        self.stdout.line().unwrap_or_else(|| panic!("no line on stdout; stderr: {}", self.stderr.rest()))
    }

    /// Returns the address in a server's next line, which says that it listens.
    pub fn address(&mut self) -> String {
        let line = self.line();
        line.strip_prefix("listening ").unwrap_or_else(|| panic!("{line:?}")).to_owned()
    }

    /// Reads standard output up to the line that contains `text`, and returns that line.
    pub fn line_with(&mut self, text: &str) -> String {
        loop {
            let line = self.line();
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Reads standard error up to the line that contains `text`, and returns that line.
    pub fn stderr_line(&mut self, text: &str) -> String {
        loop {
            match self.stderr.line() {
                Some(line) if line.contains(text) => return line,
                Some(_) => {}
                None => panic!("no {text:?} on stderr: {}", self.stderr.seen),
            }
        }
    }

    /// Sends a signal by name, such as `TERM`, and waits until it has been delivered. Otherwise the kernel would
    /// decide which of two pending signals comes first.
    pub fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success(), "{command}");
        let give_up = Instant::now() + DEADLINE;
        while self.has_pending_signals() {
            assert!(Instant::now() < give_up, "{command}: still pending after {DEADLINE:?}");
            thread::yield_now();
        }
    }

    /// Waits until the program catches this signal (`SigCgt` in proc_pid_status(5)).
    pub fn wait_for_caught(&mut self, name: &str) {
        let bit = match name {
            "HUP" => 1,
            "INT" => 2,
            "TERM" => 15,
            other => panic!("{other}"),
        };
        let give_up = Instant::now() + DEADLINE;
        loop {
            let status = self.status();
            let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
            if mask & 1 << (bit - 1) != 0 {
                return;
            }
            assert!(Instant::now() < give_up, "{name} is not caught after {DEADLINE:?}");
            thread::yield_now();
        }
    }

    /// Returns whether the program has ended and has not been waited for.
    pub fn has_ended(&self) -> bool {
        self.status().contains("State:\tZ")
    }

    /// Returns the text of proc_pid_status(5).
    fn status(&self) -> String {
        fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default()
    }

    /// Returns whether signals are pending (`ShdPnd` in proc_pid_status(5)); false if the program has ended.
    fn has_pending_signals(&self) -> bool {
        let status = self.status();
        let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
        !self.has_ended() && pending.is_some_and(|mask| mask.trim().bytes().any(|digit| digit != b'0'))
    }

    /// Returns the program's process ID.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the program has ended, while a process that it has started may still write to its outputs.
    pub fn wait_for_exit(&mut self) {
        self.child.wait().unwrap();
    }

    /// Kills the program, as a crash or a lack of memory would, and waits until it has ended.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Closes the program's standard input, and waits until it has ended.
    pub fn finish(mut self) -> Ended {
        self.close_stdin();
        self.wait()
    }

    /// Waits until the program has ended. Leaves its standard input as it is.
    pub fn wait(mut self) -> Ended {
        let (stdout, stderr) = (self.stdout.rest(), self.stderr.rest());
        // Both outputs are closed, so the program is about to end.
        let status = self.child.wait().unwrap();
        Ended { code: status.code(), stdout, stderr }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // This fails if the program has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a pipe, read by a thread.
struct Output {
    lines: Receiver<String>,
    seen: String,
}

impl Output {
    fn of(pipe: Option<impl Read + Send + 'static>) -> Self {
        let (sender, lines) = mpsc::channel();
        if let Some(pipe) = pipe {
            thread::spawn(move || {
                let mut pipe = BufReader::new(pipe);
                let mut line = Vec::new();
                while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                    if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                        return;
                    }
                    line.clear();
                }
            });
        }
        Self { lines, seen: String::new() }
    }

    /// Returns the next line without its newline; none at the end.
    fn line(&mut self) -> Option<String> {
        let line = match self.lines.recv_timeout(DEADLINE) {
            Ok(line) => line,
            Err(mpsc::RecvTimeoutError::Disconnected) => return None,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                panic!("nothing came for {DEADLINE:?} after {:?}", self.seen)
            }
        };
        self.seen.push_str(&line);
        Some(line.trim_end_matches('\n').to_owned())
    }

    /// Waits for the end, and returns everything that was ever read.
    fn rest(&mut self) -> String {
        let give_up = Instant::now() + DEADLINE;
        while self.line().is_some() {
            assert!(Instant::now() < give_up, "no end of output after {DEADLINE:?}");
        }
        self.seen.clone()
    }
}

/// Returns the options that the environment sets: `PEELOFF_TEST_SERVE` is `threads` or `loops`, and
/// `PEELOFF_TEST_SOCKETS` is `per-peer` or `shared`.
fn serving() -> Vec<String> {
    let options = [("--serve", "PEELOFF_TEST_SERVE"), ("--sockets", "PEELOFF_TEST_SOCKETS")];
    let given = options.into_iter().filter_map(|(option, name)| Some((option, env::var(name).ok()?)));
    given.map(|(option, value)| format!("{option}={value}")).collect()
}

/// Starts a server with the options that the environment sets.
fn start_server(program: &str, arguments: &[&str]) -> Program {
    let serving = serving();
    let serving = serving.iter().map(String::as_str);
    Program::start(program, &serving.chain(arguments.iter().copied()).collect::<Vec<_>>())
}

/// Starts an echo server, and returns its first address.
pub fn start_echo(arguments: &[&str]) -> (Program, String) {
    let mut server = start_server(ECHO, arguments);
    let address = server.address();
    (server, address)
}

/// Starts a chat server, and returns its addresses, one for each `--listen`.
pub fn start_chat(arguments: &[&str]) -> (Program, Vec<String>) {
    let mut server = start_server(CHAT, arguments);
    let listeners = arguments.iter().filter(|argument| **argument == "--listen").count();
    let addresses = (0..listeners).map(|_| server.address()).collect();
    (server, addresses)
}

/// Runs a program with this input until it has ended. A client's input stays open until the last line of it has come
/// back or the client has ended: after the end of its input, a client waits for an answer for a second only, which may
/// be too short on a busy machine.
pub fn run(program: &str, arguments: &[&str], input: &str) -> Ended {
    let is_client = program == NC && !arguments.contains(&"--wait");
    let mut program = Program::start(program, arguments);
    let stdin = program.stdin.as_mut().expect("standard input is open");
    // The program may have failed already.
    let _ = stdin.write_all(input.as_bytes());
    if let (true, Some(last)) = (is_client, input.lines().last()) {
        while program.stdout.line().is_some_and(|line| line != last) {}
    }
    program.finish()
}

impl Ended {
    /// Checks the exit code, and that standard error has one line, which begins with the program's name.
    #[track_caller]
    pub fn failed_with(&self, program: &str, code: i32, expected: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "{}", self.stderr);
        assert!(self.stderr.starts_with(&format!("{program}: ")), "{}", self.stderr);
        assert!(self.stderr.contains(expected), "{expected:?} is not in: {}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}

/// Runs a command. Another process writes the program file: if this process had it open for writing while another
/// test starts a program, the file could not be started (ETXTBSY).
pub fn shell(command: &str) {
    assert!(Command::new("sh").args(["-c", command]).status().unwrap().success(), "{command}");
}

/// A directory for the files of one test; dropping it removes the directory.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new(test: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Writes a file that other users cannot read, and returns its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        self.path(name)
    }

    /// Returns the path of a file that may not exist.
    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

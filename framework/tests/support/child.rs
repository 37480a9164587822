//! Runs a server in a process of its own, for tests of process-wide resources: memory, descriptors, threads,
//! clocks. The process is this test program, which runs one of its ignored tests. It receives commands on its
//! standard input.

use std::collections::HashMap;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use peeloff::{Address, Client, Peer};

use super::support::{DEADLINE, Running, exchange, open_fds, until};

/// Set in the process of the server.
const ROLE: &str = "PEELOFF_TEST_CHILD";
/// The prefix of answers, which distinguishes them from the test harness's lines.
const ANSWER: &str = "@ ";

/// The process, as its parent sees it. Dropping this value kills the process; under a sanitizer, which reports
/// leaks at the end, the process may end by itself.
pub struct Child {
    process: std::process::Child,
    input: Option<ChildStdin>,
    answers: Receiver<String>,
    url: Address,
}

impl Child {
    /// Runs this ignored test in a new process; the test must call [`serve`].
    pub fn start(test: &str) -> Self {
        Self::start_with(test, |_| {})
    }

    /// Does the same with an environment that the caller configures.
    pub fn start_with(test: &str, configure: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", test, "--ignored", "--nocapture"]).env(ROLE, "1");
        configure(&mut command);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, answers) = channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Some(answer) = line.strip_prefix(ANSWER) {
                    let _ = sender.send(answer.to_owned());
                }
            }
        });
        let url = answers.recv_timeout(DEADLINE).expect("the server starts").parse().unwrap();
        Self { process, input, answers, url }
    }

    /// Sends a command and waits for its answer.
    pub fn ask(&mut self, command: &str) -> String {
        writeln!(self.input.as_ref().unwrap(), "{command}").expect("the server lives");
        self.answers.recv_timeout(DEADLINE).expect("the server answers")
    }

    /// Returns all counters of its [`Stats`](peeloff::Stats).
    pub fn stats(&mut self) -> Numbers {
        Numbers::parse(&self.ask("stats"))
    }

    /// Returns the resources of the process: `fds`, `threads_besides_loops`, and `rss` in bytes.
    pub fn usage(&mut self) -> Numbers {
        Numbers::parse(&self.ask("usage"))
    }

    /// Waits until the counters are as wanted.
    pub fn until(&mut self, what: &str, wanted: impl Fn(&Numbers) -> bool) -> Numbers {
        until(what, || Some(self.stats()).filter(|stats| wanted(stats)))
    }

    pub fn address(&self) -> SocketAddr {
        self.url.resolve().unwrap()[0]
    }

    /// Makes a client. The certificate of the server is different in each process.
    pub fn client(&self) -> Client {
        Client::builder().danger_accept_any_certificate().timeout(DEADLINE)
    }

    /// Connects a client that is served.
    pub fn connect(&self) -> Peer {
        let mut peer = self.client().connect(&self.url).unwrap();
        exchange(&mut peer, b"here");
        peer
    }

    pub fn url(&self) -> &Address {
        &self.url
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // The process ends when its input is closed.
        drop(self.input.take());
        let deadline = Instant::now() + DEADLINE;
        while is_sanitized() && matches!(self.process.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::park_timeout(Duration::from_millis(5));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Numbers by their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers(HashMap<String, u64>);

impl Numbers {
    fn parse(line: &str) -> Self {
        let pair = |pair: &str| {
            let (name, number) = pair.split_once('=').expect("a name and a number");
            (name.to_owned(), number.parse().unwrap())
        };
        Self(line.split_whitespace().map(pair).collect())
    }

    /// Returns the number with this name, which must exist.
    pub fn get(&self, name: &str) -> u64 {
        *self.0.get(name).unwrap_or_else(|| panic!("no number {name}"))
    }
}

/// Returns whether a sanitizer watches the tests, according to PEELOFF_TEST_SANITIZER, which `scripts/sanitize`
/// sets.
fn is_sanitized() -> bool {
    env::var_os("PEELOFF_TEST_SANITIZER").is_some()
}

/// Checks that the process's memory has grown by less than this many bytes. A sanitizer keeps freed memory and
/// needs memory for its reports, so under a sanitizer this function only says that it did not check. The
/// sanitizer itself reports leaks.
pub fn assert_memory(before: &Numbers, after: &Numbers, more: u64) {
    let (had, has) = (before.get("rss"), after.get("rss"));
    if is_sanitized() {
        eprintln!("SKIPPED: memory under a sanitizer: {had} bytes became {has}");
    } else {
        assert!(has < had + more, "{had} bytes of memory became {has}");
    }
}

/// Returns whether this process must be a server.
pub fn is_child() -> bool {
    env::var_os(ROLE).is_some()
}

/// Answers the parent's commands until the parent has ended. `other` handles the commands that only one test
/// uses.
pub fn serve(running: &Running, mut other: impl FnMut(&str) -> String) {
    // The test harness has begun a line.
    println!("\n{ANSWER}{}", running.url());
    for command in std::io::stdin().lock().lines().map_while(Result::ok) {
        let answer = match command.as_str() {
            // This command opens no file, because descriptors may have run out.
            "stats" => line(running.stats().entries().map(|entry| (entry.to_string(), entry.value))),
            "usage" => line([
                ("fds".to_owned(), open_fds() as u64),
                ("threads_besides_loops".to_owned(), threads_besides_loops()),
                ("rss".to_owned(), status("VmRSS")),
            ]),
            command => other(command),
        };
        println!("{ANSWER}{answer}");
    }
}

/// Returns the number of this process's threads that do not belong to event loops.
fn threads_besides_loops() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
    names.filter(|name| !name.starts_with("peeloff-l")).count() as u64
}

/// Returns a size from this process's /proc/self/status, in bytes.
pub fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

fn line(numbers: impl IntoIterator<Item = (String, u64)>) -> String {
    let numbers: Vec<_> = numbers.into_iter().map(|(name, number)| format!("{name}={number}")).collect();
    numbers.join(" ")
}

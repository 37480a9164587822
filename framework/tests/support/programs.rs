//! Starts other programs, writes to them, and reads their output line by line.

// Each test program uses a part of this module.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use peeloff::{ClientAuth, Error, Identity, Peer, PeerHandler, PeerIdentity, Server};

use super::support::DEADLINE;

/// The pre-shared key.
pub const KEY: &[u8] = b"\x1a\x2b\x3c\x4d\x5e\x6f\x70\x81\x92\xa3\xb4\xc5\xd6\xe7\xf8\x09";
/// The same key in hexadecimal, for programs.
pub const KEY_HEX: &str = "1a2b3c4d5e6f708192a3b4c5d6e7f809";

/// Sends the peer's identity, and then echoes.
pub fn greet(peer: &mut Peer) -> Result<(), Error> {
    let name = match peer.identity() {
        PeerIdentity::Certificate(certificate) => certificate.common_name.clone().unwrap_or_default(),
        PeerIdentity::Psk(identity) => String::from_utf8_lossy(identity).into_owned(),
        _ => "nobody".to_owned(),
    };
    peer.send(format!("you are {name}\n").as_bytes())?;
    super::support::echo(peer)
}

/// Starts a server with this identity, or with a pre-shared key for alice.
pub fn serve(
    listen: &str,
    identity: Option<Identity>,
    auth: ClientAuth,
    handler: impl PeerHandler,
) -> Server {
    let mut builder = Server::builder().listen(listen).client_auth(auth);
    match identity {
        Some(identity) => builder = builder.identity(identity),
        None => builder = builder.psk(|identity| (identity == b"alice").then(|| KEY.to_vec())),
    }
    builder.start(handler).unwrap()
}

/// Returns the server's port.
pub fn port(server: &Server) -> String {
    server.addresses()[0].port.to_string()
}

/// A running program; dropping it kills the program.
pub struct Program {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    readers: Vec<JoinHandle<()>>,
    /// All output so far.
    pub seen: String,
}

impl Program {
    /// Starts the program with these arguments.
    pub fn start<A: AsRef<str>>(name: &str, arguments: &[A]) -> Self {
        let mut child = Command::new(name)
            .args(arguments.iter().map(AsRef::as_ref))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{name} does not start ({error}); install it (openssl, gnutls-bin, curl)")
            });
        let input = child.stdin.take();
        let (sender, lines) = channel();
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        let readers = outputs.map(|output| {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                    let _ = sender.send(String::from_utf8_lossy(&line).into_owned());
                }
            })
        });
        let name = name.to_owned();
        Self { name, child, input, lines, readers: readers.into(), seen: String::new() }
    }

    /// Writes a line to the program's standard input. Whether the program still reads shows in its output.
    pub fn say(&mut self, line: &str) {
        let _ = writeln!(self.input.as_mut().expect("its input is open"), "{line}");
    }

    /// Reads until a line contains `wanted`, and returns that line. Returns none if the program ends before.
    pub fn line_with(&mut self, wanted: &str) -> Option<String> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let line = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()?;
            self.seen += &line;
            self.seen.push('\n');
            if line.contains(wanted) {
                return Some(line);
            }
        }
    }

    /// Does the same as [`line_with`](Self::line_with), and panics if there is no such line.
    pub fn expect(&mut self, wanted: &str) -> String {
        match self.line_with(wanted) {
            Some(line) => line,
            None => panic!("{} does not say {wanted:?}: {}", self.name, self.seen),
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.readers.drain(..).for_each(|reader| reader.join().unwrap());
    }
}

/// Runs a client, sends hello, and reads until its output contains `wanted` or it has ended. Returns all output.
pub fn run(name: &str, arguments: &[String], wanted: &str) -> (bool, String) {
    let mut program = Program::start(name, arguments);
    program.say("hello over there");
    let found = program.line_with(wanted).is_some();
    (found, std::mem::take(&mut program.seen))
}

/// Writes a file, which stays as long as the test program's directory.
pub fn file(name: &str, content: &[u8]) -> PathBuf {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("{}-{number}-{name}", std::process::id());
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, content).unwrap();
    path
}

/// Returns the words of a command line.
pub fn words(base: &[&str], more: &[&str]) -> Vec<String> {
    base.iter().chain(more).map(|word| (*word).to_owned()).collect()
}

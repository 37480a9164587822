//! Other people's programs: they are started, spoken to, and their output is read line by line.

// Each test program uses its own part of this.
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
/// The same, as programs want it.
pub const KEY_HEX: &str = "1a2b3c4d5e6f708192a3b4c5d6e7f809";

/// Says who the peer is, then echoes.
pub fn greet(peer: &mut Peer) -> Result<(), Error> {
    let name = match peer.identity() {
        PeerIdentity::Certificate(certificate) => certificate.common_name.clone().unwrap_or_default(),
        PeerIdentity::Psk(identity) => String::from_utf8_lossy(identity).into_owned(),
        _ => "nobody".to_owned(),
    };
    peer.send(format!("you are {name}\n").as_bytes())?;
    super::support::echo(peer)
}

/// A server with this identity, or with a pre-shared key for alice.
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

/// Where it listens.
pub fn port(server: &Server) -> String {
    server.addresses()[0].port.to_string()
}

/// A program that runs; it is killed when dropped.
pub struct Program {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    readers: Vec<JoinHandle<()>>,
    /// All of its output so far.
    pub seen: String,
}

impl Program {
    /// Starts it with these arguments.
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

    /// Writes a line to its standard input; whether it still listens shows in its output.
    pub fn say(&mut self, line: &str) {
        let _ = writeln!(self.input.as_mut().expect("its input is open"), "{line}");
    }

    /// Closes its standard input.
    pub fn hush(&mut self) {
        self.input = None;
    }

    /// Reads until a line has `wanted` in it: that line, or `None` where the program ends before.
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

    /// As [`line_with`](Self::line_with), where there has to be one.
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

/// Runs a client, says hello, and reads until it has `wanted` on its output or ends; gives all output.
pub fn run(name: &str, arguments: &[String], wanted: &str) -> (bool, String) {
    let mut program = Program::start(name, arguments);
    program.say("hello over there");
    let found = program.line_with(wanted).is_some();
    (found, std::mem::take(&mut program.seen))
}

/// A file with this content, for as long as the test program's directory lives.
pub fn file(name: &str, content: &[u8]) -> PathBuf {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("{}-{number}-{name}", std::process::id());
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, content).unwrap();
    path
}

/// The words of a command line.
pub fn words(base: &[&str], more: &[&str]) -> Vec<String> {
    base.iter().chain(more).map(|word| (*word).to_owned()).collect()
}

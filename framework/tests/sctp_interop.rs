//! Other programs on SCTP: ncat and socat in clear, and DTLS over SCTP with OpenSSL's own implementation, in both
//! directions. `PEELOFF_OPENSSL_SCTP` is the path of the program of an OpenSSL with SCTP, which
//! `scripts/openssl-sctp` builds. The program needs `net.sctp.auth_enable`, so each of its tests has a network
//! namespace of its own.

#[path = "support/network.rs"]
#[allow(dead_code)]
mod network;
mod support;

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use network::run_in_own_network;
use peeloff::sctp::{SendInfo, Settings};
use peeloff::{Client, ClientAuth, EndKind, Peer, ServerBuilder};
use peeloff_certificates::{Authority, p256};
use support::{DEADLINE, Running, until};

/// A program with its input and output.
struct Program {
    process: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Program {
    /// Starts OpenSSL.
    fn start(arguments: &[&str]) -> Self {
        let openssl =
            env::var_os("PEELOFF_OPENSSL_SCTP").expect("PEELOFF_OPENSSL_SCTP: see scripts/openssl-sctp");
        Self::spawn(Command::new(openssl).args(arguments))
    }

    fn spawn(command: &mut Command) -> Self {
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let input = process.stdin.take();
        Self { process, input, lines, seen: Vec::new() }
    }

    fn say(&mut self, line: &str) {
        // The line is written at once, because these programs send a message for each read.
        self.input.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Waits until a line contains `part`.
    fn hear(&mut self, part: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(part) => return line,
                Ok(line) => self.seen.push(line),
                Err(_) => panic!("no {part:?} in {:#?}", self.seen),
            }
        }
    }

    /// Closes the program's input and waits until it has ended.
    fn finish(mut self) {
        drop(self.input.take());
        until("the program ends", || self.process.try_wait().unwrap());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A certificate and its key in temporary files, which are removed with this value.
struct Files {
    directory: PathBuf,
}

impl Files {
    fn new(name: &str, authority: &Authority) -> Self {
        let directory = env::temp_dir().join(format!("peeloff-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let (certificate, key) = authority.issue_pem(name, &p256());
        fs::write(directory.join("cert.pem"), certificate).unwrap();
        fs::write(directory.join("key.pem"), key).unwrap();
        Self { directory }
    }

    fn path(&self, file: &str) -> String {
        self.directory.join(file).to_str().unwrap().to_owned()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn echo(peer: &mut Peer) -> Result<(), peeloff::Error> {
    let mut buffer = vec![0; 20_000];
    while let Some(len) = peer.recv(&mut buffer)? {
        peer.reply(&buffer[..len])?;
    }
    Ok(())
}

/// The number of visits of each program. An emulated processor takes seconds to start one.
const VISITS: u64 = 3;

/// Returns ncat and socat as clients of this server.
fn clients(running: &Running) -> [Command; 2] {
    let (host, port) = (running.address().ip().to_string(), running.address().port().to_string());
    let mut ncat = Command::new("ncat");
    ncat.args(["--sctp", &host, &port]);
    let mut socat = Command::new("socat");
    socat.args(["-", &format!("SCTP:{host}:{port}")]);
    [ncat, socat]
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn ncat_and_socat_have_their_echo_while_their_input_is_open() {
    let running = Running::with("sctp://127.0.0.1:0", |builder| builder, echo);
    for mut command in clients(&running) {
        for _ in 0..VISITS {
            let mut client = Program::spawn(&mut command);
            client.say("hi");
            client.hear("hi");
            client.finish();
        }
    }
    let stats = running.until("all ended", |stats| stats.ended(EndKind::ClosedByPeer) == 2 * VISITS);
    assert_eq!((stats.messages_received, stats.messages_sent), (2 * VISITS, 2 * VISITS));
}

/// SCTP has no half-closed state: a side that has received SHUTDOWN accepts no new data (RFC 9260 §9.2). Both
/// programs call shutdown(2) when their input ends, so no server can answer their last message.
#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn messages_of_ncat_and_socat_arrive_although_their_input_ends_at_once() {
    let running = Running::with("sctp://127.0.0.1:0", |builder| builder, echo);
    for mut command in clients(&running) {
        for _ in 0..VISITS {
            let mut client = Program::spawn(&mut command);
            client.say("hi");
            client.finish();
        }
    }
    let stats = running.until("all ended", |stats| stats.ended(EndKind::ClosedByPeer) == 2 * VISITS);
    assert_eq!(stats.messages_received, 2 * VISITS);
}

fn enable_auth() {
    fs::write("/proc/sys/net/sctp/auth_enable", "1").expect("net.sctp.auth_enable");
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn openssl_s_client_exchanges_lines_over_dtls() {
    if run_in_own_network("openssl_s_client_exchanges_lines_over_dtls") {
        return;
    }
    enable_auth();
    let authority = Authority::new();
    let files = Files::new("client", &authority);
    let mutual = |builder: ServerBuilder| builder.client_auth(ClientAuth::Optional(authority.bundle()));
    let running = Running::with("sctp+dtls://127.0.0.1:0", mutual, echo);
    for with_certificate in [false, true] {
        let address = running.address().to_string();
        let (cert, key) = (files.path("cert.pem"), files.path("key.pem"));
        let mut arguments = vec!["s_client", "-dtls1_2", "-sctp", "-connect", &address];
        if with_certificate {
            arguments.extend(["-cert", &cert, "-key", &key]);
        }
        let mut openssl = Program::start(&arguments);
        openssl.hear("Cipher is");
        for line in ["one line", "and another", "ü"] {
            openssl.say(line);
            openssl.hear(line);
        }
        openssl.finish();
    }
    let stats = running.until("both ended", |stats| stats.ended(EndKind::ClosedByPeer) == 2);
    assert_eq!((stats.handshakes, stats.messages_received, stats.records_dropped), (2, 6, 0));
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn openssl_s_server_exchanges_lines_over_dtls() {
    if run_in_own_network("openssl_s_server_exchanges_lines_over_dtls") {
        return;
    }
    enable_auth();
    let authority = Authority::new();
    let files = Files::new("server", &authority);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let accept = format!("127.0.0.1:{port}");
    let (cert, key) = (files.path("cert.pem"), files.path("key.pem"));
    let mut openssl =
        Program::start(&["s_server", "-dtls1_2", "-sctp", "-accept", &accept, "-cert", &cert, "-key", &key]);
    openssl.hear("ACCEPT");
    let client = Client::builder().ca(authority.bundle()).timeout(DEADLINE);
    let mut peer = client.connect(format!("sctp+dtls://{accept}")).unwrap();
    assert!(peer.cipher().is_some());
    for stream in [0, 3] {
        let how = SendInfo::default().stream(stream);
        peer.sctp().unwrap().send(format!("from us on {stream}\n").as_bytes(), &how).unwrap();
        openssl.hear(&format!("from us on {stream}"));
        openssl.say("from openssl");
        let mut buffer = [0; 64];
        let len = peer.recv_timeout(&mut buffer, DEADLINE).unwrap().unwrap();
        assert_eq!(&buffer[..len], b"from openssl\n");
    }
    peer.close();
    openssl.hear("DONE");
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn the_old_label_is_not_openssl_s_own() {
    if run_in_own_network("the_old_label_is_not_openssl_s_own") {
        return;
    }
    enable_auth();
    let mut old = Settings::default();
    old.dtls_label_with_nul = true;
    old.dead_after = Some(Duration::from_secs(6));
    let running = Running::with("sctp+dtls://127.0.0.1:0", |builder| builder.sctp(old), echo);
    let address = running.address().to_string();
    let _openssl = Program::start(&["s_client", "-dtls1_2", "-sctp", "-connect", &address]);
    // OpenSSL changes its keys after its Finished, so that message arrives. Peeloff's Finished, with the new key,
    // does not.
    running.until("nothing is acknowledged", |stats| stats.ended(EndKind::TooSlow) == 1);
    assert_eq!(running.stats().messages_received, 0);
}

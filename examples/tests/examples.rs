//! Each example does what its first comment promises, as a process with a client from outside.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use peeloff::{Address, CaBundle, Client, ConnectError, EndReason, Peer};
use peeloff_certificates::Authority;

/// How long anything may take before a test fails; generous for slow machines.
const DEADLINE: Duration = Duration::from_secs(30);

/// How long a client asks that is to get no answer.
const REFUSED: Duration = Duration::from_millis(1500);

#[test]
fn hello_says_goodbye_and_closure_counts() {
    let example = Example::start(env!("CARGO_BIN_EXE_hello"), &[]);
    let mut peer = example.connect();
    assert_eq!(next(&mut peer).unwrap(), "What is your name?\n");
    peer.send(b"Ada\n").unwrap();
    assert_eq!(next(&mut peer).unwrap(), "Hello, Ada!\n");
    assert_eq!(next(&mut peer), None);
    assert_eq!(peer.end_reason(), Some(&EndReason::ClosedByPeer));
    let example = Example::start(env!("CARGO_BIN_EXE_closure"), &[]);
    let mut peer = example.connect();
    peer.send(b"x").unwrap();
    assert_eq!(next(&mut peer).unwrap(), "message 1 of yours, 1 of all\n");
}

#[test]
fn callbacks_see_the_peer_come_and_go() {
    let mut example = Example::start(env!("CARGO_BIN_EXE_callbacks"), &[]);
    let mut peer = example.connect();
    let source = peer.local_address();
    assert_eq!(example.line(), format!("{source} came"));
    peer.send(b"42\n").unwrap();
    assert_eq!(next(&mut peer).unwrap(), "42\n");
    peer.close();
    assert_eq!(example.line(), format!("{source} went with 42: the peer closed"));
}

#[test]
fn broadcast_reaches_all_others_and_not_the_speaker() {
    let example = Example::start(env!("CARGO_BIN_EXE_broadcast"), &[]);
    let mut peers = [(); 3].map(|()| example.connect());
    for peer in &mut peers {
        // Whoever was welcomed is among those who are sent to.
        assert_eq!(next(peer).unwrap(), "welcome\n");
    }
    let [one, two, three] = &mut peers;
    one.send(b"from one").unwrap();
    assert_eq!(next(two).unwrap(), "from one");
    assert_eq!(next(three).unwrap(), "from one");
    two.send(b"from two").unwrap();
    // The next that the first hears is not its own.
    assert_eq!(next(one).unwrap(), "from two");
}

#[test]
fn transports_are_served_by_one_handler() {
    let mut example = Example::start(env!("CARGO_BIN_EXE_transports"), &[]);
    let mut addresses = vec![example.address.clone()];
    for _ in 0..3 {
        addresses.push(example.line().strip_prefix("listening ").unwrap().parse().unwrap());
    }
    for address in addresses {
        let mut peer = example.client().connect(&address).unwrap();
        peer.send(b"one two three\n").unwrap();
        assert_eq!(next(&mut peer).unwrap(), format!("3 words over {}\n", address.scheme));
    }
}

#[test]
fn admission_refuses_by_address_and_by_number() {
    let example = Example::start(env!("CARGO_BIN_EXE_admission"), &["127.0.0.66"]);
    let from = |ip: [u8; 4]| example.client().bind(SocketAddr::from((ip, 0)));
    let refused = |client: Client| {
        let refusal = client.timeout(REFUSED).connect(&example.address);
        match refusal {
            Err(ConnectError::Handshake { why, .. }) => why,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(from([127, 0, 0, 66])), "the peer sent alert 49 (access_denied)");
    // Two of one address are let in, the third is not, and somebody else is.
    let mut welcome = Vec::new();
    for ip in [[127, 0, 0, 1], [127, 0, 0, 1], [127, 0, 0, 2]] {
        let mut peer = from(ip).connect(&example.address).unwrap();
        assert_eq!(next(&mut peer).unwrap(), "come in\n");
        welcome.push(peer);
    }
    assert_eq!(refused(from([127, 0, 0, 1])), "the peer sent alert 80 (internal_error)");
}

#[test]
fn mutual_tls_knows_its_peer_by_name() {
    let files = Directory::new("mutual-tls");
    let authority = Authority::new();
    let [server, alice] = ["localhost", "alice"].map(|name| authority.certificate(name));
    let stranger = Authority::named("another authority").certificate("stranger");
    let arguments = [
        files.file("server.pem", server.pem()),
        files.file("server.key", server.key_pem()),
        files.file("ca.pem", authority.pem()),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let example = Example::start(env!("CARGO_BIN_EXE_mutual_tls"), &arguments);
    let trusting = || {
        let trust = CaBundle::from_pem(&authority.pem()).unwrap();
        Client::builder().ca(trust).server_name("localhost").timeout(DEADLINE)
    };

    let mut peer = trusting().identity(alice.identity()).connect(&example.address).unwrap();
    assert_eq!(next(&mut peer).unwrap(), "welcome, alice\n");
    for client in [trusting(), trusting().identity(stranger.identity())] {
        let refusal = client.connect(&example.address);
        assert!(matches!(refusal, Err(ConnectError::Handshake { .. })), "{refusal:?}");
    }
}

#[test]
fn graceful_shutdown_lets_peers_finish() {
    for signal in ["INT", "TERM"] {
        let mut example = Example::start(env!("CARGO_BIN_EXE_graceful_shutdown"), &[]);
        let mut peer = example.connect();
        peer.send(b"x").unwrap();
        assert_eq!(next(&mut peer).unwrap(), "x");
        example.signal(signal);
        assert_eq!(next(&mut peer).unwrap(), "the server goes down, goodbye\n");
        assert_eq!(next(&mut peer), None);
        assert_eq!(example.line(), "1 of 1 peers finished in time");
        assert_eq!(example.wait(), Some(0));
    }
}

const SCTP: [&str; 4] = [
    env!("CARGO_BIN_EXE_sctp_echo"),
    env!("CARGO_BIN_EXE_multihoming"),
    env!("CARGO_BIN_EXE_notifications"),
    env!("CARGO_BIN_EXE_ppid_router"),
];

#[test]
fn examples_for_sctp_say_what_they_miss() {
    if peeloff::sctp::is_supported() {
        return;
    }
    for program in SCTP {
        let output = Command::new(program).output().unwrap();
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), complaint.lines().count()), (Some(1), 1), "{program}: {complaint}");
        assert!(complaint.starts_with("this kernel has no SCTP"), "{program}: {complaint}");
    }
}

/// What an example that ends by itself prints, without the line that names its listener.
fn sctp_lines(program: &str) -> Vec<String> {
    let output = Command::new(program).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut lines: Vec<String> =
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    assert!(lines.remove(0).starts_with("listening sctp://127.0.0.1"), "{lines:?}");
    lines
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn sctp_echo_answers_on_the_same_stream() {
    let expected = [(0, 0), (1, 46), (63, 3)];
    let expected =
        expected.map(|(stream, ppid)| format!("hello came back on stream {stream} with identifier {ppid}"));
    assert_eq!(sctp_lines(SCTP[0]), expected);
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn multihoming_shows_the_paths() {
    let lines = sctp_lines(SCTP[1]);
    for expected in ["127.0.0.2 is MadePrimary", "hello came back", "primary 127.0.0.2"] {
        assert!(lines.iter().any(|line| line == expected), "{expected}: {lines:?}");
    }
    for address in ["127.0.0.1", "127.0.0.2"] {
        let path = format!("path {address} is Active");
        assert!(lines.contains(&path), "{path}: {lines:?}");
    }
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn notifications_tell_of_acknowledgements_and_the_end() {
    let lines = sctp_lines(SCTP[2]);
    for expected in ["everything is acknowledged", "hello on stream 0", "the peer shuts down"] {
        assert!(lines.iter().any(|line| line == expected), "{expected}: {lines:?}");
    }
    assert_eq!(lines.last().unwrap(), "over: the peer closed");
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn ppid_router_asks_the_right_protocol() {
    let expected = ["46: Diameter took a request", "3: M3UA took a transfer", "60: nobody here speaks that"];
    assert_eq!(sctp_lines(SCTP[3]), expected);
}

/// A running example; killed when dropped.
struct Example {
    child: Child,
    /// Its standard output, read by a thread.
    lines: Receiver<String>,
    address: Address,
}

impl Example {
    /// Starts it on a port that the kernel chooses, with more arguments after the address.
    fn start(program: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.arg("dtls://127.0.0.1:0").args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut example = Self { child, lines, address: "dtls://127.0.0.1:0".parse().unwrap() };
        let line = example.line();
        example.address = line.strip_prefix("listening ").expect(&line).parse().unwrap();
        example
    }

    /// The next line of its standard output.
    fn line(&mut self) -> String {
        self.lines.recv_timeout(DEADLINE).expect("a line on standard output")
    }

    /// A client that takes the example's self-signed certificate for good.
    fn client(&self) -> Client {
        Client::builder().danger_accept_any_certificate().timeout(DEADLINE)
    }

    fn connect(&self) -> Peer {
        self.client().connect(&self.address).unwrap()
    }

    /// Sends it a signal by name, such as `TERM`.
    fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success(), "{command}");
    }

    /// Waits for its end and gives its exit code.
    fn wait(&mut self) -> Option<i32> {
        // Its standard output ends with it, so the wait that has no deadline is short.
        let give_up = Instant::now() + DEADLINE;
        while self.lines.recv_timeout(give_up.saturating_duration_since(Instant::now())).is_ok() {}
        assert!(Instant::now() < give_up, "it does not end");
        self.child.wait().unwrap().code()
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        // Fails if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The next message as text; none after the goodbye of the server.
fn next(peer: &mut Peer) -> Option<String> {
    let mut buffer = [0; 2048];
    let len = peer.recv_timeout(&mut buffer, DEADLINE).unwrap()?;
    Some(String::from_utf8(buffer[..len].to_vec()).unwrap())
}

/// A directory for the files of one test; removed when dropped.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Writes a file and gives its path.
    fn file(&self, name: &str, content: Vec<u8>) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

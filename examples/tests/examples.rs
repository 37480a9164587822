//! Each example does what its first comment promises, as a process with a client from outside.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use peeloff::{
    Address, CaBundle, Client, ConnectError, ConnectionIds, EndReason, Framing, Peer, TcpSettings,
};
use peeloff_certificates::Authority;

/// How long anything may take before a test fails; generous for slow machines.
const DEADLINE: Duration = Duration::from_secs(30);

/// How long a client asks that is to get no answer.
const REFUSED: Duration = Duration::from_millis(1500);

#[test]
fn hello_greets_and_says_goodbye() {
    let example = Example::start(env!("CARGO_BIN_EXE_hello"), &[]);
    let mut peer = example.connect();
    assert_eq!(next(&mut peer).unwrap(), "What is your name?\n");
    peer.send(b"Ada\n").unwrap();
    assert_eq!(next(&mut peer).unwrap(), "Hello, Ada!\n");
    assert_eq!(next(&mut peer), None);
    assert_eq!(peer.end_reason(), Some(&EndReason::ClosedByPeer));
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
fn coap_answers_a_device_with_a_key_also_from_another_port() {
    let example = Example::start(env!("CARGO_BIN_EXE_coap"), &[]);
    let device = |key: &[u8], timeout| {
        let none_of_its_own = ConnectionIds::new(0).unwrap();
        let client = Client::builder().psk(b"sensor-17", key).connection_ids(none_of_its_own);
        client.timeout(timeout).connect(&example.address)
    };
    assert!(matches!(device(b"another key", REFUSED), Err(ConnectError::Handshake { .. })));
    let mut device = device(b"sensor-17-secret", DEADLINE).unwrap();
    device.send(&[0x40, 3, 0, 1, 0xff, b'5']).unwrap();
    assert_eq!(next_bytes(&mut device).unwrap(), [0x60, 0x44, 0, 1]);
    // Its NAT has forgotten it.
    device.change_port().unwrap();
    device.send(&[0x40, 1, 0, 2]).unwrap();
    assert_eq!(next_bytes(&mut device).unwrap(), [0x60, 0x45, 0, 2, 0xff, b'5']);
}

#[test]
fn telemetry_goes_from_those_who_publish_to_those_who_subscribed() {
    let mut example = Example::start(env!("CARGO_BIN_EXE_telemetry"), &[]);
    let [mut publisher, mut one, mut two] = [(); 3].map(|()| example.connect());
    for subscriber in [&mut one, &mut two] {
        subscriber.send(b"subscribe").unwrap();
        assert_eq!(next(subscriber).unwrap(), "subscribed\n");
    }
    publisher.send(b"21.5").unwrap();
    for subscriber in [&mut one, &mut two] {
        assert_eq!(next(subscriber).unwrap(), "21.5");
    }
    let source = publisher.local_address();
    publisher.close();
    assert_eq!(example.line(), format!("{source} published 1 readings: the peer closed"));
}

#[test]
fn sqlite_keeps_what_one_peer_stores_for_another() {
    let files = Directory::new("sqlite");
    let database = files.file("store.db", Vec::new());
    let example = Example::start_on("tls://127.0.0.1:0", env!("CARGO_BIN_EXE_sqlite"), &[&database]);
    let connect = || {
        let lines = TcpSettings::default().framing(Framing::Lines);
        example.client().tcp(lines).connect(&example.address).unwrap()
    };
    let [mut one, mut two] = [connect(), connect()];
    one.send(b"put place the cellar").unwrap();
    assert_eq!(next(&mut one).unwrap(), "stored");
    two.send(b"get place").unwrap();
    assert_eq!(next(&mut two).unwrap(), "the cellar");
}

#[test]
fn systemd_passes_a_socket() {
    let program = env!("CARGO_BIN_EXE_systemd");
    let output = Command::new(program).env_remove("LISTEN_FDS").output().unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && complaint.contains("no socket was passed"), "{complaint}");

    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    // As systemd does it: the socket is descriptor 3.
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\"", program]);
    let mut example = Example::spawn(shell, Stdio::from(OwnedFd::from(socket)));
    assert_eq!(example.address.to_string(), format!("dtls://{address}"));
    let mut peer = example.connect();
    peer.send(b"hello").unwrap();
    assert_eq!(next(&mut peer).unwrap(), "hello");
    peer.close();
    example.signal("TERM");
    assert_eq!(example.wait(), Some(0));
}

#[test]
fn load_reports_what_sensors_saw() {
    let arguments = ["--sensors", "20", "--rate", "100", "--json", "-", "--quiet"];
    let output = Command::new(env!("CARGO_BIN_EXE_load")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let report = String::from_utf8(output.stdout).unwrap();
    let report: peeloff_stress::report::Report = serde_json::from_str(&report).expect(&report);
    for (name, value) in [("sensors that reported", 20.0), ("messages echoed", 60.0)] {
        assert_eq!(report.find(name).expect(name).value, value, "{name}");
    }
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
fn mutual_tls_lets_in_who_is_on_the_list() {
    let files = Directory::new("mutual-tls");
    let authority = Authority::new();
    let [server, alice, bob] = ["localhost", "alice", "bob"].map(|name| authority.certificate(name));
    let unknown = Authority::named("another authority").certificate("unknown");
    let arguments = [
        files.file("server.pem", server.pem()),
        files.file("server.key", server.key_pem()),
        files.file("ca.pem", authority.pem()),
        files.file("allowed", b"alice\n".to_vec()),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let example = Example::start(env!("CARGO_BIN_EXE_mutual_tls"), &arguments);
    let trusting = || {
        let trust = CaBundle::from_pem(&authority.pem()).unwrap();
        Client::builder().ca(trust).server_name("localhost").timeout(DEADLINE)
    };

    let mut peer = trusting().identity(alice.identity()).connect(&example.address).unwrap();
    assert_eq!(next(&mut peer).unwrap(), "welcome, alice\n");
    // The authority vouches for bob; the list does not have the name, and then it has.
    let mut peer = trusting().identity(bob.identity()).connect(&example.address).unwrap();
    assert!(matches!(peer.recv_timeout(&mut [0; 64], DEADLINE), Err(peeloff::Error::Ended(_))));
    files.file("allowed", b"alice\nbob\n".to_vec());
    let mut peer = trusting().identity(bob.identity()).connect(&example.address).unwrap();
    assert_eq!(next(&mut peer).unwrap(), "welcome, bob\n");
    for client in [trusting(), trusting().identity(unknown.identity())] {
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

const SCTP: [&str; 3] =
    [env!("CARGO_BIN_EXE_diameter"), env!("CARGO_BIN_EXE_multihoming"), env!("CARGO_BIN_EXE_notifications")];

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
fn diameter_answers_on_two_streams_and_aborts_what_it_does_not_know() {
    let lines = sctp_lines(SCTP[0]);
    let answered =
        |command, stream| format!("command {command} answered on stream {stream} with identifier 46");
    assert_eq!(lines[..3], [answered(257, 0), answered(272, 1), answered(280, 0)]);
    let reason = "no Diameter message, or not with the identifier 46";
    assert!(lines[3].starts_with("then: ") && lines[3].contains(reason), "{lines:?}");
    assert_eq!(lines.len(), 4, "{lines:?}");
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

/// A running example; killed when dropped.
struct Example {
    child: Child,
    /// Its standard output, read by a thread.
    lines: Receiver<String>,
    address: Address,
}

impl Example {
    /// Starts it with DTLS on a port that the kernel chooses, with more arguments after the address.
    fn start(program: &str, arguments: &[&str]) -> Self {
        Self::start_on("dtls://127.0.0.1:0", program, arguments)
    }

    fn start_on(address: &str, program: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.arg(address).args(arguments);
        Self::spawn(command, Stdio::null())
    }

    fn spawn(mut command: Command, stdin: Stdio) -> Self {
        let mut child = command.stdin(stdin).stdout(Stdio::piped()).spawn().unwrap();
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
    next_bytes(peer).map(|message| String::from_utf8(message).unwrap())
}

fn next_bytes(peer: &mut Peer) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    peer.recv_into_timeout(&mut message, DEADLINE).unwrap()?;
    Some(message)
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

//! SIGUSR2 hands a server over to a new process, and its peers notice nothing.

#[path = "support/member.rs"]
mod member;
#[path = "support/successor.rs"]
mod successor;
mod support;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use member::{Member, client};
use peeloff::{Client, Peer};
use successor::Successor;
use support::{CHAT, DEADLINE, Directory, ECHO, Program, shell};

/// Returns the answer of a metrics endpoint.
fn ask(socket: &str, path: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn port_of(address: &str) -> u16 {
    address.rsplit(':').next().unwrap().parse().unwrap()
}

fn exchange(peer: &mut Peer, message: &[u8]) {
    let mut answer = vec![0; message.len() + 1];
    peer.send(message).unwrap();
    assert_eq!(peer.recv_timeout(&mut answer, DEADLINE).unwrap(), Some(message.len()));
    assert_eq!(&answer[..message.len()], message);
}

/// Copies the echo server to this path.
fn install(program: &str) {
    shell(&format!("cp {ECHO} {program}"));
}

/// Starts an echo server with event loops and listeners for DTLS, UDP and TCP, and returns its addresses.
fn start_echo(program: &str, options: &[&str]) -> (Program, Vec<String>) {
    let listeners = ["dtls", "udp", "tcp"].map(|scheme| format!("--listen={scheme}://127.0.0.1:0"));
    let mut arguments: Vec<&str> = listeners.iter().map(String::as_str).collect();
    arguments.extend(options);
    let mut server = Program::start(program, &arguments);
    let addresses = listeners.iter().map(|_| server.address()).collect();
    (server, addresses)
}

#[test]
fn peers_and_connections_go_on_in_the_new_process_and_the_old_one_ends() {
    let files = Directory::new("admin");
    let admin = files.path("admin.sock");
    let watched = format!("--admin=unix:{admin}");
    let (mut server, addresses) = start_echo(ECHO, &["--serve=loops", "--drain-timeout=1s", &watched]);
    assert!(ask(&admin, "/readyz").contains(" 200 OK"));
    let dtls = client();
    let mut peer = dtls.connect(&*addresses[0]).unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.connect(("127.0.0.1", port_of(&addresses[1]))).unwrap();
    udp.set_read_timeout(Some(DEADLINE)).unwrap();
    let ping = |message: &[u8]| {
        udp.send(message).unwrap();
        let mut answer = [0; 64];
        let len = udp.recv(&mut answer).unwrap();
        assert_eq!(&answer[..len], message);
    };
    exchange(&mut peer, b"before");
    ping(b"before");
    let (stop, connections) = (AtomicBool::new(false), AtomicU64::new(0));
    let successor = thread::scope(|scope| {
        // Meanwhile new connections arrive. None is refused or left unserved.
        let connect = scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                let mut tcp = TcpStream::connect(("127.0.0.1", port_of(&addresses[2]))).unwrap();
                tcp.set_read_timeout(Some(DEADLINE)).unwrap();
                tcp.write_all(b"tcp").unwrap();
                let mut answer = [0; 3];
                tcp.read_exact(&mut answer).unwrap();
                connections.fetch_add(1, Ordering::SeqCst);
            }
        });
        let successor = Successor::of(&mut server);
        // The old process drains and ends, while the new one uses its standard error.
        server.stderr_line(" ended");
        exchange(&mut peer, b"after");
        ping(b"after");
        let (some, give_up) = (connections.load(Ordering::SeqCst) + 10, Instant::now() + DEADLINE);
        while connections.load(Ordering::SeqCst) < some && !connect.is_finished() {
            assert!(Instant::now() < give_up);
            thread::yield_now();
        }
        stop.store(true, Ordering::SeqCst);
        connect.join().unwrap();
        successor
    });
    exchange(&mut dtls.connect(&*addresses[0]).unwrap(), b"a newcomer");
    // The metrics are those of the new process, at the same address.
    assert!(ask(&admin, "/readyz").contains(" 200 OK"));
    let metrics = ask(&admin, "/metrics");
    let taken = metrics
        .lines()
        .filter(|line| line.contains("_taken_over") && !line.contains("loops") && line.ends_with(" 1"));
    assert_eq!(taken.count(), 2, "{metrics}");
    // Hand over again, from the new process.
    successor.signal("USR2");
    let next = Successor::read(&mut server);
    assert_ne!(next.0, successor.0);
    exchange(&mut peer, b"twice");
    ping(b"twice");
    next.signal("TERM");
    assert_eq!(server.wait().code, Some(0));
}

/// The only child of a process.
fn child_of(pid: u32) -> u32 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let children = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("children")).unwrap());
    children.collect::<String>().trim().parse().unwrap()
}

/// Fills the queue of a socket, so that the next who sends to it has to wait.
fn fill(path: &str) {
    let sender = UnixDatagram::unbound().unwrap();
    sender.set_nonblocking(true).unwrap();
    while sender.send_to(b"FILL=1", path).is_ok() {}
}

#[test]
fn a_signal_that_ends_the_old_process_before_it_can_say_so_ends_the_new_one_too() {
    let files = Directory::new("passed-on");
    let path = files.path("notify");
    let notify = UnixDatagram::bind(&path).unwrap();
    notify.set_read_timeout(Some(DEADLINE)).unwrap();
    let listen = ["--serve=loops", "--listen=dtls://127.0.0.1:0", "--drain-timeout=1s"];
    let mut server = Program::start_in([("NOTIFY_SOCKET", &path)], ECHO, &listen);
    let address = server.address();
    // It is ready.
    assert!(notify.recv(&mut [0; 64]).is_ok());
    fill(&path);
    server.signal("USR2");
    // The new process serves, and the old one waits for room to tell systemd so.
    assert_eq!(server.address(), address);
    let _successor = Successor(child_of(server.id()));
    server.signal("TERM");
    server.stderr_line("is to end as well");
    // Now both can tell what they have to.
    let last = b"LAST=1";
    let hear = thread::spawn(move || {
        let mut message = [0; 64];
        while notify.recv(&mut message).is_ok_and(|len| &message[..len] != last) {}
    });
    let ended = server.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(ended.stderr.matches(" ended peers=").count(), 2, "{}", ended.stderr);
    UnixDatagram::unbound().unwrap().send_to(last, &path).unwrap();
    hear.join().unwrap();
}

/// Hands a server over that has a handshake which stays in the old process, and which the client does not finish.
/// Returns the old process, the new one, the server's address and the connection.
fn drains(files: &Directory) -> (Program, Successor, String, TcpStream) {
    let admin = files.path("admin.sock");
    let watched = format!("--admin=unix:{admin}");
    let listen = ["--listen=tls://127.0.0.1:0", "--drain-timeout=1m", "--handshake-timeout=1m", &watched];
    let mut server = Program::start(ECHO, &listen);
    let address = server.address();
    let stalled = TcpStream::connect(("127.0.0.1", port_of(&address))).unwrap();
    let give_up = Instant::now() + DEADLINE;
    let begun = |line: &str| line.starts_with("peeloff_half_open{") && line.ends_with(" 1");
    while !ask(&admin, "/metrics").lines().any(begun) {
        assert!(Instant::now() < give_up);
        thread::yield_now();
    }
    let successor = Successor::of(&mut server);
    (server, successor, address, stalled)
}

#[test]
fn a_signal_to_the_old_process_while_it_drains_ends_that_one_at_once_and_the_new_one_goes_on() {
    for signal in ["TERM", "INT"] {
        let files = Directory::new("hurries");
        let (mut server, successor, address, mut stalled) = drains(&files);
        server.signal(signal);
        server.stderr_line("this process ends at once, and its peers with it; the new process goes on");
        let line = server.stderr_line(" ended peers=");
        assert!(line.contains("peers=1 finished=0 stopped=1 abandoned=0"), "{line}");
        stalled.set_read_timeout(Some(DEADLINE)).unwrap();
        assert!(!matches!(stalled.read(&mut [0; 64]), Err(error) if error.kind() == ErrorKind::WouldBlock));
        exchange(&mut client().connect(&*address).unwrap(), b"a newcomer");
        successor.signal("TERM");
        assert_eq!(server.wait().code, Some(0));
    }
}

#[test]
fn the_old_process_says_that_the_new_one_has_ended_while_it_drains() {
    let files = Directory::new("dies");
    let (mut server, successor, _, _stalled) = drains(&files);
    successor.signal("KILL");
    let line = server.stderr_line("has ended, and its peers and listeners with it");
    assert!(line.contains("signal: 9"), "{line}");
}

#[test]
fn the_new_process_is_of_the_file_that_has_the_name_now() {
    let files = Directory::new("upgrade");
    let program = files.path("echo");
    install(&program);
    let (mut server, addresses) = start_echo(&program, &["--serve=loops"]);
    let mut peer = client().connect(&*addresses[0]).unwrap();
    exchange(&mut peer, b"before");
    // Replace the file as a package manager does.
    let newer = files.path("newer");
    install(&newer);
    fs::rename(&newer, &program).unwrap();
    let successor = Successor::of(&mut server);
    let runs = fs::read_link(format!("/proc/{}/exe", successor.0)).unwrap();
    assert_eq!(runs.to_str().unwrap(), program);
    exchange(&mut peer, b"after");
}

#[test]
fn a_new_process_that_cannot_start_leaves_the_server_as_it_is() {
    let files = Directory::new("refused");
    let config = files.file("echo.toml", "[serving]\nserve = \"loops\"\n");
    let program = files.path("echo");
    install(&program);
    let (mut server, addresses) = start_echo(&program, &["--config", &config]);
    let mut peer = client().connect(&*addresses[0]).unwrap();
    files.file("echo.toml", "no-such-option = 1\n");
    server.signal("USR2");
    let line = server.stderr_line("not handed over");
    assert!(line.contains("exit status: 2"), "{line}");
    exchange(&mut peer, b"still here");
    // This file is not even a server.
    let newer = files.path("newer");
    shell(&format!("printf '#!/bin/sh\\necho garbage >&0\\nexec sleep 60\\n' > {newer} && chmod +x {newer}"));
    fs::rename(&newer, &program).unwrap();
    server.signal("USR2");
    let line = server.stderr_line("not handed over");
    assert!(line.contains("not part of a hand-over") && line.contains("signal: 9"), "{line}");
    exchange(&mut peer, b"still here");
    fs::remove_file(&program).unwrap();
    server.signal("USR2");
    let line = server.stderr_line("not handed over");
    assert!(line.contains("cannot start the new process"), "{line}");
    exchange(&mut peer, b"still here");
    server.signal("TERM");
    assert_eq!(server.wait().code, Some(0));
}

#[test]
fn the_log_says_why_a_new_process_could_not_start() {
    let files = Directory::new("reason");
    let config = |more: &str| {
        let listen = format!("listen = [\"udp://127.0.0.1:0\"{more}]\n");
        files.file("echo.toml", &listen)
    };
    let mut server = Program::start(ECHO, &["--config", &config("")]);
    server.address();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    config(&format!(", \"tcp://{}\"", other.local_addr().unwrap()));
    server.signal("USR2");
    server.stderr_line("is in use by another socket");
    let line = server.stderr_line("not handed over");
    assert!(line.contains("exit status: 2"), "{line}");
    server.signal("TERM");
    assert_eq!(server.wait().code, Some(0));
}

#[test]
fn a_new_process_whose_old_process_has_ended_does_not_serve() {
    let (ended, input) = peeloff::hand_over_sockets().unwrap();
    drop(ended);
    let mut command = Command::new(ECHO);
    command.args(["--listen", "udp://127.0.0.1:0"]).env("PEELOFF_TAKE_OVER", "1");
    let ended = Program::spawn(command, [Stdio::from(input), Stdio::piped(), Stdio::piped()]).wait();
    assert_eq!((ended.code, &*ended.stdout), (Some(2), ""), "{}", ended.stderr);
    assert!(ended.stderr.contains("the other process has ended"), "{}", ended.stderr);
}

#[test]
fn a_server_that_inherits_only_the_environment_of_a_hand_over_starts_as_usual() {
    let mut server =
        Program::start_in([("PEELOFF_TAKE_OVER", "1")], ECHO, &["--listen", "udp://127.0.0.1:0"]);
    server.address();
    server.signal("TERM");
    assert_eq!(server.wait().code, Some(0));
}

#[test]
fn process_1_of_a_container_is_not_handed_over_and_says_so() {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--pid", "--fork", "--kill-child", ECHO]);
    command.args(["--serve=loops", "--listen=dtls://127.0.0.1:0"]);
    let mut container = Program::spawn(command, [(); 3].map(|()| Stdio::piped()));
    let mut peer = client().connect(&*container.address()).unwrap();
    exchange(&mut peer, b"before");
    let children = format!("/proc/{0}/task/{0}/children", container.id());
    let server = Successor(fs::read_to_string(children).unwrap().trim().parse().unwrap());
    server.signal("USR2");
    let line = container.stderr_line("not handed over, everything stays as it was");
    assert!(line.contains("process 1 of its container"), "{line}");
    exchange(&mut peer, b"still here");
    server.signal("TERM");
    assert_eq!(container.wait().code, Some(0));
}

#[test]
fn a_new_process_that_takes_the_endpoint_and_cannot_start_leaves_it_to_the_server() {
    let files = Directory::new("refused-admin");
    let admin = files.path("admin.sock");
    let monitoring = format!("[monitoring]\nadmin = \"unix:{admin}\"\n");
    let config = files.file("echo.toml", &monitoring);
    let (mut server, _) = start_echo(ECHO, &["--serve=loops", "--config", &config]);
    assert!(ask(&admin, "/healthz").contains(" 200 OK"));
    files.file("echo.toml", format!("{monitoring}[logging]\naccess-log = \"/nowhere/access.log\"\n"));
    server.signal("USR2");
    server.stderr_line("not handed over");
    assert!(ask(&admin, "/healthz").contains(" 200 OK"));
    files.file("echo.toml", &monitoring);
    let successor = Successor::of(&mut server);
    server.stderr_line(" ended");
    assert!(ask(&admin, "/healthz").contains(" 200 OK"));
    successor.signal("TERM");
    assert_eq!(server.wait().code, Some(0));
    assert!(!fs::exists(&admin).unwrap());
}

#[test]
fn the_socket_of_an_endpoint_that_the_new_process_does_not_have_is_removed() {
    let files = Directory::new("dropped-admin");
    let (first, second) = (files.path("first.sock"), files.path("second.sock"));
    let monitoring = |path: &str| format!("[monitoring]\nadmin = \"unix:{path}\"\n");
    let config = files.file("echo.toml", monitoring(&first));
    let (mut server, _) = start_echo(ECHO, &["--serve=loops", "--config", &config]);
    files.file("echo.toml", monitoring(&second));
    let successor = Successor::of(&mut server);
    // The new process says where it listens once the start is complete.
    let listens = |server: &mut Program| (0..3).for_each(|_| drop(server.address()));
    listens(&mut server);
    assert!(!fs::exists(&first).unwrap());
    assert!(ask(&second, "/healthz").contains(" 200 OK"));
    files.file("echo.toml", "");
    successor.signal("USR2");
    let last = Successor::read(&mut server);
    listens(&mut server);
    assert!(!fs::exists(&second).unwrap());
    last.signal("TERM");
    assert_eq!(server.wait().code, Some(0));
}

#[test]
fn a_server_whose_configuration_was_its_input_cannot_be_handed_over_and_says_so() {
    let mut server = Program::start(ECHO, &["--config", "-"]);
    server.write("listen = [\"udp://127.0.0.1:0\"]\n");
    server.close_stdin();
    server.address();
    server.signal("USR2");
    server.stderr_line("cannot read the configuration from the standard input again");
    server.signal("TERM");
    assert_eq!(server.wait().code, Some(0));
}

#[test]
fn members_of_a_chat_keep_their_names_and_rooms() {
    let listen = ["--listen=dtls://127.0.0.1:0", "--listen=tls://127.0.0.1:0", "--drain-timeout=1s"];
    let mut server = Program::start(CHAT, &listen);
    let addresses: Vec<String> = (0..2).map(|_| server.address()).collect();
    let mut alice = Member::come_as("alice", &addresses[0]);
    let mut bob = Member::come_as("bob", &addresses[0]);
    let mut carol = Member::come_as("carol", &addresses[1]);
    bob.write("/join den");
    bob.expect("* you joined den");
    let successor = Successor::of(&mut server);
    // TLS peers stay with the old process, which tells them that it ends. The members that moved have not left, so
    // nobody is told that they did.
    carol.expect("* the server shuts down");
    server.stderr_line(" ended");
    bob.write("hello, den");
    bob.expect("* nobody else is in den to hear that");
    bob.write("/join lobby");
    assert_eq!(bob.expect("* lobby is"), "* lobby is your current room; here already: alice");
    bob.write("hello, lobby");
    alice.expect("[lobby] bob: hello, lobby");
    alice.write("/nick bob");
    alice.expect("! somebody is called bob already");
    let mut dora = Member::come(&client(), &addresses[1]);
    dora.write("a newcomer");
    alice.expect("[lobby] guest1: a newcomer");
    successor.signal("TERM");
    assert_eq!(server.wait().code, Some(0));
}

#[test]
fn systemd_is_told_of_the_new_process_which_has_its_sockets() {
    let files = Directory::new("notify");
    let path = files.path("notify");
    let notify = UnixDatagram::bind(&path).unwrap();
    notify.set_read_timeout(Some(DEADLINE)).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = format!("dtls://{}", socket.local_addr().unwrap());
    // The environment is that of a socket unit, and of a service with a watchdog.
    let script =
        "exec 3<&0 0</dev/null; export LISTEN_PID=$$ WATCHDOG_PID=$$; LISTEN_FDS=1 exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, ECHO, "--serve=loops", "--drain-timeout=1s"]);
    command.envs([("LISTEN_FDNAMES", "dtls"), ("NOTIFY_SOCKET", &path), ("WATCHDOG_USEC", "200000")]);
    let mut server =
        Program::spawn(command, [Stdio::from(OwnedFd::from(socket)), Stdio::piped(), Stdio::piped()]);
    assert_eq!(server.address(), address);
    let mut peer = client().connect(&*address).unwrap();
    exchange(&mut peer, b"before");
    let successor = Successor::of(&mut server);
    assert_eq!(server.address(), address);
    server.stderr_line(" ended");
    exchange(&mut peer, b"after");
    let hear = |what: &str| {
        let mut message = [0; 256];
        let give_up = Instant::now() + DEADLINE;
        loop {
            let len = notify.recv(&mut message).unwrap();
            if message[..len].split(|byte| *byte == b'\n').any(|line| line == what.as_bytes()) {
                return;
            }
            assert!(Instant::now() < give_up, "no {what}");
        }
    };
    hear(&format!("MAINPID={}", successor.0));
    // Everything sent before has been read by now, and the old process has ended.
    notify.set_nonblocking(true).unwrap();
    while notify.recv(&mut [0; 256]).is_ok() {}
    notify.set_nonblocking(false).unwrap();
    hear("WATCHDOG=1");
    successor.signal("HUP");
    hear("RELOADING=1");
    hear("READY=1");
    successor.signal("TERM");
    hear("STOPPING=1");
    assert_eq!(server.wait().code, Some(0));
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn a_listener_of_sctp_goes_to_the_new_process_and_associations_stay() {
    for serve in ["--serve=loops", "--serve=threads"] {
        let mut server = Program::start(ECHO, &[serve, "--listen=sctp://127.0.0.1:0"]);
        let address = server.address();
        let mut stays = Client::builder().timeout(DEADLINE).connect(&*address).unwrap();
        exchange(&mut stays, b"before");
        let successor = Successor::of(&mut server);
        // The echo is done with a peer that is quiet.
        assert_eq!(stays.recv_timeout(&mut [0; 8], DEADLINE).unwrap(), None, "{serve}");
        server.stderr_line(" ended peers=1 finished=1");
        let mut comes = Client::builder().timeout(DEADLINE).connect(&*address).unwrap();
        exchange(&mut comes, b"a newcomer");
        successor.signal("TERM");
        assert_eq!(server.wait().code, Some(0), "{serve}");
    }
}

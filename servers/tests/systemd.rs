//! Servers under systemd: the sockets that it passes, the notifications that it gets, and the units.

mod support;

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use support::{CHAT, DEADLINE, Directory, ECHO, NC, Program, run, start_echo};

/// Starts a server as systemd does, with a socket of this name as descriptor 3.
fn start_on(socket: OwnedFd, name: &str, program: &str, arguments: &[&str]) -> Program {
    let script = "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, program]).args(arguments).env("LISTEN_FDNAMES", name);
    Program::spawn(command, [Stdio::from(socket), Stdio::piped(), Stdio::piped()])
}

#[test]
fn a_server_listens_on_the_sockets_that_systemd_has_bound() {
    let udp = || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        (socket.local_addr().unwrap(), OwnedFd::from(socket))
    };
    let tcp = || {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        (socket.local_addr().unwrap(), OwnedFd::from(socket))
    };
    type Bind<'a> = &'a dyn Fn() -> (SocketAddr, OwnedFd);
    let protocols: [(&str, Bind); 4] = [("udp", &udp), ("dtls", &udp), ("tcp", &tcp), ("tls", &tcp)];
    for (scheme, bind) in protocols {
        for serve in ["threads", "loops"] {
            let (address, socket) = bind();
            let mut server = start_on(socket, scheme, ECHO, &["--serve", serve]);
            let expected = format!("{scheme}://{address}");
            // It is the only listener: it replaces the default.
            assert_eq!(server.address(), expected);
            let secure = scheme.ends_with("tls");
            let arguments: &[&str] = if secure { &["--insecure", &expected] } else { &[&expected] };
            assert_eq!(run(NC, arguments, "x\n").stdout, "x\n", "{scheme} {serve}");
            server.signal("HUP");
            let line = server.stderr_line("reloaded");
            assert!(line.contains("at_restart=\"nothing\""), "{line}");
            server.signal("TERM");
            let ended = server.wait();
            assert_eq!((ended.code, ended.stdout.lines().count()), (Some(0), 1), "{ended:?}");
        }
    }
}

#[test]
fn sockets_of_systemd_take_the_place_of_listeners_in_the_file_and_not_on_the_command_line() {
    let files = Directory::new("systemd-listen");
    let config = files.file("echo.toml", "listen = ['udp://127.0.0.1:0', 'tcp://127.0.0.1:0']\n");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let expected = format!("listen = [\"dtls://{}\"]  # from the socket unit", socket.local_addr().unwrap());
    let printed = start_on(socket.into(), "dtls", ECHO, &["--config", &config, "--print-config"]).finish();
    assert!(printed.stdout.lines().any(|line| line == expected), "{printed:?}");

    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut server = start_on(socket.into(), "dtls", ECHO, &["--listen", "tcp://127.0.0.1:0"]);
    assert!(server.address().starts_with("tcp://"));
}

#[test]
fn a_socket_that_no_protocol_is_named_for_is_refused() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let ended = start_on(socket.into(), "peeloff-echo.socket", ECHO, &[]).finish();
    ended.failed_with("peeloff-echo", 2, "name it after its protocol by FileDescriptorName=");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let ended = start_on(socket.into(), "tls", ECHO, &[]).finish();
    assert_eq!(ended.code, Some(2), "{ended:?}");
}

/// A socket for notifications, as systemd has it.
struct Listener(UnixDatagram, String);

impl Listener {
    fn new(files: &Directory) -> Self {
        let path = files.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Self(socket, path)
    }

    fn next(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).expect("nothing was told");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }
}

#[test]
fn systemd_is_told_when_the_server_is_ready_reloads_and_ends() {
    for program in [ECHO, CHAT] {
        let files = Directory::new("systemd-notify");
        let systemd = Listener::new(&files);
        let listen = ["--listen", "udp://127.0.0.1:0"];
        let mut server = Program::start_in([("NOTIFY_SOCKET", &systemd.1)], program, &listen);
        server.address();
        assert_eq!(systemd.next().trim(), "READY=1");
        server.signal("HUP");
        let reloading = systemd.next();
        assert!(reloading.contains("RELOADING=1\n") && reloading.contains("MONOTONIC_USEC="), "{reloading}");
        assert_eq!(systemd.next().trim(), "READY=1");
        server.signal("TERM");
        assert_eq!(systemd.next().trim(), "STOPPING=1");
        assert_eq!(server.wait().code, Some(0));
    }
}

#[test]
fn the_watchdog_is_fed_while_the_server_gets_on() {
    let files = Directory::new("systemd-watchdog");
    let systemd = Listener::new(&files);
    let variables = [("NOTIFY_SOCKET", systemd.1.as_str()), ("WATCHDOG_USEC", "60000")];
    let mut server = Program::start_in(variables, ECHO, &["--listen", "udp://127.0.0.1:0"]);
    let address = server.address();
    assert_eq!(run(NC, &[&address], "x\n").stdout, "x\n");
    let mut told: Vec<String> = (0..4).map(|_| systemd.next().trim().to_owned()).collect();
    told.sort();
    assert_eq!(told, ["READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1"]);
    server.signal("TERM");
    assert_eq!(server.wait().code, Some(0));

    // A server without a socket for notifications sends none, and a socket that nobody reads does not block a server.
    let (server, _) = start_echo(&["--listen", "udp://127.0.0.1:0"]);
    server.signal("TERM");
    assert_eq!(server.wait().code, Some(0));
    let nobody = files.path("nobody");
    let mut server =
        Program::start_in([("NOTIFY_SOCKET", &nobody)], ECHO, &["--listen", "udp://127.0.0.1:0"]);
    server.address();
    server.stderr_line("cannot notify systemd");
    server.signal("TERM");
    assert_eq!(server.wait().code, Some(0));
}

#[test]
fn the_units_give_servers_no_more_than_they_need() {
    for unit in ["peeloff-echo", "peeloff-chat"] {
        let path = format!("{}/packaging/systemd/{unit}.service", env!("CARGO_MANIFEST_DIR"));
        // The threshold is in tenths: 2.0 at most.
        let arguments = ["security", "--offline=yes", "--no-pager", "--threshold=20", &path];
        let output = Command::new("systemd-analyze").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

//! Listeners that serve several addresses: a peer is answered from the address that it used.
//!
//! Each test has two network namespaces of its own, one for the server and one for the clients, with a veth pair
//! between them, which needs root. This program runs again in each of them, as the server and as the client, and
//! receives its commands line by line.

mod support;

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Lines, Write};
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use peeloff::{Address, Client, Identity, Scheme, Server};
use support::{DEADLINE, echo, exchange, until};

/// The variable with the role of a process in a namespace.
const ROLE: &str = "PEELOFF_TEST_ROLE";

/// The addresses of the server's end of the veth pair.
const V4: [&str; 3] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
const V6: [&str; 3] = ["[2001:db8::1]", "[2001:db8::2]", "[2001:db8::3]"];
/// The link-local address, as the client names it.
const LINK_LOCAL: &str = "[fe80::1%client]";

const SCHEMES: [&str; 2] = ["udp", "dtls"];

#[test]
fn every_reply_comes_from_the_address_that_was_asked() {
    let nets = Nets::new();
    let mut client = nets.client();
    for scheme in SCHEMES {
        for (listen, asked) in [("0.0.0.0", V4.to_vec()), ("[::]", [V4, V6].concat())] {
            let mut server = nets.server(&format!("{scheme}://{listen}:0"));
            for host in &asked {
                client.tell(&format!("ask {scheme}://{host}:{}", server.port));
            }
            // Use each address again, at the same time, when its listener is already open.
            for host in &asked {
                client.tell(&format!("hold {scheme}://{host}:{}", server.port));
            }
            client.tell("held");
            let stats = server.stats();
            assert_eq!(number(&stats, "listeners"), 1 + asked.len() as u64, "{stats}");
            assert_eq!(number(&stats, "children_unguarded") + number(&stats, "strays_lost"), 0, "{stats}");
            client.tell("let go");
        }
    }
}

#[test]
fn a_listener_for_ipv6_only_leaves_ipv4_alone() {
    let nets = Nets::new();
    let mut client = nets.client();
    for scheme in SCHEMES {
        let server = nets.server(&format!("v6only {scheme}://[::]:0"));
        for host in V6 {
            client.tell(&format!("ask {scheme}://{host}:{}", server.port));
        }
        client.tell(&format!("refused {}:{}", V4[0], server.port));
        // Another server can therefore have the same port there.
        let other = nets.server(&format!("{scheme}://0.0.0.0:{}", server.port));
        for host in [V4, V6].concat() {
            client.tell(&format!("ask {scheme}://{host}:{}", other.port));
        }
    }
}

#[test]
fn addresses_come_and_go_under_a_wildcard() {
    let nets = Nets::new();
    let mut client = nets.client();
    for scheme in SCHEMES {
        for (listen, stays, comes) in
            [("0.0.0.0", V4[0], "192.0.2.9"), ("[::]", V6[0], "[2001:db8::9]"), ("[::]", V4[1], "192.0.2.9")]
        {
            let mut server = nets.server(&format!("{scheme}://{listen}:0"));
            let url = |host: &str| format!("{scheme}://{host}:{}", server.port);
            let (stays, comes_at) = (url(stays), url(comes));
            client.tell(&format!("hold {stays}"));
            for _ in 0..2 {
                nets.address("add", comes);
                client.tell(&format!("ask {comes_at}"));
                client.tell(&format!("hold {comes_at}"));
                client.tell("held");
                client.tell("let go of the last");
                nets.address("del", comes);
                client.tell("held");
                client.tell(&format!("ask {stays}"));
            }
            let stats = server.stats();
            assert_eq!(number(&stats, "children_unguarded") + number(&stats, "strays_lost"), 0, "{stats}");
            assert_eq!(number(&stats, "listeners"), 3, "{stats}");
            client.tell("let go");
        }
    }
}

#[test]
fn every_address_of_a_local_prefix_is_served() {
    let nets = Nets::new();
    let mut client = nets.client();
    nets.ip_server("route add local 198.51.100.0/24 dev lo");
    nets.ip_client("route add 198.51.100.0/24 via 192.0.2.1");
    nets.ip_server("-6 route add local 2001:db8:1::/64 dev lo");
    nets.ip_client("-6 route add 2001:db8:1::/64 via 2001:db8::1");
    let (v4, v6) = (["198.51.100.7", "198.51.100.200"], ["[2001:db8:1::7]", "[2001:db8:1::ffff]"]);
    for scheme in SCHEMES {
        for (listen, asked) in [("0.0.0.0", v4.to_vec()), ("[::]", [v4, v6].concat())] {
            let server = nets.server(&format!("{scheme}://{listen}:0"));
            for host in asked {
                client.tell(&format!("ask {scheme}://{host}:{}", server.port));
            }
        }
        // IPv6 needs freebind for that.
        for (options, host) in [("", v4[0]), ("freebind ", v6[0])] {
            let server = nets.server(&format!("{options}{scheme}://{host}:0"));
            client.tell(&format!("ask {scheme}://{host}:{}", server.port));
        }
    }
}

#[test]
fn an_address_can_be_listened_on_before_it_is_there() {
    let nets = Nets::new();
    let mut client = nets.client();
    for scheme in SCHEMES {
        for host in ["192.0.2.50", "[2001:db8::50]"] {
            let refused = nets.start(&nets.server, &format!("server {scheme}://{host}:0")).1;
            assert!(refused.starts_with("failed: "), "{refused}");
            let server = nets.server(&format!("freebind {scheme}://{host}:0"));
            nets.address("add", host);
            client.tell(&format!("ask {scheme}://{host}:{}", server.port));
            nets.address("del", host);
        }
    }
}

#[test]
fn a_link_local_address_is_served_with_its_scope() {
    let nets = Nets::new();
    let mut client = nets.client();
    for scheme in SCHEMES {
        for listen in ["[fe80::1%server]", "[::]"] {
            let mut server = nets.server(&format!("{scheme}://{listen}:0"));
            let url = format!("{scheme}://{LINK_LOCAL}:{}", server.port);
            client.tell(&format!("ask {url}"));
            client.tell(&format!("hold {url}"));
            client.tell(&format!("ask {url}"));
            client.tell("held");
            client.tell("let go");
            let stats = server.stats();
            assert_eq!(number(&stats, "children_unguarded") + number(&stats, "strays_lost"), 0, "{stats}");
            assert_eq!(number(&stats, "ignored"), 0, "{stats}");
        }
    }
}

/// Two namespaces and a veth pair; dropping this value removes them.
struct Nets {
    server: String,
    client: String,
}

impl Nets {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let root = fs::metadata("/proc/self").unwrap().uid() == 0;
        assert!(root, "this test makes network namespaces, for which it must run as root");
        let name = format!("peeloff-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let nets = Self { server: format!("{name}-s"), client: format!("{name}-c") };
        ip(&format!("netns add {}", nets.server));
        ip(&format!("netns add {}", nets.client));
        ip(&format!(
            "link add server netns {} type veth peer name client netns {}",
            nets.server, nets.client
        ));
        for (net, end, last) in [(&nets.server, "server", 1), (&nets.client, "client", 100)] {
            ip(&format!("-n {net} link set lo up"));
            ip(&format!("-n {net} link set {end} addrgenmode none"));
            ip(&format!("-n {net} link set {end} up"));
            ip(&format!("-n {net} addr add 192.0.2.{last}/24 dev {end}"));
            ip(&format!("-n {net} addr add 2001:db8::{last}/64 dev {end} nodad"));
            ip(&format!("-n {net} addr add fe80::{last}/64 dev {end} nodad"));
        }
        for host in [&V4[1..], &V6[1..]].concat() {
            nets.address("add", host);
        }
        nets
    }

    /// Adds or removes an address of the server.
    fn address(&self, what: &str, host: &str) {
        let host = host.trim_matches(['[', ']']);
        let rest = if host.contains(':') { "/64 dev server nodad" } else { "/24 dev server" };
        self.ip_server(&format!("addr {what} {host}{rest}"));
        // An IPv6 address takes effect a moment after the command, because a worker of the kernel sets its route.
        if host.contains(':') {
            let is_there = || {
                let show = ["-n", &self.server, "-6", "route", "show", "table", "local", host];
                !Command::new("ip").args(show).output().unwrap().stdout.is_empty()
            };
            until("the address comes or goes", || (is_there() == (what == "add")).then_some(()));
        }
    }

    fn ip_server(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.server));
    }

    fn ip_client(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.client));
    }

    fn server(&self, what: &str) -> Process {
        let (mut process, answer) = self.start(&self.server, &format!("server {what}"));
        let port = answer.strip_prefix("port ").unwrap_or_else(|| panic!("{what}: {answer}"));
        process.port = port.parse().unwrap();
        process
    }

    fn client(&self) -> Process {
        let (process, answer) = self.start(&self.client, "client");
        assert_eq!(answer, "ready");
        process
    }

    /// Starts this program in a namespace and a role, and returns its first line.
    fn start(&self, net: &str, role: &str) -> (Process, String) {
        let mut child = Command::new("ip")
            .args(["netns", "exec", net])
            .arg(env::current_exe().unwrap())
            .args(["--exact", "a_process_in_a_namespace", "--ignored", "--nocapture"])
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut process = Process { child, stdin, stdout, port: 0 };
        let answer = process.answer(role);
        (process, answer)
    }
}

impl Drop for Nets {
    fn drop(&mut self) {
        for net in [&self.server, &self.client] {
            let _ = Command::new("ip").args(["netns", "del", net]).status();
        }
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A process in a namespace; dropping it ends the process.
struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Lines<BufReader<ChildStdout>>,
    port: u16,
}

impl Process {
    /// Sends a command and waits until it is done.
    fn tell(&mut self, what: &str) {
        let answer = self.request(what);
        assert_eq!(answer, "done", "{what}");
    }

    fn stats(&mut self) -> String {
        self.request("stats")
    }

    fn request(&mut self, what: &str) -> String {
        writeln!(self.stdin.as_ref().unwrap(), "{what}").unwrap();
        self.answer(what)
    }

    fn answer(&mut self, what: &str) -> String {
        let answer = self.stdout.find_map(|line| Some(line.unwrap().strip_prefix("> ")?.to_owned()));
        answer.unwrap_or_else(|| panic!("the process gave up at: {what}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The process ends when its input is closed.
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// Returns a number from a line of statistics.
fn number(stats: &str, name: &str) -> u64 {
    let value = stats.split(' ').find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("no {name} in {stats}")).parse().unwrap()
}

#[test]
#[ignore = "run by every other test of this file, in its namespaces"]
fn a_process_in_a_namespace() {
    let Ok(role) = env::var(ROLE) else { return };
    match role.strip_prefix("server ") {
        Some(what) => serve(what),
        None => ask(),
    }
}

fn say(line: &str) {
    // The test harness may have left text on this line.
    println!("\n> {line}");
    io::stdout().flush().unwrap();
}

fn serve(what: &str) {
    let (options, url) = what.rsplit_once(' ').unwrap_or(("", what));
    let started = Server::builder()
        .listen(url)
        .identity(Identity::self_signed().unwrap())
        .v6_only(options == "v6only")
        .freebind(options == "freebind")
        .start(echo);
    let server = match started {
        Ok(server) => server,
        Err(error) => return say(&format!("failed: {error}")),
    };
    say(&format!("port {}", server.addresses()[0].port));
    for line in io::stdin().lines() {
        assert_eq!(line.unwrap(), "stats");
        let stats = server.handle().stats();
        let entries: Vec<_> = stats.entries().map(|entry| format!("{entry}={}", entry.value)).collect();
        say(&entries.join(" "));
    }
    server.handle().shutdown(Duration::ZERO);
}

fn ask() {
    let client = Client::builder().danger_accept_any_certificate().timeout(DEADLINE);
    let mut held = Vec::new();
    say("ready");
    for line in io::stdin().lines() {
        let line = line.unwrap();
        let (what, target) = line.split_once(' ').unwrap_or((&line, ""));
        match what {
            "ask" => {
                let url: Address = target.parse().unwrap();
                ask_from_anywhere(&url);
                // The socket of this client is connected: it receives only datagrams from that address itself.
                let mut peer = client.connect(&url).unwrap_or_else(|error| panic!("{target}: {error}"));
                (0..3).for_each(|_| exchange(&mut peer, target.as_bytes()));
            }
            "hold" => held.push(client.connect(target).unwrap()),
            "held" => held.iter_mut().for_each(|peer| exchange(peer, b"held")),
            "let" if target == "go of the last" => drop(held.pop()),
            "let" => held.clear(),
            "refused" => {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.connect(target).unwrap();
                socket.set_read_timeout(Some(DEADLINE)).unwrap();
                socket.send(b"?").unwrap();
                let error = socket.recv(&mut [0; 16]).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
            }
            other => panic!("{other}: what is that?"),
        }
        say("done");
    }
}

/// Checks that a socket that accepts answers from any address gets them from the address that it used.
fn ask_from_anywhere(url: &Address) {
    let server = url.resolve().unwrap()[0];
    let message = match url.scheme {
        Scheme::Udp => b"from anywhere".to_vec(),
        _ => first_hello(),
    };
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    for _ in 0..3 {
        socket.send_to(&message, server).unwrap();
        let mut buffer = [0; 1500];
        let (len, source) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(source, server, "asked {url}");
        match url.scheme {
            Scheme::Udp => assert_eq!(&buffer[..len], message),
            // A HelloVerifyRequest in a handshake record.
            _ => assert_eq!((buffer[0], buffer[13]), (22, 3), "asked {url}"),
        }
    }
}

/// Returns the first datagram of a DTLS client.
fn first_hello() -> Vec<u8> {
    let trap = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    trap.set_read_timeout(Some(DEADLINE)).unwrap();
    let url = Address::from_socket(Scheme::Dtls, trap.local_addr().unwrap());
    let client = Client::builder().danger_accept_any_certificate().timeout(Duration::from_millis(1));
    let asking = thread::spawn(move || client.connect(&url).map(drop));
    let mut buffer = [0; 1500];
    let (len, _): (usize, SocketAddr) = trap.recv_from(&mut buffer).unwrap();
    assert!(asking.join().unwrap().is_err());
    buffer[..len].to_vec()
}

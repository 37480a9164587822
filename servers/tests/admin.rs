//! The endpoint for metrics and health: its answers, and that no scraper disturbs the server.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output};
use std::time::Instant;

use socket2::{Domain, SockAddr, Socket, Type};
use support::{DEADLINE, Directory, ECHO, NC, Program, run, start_echo};

/// Starts an echo server with an endpoint. Returns its first address and the endpoint's address.
fn start(arguments: &[&str]) -> (Program, String, String) {
    let mut all = vec!["--admin", "127.0.0.1:0"];
    all.extend(arguments);
    let (mut server, address) = start_echo(&all);
    let line = server.stderr_line("metrics and health");
    let admin = line.rsplit_once("address=").unwrap().1.to_owned();
    (server, address, admin)
}

fn curl(arguments: &[&str]) -> Output {
    Command::new("curl").args(["-sS", "--max-time", "30"]).args(arguments).output().unwrap()
}

/// Returns the body and the status of a page.
fn get(admin: &str, path: &str) -> (String, String) {
    let output = curl(&["-w", "\n%{http_code}", &format!("http://{admin}{path}")]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (body.to_owned(), status.to_owned())
}

fn metrics(admin: &str) -> String {
    let (page, status) = get(admin, "/metrics");
    assert_eq!(status, "200");
    page
}

/// Waits until the metrics have this line.
fn wait_for(admin: &str, line: &str) {
    let give_up = Instant::now() + DEADLINE;
    while !metrics(admin).lines().any(|found| found == line) {
        assert!(Instant::now() < give_up, "no {line:?} in {}", metrics(admin));
    }
}

fn echoes(address: &str) {
    let ended = run(NC, &["--insecure", address], "hello\n");
    assert_eq!(ended.stdout, "hello\n", "{ended:?}");
}

#[test]
fn metrics_are_open_metrics_with_the_numbers_of_each_listener() {
    let (mut server, udp, admin) = start(&["--listen", "udp://127.0.0.1:0", "--listen", "tls://127.0.0.1:0"]);
    let tls = server.address();
    echoes(&udp);
    echoes(&tls);
    let labels = |address: &str| format!("{{protocol=\"{}\",listener=\"{address}\"", &address[..3]);
    for address in [&udp, &tls] {
        wait_for(&admin, &format!("peeloff_opened_total{}}} 1", labels(address)));
        wait_for(&admin, &format!("peeloff_messages_received_total{}}} 1", labels(address)));
        wait_for(&admin, &format!("peeloff_sent_bytes_total{}}} 6", labels(address)));
    }
    wait_for(&admin, &format!("peeloff_handshake_seconds_count{}}} 1", labels(&tls)));
    wait_for(&admin, &format!("peeloff_ended_total{},reason=\"closed_by_peer\"}} 1", labels(&tls)));
    let page = metrics(&admin);
    assert!(page.ends_with("\n# EOF\n"));
    for part in [
        "peeloff_peers_limit 8192\n",
        "peeloff_ready 1\n",
        "peeloff_log_lines_lost_total 0\n",
        "# UNIT peeloff_handshake_seconds seconds\n",
        "peeloff_certificate_expiry_timestamp_seconds{what=\"certificate CN=",
        "process_open_fds ",
        "process_max_fds ",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(!page.contains("127.0.0.1:0"), "the ports are those that the kernel chose");
    let head = curl(&["-I", &format!("http://{admin}/metrics")]);
    let head = String::from_utf8(head.stdout).unwrap();
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
        "{head}"
    );
}

#[test]
fn promtool_finds_nothing_wrong_with_the_names() {
    let (_server, _, admin) = start(&["--listen", "dtls://127.0.0.1:0"]);
    let page = curl(&["-H", "Accept: text/plain", &format!("http://{admin}/metrics")]).stdout;
    let mut lint = Command::new("promtool");
    lint.args(["check", "metrics"]).stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut lint = lint.stdout(std::process::Stdio::piped()).spawn().unwrap();
    lint.stdin.take().unwrap().write_all(&page).unwrap();
    let output = lint.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty() && !page.is_empty(), "{output:?}");
}

#[test]
fn a_server_is_ready_below_its_limits_and_alive_until_its_end() {
    let arguments = ["--listen", "tcp://127.0.0.1:0", "--max-peers", "1", "--drain-timeout", "60s"];
    let (server, address, admin) = start(&arguments);
    assert_eq!(get(&admin, "/healthz"), ("alive\n".to_owned(), "200".to_owned()));
    assert_eq!(get(&admin, "/readyz"), ("ready\n".to_owned(), "200".to_owned()));
    let mut client = TcpStream::connect(address.strip_prefix("tcp://").unwrap()).unwrap();
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0; 1]).unwrap();
    let (why, status) = get(&admin, "/readyz");
    assert_eq!((why.as_str(), status.as_str()), ("no new peers: too many peers in all (max-peers)\n", "503"));
    assert_eq!(get(&admin, "/healthz").1, "200", "a full server is alive");
    wait_for(&admin, "peeloff_ready 0");
    drop(client);
    wait_for(&admin, "peeloff_ready 1");
    assert_eq!(get(&admin, "/").1, "404");
    assert!(curl(&["-d", "x", &format!("http://{admin}/metrics")]).stdout.starts_with(b"only GET"));
    server.signal("TERM");
    assert_eq!(server.wait().code, Some(0));
}

#[test]
fn scrapers_that_do_not_behave_disturb_neither_peers_nor_other_scrapers() {
    let (_server, address, admin) = start(&["--listen", "tcp://127.0.0.1:0"]);
    let connect = || TcpStream::connect(&admin).unwrap();
    // These scrapers send nothing, a few bytes, nonsense or too much, or do not read the answer.
    let silent: Vec<TcpStream> = (0..300).map(|_| connect()).collect();
    let mut slow: Vec<TcpStream> = (0..50).map(|_| connect()).collect();
    slow.iter_mut().for_each(|scraper| drop(scraper.write_all(b"GET /metrics HTTP/1.1\r\nHost: ")));
    let mut deaf: Vec<TcpStream> = (0..50).map(|_| connect()).collect();
    deaf.iter_mut().for_each(|scraper| drop(scraper.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")));
    for nonsense in [&b"\x16\x03\x01\0\0"[..], b"GET\r\n\r\n", b"\r\n\r\n", &[0; 4096], &[b'A'; 1 << 20]] {
        let _ = connect().write_all(nonsense);
    }
    let endless = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let mut greedy = connect();
    greedy.set_read_timeout(Some(DEADLINE)).unwrap();
    let _ = greedy.write_all(endless.as_bytes());
    // The reset may discard the answer.
    let mut answer = Vec::new();
    let _ = greedy.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
    for _ in 0..5 {
        echoes(&address);
        assert_eq!(get(&admin, "/healthz").1, "200");
        assert!(metrics(&admin).ends_with("# EOF\n"));
    }
    // The oldest connection was closed in favour of later ones.
    let mut first = &silent[0];
    first.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(first.read(&mut [0; 1]).unwrap_or(0), 0);
}

#[test]
fn scrapers_that_ask_without_a_pause_get_pages_that_were_made_for_others() {
    let (_server, _, admin) = start(&["--listen", "udp://127.0.0.1:0"]);
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let admin = admin.clone();
            std::thread::spawn(move || {
                let url = format!("http://{admin}/metrics");
                let urls = vec![url.as_str(); 100];
                assert!(curl(&urls).status.success());
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let page = metrics(&admin);
    let made = page.lines().find_map(|line| line.strip_prefix("peeloff_pages_total ")).unwrap();
    let made: u64 = made.parse().unwrap();
    assert!((1..800).contains(&made), "{made} pages for 800 scrapes");
}

#[test]
fn a_unix_socket_serves_too_and_is_gone_with_its_server() {
    let files = Directory::new("admin-unix");
    let path = files.path("admin.sock");
    let admin = format!("unix:{path}");
    let arguments = ["--listen", "udp://127.0.0.1:0", "--admin", &admin];
    let (mut server, _) = start_echo(&arguments);
    server.stderr_line("metrics and health");
    let scrape = || curl(&["--unix-socket", &path, "http://localhost/healthz"]).stdout;
    assert_eq!(scrape(), b"alive\n");
    // Another process listens there. It must not be disturbed.
    run(ECHO, &arguments, "").failed_with("peeloff-echo", 2, "another program listens there");
    assert_eq!(scrape(), b"alive\n");
    // A killed server leaves the path behind, and the next server takes it over.
    server.kill();
    assert!(fs::exists(&path).unwrap());
    let (mut server, _) = start_echo(&arguments);
    server.stderr_line("metrics and health");
    assert_eq!(scrape(), b"alive\n");
    server.signal("TERM");
    assert_eq!(server.wait().code, Some(0));
    assert!(!fs::exists(&path).unwrap());
    let file = files.file("file", "precious");
    let arguments = ["--listen", "udp://127.0.0.1:0", "--admin", &format!("unix:{file}")];
    for arguments in [&arguments[..], &[&arguments[..], &["--check-config"]].concat()] {
        run(ECHO, arguments, "").failed_with("peeloff-echo", 2, "the path exists and is not a socket");
    }
    assert_eq!(fs::read(&file).unwrap(), b"precious", "what is no socket is left alone");
}

#[test]
fn an_address_that_cannot_be_used_is_one_sentence() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let listen = ["--listen", "udp://127.0.0.1:0"];
    for (admin, expected) in [
        (address.as_str(), "another program listens there"),
        ("192.0.2.1:9464", "choose an address of this host"),
        ("localhost", "is not an address"),
        ("unix:", "there is no path"),
        ("unix:/nowhere/admin.sock", "create its folder first"),
    ] {
        let arguments = [&listen[..], &["--admin", admin]].concat();
        run(ECHO, &arguments, "").failed_with("peeloff-echo", 2, expected);
        if admin != address {
            // The check refuses the address with the same message.
            let check = [&arguments[..], &["--check-config"]].concat();
            run(ECHO, &check, "").failed_with("peeloff-echo", 2, expected);
        }
    }
    let check = run(ECHO, &["--listen", "udp://127.0.0.1:0", "--admin", &address, "--check-config"], "");
    assert_eq!(check.code, Some(0), "{check:?}");
    assert!(check.stdout.contains(&format!("--admin {address}: in use")), "{check:?}");
    let files = Directory::new("admin-config");
    let config = files
        .file("echo.toml", format!("listen = \"udp://127.0.0.1:0\"\n[monitoring]\nadmin = \"{address}\"\n"));
    run(ECHO, &["--config", &config], "").failed_with("peeloff-echo", 2, "echo.toml:3: admin");
}

#[test]
fn a_check_finds_an_address_free_and_leaves_it_free() {
    let files = Directory::new("admin-check");
    let path = files.path("admin.sock");
    // The kernel chose the port a moment ago, at an address that no other test uses.
    let port = std::net::TcpListener::bind("127.0.77.1:0").unwrap().local_addr().unwrap().to_string();
    for admin in [port, format!("unix:{path}")] {
        let check = run(ECHO, &["--listen", "udp://127.0.0.1:0", "--admin", &admin, "--check-config"], "");
        assert_eq!((check.code, check.stderr.as_str()), (Some(0), ""), "{check:?}");
        assert!(check.stdout.contains(&format!("--admin {admin}: can be listened on\n")), "{check:?}");
    }
    assert!(!fs::exists(&path).unwrap());
}

#[test]
fn a_check_finds_a_listener_at_the_same_port() {
    let port = std::net::TcpListener::bind("127.0.77.2:0").unwrap().local_addr().unwrap().port();
    let listen = ["--listen", &format!("tcp://*:{port}"), "--listen", &format!("udp://127.0.77.2:{port}")];
    let check = |admin: &str| run(ECHO, &[&listen[..], &["--admin", admin, "--check-config"]].concat(), "");
    let admin = format!("127.0.77.2:{port}");
    check(&admin).failed_with(
        "peeloff-echo",
        2,
        &format!("--admin: {admin} leaves no room for the listener"),
    );
    let good = check("127.0.77.2:0");
    assert_eq!((good.code, good.stderr.as_str()), (Some(0), ""), "{good:?}");
}

#[test]
fn a_socket_whose_owner_hangs_is_in_use() {
    let files = Directory::new("admin-hangs");
    let path = files.path("admin.sock");
    let owner = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    owner.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    owner.listen(0).unwrap();
    // Clients that nobody accepts, until the next one would wait.
    let connect = || {
        let client = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        client.set_nonblocking(true).unwrap();
        client.connect(&SockAddr::unix(&path).unwrap()).map(|()| client)
    };
    let waiting: Vec<Socket> = std::iter::repeat_with(connect).map_while(Result::ok).collect();
    let arguments = ["--listen", "udp://127.0.0.1:0", "--admin", &format!("unix:{path}")];
    run(ECHO, &arguments, "").failed_with("peeloff-echo", 2, "another program listens there");
    assert!(!waiting.is_empty());
}

#[test]
fn an_address_that_other_hosts_reach_is_warned_of() {
    let (mut server, _) = start_echo(&["--listen", "udp://127.0.0.1:0", "--admin", "0.0.0.0:0"]);
    let line = server.stderr_line("other hosts may be able to reach this address");
    assert!(line.contains("WARN"), "{line}");
}

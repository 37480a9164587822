//! The access log, and the format of log lines for programs and for the journal.

mod support;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;
use support::{DEADLINE, Directory, ECHO, NC, Program, run, start_echo};

const TCP: [&str; 2] = ["--listen", "tcp://127.0.0.1:0"];
const STATS: [&str; 2] = ["--stats-interval", "20ms"];

fn start(arguments: &[&str]) -> (Program, String) {
    start_echo(&[&TCP, arguments].concat())
}

/// Connects a peer that sends a message, gets the echo and leaves; returns its address.
fn visit(address: &str) -> String {
    let mut client = TcpStream::connect(address.strip_prefix("tcp://").unwrap()).unwrap();
    client.write_all(b"hello").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    client.local_addr().unwrap().to_string()
}

/// Waits until the content of the file is as wanted, and returns it.
fn wait_for(path: &str, wanted: impl Fn(&str) -> bool) -> String {
    let give_up = Instant::now() + DEADLINE;
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        if wanted(&text) {
            return text;
        }
        assert!(Instant::now() < give_up, "{path} has {text:?}");
        std::thread::yield_now();
    }
}

/// Waits until this many peers have left a server with [`STATS`]. Their lines are in its logs by then.
fn wait_for_leavers(server: &mut Program, count: u32) {
    while !server.stderr_line(" stats ").contains(&format!(" ended_closed_by_peer={count} ")) {}
}

fn has_lines(count: usize) -> impl Fn(&str) -> bool {
    move |text| text.ends_with('\n') && text.lines().count() >= count
}

#[test]
fn each_peer_that_leaves_is_a_line_with_what_it_did_and_why_it_left() {
    let files = Directory::new("access-text");
    let path = files.path("access.log");
    let (server, address) = start(&["--access-log", &path]);
    let peers: Vec<_> = (0..3).map(|_| visit(&address)).collect();
    let text = wait_for(&path, has_lines(3));
    assert_eq!(text.lines().count(), 3, "{text}");
    for peer in &peers {
        let line = text.lines().find(|line| line.contains(&format!("peer={peer} "))).unwrap();
        for part in [
            "messages_in=1",
            "bytes_in=5",
            "messages_out=1",
            "bytes_out=5",
            "duration_ms=",
            "identity=\"anonymous\"",
        ] {
            assert!(line.contains(part), "{part}: {line}");
        }
        assert!(
            line.contains("reason=\"closed_by_peer\"") && line.contains(&format!("listener={address}")),
            "{line}"
        );
        assert!(line.starts_with("20") && !line.contains("DEBUG") && !line.contains('\u{1b}'), "{line}");
    }
    // The main log has none of these lines.
    server.signal("TERM");
    let ended = server.wait();
    assert!(!ended.stderr.contains("an association ended"), "{ended:?}");
    assert!(ended.stderr.contains("access_log_lines_lost=0"), "{ended:?}");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
}

#[test]
fn lines_of_json_have_the_identity_and_failed_handshakes_too() {
    let files = Directory::new("access-json");
    let keys = files.file("keys", "alice:000102030405060708090a0b0c0d0e0f\n");
    let arguments =
        ["--listen", "tls://127.0.0.1:0", "--psk-file", &keys, "--access-log", "-", "--log-format", "json"];
    let (mut server, address) = start_echo(&arguments);
    for (psk, code) in [("alice:000102030405060708090a0b0c0d0e0f", true), ("alice:ff", false)] {
        let ended = run(NC, &["--psk", psk, &address], "hello\n");
        assert_eq!(ended.code == Some(0), code, "{ended:?}");
    }
    let lines: Vec<Value> = (0..2).map(|_| serde_json::from_str(&server.line()).unwrap()).collect();
    let [good, bad] = [&lines[0], &lines[1]];
    assert_eq!((&good["identity"], &good["bytes_in"]), (&Value::from("psk:alice"), &Value::from(6)));
    assert_eq!(
        (&good["reason"], &good["listener"]),
        (&Value::from("closed_by_peer"), &Value::from(address.as_str()))
    );
    assert_eq!((&bad["identity"], &bad["messages_in"]), (&Value::from("anonymous"), &Value::from(0)));
    assert_eq!(bad["reason"], "handshake_failed");
    server.signal("TERM");
    let ended = server.wait();
    // Every line of the log is JSON, with a level and a target.
    let log: Vec<Value> = ended.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let failed =
        log.iter().find(|line| line["message"].as_str().unwrap().contains("a handshake failed")).unwrap();
    assert_eq!((&failed["level"], &failed["target"]), (&Value::from("INFO"), &Value::from("peeloff::audit")));
}

#[test]
fn a_hangup_opens_the_file_again_and_the_configuration_can_turn_it_off_and_on() {
    let files = Directory::new("access-hangup");
    let (path, old) = (files.path("access.log"), files.path("access.log.1"));
    let write =
        |more: &str| files.file("echo.toml", format!("listen = \"tcp://127.0.0.1:0\"\n[logging]\n{more}"));
    // The path is relative to the folder of the configuration file.
    let on = "access-log = \"access.log\"\n".to_owned();
    let config = write(&on);
    let (mut server, address) = start_echo(&[&["--config", &config], &STATS[..]].concat());
    let reload = |server: &mut Program| {
        server.signal("HUP");
        server.stderr_line("reloaded")
    };
    let first = visit(&address);
    wait_for(&path, has_lines(1));
    fs::rename(&path, &old).unwrap();
    reload(&mut server);
    let second = visit(&address);
    assert!(wait_for(&path, has_lines(1)).contains(&second));
    assert!(wait_for(&old, has_lines(1)).contains(&first));
    write("");
    let line = reload(&mut server);
    assert!(line.contains("in_effect=\"access-log\""), "{line}");
    let third = visit(&address);
    wait_for_leavers(&mut server, 3);
    write(&on);
    reload(&mut server);
    let fourth = visit(&address);
    let text = wait_for(&path, |text| text.contains(&fourth) && text.ends_with('\n'));
    assert!(!text.contains(&third), "it was off: {text}");
    // If the new file cannot be opened, nothing changes.
    write("access-log = \"/nowhere/access.log\"\n");
    server.signal("HUP");
    let line = server.stderr_line("not reloaded");
    assert!(line.contains("echo.toml:3") && line.contains("create its folder first"), "{line}");
    let fifth = visit(&address);
    wait_for(&path, |text| text.contains(&fifth));
}

#[test]
fn standard_output_goes_on_after_a_hangup() {
    let files = Directory::new("access-stdout");
    let config = files.file("echo.toml", "listen = \"tcp://127.0.0.1:0\"\n[logging]\naccess-log = \"-\"\n");
    let (mut server, address) = start_echo(&["--config", &config]);
    for _ in 0..2 {
        let peer = visit(&address);
        assert!(server.line().contains(&format!("peer={peer} ")));
        server.signal("HUP");
        server.stderr_line("reloaded");
    }
}

#[test]
fn levels_by_target_change_at_a_hangup() {
    let files = Directory::new("access-levels");
    let write = |filter: &str| {
        files.file("echo.toml", format!("listen = \"tcp://127.0.0.1:0\"\n[logging]\nlog = \"{filter}\"\n"))
    };
    let config = write("info");
    let (mut server, address) = start_echo(&[&["--config", &config], &STATS[..]].concat());
    visit(&address);
    wait_for_leavers(&mut server, 1);
    write("warn,peeloff::access=debug,peeloff_servers=info");
    server.signal("HUP");
    server.stderr_line("reloaded");
    let peer = visit(&address);
    let line = server.stderr_line("an association ended");
    assert!(line.contains(&peer), "the first one left before: {line}");
    server.signal("TERM");
    let ended = server.wait();
    assert!(!ended.stderr.contains("a peer connected"), "{ended:?}");
}

#[test]
fn a_full_disk_stops_no_peer_and_dropped_lines_are_counted() {
    let (mut server, address) = start(&["--access-log", "/dev/full", "--admin", "127.0.0.1:0"]);
    let line = server.stderr_line("metrics and health");
    let url = format!("http://{}/metrics", line.rsplit_once("address=").unwrap().1);
    for _ in 0..3 {
        visit(&address);
    }
    let give_up = Instant::now() + DEADLINE;
    let lost = || {
        let page = Command::new("curl").args(["-sS", &url]).output().unwrap().stdout;
        String::from_utf8(page).unwrap().contains("peeloff_access_log_lines_lost_total 3\n")
    };
    while !lost() {
        assert!(Instant::now() < give_up, "they are not counted");
    }
    // What was lost before the file is opened again is told then, and what is lost later at the end.
    server.signal("HUP");
    server.stderr_line("reloaded");
    for _ in 0..20 {
        visit(&address);
    }
    server.signal("TERM");
    let ended = server.wait();
    assert_eq!(ended.code, Some(0));
    let told = ended.stderr.lines().filter(|line| line.contains("access log lines were dropped"));
    let told: Vec<&str> = told.collect();
    let number = |line: &&str| -> u64 {
        assert!(line.contains("file=/dev/full") && line.contains("No space left on device"), "{line}");
        line.split("lost=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(told.iter().map(number).sum::<u64>(), 23, "{told:?}");
    assert!(told.len() <= 4, "one for each peer is too much: {told:?}");
}

#[test]
fn a_check_tells_whether_the_file_can_be_opened_and_makes_none() {
    let files = Directory::new("access-check");
    let check = |path: &str| run(ECHO, &[&TCP[..], &["--check-config", "--access-log", path]].concat(), "");
    let (fresh, folder, link) = (files.path("access.log"), files.path(""), files.path("link"));
    for (path, why) in [
        ("/nowhere/access.log", "create its folder first"),
        (&folder, "name a file that this user can write"),
        (&format!("{fresh}/"), "name a file that this user can write"),
    ] {
        check(path).failed_with("peeloff-echo", 2, why);
    }
    std::os::unix::fs::symlink("/nowhere/access.log", &link).unwrap();
    check(&link).failed_with("peeloff-echo", 2, "create its folder first");
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("access.log", &link).unwrap();
    for path in [&fresh, &link, "-", "/dev/null"] {
        let checked = check(path);
        assert_eq!((checked.code, checked.stderr.as_str()), (Some(0), ""), "{path}: {checked:?}");
    }
    assert!(!fs::exists(&fresh).unwrap());
    let present = files.file("present.log", "a line\n");
    assert_eq!(check(&present).code, Some(0));
    assert_eq!(fs::read(&present).unwrap(), b"a line\n");
}

#[test]
fn an_unread_pipe_stops_no_peer() {
    let files = Directory::new("access-pipe");
    let path = files.path("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    run(ECHO, &[&TCP[..], &["--access-log", &path]].concat(), "").failed_with(
        "peeloff-echo",
        2,
        "no process reads this pipe",
    );
    // A file that is opened for reading and writing has a reader, although it reads nothing.
    let reader = File::options().read(true).write(true).open(&path).unwrap();
    let (server, address) = start(&["--access-log", &path]);
    // These are twice as many lines as a pipe can hold.
    for _ in 0..600 {
        visit(&address);
    }
    let ended = run(NC, &[&address], "hello\n");
    assert_eq!(ended.stdout, "hello\n", "{ended:?}");
    server.signal("TERM");
    assert_eq!(server.wait().code, Some(0));
    drop(reader);
}

#[test]
fn the_reason_why_a_server_does_not_start_is_a_line_of_the_log() {
    let files = Directory::new("access-failed");
    let config = files.file("echo.toml", "[logging]\nlog-format = \"json\"\n[admin]\n");
    let in_use = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let in_use = format!("tcp://{}", in_use.local_addr().unwrap());
    for (arguments, variable, why) in [
        (&["--log-format=json", "--listen", &in_use][..], "", "is in use"),
        (&["--log-format", "json", "--max-peers", "many"], "", "--max-peers: \"many\" is not a whole number"),
        (&["--no-such-option"], "json", "--no-such-option"),
        (&["--config", &config], "json", "there is no section [admin]"),
    ] {
        let program = Program::start_in([("PEELOFF_LOG_FORMAT", variable)], ECHO, arguments);
        let ended = program.wait();
        assert_eq!(ended.code, Some(2), "{ended:?}");
        let last: Value = serde_json::from_str(ended.stderr.lines().last().unwrap()).unwrap();
        assert_eq!((&last["level"], &last["program"]), (&"ERROR".into(), &"peeloff-echo".into()), "{last}");
        assert!(last["message"].as_str().unwrap().contains(why), "{why}: {last}");
    }
    // In the journal.
    let path = files.file("journal", "");
    let found = fs::metadata(&path).unwrap();
    let ended = Command::new(ECHO)
        .args(["--listen", &in_use])
        .env("JOURNAL_STREAM", format!("{}:{}", found.dev(), found.ino()))
        .stderr(File::options().append(true).open(&path).unwrap())
        .status();
    assert_eq!(ended.unwrap().code(), Some(2));
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.lines().last().unwrap().starts_with("<3>peeloff-echo: "), "{text}");
}

#[test]
fn lines_for_the_journal_begin_with_their_priority() {
    let files = Directory::new("access-journal");
    for (format, is_journal) in [("text", true), ("json", true), ("text", false)] {
        let path = files.file(format, "");
        let found = fs::metadata(&path).unwrap();
        let stream = format!("{}:{}", found.dev(), found.ino() + u64::from(!is_journal));
        let stderr = File::options().append(true).open(&path).unwrap();
        let mut server = Command::new(ECHO)
            .args(TCP)
            .args(["--log-format", format])
            .env("JOURNAL_STREAM", stream)
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let text = wait_for(&path, |text| text.contains("listening") && text.ends_with('\n'));
        server.kill().unwrap();
        server.wait().unwrap();
        for line in text.lines() {
            match (is_journal, format) {
                (false, _) => assert!(line.starts_with("20"), "{line}"),
                (true, "text") => {
                    let level = line.strip_prefix("<6>").expect("a line of INFO").trim_start();
                    assert!(level.starts_with("INFO"), "no time, which the journal knows: {line}");
                }
                (true, _) => drop(serde_json::from_str::<Value>(line.strip_prefix("<6>").unwrap()).unwrap()),
            }
        }
    }
}

//! The binaries `idle`, `burst`, `churn` and `fanout`.
#![allow(missing_docs)]

mod common;

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{WAYS, assert_whole, refusal, report, run, value};
use peeloff_stress::report::Report;

const IDLE: &str = env!("CARGO_BIN_EXE_idle");
const BURST: &str = env!("CARGO_BIN_EXE_burst");
const CHURN: &str = env!("CARGO_BIN_EXE_churn");
const FANOUT: &str = env!("CARGO_BIN_EXE_fanout");

#[test]
fn idle_peers_are_counted_and_still_served() {
    for scheme in ["udp", "dtls", "tls"] {
        let report = report(IDLE, &["--scheme", scheme, "--peers", "20", "--duration", "50ms", "--floor"]);
        assert_eq!(value(&report, "clients connected"), 20.0, "{scheme}");
        assert_eq!(value(&report, "messages echoed"), 20.0, "{scheme}");
        assert!(value(&report, "server threads") >= 20.0);
        assert!(value(&report, "server descriptors") >= 20.0);
        let bare = report.find("bare socket, batches, EVP: RSS per peer");
        assert_eq!(bare.is_some(), scheme == "dtls");
        assert_whole(&report);
    }
}

#[test]
fn every_client_of_a_burst_connects() {
    let report = report(BURST, &["--clients", "20,40", "--floor"]);
    for clients in [20, 40] {
        assert_eq!(value(&report, &format!("connected of {clients}")), f64::from(clients));
        assert_eq!(value(&report, &format!("failed of {clients}")), 0.0);
        assert!(value(&report, &format!("clients' own CPU per handshake of {clients}")) > 0.0);
    }
}

#[test]
fn crowds_are_served_in_every_way() {
    for way in WAYS {
        let idle = report(IDLE, &[&way[..], &["--peers", "30", "--duration", "50ms"]].concat());
        assert_eq!(value(&idle, "messages echoed"), 30.0, "{way:?}");
        let burst = report(BURST, &[&way[..], &["--clients", "40"]].concat());
        assert_eq!(value(&burst, "connected of 40"), 40.0, "{way:?}");
        let limits = ["--count", "40", "--warm-up", "10", "--settle", "0s"];
        let churn = report(CHURN, &[&way[..], &limits].concat());
        assert_eq!(value(&churn, "clients connected"), 40.0, "{way:?}");
        let fanout = report(FANOUT, &[&way[..], &["--receivers", "10", "--messages", "20"]].concat());
        assert_eq!(value(&fanout, "messages echoed"), 200.0, "{way:?}");
        [&idle, &churn, &fanout].into_iter().for_each(assert_whole);
    }
}

#[test]
fn clients_come_and_go() {
    let limits = ["--count", "40", "--warm-up", "10", "--messages", "2", "--settle", "0s"];
    for scheme in ["udp", "dtls", "tcp", "tls"] {
        let report = report(CHURN, &[&limits[..], &["--scheme", scheme]].concat());
        assert_eq!(value(&report, "clients connected"), 40.0, "{scheme}");
        assert_eq!(value(&report, "messages echoed"), 80.0, "{scheme}");
        assert_whole(&report);
    }
}

#[test]
fn a_strict_churn_fails_where_something_is_left_behind() {
    // Plain UDP has no close, so the server keeps all of them.
    let limits =
        ["--scheme", "udp", "--count", "40", "--warm-up", "8", "--settle", "100ms", "--quiet", "--strict"];
    let output = run(CHURN, &limits);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("descriptors left behind: "), "{errors}");
}

#[test]
fn every_receiver_hears_every_message() {
    for scheme in ["dtls", "tcp", "tls"] {
        let arguments = ["--scheme", scheme, "--receivers", "10", "--messages", "20", "--floor"];
        let report = report(FANOUT, &arguments);
        assert_eq!(value(&report, "messages echoed"), 200.0, "{scheme}");
        assert_whole(&report);
    }
    let said = refusal(FANOUT, &["--scheme", "udp"]);
    assert!(said.contains("dtls"), "{said}");
}

#[test]
fn a_report_is_written_as_page_and_json_and_compared_with() {
    let folder = std::env::temp_dir().join(format!("peeloff-stress-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let (json, html) = (folder.join("old.json"), folder.join("page.html"));
    let (json, html) = (json.to_str().unwrap(), html.to_str().unwrap());
    let output = run(BURST, &["--clients", "5", "--quiet", "--json", json]);
    assert!(output.status.success());
    let old: Report = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    assert_eq!(value(&old, "connected of 5"), 5.0);
    let output = run(BURST, &["--clients", "5", "--quiet", "--compare", json, "--html", html]);
    assert!(output.status.success());
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains(&format!("compared with the run of {}", old.began)), "{table}");
    let page = fs::read_to_string(html).unwrap();
    assert!(page.contains("<svg") && page.contains("connected of 5"));
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn an_interrupted_run_still_reports() {
    let arguments = ["--scheme", "udp", "--peers", "3", "--duration", "1h", "--json", "-", "--quiet"];
    let child = Command::new(IDLE).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
    // Once its peers are connected it is quiet. By then the server has a thread for each of them.
    server_of(&child, 3);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let report: Report = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report.interrupted);
}

#[test]
fn a_run_whose_server_has_ended_ends_too_and_says_so() {
    let mut command = Command::new(CHURN);
    command.args(["--duration", "1h", "--warm-up", "1000000", "--rate", "50"]);
    let churn = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    // Its clients leave at once, so that one thread may serve them all.
    let server = server_of(&churn, 1);
    assert!(Command::new("kill").args(["-KILL", &server]).status().unwrap().success());
    let output = churn.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("has ended: signal: 9"), "{errors}");
}

/// Returns the process ID of the server of a run, as soon as the server has threads for so many peers, beside its first
/// thread and the dispatcher.
fn server_of(run: &Child, peers: usize) -> String {
    let children = format!("/proc/{0}/task/{0}/children", run.id());
    let threads = |pid: &str| fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60) {
        let children = fs::read_to_string(&children).unwrap_or_default();
        if let Some(server) = children.split_whitespace().find(|pid| threads(pid) >= 2 + peers) {
            return server.to_owned();
        }
        std::thread::yield_now();
    }
    panic!("the server has no threads for {peers} peers")
}

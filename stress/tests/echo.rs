//! The binary `echo`.
#![allow(missing_docs)]

mod common;

use common::{assert_whole, refusal, report, value};

const PROGRAM: &str = env!("CARGO_BIN_EXE_echo");

#[test]
fn every_byte_comes_back_on_every_protocol() {
    for scheme in ["udp", "dtls", "tcp", "tls"] {
        let arguments =
            ["--scheme", scheme, "--peers", "8", "--active", "4", "--messages", "200", "--window", "4"];
        let report = report(PROGRAM, &arguments);
        // Two payloads of 200 messages.
        assert_eq!(value(&report, "messages echoed"), 400.0, "{scheme}");
        assert_whole(&report);
    }
}

#[test]
fn an_open_loop_sends_at_its_rate() {
    let report =
        report(PROGRAM, &["--peers", "4", "--payload", "64", "--rate", "400", "--duration", "500ms"]);
    let sent = value(&report, "messages sent");
    assert!((150.0..=210.0).contains(&sent), "{sent}");
    assert_eq!(value(&report, "messages echoed"), sent);
}

#[test]
fn floors_and_sleepers_are_beside_the_figure() {
    let arguments = ["--peers", "16", "--payload", "64", "--duration", "150ms", "--floor", "--sleeper"];
    let report = report(PROGRAM, &arguments);
    let row = report.find("server CPU per echo, 64 B").unwrap();
    assert!(row.floor.as_ref().unwrap().of.contains("crypto"));
    for name in [
        "bare epoll CPU per echo, 64 B",
        "crypto in memory, always the same session, 64 B",
        "echoes with 1 of 16 asleep, 64 B",
    ] {
        assert!(value(&report, name) > 0.0, "{name}");
    }
    assert_whole(&report);
}

#[test]
fn a_target_that_is_not_there_is_one_sentence() {
    let said = refusal(PROGRAM, &["--target", "udp://127.9.9.9:9", "--answer", "100ms"]);
    assert!(said.contains("udp://127.9.9.9:9") && said.contains("echo server"), "{said}");
    let said = refusal(PROGRAM, &["--compare", "/nowhere/old.json"]);
    assert!(said.contains("/nowhere/old.json"), "{said}");
}

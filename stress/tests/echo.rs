//! The binary `echo`.
#![allow(missing_docs)]

mod common;

use common::{WAYS, assert_whole, refusal, report, value};

const PROGRAM: &str = env!("CARGO_BIN_EXE_echo");

#[test]
fn every_byte_comes_back_on_every_protocol() {
    for scheme in ["udp", "dtls", "tcp", "tls"] {
        let arguments =
            ["--scheme", scheme, "--peers", "8", "--active", "4", "--messages", "200", "--window", "4"];
        let report = report(PROGRAM, &arguments);
        // There are two payloads with 200 messages each.
        assert_eq!(value(&report, "messages echoed"), 400.0, "{scheme}");
        assert_whole(&report);
    }
}

#[test]
fn every_byte_comes_back_from_loops_and_shared_sockets() {
    let talk =
        ["--peers", "40", "--active", "40", "--payload", "64", "--messages", "400", "--duration", "1h"];
    for way in WAYS {
        for scheme in ["udp", "dtls"] {
            let report = report(PROGRAM, &[&talk[..], &way[..], &["--scheme", scheme]].concat());
            assert_eq!(value(&report, "messages echoed"), 400.0, "{way:?} {scheme}");
            // Threads of peers come in addition to those of the server itself and of its loops.
            let threads = value(&report, "server threads");
            assert_eq!(threads >= 40.0, way[1] == "threads", "{way:?} {scheme}: {threads} threads");
            let descriptors = value(&report, "server descriptors");
            assert_eq!(descriptors >= 40.0, way[3] == "per-peer", "{way:?} {scheme}: {descriptors}");
            assert_whole(&report);
        }
    }
    for scheme in ["tcp", "tls"] {
        let report = report(PROGRAM, &[&talk[..], &["--scheme", scheme, "--serve", "loops"]].concat());
        assert_eq!(value(&report, "messages echoed"), 400.0, "{scheme}");
        assert!(value(&report, "server threads") < 40.0);
        assert_whole(&report);
    }
}

#[test]
fn callbacks_that_sleep_are_set_beside_those_that_do_not() {
    let talk = ["--peers", "32", "--payload", "64", "--duration", "300ms", "--sleeper", "--serve", "loops"];
    let report = report(PROGRAM, &talk);
    assert!(value(&report, "others' echoes with 1 of 16 asleep, 64 B") > 0.0);
    assert_eq!(value(&report, "others' messages lost with 1 of 16 asleep, 64 B"), 0.0);
    assert_whole(&report);
}

#[test]
fn an_open_loop_sends_at_its_rate() {
    let report =
        report(PROGRAM, &["--peers", "4", "--payload", "64", "--rate", "400", "--duration", "500ms"]);
    // A busy machine may send fewer.
    let sent = value(&report, "messages sent");
    assert!(sent > 0.0 && sent <= 210.0, "{sent}");
    assert_eq!(value(&report, "messages echoed"), sent);
}

#[test]
fn floors_and_sleepers_are_beside_the_figure() {
    let arguments = ["--peers", "16", "--payload", "64", "--duration", "150ms", "--floor", "--sleeper"];
    let report = report(PROGRAM, &arguments);
    let row = report.find("server CPU per echo, 64 B").unwrap();
    assert!(row.floor.as_ref().unwrap().of.contains("OpenSSL"));
    let row = report.find("server CPU per echo, beside one bare socket, 64 B").unwrap();
    assert_eq!(row.floor.as_ref().unwrap().of, "bare socket, batches, EVP");
    for name in [
        "bare thread per peer, EVP CPU per echo, 64 B",
        "bare epoll CPU per echo, 64 B",
        "bare socket, batches CPU per echo, 64 B",
        "bare socket, batches, EVP CPU per echo, 64 B",
        "OpenSSL's session in memory, always the same peer, 64 B",
        "others' echoes with 1 of 16 asleep, 64 B",
        "others' echo p99 with 1 of 16 asleep, 64 B",
        "clients' own CPU per echo, 64 B",
        "clients' own RSS per peer",
    ] {
        assert!(value(&report, name) > 0.0, "{name}");
    }
    assert_eq!(value(&report, "others' messages lost with 1 of 16 asleep, 64 B"), 0.0);
    assert_whole(&report);
}

#[test]
fn more_peers_than_messages_under_way_take_turns_on_several_threads() {
    for scheme in ["udp", "dtls", "tcp"] {
        let crowd = ["--scheme", scheme, "--peers", "60", "--active", "60", "--payload", "64"];
        let pace = ["--under-way", "5", "--messages", "600", "--duration", "1h", "--client-threads", "3"];
        let report = report(PROGRAM, &[&crowd[..], &pace].concat());
        assert_eq!(value(&report, "messages echoed"), 600.0, "{scheme}");
        assert_whole(&report);
    }
}

#[test]
fn the_error_for_a_missing_target_is_one_sentence() {
    let said = refusal(PROGRAM, &["--target", "udp://127.9.9.9:9", "--answer", "100ms"]);
    assert!(said.contains("udp://127.9.9.9:9") && said.contains("echo server"), "{said}");
    let said = refusal(PROGRAM, &["--compare", "/nowhere/old.json"]);
    assert!(said.contains("/nowhere/old.json"), "{said}");
}

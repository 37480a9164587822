//! The binary `handshake`.
#![allow(missing_docs)]

mod common;

use common::{refusal, report, value};

const PROGRAM: &str = env!("CARGO_BIN_EXE_handshake");

#[test]
fn clients_of_every_kind_connect() {
    for (scheme, auth) in
        [("dtls", "certificate"), ("dtls", "mutual"), ("dtls", "psk"), ("tls", "certificate")]
    {
        let report = report(PROGRAM, &["--scheme", scheme, "--auth", auth, "--count", "20"]);
        assert_eq!(value(&report, "clients connected"), 20.0, "{scheme} {auth}");
        assert_eq!(value(&report, "clients that failed"), 0.0, "{scheme} {auth}");
        assert_eq!(value(&report, "resumed"), 0.0);
    }
}

#[test]
fn resumed_handshakes_resume() {
    for scheme in ["dtls", "tls"] {
        for serve in ["threads", "loops"] {
            let resumed = ["--scheme", scheme, "--serve", serve, "--resumed", "--leave", "--count", "20"];
            assert_eq!(value(&report(PROGRAM, &resumed), "resumed"), 20.0, "{scheme} {serve}");
        }
    }
}

#[test]
fn a_rate_and_plain_protocols_and_the_floor_are_measured() {
    let dtls = report(PROGRAM, &["--count", "20", "--rate", "200", "--floor"]);
    assert!(dtls.find("server CPU per handshake").unwrap().ratio().unwrap() > 0.0);
    assert!(value(&dtls, "bare socket, batches, EVP: CPU per handshake") > 0.0);
    assert!(value(&dtls, "clients' own CPU per handshake") > 0.0);
    assert_eq!(
        value(&dtls, "clients that retransmitted"),
        value(&dtls, "of them after a second without an answer")
    );
    for scheme in ["udp", "tcp"] {
        let plain = report(PROGRAM, &["--scheme", scheme, "--count", "20"]);
        assert_eq!(value(&plain, "clients connected"), 20.0);
        assert_eq!(value(&plain, "messages echoed"), 20.0);
    }
}

#[test]
fn the_price_of_a_handshake_is_measured_beside_each_number_of_peers_and_on_a_bare_socket() {
    let report = report(PROGRAM, &["--kept", "10,30", "--count", "20", "--floor"]);
    for who in ["", "bare socket, batches, EVP: "] {
        assert!(value(&report, &format!("{who}server CPU per handshake beside 10")) > 0.0);
        let row = report.find(&format!("{who}server CPU per handshake beside 30")).unwrap();
        assert_eq!(row.floor.as_ref().unwrap().of, "the same beside 10");
    }
}

#[test]
fn the_error_for_a_dead_target_is_one_sentence() {
    // No program listens at port 9 of this address, which no other test uses.
    let said = refusal(PROGRAM, &["--target", "tcp://127.9.9.9:9", "--patience", "1s"]);
    assert!(said.contains("tcp://127.9.9.9:9") && said.contains("--target"), "{said}");
    let said = refusal(PROGRAM, &["--target", "dtls://127.9.9.9:9", "--patience", "1s"]);
    assert!(said.contains("dtls://127.9.9.9:9"), "{said}");
}

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
        let report = report(PROGRAM, &["--scheme", scheme, "--resumed", "--leave", "--count", "20"]);
        assert_eq!(value(&report, "resumed"), 20.0, "{scheme}");
    }
}

#[test]
fn a_rate_and_plain_protocols_and_the_floor_are_measured() {
    let dtls = report(PROGRAM, &["--count", "20", "--rate", "200", "--floor"]);
    assert!(dtls.find("server CPU per handshake").unwrap().ratio().unwrap() > 0.0);
    for scheme in ["udp", "tcp"] {
        let plain = report(PROGRAM, &["--scheme", scheme, "--count", "20"]);
        assert_eq!(value(&plain, "clients connected"), 20.0);
        assert_eq!(value(&plain, "messages echoed"), 20.0);
    }
}

#[test]
fn a_dead_target_is_one_sentence() {
    // Port 9 of an address of its own: nobody listens there.
    let said = refusal(PROGRAM, &["--target", "tcp://127.9.9.9:9", "--patience", "1s"]);
    assert!(said.contains("tcp://127.9.9.9:9") && said.contains("--target"), "{said}");
    let said = refusal(PROGRAM, &["--target", "dtls://127.9.9.9:9", "--patience", "1s"]);
    assert!(said.contains("dtls://127.9.9.9:9"), "{said}");
}

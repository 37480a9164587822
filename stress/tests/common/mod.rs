//! Runs a stress binary and reads its report.
#![allow(missing_docs, dead_code, reason = "not every test file uses everything")]

use std::process::{Command, Output};

use peeloff_stress::report::Report;

/// Each way in which a peeloff server can serve UDP and DTLS.
pub const WAYS: [[&str; 4]; 4] = [
    ["--serve", "threads", "--sockets", "per-peer"],
    ["--serve", "threads", "--sockets", "shared"],
    ["--serve", "loops", "--sockets", "per-peer"],
    ["--serve", "loops", "--sockets", "shared"],
];

pub fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap()
}

/// Returns the report of a run, which must succeed. On a busy machine, answers and connections take their time.
pub fn report(program: &str, arguments: &[&str]) -> Report {
    let always = ["--answer", "30s", "--patience", "60s", "--json", "-", "--quiet"];
    let output = run(program, &[arguments, &always].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

pub fn value(report: &Report, name: &str) -> f64 {
    let row = report.find(name);
    row.unwrap_or_else(|| panic!("no figure {name:?} in\n{}", report.to_table())).value
}

/// Checks that no message was lost or changed.
pub fn assert_whole(report: &Report) {
    for name in ["lost", "duplicates", "corrupt", "cross-delivered"] {
        assert_eq!(value(report, name), 0.0, "{name}");
    }
}

/// Returns the one sentence of a run that cannot measure anything.
pub fn refusal(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(errors.trim().lines().count(), 1, "{errors}");
    errors
}

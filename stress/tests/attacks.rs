//! The binaries `flood` and `slowloris`.
#![allow(missing_docs)]

mod common;

use common::{WAYS, assert_whole, refusal, report, value};

const FLOOD: &str = env!("CARGO_BIN_EXE_flood");
const SLOWLORIS: &str = env!("CARGO_BIN_EXE_slowloris");

const HONEST: [&str; 8] =
    ["--honest", "4", "--honest-rate", "100", "--newcomers", "3", "--duration", "400ms"];

#[test]
fn honest_peers_are_served_in_a_flood_that_is_answered() {
    let flood = ["--rate", "500", "--sources", "8", "--floor"];
    let report = report(FLOOD, &[&HONEST[..], &flood].concat());
    assert_eq!(value(&report, "newcomers that got in"), 3.0);
    assert!(value(&report, "datagrams of unknown peers") > 0.0);
    assert!(value(&report, "of them answered") > 0.0);
    assert!(value(&report, "hellos answered per second of server CPU") > 0.0);
    assert_whole(&report);
}

#[test]
fn honest_peers_are_served_in_every_way() {
    for way in WAYS {
        let flood = report(FLOOD, &[&HONEST[..], &way, &["--rate", "500", "--sources", "8"]].concat());
        assert_eq!(value(&flood, "newcomers that got in"), 3.0, "{way:?}");
        let slow = ["--stalled", "10", "--slow", "3", "--slow-messages", "20"];
        let slow = report(SLOWLORIS, &[&HONEST[..], &way, &slow].concat());
        assert_eq!(value(&slow, "newcomers that got in"), 3.0, "{way:?}");
        [&flood, &slow].into_iter().for_each(assert_whole);
    }
}

#[test]
fn junk_is_not_answered() {
    let flood = ["--kind", "junk", "--rate", "500", "--sources", "8"];
    let report = report(FLOOD, &[&HONEST[..], &flood].concat());
    assert_eq!(value(&report, "of them answered"), 0.0);
    assert_whole(&report);
}

#[test]
fn the_cost_of_an_unknown_peer_is_measured_beside_each_number_of_peers() {
    let report = report(FLOOD, &["--children", "0,20", "--datagrams", "50"]);
    assert_eq!(value(&report, "clients connected"), 20.0);
    assert!(value(&report, "unknown datagram beside 0") > 0.0);
    assert!(value(&report, "unknown datagram beside 20") > 0.0);
    assert!(report.find("server CPU per unknown datagram beside 20").is_some());
}

#[test]
fn only_loopback_and_only_datagrams_are_flooded() {
    let said = refusal(FLOOD, &["--scheme", "tcp"]);
    assert!(said.contains("udp or dtls"), "{said}");
}

#[test]
fn honest_peers_are_served_beside_slow_ones() {
    for scheme in ["udp", "dtls", "tcp", "tls"] {
        let slow = ["--scheme", scheme, "--stalled", "10", "--slow", "3", "--slow-messages", "20"];
        let report = report(SLOWLORIS, &[&HONEST[..], &slow].concat());
        let stalled = if scheme == "udp" { 0.0 } else { 10.0 };
        assert_eq!(value(&report, "stalled handshakes"), stalled, "{scheme}");
        assert_eq!(value(&report, "slow readers"), 3.0, "{scheme}");
        assert_eq!(value(&report, "newcomers that got in"), 3.0, "{scheme}");
        assert_whole(&report);
    }
}

//! Network namespaces for tests: the test runs again in a process with an empty loopback interface, whose traffic
//! it can lose, delay and reorder (tc-netem(8)).

use std::env;
use std::process::Command;

/// Set in the process with the namespace.
const INSIDE: &str = "PEELOFF_TEST_NETWORK";

/// Runs the test of this name again in a network namespace of its own, which takes root. Returns `false` inside.
pub fn run_in_own_network(test: &str) -> bool {
    if env::var_os(INSIDE).is_some() {
        return false;
    }
    let status = Command::new("unshare")
        .args(["--net", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""])
        .arg(env::current_exe().unwrap())
        .args(["--exact", test, "--include-ignored", "--nocapture", "--test-threads", "1"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare");
    assert!(status.success(), "{test} failed in its own network");
    true
}

/// Applies this to all packets on loopback, such as `loss 5% delay 10ms 5ms`.
pub fn netem(what: &str) {
    tc(&format!("qdisc replace dev lo root netem limit 100000 {what}"));
}

/// Applies this to all packets to these addresses.
pub fn netem_to(addresses: &[&str], what: &str) {
    tc("qdisc replace dev lo root handle 1: prio bands 4 priomap 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0");
    tc(&format!("qdisc replace dev lo parent 1:4 handle 40: netem limit 100000 {what}"));
    for address in addresses {
        tc(&format!("filter add dev lo parent 1: protocol ip u32 match ip dst {address}/32 flowid 1:4"));
    }
}

/// Restores a perfect network.
pub fn heal() {
    tc("qdisc del dev lo root");
}

fn tc(arguments: &str) {
    let done = Command::new("tc").args(arguments.split_whitespace()).output().expect("tc");
    assert!(done.status.success(), "tc {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

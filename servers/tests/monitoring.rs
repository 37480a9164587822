//! The files in servers/monitoring: a real Prometheus reads its configuration and its alerts, scrapes a server,
//! and knows every metric that the dashboard and the alerts name.

mod support;

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;
use support::{DEADLINE, Directory, NC, Program, run, start_echo};

fn monitoring(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("monitoring").join(name)).unwrap()
}

/// Returns the queries of the dashboard.
fn queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&monitoring("dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

/// Returns the metrics that a query names.
fn metrics(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| ["peeloff_", "process_"].iter().any(|prefix| word.starts_with(prefix)))
}

fn alerts() -> Vec<String> {
    let rules = monitoring("alerts.yml");
    let names = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    names.map(str::to_owned).collect()
}

#[test]
fn promtool_takes_the_configuration_and_each_alert_fires_when_it_should() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("monitoring");
    for arguments in [["check", "config", "prometheus.yml"], ["test", "rules", "alerts.test.yml"]] {
        let output = Command::new("promtool").args(arguments).current_dir(&folder).output();
        let output = output.expect("Debian's package prometheus is installed");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
    let tests = monitoring("alerts.test.yml");
    for alert in alerts() {
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "{alert} is not tested");
    }
}

#[test]
fn the_operators_page_says_what_each_alert_means() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    for alert in alerts() {
        assert!(page.contains(&format!("| `{alert}` |")), "{alert} is not in servers/README.md");
    }
}

#[test]
fn panels_of_the_dashboard_have_places_and_sources_of_their_own() {
    let dashboard: Value = serde_json::from_str(&monitoring("dashboard.json")).unwrap();
    let (mut ids, mut taken) = (HashSet::new(), HashSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(&panel["id"]), "{panel}");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
        assert!(x + w <= 24, "{panel}");
        for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(place), "{} overlaps another panel", panel["title"]);
        }
        if panel["type"] != "row" {
            assert_eq!(panel["datasource"]["uid"], "${datasource}");
            assert!(!panel["description"].as_str().unwrap().is_empty(), "{panel}");
        }
    }
}

/// A Prometheus that scrapes every second.
struct Prometheus {
    _program: Program,
    address: String,
}

impl Prometheus {
    fn start(files: &Directory, target: &str) -> Self {
        let config = monitoring("prometheus.yml").replace("127.0.0.1:9464", target).replace("15s", "1s");
        assert!(config.contains(target) && config.contains("1s"));
        files.file("alerts.yml", monitoring("alerts.yml"));
        let config = format!("--config.file={}", files.file("prometheus.yml", config));
        let storage = format!("--storage.tsdb.path={}", files.path("data"));
        let mut program =
            Program::start("prometheus", &[&config, &storage, "--web.listen-address=127.0.0.1:0"]);
        let line = program.stderr_line("Listening on");
        let address = line.rsplit_once("address=").unwrap().1.to_owned();
        Self { _program: program, address }
    }

    fn get(&self, path: &str, query: &str) -> Value {
        let (url, query) = (format!("http://{}/api/v1/{path}", self.address), format!("query={query}"));
        let arguments = ["-sS", "--max-time", "30", "-G", "--data-urlencode", &query, &url];
        let output = Command::new("curl").args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let mut answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"].take()
    }
}

/// Looks again until there is a result.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < give_up, "waited in vain: {what}");
    }
}

#[test]
fn prometheus_knows_every_metric_of_the_dashboard_and_the_alerts() {
    let files = Directory::new("monitoring");
    let schemes = ["udp", "dtls", "tcp", "tls"].map(|scheme| format!("{scheme}://127.0.0.1:0"));
    let listen = schemes.iter().flat_map(|url| ["--listen", url.as_str()]);
    let arguments: Vec<&str> = listen.chain(["--admin", "127.0.0.1:0"]).collect();
    let (mut server, first) = start_echo(&arguments);
    let admin = server.stderr_line("metrics and health").rsplit_once("address=").unwrap().1.to_owned();
    let prometheus = Prometheus::start(&files, &admin);
    let addresses: Vec<String> = [first].into_iter().chain((1..4).map(|_| server.address())).collect();
    for address in &addresses {
        assert_eq!(run(NC, &["--insecure", address], "hello\n").stdout, "hello\n");
    }
    until("the target is up", || {
        let up = prometheus.get("query", "up{job=\"peeloff\"} == 1");
        (!up["result"].as_array().unwrap().is_empty()).then_some(())
    });
    let names = prometheus.get("label/__name__/values", "");
    let names: BTreeSet<&str> = names.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    let queries = queries();
    assert!(queries.len() > 50, "{queries:?}");
    for query in &queries {
        assert!(metrics(query).count() > 0, "{query}");
        metrics(query).for_each(|metric| assert!(names.contains(metric), "{query}: there is no {metric}"));
        let query =
            query.replace("$__rate_interval", "1m").replace("$job", "peeloff").replace("$instance", ".*");
        assert!(!query.contains('$'), "{query}");
        // A query that shows only positive values may have no result.
        let query = query.trim_end_matches(" > 0");
        until(query, || {
            let found = prometheus.get("query", query);
            (!found["result"].as_array().unwrap().is_empty()).then_some(())
        });
    }
    let rules = until("each rule is evaluated", || {
        let mut groups = prometheus.get("rules", "");
        let rules = groups["groups"][0]["rules"].take();
        rules.as_array().unwrap().iter().all(|rule| rule["health"] == "ok").then_some(rules)
    });
    let rules = rules.as_array().unwrap();
    assert_eq!(rules.len(), alerts().len());
    for rule in rules {
        let query = rule["query"].as_str().unwrap();
        metrics(query).for_each(|metric| assert!(names.contains(metric), "{query}: there is no {metric}"));
        assert_eq!(rule["state"], "inactive", "the server is well: {rule}");
    }
    server.kill();
    until("the end of the server is noticed", || {
        let alerts = prometheus.get("alerts", "");
        let is_down = |alert: &Value| alert["labels"]["alertname"] == "PeeloffDown";
        alerts["alerts"].as_array().unwrap().iter().any(is_down).then_some(())
    });
}

//! The cost of an unknown peer's datagram is measured in one place, `stress/RESULTS.md`, which `scripts/bench`
//! writes. All other files quote these figures; `scripts/bench --quote` writes them there.

use std::fs;
use std::path::Path;

fn text(file: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    fs::read_to_string(root.join(file)).unwrap()
}

/// Returns the rows of the tables about children, each as pairs of a number of children and a figure.
fn curves(text: &str) -> Vec<Vec<(String, String)>> {
    let cells = |line: &str| -> Vec<String> {
        let line = line.trim_start_matches('|').trim_end_matches('|');
        line.split('|').skip(1).map(|cell| cell.trim().to_owned()).collect()
    };
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let mut curves = Vec::new();
    for head in (0..lines.len()).filter(|&at| lines[at].starts_with("| children")) {
        // The line that separates it from the rows follows the heading.
        for row in lines[head + 2..].iter().take_while(|line| line.starts_with('|')) {
            curves.push(cells(lines[head]).into_iter().zip(cells(row)).collect());
        }
    }
    curves
}

#[test]
fn the_guide_and_the_doc_of_limits_quote_the_measured_curve() {
    let measured = curves(&text("stress/RESULTS.md"));
    assert_eq!(measured.len(), 2, "the curve of this kernel and that of an older one: {measured:?}");
    assert!(measured.iter().all(|curve| curve.len() == 6), "{measured:?}");
    let chapter = text("docs/guide/limits.md");
    assert_eq!(curves(&chapter), measured, "docs/guide/limits.md has to quote stress/RESULTS.md");

    let source = text("framework/src/admission/mod.rs").replace("///", "");
    let prose = source.split_whitespace().collect::<Vec<_>>().join(" ");
    for (children, figure) in
        measured[0].iter().filter(|(at, _)| ["1,000", "5,000", "15,000"].contains(&&**at))
    {
        let quote = format!("{figure} µs at {children}");
        assert!(prose.contains(&quote), "the doc of max_peers_per_local_address has to say {quote:?}");
    }
}

/// The cells of the first row that begins so, in a table of this page.
fn row(page: &str, beginning: &str) -> Vec<String> {
    let text = text(page);
    let row = text.lines().find(|line| line.starts_with(&format!("| {beginning}")));
    let row = row.unwrap_or_else(|| panic!("{page} has no row {beginning:?}"));
    row.split('|').skip(2).map(|cell| cell.trim().to_owned()).collect()
}

#[test]
fn the_readme_and_the_guide_quote_what_a_quiet_peer_takes_and_what_an_unknown_one_costs() {
    let measured = row("docs/serving.md", "memory of a quiet DTLS peer");
    // Threads with sockets of their own are the first column, event loops with shared sockets the third.
    let [threads, loops] =
        [&measured[0], &measured[2]].map(|cell| cell.split(" [").next().unwrap().to_owned());
    assert!(threads.ends_with(" KiB") && loops.ends_with(" KiB"), "{measured:?}");
    for (page, beginning) in
        [("README.md", "memory of a quiet DTLS peer"), ("docs/guide/limits.md", "a quiet DTLS peer")]
    {
        let quoted = row(page, beginning);
        assert!(quoted[0].starts_with(&threads), "{page} has to say {threads}: {quoted:?}");
        assert_eq!(quoted[1], loops, "{page}");
    }
    // Of an echo, beside a bare loop with a thread and a session of OpenSSL's for each peer.
    let results = text("stress/RESULTS.md");
    let of_threads = results.split("## Event loops").next().unwrap();
    let rows = of_threads.lines().filter(|line| line.starts_with("| echo, "));
    let ratios: Vec<f64> =
        rows.map(|row| row.split('|').nth(4).unwrap().trim().parse().expect(row)).collect();
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(0.0, f64::max);
    let range = format!("{least:.1} to {most:.1} times a bare loop");
    assert!(text("README.md").contains(&range), "README.md has to say {range:?}");

    // The table of all combinations has no figure for event loops with a socket per peer.
    let [loops, threads, shared] = ["a bare loop", "a thread and", "threads with"].map(|beside| {
        let line = results.lines().find(|line| {
            line.starts_with("| echo, 64 talking")
                && line.contains(&format!("beside {beside} "))
                && !line.contains("OpenSSL's session")
        });
        line.unwrap().split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
    });
    let quoted = row("docs/serving.md", "server CPU for an echo of 64 B");
    assert_eq!(quoted[..3], [&*threads[3], &*shared[2], &*loops[2]], "docs/serving.md");

    let curve = &curves(&results)[0];
    let (_, figure) = curve.iter().find(|(children, _)| children == "10,000").unwrap();
    let quoted = row("README.md", "an unknown peer's datagram beside 10,000 peers");
    assert_eq!(quoted[0], format!("{figure} µs"), "README.md");
}

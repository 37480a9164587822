//! What a run came to: rows of figures, each with its floor where there is one, and plots.
//!
//! The same [`Report`] is the table on the terminal, the JSON for a script, the page for a colleague, and what a
//! later run is compared with.

mod compare;
mod html;
mod table;

use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// The layout of the JSON; a file with another one cannot be compared with.
const LAYOUT: u32 = 1;

/// What one run came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The layout of this file.
    pub layout: u32,
    /// The binary.
    pub scenario: String,
    /// The server that was measured.
    pub target: String,
    /// When it began (RFC 3339, UTC).
    pub began: String,
    /// The machine, as name and value.
    pub machine: Vec<(String, String)>,
    /// What was asked for, as name and value.
    pub options: Vec<(String, String)>,
    /// The figures.
    pub rows: Vec<Row>,
    /// Curves.
    pub plots: Vec<Plot>,
    /// Sentences that a reader has to know.
    pub notes: Vec<String>,
    /// Whether somebody ended the run early.
    pub interrupted: bool,
}

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What it is, the same in every run.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what; empty for counts.
    pub unit: String,
    /// What the machine could do at best.
    pub floor: Option<Floor>,
    /// Which direction is better.
    pub better: Better,
}

/// What the machine could do at best.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Floor {
    /// How much, in the row's unit.
    pub value: f64,
    /// What was measured.
    pub of: String,
}

/// Which direction of a figure is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Less of it.
    Lower,
    /// More of it.
    Higher,
    /// It only describes the run.
    Neither,
}

/// Curves over one axis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plot {
    /// What it shows.
    pub title: String,
    /// What goes to the right.
    pub x: String,
    /// What goes up.
    pub y: String,
    /// The curves.
    pub series: Vec<Series>,
}

/// One curve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// What it is.
    pub name: String,
    /// Its points.
    pub points: Vec<(f64, f64)>,
}

impl Row {
    /// The value as a multiple of its floor.
    pub fn ratio(&self) -> Option<f64> {
        self.floor.as_ref().filter(|floor| floor.value > 0.0).map(|floor| self.value / floor.value)
    }
}

impl Report {
    /// An empty one that begins now.
    pub fn new(scenario: &str, target: &str) -> Self {
        Self {
            layout: LAYOUT,
            scenario: scenario.to_owned(),
            target: target.to_owned(),
            began: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            machine: machine(),
            options: Vec::new(),
            rows: Vec::new(),
            plots: Vec::new(),
            notes: Vec::new(),
            interrupted: false,
        }
    }

    /// Says what was asked for.
    pub fn option(&mut self, name: &str, value: impl ToString) {
        self.options.push((name.to_owned(), value.to_string()));
    }

    /// Adds a figure of which less is better.
    pub fn lower(&mut self, name: &str, value: f64, unit: &str) -> &mut Row {
        self.row(name, value, unit, Better::Lower)
    }

    /// Adds a figure of which more is better.
    pub fn higher(&mut self, name: &str, value: f64, unit: &str) -> &mut Row {
        self.row(name, value, unit, Better::Higher)
    }

    /// Adds a figure that describes the run.
    pub fn plain(&mut self, name: &str, value: f64, unit: &str) -> &mut Row {
        self.row(name, value, unit, Better::Neither)
    }

    fn row(&mut self, name: &str, value: f64, unit: &str, better: Better) -> &mut Row {
        let (name, unit) = (name.to_owned(), unit.to_owned());
        // JSON has no infinities.
        let value = if value.is_finite() { value } else { 0.0 };
        let at = self.rows.len();
        self.rows.push(Row { name, value, unit, floor: None, better });
        &mut self.rows[at]
    }

    /// Adds a sentence, once.
    pub fn note(&mut self, sentence: impl Into<String>) {
        let sentence = sentence.into();
        if !self.notes.contains(&sentence) {
            self.notes.push(sentence);
        }
    }

    /// The figure of that name.
    pub fn find(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// For a terminal.
    pub fn to_table(&self) -> String {
        table::render(self)
    }

    /// For a script.
    pub fn to_json(&self) -> String {
        // Strings and finite numbers can always be written.
        serde_json::to_string_pretty(self).expect("a report is plain data")
    }

    /// One page that needs nothing else.
    pub fn to_html(&self, older: Option<&Report>) -> String {
        html::render(self, older)
    }

    /// What changed since an older run, for a terminal.
    pub fn compared_with(&self, older: &Report) -> String {
        compare::render(self, older)
    }

    /// Reads what [`to_json`](Self::to_json) wrote.
    ///
    /// # Errors
    ///
    /// One sentence: the file is not there, or is none of these, or of another layout.
    pub fn read(path: &Path) -> Result<Self, String> {
        let place = path.display();
        let text = fs::read_to_string(path).map_err(|why| format!("{place} cannot be read: {why}"))?;
        let report: Self = serde_json::from_str(&text)
            .map_err(|why| format!("{place} is not what --json wrote ({why}); give such a file"))?;
        match report.layout {
            LAYOUT => Ok(report),
            other => Err(format!("{place} has layout {other}, not {LAYOUT}; measure anew with this version")),
        }
    }
}

impl Row {
    /// With what the machine could do at best.
    pub fn over(&mut self, value: f64, of: &str) -> &mut Self {
        if value.is_finite() && value > 0.0 {
            self.floor = Some(Floor { value, of: of.to_owned() });
        }
        self
    }
}

/// Checks that a file can be put there, as far as that is known without making one.
///
/// # Errors
///
/// One sentence that names the file: its folder is not there.
pub fn check_folder(path: &Path) -> Result<(), String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    match folder {
        Some(folder) if !folder.is_dir() => {
            Err(format!("{} cannot be written: {} is no folder", path.display(), folder.display()))
        }
        _ => Ok(()),
    }
}

/// Writes a text to a file, or to standard output where the path is `-`.
///
/// # Errors
///
/// One sentence that names the file.
pub fn write(path: &Path, text: &str) -> Result<(), String> {
    if path == Path::new("-") {
        println!("{text}");
        return Ok(());
    }
    fs::write(path, text).map_err(|why| format!("{} cannot be written: {why}", path.display()))
}

/// A figure with as many digits as mean something.
fn digits(value: f64) -> String {
    match value.abs() {
        _ if value == value.trunc() && value.abs() < 1e15 => format!("{value:.0}"),
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn machine() -> Vec<(String, String)> {
    let read = |path: &str| -> io::Result<String> { fs::read_to_string(path) };
    let kernel = read("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    let cpus = read("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| line.split_once(": ")).map_or("unknown", |(_, model)| model);
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let load = read("/proc/loadavg").unwrap_or_default();
    vec![
        ("kernel".to_owned(), kernel),
        ("OpenSSL".to_owned(), openssl::version::version().to_owned()),
        ("processors".to_owned(), format!("{count} × {model}")),
        ("load at the start".to_owned(), load.split(' ').next().unwrap_or("unknown").to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::new("echo", "udp://127.0.0.1:7");
        report.option("peers", 3);
        report.lower("server CPU per echo", 6.0, "µs").over(4.0, "bare");
        report.higher("echoes", 1000.0, "/s");
        report.plots.push(Plot {
            title: "Latency".to_owned(),
            x: "percentile".to_owned(),
            y: "µs".to_owned(),
            series: vec![Series { name: "<all>".to_owned(), points: vec![(0.0, 1.0), (100.0, 900.0)] }],
        });
        report.note("one");
        report.note("one");
        report
    }

    #[test]
    fn a_ratio_is_the_value_over_its_floor() {
        let report = report();
        assert_eq!(report.find("server CPU per echo").unwrap().ratio(), Some(1.5));
        assert_eq!(report.find("echoes").unwrap().ratio(), None);
        assert_eq!(report.notes.len(), 1);
    }

    #[test]
    fn json_comes_back_as_it_was() {
        let report = report();
        assert_eq!(serde_json::from_str::<Report>(&report.to_json()).unwrap(), report);
    }

    #[test]
    fn the_page_needs_nothing_else_and_escapes_what_it_is_given() {
        let page = report().to_html(Some(&report()));
        assert!(page.contains("<svg") && page.contains("&lt;all&gt;") && !page.contains("<all>"));
        for outside in ["http://", "https://", "src=", "<script", "<link"] {
            assert!(!page.replace("http://www.w3.org/2000/svg", "").contains(outside), "{outside}");
        }
    }

    #[test]
    fn a_comparison_says_what_became_better_and_worse() {
        let (older, mut newer) = (report(), report());
        newer.rows[0].value = 3.0;
        newer.rows[1].value = 500.0;
        let text = newer.compared_with(&older);
        let line = |name: &str| text.lines().find(|line| line.contains(name)).unwrap().to_owned();
        assert!(line("server CPU").contains("-50.0 %") && line("server CPU").contains("better"));
        assert!(line("echoes").contains("-50.0 %") && line("echoes").contains("worse"));
    }

    #[test]
    fn the_table_shows_every_figure_with_its_floor() {
        let table = report().to_table();
        for word in ["server CPU per echo", "6 µs", "4 µs", "1.50", "echoes", "1000 /s", "bare"] {
            assert!(table.contains(word), "{word} is missing in\n{table}");
        }
    }
}

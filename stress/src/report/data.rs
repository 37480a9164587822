//! The data of a report.

use std::fs;
use std::io;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// The version of the JSON layout. Only files with the same version can be compared.
pub(super) const LAYOUT: u32 = 1;

/// The results of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The version of the layout.
    pub layout: u32,
    /// The name of the binary.
    pub scenario: String,
    /// The server that was measured.
    pub target: String,
    /// When the run began (RFC 3339, UTC).
    pub began: String,
    /// Properties of the machine, as name and value.
    pub machine: Vec<(String, String)>,
    /// The options, as name and value.
    pub options: Vec<(String, String)>,
    /// The figures.
    pub rows: Vec<Row>,
    /// The plots.
    pub plots: Vec<Plot>,
    /// Notes that a reader must know.
    pub notes: Vec<String>,
    /// Whether the user ended the run early.
    pub interrupted: bool,
}

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The name, which is the same in every run.
    pub name: String,
    /// The value.
    pub value: f64,
    /// The unit; empty for counts.
    pub unit: String,
    /// The best that the machine can do.
    pub floor: Option<Floor>,
    /// Which direction is better.
    pub better: Better,
}

/// The best that the machine can do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Floor {
    /// The value, in the row's unit.
    pub value: f64,
    /// A description of the measurement.
    pub of: String,
}

/// Which direction of a figure is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Lower values are better.
    Lower,
    /// Higher values are better.
    Higher,
    /// The figure only describes the run.
    Neither,
}

/// Curves with a common x axis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plot {
    /// The title.
    pub title: String,
    /// The label of the horizontal axis.
    pub x: String,
    /// The label of the vertical axis.
    pub y: String,
    /// The curves.
    pub series: Vec<Series>,
}

/// One curve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// The name of the curve.
    pub name: String,
    /// The points of the curve.
    pub points: Vec<(f64, f64)>,
}

impl Row {
    /// Returns the value divided by its floor.
    pub fn ratio(&self) -> Option<f64> {
        self.floor.as_ref().filter(|floor| floor.value > 0.0).map(|floor| self.value / floor.value)
    }

    /// Sets the best that the machine can do.
    pub fn over(&mut self, value: f64, of: &str) -> &mut Self {
        if value.is_finite() && value > 0.0 {
            self.floor = Some(Floor { value, of: of.to_owned() });
        }
        self
    }
}

impl Report {
    /// Makes an empty report that begins now.
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

    /// Adds an option.
    pub fn option(&mut self, name: &str, value: impl ToString) {
        self.options.push((name.to_owned(), value.to_string()));
    }

    /// Adds a figure whose lower values are better.
    pub fn lower(&mut self, name: &str, value: f64, unit: &str) -> &mut Row {
        self.row(name, value, unit, Better::Lower)
    }

    /// Adds a figure whose higher values are better.
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

    /// Adds a note, unless the report has it already.
    pub fn note(&mut self, sentence: impl Into<String>) {
        let sentence = sentence.into();
        if !self.notes.contains(&sentence) {
            self.notes.push(sentence);
        }
    }

    /// Returns the figure with this name.
    pub fn find(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }
}

/// Formats a figure with its significant digits.
pub(super) fn digits(value: f64) -> String {
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

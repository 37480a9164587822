//! Compares two runs.

use std::fmt::Write;

use super::data::{Better, Report, Row, digits};

/// Smaller relative changes than this are noise.
const NOISE: f64 = 0.03;

/// The change of a figure.
pub(super) struct Change {
    pub(super) older: f64,
    /// The change relative to the older figure; none if that is 0.
    pub(super) by: Option<f64>,
    /// Whether it is the change of the ratio, because both runs have a floor.
    pub(super) of_ratio: bool,
    pub(super) verdict: &'static str,
}

/// Returns the change of a figure since the older run.
pub(super) fn change(newer: &Row, older: &Report) -> Option<Change> {
    let old = older.find(&newer.name).filter(|old| old.unit == newer.unit)?;
    // Absolute figures vary with the state of the machine; ratios vary less.
    let (value, before, of_ratio) = match (newer.ratio(), old.ratio()) {
        (Some(value), Some(before)) => (value, before, true),
        _ => (newer.value, old.value, false),
    };
    let by = (before != 0.0).then(|| value / before - 1.0);
    let moved = by.unwrap_or(if value == before { 0.0 } else { 1.0 });
    let verdict = match (newer.better, moved) {
        (Better::Neither, _) => "",
        (_, moved) if moved.abs() < NOISE => "same",
        (Better::Lower, moved) if moved < 0.0 => "better",
        (Better::Higher, moved) if moved > 0.0 => "better",
        _ => "worse",
    };
    Some(Change { older: old.value, by, of_ratio, verdict })
}

pub(super) fn render(newer: &Report, older: &Report) -> String {
    let mut text = format!("\ncompared with the run of {}\n", older.began);
    let different: Vec<&str> = newer
        .options
        .iter()
        .chain(&newer.machine[..newer.machine.len().min(3)])
        .filter(|pair| !older.options.contains(pair) && !older.machine.contains(pair))
        .map(|(name, _)| name.as_str())
        .collect();
    if newer.scenario != older.scenario {
        let _ = writeln!(text, "(another scenario: {})", older.scenario);
    }
    if !different.is_empty() {
        let _ = writeln!(text, "(these differed in the older run: {})", different.join(", "));
    }
    let name = newer.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    for row in &newer.rows {
        let Some(change) = change(row, older) else { continue };
        let by = change.by.map(|by| format!("{:+.1} %", by * 100.0)).unwrap_or_default();
        let what = if change.of_ratio { " (of the ratio)" } else { "" };
        let _ = writeln!(
            text,
            "{:<name$} {:>12} -> {:>12} {:<6} {by:>10} {}{what}",
            row.name,
            digits(change.older),
            digits(row.value),
            row.unit,
            change.verdict,
        );
    }
    text
}

//! Renders the table for the terminal.

use std::fmt::Write;

use super::data::{Report, digits};

pub(super) fn render(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{} · {} · {}", report.scenario, report.target, report.began);
    let mut pairs = |pairs: &[(String, String)]| {
        let all: Vec<String> = pairs.iter().map(|(name, value)| format!("{name} {value}")).collect();
        let _ = writeln!(text, "{}", all.join(" · "));
    };
    pairs(&report.machine);
    pairs(&report.options);
    let figure = |value: f64, unit: &str| format!("{} {unit}", digits(value)).trim_end().to_owned();
    let name = report.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max(6);
    let floors = report.rows.iter().any(|row| row.floor.is_some());
    let _ = write!(text, "\n{:<name$} {:>16}", "figure", "value");
    if floors {
        let _ = write!(text, " {:>14} {:>6}  what the floor is", "floor", "ratio");
    }
    text.push('\n');
    for row in &report.rows {
        let _ = write!(text, "{:<name$} {:>16}", row.name, figure(row.value, &row.unit));
        if let Some(floor) = &row.floor {
            let ratio = row.ratio().map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
            let _ = write!(text, " {:>14} {ratio:>6}  {}", figure(floor.value, &row.unit), floor.of);
        }
        text.push('\n');
    }
    if report.interrupted {
        text.push_str("\nInterrupted: the figures cover the time until then.\n");
    }
    for note in &report.notes {
        let _ = writeln!(text, "\n{note}");
    }
    text
}

//! The results of a run: rows of figures, with floors where there are any, and plots.
//!
//! The same [`Report`] is shown as a table on the terminal, as JSON for scripts and as an HTML page, and can be
//! compared with a later run.

mod compare;
mod data;
mod html;
mod table;

use std::fs;
use std::path::Path;

use self::data::LAYOUT;
pub use self::data::{Better, Floor, Plot, Report, Row, Series};

impl Report {
    /// Renders the report for a terminal.
    pub fn to_table(&self) -> String {
        table::render(self)
    }

    /// Renders the report for a script.
    pub fn to_json(&self) -> String {
        // Strings and finite numbers can always be serialized.
        serde_json::to_string_pretty(self).expect("a report is plain data")
    }

    /// Renders the report as a self-contained HTML page.
    pub fn to_html(&self, older: Option<&Report>) -> String {
        html::render(self, older)
    }

    /// Renders the changes since an older run, for a terminal.
    pub fn compared_with(&self, older: &Report) -> String {
        compare::render(self, older)
    }

    /// Reads a report that [`to_json`](Self::to_json) wrote.
    ///
    /// # Errors
    ///
    /// Returns an error, whose text is one sentence, if the file does not exist, is not a report, or has another
    /// layout.
    pub fn read(path: &Path) -> Result<Self, String> {
        let place = path.display();
        let text = fs::read_to_string(path).map_err(|why| format!("{place} cannot be read: {why}"))?;
        let report: Self = serde_json::from_str(&text)
            .map_err(|why| format!("{place} is not a report that --json wrote ({why}); give such a file"))?;
        match report.layout {
            LAYOUT => Ok(report),
            other => Err(format!(
                "{place} has layout {other}, not {LAYOUT}; repeat the measurement with this version"
            )),
        }
    }
}

/// Checks that a file can be created at this path, as far as that is possible without creating it.
///
/// # Errors
///
/// Returns an error, whose text is one sentence with the file's name, if its folder does not exist.
pub fn check_folder(path: &Path) -> Result<(), String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    match folder {
        Some(folder) if !folder.is_dir() => {
            Err(format!("{} cannot be written: {} is not a folder", path.display(), folder.display()))
        }
        _ => Ok(()),
    }
}

/// Writes a text to a file, or to standard output if the path is `-`.
///
/// # Errors
///
/// Returns an error, whose text is one sentence with the file's name.
pub fn write(path: &Path, text: &str) -> Result<(), String> {
    if path == Path::new("-") {
        println!("{text}");
        return Ok(());
    }
    fs::write(path, text).map_err(|why| format!("{} cannot be written: {why}", path.display()))
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

//! Records latencies in a [`Histogram`], from the instant at which an operation was due. If the server is slow
//! and therefore delays a client, the client's waiting counts too (no coordinated omission).

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::report::{Report, Series};

/// The percentiles in the names of figures.
const PERCENTILES: [(f64, &str); 4] = [(50.0, "p50"), (90.0, "p90"), (99.0, "p99"), (99.9, "p99.9")];

/// A distribution of durations from 0.1 µs to 10 minutes, with three significant digits.
#[derive(Clone, Debug)]
pub struct Latency(Histogram<u64>);

impl Default for Latency {
    fn default() -> Self {
        // These bounds are valid.
        Self(Histogram::new_with_bounds(100, 600_000_000_000, 3).expect("valid bounds"))
    }
}

impl Latency {
    /// Records one duration.
    pub fn record(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Adds all durations of another distribution.
    pub fn add(&mut self, other: &Self) {
        // Both have the same bounds.
        let _ = self.0.add(&other.0);
    }

    /// Returns the number of durations.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// Returns a percentile in microseconds, or 0 if there are no durations.
    pub fn percentile(&self, percentile: f64) -> f64 {
        if self.0.is_empty() { 0.0 } else { self.0.value_at_percentile(percentile) as f64 / 1e3 }
    }

    /// Reports a figure for each percentile, whose name begins with `what`.
    pub fn describe(&self, report: &mut Report, what: &str) {
        if self.0.is_empty() {
            return;
        }
        for (percentile, name) in PERCENTILES {
            report.lower(&format!("{what} {name}"), self.percentile(percentile), "µs");
        }
        report.lower(&format!("{what} max"), self.0.max() as f64 / 1e3, "µs");
    }

    /// Returns the curve of the percentiles, with more points towards 100.
    pub fn series(&self, name: &str) -> Series {
        let at = (0..=90).step_by(5).map(f64::from).chain([92.0, 94.0, 96.0, 98.0, 99.0, 99.5, 99.9, 100.0]);
        Series { name: name.to_owned(), points: at.map(|at| (at, self.percentile(at))).collect() }
    }
}

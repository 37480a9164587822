//! Writes the metrics as text.
//!
//! A page is kept for some time, and all scrapers get the same page meanwhile. Scrapers that ask without a pause
//! therefore cost the server at most a twentieth of one processor, and hold the registry's lock for at most a
//! twentieth of the time.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use parking_lot::Mutex;
use peeloff::{Family, FamilyKind, Handle, Sample, SampleValue};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::process;
use crate::logging;

/// A page is kept for this many times the time that it took to make.
const KEPT: u32 = 19;

/// The format of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// <https://prometheus.io/docs/specs/om/open_metrics_spec/>
    OpenMetrics,
    /// The older text format of Prometheus.
    Text,
}

impl Format {
    /// Returns the format that the values of the header Accept ask for: the older format for clients that name it
    /// and do not name OpenMetrics.
    pub(super) fn accepted<'a>(accept: impl Iterator<Item = &'a str>) -> Self {
        let (mut open_metrics, mut text) = (false, false);
        for value in accept {
            open_metrics |= value.contains("application/openmetrics-text");
            text |= value.contains("text/plain");
        }
        if text && !open_metrics { Self::Text } else { Self::OpenMetrics }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Makes and keeps pages.
pub(super) struct Pages {
    registry: Registry,
    /// The last page of each format.
    last: Mutex<[Option<Page>; 2]>,
}

struct Page {
    text: Bytes,
    good_until: Instant,
}

impl Pages {
    pub(super) fn new(handle: Handle) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Source { handle, scrapes: AtomicU64::new(0) }));
        Self { registry, last: Mutex::default() }
    }

    /// Returns a page that is new, or recent enough. Returns none if it cannot be written.
    pub(super) fn get(&self, format: Format) -> Option<Bytes> {
        let mut last = self.last.lock();
        let last = &mut last[format as usize];
        let began = Instant::now();
        if let Some(page) = last.as_ref().filter(|page| began < page.good_until) {
            return Some(page.text.clone());
        }
        let mut text = String::new();
        let written = match format {
            Format::OpenMetrics => text::encode(&mut text, &self.registry),
            Format::Text => prometheus_text::encode(&mut text, &self.registry),
        };
        written.ok()?;
        let text = Bytes::from(text);
        let good_until = began + KEPT * began.elapsed();
        *last = Some(Page { text: text.clone(), good_until });
        Some(text)
    }
}

/// Collects the metrics.
#[derive(Debug)]
struct Source {
    handle: Handle,
    scrapes: AtomicU64,
}

impl Collector for Source {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Family { name, help, kind, samples, .. } in &self.handle.metrics().families() {
            let (name, unit) = unit_of(name);
            let kind = match kind {
                FamilyKind::Counter => MetricType::Counter,
                FamilyKind::Gauge => MetricType::Gauge,
                FamilyKind::Histogram => MetricType::Histogram,
            };
            let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), kind)?;
            for Sample { labels, value, .. } in samples {
                match labels.as_slice() {
                    [] => encode(&mut family, kind, value)?,
                    _ => encode(&mut family.encode_family(labels)?, kind, value)?,
                }
            }
        }
        let scrapes = self.scrapes.fetch_add(1, Ordering::Relaxed) + 1;
        let own = [
            ("peeloff_pages", "Pages of metrics made.", scrapes),
            (
                "peeloff_log_lines_lost",
                "Log lines that were dropped because nobody read the log.",
                logging::lost_lines(),
            ),
            (
                "peeloff_access_log_lines_lost",
                "Access log lines that were dropped because they could not be written.",
                logging::lost_access_lines(),
            ),
        ];
        for (name, help, value) in own {
            let mut counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            encode(&mut counter, MetricType::Counter, &SampleValue::Number(value))?;
        }
        process::encode(&mut encoder)
    }
}

/// Splits the unit off the name, because the format gives it separately.
fn unit_of(name: &str) -> (&str, Option<Unit>) {
    match (name.strip_suffix("_seconds"), name.strip_suffix("_bytes")) {
        (Some(name), _) => (name, Some(Unit::Seconds)),
        (_, Some(name)) => (name, Some(Unit::Bytes)),
        _ => (name, None),
    }
}

fn encode(metric: &mut MetricEncoder<'_>, kind: MetricType, value: &SampleValue) -> fmt::Result {
    match (value, kind) {
        (SampleValue::Number(value), MetricType::Counter) => {
            metric.encode_counter::<NoLabelSet, _, u64>(value, None)
        }
        (SampleValue::Number(value), _) => metric.encode_gauge(value),
        (SampleValue::Fraction(value), _) => metric.encode_gauge(value),
        (SampleValue::Distribution(times), _) => {
            let bound = |bound: Option<Duration>| bound.map_or(f64::INFINITY, |bound| bound.as_secs_f64());
            let buckets: Vec<_> = times.buckets().map(|(longest, count)| (bound(longest), count)).collect();
            metric.encode_histogram::<NoLabelSet>(times.sum().as_secs_f64(), times.count(), &buckets, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_the_one_that_is_asked_for() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, expected) in
            [(prometheus, Format::OpenMetrics), ("*/*", Format::OpenMetrics), ("text/plain", Format::Text)]
        {
            assert_eq!(Format::accepted([accept].into_iter()), expected, "{accept}");
        }
        assert_eq!(Format::accepted([].into_iter()), Format::OpenMetrics);
    }
}

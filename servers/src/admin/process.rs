//! The kernel's figures for this process, under the names that Prometheus's own libraries use.

use std::fmt;

use procfs::process::{LimitValue, Process};
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

/// Writes the figures from /proc. Writes nothing if it cannot be read.
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let Ok(process) = Process::myself() else { return Ok(()) };
    let mut gauge = |name, help, unit: Option<Unit>, value: u64| {
        encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?.encode_gauge(&value)
    };
    if let Ok(open) = process.fd_count() {
        gauge("process_open_fds", "Open descriptors of this process.", None, open as u64)?;
    }
    if let Ok(limits) = process.limits()
        && let LimitValue::Value(most) = limits.max_open_files.soft_limit
    {
        gauge("process_max_fds", "Maximum number of open descriptors of this process.", None, most)?;
    }
    let Ok(stat) = process.stat() else { return Ok(()) };
    let resident = stat.rss * procfs::page_size();
    gauge("process_threads", "Threads of this process.", None, stat.num_threads.unsigned_abs())?;
    gauge("process_resident_memory", "Resident memory of this process.", Some(Unit::Bytes), resident)?;
    gauge("process_virtual_memory", "Virtual memory of this process.", Some(Unit::Bytes), stat.vsize)?;
    let seconds = |ticks: u64| ticks as f64 / procfs::ticks_per_second() as f64;
    if let Ok(boot) = procfs::boot_time_secs() {
        let help = "Time at which this process was started, in seconds since 1970.";
        let began = boot as f64 + seconds(stat.starttime);
        encoder
            .encode_descriptor("process_start_time", help, Some(&Unit::Seconds), MetricType::Gauge)?
            .encode_gauge(&began)?;
    }
    let used = seconds(stat.utime + stat.stime);
    encoder
        .encode_descriptor(
            "process_cpu",
            "Processor time of this process.",
            Some(&Unit::Seconds),
            MetricType::Counter,
        )?
        .encode_counter::<NoLabelSet, _, f64>(&used, None)
}

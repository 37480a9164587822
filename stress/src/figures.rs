//! Adds the rows that several scenarios report.

use std::error::Error;

use crate::client::Clients;
use crate::client::load::LoadResults;
use crate::client::talk::TalkResults;
use crate::message::Tally;
use crate::outside::Usage;
use crate::report::{Plot, Report, Row};

/// Reports the results of messages.
pub fn tally(report: &mut Report, tally: &Tally) {
    report.plain("messages sent", tally.sent as f64, "");
    report.plain("messages echoed", tally.echoes as f64, "");
    report.lower("lost", tally.lost as f64, "");
    report.lower("duplicates", tally.duplicates as f64, "");
    report.lower("corrupt", tally.corrupt as f64, "");
    report.lower("cross-delivered", tally.cross as f64, "");
    if tally.corrupt + tally.cross > 0 {
        report
            .note("Messages came back changed, or to the wrong client. Until that is fixed, ignore the rest of this report.");
    }
}

/// Reports the results of clients that connected.
pub fn results(report: &mut Report, results: &LoadResults) {
    report.plain("clients connected", results.completed as f64, "");
    report.lower("clients that failed", results.failed as f64, "");
    report.lower("clients that retransmitted", results.retransmitted as f64, "");
    report.lower("of them after a second without an answer", results.timed as f64, "");
    report.lower("datagrams sent again", results.retransmitted_datagrams as f64, "");
    report.plain("took", results.took.as_secs_f64(), "s");
    if let Some(why) = &results.why {
        report.note(format!("The first failure: {why}."));
    }
    results.connect.describe(report, "connect");
}

/// Reports the results of a conversation, and the clients' own share of the latency.
pub fn talked(report: &mut Report, talked: &TalkResults, what: &str) {
    let rate = talked.tally.echoes as f64 / talked.took.as_secs_f64().max(1e-9);
    report.higher(&format!("{what} per second"), rate, "/s");
    talked.latency.describe(report, what);
    if talked.lateness.count() > 0 {
        let late = talked.lateness.percentile(99.0);
        report.plain("client's own lateness p99", late, "µs");
        if late > 0.25 * talked.latency.percentile(99.0) {
            report.note(
                "The clients sent late: their lateness is a large part of the latency. \
                 Lower the rate or give them more threads.",
            );
        }
    }
    if talked.ended > 0 {
        report.lower("clients ended by the server", talked.ended as f64, "");
    }
}

/// Reports the server's CPU time for each of `count` items, in microseconds.
pub fn cpu<'a>(report: &'a mut Report, name: &str, used: &Usage, count: u64) -> Option<&'a mut Row> {
    let each = used.cpu.as_secs_f64() * 1e6 / count.max(1) as f64;
    (count > 0).then(|| report.lower(name, each, "µs"))
}

/// Reports what the clients' side used for each of `count` items, and the datagrams for the clients that the
/// kernel dropped. `before` is a reading from before the measurement.
///
/// # Errors
///
/// Returns an error if /proc has unexpected content.
pub fn own(
    report: &mut Report,
    clients: &Clients,
    before: &Usage,
    what: &str,
    count: u64,
) -> Result<(), Box<dyn Error>> {
    let used = Usage::own()?.since(before);
    if count > 0 {
        let each = used.cpu.as_secs_f64() * 1e6 / count as f64;
        report.plain(&format!("clients' own CPU per {what}"), each, "µs");
    }
    dropped(report, clients.dropped());
    Ok(())
}

/// Reports the datagrams for clients that the kernel dropped, if there are any.
pub fn dropped(report: &mut Report, dropped: u64) {
    if dropped > 0 {
        report.note(format!(
            "The clients read too late: {dropped} datagrams for them found their sockets full. \
             Lower the rate, or give them more threads."
        ));
    }
}

/// Reports what a server holds for each of `count` peers.
pub fn held(report: &mut Report, grown: &Usage, now: &Usage, count: usize) {
    let each = |kib: u64| kib as f64 / count.max(1) as f64;
    report.lower("server RSS per peer", each(grown.rss_kib), "KiB");
    report.lower("kernel stack per peer (whole machine)", each(grown.kernel_stack_kib), "KiB");
    report.lower("slab per peer (both ends)", each(grown.slab_kib), "KiB");
    report.plain("server threads", now.threads as f64, "");
    report.plain("server descriptors", now.fds as f64, "");
}

/// Makes a plot of percentiles.
pub fn percentiles(title: &str, series: Vec<crate::report::Series>) -> Plot {
    Plot { title: title.to_owned(), x: "percentile".to_owned(), y: "µs".to_owned(), series }
}

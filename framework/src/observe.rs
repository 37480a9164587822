//! What can be seen from outside: counters, gauges, and log lines whose rate strangers cannot
//! drive.

use std::sync::OnceLock;
use std::time::Instant;

use crate::admission::Refusal;
use crate::error::EndReason;
use crate::sys::sync::atomic::{AtomicU64, Ordering};

/// Declares the counters once: as atomics that threads bump, and as the numbers of a snapshot.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A snapshot of what a server did since it started. Counters only grow; gauges say how
        /// many there are now. The numbers are read one by one, not in one instant; but what was counted
        /// for an association is there when `peers` no longer counts it, and its end is counted in the instant
        /// in which `peers` and `half_open` no longer count it.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats {
            /// Gauge: live associations, handshakes included.
            pub peers: u64,
            /// Gauge: handshakes under way.
            pub half_open: u64,
            /// Gauge: connections to proxied listeners whose PROXY header is not whole.
            pub awaiting_header: u64,
            /// Gauge: worker threads, idle ones included.
            pub workers: u64,
            /// Gauge: listening sockets, anchors of wildcard listeners included.
            pub listeners: u64,
            $($(#[$doc])* pub $name: u64,)*
            /// New peers refused, by reason, in the order of [`Refusal::ALL`].
            pub refused: [u64; Refusal::ALL.len()],
            /// Associations that ended, by reason, in the order of [`EndReason::LABELS`].
            pub ended: [u64; EndReason::LABELS.len()],
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            pub(crate) workers: AtomicU64,
            pub(crate) listeners: AtomicU64,
            $(pub(crate) $name: AtomicU64,)*
            pub(crate) refused: [AtomicU64; Refusal::ALL.len()],
            pub(crate) ended: [AtomicU64; EndReason::LABELS.len()],
        }

        impl Counters {
            /// The numbers as they are now; those of the registry are the caller's to fill in.
            pub(crate) fn snapshot(&self) -> Stats {
                let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
                Stats {
                    peers: 0,
                    half_open: 0,
                    awaiting_header: 0,
                    workers: read(&self.workers),
                    listeners: read(&self.listeners),
                    $($name: read(&self.$name),)*
                    refused: std::array::from_fn(|index| read(&self.refused[index])),
                    ended: std::array::from_fn(|index| read(&self.ended[index])),
                }
            }
        }

        impl Stats {
            /// All numbers with their names, for a log line or a table.
            pub fn entries(&self) -> Vec<(String, u64)> {
                let mut entries = vec![
                    ("peers".to_owned(), self.peers),
                    ("half_open".to_owned(), self.half_open),
                    ("awaiting_header".to_owned(), self.awaiting_header),
                    ("workers".to_owned(), self.workers),
                    ("listeners".to_owned(), self.listeners),
                    $((stringify!($name).to_owned(), self.$name),)*
                ];
                for refusal in Refusal::ALL {
                    entries.push((format!("refused_{}", refusal.as_str()), self.refused[refusal.index()]));
                }
                for (label, count) in EndReason::LABELS.iter().zip(self.ended) {
                    entries.push((format!("ended_{label}"), count));
                }
                entries
            }
        }
    };
}

counters! {
    /// Datagrams that the dispatcher read from listeners.
    datagrams,
    /// Associations opened: admitted, with a socket and a worker.
    opened,
    /// Handshakes completed.
    handshakes,
    /// Of these, how many resumed an earlier session.
    resumed,
    /// HelloVerifyRequests sent (RFC 6347 §4.2.1).
    hello_verify_requests,
    /// HelloVerifyRequests that the kernel did not take.
    hello_verify_requests_lost,
    /// Alerts sent to DTLS clients that were refused, some of them again.
    refusal_alerts,
    /// ClientHellos with a cookie that is forged, foreign or expired.
    cookies_refused,
    /// ClientHellos that came again for an association that exists, or is over since a few seconds: the peer
    /// retransmitted.
    duplicate_hellos,
    /// First fragments of a ClientHello that end before its cookie can be checked.
    hellos_too_short,
    /// Datagrams of strangers that open nothing: not a ClientHello, or from an unusable address.
    ignored,
    /// Times that a server flight was sent again because its answer did not come in time.
    retransmissions,
    /// Last flights sent again by the dispatcher for a handler that was not reading.
    last_flights_resent,
    /// Datagrams of a known peer that reached the listener and were handed to its worker.
    forwarded,
    /// Datagrams for another association that were found on one's socket and given back.
    strays,
    /// Datagrams lost for want of room on the way between dispatcher and worker.
    strays_lost,
    /// Children made by the wildcard bind, which nothing can be stolen by.
    children_by_wildcard,
    /// Children made in the listener's SO_REUSEPORT group and taken out again.
    children_by_group,
    /// Children made by the plain bind and connect, drained and checked.
    children_unguarded,
    /// Datagrams on an association's own socket that are no DTLS, forged or of no use.
    records_dropped,
    /// Of these, records of an established DTLS session that failed their authentication.
    records_forged,
    /// ICMP errors swallowed.
    icmp_errors,
    /// Unauthenticated alerts seen during a handshake.
    plaintext_alerts,
    /// Restarted peers that were asked for a cookie on their association's socket.
    restarts_challenged,
    /// System calls that failed for want of descriptors (EMFILE, ENFILE).
    out_of_descriptors,
    /// System calls that failed for want of memory (ENOBUFS, ENOMEM).
    out_of_memory,
    /// Threads that could not be started (EAGAIN from clone).
    out_of_threads,
    /// Peers whose worker thread came later than they did, because none could be started.
    waited_for_thread,
    /// SCTP associations aborted by the dispatcher: refused, or not to be peeled off.
    sctp_aborted,
    /// SCTP associations that were over before they could be peeled off, and were served what they
    /// had said.
    sctp_over_early,
    /// Peel-offs that failed.
    sctp_peel_offs_failed,
    /// SCTP messages that were found on the one-to-many socket and handed to their worker.
    sctp_early_messages,
    /// SCTP associations that their peer restarted (SCTP_RESTART).
    sctp_restarts,
    /// SCTP associations lost: aborted by the peer, or unreachable (SCTP_COMM_LOST).
    sctp_lost,
    /// SCTP associations that did not come about (SCTP_CANT_STR_ASSOC).
    sctp_cannot_start,
    /// SCTP associations that their peer shut down (SCTP_SHUTDOWN_EVENT).
    sctp_shutdowns,
    /// Paths to SCTP peers that became unreachable.
    paths_lost,
    /// Messages longer than the limit, thrown away (SCTP, and streams with a framing).
    messages_too_long,
    /// SCTP messages that were cut off while they were delivered (SCTP_PARTIAL_DELIVERY_EVENT).
    messages_cut_off,
    /// DTLS records over SCTP that were held back for earlier ones and given up waiting for.
    records_given_up,
    /// TCP connections accepted.
    connections,
    /// Times that TCP listeners paused because a connection could not be accepted (EMFILE, ENOMEM).
    accept_pauses,
    /// Connections that did not begin in time with a valid header of the PROXY protocol where one has to be.
    proxy_headers_refused,
    /// Notifications of SCTP that make no sense.
    notifications_malformed,
    /// Notifications of SCTP of a kind that is not known here.
    notifications_unknown,
    /// Notifications of SCTP longer than the buffer of 64 KiB.
    notifications_too_long,
    /// Handlers that panicked.
    handler_panics,
    /// Handlers that returned an error.
    handler_errors,
    /// Messages that handlers received.
    messages_received,
    /// Messages sent to peers.
    messages_sent,
    /// Messages dropped because their peer's [`Outbox`](crate::Outbox) was full, or in it because they could not be sent any more.
    messages_dropped,
}

impl Stats {
    /// How many new peers were refused for this reason.
    pub fn refused(&self, refusal: Refusal) -> u64 {
        self.refused[refusal.index()]
    }

    /// How many associations ended for a reason with this [label](EndReason::label); 0 for a
    /// label that does not exist.
    pub fn ended(&self, label: &str) -> u64 {
        let index = EndReason::LABELS.iter().position(|known| *known == label);
        index.map_or(0, |index| self.ended[index])
    }
}

impl Counters {
    /// Counts the end of an association; for [`Registry::remove`](crate::serve::registry::Registry::remove).
    pub(crate) fn count_end(&self, reason: &EndReason) {
        bump(&self.ended[reason.index()]);
        match reason {
            EndReason::HandlerFailed => bump(&self.handler_errors),
            EndReason::HandlerPanicked => bump(&self.handler_panics),
            _ => {}
        }
    }
}

/// Adds one.
pub(crate) fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Lets one log line a second pass and counts the others.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    /// Milliseconds since the process's first line, plus one, of the last line that passed.
    last: std::sync::atomic::AtomicU64,
    suppressed: std::sync::atomic::AtomicU64,
}

impl LogLimit {
    pub(crate) const fn new() -> Self {
        use std::sync::atomic::AtomicU64;
        Self { last: AtomicU64::new(0), suppressed: AtomicU64::new(0) }
    }

    /// `Some(n)`: write the line, n were left out since the last one.
    pub(crate) fn pass(&self) -> Option<u64> {
        static START: OnceLock<Instant> = OnceLock::new();
        let now = START.get_or_init(Instant::now).elapsed().as_millis() as u64 + 1;
        let last = self.last.load(Ordering::Relaxed);
        let due = last == 0 || now >= last + 1000;
        let won = || {
            let order = Ordering::Relaxed;
            self.last.compare_exchange(last, now, order, order).is_ok()
        };
        if due && won() {
            Some(self.suppressed.swap(0, Ordering::Relaxed))
        } else {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

/// A `tracing` event at most once a second for each place in the code, with the number of those
/// left out.
macro_rules! log_limited {
    ($level:ident, $($argument:tt)+) => {{
        static LIMIT: $crate::observe::LogLimit = $crate::observe::LogLimit::new();
        if let Some(suppressed) = LIMIT.pass() {
            tracing::$level!(suppressed, $($argument)+);
        }
    }};
}
pub(crate) use log_limited;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_passes_and_the_others_are_counted() {
        let limit = LogLimit::new();
        assert_eq!(limit.pass(), Some(0));
        assert_eq!(limit.pass(), None);
        assert_eq!(limit.pass(), None);
        limit.last.store(1, Ordering::Relaxed);
        std::thread::sleep(std::time::Duration::from_millis(1001));
        assert_eq!(limit.pass(), Some(2));
    }

    #[test]
    fn every_counter_has_a_name_in_the_snapshot() {
        let counters = Counters::default();
        bump(&counters.strays);
        bump(&counters.refused[Refusal::Rate.index()]);
        let entries = counters.snapshot().entries();
        assert!(entries.contains(&("strays".to_owned(), 1)));
        assert!(entries.contains(&(format!("refused_{}", Refusal::Rate.as_str()), 1)));
    }
}

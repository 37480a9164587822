//! Observability: counters, gauges, and log lines whose rate is limited, so that unknown peers cannot flood the log.

mod busy_since;
mod histogram;
mod listening;
mod sockets;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

pub(crate) use self::busy_since::BusySince;
pub use self::histogram::Distribution;
pub(crate) use self::histogram::Histogram;
pub(crate) use self::listening::Listening;
use self::sockets::Sockets;
use crate::address::{Address, Host, Scheme};
use crate::admission::Refusal;
use crate::error::{EndKind, EndReason};
use crate::sys::sync::atomic::{AtomicU64, Ordering};

/// Declares the numbers once: as atomics that threads change, and as fields of a snapshot with their names. Numbers
/// under `registry` are gauges that the registry keeps; those under `server` belong to no listener. Each drop has the
/// value of its label `reason` in the metrics.
macro_rules! numbers {
    (
        registry { $($(#[doc = $kept_help:literal])* $kept:ident,)* }
        gauges { $($(#[doc = $gauge_help:literal])* $gauge:ident,)* }
        counters { $($(#[doc = $help:literal])* $counter:ident,)* }
        drops { $($(#[doc = $drop_help:literal])* $drop:ident: $reason:literal,)* }
        server {
            gauges { $($(#[doc = $server_gauge_help:literal])* $server_gauge:ident,)* }
            counters { $($(#[doc = $server_help:literal])* $server_counter:ident,)* }
        }
    ) => {
        /// A snapshot of the counts of a server since its start. Counters only grow; gauges are current values. The
        /// numbers are read one after another, not at one instant. But the counts of an association are complete once
        /// `peers` no longer includes it, and its end is counted at the same instant at which `peers` and `half_open`
        /// drop.
        ///
        /// `Debug` shows the numbers that are not zero.
        #[derive(Clone, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats {
            $(#[doc = "Gauge:"] $(#[doc = $kept_help])* pub $kept: u64,)*
            $(#[doc = "Gauge:"] $(#[doc = $gauge_help])* pub $gauge: u64,)*
            $(#[doc = "Gauge:"] $(#[doc = $server_gauge_help])* pub $server_gauge: u64,)*
            $($(#[doc = $help])* pub $counter: u64,)*
            $($(#[doc = $drop_help])* pub $drop: u64,)*
            $($(#[doc = $server_help])* pub $server_counter: u64,)*
            refused: [u64; Refusal::ALL.len()],
            ended: [u64; EndKind::ALL.len()],
        }

        /// Counters of one listener and its peers.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $gauge: AtomicU64,)*
            $(pub(crate) $counter: AtomicU64,)*
            $(pub(crate) $drop: AtomicU64,)*
            pub(crate) refused: [AtomicU64; Refusal::ALL.len()],
            pub(crate) ended: [AtomicU64; EndKind::ALL.len()],
            pub(crate) times: Times,
            /// The sockets whose drops the kernel counts.
            sockets: Sockets,
        }

        /// Counters of a server as a whole.
        #[derive(Debug, Default)]
        pub(crate) struct ServerCounters {
            $(pub(crate) $server_gauge: AtomicU64,)*
            $(pub(crate) $server_counter: AtomicU64,)*
            /// Whether the dispatcher is busy, and since when.
            pub(crate) dispatcher: BusySince,
            /// How long the dispatcher takes to process one batch of events.
            pub(crate) dispatcher_round: Histogram,
            /// How long data that a loop has read waits for its peer's turn, for every [`SAMPLED`]th turn.
            pub(crate) loop_queue: Histogram,
        }

        impl Counters {
            /// Returns the current numbers, without those of the registry and of the server.
            pub(crate) fn snapshot(&self) -> Stats {
                Stats {
                    $($gauge: read(&self.$gauge),)*
                    $($counter: read(&self.$counter),)*
                    $($drop: read(&self.$drop),)*
                    refused: std::array::from_fn(|index| read(&self.refused[index])),
                    ended: std::array::from_fn(|index| read(&self.ended[index])),
                    ..Stats::default()
                }
            }
        }

        impl ServerCounters {
            /// Returns only the numbers of the server as a whole.
            pub(crate) fn snapshot(&self) -> Stats {
                Stats {
                    $($server_gauge: read(&self.$server_gauge),)*
                    $($server_counter: read(&self.$server_counter),)*
                    ..Stats::default()
                }
            }
        }

        impl Stats {
            /// Returns all numbers with their descriptions, for a log line, a table or metrics. Entries with the same
            /// name are adjacent.
            pub fn entries(&self) -> impl Iterator<Item = Entry> {
                let gauge = |name, help, value| Entry { help, ..Entry::plain(name, EntryKind::Gauge, value) };
                let counter = |name, help, value| Entry { help, ..Entry::plain(name, EntryKind::Counter, value) };
                let by_reason = |name, help: &'static str, reason, value| {
                    let label = Some(("reason", reason));
                    Entry { help, label, ..Entry::plain(name, EntryKind::Counter, value) }
                };
                let server = |entry| Entry { is_of_server: true, ..entry };
                let drop = |entry, reason| Entry { drop_reason: Some(reason), ..entry };
                let plain = [
                    $(gauge(stringify!($kept), concat!($($kept_help),*), self.$kept),)*
                    $(gauge(stringify!($gauge), concat!($($gauge_help),*), self.$gauge),)*
                    $(server(gauge(stringify!($server_gauge), concat!($($server_gauge_help),*), self.$server_gauge)),)*
                    $(counter(stringify!($counter), concat!($($help),*), self.$counter),)*
                    $(server(counter(stringify!($server_counter), concat!($($server_help),*), self.$server_counter)),)*
                    $(drop(counter(stringify!($drop), concat!($($drop_help),*), self.$drop), $reason),)*
                ];
                let refused = Refusal::ALL.iter().zip(self.refused).map(move |(refusal, value)| {
                    by_reason("refused", "New peers refused, by reason.", refusal.as_str(), value)
                });
                let ended = EndKind::ALL.iter().zip(self.ended).map(move |(kind, value)| {
                    by_reason("ended", "Associations that ended, by reason.", kind.as_str(), value)
                });
                plain.into_iter().chain(refused).chain(ended).map(|entry| Entry { help: entry.help.trim_start(), ..entry })
            }

            /// Adds the numbers of another part of the same server.
            pub(crate) fn add(&mut self, other: &Stats) {
                $(self.$kept += other.$kept;)*
                $(self.$gauge += other.$gauge;)*
                $(self.$server_gauge += other.$server_gauge;)*
                $(self.$counter += other.$counter;)*
                $(self.$drop += other.$drop;)*
                $(self.$server_counter += other.$server_counter;)*
                let add = |sums: &mut [u64], more: &[u64]| sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
                add(&mut self.refused, &other.refused);
                add(&mut self.ended, &other.ended);
            }
        }
    };
}

numbers! {
    registry {
        /// Live associations, including handshakes.
        peers,
        /// Handshakes under way.
        half_open,
        /// Connections to proxied listeners whose PROXY header is incomplete.
        awaiting_header,
    }
    gauges {
        /// Listening sockets, including the per-address listeners of a wildcard listener.
        listeners,
    }
    counters {
        /// Datagrams that the dispatcher read from listeners.
        datagrams,
        /// Associations opened: admitted, with a socket and a worker.
        opened,
        /// Handshakes completed.
        handshakes,
        /// Handshakes that resumed an earlier session.
        resumed,
        /// Handshakes completed in which both sides agreed on connection IDs (RFC 9146).
        connection_ids,
        /// New addresses of peers that passed a return routability check (RFC 9853).
        addresses_validated,
        /// Changes of a peer's address that its connection ID revealed.
        addresses_changed,
        /// Changes of a peer's address that were not followed: the new address did not pass its check, could not be
        /// checked, or belongs to another peer.
        address_changes_refused,
        /// HelloVerifyRequests sent (RFC 6347 §4.2.1).
        hello_verify_requests,
        /// Alerts sent to refused DTLS clients, including repeated ones.
        refusal_alerts,
        /// Retransmitted ClientHellos for an association that exists or that ended a few seconds ago.
        duplicate_hellos,
        /// Server flights that were retransmitted because no answer arrived in time.
        retransmissions,
        /// Last flights that the dispatcher retransmitted for a handler that was not reading.
        last_flights_resent,
        /// Datagrams of a known peer that reached the listener and were handed to its worker.
        forwarded,
        /// Datagrams of another association that arrived on an association's socket and were passed on.
        strays,
        /// Sockets of peers made by the method *wildcard*, with which no socket can receive another's datagrams.
        children_by_wildcard,
        /// Sockets of peers made by the method *group*, in the listener's SO_REUSEPORT group and then removed from it.
        children_by_group,
        /// Sockets of peers made by the method *unguarded*, a plain bind and connect, then drained and checked.
        children_unguarded,
        /// Records of established DTLS sessions that failed authentication; also counted in records_dropped.
        records_forged,
        /// ICMP errors that were received and ignored.
        icmp_errors,
        /// Unauthenticated alerts received during a handshake.
        plaintext_alerts,
        /// Restarted peers that were sent a cookie request on the socket of their association.
        restarts_challenged,
        /// System calls that failed because no descriptor was left (EMFILE, ENFILE).
        out_of_descriptors,
        /// System calls that failed because no memory was left (ENOBUFS, ENOMEM).
        out_of_memory,
        /// Threads that could not be started (EAGAIN from clone).
        out_of_threads,
        /// Peers that had to wait for a worker thread, because none could be started.
        waited_for_thread,
        /// SCTP associations that the dispatcher aborted because they were refused or could not be peeled off.
        sctp_aborted,
        /// SCTP associations that ended before they could be peeled off; their handlers received the queued messages.
        sctp_over_early,
        /// Peel-offs that failed.
        sctp_peel_offs_failed,
        /// SCTP messages that were read from the one-to-many socket and passed to their worker.
        sctp_early_messages,
        /// SCTP associations that their peer restarted (SCTP_RESTART).
        sctp_restarts,
        /// SCTP associations lost: aborted by the peer, or unreachable (SCTP_COMM_LOST).
        sctp_lost,
        /// SCTP associations that could not be established (SCTP_CANT_STR_ASSOC).
        sctp_cannot_start,
        /// SCTP associations that their peer shut down (SCTP_SHUTDOWN_EVENT).
        sctp_shutdowns,
        /// Paths to SCTP peers that became unreachable.
        paths_lost,
        /// TCP connections accepted.
        connections,
        /// Pauses of TCP listeners because a connection could not be accepted (EMFILE, ENOMEM).
        accept_pauses,
        /// Connections to proxied listeners that did not begin with a valid PROXY header in time.
        proxy_headers_refused,
        /// Datagrams that one event loop read and passed on to another, which has their peer.
        passed_between_loops,
        /// Peers that this process took over from another one.
        taken_over,
        /// Datagrams passed on to the process that serves their peer, after a hand-over.
        relayed,
        /// Handlers that panicked.
        handler_panics,
        /// Handlers that returned an error.
        handler_errors,
        /// Messages that handlers received.
        messages_received,
        /// Messages sent to peers.
        messages_sent,
        /// Bytes of the messages that handlers received.
        received_bytes,
        /// Bytes of the messages sent to peers.
        sent_bytes,
    }
    drops {
        /// HelloVerifyRequests that the kernel did not accept.
        hello_verify_requests_lost: "hello_verify_request_lost",
        /// ClientHellos with a cookie that is forged, expired or of another server.
        cookies_refused: "cookie_refused",
        /// First fragments of a ClientHello that end before its cookie can be checked.
        hellos_too_short: "hello_too_short",
        /// Datagrams from unknown senders that open no association: not a ClientHello, or from an unusable address.
        ignored: "unknown_sender",
        /// Datagrams lost because a queue between dispatcher and worker was full.
        strays_lost: "internal_queue_full",
        /// Datagrams from shared sockets that were dropped because too many waited for their peer.
        datagrams_dropped: "peer_queue_full",
        /// Datagrams that the kernel dropped at UDP sockets, nearly always because a receive buffer was full, and
        /// connection requests that it dropped because the backlog of a TCP listener was full. Those at a socket of a
        /// single peer are added when its association ends.
        dropped_by_kernel: "receive_buffer_full",
        /// Datagrams on an association's own socket that are not DTLS, are forged, or have no use.
        records_dropped: "record_invalid",
        /// Messages longer than the limit, which were discarded (SCTP, and streams with a framing).
        messages_too_long: "message_too_long",
        /// SCTP messages that were aborted during their delivery (SCTP_PARTIAL_DELIVERY_EVENT).
        messages_cut_off: "message_cut_off",
        /// Messages dropped because their peer's outbox was full, or that waited in it and could no longer be sent.
        messages_dropped: "outbox_full",
        /// Malformed SCTP notifications.
        notifications_malformed: "notification_malformed",
        /// SCTP notifications of an unknown kind.
        notifications_unknown: "notification_unknown",
        /// SCTP notifications longer than the buffer of 64 KiB.
        notifications_too_long: "notification_too_long",
        /// Datagrams for a peer of another process that this process could not accept.
        relayed_lost: "relay_full",
    }
    server {
        gauges {
            /// Worker threads, including idle ones.
            workers,
            /// Threads of event loops, including spare ones.
            loop_threads,
        }
        counters {
            /// Times that a spare thread took over an event loop that a callback held up.
            loops_taken_over,
            /// Times that a callback held up an event loop and no spare thread was left.
            loops_held_up,
        }
    }
}

impl Stats {
    /// Returns how many new peers were refused for this reason.
    pub fn refused(&self, refusal: Refusal) -> u64 {
        self.refused[refusal.index()]
    }

    /// Returns how many new peers were refused, for any reason.
    pub fn refused_total(&self) -> u64 {
        self.refused.iter().sum()
    }

    /// Returns how many associations ended for a reason of this kind.
    pub fn ended(&self, kind: EndKind) -> u64 {
        self.ended[kind.index()]
    }

    /// Returns how many associations ended, for any reason.
    pub fn ended_total(&self) -> u64 {
        self.ended.iter().sum()
    }
}

impl fmt::Debug for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stats ")?;
        let mut numbers = f.debug_map();
        for entry in self.entries().filter(|entry| entry.value != 0) {
            numbers.entry(&format_args!("{entry}"), &entry.value);
        }
        numbers.finish()
    }
}

/// One of the numbers of [`Stats`]. `Display` writes its name, followed by the value of its label if it has one:
/// `ended_idle`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The name in snake case, such as `peers` or `ended`.
    pub name: &'static str,
    /// What the number counts, in one or more sentences.
    pub help: &'static str,
    /// Whether the number only grows.
    pub kind: EntryKind,
    /// The name and the value of the label that distinguishes entries of the same name, such as `reason` and `idle`.
    pub label: Option<(&'static str, &'static str)>,
    /// The number.
    pub value: u64,
    /// The number belongs to the server, not to a listener.
    pub(crate) is_of_server: bool,
    /// The number counts drops with this reason.
    pub(crate) drop_reason: Option<&'static str>,
}

impl Entry {
    fn plain(name: &'static str, kind: EntryKind, value: u64) -> Self {
        Self { name, help: "", kind, label: None, value, is_of_server: false, drop_reason: None }
    }
}

/// How a number of [`Stats`] changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// The number only grows.
    Counter,
    /// The number is a current value.
    Gauge,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        self.label.map_or(Ok(()), |(_, value)| write!(f, "_{value}"))
    }
}

impl Counters {
    /// Counts the end of an association; for [`Registry::remove`](crate::serve::registry::Registry::remove).
    pub(crate) fn count_end(&self, reason: &EndReason) {
        bump(&self.ended[reason.kind().index()]);
    }
}

/// Durations that are measured for the peers of one listener.
#[derive(Debug, Default)]
pub(crate) struct Times {
    /// From a peer's admission to the end of its handshake.
    pub(crate) handshake: Histogram,
    /// From a peer's admission until a thread or a loop began to serve it.
    pub(crate) start_delay: Histogram,
    /// From the delivery of a message until its handler asks for the next one, or its callback returns; for every
    /// [`SAMPLED`]th message.
    pub(crate) handler: Histogram,
}

/// One of this many messages, and one of this many turns of a loop, is timed, so that reading the clock costs almost
/// nothing.
pub(crate) const SAMPLED: u64 = 16;

/// The counters of each listener, by its address.
#[derive(Debug)]
pub(crate) struct ByListener(Vec<(Address, Arc<Counters>)>);

impl ByListener {
    /// Makes counters for these listeners, of which there is at least one.
    pub(crate) fn new(addresses: &[Address]) -> Self {
        Self(addresses.iter().map(|address| (address.clone(), Arc::default())).collect())
    }

    /// Returns the counters of the listener to which peers of this local address came: a specific listener takes
    /// precedence over a wildcard.
    pub(crate) fn of(&self, scheme: Scheme, local: SocketAddr) -> &Arc<Counters> {
        self.best(local, |listener| listener == scheme)
    }

    /// Returns them like [`of`](Self::of) if only the transport, UDP, is known.
    pub(crate) fn of_udp(&self, local: SocketAddr) -> &Arc<Counters> {
        self.best(local, |listener| matches!(listener, Scheme::Udp | Scheme::Dtls))
    }

    fn best(&self, local: SocketAddr, fits: impl Fn(Scheme) -> bool) -> &Arc<Counters> {
        let rank = |(address, _): &&(Address, _)| {
            let ip = match address.host {
                Host::V4(ip) => Some(IpAddr::V4(ip)),
                Host::V6(ip, _) => Some(IpAddr::V6(ip)),
                Host::Name(_) => None,
            };
            let closeness = match ip {
                Some(ip) if ip == local.ip() => 3,
                Some(ip) if ip.is_unspecified() => 1 + u8::from(ip.is_ipv4() == local.is_ipv4()),
                _ => 0,
            };
            (fits(address.scheme), address.port == local.port(), closeness)
        };
        &self.0.iter().max_by_key(rank).expect("a server has a listener").1
    }

    /// Returns the counters of all listeners.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &(Address, Arc<Counters>)> {
        self.0.iter()
    }
}

fn read(number: &AtomicU64) -> u64 {
    number.load(Ordering::Relaxed)
}

/// Adds one.
pub(crate) fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Lets one log line a second pass and counts the suppressed ones.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    /// The time of the last line that passed, in milliseconds since the first line of the process, plus one.
    last: std::sync::atomic::AtomicU64,
    suppressed: std::sync::atomic::AtomicU64,
}

impl LogLimit {
    pub(crate) const fn new() -> Self {
        use std::sync::atomic::AtomicU64;
        Self { last: AtomicU64::new(0), suppressed: AtomicU64::new(0) }
    }

    /// Returns whether to write the line: `Some` with the number of lines suppressed since the last one.
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

/// Emits a `tracing` event at most once a second for each place in the code, with the number of suppressed ones.
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
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn one_line_a_second_passes_and_the_others_are_counted() {
        let limit = LogLimit::new();
        assert_eq!(limit.pass(), Some(0));
        // However slow this thread is, the second is not over.
        limit.last.store(u64::MAX / 2, Ordering::Relaxed);
        assert_eq!(limit.pass(), None);
        assert_eq!(limit.pass(), None);
        limit.last.store(1, Ordering::Relaxed);
        std::thread::sleep(std::time::Duration::from_millis(1001));
        assert_eq!(limit.pass(), Some(2));
    }

    #[test]
    fn a_snapshot_names_and_describes_every_number() {
        let counters = Counters::default();
        bump(&counters.strays);
        bump(&counters.refused[Refusal::Rate.index()]);
        counters.count_end(&EndReason::Idle);
        let stats = Stats { peers: 7, ..counters.snapshot() };
        assert_eq!((stats.refused(Refusal::Rate), stats.refused_total()), (1, 1));
        assert_eq!((stats.ended(EndKind::Idle), stats.ended_total()), (1, 1));
        assert_eq!(format!("{stats:?}"), "Stats {peers: 7, strays: 1, refused_rate: 1, ended_idle: 1}");

        let entries: Vec<Entry> = stats.entries().collect();
        let expected = Entry {
            help: "Associations that ended, by reason.",
            label: Some(("reason", "idle")),
            ..Entry::plain("ended", EntryKind::Counter, 1)
        };
        assert!(entries.contains(&expected));
        let names: HashSet<String> = entries.iter().map(Entry::to_string).collect();
        assert_eq!(names.len(), entries.len(), "a name is there twice");
        for Entry { name, help, .. } in &entries {
            assert!(help.starts_with(char::is_alphanumeric) && help.ends_with('.'), "{name}: {help:?}");
            assert!(!help.contains(['[', '\n']) && !help.contains("  "), "{name}: {help:?}");
        }
        let gauges = entries.iter().filter(|entry| entry.kind == EntryKind::Gauge).map(|entry| entry.name);
        assert!(gauges.eq(["peers", "half_open", "awaiting_header", "listeners", "workers", "loop_threads"]));
    }

    #[test]
    fn a_peer_counts_at_the_listener_that_is_closest_to_its_local_address() {
        let addresses =
            ["dtls://0.0.0.0:1", "dtls://[::]:1", "dtls://10.0.0.1:1", "tls://0.0.0.0:1", "udp://10.0.0.1:2"];
        let listeners = ByListener::new(&addresses.map(|address| address.parse().unwrap()));
        let found = |counters: &Arc<Counters>| {
            let (address, _) = listeners.iter().find(|(_, each)| Arc::ptr_eq(each, counters)).unwrap();
            address.to_string()
        };
        for (scheme, local, expected) in [
            (Scheme::Dtls, "10.0.0.1:1", "dtls://10.0.0.1:1"),
            (Scheme::Dtls, "10.0.0.2:1", "dtls://0.0.0.0:1"),
            (Scheme::Dtls, "[fd00::1]:1", "dtls://[::]:1"),
            (Scheme::Tls, "10.0.0.1:1", "tls://0.0.0.0:1"),
        ] {
            assert_eq!(found(listeners.of(scheme, local.parse().unwrap())), expected, "{scheme} {local}");
        }
        assert_eq!(found(listeners.of_udp("10.0.0.1:2".parse().unwrap())), "udp://10.0.0.1:2");
    }

    #[test]
    fn each_kind_of_end_stands_at_its_index() {
        assert!(EndKind::ALL.iter().enumerate().all(|(index, kind)| kind.index() == index));
    }
}

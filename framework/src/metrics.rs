//! Metrics for a monitoring system: every number of a server by listener, its limits, its durations, and its health.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::address::Address;
use crate::admission::{Limits, Refusal};
use crate::credentials::Expiration;
use crate::observe::{Distribution, Entry, EntryKind, Stats};

/// A snapshot of everything that a server measures, from [`Server::metrics`](crate::Server::metrics).
///
/// [`families`](Self::families) returns it with the names for Prometheus, for a program that has its own endpoint.
/// `peeloff-echo` and `peeloff-chat` serve them with `--admin`.
///
/// ```
/// # use peeloff::{Error, Peer, Server};
/// # let server = Server::builder().listen("udp://127.0.0.1:0").start(|_: &mut Peer| Ok::<(), Error>(())).unwrap();
/// let metrics = server.metrics();
/// assert_eq!(metrics.stats.peers, 0);
/// assert_eq!(metrics.listeners[0].stats.listeners, 1);
/// assert!(metrics.families().iter().any(|family| family.name == "peeloff_peers"));
/// # server.handle().shutdown(std::time::Duration::ZERO);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Metrics {
    /// The numbers of the whole server.
    pub stats: Stats,
    /// The numbers of each listener.
    pub listeners: Vec<ListenerMetrics>,
    /// The limits in effect.
    pub limits: Limits,
    /// The number of worker threads that the system allows, as far as it reports that.
    pub max_workers: u64,
    /// How long the dispatcher thread takes for the events that it finds at once. Data that arrives meanwhile waits in
    /// the kernel for that time.
    pub dispatcher_round: Distribution,
    /// How long data that an event loop has read waits for the turn of its peer. One turn out of 16 is measured.
    pub loop_queue: Distribution,
    /// The times at which parts of the credentials in use expire.
    pub expirations: Vec<Expiration>,
    /// Whether the server makes progress and admits new peers.
    pub health: Health,
}

/// The numbers and durations of one listener and its peers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ListenerMetrics {
    /// The address of the listener.
    pub address: Address,
    /// The numbers of the listener. Those of threads and event loops, which belong to no listener, are 0.
    pub stats: Stats,
    /// How long handshakes took, from the peer's admission to their end. Failed handshakes are not included.
    pub handshake: Distribution,
    /// How long admitted peers waited until a thread or an event loop began to serve them.
    pub start_delay: Distribution,
    /// How long handlers took for a message: from its delivery until the handler asked for the next one, or until the
    /// callback returned. Measures the first message of each peer and one out of 16 after it. The time is recorded when
    /// the handler is done with the message.
    pub handler: Distribution,
}

/// Whether a server makes progress and admits new peers, from [`Handle::health`](crate::Handle::health).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// How long the dispatcher thread has been busy with the events that it found when it was last woken; zero while it
    /// waits. Some milliseconds are usual. Seconds mean that [`PeerHandler::admit`](crate::PeerHandler::admit) blocks,
    /// that the thread has panicked, or that the host is overloaded.
    pub dispatcher_busy: Duration,
    /// The same for each event loop. Seconds mean that callbacks block and no spare thread is left
    /// ([`ServerBuilder::spare_threads`](crate::ServerBuilder::spare_threads)).
    pub loops_busy: Vec<Duration>,
    /// Why the next peer would be refused, whatever its address is: the server shuts down, or a limit is reached. If
    /// this is `None`, the next peer is admitted unless the limits on its own address or the handler refuse it.
    pub refuses: Option<Refusal>,
}

impl Health {
    /// Returns the longest time that the dispatcher or an event loop has been busy.
    pub fn longest_busy(&self) -> Duration {
        self.loops_busy.iter().copied().fold(self.dispatcher_busy, Duration::max)
    }
}

/// Samples with one name, as in [OpenMetrics](https://prometheus.io/docs/specs/om/open_metrics_spec/).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Family {
    /// The name, which begins with `peeloff_` and includes the unit. The name of a counter has no suffix `_total` here.
    pub name: String,
    /// A description of the metric, in one or more sentences.
    pub help: &'static str,
    /// The kind of value that the samples have.
    pub kind: FamilyKind,
    /// The samples; no two of them have the same labels.
    pub samples: Vec<Sample>,
}

/// The kind of value that the samples of a [`Family`] have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyKind {
    /// A number that never decreases.
    Counter,
    /// A number that can increase and decrease.
    Gauge,
    /// A distribution of seconds.
    Histogram,
}

/// One value with its labels.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Sample {
    /// Names and values of the labels. Their values come from the configuration and this library, never from a peer.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: SampleValue,
}

/// The value of a [`Sample`].
#[derive(Clone, Debug, PartialEq)]
pub enum SampleValue {
    /// The value of a counter or a gauge.
    Number(u64),
    /// The value of a gauge that is not a whole number.
    Fraction(f64),
    /// The value of a histogram.
    Distribution(Distribution),
}

type Labels = Vec<(&'static str, String)>;

impl Metrics {
    /// Returns all metrics with names and labels for a monitoring system. The labels are `protocol` and `listener` if a
    /// number belongs to a listener, `reason`, `thread`, and, for certificates, `what` and `file`. Each name occurs
    /// once.
    pub fn families(&self) -> Vec<Family> {
        let mut families = Families::default();
        let version = vec![
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("openssl", openssl::version::version().to_owned()),
        ];
        families.gauge("build_info", "The versions of peeloff and OpenSSL; always 1.", version, 1);
        for listener in &self.listeners {
            let labels = listener.labels();
            let entries = listener.stats.entries().filter(|entry| !entry.is_of_server);
            entries.for_each(|entry| families.entry(&entry, labels.clone()));
        }
        let of_server = self.stats.entries().filter(|entry| entry.is_of_server);
        of_server.for_each(|entry| families.entry(&entry, Vec::new()));
        self.add_limits(&mut families);
        self.add_times(&mut families);
        self.add_health(&mut families);
        for Expiration { what, at, file, .. } in &self.expirations {
            let file = file.as_ref().map(|file| file.display().to_string()).unwrap_or_default();
            families.gauge(
                "certificate_expiry_timestamp_seconds",
                "When a certificate or a revocation list in use stops being valid, in seconds since 1970.",
                vec![("what", what.clone()), ("file", file)],
                at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |at| at.as_secs()),
            );
        }
        families.0.into_values().collect()
    }

    fn add_limits(&self, families: &mut Families) {
        let limits = &self.limits;
        let all = [
            ("peers_limit", "The most peers at one time; absent without a limit.", limits.max_peers),
            (
                "peers_per_local_address_limit",
                "The most peers with their own sockets at one local address; absent without a limit.",
                limits.max_peers_per_local_address,
            ),
            (
                "half_open_limit",
                "The most handshakes that can be under way at once; absent without a limit.",
                limits.max_half_open,
            ),
            (
                "awaiting_header_limit",
                "The most connections to a proxied listener that can wait for their PROXY header; absent without a \
                 limit.",
                limits.max_awaiting_header,
            ),
            (
                "workers_limit",
                "The most worker threads that the system allows; absent if it reports no limit.",
                usize::try_from(self.max_workers).unwrap_or(usize::MAX),
            ),
        ];
        for (name, help, limit) in all.into_iter().filter(|(.., limit)| *limit != usize::MAX) {
            families.gauge(name, help, Vec::new(), limit as u64);
        }
    }

    fn add_times(&self, families: &mut Families) {
        for listener in &self.listeners {
            let mut add =
                |name, help, times: &Distribution| families.histogram(name, help, listener.labels(), times);
            add(
                "handshake_seconds",
                "Time from a peer's admission to the end of its handshake.",
                &listener.handshake,
            );
            add(
                "start_delay_seconds",
                "Time from a peer's admission until a thread or an event loop began to serve it.",
                &listener.start_delay,
            );
            add(
                "handler_seconds",
                "Time that a handler or callback took for a message; measured for one message out of 16.",
                &listener.handler,
            );
        }
        families.histogram(
            "dispatcher_round_seconds",
            "Time of one round of the dispatcher, for which data that arrives meanwhile waits in the kernel.",
            Vec::new(),
            &self.dispatcher_round,
        );
        families.histogram(
            "loop_queue_seconds",
            "Time that data waits in an event loop for its peer's turn; measured for one turn out of 16.",
            Vec::new(),
            &self.loop_queue,
        );
    }

    fn add_health(&self, families: &mut Families) {
        let Health { dispatcher_busy, loops_busy, refuses } = &self.health;
        let loops = loops_busy.iter().enumerate().map(|(number, busy)| (format!("loop{number}"), busy));
        for (thread, busy) in [("dispatcher".to_owned(), dispatcher_busy)].into_iter().chain(loops) {
            families.add(
                "busy_seconds",
                "Time that the dispatcher or an event loop has been busy since it was last woken.",
                FamilyKind::Gauge,
                vec![("thread", thread)],
                SampleValue::Fraction(busy.as_secs_f64()),
            );
        }
        let is_draining = *refuses == Some(Refusal::Draining);
        families.gauge("draining", "1 while the server shuts down.", Vec::new(), is_draining.into());
        let help = "1 while new peers are admitted: the server does not shut down and is below its limits.";
        families.gauge("ready", help, Vec::new(), refuses.is_none().into());
    }
}

impl ListenerMetrics {
    fn labels(&self) -> Labels {
        vec![("protocol", self.address.scheme.to_string()), ("listener", self.address.to_string())]
    }
}

/// Families by name.
#[derive(Default)]
struct Families(BTreeMap<&'static str, Family>);

impl Families {
    fn add(
        &mut self,
        name: &'static str,
        help: &'static str,
        kind: FamilyKind,
        labels: Labels,
        value: SampleValue,
    ) {
        let made = || Family { name: format!("peeloff_{name}"), help, kind, samples: Vec::new() };
        self.0.entry(name).or_insert_with(made).samples.push(Sample { labels, value });
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, labels: Labels, value: u64) {
        self.add(name, help, FamilyKind::Gauge, labels, SampleValue::Number(value));
    }

    fn histogram(&mut self, name: &'static str, help: &'static str, labels: Labels, times: &Distribution) {
        self.add(name, help, FamilyKind::Histogram, labels, SampleValue::Distribution(times.clone()));
    }

    fn entry(&mut self, entry: &Entry, mut labels: Labels) {
        let Entry { mut name, mut help, label, drop_reason, .. } = *entry;
        if drop_reason.is_some() {
            (name, help) = ("drops", "Dropped datagrams and messages, by reason.");
        }
        labels.extend(
            label
                .or(drop_reason.map(|reason| ("reason", reason)))
                .map(|(key, value)| (key, value.to_owned())),
        );
        let kind = match entry.kind {
            EntryKind::Counter => FamilyKind::Counter,
            EntryKind::Gauge => FamilyKind::Gauge,
        };
        self.add(name, help, kind, labels, SampleValue::Number(entry.value));
    }
}

//! What a monitoring system reads: every number of a server by listener, its limits, how long things take, and its health.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::address::Address;
use crate::admission::{Limits, Refusal};
use crate::credentials::Expiration;
use crate::observe::{Distribution, Entry, EntryKind, Stats};

/// A snapshot of all that a server measures; from [`Server::metrics`](crate::Server::metrics).
///
/// [`families`](Self::families) gives it with the names that Prometheus knows it by, for a program that has an endpoint of its
/// own. `peeloff-echo` and `peeloff-chat` serve them with `--admin`.
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
    /// The same for each listener.
    pub listeners: Vec<ListenerMetrics>,
    /// The limits in effect.
    pub limits: Limits,
    /// How many worker threads there can be, as far as the system says.
    pub max_workers: u64,
    /// How long the dispatcher thread takes for what it finds at once. What comes meanwhile waits for so long in the kernel.
    pub dispatcher_round: Distribution,
    /// How long what an event loop has read waits for the turn of its peer. One turn out of 16 is measured.
    pub loop_queue: Distribution,
    /// When parts of the credentials in use stop being valid.
    pub expirations: Vec<Expiration>,
    /// Whether the server gets on and takes new peers.
    pub health: Health,
}

/// What a server measures of one listener and its peers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ListenerMetrics {
    /// Where it listens.
    pub address: Address,
    /// Its numbers. Those of threads and event loops, which belong to no listener, are 0.
    pub stats: Stats,
    /// How long handshakes took, from the peer's admission to their end. Failed ones are left out.
    pub handshake: Distribution,
    /// How long admitted peers waited until a thread or an event loop began to serve them.
    pub start_delay: Distribution,
    /// How long handlers took for a message: from its delivery until the handler asked for the next one, or its callback
    /// returned. The first message of each peer and one out of 16 after that is measured, when it is done.
    pub handler: Distribution,
}

/// Whether a server gets on and takes new peers; from [`Handle::health`](crate::Handle::health).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// How long the dispatcher thread has been at what it found when it was last woken; zero while it waits for something to
    /// do. Some milliseconds are usual. Seconds say that [`PeerHandler::admit`](crate::PeerHandler::admit) blocks, that the
    /// thread has panicked, or that the host is overloaded.
    pub dispatcher_busy: Duration,
    /// The same for each event loop. Seconds say that callbacks block and no spare thread is left
    /// ([`ServerBuilder::spare_threads`](crate::ServerBuilder::spare_threads)).
    pub loops_busy: Vec<Duration>,
    /// Why the next peer would be refused, wherever it comes from: the server shuts down, or a limit is reached. `None`: it
    /// would be admitted, as far as limits on its own address and the handler let it in.
    pub refuses: Option<Refusal>,
}

impl Health {
    /// Returns how long the thread that has been busy for longest has been so.
    pub fn longest_busy(&self) -> Duration {
        self.loops_busy.iter().copied().fold(self.dispatcher_busy, Duration::max)
    }
}

/// Samples with one name, as in [OpenMetrics](https://prometheus.io/docs/specs/om/open_metrics_spec/).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Family {
    /// The name, which begins with `peeloff_`. That of a counter lacks the suffix `_total`, and units are part of the name.
    pub name: String,
    /// What is measured, in one or more sentences.
    pub help: &'static str,
    /// What kind of value the samples have.
    pub kind: FamilyKind,
    /// The samples; no two of them have the same labels.
    pub samples: Vec<Sample>,
}

/// What kind of value the samples of a [`Family`] have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyKind {
    /// A number that only grows.
    Counter,
    /// A number that says how much there is now.
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
    /// Of a counter or gauge.
    Number(u64),
    /// Of a gauge that is no whole number.
    Fraction(f64),
    /// Of a histogram.
    Distribution(Distribution),
}

type Labels = Vec<(&'static str, String)>;

impl Metrics {
    /// Returns everything with names and labels for a monitoring system. The labels are `protocol` and `listener`, where a number
    /// belongs to a listener, `reason`, `thread`, and of certificates `what` and `file`. Each name is there once.
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
            ("peers_limit", "Peers that may be there at once; absent without a limit.", limits.max_peers),
            (
                "peers_per_local_address_limit",
                "Peers with sockets of their own that one local address may have at once; absent without a limit.",
                limits.max_peers_per_local_address,
            ),
            (
                "half_open_limit",
                "Handshakes that may be under way at once; absent without a limit.",
                limits.max_half_open,
            ),
            (
                "awaiting_header_limit",
                "Connections to one proxied listener that may wait for their PROXY header at once; absent without a \
                 limit.",
                limits.max_awaiting_header,
            ),
            (
                "workers_limit",
                "Worker threads that the system allows; absent where it does not say.",
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
                "Time that a handler or callback took for a message; of one message out of 16.",
                &listener.handler,
            );
        }
        families.histogram(
            "dispatcher_round_seconds",
            "Time that the dispatcher takes for what it finds at once. What comes meanwhile waits for so long.",
            Vec::new(),
            &self.dispatcher_round,
        );
        families.histogram(
            "loop_queue_seconds",
            "Time that what an event loop has read waits for its peer's turn; of one turn out of 16.",
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
                "Time that the dispatcher or an event loop has been at what it found when it was last woken.",
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
            (name, help) = ("drops", "What was thrown away, by reason.");
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

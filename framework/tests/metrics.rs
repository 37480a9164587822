//! Metrics distinguish listeners, report durations, and show whether a server makes progress and accepts new
//! peers.

mod support;

use std::collections::HashSet;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use peeloff::sctp::Settings;
use peeloff::{
    Admission, Error, Family, FamilyKind, HandlerError, Incoming, Limits, ListenerMetrics, Message, Metrics,
    Peer, PeerEvents, PeerHandler, Refusal, Sample, SampleValue, Sender, Server,
};
use support::{DEADLINE, Running, exchange, until};

/// How long a thread must be busy until these tests count it as blocked.
const HELD_UP: Duration = Duration::from_millis(500);

fn of<'a>(metrics: &'a Metrics, scheme: &str) -> &'a ListenerMetrics {
    metrics.listeners.iter().find(|listener| listener.address.scheme.to_string() == scheme).unwrap()
}

#[test]
fn numbers_and_times_are_counted_for_each_listener_and_add_up() {
    let running = Running::echo_with("dtls://127.0.0.1:0", |builder| {
        builder.listen("udp://127.0.0.1:0").listen("tcp://127.0.0.1:0").listen("tls://127.0.0.1:0")
    });
    for (messages, address) in running.server.addresses().iter().enumerate() {
        let mut client = running.client().connect(address).unwrap();
        (0..=messages).for_each(|_| exchange(&mut client, b"four"));
        // A plain UDP peer sends no close.
        client.close();
    }
    running.until("three of four have left", |stats| stats.peers == 1);
    // A message is counted after it has been sent, and the time of the first message is recorded when its handler
    // asks for the next one. Both may be after the echo has arrived.
    let metrics = until("all are counted", || {
        let metrics = running.server.metrics();
        let is_counted = |listener: &ListenerMetrics| {
            listener.stats.messages_sent == listener.stats.messages_received && listener.handler.count() > 0
        };
        metrics.listeners.iter().all(is_counted).then_some(metrics)
    });
    for (messages, (listener, scheme)) in
        metrics.listeners.iter().zip(["dtls", "udp", "tcp", "tls"]).enumerate()
    {
        let (stats, messages) = (&listener.stats, messages as u64 + 1);
        assert_eq!(listener.address.scheme.to_string(), scheme);
        assert_eq!((stats.opened, stats.peers), (1, u64::from(scheme == "udp")), "{scheme}");
        assert_eq!((stats.messages_received, stats.messages_sent), (messages, messages), "{scheme}");
        assert_eq!((stats.received_bytes, stats.sent_bytes), (4 * messages, 4 * messages), "{scheme}");
        assert_eq!((stats.workers, stats.loop_threads), (0, 0), "those belong to no listener");
        assert_eq!(listener.start_delay.count(), 1, "{scheme}");
        assert_eq!(listener.handler.count(), 1, "{scheme}");
        assert_eq!(listener.handshake.count(), stats.handshakes, "{scheme}");
        assert_eq!(stats.handshakes, u64::from(listener.address.scheme.is_secure()), "{scheme}");
    }
    assert_eq!((metrics.stats.opened, metrics.stats.messages_received), (4, 10));
    assert!(of(&metrics, "tls").handshake.sum() > Duration::ZERO);
    assert!(metrics.dispatcher_round.count() >= 1);
    assert_eq!(metrics.stats, running.stats());
}

#[test]
fn peers_of_a_wildcard_count_at_it_whatever_address_they_ask() {
    let running = Running::echo("udp://0.0.0.0:0");
    let port = running.address().port();
    for host in 1..=3 {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"x", (format!("127.0.0.{host}"), port)).unwrap();
        running.until("it is served", |stats| stats.opened == host);
    }
    let metrics = running.server.metrics();
    assert_eq!(metrics.listeners.len(), 1);
    assert_eq!((metrics.listeners[0].stats.peers, metrics.stats.peers), (3, 3));
    assert_eq!(metrics.listeners[0].stats.listeners, metrics.stats.listeners);
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn drops_on_sctp_and_on_udp_are_counted_separately() {
    let settings = Settings::default().max_message(1000);
    let running = Running::echo_with("udp://127.0.0.1:0", |builder| {
        builder.listen("sctp://127.0.0.1:0").listen("sctp+dtls://127.0.0.1:0").sctp(settings)
    });
    for address in &running.server.addresses()[1..] {
        let mut client = running.client().connect(address).unwrap();
        exchange(&mut client, b"short");
        client.send(&[0; 1001]).unwrap();
        // The server ends the association.
        let _ = client.recv_timeout(&mut [0; 16], DEADLINE);
    }
    running.until("both have ended", |stats| stats.ended_total() == 2);
    let metrics = running.server.metrics();
    let dropped = |scheme: &str| of(&metrics, scheme).stats.messages_too_long;
    assert_eq!(["udp", "sctp", "sctp+dtls"].map(dropped), [0, 1, 1]);
    assert_eq!(of(&metrics, "sctp+dtls").handshake.count(), 1);
    assert_eq!(["udp", "sctp"].map(|scheme| of(&metrics, scheme).start_delay.count()), [0, 1]);
    assert_eq!((metrics.stats.listeners, metrics.stats.peers), (3, 0));
}

#[test]
fn families_have_names_units_and_labels_of_the_conventions_and_each_number_once() {
    let running = Running::echo_with("dtls://127.0.0.1:0", |builder| builder.listen("udp://127.0.0.1:0"));
    let metrics = running.server.metrics();
    let families = metrics.families();
    let names: HashSet<&str> = families.iter().map(|family| family.name.as_str()).collect();
    assert_eq!(names.len(), families.len());
    for Family { name, help, kind, samples, .. } in &families {
        assert!(name.starts_with("peeloff_") && !name.ends_with("_total"), "{name}");
        assert!(name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase() || byte.is_ascii_digit()));
        assert!(help.ends_with('.') && !help.contains('\n'), "{name}: {help}");
        assert_eq!(*kind == FamilyKind::Histogram, matches!(samples[0].value, SampleValue::Distribution(_)));
        let labels: HashSet<_> = samples.iter().map(|Sample { labels, .. }| labels).collect();
        assert_eq!(labels.len(), samples.len(), "{name} has a sample twice");
        for label in labels.into_iter().flatten() {
            let known = ["protocol", "listener", "reason", "thread", "version", "openssl", "what", "file"];
            assert!(known.contains(&label.0), "{name}: {label:?}");
        }
    }
    let value = |name: &str, wanted: &[(&str, &str)]| {
        let family =
            families.iter().find(|family| family.name == name).unwrap_or_else(|| panic!("no {name}"));
        let is_wanted = |sample: &&Sample| {
            wanted
                .iter()
                .all(|(key, value)| sample.labels.iter().any(|label| label.0 == *key && label.1 == *value))
        };
        family.samples.iter().find(is_wanted).unwrap_or_else(|| panic!("{name} {wanted:?}")).value.clone()
    };
    let udp = running.server.addresses()[1].to_string();
    let listening = SampleValue::Number(metrics.listeners[1].stats.listeners);
    assert_eq!(value("peeloff_listeners", &[("protocol", "udp"), ("listener", &udp)]), listening);
    value("peeloff_drops", &[("protocol", "udp"), ("reason", "unknown_sender")]);
    value("peeloff_refused", &[("listener", &udp), ("reason", "max_peers")]);
    value("peeloff_ended", &[("listener", &udp), ("reason", "idle")]);
    value("peeloff_busy_seconds", &[("thread", "dispatcher")]);
    assert_eq!(value("peeloff_peers_limit", &[]), SampleValue::Number(Limits::default().max_peers as u64));
    let SampleValue::Number(expiry) = value("peeloff_certificate_expiry_timestamp_seconds", &[("file", "")])
    else {
        panic!("it is whole");
    };
    assert_eq!(
        expiry,
        running.handle().expirations()[0].at.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
    );
}

/// As a handler it waits in `admit`, on the dispatcher thread. As callbacks it waits in the callback for a
/// message. Both wait until they are released.
#[derive(Clone)]
struct Blocks {
    released: Arc<AtomicBool>,
}

impl Blocks {
    fn wait(&self) {
        until("the release", || self.released.load(Ordering::SeqCst).then_some(()));
    }
}

impl PeerHandler for Blocks {
    fn admit(&self, _: &Incoming) -> Admission {
        self.wait();
        Admission::Accept
    }

    fn handle(&self, peer: &mut Peer) -> Result<(), HandlerError> {
        Ok(support::echo(peer)?)
    }
}

impl PeerEvents for Blocks {
    type State = ();

    fn open(&self, _: &Sender) -> Result<(), HandlerError> {
        Ok(())
    }

    fn message(&self, (): &mut (), peer: &Sender, message: Message<'_>) -> Result<(), HandlerError> {
        self.wait();
        Ok(peer.send(&message)?)
    }
}

fn says_hello(server: &Server) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.send_to(b"x", server.addresses()[0].resolve().unwrap()[0]).unwrap();
    socket
}

#[test]
fn a_held_up_dispatcher_differs_from_an_idle_one() {
    let blocks = Blocks { released: Arc::default() };
    let server = Server::builder().listen("udp://127.0.0.1:0").start(blocks.clone()).unwrap();
    let (handle, client) = (server.handle(), says_hello(&server));
    until("it is held up", || (handle.health().dispatcher_busy > HELD_UP).then_some(()));
    blocks.released.store(true, Ordering::SeqCst);
    client.recv(&mut [0; 8]).unwrap();
    until("it waits", || (handle.health().longest_busy() == Duration::ZERO).then_some(()));
}

#[test]
fn a_held_up_loop_differs_from_one_that_a_spare_thread_continues() {
    for spares in [0, 1] {
        let blocks = Blocks { released: Arc::default() };
        let builder = Server::builder().listen("udp://127.0.0.1:0").event_loops(1).spare_threads(spares);
        let server = builder.start_events(blocks.clone()).unwrap();
        let (handle, client) = (server.handle(), says_hello(&server));
        if spares == 0 {
            until("it is held up", || (handle.health().loops_busy[0] > HELD_UP).then_some(()));
        } else {
            until("another thread has it", || (handle.stats().loops_taken_over > 0).then_some(()));
            until("it waits", || (handle.health().loops_busy[0] == Duration::ZERO).then_some(()));
        }
        blocks.released.store(true, Ordering::SeqCst);
        client.recv(&mut [0; 8]).unwrap();
        until("it waits", || (handle.health().longest_busy() == Duration::ZERO).then_some(()));
    }
}

#[test]
fn a_server_is_ready_while_it_is_below_its_limits_and_does_not_shut_down() {
    let limits = Limits::default().max_peers(1);
    let running = Running::echo_with("udp://127.0.0.1:0", |builder| builder.limits(limits));
    let handle = running.handle();
    assert_eq!(handle.health().refuses, None);
    let mut client = running.connect();
    exchange(&mut client, b"x");
    assert_eq!(handle.health().refuses, Some(Refusal::MaxPeers));
    handle.set_limits(Limits::default());
    assert_eq!(handle.health().refuses, None);
    assert_eq!(running.server.metrics().limits, Limits::default());
    handle.shutdown(Duration::ZERO);
    assert_eq!(handle.health().refuses, Some(Refusal::Draining));
    assert_eq!(handle.health().longest_busy(), Duration::ZERO, "it has ended, and is not held up");
}

#[test]
fn a_server_without_descriptors_is_not_ready() {
    // The test runs in a process of its own, because limits apply to a process.
    if std::env::var_os("PEELOFF_TEST_TAKES_DESCRIPTORS").is_none() {
        let name = "a_server_without_descriptors_is_not_ready";
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let status = command.args([name, "--exact"]).env("PEELOFF_TEST_TAKES_DESCRIPTORS", "all").status();
        return assert!(status.unwrap().success());
    }
    let server =
        Server::builder().listen("udp://127.0.0.1:0").start(|_: &mut Peer| Ok::<(), Error>(())).unwrap();
    assert_eq!(server.handle().health().refuses, None);
    let mut taken = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        taken.push(file);
    }
    assert_eq!(server.handle().health().refuses, Some(Refusal::NoFileDescriptor));
    taken.clear();
    assert_eq!(server.handle().health().refuses, None);
}

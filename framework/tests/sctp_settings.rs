//! Settings made before the first association apply to associations, on both sides.

mod support;

use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use peeloff::sctp::{HmacAlgorithm, InitParameters, Rto, Settings, StreamScheduler};
use peeloff::{Client, Error, Peer, Server};
use support::{DEADLINE, Running, exchange};

const URL: &str = "sctp://127.0.0.1:0";

/// The parameters of an association according to the kernel.
#[derive(Debug, PartialEq)]
struct Found {
    /// The number of streams to send on, and to receive on.
    streams: (u16, u16),
    init: InitParameters,
    rto: Rto,
    dscp: Option<u8>,
    cookie_life: Duration,
    scheduler: StreamScheduler,
    adaptation: u32,
    interleaving: bool,
    partial_reliability: bool,
    reconfiguration: bool,
}

fn found(peer: &mut Peer) -> Found {
    let sctp = peer.sctp().unwrap();
    let options = sctp.options().unwrap();
    let status = options.status().unwrap();
    Found {
        streams: (status.outbound_streams, status.inbound_streams),
        init: options.init().unwrap(),
        rto: options.rto().unwrap(),
        dscp: options.path_parameters(None).unwrap().dscp.map(|octet| octet >> 2),
        cookie_life: options.association_parameters().unwrap().cookie_life,
        scheduler: options.stream_scheduler().unwrap(),
        adaptation: options.adaptation_layer().unwrap(),
        interleaving: options.interleaving_supported().unwrap(),
        partial_reliability: options.partial_reliability_supported().unwrap(),
        reconfiguration: options.reconfig_supported().unwrap(),
    }
}

/// Returns the parameters of both sides of an association between a server and a client with these settings.
fn meet(server: Settings, client: Settings) -> (Found, Found) {
    let (tell, told) = channel();
    let tell = Mutex::new(tell);
    let handler = move |peer: &mut Peer| -> Result<(), Error> {
        tell.lock().unwrap().send(found(peer)).unwrap();
        support::echo(peer)
    };
    let running = Running::with(URL, |builder| builder.sctp(server), handler);
    let mut peer = running.client().sctp(client).connect(running.url()).unwrap();
    exchange(&mut peer, b"hello");
    (told.recv_timeout(DEADLINE).unwrap(), found(&mut peer))
}

/// The kernel's timers have a resolution, which is 4 ms on Debian.
fn about(time: Duration, wanted: Duration) -> bool {
    time >= wanted && time <= wanted + Duration::from_millis(10)
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn each_setting_is_what_associations_have() {
    // The virtual machine has its own /proc/sys, so this does not affect the host.
    std::fs::write("/proc/sys/net/sctp/intl_enable", "1").unwrap();
    let millis = Duration::from_millis;
    let mut settings = Settings::default();
    settings.streams = 20;
    settings.inbound_streams = Some(12);
    settings.init_attempts = Some(3);
    settings.init_timeout = Some(millis(4000));
    settings.rto_initial = Some(millis(600));
    settings.rto_min = Some(millis(200));
    settings.rto_max = Some(millis(2000));
    settings.dscp = Some(46);
    settings.cookie_life = Some(millis(33_000));
    settings.scheduler = Some(StreamScheduler::RoundRobin);
    // Linux keeps this value to itself once an association is peeled off.
    settings.hmac_algorithms = vec![HmacAlgorithm::Sha256, HmacAlgorithm::Sha1];
    settings.adaptation_indication = Some(0xfeed);
    settings.interleaving = true;
    settings.partial_reliability = false;
    settings.stream_reconfiguration = true;
    let (server, client) = meet(settings.clone(), settings);
    for (side, found) in [("server", server), ("client", client)] {
        assert_eq!(found.streams, (12, 12), "{side}");
        let init = InitParameters {
            outbound_streams: 20,
            max_inbound_streams: 12,
            max_attempts: 3,
            max_timeout: millis(4000),
        };
        assert_eq!(found.init, init, "{side}");
        assert!(about(found.rto.initial, millis(600)), "{side}: {:?}", found.rto);
        assert!(about(found.rto.min, millis(200)), "{side}: {:?}", found.rto);
        assert!(about(found.rto.max, millis(2000)), "{side}: {:?}", found.rto);
        assert_eq!(found.dscp, Some(46), "{side}");
        assert_eq!(found.cookie_life, millis(33_000), "{side}");
        assert_eq!(found.scheduler, StreamScheduler::RoundRobin, "{side}");
        assert_eq!(found.adaptation, 0xfeed, "{side}");
        assert!(
            found.interleaving && found.reconfiguration && !found.partial_reliability,
            "{side}: {found:?}"
        );
    }
    std::fs::write("/proc/sys/net/sctp/intl_enable", "0").unwrap();
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn each_direction_has_the_streams_that_both_sides_want() {
    let wanting = |outbound, inbound| {
        let mut settings = Settings::default();
        (settings.streams, settings.inbound_streams) = (outbound, inbound);
        settings
    };
    let (server, client) = meet(wanting(5, Some(100)), wanting(30, Some(7)));
    assert_eq!((server.streams, client.streams), ((5, 30), (30, 5)));
    let (server, client) = meet(wanting(5, None), wanting(30, None));
    assert_eq!((server.streams, client.streams), ((5, 5), (5, 5)));
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn partial_reliability_needs_both_sides() {
    let without = {
        let mut settings = Settings::default();
        settings.partial_reliability = false;
        settings
    };
    let (server, client) = meet(Settings::default(), Settings::default());
    assert!(server.partial_reliability && client.partial_reliability);
    let (server, client) = meet(without, Settings::default());
    assert!(!server.partial_reliability && !client.partial_reliability);
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn a_setting_that_the_kernel_does_not_take_is_named() {
    let mut settings = Settings::default();
    settings.hmac_algorithms = vec![HmacAlgorithm::Sha256];
    let refusals = |settings: Settings| {
        let builder = Server::builder().listen(URL).sctp(settings.clone());
        let server = builder.start(support::echo).unwrap_err().to_string();
        let client = Client::builder().sctp(settings);
        [server, client.connect("sctp://127.0.0.1:9").unwrap_err().to_string()]
    };
    for refusal in refusals(settings) {
        assert!(refusal.contains("does not accept the value of hmac_algorithms"), "{refusal}");
    }
    let mut settings = Settings::default();
    settings.interleaving = true;
    for refusal in refusals(settings) {
        assert!(refusal.contains("net.sctp.intl_enable=1"), "{refusal}");
    }
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn fair_schedulers_are_there_or_are_named() {
    for scheduler in [StreamScheduler::FairCapacity, StreamScheduler::WeightedFair] {
        let mut settings = Settings::default();
        settings.scheduler = Some(scheduler);
        let builder = Server::builder().listen(URL).sctp(settings.clone());
        match builder.start(support::echo) {
            // This is Linux before 6.4.
            Err(error) => {
                assert!(error.to_string().contains("does not accept the value of scheduler"), "{error}");
            }
            Ok(server) => {
                server.handle().shutdown(Duration::ZERO);
                let (server, client) = meet(settings.clone(), settings);
                assert_eq!((server.scheduler, client.scheduler), (scheduler, scheduler));
            }
        }
    }
}

//! Every SCTP option that can be set is changed and read back, on a kernel that supports it.

#[path = "support/sctp.rs"]
mod support;

use std::io;
use std::time::Duration;

use peeloff::sctp::{
    AssociationPhase, DelayedSack, FragmentInterleave, Heartbeat, HmacAlgorithm, InitParameters, MtuChange,
    NotificationKind, Options, PathChange, PathReachability, PathThresholds, Policy, Reliability,
    ResetDirection, Rto, SackDelay, SendInfo, Socket, StreamRequests, StreamScheduler,
};
use support::{Pair, address};

fn one_to_many() -> Socket {
    Socket::one_to_many(false).unwrap()
}

fn errno(result: io::Result<impl std::fmt::Debug>) -> Option<i32> {
    result.expect_err("an error").raw_os_error()
}

/// Sets each value and reads it back; the option keeps the last one.
fn round_trip<'a, T: PartialEq + std::fmt::Debug + Copy>(
    options: Options<'a>,
    get: impl Fn(&Options<'a>) -> io::Result<T>,
    set: impl Fn(&Options<'a>, T) -> io::Result<()>,
    values: &[T],
) {
    let before = get(&options).unwrap();
    assert!(values.iter().any(|value| *value != before), "only the default is set");
    for &value in values {
        set(&options, value).unwrap();
        assert_eq!(get(&options).unwrap(), value);
    }
}

#[test]
#[ignore = "needs a kernel with SCTP: scripts/test runs it"]
fn switches_go_on_and_off() {
    let socket = one_to_many();
    let options = socket.options();
    let both = [true, false, true];
    round_trip(options, Options::nodelay, Options::set_nodelay, &both);
    round_trip(options, Options::disable_fragments, Options::set_disable_fragments, &both);
    round_trip(options, Options::receive_message_info, Options::set_receive_message_info, &both);
    round_trip(options, Options::receive_next_info, Options::set_receive_next_info, &both);
    round_trip(options, Options::mapped_v4, Options::set_mapped_v4, &both);
    round_trip(options, Options::asconf_supported, Options::set_asconf_supported, &both);
    round_trip(options, Options::reconfig_supported, Options::set_reconfig_supported, &both);
    round_trip(options, Options::ecn_supported, Options::set_ecn_supported, &both);
    round_trip(options, Options::auth_supported, Options::set_auth_supported, &both);
    let pr = [true, false];
    round_trip(
        options,
        Options::partial_reliability_supported,
        Options::set_partial_reliability_supported,
        &pr,
    );
    for kind in NotificationKind::ALL {
        assert!(!options.is_subscribed(kind).unwrap(), "{kind:?}");
        options.subscribe(kind, true).unwrap();
        assert!(options.is_subscribed(kind).unwrap(), "{kind:?}");
        options.subscribe(kind, false).unwrap();
        assert!(!options.is_subscribed(kind).unwrap(), "{kind:?}");
    }
}

#[test]
#[ignore = "needs a kernel with SCTP: scripts/test runs it"]
fn numbers_are_read_back() {
    let socket = one_to_many();
    let options = socket.options();
    round_trip(options, Options::context, Options::set_context, &[7]);
    round_trip(options, Options::adaptation_layer, Options::set_adaptation_layer, &[0xfeed]);
    round_trip(options, Options::max_burst, Options::set_max_burst, &[Some(9), None]);
    round_trip(options, Options::max_segment, Options::set_max_segment, &[Some(800), None]);
    round_trip(
        options,
        Options::partial_delivery_point,
        Options::set_partial_delivery_point,
        &[Some(20_000), None],
    );
    let seconds = Duration::from_secs;
    round_trip(options, Options::autoclose, Options::set_autoclose, &[Some(seconds(7)), None]);
    options.set_autoclose(Some(Duration::from_millis(1500))).unwrap();
    assert_eq!(options.autoclose().unwrap(), Some(seconds(2)));
    let rto = Rto { initial: seconds(2), min: Duration::from_millis(300), max: seconds(5) };
    round_trip(options, Options::rto, Options::set_rto, &[rto]);
    assert_eq!(errno(options.set_rto(Rto { min: seconds(9), ..rto })), Some(libc::EINVAL));
    let unchanged = options.set_rto(Rto { min: Duration::ZERO, ..rto }).unwrap_err();
    assert_eq!(unchanged.kind(), io::ErrorKind::InvalidInput);
    let init = InitParameters {
        outbound_streams: 5,
        max_inbound_streams: 7,
        max_attempts: 3,
        max_timeout: seconds(4),
    };
    round_trip(options, Options::init, Options::set_init, &[init]);
    options.set_association_max_retransmissions(4).unwrap();
    options.set_cookie_life(seconds(33)).unwrap();
    let parameters = options.association_parameters().unwrap();
    assert_eq!((parameters.max_retransmissions, parameters.cookie_life), (4, seconds(33)));
    let until = DelayedSack::Until { delay: Duration::from_millis(100), packets: 3 };
    round_trip(options, Options::delayed_sack, Options::set_delayed_sack, &[until, DelayedSack::Off, until]);
    let schedulers =
        [StreamScheduler::Priority, StreamScheduler::RoundRobin, StreamScheduler::FirstComeFirstServed];
    round_trip(options, Options::stream_scheduler, Options::set_stream_scheduler, &schedulers);
    let requests = StreamRequests { reset_streams: true, reset_association: false, add_streams: true };
    round_trip(options, Options::stream_requests, Options::enable_stream_requests, &[requests]);
    for on in [true, false] {
        options.set_expose_potentially_failed(on).unwrap();
        assert_eq!(options.expose_potentially_failed().unwrap(), Some(on));
    }
}

#[test]
#[ignore = "needs a kernel with SCTP: scripts/test runs it"]
fn linux_has_two_levels_of_interleaving_and_a_sysctl() {
    let socket = one_to_many();
    let options = socket.options();
    use FragmentInterleave::{Associations, None, Streams};
    round_trip(
        options,
        Options::fragment_interleave,
        Options::set_fragment_interleave,
        &[None, Associations],
    );
    options.set_fragment_interleave(Streams).unwrap();
    assert_eq!(options.fragment_interleave().unwrap(), Associations);
    // The rest changes a setting of the system, which needs root.
    let sysctl = "/proc/sys/net/sctp/intl_enable";
    let before = std::fs::read(sysctl).unwrap();
    if std::fs::write(sysctl, "0").is_err() {
        return;
    }
    let refused = options.set_interleaving_supported(true);
    std::fs::write(sysctl, "1").unwrap();
    let taken = options.set_interleaving_supported(true).and_then(|()| options.interleaving_supported());
    std::fs::write(sysctl, before).unwrap();
    assert_eq!(errno(refused), Some(libc::EPERM));
    assert!(taken.unwrap());
}

#[test]
#[ignore = "needs a kernel with SCTP: scripts/test runs it"]
fn how_to_send_by_default_is_read_back() {
    let pair = Pair::new();
    for options in [pair.client.options(), pair.client.options().association(pair.to_server)] {
        let mut info = SendInfo::default().stream(3).ppid(46).unordered(true).context(9);
        for reliability in [
            Reliability::Lifetime(Duration::from_millis(700)),
            Reliability::Retransmissions(3),
            Reliability::Priority(5),
            Reliability::Reliable,
        ] {
            info.reliability = reliability;
            options.set_default_send_info(&info).unwrap();
            assert_eq!(options.default_send_info().unwrap(), info);
        }
        options.set_default_reliability(Reliability::Retransmissions(1)).unwrap();
        assert_eq!(options.default_reliability().unwrap(), Reliability::Retransmissions(1));
    }
}

#[test]
#[ignore = "needs a kernel with SCTP: scripts/test runs it"]
fn reuse_port_is_for_one_to_one_sockets() {
    let socket = Socket::one_to_one(false).unwrap();
    round_trip(socket.options(), Options::reuse_port, Options::set_reuse_port, &[true, false]);
    assert_eq!(errno(one_to_many().options().set_reuse_port(true)), Some(libc::EOPNOTSUPP));
    assert_eq!(errno(socket.options().set_autoclose(None)), Some(libc::EOPNOTSUPP));
    assert_eq!(errno(socket.options().association_count()), Some(libc::EOPNOTSUPP));
}

#[test]
#[ignore = "needs a kernel with SCTP: scripts/test runs it"]
fn auto_asconf_wants_a_wildcard() {
    let socket = one_to_many();
    socket.bind(&[address("0.0.0.0:0")]).unwrap();
    round_trip(socket.options(), Options::auto_asconf, Options::set_auto_asconf, &[true, false]);
    let socket = one_to_many();
    socket.bind(&[address("127.0.0.1:0")]).unwrap();
    assert_eq!(errno(socket.options().set_auto_asconf(true)), Some(libc::EINVAL));
}

#[test]
#[ignore = "needs a kernel with SCTP: scripts/test runs it"]
fn paths_are_changed_one_by_one_and_all_together() {
    let pair = Pair::new();
    let socket = pair.client.options();
    let association = socket.association(pair.to_server);
    let path = association.primary().unwrap();
    for (options, address) in [(socket, None), (association, None), (association, Some(path))] {
        let change = PathChange {
            heartbeat: Some(Heartbeat::Every(Duration::from_secs(3))),
            max_retransmissions: Some(7),
            mtu: Some(MtuChange::Fixed(1200)),
            sack_delay: Some(SackDelay::UpTo(Duration::from_millis(160))),
            flow_label: None,
            dscp: Some(0x28),
        };
        options.change_path(address, change).unwrap();
        let parameters = options.path_parameters(address).unwrap();
        assert_eq!(parameters.heartbeat, Heartbeat::Every(Duration::from_secs(3)));
        assert_eq!(parameters.max_retransmissions, 7);
        assert_eq!((parameters.mtu, parameters.mtu_discovery), (1200, false));
        assert_eq!(parameters.sack_delay, SackDelay::UpTo(Duration::from_millis(160)));
        assert_eq!(parameters.dscp, Some(0x28));
        assert_eq!(parameters.flow_label, None);
        // Only the named values change.
        options.change_path(address, PathChange::default()).unwrap();
        assert_eq!(options.path_parameters(address).unwrap(), parameters);
        let change = PathChange {
            heartbeat: Some(Heartbeat::Off),
            mtu: Some(MtuChange::Discover),
            sack_delay: Some(SackDelay::Off),
            ..PathChange::default()
        };
        options.change_path(address, change).unwrap();
        let parameters = options.path_parameters(address).unwrap();
        assert_eq!(parameters.heartbeat, Heartbeat::Off);
        assert_eq!(parameters.sack_delay, SackDelay::Off);
        assert!(parameters.mtu_discovery);
        options
            .change_path(
                address,
                PathChange { heartbeat: Some(Heartbeat::Every(Duration::ZERO)), ..PathChange::default() },
            )
            .unwrap();
        assert_eq!(options.path_parameters(address).unwrap().heartbeat, Heartbeat::Every(Duration::ZERO));
    }
    association.heartbeat_now(path).unwrap();
    let info = association.path_info(path).unwrap();
    assert_eq!((info.address, info.reachability), (path, PathReachability::Active));
    assert!(info.congestion_window > 0 && info.mtu > 0 && info.rto > Duration::ZERO);
}

#[test]
#[ignore = "needs a kernel with SCTP: scripts/test runs it"]
fn an_ipv6_path_has_a_flow_label() {
    let pair = Pair::on(&[address("[::1]:0")], |_| {});
    let options = pair.client.options().association(pair.to_server);
    let path = options.primary().unwrap();
    options
        .change_path(Some(path), PathChange { flow_label: Some(0x12345), ..PathChange::default() })
        .unwrap();
    assert_eq!(options.path_parameters(Some(path)).unwrap().flow_label, Some(0x12345));
    // An IPv4 socket ignores it.
    let v4 = one_to_many();
    v4.options().change_path(None, PathChange { flow_label: Some(1), ..PathChange::default() }).unwrap();
    assert_eq!(v4.options().path_parameters(None).unwrap().flow_label, None);
}

#[test]
#[ignore = "needs a kernel with SCTP: scripts/test runs it"]
fn thresholds_encapsulation_and_probing_are_read_back() {
    let pair = Pair::new();
    let socket = pair.client.options();
    let association = socket.association(pair.to_server);
    let path = association.primary().unwrap();
    for (options, address) in [(socket, None), (association, None), (association, Some(path))] {
        for primary_switchover in [Some(9), None] {
            let thresholds =
                PathThresholds { max_retransmissions: 6, potentially_failed: 2, primary_switchover };
            options.set_path_thresholds(address, thresholds).unwrap();
            assert_eq!(options.path_thresholds(address).unwrap(), thresholds);
        }
        for port in [Some(9899), None] {
            options.set_remote_udp_encapsulation_port(address, port).unwrap();
            assert_eq!(options.remote_udp_encapsulation_port(address).unwrap(), port);
        }
        for interval in [Some(Duration::from_secs(6)), None] {
            options.set_probe_interval(address, interval).unwrap();
            assert_eq!(options.probe_interval(address).unwrap(), interval);
        }
        let soon = options.set_probe_interval(address, Some(Duration::from_secs(1)));
        assert_eq!(errno(soon), Some(libc::EINVAL));
    }
}

#[test]
#[ignore = "needs a kernel with SCTP: scripts/test runs it"]
fn the_status_says_what_was_negotiated() {
    let pair = Pair::prepared(|options| {
        let init = options.init().unwrap();
        options.set_init(InitParameters { outbound_streams: 6, max_inbound_streams: 4, ..init }).unwrap();
    });
    let options = pair.client.options().association(pair.to_server);
    let status = options.status().unwrap();
    assert_eq!((status.association, status.phase), (pair.to_server, AssociationPhase::Established));
    assert_eq!((status.inbound_streams, status.outbound_streams), (4, 4));
    assert!(status.peer_window > 0 && status.fragmentation_point > 0);
    let primary = status.primary.unwrap();
    assert_eq!(primary.address, options.primary().unwrap());
    assert_eq!(primary.address.port(), pair.server.local_addr().unwrap().port());
    let parameters = options.association_parameters().unwrap();
    assert_eq!(parameters.peer_addresses, 1);
    assert!(parameters.local_window > 0 && parameters.peer_window > 0);
    pair.client.send_to(pair.to_server, b"one", &SendInfo::default()).unwrap();
    support::message(&pair.server);
    let counters = options.counters().unwrap();
    assert_eq!((counters.ordered_sent, counters.unordered_sent), (1, 0));
    assert!(counters.packets_sent > 0 && counters.control_received > 0);
    assert_eq!(options.association_count().unwrap(), 1);
    assert_eq!(options.association_ids().unwrap(), [pair.to_server]);
    assert_eq!(errno(one_to_many().options().status()), Some(libc::EINVAL));
    assert_eq!(one_to_many().options().association_ids().unwrap(), []);
    for policy in [Policy::Lifetime, Policy::Retransmissions, Policy::Priority, Policy::All] {
        assert_eq!(options.pr_association_status(policy).unwrap(), Default::default());
        assert_eq!(options.pr_stream_status(0, policy).unwrap(), Default::default());
    }
}

#[test]
#[ignore = "needs a kernel with SCTP: scripts/test runs it"]
fn hundreds_of_associations_are_listed() {
    let server = one_to_many();
    server.bind(&[address("127.0.0.1:0")]).unwrap();
    server.listen(1).unwrap();
    let clients: Vec<_> = (0..400)
        .map(|_| {
            let client = Socket::one_to_one(false).unwrap();
            client.connect(&[server.local_addr().unwrap()]).unwrap();
            client
        })
        .collect();
    let ids = server.options().association_ids().unwrap();
    assert_eq!(ids.len(), clients.len());
    assert_eq!(server.options().association_count().unwrap() as usize, clients.len());
}

#[test]
#[ignore = "needs a kernel with SCTP: scripts/test runs it"]
fn keys_are_added_used_and_deleted() {
    let plain = one_to_many();
    plain.options().set_auth_supported(false).unwrap();
    assert_eq!(errno(plain.options().require_auth(0)), Some(libc::EACCES));
    assert_eq!(errno(plain.options().hmac_identifiers()), Some(libc::EACCES));
    let pair = Pair::prepared(|options| {
        options.set_auth_supported(true).unwrap();
        options.require_auth(0).unwrap();
        options.require_auth(0xc0).unwrap();
        assert_eq!(options.hmac_identifiers().unwrap(), [HmacAlgorithm::Sha1]);
        let both = [HmacAlgorithm::Sha256, HmacAlgorithm::Sha1];
        options.set_hmac_identifiers(&both).unwrap();
        assert_eq!(options.hmac_identifiers().unwrap(), both);
        assert_eq!(errno(options.set_hmac_identifiers(&[HmacAlgorithm::Sha256])), Some(libc::EINVAL));
    });
    let client = pair.client.options().association(pair.to_server);
    let server = pair.server.options().association(pair.to_client);
    for options in [client, server] {
        assert!(options.auth_supported().unwrap());
        assert_eq!(options.peer_auth_chunks().unwrap(), [0, 0xc0]);
        assert_eq!(options.local_auth_chunks().unwrap(), [0, 0xc0]);
        assert_eq!(options.active_auth_key().unwrap(), 0);
        assert_eq!(errno(options.activate_auth_key(5)), Some(libc::EINVAL));
        options.set_auth_key(5, &[7; 64]).unwrap();
        options.activate_auth_key(5).unwrap();
        assert_eq!(options.active_auth_key().unwrap(), 5);
        assert_eq!(errno(options.delete_auth_key(5)), Some(libc::EINVAL));
    }
    pair.client.send_to(pair.to_server, b"with key 5", &SendInfo::default()).unwrap();
    assert_eq!(support::message(&pair.server).1, b"with key 5");
    client.set_auth_key(6, b"another").unwrap();
    server.set_auth_key(6, b"another").unwrap();
    pair.client.send_with_key(pair.to_server, 6, b"with key 6", &SendInfo::default()).unwrap();
    assert_eq!(support::message(&pair.server).1, b"with key 6");
    assert_eq!(
        errno(pair.client.send_with_key(pair.to_server, 9, b"no such key", &SendInfo::default())),
        Some(libc::EINVAL)
    );
    client.activate_auth_key(6).unwrap();
    client.deactivate_auth_key(5).unwrap();
    client.delete_auth_key(0).unwrap();
}

#[test]
#[ignore = "needs a kernel with SCTP: scripts/test runs it"]
fn streams_are_scheduled_by_priority() {
    let pair = Pair::new();
    let options = pair.client.options().association(pair.to_server);
    assert_eq!(options.stream_scheduler().unwrap(), StreamScheduler::FirstComeFirstServed);
    options.set_stream_scheduler(StreamScheduler::Priority).unwrap();
    for (stream, value) in [(0, 3), (1, 1), (2, 65_535)] {
        options.set_stream_scheduler_value(stream, value).unwrap();
        assert_eq!(options.stream_scheduler_value(stream).unwrap(), value);
    }
}

#[test]
#[ignore = "needs a kernel with SCTP: scripts/test runs it"]
fn a_stream_reset_that_was_not_negotiated_is_refused() {
    let pair = Pair::prepared(|options| options.set_reconfig_supported(false).unwrap());
    let options = pair.client.options().association(pair.to_server);
    assert_eq!(errno(options.reset_streams(ResetDirection::Outbound, &[])), Some(libc::ENOPROTOOPT));
    assert_eq!(errno(options.reset_association()), Some(libc::ENOPROTOOPT));
    assert_eq!(errno(options.add_streams(1, 1)), Some(libc::ENOPROTOOPT));
}

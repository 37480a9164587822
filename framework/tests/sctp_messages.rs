//! Associations over real sockets: addresses, messages and notifications, on a kernel with SCTP.

#[path = "support/sctp.rs"]
mod support;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use peeloff::sctp::{
    AssocId, AssociationState, ErrorCause, KeyEvent, Notification, Outcome, PathState, Policy, Reliability,
    ResetDirection, SendInfo, Socket, StreamRequests,
};
use support::{PATIENCE, Pair, address, endpoint, message, notification, up, wait_for};

fn sorted(mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    addresses.sort();
    addresses
}

fn errno(result: io::Result<impl std::fmt::Debug>) -> Option<i32> {
    result.expect_err("an error").raw_os_error()
}

fn with_port(addresses: &[&str], port: u16) -> Vec<SocketAddr> {
    addresses.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), port)).collect()
}

#[test]
#[ignore = "needs a kernel with SCTP: scripts/test runs it"]
fn addresses_are_added_and_removed() {
    assert!(peeloff::sctp::is_supported());
    let socket = Socket::one_to_many(true).unwrap();
    socket.bind(&with_port(&["::1", "127.0.0.1"], 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    let options = socket.options();
    let local = || sorted(options.local_addresses().unwrap());
    assert_eq!(local(), sorted(with_port(&["::1", "127.0.0.1"], port)));
    options.add_local_addresses(&with_port(&["127.0.0.2"], 0)).unwrap();
    assert_eq!(local(), sorted(with_port(&["::1", "127.0.0.1", "127.0.0.2"], port)));
    options.remove_local_addresses(&with_port(&["127.0.0.1", "::1"], port)).unwrap();
    assert_eq!(local(), with_port(&["127.0.0.2"], port));
    assert_eq!(errno(options.remove_local_addresses(&with_port(&["127.0.0.2"], port))), Some(libc::EBUSY));
    assert_eq!(
        errno(options.add_local_addresses(&with_port(&["198.51.100.9"], port))),
        Some(libc::EADDRNOTAVAIL)
    );
    let wildcard = Socket::one_to_many(false).unwrap();
    wildcard.bind(&[address("0.0.0.0:0")]).unwrap();
    let port = wildcard.local_addr().unwrap().port();
    assert!(wildcard.options().local_addresses().unwrap().contains(&with_port(&["127.0.0.1"], port)[0]));
}

#[test]
#[ignore = "needs a kernel with SCTP: scripts/test runs it"]
fn an_association_has_several_addresses_on_either_side() {
    for ips in [&["127.0.0.1", "127.0.0.2"][..], &["::1", "127.0.0.1"]] {
        let pair = Pair::on(&with_port(ips, 0), |options| options.set_asconf_supported(false).unwrap());
        let (client, server) = (pair.client.local_addr().unwrap(), pair.server.local_addr().unwrap());
        let at_client = pair.client.options().association(pair.to_server);
        let at_server = pair.server.options().association(pair.to_client);
        assert_eq!(sorted(at_client.peer_addresses().unwrap()), sorted(with_port(ips, server.port())));
        assert_eq!(sorted(at_server.peer_addresses().unwrap()), sorted(with_port(ips, client.port())));
        assert_eq!(sorted(at_client.local_addresses().unwrap()), sorted(with_port(ips, client.port())));
        for to in with_port(ips, server.port()) {
            at_client.set_primary(to).unwrap();
            assert_eq!(at_client.primary().unwrap(), to);
            assert_eq!(at_client.path_info(to).unwrap().address, to);
            pair.client.send_over(to, b"over", &SendInfo::default()).unwrap();
            let (received, bytes) = message(&pair.server);
            assert_eq!(bytes, b"over");
            assert!(with_port(ips, client.port()).contains(&received.source.unwrap()));
        }
        assert_eq!(errno(at_client.set_primary(address("127.0.0.9:1"))), Some(libc::EINVAL));
        assert_eq!(errno(at_client.set_peer_primary(client)), Some(libc::EPERM));
    }
}

#[test]
#[ignore = "needs a kernel with SCTP: scripts/test runs it"]
fn an_address_is_added_to_a_living_association() {
    let pair = Pair::prepared(|options| {
        options.set_auth_supported(true).unwrap();
        options.set_asconf_supported(true).unwrap();
        // RFC 5061 requires that ASCONF and ASCONF-ACK are authenticated.
        options.require_auth(0xc1).unwrap();
        options.require_auth(0x80).unwrap();
    });
    let port = pair.client.local_addr().unwrap().port();
    let new = with_port(&["127.0.0.2"], port)[0];
    pair.client.options().add_local_addresses(&[new]).unwrap();
    wait_for(&pair.server, |told| match *told {
        Notification::PathChanged { address, state: PathState::Added, association, .. } => {
            assert_eq!((address, association), (new, pair.to_client));
            Some(())
        }
        _ => None,
    });
    wait_for(&pair.server, |told| match *told {
        Notification::PathChanged { address, state: PathState::Confirmed, .. } => {
            (address == new).then_some(())
        }
        _ => None,
    });
    let at_server = pair.server.options().association(pair.to_client);
    assert!(at_server.peer_addresses().unwrap().contains(&new));
    pair.client.options().association(pair.to_server).set_peer_primary(new).unwrap();
    wait_for(&pair.server, |told| match *told {
        Notification::PathChanged { address, state: PathState::MadePrimary, .. } => {
            (address == new).then_some(())
        }
        _ => None,
    });
    assert_eq!(at_server.primary().unwrap(), new);
    pair.client.options().remove_local_addresses(&with_port(&["127.0.0.1"], port)).unwrap();
    wait_for(&pair.server, |told| match *told {
        Notification::PathChanged { state: PathState::Removed, .. } => Some(()),
        _ => None,
    });
    assert_eq!(at_server.peer_addresses().unwrap(), [new]);
}

#[test]
#[ignore = "needs a kernel with SCTP: scripts/test runs it"]
fn the_receiver_sees_how_a_message_was_sent() {
    let pair = Pair::new();
    pair.server.options().set_receive_next_info(true).unwrap();
    pair.server.options().association(pair.to_client).set_context(77).unwrap();
    let info = SendInfo::default().stream(3).ppid(46);
    pair.client.send_to(pair.to_server, b"first", &info).unwrap();
    pair.client.send_to(pair.to_server, b"second", &info).unwrap();
    let unordered = SendInfo::default().stream(2).ppid(0x0102_0304).unordered(true);
    pair.client.send_to(pair.to_server, b"the third", &unordered).unwrap();
    let arrived = || {
        let counters = pair.server.options().association(pair.to_client).counters().unwrap();
        counters.ordered_received + counters.unordered_received
    };
    while arrived() < 3 {
        std::thread::yield_now();
    }

    let (first, bytes) = message(&pair.server);
    assert_eq!((bytes.as_slice(), first.complete), (&b"first"[..], true));
    assert_eq!((first.association, first.source), (Some(pair.to_client), pair.client.local_addr().ok()));
    let seen = first.info.unwrap();
    assert_eq!((seen.stream, seen.ppid, seen.unordered, seen.ssn, seen.context), (3, 46, false, 0, 77));
    assert_eq!(seen.reply(), SendInfo::default().stream(3).ppid(46));
    let next = first.next.unwrap();
    assert_eq!((next.stream, next.ppid, next.len, next.association), (3, 46, 6, pair.to_client));

    let (second, _) = message(&pair.server);
    let info = second.info.unwrap();
    assert_eq!((info.ssn, info.tsn), (1, seen.tsn.wrapping_add(1)));
    let next = second.next.unwrap();
    assert!(next.unordered && !next.notification);

    let (third, bytes) = message(&pair.server);
    assert_eq!((bytes.as_slice(), third.next), (&b"the third"[..], None));
    let info = third.info.unwrap();
    assert!(info.unordered);
    assert_eq!((info.stream, info.ppid), (2, 0x0102_0304));

    // The answer goes back to the side that asked.
    pair.server.send_to(pair.to_client, b"answer", &info.reply()).unwrap();
    assert_eq!(message(&pair.client).1, b"answer");
}

#[test]
#[ignore = "needs a kernel with SCTP: scripts/test runs it"]
fn a_message_comes_in_parts_if_the_buffer_is_short() {
    let pair = Pair::new();
    let long: Vec<u8> = (0..10_000_u32).map(|number| number as u8).collect();
    pair.client.send_to(pair.to_server, &long, &SendInfo::default()).unwrap();
    let (mut all, mut parts) = (Vec::new(), 0);
    loop {
        let mut buffer = [0; 3000];
        let received = pair.server.recv(&mut buffer).unwrap();
        if received.notification {
            continue;
        }
        all.extend_from_slice(&buffer[..received.len]);
        parts += 1;
        if received.complete {
            break;
        }
    }
    assert_eq!((all, parts), (long, 4));
}

#[test]
#[ignore = "needs a kernel with SCTP: scripts/test runs it"]
fn every_reliability_is_taken() {
    let pair = Pair::new();
    for reliability in [
        Reliability::Reliable,
        Reliability::Lifetime(Duration::from_secs(5)),
        Reliability::Retransmissions(2),
        Reliability::Priority(1),
    ] {
        let info = SendInfo::default().reliability(reliability);
        assert_eq!(pair.client.send_to(pair.to_server, b"eight by", &info).unwrap(), 8);
        assert_eq!(message(&pair.server).1, b"eight by");
    }
    assert_eq!(errno(pair.client.send_to(pair.to_server, b"", &SendInfo::default())), Some(libc::EINVAL));
    let no_such_stream = SendInfo::default().stream(60_000);
    assert_eq!(errno(pair.client.send_to(pair.to_server, b"x", &no_such_stream)), Some(libc::EINVAL));
    let nobody = AssocId::from_raw(123_456);
    assert_eq!(errno(pair.client.send_to(nobody, b"x", &SendInfo::default())), Some(libc::EPIPE));
}

#[test]
#[ignore = "needs a kernel with SCTP: scripts/test runs it"]
fn a_message_associates_with_an_address() {
    let server = endpoint(&with_port(&["127.0.0.1", "127.0.0.2"], 0), |_| {});
    let client = endpoint(&[address("127.0.0.1:0")], |_| {});
    let to = with_port(&["127.0.0.1", "127.0.0.2"], server.local_addr().unwrap().port());
    let info = SendInfo::default();
    assert_eq!(errno(client.send_to_address(to[0], &[to[0].ip()], b"x", &info)), Some(libc::EADDRNOTAVAIL));
    client.send_to_address(to[0], &[to[1].ip()], b"hello", &info).unwrap();
    let (received, bytes) = message(&server);
    assert_eq!(bytes, b"hello");
    assert_eq!(received.source, client.local_addr().ok());
    let association = client.options().association(up(&client));
    assert_eq!(sorted(association.peer_addresses().unwrap()), to);
    let error = client.send_to_address(to[0], &[to[1].ip(); 6], b"x", &info).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

#[test]
#[ignore = "needs a kernel with SCTP: scripts/test runs it"]
fn a_peeled_socket_takes_along_what_was_queued() {
    let pair = Pair::new();
    pair.client.send_to(pair.to_server, b"before", &SendInfo::default().ppid(5)).unwrap();
    wait_for(&pair.client, |told| matches!(told, Notification::SenderDry { .. }).then_some(()));
    let peeled = pair.server.peel_off(pair.to_client).unwrap();
    let (received, bytes) = message(&peeled);
    assert_eq!((bytes.as_slice(), received.info.unwrap().ppid), (&b"before"[..], 5));
    assert_eq!(pair.server.options().association_ids().unwrap(), []);
    assert_eq!(errno(pair.server.peel_off(pair.to_client)), Some(libc::EINVAL));
    // Its own association needs no name.
    peeled.send(b"answer", &SendInfo::default()).unwrap();
    assert_eq!(message(&pair.client).1, b"answer");
    assert_eq!(peeled.options().peer_addresses().unwrap(), [pair.client.local_addr().unwrap()]);
    peeled.shutdown_association(AssocId::FUTURE).unwrap();
    wait_for(&pair.client, |told| matches!(told, Notification::PeerShutDown { .. }).then_some(()));
    let state = wait_for(&pair.client, |told| match *told {
        Notification::AssociationChanged { state, .. } => Some(state),
        _ => None,
    });
    assert_eq!(state, AssociationState::ShutDown);
    // The peeled-off socket is notified as well, and then there is nothing more to read.
    loop {
        match notification(&peeled) {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
                break;
            }
        }
    }
}

#[test]
#[ignore = "needs a kernel with SCTP: scripts/test runs it"]
fn one_to_one_sockets_accept_and_shut_down() {
    let listener = Socket::one_to_one(true).unwrap();
    listener.set_read_timeout(Some(PATIENCE)).unwrap();
    listener.bind(&with_port(&["::1", "127.0.0.1"], 0)).unwrap();
    listener.listen(8).unwrap();
    let client = Socket::one_to_one(false).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let port = listener.local_addr().unwrap().port();
    client.connect(&with_port(&["127.0.0.1"], port)).unwrap();
    let (server, peer) = listener.accept().unwrap();
    let client_address = sorted(client.options().local_addresses().unwrap());
    assert!(client_address.contains(&peer.unwrap()), "{client_address:?} {peer:?}");
    client.send(b"hello", &SendInfo::default().ppid(9)).unwrap();
    let (received, bytes) = message(&server);
    assert_eq!(bytes, b"hello");
    assert_eq!(received.info.map(|info| info.ppid), Some(9));
    assert_eq!(errno(client.abort(AssocId::FUTURE, b"")), Some(libc::EINVAL));
    client.shutdown().unwrap();
    assert_eq!(server.recv(&mut [0; 9]).unwrap().len, 0);
    drop(server);
    assert_eq!(errno(client.send(b"late", &SendInfo::default())), Some(libc::EPIPE));
    // No socket listens there.
    assert_eq!(
        errno(Socket::one_to_one(false).unwrap().connect(&[address("127.0.0.1:1")])),
        Some(libc::ECONNREFUSED)
    );
}

#[test]
#[ignore = "needs a kernel with SCTP: scripts/test runs it"]
fn a_nonblocking_connect_reports_its_result_later() {
    let server = endpoint(&[address("127.0.0.1:0")], |_| {});
    let client = endpoint(&[address("127.0.0.1:0")], |_| {});
    client.set_nonblocking(true).unwrap();
    let association = client.connect(&[server.local_addr().unwrap()]).unwrap();
    client.set_nonblocking(false).unwrap();
    assert_ne!(association, AssocId::FUTURE);
    assert_eq!(up(&client), association);
    client.set_nonblocking(true).unwrap();
    let refused = client.connect(&[address("127.0.0.1:1")]).unwrap();
    client.set_nonblocking(false).unwrap();
    let state = wait_for(&client, |told| match *told {
        Notification::AssociationChanged { association, state, .. } => {
            (association == refused).then_some(state)
        }
        _ => None,
    });
    assert_eq!(state, AssociationState::CannotStart);
}

#[test]
#[ignore = "needs a kernel with SCTP: scripts/test runs it"]
fn an_abort_brings_its_reason() {
    for reason in ["go away", ""] {
        let pair = Pair::new();
        pair.server.abort(pair.to_client, reason.as_bytes()).unwrap();
        let lost = wait_for(&pair.client, |told| match told {
            Notification::AssociationChanged { .. } => Some(told.clone()),
            _ => None,
        });
        assert_eq!(lost.abort_reason().as_deref(), Some(reason));
        let Notification::AssociationChanged { association, state, error, .. } = lost else {
            unreachable!();
        };
        assert_eq!((association, state), (pair.to_server, AssociationState::Lost));
        assert_eq!(error, Some(ErrorCause::USER_INITIATED_ABORT));
    }
    // On a peeled-off socket, the peer's abort is an error too.
    let pair = Pair::new();
    let peeled = pair.server.peel_off(pair.to_client).unwrap();
    pair.client.abort(pair.to_server, b"done").unwrap();
    let told = wait_for(&peeled, |told| told.abort_reason());
    assert_eq!(told, "done");
    assert!(matches!(errno(notification(&peeled)), Some(libc::ECONNRESET | libc::ENOTCONN)));
}

#[test]
#[ignore = "needs a kernel with SCTP: scripts/test runs it"]
fn an_orderly_end_is_reported_on_both_sides() {
    let pair = Pair::prepared(|options| options.set_adaptation_layer(0xfeed).unwrap());
    let indication = |told: &Notification| match *told {
        Notification::AdaptationIndication { indication, .. } => Some(indication),
        _ => None,
    };
    assert_eq!(wait_for(&pair.client, indication), 0xfeed);
    assert_eq!(wait_for(&pair.server, indication), 0xfeed);
    pair.client.shutdown_association(pair.to_server).unwrap();
    wait_for(&pair.server, |told| {
        (*told == Notification::PeerShutDown { association: pair.to_client }).then_some(())
    });
    for socket in [&pair.client, &pair.server] {
        let state = wait_for(socket, |told| match *told {
            Notification::AssociationChanged { state, .. } => Some(state),
            _ => None,
        });
        assert_eq!(state, AssociationState::ShutDown);
    }
}

#[test]
#[ignore = "needs a kernel with SCTP: scripts/test runs it"]
fn messages_that_could_not_be_sent_are_reported() {
    let pair = Pair::new();
    // Nobody reads, so the window closes. Messages that wait then are abandoned after their lifetime, and the
    // rest with the abort.
    let reliable = SendInfo::default().ppid(1);
    while pair.client.send_to(pair.to_server, &[7; 1000], &reliable).is_ok() {}
    pair.client.abort(pair.to_server, b"").unwrap();
    let mut failures = 0;
    let failed = wait_for(&pair.client, |told| match told {
        Notification::SendFailed { .. } => {
            failures += 1;
            Some(told.clone())
        }
        _ => None,
    });
    let Notification::SendFailed { association, deprecated, info, first, last, payload, .. } = failed else {
        unreachable!();
    };
    assert_eq!((association, deprecated, payload.len()), (pair.to_server, false, 1000));
    assert_eq!((info.ppid, info.unordered, first, last), (1, false, true, true));
}

#[test]
#[ignore = "needs a kernel with SCTP: scripts/test runs it"]
fn an_expired_message_is_reported_with_its_context() {
    let pair = Pair::new();
    // Nobody reads: the window closes after about 100 KiB, and later messages wait.
    for _ in 0..120 {
        pair.client.send_to(pair.to_server, &[7; 1000], &SendInfo::default()).unwrap();
    }
    let info = SendInfo::default()
        .stream(4)
        .ppid(46)
        .unordered(true)
        .reliability(Reliability::Lifetime(Duration::from_millis(20)))
        .context(99);
    pair.client.send_to(pair.to_server, b"soon over", &info).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    for _ in 0..120 {
        assert_eq!(message(&pair.server).1.len(), 1000);
    }
    let failed = wait_for(&pair.client, |told| match told {
        Notification::SendFailed { .. } => Some(told.clone()),
        _ => None,
    });
    let Notification::SendFailed { info: told, payload, transmitted, error, .. } = failed else {
        unreachable!();
    };
    assert_eq!((transmitted, error), (false, 0));
    let options = pair.client.options().association(pair.to_server);
    assert_eq!(options.pr_association_status(Policy::Lifetime).unwrap().unsent, 1);
    assert_eq!(options.pr_stream_status(4, Policy::Lifetime).unwrap().unsent, 1);
    assert_eq!(payload, b"soon over");
    assert_eq!(told, info.reliability(Reliability::Reliable));
}

#[test]
#[ignore = "needs a kernel with SCTP: scripts/test runs it"]
fn reliable_is_reliable_whatever_the_default_is() {
    let pair = Pair::new();
    // On Linux the value of this option would be the lifetime of a message sent without SCTP_PRINFO.
    let options = pair.client.options().association(pair.to_server);
    options.set_default_reliability(Reliability::Retransmissions(1)).unwrap();
    let mut sent = 0;
    while pair.client.send_to(pair.to_server, &[7; 1000], &SendInfo::default()).is_ok() {
        sent += 1;
    }
    std::thread::sleep(Duration::from_millis(100));
    for _ in 0..sent {
        assert_eq!(message(&pair.server).1.len(), 1000);
    }
}

#[test]
#[ignore = "needs a kernel with SCTP: scripts/test runs it"]
fn streams_are_reset_and_added() {
    let pair = Pair::prepared(|options| {
        options.set_reconfig_supported(true).unwrap();
        let all = StreamRequests { reset_streams: true, reset_association: true, add_streams: true };
        options.enable_stream_requests(all).unwrap();
    });
    let options = pair.client.options().association(pair.to_server);
    let ssn = |stream| {
        pair.client.send_to(pair.to_server, b"x", &SendInfo::default().stream(stream)).unwrap();
        message(&pair.server).0.info.unwrap().ssn
    };
    assert_eq!((ssn(1), ssn(1), ssn(2)), (0, 1, 0));
    wait_for(&pair.client, |told| matches!(told, Notification::SenderDry { .. }).then_some(()));
    options.reset_streams(ResetDirection::Outbound, &[1]).unwrap();
    let reset = |told: &Notification| match told {
        Notification::StreamsReset { inbound, outbound, outcome, streams, .. } => {
            Some((*inbound, *outbound, *outcome, streams.clone()))
        }
        _ => None,
    };
    assert_eq!(wait_for(&pair.client, reset), (false, true, Outcome::Done, vec![1]));
    assert_eq!(wait_for(&pair.server, reset), (true, false, Outcome::Done, vec![1]));
    assert_eq!((ssn(1), ssn(2)), (0, 1));

    let before = options.status().unwrap();
    options.add_streams(0, 3).unwrap();
    let added = |told: &Notification| match *told {
        Notification::StreamsAdded { inbound_streams, outbound_streams, outcome, .. } => {
            Some((inbound_streams, outbound_streams, outcome))
        }
        _ => None,
    };
    let told = (wait_for(&pair.client, added), wait_for(&pair.server, added));
    // Linux reports 0 for the side that did not change, and the number of added streams for the other one.
    assert_eq!(told, ((0, 3, Outcome::Done), (3, 0, Outcome::Done)));
    let after = options.status().unwrap();
    assert_eq!(after.outbound_streams, before.outbound_streams + 3);
    assert_eq!(ssn(before.outbound_streams + 2), 0);

    wait_for(&pair.client, |told| matches!(told, Notification::SenderDry { .. }).then_some(()));
    while options.status().unwrap().unacknowledged > 0 {
        std::thread::yield_now();
    }
    options.reset_association().unwrap();
    let outcome = |told: &Notification| match *told {
        Notification::AssociationReset { outcome, .. } => Some(outcome),
        _ => None,
    };
    assert_eq!(wait_for(&pair.client, outcome), Outcome::Done);
    assert_eq!(wait_for(&pair.server, outcome), Outcome::Done);
    assert_eq!(ssn(2), 0);
}

#[test]
#[ignore = "needs a kernel with SCTP: scripts/test runs it"]
fn a_freed_key_is_reported() {
    let pair = Pair::prepared(|options| {
        options.set_auth_supported(true).unwrap();
        options.require_auth(0).unwrap();
    });
    let ends = [(&pair.client, pair.to_server), (&pair.server, pair.to_client)];
    for (socket, association) in ends {
        let options = socket.options().association(association);
        options.set_auth_key(3, b"three").unwrap();
        options.activate_auth_key(3).unwrap();
    }
    pair.client.send_to(pair.to_server, b"x", &SendInfo::default()).unwrap();
    assert_eq!(message(&pair.server).1, b"x");
    let options = pair.client.options().association(pair.to_server);
    options.set_auth_key(4, b"four").unwrap();
    pair.server.options().association(pair.to_client).set_auth_key(4, b"four").unwrap();
    options.activate_auth_key(4).unwrap();
    options.deactivate_auth_key(3).unwrap();
    let freed = wait_for(&pair.client, |told| match *told {
        Notification::Authentication { event: KeyEvent::Free, key, .. } => Some(key),
        _ => None,
    });
    assert_eq!(freed, 3);
}

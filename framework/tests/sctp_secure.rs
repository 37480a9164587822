//! TLS (RFC 3436) and DTLS (RFC 6083) over SCTP.

mod support;

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use peeloff::sctp::{Notification, NotificationKind, Reliability, SendInfo, Settings, Socket};
use peeloff::{
    CaBundle, ClientAuth, EndKind, EndReason, Error, Identity, Peer, PeerIdentity, ServerBuilder, Timeouts,
};
use support::{DEADLINE, Running, exchange};

const BOTH: [&str; 2] = ["sctp+tls://127.0.0.1:0", "sctp+dtls://127.0.0.1:0"];

fn same(builder: ServerBuilder) -> ServerBuilder {
    builder
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn messages_of_all_sizes_go_through_encrypted() {
    for url in BOTH {
        let running = Running::echo(url);
        let mut peer = running.connect();
        assert!(peer.cipher().is_some(), "{url}");
        assert!(matches!(peer.identity(), PeerIdentity::Certificate(_)), "{url}");
        for size in [1, 100, 1400, 8000, 16_384] {
            exchange(&mut peer, &vec![size as u8; size]);
        }
        let refused = peer.send(&[0; 16_385]).unwrap_err();
        assert!(matches!(refused, Error::MessageTooLarge { limit: 16_384, .. }), "{refused}");
        assert!(matches!(peer.send(b""), Err(Error::EmptyMessage)));
        exchange(&mut peer, b"still there");
        peer.close();
        let stats = running.until("it ends", |stats| stats.ended(EndKind::ClosedByPeer) == 1);
        assert_eq!((stats.handshakes, stats.half_open), (1, 0), "{url}");
    }
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn every_stream_and_order_can_be_used_over_dtls() {
    let running = Running::echo(BOTH[1]);
    let mut peer = running.connect();
    for (stream, ppid, unordered) in [(0, 0, false), (1, 46, false), (63, 7, true)] {
        let how = SendInfo::default().stream(stream).ppid(ppid).unordered(unordered);
        peer.sctp().unwrap().send(b"hello", &how).unwrap();
        let mut buffer = [0; 64];
        assert_eq!(peer.recv_timeout(&mut buffer, DEADLINE).unwrap(), Some(5));
        let info = peer.message_info().unwrap();
        assert_eq!((info.stream, info.ppid, info.unordered), (stream, ppid, unordered));
    }
    let refused = peer.sctp().unwrap().send(b"x", &SendInfo::default().stream(64));
    assert!(matches!(refused, Err(Error::NoSuchStream { stream: 64 })));
    exchange(&mut peer, b"and no number was wasted on it");
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn streams_have_tls_sessions_of_their_own_where_asked() {
    let mut settings = Settings::default();
    settings.tls_streams = 4;
    let running = Running::echo_with(BOTH[0], |builder| builder.sctp(settings.clone()));
    let mut peer = running.client().sctp(settings).connect(running.url()).unwrap();
    for stream in [3, 0, 2, 1] {
        let how = SendInfo::default().stream(stream).ppid(5);
        let message = [stream as u8; 3000];
        peer.sctp().unwrap().send(&message, &how).unwrap();
        let mut buffer = [0; 4000];
        assert_eq!(peer.recv_timeout(&mut buffer, DEADLINE).unwrap(), Some(3000));
        assert_eq!(buffer[..3000], message);
        assert_eq!(peer.message_info().unwrap().stream, stream);
    }
    for how in [
        SendInfo::default().stream(4),
        SendInfo::default().unordered(true),
        SendInfo::default().reliability(Reliability::Retransmissions(1)),
    ] {
        let refused = peer.sctp().unwrap().send(b"x", &how);
        assert!(matches!(refused, Err(Error::NoSuchStream { .. })), "{how:?}");
    }
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn a_client_shows_a_certificate_or_is_refused() {
    for url in BOTH {
        let client_identity = Identity::self_signed().unwrap();
        let trusted = CaBundle::from_pem(&client_identity.certificate_pem()).unwrap();
        let running = Running::echo_with(url, |builder| builder.client_auth(ClientAuth::Required(trusted)));
        let known = running.client().identity(client_identity).connect(running.url());
        exchange(&mut known.unwrap(), b"known");
        // In TLS 1.3 the client's handshake is complete before the server has read its certificate.
        match running.client().connect(running.url()) {
            Err(error) => assert!(error.to_string().contains("handshake"), "{error}"),
            Ok(mut peer) => assert!(peer.recv_timeout(&mut [0; 8], DEADLINE).is_err()),
        }
        running.until("it failed", |stats| stats.ended(EndKind::HandshakeFailed) == 1);
    }
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn a_server_with_an_untrusted_certificate_is_refused() {
    for url in BOTH {
        let running = Running::echo(url);
        let other = CaBundle::from_pem(&Identity::self_signed().unwrap().certificate_pem()).unwrap();
        let error = running.client().ca(other).connect(running.url()).unwrap_err();
        assert!(error.to_string().contains("does not verify"), "{error}");
        running.until("it failed", |stats| stats.ended(EndKind::HandshakeFailed) == 1 && stats.peers == 0);
        exchange(&mut running.connect(), b"other clients are served");
    }
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn keys_are_enough_without_certificates() {
    for url in BOTH {
        let lookup = |identity: &[u8]| (identity == b"me").then(|| vec![7; 32]);
        let running = Running::echo_with(url, |builder| builder.psk(lookup));
        let client = peeloff::Client::builder().psk(b"me", &[7; 32]).timeout(DEADLINE);
        let mut peer = client.connect(running.url()).unwrap();
        exchange(&mut peer, b"keyed");
        let wrong = peeloff::Client::builder().psk(b"me", &[8; 32]).timeout(DEADLINE);
        match wrong.connect(running.url()) {
            Err(_) => {}
            Ok(mut peer) => assert!(peer.recv_timeout(&mut [0; 8], DEADLINE).is_err(), "{url}"),
        }
    }
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn junk_instead_of_a_handshake_ends_that_association_alone() {
    for url in BOTH {
        let mut timeouts = Timeouts::default();
        timeouts.handshake = Duration::from_secs(5);
        let running = Running::echo_with(url, |builder| builder.timeouts(timeouts));
        let mut honest = running.connect();
        let dial = || {
            let socket = Socket::one_to_one(false).unwrap();
            if url == BOTH[1] {
                socket.options().set_auth_supported(true).unwrap();
                socket.options().require_auth(0).unwrap();
                socket.options().require_auth(0xc0).unwrap();
            }
            socket.connect(&[running.address()]).unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            socket
        };
        let (junk, silent, half) = (dial(), dial(), dial());
        junk.send(&[0xff; 3000], &SendInfo::default()).unwrap();
        half.send(&[22, 3, 1, 0x40, 0, 1], &SendInfo::default()).unwrap();
        let stats = running.until("all three are over", |stats| {
            stats.ended(EndKind::HandshakeFailed) + stats.ended(EndKind::HandshakeTimedOut) == 3
        });
        assert!(stats.ended(EndKind::HandshakeTimedOut) >= 1, "{stats:?}");
        assert_eq!((stats.peers, stats.half_open), (1, 0));
        for socket in [junk, silent, half] {
            // An alert may come first.
            let mut buffer = [0; 4096];
            while socket.recv(&mut buffer).is_ok_and(|received| received.len > 0) {}
        }
        exchange(&mut honest, b"not concerned");
    }
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn a_peer_that_does_not_authenticate_is_refused_on_dtls() {
    let running = Running::echo(BOTH[1]);
    let socket = Socket::one_to_one(false).unwrap();
    socket.connect(&[running.address()]).unwrap();
    let stats = running.until("it is refused", |stats| stats.ended(EndKind::HandshakeFailed) == 1);
    assert_eq!(stats.handshakes, 0);
    let plain = Running::echo("sctp://127.0.0.1:0");
    let mut url = plain.url().clone();
    url.scheme = peeloff::Scheme::SctpDtls;
    let error = running.client().connect(&url).unwrap_err().to_string();
    assert!(error.contains("SCTP-AUTH"), "{error}");
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn the_labels_of_both_sides_must_agree() {
    let mut old = Settings::default();
    old.dtls_label_with_nul = true;
    let running = Running::echo_with(BOTH[1], |builder| builder.sctp(old.clone()));
    let mut peer = running.client().sctp(old).connect(running.url()).unwrap();
    exchange(&mut peer, b"both the old way");
    // Finished is authenticated with a key that the other side does not have, so it never arrives.
    let client = running.client().timeout(Duration::from_secs(5));
    client.connect(running.url()).unwrap_err();
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn messages_sent_before_a_close_are_received() {
    for url in BOTH {
        let (report, reports) = channel();
        let report = Mutex::new(report);
        let running = Running::with(url, same, move |peer: &mut Peer| -> Result<(), Error> {
            let mut heard = HashMap::<u16, u32>::new();
            let mut buffer = [0; 64];
            while peer.recv(&mut buffer)?.is_some() {
                *heard.entry(peer.message_info().unwrap().stream).or_default() += 1;
            }
            report.lock().unwrap().send((heard, peer.end_reason().cloned())).unwrap();
            Ok(())
        });
        let streams = if url == BOTH[1] { 32 } else { 1 };
        let mut peer = running.connect();
        for number in 0..1000u16 {
            let how = SendInfo::default().stream(number % streams);
            peer.sctp().unwrap().send(b"last words", &how).unwrap();
        }
        peer.close();
        let (heard, end) = reports.recv_timeout(DEADLINE).unwrap();
        assert_eq!(heard.values().sum::<u32>(), 1000, "{url}: {heard:?}");
        assert_eq!(end, Some(EndReason::ClosedByPeer));
    }
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn notifications_come_on_secured_associations_too() {
    let running = Running::echo(BOTH[1]);
    let mut peer = running.connect();
    let mut sctp = peer.sctp().unwrap();
    sctp.subscribe(NotificationKind::SenderDry, true).unwrap();
    let mut buffer = [0; 64];
    match sctp.recv_event_timeout(&mut buffer, DEADLINE).unwrap() {
        Some(peeloff::Event::Notification(notification)) => {
            assert_eq!(notification.kind(), Some(NotificationKind::SenderDry));
        }
        other => panic!("{other:?}"),
    }
    exchange(&mut peer, b"and messages");
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn a_peer_that_does_not_authenticate_what_gives_or_takes_data_is_refused_over_dtls() {
    const DATA: u8 = 0;
    const FORWARD_TSN: u8 = 0xc0;
    // A client that may continue sends nothing, and is given up after this time.
    let mut timeouts = Timeouts::default();
    timeouts.handshake = Duration::from_secs(1);
    for (chunks, partial_reliability, refusal) in [
        (&[FORWARD_TSN][..], true, Some("SCTP-AUTH must cover DATA chunks")),
        (&[DATA][..], true, Some("SCTP-AUTH must cover FORWARD-TSN chunks")),
        (&[DATA, FORWARD_TSN][..], true, None),
        (&[DATA][..], false, None),
    ] {
        let running = Running::echo_with(BOTH[1], |builder| builder.timeouts(timeouts.clone()));
        let client = Socket::one_to_one(false).unwrap();
        let options = client.options();
        options.set_auth_supported(true).unwrap();
        options.set_partial_reliability_supported(partial_reliability).unwrap();
        options.subscribe(NotificationKind::AssociationChanged, true).unwrap();
        chunks.iter().for_each(|chunk| options.require_auth(*chunk).unwrap());
        client.connect(&[running.address()]).unwrap();
        let stats = running.until("it is over", |stats| stats.peers == 0 && stats.opened == 1);
        let expected = if refusal.is_some() { EndKind::HandshakeFailed } else { EndKind::HandshakeTimedOut };
        assert_eq!(stats.ended(expected), 1, "{chunks:?}, {partial_reliability}: {stats:?}");
        let mut buffer = [0; 1000];
        let reason = loop {
            let received = client.recv(&mut buffer).unwrap();
            assert!(received.notification);
            if let Some(reason) = Notification::parse(&buffer[..received.len]).unwrap().abort_reason() {
                break reason;
            }
        };
        assert_eq!(reason, refusal.unwrap_or("handshake_timed_out"), "{chunks:?}, {partial_reliability}");
    }
}

/// Sends until there is no room, and reports how much it sent. Then occupies its thread until told to return.
fn stuck(peer: &mut Peer, told: &Mutex<std::sync::mpsc::Sender<usize>>, release: &Mutex<Receiver<()>>) {
    let sender = peer.sender();
    let how = SendInfo::default().stream(5);
    let sent = (0..).find(|_| sender.try_send_with([7; 8000], &how).is_err()).unwrap();
    told.lock().unwrap().send(sent).unwrap();
    let _ = release.lock().unwrap().recv_timeout(DEADLINE);
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn a_close_notify_follows_only_what_is_acknowledged_also_for_a_handler_that_is_stuck() {
    for reads in [true, false] {
        let ((told, tells), (release, held)) = (channel(), channel());
        let (told, held) = (Mutex::new(told), Mutex::new(held));
        let handler = move |peer: &mut Peer| -> Result<(), Error> {
            stuck(peer, &told, &held);
            Ok(())
        };
        let running = Running::with(BOTH[1], same, handler);
        let mut peer = running.connect();
        let sent = tells.recv_timeout(DEADLINE).unwrap();
        let hear = |peer: &mut Peer| {
            let mut buffer = [0; 8000];
            let mut heard = 0;
            loop {
                match peer.recv_timeout(&mut buffer, DEADLINE) {
                    Ok(Some(8000)) => heard += 1,
                    Ok(None) | Err(Error::Ended(_)) => break,
                    other => panic!("{other:?}"),
                }
            }
            (heard, peer.end_reason().cloned())
        };
        let shut_down = || running.handle().shutdown(Duration::ZERO).abandoned;
        let (abandoned, (heard, end)) = if reads {
            std::thread::scope(|scope| {
                let hearing = scope.spawn(|| hear(&mut peer));
                (shut_down(), hearing.join().unwrap())
            })
        } else {
            // Its window is full, so not everything is acknowledged when the server has ended.
            (shut_down(), hear(&mut peer))
        };
        assert_eq!(abandoned, 1);
        let expected = if reads { EndReason::ClosedByPeer } else { EndReason::Truncated };
        assert_eq!(end, Some(expected), "reads: {reads}");
        assert!(heard == sent || heard + 1 == sent, "{heard} of {sent}");
        drop(release);
    }
}

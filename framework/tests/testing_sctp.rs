//! SCTP's own features, on peers over memory. They need no kernel with SCTP.

use peeloff::sctp::{AssocId, Notification, NotificationKind, PathState, SendInfo};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use peeloff::testing::{Pair, pair};
use peeloff::{EndReason, Error, Event, Peer, PostOutcome, Scheme};

#[test]
fn sctp_carries_streams_identifiers_and_order_both_ways() {
    for scheme in [Scheme::Sctp, Scheme::SctpTls, Scheme::SctpDtls] {
        let (mut peer, remote) = pair(scheme);
        let mut buffer = [0; 16];
        for (stream, ssn) in [(0, 0), (0, 1)] {
            remote.send_with("ordered", &SendInfo::default().stream(stream).ppid(46));
            assert_eq!(peer.recv(&mut buffer).unwrap(), Some(7));
            let info = peer.message_info().unwrap();
            assert_eq!((info.stream, info.ppid, info.ssn, info.unordered), (stream, 46, ssn, false));
            peer.reply(b"answer").unwrap();
            let how = SendInfo::default().stream(stream).ppid(46);
            assert_eq!(remote.recv_with(), Some((b"answer".to_vec(), how)), "{scheme}");
        }
        let mut sctp = peer.sctp().unwrap();
        let beyond = sctp.send(b"x", &SendInfo::default().stream(64));
        assert!(matches!(beyond, Err(Error::NoSuchStream { stream: 64 })), "{beyond:?}");
        // TLS needs the order of a stream.
        let unordered = SendInfo::default().unordered(true);
        assert_eq!(sctp.send(b"x", &unordered).is_ok(), scheme != Scheme::SctpTls, "{scheme}");
        // There is no kernel to ask.
        let missing = sctp.options().err().map(|error| error.to_string());
        assert!(missing.is_some_and(|missing| missing.contains("peeloff::testing")), "{scheme}");
        sctp.abort(b"no more");
        assert_eq!(remote.abort_reason().as_deref(), Some(&b"no more"[..]));
        assert_eq!(remote.end_reason(), Some(EndReason::ClosedByUs));
        assert!(peer.sctp().is_none());
    }
    assert!(pair(Scheme::Tcp).0.sctp().is_none());
}

#[test]
fn subscribed_notifications_arrive_between_messages() {
    let (mut peer, remote) = pair(Scheme::Sctp);
    let changed = |state| Notification::PathChanged {
        association: AssocId::default(),
        address: "192.0.2.2:50000".parse().unwrap(),
        state,
        error: 0,
    };
    let mut buffer = [0; 16];
    remote.notify(changed(PathState::Unreachable));
    remote.send("one");
    let mut sctp = peer.sctp().unwrap();
    let first = sctp.recv_event(&mut buffer).unwrap();
    assert!(matches!(first, Some(Event::Message(3, _))), "{first:?}");
    sctp.subscribe(NotificationKind::PathChanged, true).unwrap();
    remote.notify(changed(PathState::Available));
    remote.send("two");
    let next = sctp.recv_event(&mut buffer).unwrap();
    assert!(matches!(next, Some(Event::Notification(found)) if found == changed(PathState::Available)));
    // `recv` keeps them for later.
    remote.notify(changed(PathState::MadePrimary));
    remote.send("three");
    assert_eq!(peer.recv(&mut buffer).unwrap(), Some(3));
    assert_eq!(peer.recv(&mut buffer).unwrap(), Some(5));
    let mut sctp = peer.sctp().unwrap();
    assert_eq!(sctp.next_notification(), Some(changed(PathState::MadePrimary)));
    // A notification that reports the end of the association ends it.
    sctp.subscribe(NotificationKind::PeerShutDown, true).unwrap();
    let last = Notification::PeerShutDown { association: AssocId::default() };
    remote.notify(last.clone());
    let event = sctp.recv_event(&mut buffer).unwrap();
    assert!(matches!(event, Some(Event::Notification(found)) if found == last));
    assert!(sctp.recv_event(&mut buffer).unwrap().is_none());
    assert_eq!(peer.end_reason(), Some(&EndReason::ClosedByPeer));
}

#[test]
fn a_full_outbox_does_not_stop_received_messages() {
    for scheme in [Scheme::Sctp, Scheme::SctpTls, Scheme::SctpDtls] {
        let (told, heard) = channel();
        let remote = Pair::new(scheme).serve(move |peer: &mut Peer| -> Result<(), Error> {
            let mut message = Vec::new();
            while peer.recv_into(&mut message)?.is_some() {
                assert_eq!(peer.sender().post(&Arc::from(&message[..])), PostOutcome::Queued);
                told.send(message.clone()).unwrap();
            }
            Ok(())
        });
        remote.set_room(0);
        for text in ["one", "two"] {
            remote.send(text);
            let message = heard.recv_timeout(Duration::from_secs(10));
            assert_eq!(message.as_deref(), Ok(text.as_bytes()), "{scheme}");
        }
        remote.set_room(usize::MAX);
        for text in ["one", "two"] {
            assert_eq!(remote.recv().as_deref(), Some(text.as_bytes()), "{scheme}");
        }
    }
}

#[test]
fn nothing_is_sent_after_an_abort() {
    for scheme in [Scheme::Sctp, Scheme::SctpTls, Scheme::SctpDtls] {
        let (mut peer, remote) = pair(scheme);
        let sender = peer.sender();
        remote.set_room(0);
        assert_eq!(sender.post(&Arc::from(&b"late"[..])), PostOutcome::Queued);
        remote.set_room(usize::MAX);
        peer.sctp().unwrap().abort(b"no more");
        assert_eq!(remote.recv(), None, "{scheme}");
        assert_eq!(remote.wait_for_end(), Some(EndReason::ClosedByUs));
        assert_eq!(remote.abort_reason().as_deref(), Some(&b"no more"[..]));
        assert_eq!(sender.post(&Arc::from(&b"later"[..])), PostOutcome::Ended);
    }
}

//! Peers over memory behave like peers over sockets, and no wrong use of them hangs.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use peeloff::testing::{Pair, Remote, pair};
use peeloff::{
    Callbacks, EndReason, Error, Framing, HandlerError, Message, OutboxLimits, Overflow, Peer, PeerEvents,
    PeerIdentity, PostOutcome, Scheme, Sender, TcpSettings, Timeouts, TrySendError,
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// The time for waits that nothing ends: just long enough for a thread to have begun to wait.
const SHORT: Duration = Duration::from_millis(20);

fn echo(peer: &mut Peer) -> Result<(), Error> {
    let mut message = Vec::new();
    while peer.recv_into(&mut message)?.is_some() {
        peer.reply(&message)?;
    }
    Ok(())
}

fn lines() -> TcpSettings {
    TcpSettings::default().framing(Framing::Lines)
}

fn datagram_schemes() -> impl Iterator<Item = Scheme> {
    Scheme::ALL.iter().copied().filter(|scheme| !scheme.is_stream())
}

#[track_caller]
fn assert_hears(remote: &Remote, expected: &str) {
    let heard = remote.recv().map(|message| String::from_utf8_lossy(&message).into_owned());
    assert_eq!(heard.as_deref(), Some(expected));
}

#[test]
fn a_script_is_played_to_its_end_on_the_thread_of_the_test() {
    for &scheme in Scheme::ALL {
        let (mut peer, remote) = pair(scheme);
        remote.send("one");
        remote.send("two");
        remote.close();
        echo(&mut peer).unwrap();
        assert_hears(&remote, "one");
        assert_hears(&remote, "two");
        assert_eq!(remote.recv(), None, "{scheme}");
        let goodbye = if scheme == Scheme::Udp { EndReason::Idle } else { EndReason::ClosedByPeer };
        assert_eq!(remote.end_reason(), Some(goodbye), "{scheme}");
    }
}

#[test]
fn a_handler_on_a_thread_of_its_own_is_talked_with_and_ends_as_in_a_server() {
    for &scheme in Scheme::ALL {
        let remote = Pair::new(scheme).serve(echo);
        for text in ["one", "two"] {
            remote.send(text);
            assert_hears(&remote, text);
        }
        assert_eq!(remote.try_recv(), None);
        assert_eq!(remote.end_reason(), None);
        remote.stop();
        assert_eq!(remote.wait_for_end(), Some(EndReason::Shutdown), "{scheme}");
    }
    for (outcome, expected) in [
        (Some(std::io::Error::other("no").into()), EndReason::HandlerFailed),
        (Some(Error::SendBufferFull), EndReason::TooSlow),
        (Some(Error::MessageRefused { limit: 5 }), EndReason::MessageRefused { limit: 5 }),
        (None, EndReason::ClosedByUs),
    ] {
        let outcome = Mutex::new(outcome);
        let remote = Pair::new(Scheme::Tls)
            .serve(move |_: &mut Peer| outcome.lock().unwrap().take().map_or(Ok(()), Err));
        assert_eq!(remote.wait_for_end(), Some(expected));
    }
    let remote = Pair::new(Scheme::Dtls)
        .serve(|_: &mut Peer| -> Result<(), Error> { panic!("a panic of a handler, as it is to be") });
    assert_eq!(remote.wait_for_end(), Some(EndReason::HandlerPanicked));
}

#[test]
fn the_test_says_who_the_peer_is() {
    let psk = PeerIdentity::Psk(b"sensor".to_vec());
    let (local, from) = ("[::1]:4433".parse().unwrap(), "[::1]:9".parse().unwrap());
    let described = Pair::new(Scheme::Dtls)
        .identity(psk.clone())
        .alpn("coap")
        .server_name("example.org")
        .srtp_profile("SRTP_AEAD_AES_128_GCM")
        .resumed(true)
        .addresses(local, from);
    assert_eq!(described.incoming().peer_address(), from);
    let (peer, _remote) = described.open();
    assert_eq!((peer.identity(), peer.alpn()), (&psk, Some("coap")));
    assert_eq!(
        (peer.server_name(), peer.srtp_profile()),
        (Some("example.org"), Some("SRTP_AEAD_AES_128_GCM"))
    );
    assert_eq!((peer.local_address(), peer.peer_address(), peer.is_resumed()), (local, from, true));
    for &scheme in Scheme::ALL {
        assert_eq!(pair(scheme).0.cipher().is_some(), scheme.is_secure(), "{scheme}");
    }
    assert_eq!(Pair::new(Scheme::Tls).cipher("NULL").open().0.cipher(), Some("NULL"));
}

#[test]
fn time_passes_as_the_test_says_and_in_the_order_of_what_is_said() {
    let began = Instant::now();
    for &scheme in Scheme::ALL {
        let (mut peer, remote) = pair(scheme);
        remote.elapse(25 * SECOND);
        remote.send("late");
        let mut buffer = [0; 16];
        let mut recv = |timeout| peer.recv_timeout(&mut buffer, timeout);
        assert!(matches!(recv(10 * SECOND), Err(Error::TimedOut)), "{scheme}");
        assert!(matches!(recv(10 * SECOND), Err(Error::TimedOut)), "{scheme}");
        assert_eq!(recv(10 * SECOND).unwrap(), Some(4), "{scheme}");
        // With a timeout of zero, nothing needs to happen.
        assert!(matches!(recv(Duration::ZERO), Err(Error::TimedOut)), "{scheme}");
        remote.elapse(Duration::MAX);
        remote.elapse(Duration::MAX);
        assert_eq!(peer.recv(&mut buffer).unwrap(), None, "{scheme}");
        assert_eq!(peer.end_reason(), Some(&EndReason::Idle), "{scheme}");
    }
    assert!(began.elapsed() < 10 * SECOND, "the virtual time was waited for");
}

#[test]
fn the_deadlines_of_the_server_hold() {
    let timeouts = || {
        Timeouts::default()
            .idle(Some(20 * SECOND))
            .first_message(Some(5 * SECOND))
            .frame(Some(5 * SECOND))
            .lifetime(None)
    };
    let mut buffer = [0; 16];
    for &scheme in Scheme::ALL {
        let (mut peer, remote) = Pair::new(scheme).timeouts(timeouts()).open();
        for _ in 0..3 {
            remote.elapse(19 * SECOND);
            remote.send("x");
            assert_eq!(peer.recv(&mut buffer).unwrap(), Some(1), "{scheme}");
        }
        remote.elapse(20 * SECOND);
        assert_eq!(peer.recv(&mut buffer).unwrap(), None, "{scheme}");
        assert_eq!(peer.end_reason(), Some(&EndReason::Idle), "{scheme}");

        // A sender notices the end of its lifetime, too.
        let (mut peer, remote) = Pair::new(scheme).timeouts(timeouts().lifetime(Some(30 * SECOND))).open();
        let sender = peer.sender();
        sender.try_send("x").unwrap();
        remote.elapse(15 * SECOND);
        remote.send("x");
        remote.elapse(HOUR);
        assert_eq!(peer.recv(&mut buffer).unwrap(), Some(1));
        assert!(matches!(peer.recv_timeout(&mut buffer, 10 * SECOND), Err(Error::TimedOut)));
        assert_eq!(peer.recv(&mut buffer).unwrap(), None, "{scheme}");
        assert_eq!(peer.end_reason(), Some(&EndReason::Lifetime), "{scheme}");
        assert!(matches!(sender.try_send("x"), Err(TrySendError { message: "x", error: Error::Ended(_) })));
    }
    for (said, expected) in [(None, EndReason::NoFirstMessage), (Some("ha"), EndReason::FrameTimedOut)] {
        let (mut peer, remote) = Pair::new(Scheme::Tls)
            .tcp(lines())
            .timeouts(timeouts().first_message(said.is_none().then_some(5 * SECOND)))
            .open();
        said.map(|said| remote.send_bytes(said));
        remote.elapse(5 * SECOND);
        let _ = peer.recv(&mut buffer);
        assert_eq!(peer.end_reason(), Some(&expected));
    }
}

#[test]
fn messages_sent_before_a_drain_are_received_and_the_drain_is_reported_once() {
    for &scheme in Scheme::ALL {
        let (mut peer, remote) = pair(scheme);
        let mut buffer = [0; 16];
        remote.send("x");
        remote.drain();
        assert_eq!(peer.recv(&mut buffer).unwrap(), Some(1), "{scheme}");
        assert!(!peer.is_draining());
        assert_eq!(peer.recv(&mut buffer).unwrap(), None, "{scheme}");
        assert!(peer.is_draining() && peer.end_reason().is_none());
        // This lasts until the end of the grace period.
        remote.send("y");
        assert_eq!(peer.recv(&mut buffer).unwrap(), Some(1), "{scheme}");
        peer.send(b"last words").unwrap();
        remote.stop();
        assert_eq!(peer.recv(&mut buffer).unwrap(), None, "{scheme}");
        assert_eq!(peer.end_reason(), Some(&EndReason::Shutdown));
        assert_hears(&remote, "last words");
        // A handler that waits for something else sees the drain without `recv`.
        let (peer, remote) = pair(scheme);
        remote.drain();
        assert!(peer.is_draining());
    }
}

#[test]
fn an_end_without_goodbye_is_an_error() {
    for (scheme, reason) in [
        (Scheme::Tcp, EndReason::Aborted("the connection was reset".to_owned())),
        (Scheme::Tls, EndReason::Truncated),
        (Scheme::Sctp, EndReason::Unreachable),
        (Scheme::Dtls, EndReason::Protocol("an alert".to_owned())),
    ] {
        let (mut peer, remote) = pair(scheme);
        remote.send("x");
        remote.end_with(reason.clone());
        assert!(!remote.send("nobody hears that"));
        let mut buffer = [0; 16];
        assert_eq!(peer.recv(&mut buffer).unwrap(), Some(1));
        for _ in 0..2 {
            assert!(matches!(peer.recv(&mut buffer), Err(Error::Ended(found)) if found == reason));
        }
        assert_eq!(remote.end_reason(), Some(reason));
    }
}

#[test]
fn messages_have_the_limits_of_their_protocol() {
    for (scheme, longest) in [
        (Scheme::Udp, 65_507),
        (Scheme::Dtls, 16_384),
        (Scheme::Tcp, 64 << 10),
        (Scheme::Tls, 64 << 10),
        (Scheme::Sctp, 1 << 20),
        (Scheme::SctpTls, 16_384),
        (Scheme::SctpDtls, 16_384),
    ] {
        let (mut peer, remote) = Pair::new(scheme).tcp(lines()).open();
        assert_eq!(peer.max_message_size(), longest, "{scheme}");
        let (long, mut message) = (vec![7; longest + 1], Vec::new());
        assert!(matches!(peer.send(&long), Err(Error::MessageTooLarge { limit, .. }) if limit == longest));
        let refused = peer.sender().try_send(&long).unwrap_err().error;
        assert!(matches!(refused, Error::MessageTooLarge { limit, .. } if limit == longest), "{refused}");
        peer.send(&long[1..]).unwrap();
        remote.send(&long[1..]);
        assert_eq!(peer.recv_into(&mut message).unwrap(), Some(longest), "{scheme}");
        assert_eq!(remote.recv().unwrap(), message);
        remote.send(&long);
        let refused = peer.recv_into(&mut message);
        assert!(matches!(refused, Err(Error::MessageRefused { limit }) if limit == longest), "{refused:?}");
        // The association stays open, and an empty message arrives if the protocol allows one.
        let takes_empty = scheme == Scheme::Udp || scheme.is_stream();
        assert_eq!((remote.send(""), peer.send(b"").is_ok()), (takes_empty, takes_empty), "{scheme}");
        remote.send("x");
        if takes_empty {
            assert_eq!(peer.recv_into(&mut message).unwrap(), Some(0), "{scheme}");
            assert_hears(&remote, "");
        }
        assert_eq!(peer.recv_into(&mut message).unwrap(), Some(1), "{scheme}");
    }
}

#[test]
fn a_message_longer_than_the_buffer_is_kept_for_a_larger_one() {
    for scheme in datagram_schemes() {
        let (mut peer, remote) = pair(scheme);
        remote.send([7; 1000]);
        let small = peer.recv(&mut [0; 10]);
        assert!(matches!(small, Err(Error::BufferTooSmall { needed: 1000 })), "{scheme}");
        let mut large = [0; 1000];
        assert_eq!(peer.recv(&mut large).unwrap(), Some(1000));
        assert_eq!(large, [7; 1000]);
    }
}

#[test]
fn a_stream_is_read_in_the_pieces_that_come_and_as_far_as_there_is_room() {
    use std::io::{BufRead, BufReader, Read, Write};
    for scheme in [Scheme::Tcp, Scheme::Tls] {
        let (mut peer, remote) = pair(scheme);
        remote.send("abcdef");
        remote.send("gh");
        let mut buffer = [0; 4];
        for expected in [&b"abcd"[..], b"ef", b"gh"] {
            let len = peer.recv(&mut buffer).unwrap().unwrap();
            assert_eq!(&buffer[..len], expected);
        }
        remote.send("hello\nwo");
        remote.send("rld\nrest");
        remote.close();
        let mut reader = BufReader::new(peer.as_stream().unwrap());
        let (mut line, mut rest) = (String::new(), Vec::new());
        reader.read_line(&mut line).unwrap();
        reader.read_line(&mut line).unwrap();
        assert_eq!(line, "hello\nworld\n");
        reader.get_mut().write_all(b"bye").unwrap();
        reader.get_mut().flush().unwrap();
        reader.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"rest");
        assert_hears(&remote, "bye");
    }
}

#[test]
fn a_framing_makes_messages_of_the_bytes_both_ways() {
    let (mut peer, remote) = Pair::new(Scheme::Tcp).tcp(lines()).open();
    for piece in ["he", "", "llo\r\nand", "\n", "the last one"] {
        remote.send_bytes(piece);
    }
    remote.close();
    let mut message = Vec::new();
    for expected in ["hello", "and", "the last one"] {
        assert_eq!(peer.recv_into(&mut message).unwrap(), Some(expected.len()));
        assert_eq!(message, expected.as_bytes());
        peer.send(&message).unwrap();
    }
    assert_eq!(peer.recv_into(&mut message).unwrap(), None);
    assert_hears(&remote, "hello");
    let prefixed = TcpSettings::default().framing(Framing::LengthPrefixed);
    let (mut peer, remote) = Pair::new(Scheme::Tls).tcp(prefixed).open();
    for byte in *b"\0\0\0\x02hi\0\0\0\0" {
        remote.send_bytes([byte]);
    }
    remote.send("again");
    for expected in ["hi", "", "again"] {
        assert_eq!(peer.recv_into(&mut message).unwrap(), Some(expected.len()));
        peer.send(&message).unwrap();
        assert_hears(&remote, expected);
    }
}

#[test]
fn a_full_send_buffer_refuses_or_queues_and_is_emptied_when_there_is_room() {
    let began = Instant::now();
    for &scheme in Scheme::ALL {
        let outbox = OutboxLimits::default().max_messages(2).overflow(Overflow::DropOldest);
        let settings = lines().max_pending(8);
        let (mut peer, remote) = Pair::new(scheme).outbox(outbox).tcp(settings).open();
        let sender = peer.sender();
        remote.set_room(0);
        if scheme.is_stream() {
            // One message waits behind the socket's own buffer.
            sender.try_send("pending").unwrap();
        }
        assert!(
            matches!(sender.try_send("x"), Err(TrySendError { message: "x", error: Error::SendBufferFull })),
            "{scheme}"
        );
        let post = |text: &str| sender.post(&Arc::from(text.as_bytes()));
        assert_eq!(
            (post("one"), post("two"), post("three")),
            (PostOutcome::Queued, PostOutcome::Queued, PostOutcome::Dropped)
        );
        assert_eq!(remote.try_recv(), None);
        // The handler waits for room for as long as the server allows.
        remote.send("unread");
        remote.elapse(5 * SECOND);
        assert!(matches!(peer.send(b"x"), Err(Error::SendBufferFull)), "{scheme}");
        remote.set_room(usize::MAX);
        let mut buffer = [0; 16];
        assert_eq!(peer.recv(&mut buffer).unwrap(), Some(6), "{scheme}");
        assert!(matches!(peer.recv_timeout(&mut buffer, Duration::ZERO), Err(Error::TimedOut)));
        if scheme.is_stream() {
            assert_hears(&remote, "pending");
        }
        assert_hears(&remote, "two");
        assert_hears(&remote, "three");
        assert_eq!(remote.try_recv(), None);
    }
    assert!(began.elapsed() < 10 * SECOND, "the virtual time was waited for");
}

#[test]
fn receiving_a_message_makes_room_for_the_next_and_wakes_the_handler() {
    for &scheme in Scheme::ALL {
        let (waits, ready) = channel();
        let handler = move |peer: &mut Peer| -> Result<(), Error> {
            waits.send(peer.sender()).unwrap();
            assert_eq!(peer.recv(&mut [0; 16])?, None);
            // Each of these messages waits for its turn.
            for text in ["four", "five!", "six"] {
                peer.send(text.as_bytes())?;
            }
            Ok(())
        };
        // On a stream there is room for one byte.
        let remote = Pair::new(scheme).tcp(lines().max_pending(1)).serve(handler);
        remote.set_room(1);
        let sender = ready.recv().unwrap();
        for text in ["one", "two", "three"] {
            assert_ne!(sender.post(&Arc::from(text.as_bytes())), PostOutcome::Dropped);
        }
        for text in ["one", "two", "three"] {
            assert_hears(&remote, text);
        }
        remote.drain();
        for text in ["four", "five!", "six"] {
            assert_hears(&remote, text);
        }
        assert_eq!(remote.recv(), None);
        assert_eq!(remote.wait_for_end(), Some(EndReason::Shutdown), "{scheme}");
    }
}

#[test]
fn messages_posted_before_a_close_are_sent_first_as_far_as_there_is_room() {
    for &scheme in Scheme::ALL {
        let (mut peer, remote) = Pair::new(scheme).tcp(lines().max_pending(1)).open();
        remote.set_room(0);
        let sender = peer.sender();
        // A stream accepts the first of them without an outbox.
        for text in ["one", "two"] {
            assert_ne!(sender.post(&Arc::from(text.as_bytes())), PostOutcome::Dropped);
        }
        remote.set_room(usize::MAX);
        sender.close();
        assert_eq!(peer.recv(&mut [0; 16]).unwrap(), None);
        assert_eq!(peer.end_reason(), Some(&EndReason::ClosedByUs));
        assert_hears(&remote, "one");
        assert_hears(&remote, "two");
        assert_eq!(remote.recv(), None, "{scheme}");
    }
}

#[test]
fn an_outbox_that_overflows_ends_a_peer_that_relies_on_every_message() {
    for scheme in datagram_schemes().filter(|scheme| scheme.is_reliable()) {
        let remote =
            Pair::new(scheme).outbox(OutboxLimits::default().max_messages(1)).serve(|peer: &mut Peer| {
                let sender = peer.sender();
                peer.recv(&mut [0; 16])?;
                let message: Arc<[u8]> = Arc::from(&b"x"[..]);
                while sender.post(&message) != PostOutcome::Disconnected {}
                peer.recv(&mut [0; 16]).map(drop)
            });
        remote.set_room(0);
        remote.send("go");
        assert_eq!(remote.wait_for_end(), Some(EndReason::TooSlow), "{scheme}");
    }
}

#[test]
fn the_end_of_a_peer_that_is_too_slow_has_no_other_reason() {
    let outbox = OutboxLimits::default().max_messages(0).overflow(Overflow::Disconnect);
    let ends: [fn(&mut Peer, &Remote); 4] = [
        |peer, _| peer.sender().close(),
        |_, remote| remote.stop(),
        |peer, _| peer.close(),
        |_, remote| {
            remote.send("unread");
            remote.close();
        },
    ];
    for &scheme in Scheme::ALL {
        for (number, end) in ends.iter().enumerate() {
            let (mut peer, remote) = Pair::new(scheme).outbox(outbox).tcp(lines().max_pending(1)).open();
            remote.set_room(0);
            let sender = peer.sender();
            let mut sent = Ok(());
            while sent.is_ok() {
                sent = sender.send(b"x");
            }
            assert!(matches!(sent, Err(Error::Ended(EndReason::TooSlow))), "{scheme}: {sent:?}");
            end(&mut peer, &remote);
            drop(peer);
            assert_eq!(remote.wait_for_end(), Some(EndReason::TooSlow), "{scheme} {number}");
        }
    }
}

#[test]
fn a_send_after_the_lifetime_ends_the_association_for_that_reason() {
    for &scheme in Scheme::ALL {
        let timeouts = Timeouts::default().send(5 * SECOND).lifetime(Some(4 * SECOND));
        let settings = lines().max_pending(1);
        let remote = Pair::new(scheme).timeouts(timeouts).tcp(settings).serve(|peer: &mut Peer| {
            peer.recv(&mut [0; 16])?;
            // Send until the lifetime has passed, which nothing else checks meanwhile.
            while peer.send(b"x").is_ok() {}
            peer.sender().send(b"x")
        });
        remote.set_room(0);
        remote.elapse(SECOND);
        remote.send("go");
        remote.elapse(10 * SECOND);
        assert_eq!(remote.wait_for_end(), Some(EndReason::Lifetime), "{scheme}");
    }
}

#[test]
fn plain_udp_has_to_prove_its_address_and_may_hear_of_a_closed_port() {
    let (mut peer, remote) = Pair::new(Scheme::Udp).udp_proof(true).open();
    let token = peer.proof_token().unwrap().to_owned();
    assert!(matches!(peer.send(b"x"), Err(Error::Unproven)));
    let mut buffer = [0; 64];
    remote.send(&token);
    peer.recv(&mut buffer).unwrap();
    assert_eq!(peer.proof_token(), None);
    peer.send(&[7; 1000]).unwrap();
    remote.port_unreachable();
    assert!(matches!(peer.recv_timeout(&mut buffer, Duration::ZERO), Err(Error::TimedOut)));
    assert!(peer.take_unreachable() && !peer.take_unreachable());
}

/// Answers with the number of the message, and reports how the association ended.
struct Counting(Mutex<std::sync::mpsc::Sender<(u32, EndReason)>>);

impl PeerEvents for Counting {
    type State = u32;

    fn open(&self, peer: &Sender) -> Result<u32, HandlerError> {
        peer.try_send("welcome")?;
        Ok(0)
    }

    fn message(&self, count: &mut u32, peer: &Sender, message: Message<'_>) -> Result<(), HandlerError> {
        *count += 1;
        let answer = format!("{count}: {}", String::from_utf8_lossy(&message));
        Ok(peer.send(answer.as_bytes())?)
    }

    fn close(&self, count: u32, _: &Sender, reason: EndReason) {
        self.0.lock().unwrap().send((count, reason)).unwrap();
    }
}

#[test]
fn callbacks_are_called_as_in_a_server() {
    for &scheme in Scheme::ALL {
        let (ended, ends) = channel();
        let remote = Pair::new(scheme).serve(Callbacks::new(Counting(Mutex::new(ended))));
        assert_hears(&remote, "welcome");
        for number in 1..=2 {
            remote.send("x");
            assert_hears(&remote, &format!("{number}: x"));
        }
        remote.drain();
        assert_eq!(ends.recv().unwrap(), (2, EndReason::Shutdown), "{scheme}");
        assert_eq!(remote.recv(), None);
    }
}

#[test]
fn senders_on_other_threads_reach_the_remote_end_in_order() {
    for &scheme in Scheme::ALL {
        let (peer, remote) = pair(scheme);
        thread::scope(|scope| {
            for name in 0..2u8 {
                let sender = peer.sender();
                scope.spawn(move || (0..100u8).for_each(|number| sender.try_send([name, number]).unwrap()));
            }
            let mut next = [0; 2];
            for _ in 0..200 {
                let message = remote.recv().unwrap();
                let [name, number] = message[..] else { panic!("{message:?}") };
                assert_eq!(number, next[usize::from(name)], "{scheme}");
                next[usize::from(name)] += 1;
            }
        });
        // One of the senders ends a handler that waits.
        let sender = peer.sender();
        let waiting = thread::spawn(move || {
            let mut peer = peer;
            peer.recv(&mut [0; 16]).map(|len| (len, peer.end_reason().cloned()))
        });
        sender.close();
        assert_eq!(waiting.join().unwrap().unwrap(), (None, Some(EndReason::ClosedByUs)), "{scheme}");
    }
}

#[test]
fn a_wait_for_input_that_cannot_arrive_ends() {
    for &scheme in Scheme::ALL {
        // The peer has gone.
        let (peer, remote) = pair(scheme);
        drop(peer);
        assert_eq!((remote.recv(), remote.try_recv()), (None, None));
        assert!(!remote.send("x") && !remote.elapse(SECOND));
        remote.drain();
        remote.close();
        assert_eq!(remote.wait_for_end(), Some(EndReason::ClosedByUs));

        // The other end has gone.
        let (mut peer, remote) = pair(scheme);
        remote.set_room(0);
        drop(remote);
        let sent = peer.send(b"x");
        assert_eq!(sent.is_ok(), !scheme.is_reliable(), "{scheme}: {sent:?}");
        echo(&mut peer).unwrap();

        // Neither side sends anything. If a call waits for a deadline, the deadline has passed.
        let (mut peer, remote) = Pair::new(scheme).patience(SHORT).open();
        assert_eq!(remote.recv(), None);
        assert_eq!(remote.wait_for_end(), None);
        let mut buffer = [0; 16];
        assert!(matches!(peer.recv_timeout(&mut buffer, SECOND), Err(Error::TimedOut)), "{scheme}");
        assert_eq!(peer.recv(&mut buffer).unwrap(), None);
        assert_eq!(remote.end_reason(), Some(EndReason::Idle), "{scheme}");
        let never = Timeouts::default().idle(None);
        let (mut peer, remote) = Pair::new(scheme).timeouts(never).patience(SHORT).open();
        let deserted = peer.recv(&mut buffer);
        assert!(matches!(deserted, Err(Error::Ended(EndReason::Aborted(why))) if why.contains("20ms")));

        // Nothing makes room.
        drop(remote);
        let (mut peer, remote) =
            Pair::new(scheme).tcp(TcpSettings::default().max_pending(1)).patience(SHORT).open();
        remote.set_room(0);
        let mut full = Ok(());
        while full.is_ok() {
            full = peer.send(b"xx");
        }
        assert!(matches!(full, Err(Error::SendBufferFull)), "{scheme}");
    }
}

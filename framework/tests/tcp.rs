//! Peers on TCP, in clear and with TLS.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use peeloff::testing::Pair;
use peeloff::{
    EndKind, EndReason, Error, Framing, Limits, OutboxLimits, Overflow, Peer, PeerIdentity, PostOutcome,
    Refusal, Scheme, ServerBuilder, TcpSettings, Timeouts, TrySendError,
};
use support::{DEADLINE, Running, echo, exchange, expect_numbered, post_until_queued};

const SECOND: Duration = Duration::from_secs(1);

const BOTH: [&str; 2] = ["tcp://127.0.0.1:0", "tls://127.0.0.1:0"];

fn framed(framing: Framing) -> TcpSettings {
    let mut settings = TcpSettings::default();
    settings.framing = framing;
    settings
}

/// Makes a connection in clear that fails after a timeout instead of hanging.
fn connect(running: &Running) -> TcpStream {
    let stream = TcpStream::connect(running.address()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn idle_after(idle: Duration) -> Timeouts {
    let mut timeouts = Timeouts::default();
    timeouts.idle = Some(idle);
    timeouts
}

#[test]
fn messages_keep_their_boundaries_with_a_framing() {
    for url in BOTH {
        for framing in [Framing::Lines, Framing::LengthPrefixed] {
            let running = Running::echo_with(url, |builder| builder.tcp(framed(framing)));
            let mut peer = running.client().tcp(framed(framing)).connect(running.url()).unwrap();
            for size in [1, 0, 100, 1400, 16_384, 16_385, 65_536] {
                exchange(&mut peer, &vec![b'a' + (size % 26) as u8; size]);
            }
            let refused = peer.send(&[0; 65_537]).unwrap_err();
            assert!(matches!(refused, Error::MessageTooLarge { limit: 65_536, .. }), "{refused}");
            for number in 0..1000 {
                peer.send(number.to_string().as_bytes()).unwrap();
            }
            let mut buffer = [0; 8];
            for number in 0..1000 {
                let len = peer.recv_timeout(&mut buffer, DEADLINE).unwrap().unwrap();
                assert_eq!(buffer[..len], *number.to_string().as_bytes(), "{url} {framing:?}");
            }
            peer.close();
            let stats = running.until("it ends", |stats| stats.ended(EndKind::ClosedByPeer) == 1);
            assert_eq!((stats.handshakes, stats.half_open), (u64::from(url.starts_with("tls")), 0));
        }
    }
}

#[test]
fn a_stream_of_any_length_comes_back_as_it_was() {
    for url in BOTH {
        let running = Running::echo(url);
        let mut peer = running.connect();
        assert_eq!(peer.cipher().is_some(), url.starts_with("tls"));
        assert_eq!(matches!(peer.identity(), PeerIdentity::Certificate(_)), url.starts_with("tls"));
        let sent: Vec<u8> = (0..3_000_000u32).map(|number| ((number * 7) >> 3) as u8).collect();
        let (to_send, sender) = (sent.clone(), peer.sender());
        let writer = thread::spawn(move || {
            for piece in to_send.chunks(10_000) {
                while let Err(TrySendError { error: Error::SendBufferFull, .. }) = sender.try_send(piece) {
                    thread::yield_now();
                }
            }
        });
        let (mut found, mut buffer) = (Vec::new(), [0; 7000]);
        while found.len() < sent.len() {
            let len = peer.recv_timeout(&mut buffer, DEADLINE).unwrap().unwrap();
            found.extend_from_slice(&buffer[..len]);
        }
        writer.join().unwrap();
        assert!(found == sent, "{url}");
    }
}

#[test]
fn one_message_on_a_raw_stream_may_be_of_any_length() {
    for url in BOTH {
        let running = Running::echo(url);
        let mut peer = running.connect();
        let sent: Vec<u8> = (0..200_000u32).map(|number| number as u8).collect();
        peer.send(&sent).unwrap();
        let (mut found, mut buffer) = (Vec::new(), [0; 70_000]);
        while found.len() < sent.len() {
            let len = peer.recv_timeout(&mut buffer, DEADLINE).unwrap().unwrap();
            found.extend_from_slice(&buffer[..len]);
        }
        assert!(found == sent, "{url}");
        assert!(matches!(peer.send(b""), Err(Error::EmptyMessage)));
    }
}

#[test]
fn a_peer_that_half_closes_gets_its_answers() {
    let running = Running::echo_with(BOTH[0], |builder| builder.tcp(framed(Framing::Lines)));
    let mut stream = connect(&running);
    stream.write_all(b"one\r\ntwo\nno end").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    assert_eq!(answers, "one\ntwo\nno end\n");
    running.until("it ends", |stats| stats.ended(EndKind::ClosedByPeer) == 1);
}

#[test]
fn data_sent_before_the_end_arrives_although_the_peer_sends_more() {
    for url in BOTH {
        // The handler returns without having read what the peer sends. If the end reset the connection, the
        // answer would be lost.
        let running = Running::with(
            url,
            |builder| builder,
            |peer: &mut Peer| {
                let mut buffer = [0; 1];
                peer.recv(&mut buffer)?;
                peer.send(&[7; 100_000])
            },
        );
        let mut peer = running.connect();
        peer.send(&[1; 5000]).unwrap();
        let (mut got, mut buffer) = (0, [0; 20_000]);
        while let Some(len) = peer.recv_timeout(&mut buffer, DEADLINE).unwrap() {
            got += len;
        }
        assert_eq!(got, 100_000, "{url}");
        assert_eq!(peer.end_reason(), Some(&EndReason::ClosedByPeer), "{url}");
    }
}

#[test]
fn a_line_of_ten_megabytes_is_discarded_and_the_next_one_is_received() {
    for url in BOTH {
        let (refusals, refused) = channel();
        let refusals = Mutex::new(refusals);
        let handler = move |peer: &mut Peer| -> Result<(), Error> {
            let mut buffer = [0; 64];
            loop {
                match peer.recv(&mut buffer) {
                    Ok(Some(len)) => peer.send(&buffer[..len])?,
                    Ok(None) => return Ok(()),
                    Err(Error::MessageRefused { limit }) => refusals.lock().unwrap().send(limit).unwrap(),
                    Err(error) => return Err(error),
                }
            }
        };
        let running = Running::with(url, |builder| builder.tcp(framed(Framing::Lines)), handler);
        let mut peer = running.connect();
        for _ in 0..160 {
            peer.send(&[b'x'; 65_536]).unwrap();
        }
        peer.send(b"\nshort\n").unwrap();
        let mut buffer = [0; 64];
        assert_eq!(peer.recv_timeout(&mut buffer, DEADLINE).unwrap(), Some(6));
        assert_eq!(&buffer[..6], b"short\n");
        assert_eq!(refused.recv_timeout(DEADLINE), Ok(65_536));
        assert!(refused.try_recv().is_err());
        assert_eq!(running.stats().messages_too_long, 1);
    }
}

#[test]
fn a_line_that_does_not_end_ends_with_the_idle_deadline() {
    for scheme in [Scheme::Tcp, Scheme::Tls] {
        let timeouts = idle_after(20 * SECOND);
        let (mut peer, remote) = Pair::new(scheme).tcp(framed(Framing::Lines)).timeouts(timeouts).open();
        // None of these bytes completes a message.
        for _ in 0..100 {
            remote.send_bytes("x");
            remote.elapse(SECOND);
        }
        echo(&mut peer).unwrap();
        assert_eq!(remote.end_reason(), Some(EndReason::Idle), "{scheme}");
    }
}

#[test]
fn a_peer_that_does_not_read_blocks_no_other_peer_and_its_backlog_is_bounded() {
    for url in BOTH {
        let (came, arrivals) = channel();
        let came = Mutex::new(came);
        let bound = {
            let mut bound = OutboxLimits::default();
            (bound.max_messages, bound.overflow) = (16, Overflow::DropOldest);
            bound
        };
        let handler = move |peer: &mut Peer| {
            came.lock().unwrap().send(peer.sender()).unwrap();
            echo(peer)
        };
        let running = Running::with(url, |builder| builder.outbox(bound), handler);
        let _silent = running.connect();
        let to_silent = arrivals.recv_timeout(DEADLINE).unwrap();
        let mut other = running.connect();
        let to_other = arrivals.recv_timeout(DEADLINE).unwrap();
        // Send as much as the kernel and the session accept.
        let mut accepted = 0;
        while to_silent.try_send([5; 10_000]).is_ok() {
            accepted += 1;
            assert!(accepted < 10_000, "{url}: there is no bound");
        }
        assert!(matches!(
            to_silent.try_send([5; 10_000]),
            Err(TrySendError { error: Error::SendBufferFull, .. })
        ));
        let message: Arc<[u8]> = Arc::from(&[6; 10_000][..]);
        // On a busy machine, the kernel may find more room meanwhile.
        let mut posted = 0;
        while to_silent.post(&message) != PostOutcome::Dropped {
            posted += 1;
            assert!(posted < 10_000, "{url}: there is no bound");
        }
        assert!(posted >= 16, "{url}: {posted}");
        // The messages of the outbox share their bytes.
        assert!(Arc::strong_count(&message) <= 17, "{url}");
        assert_eq!(to_other.post(&Arc::from(&b"hello"[..])), PostOutcome::Sent);
        let mut buffer = [0; 16];
        assert_eq!(other.recv_timeout(&mut buffer, DEADLINE).unwrap(), Some(5));
        exchange(&mut other, b"still");
        assert_eq!(running.stats().messages_dropped, 1, "{url}");
    }
}

#[test]
fn output_for_a_slow_peer_arrives_in_order_once_it_reads() {
    for url in BOTH {
        let (came, arrivals) = channel();
        let came = Mutex::new(came);
        let bound = {
            let mut bound = OutboxLimits::default();
            (bound.max_messages, bound.max_bytes) = (100_000, 1 << 30);
            bound
        };
        let handler = move |peer: &mut Peer| {
            came.lock().unwrap().send(peer.sender()).unwrap();
            echo(peer)
        };
        let settings = framed(Framing::LengthPrefixed);
        let configure = |builder: ServerBuilder| builder.outbox(bound).tcp(settings.clone());
        let running = Running::with(url, configure, handler);
        let mut slow = running.client().tcp(settings.clone()).connect(running.url()).unwrap();
        let sender = arrivals.recv_timeout(DEADLINE).unwrap();
        let sent = post_until_queued(&sender, 500);
        expect_numbered(&mut slow, sent);
        // The worker waits as before.
        exchange(&mut slow, b"and now");
    }
}

#[test]
fn a_handler_that_gives_up_resets_the_connection_and_the_reason_is_the_peers() {
    let mut settings = framed(Framing::Lines);
    settings.max_message = 1000;
    let mut timeouts = Timeouts::default();
    timeouts.send = Duration::from_millis(200);
    for url in BOTH {
        let configure = |builder: ServerBuilder| builder.tcp(settings.clone()).timeouts(timeouts.clone());
        let running = Running::echo_with(url, configure);
        let client = running.client().tcp(framed(Framing::Lines));
        let mut peer = client.connect(running.url()).unwrap();
        exchange(&mut peer, &[b'x'; 1000]);
        peer.send(&[b'x'; 1001]).unwrap();
        let end = peer.recv_timeout(&mut [0; 8], DEADLINE);
        assert!(matches!(end, Err(Error::Ended(EndReason::Aborted(_)))), "{url}: {end:?}");
        let stats = running.until("it ends", |stats| stats.peers == 0);
        let refused = (stats.ended(EndKind::MessageRefused), stats.messages_too_long, stats.handler_errors);
        assert_eq!(refused, (1, 1, 0), "{url}");

        let deaf = client.connect(running.url()).unwrap();
        let sender = deaf.sender();
        // A slow server may read nothing for a while, and then goes on.
        let stats = running.until("it ends", |stats| {
            while sender.try_send(&[b'x'; 1000]).is_ok() {}
            stats.peers == 0 && stats.ended(EndKind::TooSlow) == 1
        });
        assert_eq!((stats.ended_total(), stats.handler_errors), (2, 0), "{url}");
    }
}

#[test]
fn a_peer_that_is_too_slow_is_disconnected_as_its_transport_loses_nothing() {
    for url in BOTH {
        let (came, arrivals) = channel();
        let came = Mutex::new(came);
        let bound = {
            let mut bound = OutboxLimits::default();
            bound.max_messages = 4;
            assert_eq!(bound.overflow, Overflow::ByTransport);
            bound
        };
        let handler = move |peer: &mut Peer| {
            came.lock().unwrap().send(peer.sender()).unwrap();
            echo(peer)
        };
        let running = Running::with(url, |builder| builder.outbox(bound), handler);
        let _slow = running.connect();
        let sender = arrivals.recv_timeout(DEADLINE).unwrap();
        let message: Arc<[u8]> = Arc::from(&[6; 60_000][..]);
        let last = (0..10_000)
            .map(|_| sender.post(&message))
            .find(|posted| !matches!(posted, PostOutcome::Sent | PostOutcome::Queued));
        assert_eq!(last, Some(PostOutcome::Disconnected), "{url}");
        running.until("it is gone", |stats| stats.ended(EndKind::TooSlow) == 1);
        assert!(sender.is_ended());
        assert_eq!(Arc::strong_count(&message), 1, "{url}: the message is still in memory");
    }
}

#[test]
fn a_handler_that_sends_to_a_peer_that_does_not_read_gets_an_error_in_time() {
    for url in BOTH {
        let (outcome, outcomes) = sync_channel(1);
        let handler = move |peer: &mut Peer| -> Result<(), Error> {
            let error = loop {
                if let Err(error) = peer.send(&[1; 50_000]) {
                    break error;
                }
            };
            outcome.send(matches!(error, Error::SendBufferFull)).unwrap();
            Ok(())
        };
        let mut timeouts = Timeouts::default();
        timeouts.send = Duration::from_millis(200);
        let running = Running::with(url, |builder| builder.timeouts(timeouts), handler);
        let began = Instant::now();
        let _deaf = running.connect();
        assert_eq!(outcomes.recv_timeout(DEADLINE), Ok(true), "{url}");
        running.until("it ends", |stats| stats.peers == 0);
        assert!(began.elapsed() < DEADLINE);
    }
}

#[test]
fn a_drain_ends_quiet_peers_and_lets_busy_ones_finish() {
    for url in BOTH {
        let running = Running::echo(url);
        let mut peers: Vec<Peer> = (0..20).map(|_| running.connect()).collect();
        peers.iter_mut().for_each(|peer| exchange(peer, b"hello"));
        let report = running.handle().shutdown(DEADLINE);
        assert_eq!((report.peers, report.finished, report.stopped), (20, 20, 0), "{url}");
        for peer in &mut peers {
            assert_eq!(peer.recv_timeout(&mut [0; 8], DEADLINE).unwrap(), None);
            assert_eq!(peer.end_reason(), Some(&EndReason::ClosedByPeer), "{url}");
        }
    }
}

#[test]
fn messages_of_a_peer_whose_worker_was_woken_are_still_received() {
    // The drain wakes the worker by shutting the socket down for reading; later messages must still be received.
    let handler = |peer: &mut Peer| -> Result<(), Error> {
        let mut buffer = [0; 16];
        let mut heard = false;
        loop {
            match peer.recv(&mut buffer)? {
                Some(len) => {
                    heard = true;
                    peer.send(&buffer[..len])?;
                    if &buffer[..len] == b"last" {
                        return Ok(());
                    }
                }
                // This peer connected just before the drain.
                None if !heard => return Ok(()),
                None => {}
            }
        }
    };
    for url in BOTH {
        let running = Running::with(url, |builder| builder, handler);
        let mut peer = running.connect();
        exchange(&mut peer, b"before");
        let handle = running.handle();
        let shutdown = thread::spawn(move || handle.shutdown(DEADLINE));
        while running.stats().refused(Refusal::Draining) == 0 {
            let mut probe = connect(&running);
            let _ = probe.shutdown(Shutdown::Write);
            let _ = probe.read(&mut [0; 8]);
            exchange(&mut peer, b"while");
        }
        for _ in 0..100 {
            exchange(&mut peer, b"after");
        }
        exchange(&mut peer, b"last");
        let report = shutdown.join().unwrap();
        assert_eq!((report.finished, report.stopped), (report.peers, 0), "{url}");
        assert_eq!(peer.recv_timeout(&mut [0; 8], DEADLINE).unwrap(), None, "{url}");
    }
}

#[test]
fn a_truncated_connection_differs_from_one_that_ends_in_order() {
    let (ends, ended) = channel();
    let ends = Mutex::new(ends);
    let handler = move |peer: &mut Peer| {
        let result = echo(peer);
        ends.lock().unwrap().send(peer.end_reason().cloned()).unwrap();
        result
    };
    let running = Running::with(BOTH[1], |builder| builder, handler);
    let mut context = openssl::ssl::SslConnector::builder(openssl::ssl::SslMethod::tls()).unwrap();
    context.set_verify(openssl::ssl::SslVerifyMode::NONE);
    let context = context.build();
    let mut stream = context.connect("localhost", connect(&running)).unwrap();
    stream.write_all(b"x").unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 1);
    drop(stream.get_ref().shutdown(Shutdown::Write));
    assert_eq!(ended.recv_timeout(DEADLINE), Ok(Some(EndReason::Truncated)));
    running.until("it is counted", |stats| stats.ended(EndKind::Truncated) == 1);
}

#[test]
fn a_peer_that_says_nothing_at_first_ends_and_frees_its_thread() {
    const SILENT: u64 = 100;
    for url in BOTH {
        for framing in [Framing::Lines, Framing::LengthPrefixed] {
            let mut timeouts = Timeouts::default();
            timeouts.first_message = Some(Duration::from_millis(500));
            timeouts.worker_idle = Duration::from_millis(100);
            let settings = |builder: ServerBuilder| builder.tcp(framed(framing)).timeouts(timeouts);
            let running = Running::echo_with(url, settings);
            let silent: Vec<Peer> = (0..SILENT).map(|_| running.connect()).collect();
            let stats =
                running.until("all have ended", |stats| stats.ended(EndKind::NoFirstMessage) == SILENT);
            assert_eq!(stats.peers, 0, "{url} {framing:?}");
            running.until("their threads are free", |stats| stats.workers == 0);
            for mut peer in silent {
                // This is an orderly end: a close_notify, and a FIN.
                assert_eq!(peer.recv_timeout(&mut [0; 8], DEADLINE).unwrap(), None);
            }
        }
    }
}

#[test]
fn a_message_that_has_begun_has_a_deadline_and_a_peer_that_speaks_rarely_has_none() {
    for scheme in [Scheme::Tcp, Scheme::Tls] {
        for (framing, beginning) in [(Framing::Lines, b"no end"), (Framing::LengthPrefixed, b"\0\0\0\x0ano")]
        {
            let timeouts = Timeouts::default().frame(Some(5 * SECOND));
            let (mut peer, remote) = Pair::new(scheme).tcp(framed(framing)).timeouts(timeouts).open();
            for _ in 0..2 {
                remote.elapse(29 * SECOND);
                remote.send("hello");
            }
            // This message never ends, and arrives byte by byte.
            for byte in beginning {
                remote.send_bytes([*byte]);
                remote.elapse(SECOND);
            }
            assert!(
                matches!(echo(&mut peer), Err(Error::Ended(EndReason::FrameTimedOut))),
                "{scheme} {framing:?}"
            );
            for expected in [Some(&b"hello"[..]), Some(b"hello"), None] {
                assert_eq!(remote.recv().as_deref(), expected, "{scheme} {framing:?}");
            }
        }
    }
}

#[test]
fn a_stream_without_a_framing_may_stay_silent() {
    for scheme in [Scheme::Tcp, Scheme::Tls] {
        let timeouts =
            idle_after(20 * SECOND).first_message(Some(Duration::ZERO)).frame(Some(Duration::ZERO));
        let (mut peer, remote) = Pair::new(scheme).timeouts(timeouts).open();
        remote.elapse(20 * SECOND);
        echo(&mut peer).unwrap();
        assert_eq!(remote.end_reason(), Some(EndReason::Idle), "{scheme}");
    }
}

#[test]
fn half_a_record_and_silence_end_by_a_deadline() {
    let mut timeouts = idle_after(Duration::from_secs(2));
    timeouts.handshake = Duration::from_secs(2);
    let running = Running::echo_with(BOTH[1], |builder| builder.timeouts(timeouts));
    // This is half a ClientHello.
    let mut half_open = connect(&running);
    half_open.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]).unwrap();
    running.until("it ends", |stats| stats.ended(EndKind::HandshakeTimedOut) == 1 && stats.half_open == 0);
    // This is half a record after the handshake.
    let mut context = openssl::ssl::SslConnector::builder(openssl::ssl::SslMethod::tls()).unwrap();
    context.set_verify(openssl::ssl::SslVerifyMode::NONE);
    let mut stream = context.build().connect("localhost", connect(&running)).unwrap();
    stream.write_all(b"x").unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 1);
    stream.get_mut().write_all(&[23, 3, 3, 1, 0, 9]).unwrap();
    running.until("it ends", |stats| stats.ended(EndKind::Idle) == 1 && stats.peers == 0);
}

#[test]
fn junk_instead_of_a_handshake_ends_that_connection_alone() {
    let running = Running::echo(BOTH[1]);
    let mut honest = running.connect();
    for junk in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 100], &[22, 3, 1, 0xff, 0xff, 1], &[0xff; 5]] {
        let mut stream = connect(&running);
        stream.write_all(junk).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let stats = running.until("they end", |stats| (stats.peers, stats.half_open) == (1, 0));
    assert_eq!(stats.ended(EndKind::HandshakeFailed), 4);
    exchange(&mut honest, b"hello");
}

#[test]
fn caps_hold_and_a_refused_connection_is_reset_at_once() {
    for url in BOTH {
        let limits = Limits::default().max_peers(5);
        let running = Running::echo_with(url, |builder| builder.limits(limits));
        let mut peers: Vec<Peer> = (0..5).map(|_| running.connect()).collect();
        let mut refused = connect(&running);
        assert!(matches!(refused.read(&mut [0; 8]), Err(_) | Ok(0)), "{url}");
        assert_eq!(running.stats().refused(Refusal::MaxPeers), 1);
        peers.iter_mut().for_each(|peer| exchange(peer, b"hello"));
        peers.pop().unwrap().close();
        running.until("there is room", |stats| stats.peers == 4);
        exchange(&mut running.connect(), b"in again");
    }
}

#[test]
fn a_thousand_connections_come_and_go_and_each_is_served() {
    let running = Running::echo(BOTH[0]);
    let served = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..125 {
                    let mut stream = connect(&running);
                    stream.write_all(b"hello").unwrap();
                    let mut answer = [0; 5];
                    stream.read_exact(&mut answer).unwrap();
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(served.load(Ordering::Relaxed), 1000);
    let stats = running.until("all are gone", |stats| stats.peers == 0);
    assert_eq!((stats.connections, stats.opened), (1000, 1000));
}

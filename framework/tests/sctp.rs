//! Associations over SCTP, each of which is peeled off and served by a thread of its own.

#[path = "support/child.rs"]
#[allow(dead_code)]
mod child;
mod support;

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender as Release, channel};
use std::thread;
use std::time::{Duration, Instant};

use child::Child;
use peeloff::sctp::{MessageInfo, NotificationKind, SendInfo, Settings};
use peeloff::{EndKind, EndReason, Error, Event, HandlerError, Limits, Peer, Timeouts};
use support::{DEADLINE, Running, exchange, open_fds, threads, until};

const URL: &str = "sctp://127.0.0.1:0";

fn on(stream: u16, ppid: u32) -> SendInfo {
    SendInfo::default().stream(stream).ppid(ppid)
}

fn recv(peer: &mut Peer) -> (Vec<u8>, MessageInfo) {
    let mut buffer = vec![0; 2 << 20];
    let len = peer.recv_timeout(&mut buffer, DEADLINE).unwrap().expect("a message");
    buffer.truncate(len);
    (buffer, peer.message_info().unwrap())
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn a_message_keeps_its_stream_identifier_and_order() {
    let running = Running::echo(URL);
    let mut peer = running.connect();
    for (stream, ppid, unordered) in [(0, 0, false), (5, 46, false), (63, u32::MAX, false), (7, 47, true)] {
        let how = SendInfo::default().stream(stream).ppid(ppid).unordered(unordered);
        peer.sctp().unwrap().send(b"hello", &how).unwrap();
        let (message, info) = recv(&mut peer);
        assert_eq!(
            (&message[..], info.stream, info.ppid, info.unordered),
            (&b"hello"[..], stream, ppid, unordered)
        );
    }
    let refused = peer.sctp().unwrap().send(b"x", &on(64, 0)).unwrap_err();
    assert!(matches!(refused, Error::NoSuchStream { stream: 64 }), "{refused}");
    exchange(&mut peer, b"still there");
    peer.close();
    let stats = running.until("it ends", |stats| stats.ended(EndKind::ClosedByPeer) == 1);
    assert_eq!((stats.opened, stats.sctp_shutdowns, stats.messages_received), (1, 1, 5));
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn a_thousand_associations_leave_nothing_behind() {
    let _ = peeloff::raise_fd_limit();
    let configure = |builder: peeloff::ServerBuilder| {
        let mut timeouts = Timeouts::default();
        timeouts.worker_idle = Duration::from_millis(200);
        builder.timeouts(timeouts)
    };
    let running = Running::echo_with(URL, configure);
    // The first association allocates what stays for all: a thread's memory, and a descriptor of the resolver.
    running.connect().close();
    running.until("the first is gone", |stats| stats.peers + stats.workers == 0);
    let before = (open_fds(), threads());
    let mut peers: Vec<Peer> = (0..1000).map(|_| running.connect()).collect();
    running.until("all are there", |stats| stats.peers == 1000);
    for (number, peer) in peers.iter_mut().enumerate() {
        exchange(peer, &(number as u32).to_be_bytes());
    }
    drop(peers);
    let stats = running.until("all are gone", |stats| stats.peers + stats.workers == 0);
    assert_eq!((stats.opened, stats.ended(EndKind::ClosedByPeer)), (1001, 1001), "{stats:?}");
    assert_eq!((stats.sctp_aborted, stats.sctp_peel_offs_failed, stats.sctp_lost), (0, 0, 0));
    until("threads and descriptors are back", || {
        (open_fds() <= before.0 && threads() <= before.1).then_some(())
    });
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn messages_sent_before_the_peel_off_arrive_in_order() {
    // The dispatcher is blocked in the admission of the first peer, while the second one sends.
    let (release, held) = channel::<()>();
    let (report, reports) = channel();
    let handler = Slow { held: Mutex::new(held), report: Mutex::new(report) };
    let running = Running::with(URL, |builder| builder, handler);
    let _first = running.connect();
    let mut second = running.connect();
    let mut sent = HashMap::<u16, u32>::new();
    let sender = second.sender();
    // Send until the receive buffer is full, because nobody reads.
    let mut total = 0u32;
    while total < 10_000 {
        let stream = (total % 32) as u16;
        let number = sent.entry(stream).or_default();
        if sender.try_send_with(number.to_be_bytes(), &on(stream, stream.into())).is_err() {
            break;
        }
        *number += 1;
        total += 1;
    }
    assert!(total > 500, "only {total} messages fitted before the peel-off");
    release.send(()).unwrap();
    release.send(()).unwrap();
    while total < 10_000 {
        let stream = (total % 32) as u16;
        let number = sent.entry(stream).or_default();
        second.sctp().unwrap().send(&number.to_be_bytes(), &on(stream, stream.into())).unwrap();
        *number += 1;
        total += 1;
    }
    second.close();
    // The first peer, which sent nothing, ends with the server.
    let heard: HashMap<u16, Vec<u32>> = reports.recv_timeout(DEADLINE).unwrap();
    assert_eq!(heard.values().map(Vec::len).sum::<usize>(), 10_000);
    for (stream, numbers) in heard {
        assert!(numbers.iter().copied().eq(0..sent[&stream]), "stream {stream}: {numbers:?}");
    }
}

/// Admits a peer when told to. Reports what each peer sent on which stream.
struct Slow {
    held: Mutex<Receiver<()>>,
    report: Mutex<Release<HashMap<u16, Vec<u32>>>>,
}

impl peeloff::PeerHandler for Slow {
    fn admit(&self, _: &peeloff::Incoming) -> peeloff::Admission {
        let _ = self.held.lock().unwrap().recv_timeout(DEADLINE);
        peeloff::Admission::Accept
    }

    fn handle(&self, peer: &mut Peer) -> Result<(), HandlerError> {
        let mut heard = HashMap::<u16, Vec<u32>>::new();
        let mut buffer = [0; 64];
        while let Some(len) = peer.recv(&mut buffer)? {
            let info = peer.message_info().expect("on SCTP");
            assert_eq!(u32::from(info.stream), info.ppid);
            let number = buffer[..len].iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
            heard.entry(info.stream).or_default().push(number);
        }
        if !heard.is_empty() {
            self.report.lock().unwrap().send(heard).unwrap();
        }
        Ok(())
    }
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn messages_of_a_peer_that_left_before_its_peel_off_are_received() {
    let (release, held) = channel::<()>();
    let (report, reports) = channel();
    let running =
        Running::with(URL, |builder| builder, Slow { held: Mutex::new(held), report: Mutex::new(report) });
    let _first = running.connect();
    let mut second = running.connect();
    for number in 0..100u32 {
        second.sctp().unwrap().send(&number.to_be_bytes(), &SendInfo::default()).unwrap();
    }
    second.close();
    // The peer's kernel reports that the shutdown is complete.
    until("it is over", || associations().filter(|count| *count <= 2));
    release.send(()).unwrap();
    release.send(()).unwrap();
    let heard = reports.recv_timeout(DEADLINE).unwrap();
    assert!(heard[&0].iter().copied().eq(0..100), "{heard:?}");
    let stats = running.until("it ends", |stats| stats.ended(EndKind::ClosedByPeer) == 1);
    assert_eq!((stats.sctp_over_early, stats.sctp_early_messages), (1, 100));
    // Do the same with an abort, whose reason is not lost either.
    let mut third = running.connect();
    third.sctp().unwrap().send(&7u32.to_be_bytes(), &SendInfo::default()).unwrap();
    until("it arrived", || (third.sctp()?.options().ok()?.status().ok()?.unacknowledged == 0).then_some(()));
    third.sctp().unwrap().abort(b"had enough");
    until("it is over", || associations().filter(|count| *count <= 2));
    release.send(()).unwrap();
    let stats = running.until("it ends", |stats| stats.ended(EndKind::Aborted) == 1);
    assert_eq!((stats.sctp_over_early, stats.sctp_early_messages), (2, 101));
}

/// Returns the number of associations in the kernel, counting both ends of each.
fn associations() -> Option<usize> {
    let table = std::fs::read_to_string("/proc/net/sctp/assocs").unwrap();
    Some(table.lines().skip(1).count())
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn associations_above_the_cap_are_aborted_with_the_reason() {
    let limits = Limits::default().max_peers(10);
    let running = Running::echo_with(URL, |builder| builder.limits(limits));
    let mut kept: Vec<Peer> = (0..10).map(|_| running.connect()).collect();
    running.until("ten are there", |stats| stats.peers == 10);
    let mut told = 0;
    for _ in 0..40 {
        // The kernel accepts them before the server is asked; the abort follows at once.
        match running.client().connect(running.url()) {
            Err(error) => {
                // An ABORT that overtakes the COOKIE ACK ends the handshake (SCTP_CANT_STR_ASSOC), and the kernel
                // then returns the cause without the reason in it.
                let text = error.to_string();
                told += u32::from(text.contains("max_peers"));
                assert!(text.contains("max_peers") || text.contains(": user-initiated abort;"), "{text}");
            }
            Ok(mut surplus) => {
                let end = surplus.recv_timeout(&mut [0; 8], DEADLINE).unwrap_err();
                assert!(end.to_string().contains("max_peers"), "{end}");
                told += 1;
            }
        }
    }
    assert_ne!(told, 0, "no client received the reason of its refusal");
    let stats = running.until("all are refused", |stats| stats.sctp_aborted == 40);
    assert_eq!((stats.peers, stats.opened), (10, 10));
    kept.iter_mut().for_each(|peer| exchange(peer, b"kept"));
    kept.pop().unwrap().close();
    running.until("one has left", |stats| stats.peers == 9);
    exchange(&mut running.connect(), b"welcome");
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn an_abort_and_its_reason_reach_the_other_side() {
    let (report, reports) = channel();
    let report = Mutex::new(report);
    let running = Running::with(
        URL,
        |builder| builder,
        move |peer: &mut Peer| -> Result<(), Error> {
            let mut buffer = [0; 64];
            let end = loop {
                match peer.recv(&mut buffer) {
                    Ok(Some(len)) if &buffer[..len] == b"abort me" => {
                        peer.sctp().unwrap().abort(b"as you wish");
                        return Ok(());
                    }
                    Ok(Some(_)) => {}
                    end => break end,
                }
            };
            report.lock().unwrap().send(end.map_err(|error| error.to_string())).unwrap();
            Ok(())
        },
    );
    let mut peer = running.connect();
    peer.send(b"abort me").unwrap();
    match peer.recv_timeout(&mut [0; 8], DEADLINE) {
        Err(Error::Ended(EndReason::Aborted(why))) => assert!(why.contains("as you wish"), "{why}"),
        other => panic!("{other:?}"),
    }
    let mut peer = running.connect();
    peer.send(b"nothing").unwrap();
    peer.sctp().unwrap().abort(b"had enough");
    let end = reports.recv_timeout(DEADLINE).unwrap().unwrap_err();
    assert!(end.contains("had enough"), "{end}");
    let stats = running.until("both ended", |stats| stats.peers == 0);
    assert_eq!((stats.ended(EndKind::Aborted), stats.ended(EndKind::ClosedByUs)), (1, 1), "{stats:?}");
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn a_megabyte_goes_through_and_more_than_the_limit_is_an_error() {
    let mut settings = Settings::default();
    settings.max_message = 4 << 20;
    let running = Running::with(
        URL,
        |builder| builder,
        |peer: &mut Peer| -> Result<(), Error> {
            let mut buffer = vec![0; 2 << 20];
            loop {
                match peer.recv(&mut buffer) {
                    Ok(Some(len)) => peer.send(&buffer[..len])?,
                    Err(Error::MessageRefused { limit }) => {
                        peer.send(format!("refused {limit}").as_bytes())?
                    }
                    Ok(None) => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
        },
    );
    let mut peer = running.client().sctp(settings).connect(running.url()).unwrap();
    let message: Vec<u8> = (0..1_000_000u32).map(|number| (number * 7 % 251) as u8).collect();
    for _ in 0..3 {
        peer.send(&message).unwrap();
        assert!(recv(&mut peer).0 == message, "a megabyte came back changed");
    }
    peer.send(&vec![1; 1_500_000]).unwrap();
    assert_eq!(recv(&mut peer).0, b"refused 1048576");
    peer.send(b"next").unwrap();
    assert_eq!(recv(&mut peer).0, b"next");
    let stats = running.until("it is counted", |stats| stats.messages_too_long == 1);
    assert_eq!(stats.peers, 1);
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn a_handler_that_asks_is_told_of_what_happens() {
    let (report, reports) = channel();
    let report = Mutex::new(report);
    let running = Running::with(
        URL,
        |builder| builder,
        move |peer: &mut Peer| -> Result<(), Error> {
            peer.sctp().unwrap().subscribe(NotificationKind::PeerShutDown, true)?;
            let mut buffer = [0; 64];
            while let Some(mut sctp) = peer.sctp() {
                match sctp.recv_event(&mut buffer)? {
                    Some(Event::Message(len, info)) => {
                        report.lock().unwrap().send(format!("{len} bytes on {}", info.stream)).unwrap();
                    }
                    Some(Event::Notification(notification)) => {
                        report.lock().unwrap().send(format!("{notification:?}")).unwrap();
                    }
                    Some(_) | None => break,
                }
            }
            Ok(())
        },
    );
    let mut peer = running.connect();
    peer.sctp().unwrap().send(b"abc", &on(3, 0)).unwrap();
    assert_eq!(reports.recv_timeout(DEADLINE).unwrap(), "3 bytes on 3");
    peer.close();
    let told = reports.recv_timeout(DEADLINE).unwrap();
    assert!(told.starts_with("PeerShutDown"), "{told}");
    running.until("it ends", |stats| stats.ended(EndKind::ClosedByPeer) == 1);
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn a_drain_lets_handlers_finish_and_loses_nothing() {
    let handler = |peer: &mut Peer| -> Result<(), Error> {
        let mut buffer = [0; 64];
        loop {
            match peer.recv(&mut buffer)? {
                Some(len) => peer.reply(&buffer[..len])?,
                None if peer.is_draining() && peer.end_reason().is_none() => {
                    peer.send(b"last words?")?;
                    let Some(len) = peer.recv_timeout(&mut buffer, DEADLINE)? else { return Ok(()) };
                    peer.reply(&buffer[..len])?;
                    return Ok(());
                }
                None => return Ok(()),
            }
        }
    };
    let running = Running::with(URL, |builder| builder, handler);
    let mut peers: Vec<Peer> = (0..50).map(|_| running.connect()).collect();
    peers.iter_mut().for_each(|peer| exchange(peer, b"before"));
    let handle = running.handle();
    let shutdown = thread::spawn(move || handle.shutdown(DEADLINE));
    for (number, peer) in peers.iter_mut().enumerate() {
        assert_eq!(recv(peer).0, b"last words?");
        let words = format!("these, {number}");
        peer.send(words.as_bytes()).unwrap();
        assert_eq!(recv(peer).0, words.as_bytes());
        assert_eq!(peer.recv_timeout(&mut [0; 8], DEADLINE).unwrap(), None);
        assert_eq!(peer.end_reason(), Some(&EndReason::ClosedByPeer));
    }
    let report = shutdown.join().unwrap();
    assert_eq!((report.peers, report.finished, report.stopped), (50, 50, 0), "{report:?}");
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn the_end_of_the_grace_period_wakes_a_handler_that_waits() {
    let running = Running::with(
        URL,
        |builder| builder,
        |peer: &mut Peer| -> Result<(), Error> {
            let mut buffer = [0; 64];
            // The handler ignores the drain.
            loop {
                if peer.recv(&mut buffer)?.is_none() && peer.end_reason().is_some() {
                    return Ok(());
                }
            }
        },
    );
    let mut peer = running.connect();
    peer.send(b"x").unwrap();
    running.until("it is there", |stats| stats.messages_received == 1);
    let report = running.handle().shutdown(Duration::from_millis(200));
    assert_eq!((report.peers, report.stopped, report.abandoned), (1, 1, 0), "{report:?}");
    assert_eq!(peer.recv_timeout(&mut [0; 8], DEADLINE).unwrap(), None);
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn a_sender_on_another_thread_can_close_a_peer_that_waits() {
    let (give, senders) = channel();
    let give = Mutex::new(give);
    let running = Running::with(
        URL,
        |builder| builder,
        move |peer: &mut Peer| -> Result<(), Error> {
            give.lock().unwrap().send(peer.sender()).unwrap();
            while peer.recv(&mut [0; 64])?.is_some() {}
            Ok(())
        },
    );
    let mut peer = running.connect();
    let sender = senders.recv_timeout(DEADLINE).unwrap();
    sender.try_send_with("from elsewhere", &on(9, 1)).unwrap();
    let (message, info) = recv(&mut peer);
    assert_eq!((&message[..], info.stream), (&b"from elsewhere"[..], 9));
    sender.close();
    assert_eq!(peer.recv_timeout(&mut [0; 8], DEADLINE).unwrap(), None);
    running.until("it ends", |stats| stats.ended(EndKind::ClosedByUs) == 1);
    assert!(sender.is_ended());
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn several_addresses_make_one_association() {
    let running = Running::echo_with("sctp://127.0.0.1,127.0.0.2:0", |builder| builder);
    assert_eq!(running.url().alternates.len(), 1);
    let client = running.client().bind("127.0.0.3:0".parse().unwrap()).bind("127.0.0.4:0".parse().unwrap());
    let mut peer = client.connect(running.url()).unwrap();
    exchange(&mut peer, b"over either");
    let sctp = peer.sctp().unwrap();
    let options = sctp.options().unwrap();
    let ips = |addresses: Vec<std::net::SocketAddr>| {
        let mut ips: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
        ips.sort();
        ips
    };
    assert_eq!(ips(options.peer_addresses().unwrap()), ["127.0.0.1", "127.0.0.2"]);
    assert_eq!(ips(options.local_addresses().unwrap()), ["127.0.0.3", "127.0.0.4"]);
    let six = Running::echo("sctp://[::1]:0");
    exchange(&mut six.connect(), b"over IPv6");
    let both = Running::echo_with("sctp://127.0.0.1,[::1]:0", |builder| builder);
    let mut peer = both.connect();
    exchange(&mut peer, b"over both families");
    let found = peer.sctp().unwrap().options().unwrap().peer_addresses().unwrap();
    assert_eq!(ips(found), ["127.0.0.1", "::1"]);
    let any = Running::echo("sctp://*:0");
    for host in ["127.0.0.1", "[::1]"] {
        let url = format!("sctp://{host}:{}", any.url().port);
        exchange(&mut any.client().connect(url).unwrap(), b"over any");
    }
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn a_refused_connect_has_an_error_of_one_sentence() {
    let running = Running::echo(URL);
    let url = running.url().clone();
    let client = running.client();
    drop(running);
    let began = Instant::now();
    let error = until("the port is closed", || client.connect(&url).err()).to_string();
    assert!(error.contains("no association with"), "{error}");
    assert!(began.elapsed() < DEADLINE);
}

/// The limit on the descriptors of the server's process.
const DESCRIPTORS: u64 = 160;

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn without_descriptors_new_associations_are_aborted_until_some_are_free() {
    let mut child = Child::start_with("the_server_without_descriptors", |command| {
        command.env("PEELOFF_TEST_DESCRIPTORS", DESCRIPTORS.to_string());
    });
    let mut peers = Vec::new();
    let refused = loop {
        match child.client().connect(child.url()) {
            Err(error) => break error.to_string(),
            Ok(mut peer) => match peer.send(b"x").map(|()| peer.recv_timeout(&mut [0; 8], DEADLINE)) {
                Ok(Ok(Some(1))) => peers.push(peer),
                other => break format!("{other:?}"),
            },
        }
        assert!(peers.len() < DESCRIPTORS as usize, "the limit is not felt");
    };
    assert!(refused.contains("no_file_descriptor") || refused.contains("no reason"), "{refused}");
    for _ in 0..20 {
        let attempt = child.client().connect(child.url()).map(|mut peer| {
            let _ = peer.send(b"x");
            peer.recv_timeout(&mut [0; 8], DEADLINE).unwrap_err()
        });
        assert!(!matches!(attempt, Ok(Error::TimedOut)), "neither served nor refused");
    }
    let stats = child.until("all are refused", |stats| stats.get("sctp_aborted") == 21);
    assert_eq!(stats.get("peers"), peers.len() as u64);
    assert_eq!((stats.get("out_of_descriptors"), stats.get("sctp_peel_offs_failed")), (21, 0));
    peers.iter_mut().for_each(|peer| exchange(peer, b"while it is full"));
    let there = peers.len() as u64;
    peers.drain(..10).for_each(|mut peer| peer.close());
    child.until("there is room", |stats| stats.get("peers") <= there - 10);
    peers.push(child.connect());
    peers.iter_mut().for_each(|peer| exchange(peer, b"still here"));
}

#[test]
#[ignore = "run by the test without descriptors, in a process of its own"]
fn the_server_without_descriptors() {
    if !child::is_child() {
        return;
    }
    let limit = std::env::var("PEELOFF_TEST_DESCRIPTORS").unwrap();
    let this = std::process::id().to_string();
    let arguments = ["--pid", &this, &format!("--nofile={limit}:")];
    assert!(std::process::Command::new("prlimit").args(arguments).status().unwrap().success());
    let running = Running::echo(URL);
    child::serve(&running, |command| panic!("what is {command}?"));
}

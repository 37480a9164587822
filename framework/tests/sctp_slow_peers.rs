//! SCTP peers that accept nothing of what is sent to them, or accept it too slowly.

mod support;

use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use peeloff::sctp::{SendInfo, Settings, Socket};
use peeloff::{EndKind, EndReason, Error, OutboxLimits, Peer, Timeouts};
use support::{DEADLINE, Running, echo, exchange, expect_numbered, post_until_queued};

const URL: &str = "sctp://127.0.0.1:0";

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn a_peer_that_never_reads_is_given_up_and_other_peers_are_not_affected() {
    let mut settings = Settings::default();
    settings.dead_after = Some(Duration::from_secs(4));
    let (give, senders) = channel();
    let give = Mutex::new(give);
    let handler = move |peer: &mut Peer| -> Result<(), Error> {
        let mut buffer = [0; 64];
        while let Some(len) = peer.recv(&mut buffer)? {
            match &buffer[..len] {
                b"flood me" => give.lock().unwrap().send(peer.sender()).unwrap(),
                message => peer.send(message)?,
            }
        }
        Ok(())
    };
    let running = Running::with(URL, |builder| builder.sctp(settings), handler);
    let mut other = running.connect();
    let deaf = Socket::one_to_one(false).unwrap();
    deaf.connect(&[running.address()]).unwrap();
    deaf.send(b"flood me", &SendInfo::default()).unwrap();
    let sender = senders.recv_timeout(DEADLINE).unwrap();
    let began = Instant::now();
    while !matches!(
        sender.try_send([7; 8000]),
        Err(peeloff::TrySendError { error: Error::SendBufferFull, .. })
    ) {
        assert!(began.elapsed() < DEADLINE, "there is always room");
    }
    running.until("it is given up", |stats| stats.ended(EndKind::TooSlow) == 1);
    assert!(began.elapsed() < DEADLINE / 2, "after {:?}", began.elapsed());
    exchange(&mut other, b"fine");
}

/// Runs a peer that never reads, and sends as long as the association lives. Returns the reason of the end
/// according to the peer's kernel.
fn talk_and_never_read(running: &Running) {
    let deaf = Socket::one_to_one(false).unwrap();
    deaf.connect(&[running.address()]).unwrap();
    deaf.set_nonblocking(true).unwrap();
    let began = Instant::now();
    loop {
        match deaf.send(&[7; 20_000], &SendInfo::default()) {
            Ok(_) => {}
            // There is no room: the server has not read for a moment.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                thread::park_timeout(Duration::from_millis(20));
            }
            Err(_) => return,
        }
        assert!(began.elapsed() < DEADLINE, "it is not given up");
    }
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn a_peer_that_goes_on_sending_and_never_reads_is_given_up() {
    let mut settings = Settings::default();
    settings.dead_after = Some(Duration::from_secs(4));
    let mut timeouts = Timeouts::default();
    timeouts.send = Duration::from_millis(100);
    // This handler drops what finds no room, so that only the stall can end the association.
    let handler = |peer: &mut Peer| -> Result<(), Error> {
        let mut buffer = vec![0; 1 << 16];
        while let Some(len) = peer.recv(&mut buffer)? {
            match peer.reply(&buffer[..len]) {
                Ok(()) | Err(Error::SendBufferFull) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    let running = Running::with(URL, |builder| builder.sctp(settings).timeouts(timeouts), handler);
    talk_and_never_read(&running);
    let stats = running.until("it is given up", |stats| stats.peers == 0);
    assert_eq!(stats.ended(EndKind::TooSlow), 1, "{stats:?}");
    assert_eq!(stats.handler_errors, 0, "{stats:?}");
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn a_handler_that_waits_in_a_send_to_a_stalled_peer_is_woken() {
    let mut settings = Settings::default();
    settings.dead_after = Some(Duration::from_secs(4));
    let mut timeouts = Timeouts::default();
    timeouts.send = 2 * DEADLINE;
    let running = Running::with(URL, |builder| builder.sctp(settings).timeouts(timeouts), echo);
    talk_and_never_read(&running);
    let stats = running.until("it is given up", |stats| stats.peers == 0);
    assert_eq!(stats.ended(EndKind::TooSlow), 1, "{stats:?}");
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn an_echo_that_finds_no_room_ends_the_association_and_says_why() {
    let mut timeouts = Timeouts::default();
    timeouts.send = Duration::from_secs(1);
    let running = Running::with(URL, |builder| builder.timeouts(timeouts), echo);
    let mut deaf = running.connect();
    while deaf.send(&[7; 20_000]).is_ok() {}
    let stats = running.until("it is given up", |stats| stats.peers == 0);
    assert_eq!((stats.ended(EndKind::TooSlow), stats.handler_errors), (1, 0), "{stats:?}");
    // Now the peer reads what has arrived, and the reason.
    let end = loop {
        match deaf.recv_timeout(&mut [0; 20_000], DEADLINE) {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    match end {
        Err(Error::Ended(EndReason::Aborted(why))) => {
            assert_eq!(why, "the peer does not take what is sent to it");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn a_message_that_is_too_long_for_its_handler_aborts_the_association_with_a_reason() {
    let mut settings = Settings::default();
    settings.max_message = 1000;
    let running = Running::with(URL, |builder| builder.sctp(settings), echo);
    let mut peer = running.connect();
    exchange(&mut peer, &[7; 1000]);
    peer.send(&[7; 1001]).unwrap();
    match peer.recv_timeout(&mut [0; 8], DEADLINE) {
        Err(Error::Ended(EndReason::Aborted(why))) => {
            assert_eq!(why, "the peer sent a message that is longer than 1000 bytes");
        }
        other => panic!("{other:?}"),
    }
    let stats = running.until("it ends", |stats| stats.peers == 0);
    assert_eq!(
        (stats.ended(EndKind::MessageRefused), stats.messages_too_long, stats.handler_errors),
        (1, 1, 0),
        "{stats:?}"
    );
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn output_for_a_slow_peer_arrives_in_order_once_it_reads() {
    for url in ["sctp://127.0.0.1:0", "sctp+tls://127.0.0.1:0", "sctp+dtls://127.0.0.1:0"] {
        let (came, arrivals) = channel();
        let came = Mutex::new(came);
        let mut bound = OutboxLimits::default();
        (bound.max_messages, bound.max_bytes) = (1000, 64 << 20);
        let handler = move |peer: &mut Peer| {
            came.lock().unwrap().send(peer.sender()).unwrap();
            echo(peer)
        };
        let running = Running::with(url, |builder| builder.outbox(bound), handler);
        let mut slow = running.connect();
        let sender = arrivals.recv_timeout(DEADLINE).unwrap();
        let sent = post_until_queued(&sender, 50);
        expect_numbered(&mut slow, sent);
        exchange(&mut slow, b"and now");
    }
}

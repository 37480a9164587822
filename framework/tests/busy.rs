//! Deadlines of peers that never stop sending.

mod support;

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use peeloff::{EndKind, Error, Framing, Peer, TcpSettings, Timeouts};
use support::{DEADLINE, Running};

const SCHEMES: [&str; 4] = ["udp", "dtls", "tcp", "tls"];
const SCTP: [&str; 3] = ["sctp", "sctp+tls", "sctp+dtls"];

/// Receives more slowly than the peer sends, so that a message is always waiting.
fn listen(peer: &mut Peer) -> Result<(), Error> {
    let mut buffer = [0; 100];
    while peer.recv(&mut buffer)?.is_some() {
        std::thread::park_timeout(Duration::from_millis(2));
    }
    Ok(())
}

/// Sends without a pause until the association has ended or `what` returns.
fn while_it_talks(running: &Running, what: impl FnOnce()) {
    let over = AtomicBool::new(false);
    let mut peer = running.connect_in_time();
    std::thread::scope(|scope| {
        let over = &over;
        scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                if peer.send(&[7; 100]).is_err_and(|error| error.is_fatal()) {
                    return;
                }
            }
        });
        what();
        over.store(true, Ordering::Relaxed);
    });
}

fn lifetimes(schemes: &[&str]) {
    for scheme in schemes {
        let mut timeouts = Timeouts::default();
        timeouts.lifetime = Some(Duration::from_secs(1));
        let url = format!("{scheme}://127.0.0.1:0");
        let running = Running::with(&url, |builder| builder.timeouts(timeouts), listen);
        while_it_talks(&running, || {
            running.until(&format!("the lifetime is over: {scheme}"), |stats| {
                stats.ended(EndKind::Lifetime) >= 1
            });
        });
    }
}

fn drains(schemes: &[&str]) {
    for scheme in schemes {
        let running = Running::with(&format!("{scheme}://127.0.0.1:0"), |builder| builder, listen);
        while_it_talks(&running, || {
            running.until("it is there", |stats| stats.opened > 0);
            let report = running.handle().shutdown(DEADLINE);
            assert_eq!((report.peers, report.finished), (1, 1), "{scheme}: {report:?}");
        });
    }
}

#[test]
fn a_lifetime_ends_also_a_peer_that_never_stops_sending() {
    lifetimes(&SCHEMES);
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn a_lifetime_ends_also_a_peer_that_never_stops_sending_on_sctp() {
    lifetimes(&SCTP);
}

#[test]
fn a_handler_is_told_of_a_drain_also_while_its_peer_never_stops_sending() {
    drains(&SCHEMES);
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn a_handler_is_told_of_a_drain_also_while_its_peer_never_stops_sending_on_sctp() {
    drains(&SCTP);
}

#[test]
fn messages_that_are_too_long_do_not_keep_an_idle_peer_alive() {
    let mut settings = TcpSettings::default();
    (settings.framing, settings.max_message) = (Framing::Lines, 16);
    let mut timeouts = Timeouts::default();
    timeouts.idle = Some(Duration::from_secs(1));
    let tolerant = |peer: &mut Peer| loop {
        match peer.recv(&mut [0; 100]) {
            Ok(Some(_)) | Err(Error::MessageRefused { .. }) => {}
            Ok(None) => return Ok(()),
            Err(error) => return Err(error),
        }
    };
    let configure = |builder: peeloff::ServerBuilder| builder.timeouts(timeouts).tcp(settings);
    let running = Running::with("tcp://127.0.0.1:0", configure, tolerant);
    let mut stream = TcpStream::connect(running.address()).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    let line = [&[b'x'; 50][..], b"\n"].concat().repeat(100);
    // Send until the server ends the connection.
    while stream.write_all(&line).is_ok() {}
    let stats = running.until("it ends", |stats| stats.peers == 0);
    assert_eq!((stats.ended(EndKind::Idle), stats.messages_received), (1, 0), "{stats:?}");
}

//! What happens to a peer while its handler is busy with something else than receiving.

#[path = "support/network.rs"]
#[allow(dead_code)]
mod network;
#[path = "support/relay.rs"]
#[allow(dead_code)]
mod relay;
mod support;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use network::{heal, netem, run_in_own_network};
use peeloff::sctp::{SendInfo, Settings, Socket};
use peeloff::{
    Address, Client, EndKind, EndReason, Error, Framing, Peer, PostOutcome, Scheme, ServerBuilder,
    TcpSettings, Timeouts, TrySendError,
};
use relay::Relay;
use support::{DEADLINE, Running, exchange};

/// Releases handlers, and reports why their peers ended.
struct Handlers {
    go_on: Sender<()>,
    ended: Receiver<EndReason>,
}

/// Starts a server whose handlers wait until they are released, and then send until that fails.
fn stuck(url: &str, timeouts: Timeouts) -> (Running, Handlers) {
    stuck_with(url, |builder| builder.timeouts(timeouts).tcp(lines()))
}

fn stuck_with(url: &str, configure: impl FnOnce(ServerBuilder) -> ServerBuilder) -> (Running, Handlers) {
    let (go_on, gate) = channel();
    let (tell, ended) = channel();
    let (gate, tell) = (Mutex::new(gate), Mutex::new(tell));
    let running = Running::with(url, configure, move |peer: &mut Peer| -> Result<(), Error> {
        let _ = gate.lock().unwrap().recv_timeout(DEADLINE);
        let error = send_until_it_fails(peer);
        if let Error::Ended(reason) = &error {
            let _ = tell.lock().unwrap().send(reason.clone());
        }
        Err(error)
    });
    (running, Handlers { go_on, ended })
}

fn send_until_it_fails(peer: &mut Peer) -> Error {
    loop {
        match peer.send(b"tick") {
            Ok(()) => thread::park_timeout(Duration::from_millis(20)),
            Err(error) => return error,
        }
    }
}

fn lines() -> TcpSettings {
    let mut settings = TcpSettings::default();
    settings.framing = Framing::Lines;
    settings
}

fn connect(running: &Running, relay: &Relay) -> Peer {
    let client: Client = running.client();
    client.connect(Address::from_socket(Scheme::Dtls, relay.address())).unwrap()
}

fn heard(peer: &mut Peer) -> Option<Vec<u8>> {
    let mut buffer = [0; 8192];
    peer.recv_timeout(&mut buffer, DEADLINE).unwrap().map(|len| buffer[..len].to_vec())
}

#[test]
fn a_peer_that_begins_anew_is_noticed_by_a_handler_that_only_sends() {
    let (running, handlers) = stuck("dtls://127.0.0.1:0", Timeouts::default());
    let relay = Relay::to(running.address());
    handlers.go_on.send(()).unwrap();
    handlers.go_on.send(()).unwrap();
    let mut client = connect(&running, &relay);
    assert_eq!(heard(&mut client).unwrap(), b"tick");
    relay.cut();
    drop(client);
    let mut client = connect(&running, &relay);
    assert_eq!(heard(&mut client).unwrap(), b"tick");
    assert_eq!(handlers.ended.recv_timeout(DEADLINE).unwrap(), EndReason::Replaced);
    let stats = running.stats();
    assert_eq!((stats.opened, stats.peers), (2, 1));
    // A client may have sent its first hello twice by then.
    assert!(stats.restarts_challenged >= 1, "{}", stats.restarts_challenged);
}

#[test]
fn the_lifetime_of_a_peer_does_not_wait_for_its_handler() {
    for scheme in ["udp", "dtls", "tcp", "tls"] {
        let mut timeouts = Timeouts::default();
        timeouts.lifetime = Some(Duration::from_millis(100));
        let (running, handlers) = stuck(&format!("{scheme}://127.0.0.1:0"), timeouts);
        let client = running.client().tcp(lines()).timeout(Duration::from_secs(5));
        let connect = || client.connect(running.url()).ok();
        let mut client = support::until("a handshake within the lifetime", connect);
        // On a busy machine, the lifetime may be over by now.
        let _ = client.send(b"hello");
        if scheme == "udp" {
            running.until("the peer is there", |stats| stats.opened == 1);
            let ended = || running.handle().peers().iter().all(|peer| peer.is_ended());
            support::until("the association ends", || ended().then_some(()));
        } else {
            assert_eq!(heard(&mut client), None, "{scheme}");
        }
        handlers.go_on.send(()).unwrap();
        assert_eq!(handlers.ended.recv_timeout(DEADLINE).unwrap(), EndReason::Lifetime, "{scheme}");
    }
}

/// Starts a server whose handlers echo after they have been released.
fn held_echo(url: &str) -> (Running, Sender<()>) {
    let (go_on, gate) = channel::<()>();
    let gate = Mutex::new(gate);
    let handler = move |peer: &mut Peer| -> Result<(), Error> {
        let _ = gate.lock().unwrap().recv_timeout(DEADLINE);
        support::echo(peer)
    };
    (Running::with(url, |builder| builder, handler), go_on)
}

#[test]
fn data_kept_for_a_busy_handler_is_bounded() {
    let (running, go_on) = held_echo("dtls://127.0.0.1:0");
    let mut client = running.client().connect(running.url()).unwrap();
    let mut sent = 0_u32;
    support::until("more comes than is kept", || {
        client.send(&[&sent.to_be_bytes()[..], &[7; 1000]].concat()).unwrap();
        sent += 1;
        (running.stats().records_dropped > 0).then_some(())
    });
    go_on.send(()).unwrap();
    // The oldest messages are kept in their order, and the peer is not blocked. Messages that it sends while the
    // socket is still full are lost, so it repeats them.
    let mut last = None;
    loop {
        let message = heard(&mut client).unwrap();
        if message == b"the last one" {
            break;
        }
        let number = u32::from_be_bytes(*message.first_chunk().unwrap());
        assert!(last.map_or(number == 0, |last| number > last), "{number} after {last:?}");
        last = Some(number);
        client.send(b"the last one").unwrap();
    }
    assert!(last.is_some());
}

#[test]
fn datagrams_read_for_a_busy_handler_reach_it_in_order() {
    let (running, go_on) = held_echo("dtls://127.0.0.1:0");
    let relay = Relay::to(running.address());
    let mut client = connect(&running, &relay);
    let hello = relay.passed().into_iter().find(|datagram| datagram[0] == 22).expect("a ClientHello");
    for number in 0..10 {
        client.send(format!("{number}").as_bytes()).unwrap();
    }
    // The forged hello looks like a restart. The answer shows that everything before it has been read.
    let mut forged = hello;
    forged[13 + 12 + 2] ^= 1;
    relay.inject(&forged);
    running.until("the forged hello is challenged", |stats| stats.restarts_challenged == 1);
    go_on.send(()).unwrap();
    for number in 0..10 {
        assert_eq!(heard(&mut client).unwrap(), format!("{number}").as_bytes());
    }
    exchange(&mut client, b"and so on");
    assert_eq!(running.stats().records_dropped, 0);
}

#[test]
fn output_that_waits_for_room_is_sent_while_the_handler_is_busy() {
    for scheme in ["tcp", "tls"] {
        let (running, handlers) = stuck(&format!("{scheme}://127.0.0.1:0"), Timeouts::default());
        let mut client = running.client().tcp(lines()).connect(running.url()).unwrap();
        let peer = support::until("the handshake is over", || running.handle().peers().pop());
        let message: Arc<[u8]> = Arc::from([b'x'; 4000]);
        let mut posted = 0;
        loop {
            posted += 1;
            match peer.post(&message) {
                PostOutcome::Sent => {}
                PostOutcome::Queued => break,
                other => panic!("{scheme}: {other:?}"),
            }
        }
        for number in 0..posted {
            assert_eq!(heard(&mut client).as_deref(), Some(&*message), "{scheme}: {number} of {posted}");
        }
        handlers.go_on.send(()).unwrap();
        drop(client);
    }
}

/// Returns the unread bytes in the sockets of associations with this local port, as the kernel counts them.
fn unread(port: u16) -> usize {
    let table = fs::read_to_string("/proc/net/sctp/assocs").unwrap();
    let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let head = rows.next().unwrap();
    let column = |name: &str| head.iter().position(|found| *found == name).unwrap();
    let (bytes, local) = (column("RX_QUEUE"), column("LPORT"));
    let ours = rows.filter(|row| row[local] == port.to_string());
    ours.map(|row| row[bytes].parse::<usize>().unwrap()).sum()
}

/// Waits until everything that was sent has arrived in the other side's sockets.
fn arrive(client: &mut Peer) {
    support::until("everything is acknowledged", || {
        let status = client.sctp().unwrap().options().unwrap().status().unwrap();
        (status.unacknowledged == 0).then_some(())
    });
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn messages_read_from_sctp_for_a_busy_handler_reach_it_in_order() {
    for scheme in ["sctp", "sctp+tls", "sctp+dtls"] {
        let (running, go_on) = held_echo(&format!("{scheme}://127.0.0.1:0"));
        let mut client = running.client().connect(running.url()).unwrap();
        for number in 0..10 {
            client.send(format!("{number}").as_bytes()).unwrap();
        }
        arrive(&mut client);
        support::until("it is read", || (unread(running.address().port()) == 0).then_some(()));
        // These are more messages than are kept for a handler, which continues while they arrive.
        let long = |number: usize| format!("{number:2000}").into_bytes();
        for number in 10..20 {
            client.send(&long(number)).unwrap();
        }
        go_on.send(()).unwrap();
        for number in 20..100 {
            client.send(&long(number)).unwrap();
        }
        for number in 0..100 {
            let expected = if number < 10 { number.to_string().into_bytes() } else { long(number) };
            assert_eq!(heard(&mut client), Some(expected), "{scheme}");
        }
        assert_eq!(running.stats().messages_received, 100);
    }
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn data_beyond_the_bound_stays_in_the_sctp_socket_of_a_busy_handler() {
    let (running, go_on) = held_echo("sctp://127.0.0.1:0");
    let mut client = running.client().connect(running.url()).unwrap();
    let long = |number: usize| format!("{number:2000}").into_bytes();
    client.send(&long(0)).unwrap();
    arrive(&mut client);
    support::until("it is read", || (unread(running.address().port()) == 0).then_some(()));
    for number in 1..200 {
        client.send(&long(number)).unwrap();
    }
    arrive(&mut client);
    // The dispatcher reads as much as may be kept for a handler. The rest stays in the socket.
    let all = 200 * 2000;
    let left = support::until("some of it is read", || {
        let left = unread(running.address().port());
        (left < all - (64 << 10)).then_some(left)
    });
    assert!(left > 0);
    go_on.send(()).unwrap();
    for number in 0..200 {
        assert_eq!(heard(&mut client), Some(long(number)));
    }
    let stats = running.stats();
    assert_eq!((stats.strays_lost, stats.records_dropped), (0, 0));
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn an_sctp_peer_that_begins_anew_is_noticed_while_its_handler_is_busy() {
    if run_in_own_network("an_sctp_peer_that_begins_anew_is_noticed_while_its_handler_is_busy") {
        return;
    }
    let (go_on, gate) = channel::<()>();
    let (report, reports) = channel();
    let (gate, report) = (Mutex::new(gate), Mutex::new(report));
    let handler = move |peer: &mut Peer| -> Result<(), Error> {
        let _ = gate.lock().unwrap().recv_timeout(DEADLINE);
        let mut message = Vec::new();
        let received = peer.recv_into(&mut message)?;
        report.lock().unwrap().send(received.map(|_| message)).unwrap();
        Ok(())
    };
    let running = Running::with("sctp://127.0.0.1:0", |builder| builder, handler);
    let port = TcpListener::bind("127.0.0.9:0").unwrap().local_addr().unwrap().port();
    let call = |word: &[u8]| {
        let socket = Socket::one_to_one(false).unwrap();
        socket.bind(&[SocketAddr::from(([127, 0, 0, 9], port))]).unwrap();
        socket.connect(&[running.address()]).unwrap();
        socket.send(word, &SendInfo::default()).unwrap();
        socket
    };
    let first = call(b"one");
    let peer = support::until("the peer is there", || running.handle().peers().pop());
    // The abort is lost, so the server does not know that the first association has ended.
    netem("loss 100%");
    socket2::SockRef::from(&first).set_linger(Some(Duration::ZERO)).unwrap();
    drop(first);
    heal();
    let _second = call(b"two");
    support::until("the association ends", || peer.is_ended().then_some(()));
    assert_eq!(peer.end_reason(), Some(&EndReason::Replaced));
    // A message for the first association must not reach the second, and closing the first must not disturb the
    // second.
    let sent = peer.try_send(b"late");
    assert!(matches!(sent, Err(TrySendError { error: Error::Ended(_), .. })), "{sent:?}");
    peer.close();
    go_on.send(()).unwrap();
    assert_eq!(reports.recv_timeout(DEADLINE).unwrap(), None);
    go_on.send(()).unwrap();
    assert_eq!(reports.recv_timeout(DEADLINE).unwrap().as_deref(), Some(&b"two"[..]));
    let stats = running.until("both have ended", |stats| stats.peers == 0);
    assert_eq!((stats.sctp_restarts, stats.opened, stats.ended(EndKind::Replaced)), (1, 2, 1));
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn an_sctp_peer_that_acknowledges_nothing_is_given_up_while_its_handler_is_busy() {
    let mut settings = Settings::default();
    settings.dead_after = Some(Duration::from_secs(4));
    let (running, handlers) = stuck_with("sctp://127.0.0.1:0", |builder| builder.sctp(settings));
    let deaf = Socket::one_to_one(false).unwrap();
    deaf.connect(&[running.address()]).unwrap();
    let peer = support::until("the peer is there", || running.handle().peers().pop());
    support::until("there is no room", || {
        let sent = peer.try_send([7; 8000]);
        matches!(sent, Err(TrySendError { error: Error::SendBufferFull, .. })).then_some(())
    });
    support::until("it is given up", || peer.is_ended().then_some(()));
    assert_eq!(peer.end_reason(), Some(&EndReason::TooSlow));
    handlers.go_on.send(()).unwrap();
    assert_eq!(handlers.ended.recv_timeout(DEADLINE).unwrap(), EndReason::TooSlow);
    // The peer gets the reason once it reads.
    deaf.set_read_timeout(Some(DEADLINE)).unwrap();
    let error = support::until("the abort", || deaf.recv(&mut [0; 8000]).err());
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

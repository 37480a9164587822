//! Callbacks on event loops, with peers that share sockets.

#[path = "support/relay.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod relay;
mod support;

use std::collections::HashSet;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender as Notes, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use peeloff::test_support::Outgoing;
use peeloff::{
    Address, CaBundle, Client, EndReason, Error, HandlerError, Identity, Message, PeerEvents, Scheme, Sender,
    Server, ServerBuilder, Sockets, Timeouts,
};
use relay::Relay;
use support::{DEADLINE, exchange, quiet_panic, until};

const URLS: [&str; 2] = ["udp://127.0.0.1:0", "dtls://127.0.0.1:0"];

/// Echoes messages. Some messages are commands.
struct Echo {
    ends: Mutex<Notes<EndReason>>,
    threads: Mutex<HashSet<ThreadId>>,
    /// The message `block` waits for this.
    released: AtomicBool,
}

/// The server's part of the echo.
struct Calls(Arc<Echo>);

impl PeerEvents for Calls {
    type State = u64;

    fn open(&self, _: &Sender) -> Result<u64, HandlerError> {
        Ok(0)
    }

    fn message(&self, count: &mut u64, peer: &Sender, message: Message<'_>) -> Result<(), HandlerError> {
        *count += 1;
        let Self(echo) = self;
        echo.threads.lock().unwrap().insert(thread::current().id());
        match message.bytes() {
            b"block" => until("the release", || echo.released.load(Ordering::SeqCst).then_some(())),
            b"panic" => quiet_panic(),
            b"fail" => return Err("it was told to fail".into()),
            b"close" => {
                peer.close();
                return Ok(());
            }
            b"count" => return Ok(peer.send(count.to_string().as_bytes())?),
            _ => {}
        }
        Ok(peer.send(&message)?)
    }

    fn close(&self, _: u64, _: &Sender, reason: EndReason) {
        let _ = self.0.ends.lock().unwrap().send(reason);
    }
}

struct Running {
    server: Server,
    trust: CaBundle,
    echo: Arc<Echo>,
    ends: std::sync::mpsc::Receiver<EndReason>,
}

impl Running {
    fn on(url: &str, configure: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Self {
        let (notes, ends) = channel();
        let echo = Arc::new(Echo {
            ends: Mutex::new(notes),
            threads: Mutex::default(),
            released: AtomicBool::new(false),
        });
        let identity = Identity::self_signed().unwrap();
        let trust = CaBundle::from_pem(&identity.certificate_pem()).unwrap();
        let builder = configure(Server::builder().listen(url).identity(identity));
        let server = builder.start_events(Calls(Arc::clone(&echo))).unwrap();
        Self { server, trust, echo, ends }
    }

    fn client(&self) -> peeloff::Peer {
        let client = Client::builder().ca(self.trust.clone()).server_name("localhost").timeout(DEADLINE);
        client.connect(&self.server.addresses()[0]).unwrap()
    }

    fn end(&self) -> EndReason {
        self.ends.recv_timeout(DEADLINE).unwrap()
    }
}

#[test]
fn datagrams_that_the_kernel_handles_as_segments_of_one_are_messages_of_their_own() {
    let running = Running::on("udp://127.0.0.1:0", |builder| builder);
    let to = running.server.addresses()[0].resolve().unwrap()[0];
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut outgoing = Outgoing::default();
    let lines: Vec<String> = (10..60).map(|number| format!("line {number}")).collect();
    lines.iter().for_each(|line| outgoing.push(to, None, line.as_bytes()));
    assert_eq!(outgoing.send(socket.as_fd()), lines.len());
    for line in &lines {
        let mut buffer = [0; 100];
        let len = socket.recv(&mut buffer).unwrap();
        assert_eq!(std::str::from_utf8(&buffer[..len]), Ok(&**line));
    }
}

#[test]
fn peers_that_share_a_socket_and_few_threads_receive_only_their_own_messages() {
    for url in URLS {
        let running = Running::on(url, |builder| builder.event_loops(2).spare_threads(4));
        let mut peers: Vec<_> = (0..40).map(|_| running.client()).collect();
        for round in 0..5 {
            for (number, peer) in peers.iter_mut().enumerate() {
                peer.send(format!("{round} of {number}").as_bytes()).unwrap();
            }
            let mut answer = [0; 100];
            for (number, peer) in peers.iter_mut().enumerate() {
                let len = peer.recv_timeout(&mut answer, DEADLINE).unwrap().unwrap();
                assert_eq!(&answer[..len], format!("{round} of {number}").as_bytes());
            }
        }
        let stats = running.server.handle().stats();
        assert_eq!((stats.peers, stats.workers, stats.messages_received), (40, 0, 200), "{url}");
        assert!((2..=6).contains(&stats.loop_threads), "{url}");
        // On a busy machine, more threads than that may have come and gone.
        assert!(running.echo.threads.lock().unwrap().len() < peers.len(), "{url}");
    }
}

#[test]
fn messages_of_one_peer_keep_their_order() {
    for url in URLS {
        let running = Running::on(url, |builder| builder.event_loops(1));
        let mut peer = running.client();
        exchange(&mut peer, b"first");
        for number in 0..100_u32 {
            peer.send(&number.to_be_bytes()).unwrap();
        }
        let mut answer = [0; 100];
        for number in 0..100_u32 {
            let len = peer.recv_timeout(&mut answer, DEADLINE).unwrap().unwrap();
            assert_eq!(answer[..len], number.to_be_bytes(), "{url}");
        }
    }
}

#[test]
fn a_callback_that_blocks_delays_only_its_own_peer() {
    for url in URLS {
        let running = Running::on(url, |builder| builder.event_loops(1));
        let (mut stuck, mut other) = (running.client(), running.client());
        exchange(&mut other, b"before");
        stuck.send(b"block").unwrap();
        stuck.send(b"count").unwrap();
        // Its only loop is blocked until a spare thread continues it.
        until("the other thread", || (running.server.handle().stats().loops_taken_over > 0).then_some(()));
        for _ in 0..20 {
            exchange(&mut other, b"meanwhile");
        }
        exchange(&mut running.client(), b"a newcomer");
        let mut answer = [0; 100];
        let nothing = stuck.recv_timeout(&mut answer, Duration::ZERO);
        assert!(matches!(nothing, Err(Error::TimedOut)), "{nothing:?}");
        running.echo.released.store(true, Ordering::SeqCst);
        let mut heard = || {
            let len = stuck.recv_timeout(&mut answer, DEADLINE).unwrap().unwrap();
            answer[..len].to_vec()
        };
        assert_eq!((heard(), heard()), (b"block".to_vec(), b"2".to_vec()), "{url}");
    }
}

#[test]
fn without_spare_threads_a_blocked_loop_says_so_and_goes_on_later() {
    let running = Running::on("udp://127.0.0.1:0", |builder| builder.event_loops(1).spare_threads(0));
    let (mut stuck, mut other) = (running.client(), running.client());
    exchange(&mut other, b"before");
    stuck.send(b"block").unwrap();
    until("the loop to be held up", || (running.server.handle().stats().loops_held_up > 0).then_some(()));
    other.send(b"later").unwrap();
    running.echo.released.store(true, Ordering::SeqCst);
    let mut answer = [0; 100];
    assert_eq!(other.recv_timeout(&mut answer, DEADLINE).unwrap(), Some(5));
    assert_eq!(running.server.handle().stats().loops_taken_over, 0);
}

#[test]
fn a_message_behind_many_useless_datagrams_is_received() {
    let running = Running::on("dtls://127.0.0.1:0", |builder| {
        builder.event_loops(1).spare_threads(1).sockets(Sockets::PerPeer)
    });
    let relay = Relay::to(running.server.addresses()[0].resolve().unwrap()[0]);
    let client = Client::builder().ca(running.trust.clone());
    let mut client = client.connect(Address::from_socket(Scheme::Dtls, relay.address())).unwrap();
    exchange(&mut client, b"before");
    client.send(b"block").unwrap();
    until("the callback", || (running.server.handle().stats().loops_taken_over > 0).then_some(()));
    // All of them have arrived before the first one is read, so no later event reports more. They are records
    // with one byte each, of an epoch that does not exist.
    for _ in 0..200 {
        relay.inject(&[23, 0xfe, 0xfd, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    }
    let passed = relay.passed().len();
    client.send(b"behind").unwrap();
    until("the message to pass", || (relay.passed().len() > passed).then_some(()));
    running.echo.released.store(true, Ordering::SeqCst);
    let mut answer = [0; 100];
    assert_eq!(client.recv_timeout(&mut answer, DEADLINE).unwrap(), Some(b"block".len()));
    assert_eq!(client.recv_timeout(&mut answer, DEADLINE).unwrap(), Some(b"behind".len()));
    let stats = running.server.handle().stats();
    assert_eq!(stats.records_dropped, 200, "{stats:?}");
}

#[test]
fn a_callback_that_panics_or_fails_ends_its_own_peer_alone() {
    for url in URLS {
        let running = Running::on(url, |builder| builder.event_loops(1));
        let mut other = running.client();
        exchange(&mut other, b"before");
        let mut failing = running.client();
        failing.send(b"fail").unwrap();
        assert_eq!(running.end(), EndReason::HandlerFailed);
        let mut panicking = running.client();
        panicking.send(b"panic").unwrap();
        until("the panic", || (running.server.handle().stats().handler_panics == 1).then_some(()));
        exchange(&mut other, b"after");
        until("the ends", || (running.server.handle().stats().peers == 1).then_some(()));
    }
}

#[test]
fn a_peer_ends_by_either_side_and_comes_again_from_its_port() {
    for url in URLS {
        let running = Running::on(url, |builder| builder.event_loops(2));
        let client = Client::builder().ca(running.trust.clone()).timeout(DEADLINE);
        // No other test uses this address, so the port stays free.
        let anywhere = "127.0.77.5:0".parse().unwrap();
        let mut peer = client.clone().bind(anywhere).connect(&running.server.addresses()[0]).unwrap();
        exchange(&mut peer, b"hello");
        peer.send(b"close").unwrap();
        assert_eq!(running.end(), EndReason::ClosedByUs);
        let local = peer.local_address();
        drop(peer);
        let mut again = client.bind(local).connect(&running.server.addresses()[0]).unwrap();
        exchange(&mut again, b"again");
        assert_eq!(again.local_address(), local);
        drop(again);
        if url.starts_with("dtls") {
            assert_eq!(running.end(), EndReason::ClosedByPeer);
            until("nobody", || (running.server.handle().stats().peers == 0).then_some(()));
        }
    }
}

#[test]
fn deadlines_hold_without_a_datagram() {
    for url in URLS {
        let timeouts = Timeouts::default().idle(Some(Duration::from_millis(300)));
        let running = Running::on(url, |builder| builder.timeouts(timeouts));
        let mut peer = running.client();
        exchange(&mut peer, b"hello");
        assert_eq!(running.end(), EndReason::Idle);
    }
}

#[test]
fn a_shutdown_drains_all_peers_and_frees_the_port() {
    // No other test uses this address, so the port stays free.
    for url in ["udp://127.0.77.4:0", "dtls://127.0.77.4:0"] {
        let running = Running::on(url, |builder| builder.event_loops(2));
        let mut peers: Vec<_> = (0..100).map(|_| running.client()).collect();
        peers.iter_mut().for_each(|peer| exchange(peer, b"hello"));
        let address = running.server.addresses()[0].resolve().unwrap()[0];
        let report = running.server.handle().shutdown(DEADLINE);
        assert_eq!((report.peers, report.finished, report.abandoned), (100, 100, 0), "{url}");
        assert!(report.took < DEADLINE);
        UdpSocket::bind(address).unwrap();
        if url.starts_with("dtls") {
            let mut answer = [0; 10];
            assert_eq!(peers[0].recv_timeout(&mut answer, DEADLINE).unwrap(), None);
            assert_eq!(peers[0].end_reason(), Some(&EndReason::ClosedByPeer));
        }
    }
}

#[test]
fn a_callback_that_never_returns_is_left_behind_by_a_shutdown() {
    let running = Running::on("dtls://127.0.0.1:0", |builder| builder.event_loops(1));
    let mut stuck = running.client();
    stuck.send(b"block").unwrap();
    let is_stuck = |stats: peeloff::Stats| stats.loops_taken_over > 0 && stats.messages_received == 1;
    until("the callback", || is_stuck(running.server.handle().stats()).then_some(()));
    let began = Instant::now();
    let report = running.server.handle().shutdown(Duration::ZERO);
    assert_eq!((report.peers, report.abandoned), (1, 1));
    assert!(began.elapsed() < DEADLINE);
    running.echo.released.store(true, Ordering::SeqCst);
    // When the callback does return, its peer gets its last callback, and nothing is left of the peer.
    assert_eq!(running.end(), EndReason::Shutdown);
    until("nobody", || (running.server.handle().stats().peers == 0).then_some(()));
}

#[test]
fn others_send_to_a_peer_from_any_thread() {
    let running = Running::on("dtls://127.0.0.1:0", |builder| builder.event_loops(2));
    let mut peer = running.client();
    exchange(&mut peer, b"hello");
    let [sender] = running.server.handle().peers().try_into().unwrap();
    let thread = thread::spawn(move || (0..50_u8).for_each(|number| sender.send(&[number]).unwrap()));
    let mut answer = [0; 10];
    for number in 0..50 {
        assert_eq!(peer.recv_timeout(&mut answer, DEADLINE).unwrap(), Some(1));
        assert_eq!(answer[0], number);
    }
    thread.join().unwrap();
}

//! Handlers made of callbacks: what they see, in which order, and when.

mod support;

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender as Notes, channel};
use std::thread;
use std::time::{Duration, Instant};

use peeloff::sctp::{Notification, NotificationKind, SendInfo};
use peeloff::testing::Pair;
use peeloff::{
    Callbacks, Client, ClientAuth, Credentials, EndKind, EndReason, Error, Framing, HandlerError, Message,
    OutboxLimits, Overflow, Peer, PeerEvents, PeerHandler, PeerIdentity, Scheme, Sender, Server,
    ServerBuilder, TcpSettings,
};
use peeloff_certificates::{Authority, p256};
use support::{DEADLINE, Echo, Running, exchange};

/// The longest line, in bytes.
const LONGEST: usize = 10_000;

const LABEL: &str = "EXPERIMENTAL-peeloff-test";

const URLS: [&str; 4] = ["udp://127.0.0.1:0", "dtls://127.0.0.1:0", "tcp://127.0.0.1:0", "tls://127.0.0.1:0"];

/// What a callback saw of a peer.
#[derive(Debug, PartialEq)]
struct Seen {
    name: String,
    alpn: Option<String>,
    server_name: Option<String>,
    cipher: Option<String>,
    resumed: bool,
    keys: [u8; 16],
    longest: usize,
}

/// Reports what `open` sees, and what can still be seen after the association has ended.
struct Onlooker(Mutex<Notes<(Seen, EndReason)>>);

impl PeerEvents for Onlooker {
    type State = Seen;

    fn open(&self, peer: &Sender) -> Result<Seen, HandlerError> {
        let PeerIdentity::Certificate(certificate) = peer.identity() else {
            panic!("the peer has no certificate")
        };
        let mut keys = [0; 16];
        peer.export_keying_material(LABEL, None, &mut keys)?;
        assert_eq!(peer.end_reason(), None);
        Ok(Seen {
            name: certificate.common_name.clone().unwrap(),
            alpn: peer.alpn().map(str::to_owned),
            server_name: peer.server_name().map(str::to_owned),
            cipher: peer.cipher().map(str::to_owned),
            resumed: peer.is_resumed(),
            keys,
            longest: peer.max_message_size(),
        })
    }

    fn message(&self, _: &mut Seen, peer: &Sender, message: Message<'_>) -> Result<(), HandlerError> {
        Ok(peer.send(&message)?)
    }

    fn close(&self, seen: Seen, peer: &Sender, reason: EndReason) {
        assert_eq!(peer.end_reason(), Some(&reason));
        assert!(matches!(peer.identity(), PeerIdentity::Certificate(_)));
        let _ = self.0.lock().unwrap().send((seen, reason));
    }
}

#[test]
fn callbacks_see_who_the_peer_is() {
    let authority = Authority::new();
    for url in ["dtls://127.0.0.1:0", "tls://127.0.0.1:0"] {
        let (notes, seen) = channel();
        let credentials = Credentials::new()
            .identity(authority.issue_for("server", &["localhost", "chat.example.org"]))
            .client_auth(ClientAuth::Required(authority.bundle()))
            .alpn(&["chat/2", "chat/1"])
            .exporters(true);
        let events = Callbacks::new(Onlooker(Mutex::new(notes)));
        let server = Server::builder().listen(url).credentials(credentials).start(events).unwrap();
        let client = Client::builder()
            .ca(authority.bundle())
            .identity(authority.issue("alice", &p256()))
            .server_name("chat.example.org")
            .alpn(&["chat/1"])
            .exporters(true);
        let mut peer = client.connect(&server.addresses()[0]).unwrap();
        exchange(&mut peer, b"hello");
        let mut keys = [0; 16];
        peer.export_keying_material(LABEL, None, &mut keys).unwrap();
        let expected = Seen {
            name: "alice".to_owned(),
            alpn: Some("chat/1".to_owned()),
            server_name: Some("chat.example.org".to_owned()),
            cipher: peer.cipher().map(str::to_owned),
            resumed: false,
            keys,
            longest: peer.max_message_size(),
        };
        assert!(expected.cipher.is_some());
        peer.close();
        assert_eq!(seen.recv_timeout(DEADLINE).unwrap(), (expected, EndReason::ClosedByPeer), "{url}");
        server.handle().shutdown(DEADLINE);
    }
}

/// Records which callback is called, and continues after a drain or a message that is too long.
struct Diary(Mutex<Notes<String>>);

impl Diary {
    fn new() -> (Self, Receiver<String>) {
        let (notes, lines) = channel();
        (Self(Mutex::new(notes)), lines)
    }

    fn note(&self, line: String) {
        let _ = self.0.lock().unwrap().send(line);
    }
}

impl PeerEvents for Diary {
    type State = u32;

    fn open(&self, peer: &Sender) -> Result<u32, HandlerError> {
        self.note(format!("open {}", peer.scheme()));
        Ok(0)
    }

    fn message(&self, state: &mut u32, peer: &Sender, message: Message<'_>) -> Result<(), HandlerError> {
        *state += 1;
        assert_eq!((message.info(), message.reply()), (None, Default::default()));
        self.note(format!("message {state} of {} bytes", message.len()));
        match &*message {
            b"close" => peer.close(),
            b"error" => return Err("as the test wants it".into()),
            _ => peer.send(&message)?,
        }
        Ok(())
    }

    fn message_refused(&self, _: &mut u32, peer: &Sender, limit: usize) -> Result<(), HandlerError> {
        self.note(format!("longer than {limit}"));
        Ok(peer.send(b"too long")?)
    }

    fn draining(&self, _: &mut u32, peer: &Sender) -> Result<(), HandlerError> {
        assert!(peer.is_draining());
        self.note("draining".to_owned());
        Ok(())
    }

    fn close(&self, state: u32, peer: &Sender, reason: EndReason) {
        assert!(peer.is_ended() && peer.send(b"late").is_err());
        self.note(format!("close after {state}: {}", reason.kind()));
    }
}

/// Starts a server with these callbacks, with lines on streams.
fn start(url: &str, events: impl PeerEvents) -> Running {
    Running::with(url, |builder| builder.tcp(lines()), Callbacks::new(events))
}

/// Lines of up to 10,000 bytes.
fn lines() -> TcpSettings {
    TcpSettings::default().framing(Framing::Lines).max_message(LONGEST)
}

fn connect(running: &Running) -> Peer {
    running.client().tcp(lines()).connect(running.url()).unwrap()
}

#[test]
fn callbacks_see_a_life_from_open_to_close() {
    for url in URLS {
        let (diary, notes) = Diary::new();
        let running = start(url, diary);
        let line = || notes.recv_timeout(DEADLINE).unwrap();
        let scheme = running.url().scheme;
        for (last, reason) in [("close", "closed_by_us"), ("error", "handler_failed"), ("", "closed_by_peer")]
        {
            if last.is_empty() && scheme == Scheme::Udp {
                continue;
            }
            let mut client = connect(&running);
            // The second message is longer than the adapter's first buffer.
            exchange(&mut client, b"first");
            exchange(&mut client, &[7; 9000]);
            match last {
                "" => client.close(),
                last => client.send(last.as_bytes()).unwrap(),
            }
            assert_eq!(line(), format!("open {scheme}"));
            assert_eq!(line(), "message 1 of 5 bytes");
            assert_eq!(line(), "message 2 of 9000 bytes");
            let messages = if last.is_empty() { 2 } else { 3 };
            if messages == 3 {
                assert_eq!(line(), "message 3 of 5 bytes");
            }
            assert_eq!(line(), format!("close after {messages}: {reason}"), "{url}");
        }
        running.until("all peers have left", |stats| (stats.peers, stats.handler_errors) == (0, 1));
        assert!(notes.try_recv().is_err());
    }
}

#[test]
fn a_message_that_is_too_long_ends_the_association_unless_its_callback_goes_on() {
    for url in ["tcp://127.0.0.1:0", "tls://127.0.0.1:0"] {
        let settings = lines().max_message(2 * LONGEST);
        let long = [b'x'; LONGEST + 1];
        let running = start(url, Echo);
        let mut client = running.client().tcp(settings.clone()).connect(running.url()).unwrap();
        client.send(&long).unwrap();
        running.until("it is refused", |stats| stats.ended(EndKind::MessageRefused) == 1);

        let (diary, notes) = Diary::new();
        let running = start(url, diary);
        let line = || notes.recv_timeout(DEADLINE).unwrap();
        let mut client = running.client().tcp(settings).connect(running.url()).unwrap();
        client.send(&long).unwrap();
        assert_eq!(client.recv_timeout(&mut [0; 100], DEADLINE).unwrap(), Some(8), "{url}");
        exchange(&mut client, b"shorter");
        assert!(line().starts_with("open "));
        assert_eq!(line(), format!("longer than {LONGEST}"), "{url}");
        assert_eq!(line(), "message 1 of 7 bytes");
    }
}

#[test]
fn a_drain_ends_quiet_peers_unless_their_callback_goes_on_for_the_grace_period() {
    for url in URLS {
        let running = start(url, Echo);
        let mut client = connect(&running);
        exchange(&mut client, b"hello");
        let report = running.handle().shutdown(DEADLINE);
        assert_eq!(
            (report.peers, report.finished, running.stats().ended(EndKind::Shutdown)),
            (1, 1, 1),
            "{url}"
        );

        for grace in [DEADLINE, Duration::from_millis(500)] {
            let (diary, notes) = Diary::new();
            let running = start(url, diary);
            let line = || notes.recv_timeout(DEADLINE).unwrap();
            let mut client = connect(&running);
            exchange(&mut client, b"hello");
            assert!(line().starts_with("open "));
            assert_eq!(line(), "message 1 of 5 bytes");
            let handle = running.handle();
            let shutdown = thread::spawn(move || handle.shutdown(grace));
            assert_eq!(line(), "draining");
            if grace == DEADLINE {
                exchange(&mut client, b"still here");
                assert_eq!(line(), "message 2 of 10 bytes");
                client.send(b"close").unwrap();
                assert_eq!(line(), "message 3 of 5 bytes");
            }
            assert!(line().ends_with(": shutdown"), "{url}");
            let report = shutdown.join().unwrap();
            let stopped = usize::from(grace != DEADLINE);
            let counts = (report.peers, report.finished, report.stopped, report.abandoned);
            assert_eq!(counts, (1, 1 - stopped, stopped, 0), "{url}");
        }
    }
}

/// Counts messages and calls of the timer.
#[derive(Default)]
struct Turns {
    messages: u32,
    timeouts: u32,
    /// Calls of the timer since the last message.
    since: u32,
    next: Option<Instant>,
}

/// A timer that fires three times, with this interval.
struct Metronome(Duration, Mutex<Notes<Turns>>);

impl PeerEvents for Metronome {
    type State = Turns;

    fn open(&self, _: &Sender) -> Result<Turns, HandlerError> {
        Ok(Turns::default())
    }

    fn message(&self, turns: &mut Turns, peer: &Sender, _: Message<'_>) -> Result<(), HandlerError> {
        turns.messages += 1;
        turns.next = Some(peer.now() + self.0);
        Ok(())
    }

    fn next_timeout(&self, turns: &Turns) -> Option<Instant> {
        turns.next
    }

    fn timeout(&self, turns: &mut Turns, peer: &Sender, now: Instant) -> Result<(), HandlerError> {
        assert!(turns.next.take().unwrap() <= now);
        turns.timeouts += 1;
        turns.next = (turns.timeouts < 3).then(|| now + self.0);
        if turns.next.is_none() {
            peer.close();
        }
        Ok(())
    }

    fn close(&self, turns: Turns, _: &Sender, _: EndReason) {
        let _ = self.1.lock().unwrap().send(turns);
    }
}

#[test]
fn a_timer_fires_while_the_peer_is_silent() {
    for url in URLS {
        let (notes, turns) = channel();
        let period = Duration::from_millis(30);
        let running = start(url, Metronome(period, Mutex::new(notes)));
        let mut client = connect(&running);
        let began = Instant::now();
        client.send(b"begin").unwrap();
        let Turns { messages, timeouts, .. } = turns.recv_timeout(DEADLINE).unwrap();
        assert_eq!((messages, timeouts), (1, 3), "{url}");
        assert!(began.elapsed() >= period * 3, "{url}");
    }
}

#[test]
fn a_timer_goes_by_the_clock_of_a_peer_over_memory() {
    let (notes, turns) = channel();
    let remote =
        Pair::new(Scheme::Dtls).serve(Callbacks::new(Metronome(Duration::from_secs(10), Mutex::new(notes))));
    remote.send("begin");
    remote.elapse(Duration::from_secs(29));
    remote.send("again");
    remote.elapse(Duration::from_secs(9));
    remote.drain();
    let Turns { messages, timeouts, .. } = turns.recv_timeout(DEADLINE).unwrap();
    assert_eq!((messages, timeouts), (2, 2));
}

/// A timer that is always due.
struct Impatient(Instant, Mutex<Notes<Turns>>);

/// The number of messages of a flood.
const FLOOD: u32 = 200;

impl PeerEvents for Impatient {
    type State = Turns;

    fn open(&self, _: &Sender) -> Result<Turns, HandlerError> {
        Ok(Turns::default())
    }

    fn message(&self, turns: &mut Turns, peer: &Sender, _: Message<'_>) -> Result<(), HandlerError> {
        assert!(turns.since > 0, "the timer did not have its turn before message {}", turns.messages);
        (turns.messages, turns.since) = (turns.messages + 1, 0);
        if turns.messages == FLOOD {
            peer.close();
        }
        Ok(())
    }

    fn next_timeout(&self, _: &Turns) -> Option<Instant> {
        Some(self.0)
    }

    fn timeout(&self, turns: &mut Turns, _: &Sender, _: Instant) -> Result<(), HandlerError> {
        assert!(turns.messages < FLOOD, "it has closed");
        (turns.timeouts, turns.since) = (turns.timeouts + 1, turns.since + 1);
        Ok(())
    }

    fn close(&self, turns: Turns, _: &Sender, reason: EndReason) {
        assert_eq!(reason, EndReason::ClosedByUs);
        let _ = self.1.lock().unwrap().send(turns);
    }
}

#[test]
fn a_timer_that_is_always_due_and_messages_without_a_pause_take_turns() {
    for url in URLS {
        let (notes, turns) = channel();
        let running = start(url, Impatient(Instant::now(), Mutex::new(notes)));
        let mut client = connect(&running);
        for _ in 0..FLOOD {
            client.send(b"one of many").unwrap();
        }
        let Turns { messages, timeouts, .. } = turns.recv_timeout(DEADLINE).unwrap();
        assert_eq!(messages, FLOOD, "{url}");
        assert!(timeouts >= FLOOD, "{url}: {timeouts}");
    }
}

#[test]
fn messages_to_a_slow_peer_wait_in_order_and_fail_when_the_outbox_is_full() {
    for url in ["tcp://127.0.0.1:0", "tls://127.0.0.1:0"] {
        for overflow in [Overflow::DropNewest, Overflow::Disconnect] {
            let bound = OutboxLimits::default().max_messages(16).overflow(overflow);
            let configure = |builder: ServerBuilder| builder.tcp(lines()).outbox(bound);
            let running = Running::with(url, configure, Callbacks::new(Echo));
            let mut slow = connect(&running);
            exchange(&mut slow, b"hello");
            let sender = running.handle().peers().remove(0);
            assert!(matches!(sender.send(&[b'x'; LONGEST + 1]), Err(Error::MessageTooLarge { .. })));
            let mut sent = 0;
            let error = loop {
                match sender.send(format!("{sent:08000}").as_bytes()) {
                    Ok(()) => sent += 1,
                    Err(error) => break error,
                }
                assert!(sent < 100_000, "{url}: there is no bound");
            };
            if overflow == Overflow::Disconnect {
                assert!(matches!(error, Error::Ended(EndReason::TooSlow)), "{url}: {error:?}");
                running.until("it ends", |stats| stats.ended(EndKind::TooSlow) == 1);
                let error = sender.send(b"late");
                assert!(matches!(error, Err(Error::Ended(EndReason::TooSlow))), "{url}: {error:?}");
                continue;
            }
            assert!(matches!(error, Error::SendBufferFull), "{url}: {error:?}");
            let mut line = Vec::new();
            for number in 0..sent {
                assert_eq!(slow.recv_into_timeout(&mut line, DEADLINE).unwrap(), Some(8000), "{url}");
                assert_eq!(line, format!("{number:08000}").as_bytes(), "{url}");
            }
            exchange(&mut slow, b"and now");
        }
    }
}

/// A client that sends one message, and closes when the answer has arrived.
struct Asker(Mutex<Notes<Vec<u8>>>);

impl PeerEvents for Asker {
    type State = ();

    fn open(&self, peer: &Sender) -> Result<(), HandlerError> {
        Ok(peer.send(b"question")?)
    }

    fn message(&self, (): &mut (), peer: &Sender, message: Message<'_>) -> Result<(), HandlerError> {
        self.0.lock().unwrap().send(message.to_vec())?;
        peer.close();
        Ok(())
    }
}

#[test]
fn callbacks_run_by_hand_on_any_peer() {
    for url in URLS {
        let running = start(url, Echo);
        let (notes, answers) = channel();
        let mut peer = connect(&running);
        Callbacks::new(Asker(Mutex::new(notes))).handle(&mut peer).unwrap();
        assert_eq!(answers.recv().unwrap(), b"question", "{url}");
        assert_eq!(peer.end_reason(), Some(&EndReason::ClosedByUs), "{url}");
    }
}

/// An echo on the same stream, which is notified when the peer shuts down.
struct Replies;

impl PeerEvents for Replies {
    type State = ();

    fn open(&self, _: &Sender) -> Result<(), HandlerError> {
        Ok(())
    }

    fn message(&self, (): &mut (), peer: &Sender, message: Message<'_>) -> Result<(), HandlerError> {
        Ok(peer.send_with(&message, &message.reply())?)
    }

    fn notifications(&self) -> &[NotificationKind] {
        &[NotificationKind::PeerShutDown]
    }

    fn notification(&self, (): &mut (), peer: &Sender, told: &Notification) -> Result<(), HandlerError> {
        Ok(peer.send(format!("{told:?}").as_bytes())?)
    }
}

#[test]
fn callbacks_of_a_peer_over_memory_see_streams_and_the_notifications_that_they_want() {
    let remote = Pair::new(Scheme::Sctp).serve(Callbacks::new(Replies));
    let how = SendInfo::default().stream(3).ppid(77).unordered(true);
    remote.send_with("abc", &how);
    assert_eq!(remote.recv_with(), Some((b"abc".to_vec(), how)));
    remote.notify(Notification::SenderDry { association: Default::default() });
    remote.notify(Notification::PeerShutDown { association: Default::default() });
    assert!(remote.recv().unwrap().starts_with(b"PeerShutDown"));
    assert_eq!(remote.try_recv(), None);
    assert_eq!(remote.wait_for_end(), Some(EndReason::ClosedByPeer));
}

//! Both ends run in one program, because no other program can be told to misbehave: to handshake in the middle of a
//! session, to leave answers unread, or to end without a close_notify.

mod steps;

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::thread;

use openssl::ssl::{Ssl, SslMethod, SslStream, SslVerifyMode, SslVersion};

use super::*;
use crate::association::Association;
use crate::association::Link;
use crate::drive::opening::Opening;
use crate::drive::{Session, handshake};
use crate::net::tcp::TcpTransport;
use crate::net::{Transport, after};
use crate::observe::Counters;
use crate::peer::Parts;
use crate::protocol::stream::session::MAX_RENEGOTIATIONS;
use crate::stream::Framing;
use crate::sys::message;
use crate::sys::ossl;
use crate::tls::HandshakeSummary;
use crate::tls::context::{self, Protocol};
use crate::{
    Address, Credentials, EndKind, Error, Identity, OutboxLimits, Peer, PostOutcome, Scheme, Server, Stats,
    Timeouts, TrySendError,
};

/// The time that a step may take before a test fails.
const DEADLINE: Duration = Duration::from_secs(60);

/// A socket that can keep its writes and send all of them at once later.
struct Corked {
    socket: TcpStream,
    kept: Option<Vec<u8>>,
    /// Whether reads return nothing.
    deaf: bool,
}

impl Corked {
    fn uncork(&mut self) {
        if let Some(kept) = self.kept.take() {
            self.socket.write_all(&kept).unwrap();
        }
    }
}

impl io::Read for Corked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.deaf {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.socket.read(buffer)
    }
}

impl io::Write for Corked {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.kept {
            Some(kept) => {
                kept.extend_from_slice(bytes);
                Ok(bytes.len())
            }
            None => self.socket.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type Client = SslStream<Corked>;

/// Makes a client, before its handshake.
fn client_over(socket: TcpStream, version: SslVersion) -> Client {
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.set_write_timeout(Some(DEADLINE)).unwrap();
    SslStream::new(client_ssl(version), Corked { socket, kept: None, deaf: false }).unwrap()
}

fn client_ssl(version: SslVersion) -> Ssl {
    let mut context = SslContext::builder(SslMethod::tls()).unwrap();
    context.set_verify(SslVerifyMode::NONE);
    context.set_min_proto_version(Some(version)).unwrap();
    context.set_max_proto_version(Some(version)).unwrap();
    let mut ssl = Ssl::new(&context.build()).unwrap();
    ssl.set_connect_state();
    ssl
}

/// Sends the first flight of a handshake, and reads no answer.
fn begin(client: &mut Client) {
    client.get_mut().deaf = true;
    client.do_handshake().unwrap_err();
    client.get_mut().deaf = false;
}

fn connect(address: &Address, version: SslVersion) -> Client {
    let socket = TcpStream::connect(address.resolve().unwrap()[0]).unwrap();
    let mut client = client_over(socket, version);
    client.do_handshake().unwrap();
    client
}

/// Reads a line. The bytes of later lines stay in `rest` for the next call.
fn read_line(client: &mut Client, rest: &mut Vec<u8>) -> String {
    loop {
        if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line = rest.drain(..=end).collect();
            return String::from_utf8(line).unwrap().trim_end().to_owned();
        }
        let mut buffer = [0; 16_384];
        let len = client.ssl_read(&mut buffer).unwrap();
        rest.extend_from_slice(&buffer[..len]);
    }
}

fn settings(change: impl FnOnce(&mut TcpSettings)) -> TcpSettings {
    let mut settings = TcpSettings { framing: Framing::Lines, ..TcpSettings::default() };
    change(&mut settings);
    settings
}

fn start(settings: TcpSettings, handler: impl crate::PeerHandler) -> Server {
    start_with(settings, Timeouts::default(), handler)
}

fn start_with(settings: TcpSettings, timeouts: Timeouts, handler: impl crate::PeerHandler) -> Server {
    Server::builder()
        .listen("tls://127.0.0.1:0")
        .identity(Identity::self_signed().unwrap())
        .tcp(settings)
        .timeouts(timeouts)
        .start(handler)
        .unwrap()
}

fn echo(peer: &mut Peer) -> Result<(), Error> {
    let mut buffer = vec![0; 65_536];
    while let Some(len) = peer.recv(&mut buffer)? {
        peer.send(&buffer[..len])?;
    }
    Ok(())
}

fn until(server: &Server, what: &str, wanted: impl Fn(&Stats) -> bool) -> Stats {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let stats = server.handle().stats();
        if wanted(&stats) {
            return stats;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}; {stats:?}");
        thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn everything_arrives_between_hundreds_of_key_updates() {
    let server = start(settings(|_| {}), echo);
    let mut client = connect(&server.addresses()[0], SslVersion::TLS1_3);
    let mut rest = Vec::new();
    for number in 0..300 {
        assert!(ossl::key_update(client.ssl()));
        let line = format!("one by one {number}");
        client.write_all(format!("{line}\n").as_bytes()).unwrap();
        assert_eq!(read_line(&mut client, &mut rest), line);
    }
    // Hundreds of messages arrive in one read.
    client.get_mut().kept = Some(Vec::new());
    for number in 0..300 {
        assert!(ossl::key_update(client.ssl()));
        client.do_handshake().unwrap();
        client.write_all(format!("at once {number}\n").as_bytes()).unwrap();
    }
    client.get_mut().uncork();
    for number in 0..300 {
        assert_eq!(read_line(&mut client, &mut rest), format!("at once {number}"));
    }
    assert_eq!(server.handle().stats().peers, 1);
}

#[test]
fn key_updates_whose_answers_are_not_read_end_that_peer_alone() {
    // The handler fills the buffers between it and a peer that requests this.
    let handler = |peer: &mut Peer| -> Result<(), Error> {
        let (mut buffer, message) = ([0; 100], vec![b'x'; 50_000]);
        while let Some(len) = peer.recv(&mut buffer)? {
            match &buffer[..len] {
                b"fill" => while peer.sender().try_send(&message).is_ok() {},
                line => peer.send(line)?,
            }
        }
        Ok(())
    };
    let server = start(settings(|_| {}), handler);
    let address = &server.addresses()[0];
    let mut honest = connect(address, SslVersion::TLS1_3);
    let mut rest = Vec::new();
    let mut deaf = connect(address, SslVersion::TLS1_3);
    deaf.write_all(b"fill\n").unwrap();
    let mut updates = 0_u32;
    while ossl::key_update(deaf.ssl()) && deaf.do_handshake().is_ok() {
        updates += 1;
        assert!(updates < 1_000_000, "there is no bound");
        if updates.is_multiple_of(1000) {
            honest.write_all(b"meanwhile\n").unwrap();
            assert_eq!(read_line(&mut honest, &mut rest), "meanwhile");
        }
    }
    let stats = until(&server, "it ends", |stats| stats.peers == 1);
    assert_eq!(stats.ended(EndKind::Protocol), 1, "{stats:?}");
    honest.write_all(b"after\n").unwrap();
    assert_eq!(read_line(&mut honest, &mut rest), "after");
}

#[test]
fn renegotiation_is_survived_while_both_sides_talk() {
    // In addition to the echo, the handler sends its own lines as long as there is room.
    let handler = |peer: &mut Peer| {
        let sender = peer.sender();
        thread::scope(|scope| {
            scope.spawn(move || {
                for number in 0_u32.. {
                    let line = format!("own {number}");
                    loop {
                        match sender.try_send(&line) {
                            Ok(()) => break,
                            Err(TrySendError { error: Error::SendBufferFull, .. }) => thread::yield_now(),
                            Err(_) => return,
                        }
                    }
                }
            });
            let result = echo(peer);
            peer.close();
            result
        })
    };
    let server = start(settings(|settings| settings.renegotiation = true), handler);
    let mut client = connect(&server.addresses()[0], SslVersion::TLS1_2);
    let (mut rest, mut own, mut echoed) = (Vec::new(), 0, 0);
    for round in 0..8 {
        for number in 0..50 {
            client.write_all(format!("mine {}\n", round * 50 + number).as_bytes()).unwrap();
        }
        let first = finished(&client);
        assert!(ossl::renegotiate(client.ssl()));
        // A read continues the handshake, and takes the lines that the server sent before it knew of the handshake.
        while echoed < (round + 1) * 50 || finished(&client) == first || !client.ssl().is_init_finished() {
            let line = read_line(&mut client, &mut rest);
            match line.split_once(' ').unwrap() {
                ("own", number) => {
                    assert_eq!(number, own.to_string());
                    own += 1;
                }
                ("mine", number) => {
                    assert_eq!(number, echoed.to_string());
                    echoed += 1;
                }
                _ => panic!("what is {line}?"),
            }
        }
    }
    assert_eq!(server.handle().stats().peers, 1);
    // The ninth renegotiation is one too many.
    assert!(ossl::renegotiate(client.ssl()));
    let mut buffer = [0; 16_384];
    while client.ssl_read(&mut buffer).is_ok() {}
    let stats = until(&server, "it ends", |stats| stats.peers == 0);
    assert_eq!(stats.ended(EndKind::Protocol), 1, "{stats:?}");
}

/// Returns the Finished message of the last handshake.
fn finished(client: &Client) -> Vec<u8> {
    let mut finished = vec![0; 64];
    client.ssl().finished(&mut finished);
    finished
}

#[test]
fn renegotiations_are_counted_also_when_one_follows_in_the_flight_that_ends_another() {
    let server = start(settings(|settings| settings.renegotiation = true), echo);
    let mut client = connect(&server.addresses()[0], SslVersion::TLS1_2);
    assert!(ossl::renegotiate_by_ticket(client.ssl()));
    begin(&mut client);
    let mut rounds = 0;
    loop {
        // With a ticket the client's Finished is the last message of the handshake. It leaves together with the next
        // hello.
        client.get_mut().kept = Some(Vec::new());
        if client.do_handshake().is_err() {
            break;
        }
        rounds += 1;
        assert!(rounds < 100, "there is no bound");
        assert!(ossl::renegotiate_by_ticket(client.ssl()));
        begin(&mut client);
        client.get_mut().uncork();
    }
    assert!(rounds <= MAX_RENEGOTIATIONS + 1, "the flight of the last one left before it was counted");
    let stats = until(&server, "it ends", |stats| stats.peers == 0);
    assert_eq!(stats.ended(EndKind::Protocol), 1, "{stats:?}");
}

#[test]
fn a_handler_that_only_sends_gets_a_renegotiation_on() {
    let (begun, begins) = channel();
    let (starts, started) = channel();
    let signals = Mutex::new((begins, starts));
    let handler = move |peer: &mut Peer| {
        // This reads until the server has noticed the renegotiation.
        while signals.lock().unwrap().0.try_recv().is_err() {
            match peer.recv_timeout(&mut [0; 100], Duration::from_millis(1)) {
                Err(Error::TimedOut) => {}
                other => panic!("{other:?}"),
            }
        }
        signals.lock().unwrap().1.send(()).unwrap();
        for number in 0..2000 {
            peer.send(format!("a line that is not short, and has the number {number}").as_bytes())?;
        }
        peer.send(b"the end")
    };
    let small = settings(|settings| (settings.renegotiation, settings.max_pending) = (true, 2000));
    let server = start(small, handler);
    let mut client = connect(&server.addresses()[0], SslVersion::TLS1_2);
    assert!(ossl::renegotiate(client.ssl()));
    begin(&mut client);
    client.get_ref().socket.peek(&mut [0]).unwrap();
    begun.send(()).unwrap();
    started.recv_timeout(DEADLINE).unwrap();
    let mut rest = Vec::new();
    for number in 0..2000 {
        let line = read_line(&mut client, &mut rest);
        assert_eq!(line, format!("a line that is not short, and has the number {number}"));
    }
    assert_eq!(read_line(&mut client, &mut rest), "the end");
    until(&server, "it ends", |stats| stats.ended(EndKind::ClosedByUs) == 1);
}

#[test]
fn a_flush_gets_a_renegotiation_on_that_holds_up_what_was_written() {
    let (begun, begins) = channel();
    let (starts, started) = channel();
    let signals = Mutex::new((begins, starts));
    let handler = move |peer: &mut Peer| -> Result<(), Error> {
        // This reads until the server has noticed the renegotiation.
        while signals.lock().unwrap().0.try_recv().is_err() {
            match peer.recv_timeout(&mut [0; 100], Duration::from_millis(1)) {
                Err(Error::TimedOut) => {}
                other => panic!("{other:?}"),
            }
        }
        let mut stream = peer.as_stream().unwrap();
        stream.write_all(b"held up\n")?;
        signals.lock().unwrap().1.send(()).unwrap();
        stream.flush()?;
        signals.lock().unwrap().1.send(()).unwrap();
        Ok(())
    };
    let raw = TcpSettings { framing: Framing::Raw, renegotiation: true, ..TcpSettings::default() };
    let server = start(raw, handler);
    let mut client = connect(&server.addresses()[0], SslVersion::TLS1_2);
    assert!(ossl::renegotiate(client.ssl()));
    begin(&mut client);
    client.get_ref().socket.peek(&mut [0]).unwrap();
    begun.send(()).unwrap();
    started.recv_timeout(DEADLINE).unwrap();
    assert_eq!(read_line(&mut client, &mut Vec::new()), "held up");
    started.recv_timeout(DEADLINE).unwrap();
}

#[test]
fn a_peer_that_does_not_go_on_with_its_renegotiation_is_bounded() {
    let (senders, sender) = channel();
    let senders = Mutex::new(senders);
    let handler = move |peer: &mut Peer| {
        senders.lock().unwrap().send(peer.sender()).unwrap();
        echo(peer)
    };
    let outbox = OutboxLimits { max_messages: 10, ..OutboxLimits::default() };
    let server = Server::builder()
        .listen("tls://127.0.0.1:0")
        .identity(Identity::self_signed().unwrap())
        .tcp(settings(|settings| (settings.renegotiation, settings.max_pending) = (true, 10_000)))
        .outbox(outbox)
        .start(handler)
        .unwrap();
    let mut client = connect(&server.addresses()[0], SslVersion::TLS1_2);
    let sender = sender.recv_timeout(DEADLINE).unwrap();
    // The client's hello arrives, but the client does not answer the server's flight.
    assert!(ossl::renegotiate(client.ssl()));
    begin(&mut client);
    client.get_ref().socket.peek(&mut [0]).unwrap();
    let message: Arc<[u8]> = Arc::from(&b"a"[..]);
    let mut sent = 0;
    let full = loop {
        match sender.post(&message) {
            PostOutcome::Sent => sent += 1,
            other => break other,
        }
        assert!(sent < 10_000_000, "there is no bound");
    };
    assert_eq!(full, PostOutcome::Queued);
    assert!(sent >= 5000, "each is two bytes: {sent}");
    // The client continues after all, and receives everything.
    let mut rest = Vec::new();
    for _ in 0..=sent {
        assert_eq!(read_line(&mut client, &mut rest), "a");
    }
}

#[test]
fn bytes_without_a_message_and_without_a_pause_do_not_stop_the_clock() {
    let timeouts = Timeouts { idle: Some(Duration::from_millis(200)), ..Timeouts::default() };
    let handler = |peer: &mut Peer| {
        loop {
            match peer.recv(&mut [0; 100]) {
                Err(Error::MessageRefused { .. }) => {}
                other => return other.map(|_| ()),
            }
        }
    };
    let server = start_with(settings(|_| {}), timeouts, handler);
    let mut client = connect(&server.addresses()[0], SslVersion::TLS1_3);
    let deadline = Instant::now() + DEADLINE;
    // Each write has hundreds of records, so that the server always has something to read.
    while client.write_all(&[b'x'; 1 << 20]).is_ok() {
        assert!(Instant::now() < deadline, "it goes on and on");
    }
    until(&server, "it ends", |stats| stats.ended(EndKind::Idle) == 1);
}

/// Makes a server's session with its socket, and a client that is connected to it, before the handshake.
fn pair(settings: &TcpSettings, version: SslVersion) -> (StreamSession, Arc<Socket>, Client) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let accepted = Arc::new(Socket::from(listener.accept().unwrap().0));
    let credentials = Credentials::new().identity(Identity::self_signed().unwrap());
    let context = context::server(&credentials, Protocol::Tls).unwrap();
    let session = StreamSession::accept(&context, Arc::clone(&accepted), settings).unwrap();
    (session, accepted, client_over(socket, version))
}

/// Feeds the session with the data that the socket has.
fn hear(session: &mut StreamSession, socket: &Socket) {
    let mut bytes = Vec::new();
    message::read_spare(socket.as_fd(), &mut bytes, true).unwrap();
    session.feed(&mut bytes);
}

fn step(session: &mut StreamSession) -> bool {
    session.step().unwrap()
}

/// Runs the server's side of a handshake while the client runs its side.
fn do_handshake(session: &mut StreamSession, socket: &Socket, client: &mut Client) {
    thread::scope(|scope| {
        scope.spawn(|| client.do_handshake().unwrap());
        while !step(session) {
            hear(session, socket);
        }
    });
}

#[test]
fn messages_of_a_peer_that_vanished_are_read_although_they_cannot_be_answered() {
    let (mut session, socket, mut client) = pair(&settings(|_| {}), SslVersion::TLS1_3);
    begin(&mut client);
    hear(&mut session, &socket);
    assert!(!step(&mut session));
    // The client sends Finished, which is answered with tickets, then key updates that request answers, a message and a
    // close_notify; then it resets the connection.
    client.get_mut().kept = Some(Vec::new());
    client.do_handshake().unwrap();
    for _ in 0..3 {
        assert!(ossl::key_update(client.ssl()));
        client.do_handshake().unwrap();
    }
    client.write_all(b"the last word\n").unwrap();
    client.shutdown().unwrap();
    client.get_mut().uncork();
    hear(&mut session, &socket);
    Socket::from(client.get_ref().socket.try_clone().unwrap()).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    assert!(message::read(socket.as_fd(), &mut [0; 8], true).is_err(), "the reset is here");
    assert!(step(&mut session), "the handshake is complete, although the peer has reset the connection");
    let mut buffer = [0; 100];
    assert!(matches!(session.read(&mut buffer, &mut Vec::new()), Read::Message(13)));
    assert_eq!(&buffer[..13], b"the last word");
    assert!(matches!(session.read(&mut buffer, &mut Vec::new()), Read::Closed));
    assert_eq!(session.write(b"too late"), Sent::Gone);
}

/// Fills the kernel's buffers below a session with meaningless bytes. Returns their number.
fn fill(socket: &Socket) -> usize {
    let mut filled = 0;
    let deadline = Instant::now() + DEADLINE;
    // The buffers are full when nothing was taken for a while, because data on the way still makes room.
    let mut full_since = Instant::now();
    while full_since.elapsed() < Duration::from_millis(50) {
        assert!(Instant::now() < deadline, "the kernel takes and takes");
        for piece in [&[0; 4096][..], &[0]] {
            if let Ok(len) = message::send(socket.as_fd(), piece) {
                filled += len;
                full_since = Instant::now();
            }
        }
    }
    filled
}

#[test]
fn a_handshake_that_finds_no_room_goes_on_once_there_is_some_or_ends_in_time() {
    for (reads, patience) in [(true, DEADLINE), (false, Duration::from_millis(300))] {
        let (session, socket, mut client) = pair(&settings(|_| {}), SslVersion::TLS1_3);
        let filled = fill(&socket);
        begin(&mut client);
        let address = "127.0.0.1:1".parse().unwrap();
        let association = Arc::new(Association::new(Scheme::Tls, address, address, Arc::default()));
        let mut transport = Transport::Tcp(TcpTransport::new(
            socket,
            Arc::clone(&association.attention),
            Arc::new(Counters::default()),
        ));
        let opening = Opening::Tls(Box::new(session), after(patience));
        thread::scope(|scope| {
            let served =
                scope.spawn(|| handshake::run(opening, &mut transport, &association.attention).map(drop));
            if reads {
                let raw = &mut client.get_mut().socket;
                io::copy(&mut raw.take(filled as u64), &mut io::sink()).unwrap();
                client.do_handshake().unwrap();
            }
            match served.join().unwrap() {
                Ok(()) => assert!(reads, "its flight cannot have arrived"),
                Err(failure) => {
                    assert!(
                        !reads && matches!(failure, Failure::Ended(EndReason::HandshakeTimedOut)),
                        "{failure}"
                    );
                }
            }
        });
    }
}

#[test]
fn an_answer_that_found_no_room_leaves_as_soon_as_there_is_some() {
    let deadline = Instant::now() + DEADLINE;
    let mut patience = Duration::from_millis(200);
    while !an_answer_finds_no_room_and_leaves(patience) {
        assert!(Instant::now() < deadline, "the kernel has always room for an answer");
        patience *= 2;
    }
}

/// Returns `false` if the answer was not seen to wait in time. Buffers that were full can have room again: on a busy
/// machine the kernel moves the data in them later than [`fill`] waits, and then the answer leaves at once.
fn an_answer_finds_no_room_and_leaves(patience: Duration) -> bool {
    let settings = settings(|_| {});
    let (mut session, socket, mut client) = pair(&settings, SslVersion::TLS1_3);
    do_handshake(&mut session, &socket, &mut client);
    // The message follows the server's tickets.
    assert_eq!(session.write(b"welcome"), Sent::Done);
    assert_eq!(read_line(&mut client, &mut Vec::new()), "welcome");
    let address = "127.0.0.1:1".parse().unwrap();
    let association = Arc::new(Association::new(Scheme::Tls, address, address, Arc::default()));
    let (attention, counters) = (Arc::clone(&association.attention), Arc::clone(&association.counters));
    let transport = TcpTransport::new(Arc::clone(&socket), attention, counters);
    let opened = crate::peer::Opened {
        transport: Transport::Tcp(transport),
        session: Session::Stream(Box::new(session)),
        summary: HandshakeSummary::default(),
    };
    let link = Arc::clone(&association);
    let mut peer =
        Peer::open(Parts { association, opened, timeouts: Timeouts::default(), owner: None, driven: false });
    let filled = fill(&socket);
    // The first key update is answered when the second one arrives.
    for _ in 0..2 {
        assert!(ossl::key_update(client.ssl()));
        client.do_handshake().unwrap();
    }
    let mut raw = client.get_ref().socket.try_clone().unwrap();
    let served = thread::spawn(move || peer.recv_timeout(&mut [0; 100], DEADLINE));
    let is_unsent = || match &*link.link.lock() {
        Link::Open(open) => open.session.has_unsent(),
        _ => panic!("it is over"),
    };
    let until = Instant::now() + patience;
    while !is_unsent() {
        if Instant::now() >= until {
            raw.shutdown(Shutdown::Both).unwrap();
            // The session ends, and the reason does not matter.
            let _ = served.join().unwrap();
            return false;
        }
        thread::yield_now();
    }
    // The answer is the data behind the filling.
    let mut left = filled + 1;
    let mut buffer = [0; 65_536];
    while left > 0 {
        let len =
            raw.read(&mut buffer).unwrap_or_else(|error| panic!("{left} of {filled} are missing: {error}"));
        assert!(len > 0);
        left = left.saturating_sub(len);
    }
    client.write_all(b"a line\n").unwrap();
    assert_eq!(served.join().unwrap().unwrap(), Some(6));
    true
}

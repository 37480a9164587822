//! Sessions over memory, whose room is known to the byte: the tests check which data waits for room, and that nothing
//! blocks.

use openssl::ssl::ErrorCode;

use super::*;
use crate::net::Arrival;
use crate::net::clock::Clock;
use crate::net::feed::Feed;
use crate::net::sink::Sink;
use crate::sctp::MessageInfo;

/// A client's stream: it reads the data that a session sent, and keeps the data that it writes.
struct Wire {
    sink: Arc<Sink>,
    unread: Vec<u8>,
    written: Vec<u8>,
}

impl io::Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.unread.is_empty() {
            self.unread = self.sink.take(Duration::ZERO).ok_or(io::ErrorKind::WouldBlock)?.0;
        }
        let len = self.unread.len().min(buffer.len());
        buffer[..len].copy_from_slice(&self.unread[..len]);
        self.unread.drain(..len);
        Ok(len)
    }
}

impl io::Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire {
    fn take_written(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.written)
    }
}

type Client = SslStream<Wire>;

/// Makes a server's session and its client, before the handshake.
fn pair(settings: &TcpSettings) -> (StreamSession, Arc<Sink>, Client) {
    let feed = Arc::new(Feed::new(Clock::frozen(), DEADLINE));
    let sink = Arc::new(Sink::new(feed, Scheme::Tls, Framing::Raw));
    let credentials = Credentials::new().identity(Identity::self_signed().unwrap());
    let context = context::server(&credentials, Protocol::Tls).unwrap();
    let session = StreamSession::accept(&context, Outlet::Memory(Arc::clone(&sink)), settings).unwrap();
    let wire = Wire { sink: Arc::clone(&sink), unread: Vec::new(), written: Vec::new() };
    (session, sink, SslStream::new(client_ssl(SslVersion::TLS1_3), wire).unwrap())
}

/// Makes a server's session and its client, after the handshake.
fn open_pair(settings: &TcpSettings) -> (StreamSession, Arc<Sink>, Client) {
    let (mut session, sink, mut client) = pair(settings);
    while client.do_handshake().is_err() {
        session.feed(&mut client.get_mut().take_written());
        session.step().unwrap();
    }
    session.feed(&mut client.get_mut().take_written());
    assert!(session.step().unwrap());
    (session, sink, client)
}

#[test]
fn the_output_of_openssl_itself_is_bounded() {
    let settings = settings(|settings| (settings.max_message, settings.max_pending) = (1000, 1000));
    let (mut session, sink, mut client) = open_pair(&settings);
    for _ in 0..10_000 {
        assert!(ossl::key_update(client.ssl()));
        client.do_handshake().unwrap();
    }
    sink.set_room(0);
    session.feed(&mut client.get_mut().take_written());
    match session.read(&mut [0; 100], &mut Vec::new()) {
        Read::Broken(_) => {}
        other => panic!("there is no bound: {other:?}"),
    }
    let waiting = session.unsent();
    assert!((SLACK..SLACK + 4000).contains(&waiting), "{waiting} bytes wait");
}

/// Feeds an opening with these bytes one by one. The handshake must not be complete before the last byte.
fn feed_slowly(opening: &mut Opening, bytes: &[u8], now: Instant) -> bool {
    let mut is_open = false;
    for byte in bytes {
        assert!(!is_open, "there are bytes behind the handshake");
        let arrival = Arrival::Message(1);
        is_open = opening.handle_arrival(arrival, &mut vec![*byte], MessageInfo::default(), now).unwrap();
    }
    is_open
}

/// Makes an opening check whether there is room.
fn wake(opening: &mut Opening, now: Instant) -> Result<bool, Failure> {
    opening.handle_arrival(Arrival::Woken, &mut Vec::new(), MessageInfo::default(), now)
}

#[test]
fn a_handshake_takes_single_bytes_and_waits_for_room_without_blocking() {
    for in_time in [true, false] {
        let (session, sink, mut client) = pair(&settings(|_| {}));
        let now = Instant::now();
        let deadline = now + DEADLINE;
        let mut opening = Opening::Tls(Box::new(session), deadline);
        sink.set_room(0);
        assert!(!opening.start(now).unwrap());
        client.do_handshake().unwrap_err();
        assert!(!feed_slowly(&mut opening, &client.get_mut().take_written(), now));
        assert_eq!((opening.awaits_room(), opening.next_timeout()), (true, Some(deadline)));
        if !in_time {
            let failure = wake(&mut opening, deadline).unwrap_err();
            assert!(matches!(failure, Failure::Ended(EndReason::HandshakeTimedOut)), "{failure}");
            let mut session = opening.give_up(&failure, deadline).unwrap();
            assert_eq!(session.continue_end(deadline), None);
            continue;
        }
        assert!(!wake(&mut opening, now).unwrap());
        assert!(opening.awaits_room());
        sink.set_room(usize::MAX);
        assert!(!wake(&mut opening, now).unwrap());
        assert!(!opening.awaits_room());
        client.do_handshake().unwrap();
        assert!(feed_slowly(&mut opening, &client.get_mut().take_written(), now));
        let (mut session, _) = opening.finish().unwrap();
        assert_eq!(session.send(b"welcome", &Default::default(), &mut Vec::new()), Sent::Done);
        let mut buffer = [0; 100];
        assert_eq!(client.ssl_read(&mut buffer).unwrap(), 8);
        assert_eq!(&buffer[..8], b"welcome\n");
    }
}

#[test]
fn an_end_waits_for_room_without_blocking_until_it_is_over_at_its_time() {
    for in_time in [true, false] {
        let (mut session, sink, mut client) = open_pair(&settings(|_| {}));
        sink.set_room(0);
        assert_eq!(session.write(b"the last word"), Sent::Parked);
        let now = Instant::now();
        session.begin_end(&EndReason::ClosedByUs, DEADLINE, now);
        for _ in 0..2 {
            assert_eq!(session.continue_end(now), Some(now + CLOSE_TIMEOUT));
        }
        if in_time {
            sink.set_room(usize::MAX);
            assert_eq!(session.continue_end(now), None);
        } else {
            assert_eq!(session.continue_end(now + CLOSE_TIMEOUT), None);
        }
        let mut buffer = [0; 100];
        let heard = client.ssl_read(&mut buffer);
        if !in_time {
            assert_eq!(heard.unwrap_err().code(), ErrorCode::WANT_READ);
            continue;
        }
        assert_eq!(&buffer[..heard.unwrap()], b"the last word\n");
        let over = client.ssl_read(&mut buffer).unwrap_err();
        assert_eq!(over.code(), ErrorCode::ZERO_RETURN, "a goodbye comes last");
    }
}

//! A client's DTLS handshake, with OpenSSL over memory.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use openssl::ssl::{ErrorCode, ShutdownState, Ssl, SslContext, SslSession, SslStream};
use peeloff::test_support::dtls::hello::Record;
use peeloff::test_support::dtls::keys::Secrets;
use peeloff::test_support::dtls::suite::Aead;
use peeloff::test_support::dtls::{Opener, Sealer};
use peeloff::test_support::never_retransmit;

use super::session::Session;
use crate::client::Retransmissions;
use crate::secure;

/// The first retransmission comes after this time (RFC 6347 §4.2.4.1).
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);

/// The memory that OpenSSL reads and writes. It keeps the last flight, because OpenSSL would retransmit before it
/// checks whether the answer has arrived. A client whose thread was busy with other clients would then retransmit
/// without need.
#[derive(Default)]
struct Memory {
    incoming: Vec<u8>,
    outgoing: Vec<Box<[u8]>>,
    flight: Vec<Box<[u8]>>,
    /// Whether a datagram has arrived since the last write, so that the next write begins a flight.
    fresh: bool,
    /// The sequence number and the nonce that follow those of the last record.
    next: (u64, u64),
}

impl Read for Memory {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // An empty datagram would look like the end of the stream.
        if self.incoming.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = self.incoming.len().min(buffer.len());
        buffer[..len].copy_from_slice(&self.incoming[..len]);
        self.incoming.clear();
        Ok(len)
    }
}

impl Write for Memory {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        if std::mem::take(&mut self.fresh) {
            self.flight.clear();
        }
        self.flight.push(datagram.into());
        self.outgoing.push(datagram.into());
        let mut rest = datagram;
        while let Ok((record, behind)) = Record::split(rest) {
            if record.epoch > 0 {
                let nonce = record.body.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
                self.next = (record.sequence + 1, nonce.wrapping_add(1));
            }
            rest = behind;
        }
        Ok(datagram.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A handshake in progress.
pub(super) struct Handshake {
    stream: SslStream<Memory>,
    /// When the flight is sent again, and the current interval.
    timer: (Instant, Duration),
    /// How many more answers the handshake processes.
    answers: u32,
    pub(super) retransmissions: Retransmissions,
}

/// The progress of a handshake.
pub(super) enum Step {
    UnderWay,
    /// The handshake processes no more answers.
    Stalled,
    Complete,
}

impl Handshake {
    /// Begins a handshake that processes this many answers.
    pub(super) fn new(
        context: &SslContext,
        session: Option<&SslSession>,
        answers: u32,
        now: Instant,
    ) -> io::Result<Self> {
        let mut ssl: Ssl = secure::ssl(context, true).map_err(io::Error::other)?;
        session.iter().for_each(|session| secure::resume(&mut ssl, session));
        never_retransmit(&mut ssl);
        ssl.set_connect_state();
        let stream = SslStream::new(ssl, Memory::default()).map_err(io::Error::other)?;
        let timer = (now + FIRST_TIMEOUT, FIRST_TIMEOUT);
        let mut handshake = Self { stream, timer, answers, retransmissions: Retransmissions::default() };
        handshake.advance()?;
        Ok(handshake)
    }

    /// Processes a datagram.
    pub(super) fn handle_datagram(&mut self, datagram: &[u8], now: Instant) -> io::Result<Step> {
        if self.answers == 0 {
            return Ok(Step::UnderWay);
        }
        self.answers -= 1;
        let memory = self.stream.get_mut();
        (memory.incoming, memory.fresh) = (datagram.to_vec(), true);
        self.timer = (now + FIRST_TIMEOUT, FIRST_TIMEOUT);
        Ok(match self.advance()? {
            true => Step::Complete,
            false if self.answers == 0 => Step::Stalled,
            false => Step::UnderWay,
        })
    }

    fn advance(&mut self) -> io::Result<bool> {
        match self.stream.do_handshake() {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.code(), ErrorCode::WANT_READ | ErrorCode::WANT_WRITE) => Ok(false),
            Err(error) => Err(error.into_io_error().unwrap_or_else(io::Error::other)),
        }
    }

    /// Returns when the flight is sent again, or none if it is not.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.answers > 0).then_some(self.timer.0)
    }

    /// Sends the last flight again if its timer has expired.
    pub(super) fn retransmit(&mut self, now: Instant) {
        if self.due().is_none_or(|due| now < due) {
            return;
        }
        self.timer = (now + self.timer.1 * 2, self.timer.1 * 2);
        let memory = self.stream.get_mut();
        memory.outgoing.extend(memory.flight.iter().cloned());
        self.retransmissions.datagrams += memory.flight.len() as u32;
        self.retransmissions.timer = true;
    }

    /// Returns the datagrams to send now.
    pub(super) fn outgoing(&mut self) -> impl Iterator<Item = Box<[u8]>> {
        self.stream.get_mut().outgoing.drain(..)
    }

    /// Ends a complete handshake: frees OpenSSL's session and keeps its keys. Also returns whether the handshake
    /// resumed an earlier client's session.
    pub(super) fn finish(mut self) -> io::Result<(Session, bool)> {
        let ssl = self.stream.ssl();
        let suite = ssl.current_cipher().map_or("", |cipher| cipher.name());
        let (Some(secrets), Some(aead)) = (Secrets::of(ssl), Aead::of_suite(suite)) else {
            return Err(io::Error::other(format!("the clients do not know the cipher suite {suite:?}")));
        };
        let resumed = ssl.session_reused();
        let (ours, theirs) = secrets.key_block(aead);
        // OpenSSL marks a session as broken if it ends without close_notify.
        self.stream.set_shutdown(ShutdownState::SENT | ShutdownState::RECEIVED);
        let memory = self.stream.get_mut();
        let (sequence, nonce) = memory.next;
        // In a resumed handshake the client sends the last flight, and the server may not receive it.
        let flight = if resumed { std::mem::take(&mut memory.flight) } else { Vec::new() };
        let sealer = Sealer::new(aead, &ours, sequence, nonce);
        let opener = Opener::new(aead, &theirs);
        Ok((Session::new(sealer, opener, flight, self.retransmissions), resumed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::hub::session::Received;
    use crate::secure::{Auth, LastSession, Suite};

    const NEVER: u32 = u32::MAX;

    /// A server of OpenSSL and clients, over memory.
    struct Both {
        client: (SslContext, LastSession),
        server: SslContext,
    }

    impl Both {
        fn new(auth: Auth) -> Self {
            let suite = Suite { dtls: true, auth, group: "P-256".to_owned() };
            Self { client: suite.client().unwrap(), server: suite.server(true).unwrap() }
        }

        fn handshake(&self, resumed: bool, answers: u32, now: Instant) -> Handshake {
            let session = resumed.then(|| self.client.1.lock().unwrap().take().unwrap());
            Handshake::new(&self.client.0, session.as_ref(), answers, now).unwrap()
        }

        fn server(&self) -> SslStream<Memory> {
            SslStream::new(secure::ssl(&self.server, true).unwrap(), Memory::default()).unwrap()
        }
    }

    /// Passes a datagram to the server, and returns its answer.
    fn ask(server: &mut SslStream<Memory>, datagram: &[u8]) -> Vec<Box<[u8]>> {
        server.get_mut().incoming = datagram.to_vec();
        let _ = server.accept();
        std::mem::take(&mut server.get_mut().outgoing)
    }

    /// Runs until the client is connected.
    fn connect(client: &mut Handshake, server: &mut SslStream<Memory>, now: Instant) {
        loop {
            let flight: Vec<_> = client.outgoing().collect();
            assert!(!flight.is_empty(), "the handshake is stuck");
            for datagram in flight.iter().flat_map(|datagram| ask(server, datagram)) {
                if matches!(client.handle_datagram(&datagram, now).unwrap(), Step::Complete) {
                    client.outgoing().for_each(|datagram| drop(ask(server, &datagram)));
                    return;
                }
            }
        }
    }

    #[test]
    fn a_session_goes_on_where_openssl_ended() {
        let now = Instant::now();
        for auth in [Auth::Certificate, Auth::Mutual, Auth::Psk] {
            let both = Both::new(auth);
            for resumed in [false, true] {
                let (mut client, mut server) = (both.handshake(resumed, NEVER, now), both.server());
                connect(&mut client, &mut server, now);
                assert_eq!(client.retransmissions, Retransmissions::default());
                let (mut session, is_resumed) = client.finish().unwrap();
                assert_eq!(is_resumed, resumed, "{auth:?}");
                for message in [&b"one"[..], &[7; 1400], b"three"] {
                    let (mut datagram, mut buffer) = (Vec::new(), [0; 2048]);
                    session.seal(message, &mut datagram).unwrap();
                    server.get_mut().incoming = datagram;
                    let len = server.ssl_read(&mut buffer).unwrap();
                    assert_eq!(&buffer[..len], message);
                    server.ssl_write(message).unwrap();
                    let mut echo = server.get_mut().outgoing.pop().unwrap();
                    let mut heard = Vec::new();
                    session.open(&mut echo.clone(), |message| heard.push(message.to_vec()));
                    session.open(&mut echo, |_| panic!("a datagram that comes twice is heard once"));
                    assert_eq!(heard, [message]);
                }
                let mut goodbye = Vec::new();
                session.close_notify(&mut goodbye);
                server.get_mut().incoming = goodbye;
                assert_eq!(server.ssl_read(&mut [0; 16]).unwrap_err().code(), ErrorCode::ZERO_RETURN);
                let _ = server.shutdown();
                let mut goodbye = server.get_mut().outgoing.pop().unwrap();
                assert!(matches!(session.open(&mut goodbye, |_| ()), Received::Ended(_)));
            }
        }
    }

    #[test]
    fn a_resumed_session_says_its_last_flight_again_to_a_server_that_missed_it() {
        let (now, both) = (Instant::now(), Both::new(Auth::Psk));
        connect(&mut both.handshake(false, NEVER, now), &mut both.server(), now);
        let (mut client, mut server) = (both.handshake(true, NEVER, now), both.server());
        let mut last = Vec::new();
        while last.is_empty() {
            let flight: Vec<_> = client.outgoing().collect();
            for datagram in flight {
                for answer in ask(&mut server, &datagram) {
                    if matches!(client.handle_datagram(&answer, now).unwrap(), Step::Complete) {
                        last.push(answer);
                    }
                }
            }
        }
        // The client's answer is lost, and the server sends its Finished again.
        let lost: Vec<_> = client.outgoing().collect();
        let (mut session, _) = client.finish().unwrap();
        assert!(matches!(session.open(&mut last[0].clone(), |_| ()), Received::Missed));
        assert_eq!(session.retransmit(), lost);
        assert_eq!(session.retransmissions, Retransmissions { datagrams: lost.len() as u32, timer: false });
        session.retransmit().to_vec().iter().for_each(|datagram| drop(ask(&mut server, datagram)));
        server.ssl_write(b"hello").unwrap();
        let mut hello = server.get_mut().outgoing.pop().unwrap();
        session.open(&mut hello, |message| assert_eq!(message, b"hello"));
        // The server has the flight, because otherwise it would have no keys.
        assert!(matches!(session.open(&mut last[0], |_| ()), Received::Nothing));
    }

    #[test]
    fn a_flight_is_sent_again_after_one_second_and_then_after_two() {
        let (began, both) = (Instant::now(), Both::new(Auth::Psk));
        let mut client = both.handshake(false, NEVER, began);
        let hello: Vec<_> = client.outgoing().collect();
        client.retransmit(began + FIRST_TIMEOUT / 2);
        assert_eq!(client.outgoing().count(), 0);
        for (seconds, times) in [(1, 1), (2, 1), (3, 2)] {
            client.retransmit(began + Duration::from_secs(seconds));
            assert_eq!(client.retransmissions.datagrams, times);
            assert!(client.outgoing().all(|datagram| datagram == hello[0]));
        }
        // An answer begins a flight with a timer of its own.
        let now = began + Duration::from_secs(4);
        for answer in ask(&mut both.server(), &hello[0]) {
            client.handle_datagram(&answer, now).unwrap();
        }
        assert_eq!(client.due(), Some(now + FIRST_TIMEOUT));
        assert!(client.outgoing().next().is_some_and(|second| second.len() > hello[0].len()));
    }

    #[test]
    fn a_stalled_handshake_answers_once_and_says_nothing_again() {
        let (now, both) = (Instant::now(), Both::new(Auth::Psk));
        let (mut client, mut server) = (both.handshake(false, 1, now), both.server());
        let hello: Vec<_> = client.outgoing().collect();
        let answer = ask(&mut server, &hello[0]);
        assert!(matches!(client.handle_datagram(&answer[0], now).unwrap(), Step::Stalled));
        let second: Vec<_> = client.outgoing().collect();
        for datagram in ask(&mut server, &second[0]) {
            assert!(matches!(client.handle_datagram(&datagram, now).unwrap(), Step::UnderWay));
        }
        client.retransmit(now + Duration::from_secs(60));
        assert_eq!((client.outgoing().count(), client.due()), (0, None));
    }
}

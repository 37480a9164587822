//! Runs both ends of a session in one thread's memory, to measure what OpenSSL alone takes, with no socket,
//! thread or system call.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::error::Error;
use std::io::{self, Read, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use openssl::ssl::{ErrorCode, HandshakeError, MidHandshakeSslStream, SslContext, SslSession, SslStream};

use crate::secure::{self, LastSession, Suite};

/// The number of steps after which a handshake counts as stuck; a full handshake takes six.
const STEPS: usize = 32;

/// The minimum number of messages between two looks at the clock.
const BATCH: u32 = 64;

type Packets = Rc<RefCell<VecDeque<Vec<u8>>>>;

/// One end of the two queues. Each write is one packet, and a read returns one packet at most.
struct End {
    incoming: Packets,
    outgoing: Packets,
}

impl Read for End {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut incoming = self.incoming.borrow_mut();
        let Some(mut packet) = incoming.pop_front() else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let len = packet.len().min(buffer.len());
        buffer[..len].copy_from_slice(&packet[..len]);
        if len < packet.len() {
            // Streams read a header first; OpenSSL reads a datagram in one call.
            packet.drain(..len);
            incoming.push_front(packet);
        }
        Ok(len)
    }
}

impl Write for End {
    fn write(&mut self, packet: &[u8]) -> io::Result<usize> {
        self.outgoing.borrow_mut().push_back(packet.to_vec());
        Ok(packet.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The handshake of one side.
enum Side {
    Begun(MidHandshakeSslStream<End>),
    Done(SslStream<End>),
}

impl Side {
    fn of(step: Result<SslStream<End>, HandshakeError<End>>) -> Result<Self, Box<dyn Error>> {
        match step {
            Ok(stream) => Ok(Self::Done(stream)),
            Err(HandshakeError::WouldBlock(middle)) => Ok(Self::Begun(middle)),
            Err(HandshakeError::Failure(middle)) => Err(middle.error().to_string().into()),
            Err(HandshakeError::SetupFailure(error)) => Err(error.into()),
        }
    }

    fn step(self) -> Result<Self, Box<dyn Error>> {
        match self {
            Self::Begun(middle) => Self::of(middle.handshake()),
            done => Ok(done),
        }
    }
}

/// Both ends of an open session.
pub struct Pair {
    client: SslStream<End>,
    server: SslStream<End>,
    /// The time of the server's handshake steps, including the creation of its SSL object.
    pub server_time: Duration,
}

/// A session whose handshake is in progress.
struct Opening {
    client: Side,
    server: Side,
    server_time: Duration,
    resumed: bool,
}

impl Opening {
    /// Runs one step of each side.
    fn step(self) -> Result<Result<Pair, Self>, Box<dyn Error>> {
        let client = self.client.step()?;
        let began = Instant::now();
        let server = self.server.step()?;
        let server_time = self.server_time + began.elapsed();
        Ok(match (client, server) {
            (Side::Done(mut client), Side::Done(server)) => {
                // TLS 1.3 sends its tickets after the handshake.
                match client.ssl_read(&mut [0; 16]) {
                    Err(error) if error.code() == ErrorCode::WANT_READ => {}
                    other => return Err(format!("unexpected data in memory: {other:?}").into()),
                }
                if self.resumed && !server.ssl().session_reused() {
                    return Err("the session in memory was not resumed".into());
                }
                Ok(Pair { client, server, server_time })
            }
            (client, server) => Err(Self { client, server, server_time, ..self }),
        })
    }
}

/// Opens sessions.
pub struct Workbench {
    suite: Suite,
    client: SslContext,
    server: SslContext,
    last: LastSession,
}

impl Workbench {
    /// Makes a workbench for sessions of one kind. With `cookie`, each full DTLS handshake has a
    /// HelloVerifyRequest.
    ///
    /// # Errors
    ///
    /// Returns an error if OpenSSL does not know the group.
    pub fn new(suite: &Suite, cookie: bool) -> Result<Self, Box<dyn Error>> {
        let (client, last) = suite.client()?;
        Ok(Self { suite: suite.clone(), client, server: suite.server(cookie)?, last })
    }

    /// Opens one session. With `resumed`, it resumes the last session that the client got.
    ///
    /// # Errors
    ///
    /// Returns an error if the handshake fails, or if the server did not resume the session although `resumed` is
    /// set.
    pub fn open(&self, resumed: bool) -> Result<Pair, Box<dyn Error>> {
        let mut opening = self.begin(resumed)?;
        for _ in 0..STEPS {
            match opening.step()? {
                Ok(pair) => return Ok(pair),
                Err(under_way) => opening = under_way,
            }
        }
        Err("the handshake in memory is stuck".into())
    }

    /// Opens `count` sessions, `together` of them at the same time, in turns, as a server with many clients does.
    /// With `keep` the sessions stay; otherwise each is freed once it is open, and the time to free it counts.
    /// Returns the server's time for each session.
    ///
    /// # Errors
    ///
    /// The same as those of [`open`](Self::open).
    pub fn open_many(
        &self,
        resumed: bool,
        count: usize,
        together: usize,
        keep: bool,
    ) -> Result<Vec<Duration>, Box<dyn Error>> {
        let (mut under_way, mut kept, mut times) = (VecDeque::new(), Vec::new(), Vec::new());
        let mut begun = 0;
        while times.len() < count {
            while begun < count && under_way.len() < together {
                under_way.push_back(self.begin(resumed)?);
                begun += 1;
            }
            let Some(opening) = under_way.pop_front() else { break };
            match opening.step()? {
                Err(opening) => under_way.push_back(opening),
                Ok(pair) if keep => {
                    times.push(pair.server_time);
                    kept.push(pair);
                }
                Ok(Pair { client, server, server_time }) => {
                    let began = Instant::now();
                    drop(server);
                    times.push(server_time + began.elapsed());
                    drop(client);
                }
            }
        }
        Ok(times)
    }

    /// Starts a session up to the client's hello.
    fn begin(&self, resumed: bool) -> Result<Opening, Box<dyn Error>> {
        let (up, down) = (Packets::default(), Packets::default());
        let mut ssl = secure::ssl(&self.client, self.suite.dtls)?;
        if resumed {
            let session = self.session().ok_or("the server gave no session to resume")?;
            secure::resume(&mut ssl, &session);
        }
        let end = End { incoming: Rc::clone(&down), outgoing: Rc::clone(&up) };
        let client = Side::of(ssl.connect(end))?;
        let began = Instant::now();
        let ssl = secure::ssl(&self.server, self.suite.dtls)?;
        let server = Side::of(ssl.accept(End { incoming: up, outgoing: down }))?;
        Ok(Opening { client, server, server_time: began.elapsed(), resumed })
    }

    fn session(&self) -> Option<SslSession> {
        self.last.lock().ok()?.clone()
    }
}

/// Returns the first datagram of a client: its ClientHello without a cookie.
///
/// # Errors
///
/// Returns an error if OpenSSL does not know the group, or writes nothing.
pub fn client_hello(suite: &Suite) -> Result<Vec<u8>, Box<dyn Error>> {
    let (context, _) = suite.client()?;
    let up = Packets::default();
    let end = End { incoming: Packets::default(), outgoing: Rc::clone(&up) };
    Side::of(secure::ssl(&context, suite.dtls)?.connect(end))?;
    let hello = up.borrow_mut().pop_front();
    hello.ok_or_else(|| "OpenSSL wrote no hello".into())
}

impl Pair {
    /// Frees the client's end.
    pub fn into_server(self) -> impl Sized {
        self.server
    }
}

/// Measures the time that servers take to decrypt a message of this size and to encrypt the answer: the mean over
/// a batch that visits all sessions in turn.
///
/// # Errors
///
/// Returns an error if OpenSSL fails, or if a message has changed.
pub fn echo_in_each(pairs: &mut [Pair], payload: usize) -> Result<Duration, Box<dyn Error>> {
    let message = vec![0xA5; payload];
    let mut buffer = vec![0; payload + 1];
    let rounds = BATCH.div_ceil(u32::try_from(pairs.len())?);
    for pair in pairs.iter_mut() {
        for _ in 0..rounds {
            pair.client.ssl_write(&message)?;
        }
    }
    let began = Instant::now();
    for _ in 0..rounds {
        for pair in pairs.iter_mut() {
            let len = pair.server.ssl_read(&mut buffer)?;
            pair.server.ssl_write(&buffer[..len])?;
        }
    }
    let took = began.elapsed() / (rounds * u32::try_from(pairs.len())?);
    for pair in pairs {
        for _ in 0..rounds {
            let len = pair.client.ssl_read(&mut buffer)?;
            if buffer[..len] != message[..] {
                return Err("a message changed in memory".into());
            }
        }
    }
    Ok(took)
}

/// Measures the time that servers take to encrypt a message of this size, in one session after the other: the
/// mean.
///
/// # Errors
///
/// Returns an error if OpenSSL fails.
pub fn encrypt_in_each(pairs: &mut [Pair], payload: usize) -> Result<Duration, Box<dyn Error>> {
    let message = vec![0xA5; payload];
    let began = Instant::now();
    for pair in pairs.iter_mut() {
        pair.server.ssl_write(&message)?;
    }
    let took = began.elapsed() / u32::try_from(pairs.len())?;
    for pair in pairs {
        pair.client.get_mut().incoming.borrow_mut().clear();
    }
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secure::Auth;

    fn suite(dtls: bool, auth: Auth) -> Suite {
        Suite { dtls, auth, group: "P-256".to_owned() }
    }

    #[test]
    fn every_kind_of_session_opens_and_echoes() {
        for dtls in [true, false] {
            for auth in [Auth::Certificate, Auth::Mutual, Auth::Psk] {
                for cookie in [true, false] {
                    let bench = Workbench::new(&suite(dtls, auth), cookie).unwrap();
                    let mut pairs = [bench.open(false).unwrap(), bench.open(false).unwrap()];
                    echo_in_each(&mut pairs, 1200).unwrap();
                    encrypt_in_each(&mut pairs, 64).unwrap();
                }
            }
        }
    }

    #[test]
    fn a_second_handshake_resumes_the_first() {
        for dtls in [true, false] {
            let bench = Workbench::new(&suite(dtls, Auth::Certificate), true).unwrap();
            assert!(bench.open(true).is_err());
            bench.open(false).unwrap();
            for keep in [true, false] {
                assert_eq!(bench.open_many(true, 7, 3, keep).unwrap().len(), 7);
            }
            for round in 0..3 {
                bench.open(true).map_err(|why| format!("{dtls} {round} {why}")).unwrap();
            }
        }
    }
}

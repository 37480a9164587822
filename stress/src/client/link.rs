//! One client: a socket that never blocks, with its handshake and its session.

use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use openssl::ssl::{
    ErrorCode, HandshakeError, MidHandshakeSslStream, Ssl, SslContext, SslRef, SslSession, SslStream,
};
use peeloff::{Scheme, internals};
use socket2::{Domain, Socket, Type};

use super::datagrams::Datagrams;
use crate::secure::{self, LastSession, Suite};

/// The first retransmission comes after this (RFC 6347 §4.2.4.1).
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);

/// Makes clients of one target.
pub struct Dialer {
    scheme: Scheme,
    address: SocketAddr,
    context: Option<(SslContext, LastSession)>,
    patience: Duration,
}

impl Dialer {
    /// For a target; secure ones need a suite.
    ///
    /// # Errors
    ///
    /// One sentence: the protocol cannot be spoken here, or OpenSSL does not know the group.
    pub fn new(
        scheme: Scheme,
        address: SocketAddr,
        suite: Option<Suite>,
        patience: Duration,
    ) -> Result<Self, Box<dyn Error>> {
        if scheme.is_sctp() {
            return Err("only echo speaks SCTP; give a target on udp, dtls, tcp or tls".into());
        }
        let context = suite.map(|suite| {
            suite.client().map_err(|why| format!("OpenSSL does not take the group {}: {why}", suite.group))
        });
        Ok(Self { scheme, address, context: context.transpose()?, patience })
    }

    /// The session that a client got last.
    pub fn last_session(&self) -> Option<SslSession> {
        self.context.as_ref()?.1.lock().ok()?.clone()
    }

    /// How long a connection may take to be made.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Begins a client, from the local address `from` where one is given. Never blocks.
    ///
    /// # Errors
    ///
    /// No socket or no port is left, or nothing listens there.
    pub fn begin(&self, from: Option<SocketAddr>, session: Option<&SslSession>) -> io::Result<Link> {
        let stream = self.scheme.is_stream();
        let kind = if stream { Type::STREAM } else { Type::DGRAM };
        let socket = Socket::new(Domain::for_address(self.address), kind, None)?;
        socket.set_nonblocking(true)?;
        if let Some(from) = from {
            socket.bind(&from.into())?;
        }
        if stream {
            socket.set_tcp_nodelay(true)?;
        }
        match socket.connect(&self.address.into()) {
            // EINPROGRESS
            Err(error) if stream && error.raw_os_error() == Some(115) => {}
            outcome => outcome?,
        }
        let fd = socket.as_raw_fd();
        let ssl = match &self.context {
            None => None,
            Some((context, _)) => {
                let mut ssl = secure::ssl(context, self.scheme == Scheme::Dtls).map_err(io::Error::other)?;
                session.iter().for_each(|session| secure::resume(&mut ssl, session));
                Some(ssl)
            }
        };
        let wire = match (stream, ssl) {
            (true, ssl) => Wire::Connecting(socket.into(), ssl),
            (false, None) => Wire::Udp(socket.into()),
            (false, Some(mut ssl)) => {
                internals::never_retransmit(&mut ssl);
                Wire::of_dtls(ssl.connect(Datagrams::new(socket.into())))?
            }
        };
        let now = Instant::now();
        let timer = (now + FIRST_TIMEOUT, FIRST_TIMEOUT);
        Ok(Link { fd, wire, stream, partial: Vec::new(), unsent: Vec::new(), timer })
    }
}

/// A socket and how far it is.
enum Wire {
    Connecting(TcpStream, Option<Ssl>),
    DtlsHandshake(MidHandshakeSslStream<Datagrams>),
    TlsHandshake(MidHandshakeSslStream<TcpStream>),
    Udp(UdpSocket),
    Tcp(TcpStream),
    Dtls(SslStream<Datagrams>),
    Tls(SslStream<TcpStream>),
    Ended,
}

impl Wire {
    fn of_dtls(step: Result<SslStream<Datagrams>, HandshakeError<Datagrams>>) -> io::Result<Self> {
        match step {
            Ok(mut stream) => {
                stream.get_mut().is_open = true;
                Ok(Self::Dtls(stream))
            }
            Err(error) => Ok(Self::DtlsHandshake(under_way(error)?)),
        }
    }

    fn of_tls(step: Result<SslStream<TcpStream>, HandshakeError<TcpStream>>) -> io::Result<Self> {
        step.map(Self::Tls).or_else(|error| Ok(Self::TlsHandshake(under_way(error)?)))
    }
}

fn under_way<S: std::fmt::Debug>(error: HandshakeError<S>) -> io::Result<MidHandshakeSslStream<S>> {
    match error {
        HandshakeError::WouldBlock(middle) => Ok(middle),
        HandshakeError::SetupFailure(error) => Err(error.into()),
        HandshakeError::Failure(middle) => match middle.into_error().into_io_error() {
            Ok(error) => Err(error),
            Err(error) => Err(io::Error::other(error)),
        },
    }
}

/// What a read came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// A whole message is in the buffer, which has its length.
    Message,
    /// There is no more for now.
    Nothing,
    /// The other side, or the path, ended it.
    Ended,
}

/// One client.
pub struct Link {
    fd: RawFd,
    wire: Wire,
    stream: bool,
    /// The beginning of a message, on streams.
    partial: Vec<u8>,
    /// What found no room, on streams.
    unsent: Vec<u8>,
    /// When a flight is sent again, and after how long.
    timer: (Instant, Duration),
}

impl Link {
    /// Has a poll say when there is something to do.
    ///
    /// # Errors
    ///
    /// Those of epoll_ctl(2).
    pub fn register(&self, registry: &Registry, token: usize) -> io::Result<()> {
        let interest = match self.stream {
            true => Interest::READABLE | Interest::WRITABLE,
            false => Interest::READABLE,
        };
        registry.register(&mut SourceFd(&self.fd), Token(token), interest)
    }

    /// Ends what [`register`](Self::register) began.
    ///
    /// # Errors
    ///
    /// Those of epoll_ctl(2).
    pub fn forget(&self, registry: &Registry) -> io::Result<()> {
        registry.deregister(&mut SourceFd(&self.fd))
    }

    /// Whether messages can be sent.
    pub fn is_open(&self) -> bool {
        matches!(self.wire, Wire::Udp(_) | Wire::Tcp(_) | Wire::Dtls(_) | Wire::Tls(_))
    }

    /// Goes on with the handshake; `true` where it is complete.
    ///
    /// # Errors
    ///
    /// It failed.
    pub fn step(&mut self) -> io::Result<bool> {
        self.wire = match std::mem::replace(&mut self.wire, Wire::Ended) {
            Wire::Connecting(socket, ssl) => {
                if let Some(error) = socket.take_error()? {
                    return Err(error);
                }
                match (socket.peer_addr().is_ok(), ssl) {
                    (false, ssl) => Wire::Connecting(socket, ssl),
                    (true, None) => Wire::Tcp(socket),
                    (true, Some(ssl)) => Wire::of_tls(ssl.connect(socket))?,
                }
            }
            Wire::DtlsHandshake(mut middle) => {
                middle.get_mut().came = false;
                let mut wire = Wire::of_dtls(middle.handshake())?;
                let now = Instant::now();
                if let Wire::DtlsHandshake(middle) = &mut wire {
                    if middle.get_ref().came {
                        self.timer = (now + FIRST_TIMEOUT, FIRST_TIMEOUT);
                    } else if now >= self.timer.0 {
                        middle.get_mut().resend();
                        self.timer = (now + self.timer.1 * 2, self.timer.1 * 2);
                    }
                }
                wire
            }
            Wire::TlsHandshake(middle) => Wire::of_tls(middle.handshake())?,
            open => open,
        };
        Ok(self.is_open())
    }

    /// Whether a flight of the handshake is overdue; then [`step`](Self::step) sends it again.
    pub fn is_late(&self, now: Instant) -> bool {
        matches!(self.wire, Wire::DtlsHandshake(_)) && now >= self.timer.0
    }

    /// Datagrams of the handshake that were sent again.
    pub fn retransmissions(&self) -> u64 {
        match &self.wire {
            Wire::DtlsHandshake(middle) => middle.get_ref().again,
            Wire::Dtls(stream) => stream.get_ref().again,
            _ => 0,
        }
    }

    /// Whether the session of an earlier client was resumed.
    pub fn is_resumed(&self) -> bool {
        self.ssl().is_some_and(SslRef::session_reused)
    }

    fn ssl(&self) -> Option<&SslRef> {
        match &self.wire {
            Wire::Dtls(stream) => Some(stream.ssl()),
            Wire::Tls(stream) => Some(stream.ssl()),
            _ => None,
        }
    }

    /// Sends a message, or what there is room for; the rest goes by [`flush`](Self::flush).
    ///
    /// # Errors
    ///
    /// It cannot be sent any more.
    pub fn send(&mut self, message: &[u8]) -> io::Result<()> {
        match &mut self.wire {
            Wire::Udp(socket) => swallow(socket.send(message)),
            Wire::Dtls(stream) => stream.ssl_write(message).map(drop).map_err(io::Error::other),
            Wire::Tcp(_) | Wire::Tls(_) => {
                self.unsent.extend_from_slice(message);
                self.flush()
            }
            _ => Err(ErrorKind::NotConnected.into()),
        }
    }

    /// Sends what found no room.
    ///
    /// # Errors
    ///
    /// It cannot be sent any more.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            let written = match &mut self.wire {
                Wire::Tcp(socket) => socket.write(&self.unsent),
                Wire::Tls(stream) => stream.write(&self.unsent),
                _ => return Ok(()),
            };
            match written {
                Ok(len) => drop(self.unsent.drain(..len)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether some of what was sent waits for room.
    pub fn is_full(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Reads the next message into `buffer`; on streams one of `len` bytes. On DTLS it also answers a server that
    /// lost the last flight.
    pub fn receive(&mut self, buffer: &mut Vec<u8>, len: usize) -> Received {
        buffer.resize(2048.max(len + 1), 0);
        let read = match &mut self.wire {
            Wire::Udp(socket) => socket.recv(buffer),
            Wire::Dtls(stream) => match stream.ssl_read(buffer) {
                Err(error) if error.code() == ErrorCode::WANT_READ => Err(ErrorKind::WouldBlock.into()),
                Err(error) if error.code() == ErrorCode::ZERO_RETURN => {
                    Err(ErrorKind::ConnectionAborted.into())
                }
                Err(error) => Err(error.into_io_error().unwrap_or_else(io::Error::other)),
                Ok(len) => Ok(len),
            },
            Wire::Tcp(socket) => return read_stream(socket, &mut self.partial, buffer, len),
            Wire::Tls(stream) => return read_stream(stream, &mut self.partial, buffer, len),
            _ => return Received::Ended,
        };
        match read {
            Ok(len) => {
                buffer.truncate(len);
                Received::Message
            }
            // Anybody can forge ICMP; who is not there is noticed by what is lost.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => Received::Ended,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused) => {
                Received::Nothing
            }
            Err(_) => Received::Ended,
        }
    }

    /// Says goodbye where the protocol has a word for it. Dropping a link says nothing.
    pub fn close(mut self) {
        // Whoever does not take it is as gone as one who does.
        match &mut self.wire {
            Wire::Dtls(stream) => drop(stream.shutdown()),
            Wire::Tls(stream) => drop(stream.shutdown()),
            _ => {}
        }
    }
}

fn swallow(sent: io::Result<usize>) -> io::Result<()> {
    match sent {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused) => Ok(()),
        outcome => outcome.map(drop),
    }
}

fn read_stream(stream: &mut impl Read, partial: &mut Vec<u8>, buffer: &mut Vec<u8>, len: usize) -> Received {
    while partial.len() < len {
        match stream.read(&mut buffer[..len - partial.len()]) {
            Ok(0) => return Received::Ended,
            Ok(got) => partial.extend_from_slice(&buffer[..got]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Received::Nothing,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Received::Ended,
        }
    }
    std::mem::swap(partial, buffer);
    partial.clear();
    Received::Message
}

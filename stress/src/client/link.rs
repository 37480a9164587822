//! A client on TCP or TLS: a non-blocking socket with its handshake and its session.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use openssl::ssl::{HandshakeError, MidHandshakeSslStream, Ssl, SslRef, SslSession, SslStream};
use socket2::{Domain, Socket, Type};

use super::Dialer;
use crate::secure;

/// A socket and the state of its connection.
enum Wire {
    Connecting(TcpStream, Option<Ssl>),
    TlsHandshake(MidHandshakeSslStream<TcpStream>),
    Tcp(TcpStream),
    Tls(SslStream<TcpStream>),
    Ended,
}

impl Wire {
    fn of_tls(step: Result<SslStream<TcpStream>, HandshakeError<TcpStream>>) -> io::Result<Self> {
        match step {
            Ok(stream) => Ok(Self::Tls(stream)),
            Err(HandshakeError::WouldBlock(middle)) => Ok(Self::TlsHandshake(middle)),
            Err(HandshakeError::SetupFailure(error)) => Err(error.into()),
            Err(HandshakeError::Failure(middle)) => {
                Err(middle.into_error().into_io_error().unwrap_or_else(io::Error::other))
            }
        }
    }
}

/// The result of a read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// A complete message is in the buffer.
    Message,
    /// There is no message at the moment.
    Nothing,
    /// The other side or the network has ended the connection.
    Ended,
}

/// One client.
pub(super) struct Link {
    fd: RawFd,
    wire: Wire,
    /// The beginning of an incomplete message.
    partial: Vec<u8>,
    /// Bytes that did not fit into the send buffer.
    unsent: Vec<u8>,
}

impl Link {
    /// Starts to connect a client. Never blocks.
    pub(super) fn begin(dialer: &Dialer, session: Option<&SslSession>) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(dialer.address), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&dialer.address.into()) {
            // EINPROGRESS
            Err(error) if error.raw_os_error() == Some(115) => {}
            outcome => outcome?,
        }
        let fd = socket.as_raw_fd();
        let ssl = match dialer.context() {
            None => None,
            Some(context) => {
                let mut ssl = secure::ssl(context, false).map_err(io::Error::other)?;
                session.iter().for_each(|session| secure::resume(&mut ssl, session));
                Some(ssl)
            }
        };
        let wire = Wire::Connecting(socket.into(), ssl);
        Ok(Self { fd, wire, partial: Vec::new(), unsent: Vec::new() })
    }

    /// Registers the socket with a poll.
    pub(super) fn register(&self, registry: &Registry, token: usize) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut SourceFd(&self.fd), Token(token), interest)
    }

    /// Returns whether messages can be sent.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.wire, Wire::Tcp(_) | Wire::Tls(_))
    }

    /// Continues the handshake. Returns whether it is complete.
    pub(super) fn step(&mut self) -> io::Result<bool> {
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
            Wire::TlsHandshake(middle) => Wire::of_tls(middle.handshake())?,
            open => open,
        };
        Ok(self.is_open())
    }

    /// Returns whether the handshake resumed an earlier client's session.
    pub(super) fn is_resumed(&self) -> bool {
        matches!(&self.wire, Wire::Tls(stream) if SslRef::session_reused(stream.ssl()))
    }

    /// Sends a message, as far as the send buffer has space. [`flush`](Self::flush) sends the rest.
    pub(super) fn send(&mut self, message: &[u8]) -> io::Result<()> {
        if !self.is_open() {
            return Err(ErrorKind::NotConnected.into());
        }
        self.unsent.extend_from_slice(message);
        self.flush()
    }

    /// Sends bytes that did not fit into the send buffer before.
    pub(super) fn flush(&mut self) -> io::Result<()> {
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

    /// Returns whether bytes wait for space in the send buffer.
    pub(super) fn is_full(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Reads the next message, of `len` bytes, into `buffer`.
    pub(super) fn receive(&mut self, buffer: &mut Vec<u8>, len: usize) -> Received {
        buffer.resize(len, 0);
        match &mut self.wire {
            Wire::Tcp(socket) => read(socket, &mut self.partial, buffer, len),
            Wire::Tls(stream) => read(stream, &mut self.partial, buffer, len),
            _ => Received::Ended,
        }
    }

    /// Sends close_notify if the protocol has it. Dropping a link sends nothing.
    pub(super) fn close(mut self) {
        if let Wire::Tls(stream) = &mut self.wire {
            // The connection ends even if the peer does not accept the alert.
            let _ = stream.shutdown();
        }
    }
}

fn read(stream: &mut impl Read, partial: &mut Vec<u8>, buffer: &mut Vec<u8>, len: usize) -> Received {
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

//! OpenSSL above memory: bytes of the peer go in, bytes for the peer come out, and somebody else
//! carries them. Nothing here knows a socket, so a transport that has no room never makes OpenSSL
//! wait in the middle of a record: what it wrote stays in the queue, in order.

use std::collections::VecDeque;
use std::io::{self, Write};

use openssl::ssl::{Ssl, SslContext, SslStream};

use super::dtls::{Facts, Read, describe, read};
use super::handshake::{Failure, broken, expect, step};
use crate::sys::ossl;

/// One side of one session.
pub(crate) struct Engine {
    stream: SslStream<Pipe>,
}

/// What OpenSSL reads from and writes to.
struct Pipe {
    /// What came, each piece as it came.
    incoming: VecDeque<Vec<u8>>,
    /// Bytes of the first piece that were read.
    taken: usize,
    /// Whether a read gives one piece, as DTLS wants its datagrams, and what has no room is lost.
    pieces: bool,
    /// What OpenSSL wrote, each write by itself.
    outgoing: VecDeque<Vec<u8>>,
}

/// Pieces whose boundaries matter, or one stream of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// DTLS records over SCTP, which fragments by itself: handshake messages need not be cut.
    Records,
    /// TLS.
    Bytes,
}

/// The most that a DTLS handshake message is cut to over SCTP (RFC 6083 §4.1).
const RECORD_MTU: u16 = 16_384;

impl Engine {
    /// The server's side.
    pub(crate) fn accept(context: &SslContext, carrier: Carrier) -> Result<Self, Failure> {
        let mut ssl = Ssl::new(context).map_err(broken)?;
        ssl.set_accept_state();
        Self::over(ssl, carrier)
    }

    /// The client's side; `name` is who the server must prove to be.
    pub(crate) fn connect(context: &SslContext, name: &str, carrier: Carrier) -> Result<Self, Failure> {
        let mut ssl = Ssl::new(context).map_err(broken)?;
        expect(&mut ssl, Some(name)).map_err(broken)?;
        ssl.set_connect_state();
        Self::over(ssl, carrier)
    }

    fn over(ssl: Ssl, carrier: Carrier) -> Result<Self, Failure> {
        let pieces = carrier == Carrier::Records;
        if pieces {
            ossl::set_mtu(&ssl, RECORD_MTU);
        }
        let pipe = Pipe { incoming: VecDeque::new(), taken: 0, pieces, outgoing: VecDeque::new() };
        Ok(Self { stream: SslStream::new(ssl, pipe).map_err(broken)? })
    }

    /// Takes what came from the peer.
    pub(crate) fn feed(&mut self, piece: Vec<u8>) {
        // An empty piece would look like the end of a stream.
        if !piece.is_empty() {
            self.stream.get_mut().incoming.push_back(piece);
        }
    }

    /// One step of the handshake; `true` when it is complete.
    pub(crate) fn step(&mut self) -> Result<bool, Failure> {
        step(&mut self.stream)
    }

    /// Reads one record's plaintext.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Read {
        read(&mut self.stream, buffer)
    }

    /// Encrypts one message of at most 16,384 bytes, which makes one record.
    pub(crate) fn write(&mut self, message: &[u8]) -> Result<(), String> {
        self.stream.ssl_write(message).map(drop).map_err(|error| describe(&error))
    }

    /// Writes close_notify, once.
    pub(crate) fn close(&mut self) {
        let _ = self.stream.shutdown();
    }

    /// The oldest of what OpenSSL wrote.
    pub(crate) fn next_outgoing(&mut self) -> Option<Vec<u8>> {
        self.stream.get_mut().outgoing.pop_front()
    }

    /// What the handshake settled.
    pub(crate) fn facts(&self) -> Facts {
        Facts::of(self.stream.ssl())
    }

    /// Whether a master secret is agreed on, so that keys can be exported, even before the handshake is
    /// complete. A client that offers to resume has one before it knows whether the server will.
    pub(crate) fn has_secret(&self) -> bool {
        let ssl = self.stream.ssl();
        let mut random = [0; 32];
        ssl.server_random(&mut random);
        random != [0; 32] && ssl.session().is_some_and(|session| session.master_key_len() > 0)
    }

    /// 64 bytes of keying material (RFC 5705) without a context.
    pub(crate) fn export(&self, label: &str) -> Result<[u8; 64], Failure> {
        let mut key = [0; 64];
        self.stream.ssl().export_keying_material(&mut key, label, None).map_err(broken)?;
        Ok(key)
    }
}

impl io::Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(first) = self.incoming.front() else { return Err(io::ErrorKind::WouldBlock.into()) };
        let len = io::Read::read(&mut &first[self.taken..], buffer)?;
        self.taken += len;
        if self.pieces || self.taken == first.len() {
            self.incoming.pop_front();
            self.taken = 0;
        }
        Ok(len)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outgoing.push_back(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

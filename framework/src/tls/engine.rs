//! TLS or DTLS over memory: the caller feeds received bytes and takes the bytes that OpenSSL wrote. No socket, no
//! clock.

use std::collections::VecDeque;
use std::io::{self, Write};

use openssl::ssl::{ErrorCode, ShutdownState, Ssl, SslContext, SslStream};

use super::handshake::{Failure, broken, client_ssl, describe, progress, read, server_ssl};
use super::summary::HandshakeSummary;
use crate::protocol::Read;
use crate::sys::ossl;

/// The size of DTLS handshake records, including the header. SCTP has no path MTU that matters here (RFC 6083 §3.3
/// leaves fragmentation to SCTP), so only the longest messages are fragmented.
const RECORD_MTU: u16 = 16_384;

/// One OpenSSL session with its two queues. Used by one thread at a time.
pub(crate) struct Engine {
    stream: SslStream<Pipe>,
}

/// What one read of OpenSSL returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// TLS: a stream of bytes.
    Bytes,
    /// DTLS: a read returns exactly what one call fed.
    Datagrams,
}

impl Engine {
    /// Makes the server's side.
    pub(crate) fn accept(context: &SslContext, framing: Framing) -> Result<Self, Failure> {
        Self::over(server_ssl(context)?, framing)
    }

    /// Makes the client's side; `name` is the name that the server must prove.
    pub(crate) fn connect(
        context: &SslContext,
        name: Option<&str>,
        framing: Framing,
    ) -> Result<Self, Failure> {
        Self::over(client_ssl(context, name, None)?, framing)
    }

    fn over(mut ssl: Ssl, framing: Framing) -> Result<Self, Failure> {
        if framing == Framing::Datagrams {
            ossl::never_retransmit(&mut ssl);
        }
        let pipe = Pipe { framing, incoming: VecDeque::new(), offset: 0, outgoing: VecDeque::new() };
        let mut stream = SslStream::new(ssl, pipe).map_err(broken)?;
        if framing == Framing::Datagrams {
            ossl::set_mtu(&mut stream, RECORD_MTU);
        }
        Ok(Self { stream })
    }

    /// Adds bytes from the peer for the next [`step`](Self::step) or [`read`](Self::read).
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        // An empty read would look like the end of the stream.
        if !bytes.is_empty() {
            self.stream.get_mut().incoming.push_back(bytes.to_vec());
        }
    }

    /// Returns whether OpenSSL has read everything that was fed.
    pub(crate) fn is_drained(&self) -> bool {
        self.stream.get_ref().incoming.is_empty()
    }

    /// Runs one step of the handshake. Returns `true` when it is complete. After a failure there may be an alert to
    /// send.
    pub(crate) fn step(&mut self) -> Result<bool, Failure> {
        progress(&mut self.stream)
    }

    /// Reads the next message of the fed bytes.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Read {
        read(&mut self.stream, buffer)
    }

    /// Encrypts one message into one record, if it fits into one.
    pub(crate) fn write(&mut self, message: &[u8]) -> Result<(), String> {
        match self.stream.ssl_write(message) {
            Ok(_) => Ok(()),
            // The pipe is never full, so a handshake is under way.
            Err(error) if matches!(error.code(), ErrorCode::WANT_READ | ErrorCode::WANT_WRITE) => {
                Err("the session is not open".to_owned())
            }
            Err(error) => Err(describe(&error)),
        }
    }

    /// Writes close_notify, once.
    pub(crate) fn close(&mut self) {
        let _ = self.stream.shutdown();
    }

    /// Takes what OpenSSL wrote, one entry for each write.
    pub(crate) fn take_outgoing(&mut self) -> VecDeque<Vec<u8>> {
        std::mem::take(&mut self.stream.get_mut().outgoing)
    }

    /// Returns the results of the handshake.
    pub(crate) fn summary(&self) -> HandshakeSummary {
        HandshakeSummary::of(self.stream.ssl())
    }

    /// Returns the protocol version in use.
    #[cfg(test)]
    pub(crate) fn version(&self) -> Option<openssl::ssl::SslVersion> {
        self.stream.ssl().version2()
    }

    /// Returns whether the master secret has been negotiated, so that [`export`](Self::export) works. With (D)TLS 1.2
    /// that is the case before the end of the handshake.
    pub(crate) fn has_secret(&self) -> bool {
        let ssl = self.stream.ssl();
        // A client that wants to resume has a secret from the start, but does not know yet whether it will be used.
        let mut random = [0; 32];
        ssl.server_random(&mut random);
        random != [0; 32] && ssl.session().is_some_and(|session| session.master_key_len() > 0)
    }

    /// Keeps the session resumable after this value is dropped; otherwise OpenSSL would consider it broken.
    pub(crate) fn retire(&mut self) {
        self.stream.set_shutdown(ShutdownState::SENT | ShutdownState::RECEIVED);
    }

    /// Returns the underlying `SslRef`.
    pub(crate) fn ssl(&self) -> &openssl::ssl::SslRef {
        self.stream.ssl()
    }

    /// Sets the size of DTLS datagrams, in bytes.
    pub(super) fn set_mtu(&mut self, mtu: u16) {
        ossl::set_mtu(&mut self.stream, mtu);
    }

    /// Exports keying material without a context (RFC 5705 §4).
    pub(crate) fn export(&self, label: &str, out: &mut [u8]) -> Result<(), Failure> {
        self.stream.ssl().export_keying_material(out, label, None).map_err(broken)
    }
}

/// The pipe that OpenSSL reads from and writes to. Called from C, so it must obey this contract: a read returns bytes
/// or WouldBlock, and a write always takes everything.
struct Pipe {
    framing: Framing,
    incoming: VecDeque<Vec<u8>>,
    /// How many bytes of the first entry have been read.
    offset: usize,
    outgoing: VecDeque<Vec<u8>>,
}

impl io::Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(first) = self.incoming.front() else { return Err(io::ErrorKind::WouldBlock.into()) };
        let len = buffer.len().min(first.len() - self.offset);
        buffer[..len].copy_from_slice(&first[self.offset..][..len]);
        self.offset += len;
        if self.framing == Framing::Datagrams || self.offset == first.len() {
            self.incoming.pop_front();
            self.offset = 0;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::context::{self, ClientCredentials, Protocol};

    #[test]
    fn a_dtls_handshake_never_sends_again_by_itself() {
        let credentials = ClientCredentials { accept_any: true, ..ClientCredentials::default() };
        let context = context::client(&credentials, Protocol::Dtls).unwrap();
        let mut engine = Engine::connect(&context, None, Framing::Datagrams).unwrap();
        assert!(!engine.step().unwrap());
        assert_eq!(engine.take_outgoing().len(), 1);
        // OpenSSL's timer is a second on the wall clock, which nothing else can turn.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        assert!(!engine.step().unwrap());
        assert!(engine.take_outgoing().is_empty());
    }
}

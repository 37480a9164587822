//! TLS or DTLS over memory: what came is fed, what OpenSSL wrote is taken. No socket, no clock.

use std::collections::VecDeque;
use std::io::{self, Write};

use openssl::ssl::{ErrorCode, ShutdownState, Ssl, SslContext, SslStream};

use super::facts::Facts;
use super::handshake::{Failure, broken, client_ssl, describe, progress, read, server_ssl};
use crate::protocol::Read;
use crate::sys::ossl;

/// The size of DTLS handshake records, header included: on SCTP there is no path MTU to heed (RFC 6083 §3.3
/// leaves fragmentation to SCTP), so none but the longest message is cut.
const RECORD_MTU: u16 = 16_384;

/// One session of OpenSSL's with its two queues. One thread at a time.
pub(crate) struct Engine {
    stream: SslStream<Pipe>,
}

/// How OpenSSL reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// TLS: a stream of bytes.
    Bytes,
    /// DTLS: a read gives what was fed at once, and only that.
    Datagrams,
}

impl Engine {
    /// The server's side.
    pub(crate) fn accept(context: &SslContext, framing: Framing) -> Result<Self, Failure> {
        Self::over(server_ssl(context)?, framing)
    }

    /// The client's side; `name` is who the server must prove to be.
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

    /// Bytes from the peer, to be looked at by the next [`step`](Self::step) or [`read`](Self::read).
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        // Nothing read would look like the end of the stream.
        if !bytes.is_empty() {
            self.stream.get_mut().incoming.push_back(bytes.to_vec());
        }
    }

    /// Whether nothing that was fed is left for OpenSSL to read.
    pub(crate) fn is_drained(&self) -> bool {
        self.stream.get_ref().incoming.is_empty()
    }

    /// One step of the handshake; `true` when it is complete. After a failure there may be an alert to take.
    pub(crate) fn step(&mut self) -> Result<bool, Failure> {
        progress(&mut self.stream)
    }

    /// Reads the next message of what was fed.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Read {
        read(&mut self.stream, buffer)
    }

    /// Encrypts one message into one record, if it is no longer than a record carries.
    pub(crate) fn write(&mut self, message: &[u8]) -> Result<(), String> {
        match self.stream.ssl_write(message) {
            Ok(_) => Ok(()),
            // A pipe is never full, so this is a handshake under way.
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

    /// What OpenSSL wrote, write by write.
    pub(crate) fn take_outgoing(&mut self) -> VecDeque<Vec<u8>> {
        std::mem::take(&mut self.stream.get_mut().outgoing)
    }

    /// What the handshake settled.
    pub(crate) fn facts(&self) -> Facts {
        Facts::of(self.stream.ssl())
    }

    /// The version in use.
    #[cfg(test)]
    pub(crate) fn version(&self) -> Option<openssl::ssl::SslVersion> {
        self.stream.ssl().version2()
    }

    /// Whether the master secret is agreed on, so that [`export`](Self::export) works: before the end of the
    /// handshake, with (D)TLS 1.2.
    pub(crate) fn has_secret(&self) -> bool {
        let ssl = self.stream.ssl();
        // A client that would resume has a secret from the start, and does not know whether it holds.
        let mut random = [0; 32];
        ssl.server_random(&mut random);
        random != [0; 32] && ssl.session().is_some_and(|session| session.master_key_len() > 0)
    }

    /// Has the session resumable after this is dropped; OpenSSL would take it for a broken one.
    pub(crate) fn retire(&mut self) {
        self.stream.set_shutdown(ShutdownState::SENT | ShutdownState::RECEIVED);
    }

    /// OpenSSL's own.
    pub(crate) fn ssl(&self) -> &openssl::ssl::SslRef {
        self.stream.ssl()
    }

    /// Sets the size of DTLS datagrams, in bytes.
    pub(super) fn set_mtu(&mut self, mtu: u16) {
        ossl::set_mtu(&mut self.stream, mtu);
    }

    /// Keying material without a context (RFC 5705 §4).
    pub(crate) fn export(&self, label: &str, out: &mut [u8]) -> Result<(), Failure> {
        self.stream.ssl().export_keying_material(out, label, None).map_err(broken)
    }
}

/// What OpenSSL reads from and writes to. Trusted code (it is called from C): a read gives bytes or
/// WouldBlock, a write always takes everything.
struct Pipe {
    framing: Framing,
    incoming: VecDeque<Vec<u8>>,
    /// How much of the first is read.
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

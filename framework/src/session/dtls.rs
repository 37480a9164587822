//! A DTLS 1.2 session that is open (RFC 6347), over OpenSSL.

use std::io;

use openssl::ssl::{ErrorCode, NameType, SslRef, SslStream, SslVersion};

use super::Sent;
use super::datagram::DatagramIo;
use super::record;
use crate::credentials::{PeerCertificate, PeerIdentity};
use crate::session::context::psk_identity;
use crate::sys::footprint::HandshakeBuffer;
use crate::sys::{ossl, raw_keys};

/// What reading from a session came to.
#[derive(Debug)]
pub(crate) enum Read {
    /// One message of so many bytes is in the buffer.
    Message(usize),
    /// One message that is longer than the buffer: here is all of it.
    Long(Vec<u8>),
    /// No application data in what was fed.
    Nothing,
    /// close_notify.
    Closed,
    /// A fatal alert, or an error of OpenSSL's.
    Broken(String),
}

/// The security state, with the socket that its records leave by. One thread at a time.
pub(crate) struct DtlsSession {
    stream: SslStream<DatagramIo>,
    /// OpenSSL may have records that overtook the end of the handshake, which `SSL_has_pending` does not count.
    early: bool,
    /// Memory of OpenSSL's that is not needed any more.
    spare: Option<HandshakeBuffer>,
}

/// What a handshake settled.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) identity: PeerIdentity,
    pub(crate) cipher: Option<String>,
    pub(crate) alpn: Option<String>,
    pub(crate) server_name: Option<String>,
    pub(crate) srtp: Option<String>,
    pub(crate) resumed: bool,
    /// Bytes below which a record of this suite is forged; 0 where there are no records.
    pub(crate) min_ciphertext: usize,
}

impl Facts {
    pub(super) fn of(ssl: &SslRef) -> Self {
        let (resumed, old) = (ssl.session_reused(), ssl.version2() != Some(SslVersion::TLS1_3));
        // With TLS 1.3 a key may be looked up and not be used. Before that nothing is looked up where a session is
        // resumed, and the session knows whose key it began with.
        let known = || ssl.psk_identity().filter(|_| old && resumed && ssl.is_server()).map(<[u8]>::to_vec);
        let psk = psk_identity(ssl).filter(|_| old || resumed).or_else(known);
        let identity = match (ssl.peer_certificate(), psk) {
            (Some(certificate), _) => PeerIdentity::Certificate(PeerCertificate::from_x509(&certificate)),
            (None, Some(identity)) => PeerIdentity::Psk(identity),
            (None, None) => raw_keys::shown(ssl).map_or(PeerIdentity::Anonymous, PeerIdentity::RawPublicKey),
        };
        let cipher = ssl.current_cipher().map(|cipher| cipher.name().to_owned());
        let min_ciphertext = record::min_ciphertext(cipher.as_deref().unwrap_or_default());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            identity,
            cipher,
            alpn: ssl.selected_alpn_protocol().map(text),
            server_name: ssl.servername(NameType::HOST_NAME).map(str::to_owned),
            srtp: ssl.selected_srtp_profile().map(|profile| profile.name().to_owned()),
            resumed,
            min_ciphertext,
        }
    }
}

impl DtlsSession {
    pub(super) fn new(stream: SslStream<DatagramIo>, spare: Option<HandshakeBuffer>) -> Self {
        Self { stream, early: true, spare }
    }

    /// Gives back the memory that only the handshake needed.
    pub(crate) fn settle(&mut self) {
        if let Some(spare) = self.spare.take() {
            spare.release(self.stream.ssl());
        }
    }

    /// Feeds a datagram and reads the first message in it. `datagram` comes back with its memory
    /// and without its content.
    pub(crate) fn feed(&mut self, datagram: &mut Vec<u8>, buffer: &mut [u8]) -> Read {
        self.stream.get_mut().swap(datagram);
        let read = self.read(buffer);
        self.stream.get_mut().swap(datagram);
        datagram.clear();
        read
    }

    /// Whether the last datagram may hold more than was read.
    pub(crate) fn has_more(&self) -> bool {
        self.early || ossl::has_pending(self.stream.ssl())
    }

    /// Reads the next message of what was fed.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Read {
        let read = read(&mut self.stream, buffer);
        self.early &= !matches!(read, Read::Nothing);
        read
    }

    /// Encrypts one message and sends its record; never blocks. A record that finds the send
    /// buffer full is dropped and its message counts as not sent: DTLS allows gaps.
    pub(crate) fn write(&mut self, message: &[u8]) -> Sent {
        self.stream.get_mut().outcome = Sent::Done;
        match self.stream.ssl_write(message) {
            Ok(_) => std::mem::replace(&mut self.stream.get_mut().outcome, Sent::Done),
            Err(error) => Sent::Broken(describe(&error)),
        }
    }

    /// Sends close_notify, once.
    pub(crate) fn close(&mut self) {
        let _ = self.stream.shutdown();
    }

    /// OpenSSL's own.
    pub(crate) fn ssl(&self) -> &SslRef {
        self.stream.ssl()
    }
}

/// Reads one record's message.
pub(super) fn read<S: io::Read + io::Write>(stream: &mut SslStream<S>, buffer: &mut [u8]) -> Read {
    if buffer.is_empty() {
        // A read into nothing would not even look.
        let mut byte = [0];
        return match read(stream, &mut byte) {
            Read::Message(len) => Read::Long(byte[..len].to_vec()),
            other => other,
        };
    }
    match stream.ssl_read(buffer) {
        Ok(len) => match stream.ssl().pending() {
            rest if rest > 0 && len == buffer.len() => read_rest(stream, buffer, rest),
            _ => Read::Message(len),
        },
        Err(error) => match error.code() {
            ErrorCode::WANT_READ | ErrorCode::WANT_WRITE => Read::Nothing,
            ErrorCode::ZERO_RETURN => Read::Closed,
            _ => Read::Broken(describe(&error)),
        },
    }
}

/// The rest of a record that is longer than the buffer.
fn read_rest<S: io::Read + io::Write>(stream: &mut SslStream<S>, start: &[u8], rest: usize) -> Read {
    let mut whole = start.to_vec();
    whole.resize(start.len() + rest, 0);
    match stream.ssl_read(&mut whole[start.len()..]) {
        Ok(len) => {
            whole.truncate(start.len() + len);
            Read::Long(whole)
        }
        Err(error) => Read::Broken(describe(&error)),
    }
}

/// One line for what OpenSSL reports: the reason of its first error.
pub(super) fn describe(error: &openssl::ssl::Error) -> String {
    let reason = error.ssl_error().and_then(|stack| stack.errors().first()?.reason());
    match (reason, error.io_error()) {
        (Some(reason), _) => reason.to_owned(),
        (None, Some(io)) => io.to_string(),
        (None, None) => error.to_string(),
    }
}

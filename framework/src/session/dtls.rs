//! An open DTLS 1.2 session (RFC 6347): the record layer, and the socket that its records leave by.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use openssl::ssl::{ErrorCode, NameType, SslRef, SslStream, SslVersion};
use socket2::Socket;

use super::Sent;
use super::datagram;
use super::handshake::{Failure, broken};
use crate::credentials::{PeerCertificate, PeerIdentity};
use crate::error::EndReason;
use crate::observe::{Counters, bump};
use crate::protocol::alert::Alert;
use crate::protocol::dtls::keys::{RefusedExport, Secrets};
use crate::protocol::dtls::suite::Aead;
use crate::protocol::dtls::{Dropped, Opened, Opener, SealError, Sealer};
use crate::session::context::{asked_name, psk_identity};
use crate::sys::raw_keys;

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

/// The levels of alerts, and handshake messages (RFC 5246 §7.2, §7.4).
mod wire {
    pub(super) const WARNING: u8 = 1;
    pub(super) const FATAL: u8 = 2;
    pub(super) const HELLO_REQUEST: u8 = 0;
    pub(super) const CLIENT_HELLO: u8 = 1;
    pub(super) const FINISHED: u8 = 20;
}

/// Requests for a renegotiation that are answered; further ones are ignored.
const MAX_REFUSALS: u8 = 8;

/// The security state, with the socket that its records leave by. One thread at a time.
pub(crate) struct DtlsSession {
    socket: Arc<Socket>,
    counters: Arc<Counters>,
    sealer: Sealer,
    opener: Opener,
    /// What exporters need.
    secrets: Secrets,
    /// What follows the last record that was read in its datagram; not decrypted yet.
    rest: Vec<u8>,
    /// Records that overtook the end of the handshake.
    early: VecDeque<Box<[u8]>>,
    /// The peer sent its last flight again, so ours did not arrive (RFC 6347 §4.2.4).
    flight_is_wanted: bool,
    refusals: u8,
    closed: bool,
}

/// Where OpenSSL's sealing ended: the numbers of the next record (see [`Sealer::new`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct NextRecord {
    pub(super) sequence: u64,
    pub(super) nonce: u64,
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
    /// The shortest body of a DTLS record of this suite, in bytes; 0 where there are no records.
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
        let min_ciphertext = cipher.as_deref().and_then(Aead::of_suite).map_or(0, Aead::overhead);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            identity,
            cipher,
            alpn: ssl.selected_alpn_protocol().map(text),
            server_name: asked_name(ssl).or_else(|| ssl.servername(NameType::HOST_NAME)).map(str::to_owned),
            srtp: ssl.selected_srtp_profile().map(|profile| profile.name().to_owned()),
            resumed,
            min_ciphertext,
        }
    }
}

impl DtlsSession {
    /// Takes over from OpenSSL, whose handshake is complete: derives the keys. `early` are records that arrived before the
    /// handshake was complete.
    pub(super) fn take_over(
        ssl: &SslRef,
        next: NextRecord,
        early: VecDeque<Box<[u8]>>,
        socket: Arc<Socket>,
        counters: Arc<Counters>,
    ) -> Result<Self, Failure> {
        let suite = ssl.current_cipher().map(|cipher| cipher.name()).unwrap_or_default();
        let (Some(secrets), Some(aead)) = (Secrets::of(ssl), Aead::of_suite(suite)) else {
            let why =
                format!("the cipher suite {suite:?} is not one of those that DTLS sessions can use here");
            return Err(Failure::Ended(EndReason::HandshakeFailed(why)));
        };
        let (client, server) = secrets.key_block(aead);
        let (ours, theirs) = if ssl.is_server() { (server, client) } else { (client, server) };
        Ok(Self {
            socket,
            counters,
            sealer: Sealer::new(aead, &ours, next.sequence, next.nonce).map_err(broken)?,
            opener: Opener::new(aead, &theirs).map_err(broken)?,
            secrets,
            rest: Vec::new(),
            early,
            flight_is_wanted: false,
            refusals: 0,
            closed: false,
        })
    }

    /// Decrypts a datagram in place and reads the first message in it. `datagram` comes back with its memory and without
    /// its content.
    pub(crate) fn feed(&mut self, datagram: &mut Vec<u8>, buffer: &mut [u8]) -> Read {
        if datagram.is_empty() {
            bump(&self.counters.records_dropped);
        }
        let mut at = 0;
        let read = self.open(datagram, &mut at, buffer);
        if at < datagram.len() {
            // Rare: few peers put several records into a datagram.
            self.rest = datagram[at..].to_vec();
        }
        datagram.clear();
        read
    }

    /// Whether the last datagram, or one that came during the handshake, may hold more than was read.
    pub(crate) fn has_more(&self) -> bool {
        !self.rest.is_empty() || !self.early.is_empty()
    }

    /// Reads the next message of what was fed.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Read {
        while self.has_more() {
            let mut datagram = match std::mem::take(&mut self.rest) {
                rest if rest.is_empty() => self.early.pop_front().unwrap_or_default().into_vec(),
                rest => rest,
            };
            match self.feed(&mut datagram, buffer) {
                Read::Nothing => {}
                read => return read,
            }
        }
        Read::Nothing
    }

    /// Whether our last flight is to be sent again; once for each time that the peer asked for it.
    pub(crate) fn take_flight_request(&mut self) -> bool {
        std::mem::take(&mut self.flight_is_wanted)
    }

    fn open(&mut self, datagram: &mut [u8], at: &mut usize, buffer: &mut [u8]) -> Read {
        while let Some(opened) = self.opener.open(datagram, at) {
            match opened {
                Opened::Data(range) => {
                    let message = &datagram[range];
                    return match buffer.get_mut(..message.len()) {
                        Some(room) => {
                            room.copy_from_slice(message);
                            Read::Message(message.len())
                        }
                        None => Read::Long(message.to_vec()),
                    };
                }
                Opened::Alert { description, .. } if Alert(description) == Alert::CLOSE_NOTIFY => {
                    return Read::Closed;
                }
                // Other warnings ask for nothing.
                Opened::Alert { level: wire::WARNING, .. } => {}
                Opened::Alert { description, .. } => return Read::Broken(Alert(description).to_string()),
                Opened::Handshake(range) => match datagram[range].first() {
                    Some(&wire::FINISHED) => self.flight_is_wanted = true,
                    Some(&(wire::HELLO_REQUEST | wire::CLIENT_HELLO)) => self.refuse_renegotiation(),
                    _ => bump(&self.counters.records_dropped),
                },
                Opened::Dropped(Dropped::Forged) => {
                    bump(&self.counters.records_forged);
                    bump(&self.counters.records_dropped);
                }
                Opened::Dropped(_) => bump(&self.counters.records_dropped),
                Opened::KeyExhausted => {
                    return Read::Broken("too many records failed their authentication".to_owned());
                }
            }
        }
        Read::Nothing
    }

    /// RFC 5246 §7.2.2: a warning, after which the session goes on as it was.
    fn refuse_renegotiation(&mut self) {
        if self.refusals < MAX_REFUSALS {
            self.refusals += 1;
            self.send_alert(wire::WARNING, Alert::NO_RENEGOTIATION);
        }
    }

    /// Tells the peer that it may not come in, instead of close_notify.
    pub(crate) fn deny(&mut self) {
        if !std::mem::replace(&mut self.closed, true) {
            self.send_alert(wire::FATAL, Alert::ACCESS_DENIED);
        }
    }

    fn send_alert(&mut self, level: u8, Alert(description): Alert) {
        let mut record = Vec::new();
        if self.sealer.seal_alert(level, description, &mut record).is_ok() {
            let _ = datagram::send(&self.socket, &record);
        }
    }

    /// Encrypts one message and sends its record; never blocks. A record that finds the send
    /// buffer full is dropped and its message counts as not sent: DTLS allows gaps.
    pub(crate) fn write(&mut self, message: &[u8]) -> Sent {
        let mut record = Vec::new();
        match self.sealer.seal_data(message, &mut record) {
            Ok(()) => datagram::send(&self.socket, &record),
            Err(SealError::TooLong) => Sent::TooLarge,
            Err(SealError::KeyExhausted) => {
                Sent::Broken("the key has encrypted as many records as it may".to_owned())
            }
            Err(SealError::Crypto) => Sent::Broken("OpenSSL cannot encrypt".to_owned()),
        }
    }

    /// Sends close_notify, once.
    pub(crate) fn close(&mut self) {
        if !std::mem::replace(&mut self.closed, true) {
            self.send_alert(wire::WARNING, Alert::CLOSE_NOTIFY);
        }
    }

    /// Fills `out` with exported keying material (RFC 5705).
    pub(crate) fn export(
        &self,
        label: &str,
        context: Option<&[u8]>,
        out: &mut [u8],
    ) -> Result<(), RefusedExport> {
        self.secrets.export(label, context, out)
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

/// One line for what OpenSSL reports: the peer's alert, or the reason of its first error.
pub(super) fn describe(error: &openssl::ssl::Error) -> String {
    let first = error.ssl_error().and_then(|stack| stack.errors().first());
    if let Some(alert) = first.and_then(|first| Alert::of_reason_code(first.reason_code())) {
        return alert.to_string();
    }
    let reason = first.and_then(|first| first.reason());
    match (reason, error.io_error()) {
        (Some(reason), _) => reason.to_owned(),
        (None, Some(io)) => io.to_string(),
        // OpenSSL calls this an unexpected end, also on datagrams, which have none.
        (None, None) => "OpenSSL gave up without a reason, as it does for some malformed messages".to_owned(),
    }
}

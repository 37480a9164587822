//! An open DTLS 1.2 session (RFC 6347): the record layer, and the socket that its records leave by.

use std::collections::VecDeque;
use std::sync::Arc;

use openssl::ssl::SslRef;
use socket2::Socket;

use super::Sent;
use super::datagram;

use crate::error::EndReason;
use crate::observe::{Counters, bump};
use crate::protocol::alert::Alert;
use crate::protocol::dtls::keys::{RefusedExport, Secrets};
use crate::protocol::dtls::suite::Aead;
use crate::protocol::dtls::{Dropped, Opened, Opener, SealError, Sealer};
use crate::tls::handshake::broken;
use crate::tls::{Failure, Read};

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

//! A protocol's state together with the socket that its messages leave by.

use std::sync::Arc;
use std::time::Instant;

use openssl::ssl::SslRef;
use socket2::Socket;

use super::sctp::SctpSession;
use super::stream::StreamSession;
use crate::net::udp;
use crate::protocol::{RECORD_MAX, Sent, dtls};
use crate::sctp::SendInfo;

/// The longest payload of a UDP datagram: 65,535 bytes less the headers (RFC 768, RFC 791,
/// RFC 8200).
const UDP_MAX_V4: usize = 65_507;
const UDP_MAX_V6: usize = 65_527;

/// A session that is open.
pub(crate) enum Session {
    /// Messages are datagrams.
    Plain(Arc<Socket>),
    /// Messages are DTLS 1.2 application data records.
    Dtls(Box<dtls::session::Session>, Arc<Socket>),
    /// Messages go over SCTP, in clear or not.
    Sctp(Box<SctpSession>),
    /// Messages are parts of a stream over TCP, in clear or with TLS.
    Stream(Box<StreamSession>),
}

impl Session {
    /// Sends one message; never blocks. `how` is for SCTP alone.
    pub(crate) fn send(&mut self, message: &[u8], how: &SendInfo) -> Sent {
        match self {
            Self::Plain(socket) => udp::send(socket, message),
            Self::Dtls(session, socket) => {
                let mut record = Vec::new();
                match session.seal(message, &mut record) {
                    // DTLS allows gaps: a record that finds the send buffer full is dropped, and its message not sent.
                    Sent::Done => udp::send(socket, &record),
                    failed => failed,
                }
            }
            Self::Sctp(session) => session.write(message, how),
            Self::Stream(session) => session.write(message),
        }
    }

    /// Sends what was taken and found no room, as far as there is some; `false` if some of it is left.
    pub(crate) fn flush(&mut self) -> bool {
        match self {
            Self::Plain(_) | Self::Dtls(..) => true,
            Self::Sctp(session) => session.flush(),
            Self::Stream(session) => session.flush(),
        }
    }

    /// Whether something was taken and waits for room.
    pub(crate) fn has_unsent(&self) -> bool {
        match self {
            Self::Plain(_) | Self::Dtls(..) => false,
            Self::Sctp(session) => session.has_unsent(),
            Self::Stream(session) => session.has_unsent(),
        }
    }

    /// Fills `out` with exported keying material (RFC 5705, RFC 8446 §7.5), on SCTP from the session of stream 0; `false`
    /// without encryption, or where the label or the context cannot be used.
    pub(crate) fn export(&self, label: &str, context: Option<&[u8]>, out: &mut [u8]) -> bool {
        let mut of_openssl = |ssl: Option<&SslRef>| {
            ssl.is_some_and(|ssl| ssl.export_keying_material(out, label, context).is_ok())
        };
        match self {
            Self::Plain(_) => false,
            Self::Dtls(session, _) => session.export(label, context, out).is_ok(),
            Self::Sctp(session) => of_openssl(session.ssl()),
            Self::Stream(session) => of_openssl(session.core().ssl()),
        }
    }

    /// Says goodbye where the protocol has a word for it. Waits, until `deadline` at most, only for what RFC 6083 §4.7 wants
    /// acknowledged before.
    pub(crate) fn close(&mut self, deadline: Instant) {
        match self {
            Self::Plain(_) => {}
            Self::Dtls(session, socket) => {
                session.close();
                transmit(session, socket);
            }
            Self::Sctp(session) => session.close(deadline),
            Self::Stream(session) => session.close(),
        }
    }

    /// The longest message, in bytes.
    pub(crate) fn max_message(&self, peer_is_v4: bool) -> usize {
        match self {
            Self::Plain(_) if peer_is_v4 => UDP_MAX_V4,
            Self::Plain(_) => UDP_MAX_V6,
            Self::Dtls(..) => RECORD_MAX,
            Self::Sctp(session) => session.max_message(),
            Self::Stream(session) => session.core().max_message(),
        }
    }

    /// The shortest message, in bytes: OpenSSL drops empty records, SCTP has no empty messages (RFC 9260
    /// §3.3.1), and nothing added to a stream is nothing.
    pub(crate) fn min_message(&self) -> usize {
        match self {
            Self::Plain(_) => 0,
            Self::Dtls(..) | Self::Sctp(_) => 1,
            Self::Stream(session) => session.core().min_message(),
        }
    }
}

/// Sends what a DTLS session has to say. What the kernel does not take is lost on the way.
pub(crate) fn transmit(session: &mut dtls::session::Session, socket: &Socket) {
    while let Some(datagram) = session.poll_transmit() {
        let _ = udp::send(socket, &datagram);
    }
}

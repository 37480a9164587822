//! Security state of one association: what a message looks like on the wire, and nothing else.

pub(crate) mod context;
pub(crate) mod datagram;
pub(crate) mod dtls;
pub(crate) mod handshake;
pub mod record;

use std::sync::Arc;

use socket2::Socket;

use self::dtls::DtlsSession;

/// The longest payload of a UDP datagram: 65,535 bytes less the headers (RFC 768, RFC 791,
/// RFC 8200).
const UDP_MAX_V4: usize = 65_507;
const UDP_MAX_V6: usize = 65_527;

/// The longest plaintext of a DTLS record (RFC 6347 §4.1, RFC 5246 §6.2.1).
const RECORD_MAX: usize = 16_384;

/// What sending a message came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It left, or as good: UDP promises no more.
    Done,
    /// The socket's send buffer is full; nothing was sent.
    Full,
    /// The kernel says that it is too long.
    TooLarge,
    /// The session is of no use any more.
    Broken(String),
}

/// A session that is open.
pub(crate) enum Session {
    /// Messages are datagrams.
    Plain(Arc<Socket>),
    /// Messages are DTLS 1.2 application data records.
    Dtls(Box<DtlsSession>),
}

impl Session {
    /// Sends one message; never blocks.
    pub(crate) fn send(&mut self, message: &[u8]) -> Sent {
        match self {
            Self::Plain(socket) => datagram::send(socket, message),
            Self::Dtls(session) => session.write(message),
        }
    }

    /// Says goodbye where the protocol has a word for it.
    pub(crate) fn close(&mut self) {
        if let Self::Dtls(session) = self {
            session.close();
        }
    }

    /// The longest message, in bytes.
    pub(crate) fn max_message(&self, peer_is_v4: bool) -> usize {
        match self {
            Self::Plain(_) if peer_is_v4 => UDP_MAX_V4,
            Self::Plain(_) => UDP_MAX_V6,
            Self::Dtls(_) => RECORD_MAX,
        }
    }

    /// The shortest message, in bytes: OpenSSL drops empty records.
    pub(crate) fn min_message(&self) -> usize {
        match self {
            Self::Plain(_) => 0,
            Self::Dtls(_) => 1,
        }
    }
}

//! The session of an association: the state of its protocol, and the socket or memory through which its messages leave.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::memory::MemorySession;
use super::sctp::SctpSession;
use super::stream::StreamSession;
use crate::error::EndReason;
use crate::net::egress::Egress;
use crate::net::udp;
use crate::protocol::dtls::session::{Move, Transmit};
use crate::protocol::exporter::{Exporter, RefusedExport};
use crate::protocol::sctp::secure_sctp::SecureSctp;
use crate::protocol::{RECORD_MAX, Sent, dtls};
use crate::sctp::SendInfo;

/// The largest record buffer that a thread keeps, in bytes: enough for a datagram that routers do not fragment.
const MAX_KEPT: usize = 2048;

thread_local! {
    /// The buffer for the record that is being sent, unless the caller has another.
    static RECORD: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Calls `call` with an empty buffer for records, which the thread reuses.
pub(crate) fn with_record<T>(call: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    // While a thread ends, its thread-local buffer is gone.
    let mut record = RECORD.try_with(Cell::take).unwrap_or_default();
    let result = call(&mut record);
    if record.capacity() <= MAX_KEPT {
        let _ = RECORD.try_with(|kept| kept.set(record));
    }
    result
}

/// Frees the record buffer that the calling thread keeps.
pub(crate) fn release_record() {
    RECORD.take();
}

/// An open session.
pub(crate) enum Session {
    /// Messages are datagrams.
    Plain(Egress),
    /// Messages are DTLS 1.2 application data records.
    Dtls(Box<dtls::session::Session>, Egress),
    /// Messages go over SCTP, in clear or with TLS or DTLS.
    Sctp(Box<SctpSession>),
    /// Messages are parts of a stream over TCP, in clear or with TLS.
    Stream(Box<StreamSession>),
    /// Messages stay in this process.
    Memory(Box<MemorySession>),
}

impl Session {
    /// Sends one message; never blocks. `how` applies to SCTP only. `record` is an empty buffer for a record, and is
    /// empty again afterwards.
    pub(crate) fn send(&mut self, message: &[u8], how: &SendInfo, record: &mut Vec<u8>) -> Sent {
        match self {
            Self::Plain(egress) => egress.send(message),
            Self::Dtls(session, egress) => {
                let sent = match session.seal(message, record) {
                    // DTLS allows gaps: if the send buffer is full, the record is dropped and its message is not sent.
                    Sent::Done => egress.send_to(session.destination(record.len()), record),
                    failed => failed,
                };
                record.clear();
                sent
            }
            Self::Sctp(session) => session.write(message, how),
            Self::Stream(session) => session.write(message),
            Self::Memory(session) => session.send(message, how),
        }
    }

    /// Sends accepted data that waits for room, as far as there is room. Returns `false` if some of it is left.
    pub(crate) fn flush(&mut self) -> bool {
        match self {
            Self::Plain(_) | Self::Dtls(..) | Self::Memory(_) => true,
            Self::Sctp(session) => session.flush(),
            Self::Stream(session) => session.flush(),
        }
    }

    /// Returns whether accepted data waits for room.
    pub(crate) fn has_unsent(&self) -> bool {
        match self {
            Self::Plain(_) | Self::Dtls(..) | Self::Memory(_) => false,
            Self::Sctp(session) => session.has_unsent(),
            Self::Stream(session) => session.has_unsent(),
        }
    }

    /// Returns whether each read from the socket is a message for the handler, unchanged.
    pub(crate) fn is_direct(&self) -> bool {
        match self {
            Self::Plain(_) | Self::Memory(_) => true,
            Self::Dtls(..) => false,
            Self::Sctp(session) => !session.is_secure(),
            Self::Stream(session) => !session.core().is_secure() && !self.is_framed(),
        }
    }

    /// Returns whether a framing splits the stream into messages.
    pub(crate) fn is_framed(&self) -> bool {
        matches!(self, Self::Stream(session) if session.core().is_framed())
    }

    /// Returns the peer's new address, once for each move; see [`set_peer_address`](Self::set_peer_address).
    pub(crate) fn take_move(&mut self) -> Option<Move> {
        match self {
            Self::Dtls(session, _) => session.take_move(),
            _ => None,
        }
    }

    /// Uses this address for the peer from now on.
    ///
    /// # Errors
    ///
    /// Fails if the kernel has no route to the address, or does not allow it.
    pub(crate) fn set_peer_address(&mut self, peer: SocketAddr) -> io::Result<()> {
        let Self::Dtls(session, egress) = self else { return Ok(()) };
        egress.set_peer_address(peer)?;
        session.set_peer_address(peer);
        Ok(())
    }

    /// Returns whether part of a message has arrived. Valid only if nothing is left to read.
    pub(crate) fn is_begun(&self) -> bool {
        matches!(self, Self::Stream(session) if session.core().is_begun())
    }

    /// Returns whether there may be something left to read in the data that has arrived.
    pub(crate) fn has_more(&self) -> bool {
        match self {
            Self::Plain(_) | Self::Memory(_) => false,
            Self::Dtls(session, _) => session.has_more(),
            Self::Sctp(session) => session.has_more(),
            Self::Stream(session) => session.core().has_more(),
        }
    }

    /// Returns the source of exported keying material (RFC 5705, RFC 8446 §7.5); on SCTP, the session of stream 0.
    ///
    /// # Errors
    ///
    /// See [`RefusedExport`].
    pub(crate) fn exporter(&self) -> Result<Exporter<'_>, RefusedExport> {
        let session = match self {
            Self::Plain(_) | Self::Memory(_) => None,
            Self::Dtls(session, _) => Some(session.exporter()),
            Self::Sctp(session) => session.security().map(SecureSctp::exporter),
            Self::Stream(session) => session.core().ssl().map(|ssl| Ok(Exporter::OpenSsl(ssl))),
        };
        session.unwrap_or(Err(RefusedExport::NoSession))
    }

    /// Ends the association for this reason, as gently as the reason allows. Blocks until the kernel has taken the
    /// pending data of a stream, for a second at most, or until the peer has acknowledged everything on secured SCTP,
    /// for two seconds at most; in both cases for `patience` at most.
    pub(crate) fn end(&mut self, reason: &EndReason, patience: Duration) {
        self.begin_end(reason, patience, Instant::now());
        self.await_end();
    }

    /// Returns how long an end may take. A stream whose server is stopped does not wait, because its peer has had its
    /// time.
    pub(crate) fn patience(&self, patience: Duration, is_stopped: bool) -> Duration {
        if is_stopped && matches!(self, Self::Stream(_)) { Duration::ZERO } else { patience }
    }

    /// Begins the end of the association for this reason. [`continue_end`](Self::continue_end) comes next. Does not
    /// block.
    pub(crate) fn begin_end(&mut self, reason: &EndReason, patience: Duration, now: Instant) {
        match self {
            Self::Plain(_) | Self::Memory(_) => {}
            Self::Dtls(session, egress) => {
                match reason {
                    EndReason::Protocol(_) | EndReason::Replaced => {}
                    EndReason::NotAuthorized(_) => session.deny(),
                    _ => session.close(),
                }
                transmit(session, egress);
            }
            Self::Sctp(session) => session.begin_end(reason, patience, now),
            Self::Stream(session) => session.begin_end(reason, patience, now),
        }
    }

    /// Continues an end that has begun. Does not block. Returns `None` if the end is complete: the socket may then be
    /// closed, on SCTP after a [discard](crate::net::Transport::discard). Otherwise call this again at the returned
    /// time, or when the socket becomes writable or readable.
    pub(crate) fn continue_end(&mut self, now: Instant) -> Option<Instant> {
        match self {
            Self::Plain(_) | Self::Dtls(..) | Self::Memory(_) => None,
            Self::Sctp(session) => session.continue_end(now),
            Self::Stream(session) => session.continue_end(now),
        }
    }

    /// Completes an end that has begun; blocks until then.
    pub(crate) fn await_end(&mut self) {
        let (mut now, mut watch) = (Instant::now(), None);
        while let Some(until) = self.continue_end(now) {
            let left = until.saturating_duration_since(Instant::now());
            let goes_on = match self {
                Self::Sctp(session) => session.await_progress(&mut watch, left),
                Self::Stream(session) => session.wait_for_room(left),
                _ => false,
            };
            now = if goes_on { Instant::now() } else { until };
        }
    }

    /// Returns the size of the longest message, in bytes.
    pub(crate) fn max_message(&self, peer_is_v4: bool) -> usize {
        match self {
            Self::Plain(_) => udp::longest(peer_is_v4),
            Self::Dtls(..) => RECORD_MAX,
            Self::Sctp(session) => session.max_message(),
            Self::Stream(session) => session.core().max_message(),
            Self::Memory(session) => session.max_message,
        }
    }

    /// Returns the size of the shortest message, in bytes: OpenSSL drops empty records, SCTP has no empty messages (RFC
    /// 9260 §3.3.1), and an empty write to a stream sends nothing.
    pub(crate) fn min_message(&self) -> usize {
        match self {
            Self::Plain(_) => 0,
            Self::Dtls(..) | Self::Sctp(_) => 1,
            Self::Stream(session) => session.core().min_message(),
            Self::Memory(session) => session.min_message(),
        }
    }
}

/// Sends the datagrams of a DTLS session. Those that the kernel does not take are lost, like datagrams in the network.
pub(crate) fn transmit(session: &mut dtls::session::Session, egress: &Egress) {
    while let Some(Transmit { to, datagram }) = session.poll_transmit() {
        let _ = egress.send_to(to, &datagram);
    }
}

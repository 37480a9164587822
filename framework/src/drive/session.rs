//! A protocol's state together with the socket, or the memory, that its messages leave by.

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

/// The longest memory for a record that a thread keeps, in bytes: that of a datagram which no router cuts.
const MOST_KEPT: usize = 2048;

thread_local! {
    /// Memory for the record that is being sent.
    static RECORD: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Calls with memory for one record, which the thread uses again.
fn with_record(call: impl FnOnce(&mut Vec<u8>) -> Sent) -> Sent {
    // At its very end a thread has none to keep.
    let mut record = RECORD.try_with(Cell::take).unwrap_or_default();
    let sent = call(&mut record);
    if record.capacity() <= MOST_KEPT {
        record.clear();
        let _ = RECORD.try_with(|kept| kept.set(record));
    }
    sent
}

/// Gives back the memory that the calling thread keeps for records.
pub(crate) fn release_record() {
    RECORD.take();
}

/// A session that is open.
pub(crate) enum Session {
    /// Messages are datagrams.
    Plain(Egress),
    /// Messages are DTLS 1.2 application data records.
    Dtls(Box<dtls::session::Session>, Egress),
    /// Messages go over SCTP, in clear or not.
    Sctp(Box<SctpSession>),
    /// Messages are parts of a stream over TCP, in clear or with TLS.
    Stream(Box<StreamSession>),
    /// Messages stay in this process.
    Memory(Box<MemorySession>),
}

impl Session {
    /// Sends one message; never blocks. `how` is for SCTP alone.
    pub(crate) fn send(&mut self, message: &[u8], how: &SendInfo) -> Sent {
        match self {
            Self::Plain(egress) => egress.send(message),
            Self::Dtls(session, egress) => with_record(|record| match session.seal(message, record) {
                // DTLS allows gaps: a record that finds the send buffer full is dropped, and its message not sent.
                Sent::Done => egress.send_to(session.destination(record.len()), record),
                failed => failed,
            }),
            Self::Sctp(session) => session.write(message, how),
            Self::Stream(session) => session.write(message),
            Self::Memory(session) => session.send(message, how),
        }
    }

    /// Sends what was taken and found no room, as far as there is some; `false` if some of it is left.
    pub(crate) fn flush(&mut self) -> bool {
        match self {
            Self::Plain(_) | Self::Dtls(..) | Self::Memory(_) => true,
            Self::Sctp(session) => session.flush(),
            Self::Stream(session) => session.flush(),
        }
    }

    /// Whether something was taken and waits for room.
    pub(crate) fn has_unsent(&self) -> bool {
        match self {
            Self::Plain(_) | Self::Dtls(..) | Self::Memory(_) => false,
            Self::Sctp(session) => session.has_unsent(),
            Self::Stream(session) => session.has_unsent(),
        }
    }

    /// Whether what is read from the socket is a message for the handler as it is.
    pub(crate) fn is_direct(&self) -> bool {
        match self {
            Self::Plain(_) | Self::Memory(_) => true,
            Self::Dtls(..) => false,
            Self::Sctp(session) => !session.is_secure(),
            Self::Stream(session) => !session.core().is_secure() && !self.is_framed(),
        }
    }

    /// Whether messages come out of a stream by its framing.
    pub(crate) fn is_framed(&self) -> bool {
        matches!(self, Self::Stream(session) if session.core().is_framed())
    }

    /// Where the peer is from now on, once; see [`follow`](Self::follow).
    pub(crate) fn take_move(&mut self) -> Option<Move> {
        match self {
            Self::Dtls(session, _) => session.take_move(),
            _ => None,
        }
    }

    /// The peer is at this address from now on.
    ///
    /// # Errors
    ///
    /// The kernel has no route to it, or does not allow it.
    pub(crate) fn follow(&mut self, peer: SocketAddr) -> io::Result<()> {
        let Self::Dtls(session, egress) = self else { return Ok(()) };
        egress.follow(peer)?;
        session.follow(peer);
        Ok(())
    }

    /// Whether part of a message has come. To be asked when nothing is left to read.
    pub(crate) fn is_begun(&self) -> bool {
        matches!(self, Self::Stream(session) if session.core().is_begun())
    }

    /// Whether there may be something left to read of what has come.
    pub(crate) fn has_more(&self) -> bool {
        match self {
            Self::Plain(_) | Self::Memory(_) => false,
            Self::Dtls(session, _) => session.has_more(),
            Self::Sctp(session) => session.has_more(),
            Self::Stream(session) => session.core().has_more(),
        }
    }

    /// What keying material is exported from (RFC 5705, RFC 8446 §7.5), on SCTP the session of stream 0.
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

    /// Ends the association for this reason, as gently as it allows. Blocks until the kernel has what waits on a stream, for a
    /// second at most, and until the peer has acknowledged what was sent on secured SCTP, for two seconds at most, and on both
    /// for `patience` at most.
    pub(crate) fn end(&mut self, reason: &EndReason, patience: Duration) {
        self.begin_end(reason, patience, Instant::now());
        self.await_end();
    }

    /// How long an end may take: a stream whose peer had its time when the server stopped waits for nothing.
    pub(crate) fn patience(&self, patience: Duration, is_stopped: bool) -> Duration {
        if is_stopped && matches!(self, Self::Stream(_)) { Duration::ZERO } else { patience }
    }

    /// Begins the end of the association for this reason. [`continue_end`](Self::continue_end) comes next. Does not block.
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

    /// Gets an end that has begun on. Does not block. `None`: it is over, and the socket may be closed, on SCTP after a
    /// [discard](crate::net::Transport::discard). Otherwise this is to be called again at that time, or when the socket becomes
    /// writable or readable.
    pub(crate) fn continue_end(&mut self, now: Instant) -> Option<Instant> {
        match self {
            Self::Plain(_) | Self::Dtls(..) | Self::Memory(_) => None,
            Self::Sctp(session) => session.continue_end(now),
            Self::Stream(session) => session.continue_end(now),
        }
    }

    /// Gets an end that has begun on until it is over; blocks until then.
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

    /// The longest message, in bytes.
    pub(crate) fn max_message(&self, peer_is_v4: bool) -> usize {
        match self {
            Self::Plain(_) => udp::longest(peer_is_v4),
            Self::Dtls(..) => RECORD_MAX,
            Self::Sctp(session) => session.max_message(),
            Self::Stream(session) => session.core().max_message(),
            Self::Memory(session) => session.max_message,
        }
    }

    /// The shortest message, in bytes: OpenSSL drops empty records, SCTP has no empty messages (RFC 9260
    /// §3.3.1), and nothing added to a stream is nothing.
    pub(crate) fn min_message(&self) -> usize {
        match self {
            Self::Plain(_) => 0,
            Self::Dtls(..) | Self::Sctp(_) => 1,
            Self::Stream(session) => session.core().min_message(),
            Self::Memory(session) => session.min_message(),
        }
    }
}

/// Sends what a DTLS session has to say. What the kernel does not take is lost on the way.
pub(crate) fn transmit(session: &mut dtls::session::Session, egress: &Egress) {
    while let Some(Transmit { to, datagram }) = session.poll_transmit() {
        let _ = egress.send_to(to, &datagram);
    }
}

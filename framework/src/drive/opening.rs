//! The steps before an association is open: a PROXY header and a handshake. No step blocks. The driver passes in the
//! peer's data and the time, and messages to the peer leave on the way.
//!
//! 1. [`start`](Opening::start) begins. Each call returns whether the session is open, or why it has failed.
//! 2. The result of each read of the socket goes to [`handle_arrival`](Opening::handle_arrival), and so does a wake-up
//!    because the send buffer has room.
//! 3. At [`next_timeout`](Opening::next_timeout) the driver calls [`handle_timeout`](Opening::handle_timeout).
//! 4. [`finish`](Opening::finish) returns the open session. After a failure, [`give_up`](Opening::give_up) returns the
//!    session that has to be ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::Socket;

use super::sctp::SctpSession;
use super::session::Session;
use super::stream::StreamSession;
use crate::error::EndReason;
use crate::net::Arrival;
use crate::net::egress::Egress;
use crate::net::tcp::reset;
use crate::protocol::dtls::handshake::Handshake;
use crate::protocol::sctp::secure_sctp::SecureSctp;
use crate::protocol::stream::proxy::{Header, ProxiedAddresses};
use crate::sctp::MessageInfo;
use crate::tls::{Failure, HandshakeSummary};

/// An association that is not open yet.
pub(crate) enum Opening {
    /// There is no handshake.
    Plain(Session),
    /// A header of the PROXY protocol comes first.
    Proxied(Proxied),
    /// A DTLS handshake, and where its datagrams leave.
    Dtls(Box<Handshake>, Egress),
    /// A handshake of TLS or DTLS over SCTP.
    Sctp(Box<SctpSession>),
    /// A TLS handshake, and the time at which it fails if it is not complete.
    Tls(Box<StreamSession>, Instant),
}

/// Decides about a connection with this PROXY header, or with this error in it, and returns the opening that follows
/// the header.
type OnHeader = dyn Fn(Result<Option<ProxiedAddresses>, &'static str>) -> Result<Opening, Failure> + Send;

/// A connection whose PROXY header has not arrived.
pub(crate) struct Proxied {
    header: Header,
    socket: Arc<Socket>,
    deadline: Instant,
    on_header: Box<OnHeader>,
}

impl Proxied {
    /// Makes the state of a connection that waits for the header until `deadline`.
    pub(crate) fn new(socket: Arc<Socket>, deadline: Instant, on_header: Box<OnHeader>) -> Self {
        Self { header: Header::default(), socket, deadline, on_header }
    }
}

impl Opening {
    /// Begins. Returns `true` if the session is open.
    ///
    /// # Errors
    ///
    /// Fails if the handshake has failed.
    pub(crate) fn start(&mut self, now: Instant) -> Result<bool, Failure> {
        match self {
            Self::Plain(_) => Ok(true),
            Self::Dtls(handshake, egress) => {
                let begun = handshake.start(now);
                transmit(handshake, egress);
                begun
            }
            Self::Proxied(_) | Self::Sctp(_) | Self::Tls(..) => self.advance(),
        }
    }

    /// Takes the result of a read. Returns `true` if the session is open. The bytes of a message are in
    /// [`room`](Self::room) if that is not empty, and otherwise in `input`, whose memory may be exchanged.
    ///
    /// # Errors
    ///
    /// Fails if the handshake has failed or the peer has restarted.
    pub(crate) fn handle_arrival(
        &mut self,
        arrival: Arrival,
        input: &mut Vec<u8>,
        info: MessageInfo,
        now: Instant,
    ) -> Result<bool, Failure> {
        let is_open = match (arrival, &mut *self) {
            (Arrival::Message(len), Self::Proxied(proxied)) => match proxied.header.filled(len) {
                Ok(None) => false,
                Ok(Some(addresses)) => self.on_header(Ok(addresses), now)?,
                Err(why) => self.on_header(Err(why), now)?,
            },
            (Arrival::Message(_), _) => self.handle_message(input, info, now)?,
            (Arrival::TooLong, _) => return Err(Failure::of("a message is too long for a handshake")),
            (Arrival::Over(EndReason::ClosedByPeer), Self::Proxied(_)) => {
                return Err(Failure::of("the proxy closed the connection before its header was complete"));
            }
            (Arrival::Over(EndReason::ClosedByPeer), _) => {
                return Err(Failure::of("the peer closed the connection during the handshake"));
            }
            (Arrival::Over(EndReason::Replaced), _) => return Err(Failure::RestartedSctp),
            (Arrival::Over(reason), _) => return Err(Failure::Ended(reason)),
            (Arrival::Dry | Arrival::Woken | Arrival::TimedOut | Arrival::Notification(_), _) => {
                self.advance()?
            }
        };
        // The deadline is checked here too, because a peer could otherwise prevent the check by sending without a
        // pause.
        if is_open { Ok(true) } else { self.handle_timeout(now) }
    }

    fn handle_message(
        &mut self,
        message: &mut Vec<u8>,
        info: MessageInfo,
        now: Instant,
    ) -> Result<bool, Failure> {
        match self {
            Self::Dtls(handshake, egress) => {
                let advanced = handshake.handle_datagram(message, now);
                transmit(handshake, egress);
                return advanced;
            }
            Self::Sctp(session) => session.state.handle_message(message, info)?,
            Self::Tls(session, _) => session.feed(message),
            Self::Plain(_) | Self::Proxied(_) => {}
        }
        let advanced = self.advance();
        if let Self::Tls(session, _) = self {
            session.core.give_back(message);
        }
        advanced
    }

    /// Does the work that is due, if any. Returns `true` if the session is open.
    ///
    /// # Errors
    ///
    /// Fails if the handshake has failed.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Result<bool, Failure> {
        match self {
            Self::Dtls(handshake, egress) => {
                let advanced = handshake.handle_timeout(now);
                transmit(handshake, egress);
                advanced
            }
            Self::Proxied(Proxied { deadline, .. }) if now >= *deadline => {
                self.on_header(Err("the PROXY header was not complete in time"), now)
            }
            Self::Sctp(session) => session.state.handle_timeout(now).map(|()| false),
            Self::Tls(_, deadline) if now >= *deadline => Err(Failure::Ended(EndReason::HandshakeTimedOut)),
            _ => Ok(false),
        }
    }

    /// Returns when to call [`handle_timeout`](Self::handle_timeout).
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        match self {
            Self::Plain(_) => None,
            Self::Proxied(Proxied { deadline, .. }) | Self::Tls(_, deadline) => Some(*deadline),
            Self::Dtls(handshake, _) => Some(handshake.next_timeout()),
            Self::Sctp(session) => session.state.next_timeout(),
        }
    }

    /// Returns the buffer for the next read. If it is empty, the driver reads into its own memory, as much as there is.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        match self {
            Self::Proxied(proxied) => proxied.header.room(),
            _ => &mut [],
        }
    }

    /// Returns whether data waits for room in the send buffer.
    pub(crate) fn awaits_room(&self) -> bool {
        matches!(self, Self::Tls(session, _) if session.has_unsent())
    }

    /// Returns whether a PROXY header is missing.
    pub(crate) fn awaits_header(&self) -> bool {
        matches!(self, Self::Proxied(_))
    }

    /// Returns the open session and the summary of the handshake.
    ///
    /// # Errors
    ///
    /// Fails if the session cannot be used.
    pub(crate) fn finish(self) -> Result<(Session, HandshakeSummary), Failure> {
        Ok(match self {
            Self::Plain(session) => (session, HandshakeSummary::default()),
            Self::Proxied(_) => return Err(Failure::of("there is no PROXY header")),
            Self::Dtls(handshake, egress) => {
                let (session, summary) = handshake.finish()?;
                (Session::Dtls(Box::new(session), egress), summary)
            }
            Self::Sctp(session) => {
                let summary = session.security().map(SecureSctp::summary).unwrap_or_default();
                (Session::Sctp(session), summary)
            }
            Self::Tls(session, _) => {
                let summary = session.core().summary();
                (Session::Stream(session), summary)
            }
        })
    }

    /// Tells the peer that there will be no session, for this reason. If this returns a session, the driver continues
    /// with [`continue_end`](Session::continue_end). Otherwise the socket may be closed.
    pub(crate) fn give_up(self, failure: &Failure, now: Instant) -> Option<Session> {
        let reason = match failure {
            Failure::Ended(reason) => reason.clone(),
            Failure::Unverified(why) => EndReason::HandshakeFailed(why.clone()),
            Failure::Restarted(_) | Failure::RestartedSctp => return None,
        };
        match self {
            Self::Plain(_) => None,
            Self::Proxied(proxied) => {
                reset(&proxied.socket);
                None
            }
            Self::Dtls(mut handshake, egress) => {
                if matches!(reason, EndReason::Shutdown | EndReason::Evicted) {
                    handshake.abort();
                    transmit(&mut handshake, &egress);
                }
                None
            }
            // An alert may still have to be sent.
            Self::Sctp(mut session) => {
                session.begin_end(&reason, Duration::MAX, now);
                Some(Session::Sctp(session))
            }
            Self::Tls(mut session, _) => {
                session.begin_end_without_close_notify(now);
                Some(Session::Stream(session))
            }
        }
    }

    /// Continues without new data of the peer, because the send buffer may have room.
    fn advance(&mut self) -> Result<bool, Failure> {
        match self {
            Self::Plain(_) => Ok(true),
            Self::Proxied(_) | Self::Dtls(..) => Ok(false),
            Self::Sctp(session) => session.step(),
            Self::Tls(session, _) => session.step(),
        }
    }

    /// Begins the step after the PROXY header, which is complete or refused.
    fn on_header(
        &mut self,
        addresses: Result<Option<ProxiedAddresses>, &'static str>,
        now: Instant,
    ) -> Result<bool, Failure> {
        if let Self::Proxied(proxied) = self {
            *self = (proxied.on_header)(addresses)?;
        }
        self.start(now)
    }
}

/// Sends the datagrams of a handshake. Those that the kernel does not take are lost, like datagrams in the network.
fn transmit(handshake: &mut Handshake, egress: &Egress) {
    while let Some(datagram) = handshake.poll_transmit() {
        let _ = egress.send(&datagram);
    }
}

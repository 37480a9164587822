//! What comes before an association is open, in steps that never block: what the peer sends and the time go in, and what it is
//! told leaves on the way.
//!
//! 1. [`start`](Opening::start) begins. Each call says whether the session is open, or why it never will be.
//! 2. What a read of the socket came to goes to [`handle_arrival`](Opening::handle_arrival), also that there is room.
//! 3. At [`next_timeout`](Opening::next_timeout) the driver calls [`handle_timeout`](Opening::handle_timeout).
//! 4. [`finish`](Opening::finish) gives the open session, and after a failure [`give_up`](Opening::give_up) what is to be ended.

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
use crate::protocol::stream::proxy::{Ends, Header};
use crate::sctp::MessageInfo;
use crate::tls::{Facts, Failure};

/// An association on its way to be open.
pub(crate) enum Opening {
    /// There is no handshake.
    Plain(Session),
    /// A header of the PROXY protocol comes first.
    Proxied(Proxied),
    /// DTLS, and where its datagrams leave.
    Dtls(Box<Handshake>, Egress),
    /// TLS or DTLS over SCTP.
    Sctp(Box<SctpSession>),
    /// TLS, and when its handshake has failed if it is not complete.
    Tls(Box<StreamSession>, Instant),
}

/// Decides about a connection whose header says this, or is refused for that reason, and makes what comes behind the header.
type Heard = dyn Fn(Result<Option<Ends>, &'static str>) -> Result<Opening, Failure> + Send;

/// A connection whose PROXY header has not come.
pub(crate) struct Proxied {
    header: Header,
    socket: Arc<Socket>,
    deadline: Instant,
    heard: Box<Heard>,
}

impl Proxied {
    /// Waits for the header until `deadline`.
    pub(crate) fn new(socket: Arc<Socket>, deadline: Instant, heard: Box<Heard>) -> Self {
        Self { header: Header::default(), socket, deadline, heard }
    }
}

impl Opening {
    /// Begins; `true` where the session is open.
    ///
    /// # Errors
    ///
    /// The handshake has failed.
    pub(crate) fn start(&mut self, now: Instant) -> Result<bool, Failure> {
        match self {
            Self::Plain(_) => Ok(true),
            Self::Dtls(handshake, egress) => {
                let begun = handshake.start(now);
                transmit(handshake, egress);
                begun
            }
            Self::Proxied(_) | Self::Sctp(_) | Self::Tls(..) => self.go_on(),
        }
    }

    /// Takes what a read came to; `true` when the session is open. The bytes of a message are in [`room`](Self::room) where that
    /// has any, or else in `input`, whose memory may be exchanged.
    ///
    /// # Errors
    ///
    /// The handshake has failed, or the peer began anew.
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
                Ok(Some(ends)) => self.heard(Ok(ends), now)?,
                Err(why) => self.heard(Err(why), now)?,
            },
            (Arrival::Message(_), _) => self.handle_message(input, info, now)?,
            (Arrival::TooLong, _) => return Err(Failure::of("a message is too long for a handshake")),
            (Arrival::Over(EndReason::ClosedByPeer), Self::Proxied(_)) => {
                return Err(Failure::of("the proxy closed before its header"));
            }
            (Arrival::Over(EndReason::ClosedByPeer), _) => {
                return Err(Failure::of("the peer closed during the handshake"));
            }
            (Arrival::Over(EndReason::Replaced), _) => return Err(Failure::RestartedSctp),
            (Arrival::Over(reason), _) => return Err(Failure::Ended(reason)),
            (Arrival::Dry | Arrival::Woken | Arrival::TimedOut | Arrival::Notification(_), _) => {
                self.go_on()?
            }
        };
        // A peer that sends without a pause must not stop the clock.
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
        let advanced = self.go_on();
        if let Self::Tls(session, _) = self {
            session.core.give_back(message);
        }
        advanced
    }

    /// Does what time has come for, if it has; `true` when the session is open.
    ///
    /// # Errors
    ///
    /// The handshake has failed.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Result<bool, Failure> {
        match self {
            Self::Dtls(handshake, egress) => {
                let advanced = handshake.handle_timeout(now);
                transmit(handshake, egress);
                advanced
            }
            Self::Proxied(Proxied { deadline, .. }) if now >= *deadline => {
                self.heard(Err("its PROXY header was not complete in time"), now)
            }
            Self::Sctp(session) => session.state.handle_timeout(now).map(|()| false),
            Self::Tls(_, deadline) if now >= *deadline => Err(Failure::Ended(EndReason::HandshakeTimedOut)),
            _ => Ok(false),
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        match self {
            Self::Plain(_) => None,
            Self::Proxied(Proxied { deadline, .. }) | Self::Tls(_, deadline) => Some(*deadline),
            Self::Dtls(handshake, _) => Some(handshake.next_timeout()),
            Self::Sctp(session) => session.state.next_timeout(),
        }
    }

    /// Where a message is to be read to. Empty: to memory of the driver's, as much as there is.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        match self {
            Self::Proxied(proxied) => proxied.header.room(),
            _ => &mut [],
        }
    }

    /// Whether something waits for room on the socket.
    pub(crate) fn awaits_room(&self) -> bool {
        matches!(self, Self::Tls(session, _) if session.has_unsent())
    }

    /// Whether a PROXY header is missing.
    pub(crate) fn awaits_header(&self) -> bool {
        matches!(self, Self::Proxied(_))
    }

    /// Returns the session, which is open, and what the handshake settled.
    ///
    /// # Errors
    ///
    /// The session cannot be used.
    pub(crate) fn finish(self) -> Result<(Session, Facts), Failure> {
        Ok(match self {
            Self::Plain(session) => (session, Facts::default()),
            Self::Proxied(_) => return Err(Failure::of("there is no PROXY header")),
            Self::Dtls(handshake, egress) => {
                let (session, facts) = handshake.finish()?;
                (Session::Dtls(Box::new(session), egress), facts)
            }
            Self::Sctp(session) => {
                let facts = session.security().map(SecureSctp::facts).unwrap_or_default();
                (Session::Sctp(session), facts)
            }
            Self::Tls(session, _) => {
                let facts = session.core().facts();
                (Session::Stream(session), facts)
            }
        })
    }

    /// Tells the peer that there will be no session, for this reason. `Some`: the driver goes on with
    /// [`continue_end`](Session::continue_end). Otherwise the socket may be closed.
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
            // An alert may be among what is still to be sent.
            Self::Sctp(mut session) => {
                session.begin_end(&reason, Duration::MAX, now);
                Some(Session::Sctp(session))
            }
            Self::Tls(mut session, _) => {
                session.hang_up_by(now);
                Some(Session::Stream(session))
            }
        }
    }

    /// Goes on without anything new of the peer's: there may be room.
    fn go_on(&mut self) -> Result<bool, Failure> {
        match self {
            Self::Plain(_) => Ok(true),
            Self::Proxied(_) | Self::Dtls(..) => Ok(false),
            Self::Sctp(session) => session.step(),
            Self::Tls(session, _) => session.step(),
        }
    }

    /// The header is whole, or refused: what comes behind it begins.
    fn heard(&mut self, ends: Result<Option<Ends>, &'static str>, now: Instant) -> Result<bool, Failure> {
        if let Self::Proxied(proxied) = self {
            *self = (proxied.heard)(ends)?;
        }
        self.start(now)
    }
}

/// Sends what a handshake has to say. What the kernel does not take is lost on the way.
fn transmit(handshake: &mut Handshake, egress: &Egress) {
    while let Some(datagram) = handshake.poll_transmit() {
        let _ = egress.send(&datagram);
    }
}

//! One association on its thread: handshake, handler, end.

mod opening;
pub(crate) mod pool;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use socket2::Socket;

pub(crate) use self::opening::{Link, Task};
pub(in crate::serve) use self::opening::{opening, transport};
use crate::association::Association;
use crate::audit;
use crate::drive::{Session, handshake};
use crate::error::{Chain, EndReason};
use crate::handler::{HandlerError, PeerHandler, conclude, is_fault};
use crate::net::Transport;
use crate::net::tcp::reset;
use crate::observe::{bump, log_limited};
use crate::peer::{Home, Leftover, Opened, Parts, Peer};
use crate::protocol::alert::Alert;
use crate::serve::shared::Shared;
use crate::tls::Facts;
use crate::tls::Failure;

/// An admitted peer with its socket, on its way to a worker.
pub(crate) struct Job {
    pub(crate) association: Arc<Association>,
    pub(crate) link: Link,
    pub(crate) task: Task,
    /// Where it comes from.
    pub(crate) home: Arc<dyn Home>,
    pub(crate) shared: Arc<Shared>,
}

impl pool::Run for Job {
    /// Serves the association to its end. Blocks for as long as it lives. A panic of the handler
    /// ends here.
    fn run(self) {
        let Self { association, link, task, home, shared } = self;
        // Here, so that whoever hears from this peer sees it counted.
        bump(&association.counters.opened);
        association.counters.times.start_delay.observe(association.age());
        let opened = catch_unwind(AssertUnwindSafe(|| open(&association, link, task, &home, &shared)));
        match opened {
            Ok(Some(mut peer)) => serve(&mut peer, &*shared.handler),
            Ok(None) => {}
            Err(_) => {
                bump(&association.counters.handler_panics);
                give_up(&association, EndReason::HandlerPanicked, None, &*home);
            }
        }
    }
}

impl Job {
    /// For a peer with a socket of its own.
    pub(crate) fn own(
        association: Arc<Association>,
        socket: Arc<Socket>,
        task: Task,
        shared: Arc<Shared>,
    ) -> Self {
        let home: Arc<dyn Home> = Arc::clone(&shared) as _;
        Self { association, link: Link::Own(socket), task, home, shared }
    }

    /// Ends the association without having served it.
    pub(crate) fn abandon(self, reason: EndReason) {
        let Self { association, link, task, home, .. } = self;
        match (task, link) {
            (Task::Sctp, Link::Own(socket)) => {
                crate::net::sctp::abort(&socket, reason.kind().as_str().as_bytes());
            }
            (Task::Stream { .. }, Link::Own(socket)) => reset(&socket),
            (Task::Dtls(hello), link) => {
                let _ = link.egress().send(&Alert::INTERNAL_ERROR.in_clear(hello.record_sequence()));
            }
            _ => {}
        }
        give_up(&association, reason, None, &*home);
    }
}

/// The handshake, if there is one. `None`: the association has ended.
// Its frame would stay on the stack for as long as the peer lives, and so would the peer, which is larger than a page has room
// for beside what the handler needs.
#[inline(never)]
fn open(
    association: &Arc<Association>,
    link: Link,
    task: Task,
    home: &Arc<dyn Home>,
    shared: &Arc<Shared>,
) -> Option<Box<Peer>> {
    let mut transport = transport(association, &link, &task, shared, false);
    let opened = opening(association, link, task, shared)
        .and_then(|opening| handshake::run(opening, &mut transport, &association.attention))
        .and_then(|opened| {
            authorize(association, opened, shared).map_err(|refused| {
                let (mut session, reason) = *refused;
                session.end(&reason, shared.timeouts.send);
                transport.discard();
                Failure::Ended(reason)
            })
        });
    match opened {
        Ok((session, facts)) => {
            shared.registry.end_handshake(association);
            audit::opened(association, &facts);
            Some(Box::new(Peer::open(Parts {
                association: Arc::clone(association),
                opened: Opened { transport, session, facts },
                timeouts: shared.timeouts.clone(),
                home: Some(Arc::clone(home)),
                driven: false,
            })))
        }
        Err(failure) => {
            fail(association, failure, transport, &**home);
            None
        }
    }
}

/// Ends an association whose handshake failed. On SCTP a successor gets the socket, and otherwise it is closed.
pub(in crate::serve) fn fail(
    association: &Association,
    failure: Failure,
    transport: Transport,
    home: &dyn Home,
) {
    let (reason, leftover) = match (failure, &transport) {
        (Failure::Ended(reason), _) => (reason, None),
        (Failure::Unverified(why), _) => (EndReason::HandshakeFailed(why), None),
        (Failure::Restarted(hello), _) => (EndReason::Replaced, Some(Leftover::Datagram(hello.into()))),
        (Failure::RestartedSctp, Transport::Sctp(old)) => {
            (EndReason::Replaced, Some(Leftover::Socket(Arc::clone(old.socket()))))
        }
        (Failure::RestartedSctp, _) => (EndReason::Replaced, None),
    };
    drop(transport);
    // These are no failures, or have been logged with the identity.
    let is_logged = matches!(reason, EndReason::Shutdown | EndReason::Replaced | EndReason::NotAuthorized(_));
    if !is_logged {
        audit::failed(association, &reason, None);
    }
    give_up(association, reason, leftover, home);
}

/// Asks whether a peer whose handshake is complete may come in, before anybody can send to it. The session of one that may not
/// is to be ended for the reason that comes with it: it gets the alert
/// access_denied over DTLS; OpenSSL offers no way to send it over TLS, where it gets close_notify.
pub(in crate::serve) fn authorize(
    association: &Association,
    (session, facts): (Session, Facts),
    shared: &Shared,
) -> Result<(Session, Facts), Box<(Session, EndReason)>> {
    if !association.scheme.is_secure() {
        return Ok((session, facts));
    }
    bump(&association.counters.handshakes);
    association.counters.times.handshake.observe(association.age());
    if facts.resumed {
        bump(&association.counters.resumed);
    }
    let Err(why) = shared.contexts().may_enter(&facts) else { return Ok((session, facts)) };
    let reason = EndReason::NotAuthorized(why.to_owned());
    audit::failed(association, &reason, Some(&facts.identity));
    Err(Box::new((session, reason)))
}

/// Runs the handler, and ends the association as its result or its panic says.
pub(crate) fn serve(peer: &mut Peer, handler: &dyn PeerHandler) {
    let outcome = catch_unwind(AssertUnwindSafe(|| handler.handle(peer)));
    if let Ok(outcome) = &outcome {
        conclude(peer, outcome);
    }
    report(peer, outcome.as_ref().ok());
}

/// Says what a handler's end was, after its peer's; `None`: it panicked, which ends the association.
pub(in crate::serve) fn report(peer: &mut Peer, outcome: Option<&Result<(), HandlerError>>) {
    match outcome {
        Some(outcome) => {
            if let Err(error) = outcome
                && is_fault(error)
            {
                log_limited!(warn, peer = %peer.peer_address(), error = %Chain(&**error), "a handler returned an error");
            }
        }
        None => {
            log_limited!(error, peer = %peer.peer_address(), "a handler panicked");
            peer.fail(EndReason::HandlerPanicked);
        }
    }
}

/// Ends an association that never opened; its socket is closed by now.
pub(in crate::serve) fn give_up(
    association: &Association,
    reason: EndReason,
    leftover: Option<Leftover>,
    home: &dyn Home,
) {
    association.end(&reason);
    association.attention.wake_no_more();
    home.left(association, &reason, leftover);
}

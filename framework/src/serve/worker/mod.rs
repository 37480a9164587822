//! Serves one association on its thread: the handshake, the handler, and the end.

mod opening;
pub(crate) mod pool;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use socket2::Socket;

pub(crate) use self::opening::{PeerSocket, Task};
pub(in crate::serve) use self::opening::{opening, transport};
use crate::association::Association;
use crate::audit;
use crate::drive::{Session, handshake};
use crate::error::{Chain, EndReason};
use crate::handler::{HandlerError, PeerHandler, conclude, is_fault};
use crate::net::Transport;
use crate::net::tcp::reset;
use crate::observe::{bump, log_limited};
use crate::peer::{AssociationOwner, ForSuccessor, Opened, Parts, Peer};
use crate::protocol::alert::Alert;
use crate::serve::shared::Shared;
use crate::tls::Failure;
use crate::tls::HandshakeSummary;

/// An admitted peer with its socket, on its way to a worker.
pub(crate) struct Job {
    pub(crate) association: Arc<Association>,
    pub(crate) peer_socket: PeerSocket,
    pub(crate) task: Task,
    /// The owner that is informed when the association ends.
    pub(crate) owner: Arc<dyn AssociationOwner>,
    pub(crate) shared: Arc<Shared>,
}

impl pool::Run for Job {
    /// Serves the association to its end, and blocks until then. Catches a panic of the handler.
    fn run(self) {
        let Self { association, peer_socket, task, owner, shared } = self;
        // The peer is counted before its handshake, so that the numbers never lag behind its traffic.
        bump(&association.counters.opened);
        association.counters.times.start_delay.observe(association.age());
        let opened =
            catch_unwind(AssertUnwindSafe(|| open(&association, peer_socket, task, &owner, &shared)));
        match opened {
            Ok(Some(mut peer)) => serve(&mut peer, &*shared.handler),
            Ok(None) => {}
            Err(_) => {
                bump(&association.counters.handler_panics);
                give_up(&association, EndReason::HandlerPanicked, None, &*owner);
            }
        }
    }
}

impl Job {
    /// Makes the job of a peer that has its own socket.
    pub(crate) fn own(
        association: Arc<Association>,
        socket: Arc<Socket>,
        task: Task,
        shared: Arc<Shared>,
    ) -> Self {
        let owner: Arc<dyn AssociationOwner> = Arc::clone(&shared) as _;
        Self { association, peer_socket: PeerSocket::Own(socket), task, owner, shared }
    }

    /// Ends the association without serving it.
    pub(crate) fn abandon(self, reason: EndReason) {
        let Self { association, peer_socket, task, owner, .. } = self;
        match (task, peer_socket) {
            (Task::Sctp, PeerSocket::Own(socket)) => {
                crate::net::sctp::abort(&socket, reason.kind().as_str().as_bytes());
            }
            (Task::Stream { .. }, PeerSocket::Own(socket)) => reset(&socket),
            (Task::Dtls(hello), peer_socket) => {
                let _ = peer_socket.egress().send(&Alert::INTERNAL_ERROR.in_clear(hello.record_sequence()));
            }
            _ => {}
        }
        give_up(&association, reason, None, &*owner);
    }
}

/// Carries out the handshake, if there is one. Returns `None` if the association has ended.
// Not inlined: otherwise its frame, with the peer in it, would stay on the stack as long as the peer lives, and the
// page would have too little room left for the handler.
#[inline(never)]
fn open(
    association: &Arc<Association>,
    peer_socket: PeerSocket,
    task: Task,
    owner: &Arc<dyn AssociationOwner>,
    shared: &Arc<Shared>,
) -> Option<Box<Peer>> {
    let mut transport = transport(association, &peer_socket, &task, shared, false);
    let opened = opening(association, peer_socket, task, shared)
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
        Ok((session, summary)) => {
            shared.registry.end_handshake(association);
            audit::opened(association, &summary);
            Some(Box::new(Peer::open(Parts {
                association: Arc::clone(association),
                opened: Opened { transport, session, summary },
                timeouts: shared.timeouts.clone(),
                owner: Some(Arc::clone(owner)),
                driven: false,
            })))
        }
        Err(failure) => {
            fail(association, failure, transport, &**owner);
            None
        }
    }
}

/// Ends an association whose handshake failed. Closes the socket, unless a successor on SCTP gets it.
pub(in crate::serve) fn fail(
    association: &Association,
    failure: Failure,
    transport: Transport,
    owner: &dyn AssociationOwner,
) {
    let (reason, for_successor) = match (failure, &transport) {
        (Failure::Ended(reason), _) => (reason, None),
        (Failure::Unverified(why), _) => (EndReason::HandshakeFailed(why), None),
        (Failure::Restarted(hello), _) => (EndReason::Replaced, Some(ForSuccessor::Datagram(hello.into()))),
        (Failure::RestartedSctp, Transport::Sctp(old)) => {
            (EndReason::Replaced, Some(ForSuccessor::Socket(Arc::clone(old.socket()))))
        }
        (Failure::RestartedSctp, _) => (EndReason::Replaced, None),
    };
    drop(transport);
    // These are not failures, or they have been logged with the identity.
    let is_logged = matches!(reason, EndReason::Shutdown | EndReason::Replaced | EndReason::NotAuthorized(_));
    if !is_logged {
        audit::failed(association, &reason, None);
    }
    give_up(association, reason, for_successor, owner);
}

/// Asks whether a peer whose handshake is complete is authorized, before any message can be sent to it. For a peer that
/// is refused, returns the session, which the caller must end for the reason that is returned with it. Over DTLS the
/// peer gets the alert access_denied. OpenSSL cannot send that alert over TLS, where the peer gets close_notify.
pub(in crate::serve) fn authorize(
    association: &Association,
    (session, summary): (Session, HandshakeSummary),
    shared: &Shared,
) -> Result<(Session, HandshakeSummary), Box<(Session, EndReason)>> {
    if !association.scheme.is_secure() {
        return Ok((session, summary));
    }
    bump(&association.counters.handshakes);
    association.counters.times.handshake.observe(association.age());
    if summary.resumed {
        bump(&association.counters.resumed);
    }
    let Err(why) = shared.contexts().check_authorized(&summary) else { return Ok((session, summary)) };
    let reason = EndReason::NotAuthorized(why.to_owned());
    audit::failed(association, &reason, Some(&summary.identity));
    Err(Box::new((session, reason)))
}

/// Runs the handler, and ends the association according to the handler's result or panic.
pub(crate) fn serve(peer: &mut Peer, handler: &dyn PeerHandler) {
    let outcome = catch_unwind(AssertUnwindSafe(|| handler.handle(peer)));
    if let Ok(outcome) = &outcome {
        conclude(peer, outcome);
    }
    report(peer, outcome.as_ref().ok());
}

/// Logs the result of a handler after its association has ended. `None` stands for a panic, which ends the association.
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

/// Ends an association that never opened and whose socket is already closed.
pub(in crate::serve) fn give_up(
    association: &Association,
    reason: EndReason,
    for_successor: Option<ForSuccessor>,
    owner: &dyn AssociationOwner,
) {
    association.end(&reason);
    association.attention.wake_no_more();
    owner.association_ended(association, &reason, for_successor);
}

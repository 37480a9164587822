//! A peer of a loop, its state, and the work of its turns. A turn runs without the loop's lock, so a callback that
//! blocks holds up no other peer.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use zeroize::Zeroizing;

use crate::association::Association;
use crate::audit;
use crate::codec::Writer;
use crate::drive::Session;
use crate::drive::handshake::{self, Round};
use crate::drive::opening::Opening;
use crate::error::EndReason;
use crate::events::{AnyEvents, AnyOpen, Step};
use crate::handler::{HandlerError, conclude};
use crate::net::Transport;
use crate::net::attention::{Waker, signal};
use crate::observe::bump;
use crate::peer::{AssociationOwner, Opened, Parts, Peer};
use crate::serve::shared::Shared;
use crate::serve::worker::{Job, PeerSocket, Task, authorize, fail, give_up, opening, report, transport};
use crate::tls::{Failure, HandshakeSummary};

/// A datagram, and its source address if that differs from the peer's known address.
pub(super) type Datagram = (Vec<u8>, Option<SocketAddr>);

/// The largest state of a peer's callbacks that is handed over, in bytes.
const MAX_STATE: usize = 64 << 10;

/// The most callbacks of a peer in one turn.
const MAX_STEPS: usize = 16;

/// The environment in which entries are driven.
pub(super) struct Context {
    pub(super) shared: Arc<Shared>,
    /// The callbacks; `None` if each peer has its own thread.
    pub(super) events: Option<Arc<dyn AnyEvents>>,
    pub(super) owner: Arc<dyn AssociationOwner>,
}

/// Memory that all peers of a thread use in turn.
#[derive(Default)]
pub(super) struct Memory {
    /// The message of a callback.
    message: Vec<u8>,
    /// The buffer for reads from sockets that belong to one peer.
    scratch: Vec<u8>,
    /// The buffer of the datagram of the last turn.
    pub(super) datagram: Vec<u8>,
}

/// The result of a turn.
pub(super) enum Outcome {
    /// The peer needs another turn at this time at the latest.
    Wait(Option<Instant>),
    /// The peer has more work, and goes behind the others.
    More,
    /// The association has ended.
    Over,
}

/// One peer.
pub(super) struct Entry {
    association: Arc<Association>,
    owner: Arc<dyn AssociationOwner>,
    stage: Stage,
    /// The number of quick turns that the peer must have on spare threads before its loop drives it again; 0 unless a
    /// callback of this peer blocked lately.
    pub(super) spare_turns: u8,
}

// Most peers are open, so the content of the other stages is boxed to keep the enum small.
enum Stage {
    /// The peer was admitted.
    New(Box<New>),
    /// The handshake, or another step before the first message.
    Opening(Box<(Opening, Transport)>),
    /// The handshake has failed for this reason, and the peer is being informed.
    Failing(Box<(Session, Transport, Failure)>),
    Open(Box<Peer>, Box<dyn AnyOpen>),
    /// The association is ending; `close` is called after that.
    Ending(Box<Peer>, Option<Box<dyn AnyOpen>>, EndReason),
    Over,
}

/// The state of an admitted peer before its first turn.
struct New {
    peer_socket: PeerSocket,
    task: Task,
    waker: Arc<dyn Waker>,
}

impl Entry {
    /// Makes an entry for an admitted peer.
    pub(super) fn new(job: Job, waker: Arc<dyn Waker>) -> Self {
        let Job { association, peer_socket, task, owner, .. } = job;
        Self {
            association,
            owner,
            stage: Stage::New(Box::new(New { peer_socket, task, waker })),
            spare_turns: 0,
        }
    }

    /// Returns the peer's own socket, if it has one, before its first turn.
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        match &self.stage {
            Stage::New(new) => match &new.peer_socket {
                PeerSocket::Own(socket) => Some(socket.as_fd()),
                PeerSocket::Shared(_) => None,
            },
            _ => None,
        }
    }

    /// Returns whether the peer is in its handshake, each step of which takes long.
    pub(super) fn is_handshaking(&self) -> bool {
        match &self.stage {
            Stage::New(..) => self.association.scheme.is_secure(),
            Stage::Opening(..) => true,
            _ => false,
        }
    }

    /// Carries out a turn of the peer: handles the datagram, does the work that is due, and runs the callbacks. A panic
    /// ends the association.
    pub(super) fn drive(
        &mut self,
        context: &Context,
        memory: &mut Memory,
        datagram: Option<Datagram>,
    ) -> Outcome {
        let driven = catch_unwind(AssertUnwindSafe(|| self.advance(context, memory, datagram)));
        driven.unwrap_or_else(|_| {
            match std::mem::replace(&mut self.stage, Stage::Over) {
                Stage::Open(mut peer, _) => {
                    report(&mut peer, None);
                    return self.end(peer, None, EndReason::HandlerPanicked);
                }
                Stage::Over => bump(&self.association.counters.handler_panics),
                stage => {
                    drop(stage);
                    bump(&self.association.counters.handler_panics);
                    give_up(&self.association, EndReason::HandlerPanicked, None, &*self.owner);
                }
            }
            Outcome::Over
        })
    }

    fn advance(&mut self, context: &Context, memory: &mut Memory, datagram: Option<Datagram>) -> Outcome {
        match &mut self.stage {
            Stage::Open(peer, open) => {
                if let Some(datagram) = datagram {
                    peer.put(datagram.0, datagram.1);
                }
                let outcome = step(peer, &mut **open, memory);
                self.conclude(outcome)
            }
            Stage::Opening(..) => self.advance_handshake(context, memory, datagram),
            Stage::New(..) => self.begin(context, memory, datagram),
            Stage::Failing(failing) => {
                let (session, transport, _) = &mut **failing;
                if let Some(until) = session.continue_end(Instant::now()) {
                    return Outcome::Wait(Some(until));
                }
                transport.discard();
                match std::mem::replace(&mut self.stage, Stage::Over) {
                    Stage::Failing(failing) => {
                        let (session, transport, failure) = *failing;
                        drop(session);
                        fail(&self.association, failure, transport, &*self.owner);
                    }
                    stage => self.stage = stage,
                }
                Outcome::Over
            }
            Stage::Ending(peer, ..) => {
                if let Some(until) = peer.continue_end(Instant::now()) {
                    return Outcome::Wait(Some(until));
                }
                if let Stage::Ending(_, Some(open), reason) = std::mem::replace(&mut self.stage, Stage::Over)
                {
                    open.close(reason);
                }
                Outcome::Over
            }
            Stage::Over => Outcome::Over,
        }
    }

    fn begin(&mut self, context: &Context, memory: &mut Memory, datagram: Option<Datagram>) -> Outcome {
        // The peer is counted before its handshake, so that the numbers never lag behind its traffic.
        bump(&self.association.counters.opened);
        self.association.counters.times.start_delay.observe(self.association.age());
        let Stage::New(new) = std::mem::replace(&mut self.stage, Stage::Over) else {
            return Outcome::Over;
        };
        let New { peer_socket, task, waker } = *new;
        let transport = transport(&self.association, &peer_socket, &task, &context.shared, true);
        let socket = match &peer_socket {
            PeerSocket::Own(socket) => Some(Arc::clone(socket)),
            PeerSocket::Shared(_) => None,
        };
        self.association.attention.wake_by(waker, socket);
        match opening(&self.association, peer_socket, task, &context.shared) {
            Ok(mut opening) => {
                let begun = opening.start(Instant::now());
                self.stage = Stage::Opening(Box::new((opening, transport)));
                match begun {
                    Ok(false) => self.advance_handshake(context, memory, datagram),
                    begun => self.handle_progress(context, memory, begun.map(|_| Round::Open), datagram),
                }
            }
            Err(failure) => {
                fail(&self.association, failure, transport, &*self.owner);
                Outcome::Over
            }
        }
    }

    fn advance_handshake(
        &mut self,
        context: &Context,
        memory: &mut Memory,
        datagram: Option<Datagram>,
    ) -> Outcome {
        let Stage::Opening(beginning) = &mut self.stage else { return Outcome::Over };
        let (opening, transport) = &mut **beginning;
        if let (Transport::Shared(transport), Some(datagram)) = (&mut *transport, datagram) {
            transport.put(datagram.0, datagram.1);
        }
        let advanced = handshake::turn(opening, transport, &self.association.attention, &mut memory.datagram);
        self.handle_progress(context, memory, advanced, None)
    }

    /// Continues with the result of a turn of the handshake.
    fn handle_progress(
        &mut self,
        context: &Context,
        memory: &mut Memory,
        advanced: Result<Round, Failure>,
        datagram: Option<Datagram>,
    ) -> Outcome {
        match (&advanced, &self.stage) {
            (Ok(Round::Quiet), Stage::Opening(beginning)) => {
                return Outcome::Wait(beginning.0.next_timeout());
            }
            (Ok(Round::Advanced), _) => return Outcome::More,
            _ => {}
        }
        let Stage::Opening(beginning) = std::mem::replace(&mut self.stage, Stage::Over) else {
            return Outcome::Over;
        };
        let (opening, transport) = *beginning;
        let failure = match advanced {
            Ok(_) => {
                if opening.awaits_room() {
                    self.association.attention.note(signal::FLUSH);
                }
                match opening.finish() {
                    Ok(opened) => return self.open(context, memory, transport, opened, datagram),
                    Err(failure) => failure,
                }
            }
            Err(failure) => match opening.give_up(&failure, Instant::now()) {
                Some(session) => {
                    self.stage = Stage::Failing(Box::new((session, transport, failure)));
                    return self.advance(context, memory, None);
                }
                None => failure,
            },
        };
        fail(&self.association, failure, transport, &*self.owner);
        Outcome::Over
    }

    /// Opens the association if the peer is authorized.
    fn open(
        &mut self,
        context: &Context,
        memory: &mut Memory,
        transport: Transport,
        opened: (Session, HandshakeSummary),
        datagram: Option<Datagram>,
    ) -> Outcome {
        let shared = &context.shared;
        let (session, summary) = match authorize(&self.association, opened, shared) {
            Ok(opened) => opened,
            Err(refused) => {
                let (mut session, reason) = *refused;
                session.begin_end(&reason, shared.timeouts.send, Instant::now());
                self.stage = Stage::Failing(Box::new((session, transport, Failure::Ended(reason))));
                return self.advance(context, memory, None);
            }
        };
        shared.registry.end_handshake(&self.association);
        // Nothing wakes the peer after the handshake, so this is the time to return the memory of handshakes.
        if self.association.scheme.is_secure() {
            self.owner.peer_became_quiet();
        }
        audit::opened(&self.association, &summary);
        let mut peer = Box::new(Peer::open(Parts {
            association: Arc::clone(&self.association),
            opened: Opened { transport, session, summary },
            timeouts: shared.timeouts.clone(),
            owner: Some(Arc::clone(&self.owner)),
            driven: true,
        }));
        if let Some(datagram) = datagram {
            peer.put(datagram.0, datagram.1);
        }
        let Some(events) = &context.events else { return Outcome::Over };
        match catch_unwind(AssertUnwindSafe(|| events.begin(&mut peer))) {
            Ok(Ok(open)) => {
                self.stage = Stage::Open(peer, open);
                self.advance(context, memory, None)
            }
            Ok(Err(error)) => {
                let outcome = Err(error);
                let reason = conclude(&mut peer, &outcome);
                report(&mut peer, Some(&outcome));
                self.end(peer, None, reason)
            }
            Err(_) => {
                report(&mut peer, None);
                self.end(peer, None, EndReason::HandlerPanicked)
            }
        }
    }

    fn conclude(&mut self, outcome: Result<Outcome, HandlerError>) -> Outcome {
        let outcome = match outcome {
            Ok(Outcome::Over) => Ok(()),
            Ok(outcome) => return outcome,
            Err(error) => Err(error),
        };
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Open(mut peer, open) => {
                let reason = conclude(&mut peer, &outcome);
                report(&mut peer, Some(&outcome));
                self.end(peer, Some(open), reason)
            }
            _ => Outcome::Over,
        }
    }

    /// Continues the end of the association, which has begun.
    fn end(&mut self, mut peer: Box<Peer>, open: Option<Box<dyn AnyOpen>>, reason: EndReason) -> Outcome {
        if let Some(until) = peer.continue_end(Instant::now()) {
            self.stage = Stage::Ending(peer, open, reason);
            return Outcome::Wait(Some(until));
        }
        if let Some(open) = open {
            open.close(reason);
        }
        Outcome::Over
    }

    /// Makes an entry for a peer that came from another process.
    pub(super) fn resumed(
        association: Arc<Association>,
        owner: Arc<dyn AssociationOwner>,
        peer: Box<Peer>,
        open: Box<dyn AnyOpen>,
    ) -> Self {
        Self { association, owner, stage: Stage::Open(peer, open), spare_turns: 0 }
    }

    /// Returns the peer if its association is open.
    pub(super) fn peer(&self) -> Option<&Peer> {
        match &self.stage {
            Stage::Open(peer, _) => Some(peer),
            _ => None,
        }
    }

    /// Writes the peer and the state of its callbacks for another process. Returns `false` if the peer must stay.
    pub(super) fn save(&self, now: Instant, out: &mut Writer) -> bool {
        let Stage::Open(peer, open) = &self.stage else { return false };
        let saved = catch_unwind(AssertUnwindSafe(|| open.save()));
        let Some(state) = saved.ok().flatten().map(Zeroizing::new) else { return false };
        // The state comes first, because saving the rest may stop the peer from sending.
        out.bytes(&state);
        state.len() <= MAX_STATE && peer.save(now, out)
    }

    /// Gives the peer up, because another process has it.
    pub(super) fn forget(&mut self) {
        if let Stage::Open(mut peer, open) = std::mem::replace(&mut self.stage, Stage::Over) {
            peer.forget();
            // A panic of the callbacks no longer concerns any peer.
            let _ = catch_unwind(AssertUnwindSafe(|| open.close(EndReason::HandedOver)));
        }
    }

    /// Ends the association without a turn, because the loop ends.
    pub(super) fn abandon(&mut self) {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Opening(beginning) => {
                beginning.0.give_up(&Failure::Ended(EndReason::Shutdown), Instant::now());
            }
            Stage::New(..) | Stage::Failing(..) => {}
            // Dropping the peer ends the association.
            Stage::Open(..) | Stage::Ending(..) | Stage::Over => return,
        }
        give_up(&self.association, EndReason::Shutdown, None, &*self.owner);
    }
}

/// Runs the callbacks for data that has arrived and for timeouts.
fn step(peer: &mut Peer, open: &mut dyn AnyOpen, memory: &mut Memory) -> Result<Outcome, HandlerError> {
    const MAX_KEPT: usize = 128 << 10;
    let outcome = match peer.shares_socket() {
        true => {
            let outcome = steps(peer, open, &mut memory.message);
            peer.swap_memory(&mut memory.datagram);
            outcome
        }
        false => {
            peer.swap_memory(&mut memory.scratch);
            let outcome = steps(peer, open, &mut memory.message);
            peer.swap_memory(&mut memory.scratch);
            outcome
        }
    };
    if memory.message.capacity() > MAX_KEPT {
        memory.message = Vec::new();
    }
    outcome
}

fn steps(peer: &mut Peer, open: &mut dyn AnyOpen, message: &mut Vec<u8>) -> Result<Outcome, HandlerError> {
    for _ in 0..MAX_STEPS {
        let is_quiet = match open.step(peer, message, false)? {
            Step::Over => return Ok(Outcome::Over),
            Step::Quiet => !peer.leaves_unread(),
            Step::Called => peer.is_at_rest(),
        };
        if is_quiet {
            let now = peer.now();
            peer.note_handled(now);
            let next = [peer.next_timeout(now), open.next_timeout()].into_iter().flatten().min();
            if next.is_none_or(|next| next > now) {
                return Ok(Outcome::Wait(next));
            }
        }
    }
    Ok(Outcome::More)
}

//! One association on its thread: handshake, handler, end.

pub(crate) mod pool;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use socket2::Socket;

use crate::association::{Association, Link};
use crate::error::{EndReason, Error};
use crate::observe::{bump, log_limited};
use crate::peer::{Home, Parts, Peer};
use crate::restart::Restart;
use crate::server::Shared;
use crate::session::Session;
use crate::session::dtls::Facts;
use crate::session::handshake::{Failure, Handshake, VerifiedHello, after};
use crate::transport::udp::{StrayTaker, UdpTransport};

/// An admitted peer with its socket, on its way to a worker.
pub(crate) struct Job {
    pub(crate) association: Arc<Association>,
    pub(crate) socket: Arc<Socket>,
    pub(crate) task: Task,
    pub(crate) shared: Arc<Shared>,
}

/// What comes before the handler.
pub(crate) enum Task {
    /// Nothing.
    Plain,
    /// A DTLS handshake, which starts with this hello.
    Dtls(VerifiedHello),
}

impl Job {
    /// Serves the association to its end. Blocks for as long as it lives. A panic of the handler
    /// ends here.
    pub(crate) fn run(self) {
        let Self { association, socket, task, shared } = self;
        let opened = catch_unwind(AssertUnwindSafe(|| open(&association, socket, task, &shared)));
        match opened {
            Ok(Some(mut peer)) => serve(&mut peer, &shared),
            Ok(None) => {}
            Err(_) => give_up(&shared, &association, EndReason::HandlerPanicked, None),
        }
    }

    /// Ends the association without having served it.
    pub(crate) fn abandon(self, reason: EndReason) {
        let Self { association, socket, shared, .. } = self;
        drop(socket);
        give_up(&shared, &association, reason, None);
    }
}

/// The handshake, if there is one. `None`: the association has ended.
fn open(
    association: &Arc<Association>,
    socket: Arc<Socket>,
    task: Task,
    shared: &Arc<Shared>,
) -> Option<Peer> {
    let strays: Arc<dyn StrayTaker> = Arc::clone(shared) as _;
    let counters = Arc::clone(&shared.counters);
    let mut transport =
        UdpTransport::new(Arc::clone(&socket), Arc::clone(association), counters, Some(strays));
    let (session, facts, restart) = match task {
        Task::Plain => (Session::Plain(socket), Facts::default(), None),
        Task::Dtls(hello) => {
            let restart = Restart::new(Arc::clone(&shared.cookies), association.hello_random);
            let deadline = after(shared.timeouts.handshake);
            let context = shared.dtls.as_ref().expect("a DTLS listener has a context");
            let handshake = Handshake::accept(context, socket, &hello).and_then(|handshake| {
                handshake.complete(&mut transport, association, &shared.counters, Some(&restart), deadline)
            });
            match handshake {
                Ok((session, facts)) => (Session::Dtls(Box::new(session)), facts, Some(restart)),
                Err(failure) => {
                    drop(transport);
                    let (reason, leftover) = match failure {
                        Failure::Ended(reason) => (reason, None),
                        Failure::Unverified(why) => (EndReason::HandshakeFailed(why), None),
                        Failure::Restarted(hello) => (EndReason::Replaced, Some(hello.into())),
                    };
                    give_up(shared, association, reason, leftover);
                    return None;
                }
            }
        }
    };
    if restart.is_some() {
        bump(&shared.counters.handshakes);
        shared.registry.end_handshake(association);
    }
    let home: Arc<dyn Home> = Arc::clone(shared) as _;
    Some(Peer::open(Parts {
        association: Arc::clone(association),
        transport,
        session,
        facts,
        timeouts: shared.timeouts.clone(),
        counters: Arc::clone(&shared.counters),
        restart,
        home: Some(home),
    }))
}

/// The handler, whatever it does.
fn serve(peer: &mut Peer, shared: &Shared) {
    let outcome = catch_unwind(AssertUnwindSafe(|| shared.handler.handle(peer)));
    match outcome {
        Ok(Ok(())) => {
            peer.finish();
        }
        // The handler passed on what it was told.
        Ok(Err(Error::Ended(_))) => {
            peer.finish();
        }
        Ok(Err(error)) => {
            log_limited!(warn, peer = %peer.peer_address(), %error, "a handler returned an error");
            peer.finish_with(EndReason::HandlerFailed, None);
        }
        Err(_) => {
            log_limited!(error, peer = %peer.peer_address(), "a handler panicked");
            peer.finish_with(EndReason::HandlerPanicked, None);
        }
    }
}

/// Ends an association that never opened; its socket is closed by now.
fn give_up(shared: &Shared, association: &Association, reason: EndReason, leftover: Option<Box<[u8]>>) {
    *association.link.lock() = Link::Ended(reason.clone());
    association.confirm();
    association.wake_no_more();
    shared.left(association, &reason, leftover);
}

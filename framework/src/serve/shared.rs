//! What dispatcher, workers and handles share.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;

use super::mailbox::{Letter, Mailbox};
use super::registry::Registry;
use crate::address::{Address, Scheme};
use crate::admission::Refusal;
use crate::association::Association;
use crate::audit;
use crate::config::Timeouts;
use crate::credentials::SharedKeys;
use crate::error::EndReason;
use crate::handler::{Admission, Incoming, PeerHandler};
use crate::net::sctp::Restarted;
use crate::net::udp::{Stray, StrayTaker};
use crate::observe::{Counters, bump};
use crate::outbox::Outbox;
use crate::peer::{Home, Leftover};
use crate::protocol::alert::Alert;
use crate::protocol::dtls::restart::Cookies;
use crate::sctp::Settings;
use crate::stream::StreamSettings;
use crate::sys::sync::channel::Receiver;
use crate::sys::sync::{Condvar, Mutex};
use crate::tls::context::Contexts;

/// What a server is while it runs.
pub(crate) struct Shared {
    pub(crate) handler: Arc<dyn PeerHandler>,
    pub(crate) registry: Registry,
    pub(crate) counters: Arc<Counters>,
    pub(crate) timeouts: Timeouts,
    pub(crate) cookies: Arc<Cookies>,
    pub(crate) contexts: RwLock<Arc<Contexts>>,
    /// Of session tickets, where the credentials have none.
    pub(crate) keys: SharedKeys,
    pub(crate) sctp: Settings,
    pub(crate) stream: StreamSettings,
    pub(crate) outbox: Outbox,
    pub(crate) udp_proof: bool,
    pub(crate) mailbox: Mailbox,
    pub(crate) addresses: Vec<Address>,
    pub(crate) done: Done,
}

/// Set when the server has shut down.
pub(crate) struct Done {
    pub(crate) report: Mutex<Option<Report>>,
    pub(crate) changed: Condvar,
    /// Disconnected when the dispatcher has ended.
    pub(crate) stopped: Receiver<()>,
}

impl StrayTaker for Shared {
    fn take(&self, stray: Stray) {
        self.post(Letter::Stray(stray));
    }
}

impl Shared {
    /// What handshakes that begin now are made with.
    pub(crate) fn contexts(&self) -> Arc<Contexts> {
        Arc::clone(&self.contexts.read())
    }

    /// Asks the handler about a new peer. Runs on the dispatcher thread, behind a proxy on the worker's.
    pub(crate) fn ask(&self, incoming: &Incoming) -> Result<(), Refusal> {
        match catch_unwind(AssertUnwindSafe(|| self.handler.admit(incoming))) {
            Ok(Admission::Accept) => Ok(()),
            Ok(Admission::Refuse) => Err(Refusal::Handler),
            Err(_) => {
                bump(&self.counters.handler_panics);
                Err(Refusal::Handler)
            }
        }
    }

    /// Counts a refusal and logs it, at a limited rate.
    pub(crate) fn refuse(&self, refusal: Refusal, scheme: Scheme, local: SocketAddr, peer: SocketAddr) {
        bump(&self.counters.refused[refusal.index()]);
        audit::refused(refusal, scheme, local, peer);
    }

    fn post(&self, letter: Letter) {
        if !self.mailbox.send(letter) {
            bump(&self.counters.strays_lost);
        }
    }
}

impl Home for Shared {
    fn left(&self, association: &Association, reason: &EndReason, leftover: Option<Leftover>) {
        // Before the addresses are free. Whose handshake had no end may still get one by the same hello.
        let Association { local, peer, hello_random, .. } = association;
        let now = Instant::now();
        match reason {
            _ if association.scheme != Scheme::Dtls => {}
            EndReason::Evicted | EndReason::HandshakeTimedOut => {}
            EndReason::NoThread => {
                self.cookies.refuse(*local, *peer, hello_random, Alert::INTERNAL_ERROR, now)
            }
            _ => self.cookies.spend(*local, *peer, hello_random, now),
        }
        let mut late = self.registry.remove(association, reason, &self.counters);
        if !association.scheme.is_secure() {
            // Lost like those in the socket's queue. Given back they would open the next association,
            // and a handler that returns without having read would be called again, for ever.
            late.clear();
        }
        let Association { scheme, local, peer, .. } = *association;
        let leftover = match leftover {
            Some(Leftover::Socket(socket)) => {
                return self.post(Letter::Restarted(Restarted { socket, scheme, local, peer }));
            }
            Some(Leftover::Datagram(datagram)) => Some(datagram),
            None => None,
        };
        for payload in leftover.into_iter().chain(late.into_iter().map(|parcel| parcel.payload)) {
            let interface = match local {
                SocketAddr::V6(v6) => v6.scope_id(),
                SocketAddr::V4(_) => 0,
            };
            self.take(Stray { local, peer, interface, payload });
        }
    }
}

/// What a shutdown came to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Peers that were there when it began.
    pub peers: usize,
    /// Of these, how many ended within the grace period.
    pub finished: usize,
    /// How many were ended when it was over.
    pub stopped: usize,
    /// Of these, how many had a handler that did not return: their threads are left behind.
    pub abandoned: usize,
    /// How long it took.
    pub took: Duration,
}

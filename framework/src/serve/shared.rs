//! The state that the dispatcher, the workers, the loops and the handles share.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::RwLock;

use super::handover::export::Export;
use super::handover::relay::Relay;
use super::mailbox::{DispatcherMessage, Mailbox};
use super::registry::Registry;
use crate::address::{Address, Scheme};
use crate::admission::Refusal;
use crate::association::Association;
use crate::audit;
use crate::config::Timeouts;
use crate::connection_ids::ConnectionIds;
use crate::credentials::{Expiration, SharedKeys};
use crate::error::EndReason;
use crate::handler::{Admission, Incoming, PeerHandler};
use crate::net::sctp::Restarted;
use crate::net::udp::{Stray, StraySink};
use crate::observe::{ByListener, Counters, ServerCounters, bump};
use crate::outbox::OutboxLimits;
use crate::peer::{AssociationOwner, ForSuccessor};
use crate::protocol::alert::Alert;
use crate::protocol::dtls::restart::Cookies;
use crate::protocol::dtls::session::Move;
use crate::sctp::Settings;
use crate::stream::TcpSettings;
use crate::sys::footprint;
use crate::sys::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sys::sync::channel::Receiver;
use crate::sys::sync::{Condvar, Mutex};
use crate::tls::context::Contexts;

/// After this number of peers have become quiet, the free pages of the heap are returned to the kernel, at most once a
/// second. This takes a millisecond or two for a heap of some megabytes, on the thread of the last of these peers. A
/// thread that allocates meanwhile waits for a part of that time.
const CROWD: u64 = 256;

/// The state of a running server.
pub(crate) struct Shared {
    pub(crate) handler: Arc<dyn PeerHandler>,
    pub(crate) registry: Registry,
    pub(crate) counters: Arc<ServerCounters>,
    pub(crate) by_listener: ByListener,
    pub(crate) timeouts: Timeouts,
    pub(crate) cookies: Arc<Cookies>,
    pub(crate) contexts: RwLock<Arc<Contexts>>,
    /// The keys of session tickets, if the credentials have none.
    pub(crate) keys: SharedKeys,
    pub(crate) sctp: Settings,
    pub(crate) stream: TcpSettings,
    pub(crate) outbox: OutboxLimits,
    pub(crate) udp_proof: bool,
    pub(crate) connection_ids: Option<ConnectionIds>,
    pub(crate) mailbox: Mailbox,
    /// The number of worker threads that the system allows.
    pub(crate) max_workers: u64,
    /// Whether each peer needs a worker thread.
    pub(crate) takes_threads: bool,
    /// Whether each peer of some listener needs a descriptor.
    pub(crate) takes_descriptors: bool,
    /// The times at which parts of the credentials expire.
    pub(crate) expirations: Mutex<Vec<Expiration>>,
    /// The time of the start.
    pub(crate) began: Instant,
    /// The number of peers that have become quiet.
    pub(crate) quiet_peers: AtomicU64,
    /// The second since the start in which free pages were returned last.
    pub(crate) trimmed: AtomicU64,
    /// Set when a handler begins to run, and cleared when the dispatcher looks.
    pub(crate) handler_started: AtomicBool,
    pub(crate) addresses: Vec<Address>,
    /// The listeners, for another process; empty once the server shuts down.
    pub(crate) exports: Mutex<Vec<Export>>,
    /// The descriptors that the program passes on to that process, by name.
    pub(crate) descriptors: Mutex<HashMap<String, OwnedFd>>,
    /// Locked while the server is handed over.
    pub(crate) handing_over: parking_lot::Mutex<()>,
    /// Locked while a shutdown begins, and while the other process is told to serve, so that one comes before the
    /// other.
    pub(crate) deciding: parking_lot::Mutex<()>,
    /// The relays to the process that this one took the server over from, and to the process that took it over from
    /// this one.
    pub(crate) predecessor: OnceLock<Arc<Relay>>,
    pub(crate) successor: OnceLock<Arc<Relay>>,
    pub(crate) done: Done,
}

/// Set when the server has shut down.
pub(crate) struct Done {
    pub(crate) report: Mutex<Option<ShutdownReport>>,
    pub(crate) changed: Condvar,
    /// Disconnected when the dispatcher and the loops have ended.
    pub(crate) stopped: Receiver<()>,
}

impl StraySink for Shared {
    fn take(&self, stray: Stray) {
        self.post(DispatcherMessage::Stray(stray));
    }
}

impl Shared {
    /// Returns the contexts for handshakes that begin now.
    pub(crate) fn contexts(&self) -> Arc<Contexts> {
        Arc::clone(&self.contexts.read())
    }

    /// Returns the counters of the listener that admits the peers of this local address.
    pub(crate) fn counted(&self, scheme: Scheme, local: SocketAddr) -> &Arc<Counters> {
        self.by_listener.of(scheme, local)
    }

    /// Asks the handler whether to admit a new peer. Runs on the dispatcher thread, and behind a proxy on the worker
    /// thread.
    pub(crate) fn ask(&self, incoming: &Incoming) -> Result<(), Refusal> {
        match catch_unwind(AssertUnwindSafe(|| self.handler.admit(incoming))) {
            Ok(Admission::Accept) => Ok(()),
            Ok(Admission::Refuse) => Err(Refusal::Handler),
            Err(_) => {
                bump(&self.counted(incoming.scheme, incoming.local).handler_panics);
                Err(Refusal::Handler)
            }
        }
    }

    /// Counts a refusal and logs it, at a limited rate.
    pub(crate) fn refuse(&self, refusal: Refusal, scheme: Scheme, local: SocketAddr, peer: SocketAddr) {
        bump(&self.counted(scheme, local).refused[refusal.index()]);
        audit::refused(refusal, scheme, local, peer);
    }

    /// Releases the addresses of an association that has ended and closed or handed on its socket. Returns the
    /// datagrams for the next association at these addresses.
    pub(super) fn release_addresses(
        &self,
        association: &Association,
        reason: &EndReason,
        for_successor: Option<ForSuccessor>,
    ) -> Vec<Stray> {
        audit::ended(association, reason);
        // Done before the addresses are free. A client whose handshake did not end may still complete one with the same
        // hello.
        let Association { local, peer, hello_random, .. } = association;
        let now = Instant::now();
        match reason {
            _ if association.scheme != Scheme::Dtls => {}
            EndReason::Evicted | EndReason::HandshakeTimedOut => {}
            EndReason::NoThread => {
                self.cookies.note_refused(*local, *peer, hello_random, Alert::INTERNAL_ERROR, now)
            }
            _ => self.cookies.note_ended(*local, *peer, hello_random, now),
        }
        let mut late = self.registry.remove(association, reason);
        if association.scheme != Scheme::Dtls {
            // These datagrams are lost, like those in the socket's queue. If they were given back, they would open the
            // next association, and a handler that returns without reading would be called again and again.
            late.clear();
        }
        let (scheme, local, peer) = (association.scheme, association.local, association.current_peer());
        let for_successor = match for_successor {
            Some(ForSuccessor::Socket(socket)) => {
                self.post(DispatcherMessage::Restarted(Restarted { socket, scheme, local, peer }));
                return Vec::new();
            }
            Some(ForSuccessor::Datagram(datagram)) => Some(datagram),
            None => None,
        };
        let interface = match local {
            SocketAddr::V6(v6) => v6.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        let late = late.into_iter().map(|item| (item.from.unwrap_or(peer), item.payload));
        let for_successor = for_successor.into_iter().map(|datagram| (peer, datagram));
        for_successor.chain(late).map(|(peer, payload)| Stray { local, peer, interface, payload }).collect()
    }

    fn post(&self, message: DispatcherMessage) {
        let counters = match &message {
            DispatcherMessage::Stray(stray) => self.by_listener.of_udp(stray.local),
            DispatcherMessage::Pause(_) => return,
            DispatcherMessage::Restarted(restarted) => self.counted(restarted.scheme, restarted.local),
        };
        if !self.mailbox.send(message) {
            bump(&counters.strays_lost);
        }
    }
}

impl AssociationOwner for Shared {
    fn handler_started(&self) {
        if !self.handler_started.load(Ordering::SeqCst) && !self.handler_started.swap(true, Ordering::SeqCst)
        {
            self.mailbox.wake();
        }
    }

    fn peer_became_quiet(&self) {
        // Their handshakes have left holes in the heap. Peers that connect later pay for the pages again, so the heap
        // is trimmed only after many peers.
        if self.quiet_peers.fetch_add(1, Ordering::Relaxed) % CROWD != CROWD - 1 {
            return;
        }
        let (second, last) = (self.began.elapsed().as_secs(), &self.trimmed);
        let due = |last: u64| (last < second).then_some(second);
        if last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).is_ok() {
            footprint::trim_heap();
        }
    }

    fn change_peer_address(&self, association: &Association, moved: Move) -> bool {
        self.registry.change_peer_address(association, moved)
    }

    fn handler_outlives_association(&self) {
        self.registry.handler_outlives_association();
    }

    fn handler_returned(&self) {
        self.registry.handler_returned();
    }

    fn association_ended(
        &self,
        association: &Association,
        reason: &EndReason,
        for_successor: Option<ForSuccessor>,
    ) {
        self.release_addresses(association, reason, for_successor)
            .into_iter()
            .for_each(|stray| self.take(stray));
    }
}

/// The result of a shutdown.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// The number of peers when the shutdown began.
    pub peers: usize,
    /// How many of these peers ended within the grace period.
    pub finished: usize,
    /// How many of these peers were ended after the grace period.
    pub stopped: usize,
    /// How many handlers did not return, including those of peers that had ended before. Their threads are left behind.
    pub abandoned: usize,
    /// How long the shutdown took.
    pub took: Duration,
}

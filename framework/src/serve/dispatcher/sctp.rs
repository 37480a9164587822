//! SCTP listeners: from an association that has come up to a peeled-off socket with its job.
//!
//! A listener is a one-to-many socket (RFC 6458 §3), on which the kernel sets up associations by itself. For each
//! SCTP_COMM_UP the dispatcher
//!
//! 1. checks the limits and asks the handler; a refused association is aborted, because the kernel's backlog does not
//!    keep peers away;
//! 2. makes sure that a descriptor is left, because a peel-off without one destroys the association;
//! 3. peels the association off (RFC 6458 §9.2), together with its queued messages;
//! 4. hands the socket to a worker.
//!
//! An association may end before that, with its messages in the queue. The dispatcher then gathers these messages up to
//! the end of the queue, and the handler still gets them.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::adopted::Adopted;
use super::assigner::Assigner;
use super::child;
use super::listener::cannot_listen;
use super::token::Token;
use crate::address::{Address, Scheme};
use crate::admission::Refusal;
use crate::association::Association;
use crate::error::{EndReason, NoSctp, StartError};
use crate::handler::Incoming;
use crate::net::attention::{Delivery, InboxItem};
use crate::net::sctp::abort;
use crate::net::sctp::{Restarted, loss};
use crate::net::sctp_setup::configure;
use crate::new_socket::SocketHook;
use crate::observe::{Listening, bump, log_limited};
use crate::sctp::{AssocId, AssociationState, MessageInfo, Notification, Options, Settings, Socket};
use crate::serve::admit::SocketKind;
use crate::serve::shared::Shared;
use crate::serve::worker::{Job, Task};
use crate::sys::epoll::{Epoll, READABLE};
use crate::sys::eventfd::EventFd;
use crate::sys::message::DATAGRAM_MAX;
use crate::sys::sctp::{self as sys, Received};

/// The number of reads from one listener before the others have their turn.
const TURN: usize = 512;

/// The backlog of listen(2): the most associations in the kernel's handshake. Associations that are up are not counted
/// (Linux ignores the backlog on one-to-many sockets).
const BACKLOG: i32 = 1024;

/// The most associations that ended early and are gathered at the same time.
const MAX_GATHERED: usize = 256;

/// The most refused associations that are remembered until the notification of their end is read. Linux may not send
/// that notification if the peel-off itself failed. A forgotten association would be admitted again with its next
/// message.
const MAX_REFUSED: usize = 1 << 16;

/// A listener that is bound and not yet served.
pub(crate) struct SctpListener {
    socket: Socket,
    scheme: Scheme,
    addresses: Vec<SocketAddr>,
    hook: SocketHook,
}

impl SctpListener {
    /// Binds one endpoint to all these addresses.
    pub(crate) fn bind(
        scheme: Scheme,
        addresses: &[SocketAddr],
        options: child::Options,
        settings: &Settings,
    ) -> Result<Self, StartError> {
        let Some(&first) = addresses.first() else { return Err(StartError::NoListener) };
        // In a list of addresses, the error names the one that a UDP socket cannot be bound to either.
        let foreign = |address: &&SocketAddr| UdpSocket::bind((address.ip(), 0)).is_err();
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrNotAvailable => StartError::AddressNotAvailable {
                address: addresses.iter().find(foreign).copied().unwrap_or(first),
            },
            _ if NoSctp::is(&source) => StartError::NoSctp(NoSctp),
            _ => cannot_listen(source, first, "SCTP"),
        };
        let socket = open(scheme, addresses, &options, settings).map_err(failed)?;
        let port = socket.local_addr().map_err(failed)?.port();
        let with_port = |mut address: SocketAddr| {
            address.set_port(port);
            address
        };
        let addresses = addresses.iter().copied().map(with_port).collect();
        Ok(Self { socket, scheme, addresses, hook: options.hook })
    }

    /// Sets up a socket of the user's, and makes it listen if it does not yet.
    pub(crate) fn adopt(
        adopted: Adopted,
        options: child::Options,
        settings: &Settings,
    ) -> Result<Self, StartError> {
        let failed = |error| StartError::UnfitSocket {
            scheme: adopted.scheme,
            why: format!("setting it up failed ({error})"),
        };
        let (scheme, bound) = (adopted.scheme, adopted.address);
        let socket = Socket::from(OwnedFd::from(adopted.socket));
        let prepared = configure(&socket, scheme, settings).and_then(|()| {
            socket.options().set_receive_message_info(true)?;
            if socket.as_socket().is_listener()? { Ok(()) } else { socket.listen(BACKLOG) }
        });
        prepared.map_err(failed)?;
        let addresses = match bound.ip().is_unspecified() {
            true => vec![bound],
            false => socket.options().local_addresses().map_err(failed)?,
        };
        Ok(Self { socket, scheme, addresses, hook: options.hook })
    }

    pub(crate) fn scheme(&self) -> Scheme {
        self.scheme
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Returns the address that it is bound to.
    pub(crate) fn address(&self) -> Address {
        Address::from_sockets(self.scheme, &self.addresses).expect("a listener has an address")
    }
}

fn open(
    scheme: Scheme,
    addresses: &[SocketAddr],
    options: &child::Options,
    settings: &Settings,
) -> io::Result<Socket> {
    let v6 = addresses.iter().any(SocketAddr::is_ipv6);
    let socket = Socket::one_to_many(v6)?;
    configure(&socket, scheme, settings)?;
    if v6 {
        let mixed = addresses.iter().any(SocketAddr::is_ipv4);
        socket.as_socket().set_only_v6(options.v6_only && !mixed)?;
    }
    // A new listener can use the port while associations of an earlier one are alive.
    socket.as_socket().set_reuse_address(true)?;
    options.hook.listener(&socket, addresses[0])?;
    socket.bind(addresses)?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// All SCTP listeners of a server.
pub(super) struct Sctp {
    listeners: Vec<Listener>,
    scratch: Vec<u8>,
}

struct Listener {
    socket: Socket,
    scheme: Scheme,
    addresses: Vec<SocketAddr>,
    hook: SocketHook,
    counted: Listening,
    /// Refused associations whose end has not been read yet. Their messages are ignored.
    refused: HashSet<AssocId>,
    /// Associations that ended before they could be peeled off.
    gathered: HashMap<AssocId, Job>,
    /// The rest of a notification that is too long is being skipped.
    skipping: bool,
}

impl Sctp {
    pub(super) fn new(shared: &Shared, epoll: &Epoll, bound: Vec<SctpListener>) -> io::Result<Self> {
        let mut listeners = Vec::new();
        for SctpListener { socket, scheme, addresses, hook } in bound {
            epoll.add(socket.as_fd(), READABLE, Token::Sctp(listeners.len()).into())?;
            let counted = Listening::new(shared.counted(scheme, addresses[0]), None);
            let (refused, gathered) = (HashSet::new(), HashMap::new());
            let skipping = false;
            listeners.push(Listener {
                socket,
                scheme,
                addresses,
                hook,
                counted,
                refused,
                gathered,
                skipping,
            });
        }
        let scratch = if listeners.is_empty() { Vec::new() } else { Vec::with_capacity(DATAGRAM_MAX) };
        Ok(Self { listeners, scratch })
    }

    /// Serves the associations that listeners already have. A socket of the user's can have associations that came up
    /// earlier, of which no notification tells.
    pub(super) fn begin(&mut self, assigner: &mut Assigner) {
        for listener in &mut self.listeners {
            // Linux returns an error if there are none.
            let there = listener.socket.options().association_ids().unwrap_or_default();
            for id in there {
                listener.open(id, None, None, assigner);
            }
        }
    }

    /// Gives up the listeners, which another process has now.
    pub(super) fn give_up(&mut self, epoll: &Epoll, assigner: &mut Assigner) {
        for mut listener in self.listeners.drain(..) {
            // The other process has the socket open too, so closing it would not remove it from epoll.
            epoll.remove(listener.socket.as_fd());
            listener.assign_gathered(assigner);
        }
    }

    /// Reads the listener at `index`, which epoll has reported as readable.
    pub(super) fn ready(&mut self, index: usize, assigner: &mut Assigner) {
        let Self { listeners, scratch } = self;
        let Some(listener) = listeners.get_mut(index) else { return };
        for _ in 0..TURN {
            match sys::recv(listener.socket.as_fd(), &mut [], scratch, false) {
                Ok(received) => listener.handle_received(&received, scratch, assigner),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The queue is empty, so gathered associations are complete. Other errors belong to associations,
                // whose notifications report the same.
                Err(_) => {
                    listener.assign_gathered(assigner);
                    return;
                }
            }
        }
    }

    /// Admits the peer of a peeled-off socket again after it has restarted, or aborts the association.
    pub(super) fn restarted(&mut self, restarted: Restarted, assigner: &mut Assigner) {
        let Restarted { socket, scheme, local, peer } = restarted;
        let further = Options::of(&*socket).peer_addresses().unwrap_or_default();
        let Ok(association) =
            assigner.shared.admit(incoming(scheme, local, peer, further), [0; 32], SocketKind::OwnSocket)
        else {
            abort(&socket, b"refused");
            return bump(&assigner.shared.counted(scheme, local).sctp_aborted);
        };
        assign(association, socket, assigner);
    }
}

impl Listener {
    fn handle_received(&mut self, received: &Received, payload: &[u8], assigner: &mut Assigner) {
        if received.notification {
            self.handle_notification(received, payload, assigner);
        } else if let Some((info, id)) = received.info {
            self.handle_message(AssocId::from_raw(id), info, received, payload, assigner);
        }
    }

    fn handle_notification(&mut self, received: &Received, payload: &[u8], assigner: &mut Assigner) {
        let counters = Arc::clone(self.counted.counters());
        if self.skipping || !received.complete {
            if !self.skipping {
                bump(&counters.notifications_too_long);
            }
            self.skipping = !received.complete;
            return;
        }
        match Notification::parse(payload) {
            Ok(ref change @ Notification::AssociationChanged { state, association: id, .. }) => match state {
                AssociationState::Up => self.open(id, received.source, None, assigner),
                AssociationState::Restarted => {
                    // The restart came before the peel-off; otherwise the association's own socket reports it.
                    bump(&counters.sctp_restarts);
                    self.open(id, received.source, None, assigner);
                }
                AssociationState::Lost => {
                    bump(&counters.sctp_lost);
                    self.refused.remove(&id);
                    if let Some(job) = self.gathered.get_mut(&id) {
                        job.task = Task::Over(loss(change));
                    }
                }
                AssociationState::CannotStart => {
                    bump(&counters.sctp_cannot_start);
                    self.refused.remove(&id);
                }
                AssociationState::ShutDown => {
                    self.refused.remove(&id);
                }
                _ => bump(&counters.notifications_unknown),
            },
            Ok(Notification::PeerShutDown { .. }) => bump(&counters.sctp_shutdowns),
            Ok(Notification::Unknown { .. }) => bump(&counters.notifications_unknown),
            Ok(_) => {}
            Err(_) => bump(&counters.notifications_malformed),
        }
    }

    /// Handles a message on the one-to-many socket. It belongs to a refused association, to a gathered one, or to one
    /// that no notification has announced.
    fn handle_message(
        &mut self,
        id: AssocId,
        info: MessageInfo,
        received: &Received,
        payload: &[u8],
        assigner: &mut Assigner,
    ) {
        if self.refused.contains(&id) {
            return;
        }
        let complete = received.complete;
        let item = InboxItem {
            payload: payload.into(),
            from: None,
            info,
            complete,
            notification: false,
            room: None,
        };
        match self.gathered.get(&id) {
            Some(job) => deliver(&job.association, item),
            None => self.open(id, received.source, Some(item), assigner),
        }
    }

    /// Admits a new association, or refuses it. `early` is a message that arrived before a notification announced it.
    fn open(
        &mut self,
        id: AssocId,
        source: Option<SocketAddr>,
        early: Option<InboxItem>,
        assigner: &mut Assigner,
    ) {
        if self.gathered.contains_key(&id) {
            return;
        }
        let options = self.socket.options().association(id);
        let peers = options.peer_addresses().unwrap_or_default();
        // The source of a notification is the primary address; an association that has ended has no other.
        let Some(peer) = source.or_else(|| peers.first().copied()) else {
            return bump(&self.counted.counters().notifications_malformed);
        };
        let local = self.local_address(id);
        let further = peers.into_iter().filter(|address| *address != peer).collect();
        let association = match assigner.shared.admit(
            incoming(self.scheme, local, peer, further),
            [0; 32],
            SocketKind::OwnSocket,
        ) {
            Ok(association) => association,
            Err(refusal) => return self.abort(id, refusal),
        };
        // Opening any descriptor shows whether the peel-off can have one.
        let probed = EventFd::new().and_then(|probe| match assigner.has_headroom(probe.as_fd()) {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(libc::EMFILE)),
        });
        if let Err(error) = probed {
            assigner.cancel(&association);
            assigner.refuse_for(&error, self.scheme, local, peer);
            return self.abort(id, Refusal::NoFileDescriptor);
        }
        match self.socket.peel_off(id) {
            Ok(socket) => {
                if let Err(error) = self.hook.peer(&socket, local, peer) {
                    bump(&self.counted.counters().sctp_aborted);
                    assigner.cancel(&association);
                    assigner.refuse_for(&error, self.scheme, local, peer);
                    return abort(socket.as_socket(), Refusal::SocketOptions.as_str().as_bytes());
                }
                if let Some(item) = early {
                    deliver(&association, item);
                }
                assign(association, Arc::new(socket.into_socket()), assigner);
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidInput && !self.scheme.is_secure() => {
                self.gather(id, association, early, assigner);
            }
            Err(error) => {
                bump(&self.counted.counters().sctp_peel_offs_failed);
                assigner.cancel(&association);
                assigner.refuse_for(&error, self.scheme, local, peer);
                self.refuse(id);
                let _ = self.socket.abort(id, b"cannot be served");
            }
        }
    }

    /// Gathers the messages of an association that has already ended. Its handler gets them from a socket that is as
    /// closed as the association's own.
    fn gather(
        &mut self,
        id: AssocId,
        association: Arc<Association>,
        early: Option<InboxItem>,
        assigner: &mut Assigner,
    ) {
        let room = self.gathered.len() < MAX_GATHERED;
        let Some(socket) = room.then(|| Socket::one_to_one(false)).and_then(Result::ok) else {
            assigner.cancel(&association);
            return bump(&self.counted.counters().sctp_peel_offs_failed);
        };
        bump(&self.counted.counters().sctp_over_early);
        if !assigner.shared.registry.insert(&association) {
            return assigner.cancel(&association);
        }
        if let Some(item) = early {
            deliver(&association, item);
        }
        let (task, shared) = (Task::Over(EndReason::ClosedByPeer), Arc::clone(&assigner.shared));
        let socket = Arc::new(socket.into_socket());
        self.gathered.insert(id, Job::own(association, socket, task, shared));
    }

    /// Assigns the gathered associations, because the queue is empty.
    fn assign_gathered(&mut self, assigner: &mut Assigner) {
        for (_, job) in self.gathered.drain() {
            assigner.assign(job);
        }
    }

    fn abort(&mut self, id: AssocId, refusal: Refusal) {
        bump(&self.counted.counters().sctp_aborted);
        if let Err(error) = self.socket.abort(id, refusal.as_str().as_bytes()) {
            log_limited!(debug, %error, "a refused association had already ended");
        }
        self.refuse(id);
    }

    /// Ignores the messages of this association from now on.
    fn refuse(&mut self, id: AssocId) {
        if self.refused.len() >= MAX_REFUSED {
            self.refused.clear();
        }
        self.refused.insert(id);
    }

    /// Returns the local address that the peer uses: the listener's, or, under a wildcard, the first local address of
    /// the association.
    fn local_address(&self, id: AssocId) -> SocketAddr {
        let fixed = self.addresses[0];
        if !fixed.ip().is_unspecified() {
            return fixed;
        }
        let found = self.socket.options().association(id).local_addresses().unwrap_or_default();
        found.first().copied().unwrap_or((Ipv4Addr::UNSPECIFIED, fixed.port()).into())
    }
}

fn incoming(scheme: Scheme, local: SocketAddr, peer: SocketAddr, further: Vec<SocketAddr>) -> Incoming {
    Incoming { further, ..Incoming::new(scheme, local, peer) }
}

fn deliver(association: &Association, item: InboxItem) {
    let counters = &association.counters;
    bump(match association.attention.deliver(item, false) {
        Delivery::Queued => &counters.sctp_early_messages,
        Delivery::Full | Delivery::Gone => &counters.strays_lost,
    });
}

fn assign(association: Arc<Association>, socket: Arc<socket2::Socket>, assigner: &mut Assigner) {
    if !assigner.shared.registry.insert(&association) {
        return assigner.cancel(&association);
    }
    let (task, shared) = (Task::Sctp, Arc::clone(&assigner.shared));
    assigner.assign(Job::own(association, socket, task, shared));
}

impl Drop for Sctp {
    fn drop(&mut self) {
        for (_, job) in self.listeners.iter_mut().flat_map(|listener| listener.gathered.drain()) {
            job.abandon(EndReason::Shutdown);
        }
    }
}

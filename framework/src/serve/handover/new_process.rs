//! The new process of a hand-over. It takes the listeners, prepares everything, reads the peers, and serves as soon as
//! the old process tells it to. A failure before that ends the new process, and the old one continues.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::channel::{Channel, Frame};
use super::export::Export;
use super::frame;
use super::old_process::{FIRST_TURNS, next};
use super::relay::{Relay, Relayed};
use crate::address::Scheme;
use crate::association::Association;
use crate::codec::{Malformed, Reader, Writer};
use crate::credentials::SharedKeys;
use crate::error::HandOverError;
use crate::events::AnyEvents;
use crate::observe::bump;
use crate::protocol::dtls::hello::connection_id;
use crate::serve::loops::{Loops, SocketId, TransferredPeer};
use crate::serve::mailbox::DispatcherMessage;
use crate::serve::shared::Shared;
use crate::sys::sync::spawn;

/// The time that the old process may take for each step.
const STEP: Duration = Duration::from_secs(10);
/// The most peers that one message refuses.
const REFUSALS: usize = 4096;
/// The stack of the relay thread, in bytes.
const STACK: usize = 64 << 10;

/// A server in another process, which this process is about to take over. If this value is dropped instead, that
/// process continues to serve.
pub struct Predecessor {
    channel: Channel,
    frame: Frame,
    out: Writer,
    /// The keys of session tickets, if the credentials have none.
    pub(crate) keys: SharedKeys,
    listeners: Vec<Export>,
    descriptors: HashMap<String, OwnedFd>,
    /// The listeners that were taken: their numbers in the old process, and those here.
    taken: HashMap<u16, u16>,
}

impl Predecessor {
    /// Asks the other process for its listeners and descriptors. `socket` is the second of the pair that
    /// [`hand_over_sockets`](crate::hand_over_sockets) makes, and the other process has the first. Blocks until that
    /// process answers, for ten seconds at most for each message; it calls
    /// [`Handle::hand_over`](crate::Handle::hand_over) for that.
    ///
    /// # Errors
    ///
    /// Fails if the other process does not answer, or runs as another user.
    pub fn ask(socket: OwnedFd) -> Result<Self, HandOverError> {
        let channel = Channel::new(socket)?;
        let (mut frame, mut out) = (Frame::new(), Writer::new());
        out.u8(frame::HELLO);
        out.raw(frame::MAGIC);
        out.u16(frame::VERSION);
        channel.send(&out, &[], STEP)?;
        channel.recv(&mut frame, Some(STEP))?;
        let (kind, mut welcome) = frame.read();
        if kind != frame::WELCOME {
            return Err(HandOverError::Malformed);
        }
        let _version = welcome.u16()?;
        let keys = SharedKeys::restore(&mut welcome)?;
        let messages = welcome.u32()?;
        let (mut listeners, mut descriptors) = (Vec::<Export>::new(), HashMap::new());
        for _ in 0..messages {
            channel.recv(&mut frame, Some(STEP))?;
            let mut sockets = std::mem::take(&mut frame.descriptors);
            let (kind, mut from) = frame.read();
            match kind {
                frame::LISTENER => {
                    let export = Export::read(from, sockets)?;
                    match listeners.last_mut().filter(|last| last.number == export.number) {
                        Some(last) => last.sockets.extend(export.sockets),
                        None => listeners.push(export),
                    }
                }
                frame::DESCRIPTOR => {
                    let name = from.text()?.ok_or(Malformed)?;
                    from.end()?;
                    descriptors.insert(name, sockets.pop().ok_or(Malformed)?);
                }
                _ => return Err(HandOverError::Malformed),
            }
        }
        Ok(Self { channel, frame, out, keys, listeners, descriptors, taken: HashMap::new() })
    }

    /// Takes a descriptor that the other process has [passed on](crate::Handle::pass_on) under this name, once.
    pub fn take_descriptor(&mut self, name: &str) -> Option<OwnedFd> {
        self.descriptors.remove(name)
    }

    /// Takes the listener at these addresses, if the other process has one. `own` is its number in this process.
    pub(crate) fn take(
        &mut self,
        scheme: Scheme,
        addresses: &[SocketAddr],
        proxied: bool,
        own: u16,
    ) -> Option<Export> {
        let index = self.listeners.iter().position(|offer| offer.matches(scheme, addresses, proxied))?;
        let export = self.listeners.remove(index);
        self.taken.insert(export.number, own);
        Some(export)
    }

    /// Takes the peers, and waits until this process may serve. The loops are paused, and continue after this has
    /// returned.
    pub(crate) fn finish(
        self,
        shared: &Arc<Shared>,
        loops: Option<&Arc<Loops>>,
        events: Option<&Arc<dyn AnyEvents>>,
    ) -> Result<Arc<Relay>, HandOverError> {
        let Self { channel, mut frame, mut out, taken, .. } = self;
        out.clear();
        out.u8(frame::READY);
        out.flag(events.is_some());
        taken.keys().for_each(|number| out.option(Some(*number), Writer::u16));
        out.flag(false);
        channel.send(&out, &[], STEP)?;
        let relay = Relay::new(Arc::new(channel));
        let take_over = TakeOver { shared, loops, events, relay: &relay, taken };
        let mut peers = Vec::new();
        let taken = take_over.receive_peers(&mut frame, &mut out, &mut peers);
        let peers: Vec<TransferredPeer> = peers.into_iter().flatten().collect();
        if let Err(error) = taken {
            // These peers still belong to the other process, and this one must not send to them.
            loops.inspect(|loops| loops.forget(&peers, &|_| false));
            return Err(error);
        }
        let relay = Arc::new(relay);
        let _ = shared.predecessor.set(Arc::clone(&relay));
        loops.inspect(|loops| peers.into_iter().for_each(|peer| loops.release(peer)));
        Ok(relay)
    }
}

impl fmt::Debug for Predecessor {
    /// Leaves out the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listeners, descriptors, .. } = self;
        f.debug_struct("Predecessor")
            .field("listeners", listeners)
            .field("descriptors", descriptors)
            .finish_non_exhaustive()
    }
}

/// The state of a take-over while the peers of the other process arrive.
struct TakeOver<'a> {
    shared: &'a Arc<Shared>,
    loops: Option<&'a Arc<Loops>>,
    events: Option<&'a Arc<dyn AnyEvents>>,
    relay: &'a Relay,
    taken: HashMap<u16, u16>,
}

impl TakeOver<'_> {
    /// Receives the peers, and waits for `GO`. `peers` gets them in their order, and `None` for each that cannot be
    /// served here.
    fn receive_peers(
        &self,
        frame: &mut Frame,
        out: &mut Writer,
        peers: &mut Vec<Option<TransferredPeer>>,
    ) -> Result<(), HandOverError> {
        let refused = self.read_peers(frame, peers)?;
        self.answer(out, &refused)?;
        self.await_go(frame, peers)
    }

    /// Reads the peers, and returns the numbers of those that cannot be served here.
    fn read_peers(
        &self,
        frame: &mut Frame,
        peers: &mut Vec<Option<TransferredPeer>>,
    ) -> Result<Vec<u32>, HandOverError> {
        let mut refused = Vec::new();
        loop {
            self.relay.channel().recv(frame, Some(STEP))?;
            let (kind, mut from) = frame.read();
            match kind {
                frame::SECRETS => self.shared.cookies.restore(&mut from, Instant::now())?,
                frame::PEER => {
                    let peer = self.restore_peer(from)?;
                    if peer.is_none() {
                        refused.push(peers.len() as u32);
                    }
                    peers.push(peer);
                }
                frame::STAYS => {
                    let (on, local, peer) = (from.u8()?, from.address()?, from.address()?);
                    self.relay.add_remote(local, peer, from.bytes()?, on);
                    from.end()?;
                }
                frame::END if from.u32()? as usize == peers.len() => return Ok(refused),
                _ => return Err(HandOverError::Malformed),
            }
        }
    }

    /// Restores a peer. Returns `None` if it cannot be served here.
    fn restore_peer(&self, mut from: Reader<'_>) -> Result<Option<TransferredPeer>, Malformed> {
        let (on, listener, index) = (from.u8()?, from.u16()?, from.u8()?);
        let own = *self.taken.get(&listener).ok_or(Malformed)?;
        let (Some(loops), Some(events)) = (self.loops, self.events) else { return Err(Malformed) };
        let place: SocketId = (own, index);
        if let Some(transferred) = loops.restore_peer(place, events, from)? {
            return Ok(Some(transferred));
        }
        // The peer stays in the other process.
        let _ = (from.flag()?, from.bytes()?);
        let (association, _) = Association::restore(Scheme::Udp, Arc::default(), &mut from, Instant::now())?;
        let Association { local, connection_id, .. } = &association;
        self.relay.add_remote(*local, association.current_peer(), connection_id, on);
        Ok(None)
    }

    /// Tells the old process which peers it has to keep after all.
    fn answer(&self, out: &mut Writer, refused: &[u32]) -> Result<(), HandOverError> {
        let mut parts = refused.chunks(REFUSALS).peekable();
        loop {
            let part = parts.next().unwrap_or_default();
            let more = parts.peek().is_some();
            out.clear();
            out.u8(frame::TAKEN);
            out.flag(more);
            part.iter().for_each(|index| out.option(Some(*index), Writer::u32));
            out.flag(false);
            self.relay.channel().send(out, &[], STEP)?;
            if !more {
                return Ok(());
            }
        }
    }

    /// Waits until this process may serve, and receives the messages that are sent to the peers meanwhile.
    fn await_go(&self, frame: &mut Frame, peers: &[Option<TransferredPeer>]) -> Result<(), HandOverError> {
        // The old process numbers the peers without those that were refused.
        let peers: Vec<TransferredPeer> = peers.iter().flatten().copied().collect();
        loop {
            self.relay.channel().recv(frame, Some(STEP))?;
            let (kind, mut from) = frame.read();
            match kind {
                frame::GO => return Ok(from.end()?),
                frame::PENDING => {
                    let peer = peers.get(from.u32()? as usize).ok_or(HandOverError::Malformed)?;
                    let message = from.option(Reader::bytes)?;
                    if let Some(loops) = self.loops {
                        loops.add_pending(*peer, message);
                    }
                }
                _ => return Err(HandOverError::Malformed),
            }
        }
    }
}

/// Reports to the old process that this one serves. The loops have just begun, and the report waits until they have
/// carried out their first turns; this blocks for a second at most. Then starts a thread that receives the datagrams
/// that the old process passes back because none of its peers sent them. The thread runs until that process ends.
pub(crate) fn report_and_relay(shared: &Arc<Shared>, loops: Option<Arc<Loops>>, relay: Arc<Relay>) {
    if let Some(loops) = &loops {
        loops.await_first_turns(FIRST_TURNS);
    }
    let mut out = Writer::new();
    out.u8(frame::SERVES);
    // The send fails if the old process has ended; this process serves anyway.
    let _ = relay.channel().send(&out, &[], STEP);
    let (shared, thread) = (Arc::clone(shared), Arc::clone(&relay));
    let run = move || {
        let mut frame = Frame::new();
        while let Some(Relayed { stray, index, .. }) = next(&thread, &mut frame) {
            let cid = shared.connection_ids.and_then(|ids| connection_id(&stray.payload, ids.length()));
            thread.remove_remote(stray.local, stray.peer, cid);
            let local = stray.local;
            let taken = match (&loops, index) {
                (Some(loops), Some(socket)) => loops.relay(socket, stray, index),
                _ => shared.mailbox.send(DispatcherMessage::Stray(stray)),
            };
            if !taken {
                bump(&shared.by_listener.of_udp(local).relayed_lost);
            }
        }
        thread.end();
        tracing::info!("the previous process has ended");
    };
    if let Err(error) = spawn("peeloff-relay", STACK, Box::new(run)) {
        tracing::error!(%error, "cannot start the relay thread; peers that stayed in the old process receive nothing more");
        relay.end();
    }
}

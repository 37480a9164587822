//! The old process of a hand-over. It passes on its listeners, then pauses, writes its peers, and continues with those
//! that stay. Until the new process has reported that it serves, nothing has changed, and after a failure the old
//! process just continues.
//!
//! Between `GO` and `SERVES` the old process cannot know whether the new one has already sent records, whose numbers
//! must not be used twice. If the new process ends in that time, the old one leaves out more numbers than can have been
//! used. It cannot know either which records the new process has received. So it may accept a replayed record within
//! one replay window, and both processes may send a message that was queued for a peer during the pause.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::channel::{Channel, Frame};
use super::frame;
use super::gate::{Gate, Verdict};
use super::relay::{Relay, Relayed};
use crate::admission::Refusal;
use crate::codec::{Reader, Writer};
use crate::error::HandOverError;
use crate::observe::bump;
use crate::peer::PendingOutput;
use crate::serve::loops::{Loops, Staying, TransferredPeer};
use crate::serve::mailbox::DispatcherMessage;
use crate::serve::shared::Shared;
use crate::sys::sync::spawn;
use crate::sys::unix::MAX_DESCRIPTORS;

/// The time that the new process may take to be ready: it may ask the operator for a passphrase.
const START: Duration = Duration::from_secs(60);
/// The time for the dispatcher and the loops to pause, and for each step of the new process while no peer is served.
const STEP: Duration = Duration::from_secs(2);
/// The time for the new process to report that it serves. In this time a peer must not be sent more records than
/// `Sealer::skip` leaves out, in case that process ends and this one continues.
pub(super) const FIRST_TURNS: Duration = Duration::from_secs(1);
/// The stack of the relay thread, in bytes.
const STACK: usize = 64 << 10;

/// The result of a hand-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HandedOver {
    /// The number of listeners that the new process has.
    pub listeners: usize,
    /// The number of peers that the new process has, and that have noticed nothing.
    pub peers: usize,
    /// The number of peers that stay in this process.
    pub staying: usize,
    /// The time in which no peer was served. Datagrams that arrived meanwhile waited in the kernel.
    pub paused: Duration,
}

/// Hands the server over; see [`Handle::hand_over`](crate::Handle::hand_over).
pub(crate) fn hand_over(
    shared: &Arc<Shared>,
    loops: Option<&Arc<Loops>>,
    socket: OwnedFd,
) -> Result<HandedOver, HandOverError> {
    let Some(_handing_over) = shared.handing_over.try_lock() else { return Err(HandOverError::Busy) };
    // A predecessor may be about to end, so this waits for a moment.
    let predecessor = shared.predecessor.get();
    let has_predecessor = predecessor.is_some_and(|relay| !relay.await_end(Instant::now() + STEP));
    if has_predecessor || shared.successor.get().is_some() || is_ending(shared) {
        return Err(HandOverError::Busy);
    }
    let channel = Channel::new(socket)?;
    let (mut frame, mut out) = (Frame::new(), Writer::new());
    let knows_peers = send_welcome(shared, &channel, &mut frame, &mut out)?;
    let (takes_peers, taken) = await_ready(&channel, &mut frame)?;
    // The server may have begun to shut down meanwhile.
    if is_ending(shared) {
        return Err(HandOverError::Busy);
    }
    let mut paused_server = PausedServer::pause(shared, loops)?;
    let goes = |number: u16| taken.contains(&number);
    let nobody = |_: u16| false;
    let hands_over: &dyn Fn(u16) -> bool = if knows_peers && takes_peers { &goes } else { &nobody };
    paused_server.write_peers(&channel, &mut out, hands_over, &goes)?;
    paused_server.await_taken(&channel, &mut frame)?;
    paused_server.finish(channel, &mut frame, &mut out, &taken)
}

/// Returns whether the server shuts down.
fn is_ending(shared: &Shared) -> bool {
    shared.registry.is_full() == Some(Refusal::Draining)
}

/// Answers the new process. Returns whether it reads peers in the format that this process writes.
fn send_welcome(
    shared: &Shared,
    channel: &Channel,
    frame: &mut Frame,
    out: &mut Writer,
) -> Result<bool, HandOverError> {
    channel.recv(frame, Some(START))?;
    let (kind, mut hello) = frame.read();
    if kind != frame::HELLO || hello.raw(frame::MAGIC.len())? != frame::MAGIC {
        return Err(HandOverError::Malformed);
    }
    let version = hello.u16()?;
    if version != frame::VERSION {
        tracing::warn!(
            own = frame::VERSION,
            other = version,
            "the new process reads peers in another format; all peers stay in this process"
        );
    }
    let (exports, descriptors) = (shared.exports.lock(), shared.descriptors.lock());
    out.clear();
    out.u8(frame::WELCOME);
    out.u16(frame::VERSION);
    shared.keys.save(out);
    // This is the number of messages that follow.
    let messages = exports.iter().map(|export| export.sockets.len().div_ceil(MAX_DESCRIPTORS)).sum::<usize>();
    out.u32((messages + descriptors.len()) as u32);
    channel.send(out, &[], STEP)?;
    for export in &*exports {
        out.clear();
        out.u8(frame::LISTENER);
        export.save(out);
        for sockets in export.sockets.chunks(MAX_DESCRIPTORS) {
            let sockets: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
            channel.send(out, &sockets, STEP)?;
        }
    }
    for (name, descriptor) in &*descriptors {
        out.clear();
        out.u8(frame::DESCRIPTOR);
        out.text(Some(name));
        channel.send(out, &[descriptor.as_fd()], STEP)?;
    }
    Ok(version == frame::VERSION)
}

/// Waits until the new process is ready. Returns whether it takes peers, and the numbers of the listeners that it
/// takes.
fn await_ready(channel: &Channel, frame: &mut Frame) -> Result<(bool, Vec<u16>), HandOverError> {
    channel.recv(frame, Some(START))?;
    let (kind, mut ready) = frame.read();
    if kind != frame::READY {
        return Err(HandOverError::Malformed);
    }
    let takes_peers = ready.flag()?;
    let mut taken = Vec::new();
    while let Some(number) = ready.option(Reader::u16)? {
        taken.push(number);
    }
    ready.end()?;
    Ok((takes_peers, taken))
}

/// A paused server. When this is dropped without a hand-over, the server continues as before.
struct PausedServer<'a> {
    shared: &'a Arc<Shared>,
    loops: Option<&'a Arc<Loops>>,
    gate: Arc<Gate>,
    began: Instant,
    /// The peers that go to the new process, in the order in which they were written.
    transferred: Vec<TransferredPeer>,
    /// Decides which process has the listeners after the pause.
    verdict: Verdict,
}

impl<'a> PausedServer<'a> {
    fn pause(shared: &'a Arc<Shared>, loops: Option<&'a Arc<Loops>>) -> Result<Self, HandOverError> {
        let (gate, began) = (Arc::<Gate>::default(), Instant::now());
        let paused_server = Self {
            shared,
            loops,
            gate: Arc::clone(&gate),
            began,
            transferred: Vec::new(),
            verdict: Verdict::Resume,
        };
        let deadline = began + STEP;
        // The dispatcher pauses first, because it gives peers to the loops.
        let is_paused = shared.mailbox.send(DispatcherMessage::Pause(Arc::clone(&gate)))
            && gate.await_pause(deadline)
            && loops.is_none_or(|loops| loops.pause(deadline));
        if is_paused { Ok(paused_server) } else { Err(HandOverError::HeldUp) }
    }

    /// Sends everything that the new process needs to serve.
    fn write_peers(
        &mut self,
        channel: &Channel,
        out: &mut Writer,
        goes: &dyn Fn(u16) -> bool,
        is_taken: &dyn Fn(u16) -> bool,
    ) -> Result<(), HandOverError> {
        out.clear();
        out.u8(frame::SECRETS);
        self.shared.cookies.save(out);
        channel.send(out, &[], STEP)?;
        let Some(loops) = self.loops else {
            return end(channel, out, 0);
        };
        let mut emit = |out: &mut Writer| match channel.send(out, &[], STEP) {
            Ok(()) => Ok(true),
            // This peer is too large for a message, so it stays; the others are not affected.
            Err(HandOverError::TooLong) => Ok(false),
            Err(error) => Err(error),
        };
        loops.save_peers(goes, out, &mut emit, &mut self.transferred)?;
        for Staying { local, peer, connection_id, on, listener } in loops.staying(&self.transferred) {
            if !is_taken(listener) {
                continue;
            }
            out.clear();
            out.u8(frame::STAYS);
            out.u8(on);
            out.address(local);
            out.address(peer);
            out.bytes(&connection_id);
            channel.send(out, &[], STEP)?;
        }
        end(channel, out, self.transferred.len())
    }

    /// Waits for the new process to answer which peers it has.
    fn await_taken(&mut self, channel: &Channel, frame: &mut Frame) -> Result<(), HandOverError> {
        let mut refused = vec![false; self.transferred.len()];
        let mut more = true;
        while more {
            channel.recv(frame, Some(STEP))?;
            let (kind, mut taken) = frame.read();
            if kind != frame::TAKEN {
                return Err(HandOverError::Malformed);
            }
            more = taken.flag()?;
            while let Some(index) = taken.option(Reader::u32)? {
                *refused.get_mut(index as usize).ok_or(HandOverError::Malformed)? = true;
            }
            taken.end()?;
        }
        let loops = self.loops;
        let mut refused = refused.into_iter();
        self.transferred.retain(|transferred| {
            let stays = refused.next().unwrap_or(true);
            if let (true, Some(loops)) = (stays, loops) {
                loops.release(*transferred);
            }
            !stays
        });
        Ok(())
    }

    /// Tells the new process to serve. Once it does, gives up the listeners and the peers that it has taken.
    fn finish(
        mut self,
        channel: Channel,
        frame: &mut Frame,
        out: &mut Writer,
        taken: &[u16],
    ) -> Result<HandedOver, HandOverError> {
        for (index, transferred) in self.transferred.iter().enumerate() {
            let Some(PendingOutput { messages, closes }) =
                self.loops.and_then(|loops| loops.pending_output(*transferred))
            else {
                continue;
            };
            let pending = messages.iter().map(|message| Some(&**message)).chain(closes.then_some(None));
            for message in pending {
                out.clear();
                out.u8(frame::PENDING);
                out.u32(index as u32);
                out.option(message, Writer::bytes);
                channel.send(out, &[], STEP)?;
            }
        }
        // A shutdown that began before this point must end the server in this process, and not in one that has just
        // taken over.
        let deciding = self.shared.deciding.lock();
        if is_ending(self.shared) {
            return Err(HandOverError::Busy);
        }
        out.clear();
        out.u8(frame::GO);
        channel.send(out, &[], STEP)?;
        let paused = self.began.elapsed();
        if !self.await_first_turns(&channel, frame) {
            if let Some(loops) = self.loops {
                self.transferred.iter().for_each(|transferred| loops.reclaim(*transferred));
            }
            return Err(HandOverError::Gone);
        }
        let relay = Arc::new(Relay::new(Arc::new(channel)));
        let _ = self.shared.successor.set(Arc::clone(&relay));
        drop(deciding);
        let peers = std::mem::take(&mut self.transferred);
        self.shared.exports.lock().clear();
        self.shared.descriptors.lock().clear();
        if let Some(loops) = self.loops {
            loops.forget(&peers, &|number| taken.contains(&number));
        }
        self.verdict = Verdict::HandOver;
        let (shared, loops) = (Arc::clone(self.shared), self.loops.cloned());
        drop(self);
        let staying = shared.registry.len();
        let thread = Arc::clone(&relay);
        let run = move || {
            let mut frame = Frame::new();
            while let Some(relayed) = next(&thread, &mut frame) {
                handle_relayed(&shared, loops.as_ref(), relayed);
            }
            thread.end();
        };
        if let Err(error) = spawn("peeloff-relay", STACK, Box::new(run)) {
            tracing::error!(%error, "cannot start the relay thread; peers that stay in this process receive nothing more");
            relay.end();
        }
        Ok(HandedOver { listeners: taken.len(), peers: peers.len(), staying, paused })
    }

    /// Waits until the new process reports that it serves. Returns `false` if it has ended before. Its sockets are
    /// closed only after all its threads have ended, so it sends nothing more then. If it neither reports nor ends in
    /// time, it counts as serving, because two processes must never serve at once.
    fn await_first_turns(&self, channel: &Channel, frame: &mut Frame) -> bool {
        let give_up = Instant::now() + FIRST_TURNS;
        loop {
            let left = give_up.saturating_duration_since(Instant::now());
            let received =
                if left.is_zero() { Err(HandOverError::TimedOut) } else { channel.recv(frame, Some(left)) };
            let (kind, from) = frame.read();
            match (received, kind) {
                (Err(HandOverError::Gone), _) => return false,
                (Ok(()), frame::SERVES) => return true,
                // The loops handle the datagram when they continue.
                (Ok(()), frame::DATAGRAM) => {
                    let _ =
                        Relayed::read(from).map(|relayed| handle_relayed(self.shared, self.loops, relayed));
                }
                _ => {
                    tracing::warn!("the new process was told to serve, and has not reported that it does");
                    return true;
                }
            }
        }
    }
}

/// Handles a datagram that the new process has read and that is for a peer of this one.
fn handle_relayed(shared: &Shared, loops: Option<&Arc<Loops>>, Relayed { stray, on, index }: Relayed) {
    let local = stray.local;
    if !loops.is_some_and(|loops| loops.relay(on, stray, index)) {
        bump(&shared.by_listener.of_udp(local).relayed_lost);
    }
}

impl Drop for PausedServer<'_> {
    fn drop(&mut self) {
        if let Some(loops) = self.loops {
            self.transferred.drain(..).for_each(|transferred| loops.release(transferred));
            loops.resume();
        }
        self.gate.open(self.verdict);
    }
}

fn end(channel: &Channel, out: &mut Writer, peers: usize) -> Result<(), HandOverError> {
    out.clear();
    out.u8(frame::END);
    out.u32(peers as u32);
    channel.send(out, &[], STEP)
}

/// Waits for the next datagram from the other process. Returns `None` if it has ended or sends another message.
pub(super) fn next(relay: &Relay, frame: &mut Frame) -> Option<Relayed> {
    relay.channel().recv(frame, None).ok()?;
    let (kind, from) = frame.read();
    if kind != frame::DATAGRAM {
        return None;
    }
    Relayed::read(from).ok()
}

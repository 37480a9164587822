//! The output of a peer over memory. It takes the place of a socket's send buffer, and the other end reads it here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::attention::Waker;
use super::clock::later;
use super::feed::Feed;
use crate::address::Scheme;
use crate::protocol::Sent;
use crate::protocol::stream::frames::{Frame, Frames};
use crate::sctp::SendInfo;
use crate::stream::Framing;
use crate::sys::sync::{Condvar, Mutex};

/// Maximum number of messages that wait to be taken.
const MAX_MESSAGES: usize = 65_536;
/// Maximum number of bytes that wait to be taken.
const MAX_BYTES: usize = 64 << 20;

/// The buffer. Its lock is taken before that of the [`Feed`].
pub(crate) struct Sink {
    state: Mutex<State>,
    changed: Condvar,
    /// The feed whose reader is woken when there is room.
    feed: Arc<Feed>,
    is_reliable: bool,
}

struct State {
    /// Messages, or the writes of a stream.
    queue: VecDeque<(Vec<u8>, SendInfo)>,
    bytes: usize,
    /// How much may wait: messages, or bytes of a stream.
    room: usize,
    /// A message found no room.
    refused: bool,
    /// Divides a stream with a framing into messages.
    frames: Option<Frames>,
    /// The reason with which the association was aborted.
    abort: Option<Vec<u8>>,
    /// The association has ended: nothing more is sent.
    closed: bool,
    /// The other end has been dropped, so nothing takes the output any more.
    abandoned: bool,
}

impl Sink {
    pub(crate) fn new(feed: Arc<Feed>, scheme: Scheme, framing: Framing) -> Self {
        let frames = Frames::new(framing, MAX_BYTES).filter(|_| scheme.is_stream());
        let state = State {
            queue: VecDeque::new(),
            bytes: 0,
            room: usize::MAX,
            refused: false,
            frames,
            abort: None,
            closed: false,
            abandoned: false,
        };
        let is_reliable = scheme.is_reliable();
        Self { state: Mutex::new(state), changed: Condvar::new(), feed, is_reliable }
    }

    /// Sends one message; never blocks.
    pub(crate) fn send(&self, message: &[u8], how: &SendInfo) -> Sent {
        let mut state = self.state.lock();
        if state.abandoned {
            return if self.is_reliable { Sent::Gone } else { Sent::Done };
        }
        let bytes = state.bytes + message.len();
        if state.queue.len() >= state.room.min(MAX_MESSAGES) || bytes > MAX_BYTES {
            state.refused = true;
            return Sent::Full;
        }
        state.push(message, *how);
        self.changed.notify_all();
        Sent::Done
    }

    /// Writes to a stream; never blocks. Returns how many bytes found room, or `None` if the other end has been
    /// dropped.
    pub(super) fn write(&self, bytes: &[u8]) -> Option<usize> {
        let mut state = self.state.lock();
        if state.abandoned {
            return None;
        }
        let room = if state.queue.len() < MAX_MESSAGES { state.room.min(MAX_BYTES) } else { 0 };
        let len = room.saturating_sub(state.bytes).min(bytes.len());
        state.refused |= len < bytes.len();
        if len > 0 {
            state.push(&bytes[..len], SendInfo::default());
            self.changed.notify_all();
        }
        Some(len)
    }

    /// Waits until there may be room, at most for `timeout` of real time, and no longer than the [`Feed`] waits for
    /// input. Returns `false` if there is none.
    pub(super) fn wait_for_room(&self, timeout: Duration) -> bool {
        let until = later(Instant::now(), timeout.min(self.feed.patience()));
        let mut state = self.state.lock();
        while state.refused && !state.abandoned {
            if self.changed.wait_until(&mut state, until).timed_out() {
                return !state.refused;
            }
        }
        true
    }

    /// Takes the oldest message, or on a stream without framing the bytes of one write. Blocks at most for `patience`
    /// of real time. Returns `None` if nothing was sent, or if nothing more will be.
    pub(crate) fn take(&self, patience: Duration) -> Option<(Vec<u8>, SendInfo)> {
        let until = later(Instant::now(), patience);
        let mut state = self.state.lock();
        loop {
            match state.frames.as_mut().and_then(Frames::next_frame) {
                Some(Frame::Message(message)) => return Some((message.to_vec(), SendInfo::default())),
                Some(Frame::TooLong) => continue,
                None => {}
            }
            if let Some((bytes, how)) = state.queue.pop_front() {
                state.bytes -= bytes.len();
                self.notify_of_room(&mut state);
                match &mut state.frames {
                    Some(frames) => frames.push(&bytes),
                    None => return Some((bytes, how)),
                }
                continue;
            }
            if state.closed
                || (patience.is_zero() || self.changed.wait_until(&mut state, until).timed_out())
                    && state.queue.is_empty()
            {
                return None;
            }
        }
    }

    /// Sets how much may wait from now on: messages, or bytes of a stream.
    pub(crate) fn set_room(&self, room: usize) {
        let mut state = self.state.lock();
        state.room = room;
        self.notify_of_room(&mut state);
    }

    /// Wakes the writers, if one of them found no room.
    fn notify_of_room(&self, state: &mut State) {
        if std::mem::take(&mut state.refused) {
            self.changed.notify_all();
            self.feed.wake();
        }
    }

    /// Notes that the association has ended, and the reason if it was aborted.
    pub(super) fn close(&self, abort: Option<&[u8]>) {
        let mut state = self.state.lock();
        state.closed = true;
        state.abort = state.abort.take().or_else(|| abort.map(<[u8]>::to_vec));
        self.changed.notify_all();
    }

    /// Returns the reason with which the association was aborted.
    pub(crate) fn abort_reason(&self) -> Option<Vec<u8>> {
        self.state.lock().abort.clone()
    }

    /// Waits until the association has ended, at most for `patience` of real time. Returns `false` if it has not.
    pub(crate) fn wait_for_end(&self, patience: Duration) -> bool {
        let until = later(Instant::now(), patience);
        let mut state = self.state.lock();
        while !state.closed {
            if self.changed.wait_until(&mut state, until).timed_out() {
                return state.closed;
            }
        }
        true
    }

    /// Notes that the other end has been dropped: further output is lost.
    pub(crate) fn mark_abandoned(&self) {
        let mut state = self.state.lock();
        state.abandoned = true;
        (state.queue, state.bytes) = (VecDeque::new(), 0);
        self.notify_of_room(&mut state);
    }
}

impl State {
    fn push(&mut self, bytes: &[u8], how: SendInfo) {
        self.bytes += bytes.len();
        self.queue.push_back((bytes.to_vec(), how));
    }
}

//! A bounded queue through which other threads pass input to a peer's thread, in place of a socket.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::attention::Waker;
use super::clock::{Clock, later};
use crate::error::EndReason;
use crate::sctp::{MessageInfo, Notification};
use crate::sys::sync::{Condvar, Mutex};

/// Maximum number of queued inputs.
const MAX_INPUTS: usize = 65_536;
/// Maximum number of queued message bytes.
const MAX_BYTES: usize = 64 << 20;

/// An input for a peer's thread; inputs keep their order.
#[derive(Debug)]
pub(crate) enum Input {
    /// A message, or a piece of a stream.
    Message(Vec<u8>, MessageInfo),
    /// An SCTP notification.
    Notification(Box<Notification>),
    /// An ICMP port unreachable from the peer's host.
    Unreachable,
    /// A [signal](super::attention::signal) of the server.
    Signal(u8),
    /// This much time passes, if the clock is a virtual one.
    Passed(Duration),
    /// The association has ended. No input follows it.
    Over(EndReason),
}

/// Result of [`Feed::take`].
#[derive(Debug)]
pub(super) enum Found {
    Input(Input),
    /// A thread called [`Feed::wake`].
    Woken,
    TimedOut,
    /// There is no deadline, and no input arrived within the patience.
    GaveUp,
}

/// The queue. Its lock is a leaf.
pub(crate) struct Feed {
    state: Mutex<State>,
    changed: Condvar,
    clock: Clock,
    patience: Duration,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Input>,
    bytes: usize,
    woken: bool,
    /// No more input is accepted.
    closed: bool,
}

impl Feed {
    /// Makes a queue whose reader uses this clock, which is a virtual one. A wait that has lasted for `patience` of
    /// real time jumps to its deadline.
    pub(crate) fn new(clock: Clock, patience: Duration) -> Self {
        Self { state: Mutex::new(State::default()), changed: Condvar::new(), clock, patience }
    }

    /// Queues an input. Returns `false` if the queue is full or the association has ended.
    pub(crate) fn put(&self, input: Input) -> bool {
        let put = self.state.lock().push(input);
        self.changed.notify_all();
        put
    }

    /// Queues an input if others are queued before it. Returns `false` if none is.
    pub(crate) fn put_behind(&self, input: Input) -> bool {
        let mut state = self.state.lock();
        !state.queue.is_empty() && state.push(input)
    }

    /// Discards queued input, and accepts no more.
    pub(super) fn close(&self) {
        *self.state.lock() = State { closed: true, ..State::default() };
    }

    /// Takes the next input; of a message longer than `piece`, only that many bytes. Blocks until `deadline`. Input
    /// that has already arrived is delivered even if the deadline has passed.
    pub(super) fn take(&self, piece: Option<usize>, deadline: Option<Instant>) -> Found {
        let mut state = self.state.lock();
        let mut give_up_at = None;
        loop {
            if std::mem::take(&mut state.woken) {
                return Found::Woken;
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(self.clock.now()));
            match state.queue.front_mut() {
                Some(Input::Passed(time)) => {
                    let step = left.map_or(*time, |left| left.min(*time));
                    self.clock.advance(step);
                    *time -= step;
                    if time.is_zero() {
                        state.queue.pop_front();
                    }
                    if left == Some(step) {
                        return Found::TimedOut;
                    }
                    continue;
                }
                Some(_) => return state.pop(piece).map_or(Found::Woken, Found::Input),
                None if left == Some(Duration::ZERO) => return Found::TimedOut,
                None => {}
            }
            let until = *give_up_at.get_or_insert_with(|| later(Instant::now(), self.patience));
            let timed_out = self.changed.wait_until(&mut state, until).timed_out();
            if timed_out && state.queue.is_empty() && !state.woken {
                self.clock.advance(left.unwrap_or_default());
                return if left.is_some() { Found::TimedOut } else { Found::GaveUp };
            }
        }
    }

    /// Waits until a thread calls [`wake`](Self::wake), which tells a sender that there is room. Returns `false` if the
    /// timeout has passed. [`Input::Passed`] advances the clock even behind queued messages; the messages stay queued.
    pub(super) fn wait_for_room(&self, timeout: Duration) -> bool {
        let deadline = later(self.clock.now(), timeout);
        let until = later(Instant::now(), self.patience);
        let mut state = self.state.lock();
        loop {
            if std::mem::take(&mut state.woken) {
                return true;
            }
            let mut left = deadline.saturating_duration_since(self.clock.now());
            for input in &mut state.queue {
                if let Input::Passed(time) = input {
                    let step = left.min(*time);
                    self.clock.advance(step);
                    (*time, left) = (*time - step, left - step);
                }
            }
            if left.is_zero() {
                return false;
            }
            let timed_out = self.changed.wait_until(&mut state, until).timed_out();
            if timed_out && !state.woken {
                self.clock.advance(left);
                return false;
            }
        }
    }

    /// Returns the maximum duration of a wait, in real time.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }
}

impl Waker for Feed {
    /// Ends the reader's current or next wait.
    fn wake(&self) {
        self.state.lock().woken = true;
        self.changed.notify_all();
    }
}

impl State {
    fn push(&mut self, input: Input) -> bool {
        let bytes = input.len();
        let over = matches!(input, Input::Over(_));
        let full = self.queue.len() >= MAX_INPUTS || self.bytes + bytes > MAX_BYTES;
        if self.closed || (full && !over) {
            return false;
        }
        self.closed = over;
        self.bytes += bytes;
        self.queue.push_back(input);
        true
    }

    fn pop(&mut self, piece: Option<usize>) -> Option<Input> {
        let taken = match (self.queue.front_mut(), piece) {
            (Some(Input::Message(message, info)), Some(piece)) if message.len() > piece => {
                let rest = message.split_off(piece);
                Input::Message(std::mem::replace(message, rest), *info)
            }
            _ => self.queue.pop_front()?,
        };
        self.bytes -= taken.len();
        Some(taken)
    }
}

impl Input {
    /// Returns the number of bytes that the input counts for.
    fn len(&self) -> usize {
        match self {
            Self::Message(message, _) => message.len(),
            _ => 0,
        }
    }
}

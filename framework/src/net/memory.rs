//! A peer without a socket: other threads pass input to its thread through a bounded queue.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::attention::Attention;
use super::feed::{Feed, Found, Input};
use super::sctp::end_by;
use super::sink::Sink;
use super::wait::{Arrival, place};
use crate::address::Scheme;
use crate::error::EndReason;
use crate::sctp::{MessageInfo, NotificationKind};

/// The worker's end of the queue.
pub(crate) struct MemoryTransport {
    feed: Arc<Feed>,
    sink: Arc<Sink>,
    attention: Arc<Attention>,
    scheme: Scheme,
    /// The longest message, in bytes; pieces of a stream have no such limit.
    max_message: usize,
    /// The metadata of the last message.
    pub(crate) info: MessageInfo,
    /// Notifications that the handler has subscribed to.
    wanted: Vec<NotificationKind>,
    /// An ICMP port unreachable has arrived.
    pub(crate) unreachable: bool,
    /// Why the association has ended.
    end: Option<EndReason>,
}

impl MemoryTransport {
    pub(crate) fn new(
        feed: Arc<Feed>,
        sink: Arc<Sink>,
        attention: Arc<Attention>,
        scheme: Scheme,
        max_message: usize,
    ) -> Self {
        attention.wake_by(Arc::clone(&feed) as _, None);
        Self {
            feed,
            sink,
            attention,
            scheme,
            max_message: if scheme.is_stream() { usize::MAX } else { max_message },
            info: MessageInfo::default(),
            wanted: Vec::new(),
            unreachable: false,
            end: None,
        }
    }

    /// Waits for one message, or on a stream for as many bytes as fit into `first`. The bytes go to `first`, and the
    /// rest to `overflow`. Blocks until `deadline`. Data that has already arrived is delivered even if the deadline has
    /// passed.
    pub(crate) fn recv(
        &mut self,
        first: &mut [u8],
        overflow: &mut Vec<u8>,
        deadline: Option<Instant>,
    ) -> Arrival {
        let piece = (self.scheme.is_stream() && !first.is_empty()).then_some(first.len());
        loop {
            if let Some(end) = &self.end {
                return Arrival::Over(end.clone());
            }
            match self.feed.take(piece, deadline) {
                Found::Woken => return Arrival::Woken,
                Found::TimedOut => return Arrival::TimedOut,
                Found::GaveUp => {
                    let why = format!("no input arrived for {:?}", self.feed.patience());
                    self.end = Some(EndReason::Aborted(why));
                }
                Found::Input(input) => match input {
                    Input::Message(message, _) if message.len() > self.max_message => {
                        return Arrival::TooLong;
                    }
                    Input::Message(message, info) => {
                        self.info = info;
                        return Arrival::Message(place(&message, first, overflow));
                    }
                    Input::Notification(notification) => {
                        self.end = end_by(&notification);
                        if notification.kind().is_some_and(|kind| self.wanted.contains(&kind)) {
                            return Arrival::Notification(notification);
                        }
                    }
                    Input::Unreachable => self.unreachable = true,
                    Input::Signal(signal) => {
                        self.attention.note(signal);
                        return Arrival::Woken;
                    }
                    Input::Passed(_) => {}
                    Input::Over(end) => self.end = Some(end),
                },
            }
        }
    }

    /// Sets whether the handler receives these notifications.
    pub(crate) fn subscribe(&mut self, kind: NotificationKind, wanted: bool) {
        self.wanted.retain(|known| *known != kind);
        if wanted {
            self.wanted.push(kind);
        }
    }

    /// Waits until there may be room to send, or the timeout has passed.
    pub(super) fn wait_for_room(&self, timeout: Duration) -> bool {
        self.feed.wait_for_room(timeout)
    }

    /// Aborts the association for this reason.
    pub(crate) fn abort(&self, reason: &[u8]) {
        self.sink.close(Some(reason));
    }
}

impl Drop for MemoryTransport {
    fn drop(&mut self) {
        self.feed.close();
        self.sink.close(None);
    }
}

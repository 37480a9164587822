//! The outbox of a peer that does not take messages at the moment: a bounded queue of shared messages, which are not
//! copied.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::address::Scheme;
use crate::config::setters;
use crate::sctp::SendInfo;

/// Bounds of a peer's outbox, and the policy when it is full.
///
/// [`Sender::send`](crate::Sender::send) and [`Sender::post`](crate::Sender::post) use the outbox once the kernel's
/// send buffer is full and, on TCP, [`TcpSettings::max_pending`](crate::TcpSettings::max_pending) is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutboxLimits {
    /// Maximum number of messages. Default: 256.
    pub max_messages: usize,
    /// Maximum number of bytes. Default: 1 MiB. A message shared by many peers counts for each of them.
    pub max_bytes: usize,
    /// What happens to a message that does not fit. Default: [`Overflow::ByTransport`].
    pub overflow: Overflow,
}

setters!(OutboxLimits { max_messages: usize, max_bytes: usize, overflow: Overflow });

impl Default for OutboxLimits {
    fn default() -> Self {
        Self { max_messages: 256, max_bytes: 1 << 20, overflow: Overflow::default() }
    }
}

/// What happens when a peer's outbox has reached its [`OutboxLimits`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// [`DropOldest`](Self::DropOldest) on UDP and DTLS, which may lose messages anyway;
    /// [`Disconnect`](Self::Disconnect) on SCTP, TCP and TLS, whose users rely on receiving every message.
    #[default]
    ByTransport,
    /// The oldest messages are dropped to make room.
    DropOldest,
    /// The new message is dropped.
    DropNewest,
    /// The association ends ([`EndReason::TooSlow`](crate::EndReason::TooSlow)).
    Disconnect,
}

impl Overflow {
    /// Returns the policy for this transport.
    pub(crate) fn resolve(self, scheme: Scheme) -> Self {
        match self {
            Self::ByTransport if scheme.is_reliable() => Self::Disconnect,
            Self::ByTransport => Self::DropOldest,
            chosen => chosen,
        }
    }
}

/// Result of [posting](crate::Sender::post) a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PostOutcome {
    /// The message was sent.
    Sent,
    /// The message waits; the peer's own thread sends it as soon as there is room.
    Queued,
    /// A message was dropped: this one or older ones because the outbox was full, or this one because the peer's
    /// address is not proven ([`ServerBuilder::udp_proof`](crate::ServerBuilder::udp_proof)).
    Dropped,
    /// The outbox was full, so the association ends.
    Disconnected,
    /// The message cannot be sent: it is too long, it is empty on a transport without empty messages, or its stream
    /// does not exist.
    Unsendable,
    /// The association has ended.
    Ended,
}

/// The messages that wait for one peer.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    messages: VecDeque<(Arc<[u8]>, SendInfo)>,
    bytes: usize,
}

/// Result of [`Queue::push`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// The message is queued, and this many older messages were dropped.
    Queued(u64),
    /// The message was not queued.
    Refused,
}

impl Queue {
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    #[cfg(all(test, shuttle))]
    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Discards all messages and returns how many there were.
    pub(crate) fn clear(&mut self) -> u64 {
        let dropped = self.messages.len() as u64;
        *self = Self::default();
        dropped
    }

    /// Queues a message, dropping older ones if the policy says so.
    pub(crate) fn push(&mut self, message: Arc<[u8]>, how: &SendInfo, bound: &OutboxLimits) -> Pushed {
        if message.len() > bound.max_bytes || bound.max_messages == 0 {
            return Pushed::Refused;
        }
        let mut dropped = 0;
        while self.messages.len() >= bound.max_messages || self.bytes + message.len() > bound.max_bytes {
            if bound.overflow != Overflow::DropOldest {
                return Pushed::Refused;
            }
            self.pop();
            dropped += 1;
        }
        self.bytes += message.len();
        self.messages.push_back((message, *how));
        Pushed::Queued(dropped)
    }

    /// Returns all messages, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.messages.iter().map(|(message, _)| &**message)
    }

    /// Returns the oldest message.
    pub(crate) fn front(&self) -> Option<&(Arc<[u8]>, SendInfo)> {
        self.messages.front()
    }

    /// Removes the oldest message.
    pub(crate) fn pop(&mut self) {
        if let Some((message, _)) = self.messages.pop_front() {
            self.bytes -= message.len();
        }
        if self.messages.is_empty() {
            self.messages = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(queue: &mut Queue, text: &str, bound: &OutboxLimits) -> Pushed {
        queue.push(Arc::from(text.as_bytes()), &SendInfo::default(), bound)
    }

    fn drain(queue: &mut Queue) -> Vec<String> {
        let mut found = Vec::new();
        while let Some((message, _)) = queue.front() {
            found.push(String::from_utf8(message.to_vec()).unwrap());
            queue.pop();
        }
        assert_eq!(queue.bytes, 0);
        found
    }

    #[test]
    fn the_oldest_messages_make_room() {
        let bound = OutboxLimits { max_messages: 3, max_bytes: 6, overflow: Overflow::DropOldest };
        let mut queue = Queue::default();
        for text in ["ab", "cd", "ef"] {
            assert_eq!(push(&mut queue, text, &bound), Pushed::Queued(0));
        }
        assert_eq!(push(&mut queue, "g", &bound), Pushed::Queued(1));
        assert_eq!(push(&mut queue, "hijk", &bound), Pushed::Queued(2));
        assert_eq!(push(&mut queue, "longest", &bound), Pushed::Refused);
        assert_eq!(drain(&mut queue), ["g", "hijk"]);
    }

    #[test]
    fn the_newest_message_is_refused_if_the_policy_says_so() {
        for overflow in [Overflow::DropNewest, Overflow::Disconnect] {
            let bound = OutboxLimits { max_messages: 2, max_bytes: 100, overflow };
            let mut queue = Queue::default();
            assert_eq!(push(&mut queue, "a", &bound), Pushed::Queued(0));
            assert_eq!(push(&mut queue, "b", &bound), Pushed::Queued(0));
            assert_eq!(push(&mut queue, "c", &bound), Pushed::Refused);
            assert_eq!(drain(&mut queue), ["a", "b"]);
        }
    }
}

//! The message queue through which other threads reach a loop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::entry::{Entry, Outcome};
use super::token::Token;
use crate::net::attention::Waker;
use crate::net::udp::Stray;
use crate::serve::worker::Job;
use crate::sys::eventfd::EventFd;
use crate::sys::sync::Mutex;
use crate::sys::sync::atomic::{AtomicBool, Ordering};
use crate::sys::sync::channel::Sender;

/// The most datagrams that wait in a loop's queue.
const MAX_STRAYS: usize = 4096;

/// A message from another thread to a loop.
pub(super) enum LoopMessage {
    /// This peer needs a turn.
    Wake(Token),
    /// A thread has finished the turn of a peer that was taken out.
    Returned(Token, Box<Entry>, Outcome),
    /// The association of this peer has ended.
    Left(Token),
    /// The peer has moved to this address.
    Moved(Token, SocketAddr),
    /// A datagram for the peer at its addresses, with the number of the loop to which the kernel gave it, if that was
    /// another loop.
    Stray(Stray, Option<u8>),
    /// A datagram that another process read, from the socket with this index, or from any socket if there is no index.
    Relayed(Stray, Option<u8>),
    /// A new peer that has its own socket.
    New(Box<Job>),
    /// The loop drops the sender when no turn waits any more, or after this many rounds.
    Rounds(u16, Arc<Sender<()>>),
}

/// The messages for a loop. The number of peers bounds all messages except datagrams, which have their own bound.
pub(super) struct LoopMailbox {
    queue: Mutex<Queue>,
    /// Readable while there are messages.
    pub(super) wakeup: EventFd,
}

#[derive(Default)]
struct Queue {
    messages: Vec<LoopMessage>,
    strays: usize,
    /// Whether the loop has ended.
    closed: bool,
}

impl LoopMailbox {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { queue: Mutex::default(), wakeup: EventFd::new()? })
    }

    /// Queues a message, and wakes the loop if it is the first. Returns `false` if too many datagrams wait or the loop
    /// has ended.
    pub(super) fn send(&self, message: LoopMessage) -> bool {
        let mut queue = self.queue.lock();
        if queue.closed {
            // The message is dropped, with what it owns, after the lock is released.
            drop(queue);
            return false;
        }
        if matches!(message, LoopMessage::Stray(..) | LoopMessage::Relayed(..)) {
            if queue.strays >= MAX_STRAYS {
                return false;
            }
            queue.strays += 1;
        }
        queue.messages.push(message);
        let first = queue.messages.len() == 1;
        drop(queue);
        if first {
            self.wakeup.notify();
        }
        true
    }

    /// Takes all messages, in exchange for an empty vector.
    pub(super) fn take(&self, into: &mut Vec<LoopMessage>) {
        let mut queue = self.queue.lock();
        queue.strays = 0;
        std::mem::swap(&mut queue.messages, into);
    }

    /// Takes all messages of a loop that has ended, and refuses further ones.
    pub(super) fn close(&self) -> Vec<LoopMessage> {
        let mut queue = self.queue.lock();
        queue.closed = true;
        std::mem::take(&mut queue.messages)
    }

    /// Wakes the loop, so that it checks the state that other threads share with it.
    pub(super) fn wake(&self) {
        self.wakeup.notify();
    }
}

/// Wakes a loop for one of its peers.
pub(super) struct PeerWaker {
    mailbox: Arc<LoopMailbox>,
    token: Token,
    woken: AtomicBool,
}

impl PeerWaker {
    pub(super) fn new(mailbox: &Arc<LoopMailbox>, token: Token) -> Arc<Self> {
        Arc::new(Self { mailbox: Arc::clone(mailbox), token, woken: AtomicBool::new(false) })
    }

    /// Notes that the loop looks at the peer, so that the next wake-up sends a message again.
    pub(super) fn rearm(&self) {
        self.woken.store(false, Ordering::SeqCst);
    }
}

impl Waker for PeerWaker {
    fn wake(&self) {
        if !self.woken.swap(true, Ordering::SeqCst) {
            self.mailbox.send(LoopMessage::Wake(self.token));
        }
    }
}

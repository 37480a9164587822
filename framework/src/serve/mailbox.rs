//! The message queue through which other threads reach the dispatcher thread.

use std::io;
use std::sync::Arc;

use crate::net::sctp::Restarted;
use crate::net::udp::Stray;
use crate::serve::handover::gate::Gate;
use crate::sys::eventfd::EventFd;
use crate::sys::sync::atomic::{AtomicBool, Ordering};
use crate::sys::sync::channel::{Receiver, Sender, TrySendError, bounded};

/// The most messages that wait for the dispatcher, each with its payload.
pub(in crate::serve) const MAX_MESSAGES: usize = 4096;

/// A message from another thread to the dispatcher.
pub(crate) enum DispatcherMessage {
    /// A datagram that a thread found on the socket of another peer.
    Stray(Stray),
    /// A request to pause while the listeners are handed over to another process.
    Pause(Arc<Gate>),
    /// An SCTP socket whose peer has restarted.
    Restarted(Restarted),
}

/// The sending end of the dispatcher's message queue.
pub(crate) struct Mailbox {
    messages: Sender<DispatcherMessage>,
    wake: Arc<EventFd>,
    pub(in crate::serve) stop: AtomicBool,
}

/// The receiving end, for the dispatcher.
pub(crate) struct MailboxReceiver {
    pub(in crate::serve) messages: Receiver<DispatcherMessage>,
    pub(in crate::serve) wake: Arc<EventFd>,
}

/// Makes the two ends of a message queue.
pub(crate) fn mailbox() -> io::Result<(Mailbox, MailboxReceiver)> {
    let (sender, receiver) = bounded(MAX_MESSAGES);
    let wake = Arc::new(EventFd::new()?);
    let mailbox = Mailbox { messages: sender, wake: Arc::clone(&wake), stop: AtomicBool::new(false) };
    Ok((mailbox, MailboxReceiver { messages: receiver, wake }))
}

impl Mailbox {
    /// Queues a message. Returns `false` if the queue is full or the dispatcher has ended. Never blocks.
    pub(crate) fn send(&self, message: DispatcherMessage) -> bool {
        match self.messages.try_send(message) {
            Ok(()) => {
                self.wake.notify();
                true
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    /// Wakes the dispatcher, so that it checks the state that other threads share with it.
    pub(crate) fn wake(&self) {
        self.wake.notify();
    }

    /// Tells the dispatcher to end.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake.notify();
    }
}

//! How workers reach the dispatcher thread.

use std::io;
use std::sync::Arc;

use crate::net::sctp::Restarted;
use crate::net::udp::Stray;
use crate::serve::handover::gate::Gate;
use crate::sys::eventfd::EventFd;
use crate::sys::sync::atomic::{AtomicBool, Ordering};
use crate::sys::sync::channel::{Receiver, Sender, TrySendError, bounded};

/// Letters that wait for the dispatcher at most, each with its payload.
pub(in crate::serve) const MAX_LETTERS: usize = 4096;

/// What workers have for the dispatcher.
pub(crate) enum Letter {
    /// A datagram found on the wrong socket.
    Stray(Stray),
    /// Stand still, for the listeners are handed over to another process.
    Pause(Arc<Gate>),
    /// An SCTP socket whose peer began anew.
    Restarted(Restarted),
}

/// How others reach the dispatcher.
pub(crate) struct Mailbox {
    letters: Sender<Letter>,
    wake: Arc<EventFd>,
    pub(in crate::serve) stop: AtomicBool,
}

/// The dispatcher's end of its mailbox.
pub(crate) struct Inlet {
    pub(in crate::serve) letters: Receiver<Letter>,
    pub(in crate::serve) wake: Arc<EventFd>,
}

/// A mailbox and its inlet.
pub(crate) fn mailbox() -> io::Result<(Mailbox, Inlet)> {
    let (sender, receiver) = bounded(MAX_LETTERS);
    let wake = Arc::new(EventFd::new()?);
    let mailbox = Mailbox { letters: sender, wake: Arc::clone(&wake), stop: AtomicBool::new(false) };
    Ok((mailbox, Inlet { letters: receiver, wake }))
}

impl Mailbox {
    /// Gives something to the dispatcher; `false` where its mailbox is full.
    pub(crate) fn send(&self, letter: Letter) -> bool {
        match self.letters.try_send(letter) {
            Ok(()) => {
                self.wake.notify();
                true
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    /// Has the dispatcher look at what others share with it.
    pub(crate) fn wake(&self) {
        self.wake.notify();
    }

    /// Ends the dispatcher.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake.notify();
    }
}

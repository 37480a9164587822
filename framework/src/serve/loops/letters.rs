//! How other threads reach a loop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::entry::{Entry, Outcome};
use super::token::Token;
use crate::net::attention::Wakes;
use crate::net::udp::Stray;
use crate::serve::worker::Job;
use crate::sys::eventfd::EventFd;
use crate::sys::sync::Mutex;
use crate::sys::sync::atomic::{AtomicBool, Ordering};

/// Datagrams that wait for a loop at most.
const MAX_STRAYS: usize = 4096;

/// What others have for a loop.
pub(super) enum Letter {
    /// Somebody wants this peer's attention.
    Wake(Token),
    /// A thread has finished with a peer that was taken out.
    Returned(Token, Box<Entry>, Outcome),
    /// The association of this peer is over.
    Left(Token),
    /// The peer is at this address by now.
    Moved(Token, SocketAddr),
    /// A datagram for whoever is at its addresses; with the number of the loop that the kernel gave it to, if that was
    /// another one.
    Stray(Stray, Option<u8>),
    /// A datagram that another process read, from the socket with this index; `None`: of any socket, by its addresses.
    Relayed(Stray, Option<u8>),
    /// A new peer with a socket of its own.
    New(Box<Job>),
}

/// A loop's letters. All but the strays are bounded by the number of peers.
pub(super) struct Letters {
    queue: Mutex<Queue>,
    /// Readable while there are letters.
    pub(super) bell: EventFd,
}

#[derive(Default)]
struct Queue {
    letters: Vec<Letter>,
    strays: usize,
    /// The loop has ended.
    closed: bool,
}

impl Letters {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { queue: Mutex::default(), bell: EventFd::new()? })
    }

    /// Leaves a letter, and wakes the loop if it is the first; `false`: too many wait already, or the loop has ended.
    pub(super) fn send(&self, letter: Letter) -> bool {
        let mut queue = self.queue.lock();
        if queue.closed {
            // What is in the letter ends with it, and not under the lock.
            drop(queue);
            return false;
        }
        if matches!(letter, Letter::Stray(..) | Letter::Relayed(..)) {
            if queue.strays >= MAX_STRAYS {
                return false;
            }
            queue.strays += 1;
        }
        queue.letters.push(letter);
        let first = queue.letters.len() == 1;
        drop(queue);
        if first {
            self.bell.notify();
        }
        true
    }

    /// Takes all letters, in exchange for an empty vector.
    pub(super) fn take(&self, into: &mut Vec<Letter>) {
        let mut queue = self.queue.lock();
        queue.strays = 0;
        std::mem::swap(&mut queue.letters, into);
    }

    /// Takes all letters of a loop that has ended. It gets no more.
    pub(super) fn close(&self) -> Vec<Letter> {
        let mut queue = self.queue.lock();
        queue.closed = true;
        std::mem::take(&mut queue.letters)
    }

    /// Has the loop look at what others share with it.
    pub(super) fn wake(&self) {
        self.bell.notify();
    }
}

/// What wakes a loop for one of its peers.
pub(super) struct PeerBell {
    letters: Arc<Letters>,
    token: Token,
    rung: AtomicBool,
}

impl PeerBell {
    pub(super) fn new(letters: &Arc<Letters>, token: Token) -> Arc<Self> {
        Arc::new(Self { letters: Arc::clone(letters), token, rung: AtomicBool::new(false) })
    }

    /// The loop looks at the peer: whoever wants its attention from now on rings again.
    pub(super) fn heard(&self) {
        self.rung.store(false, Ordering::SeqCst);
    }
}

impl Wakes for PeerBell {
    fn wake(&self) {
        if !self.rung.swap(true, Ordering::SeqCst) {
            self.letters.send(Letter::Wake(self.token));
        }
    }
}

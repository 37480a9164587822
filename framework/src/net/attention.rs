//! How other threads reach a peer's thread while it waits on its socket: signals, an inbox of data that they have read
//! for it, and a way to interrupt the wait.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use socket2::Socket;

use crate::sctp::{self, MessageInfo, NotificationKind};
use crate::sys::epoll::Epoll;
use crate::sys::message;
use crate::sys::sync::Mutex;
use crate::sys::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

/// Signals from other threads to the worker; bits of [`Attention::signals`].
pub(crate) mod signal {
    /// The server drains: end when the peer is quiet.
    pub(crate) const DRAIN: u8 = 1;
    /// A thread called `close`.
    pub(crate) const CLOSE: u8 = 2;
    /// The handshake is evicted for a newer one.
    pub(crate) const EVICT: u8 = 4;
    /// The grace period has ended.
    pub(crate) const STOP: u8 = 8;
    /// Datagrams wait in the inbox.
    pub(crate) const INBOX: u8 = 16;
    /// The send buffer was full: flush pending output when the socket becomes writable.
    pub(crate) const FLUSH: u8 = 32;
    /// The peer's outbox is full, and the policy is to disconnect it.
    pub(crate) const TOO_SLOW: u8 = 64;
    /// The server drains, and the handshake is to be broken off.
    pub(crate) const BREAK_OFF: u8 = 128;
    /// Signals after which nothing more is read from the peer.
    pub(crate) const FINAL: u8 = CLOSE | EVICT | STOP | TOO_SLOW;
}

/// Maximum number of datagrams in an inbox: those that arrived before the peer's socket existed, and late ones. A
/// listener's receive buffer holds about this many small datagrams of one peer. [`INBOX_BYTES`] limits the memory too.
const INBOX_DATAGRAMS: usize = 4096;
/// Maximum number of bytes in an inbox.
const INBOX_BYTES: usize = 1 << 20;

/// State that a worker checks between its waits. The locks are leaves: no other lock is taken while one is held, and
/// none is held across a blocking call.
#[derive(Default)]
pub(crate) struct Attention {
    wake: Mutex<Wake>,
    inbox: Mutex<Inbox>,
    signals: AtomicU8,
    /// A handshake is under way and counts towards its limit.
    pub(crate) half_open: AtomicBool,
    /// An SCTP socket was shut down for reading to wake the worker.
    shut: AtomicBool,
    /// The peer must be woken when the socket that it shares has room.
    pub(super) awaits_room: AtomicBool,
}

/// Interrupts a wait that is not in a read of a socket.
pub(crate) trait Waker: Send + Sync {
    /// Interrupts the current or next wait. Never blocks.
    fn wake(&self);
}

/// How to interrupt the worker's wait.
#[derive(Default)]
enum Wake {
    /// No worker has started; it checks the signals on start-up.
    #[default]
    NotStarted,
    /// The worker blocks in a read of the socket; shutting the socket down for reading wakes it.
    Blocking(Arc<Socket>),
    /// The worker waits by epoll for these events; re-arming the socket there wakes it.
    Watching(Arc<Socket>, Arc<Epoll>, u32),
    /// The worker blocks in a read of an SCTP socket. Shut down for reading, the socket would acknowledge and discard
    /// arriving data; a notification wakes the worker without that.
    Notifying(Arc<Socket>),
    /// The worker waits for something else, or an event loop drives the peer, on this socket if there is one.
    By(Arc<dyn Waker>, Option<Arc<Socket>>),
    /// The worker has finished; there is nothing to wake.
    Gone,
}

#[derive(Default)]
struct Inbox {
    queue: VecDeque<InboxItem>,
    bytes: usize,
    closed: bool,
}

/// Data that another thread read for an association.
#[derive(Debug)]
pub(crate) struct InboxItem {
    /// A datagram, or (part of) an SCTP message.
    pub(crate) payload: Box<[u8]>,
    /// The source of a datagram, if it may differ from the peer's address.
    pub(crate) from: Option<SocketAddr>,
    /// The metadata of an SCTP message.
    pub(crate) info: MessageInfo,
    /// No further part of the message follows.
    pub(crate) complete: bool,
    /// The data is an SCTP notification.
    pub(crate) notification: bool,
    /// The room that the data takes, if the inboxes of several peers share it.
    #[expect(dead_code, reason = "it is given back when the item is dropped")]
    pub(crate) room: Option<TakenRoom>,
}

/// The room that the inboxes of several peers share, in bytes.
#[derive(Debug, Default)]
pub(crate) struct Room(AtomicUsize);

/// Room that is taken until this value is dropped.
#[derive(Debug)]
pub(crate) struct TakenRoom {
    room: Arc<Room>,
    bytes: usize,
}

impl Room {
    /// The bytes that may wait in all inboxes, and what a datagram takes besides its content.
    const BYTES: usize = 16 << 20;
    const EACH: usize = 128;

    /// Takes room for a datagram of this length. Returns `None` if there is none.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Option<TakenRoom> {
        let taken = TakenRoom { room: Arc::clone(self), bytes: len + Self::EACH };
        let before = self.0.fetch_add(taken.bytes, Ordering::Relaxed);
        (before + taken.bytes <= Self::BYTES).then_some(taken)
    }
}

impl Drop for TakenRoom {
    fn drop(&mut self) {
        self.room.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl InboxItem {
    /// Makes an item of a datagram.
    pub(crate) fn datagram(payload: &[u8]) -> Self {
        let (payload, info) = (payload.into(), MessageInfo::default());
        Self { payload, from: None, info, complete: true, notification: false, room: None }
    }

    /// Makes an item of a datagram with the peer's connection ID that came from this address.
    pub(crate) fn datagram_from(from: SocketAddr, payload: &[u8]) -> Self {
        Self { from: Some(from), ..Self::datagram(payload) }
    }
}

/// Result of [`Attention::deliver`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// The datagram waits for the worker.
    Queued,
    /// The inbox is full; the datagram is lost.
    Full,
    /// The association has ended; its addresses may have a successor.
    Gone,
}

impl Attention {
    /// Returns the signals that are set.
    pub(crate) fn signals(&self) -> u8 {
        self.signals.load(Ordering::SeqCst)
    }

    /// Sets a signal and wakes the worker unless it was already set.
    pub(crate) fn raise(&self, signal: u8) {
        if self.signals.fetch_or(signal, Ordering::AcqRel) & signal == 0 {
            self.wake();
        }
    }

    /// Sets a signal on the worker's own thread, which is not waiting.
    pub(crate) fn note(&self, signal: u8) {
        self.signals.fetch_or(signal, Ordering::AcqRel);
    }

    /// Clears a signal that has been handled.
    pub(crate) fn lower(&self, signal: u8) {
        self.signals.fetch_and(!signal, Ordering::AcqRel);
    }

    /// Interrupts the worker's wait.
    pub(crate) fn wake(&self) {
        match &*self.wake.lock() {
            Wake::Blocking(socket) => message::shutdown_read(&**socket),
            Wake::Notifying(socket) => {
                let last = self.signals() & signal::FINAL != 0 || self.half_open.load(Ordering::Acquire);
                // The kernel sends SCTP_SENDER_DRY_EVENT at once if all data is acknowledged, otherwise as soon as it
                // is (RFC 6458 §6.1.9).
                if last || sctp::Options::of(&**socket).subscribe(NotificationKind::SenderDry, true).is_err()
                {
                    self.shut.store(true, Ordering::Release);
                    message::shutdown_read(&**socket);
                }
            }
            Wake::Watching(socket, epoll, events) => {
                use std::os::fd::AsFd;
                let _ = epoll.modify(socket.as_fd(), *events, 0);
            }
            Wake::By(waker, _) => waker.wake(),
            Wake::NotStarted | Wake::Gone => {}
        }
    }

    /// Notes that the worker is about to block in reads of `socket`. It must check the signals after this.
    pub(crate) fn wake_by_shutdown(&self, socket: &Arc<Socket>) {
        *self.wake.lock() = Wake::Blocking(Arc::clone(socket));
    }

    /// Notes that the worker is about to block in reads of an SCTP `socket`. It must check the signals after this.
    pub(crate) fn wake_by_notification(&self, socket: &Arc<Socket>) {
        *self.wake.lock() = Wake::Notifying(Arc::clone(socket));
    }

    /// Notes that the worker waits by `epoll` for these events from now on. It must check the signals after this.
    pub(crate) fn wake_by_epoll(&self, socket: &Arc<Socket>, epoll: &Arc<Epoll>, events: u32) {
        *self.wake.lock() = Wake::Watching(Arc::clone(socket), Arc::clone(epoll), events);
    }

    /// Notes that the worker is about to wait until `waker` is called, or that a loop drives the peer, on this socket
    /// if there is one. It must check the signals after this.
    pub(crate) fn wake_by(&self, waker: Arc<dyn Waker>, socket: Option<Arc<Socket>>) {
        *self.wake.lock() = Wake::By(waker, socket);
    }

    /// Releases the wake-up handle.
    pub(crate) fn wake_no_more(&self) {
        *self.wake.lock() = Wake::Gone;
    }

    /// Returns whether another thread has shut the SCTP socket down for reading, so that nothing more can be read from
    /// it. The result does not change after [`wake_no_more`](Self::wake_no_more).
    pub(crate) fn is_shut(&self) -> bool {
        self.shut.load(Ordering::Acquire)
    }

    /// Returns the socket; `None` before the worker has started, after it has finished, and if there is none.
    pub(crate) fn socket(&self) -> Option<Arc<Socket>> {
        match &*self.wake.lock() {
            Wake::Blocking(socket) | Wake::Watching(socket, ..) | Wake::Notifying(socket) => {
                Some(Arc::clone(socket))
            }
            Wake::By(_, socket) => socket.clone(),
            Wake::NotStarted | Wake::Gone => None,
        }
    }

    /// Delivers a datagram of the peer to the worker. The worker takes these in order, before anything that it reads
    /// from the socket later. With `wake` false the worker must not have started yet.
    pub(crate) fn deliver(&self, item: InboxItem, wake: bool) -> Delivery {
        {
            let mut inbox = self.inbox.lock();
            if inbox.closed {
                return Delivery::Gone;
            }
            if inbox.queue.len() >= INBOX_DATAGRAMS || inbox.bytes + item.payload.len() > INBOX_BYTES {
                return Delivery::Full;
            }
            inbox.bytes += item.payload.len();
            inbox.queue.push_back(item);
            let raised = self.signals.fetch_or(signal::INBOX, Ordering::SeqCst) & signal::INBOX;
            if raised != 0 || !wake {
                return Delivery::Queued;
            }
        }
        self.wake();
        Delivery::Queued
    }

    /// Returns whether the inbox has room for one more entry, given that at most this many bytes may wait before it.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        let inbox = self.inbox.lock();
        inbox.queue.len() < INBOX_DATAGRAMS && inbox.bytes <= bytes
    }

    /// Returns how many bytes wait for the worker.
    pub(crate) fn delivered_bytes(&self) -> usize {
        self.inbox.lock().bytes
    }

    /// Takes the oldest datagram out of the inbox.
    pub(crate) fn take_delivered(&self) -> Option<InboxItem> {
        let mut inbox = self.inbox.lock();
        let item = inbox.queue.pop_front();
        inbox.bytes -= item.as_ref().map_or(0, |item| item.payload.len());
        if inbox.queue.is_empty() {
            self.lower(signal::INBOX);
        }
        item
    }

    /// Closes the inbox and returns what is left in it.
    pub(crate) fn close_inbox(&self) -> VecDeque<InboxItem> {
        let mut inbox = self.inbox.lock();
        inbox.closed = true;
        std::mem::take(&mut inbox.queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inbox_keeps_order_and_clears_its_signal() {
        let attention = Attention::default();
        assert_eq!(attention.deliver(InboxItem::datagram(b"one"), true), Delivery::Queued);
        assert_eq!(attention.deliver(InboxItem::datagram(b"two"), true), Delivery::Queued);
        assert_eq!(attention.signals(), signal::INBOX);
        let take = || attention.take_delivered().map(|item| item.payload);
        assert_eq!((take().as_deref(), take().as_deref()), (Some(&b"one"[..]), Some(&b"two"[..])));
        assert_eq!(attention.signals(), 0);
        assert_eq!(take(), None);
    }

    #[test]
    fn the_inbox_is_bounded_in_datagrams_and_in_bytes() {
        let small = Attention::default();
        for _ in 0..INBOX_DATAGRAMS {
            assert_eq!(small.deliver(InboxItem::datagram(b""), true), Delivery::Queued);
        }
        assert_eq!(small.deliver(InboxItem::datagram(b""), true), Delivery::Full);
        let large = Attention::default();
        let datagram = vec![0; INBOX_BYTES / 16];
        for _ in 0..16 {
            assert_eq!(large.deliver(InboxItem::datagram(&datagram), true), Delivery::Queued);
        }
        assert_eq!(large.deliver(InboxItem::datagram(b"x"), true), Delivery::Full);
        assert!(large.take_delivered().is_some());
        assert_eq!(large.deliver(InboxItem::datagram(b"x"), true), Delivery::Queued);
    }

    #[test]
    fn inboxes_that_share_room_are_bounded_together_and_give_it_back() {
        let (room, inboxes) = (Arc::new(Room::default()), [(); 32].map(|()| Attention::default()));
        let datagram = [0; 60_000];
        let deliver = |inbox: &Attention| {
            let room = room.take(datagram.len())?;
            let item = InboxItem { room: Some(room), ..InboxItem::datagram(&datagram) };
            Some(inbox.deliver(item, true))
        };
        let each = INBOX_BYTES / datagram.len();
        let fill =
            || inboxes.iter().map(|inbox| (0..each).filter_map(|_| deliver(inbox)).count()).sum::<usize>();
        let most = Room::BYTES / (datagram.len() + Room::EACH);
        assert!(most < each * inboxes.len());
        assert_eq!((fill(), fill()), (most, 0));
        assert!(inboxes[0].take_delivered().is_some());
        assert_eq!((deliver(&inboxes[0]), deliver(&inboxes[0])), (Some(Delivery::Queued), None));
        inboxes.iter().for_each(|inbox| drop(inbox.close_inbox()));
        assert_eq!(deliver(&inboxes[0]), Some(Delivery::Gone));
        assert_eq!(room.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_closed_inbox_returns_its_content() {
        let attention = Attention::default();
        attention.deliver(InboxItem::datagram(b"late"), true);
        assert_eq!(attention.close_inbox().len(), 1);
        assert_eq!(attention.deliver(InboxItem::datagram(b"later"), true), Delivery::Gone);
    }
}

//! The rooms of other processes, as this one sees them, and what is told to them. Redis itself is
//! [`bridge`](crate::chat::bridge)'s; what becomes of what they tell, that of `others`.
//!
//! While Redis cannot be reached, nothing is kept for other processes, and their members are not listed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use crate::chat::bulletin::{Bulletin, News};
use crate::chat::instance::Instance;
use crate::chat::name::{Name, RoomName};
use crate::chat::roster::{Roster, Speaker};

/// Bulletins that wait to be published; what is beyond is dropped.
const QUEUE: usize = 4096;
/// Pairs of member and room of other processes that are remembered.
const ROSTER: usize = 65_536;

/// What the publisher is to do.
#[derive(Debug)]
pub enum Errand {
    /// Publish this.
    Publish(News),
    /// Publish who is here.
    Rosters,
    /// Say goodbye and end.
    End,
}

/// The other processes.
pub struct Remote {
    pub(super) origin: Name,
    pub(super) instance: Instance,
    pub(super) presence: Duration,
    queue: Sender<Errand>,
    pub(super) reached: AtomicBool,
    /// Members have been told that the others are out of reach.
    pub(super) told_lost: AtomicBool,
    /// The publisher is asked for rosters already.
    pub(super) rosters_due: AtomicBool,
    pub(super) warned_of_namesake: AtomicBool,
    dropped: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) roster: Mutex<Roster>,
}

impl Remote {
    /// Nobody is reached yet. The receiver is the publisher's. `presence`: how long somebody counts as
    /// there who has not been repeated.
    pub fn new(origin: Name, instance: Instance, presence: Duration) -> (Self, Receiver<Errand>) {
        let (queue, errands) = bounded(QUEUE);
        let remote = Self {
            origin,
            instance,
            presence,
            queue,
            reached: AtomicBool::new(false),
            told_lost: AtomicBool::new(false),
            rosters_due: AtomicBool::new(false),
            warned_of_namesake: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            roster: Mutex::new(Roster::new(ROSTER)),
        };
        (remote, errands)
    }

    /// The name of this process.
    pub fn origin(&self) -> &Name {
        &self.origin
    }

    /// How long somebody counts as there who has not been repeated.
    pub fn presence(&self) -> Duration {
        self.presence
    }

    /// A bulletin of this process.
    pub fn bulletin(&self, news: News) -> Bulletin {
        Bulletin { origin: self.origin.clone(), instance: self.instance, news }
    }

    /// Queues news; false if the others are out of reach, or the queue is full.
    pub fn publish(&self, news: News) -> bool {
        if !self.reached.load(Ordering::Acquire) {
            return false;
        }
        let queued = self.queue.try_send(Errand::Publish(news)).is_ok();
        if !queued {
            self.count_dropped(1);
        }
        queued
    }

    /// Has the publisher find out whether its connection works.
    pub fn poke(&self) {
        // Where the queue is full, the next item in it does the same.
        let _ = self.queue.try_send(Errand::Publish(News::Alive));
    }

    /// Asks the publisher to end, once what is queued is out.
    pub fn end(&self, patience: Duration) {
        // Fails only if the publisher is stuck or gone, and then there is nobody to end.
        let _ = self.queue.send_timeout(Errand::End, patience);
    }

    /// Bulletins that were for the others and are lost.
    pub fn count_dropped(&self, bulletins: u64) {
        self.dropped.fetch_add(bulletins, Ordering::Relaxed);
    }

    /// Bulletins dropped before they were published, and bulletins refused that came.
    pub fn losses(&self) -> (u64, u64) {
        (self.dropped.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed))
    }

    /// Whether the others can be reached.
    pub fn is_reached(&self) -> bool {
        self.reached.load(Ordering::Acquire)
    }

    /// Who is in a room, as `alice@north`.
    pub(super) fn members(&self, room: &RoomName) -> Vec<String> {
        self.roster.lock().members(room).collect()
    }

    /// As [`members`](Self::members), but so many at most, and how many there are.
    pub(super) fn some_members(&self, room: &RoomName, most: usize) -> (Vec<String>, usize) {
        let roster = self.roster.lock();
        (roster.members(room).take(most).collect(), roster.count(room))
    }

    /// Forgets a member that was the process's before this one, and is here now.
    pub(super) fn forget_own(&self, room: &RoomName, name: &Name) {
        self.roster.lock().lose(room, name, Speaker { origin: &self.origin, instance: self.instance });
    }

    /// Whether somebody elsewhere is in a room.
    pub(super) fn has_members(&self, room: &RoomName) -> bool {
        self.roster.lock().count(room) > 0
    }

    /// Adds the members elsewhere to the counts of these rooms, and the rooms that are elsewhere only.
    pub(super) fn add_counts(&self, rooms: &mut Vec<(RoomName, usize)>) {
        let roster = self.roster.lock();
        for (room, count) in rooms.iter_mut() {
            *count += roster.count(room);
        }
        // The local ones are in order.
        let local = rooms.len();
        for room in roster.rooms() {
            if rooms[..local].binary_search_by(|(known, _)| known.cmp(room)).is_err() {
                rooms.push((room.clone(), roster.count(room)));
            }
        }
    }

    /// Those elsewhere who have this name, with their processes.
    pub(super) fn namesakes(&self, name: &Name) -> Vec<(Name, Name)> {
        self.roster.lock().origins_of(name)
    }

    /// Somebody elsewhere whose name readers may take for this one, which is another.
    pub(super) fn name_like(&self, name: &Name) -> Option<String> {
        self.roster.lock().name_like(name)
    }

    /// A room elsewhere that readers may take for this one, which is another.
    pub(super) fn room_like(&self, room: &RoomName) -> Option<String> {
        self.roster.lock().room_like(room).map(|room| room.to_string())
    }

    pub(super) fn want_rosters(&self) {
        if !self.rosters_due.swap(true, Ordering::AcqRel) && self.queue.try_send(Errand::Rosters).is_err() {
            // The next beat brings them.
            self.rosters_due.store(false, Ordering::Release);
        }
    }
}

//! The rooms of other processes as this one sees them, and the news for them. [`bridge`](crate::chat::bridge)
//! talks to Redis, and `others` handles the news of other processes.
//!
//! While Redis is not reachable, no news is kept for other processes, and their members are not listed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use crate::chat::bulletin::{Bulletin, News};
use crate::chat::hearing::Hearing;
use crate::chat::instance::Instance;
use crate::chat::name::{Name, RoomName};
use crate::chat::roster::{RemoteProcess, Roster};

/// The largest number of bulletins that wait to be published; more are dropped.
const QUEUE: usize = 4096;
/// The largest number of remembered pairs of a member and a room of other processes.
const ROSTER: usize = 65_536;

/// A task for the publisher.
#[derive(Debug)]
pub enum PublisherTask {
    /// Publish this news with this number.
    Publish(News, u64),
    /// Publish the members of this process.
    Rosters,
    /// Say goodbye and end.
    End,
}

/// The other processes.
pub struct Remote {
    pub(super) origin: Name,
    pub(super) instance: Instance,
    pub(super) presence: Duration,
    queue: Sender<PublisherTask>,
    /// The number of the last news in the queue. It is locked while news is queued, so that the numbers are in order.
    number: Mutex<u64>,
    /// What was heard from the others.
    pub(super) hearing: Mutex<Hearing>,
    pub(super) reached: AtomicBool,
    /// Whether members have been told that the others are not reachable.
    pub(super) told_lost: AtomicBool,
    /// Whether the publisher has been asked for rosters already.
    pub(super) rosters_due: AtomicBool,
    pub(super) warned_of_namesake: AtomicBool,
    dropped: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) roster: Mutex<Roster>,
}

impl Remote {
    /// Starts without reachable processes. The receiver is for the publisher. `presence` is how long a member
    /// elsewhere counts as present without being repeated.
    pub fn new(origin: Name, instance: Instance, presence: Duration) -> (Self, Receiver<PublisherTask>) {
        let (queue, errands) = bounded(QUEUE);
        let remote = Self {
            origin,
            instance,
            presence,
            queue,
            number: Mutex::new(0),
            hearing: Mutex::default(),
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

    /// Returns the name of this process.
    pub fn origin(&self) -> &Name {
        &self.origin
    }

    /// Returns how long a member elsewhere counts as present without being repeated.
    pub fn presence(&self) -> Duration {
        self.presence
    }

    /// Makes a bulletin of this process.
    pub fn bulletin(&self, news: News, number: u64) -> Bulletin {
        Bulletin { origin: self.origin.clone(), instance: self.instance, number, news }
    }

    /// Returns the number of the last news of this process.
    pub(super) fn last_number(&self) -> u64 {
        *self.number.lock()
    }

    /// Queues news. Returns false if the others are not reachable, or if the queue is full.
    pub fn publish(&self, news: News) -> bool {
        if !self.reached.load(Ordering::Acquire) {
            return false;
        }
        let mut number = self.number.lock();
        let queued = self.queue.try_send(PublisherTask::Publish(news, *number + 1)).is_ok();
        if queued {
            *number += 1;
        } else {
            self.count_dropped(1);
        }
        queued
    }

    /// Makes the publisher check its connection.
    pub fn check_connection(&self) {
        // If the queue is full, its next item has the same effect.
        let _ = self.queue.try_send(PublisherTask::Publish(News::Alive, 0));
    }

    /// Asks the publisher to end after it has published what is queued.
    pub fn end(&self, patience: Duration) {
        // This fails only if the publisher is blocked or has ended.
        let _ = self.queue.send_timeout(PublisherTask::End, patience);
    }

    /// Counts bulletins for the others that are lost.
    pub fn count_dropped(&self, bulletins: u64) {
        self.dropped.fetch_add(bulletins, Ordering::Relaxed);
    }

    /// Returns how many bulletins were dropped before they were published, and how many received ones were
    /// refused.
    pub fn losses(&self) -> (u64, u64) {
        (self.dropped.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed))
    }

    /// Returns whether the others are reachable.
    pub fn is_reached(&self) -> bool {
        self.reached.load(Ordering::Acquire)
    }

    /// Returns the members of a room, as `alice@north`.
    pub(super) fn members(&self, room: &RoomName) -> Vec<String> {
        self.roster.lock().members(room).collect()
    }

    /// Returns at most `most` members of a room, and the number of all.
    pub(super) fn some_members(&self, room: &RoomName, most: usize) -> (Vec<String>, usize) {
        let roster = self.roster.lock();
        (roster.members(room).take(most).collect(), roster.count(room))
    }

    /// Removes a member that belonged to the previous process, and belongs to this one now.
    pub(super) fn forget_own(&self, room: &RoomName, name: &Name) {
        self.roster.lock().lose(room, name, RemoteProcess { origin: &self.origin, instance: self.instance });
    }

    /// Returns whether a room has members elsewhere.
    pub(super) fn has_members(&self, room: &RoomName) -> bool {
        self.roster.lock().count(room) > 0
    }

    /// Adds the members elsewhere to the counts of these rooms, and the rooms that exist elsewhere only.
    pub(super) fn add_counts(&self, rooms: &mut Vec<(RoomName, usize)>) {
        let roster = self.roster.lock();
        for (room, count) in rooms.iter_mut() {
            *count += roster.count(room);
        }
        // The local rooms are sorted.
        let local = rooms.len();
        for room in roster.rooms() {
            if rooms[..local].binary_search_by(|(known, _)| known.cmp(room)).is_err() {
                rooms.push((room.clone(), roster.count(room)));
            }
        }
    }

    /// Returns the members elsewhere with this name, and their processes.
    pub(super) fn namesakes(&self, name: &Name) -> Vec<(Name, Name)> {
        self.roster.lock().origins_of(name)
    }

    /// Returns a member elsewhere with another name that readers may take for this one.
    pub(super) fn name_like(&self, name: &Name) -> Option<String> {
        self.roster.lock().name_like(name)
    }

    /// Returns another room elsewhere that readers may take for this one.
    pub(super) fn room_like(&self, room: &RoomName) -> Option<String> {
        self.roster.lock().room_like(room).map(|room| room.to_string())
    }

    pub(super) fn want_rosters(&self) {
        if !self.rosters_due.swap(true, Ordering::AcqRel)
            && self.queue.try_send(PublisherTask::Rosters).is_err()
        {
            // The next regular publication includes them.
            self.rosters_due.store(false, Ordering::Release);
        }
    }
}

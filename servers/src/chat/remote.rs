//! The rooms of other processes, as this one sees them: what is told to them, and what becomes of what
//! they tell. Redis itself is [`bridge`](crate::chat::bridge)'s.
//!
//! While they are out of reach nothing is kept for them, and nobody of them counts as there: the rooms
//! are local, members are told so once, and once when it is over.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use crate::chat::bulletin::{Bulletin, News, ROSTER_NAMES};
use crate::chat::hub::{Hub, Outlet};
use crate::chat::line::{Line, foreign};
use crate::chat::name::{Name, RoomName};
use crate::chat::roster::Roster;

/// Bulletins that wait to be published; what is beyond is dropped.
const QUEUE: usize = 4096;
/// Pairs of member and room of other processes that are remembered.
const ROSTER: usize = 65_536;

const OUT_OF_REACH: &str = "other hosts are out of reach";
const BACK: &str = "other hosts are back";

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
    origin: Name,
    instance: u64,
    presence: Duration,
    queue: Sender<Errand>,
    reached: AtomicBool,
    /// Members have been told that the others are out of reach.
    told_lost: AtomicBool,
    /// The publisher is asked for rosters already.
    rosters_due: AtomicBool,
    warned_of_namesake: AtomicBool,
    dropped: AtomicU64,
    refused: AtomicU64,
    roster: Mutex<Roster>,
}

impl Remote {
    /// Nobody is reached yet. The receiver is the publisher's. `presence`: how long somebody counts as
    /// there who has not been repeated.
    pub fn new(origin: Name, instance: u64, presence: Duration) -> (Self, Receiver<Errand>) {
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

    fn want_rosters(&self) {
        if !self.rosters_due.swap(true, Ordering::AcqRel) && self.queue.try_send(Errand::Rosters).is_err() {
            // The next beat brings them.
            self.rosters_due.store(false, Ordering::Release);
        }
    }
}

impl<O: Outlet> Hub<O> {
    /// The other processes can be reached, from now on.
    pub fn reached(&self) {
        let Some(remote) = &self.remote else { return };
        if remote.reached.swap(true, Ordering::AcqRel) {
            return;
        }
        remote.publish(News::Hello);
        remote.want_rosters();
        if remote.told_lost.swap(false, Ordering::AcqRel) {
            self.tell_everybody(&Line::notice(BACK));
        }
    }

    /// The other processes cannot be reached any more.
    pub fn lost(&self) {
        let Some(remote) = &self.remote else { return };
        if !remote.reached.swap(false, Ordering::AcqRel) {
            return;
        }
        remote.roster.lock().clear();
        if !remote.told_lost.swap(true, Ordering::AcqRel) {
            self.tell_everybody(&Line::notice(OUT_OF_REACH));
        }
    }

    /// What a newcomer must know about the other processes.
    pub(super) fn reach_notice(&self) -> Option<Line> {
        let remote = self.remote.as_ref().filter(|remote| !remote.is_reached())?;
        remote.told_lost.store(true, Ordering::Release);
        // They may have come back just now.
        (!remote.is_reached()).then(|| Line::notice(OUT_OF_REACH))
    }

    /// All members of this process, for the others.
    pub fn rosters(&self) -> Vec<News> {
        if let Some(remote) = &self.remote {
            remote.rosters_due.store(false, Ordering::Release);
        }
        let rooms = self.directory.lock().rooms();
        let mut rosters = Vec::new();
        for room in rooms {
            for some in room.occupants().chunks(ROSTER_NAMES) {
                let names = some.iter().map(|occupant| occupant.member.name()).collect();
                rosters.push(News::Roster { room: room.name().clone(), names });
            }
        }
        rosters
    }

    /// Forgets members elsewhere of whom nothing was heard for the presence timeout.
    pub fn expire(&self, now: Instant) {
        let Some(remote) = &self.remote else { return };
        let gone = remote.roster.lock().expire(now);
        self.announce_gone(gone);
    }

    /// Something came from Redis; what it is worth is not known yet.
    pub fn hear(&self, payload: &[u8], now: Instant) {
        let Some(remote) = &self.remote else { return };
        match Bulletin::read(payload, self.rules.lengths) {
            Some(bulletin) => self.take(remote, bulletin, now),
            None => {
                remote.refused.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(bytes = payload.len(), "refused what came from Redis");
            }
        }
    }

    fn take(&self, remote: &Remote, Bulletin { origin, instance, news }: Bulletin, now: Instant) {
        if instance == remote.instance {
            return;
        }
        if origin == remote.origin && !remote.warned_of_namesake.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                %origin,
                "another process has the same name: private messages reach both, so give each its own --origin"
            );
        }
        let until = now + remote.presence;
        match news {
            News::Said { room, name, text } => {
                remote.roster.lock().see(&room, &name, &origin, until);
                if let Some(local) = self.room(&room) {
                    Self::broadcast(&local, &Line::said(&room, foreign(&name, &origin), &text), None);
                }
            }
            News::Done { room, name, text } => {
                remote.roster.lock().see(&room, &name, &origin, until);
                if let Some(local) = self.room(&room) {
                    Self::broadcast(&local, &Line::done(&room, foreign(&name, &origin), &text), None);
                }
            }
            News::Joined { room, name } => {
                let new = remote.roster.lock().see(&room, &name, &origin, until);
                if let (true, Some(local)) = (new, self.room(&room)) {
                    self.announce(&local, &Line::joined(&room, foreign(&name, &origin)), None);
                }
            }
            News::Left { room, name } => {
                if remote.roster.lock().lose(&room, &name, &origin) {
                    self.announce_gone(vec![(room, foreign(&name, &origin))]);
                }
            }
            News::Renamed { old, new } => {
                let rooms = remote.roster.lock().rename(&old, &new, &origin);
                let local: Vec<_> = rooms.iter().filter_map(|room| self.room(room)).collect();
                let line = Line::renamed(foreign(&old, &origin), foreign(&new, &origin));
                self.announce_in(local.iter().map(|room| &**room), &line, None);
            }
            News::Told { origin: whose, to, name, text } => {
                if whose == remote.origin {
                    let member = self.directory.lock().member(&to);
                    if let Some(member) = member {
                        member.outlet.deliver(&Line::told(foreign(&name, &origin), &text), 0);
                    }
                }
            }
            News::Roster { room, names } => {
                let mut roster = remote.roster.lock();
                for name in &names {
                    roster.see(&room, name, &origin, until);
                }
            }
            News::Hello => remote.want_rosters(),
            News::Alive => {}
            News::Bye => {
                let gone = remote.roster.lock().forget(&origin);
                self.announce_gone(gone);
            }
        }
    }

    fn announce_gone(&self, gone: Vec<(RoomName, String)>) {
        for (room, who) in gone {
            if let Some(local) = self.room(&room) {
                self.announce(&local, &Line::left(&room, who), None);
            }
        }
    }
}

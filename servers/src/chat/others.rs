//! The effects of other processes on rooms: what their members write and do, and whether Redis is reachable.
//!
//! While the others are not reachable, rooms are local. Members are told so once, and once again when the others
//! are back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::chat::bulletin::{Bulletin, News, ROSTER_NAMES};
use crate::chat::hub::{Hub, Outlet};
use crate::chat::line::{Line, foreign};
use crate::chat::name::{Name, RoomName};
use crate::chat::remote::Remote;
use crate::chat::roster::RemoteProcess;

const OUT_OF_REACH: &str = "other hosts are out of reach";
const BACK: &str = "other hosts are back";

impl<O: Outlet> Hub<O> {
    /// Notes that the other processes are reachable from now on.
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

    /// Notes that the other processes are no longer reachable.
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

    /// Returns what a new member must know about the other processes.
    pub(super) fn reach_notice(&self) -> Option<Line> {
        let remote = self.remote.as_ref().filter(|remote| !remote.is_reached())?;
        remote.told_lost.store(true, Ordering::Release);
        // The others may have become reachable just now.
        (!remote.is_reached()).then(|| Line::notice(OUT_OF_REACH))
    }

    /// Returns all members of this process, for the other processes. Returns none while the members belong to
    /// another process.
    pub fn rosters(&self) -> Vec<News> {
        if let Some(remote) = &self.remote {
            remote.rosters_due.store(false, Ordering::Release);
        }
        let mut rosters = Vec::new();
        if !self.is_serving() {
            return rosters;
        }
        let rooms = self.directory.lock().rooms();
        for room in rooms {
            for some in room.members().chunks(ROSTER_NAMES) {
                let names = some.iter().map(|room_member| room_member.member.name()).collect();
                rosters.push(News::Roster { room: room.name().clone(), names });
            }
        }
        rosters
    }

    /// Returns the news for the others at the end of this process. A process that has handed members over names
    /// only those that it still has, because the others may not know yet that the new process has the rest.
    pub fn farewell(&self) -> Vec<News> {
        if !self.has_handed_over() {
            return vec![News::Bye];
        }
        let left = |roster| match roster {
            News::Roster { room, names } => {
                names.into_iter().map(|name| News::Left { room: room.clone(), name }).collect()
            }
            _ => Vec::new(),
        };
        self.rosters().into_iter().flat_map(left).collect()
    }

    /// Forgets members elsewhere that were not repeated within the presence timeout.
    pub fn expire(&self, now: Instant) {
        let Some(remote) = &self.remote else { return };
        let gone = remote.roster.lock().expire(now);
        self.announce_gone(gone);
    }

    /// Handles a payload from Redis, which may be invalid.
    pub fn hear(&self, payload: &[u8], now: Instant) {
        let Some(remote) = &self.remote else { return };
        match Bulletin::read(payload, self.rules.lengths) {
            Some(bulletin) => {
                let mut hearing = remote.hearing.lock();
                if let Some((bulletin, is_new)) = hearing.take(bulletin, now) {
                    self.take(remote, bulletin, is_new, now);
                }
            }
            None => {
                remote.refused.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(bytes = payload.len(), "refused what came from Redis");
            }
        }
    }

    /// Delivers no news of others from now on, because the members are about to be handed over. Returns what the new
    /// process needs to know so that each member gets each line once. [`release_news`](Self::release_news) must follow.
    pub(super) fn hold_news(&self) -> Arc<str> {
        let save = |remote: &Remote| remote.hearing.lock().save((remote.instance, remote.last_number()));
        self.remote.as_ref().map(save).unwrap_or_default()
    }

    /// Reads what [`hold_news`](Self::hold_news) returned in the previous process.
    pub(super) fn resume_news(&self, saved: &str) {
        if let Some(remote) = &self.remote {
            remote.hearing.lock().resume(saved);
        }
    }

    /// Delivers the news that was kept during a hand-over.
    pub fn release_news(&self) {
        let Some(remote) = &self.remote else { return };
        let (mut hearing, now) = (remote.hearing.lock(), Instant::now());
        // The lock keeps the order.
        for (bulletin, is_new) in hearing.release(now) {
            self.take(remote, bulletin, is_new, now);
        }
    }

    /// Takes the news of another process. If `tells` is false, the members know it already.
    fn take(
        &self,
        remote: &Remote,
        Bulletin { origin, instance, news, .. }: Bulletin,
        tells: bool,
        now: Instant,
    ) {
        if instance == remote.instance {
            return;
        }
        let is_namesake = origin == remote.origin && !instance.is_same_server(remote.instance);
        if is_namesake && !remote.warned_of_namesake.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                %origin,
                "another process has the same name: private messages reach both, so give each its own --origin"
            );
        }
        let until = now + remote.presence;
        let by = RemoteProcess { origin: &origin, instance };
        let see = |room: &RoomName, name: &Name| {
            let mut roster = remote.roster.lock();
            // Before the hand-over was complete, the other process had this member, which is here now.
            let is_here = origin == remote.origin && self.directory.lock().is_in(name, room);
            !is_here && roster.see(room, name, by, until)
        };
        let told_room = |room: &RoomName| self.room(room).filter(|_| tells);
        match news {
            News::Said { room, name, text } => {
                see(&room, &name);
                if let Some(local) = told_room(&room) {
                    Self::broadcast(&local, &Line::said(&room, foreign(&name, &origin), &text), None);
                }
            }
            News::Done { room, name, text } => {
                see(&room, &name);
                if let Some(local) = told_room(&room) {
                    Self::broadcast(&local, &Line::done(&room, foreign(&name, &origin), &text), None);
                }
            }
            News::Joined { room, name } => {
                if let (true, Some(local)) = (see(&room, &name), told_room(&room)) {
                    self.announce(&local, &Line::joined(&room, foreign(&name, &origin)), None);
                }
            }
            News::Left { room, name } => {
                if remote.roster.lock().lose(&room, &name, by) && tells {
                    self.announce_gone(vec![(room, foreign(&name, &origin))]);
                }
            }
            News::Renamed { old, new } => {
                let rooms = remote.roster.lock().rename(&old, &new, by);
                let local: Vec<_> = rooms.iter().filter_map(told_room).collect();
                let line = Line::renamed(foreign(&old, &origin), foreign(&new, &origin));
                self.announce_in(local.iter().map(|room| &**room), &line, None);
            }
            News::Told { origin: whose, to, name, text } => {
                if whose == remote.origin && tells {
                    let member = self.directory.lock().member(&to);
                    if let Some(member) = member {
                        member.outlet.deliver(&Line::told(foreign(&name, &origin), &text), 0);
                    }
                }
            }
            News::Roster { room, names } => {
                for name in &names {
                    see(&room, name);
                }
            }
            News::Hello => remote.want_rosters(),
            News::Alive => {}
            News::Bye => {
                let gone = remote.roster.lock().forget(by);
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

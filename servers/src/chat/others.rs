//! What a room shows of other processes: what their members say and do, and whether Redis can be reached.
//!
//! While they are out of reach the rooms are local; members are told so once, and once when it is over.

use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::chat::bulletin::{Bulletin, News, ROSTER_NAMES};
use crate::chat::hub::{Hub, Outlet};
use crate::chat::line::{Line, foreign};
use crate::chat::name::RoomName;
use crate::chat::remote::Remote;

const OUT_OF_REACH: &str = "other hosts are out of reach";
const BACK: &str = "other hosts are back";

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

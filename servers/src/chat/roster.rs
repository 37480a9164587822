//! The known members of other processes and their rooms. Pure: the caller passes the time.
//!
//! Every entry expires: a process repeats its members from time to time, and a member that has not been repeated
//! within the presence timeout has gone. A lost bulletin or a crashed process therefore does no lasting harm.
//!
//! After a hand-over two processes use one name until the old one has ended. Each member is stored with the process
//! that confirmed it last, and the end of the other process does not affect that member.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::chat::instance::Instance;
use crate::chat::line::foreign;
use crate::chat::name::{Looks, Name, RoomName};

/// A member of another process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct RemoteMember {
    origin: Name,
    name: Name,
}

/// A process, identified by the name that others show and by its number.
#[derive(Clone, Copy, Debug)]
pub struct RemoteProcess<'a> {
    /// The name of the process.
    pub origin: &'a Name,
    /// The number of the process.
    pub instance: Instance,
}

/// What is known about a member in one room.
#[derive(Clone, Copy, Debug)]
struct Presence {
    /// When the member counts as gone.
    until: Instant,
    /// The process that confirmed the member last.
    instance: Instance,
}

/// The members of other processes.
#[derive(Debug)]
pub struct Roster {
    rooms: BTreeMap<RoomName, BTreeMap<RemoteMember, Presence>>,
    /// All members in `rooms`, once for each room.
    looks: Looks<RemoteMember>,
    room_looks: Looks<RoomName>,
    entries: usize,
    max_entries: usize,
}

impl Roster {
    /// Makes a roster for this many pairs of a member and a room. More are not remembered.
    pub fn new(max_entries: usize) -> Self {
        let (looks, room_looks) = (Looks::default(), Looks::default());
        Self { rooms: BTreeMap::new(), looks, room_looks, entries: 0, max_entries }
    }

    /// Records that a member is in a room, at least until `until`. Returns whether that is new.
    pub fn see(&mut self, room: &RoomName, name: &Name, by: RemoteProcess<'_>, until: Instant) -> bool {
        let remote_member = by.member(name);
        if let Some(known) = self.rooms.get_mut(room).and_then(|members| members.get_mut(&remote_member)) {
            known.until = until;
            // A late bulletin of the previous process does not take the member back.
            if !by.instance.precedes(known.instance) {
                known.instance = by.instance;
            }
            return false;
        }
        if self.entries >= self.max_entries {
            return false;
        }
        self.entries += 1;
        remote_member.add_to(&mut self.looks);
        let members = self.rooms.entry(room.clone()).or_insert_with(|| {
            self.room_looks.add(room.look(), room);
            BTreeMap::new()
        });
        members.insert(remote_member, Presence { until, instance: by.instance });
        true
    }

    /// Records that a member has left a room. Returns false if the member was not known, or if another process has
    /// confirmed it later.
    pub fn lose(&mut self, room: &RoomName, name: &Name, by: RemoteProcess<'_>) -> bool {
        let remote_member = by.member(name);
        let Some(members) = self.rooms.get_mut(room) else { return false };
        let known = members.get(&remote_member).is_some_and(|known| by.may_speak_for(known));
        if known {
            members.remove(&remote_member);
            self.entries -= 1;
            remote_member.remove_from(&mut self.looks);
        }
        if self.rooms.get(room).is_some_and(BTreeMap::is_empty) {
            self.rooms.remove(room);
            self.room_looks.remove(&room.look(), room);
        }
        known
    }

    /// Records that a member has another name. Returns its rooms.
    pub fn rename(&mut self, old: &Name, new: &Name, by: RemoteProcess<'_>) -> Vec<RoomName> {
        let (before, after) = (by.member(old), by.member(new));
        let mut found = Vec::new();
        for (room, members) in &mut self.rooms {
            if let Some(known) = members.get(&before).copied().filter(|known| by.may_speak_for(known)) {
                members.remove(&before);
                found.push(room.clone());
                before.remove_from(&mut self.looks);
                match members.insert(after.clone(), Presence { instance: by.instance, ..known }) {
                    Some(_) => self.entries -= 1,
                    None => after.add_to(&mut self.looks),
                }
            }
        }
        found
    }

    /// Removes the members that have not been repeated in time, and returns them.
    pub fn expire(&mut self, now: Instant) -> Vec<(RoomName, String)> {
        self.drain(|_, known| known.until <= now)
    }

    /// Removes the members that one process confirmed last, and returns them.
    pub fn forget(&mut self, by: RemoteProcess<'_>) -> Vec<(RoomName, String)> {
        self.drain(|remote_member, known| remote_member.origin == *by.origin && known.instance == by.instance)
    }

    /// Removes all members.
    pub fn clear(&mut self) {
        self.rooms.clear();
        self.looks.clear();
        self.room_looks.clear();
        self.entries = 0;
    }

    /// Returns the members of a room, as `alice@north`.
    pub fn members(&self, room: &RoomName) -> impl Iterator<Item = String> {
        let members = self.rooms.get(room).into_iter().flatten();
        members.map(|(remote_member, _)| foreign(&remote_member.name, &remote_member.origin))
    }

    /// Returns the number of members in a room.
    pub fn count(&self, room: &RoomName) -> usize {
        self.rooms.get(room).map_or(0, BTreeMap::len)
    }

    /// Returns the known rooms.
    pub fn rooms(&self) -> impl Iterator<Item = &RoomName> {
        self.rooms.keys()
    }

    /// Returns the processes that have a member with this name in any room, ignoring case.
    pub fn origins_of(&self, name: &Name) -> Vec<(Name, Name)> {
        let folded = name.folded();
        let [_, look] = name.looks();
        let matching = self.looks.get(&look).filter(|remote_member| remote_member.name.folded() == folded);
        let mut found: Vec<_> = matching
            .map(|remote_member| (remote_member.name.clone(), remote_member.origin.clone()))
            .collect();
        found.sort();
        found
    }

    /// Returns a member with another name that readers may take for this one, as `alice@north`.
    pub fn name_like(&self, name: &Name) -> Option<String> {
        let folded = name.folded();
        let looks = name.looks();
        let mut alike = looks.iter().flat_map(|look| self.looks.get(look));
        let found = alike.find(|remote_member| remote_member.name.folded() != folded)?;
        Some(foreign(&found.name, &found.origin))
    }

    /// Returns another room that readers may take for this one.
    pub fn room_like(&self, room: &RoomName) -> Option<RoomName> {
        self.room_looks.get(&room.look()).find(|known| *known != room).cloned()
    }

    fn drain(&mut self, gone: impl Fn(&RemoteMember, &Presence) -> bool) -> Vec<(RoomName, String)> {
        let mut found = Vec::new();
        let (looks, room_looks) = (&mut self.looks, &mut self.room_looks);
        self.rooms.retain(|room, members| {
            members.retain(|remote_member, known| {
                let gone = gone(remote_member, known);
                if gone {
                    remote_member.remove_from(looks);
                    found.push((room.clone(), foreign(&remote_member.name, &remote_member.origin)));
                }
                !gone
            });
            if members.is_empty() {
                room_looks.remove(&room.look(), room);
            }
            !members.is_empty()
        });
        self.entries -= found.len();
        found
    }
}

impl RemoteProcess<'_> {
    fn member(&self, name: &Name) -> RemoteMember {
        RemoteMember { origin: self.origin.clone(), name: name.clone() }
    }

    /// Returns whether this process, or one that it took over from, confirmed the member last.
    fn may_speak_for(&self, known: &Presence) -> bool {
        self.instance == known.instance || known.instance.precedes(self.instance)
    }
}

impl RemoteMember {
    fn add_to(&self, looks: &mut Looks<Self>) {
        for look in self.name.looks() {
            looks.add(look, self);
        }
    }

    fn remove_from(&self, looks: &mut Looks<Self>) {
        for look in self.name.looks() {
            looks.remove(&look, self);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text, 24).unwrap()
    }

    fn room(text: &str) -> RoomName {
        RoomName::parse(text, 24).unwrap()
    }

    fn by(origin: &Name) -> RemoteProcess<'_> {
        RemoteProcess { origin, instance: Instance(1) }
    }

    fn members(roster: &Roster, of: &str) -> Vec<String> {
        roster.members(&room(of)).collect()
    }

    #[test]
    fn members_that_are_not_repeated_in_time_are_removed() {
        let (mut roster, start) = (Roster::new(10), Instant::now());
        let (lobby, north) = (room("lobby"), name("north"));
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(roster.see(&lobby, &name("alice"), by(&north), at(15)));
        assert!(roster.see(&lobby, &name("bob"), by(&north), at(15)));
        assert!(!roster.see(&lobby, &name("bob"), by(&north), at(20)));
        assert!(roster.expire(at(14)).is_empty());
        assert_eq!(roster.expire(at(15)), [(lobby.clone(), "alice@north".to_owned())]);
        assert_eq!(members(&roster, "lobby"), ["bob@north"]);
        assert_eq!(roster.expire(at(20)).len(), 1);
        assert_eq!((roster.rooms().count(), roster.entries), (0, 0));
    }

    #[test]
    fn a_process_that_ends_takes_its_members_along() {
        let (mut roster, until) = (Roster::new(10), Instant::now());
        for (who, origin) in [("alice", "north"), ("bob", "north"), ("alice", "south")] {
            roster.see(&room("lobby"), &name(who), by(&name(origin)), until);
        }
        assert_eq!(roster.forget(by(&name("north"))).len(), 2);
        assert_eq!(members(&roster, "lobby"), ["alice@south"]);
        assert!(roster.lose(&room("lobby"), &name("alice"), by(&name("south"))));
        assert!(!roster.lose(&room("lobby"), &name("alice"), by(&name("south"))));
        assert_eq!(roster.count(&room("lobby")), 0);
    }

    #[test]
    fn the_end_of_a_process_does_not_concern_members_that_the_next_one_confirmed() {
        let (mut roster, until) = (Roster::new(10), Instant::now());
        let (north, lobby) = (name("north"), room("lobby"));
        let (alice, bob, carol) = (name("alice"), name("bob"), name("carol"));
        let old = by(&north);
        let new = RemoteProcess { instance: old.instance.successor(), ..old };
        for who in [&alice, &bob, &carol] {
            roster.see(&lobby, who, old, until);
        }
        for who in [&alice, &bob] {
            roster.see(&lobby, who, new, until);
        }
        // This roster of the old process arrives late.
        roster.see(&lobby, &bob, old, until);
        assert!(!roster.lose(&lobby, &alice, old));
        assert!(roster.rename(&bob, &name("bert"), old).is_empty());
        assert_eq!(roster.forget(old), [(lobby.clone(), "carol@north".to_owned())]);
        assert_eq!(members(&roster, "lobby"), ["alice@north", "bob@north"]);
        // The new process speaks for the members that it took over, whether it has confirmed them or not.
        roster.see(&lobby, &carol, old, until);
        assert!(roster.lose(&lobby, &carol, new));
        assert_eq!(roster.rename(&bob, &name("bert"), new), std::slice::from_ref(&lobby));
        let other = RemoteProcess { instance: Instance(1 << 40), ..old };
        assert!(roster.forget(other).is_empty());
        assert_eq!(roster.forget(new).len(), 2);
        assert_eq!((roster.rooms().count(), roster.entries), (0, 0));
    }

    #[test]
    fn a_new_name_is_known_in_every_room() {
        let (mut roster, until) = (Roster::new(10), Instant::now());
        let north = name("north");
        for place in ["a", "b"] {
            roster.see(&room(place), &name("alice"), by(&north), until);
        }
        roster.see(&room("c"), &name("bob"), by(&north), until);
        assert_eq!(roster.rename(&name("alice"), &name("carol"), by(&north)), [room("a"), room("b")]);
        assert_eq!(members(&roster, "a"), ["carol@north"]);
        assert_eq!(roster.origins_of(&name("CAROL")), [(name("carol"), north)]);
        assert!(roster.origins_of(&name("alice")).is_empty());
    }

    #[test]
    fn names_that_resemble_remote_members_or_rooms_are_found_while_these_exist() {
        let (mut roster, until) = (Roster::new(10), Instant::now());
        let (north, lobby, attic) = (name("north"), room("lobby"), room("attic"));
        for place in [&lobby, &attic] {
            roster.see(place, &name("Alice"), by(&north), until);
        }
        let like = |roster: &Roster, text: &str| roster.name_like(&name(text));
        assert_eq!(like(&roster, "a1ice"), Some("Alice@north".to_owned()));
        // The same name is not another one.
        assert_eq!((like(&roster, "alice"), like(&roster, "bob")), (None, None));
        assert_eq!(roster.room_like(&room("l0bby")), Some(lobby.clone()));
        assert_eq!(roster.room_like(&lobby), None);
        roster.lose(&lobby, &name("Alice"), by(&north));
        assert_eq!(roster.room_like(&room("l0bby")), None);
        assert_eq!(like(&roster, "a1ice"), Some("Alice@north".to_owned()));
        roster.rename(&name("Alice"), &name("Carol"), by(&north));
        assert_eq!(like(&roster, "a1ice"), None);
        assert_eq!(like(&roster, "car0l"), Some("Carol@north".to_owned()));
        roster.expire(until);
        assert_eq!((like(&roster, "car0l"), roster.room_like(&room("attlc"))), (None, None));
    }

    #[test]
    fn members_beyond_the_bound_are_not_remembered() {
        let (mut roster, until) = (Roster::new(2), Instant::now());
        for who in ["a", "b", "c"] {
            roster.see(&room(who), &name(who), by(&name("north")), until);
        }
        assert_eq!(roster.rooms().count(), 2);
        assert!(roster.lose(&room("a"), &name("a"), by(&name("north"))));
        assert!(roster.see(&room("c"), &name("c"), by(&name("north")), until));
    }
}

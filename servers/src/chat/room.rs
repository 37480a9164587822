//! The members, their rooms and names, and the limits on them. Pure: an outlet is any way to a member, and
//! nothing is sent here.
//!
//! The list of a room's members is shared, and copied on writing. A broadcast takes the current list and holds
//! no lock while it sends. Rooms therefore neither wait for each other nor for members that come and go.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::chat::name::{Name, RoomName};

/// The largest number of rooms of one member.
pub const MEMBER_ROOMS: usize = 32;

/// The limits on rooms and members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crowds {
    /// The largest number of rooms of this process.
    pub rooms: usize,
    /// The largest number of members of this process in one room.
    pub room_members: usize,
}

/// A connected member.
#[derive(Debug)]
pub struct Member<O> {
    id: u64,
    name: Mutex<Name>,
    /// The way to the member.
    pub outlet: O,
}

impl<O> Member<O> {
    /// Returns the number that no other member ever has.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns the current nickname.
    pub fn name(&self) -> Name {
        self.name.lock().clone()
    }
}

/// A member in a room.
#[derive(Debug)]
pub struct RoomMember<O> {
    /// The member.
    pub member: Arc<Member<O>>,
    /// The room's SCTP stream for this member; 0 if the room has none of its own.
    pub stream: u16,
}

impl<O> Clone for RoomMember<O> {
    fn clone(&self) -> Self {
        Self { member: Arc::clone(&self.member), stream: self.stream }
    }
}

/// A room.
#[derive(Debug)]
pub struct Room<O> {
    name: RoomName,
    members: Mutex<Arc<Vec<RoomMember<O>>>>,
}

impl<O> Room<O> {
    /// Returns the name of the room.
    pub fn name(&self) -> &RoomName {
        &self.name
    }

    /// Returns the present members, in the order in which they joined.
    pub fn members(&self) -> Arc<Vec<RoomMember<O>>> {
        Arc::clone(&self.members.lock())
    }
}

/// Why a request is refused. Each reason is one sentence that says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another member has the name.
    NameTaken(Name),
    /// Readers may take the name for another member's.
    NameLike(Name, String),
    /// Readers may take the name for a word of the server.
    NameReserved(Name),
    /// Readers may take the room for another one.
    RoomLike(RoomName, String),
    /// The number of rooms has reached its limit.
    TooManyRooms(usize),
    /// The number of members in the room has reached its limit.
    RoomFull(RoomName, usize),
    /// The number of this member's rooms has reached its limit.
    TooManyOfYours,
}

/// All members and rooms of this process.
#[derive(Debug)]
pub struct Directory<O> {
    crowds: Crowds,
    /// The members by the looks of their names. No two members may have names with the same look.
    names: HashMap<String, Arc<Member<O>>>,
    rooms: BTreeMap<RoomName, Arc<Room<O>>>,
    /// The rooms by the look of their names.
    room_looks: HashMap<String, RoomName>,
    members_ever: u64,
    guests_ever: u64,
}

impl<O> Directory<O> {
    /// Makes an empty directory.
    pub fn new(crowds: Crowds) -> Self {
        let (names, rooms, room_looks) = (HashMap::new(), BTreeMap::new(), HashMap::new());
        Self { crowds, names, rooms, room_looks, members_ever: 0, guests_ever: 0 }
    }

    /// Adds a new member with the name of a guest.
    pub fn enter(&mut self, outlet: O) -> Arc<Member<O>> {
        let name = loop {
            self.guests_ever += 1;
            let name = Name::guest(self.guests_ever);
            if !name.looks().iter().any(|look| self.names.contains_key(look)) {
                break name;
            }
        };
        self.members_ever += 1;
        let member = Arc::new(Member { id: self.members_ever, name: Mutex::new(name.clone()), outlet });
        self.call(&name, &member);
        member
    }

    /// Adds a member that had this name in another process.
    ///
    /// # Errors
    ///
    /// Returns an error if another member here has this name, or a name that readers may take for it.
    pub fn enter_as(&mut self, name: &Name, outlet: O) -> Result<Arc<Member<O>>, Refusal> {
        if name.looks().iter().any(|look| self.names.contains_key(look)) {
            return Err(Refusal::NameTaken(name.clone()));
        }
        self.members_ever += 1;
        let member = Arc::new(Member { id: self.members_ever, name: Mutex::new(name.clone()), outlet });
        self.call(name, &member);
        Ok(member)
    }

    fn call(&mut self, name: &Name, member: &Arc<Member<O>>) {
        for look in name.looks() {
            self.names.insert(look, Arc::clone(member));
        }
    }

    fn uncall(&mut self, name: &Name) {
        for look in name.looks() {
            self.names.remove(&look);
        }
    }

    /// Gives a member another name, and returns its previous one.
    ///
    /// # Errors
    ///
    /// Returns an error if another member has this name, or a name that readers may take for it, or if it is a
    /// word of the server.
    pub fn rename(&mut self, member: &Arc<Member<O>>, new: &Name) -> Result<Name, Refusal> {
        if new.is_reserved() {
            return Err(Refusal::NameReserved(new.clone()));
        }
        let looks = new.looks();
        let mut owners = looks.iter().filter_map(|look| self.names.get(look));
        if let Some(owner) = owners.find(|owner| owner.id != member.id) {
            let theirs = owner.name();
            return Err(match theirs.folded() == new.folded() {
                true => Refusal::NameTaken(new.clone()),
                false => Refusal::NameLike(new.clone(), theirs.to_string()),
            });
        }
        let old = std::mem::replace(&mut *member.name.lock(), new.clone());
        self.uncall(&old);
        self.call(new, member);
        Ok(old)
    }

    /// Adds a member to a room, and makes the room if it does not exist. The member must not be in it already.
    ///
    /// # Errors
    ///
    /// Returns an error if the room is full, or if no such new room may be made.
    pub fn join(
        &mut self,
        member: &Arc<Member<O>>,
        name: &RoomName,
        stream: u16,
    ) -> Result<Arc<Room<O>>, Refusal> {
        let room = match self.rooms.get(name) {
            Some(room) => Arc::clone(room),
            None if self.rooms.len() >= self.crowds.rooms => {
                return Err(Refusal::TooManyRooms(self.crowds.rooms));
            }
            None => {
                if let Some(known) = self.room_looks.get(&name.look()) {
                    return Err(Refusal::RoomLike(name.clone(), known.to_string()));
                }
                let room = Arc::new(Room { name: name.clone(), members: Mutex::default() });
                self.room_looks.insert(name.look(), name.clone());
                self.rooms.insert(name.clone(), Arc::clone(&room));
                room
            }
        };
        let mut members = room.members.lock();
        if members.len() >= self.crowds.room_members {
            return Err(Refusal::RoomFull(name.clone(), self.crowds.room_members));
        }
        Arc::make_mut(&mut *members).push(RoomMember { member: Arc::clone(member), stream });
        drop(members);
        Ok(room)
    }

    /// Removes a member from a room. An empty room is removed.
    pub fn leave(&mut self, member: &Member<O>, room: &Room<O>) {
        let mut members = room.members.lock();
        Arc::make_mut(&mut *members).retain(|room_member| room_member.member.id != member.id);
        if members.is_empty() {
            self.rooms.remove(&room.name);
            self.room_looks.remove(&room.name.look());
        }
    }

    /// Removes a member, which must have left all rooms.
    pub fn quit(&mut self, member: &Member<O>) {
        self.uncall(&member.name());
    }

    /// Returns the member with this name, ignoring case.
    pub fn member(&self, name: &Name) -> Option<Arc<Member<O>>> {
        let [_, look] = name.looks();
        self.names.get(&look).filter(|member| member.name().folded() == name.folded()).cloned()
    }

    /// Returns whether the member with exactly this name is in a room.
    pub fn is_in(&self, name: &Name, room: &RoomName) -> bool {
        let Some(member) = self.member(name).filter(|member| member.name() == *name) else { return false };
        let members = self.rooms.get(room).map(|room| room.members()).unwrap_or_default();
        members.iter().any(|room_member| room_member.member.id == member.id)
    }

    /// Returns all members.
    pub fn members(&self) -> Vec<Arc<Member<O>>> {
        let mut members: Vec<_> = self.names.values().cloned().collect();
        // A member whose name looks different in lower case is in the list twice.
        members.sort_unstable_by_key(|member| member.id);
        members.dedup_by_key(|member| member.id);
        members
    }

    /// Returns a room.
    pub fn room(&self, name: &RoomName) -> Option<Arc<Room<O>>> {
        self.rooms.get(name).cloned()
    }

    /// Returns all rooms, in the order of their names.
    pub fn rooms(&self) -> Vec<Arc<Room<O>>> {
        self.rooms.values().cloned().collect()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameTaken(name) => write!(f, "somebody is called {name} already: take another name"),
            Self::NameLike(name, other) => {
                write!(f, "{name} looks like {other}, who is here: take another name")
            }
            Self::NameReserved(name) => {
                write!(f, "{name} looks like a word of the server's: take another name")
            }
            Self::RoomLike(room, other) => {
                write!(
                    f,
                    "{room} looks like {other}, a room that exists: join that one, or choose another name"
                )
            }
            Self::TooManyRooms(limit) => {
                write!(f, "there are {limit} rooms and no more can be made: join one that /rooms lists")
            }
            Self::RoomFull(room, limit) => {
                write!(f, "{room} is full with {limit} members: join another room, or try later")
            }
            Self::TooManyOfYours => {
                write!(f, "you are in {MEMBER_ROOMS} rooms, and that is the most: /leave one first")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> Directory<()> {
        Directory::new(Crowds { rooms: 2, room_members: 2 })
    }

    fn name(text: &str) -> Name {
        Name::parse(text, 24).unwrap()
    }

    fn room(text: &str) -> RoomName {
        RoomName::parse(text, 24).unwrap()
    }

    #[test]
    fn names_are_unique_whatever_their_case() {
        let mut directory = directory();
        let (one, two) = (directory.enter(()), directory.enter(()));
        assert_eq!((one.name(), two.name()), (name("guest1"), name("guest2")));
        assert_eq!(directory.rename(&one, &name("Alice")), Ok(name("guest1")));
        assert_eq!(directory.rename(&two, &name("aLICE")), Err(Refusal::NameTaken(name("aLICE"))));
        assert_eq!(directory.rename(&one, &name("ALICE")), Ok(name("Alice")));
        // A member that takes the name of the next guest keeps it.
        directory.rename(&one, &name("guest3")).unwrap();
        assert_eq!(directory.enter(()).name(), name("guest4"));
        directory.quit(&one);
        assert!(directory.member(&name("guest3")).is_none());
        assert_eq!(directory.rename(&two, &name("alice")), Ok(name("guest2")));
    }

    #[test]
    fn a_name_that_readers_may_take_for_another_is_refused_while_that_one_is_there() {
        let mut directory = directory();
        let (one, two) = (directory.enter(()), directory.enter(()));
        directory.rename(&one, &name("Scope")).unwrap();
        // The first name is Cyrillic, and the second one has a digit.
        for like in ["ѕсоре", "Sc0pe"] {
            assert_eq!(
                directory.rename(&two, &name(like)),
                Err(Refusal::NameLike(name(like), "Scope".to_owned()))
            );
            assert!(directory.member(&name(like)).is_none());
        }
        let refusal = directory.rename(&two, &name("guestl")).unwrap();
        assert_eq!((refusal, directory.members().len()), (name("guest2"), 2));
        // The guest's name that looks like this one is skipped.
        directory.quit(&one);
        directory.guests_ever = 0;
        assert_eq!(directory.enter(()).name(), name("guest2"));
        directory.rename(&two, &name("ѕсоре")).unwrap();
        assert_eq!(directory.rename(&two, &name("Y0U")), Err(Refusal::NameReserved(name("Y0U"))));
    }

    #[test]
    fn a_room_that_readers_may_take_for_another_is_not_made() {
        let mut directory = directory();
        let member = directory.enter(());
        let lobby = directory.join(&member, &room("lobby"), 0).unwrap();
        let refusal = directory.join(&member, &room("l0bby"), 0).unwrap_err();
        assert_eq!(refusal, Refusal::RoomLike(room("l0bby"), "lobby".to_owned()));
        directory.leave(&member, &lobby);
        directory.join(&member, &room("l0bby"), 0).unwrap();
    }

    #[test]
    fn a_room_lives_while_somebody_is_in_it() {
        let mut directory = directory();
        let member = directory.enter(());
        let lobby = directory.join(&member, &room("lobby"), 0).unwrap();
        assert_eq!(directory.rooms().len(), 1);
        directory.leave(&member, &lobby);
        assert!(directory.rooms().is_empty());
    }

    #[test]
    fn rooms_and_their_members_are_limited() {
        let mut directory = directory();
        let members = [(); 3].map(|()| directory.enter(()));
        for place in ["a", "b"] {
            directory.join(&members[0], &room(place), 0).unwrap();
        }
        assert_eq!(directory.join(&members[0], &room("c"), 0).unwrap_err(), Refusal::TooManyRooms(2));
        directory.join(&members[1], &room("a"), 0).unwrap();
        let full = directory.join(&members[2], &room("a"), 0).unwrap_err();
        assert_eq!(full, Refusal::RoomFull(room("a"), 2));
        directory.join(&members[2], &room("b"), 0).unwrap();
    }

    #[test]
    fn a_broadcast_keeps_the_list_that_it_took() {
        let mut directory = directory();
        let members = [(); 2].map(|()| directory.enter(()));
        let lobby = directory.join(&members[0], &room("lobby"), 0).unwrap();
        let taken = lobby.members();
        directory.join(&members[1], &room("lobby"), 7).unwrap();
        assert_eq!((taken.len(), lobby.members().len()), (1, 2));
        assert_eq!(lobby.members()[1].stream, 7);
        directory.leave(&members[0], &lobby);
        let left: Vec<_> = lobby.members().iter().map(|room_member| room_member.member.id()).collect();
        assert_eq!(left, [members[1].id()]);
    }
}

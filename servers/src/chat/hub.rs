//! What members share: the directory, and how a line reaches many of them.
//!
//! Every call runs on the thread that causes it: a member's own, or the one that listens to Redis. A
//! broadcast sends to all receivers on that thread; no other is woken in the common case, and no lock of
//! the hub is held meanwhile. One member's lines come one after the other on its thread, so each receiver
//! gets them in their order.

use std::collections::HashSet;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::chat::bulletin::News;
use crate::chat::flood::FloodLimitOrOff;
use crate::chat::line::{Line, list};
use crate::chat::name::RoomName;
use crate::chat::remote::Remote;
use crate::chat::room::{Crowds, Directory, Member, Room};
use crate::chat::text::Lengths;

/// The most names that an answer lists.
const LISTED: usize = 200;

/// The most names that a member who joins a room reads at once.
const GREETED: usize = 8;

/// Where a member's lines go.
pub trait Outlet: Send + Sync + 'static {
    /// Sends a line, or queues it within bounds, or drops it; never blocks. `stream` is what the room
    /// has on SCTP.
    fn deliver(&self, line: &Line, stream: u16);
}

/// What the members of a process may do.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How long lines and names may be.
    pub lengths: Lengths,
    /// How many rooms and members there may be.
    pub crowds: Crowds,
    /// How fast each may write.
    pub flood: FloodLimitOrOff,
    /// Rooms with more members are not told who comes and goes.
    pub announce_up_to: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            lengths: Lengths::default(),
            crowds: Crowds { rooms: 1000, room_members: 4096 },
            flood: FloodLimitOrOff::default(),
            announce_up_to: 100,
        }
    }
}

/// The rooms of a process, and its members.
pub struct Hub<O> {
    pub(super) rules: Rules,
    pub(super) directory: Mutex<Directory<O>>,
    /// The other processes; none where this one serves alone.
    pub(super) remote: Option<Remote>,
    /// The members are this process's, and not yet those of the one that it takes over from.
    serving: AtomicBool,
    handed_over: AtomicBool,
}

impl<O: Outlet> Hub<O> {
    /// An empty one.
    pub fn new(rules: Rules, remote: Option<Remote>) -> Self {
        let directory = Mutex::new(Directory::new(rules.crowds));
        Self { rules, directory, remote, serving: AtomicBool::new(true), handed_over: AtomicBool::new(false) }
    }

    /// Has nobody told of members that come and go before [`serve`](Self::serve): until the hand-over is complete, they are those of the
    /// process before this one.
    pub fn await_hand_over(&self) {
        self.serving.store(false, Ordering::Release);
    }

    /// The members are this process's from now on; tells the other processes which there are.
    pub fn serve(&self) {
        if !self.serving.swap(true, Ordering::AcqRel)
            && let Some(remote) = &self.remote
        {
            remote.want_rosters();
        }
    }

    pub(super) fn is_serving(&self) -> bool {
        self.serving.load(Ordering::Acquire)
    }

    /// Notes that members of this process go on in another one.
    pub(super) fn hand_over(&self) {
        self.handed_over.store(true, Ordering::Release);
    }

    pub(super) fn has_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Acquire)
    }

    /// The room that newcomers are in.
    pub fn lobby(&self) -> RoomName {
        // The shortest limit on names that the options take has room for it.
        RoomName::parse("lobby", self.rules.lengths.name.max(5)).expect("it is a name")
    }

    /// A room, if somebody of this process is in it.
    pub fn room(&self, name: &RoomName) -> Option<Arc<Room<O>>> {
        self.directory.lock().room(name)
    }

    /// Sends a line to everybody in a room but `except`.
    pub fn broadcast(room: &Room<O>, line: &Line, except: Option<u64>) {
        for occupant in room.occupants().iter() {
            if Some(occupant.member.id()) != except {
                occupant.member.outlet.deliver(line, occupant.stream);
            }
        }
    }

    /// As [`broadcast`](Self::broadcast), for who comes and goes: a large room is spared it.
    pub fn announce(&self, room: &Room<O>, line: &Line, except: Option<u64>) {
        if room.occupants().len() <= self.rules.announce_up_to {
            Self::broadcast(room, line, except);
        }
    }

    /// As [`announce`](Self::announce), in several rooms: who is in two of them gets the line once.
    pub fn announce_in<'a>(
        &self,
        rooms: impl IntoIterator<Item = &'a Room<O>>,
        line: &Line,
        except: Option<u64>,
    ) {
        let mut told: HashSet<u64> = except.into_iter().collect();
        for room in rooms {
            let occupants = room.occupants();
            if occupants.len() > self.rules.announce_up_to {
                continue;
            }
            for occupant in occupants.iter() {
                if told.insert(occupant.member.id()) {
                    occupant.member.outlet.deliver(line, 0);
                }
            }
        }
    }

    /// Sends a line to everybody there is.
    pub fn tell_everybody(&self, line: &Line) {
        // The lock is gone before anything is sent.
        let members = self.directory.lock().members();
        for member in members {
            member.outlet.deliver(line, 0);
        }
    }

    /// Tells the other processes, if there are any in reach; false if they will not hear it.
    pub fn publish(&self, news: News) -> bool {
        self.remote.as_ref().is_some_and(|remote| remote.publish(news))
    }

    /// Answers `/rooms`.
    pub(super) fn list_rooms(&self, to: &Member<O>) {
        let local = self.directory.lock().rooms();
        let mut rooms: Vec<(RoomName, usize)> =
            local.iter().map(|room| (room.name().clone(), room.occupants().len())).collect();
        if let Some(remote) = &self.remote {
            remote.add_counts(&mut rooms);
        }
        let names = rooms.into_iter().map(|(room, count)| format!("{room}({count})"));
        answer(to, "rooms", names.collect(), "rooms");
    }

    /// Whether somebody else than this member is in a room, here or elsewhere.
    pub(super) fn has_others(&self, room: &Room<O>) -> bool {
        room.occupants().len() > 1
            || self.remote.as_ref().is_some_and(|remote| remote.has_members(room.name()))
    }

    /// Who else is in a room, for a member that joins it.
    pub(super) fn others(&self, member: &Member<O>, room: &Room<O>) -> String {
        let occupants = room.occupants();
        let mut others: Vec<String> = occupants
            .iter()
            .filter(|occupant| occupant.member.id() != member.id())
            .take(GREETED + 1)
            .map(|occupant| occupant.member.name().to_string())
            .collect();
        let mut count = occupants.len().saturating_sub(1);
        if let Some(remote) = &self.remote {
            let (elsewhere, all) = remote.some_members(room.name(), GREETED);
            count += all;
            others.extend(elsewhere);
        }
        others.truncate(GREETED);
        match (count, count.saturating_sub(others.len())) {
            (0, _) => "nobody else is here".to_owned(),
            (_, 0) => format!("here already: {}", others.join(", ")),
            (_, more) => format!("here already: {} and {more} more", others.join(", ")),
        }
    }

    /// Answers `/who`; false if there is no such room.
    pub(super) fn list_members(&self, to: &Member<O>, name: &RoomName) -> bool {
        let room = self.room(name);
        let occupants = room.map(|room| room.occupants()).unwrap_or_default();
        let mut names: Vec<String> =
            occupants.iter().map(|occupant| occupant.member.name().to_string()).collect();
        if let Some(remote) = &self.remote {
            names.extend(remote.members(name));
        }
        if names.is_empty() {
            return false;
        }
        answer(to, name, names, format_args!("in {name}"));
        true
    }
}

/// Answers with a list, or its beginning and how much more there is.
fn answer<O: Outlet>(to: &Member<O>, title: impl Display, mut names: Vec<String>, of_what: impl Display) {
    let more = names.len().saturating_sub(LISTED);
    names.truncate(LISTED);
    for line in list(title, names) {
        to.outlet.deliver(&line, 0);
    }
    if more > 0 {
        to.outlet.deliver(&Line::answer(format_args!("{more} more {of_what}")), 0);
    }
}

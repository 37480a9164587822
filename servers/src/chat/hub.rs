//! The state that members share: the directory, and the delivery of a line to many of them.
//!
//! Every call runs on the thread that causes it: that of a member, or the one that receives from Redis. A
//! broadcast sends to all receivers on that thread. It normally wakes no other thread, and it holds no lock of
//! the hub meanwhile. The lines of one member are handled one after the other on its thread, so every receiver
//! gets them in order.

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

/// The largest number of names in an answer.
const LISTED: usize = 200;

/// The largest number of names that a member is shown when it joins a room.
const GREETED: usize = 8;

/// The way to a member.
pub trait Outlet: Send + Sync + 'static {
    /// Sends a line, queues it within limits, or drops it. Never blocks. `stream` is the room's stream on SCTP.
    fn deliver(&self, line: &Line, stream: u16);
}

/// The limits for the members of a process.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The limits on lines and names.
    pub lengths: Lengths,
    /// The limits on rooms and members.
    pub crowds: Crowds,
    /// The limit on each member's rate.
    pub flood: FloodLimitOrOff,
    /// Larger rooms are not told when members come and go.
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

/// The rooms and the members of a process.
pub struct Hub<O> {
    pub(super) rules: Rules,
    pub(super) directory: Mutex<Directory<O>>,
    /// The other processes; none if this process serves alone.
    pub(super) remote: Option<Remote>,
    /// Whether the members belong to this process. Until a hand-over is complete, they belong to the previous
    /// one.
    serving: AtomicBool,
    handed_over: AtomicBool,
}

impl<O: Outlet> Hub<O> {
    /// Makes an empty hub.
    pub fn new(rules: Rules, remote: Option<Remote>) -> Self {
        let directory = Mutex::new(Directory::new(rules.crowds));
        Self { rules, directory, remote, serving: AtomicBool::new(true), handed_over: AtomicBool::new(false) }
    }

    /// Announces no members that come and go before [`serve`](Self::serve): until the hand-over is complete, they
    /// belong to the previous process.
    pub fn await_hand_over(&self) {
        self.serving.store(false, Ordering::Release);
        if let Some(remote) = &self.remote {
            remote.hearing.lock().hold();
        }
    }

    /// Notes that the members belong to this process from now on, and announces them to the other processes.
    pub fn serve(&self) {
        if !self.serving.swap(true, Ordering::AcqRel)
            && let Some(remote) = &self.remote
        {
            self.release_news();
            remote.want_rosters();
        }
    }

    pub(super) fn is_serving(&self) -> bool {
        self.serving.load(Ordering::Acquire)
    }

    /// Notes that members of this process continue in another one.
    pub(super) fn hand_over(&self) {
        self.handed_over.store(true, Ordering::Release);
    }

    pub(super) fn has_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Acquire)
    }

    /// Returns the room that new members enter.
    pub fn lobby(&self) -> RoomName {
        // Every limit on names that the options accept is large enough for this one.
        RoomName::parse("lobby", self.rules.lengths.name.max(5)).expect("it is a name")
    }

    /// Returns a room, if it has a member of this process.
    pub fn room(&self, name: &RoomName) -> Option<Arc<Room<O>>> {
        self.directory.lock().room(name)
    }

    /// Sends a line to all members of a room except `except`.
    pub fn broadcast(room: &Room<O>, line: &Line, except: Option<u64>) {
        for room_member in room.members().iter() {
            if Some(room_member.member.id()) != except {
                room_member.member.outlet.deliver(line, room_member.stream);
            }
        }
    }

    /// Announces that a member comes or goes, like [`broadcast`](Self::broadcast), except in a large room.
    pub fn announce(&self, room: &Room<O>, line: &Line, except: Option<u64>) {
        if room.members().len() <= self.rules.announce_up_to {
            Self::broadcast(room, line, except);
        }
    }

    /// Announces in several rooms, like [`announce`](Self::announce). A member of two of them gets the line once.
    pub fn announce_in<'a>(
        &self,
        rooms: impl IntoIterator<Item = &'a Room<O>>,
        line: &Line,
        except: Option<u64>,
    ) {
        let mut told: HashSet<u64> = except.into_iter().collect();
        for room in rooms {
            let members = room.members();
            if members.len() > self.rules.announce_up_to {
                continue;
            }
            for room_member in members.iter() {
                if told.insert(room_member.member.id()) {
                    room_member.member.outlet.deliver(line, 0);
                }
            }
        }
    }

    /// Sends a line to every member.
    pub fn tell_everybody(&self, line: &Line) {
        // The lock is released before anything is sent.
        let members = self.directory.lock().members();
        for member in members {
            member.outlet.deliver(line, 0);
        }
    }

    /// Publishes news to the other processes if they are reachable. Returns false if the news will not reach
    /// them.
    pub fn publish(&self, news: News) -> bool {
        self.remote.as_ref().is_some_and(|remote| remote.publish(news))
    }

    /// Answers `/rooms`.
    pub(super) fn list_rooms(&self, to: &Member<O>) {
        let local = self.directory.lock().rooms();
        let mut rooms: Vec<(RoomName, usize)> =
            local.iter().map(|room| (room.name().clone(), room.members().len())).collect();
        if let Some(remote) = &self.remote {
            remote.add_counts(&mut rooms);
        }
        let names = rooms.into_iter().map(|(room, count)| format!("{room}({count})"));
        answer(to, "rooms", names.collect(), "rooms");
    }

    /// Returns whether a room has another member than the caller, here or in another process.
    pub(super) fn has_others(&self, room: &Room<O>) -> bool {
        room.members().len() > 1 || self.remote.as_ref().is_some_and(|remote| remote.has_members(room.name()))
    }

    /// Returns the other members of a room, for a member that joins it.
    pub(super) fn others(&self, member: &Member<O>, room: &Room<O>) -> String {
        let members = room.members();
        let mut others: Vec<String> = members
            .iter()
            .filter(|room_member| room_member.member.id() != member.id())
            .take(GREETED + 1)
            .map(|room_member| room_member.member.name().to_string())
            .collect();
        let mut count = members.len().saturating_sub(1);
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

    /// Answers `/who`. Returns false if there is no such room.
    pub(super) fn list_members(&self, to: &Member<O>, name: &RoomName) -> bool {
        let room = self.room(name);
        let members = room.map(|room| room.members()).unwrap_or_default();
        let mut names: Vec<String> =
            members.iter().map(|room_member| room_member.member.name().to_string()).collect();
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

/// Answers with a list, or with its beginning and the number of further names.
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

//! One member's side: turns the member's messages into lines for others. The calls for one member come one after
//! the other.

mod saved;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::chat::bulletin::News;
use crate::chat::command::{Addressee, Command, HELP, parse};
use crate::chat::flood::{Bucket, FloodLimitOrOff, Verdict};
use crate::chat::hub::{Hub, Outlet};
use crate::chat::line::{Line, foreign};
use crate::chat::name::{Name, RoomName};
use crate::chat::room::{MEMBER_ROOMS, Member, Refusal, Room};
use crate::chat::text::quoted;

/// Whether a conversation continues after a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// The conversation continues.
    GoesOn,
    /// The member has said goodbye.
    Ends,
}

/// A connected member. Dropping this value makes the member leave its rooms.
pub struct Conversation<O: Outlet> {
    hub: Arc<Hub<O>>,
    member: Arc<Member<O>>,
    /// The rooms of the member; the last one is the current room.
    joined: Vec<JoinedRoom<O>>,
    bucket: Bucket,
    /// The number of SCTP streams for rooms, from stream 1 on; 0 for none.
    streams: u16,
    announce_leave_to: Announce,
}

/// Which members are told that this member leaves its rooms.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Announce {
    /// The members of its rooms, here and on other processes.
    Everybody,
    /// The members on other processes. Here, the server tells its members that it ends.
    OtherProcesses,
    /// No member, because another process has this member.
    Nobody,
}

struct JoinedRoom<O> {
    room: Arc<Room<O>>,
    stream: u16,
}

impl<O: Outlet> Conversation<O> {
    /// Adds a guest, who enters the lobby unless it is full.
    pub fn begin(hub: &Arc<Hub<O>>, outlet: O, streams: u16) -> Self {
        let member = hub.directory.lock().enter(outlet);
        let mut conversation = Self {
            hub: Arc::clone(hub),
            member,
            joined: Vec::new(),
            bucket: Bucket::new(hub.rules.flood),
            streams,
            announce_leave_to: Announce::Everybody,
        };
        let name = conversation.member.name();
        conversation.tell(&Line::notice(format_args!("you are {name}; /help lists the commands")));
        if let Some(line) = hub.reach_notice() {
            conversation.tell(&line);
        }
        conversation.join(&hub.lobby());
        conversation
    }

    /// Handles one message, which may have several lines. `stream` is the stream that it came on.
    pub fn take(&mut self, message: &[u8], stream: u16, now: Instant) -> Flow {
        let message = message.strip_suffix(b"\n").unwrap_or(message);
        for line in message.split(|byte| *byte == b'\n') {
            let parsed = parse(line, self.hub.rules.lengths);
            if let Ok(Command::Ping(text)) = parsed {
                if self.bucket.hears() {
                    self.tell(&Line::answer(format_args!("pong {text}")));
                }
                continue;
            }
            match self.bucket.take(now) {
                Verdict::Heard => {}
                Verdict::Warned => {
                    let FloodLimitOrOff(limit) = self.hub.rules.flood;
                    let rate = limit.map_or(0, |limit| limit.rate());
                    self.wrong(format_args!("too fast, and not heard: write at most {rate} lines a second"));
                    continue;
                }
                Verdict::Ignored => continue,
            }
            let flow = match parsed {
                Ok(command) => self.obey(command, stream),
                Err(line_error) => {
                    self.wrong(line_error);
                    Flow::GoesOn
                }
            };
            if flow == Flow::Ends {
                return flow;
            }
        }
        Flow::GoesOn
    }

    /// Handles a message that was too long to be read.
    pub fn refuse_long(&self) {
        let limit = self.hub.rules.lengths.line;
        self.wrong(format_args!("that line is longer than {limit} bytes: send it in several"));
    }

    /// Tells the member that the server ends. The others are not told that the member left, because everybody
    /// leaves.
    pub fn end_of_server(&mut self) {
        self.tell(&Line::notice("the server shuts down"));
        self.announce_leave_to = Announce::OtherProcesses;
    }

    fn obey(&mut self, command: Command, stream: u16) -> Flow {
        match command {
            // These have been answered already.
            Command::Nothing | Command::Ping(_) => {}
            Command::Say(text) => {
                self.speak(stream, text, Line::said, |room, name, text| News::Said { room, name, text })
            }
            Command::Act(text) => {
                self.speak(stream, text, Line::done, |room, name, text| News::Done { room, name, text })
            }
            Command::Nick(name) => self.rename(&name),
            Command::Join(room) => self.join(&room),
            Command::Leave(room) => self.leave(room.as_ref(), stream),
            Command::Rooms => self.hub.list_rooms(&self.member),
            Command::Who(room) => self.who(room, stream),
            Command::Tell(to, text) => self.whisper(&to, &text),
            Command::Help => {
                for line in HELP {
                    self.tell(&Line::answer(line));
                }
            }
            Command::Quit => {
                self.tell(&Line::notice("goodbye"));
                return Flow::Ends;
            }
        }
        Flow::GoesOn
    }

    fn speak(
        &self,
        stream: u16,
        text: String,
        line: impl Fn(&RoomName, Name, &str) -> Line,
        news: impl Fn(RoomName, Name, String) -> News,
    ) {
        let Some(joined_room) = self.here(stream) else { return };
        let (room, name) = (joined_room.room.name(), self.member.name());
        Hub::broadcast(&joined_room.room, &line(room, name.clone(), &text), Some(self.member.id()));
        self.hub.publish(news(room.clone(), name, text));
        if !self.hub.has_others(&joined_room.room) {
            self.tell(&Line::notice(format_args!("nobody else is in {room} to hear that")));
        }
    }

    fn rename(&self, new: &Name) {
        if let Some(known) = self.hub.remote.as_ref().and_then(|remote| remote.name_like(new)) {
            return self.wrong(Refusal::NameLike(new.clone(), known));
        }
        let renamed = self.hub.directory.lock().rename(&self.member, new);
        let old = match renamed {
            Ok(old) => old,
            Err(refusal) => return self.wrong(refusal),
        };
        self.tell(&Line::notice(format_args!("you are {new} now")));
        if old != *new {
            let rooms = self.joined.iter().map(|joined_room| &*joined_room.room);
            self.hub.announce_in(rooms, &Line::renamed(&old, new), Some(self.member.id()));
            self.hub.publish(News::Renamed { old, new: new.clone() });
        }
    }

    fn join(&mut self, name: &RoomName) {
        if let Some(place) = self.joined.iter().position(|joined_room| joined_room.room.name() == name) {
            let joined_room = self.joined.remove(place);
            let others = self.hub.others(&self.member, &joined_room.room);
            self.joined.push(joined_room);
            return self.tell(&Line::notice(format_args!("{name} is your current room; {others}")));
        }
        if self.joined.len() >= MEMBER_ROOMS {
            return self.wrong(Refusal::TooManyOfYours);
        }
        if let Some(known) = self.hub.remote.as_ref().and_then(|remote| remote.room_like(name)) {
            return self.wrong(Refusal::RoomLike(name.clone(), known));
        }
        let stream = self.free_stream();
        let joined = self.hub.directory.lock().join(&self.member, name, stream);
        let room = match joined {
            Ok(room) => room,
            Err(refusal) => return self.wrong(refusal),
        };
        let others = self.hub.others(&self.member, &room);
        match stream {
            0 => self.tell(&Line::notice(format_args!("you joined {name}; {others}"))),
            _ => self.tell(&Line::notice(format_args!("you joined {name} on stream {stream}; {others}"))),
        }
        let who = self.member.name();
        self.hub.announce(&room, &Line::joined(name, &who), Some(self.member.id()));
        self.hub.publish(News::Joined { room: name.clone(), name: who });
        self.joined.push(JoinedRoom { room, stream });
    }

    fn leave(&mut self, name: Option<&RoomName>, stream: u16) {
        let wanted = match name {
            Some(name) => name.clone(),
            None => match self.here(stream) {
                Some(joined_room) => joined_room.room.name().clone(),
                None => return,
            },
        };
        let Some(place) = self.joined.iter().position(|joined_room| *joined_room.room.name() == wanted)
        else {
            return self.wrong(format_args!("you are not in {wanted}: leave a room that you joined"));
        };
        let joined_room = self.joined.remove(place);
        self.leave_room(&joined_room);
        self.tell(&Line::notice(format_args!("you left {wanted}")));
        let now = match self.joined.last() {
            Some(joined_room) => format!("{} is your current room", joined_room.room.name()),
            None => "you are in no room: /join one".to_owned(),
        };
        self.tell(&Line::notice(now));
    }

    fn leave_room(&self, joined_room: &JoinedRoom<O>) {
        self.hub.directory.lock().leave(&self.member, &joined_room.room);
        if self.announce_leave_to == Announce::Nobody || !self.hub.is_serving() {
            return;
        }
        let (room, name) = (joined_room.room.name(), self.member.name());
        if self.announce_leave_to == Announce::Everybody {
            self.hub.announce(&joined_room.room, &Line::left(room, &name), None);
        }
        self.hub.publish(News::Left { room: room.clone(), name });
    }

    fn who(&self, room: Option<RoomName>, stream: u16) {
        let room = match room {
            Some(room) => room,
            None => match self.here(stream) {
                Some(joined_room) => joined_room.room.name().clone(),
                None => return,
            },
        };
        if !self.hub.list_members(&self.member, &room) {
            self.wrong(format_args!("there is no room {room}: /rooms lists them"));
        }
    }

    fn whisper(&self, to: &Addressee, text: &str) {
        let me = self.member.name();
        let own = self.hub.remote.as_ref().map(|remote| remote.origin());
        if to.origin.is_none() || to.origin.as_ref() == own {
            let found = self.hub.directory.lock().member(&to.name);
            if let Some(found) = found {
                found.outlet.deliver(&Line::told(me, text), 0);
                return self.tell(&Line::telling(found.name(), text));
            }
        }
        let Some(remote) = &self.hub.remote else { return self.nobody(to) };
        let mut elsewhere = remote.namesakes(&to.name);
        if let Some(origin) = &to.origin {
            elsewhere.retain(|(_, theirs)| theirs == origin);
        }
        match elsewhere.as_slice() {
            [] => self.nobody(to),
            [(name, origin)] => {
                let whom = foreign(name, origin);
                let (origin, to, text) = (origin.clone(), name.clone(), text.to_owned());
                if self.hub.publish(News::Told { origin, to, name: me, text: text.clone() }) {
                    self.tell(&Line::telling(whom, &text));
                } else {
                    self.wrong(format_args!("{whom} cannot be reached now: try again later"));
                }
            }
            [(name, origin), ..] => self.wrong(format_args!(
                "there is more than one {name}: say which, such as /msg {name}@{origin} {}",
                quoted(text)
            )),
        }
    }

    fn nobody(&self, to: &Addressee) {
        self.wrong(format_args!("nobody is called {to}: /who lists who is in your room"));
    }

    /// Returns the room that a message on this stream is for. If there is none, tells the member.
    fn here(&self, stream: u16) -> Option<&JoinedRoom<O>> {
        if self.streams == 0 || stream == 0 {
            let current = self.joined.last();
            if current.is_none() {
                self.wrong("you are in no room: /join one, such as /join lobby");
            }
            return current;
        }
        let joined_room = self.joined.iter().find(|joined_room| joined_room.stream == stream);
        if joined_room.is_none() {
            self.wrong(format_args!(
                "no room of yours is on stream {stream}: use stream 0 for your current room"
            ));
        }
        joined_room
    }

    /// Returns the lowest stream that no room of this member uses, or 0 if all are in use.
    fn free_stream(&self) -> u16 {
        let taken = |stream: &u16| self.joined.iter().any(|joined_room| joined_room.stream == *stream);
        (1..=self.streams).find(|stream| !taken(stream)).unwrap_or(0)
    }

    fn tell(&self, line: &Line) {
        self.member.outlet.deliver(line, 0);
    }

    fn wrong(&self, sentence: impl fmt::Display) {
        self.tell(&Line::wrong(sentence));
    }
}

impl<O: Outlet> Drop for Conversation<O> {
    fn drop(&mut self) {
        for joined_room in std::mem::take(&mut self.joined) {
            self.leave_room(&joined_room);
        }
        self.hub.directory.lock().quit(&self.member);
    }
}

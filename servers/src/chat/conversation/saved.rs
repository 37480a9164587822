//! Saves one member's side as text for the process that takes the server over: its name, its rooms, and how fast
//! it wrote.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Announce, Conversation, JoinedRoom};
use crate::chat::flood::Bucket;
use crate::chat::hub::{Hub, Outlet};
use crate::chat::name::{Name, RoomName};
use crate::chat::room::MEMBER_ROOMS;

/// The largest accepted number of characters of a name from another process, independent of that process's limit.
const LONGEST: usize = 256;

impl<O: Outlet> Conversation<O> {
    /// Saves the conversation. Each part has a line.
    pub fn save(&self, now: Instant) -> String {
        let (pending, warned) = self.bucket.save(now);
        let first = format!("{} {} {}", self.member.name(), pending.as_millis(), u8::from(warned));
        let rooms = self.joined.iter().map(|joined_room| joined_room.room.name().to_string());
        [first].into_iter().chain(rooms).collect::<Vec<_>>().join("\n")
    }

    /// Continues a conversation that another process has saved, without telling the members of its rooms. Other
    /// processes learn of it from the next roster. Returns none if another member has the name, if a room is full,
    /// or if the text is not valid.
    pub fn resume(hub: &Arc<Hub<O>>, outlet: O, saved: &str, now: Instant) -> Option<Self> {
        let mut lines = saved.lines();
        let mut first = lines.next()?.rsplitn(3, ' ');
        let (warned, pending) = (first.next()? == "1", Duration::from_millis(first.next()?.parse().ok()?));
        let name = Name::parse(first.next()?, LONGEST).ok()?;
        let member = hub.directory.lock().enter_as(&name, outlet).ok()?;
        let bucket = Bucket::resume(hub.rules.flood, pending, warned, now);
        // The others must not see a member whose restoration fails half way.
        let announce_leave_to = Announce::Nobody;
        let mut resumed =
            Self { hub: Arc::clone(hub), member, joined: Vec::new(), bucket, streams: 0, announce_leave_to };
        for room in lines.take(MEMBER_ROOMS) {
            let room = RoomName::parse(room, LONGEST).ok()?;
            let room = hub.directory.lock().join(&resumed.member, &room, 0).ok()?;
            if let Some(remote) = &hub.remote {
                remote.forget_own(room.name(), &name);
            }
            resumed.joined.push(JoinedRoom { room, stream: 0 });
        }
        resumed.announce_leave_to = Announce::Everybody;
        Some(resumed)
    }

    /// Ends the conversation here without telling the others, because it continues in another process.
    pub fn end_here(&mut self) {
        self.hub.hand_over();
        self.announce_leave_to = Announce::Nobody;
    }
}

//! One member's side as text, for the process that takes the server over: what it is called, where it is, and how fast it wrote.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Conversation, Farewell, Seat};
use crate::chat::flood::Bucket;
use crate::chat::hub::{Hub, Outlet};
use crate::chat::name::{Name, RoomName};
use crate::chat::room::MEMBER_ROOMS;

/// Characters of a name that another process has taken, whatever its limit was.
const LONGEST: usize = 256;

impl<O: Outlet> Conversation<O> {
    /// Writes the conversation. Each part has a line.
    pub fn save(&self, now: Instant) -> String {
        let (pending, warned) = self.bucket.save(now);
        let first = format!("{} {} {}", self.member.name(), pending.as_millis(), u8::from(warned));
        let rooms = self.seats.iter().map(|seat| seat.room.name().to_string());
        [first].into_iter().chain(rooms).collect::<Vec<_>>().join("\n")
    }

    /// Goes on with a conversation that another process wrote; nobody in its rooms is told, and other processes hear of it by
    /// the next roster. `None`: somebody has the name, or a room is
    /// full, or this is no such text.
    pub fn resume(hub: &Arc<Hub<O>>, outlet: O, saved: &str, now: Instant) -> Option<Self> {
        let mut lines = saved.lines();
        let mut first = lines.next()?.rsplitn(3, ' ');
        let (warned, pending) = (first.next()? == "1", Duration::from_millis(first.next()?.parse().ok()?));
        let name = Name::parse(first.next()?, LONGEST).ok()?;
        let member = hub.directory.lock().enter_as(&name, outlet).ok()?;
        let bucket = Bucket::resume(hub.rules.flood, pending, warned, now);
        // Nobody hears of one that fails half way.
        let farewell = Farewell::Nobody;
        let mut resumed =
            Self { hub: Arc::clone(hub), member, seats: Vec::new(), bucket, streams: 0, farewell };
        for room in lines.take(MEMBER_ROOMS) {
            let room = RoomName::parse(room, LONGEST).ok()?;
            let room = hub.directory.lock().join(&resumed.member, &room, 0).ok()?;
            if let Some(remote) = &hub.remote {
                remote.forget_own(room.name(), &name);
            }
            resumed.seats.push(Seat { room, stream: 0 });
        }
        resumed.farewell = Farewell::Everybody;
        Some(resumed)
    }

    /// The member goes on elsewhere: nobody is told that it left.
    pub fn end_here(&mut self) {
        self.hub.hand_over();
        self.farewell = Farewell::Nobody;
    }
}

//! What the server writes: one line each, of a form that its first character tells.
//!
//! | line | what |
//! |---|---|
//! | `[lobby] alice: hello` | said in a room |
//! | `[lobby] * alice waves` | done in a room (`/me`) |
//! | `(alice) hello` | a private message from alice |
//! | `(to alice) hello` | one's own private message, on its way |
//! | `* alice joined lobby` | something happened |
//! | `= lobby: alice bob` | an answer to `/who`, `/rooms` or `/help` |
//! | `! sentence` | something is wrong with what one wrote |
//!
//! Members of other processes are written `alice@north`. Names hold no space and none of `[](){}:*=!@`,
//! so a program can cut these lines without doubt.

use std::fmt::Display;
use std::sync::Arc;

use crate::chat::name::{Name, RoomName};

/// The most bytes of a line that lists names: it fits one packet.
const LISTED: usize = 1000;

/// A line on its way to any number of receivers, who share its bytes. Its newline is among them on every
/// transport: on datagrams terminals need it, and a stream of lines adds none where there is one.
#[derive(Clone, Debug)]
pub struct Line(Arc<[u8]>);

impl Line {
    /// This text, which has no newline.
    pub fn new(text: &str) -> Self {
        debug_assert!(!text.contains('\n'));
        Self(format!("{text}\n").into_bytes().into())
    }

    /// Something said in a room. `who` may have an origin.
    pub fn said(room: &RoomName, who: impl Display, text: &str) -> Self {
        Self::new(&format!("[{room}] {who}: {text}"))
    }

    /// Something done in a room.
    pub fn done(room: &RoomName, who: impl Display, text: &str) -> Self {
        Self::new(&format!("[{room}] * {who} {text}"))
    }

    /// A private message, for whom it is meant.
    pub fn told(who: impl Display, text: &str) -> Self {
        Self::new(&format!("({who}) {text}"))
    }

    /// A private message, for who wrote it.
    pub fn telling(whom: impl Display, text: &str) -> Self {
        Self::new(&format!("(to {whom}) {text}"))
    }

    /// Something that happened.
    pub fn notice(what: impl Display) -> Self {
        Self::new(&format!("* {what}"))
    }

    /// A line of an answer.
    pub fn answer(what: impl Display) -> Self {
        Self::new(&format!("= {what}"))
    }

    /// Something wrong with what a peer wrote.
    pub fn wrong(sentence: impl Display) -> Self {
        Self::new(&format!("! {sentence}"))
    }

    /// Somebody came into a room.
    pub fn joined(room: &RoomName, who: impl Display) -> Self {
        Self::notice(format_args!("{who} joined {room}"))
    }

    /// Somebody went out of a room.
    pub fn left(room: &RoomName, who: impl Display) -> Self {
        Self::notice(format_args!("{who} left {room}"))
    }

    /// Somebody has another name now.
    pub fn renamed(old: impl Display, new: impl Display) -> Self {
        Self::notice(format_args!("{old} is {new} now"))
    }

    /// The bytes, with the newline.
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.0
    }

    /// The text, without the newline.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.0).map(str::trim_end).unwrap_or_default()
    }
}

/// The lines that list `names` behind `title`: each short enough for one packet.
pub fn list(title: impl Display, names: impl IntoIterator<Item = String>) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for name in names {
        if line.len() + name.len() > LISTED {
            lines.push(Line::answer(format_args!("{title}:{line}")));
            line.clear();
        }
        line.push(' ');
        line.push_str(&name);
    }
    if !line.is_empty() || lines.is_empty() {
        lines.push(Line::answer(format_args!("{title}:{line}")));
    }
    lines
}

/// A name as members of other processes have it.
pub fn foreign(name: &Name, origin: &Name) -> String {
    format!("{name}@{origin}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_character_tells_the_form() {
        let room = RoomName::parse("lobby", 24).unwrap();
        for (line, expected) in [
            (Line::said(&room, "alice", "hello"), "[lobby] alice: hello"),
            (Line::done(&room, "alice@north", "waves"), "[lobby] * alice@north waves"),
            (Line::told("alice", "hello"), "(alice) hello"),
            (Line::telling("bob", "hello"), "(to bob) hello"),
            (Line::joined(&room, "alice"), "* alice joined lobby"),
            (Line::left(&room, "alice"), "* alice left lobby"),
            (Line::renamed("alice", "bob"), "* alice is bob now"),
            (Line::wrong("no"), "! no"),
        ] {
            assert_eq!(line.text(), expected);
            assert_eq!(&line.bytes()[..], format!("{expected}\n").as_bytes());
        }
    }

    #[test]
    fn long_lists_are_cut_into_packets() {
        let lines = list("lobby", (0..500).map(|number| format!("guest{number}")));
        assert!(lines.len() > 4 && lines.iter().all(|line| line.bytes().len() < 1100));
        let joined: Vec<_> =
            lines.iter().flat_map(|line| line.text().strip_prefix("= lobby: ").unwrap().split(' ')).collect();
        assert_eq!(joined.len(), 500);
        assert_eq!(joined[499], "guest499");
        assert_eq!(list("lobby", [])[0].text(), "= lobby:");
    }
}

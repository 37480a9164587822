//! The lines that the server writes. The first character of a line tells its form.
//!
//! | line | meaning |
//! |---|---|
//! | `[lobby] alice: hello` | a member wrote in a room |
//! | `[lobby] * alice waves` | a member acted in a room (`/me`) |
//! | `(alice) hello` | a private message from alice |
//! | `(to alice) hello` | the reader's own private message to alice |
//! | `* alice joined lobby` | an event |
//! | `= lobby: alice bob` | an answer to `/who`, `/rooms` or `/help` |
//! | `! sentence` | an error in the reader's own input |
//!
//! Members of other processes are written `alice@north`. Names contain no space and none of `[](){}:*=!@`, so a
//! program can parse these lines without ambiguity.

use std::fmt::Display;
use std::sync::Arc;

use crate::chat::name::{Name, RoomName};

/// The largest number of bytes of a line that lists names: it fits into one packet.
const LISTED: usize = 1000;

/// A line for any number of receivers, who share its bytes. The bytes include the newline on every transport:
/// with datagrams, terminals need it, and a stream of lines adds none to a line that has one.
#[derive(Clone, Debug)]
pub struct Line(Arc<[u8]>);

impl Line {
    /// Makes a line of this text, which must have no newline.
    pub fn new(text: &str) -> Self {
        debug_assert!(!text.contains('\n'));
        Self(format!("{text}\n").into_bytes().into())
    }

    /// Makes a line that a member wrote in a room. `who` may have an origin.
    pub fn said(room: &RoomName, who: impl Display, text: &str) -> Self {
        Self::new(&format!("[{room}] {who}: {text}"))
    }

    /// Makes a line about what a member did in a room.
    pub fn done(room: &RoomName, who: impl Display, text: &str) -> Self {
        Self::new(&format!("[{room}] * {who} {text}"))
    }

    /// Makes a private message, as its receiver sees it.
    pub fn told(who: impl Display, text: &str) -> Self {
        Self::new(&format!("({who}) {text}"))
    }

    /// Makes a private message, as its sender sees it.
    pub fn telling(whom: impl Display, text: &str) -> Self {
        Self::new(&format!("(to {whom}) {text}"))
    }

    /// Makes a line about an event.
    pub fn notice(what: impl Display) -> Self {
        Self::new(&format!("* {what}"))
    }

    /// Makes a line of an answer.
    pub fn answer(what: impl Display) -> Self {
        Self::new(&format!("= {what}"))
    }

    /// Makes a line about an error in a peer's input.
    pub fn wrong(sentence: impl Display) -> Self {
        Self::new(&format!("! {sentence}"))
    }

    /// Announces that a member has joined a room.
    pub fn joined(room: &RoomName, who: impl Display) -> Self {
        Self::notice(format_args!("{who} joined {room}"))
    }

    /// Announces that a member has left a room.
    pub fn left(room: &RoomName, who: impl Display) -> Self {
        Self::notice(format_args!("{who} left {room}"))
    }

    /// Announces that a member has another name now.
    pub fn renamed(old: impl Display, new: impl Display) -> Self {
        Self::notice(format_args!("{old} is {new} now"))
    }

    /// Returns the bytes, with the newline.
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.0
    }

    /// Returns the text, without the newline.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.0).map(str::trim_end).unwrap_or_default()
    }
}

/// Returns the lines that list `names` after `title`, each short enough for one packet.
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

/// Formats a name as members of other processes see it.
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

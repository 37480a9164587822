//! Text and names from outside, made harmless. Pure.

use std::fmt;
use std::sync::Arc;

/// The most characters of somebody's input that an error repeats.
const QUOTED: usize = 40;

/// How long things that peers write may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// Bytes of a line, without its newline.
    pub line: usize,
    /// Characters of a nickname or of the name of a room.
    pub name: usize,
}

impl Default for Lengths {
    fn default() -> Self {
        Self { line: 1024, name: 24 }
    }
}

/// A nickname as its owner writes it. Names that differ in case alone are the same: see
/// [`folded`](Self::folded).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// The name of a room, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoomName(Arc<str>);

impl Name {
    /// Takes letters and digits of any script, `-`, `_` and `.`, up to `longest` characters.
    pub fn parse(text: &str, longest: usize) -> Option<Self> {
        is_name(text, longest).then(|| Self(text.into()))
    }

    /// The name that a guest has before it takes one.
    pub fn guest(number: u64) -> Self {
        Self(format!("guest{number}").into())
    }

    /// What two spellings of one name have in common.
    pub fn folded(&self) -> String {
        self.0.to_lowercase()
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl RoomName {
    /// Takes what [`Name::parse`] takes, with or without a `#` before it.
    pub fn parse(text: &str, longest: usize) -> Option<Self> {
        let text = text.strip_prefix('#').unwrap_or(text);
        let lower = text.to_lowercase();
        // Some letters are longer in lower case.
        (is_name(text, longest) && is_name(&lower, longest)).then(|| Self(lower.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_name(text: &str, longest: usize) -> bool {
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    !text.is_empty() && text.chars().all(allowed) && text.chars().count() <= longest
}

/// A line without what could trick a terminal or its reader: control characters, and those that turn
/// the direction of writing or break the line. A tab becomes a space; white space at both ends goes.
pub fn clean(line: &str) -> String {
    let kept = line.chars().filter_map(|c| match c {
        '\t' => Some(' '),
        c if c.is_control() || is_trick(c) => None,
        c => Some(c),
    });
    kept.collect::<String>().trim().to_owned()
}

fn is_trick(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' | '\u{61c}')
}

/// The beginning of somebody's input, for a sentence about it.
pub fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_letters_and_digits_of_any_script() {
        for good in ["alice", "Ωmega", "李", "a-b_c.d", "9", "नमस"] {
            assert!(Name::parse(good, 24).is_some(), "{good}");
        }
        for bad in ["", "a b", "a@b", "[a]", "a:", "*", "!x", "/x", "(x)", "a\u{7}", "a\u{202e}", "=", "a\n"]
        {
            assert!(Name::parse(bad, 24).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn the_length_of_a_name_is_counted_in_characters() {
        assert!(Name::parse("ααα", 3).is_some());
        assert!(Name::parse("αααα", 3).is_none());
        assert!(RoomName::parse("#abc", 3).is_some());
        // Two characters in lower case.
        assert!(RoomName::parse("İ", 1).is_none());
    }

    #[test]
    fn case_makes_no_other_name_and_no_other_room() {
        let fold = |text| Name::parse(text, 24).unwrap().folded();
        assert_eq!(fold("Alice"), fold("aLICE"));
        assert_eq!(RoomName::parse("#Lobby", 24), RoomName::parse("lobby", 24));
    }

    #[test]
    fn control_characters_and_tricks_go() {
        assert_eq!(clean("  a\x1b[31mred\x07\tb\r"), "a[31mred b");
        assert_eq!(clean("evil\u{202e}txt\u{2028}\u{85}\u{feff}"), "eviltxt");
        assert_eq!(clean("grüße 👋🏽"), "grüße 👋🏽");
        assert_eq!(clean("\t \r"), "");
    }

    #[test]
    fn long_input_is_quoted_in_part() {
        assert_eq!(quoted("short"), "short");
        assert_eq!(quoted(&"ä".repeat(100)).chars().count(), QUOTED + 1);
    }
}

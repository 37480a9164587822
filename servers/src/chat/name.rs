//! Nicknames and room names: the accepted characters, and which names look alike (UTS #39). Pure.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use icu_properties::CodePointMapData;
use icu_properties::props::{GeneralCategory, GeneralCategoryGroup};
use unicode_normalization::UnicodeNormalization;
use unicode_security::{GeneralSecurityProfile, MixedScript, skeleton};

use crate::chat::text::is_ignorable;

/// The largest number of marks on one letter: a consonant of Hindi can have three.
const MARKS: usize = 4;

/// Letters without a glyph that are not default ignorable code points: the blanks of Egyptian hieroglyphs.
const BLANKS: [char; 2] = ['\u{13441}', '\u{13442}'];

/// Names with which a member could imitate the server: `* you joined lobby` is a line of the server.
const RESERVED: [&str; 4] = ["you", "to", "server", "system"];

/// A nickname as its owner writes it, in Normalization Form C. Names that differ only in case are the same: see
/// [`folded`](Self::folded).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// The name of a room, in lower case and Normalization Form C.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoomName(Arc<str>);

/// Why a text is not a valid name. It completes a sentence that says what to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadName {
    /// The text is empty, too long, or has a character that no name may have.
    Form {
        /// The largest number of characters of a name.
        longest: usize,
    },
    /// The text has an invisible character.
    Invisible,
    /// The text mixes letters of scripts that look alike.
    MixedScripts,
}

impl Name {
    /// Parses letters and digits of any script with their marks, `-`, `_` and `.`, up to `longest` characters.
    ///
    /// # Errors
    ///
    /// Returns an error if the text has another character, or if readers could not tell it from another name.
    pub fn parse(text: &str, longest: usize) -> Result<Self, BadName> {
        checked(text, longest).map(|name| Self(name.into()))
    }

    /// Returns the name of a guest, who has not chosen one yet.
    pub fn guest(number: u64) -> Self {
        Self(format!("guest{number}").into())
    }

    /// Returns the common form of all spellings of this name.
    pub fn folded(&self) -> String {
        self.0.to_lowercase()
    }

    /// Returns the common forms of names that look like this one, as it is and in lower case: `Ian` looks like
    /// `lan`, and `IAN` is the same name as `ian`.
    pub fn looks(&self) -> [String; 2] {
        [look(&self.0), look(&self.folded())]
    }

    /// Returns whether readers may take it for a word of the server.
    pub fn is_reserved(&self) -> bool {
        let looks = self.looks();
        RESERVED.iter().any(|word| looks.contains(&look(word)))
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl RoomName {
    /// Parses what [`Name::parse`] accepts, with or without a `#` before it.
    ///
    /// # Errors
    ///
    /// The same as those of [`Name::parse`].
    pub fn parse(text: &str, longest: usize) -> Result<Self, BadName> {
        let name = checked(text.strip_prefix('#').unwrap_or(text), longest)?;
        // Some letters are longer in lower case.
        checked(&name.to_lowercase(), longest).map(|name| Self(name.into()))
    }

    /// Returns the common form of the rooms that look like this one.
    pub fn look(&self) -> String {
        look(&self.0)
    }

    /// Returns the name.
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

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form { longest } => {
                write!(f, "use letters, digits, - _ and . only, {longest} characters at most")
            }
            Self::Invisible => f.write_str("it has characters that nobody can see, so leave them out"),
            Self::MixedScripts => {
                f.write_str("it mixes scripts whose letters look alike, so use letters of one script")
            }
        }
    }
}

/// Returns a name in Normalization Form C, if the text is a valid name.
fn checked(text: &str, longest: usize) -> Result<String, BadName> {
    // Check the length first. Nothing below makes a text of this length shorter than `longest`.
    if text.chars().nth(longest * (MARKS + 1)).is_some() {
        return Err(BadName::Form { longest });
    }
    let invisible = |c: char| is_ignorable(c) || BLANKS.contains(&c);
    let known = |c: char| c.is_alphanumeric() || is_mark(c) || matches!(c, '-' | '_' | '.');
    if !text.chars().all(|c| known(c) || invisible(c)) {
        return Err(BadName::Form { longest });
    }
    if text.chars().any(invisible) {
        return Err(BadName::Invisible);
    }
    let name: String = text.nfc().collect();
    let mut marks = 0;
    // A mark needs a letter before it.
    let mut last_is_letter = false;
    let mut letters = 0;
    for c in name.chars() {
        if is_mark(c) && last_is_letter && marks < MARKS {
            marks += 1;
            continue;
        }
        let is_letter = c.is_alphanumeric() && !is_mark(c);
        if !is_letter && !matches!(c, '-' | '_' | '.') {
            return Err(BadName::Form { longest });
        }
        (marks, last_is_letter) = (0, is_letter);
        letters += usize::from(is_letter);
    }
    if letters == 0 || name.chars().count() > longest {
        return Err(BadName::Form { longest });
    }
    match mixes_scripts(&name) {
        true => Err(BadName::MixedScripts),
        false => Ok(name),
    }
}

/// Returns whether a name mixes scripts, except Latin with one commonly used script other than Cyrillic and Greek
/// (UTS #39 §5.2, moderately restrictive). The scripts of Japanese, Korean and Bopomofo texts count as one
/// script.
fn mixes_scripts(name: &str) -> bool {
    if name.is_single_script() {
        return false;
    }
    let rest: String = name.chars().filter(|c| !shares_script(&c.to_string(), "a")).collect();
    !rest.as_str().is_single_script()
        || !rest.chars().all(GeneralSecurityProfile::identifier_allowed)
        || shares_script(&rest, "\u{436}")
        || shares_script(&rest, "\u{3b8}")
}

fn shares_script(one: &str, other: &str) -> bool {
    let mut scripts = one.resolve_script_set();
    scripts.intersect_with(other.resolve_script_set());
    !scripts.is_empty()
}

fn is_mark(c: char) -> bool {
    GeneralCategoryGroup::Mark.contains(CodePointMapData::<GeneralCategory>::new().get(c))
}

/// Returns the common form of texts that look alike (UTS #39 §4). The skeleton of a zero is a capital O.
fn look(text: &str) -> String {
    skeleton(text).collect::<String>().to_lowercase()
}

/// Finds items by the look of their names.
#[derive(Debug)]
pub struct Looks<K>(HashMap<String, BTreeMap<K, usize>>);

impl<K: Ord + Clone> Looks<K> {
    /// Adds an item. An item that is added twice must be removed twice.
    pub fn add(&mut self, look: String, thing: &K) {
        *self.0.entry(look).or_default().entry(thing.clone()).or_default() += 1;
    }

    /// Removes an item once.
    pub fn remove(&mut self, look: &str, thing: &K) {
        let Some(things) = self.0.get_mut(look) else { return };
        if let Some(count) = things.get_mut(thing) {
            *count -= 1;
            if *count == 0 {
                things.remove(thing);
            }
        }
        if things.is_empty() {
            self.0.remove(look);
        }
    }

    /// Returns the items with this look.
    pub fn get(&self, look: &str) -> impl Iterator<Item = &K> {
        self.0.get(look).into_iter().flat_map(BTreeMap::keys)
    }

    /// Removes all items.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl<K> Default for Looks<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text, 24).unwrap_or_else(|bad| panic!("{text:?}: {bad}"))
    }

    #[test]
    fn names_are_letters_and_digits_of_any_script() {
        for good in
            ["alice", "Ödön", "李", "a-b_c.d", "9", "नमस्ते", "हिन्दी", "Москва1", "Ωμέγα", "علي", "たけし99"]
        {
            name(good);
        }
        for bad in ["", "a b", "a@b", "[a]", "a:", "*", "!x", "/x", "(x)", "a\u{7}", "=", "a\n", "🙂", "a🙂"]
        {
            assert_eq!(Name::parse(bad, 24), Err(BadName::Form { longest: 24 }), "{bad:?}");
        }
    }

    #[test]
    fn the_length_of_a_name_is_counted_in_characters() {
        assert!(Name::parse("ααα", 3).is_ok());
        assert!(Name::parse("αααα", 3).is_err());
        assert!(RoomName::parse("#abc", 3).is_ok());
        // This character becomes two in lower case.
        assert!(RoomName::parse("İ", 1).is_err());
        // This is one character in two code points.
        assert_eq!(Name::parse("e\u{301}", 1).unwrap().as_str(), "é");
    }

    #[test]
    fn case_and_composition_make_no_other_name_and_no_other_room() {
        assert_eq!(name("Alice").folded(), name("aLICE").folded());
        assert_eq!(name("O\u{308}don").folded(), name("\u{f6}DON").folded());
        assert_eq!(RoomName::parse("#Lobby", 24), RoomName::parse("lobby", 24));
        assert_eq!(RoomName::parse("cafe\u{301}", 24), RoomName::parse("CAFÉ", 24));
    }

    #[test]
    fn a_name_that_cannot_be_seen_is_none() {
        for blank in
            ["\u{3164}", "\u{ffa0}", "\u{115f}", "\u{1160}", "\u{200b}", "\u{13441}", "\u{ad}", "\u{180e}"]
        {
            assert_eq!(Name::parse(blank, 24), Err(BadName::Invisible), "{blank:?}");
            assert_eq!(Name::parse(&format!("al{blank}ice"), 24), Err(BadName::Invisible), "{blank:?}");
            assert_eq!(RoomName::parse(blank, 24), Err(BadName::Invisible), "{blank:?}");
        }
        // These are marks without a letter, more marks than a letter can have, and signs alone.
        let zalgo = format!("a{}", "\u{301}".repeat(9));
        for bad in
            ["\u{301}", "\u{301}a", "-\u{301}", "\u{2800}", "\u{e9}\u{20dd}\u{1d159}", "-", "...", &zalgo]
        {
            assert!(matches!(Name::parse(bad, 24), Err(BadName::Form { .. })), "{bad:?}");
        }
    }

    #[test]
    fn scripts_with_letters_that_look_alike_are_not_mixed() {
        for mixed in ["\u{430}dmin", "admi\u{3b7}o", "\u{441}afe", "ali\u{441}e", "\u{13aa}lice", "Иvan"] {
            assert_eq!(Name::parse(mixed, 24), Err(BadName::MixedScripts), "{mixed}");
        }
        for good in ["李Lee", "ケンken", "김min", "ali_علي"] {
            name(good);
        }
    }

    #[test]
    fn names_look_alike_as_readers_see_them() {
        let alike = |one: &str, other: &str| {
            let looks = name(other).looks();
            name(one).looks().iter().any(|look| looks.contains(look))
        };
        // The second name of each pair has Cyrillic letters, a digit or a capital letter.
        for (one, other) in
            [("scope", "ѕсоре"), ("alice", "a1ice"), ("alice", "aIice"), ("bob0", "bobO"), ("Ian", "lan")]
        {
            assert!(alike(one, other), "{one} {other}");
        }
        for (one, other) in [("ian", "lan"), ("alice", "bob"), ("guest1", "guest2"), ("anna", "hanna")] {
            assert!(!alike(one, other), "{one} {other}");
        }
        assert!(name("You").is_reserved() && name("y0u").is_reserved() && !name("yours").is_reserved());
    }

    #[test]
    fn things_are_found_by_their_looks_until_they_are_removed_as_often() {
        let mut looks = Looks::default();
        looks.add("a".to_owned(), &1);
        looks.add("a".to_owned(), &1);
        looks.add("a".to_owned(), &2);
        looks.remove("a", &1);
        assert_eq!(looks.get("a").collect::<Vec<_>>(), [&1, &2]);
        looks.remove("a", &1);
        looks.remove("b", &1);
        assert_eq!(looks.get("a").collect::<Vec<_>>(), [&2]);
        looks.remove("a", &2);
        assert!(looks.0.is_empty());
    }

    proptest! {
        #[test]
        fn every_name_can_be_seen_and_is_read_back(text in "\\PC{1,12}|[\\p{L}\\p{M}\\p{Cf}\\-_.]{1,8}") {
            if let Ok(name) = Name::parse(&text, 24) {
                prop_assert!(name.as_str().chars().any(|c| c.is_alphanumeric() && !is_mark(c)));
                prop_assert!(!name.as_str().chars().any(|c| is_ignorable(c) || c.is_whitespace() || c.is_control()));
                prop_assert_eq!(Name::parse(name.as_str(), 24), Ok(name.clone()));
                prop_assert!(!name.looks()[0].is_empty());
            }
            if let Ok(room) = RoomName::parse(&text, 24) {
                prop_assert_eq!(RoomName::parse(room.as_str(), 24), Ok(room));
            }
        }

        #[test]
        fn an_invisible_character_anywhere_makes_a_name_none(
            at in 0..6_usize,
            c in proptest::char::any().prop_filter("ignorable", |c| is_ignorable(*c)),
        ) {
            let mut text = "alice".to_owned();
            text.insert(at.min(5), c);
            prop_assert_eq!(Name::parse(&text, 24), Err(BadName::Invisible));
        }
    }
}

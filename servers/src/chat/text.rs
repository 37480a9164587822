//! Makes text from outside harmless. Pure.

use icu_properties::props::{
    CanonicalCombiningClass, DefaultIgnorableCodePoint, Emoji, EmojiModifier, ExtendedPictographic,
    Ideographic, JoiningType, Script,
};
use icu_properties::{CodePointMapData, CodePointSetData};

const ZWNJ: char = '\u{200c}';
const ZWJ: char = '\u{200d}';
/// COMBINING ENCLOSING KEYCAP.
const KEYCAP: char = '\u{20e3}';
/// WAVING BLACK FLAG, which becomes a region's flag with tags.
const FLAG: char = '\u{1f3f4}';
const CANCEL_TAG: char = '\u{e007f}';
/// The largest number of tags of a flag: the codes of regions are shorter.
const MOST_TAGS: usize = 8;

/// The largest number of characters of a user's input that an error repeats.
const QUOTED: usize = 40;

/// The limits on the length of a peer's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// The largest number of bytes of a line, without its newline.
    pub line: usize,
    /// The largest number of characters of a nickname or a room name.
    pub name: usize,
}

impl Default for Lengths {
    fn default() -> Self {
        Self { line: 1024, name: 24 }
    }
}

/// Removes from a line what could trick a terminal or its reader: control characters, characters that change the
/// direction of writing or break the line, and invisible characters, unless they are part of an emoji or needed
/// by a script. Turns a tab into a space, and trims white space at both ends.
pub fn clean(line: &str) -> String {
    let kept = line.chars().filter_map(|c| match c {
        '\t' => Some(' '),
        c if c.is_control() || is_trick(c) => None,
        c => Some(c),
    });
    visible(&kept.collect::<Vec<char>>()).trim().to_owned()
}

/// Returns whether a character changes the direction of writing or breaks the line. Most of these are invisible
/// too.
fn is_trick(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' | '\u{61c}')
}

/// Returns whether a character has no glyph of its own (UAX #44, Default_Ignorable_Code_Point).
pub fn is_ignorable(c: char) -> bool {
    CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
}

/// Returns the text without invisible characters that do not change visible ones.
fn visible(text: &[char]) -> String {
    let mut kept = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let c = text[at];
        // The tags of a flag are kept or removed together.
        let flag = if is_tag(c) { flag_tags(&kept, &text[at..]) } else { 0 };
        if flag > 0 || !is_ignorable(c) || has_effect(&kept, c, text.get(at + 1).copied()) {
            kept.extend(&text[at..at + flag.max(1)]);
        }
        at += flag.max(1);
    }
    kept.into_iter().collect()
}

/// Returns whether an invisible character changes how its neighbours look, according to the rules for emoji (UAX
/// #29 GB11, UTS #51) and scripts (UAX #31 §2.3, UTS #37, UAX #44). `next` is the next character of the input; if
/// it is invisible itself, it does not count as a neighbour.
fn has_effect(before: &[char], c: char, next: Option<char>) -> bool {
    let Some(&previous) = before.last() else { return false };
    let next = next.unwrap_or('\0');
    match c {
        ZWNJ => is_virama(before) || (joins_on(before) && joins_back(next)),
        ZWJ => is_virama(before) || joins_on(before) || (is_pictograph_run(before) && is_pictograph(next)),
        // A keycap has a digit before it; other emoji are not ASCII.
        '\u{fe0e}' | '\u{fe0f}' if previous.is_ascii() => next == KEYCAP,
        '\u{fe0e}' | '\u{fe0f}' => CodePointSetData::new::<Emoji>().contains(previous),
        '\u{fe00}'..='\u{fe02}' | '\u{e0100}'..='\u{e01ef}' => {
            CodePointSetData::new::<Ideographic>().contains(previous)
        }
        '\u{180b}'..='\u{180f}' => script(previous) == Script::Mongolian,
        // These are the fillers of old Korean syllables.
        '\u{1160}' => matches!(previous, '\u{1100}'..='\u{115e}' | '\u{a960}'..='\u{a97c}'),
        _ => false,
    }
}

/// Returns how many characters at the front are the tags of a flag that `before` ends with, such as Scotland's
/// (UTS #51, ED-14a).
fn flag_tags(before: &[char], text: &[char]) -> usize {
    let tags = text.iter().take_while(|c| is_tag(**c)).count();
    let ends = text[..tags].iter().position(|c| *c == CANCEL_TAG);
    match (before.last(), ends) {
        (Some(&FLAG), Some(end)) if (1..=MOST_TAGS).contains(&end) => end + 1,
        _ => 0,
    }
}

fn is_tag(c: char) -> bool {
    matches!(c, '\u{e0020}'..=CANCEL_TAG)
}

fn is_pictograph(c: char) -> bool {
    CodePointSetData::new::<ExtendedPictographic>().contains(c)
}

/// Returns whether `before` ends with a pictograph and the characters that change its form.
fn is_pictograph_run(before: &[char]) -> bool {
    let modifies = |c: char| c == '\u{fe0f}' || CodePointSetData::new::<EmojiModifier>().contains(c);
    before.iter().rev().find(|c| !modifies(**c)).is_some_and(|c| is_pictograph(*c))
}

/// Returns whether `before` ends with a consonant without its vowel, as in Hindi.
fn is_virama(before: &[char]) -> bool {
    let class = CodePointMapData::<CanonicalCombiningClass>::new();
    before.last().is_some_and(|c| class.get(*c) == CanonicalCombiningClass::Virama)
}

/// Returns whether `before` ends with a letter that joins the next one, as in Arabic.
fn joins_on(before: &[char]) -> bool {
    let letter = before.iter().rev().find(|c| joining(**c) != JoiningType::Transparent);
    letter.is_some_and(|c| matches!(joining(*c), JoiningType::DualJoining | JoiningType::LeftJoining))
}

fn joins_back(c: char) -> bool {
    matches!(joining(c), JoiningType::DualJoining | JoiningType::RightJoining)
}

fn joining(c: char) -> JoiningType {
    CodePointMapData::<JoiningType>::new().get(c)
}

fn script(c: char) -> Script {
    CodePointMapData::<Script>::new().get(c)
}

/// Returns the beginning of a user's input, for a sentence about it.
pub fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
    #[test]
    fn invisible_characters_are_removed() {
        for (line, expected) in [
            ("a\u{200b}b\u{ad}c\u{2060}d\u{3164}e\u{115f}f", "abcdef"),
            ("\u{3164}\u{200d}\u{fe0f}\u{e0061}\u{180e}", ""),
            ("pass\u{200d}word \u{200c}x\u{fe0f} 1\u{fe0f}", "password x 1"),
            ("\u{1f469}\u{200d}\u{200d}\u{1f4bb}", "\u{1f469}\u{200d}\u{1f4bb}"),
            ("\u{1f469}\u{200d} x", "\u{1f469} x"),
            ("\u{1f469}\u{e0067}\u{e007f}", "\u{1f469}"),
            ("\u{1f3f4}\u{e0067}\u{e0062}", "\u{1f3f4}"),
            ("x\u{e0100}", "x"),
            ("\u{17b4}\u{34f}\u{1d173}\u{fff0}", ""),
        ] {
            assert_eq!(clean(line), expected, "{line:?}");
        }
    }

    #[test]
    fn joiners_that_emoji_and_scripts_need_are_kept() {
        for line in [
            // A technologist, a heart on fire, a keycap, a family with skin tones, and Scotland's flag.
            "\u{1f469}\u{200d}\u{1f4bb}",
            "\u{2764}\u{fe0f}\u{200d}\u{1f525}",
            "1\u{fe0f}\u{20e3}",
            "\u{1f468}\u{1f3fd}\u{200d}\u{1f469}\u{1f3fb}",
            "\u{1f3f4}\u{e0067}\u{e0062}\u{e0073}\u{e0063}\u{e0074}\u{e007f}",
            "\u{2601}\u{fe0f} \u{1f1e8}\u{1f1ed}",
            // Persian and Hindi with a non-joiner, and Hindi and Sinhala with a joiner.
            "\u{645}\u{6cc}\u{200c}\u{62e}\u{648}\u{627}\u{647}\u{645}",
            "\u{915}\u{94d}\u{200c}\u{937}",
            "\u{915}\u{94d}\u{200d}\u{937}",
            "\u{dc1}\u{dca}\u{200d}\u{dbb}\u{dd3}",
            // A variant of an ideograph, Mongolian, and old Korean.
            "\u{845b}\u{e0100}",
            "\u{1820}\u{180b}",
            "\u{1100}\u{1160}\u{11a8}",
        ] {
            assert_eq!(clean(line), line, "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn clean_text_is_unchanged(line in proptest::collection::vec(suspects(), 0..12)) {
            let once = clean(&line.into_iter().collect::<String>());
            prop_assert_eq!(clean(&once), once.clone());
            prop_assert!(!once.chars().all(is_ignorable) || once.is_empty(), "{:?}", once);
            prop_assert!(!once.chars().any(|c| c.is_control() || is_trick(c)));
        }

        #[test]
        fn nothing_that_can_be_seen_is_lost(line in "\\PC{0,30}") {
            let seen = |text: &str| text.chars().filter(|c| !is_ignorable(*c) && !is_trick(*c)).collect::<String>();
            let cleaned = clean(&line);
            let expected = seen(&line);
            prop_assert_eq!(seen(&cleaned), expected.trim());
        }
    }

    /// Generates characters that depend on their neighbours, and such neighbours.
    fn suspects() -> impl Strategy<Value = char> {
        let chars = "a1 \t\u{200c}\u{200d}\u{fe0f}\u{fe00}\u{e0100}\u{e0061}\u{e007f}\u{1f3f4}\u{1f469}\u{1f3fd}\u{2764}\u{20e3}\u{915}\u{94d}\u{628}\u{64e}\u{627}\u{845b}\u{1820}\u{180b}\u{1100}\u{1160}\u{115f}\u{3164}\u{ad}\u{202e}";
        prop_oneof![4 => proptest::sample::select(chars.chars().collect::<Vec<_>>()), 1 => any::<char>()]
    }
}

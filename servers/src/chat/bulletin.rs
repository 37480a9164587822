//! The format in which processes exchange news: one text for each bulletin, with tabs between the fields. Pure.
//!
//! `1 ⇥ ORIGIN ⇥ INSTANCE.NUMBER ⇥ KIND ⇥ FIELDS…`: the version of the format, the name of the process, its number (so
//! that it recognises its own bulletins, and others recognise a hand-over), the number of the bulletin, and the news. A
//! bulletin that may be processed twice, such as a roster, has no number and no dot. No field can contain a tab,
//! because names and texts have no control characters. A received bulletin is checked as strictly as a peer's
//! input, because anybody who can write to the Redis is trusted no more than a peer.

use crate::chat::command::LONGEST_ORIGIN;
use crate::chat::instance::Instance;
use crate::chat::name::{Name, RoomName};
use crate::chat::text::{Lengths, clean};

/// The first field.
const VERSION: &str = "1";
/// The largest number of names in one roster.
pub const ROSTER_NAMES: usize = 100;

/// News from one process for the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bulletin {
    /// The name of the process.
    pub origin: Name,
    /// The number of the process.
    pub instance: Instance,
    /// The number of the bulletin, which counts those of the process from 1; 0 if it has none.
    pub number: u64,
    /// The news.
    pub news: News,
}

/// The kinds of news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A member has written in a room.
    Said {
        /// The room.
        room: RoomName,
        /// The member.
        name: Name,
        /// The text.
        text: String,
    },
    /// A member has acted in a room (`/me`).
    Done {
        /// The room.
        room: RoomName,
        /// The member.
        name: Name,
        /// The text.
        text: String,
    },
    /// A member has joined a room.
    Joined {
        /// The room.
        room: RoomName,
        /// The member.
        name: Name,
    },
    /// A member has left a room.
    Left {
        /// The room.
        room: RoomName,
        /// The member.
        name: Name,
    },
    /// A member has taken another name.
    Renamed {
        /// The previous name.
        old: Name,
        /// The new name.
        new: Name,
    },
    /// A private message.
    Told {
        /// The receiver's process.
        origin: Name,
        /// The receiver.
        to: Name,
        /// The sender.
        name: Name,
        /// The text.
        text: String,
    },
    /// Some of the members of a room, repeated from time to time. A member that is no longer repeated has gone.
    Roster {
        /// The room.
        room: RoomName,
        /// The members, at most [`ROSTER_NAMES`].
        names: Vec<Name>,
    },
    /// A process has started, and asks for the others' rosters.
    Hello,
    /// A process is running. It also learns from its own bulletin that Redis still forwards what it publishes.
    Alive,
    /// A process ends, and the members that it confirmed last have gone.
    Bye,
}

impl News {
    /// Returns the channel to publish on, without the prefix.
    pub fn channel(&self) -> String {
        match self {
            Self::Said { room, .. }
            | Self::Done { room, .. }
            | Self::Joined { room, .. }
            | Self::Left { room, .. } => format!("room:{room}"),
            Self::Told { origin, .. } => format!("to:{origin}"),
            Self::Renamed { .. } | Self::Roster { .. } | Self::Hello | Self::Alive | Self::Bye => {
                "presence".to_owned()
            }
        }
    }
}

impl Bulletin {
    /// Returns the text of the bulletin.
    pub fn write(&self) -> String {
        let Self { origin, instance, number, news } = self;
        let number = if *number == 0 { String::new() } else { format!(".{number:x}") };
        let head = format!("{VERSION}\t{origin}\t{instance}{number}\t");
        let tail = match news {
            News::Said { room, name, text } => format!("said\t{room}\t{name}\t{text}"),
            News::Done { room, name, text } => format!("done\t{room}\t{name}\t{text}"),
            News::Joined { room, name } => format!("joined\t{room}\t{name}"),
            News::Left { room, name } => format!("left\t{room}\t{name}"),
            News::Renamed { old, new } => format!("renamed\t{old}\t{new}"),
            News::Told { origin, to, name, text } => format!("told\t{origin}\t{to}\t{name}\t{text}"),
            News::Roster { room, names } => {
                let names: String = names.iter().map(|name| format!("\t{name}")).collect();
                format!("roster\t{room}{names}")
            }
            News::Hello => "hello".to_owned(),
            News::Alive => "alive".to_owned(),
            News::Bye => "bye".to_owned(),
        };
        head + &tail
    }

    /// Parses a text. Returns none if anything about it is not valid.
    pub fn read(bytes: &[u8], lengths: Lengths) -> Option<Self> {
        let name_of = |text: &str| Name::parse(text, lengths.name).ok();
        let room_of = |text: &str| RoomName::parse(text, lengths.name).ok();
        let text_of = |text: &str| {
            let harmless = !text.is_empty() && text.len() <= lengths.line && clean(text) == text;
            harmless.then(|| text.to_owned())
        };
        // A roster is the longest bulletin; a longer text is not even parsed.
        if bytes.len() > 4 * (lengths.line + (ROSTER_NAMES + 4) * (lengths.name + LONGEST_ORIGIN)) {
            return None;
        }
        let mut fields = std::str::from_utf8(bytes).ok()?.split('\t');
        if fields.next()? != VERSION {
            return None;
        }
        let origin = Name::parse(fields.next()?, LONGEST_ORIGIN).ok()?;
        let instance = fields.next()?;
        let (instance, number) = match instance.split_once('.') {
            Some((instance, number)) => (instance, u64::from_str_radix(number, 16).ok()?),
            None => (instance, 0),
        };
        let instance = instance.parse().ok()?;
        let kind = fields.next()?;
        let fields: Vec<&str> = fields.take(ROSTER_NAMES + 2).collect();
        let news = match (kind, fields.as_slice()) {
            ("said", [room, name, text]) => {
                News::Said { room: room_of(room)?, name: name_of(name)?, text: text_of(text)? }
            }
            ("done", [room, name, text]) => {
                News::Done { room: room_of(room)?, name: name_of(name)?, text: text_of(text)? }
            }
            ("joined", [room, name]) => News::Joined { room: room_of(room)?, name: name_of(name)? },
            ("left", [room, name]) => News::Left { room: room_of(room)?, name: name_of(name)? },
            ("renamed", [old, new]) => News::Renamed { old: name_of(old)?, new: name_of(new)? },
            ("told", [origin, to, name, text]) => News::Told {
                origin: Name::parse(origin, LONGEST_ORIGIN).ok()?,
                to: name_of(to)?,
                name: name_of(name)?,
                text: text_of(text)?,
            },
            ("roster", [room, names @ ..]) if names.len() <= ROSTER_NAMES => {
                let names = names.iter().map(|name| name_of(name)).collect::<Option<_>>()?;
                News::Roster { room: room_of(room)?, names }
            }
            ("hello", []) => News::Hello,
            ("alive", []) => News::Alive,
            ("bye", []) => News::Bye,
            _ => return None,
        };
        Some(Self { origin, instance, number, news })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LENGTHS: Lengths = Lengths { line: 40, name: 10 };

    fn name(text: &str) -> Name {
        Name::parse(text, 10).unwrap()
    }

    fn all() -> Vec<Bulletin> {
        let room = RoomName::parse("lobby", 10).unwrap();
        let (alice, bob, text) = (name("alice"), name("Bob"), "hi: there [x]".to_owned());
        let news = vec![
            News::Said { room: room.clone(), name: alice.clone(), text: text.clone() },
            News::Done { room: room.clone(), name: alice.clone(), text: text.clone() },
            News::Joined { room: room.clone(), name: alice.clone() },
            News::Left { room: room.clone(), name: alice.clone() },
            News::Renamed { old: alice.clone(), new: bob.clone() },
            News::Told { origin: name("south"), to: bob.clone(), name: alice.clone(), text },
            News::Roster { room: room.clone(), names: vec![alice, bob] },
            News::Roster { room, names: vec![] },
            News::Hello,
            News::Alive,
            News::Bye,
        ];
        (0..)
            .zip(news)
            .map(|(number, news)| Bulletin { origin: name("north"), instance: Instance(0x1f), number, news })
            .collect()
    }

    #[test]
    fn written_bulletins_are_read_back() {
        for bulletin in all() {
            let text = bulletin.write();
            assert_eq!(Bulletin::read(text.as_bytes(), LENGTHS), Some(bulletin), "{text}");
        }
        assert_eq!(all()[0].write(), "1\tnorth\t000000000000001f\tsaid\tlobby\talice\thi: there [x]");
        assert_eq!(all()[10].write(), "1\tnorth\t000000000000001f.a\tbye");
    }

    #[test]
    fn each_kind_has_its_channel() {
        let channels: Vec<_> = all().iter().map(|bulletin| bulletin.news.channel()).collect();
        assert_eq!(channels[0], "room:lobby");
        assert_eq!(channels[5], "to:south");
        assert_eq!(channels[6], "presence");
    }

    #[test]
    fn invalid_bulletins_are_refused() {
        for text in [
            "",
            "2\tnorth\t1\thello",
            "1\tno rth\t1\thello",
            "1\tnorth\tx\thello",
            "1\tnorth\t1.\thello",
            "1\tnorth\t1.x\thello",
            "1\tnorth\t1.1.1\thello",
            "1\tnorth\t1\thello\tmore",
            "1\tnorth\t1\tfrob",
            "1\tnorth\t1\tsaid\tlobby\talice",
            "1\tnorth\t1\tsaid\tlobby\talice\t",
            "1\tnorth\t1\tsaid\tlobby\talice\ta\x1b[2J",
            "1\tnorth\t1\tsaid\tlobby\talice\ta\nb",
            "1\tnorth\t1\tsaid\tlobby\ta@b\thi",
            "1\tnorth\t1\tsaid\tlo]bby\talice\thi",
            "1\tnorth\t1\tsaid\tlobby\tabcdefghijk\thi",
            "1\tnorth\t1\tsaid\tlobby\talice\ta\u{200b}b",
            "1\tnorth\t1\tsaid\tlobby\t\u{3164}\thi",
            "1\tnorth\t1\tsaid\tlobby\t\u{430}lice\thi",
            "1\tn\u{43e}rth\t1\thello",
            "1\tnorth\t1\tsaid\tlobby\talice\taaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        ] {
            assert_eq!(Bulletin::read(text.as_bytes(), LENGTHS), None, "{text:?}");
        }
        let crowd: String = (0..=ROSTER_NAMES).map(|number| format!("\ta{number}")).collect();
        assert_eq!(Bulletin::read(format!("1\tnorth\t1\troster\tlobby{crowd}").as_bytes(), LENGTHS), None);
        assert_eq!(Bulletin::read(b"1\tnorth\t1\thello\xff", LENGTHS), None);
    }

    proptest! {
        #[test]
        fn any_input_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Bulletin::read(&bytes, LENGTHS);
        }

        #[test]
        fn a_bulletin_is_written_as_it_was_read(
            kind in "said|done|joined|left|renamed|told|roster|hello|alive|bye",
            fields in proptest::collection::vec("\\PC{0,12}", 0..5),
        ) {
            let text = format!("1\tnorth\t000000000000001f\t{kind}{}", fields.iter().map(|field| format!("\t{field}")).collect::<String>());
            if let Some(bulletin) = Bulletin::read(text.as_bytes(), LENGTHS) {
                let again = bulletin.write();
                prop_assert_eq!(Bulletin::read(again.as_bytes(), LENGTHS), Some(bulletin));
            }
        }
    }
}

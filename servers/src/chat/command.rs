//! Parses a peer's input: one line is one [`Command`]. Pure.

use std::fmt;

use crate::chat::name::{BadName, Name, RoomName};
use crate::chat::text::{Lengths, clean, quoted};

/// A parsed line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// An empty line.
    Nothing,
    /// A text for the current room.
    Say(String),
    /// `/me TEXT`: what the member does.
    Act(String),
    /// `/nick NAME`.
    Nick(Name),
    /// `/join ROOM`.
    Join(RoomName),
    /// `/leave [ROOM]`; without a room, the current one.
    Leave(Option<RoomName>),
    /// `/rooms`.
    Rooms,
    /// `/who [ROOM]`; without a room, the current one.
    Who(Option<RoomName>),
    /// `/msg NAME TEXT`.
    Tell(Addressee, String),
    /// `/ping [TEXT]`, with which a client checks that its earlier lines have arrived.
    Ping(String),
    /// `/help`.
    Help,
    /// `/quit`.
    Quit,
}

/// The receiver of a private message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addressee {
    /// The nickname.
    pub name: Name,
    /// The receiver's process, if the line names one: `alice@north`.
    pub origin: Option<Name>,
}

/// Why a line was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineError {
    /// The line is not UTF-8.
    NotUtf8,
    /// The line is longer than a line may be.
    TooLong {
        /// The largest accepted length, in bytes.
        limit: usize,
    },
    /// There is no such command.
    Unknown(String),
    /// An argument of the command is missing.
    Missing {
        /// The command.
        command: &'static str,
        /// An example of the command.
        example: &'static str,
    },
    /// An argument is not a valid name.
    BadName {
        /// The command.
        command: &'static str,
        /// The argument.
        given: String,
        /// The reason.
        bad: BadName,
    },
}

/// The lines of `/help`.
pub const HELP: &[&str] = &[
    "plain text is said to your current room; //text says /text",
    "/nick NAME takes a name",
    "/me TEXT says what you do",
    "/msg NAME TEXT tells somebody in private",
    "/join ROOM enters a room, and makes it your current room",
    "/leave [ROOM] leaves it",
    "/rooms lists the rooms, /who [ROOM] lists who is there",
    "/quit says goodbye",
];

/// The longest name of a process, independent of the limit on other names.
pub const LONGEST_ORIGIN: usize = 32;

/// Parses one line, with or without its end.
///
/// # Errors
///
/// Returns the error to send to the line's writer.
pub fn parse(line: &[u8], lengths: Lengths) -> Result<Command, LineError> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() > lengths.line {
        return Err(LineError::TooLong { limit: lengths.line });
    }
    let line = clean(std::str::from_utf8(line).map_err(|_| LineError::NotUtf8)?);
    let Some(command) = line.strip_prefix('/') else {
        return Ok(if line.is_empty() { Command::Nothing } else { Command::Say(line) });
    };
    if command.starts_with('/') {
        return Ok(Command::Say(command.to_owned()));
    }
    let (word, rest) = command.split_once(' ').unwrap_or((command, ""));
    let rest = rest.trim_start();
    let argument = (!rest.is_empty()).then_some(rest);
    let room = |command, text: &str| {
        let limit = lengths.name;
        RoomName::parse(text, limit).map_err(|bad| LineError::BadName { command, given: quoted(text), bad })
    };
    match word {
        "me" => Ok(Command::Act(needed(argument, "/me", "/me waves")?.to_owned())),
        "nick" => {
            let given = needed(argument, "/nick", "/nick alice")?;
            Ok(Command::Nick(name("/nick", given, lengths.name)?))
        }
        "join" => Ok(Command::Join(room("/join", needed(argument, "/join", "/join kitchen")?)?)),
        "leave" | "part" => Ok(Command::Leave(argument.map(|text| room("/leave", text)).transpose()?)),
        "rooms" | "list" => Ok(Command::Rooms),
        "who" | "names" => Ok(Command::Who(argument.map(|text| room("/who", text)).transpose()?)),
        "msg" => {
            const EXAMPLE: &str = "/msg alice hello";
            let (to, text) = rest.split_once(' ').unwrap_or((rest, ""));
            let to = needed((!to.is_empty()).then_some(to), "/msg", EXAMPLE)?;
            let text = text.trim_start();
            let text = needed((!text.is_empty()).then_some(text), "/msg", EXAMPLE)?;
            let (to, origin) = match to.split_once('@') {
                Some((to, origin)) => (to, Some(name("/msg", origin, LONGEST_ORIGIN)?)),
                None => (to, None),
            };
            let to = Addressee { name: name("/msg", to, lengths.name)?, origin };
            Ok(Command::Tell(to, text.to_owned()))
        }
        "ping" => Ok(Command::Ping(quoted(rest))),
        "help" | "?" => Ok(Command::Help),
        "quit" | "exit" => Ok(Command::Quit),
        _ => Err(LineError::Unknown(quoted(word))),
    }
}

fn needed<'a>(
    argument: Option<&'a str>,
    command: &'static str,
    example: &'static str,
) -> Result<&'a str, LineError> {
    argument.ok_or(LineError::Missing { command, example })
}

fn name(command: &'static str, text: &str, limit: usize) -> Result<Name, LineError> {
    Name::parse(text, limit).map_err(|bad| LineError::BadName { command, given: quoted(text), bad })
}

impl fmt::Display for Addressee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Some(origin) => write!(f, "{}@{origin}", self.name),
            None => self.name.fmt(f),
        }
    }
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUtf8 => f.write_str("that line is not UTF-8: set your terminal to UTF-8"),
            Self::TooLong { limit } => {
                write!(f, "that line is longer than {limit} bytes: send it in several")
            }
            Self::Unknown(word) => {
                write!(f, "there is no command /{word}: /help lists them, and //{word} says /{word}")
            }
            Self::Missing { command, example } => {
                write!(f, "{command} needs more: write it like {example}")
            }
            Self::BadName { command, given, bad } => {
                write!(f, "{command}: \"{given}\" is not a name: {bad}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LENGTHS: Lengths = Lengths { line: 100, name: 10 };

    fn read(line: &str) -> Result<Command, LineError> {
        parse(line.as_bytes(), LENGTHS)
    }

    fn alice() -> Name {
        Name::parse("alice", 10).unwrap()
    }

    fn kitchen() -> RoomName {
        RoomName::parse("kitchen", 10).unwrap()
    }

    #[test]
    fn plain_text_is_said() {
        for line in ["hello there", "hello there\n", "hello there\r\n", "  hello there "] {
            assert_eq!(read(line), Ok(Command::Say("hello there".to_owned())), "{line:?}");
        }
        for line in ["", "\n", "\r\n", " \t ", "\x07"] {
            assert_eq!(read(line), Ok(Command::Nothing), "{line:?}");
        }
        assert_eq!(read("//etc is a directory"), Ok(Command::Say("/etc is a directory".to_owned())));
    }

    #[test]
    fn commands_are_words_after_a_slash() {
        let to = |origin: Option<&str>| Addressee {
            name: alice(),
            origin: origin.map(|origin| Name::parse(origin, 10).unwrap()),
        };
        for (line, expected) in [
            ("/nick alice", Command::Nick(alice())),
            ("/join kitchen", Command::Join(kitchen())),
            ("/join  #Kitchen\r\n", Command::Join(kitchen())),
            ("/leave", Command::Leave(None)),
            ("/leave kitchen", Command::Leave(Some(kitchen()))),
            ("/rooms", Command::Rooms),
            ("/who", Command::Who(None)),
            ("/who kitchen", Command::Who(Some(kitchen()))),
            ("/me waves", Command::Act("waves".to_owned())),
            ("/msg alice  hi there", Command::Tell(to(None), "hi there".to_owned())),
            ("/msg alice@north hi", Command::Tell(to(Some("north")), "hi".to_owned())),
            ("/ping", Command::Ping(String::new())),
            ("/ping 7", Command::Ping("7".to_owned())),
            ("/quit", Command::Quit),
            ("/help", Command::Help),
        ] {
            assert_eq!(read(line), Ok(expected), "{line}");
        }
    }

    #[test]
    fn errors_are_one_sentence_with_a_remedy() {
        for (line, expected) in [
            ("/frob x", "there is no command /frob: /help lists them"),
            ("/nick", "/nick needs more: write it like /nick alice"),
            ("/nick a b", "/nick: \"a b\" is not a name: use letters"),
            ("/nick abcdefghijk", "10 characters at most"),
            ("/join", "/join needs more"),
            ("/join *", "/join: \"*\" is not a name"),
            ("/who a:b", "/who: \"a:b\" is not a name"),
            ("/msg", "/msg needs more: write it like /msg alice hello"),
            ("/msg alice", "/msg needs more"),
            ("/msg al!ce hi", "/msg: \"al!ce\" is not a name"),
            ("/msg alice@ hi", "/msg: \"\" is not a name"),
            ("/me", "/me needs more"),
            (
                "/nick \u{1f469}\u{200d}\u{1f4bb}",
                "/nick: \"\u{1f469}\u{200d}\u{1f4bb}\" is not a name: use letters",
            ),
            (
                "/join \u{43a}itchen",
                "is not a name: it mixes scripts whose letters look alike, so use letters of one",
            ),
        ] {
            let line_error = read(line).unwrap_err().to_string();
            assert!(line_error.contains(expected), "{line}: {line_error}");
        }
        assert!(read(&"x".repeat(101)).unwrap_err().to_string().contains("longer than 100 bytes"));
        assert!(read(&"x".repeat(100)).is_ok());
        let line_error = parse(b"caf\xe9", LENGTHS).unwrap_err();
        assert_eq!(line_error.to_string(), "that line is not UTF-8: set your terminal to UTF-8");
    }

    proptest! {
        #[test]
        fn no_line_does_harm(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            match parse(&line, LENGTHS) {
                Ok(Command::Say(text) | Command::Act(text) | Command::Tell(_, text)) => {
                    prop_assert!(!text.is_empty() && text.len() <= LENGTHS.line);
                    prop_assert!(!text.chars().any(char::is_control), "{text:?}");
                }
                Ok(_) => {}
                Err(line_error) => {
                    let sentence = line_error.to_string();
                    prop_assert!(!sentence.chars().any(char::is_control), "{sentence:?}");
                    prop_assert!(sentence.len() < 400);
                }
            }
        }

        #[test]
        fn words_after_a_slash_do_no_harm(line in "/(nick|join|leave|who|msg|me|x)? ?\\PC{0,20}") {
            let _ = read(&line);
        }
    }
}

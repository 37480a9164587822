//! Reads a configuration file and turns it into arguments for the command line.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;

use clap::error::ErrorKind;
use clap::{Arg, Command};
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::key::{Key, Kind, keys};
use crate::failure::{Failure, cause};

/// The largest accepted file, in bytes: much more than all options need.
const LONGEST: u64 = 1 << 20;

/// The highest count, such as that of `verbose`.
pub(super) const MOST: i64 = 9;

/// An option that a file or the environment sets, with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// The identifier of the option in clap.
    pub(super) id: String,
    /// The equivalent arguments of the command line; empty if the value is the default.
    pub(super) arguments: Vec<OsString>,
    /// The name of the key.
    pub(super) key: String,
    /// The file and the line, or the environment variable.
    pub(super) place: String,
}

/// Reads the text of a file, or standard input for `-`.
///
/// # Errors
///
/// Returns an error if the file cannot be read, is not UTF-8, or is longer than 1 MiB; the message names the
/// file.
pub(super) fn text(path: &Path) -> Result<String, Failure> {
    let read = |source: &mut dyn Read| {
        let mut text = String::new();
        let length = source.take(LONGEST + 1).read_to_string(&mut text)?;
        match length as u64 > LONGEST {
            true => Err(io::Error::other("it is longer than 1 MiB")),
            false => Ok(text),
        }
    };
    let text = match is_stdin(path) {
        true => read(&mut io::stdin().lock()),
        false => File::open(path).and_then(|mut file| read(&mut file)),
    };
    text.map_err(|error| {
        Failure::input(format_args!(
            "cannot read the configuration in {}: {error}: name a readable file of TOML with --config",
            name_of(path)
        ))
    })
}

/// Returns whether this path stands for standard input.
pub(super) fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

fn name_of(path: &Path) -> Cow<'_, str> {
    match is_stdin(path) {
        true => "standard input".into(),
        false => path.to_string_lossy(),
    }
}

/// Finds the settings in the text of the file at `path`, for a program with the options of `command`. The parser
/// of its option has checked each value.
///
/// # Errors
///
/// Returns an error if the text is not valid TOML, or if a key or a value is not usable; the message names the
/// file, the line and the key.
pub(super) fn settings(path: &Path, text: &str, command: &Command) -> Result<Vec<Setting>, Failure> {
    let reader = Reader { path, text, command, keys: keys(command) };
    let (table, errors) = DeTable::parse_recoverable(text);
    match errors.into_iter().min_by_key(|error| error.span().map(|span| span.start)) {
        Some(error) => {
            let message = format!("{}; --print-config shows a file as it should be", error.message());
            Err(reader.failure(error.span(), message))
        }
        None => reader.read(table.get_ref()),
    }
}

/// A file and the options that it can set.
struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    command: &'a Command,
    keys: Vec<Key<'a>>,
}

type Name<'i> = Spanned<Cow<'i, str>>;
type Value<'i> = Spanned<DeValue<'i>>;

impl<'a> Reader<'a> {
    fn read(&self, table: &DeTable) -> Result<Vec<Setting>, Failure> {
        let mut settings = Vec::new();
        for (name, value) in in_order(table) {
            match value.get_ref() {
                DeValue::Table(section) if !self.keys.iter().any(|key| key.is("", name.get_ref())) => {
                    self.check_section(name)?;
                    for (key, value) in in_order(section) {
                        settings.push(self.setting(name.get_ref(), key, value)?);
                    }
                }
                _ => settings.push(self.setting("", name, value)?),
            }
        }
        check_conflicts(&settings, self.command)?;
        Ok(settings)
    }

    fn check_section(&self, name: &Name) -> Result<(), Failure> {
        let name_of = |key: &'_ Key<'a>| key.section.clone();
        if self.keys.iter().any(|key| key.section == **name.get_ref()) {
            return Ok(());
        }
        let sections = self.keys.iter().map(name_of).filter(|section| !section.is_empty());
        let mut known: Vec<String> = Vec::new();
        for section in sections {
            if !known.contains(&section) {
                known.push(section);
            }
        }
        let remedy = match nearest(name.get_ref(), known.iter().map(|section| (section.clone(), section))) {
            Some(nearest) => format!("the nearest is [{nearest}]"),
            None => format!("there are [{}]", known.join("], [")),
        };
        let message = format_args!("there is no section [{}]: {remedy}", name.get_ref());
        Err(self.failure(Some(name.span()), message))
    }

    fn setting(&self, section: &str, name: &Name, value: &Value) -> Result<Setting, Failure> {
        let Some(key) = self.keys.iter().find(|key| key.is(section, name.get_ref())) else {
            return Err(self.unknown(section, name));
        };
        let failure = |span: Range<usize>, message: &dyn Display| {
            self.failure(Some(span), format_args!("{}: {message}", key.name))
        };
        let wrong = |value: &Value| failure(value.span(), &format_args!("write {}", advice(key, value)));
        let flag = OsString::from(format!("--{}", key.name));
        let arguments = match (key.kind(), value.get_ref()) {
            (Kind::Switch, DeValue::Boolean(on)) => vec![flag; usize::from(*on)],
            (Kind::Count, DeValue::Integer(_)) => match integer(value.get_ref()) {
                Some(count @ 0..=MOST) => vec![flag; count as usize],
                _ => return Err(failure(value.span(), &format_args!("write a number from 0 to {MOST}"))),
            },
            (Kind::List, DeValue::Array(array)) if array.is_empty() => {
                return Err(failure(value.span(), &"the list is empty: leave the key out, or add to it"));
            }
            (Kind::List, DeValue::Array(array)) => self.list(key, array, &wrong)?,
            (Kind::List | Kind::Value, _) => vec![self.argument(key, value).ok_or_else(|| wrong(value))?],
            _ => return Err(wrong(value)),
        };
        let values = match value.get_ref() {
            DeValue::Array(array) => array.iter().collect(),
            _ => vec![value],
        };
        for (argument, value) in arguments.iter().zip(values) {
            check(key, argument).map_err(|cause| failure(value.span(), &cause))?;
        }
        // A key with the default value is accepted even if the option requires another one.
        let arguments = if is_default(key, &arguments) { Vec::new() } else { arguments };
        let place = self.place(Some(name.span()));
        Ok(Setting { id: key.id().to_owned(), arguments, key: key.name.to_owned(), place })
    }

    fn list(
        &self,
        key: &Key,
        array: &DeArray,
        wrong: &dyn Fn(&Value) -> Failure,
    ) -> Result<Vec<OsString>, Failure> {
        array.iter().map(|value| self.argument(key, value).ok_or_else(|| wrong(value))).collect()
    }

    /// Returns `--key=value`, or none if no option takes a value of this type. A relative path starts at the
    /// folder of the configuration file.
    fn argument(&self, key: &Key, value: &Value) -> Option<OsString> {
        let value = match value.get_ref() {
            DeValue::String(text) if key.is_path() && !text.is_empty() && text != "-" => {
                let folder = self.path.parent().unwrap_or(Path::new(""));
                folder.join(&**text).into_os_string()
            }
            DeValue::String(text) => OsString::from(&**text),
            value @ DeValue::Integer(_) if !key.is_path() => integer(value)?.to_string().into(),
            _ => return None,
        };
        let mut argument = OsString::from(format!("--{}=", key.name));
        argument.push(value);
        Some(argument)
    }

    /// Returns the error for a key that does not exist in this section.
    fn unknown(&self, section: &str, name: &Name) -> Failure {
        let name_given = &**name.get_ref();
        let remedy = if let Some(key) = self.keys.iter().find(|key| key.name == name_given) {
            format!("it belongs {}", key.place())
        } else if section.is_empty() && self.keys.iter().any(|key| key.section == name_given) {
            format!("write [{name_given}] and its keys below")
        } else {
            // If two names are equally near, prefer the one in this section.
            let (here, elsewhere): (Vec<_>, Vec<_>) =
                self.keys.iter().partition(|key| key.section == section);
            let names = here.into_iter().chain(elsewhere).map(|key| (key.name.to_owned(), key));
            match nearest(name_given, names) {
                Some(key) if key.section == section => format!("the nearest is {}", key.name),
                Some(key) => format!("the nearest is {} {}", key.name, key.place()),
                None => "--print-config shows which there are".to_owned(),
            }
        };
        self.failure(Some(name.span()), format_args!("there is no key {name_given} here: {remedy}"))
    }

    fn failure(&self, span: Option<Range<usize>>, message: impl Display) -> Failure {
        Failure::input(format_args!("{}: {message}", self.place(span)))
    }

    fn place(&self, span: Option<Range<usize>>) -> String {
        let before = span.and_then(|span| self.text.get(..span.start)).unwrap_or_default();
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        format!("{}:{line}", name_of(self.path))
    }
}

/// Checks one argument with the parser of its option. The command here has only that option, because clap goes
/// through all options of a command before it parses.
pub(super) fn check(key: &Key, argument: &OsStr) -> Result<(), String> {
    let option = Arg::new("option")
        .long(key.name.to_owned())
        .action(key.arg.get_action().clone())
        .value_parser(key.arg.get_value_parser().clone());
    let command = Command::new("option").no_binary_name(true).disable_help_flag(true).arg(option);
    match command.try_get_matches_from([argument]) {
        Err(error) if matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue) => {
            Err(cause(&error))
        }
        // Options that this one requires may be set elsewhere.
        _ => Ok(()),
    }
}

/// Checks that clap would accept all of these options together.
pub(super) fn check_conflicts(settings: &[Setting], command: &Command) -> Result<(), Failure> {
    for (at, setting) in settings.iter().enumerate() {
        let mut others = settings[..at].iter().filter(|other| !other.arguments.is_empty());
        if let Some(other) = others.find(|other| setting.conflicts_with(&other.id, command)) {
            let Setting { key, place, .. } = setting;
            let other = &other.key;
            return Err(Failure::input(format_args!(
                "{place}: {key} cannot stand beside {other}: drop one of the two"
            )));
        }
    }
    Ok(())
}

impl Setting {
    /// Returns whether `winner`, which takes precedence, makes this setting ineffective.
    pub(super) fn gives_way_to(&self, winner: &Self, command: &Command) -> bool {
        let conflicts = !winner.arguments.is_empty() && self.conflicts_with(&winner.id, command);
        self.id == winner.id || conflicts
    }

    /// Returns whether clap would refuse both options together. A setting without arguments conflicts with
    /// nothing.
    pub(super) fn conflicts_with(&self, other: &str, command: &Command) -> bool {
        let conflict = |one: &str, other: &str| {
            let arg = command.get_arguments().find(|arg| arg.get_id() == one);
            arg.is_some_and(|arg| command.get_arg_conflicts_with(arg).iter().any(|arg| arg.get_id() == other))
        };
        !self.arguments.is_empty() && (conflict(&self.id, other) || conflict(other, &self.id))
    }
}

impl Key<'_> {
    fn is(&self, section: &str, name: &str) -> bool {
        self.section == section && self.name == name
    }
}

/// Returns whether this is the argument that clap assumes by default. Lists never are, because their default may
/// depend on other options.
pub(super) fn is_default(key: &Key, arguments: &[OsString]) -> bool {
    let (Kind::Value, [default]) = (key.kind(), key.arg.get_default_values()) else { return false };
    let mut argument = OsString::from(format!("--{}=", key.name));
    argument.push(default);
    arguments == [argument]
}

/// Returns the entries of a table in the order of the file.
fn in_order<'t, 'i>(table: &'t DeTable<'i>) -> Vec<(&'t Name<'i>, &'t Value<'i>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    entries
}

fn integer(value: &DeValue) -> Option<i64> {
    match value {
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok(),
        _ => None,
    }
}

/// Returns the line to write for a key whose value is not usable.
fn advice(key: &Key, value: &Value) -> String {
    let name = key.name;
    let text = match (key.kind(), value.get_ref()) {
        (Kind::Switch, DeValue::String(text)) => text.to_lowercase(),
        (Kind::Switch, number @ DeValue::Integer(_)) => {
            integer(number).map(|number| number.to_string()).unwrap_or_default()
        }
        (Kind::Switch, _) => String::new(),
        _ => return key.example(),
    };
    match text.as_str() {
        "yes" | "on" | "true" | "1" => format!("{name} = true"),
        "no" | "off" | "false" | "0" => format!("{name} = false"),
        _ => format!("{name} = true or {name} = false"),
    }
}

/// Returns whether a user who wrote `name` may have meant `candidate`: a few letters differ, or words are
/// missing.
fn is_near(name: &str, candidate: &str) -> bool {
    let has = |word: &str| candidate.split('-').any(|part| part == word);
    let distance = strsim::damerau_levenshtein(name, candidate);
    distance <= (name.chars().count() / 3).max(1) || name.split('-').all(has)
}

/// Returns the candidate whose name is most similar to this one, if any is near enough. The first of several
/// equally similar ones wins.
fn nearest<T>(name: &str, candidates: impl Iterator<Item = (String, T)>) -> Option<T> {
    let name = &name.replace('_', "-");
    let mut best = None;
    for (candidate, what) in candidates.filter(|(candidate, _)| is_near(name, candidate)) {
        let likeness = strsim::normalized_damerau_levenshtein(name, &candidate);
        if best.as_ref().is_none_or(|(most, _)| likeness > *most) {
            best = Some((likeness, what));
        }
    }
    best.map(|(_, what)| what)
}

//! Compares and prints the options in effect.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::path;

use clap::{ArgMatches, Command};

use super::key::{Key, Kind, keys};
use crate::failure::Failure;

/// The longest line of a comment.
const WIDTH: usize = 100;

/// The values of all options that are valid in a file, in the order of the options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Values(Vec<(String, Value)>);

/// Where the value of an option came from, if it is not the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// The long name of the option.
    pub(super) key: String,
    /// The file and the line, or the environment variable; `None` for the command line.
    pub(super) place: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    /// The option is not set and has no default.
    Unset,
    Switch(bool),
    Count(u8),
    One(OsString),
    Many(Vec<OsString>),
}

impl Values {
    /// Collects the values that clap found, including defaults.
    pub(super) fn of(command: &Command, matches: &ArgMatches) -> Self {
        Self(keys(command).iter().map(|key| (key.name.to_owned(), Value::of(key, matches))).collect())
    }

    /// Returns the names of the options whose values differ.
    pub(super) fn changes(&self, other: &Self) -> Vec<&str> {
        let both = self.0.iter().zip(&other.0);
        both.filter(|(one, other)| one != other).map(|((name, _), _)| name.as_str()).collect()
    }

    /// Writes all options as a file that gives the same values. Options without a value, and addresses with a
    /// password, are commented out. A comment behind a value says where it came from, unless it is the default.
    ///
    /// # Errors
    ///
    /// Returns an error if a value is not UTF-8, which TOML requires.
    pub(super) fn to_file(&self, command: &Command, origins: &[Origin]) -> Result<String, Failure> {
        let keys = keys(command);
        let mut sections = vec![""];
        for key in &keys {
            if !sections.contains(&key.section.as_str()) {
                sections.push(&key.section);
            }
        }
        let mut file = String::new();
        for section in sections {
            if !section.is_empty() {
                file.push_str(&format!("\n[{section}]\n"));
            }
            let here = keys.iter().zip(&self.0).filter(|(key, _)| key.section == section);
            for (key, (_, value)) in here {
                let help = key.arg.get_long_help().or(key.arg.get_help());
                comment(&mut file, &help.map(ToString::to_string).unwrap_or_default());
                file.push_str(&value.line(key)?);
                if let Some(origin) = origins.iter().find(|origin| origin.key == key.name) {
                    let place = origin.place.as_deref().unwrap_or("the command line");
                    file.push_str(&format!("  # from {}", printable(place)));
                }
                file.push('\n');
            }
        }
        Ok(file.trim_start().to_owned())
    }
}

impl Value {
    fn of(key: &Key, matches: &ArgMatches) -> Self {
        let raw = || matches.get_raw(key.id()).into_iter().flatten().map(|value| value.to_owned());
        match key.kind() {
            Kind::Switch => Self::Switch(matches.get_flag(key.id())),
            Kind::Count => Self::Count(matches.get_count(key.id())),
            Kind::Value => raw().next_back().map_or(Self::Unset, Self::One),
            Kind::List => {
                Some(raw().collect()).filter(|list: &Vec<_>| !list.is_empty()).map_or(Self::Unset, Self::Many)
            }
        }
    }

    fn line(&self, key: &Key) -> Result<String, Failure> {
        let name = key.name;
        Ok(match self {
            Self::Unset => format!("# {}", key.example()),
            Self::Switch(on) => format!("{name} = {on}"),
            Self::Count(count) => format!("{name} = {count}"),
            Self::One(value) if has_password(value) => {
                format!("# {name} has a password in it: not printed")
            }
            Self::One(value) => format!("{name} = {}", toml(key, value)?),
            Self::Many(values) => {
                let values: Result<Vec<_>, _> = values.iter().map(|value| toml(key, value)).collect();
                format!("{name} = [{}]", values?.join(", "))
            }
        })
    }
}

/// Formats a value as TOML. A number stays a number. A path becomes absolute, so that the file is valid in any
/// folder.
fn toml(key: &Key, value: &OsString) -> Result<String, Failure> {
    let absolute = if key.is_path() && value != "-" { path::absolute(value).ok() } else { None };
    let value = absolute.map_or_else(|| value.clone(), Into::into);
    let text = value.to_str().ok_or_else(|| {
        Failure::input(format_args!(
            "--{} {} is not UTF-8, which a configuration file must be: rename the file",
            key.name,
            value.display()
        ))
    })?;
    let number = text.parse::<i64>().is_ok_and(|number| number.to_string() == text);
    Ok(if number { text.to_owned() } else { quoted(text) })
}

/// Returns whether a value may be a URL with a password: `scheme://user:password@host`, or a URL with a query,
/// which can hold the password for a Unix socket of Redis (`redis+unix:///path?pass=password`).
fn has_password(value: &OsStr) -> bool {
    let value = value.to_string_lossy();
    let Some((_, rest)) = value.split_once("://") else { return false };
    rest.contains('?') || rest.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
}

/// Replaces control characters in a path, so that a comment can contain it.
fn printable(text: &str) -> String {
    text.replace(char::is_control, "?")
}

/// Formats a TOML basic string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                // Writing to a string cannot fail.
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

/// Writes a comment and wraps its lines between words.
fn comment(file: &mut String, text: &str) {
    file.push('\n');
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH && line.len() > 1 {
            file.push_str(&line);
            file.push('\n');
            line.truncate(1);
        }
        line.push(' ');
        line.push_str(word);
    }
    if line.len() > 1 {
        file.push_str(&line);
        file.push('\n');
    }
}

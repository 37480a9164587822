//! The failure of a program: an exit code, and one sentence that tells the user what to do.

use std::error::Error;
use std::fmt::{self, Display};
use std::num::ParseIntError;

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// The exit code for bad input: an option, a file or an address that cannot be used.
pub const BAD_INPUT: u8 = 2;

/// Why a program ends without having done its work.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub(crate) code: u8,
    message: String,
}

impl Failure {
    /// Makes a failure with an exit code of the program's own; the message tells the user what to do.
    pub fn new(code: u8, message: impl Display) -> Self {
        Self { code, message: message.to_string() }
    }

    /// Makes a failure of the user's input, with the exit code [`BAD_INPUT`].
    pub fn input(message: impl Display) -> Self {
        Self::new(BAD_INPUT, message)
    }

    /// Makes a failure about an option's value, or about the file that it names. `option` is written as on the
    /// command line, such as `--cert`.
    pub fn about(option: &str, message: impl Display) -> Self {
        Self::input(format_args!("{option}: {message}"))
    }

    /// Rewords the message.
    pub(crate) fn map(self, reword: impl FnOnce(&str) -> String) -> Self {
        Self { message: reword(&self.message), ..self }
    }

    /// Adds the place of the cause to the message.
    pub(crate) fn at(self, place: &str) -> Self {
        Self { message: format!("{place}: {}", self.message), ..self }
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Returns whether an option has a value that is not valid.
pub(crate) fn is_about_a_value(error: &clap::Error) -> bool {
    matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue)
}

/// Formats an error of clap as one sentence.
pub(crate) fn sentence(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::MissingRequiredArgument
        && let Some(ContextValue::Strings(missing)) = error.get(ContextKind::InvalidArg)
    {
        return format!("{} is required by the other options: add it", missing.join(", "));
    }
    if !is_about_a_value(error) {
        let text = error.to_string();
        return text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    }
    let option = match error.get(ContextKind::InvalidArg) {
        // Only the name of `--listen <URL>`.
        Some(ContextValue::String(usage)) => usage.split(' ').next().unwrap_or(usage),
        _ => "the command line",
    };
    format!("{option}: {}", cause(error))
}

/// Returns what is wrong with the value of an option, without the option's name.
pub(crate) fn cause(error: &clap::Error) -> String {
    let value = value_of(error).unwrap_or_default();
    let choices = match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(choices)) => choices.as_slice(),
        _ => &[],
    };
    match error.source() {
        Some(cause) if cause.is::<ParseIntError>() => {
            format!("{value:?} is not a whole number that fits: write one in digits, such as 100")
        }
        Some(cause) => range(&cause.to_string()),
        None if value.is_empty() => "there is no value: write one".to_owned(),
        None if choices.is_empty() => format!("{value:?} cannot be used: see --help"),
        None => format!("{value:?} is not known: write one of {}", choices.join(", ")),
    }
}

/// Rewords clap's sentence for a number outside of a range, without Rust's notation.
fn range(cause: &str) -> String {
    let parts =
        cause.split_once(" is not in ").and_then(|(value, range)| Some((value, range.split_once("..=")?)));
    match parts {
        Some((value, (least, most))) => format!("{value} is not usable: give {least} to {most}"),
        None => cause.to_owned(),
    }
}

fn value_of(error: &clap::Error) -> Option<&str> {
    match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) => Some(value),
        _ => None,
    }
}

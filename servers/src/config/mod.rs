//! The options of a server from its command line and from a file of TOML.
//!
//! The structs of clap are the only place where options are named, described and given defaults. A key of
//! the file is the long name of an option, in a section that the option's heading in the help text names; its
//! value is put where it would stand on the command line, goes through the same parser, and gives way to what
//! is said there. A switch that the file turns on cannot be turned off there. A program's own options get their
//! section by a heading of their own, of which the first word counts:
//!
//! ```
//! use clap::{Args, Parser};
//! use peeloff_servers::cli::ServerArgs;
//! use peeloff_servers::config::ServerOptions;
//!
//! #[derive(Parser)]
//! struct Cli {
//!     #[command(flatten)]
//!     server: ServerArgs,
//!     #[command(flatten)]
//!     weather: WeatherArgs,
//! }
//!
//! /// The section `[weather]`.
//! #[derive(Args)]
//! #[command(next_help_heading = "Weather")]
//! struct WeatherArgs {
//!     /// Where it is measured.
//!     #[arg(long, default_value = "roof")]
//!     station: String,
//! }
//!
//! impl ServerOptions for Cli {
//!     fn server(&self) -> &ServerArgs {
//!         &self.server
//!     }
//! }
//! ```

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, Parser};

use crate::cli::{ConfigArgs, ServerArgs};
use crate::conclude::{conclude, conclude_usage};
use crate::failure::{Failure, sentence};
use crate::key_file;

mod file;
mod key;
#[cfg(test)]
mod tests;
mod values;

use file::Setting;
use values::Values;

/// The command line of a server.
pub trait ServerOptions: Parser {
    /// The options that every server has.
    fn server(&self) -> &ServerArgs;

    /// Checks the program's own options as far as their parsers cannot, before they are taken over at
    /// SIGHUP.
    ///
    /// # Errors
    ///
    /// One is of no use; the message begins with its name, such as `--station`.
    fn check(&self) -> Result<(), Failure> {
        Ok(())
    }
}

/// The options of a program, and where they came from.
#[derive(Clone, Debug)]
pub struct Config<T> {
    /// The options in effect: those of the command line, else of the file, else the defaults.
    pub options: T,
    arguments: Vec<OsString>,
    values: Values,
    /// The options that the file has decided, and where they stand in it.
    places: Vec<(String, String)>,
    /// What standard input had, which is there once only.
    stdin: Option<String>,
}

/// Why there are no options.
#[derive(Debug)]
enum Refusal {
    /// What clap has to say; it may be the help text that was asked for.
    Usage(clap::Error),
    /// Something is wrong in the file.
    File(Failure),
}

impl<T: ServerOptions> Config<T> {
    /// Reads the command line and the file that it names, or ends the program as `--help`, `--version`,
    /// `--print-config`, `--make-key-file` or a mistake asks.
    ///
    /// # Errors
    ///
    /// The exit code to end with; everything has been said by then.
    pub fn read(program: &str) -> Result<Self, ExitCode> {
        match Self::from_arguments(env::args_os().collect(), None) {
            Ok(config) => match &config.options.server().config {
                args if args.print_config => Err(conclude(program, config.print())),
                ConfigArgs { make_key_file: Some(path), .. } => {
                    Err(conclude(program, key_file::renew(path).map(|()| 0)))
                }
                _ => Ok(config),
            },
            Err(Refusal::Usage(error)) => Err(conclude_usage(program, &error)),
            Err(Refusal::File(failure)) => Err(conclude(program, Err(failure))),
        }
    }

    /// Reads the file again, under the same command line. Standard input is not read again: what it had
    /// holds on.
    ///
    /// # Errors
    ///
    /// Something is wrong in the file; the message names the place.
    pub fn reread(&self) -> Result<Self, Failure> {
        Self::from_arguments(self.arguments.clone(), self.stdin.clone()).map_err(|refusal| match refusal {
            Refusal::Usage(error) => Failure::input(sentence(&error)),
            Refusal::File(failure) => failure,
        })
    }

    /// The long names of the options whose values are not those of `other`.
    pub fn changes<'a>(&'a self, other: &Self) -> Vec<&'a str> {
        self.values.changes(&other.values)
    }

    /// Puts the place in the file before a failure that is about an option in it, such as `--stack-size`, and
    /// names options as the file has them.
    pub fn locate(&self, failure: Failure) -> Failure {
        let text = failure.to_string();
        let named = text.split(' ').find_map(option);
        match self.places.iter().find(|(key, _)| named == Some(key)) {
            Some((_, place)) => failure.map(|text| as_keys(&T::command(), text)).at(place),
            None => failure,
        }
    }

    fn from_arguments(arguments: Vec<OsString>, mut stdin: Option<String>) -> Result<Self, Refusal> {
        let command = T::command();
        let (matches, places) = merge(&command, &arguments, &mut stdin)?;
        let options = T::from_arg_matches(&matches).map_err(Refusal::Usage)?;
        let values = Values::of(&command, &matches);
        Ok(Self { options, arguments, values, places, stdin })
    }

    fn print(&self) -> Result<u8, Failure> {
        let file = self.values.to_file(&T::command())?;
        let mut stdout = io::stdout().lock();
        match stdout.write_all(file.as_bytes()).and_then(|()| stdout.flush()) {
            Ok(()) => Ok(0),
            Err(error) => Err(Failure::new(1, format_args!("cannot write to standard output: {error}"))),
        }
    }
}

/// The long name of an option in a sentence.
fn option(word: &str) -> Option<&str> {
    word.strip_prefix("--").map(|word| word.trim_end_matches([':', ',', ';']))
}

/// A sentence about options for the reader of a file, where those that may stand in it have no dashes.
fn as_keys(command: &Command, sentence: &str) -> String {
    let keys = key::keys(command);
    let is_key = |name: &str| keys.iter().any(|key| key.name == name);
    let words: Vec<&str> = sentence
        .split(' ')
        .map(|word| if option(word).is_some_and(is_key) { &word[2..] } else { word })
        .collect();
    words.join(" ")
}

/// Parses the arguments with those in front that the file has and they have not; gives the places of
/// these too.
fn merge(
    command: &Command,
    arguments: &[OsString],
    stdin: &mut Option<String>,
) -> Result<(ArgMatches, Vec<(String, String)>), Refusal> {
    // What is wrong with them is found below.
    let given = command.clone().ignore_errors(true).try_get_matches_from(arguments);
    let given = given.map_err(Refusal::Usage)?;
    let mut settings = Vec::new();
    if let Ok(Some(path)) = given.try_get_one::<PathBuf>("config") {
        let text = match stdin.take() {
            Some(text) => text,
            None => file::text(path).map_err(Refusal::File)?,
        };
        settings = file::settings(path, &text, command).map_err(Refusal::File)?;
        *stdin = file::is_stdin(path).then_some(text);
    }
    let on_command_line = |id: &&str| {
        matches!(given.value_source(id), Some(ValueSource::CommandLine | ValueSource::EnvVariable))
    };
    let winners: Vec<&str> = given.ids().map(|id| id.as_str()).filter(on_command_line).collect();
    let loses =
        |setting: &Setting, winner: &str| winner == setting.id || setting.conflicts_with(winner, command);
    settings.retain(|setting| !winners.iter().any(|winner| loses(setting, winner)));

    let mut merged: Vec<OsString> = arguments.iter().take(1).cloned().collect();
    merged.extend(settings.iter().flat_map(|setting| &setting.arguments).cloned());
    merged.extend(arguments.iter().skip(1).cloned());
    let matches = command.clone().try_get_matches_from(merged).map_err(|error| {
        match (error.kind(), settings.iter().find(|setting| !setting.arguments.is_empty())) {
            (ErrorKind::MissingRequiredArgument, Some(setting)) => {
                let file = setting.place.rsplit_once(':').map_or("", |(file, _)| file);
                Refusal::File(Failure::input(as_keys(command, &sentence(&error))).at(file))
            }
            _ => Refusal::Usage(error),
        }
    })?;
    Ok((matches, settings.into_iter().map(|setting| (setting.key, setting.place)).collect()))
}

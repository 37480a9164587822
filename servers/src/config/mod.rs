//! Reads a server's options from its command line, its environment and a TOML file.
//!
//! The clap structs are the only place that names and describes options and gives defaults. A key in the file is
//! an option's long name; the option's heading in the help text names the key's section. An environment variable
//! is the same name with the prefix `PEELOFF_`. This module inserts the values of both into the command line, so
//! the same parser checks them. The environment takes precedence over the file. The command line takes precedence
//! over both, and undoes a switch with its opposite (`--no-v6only`). A program gives its own options a section by
//! a heading of their own, whose first word is the section's name:
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
use crate::systemd;

mod environment;
mod file;
mod key;
#[cfg(test)]
mod tests;
mod values;

use environment::Environment;
use file::Setting;
use key::with_opposites;
use values::{Origin, Values};

/// The command line of a server.
pub trait ServerOptions: Parser {
    /// Returns the options that every server has.
    fn server(&self) -> &ServerArgs;

    /// Checks those values of the program's own options that their parsers cannot check, before a reload at
    /// SIGHUP puts them in effect.
    ///
    /// # Errors
    ///
    /// Returns an error if a value is not usable; its message begins with the option's name, such as `--station`.
    fn check(&self) -> Result<(), Failure> {
        Ok(())
    }
}

/// A program's options, and their origins.
#[derive(Clone, Debug)]
pub struct Config<T> {
    /// The options in effect, from the command line, the environment, the file and the defaults, in this order of
    /// precedence.
    pub options: T,
    arguments: Vec<OsString>,
    environment: Environment,
    values: Values,
    /// The origin of each option that does not have its default.
    origins: Vec<Origin>,
    /// The text read from standard input, which can be read only once.
    stdin: Option<String>,
}

impl<T> Config<T> {
    /// Returns whether the file is standard input, which cannot be read again.
    pub fn is_from_stdin(&self) -> bool {
        self.stdin.is_some()
    }
}

/// Why the options could not be read.
#[derive(Debug)]
enum Refusal {
    /// A message of clap; it can be the help text that the user requested.
    Usage(clap::Error),
    /// A mistake in the file or in the environment.
    Elsewhere(Failure),
}

impl<T: ServerOptions> Config<T> {
    /// Reads the command line, the environment and the file that one of them names. Handles `--help`,
    /// `--version`, `--print-config`, `--make-key-file` and mistakes by printing, and returns an exit code for
    /// them.
    ///
    /// # Errors
    ///
    /// Returns the exit code for the program to end with, after everything has been printed.
    pub fn read(program: &str) -> Result<Self, ExitCode> {
        match Self::from_arguments(env::args_os().collect(), Environment::of_process(), None) {
            Ok(config) => match &config.options.server().config {
                args if args.print_config => Err(conclude(program, config.print())),
                ConfigArgs { make_key_file: Some(path), .. } => {
                    Err(conclude(program, key_file::renew(path).map(|()| 0)))
                }
                _ => Ok(config),
            },
            Err(Refusal::Usage(error)) => Err(conclude_usage(program, &error)),
            Err(Refusal::Elsewhere(failure)) => Err(conclude(program, Err(failure))),
        }
    }

    /// Reads the file again, with the same command line. Standard input is not read again: the text that it had
    /// stays in effect.
    ///
    /// # Errors
    ///
    /// Returns an error if the file has a mistake; the message names the place.
    pub fn reread(&self) -> Result<Self, Failure> {
        let again =
            Self::from_arguments(self.arguments.clone(), self.environment.clone(), self.stdin.clone());
        again.map_err(|refusal| match refusal {
            Refusal::Usage(error) => Failure::input(sentence(&error)),
            Refusal::Elsewhere(failure) => failure,
        })
    }

    /// Returns the long names of the options whose values differ from those of `other`.
    pub fn changes<'a>(&'a self, other: &Self) -> Vec<&'a str> {
        self.values.changes(&other.values)
    }

    /// Returns whether `--check-config` asks for [`check`](crate::check::check) instead of a server.
    pub fn is_to_be_checked(&self) -> bool {
        self.options.server().config.check_config
    }

    /// Returns the long names of the options that are set, whatever their value.
    pub(crate) fn set(&self) -> impl Iterator<Item = &str> {
        self.origins.iter().map(|origin| origin.key.as_str())
    }

    /// Returns a sentence about each environment variable whose name is similar to, but not the same as, that of
    /// an option.
    pub(crate) fn near_misses(&self) -> Vec<String> {
        self.environment.near_misses(&command::<T>())
    }

    /// Adds the place in the file, or the environment variable, to a failure about an option that was set there,
    /// such as `--stack-size`. Names options as the file does.
    pub fn locate(&self, failure: Failure) -> Failure {
        let text = failure.to_string();
        let named = text.split(' ').find_map(option);
        match self.origins.iter().find(|origin| named == Some(&origin.key)) {
            Some(Origin { place: Some(place), .. }) => {
                failure.map(|text| as_keys(&T::command(), text)).at(place)
            }
            _ => failure,
        }
    }

    fn from_arguments(
        arguments: Vec<OsString>,
        environment: Environment,
        mut stdin: Option<String>,
    ) -> Result<Self, Refusal> {
        let command = command::<T>();
        let (matches, origins) = merge(&command, &arguments, &environment, &mut stdin)?;
        let options = T::from_arg_matches(&matches).map_err(Refusal::Usage)?;
        let values = Values::of(&command, &matches);
        Ok(Self { options, arguments, environment, values, origins, stdin })
    }

    fn print(&self) -> Result<u8, Failure> {
        let file = self.values.to_file(&T::command(), &self.origins)?;
        let mut stdout = io::stdout().lock();
        match stdout.write_all(file.as_bytes()).and_then(|()| stdout.flush()) {
            Ok(()) => Ok(0),
            Err(error) => Err(Failure::new(1, format_args!("cannot write to standard output: {error}"))),
        }
    }
}

/// Returns the long name of the option that a word of a sentence names.
fn option(word: &str) -> Option<&str> {
    word.strip_prefix("--").map(|word| word.trim_end_matches([':', ',', ';']))
}

/// Rewrites a sentence about options for the reader of a file: option names that are valid in a file lose their
/// dashes.
fn as_keys(command: &Command, sentence: &str) -> String {
    let keys = key::keys(command);
    let is_key = |name: &str| keys.iter().any(|key| key.name == name);
    let words: Vec<&str> = sentence
        .split(' ')
        .map(|word| if option(word).is_some_and(is_key) { &word[2..] } else { word })
        .collect();
    words.join(" ")
}

/// Returns a program's options, with an opposite for each switch.
fn command<T: ServerOptions>() -> Command {
    with_opposites(T::command())
}

/// Returns the sockets that systemd passed, as values of `--listen` and `--listen-proxied`.
fn passed_sockets(command: &Command) -> Result<Vec<Setting>, Failure> {
    let sockets = systemd::sockets()?;
    let keys = key::keys(command);
    let options = keys.iter().filter(|key| ["listen", "listen-proxied"].contains(&key.name));
    let setting = |key: &key::Key| {
        let proxied = key.name == "listen-proxied";
        let here = sockets.iter().filter(|socket| socket.proxied == proxied);
        let arguments = here.map(|socket| format!("--{}={}", key.name, socket.address).into());
        Setting {
            id: key.id().to_owned(),
            arguments: arguments.collect(),
            key: key.name.to_owned(),
            place: "the socket unit".to_owned(),
        }
    };
    Ok(if sockets.is_empty() { Vec::new() } else { options.map(setting).collect() })
}

/// Parses the command line together with those options of the file and of the environment that it does not
/// override. Returns the origins of all of these options too.
fn merge(
    command: &Command,
    arguments: &[OsString],
    environment: &Environment,
    stdin: &mut Option<String>,
) -> Result<(ArgMatches, Vec<Origin>), Refusal> {
    // The second parse, below, reports mistakes.
    let given = command.clone().ignore_errors(true).try_get_matches_from(arguments);
    let given = given.map_err(Refusal::Usage)?;
    let mut settings = passed_sockets(command).map_err(Refusal::Elsewhere)?;
    let mut lower = environment.settings(command).map_err(Refusal::Elsewhere)?;
    lower.retain(|setting| !settings.iter().any(|winner| setting.gives_way_to(winner, command)));
    settings.extend(lower);
    let named = given.try_get_one::<PathBuf>("config").ok().flatten().cloned();
    let elsewhere = if named.is_none() { environment.config() } else { None };
    if let Some(path) = named.as_ref().or(elsewhere.as_ref()) {
        let text = match stdin.take() {
            Some(text) => text,
            None => file::text(path).map_err(Refusal::Elsewhere)?,
        };
        let mut lower = file::settings(path, &text, command).map_err(Refusal::Elsewhere)?;
        lower.retain(|setting| !settings.iter().any(|winner| setting.gives_way_to(winner, command)));
        settings.extend(lower);
        *stdin = file::is_stdin(path).then_some(text);
    }
    let on_command_line = |id: &str| given.value_source(id) == Some(ValueSource::CommandLine);
    let keys = key::keys(command);
    let taken_back = |key: &key::Key| key.opposite().is_some_and(|opposite| on_command_line(&opposite));
    let winners: Vec<&str> = keys.iter().map(key::Key::id).filter(|id| on_command_line(id)).collect();
    settings.retain(|setting| {
        let is_taken_back = keys.iter().any(|key| key.id() == setting.id && taken_back(key));
        let loses = |winner: &&str| *winner == setting.id || setting.conflicts_with(winner, command);
        !is_taken_back && !winners.iter().any(loses)
    });

    let mut merged: Vec<OsString> = arguments.iter().take(1).cloned().collect();
    if let Some(path) = &elsewhere {
        merged.extend(["--config".into(), path.into()]);
    }
    merged.extend(settings.iter().flat_map(|setting| &setting.arguments).cloned());
    merged.extend(arguments.iter().skip(1).cloned());
    let matches = command.clone().try_get_matches_from(merged).map_err(|error| {
        match (error.kind(), settings.iter().find(|setting| !setting.arguments.is_empty())) {
            (ErrorKind::MissingRequiredArgument, Some(setting)) => {
                let place = setting.place.rsplit_once(':').map_or(&*setting.place, |(file, _)| file);
                Refusal::Elsewhere(Failure::input(as_keys(command, &sentence(&error))).at(place))
            }
            _ => Refusal::Usage(error),
        }
    })?;
    let by_hand = keys.iter().filter(|key| on_command_line(key.id()) || taken_back(key));
    let by_hand = by_hand.map(|key| Origin { key: key.name.to_owned(), place: None });
    let settings = settings.into_iter();
    let elsewhere = settings.map(|setting| Origin { key: setting.key, place: Some(setting.place) });
    Ok((matches, by_hand.chain(elsewhere).collect()))
}

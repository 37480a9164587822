//! The options of a server from its command line, its environment and a file of TOML.
//!
//! The structs of clap are the only place where options are named, described and given defaults. A key of
//! the file is the long name of an option, in a section that the option's heading in the help text names. An
//! environment variable is the same name behind `PEELOFF_`. Their values are put where they would stand on the command
//! line, go through the same parser, and give way: the file to the environment, and both to the command line, which
//! takes a switch back by its opposite (`--no-v6only`). A program's own options get their
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
    /// The options in effect: those of the command line, else of the environment, else of the file, else the defaults.
    pub options: T,
    arguments: Vec<OsString>,
    environment: Environment,
    values: Values,
    /// Where those options came from that are not the defaults.
    origins: Vec<Origin>,
    /// What standard input had, which is there once only.
    stdin: Option<String>,
}

impl<T> Config<T> {
    /// Whether the file was the standard input, which cannot be read again.
    pub fn is_from_stdin(&self) -> bool {
        self.stdin.is_some()
    }
}

/// Why there are no options.
#[derive(Debug)]
enum Refusal {
    /// What clap has to say; it may be the help text that was asked for.
    Usage(clap::Error),
    /// Something is wrong in the file or in the environment.
    Elsewhere(Failure),
}

impl<T: ServerOptions> Config<T> {
    /// Reads the command line, the environment and the file that one of them names, or ends the program as `--help`,
    /// `--version`, `--print-config`, `--make-key-file` or a mistake asks.
    ///
    /// # Errors
    ///
    /// The exit code to end with; everything has been said by then.
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

    /// Reads the file again, under the same command line. Standard input is not read again: what it had
    /// holds on.
    ///
    /// # Errors
    ///
    /// Something is wrong in the file; the message names the place.
    pub fn reread(&self) -> Result<Self, Failure> {
        let again =
            Self::from_arguments(self.arguments.clone(), self.environment.clone(), self.stdin.clone());
        again.map_err(|refusal| match refusal {
            Refusal::Usage(error) => Failure::input(sentence(&error)),
            Refusal::Elsewhere(failure) => failure,
        })
    }

    /// The long names of the options whose values are not those of `other`.
    pub fn changes<'a>(&'a self, other: &Self) -> Vec<&'a str> {
        self.values.changes(&other.values)
    }

    /// Whether `--check-config` asks for [`check`](crate::check::check) instead of a server.
    pub fn is_to_be_checked(&self) -> bool {
        self.options.server().config.check_config
    }

    /// The long names of the options that are set, to whatever value.
    pub(crate) fn set(&self) -> impl Iterator<Item = &str> {
        self.origins.iter().map(|origin| origin.key.as_str())
    }

    /// Sentences about environment variables whose names are nearly, but not quite, those of options.
    pub(crate) fn slips(&self) -> Vec<String> {
        self.environment.slips(&command::<T>())
    }

    /// Puts the place in the file, or the environment variable, before a failure that is about an option there, such as
    /// `--stack-size`, and names options as the file has them.
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

/// The options of a program, with those that take its switches back.
fn command<T: ServerOptions>() -> Command {
    with_opposites(T::command())
}

/// Sockets that systemd has bound, as if they stood behind `--listen` and `--listen-proxied`.
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

/// Parses the arguments with those in front that the file and the environment have and they have not; says where all
/// of these came from, too.
fn merge(
    command: &Command,
    arguments: &[OsString],
    environment: &Environment,
    stdin: &mut Option<String>,
) -> Result<(ArgMatches, Vec<Origin>), Refusal> {
    // What is wrong with them is found below.
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

//! Reads options from environment variables, for containers and units: `PEELOFF_MAX_PEERS` for `--max-peers`.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::Command;

use super::file::{MOST, Setting, check, check_conflicts, is_default};
use super::key::{Key, Kind, keys};
use crate::failure::Failure;
use crate::passphrase;

/// The prefix of all variables.
const PREFIX: &str = "PEELOFF_";

/// The separator between the values of a list.
const BETWEEN: char = ';';

/// Variables that set no option. [`peeloff::tune_malloc`] sets the second one.
const OTHERS: [&str; 2] = [passphrase::VARIABLE, "PEELOFF_MALLOC_TUNED"];

/// The environment variables that set options. Empty variables count as absent, because a container's manifest
/// often sets all of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment(Vec<(String, OsString)>);

impl Environment {
    /// Returns the environment of this process.
    pub(super) fn of_process() -> Self {
        Self::of(env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))))
    }

    pub(super) fn of(variables: impl Iterator<Item = (String, OsString)>) -> Self {
        let ours = |(name, value): &(String, OsString)| {
            name.starts_with(PREFIX) && !value.is_empty() && !OTHERS.contains(&name.as_str())
        };
        let mut variables: Vec<_> = variables.filter(ours).collect();
        variables.sort();
        Self(variables)
    }

    /// Returns the configuration file that the environment names.
    pub(super) fn config(&self) -> Option<PathBuf> {
        self.get("config").map(|(_, path)| path.into())
    }

    /// Returns the options that the environment sets, in the order of the options. The parser of its option has
    /// checked each value.
    ///
    /// # Errors
    ///
    /// Returns an error if a value is not usable; the message names the variable.
    pub(super) fn settings(&self, command: &Command) -> Result<Vec<Setting>, Failure> {
        let mut settings = Vec::new();
        for key in keys(command) {
            let Some((name, value)) = self.get(key.name) else { continue };
            let arguments = arguments(&key, value)
                .and_then(|arguments| {
                    arguments.iter().try_for_each(|argument| check(&key, argument))?;
                    Ok(arguments)
                })
                .map_err(|cause| Failure::input(format_args!("{name}: {cause}")))?;
            let arguments = if is_default(&key, &arguments) { Vec::new() } else { arguments };
            settings.push(Setting {
                id: key.id().to_owned(),
                arguments,
                key: key.name.to_owned(),
                place: name.clone(),
            });
        }
        check_conflicts(&settings, command)?;
        Ok(settings)
    }

    /// Returns a sentence about each variable that sets no option but whose name is similar to that of an option.
    /// Other variables are ignored: Kubernetes, for example, sets PEELOFF_PORT if a service is named peeloff.
    pub(super) fn near_misses(&self, command: &Command) -> Vec<String> {
        let keys = keys(command);
        let is_known = |name: &str| name == "config" || keys.iter().any(|key| key.name == name);
        let near_miss = |(name, _): &(String, OsString)| {
            let option = name[PREFIX.len()..].to_lowercase().replace('_', "-");
            let distance = |key: &&Key| strsim::damerau_levenshtein(&option, key.name);
            let near = keys.iter().min_by_key(distance).filter(|_| !is_known(&option));
            let near = near.filter(|key| distance(key) <= (option.len() / 5).max(1))?;
            let right = variable(near.name);
            Some(format!("the environment variable {name} sets no option: the nearest is {right}"))
        };
        self.0.iter().filter_map(near_miss).collect()
    }

    fn get(&self, option: &str) -> Option<&(String, OsString)> {
        let wanted = variable(option);
        self.0.iter().find(|(name, _)| *name == wanted)
    }
}

/// Returns the name of an option's variable.
fn variable(option: &str) -> String {
    format!("{PREFIX}{}", option.to_uppercase().replace('-', "_"))
}

/// Returns the equivalent arguments of the command line.
fn arguments(key: &Key, value: &OsString) -> Result<Vec<OsString>, String> {
    let text = value.to_str().ok_or("the value is not UTF-8: write it in UTF-8")?;
    let flag = format!("--{}", key.name);
    let argument = |value: &str| OsString::from(format!("{flag}={value}"));
    Ok(match key.kind() {
        Kind::Switch => match text.to_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => vec![flag.into()],
            "false" | "0" | "no" | "off" => Vec::new(),
            _ => return Err(format!("{text:?} is neither true nor false: write one of the two")),
        },
        Kind::Count => match text.parse::<i64>() {
            Ok(count @ 0..=MOST) => vec![flag.into(); count as usize],
            _ => return Err(format!("{text:?} is no such number: write one from 0 to {MOST}")),
        },
        Kind::Value => vec![argument(text)],
        Kind::List => {
            let values = text.split(BETWEEN).map(str::trim).filter(|value| !value.is_empty());
            values.map(argument).collect()
        }
    })
}

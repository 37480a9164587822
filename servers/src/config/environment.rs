//! Options from environment variables, for containers and units: `PEELOFF_MAX_PEERS` for `--max-peers`.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::Command;

use super::file::{MOST, Setting, check, check_conflicts, is_default};
use super::key::{Key, Kind, keys};
use crate::failure::Failure;
use crate::passphrase;

/// What the names of all variables begin with.
const PREFIX: &str = "PEELOFF_";

/// What stands between the values of a list.
const BETWEEN: char = ';';

/// Variables that are no options. The second one is [`peeloff::tune_malloc`]'s.
const OTHERS: [&str; 2] = [passphrase::VARIABLE, "PEELOFF_MALLOC_TUNED"];

/// The variables of a process that a program reads options from. Empty ones count as absent, because a container's
/// manifest often sets them all.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment(Vec<(String, OsString)>);

impl Environment {
    /// That of this process.
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

    /// The configuration file that it names.
    pub(super) fn config(&self) -> Option<PathBuf> {
        self.get("config").map(|(_, path)| path.into())
    }

    /// The options that it sets, in the order of the options; every value has been through the parser of its option.
    ///
    /// # Errors
    ///
    /// A value is of no use; the message names the variable.
    pub(super) fn settings(&self, command: &Command) -> Result<Vec<Setting>, Failure> {
        let mut settings = Vec::new();
        for key in keys(command) {
            let Some((name, value)) = self.get(key.name) else { continue };
            let arguments = arguments(&key, value)
                .and_then(|arguments| {
                    arguments.iter().try_for_each(|argument| check(command, argument))?;
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

    /// A sentence for each variable that is not an option but has nearly the name of one. Others are not ours:
    /// Kubernetes, for one, makes PEELOFF_PORT for a service with the name peeloff.
    pub(super) fn slips(&self, command: &Command) -> Vec<String> {
        let keys = keys(command);
        let is_known = |name: &str| name == "config" || keys.iter().any(|key| key.name == name);
        let slip = |(name, _): &(String, OsString)| {
            let option = name[PREFIX.len()..].to_lowercase().replace('_', "-");
            let slips = |key: &&Key| strsim::damerau_levenshtein(&option, key.name);
            let near = keys.iter().min_by_key(slips).filter(|_| !is_known(&option));
            let near = near.filter(|key| slips(key) <= (option.len() / 5).max(1))?;
            let right = variable(near.name);
            Some(format!("the environment variable {name} sets no option: the nearest is {right}"))
        };
        self.0.iter().filter_map(slip).collect()
    }

    fn get(&self, option: &str) -> Option<&(String, OsString)> {
        let wanted = variable(option);
        self.0.iter().find(|(name, _)| *name == wanted)
    }
}

/// The name of an option's variable.
fn variable(option: &str) -> String {
    format!("{PREFIX}{}", option.to_uppercase().replace('-', "_"))
}

/// What would stand on the command line instead.
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

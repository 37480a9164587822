//! Derives the keys of a configuration file from the options of the command line.

use clap::{Arg, ArgAction, Command, ValueHint};

/// The heading in the help text whose options have no key.
const COMMAND_LINE_ONLY: &str = "Configuration";

/// The heading whose keys stand before the first section.
const WITHOUT_SECTION: &str = "Listening";

/// An option that is valid in a file. The key is the option's long name. The section is the first word of the
/// option's heading in the help text, in lower case.
#[derive(Clone, Debug)]
pub(super) struct Key<'a> {
    pub(super) arg: &'a Arg,
    /// The long name of the option.
    pub(super) name: &'a str,
    /// The section; empty for keys that stand before the first.
    pub(super) section: String,
}

/// The kind of value that a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `true` or `false`.
    Switch,
    /// How often the option is given.
    Count,
    /// The option's value.
    Value,
    /// A list with the value of each time that the option is given.
    List,
}

/// Returns every key that a program's file can have, in the order of the options.
pub(super) fn keys(command: &Command) -> Vec<Key<'_>> {
    command.get_arguments().filter_map(Key::of).collect()
}

/// Adds an option that undoes each of the program's switches, so that the command line can turn off a switch that
/// the file or the environment turns on. The last of the two takes effect.
pub(super) fn with_opposites(command: Command) -> Command {
    let opposites: Vec<Arg> = keys(&command)
        .iter()
        .filter_map(|key| {
            let name = key.opposite()?;
            let arg = Arg::new(name.clone())
                .long(name)
                .action(ArgAction::SetTrue)
                .overrides_with(key.id().to_owned());
            Some(arg.hide(true).help_heading(COMMAND_LINE_ONLY).help(format!("Undoes --{}.", key.name)))
        })
        .collect();
    command.args(opposites)
}

impl<'a> Key<'a> {
    fn of(arg: &'a Arg) -> Option<Self> {
        let heading = arg.get_help_heading().unwrap_or_default();
        let asks = matches!(
            arg.get_action(),
            ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
        );
        if asks || heading == COMMAND_LINE_ONLY {
            return None;
        }
        let section = match heading {
            WITHOUT_SECTION => String::new(),
            heading => {
                heading.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_lowercase()
            }
        };
        Some(Self { arg, name: arg.get_long()?, section })
    }

    /// Returns the identifier of the option in clap.
    pub(super) fn id(&self) -> &'a str {
        self.arg.get_id().as_str()
    }

    /// Returns the kind of value that the key takes.
    pub(super) fn kind(&self) -> Kind {
        match self.arg.get_action() {
            ArgAction::SetTrue | ArgAction::SetFalse => Kind::Switch,
            ArgAction::Count => Kind::Count,
            ArgAction::Append => Kind::List,
            _ => Kind::Value,
        }
    }

    /// Returns whether the value is the path of a file or a folder.
    pub(super) fn is_path(&self) -> bool {
        use ValueHint::{AnyPath, DirPath, ExecutablePath, FilePath};
        matches!(self.arg.get_value_hint(), AnyPath | DirPath | ExecutablePath | FilePath)
    }

    /// Returns a sample line of a file with this key, for messages and the printed file.
    pub(super) fn example(&self) -> String {
        let name = self.arg.get_value_names().and_then(|names| names.first());
        let value = name.map_or("...", |name| name.as_str());
        match self.kind() {
            Kind::Switch => format!("{} = true", self.name),
            Kind::Count => format!("{} = 1", self.name),
            Kind::Value if value == "N" => format!("{} = {value}", self.name),
            Kind::Value => format!("{} = \"{value}\"", self.name),
            Kind::List => format!("{} = [\"{value}\"]", self.name),
        }
    }

    /// Returns the option that undoes a switch or a count: `--no-v6only` for `--v6only`, and `--udp-proof` for
    /// `--no-udp-proof`. Returns none for other options.
    pub(super) fn opposite(&self) -> Option<String> {
        match self.kind() {
            Kind::Value | Kind::List => None,
            Kind::Switch | Kind::Count => {
                let positive = self.name.strip_prefix("no-").map(str::to_owned);
                let within = || self.name.contains("-no-").then(|| self.name.replacen("-no-", "-", 1));
                positive.or_else(within).or_else(|| Some(format!("no-{}", self.name)))
            }
        }
    }

    /// Returns where the key belongs in a file.
    pub(super) fn place(&self) -> String {
        match self.section.as_str() {
            "" => "before the first section".to_owned(),
            section => format!("in [{section}]"),
        }
    }
}

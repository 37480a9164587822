//! How a program ends: an exit code and, when it failed, one sentence on standard error.

use std::error::Error;
use std::fmt::{self, Display};
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// The exit code for bad input: an option, a file or an address that cannot be used.
pub const BAD_INPUT: u8 = 2;

/// Why a program ends without having done its work.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// A failure with an exit code of the program's own; the message says what to do about it.
    pub fn new(code: u8, message: impl Display) -> Self {
        Self { code, message: message.to_string() }
    }

    /// A failure of the user's input, with the exit code [`BAD_INPUT`].
    pub fn input(message: impl Display) -> Self {
        Self::new(BAD_INPUT, message)
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Reads the command line, or ends the program as `--help`, `--version` or a mistake in it asks.
///
/// A bad value of an option becomes one sentence; other mistakes get the usage that clap prints.
pub fn parse_arguments<T: Parser>(program: &str) -> Result<T, ExitCode> {
    T::try_parse().map_err(|error| match error.kind() {
        ErrorKind::ValueValidation => conclude(program, Err(Failure::input(sentence(&error)))),
        _ => {
            // Nothing is left to tell the user if this fails too.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(BAD_INPUT))
        }
    })
}

/// Turns a program's result into its exit code, and prints the failure if there is one.
pub fn conclude(program: &str, result: Result<u8, Failure>) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            // `eprintln!` would panic if standard error is closed.
            let _ = writeln!(io::stderr(), "{program}: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}

/// What is wrong with the value of an option, without clap's frame around it.
fn sentence(error: &clap::Error) -> String {
    let option = match error.get(ContextKind::InvalidArg) {
        // `--listen <URL>`, of which the name is enough.
        Some(ContextValue::String(usage)) => usage.split(' ').next().unwrap_or(usage),
        _ => "the command line",
    };
    match error.source() {
        Some(cause) => format!("{option}: {cause}"),
        None => format!("{option} has a bad value: see --help"),
    }
}

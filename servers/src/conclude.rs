//! How a program ends: an exit code and, when it failed, one sentence on standard error.

use std::process::ExitCode;

use clap::Parser;

use crate::failure::{BAD_INPUT, Failure, is_about_a_value, sentence};
use crate::logging;

/// Reads the command line, or ends the program as `--help`, `--version` or a mistake in it asks.
///
/// A bad value of an option becomes one sentence; other mistakes get the usage that clap prints.
pub fn parse_arguments<T: Parser>(program: &str) -> Result<T, ExitCode> {
    T::try_parse().map_err(|error| conclude_usage(program, &error))
}

/// Prints what clap has to say, which may be the help text that was asked for, and gives the exit code.
pub(crate) fn conclude_usage(program: &str, error: &clap::Error) -> ExitCode {
    // A program that reads the log has no use for the usage either.
    if is_about_a_value(error) || error.use_stderr() && logging::is_for_programs() {
        return conclude(program, Err(Failure::input(sentence(error))));
    }
    // Nothing is left to tell the user if this fails too.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(BAD_INPUT))
}

/// Turns a program's result into its exit code, and prints the failure if there is one, in the way of the log.
pub fn conclude(program: &str, result: Result<u8, Failure>) -> ExitCode {
    logging::flush();
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            logging::say_last(program, &failure.to_string());
            ExitCode::from(failure.code)
        }
    }
}

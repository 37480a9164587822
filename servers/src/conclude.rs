//! Ends a program: with an exit code and, after a failure, one sentence on standard error.

use std::process::ExitCode;

use clap::Parser;

use crate::failure::{BAD_INPUT, Failure, is_about_a_value, sentence};
use crate::logging;

/// Parses the command line. Returns an exit code for `--help`, `--version` and mistakes.
///
/// A bad value of an option is reported in one sentence; other mistakes get clap's usage message.
pub fn parse_arguments<T: Parser>(program: &str) -> Result<T, ExitCode> {
    T::try_parse().map_err(|error| conclude_usage(program, &error))
}

/// Prints a message of clap, which may be the requested help text, and returns the exit code.
pub(crate) fn conclude_usage(program: &str, error: &clap::Error) -> ExitCode {
    // A program that reads the log cannot use the usage message either.
    if is_about_a_value(error) || error.use_stderr() && logging::is_for_programs() {
        return conclude(program, Err(Failure::input(sentence(error))));
    }
    // If this fails too, there is no place left to report it.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(BAD_INPUT))
}

/// Turns a program's result into its exit code, and prints the failure, if there is one, in the format of the
/// log.
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

//! What the stress binaries share: a server in a process of its own, that process as seen from
//! outside, and crowds of clients.

pub mod bare;
pub mod crowd;
pub mod outside;
pub mod server;

use std::error::Error;
use std::process::ExitCode;

/// The status that `program` ends with: 2 with one sentence on standard error, or 0.
pub fn conclude(program: &str, outcome: Result<(), Box<dyn Error>>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{program}: {error}");
            ExitCode::from(2)
        }
    }
}

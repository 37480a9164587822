//! Sends standard input and prints answers over UDP, TCP and SCTP, and over DTLS and TLS on top of them.

use std::process::ExitCode;

use peeloff_servers::conclude::{conclude, parse_arguments};
use peeloff_servers::nc;
use peeloff_servers::programs::Nc;

const NAME: &str = "peeloff-nc";

fn main() -> ExitCode {
    match parse_arguments::<Nc>(NAME) {
        Ok(cli) => conclude(NAME, nc::run(&cli.nc)),
        Err(code) => code,
    }
}

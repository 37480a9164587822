//! Standard input and output as messages over UDP, TCP, SCTP, and DTLS and TLS over them.

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

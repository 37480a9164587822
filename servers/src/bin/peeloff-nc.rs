//! Standard input and output as messages over UDP, TCP, SCTP, and DTLS and TLS over them.

use std::process::ExitCode;

use clap::Parser;
use peeloff_servers::conclude::{conclude, parse_arguments};
use peeloff_servers::nc::{self, AFTER_HELP, NcArgs};

const NAME: &str = "peeloff-nc";

/// Sends standard input as messages and prints the messages that come back.
///
/// It speaks UDP, DTLS, SCTP, TCP and TLS.
///
/// Each line is one message with its newline, or each block of --block bytes. A line longer than a
/// message can be is sent in pieces. Datagrams can be lost: nothing is sent again. TCP and TLS are
/// streams of bytes unless --framing makes messages of them. SCTP loses nothing while the association
/// lives, unless --ttl lets it.
#[derive(Parser)]
#[command(name = NAME, version, max_term_width = 100, after_long_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    nc: NcArgs,
}

fn main() -> ExitCode {
    match parse_arguments::<Cli>(NAME) {
        Ok(cli) => conclude(NAME, nc::run(&cli.nc)),
        Err(code) => code,
    }
}

//! A chat server for UDP, SCTP, and DTLS and TLS over them.

use std::process::ExitCode;

use clap::Parser;
use peeloff_servers::chat::{self, ChatArgs};
use peeloff_servers::cli::ServerArgs;
use peeloff_servers::config::{Config, ServerOptions};
use peeloff_servers::failure::{Failure, conclude};

const NAME: &str = "peeloff-chat";

/// Rooms that peers of every transport share, and with --redis processes on several hosts.
///
/// Whoever connects is a guest in the room `lobby`, and what they type is said there; /help lists the
/// commands. One line is one message. On plain UDP nobody has to prove an address, and a line can be
/// lost or be sent in another's name: use it among friends.
///
/// Prints `listening URL` on standard output for each listener once it is ready; logs go to
/// standard error. SIGINT or SIGTERM ends it in good order with exit code 0, a second one at once
/// with 130 or 143. SIGHUP reads the file of --config and the credentials again. Exit code 2: it could
/// not start.
#[derive(Parser)]
#[command(name = NAME, version)]
struct Cli {
    #[command(flatten)]
    chat: ChatArgs,
}

impl ServerOptions for Cli {
    fn server(&self) -> &ServerArgs {
        &self.chat.server
    }

    fn check(&self) -> Result<(), Failure> {
        self.chat.check()
    }
}

fn main() -> ExitCode {
    peeloff::tune_malloc();
    match Config::<Cli>::read(NAME) {
        Ok(config) => conclude(NAME, chat::run(&config.options.chat.clone(), config)),
        Err(code) => code,
    }
}

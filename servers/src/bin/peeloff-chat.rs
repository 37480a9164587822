//! A chat server for UDP, SCTP, and DTLS and TLS over them.

use std::process::ExitCode;

use clap::Parser;
use peeloff_servers::chat::{self, ChatArgs};
use peeloff_servers::check::check;
use peeloff_servers::cli::ServerArgs;
use peeloff_servers::conclude::conclude;
use peeloff_servers::config::{Config, ServerOptions};
use peeloff_servers::failure::Failure;

const NAME: &str = "peeloff-chat";

const EXAMPLES: &str = "\
Examples:
  peeloff-chat --listen tcp://127.0.0.1:7000
      Serves a chat on this host; `nc 127.0.0.1 7000` joins it.
  peeloff-chat --listen 'tls://*:4433' --cert cert.pem --key key.pem
      Serves everybody; `peeloff-nc --chat tls://example.org:4433` joins it.
  peeloff-chat --listen 'tls://*:4433' --redis redis://10.0.0.9:6379
      Shares its rooms with the other servers that use this Redis.
  peeloff-chat --config chat.toml
      Reads its options from a file; --print-config shows how one looks.";

/// Serves chat rooms that peers of every transport share.
///
/// With --redis, servers on several hosts share the rooms. Everybody who connects is a guest in the room
/// `lobby`, and what they type is said there; /help lists the commands. One line is one message. On plain
/// UDP newcomers type a token to show that they are there, and a line can be lost or be sent in another's
/// name: use it among friends.
///
/// Prints `listening URL` on standard output for each listener once it is ready; logs go to
/// standard error. SIGINT or SIGTERM ends it in good order with exit code 0, a second one at once
/// with 130 or 143. SIGHUP reads the file of --config and the credentials again. SIGUSR2 has a new process of this program
/// take over. Exit code 2: it could not start.
#[derive(Parser)]
#[command(name = NAME, version, max_term_width = 100, after_long_help = EXAMPLES)]
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
        Ok(config) if config.is_to_be_checked() => conclude(NAME, check(&config)),
        Ok(config) => conclude(NAME, chat::run(&config.options.chat.clone(), config)),
        Err(code) => code,
    }
}

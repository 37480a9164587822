//! A chat server for UDP, TCP and SCTP, and for DTLS and TLS over them.

use std::process::ExitCode;

use peeloff_servers::chat;
use peeloff_servers::check::check;
use peeloff_servers::conclude::conclude;
use peeloff_servers::config::Config;
use peeloff_servers::programs::Chat;

const NAME: &str = "peeloff-chat";

fn main() -> ExitCode {
    peeloff::tune_malloc();
    match Config::<Chat>::read(NAME) {
        Ok(config) if config.is_to_be_checked() => conclude(NAME, check(&config)),
        Ok(config) => conclude(NAME, chat::run(&config.options.chat.clone(), config)),
        Err(code) => code,
    }
}

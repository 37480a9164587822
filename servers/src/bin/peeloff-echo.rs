//! An echo server for UDP, TCP and SCTP, and for DTLS and TLS over them.

use std::process::ExitCode;

use peeloff_servers::check::check;
use peeloff_servers::conclude::conclude;
use peeloff_servers::config::Config;
use peeloff_servers::echo;
use peeloff_servers::programs::Echo;
use peeloff_servers::serve::serve;

const NAME: &str = "peeloff-echo";

fn main() -> ExitCode {
    peeloff::tune_malloc();
    match Config::<Echo>::read(NAME) {
        Ok(config) if config.is_to_be_checked() => conclude(NAME, check(&config)),
        Ok(config) => {
            let outbox = config.options.outbox.to_limits();
            conclude(NAME, serve(config, |builder, how| echo::start(builder.outbox(outbox), how)))
        }
        Err(code) => code,
    }
}

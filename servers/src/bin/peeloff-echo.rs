//! An echo server for UDP, TCP, SCTP, and DTLS and TLS over them.

use std::process::ExitCode;

use clap::Parser;
use peeloff_servers::check::check;
use peeloff_servers::cli::ServerArgs;
use peeloff_servers::conclude::conclude;
use peeloff_servers::config::{Config, ServerOptions};
use peeloff_servers::echo;
use peeloff_servers::serve::serve;

const NAME: &str = "peeloff-echo";

const EXAMPLES: &str = "\
Examples:
  peeloff-echo --listen udp://127.0.0.1:7000
      Echoes datagrams on this host.
  peeloff-echo --listen 'dtls://*:4433' --cert cert.pem --key key.pem
      Serves DTLS at every address, with a certificate of your own.
  peeloff-echo --listen 'tls://*:4433' --listen 'dtls://*:4433' --psk-file keys
      Serves everybody who has a pre-shared key.
  peeloff-echo --listen 'dtls://*:4433' --serve loops --max-peers 100000
      Serves many quiet peers by a few threads and sockets.
  peeloff-echo --config echo.toml
      Reads its options from a file; --print-config shows how one looks.";

/// Sends every message back to its sender, over UDP, DTLS 1.2, TCP, TLS and SCTP.
///
/// On tcp:// and tls:// the option --framing says what a message is.
/// SCTP is in clear (sctp://), with TLS (sctp+tls://) or with DTLS (sctp+dtls://); messages go back on
/// the stream, with the payload protocol identifier and in the order that they came with.
///
/// Prints `listening URL` on standard output for each listener once it is ready; logs go to
/// standard error. SIGINT or SIGTERM ends it in good order with exit code 0, a second one at once
/// with 130 or 143. SIGHUP reads the file of --config and the credentials again. SIGUSR2 has a new process of this program
/// take over. Exit code 2: it could not start.
#[derive(Parser)]
#[command(name = NAME, version, max_term_width = 100, after_long_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    server: ServerArgs,
}

impl ServerOptions for Cli {
    fn server(&self) -> &ServerArgs {
        &self.server
    }
}

fn main() -> ExitCode {
    peeloff::tune_malloc();
    match Config::<Cli>::read(NAME) {
        Ok(config) if config.is_to_be_checked() => conclude(NAME, check(&config)),
        Ok(config) => conclude(NAME, serve(config, echo::start)),
        Err(code) => code,
    }
}

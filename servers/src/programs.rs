//! The command lines of the programs.

use clap::Parser;

use crate::chat::ChatArgs;
use crate::cli::ServerArgs;
use crate::config::ServerOptions;
use crate::failure::Failure;
use crate::nc::{AFTER_HELP, NcArgs};

const ECHO_EXAMPLES: &str = "\
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
#[command(name = "peeloff-echo", version, max_term_width = 100, after_long_help = ECHO_EXAMPLES)]
pub struct Echo {
    /// All options.
    #[command(flatten)]
    pub server: ServerArgs,
}

impl ServerOptions for Echo {
    fn server(&self) -> &ServerArgs {
        &self.server
    }
}

const CHAT_EXAMPLES: &str = "\
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
#[command(name = "peeloff-chat", version, max_term_width = 100, after_long_help = CHAT_EXAMPLES)]
pub struct Chat {
    /// All options.
    #[command(flatten)]
    pub chat: ChatArgs,
}

impl ServerOptions for Chat {
    fn server(&self) -> &ServerArgs {
        &self.chat.server
    }

    fn check(&self) -> Result<(), Failure> {
        self.chat.check()
    }
}

/// Sends standard input as messages and prints the messages that come back.
///
/// It speaks UDP, DTLS, SCTP, TCP and TLS.
///
/// Each line is one message with its newline, or each block of --block bytes. A line longer than a
/// message can be is sent in pieces. Datagrams can be lost: nothing is sent again. TCP and TLS are
/// streams of bytes unless --framing makes messages of them. SCTP loses nothing while the association
/// lives, unless --ttl lets it.
#[derive(Parser)]
#[command(name = "peeloff-nc", version, max_term_width = 100, after_long_help = AFTER_HELP)]
pub struct Nc {
    /// All options.
    #[command(flatten)]
    pub nc: NcArgs,
}

//! The command lines of the programs.

use clap::Parser;

use crate::chat::ChatArgs;
use crate::cli::ServerArgs;
use crate::config::ServerOptions;
use crate::failure::Failure;
use crate::nc::{AFTER_HELP, NcArgs};
use crate::outbox::OutboxArgs;

const ECHO_EXAMPLES: &str = "\
Examples:
  peeloff-echo --listen udp://127.0.0.1:7000
      Echoes datagrams on this host.
  peeloff-echo --listen 'dtls://*:4433' --cert cert.pem --key key.pem
      Serves DTLS at every address, with a certificate of your own.
  peeloff-echo --listen 'tls://*:4433' --listen 'dtls://*:4433' --psk-file keys
      Serves every client that has one of the pre-shared keys.
  peeloff-echo --listen 'dtls://*:4433' --serve loops --max-peers 100000
      Serves many quiet peers with a few threads and sockets.
  peeloff-echo --config echo.toml
      Reads its options from a file; --print-config prints such a file.";

/// Sends every message back to its sender, over UDP, DTLS 1.2, TCP, TLS and SCTP.
///
/// On tcp:// and tls:// the option --framing defines what a message is. SCTP runs in clear (sctp://), with TLS
/// (sctp+tls://) or with DTLS (sctp+dtls://). A message goes back on the same stream, with the same payload
/// protocol identifier and the same ordering.
///
/// The server prints `listening URL` on standard output for each listener once it is ready, and logs to standard
/// error. SIGINT or SIGTERM shuts it down gracefully, with exit code 0. A second signal ends it at once, with exit
/// code 130 or 143. SIGHUP reads the file of --config and the credentials again. SIGUSR2 hands over to a new
/// process of this program. Exit code 2 means that the server could not start.
#[derive(Parser)]
#[command(name = "peeloff-echo", version, max_term_width = 100, after_long_help = ECHO_EXAMPLES)]
pub struct Echo {
    /// Options of every server.
    #[command(flatten)]
    pub server: ServerArgs,

    /// Limits on what waits for a peer that reads slowly.
    #[command(flatten)]
    pub outbox: OutboxArgs,
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
      Serves a chat on TLS; `peeloff-nc --chat tls://example.org:4433` joins it.
  peeloff-chat --listen 'tls://*:4433' --redis redis://10.0.0.9:6379
      Shares its rooms with the other servers on this Redis.
  peeloff-chat --config chat.toml
      Reads its options from a file; --print-config prints such a file.";

/// Serves chat rooms that peers of every transport share.
///
/// With --redis, servers on several hosts share the rooms. A new member has a guest name and is in the room
/// `lobby`, which receives what the member types. /help lists the commands. One line is one message. On plain UDP
/// a new member first sends back a token, which proves its address. A line can be lost there, or be sent in
/// another member's name, so use plain UDP among friends only.
///
/// The server prints `listening URL` on standard output for each listener once it is ready, and logs to standard
/// error. SIGINT or SIGTERM shuts it down gracefully, with exit code 0. A second signal ends it at once, with exit
/// code 130 or 143. SIGHUP reads the file of --config and the credentials again. SIGUSR2 hands over to a new
/// process of this program. Exit code 2 means that the server could not start.
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
/// The program speaks UDP, DTLS, SCTP, TCP and TLS.
///
/// Each line is one message with its newline, or each block of --block bytes. A line that is longer than a
/// message can be is sent in pieces. Datagrams can be lost; the program does not send them again. TCP and TLS are
/// streams of bytes unless --framing splits them into messages. SCTP delivers every message while the association
/// lasts, unless --ttl allows losses.
#[derive(Parser)]
#[command(name = "peeloff-nc", version, max_term_width = 100, after_long_help = AFTER_HELP)]
pub struct Nc {
    /// All options.
    #[command(flatten)]
    pub nc: NcArgs,
}

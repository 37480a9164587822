//! Standard input and output as messages: the program `peeloff-nc`.
//!
//! `messages` cuts the input, `talk` joins it and the output to one peer, `call` and `listen` bring
//! the peer, `association` is what only SCTP has, `chat` is the terminal of a chat.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use peeloff::Address;

use crate::failure::Failure;
use crate::logging::LogArgs;
use crate::nc::association::AssociationArgs;
use crate::nc::messages::Chunks;
use crate::nc::talk::Manner;
use crate::psk::Psk;
use crate::stream::{FramingMode, StreamArgs};
use crate::values::{Protocol, Size, Span, SpanOrOff};

mod association;
mod call;
mod chat;
mod listen;
mod messages;
mod talk;

/// The exit code for an I/O error, or an association that ended with an error.
const BROKEN: u8 = 1;
/// The exit code for a handshake or a verification that failed, or an association that was refused.
const NO_HANDSHAKE: u8 = 3;
/// The exit code for a time that was over.
const TIMED_OUT: u8 = 4;

/// The exit codes, for the help text.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  an I/O error, or the association ended with an error
  2  bad usage or input, an address that cannot be resolved or bound, or a kernel without SCTP
  3  the handshake failed, the certificate could not be verified, or there was no TCP connection or
     SCTP association because it was refused or nobody answered
  4  --timeout is over
  130, 143  ended by SIGINT, SIGTERM";

/// The options of `peeloff-nc`.
#[derive(Args, Clone, Debug)]
pub struct NcArgs {
    /// Whom to call, or with -l where to listen, such as `dtls://example.org:4433`, `udp://[::1]:7`,
    /// `tls://example.org:4433`, `sctp+tls://example.org:4433` or, with several addresses of one host,
    /// `sctp://10.0.0.1,10.0.1.1:38412`.
    #[arg(value_name = "URL")]
    pub address: Address,

    /// Listen and serve the first peer; prints `listening URL` on standard error.
    #[arg(short, long)]
    pub listen: bool,

    /// With -l: serve all peers, also at the same time, until a signal. Standard input goes to
    /// every peer there is.
    #[arg(short, long, requires = "listen")]
    pub keep_open: bool,

    /// Chat: messages are lines, and on a terminal the line that is being typed stays whole while
    /// others come in. For peeloff-chat and its like.
    #[arg(long, conflicts_with_all = ["listen", "block"])]
    pub chat: bool,

    /// Send blocks of this many bytes instead of lines.
    #[arg(long, value_name = "BYTES")]
    pub block: Option<Size>,

    /// Pause after each message: a receiver that cannot keep up loses datagrams.
    #[arg(short, long, value_name = "TIME", default_value = "0s")]
    pub interval: Span,

    /// How long the handshake may take [default: 10s]; with -l how long to wait for a peer
    /// [default: off].
    #[arg(long, value_name = "TIME")]
    pub timeout: Option<SpanOrOff>,

    /// After the end of standard input, go on until no message came for so long; off waits for the
    /// peer to end [default: 1s, with -l off].
    #[arg(long, value_name = "TIME", conflicts_with = "keep_open")]
    pub wait: Option<SpanOrOff>,

    /// The authorities to verify the peer with, in PEM, instead of the system's. With -l: peers
    /// must show a certificate from them.
    #[arg(long, value_name = "FILE", help_heading = "Identity")]
    pub ca: Option<PathBuf>,

    /// The certificate chain to show, in PEM. With -l and without it: a self-signed one for this
    /// run.
    #[arg(long, value_name = "FILE", help_heading = "Identity")]
    pub cert: Option<PathBuf>,

    /// The private key of the certificate, in PEM.
    #[arg(long, value_name = "FILE", help_heading = "Identity")]
    pub key: Option<PathBuf>,

    /// A pre-shared key; others on this host can see it in the list of processes.
    #[arg(long, value_name = "IDENTITY:HEXKEY", help_heading = "Identity")]
    pub psk: Option<Psk>,

    /// An application protocol to offer, with -l to accept (RFC 7301); repeat it for further ones, the preferred
    /// one first.
    #[arg(long, value_name = "NAME", help_heading = "Identity")]
    pub alpn: Vec<Protocol>,

    /// Do not verify the server's certificate: anyone in between can read and change everything.
    #[arg(long, conflicts_with_all = ["listen", "ca"], help_heading = "Identity")]
    pub insecure: bool,

    /// The name to ask for and to verify, instead of the host in the URL.
    #[arg(long, value_name = "NAME", conflicts_with = "listen", help_heading = "Identity")]
    pub server_name: Option<String>,

    /// How TCP connections are used.
    #[command(flatten)]
    pub stream: StreamArgs,

    /// What only SCTP has.
    #[command(flatten)]
    pub association: AssociationArgs,

    /// How much is logged.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Calls or listens, and copies messages until either side is done; gives the exit code.
pub fn run(args: &NcArgs) -> Result<u8, Failure> {
    // Standard error is for the one sentence of a failure, unless -v asks for more.
    args.log.start(if args.log.verbose > 0 { 1 } else { 0 })?;
    if args.block == Some(Size(0)) {
        return Err(Failure::input("--block 0 would send nothing: give a number of bytes, such as 1200"));
    }
    let settings = args.association.to_settings(args.address.scheme)?;
    let stream = args.stream.to_settings([args.address.scheme])?;
    if args.listen { listen::run(args, settings, stream) } else { call::run(args, settings, stream) }
}

impl NcArgs {
    /// What --alpn names.
    fn protocols(&self) -> Vec<&str> {
        self.alpn.iter().map(|protocol| protocol.0.as_str()).collect()
    }

    fn manner(&self) -> Manner {
        let chunks = match self.block {
            Some(Size(bytes)) => Chunks::Blocks(bytes),
            None => Chunks::Lines,
        };
        let quiet = match self.wait {
            Some(SpanOrOff(wait)) => wait,
            None if self.listen => None,
            None => Some(Duration::from_secs(1)),
        };
        Manner {
            chunks,
            interval: self.interval.0,
            quiet,
            how: self.association.send_info(),
            lines: self.chat || self.stream.framing == Some(FramingMode::Lines),
            notifications: self.association.notifications,
        }
    }

    fn handshake_timeout(&self) -> Span {
        match self.timeout {
            Some(SpanOrOff(Some(timeout))) => Span(timeout),
            // A year, for a handshake without limit.
            Some(SpanOrOff(None)) => Span(Duration::from_secs(365 * 24 * 3600)),
            None => Span(Duration::from_secs(10)),
        }
    }
}

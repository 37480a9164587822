//! Standard input and output as messages: the program `peeloff-nc`.
//!
//! `messages` cuts the input, `talk` joins it and the output to one peer, `call` and `listen` bring
//! the peer, `association` is what only SCTP has, `chat` is the terminal of a chat, and `ledger` what it knows.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use peeloff::Address;

use crate::algorithms::AlgorithmArgs;
use crate::credentials::identity;
use crate::failure::Failure;
use crate::logging::LogArgs;
use crate::nc::association::AssociationArgs;
use crate::nc::messages::Chunks;
use crate::nc::talk::Manner;
use crate::passphrase::{Keyring, PassphraseArgs};
use crate::psk::Psk;
use crate::stream::{FramingMode, StreamArgs};
use crate::values::{Protocol, Size, Span, SpanOrOff, span_from_zero};

mod association;
mod call;
mod chat;
mod ledger;
mod listen;
mod messages;
mod talk;

/// The exit code for an I/O error, or an association that ended with an error.
const BROKEN: u8 = 1;
/// The exit code for a handshake or a verification that failed, or an association that was refused.
const NO_HANDSHAKE: u8 = 3;
/// The exit code for a time that was over.
const TIMED_OUT: u8 = 4;

/// Examples and the exit codes, for the end of the help text.
pub const AFTER_HELP: &str = "\
Examples:
  echo hello | peeloff-nc --insecure dtls://127.0.0.1:4433
      Sends a line and prints the answer; accepts any certificate.
  peeloff-nc --ca ca.pem tls://example.org:4433 < request > answer
      Verifies the server with an authority of your own.
  peeloff-nc -l -k --psk alice:c0ffee 'dtls://*:4433'
      Listens for everybody who has the key.
  peeloff-nc --chat --ca ca.pem tls://example.org:4433
      Chats on a server of peeloff-chat.

Exit codes:
  0  done
  1  an I/O error, or the association ended with an error
  2  bad usage or input, an address that cannot be resolved or bound, or a
     kernel without SCTP
  3  the handshake failed, the certificate could not be verified, or there was
     no TCP connection or SCTP association: refused, or nobody answered
  4  --timeout is over
  130, 143  ended by SIGINT, SIGTERM";

/// The options of `peeloff-nc`.
#[derive(Args, Clone, Debug)]
pub struct NcArgs {
    /// Call this server, or with -l listen here: `dtls://example.org:4433`.
    ///
    /// The schemes are udp, dtls, tcp, tls, sctp, sctp+tls and sctp+dtls. SCTP takes several addresses of
    /// one host, as in `sctp://10.0.0.1,10.0.1.1:38412`.
    #[arg(value_name = "URL")]
    pub address: Address,

    /// Listen, and serve the first peer.
    ///
    /// Prints `listening URL` on standard error.
    #[arg(short, long)]
    pub listen: bool,

    /// Serve all peers until a signal (with -l).
    ///
    /// Peers may be there at the same time. Standard input goes to each of them.
    #[arg(short, long, requires = "listen")]
    pub keep_open: bool,

    /// Chat with a server such as peeloff-chat.
    ///
    /// Messages are lines. On a terminal the line that you type stays whole while others come in.
    #[arg(long, conflicts_with_all = ["listen", "block"])]
    pub chat: bool,

    /// Send blocks of this many bytes instead of lines.
    #[arg(long, value_name = "BYTES")]
    pub block: Option<Size>,

    /// Pause this long after each message.
    ///
    /// A receiver that cannot keep up loses datagrams.
    #[arg(short, long, value_name = "TIME", default_value = "0s")]
    pub interval: Span,

    /// Wait this long for the handshake [default: 10s].
    ///
    /// With -l it is the time to wait for a peer, and the default is `off`.
    #[arg(long, value_name = "TIME")]
    pub timeout: Option<SpanOrOff>,

    /// End when no message came for this long after the input's end [default: 1s].
    ///
    /// `off` waits for the peer to end; it is the default with -l.
    #[arg(long, value_name = "TIME", conflicts_with = "keep_open", value_parser = span_from_zero)]
    pub wait: Option<SpanOrOff>,

    /// Verify the peer with the authorities in this PEM file.
    ///
    /// Without it, the system's authorities count. With -l, peers must show a certificate from them.
    #[arg(long, value_name = "FILE", help_heading = "Identity")]
    pub ca: Option<PathBuf>,

    /// Refuse the certificates that the lists in this PEM file revoke.
    ///
    /// Every authority of the peer's chain needs a current list; one file can hold several lists. With -l, it
    /// needs --ca.
    #[arg(long, value_name = "FILE", conflicts_with = "insecure", help_heading = "Identity")]
    pub crl: Option<PathBuf>,

    /// Accept certificate chains of so many bytes.
    ///
    /// A peer with a longer chain is refused with alert 47 (illegal_parameter). Each peer whose handshake goes on can take
    /// so much memory.
    #[arg(long, value_name = "BYTES", default_value_t = Size(16 << 10), help_heading = "Identity")]
    pub max_cert_chain: Size,

    /// What a handshake may choose.
    #[command(flatten)]
    pub algorithms: AlgorithmArgs,

    /// Show the certificate chain in this PEM file, leaf first.
    ///
    /// With -l and without this option, the program makes a self-signed certificate for this run.
    #[arg(long, value_name = "FILE", help_heading = "Identity")]
    pub cert: Option<PathBuf>,

    /// Read the certificate's private key from this PEM file.
    #[arg(long, value_name = "FILE", help_heading = "Identity")]
    pub key: Option<PathBuf>,

    /// Where the key's passphrase is.
    #[command(flatten)]
    pub passphrase: PassphraseArgs,

    /// Use this pre-shared key.
    ///
    /// Others on this host can see it in the list of processes.
    #[arg(long, value_name = "IDENTITY:HEXKEY", help_heading = "Identity")]
    pub psk: Option<Psk>,

    /// Offer this application protocol, or with -l accept it (ALPN, RFC 7301).
    ///
    /// Repeat the option for more protocols, the preferred one first.
    #[arg(long, value_name = "NAME", help_heading = "Identity")]
    pub alpn: Vec<Protocol>,

    /// Do not verify the server's certificate.
    ///
    /// Anyone between the two sides can then read and change everything.
    #[arg(long, conflicts_with_all = ["listen", "ca"], help_heading = "Identity")]
    pub insecure: bool,

    /// Ask for and verify this name instead of the host in the URL.
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
    args.algorithms.warn();
    let settings = args.association.to_settings(args.address.scheme)?;
    let stream = args.stream.to_settings([args.address.scheme])?;
    // Before signals are caught, because the user may be asked for a passphrase.
    let mut keyring = Keyring::default();
    let given = keyring.read(&args.passphrase, false)?;
    let identity = identity(args.cert.as_deref(), args.key.as_deref(), &mut keyring, &given)?;
    match args.listen {
        true => listen::run(args, identity, settings, stream),
        false => call::run(args, identity, settings, stream),
    }
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
            chat: self.chat,
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

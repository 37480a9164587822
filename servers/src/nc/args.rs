//! The options of `peeloff-nc`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use peeloff::{Address, ConnectionIds};

use crate::algorithms::AlgorithmArgs;
use crate::logging::LogArgs;
use crate::nc::association::AssociationArgs;
use crate::nc::messages::Chunks;
use crate::nc::talk::TalkOptions;
use crate::passphrase::PassphraseArgs;
use crate::psk::Psk;
use crate::stream::{FramingMode, StreamArgs};
use crate::values::{Protocol, Size, Span, SpanOrOff, cid_length, span_from_zero};

/// The options of `peeloff-nc`.
#[derive(Args, Clone, Debug)]
pub struct NcArgs {
    /// Connect to this server, or with -l listen here: `dtls://example.org:4433`.
    ///
    /// The schemes are udp, dtls, tcp, tls, sctp, sctp+tls and sctp+dtls. SCTP accepts several addresses of one
    /// host, as in `sctp://10.0.0.1,10.0.1.1:38412`.
    #[arg(value_name = "URL")]
    pub address: Address,

    /// Listen, and serve the first peer.
    ///
    /// The program prints `listening URL` on standard error.
    #[arg(short, long)]
    pub listen: bool,

    /// Serve all peers until a signal (with -l).
    ///
    /// Several peers can be connected at the same time. Each of them receives standard input.
    #[arg(short, long, requires = "listen")]
    pub keep_open: bool,

    /// Chat with a server such as peeloff-chat.
    ///
    /// Messages are lines. On a terminal, the line that you are typing stays whole while lines from others
    /// arrive.
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

    /// Exit if no message arrives for this long after the input's end [default: 1s].
    ///
    /// With `off` the program waits until the peer closes; this is the default with -l.
    #[arg(long, value_name = "TIME", conflicts_with = "keep_open", value_parser = span_from_zero)]
    pub wait: Option<SpanOrOff>,

    /// Verify the peer with the authorities in this PEM file.
    ///
    /// Without this option, the program trusts the system's authorities. With -l, peers must present a
    /// certificate from these authorities.
    #[arg(long, value_name = "FILE", help_heading = "Identity")]
    pub ca: Option<PathBuf>,

    /// Refuse the certificates that the lists in this PEM file revoke.
    ///
    /// Every authority in the peer's chain needs a current list. The file can hold several lists. With -l, the
    /// option needs --ca.
    #[arg(long, value_name = "FILE", conflicts_with = "insecure", help_heading = "Identity")]
    pub crl: Option<PathBuf>,

    /// Accept certificate chains of up to this size.
    ///
    /// A peer with a longer chain is refused with alert 47 (illegal_parameter). Each peer in a handshake can make
    /// the program allocate this much memory.
    #[arg(long, value_name = "BYTES", default_value_t = Size(16 << 10), help_heading = "Identity")]
    pub max_cert_chain: Size,

    /// The cipher suites and groups of handshakes.
    #[command(flatten)]
    pub algorithms: AlgorithmArgs,

    /// Present the certificate chain in this PEM file, leaf first.
    ///
    /// With -l and without this option, the program makes a self-signed certificate that lasts until it exits.
    #[arg(long, value_name = "FILE", help_heading = "Identity")]
    pub cert: Option<PathBuf>,

    /// Read the certificate's private key from this PEM file.
    #[arg(long, value_name = "FILE", help_heading = "Identity")]
    pub key: Option<PathBuf>,

    /// The sources of the key's passphrase.
    #[command(flatten)]
    pub passphrase: PassphraseArgs,

    /// Use this pre-shared key.
    ///
    /// Other users on this host can see the key in the list of processes.
    #[arg(long, value_name = "IDENTITY:HEXKEY", help_heading = "Identity")]
    pub psk: Option<Psk>,

    /// Offer this application protocol, or with -l accept it (ALPN, RFC 7301).
    ///
    /// Repeat the option for more protocols, the preferred one first.
    #[arg(long, value_name = "NAME", help_heading = "Identity")]
    pub alpn: Vec<Protocol>,

    /// Do not verify the server's certificate.
    ///
    /// An attacker on the path can then read and change all data.
    #[arg(long, conflicts_with_all = ["listen", "ca"], help_heading = "Identity")]
    pub insecure: bool,

    /// Request and verify this name instead of the host in the URL.
    #[arg(long, value_name = "NAME", conflicts_with = "listen", help_heading = "Identity")]
    pub server_name: Option<String>,

    /// Offer connection IDs of this many bytes on DTLS (RFC 9146).
    ///
    /// With -l, clients that offer them get IDs of this length. A client needs only 0: it then puts the server's
    /// IDs into its records and requests none for itself. Other lengths are 8 to 255.
    #[arg(long, value_name = "LENGTH", value_parser = cid_length, help_heading = "DTLS")]
    pub connection_ids: Option<u8>,

    /// Continue from another port after this time.
    ///
    /// Use it to see whether the server keeps the association when the client's port changes.
    #[arg(
        long,
        value_name = "TIME",
        requires = "connection_ids",
        conflicts_with_all = ["listen", "chat"],
        help_heading = "DTLS"
    )]
    pub change_port_after: Option<Span>,

    /// Options of TCP connections.
    #[command(flatten)]
    pub stream: StreamArgs,

    /// Options that only SCTP has.
    #[command(flatten)]
    pub association: AssociationArgs,

    /// The level and the format of the log.
    #[command(flatten)]
    pub log: LogArgs,
}

impl NcArgs {
    /// Returns the protocols of --alpn.
    pub(super) fn protocols(&self) -> Vec<&str> {
        self.alpn.iter().map(|protocol| protocol.0.as_str()).collect()
    }

    pub(super) fn options(&self) -> TalkOptions {
        let chunks = match self.block {
            Some(Size(bytes)) => Chunks::Blocks(bytes),
            None => Chunks::Lines,
        };
        let quiet = match self.wait {
            Some(SpanOrOff(wait)) => wait,
            None if self.listen => None,
            None => Some(Duration::from_secs(1)),
        };
        TalkOptions {
            chunks,
            interval: self.interval.0,
            quiet,
            how: self.association.send_info(),
            chat: self.chat,
            lines: self.chat || self.stream.framing == Some(FramingMode::Lines),
            notifications: self.association.notifications,
            change_port_after: self.change_port_after.map(|after| after.0),
        }
    }

    /// Returns the connection IDs that the options ask for.
    pub(super) fn connection_ids(&self) -> Option<ConnectionIds> {
        // The option's parser has applied the same check, so this does not fail.
        ConnectionIds::new(self.connection_ids?.into()).ok()
    }

    pub(super) fn handshake_timeout(&self) -> Span {
        match self.timeout {
            Some(SpanOrOff(Some(timeout))) => Span(timeout),
            // A year stands for no limit.
            Some(SpanOrOff(None)) => Span(Duration::from_secs(365 * 24 * 3600)),
            None => Span(Duration::from_secs(10)),
        }
    }
}

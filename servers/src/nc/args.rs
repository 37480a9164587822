//! The options of `peeloff-nc`, and what they come to.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use peeloff::{Address, ConnectionIds};

use crate::algorithms::AlgorithmArgs;
use crate::logging::LogArgs;
use crate::nc::association::AssociationArgs;
use crate::nc::messages::Chunks;
use crate::nc::talk::Manner;
use crate::passphrase::PassphraseArgs;
use crate::psk::Psk;
use crate::stream::{FramingMode, StreamArgs};
use crate::values::{Protocol, Size, Span, SpanOrOff, cid_length, span_from_zero};

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

    /// Offer connection IDs of this many bytes on DTLS (RFC 9146).
    ///
    /// With -l, clients that offer them get such ones. 0 is what a client needs: it puts those of the server into its records, and asks for none itself. Else 8 to 255.
    #[arg(long, value_name = "LENGTH", value_parser = cid_length, help_heading = "DTLS")]
    pub connection_ids: Option<u8>,

    /// Go on from another port after this time.
    ///
    /// It shows whether the server takes this client for the same one.
    #[arg(
        long,
        value_name = "TIME",
        requires = "connection_ids",
        conflicts_with_all = ["listen", "chat"],
        help_heading = "DTLS"
    )]
    pub change_port_after: Option<Span>,

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

impl NcArgs {
    /// What --alpn names.
    pub(super) fn protocols(&self) -> Vec<&str> {
        self.alpn.iter().map(|protocol| protocol.0.as_str()).collect()
    }

    pub(super) fn manner(&self) -> Manner {
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
            change_port_after: self.change_port_after.map(|after| after.0),
        }
    }

    /// What the options say of connection IDs.
    pub(super) fn connection_ids(&self) -> Option<ConnectionIds> {
        // The option has been read by the same rule.
        ConnectionIds::new(self.connection_ids?.into()).ok()
    }

    pub(super) fn handshake_timeout(&self) -> Span {
        match self.timeout {
            Some(SpanOrOff(Some(timeout))) => Span(timeout),
            // A year, for a handshake without limit.
            Some(SpanOrOff(None)) => Span(Duration::from_secs(365 * 24 * 3600)),
            None => Span(Duration::from_secs(10)),
        }
    }
}

//! The options of every server.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::ArgPredicate;
use clap::{Args, ValueEnum};
use peeloff::{Address, ConnectionIds, Limits, Scheme, Timeouts};

use crate::access_log::AccessLogArgs;
use crate::admin::AdminArgs;
use crate::algorithms::AlgorithmArgs;
use crate::authorize::{SanPattern, SubjectPattern};
use crate::logging::LogArgs;
use crate::passphrase::PassphraseArgs;
use crate::sctp::SctpArgs;
use crate::serving::ServingArgs;
use crate::sockets::SocketArgs;
use crate::stream::StreamArgs;
use crate::values::{Protocol, Size, Span, SpanOrOff, cid_length, count, positive_span};

/// Where a server listens, whom it lets in, and for how long.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Listening")]
pub struct ServerArgs {
    /// Listen at this URL, such as `dtls://[::1]:4433`.
    ///
    /// The schemes are udp, dtls, tcp, tls, sctp, sctp+tls and sctp+dtls. `*` stands for every address of
    /// this host, as in `udp://*:7`. SCTP can listen at several addresses, as in
    /// `sctp://10.0.0.1,10.0.1.1:38412`. With port 0 the kernel picks a port. Repeat the option for more
    /// listeners. Sockets that systemd passes take the place of those in a file or the environment; FileDescriptorName=
    /// in their unit names the scheme, such as dtls, or tls-proxied behind a proxy.
    #[arg(
        long,
        value_name = "URL",
        default_value = "dtls://127.0.0.1:4433",
        default_value_if("listen_proxied", ArgPredicate::IsPresent, None)
    )]
    pub listen: Vec<Address>,

    /// Listen at this tcp:// or tls:// URL behind a proxy.
    ///
    /// The proxy must send a header of the PROXY protocol, version 2, which names the peer's address. Make
    /// sure that nobody but the proxy can reach this listener. Repeat the option for more listeners.
    #[arg(long, value_name = "URL")]
    pub listen_proxied: Vec<Address>,

    /// Let peers on plain UDP have more than they sent without proving their address.
    ///
    /// Anybody who can forge an address can then have this server send to it. Without the option, a peer on
    /// udp:// is sent at most three times what came from it until it has returned a token; a chat asks for it.
    #[arg(long)]
    pub no_udp_proof: bool,

    /// Give DTLS clients connection IDs of this many bytes (RFC 9146).
    ///
    /// A client that offers the extension stays the same peer when its address or port changes. Each of its records
    /// then has so many bytes more: 8 to 255. With 0 the server only puts the client's connection IDs into its own records.
    #[arg(long, value_name = "LENGTH", value_parser = cid_length)]
    pub connection_ids: Option<u8>,

    /// Put this number into bytes 1 and 2 of each connection ID.
    ///
    /// A load balancer in front of several servers can route by it.
    #[arg(long, value_name = "NUMBER", requires = "connection_ids")]
    pub server_id: Option<u16>,

    /// Follow clients to new addresses that cannot be checked.
    ///
    /// Most clients do not know return routability checks (RFC 9853) and are answered at their old address without this
    /// option. With it, anybody who can copy a client's record and forge an address can have what is meant for the client
    /// sent there, until the client is heard again.
    #[arg(long, requires = "connection_ids")]
    pub follow_unchecked_addresses: bool,

    /// Accept no IPv4 on IPv6 wildcard listeners.
    ///
    /// Without it, a listener at `[::]` takes IPv4 peers too.
    #[arg(long)]
    pub v6only: bool,

    /// Listen at addresses that this host does not have yet.
    ///
    /// Sets IP_FREEBIND (ip(7)), for addresses that come up later or move between hosts.
    #[arg(long)]
    pub freebind: bool,

    /// Who does the work, and on which sockets.
    #[command(flatten)]
    pub serving: ServingArgs,

    /// How the kernel treats the sockets.
    #[command(flatten)]
    pub sockets: SocketArgs,

    /// Who the server is.
    #[command(flatten)]
    pub credentials: CredentialArgs,

    /// How many peers there may be.
    #[command(flatten)]
    pub limits: LimitArgs,

    /// How long things may take.
    #[command(flatten)]
    pub timeouts: TimeoutArgs,

    /// How TCP connections are used.
    #[command(flatten)]
    pub stream: StreamArgs,

    /// How SCTP associations are made.
    #[command(flatten)]
    pub sctp: SctpArgs,

    /// Give each worker thread a stack of this size.
    ///
    /// Without it, the framework chooses a size that its handlers are known to need.
    #[arg(long, value_name = "BYTES", help_heading = "Limits")]
    pub stack_size: Option<Size>,

    /// How the server is watched.
    #[command(flatten)]
    pub admin: AdminArgs,

    /// Log the counters at this interval.
    #[arg(long, value_name = "TIME", default_value_t = SpanOrOff(None), help_heading = "Logging")]
    pub stats_interval: SpanOrOff,

    /// How much is logged.
    #[command(flatten)]
    pub log: LogArgs,

    /// What is logged of each peer.
    #[command(flatten)]
    pub access_log: AccessLogArgs,

    /// Where more options are.
    #[command(flatten)]
    pub config: ConfigArgs,
}

impl ServerArgs {
    /// What the options say of connection IDs.
    pub fn connection_ids(&self) -> Option<ConnectionIds> {
        // The option has been read by the same rule.
        let ids = ConnectionIds::new(self.connection_ids?.into()).ok()?;
        let ids = ids.follow_unchecked(self.follow_unchecked_addresses);
        Some(self.server_id.map_or(ids, |server_id| ids.server_id(server_id)))
    }
}

/// Where more options are. These stand on the command line only.
#[derive(Args, Clone, Debug)]
pub struct ConfigArgs {
    /// Read options from this TOML file.
    ///
    /// `-` stands for standard input. --print-config shows what the file can contain. The server reads it again at SIGHUP.
    /// Environment variables win over the file, and the command line wins over both. The variable of --max-peers is
    /// PEELOFF_MAX_PEERS, that of --config PEELOFF_CONFIG; a variable has the values of a repeated option with semicolons
    /// between them, and `true` or `false` for a switch. --no-v6only takes --v6only back, and so on for every switch.
    #[arg(long, value_name = "FILE", help_heading = "Configuration")]
    pub config: Option<PathBuf>,

    /// Print the options in effect as a file for --config, and end.
    ///
    /// A comment says where each value came from that is not the default.
    #[arg(long, help_heading = "Configuration")]
    pub print_config: bool,

    /// Check everything that a start needs, and end.
    ///
    /// The program reads all files, builds the credentials, binds the addresses for a moment, and says what it found. The exit code is
    /// 0 where all is well, 1 where a server would start but a certificate or a revocation list has expired or will within two
    /// weeks, and 2 where it could not start. An address that is in use is no error, because a server may be running.
    #[arg(long, conflicts_with = "print_config", help_heading = "Configuration")]
    pub check_config: bool,

    /// Write a new key to this file, for --key-file, and end.
    ///
    /// The key that was the current one in the file becomes the previous one. Running servers take the new
    /// key over at SIGHUP.
    #[arg(long, value_name = "FILE", help_heading = "Configuration")]
    pub make_key_file: Option<PathBuf>,
}

/// Who the server is and how peers prove who they are.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Identity")]
pub struct CredentialArgs {
    /// Show the certificate chain in this PEM file, leaf first.
    ///
    /// Repeat --cert and --key for more certificates: the server name that a client asks for (SNI) selects
    /// one. Without any, the server makes a self-signed certificate for this run.
    #[arg(long, value_name = "FILE")]
    pub cert: Vec<PathBuf>,

    /// Read the certificate's private key from this PEM file.
    ///
    /// An encrypted key needs its passphrase, which --key-passphrase-file names a file for.
    #[arg(long, value_name = "FILE")]
    pub key: Vec<PathBuf>,

    /// Where the keys' passphrases are.
    #[command(flatten)]
    pub passphrase: PassphraseArgs,

    /// Staple this OCSP response, in DER, to handshakes.
    ///
    /// The first response belongs to the first certificate, and so on.
    #[arg(long, value_name = "FILE")]
    pub ocsp: Vec<PathBuf>,

    /// Verify peers' certificates with the authorities in this PEM file.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,

    /// Say whether peers must show a certificate.
    ///
    /// The default is `required` with --ca, and `none` without it.
    #[arg(long, value_name = "WHEN")]
    pub client_auth: Option<ClientAuthMode>,

    /// Refuse the certificates that the lists in this PEM file revoke.
    ///
    /// Every authority of a peer's chain needs a current list; one file can hold several lists.
    #[arg(long, value_name = "FILE")]
    pub crl: Option<PathBuf>,

    /// Accept certificate chains of so many bytes.
    ///
    /// A peer with a longer chain is refused with alert 47 (illegal_parameter). Each peer whose handshake goes on can take
    /// so much memory.
    #[arg(long, value_name = "BYTES", default_value_t = Size(16 << 10))]
    pub max_cert_chain: Size,

    /// What a handshake may choose.
    #[command(flatten)]
    pub algorithms: AlgorithmArgs,

    /// Refuse files with secrets that others on this host can read.
    ///
    /// These are the files of --key, --key-passphrase-file, --psk-file and --key-file. Without it, the server warns of them at its start and at a
    /// reload. A file of root's that only its group can read is taken well.
    #[arg(long)]
    pub strict_permissions: bool,

    /// Admit certificates with a subject like `CN=*,O=Example`.
    ///
    /// Repeat the option for more patterns; `*` stands for any characters. Without it and --allow-san, the
    /// server admits every certificate that verifies.
    #[arg(long, value_name = "PATTERN")]
    pub allow_subject: Vec<SubjectPattern>,

    /// Admit certificates with a name like `dns:*.example.org`.
    ///
    /// The name is a subjectAltName of the kind dns, ip, uri or email, such as `uri:spiffe://example/*`.
    /// Repeat the option for more patterns.
    #[arg(long, value_name = "PATTERN")]
    pub allow_san: Vec<SanPattern>,

    /// Accept the pre-shared keys in this file.
    ///
    /// Each line is identity:hexkey; a line that begins with # is a comment.
    #[arg(long, value_name = "FILE")]
    pub psk_file: Option<PathBuf>,

    /// Speak this application protocol (ALPN, RFC 7301).
    ///
    /// Repeat the option for more protocols, the preferred one first.
    #[arg(long, value_name = "NAME")]
    pub alpn: Vec<Protocol>,

    /// Share the keys of tickets and cookies in this file with other servers.
    ///
    /// The file has a line of `current:` and 32 bytes in hexadecimal, and may have one of `previous:`.
    /// --make-key-file writes it.
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,

    /// Write the secrets of all sessions to this file, for debugging.
    ///
    /// Anybody who has the file can decrypt everything that the sessions carry.
    #[arg(long, value_name = "FILE")]
    pub key_log: Option<PathBuf>,
}

/// Whether peers show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClientAuthMode {
    /// They are not asked.
    None,
    /// They are asked; a wrong certificate is refused, none is not.
    Optional,
    /// Without a valid certificate nobody gets in.
    Required,
}

/// How many peers there may be.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Serve at most this many peers in all.
    ///
    /// Each takes a thread and a descriptor unless --serve and --sockets say otherwise, so the system has limits too. At its start the server logs which one peers run
    /// into first. A DTLS client beyond a limit is refused with an alert, a TCP connection with a reset, an SCTP
    /// association with an ABORT.
    #[arg(long, value_name = "N", value_parser = count::<usize>, default_value_t = Limits::default().max_peers)]
    pub max_peers: usize,

    /// Serve at most this many peers at one local address and port.
    ///
    /// The kernel looks through all of them for each datagram of an unknown peer, so a flood costs more as their number
    /// grows; stress/RESULTS.md has the figures. Raise it where senders are trusted; listen on more ports or addresses to
    /// serve more peers without that cost.
    #[arg(long, value_name = "N", value_parser = count::<usize>, default_value_t = Limits::default().max_peers_per_local_address)]
    pub max_peers_per_local_address: usize,

    /// Serve at most this many peers from one source address.
    ///
    /// It keeps one host from taking all places. Raise it where many peers are behind one translated address (NAT).
    #[arg(long, value_name = "N", value_parser = count::<usize>, default_value_t = Limits::default().max_peers_per_source)]
    pub max_peers_per_source: usize,

    /// Serve at most this many peers from one network (IPv4 /24, IPv6 /56).
    #[arg(long, value_name = "N", value_parser = count::<usize>, default_value_t = Limits::default().max_peers_per_prefix)]
    pub max_peers_per_prefix: usize,

    /// Allow at most this many handshakes at the same time.
    ///
    /// At the limit, the oldest handshake makes way for a new one if it has run for two seconds; otherwise the new peer is
    /// refused. Choose as many new peers as may come within one round trip.
    #[arg(long, value_name = "N", value_parser = count::<usize>, default_value_t = Limits::default().max_half_open)]
    pub max_half_open: usize,

    /// Let at most this many connections to a proxied listener wait for a header.
    ///
    /// At this number the oldest of that --listen-proxied makes way; other listeners do not notice.
    #[arg(long, value_name = "N", value_parser = count::<usize>, default_value_t = Limits::default().max_awaiting_header)]
    pub max_awaiting_header: usize,

    /// Admit this many new peers a second from one network, on average.
    #[arg(long, value_name = "N", value_parser = count::<u32>, default_value_t = Limits::default().new_peers_per_second)]
    pub new_peers_per_second: u32,

    /// Admit this many new peers at once from one network that was quiet.
    #[arg(long, value_name = "N", value_parser = count::<u32>, default_value_t = Limits::default().new_peers_burst)]
    pub new_peers_burst: u32,

    /// Apply the limits per source and network to loopback peers too.
    #[arg(long)]
    pub limit_loopback: bool,
}

/// How long things may take.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Timeouts (such as 500ms, 10s or 5m)")]
pub struct TimeoutArgs {
    /// End a handshake that takes longer than this.
    #[arg(long, value_name = "TIME", value_parser = positive_span, default_value_t = Span(Timeouts::default().handshake))]
    pub handshake_timeout: Span,

    /// End a connection whose PROXY header takes longer than this.
    ///
    /// It holds for --listen-proxied. Proxies send the header at once.
    #[arg(long, value_name = "TIME", value_parser = positive_span, default_value_t = Span(Timeouts::default().proxy_header))]
    pub proxy_header_timeout: Span,

    /// End an association that is silent for this long, or `off`.
    #[arg(long, value_name = "TIME", default_value_t = SpanOrOff(Timeouts::default().idle))]
    pub idle_timeout: SpanOrOff,

    /// End a stream without a first message after this long, or `off`.
    ///
    /// It holds for tcp:// and tls:// with a framing of lines or lengths, and spares threads that silent connections
    /// would keep until --idle-timeout. A chat has it off, because members may only listen.
    #[arg(long, value_name = "TIME", default_value_t = SpanOrOff(Timeouts::default().first_message))]
    pub first_message_timeout: SpanOrOff,

    /// End a stream when a message takes longer than this, or `off`.
    ///
    /// It holds for tcp:// and tls:// with a framing of lines or lengths, from a message's first byte to its last.
    #[arg(long, value_name = "TIME", default_value_t = SpanOrOff(Timeouts::default().frame))]
    pub frame_timeout: SpanOrOff,

    /// End every association after this long, or `off`.
    #[arg(long, value_name = "TIME", default_value_t = SpanOrOff(Timeouts::default().lifetime))]
    pub lifetime: SpanOrOff,

    /// Wait this long for a peer to take a message.
    ///
    /// It holds with --serve threads, where the handler waits for room. With --serve loops nothing waits for it: messages
    /// that find no room are kept for the peer, up to a bound.
    #[arg(long, value_name = "TIME", value_parser = positive_span, default_value_t = Span(Timeouts::default().send))]
    pub send_timeout: Span,

    /// End a thread that has had no peer for this long.
    #[arg(long, value_name = "TIME", value_parser = positive_span, default_value_t = Span(Timeouts::default().worker_idle))]
    pub worker_idle_timeout: Span,

    /// Make a new secret for cookies at this interval.
    ///
    /// A cookie of DTLS is good for one to two intervals. Cookies that are made with a --key-file are good for as long as that
    /// file has their key.
    #[arg(long, value_name = "TIME", value_parser = positive_span, default_value_t = Span(Timeouts::default().cookie_period))]
    pub cookie_period: Span,

    /// Give peers this long to finish when the server shuts down.
    #[arg(long, value_name = "TIME", default_value_t = Span(Duration::from_secs(10)))]
    pub drain_timeout: Span,
}

impl CredentialArgs {
    /// Whether the options name a file that a reload would read again.
    pub(crate) fn names_a_file(&self) -> bool {
        let Self { cert, key, ocsp, ca, crl, psk_file, key_file, .. } = self;
        let several = [cert, key, ocsp].iter().any(|files| !files.is_empty());
        several || [ca, crl, psk_file, key_file].iter().any(|file| file.is_some())
    }
}

impl ServerArgs {
    /// The schemes of all listeners.
    pub fn schemes(&self) -> impl Iterator<Item = Scheme> {
        self.listen.iter().chain(&self.listen_proxied).map(|address| address.scheme)
    }
}

impl LimitArgs {
    /// The limits as the framework takes them.
    pub fn to_limits(&self) -> Limits {
        Limits::default()
            .max_peers(self.max_peers)
            .max_peers_per_local_address(self.max_peers_per_local_address)
            .max_peers_per_source(self.max_peers_per_source)
            .max_peers_per_prefix(self.max_peers_per_prefix)
            .max_half_open(self.max_half_open)
            .max_awaiting_header(self.max_awaiting_header)
            .new_peers_per_second(self.new_peers_per_second)
            .new_peers_burst(self.new_peers_burst)
            .exempt_loopback(!self.limit_loopback)
    }
}

impl TimeoutArgs {
    /// The timeouts as the framework takes them.
    pub fn to_timeouts(&self) -> Timeouts {
        Timeouts::default()
            .handshake(self.handshake_timeout.0)
            .proxy_header(self.proxy_header_timeout.0)
            .idle(self.idle_timeout.0)
            .first_message(self.first_message_timeout.0)
            .frame(self.frame_timeout.0)
            .lifetime(self.lifetime.0)
            .send(self.send_timeout.0)
            .worker_idle(self.worker_idle_timeout.0)
            .cookie_period(self.cookie_period.0)
    }
}

#[cfg(test)]
mod tests {
    use clap::Command;
    use peeloff::Refusal;

    use super::*;
    use crate::chat::ChatArgs;
    use crate::nc::NcArgs;

    /// Bytes that the short help of an option may have: two lines beside the names of the options.
    const LONGEST: usize = 80;

    #[test]
    fn the_short_help_of_every_option_is_one_short_sentence() {
        let commands =
            [ChatArgs::augment_args(Command::new("chat")), NcArgs::augment_args(Command::new("nc"))];
        for option in commands.iter().flat_map(Command::get_arguments) {
            let id = option.get_id();
            let help = option.get_help().map(ToString::to_string).unwrap_or_default();
            assert!((1..=LONGEST).contains(&help.len()), "{id}: {} bytes: {help}", help.len());
            assert!(!help.contains(". ") && !help.contains("; ") && !help.contains('\n'), "{id}: {help}");
            assert!(help.starts_with(char::is_uppercase), "{id}: {help}");
        }
    }

    #[test]
    fn a_refusal_names_the_option_with_the_limit() {
        let command = ServerArgs::augment_args(Command::new("server"));
        let mut named = 0;
        for refusal in Refusal::ALL {
            let text = refusal.to_string();
            let Some((_, option)) = text.split_once('(') else { continue };
            let option = option.strip_suffix(')').unwrap();
            assert!(command.get_arguments().any(|arg| arg.get_long() == Some(option)), "{text}");
            named += 1;
        }
        // Each limit on peers, on handshakes and on their rate.
        assert_eq!(named, 6);
    }

    #[test]
    fn every_option_stands_under_a_heading() {
        for option in ChatArgs::augment_args(Command::new("chat")).get_arguments() {
            assert!(option.get_help_heading().is_some(), "{} has no heading", option.get_id());
        }
    }
}

//! The options that every server has.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::ArgPredicate;
use clap::{Args, ValueEnum};
use peeloff::{Address, ConnectionIds, Limits, Scheme, Timeouts};

use crate::access_log::AccessLogArgs;
use crate::admin::AdminArgs;
use crate::algorithms::AlgorithmArgs;
use crate::authorize::{SanPattern, SubjectPattern};
use crate::failure::Failure;
use crate::logging::LogArgs;
use crate::passphrase::PassphraseArgs;
use crate::sctp::SctpArgs;
use crate::serving::ServingArgs;
use crate::sockets::SocketArgs;
use crate::stream::StreamArgs;
use crate::values::{Protocol, Size, Span, SpanOrOff, cid_length, count, positive_span};

/// Defines where a server listens, which peers it admits, and its timeouts.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Listening")]
pub struct ServerArgs {
    /// Listen at this URL, such as `dtls://[::1]:4433`.
    ///
    /// The schemes are udp, dtls, tcp, tls, sctp, sctp+tls and sctp+dtls. `*` stands for every address of this
    /// host, as in `udp://*:7`. SCTP can listen at several addresses, as in `sctp://10.0.0.1,10.0.1.1:38412`.
    /// With port 0 the kernel picks a port. Repeat the option for more listeners. Sockets that systemd passes
    /// replace the listeners of a file or of the environment; FileDescriptorName= in their unit names the scheme,
    /// such as dtls, or tls-proxied behind a proxy.
    #[arg(
        long,
        value_name = "URL",
        default_value = "dtls://127.0.0.1:4433",
        default_value_if("listen_proxied", ArgPredicate::IsPresent, None)
    )]
    pub listen: Vec<Address>,

    /// Listen at this tcp:// or tls:// URL behind a proxy.
    ///
    /// The proxy must send a header of the PROXY protocol, version 2, which names the peer's address. Make sure
    /// that only the proxy can reach this listener. Repeat the option for more listeners.
    #[arg(long, value_name = "URL")]
    pub listen_proxied: Vec<Address>,

    /// Send without limit to plain UDP peers whose address is not proven.
    ///
    /// An attacker who forges a source address can then make this server send traffic to the owner of that
    /// address. Without the option, the server sends a peer on udp:// at most three times the bytes that it
    /// received from it, until the peer has returned a token. The chat requests such a token.
    #[arg(long)]
    pub no_udp_proof: bool,

    /// Give DTLS clients connection IDs of this many bytes (RFC 9146).
    ///
    /// A client that offers the extension stays the same peer when its address or port changes. The ID adds this
    /// many bytes, 8 to 255, to each record that the client sends. With 0 the server only puts the client's
    /// connection IDs into the records that it sends itself.
    #[arg(long, value_name = "LENGTH", value_parser = cid_length)]
    pub connection_ids: Option<u8>,

    /// Put this number into bytes 1 and 2 of each connection ID.
    ///
    /// A load balancer in front of several servers can use the number to route records.
    #[arg(long, value_name = "NUMBER", requires = "connection_ids")]
    pub server_id: Option<u16>,

    /// Follow clients to new addresses even if the addresses cannot be checked.
    ///
    /// Most clients do not support return routability checks (RFC 9853). Without this option, the server keeps
    /// sending to the old address of such a client. With it, an attacker who copies a client's record and forges
    /// an address can redirect the client's traffic to that address, until the client sends again.
    #[arg(long, requires = "connection_ids")]
    pub follow_unchecked_addresses: bool,

    /// Accept no IPv4 peers on IPv6 wildcard listeners.
    ///
    /// Without the option, a listener at `[::]` accepts IPv4 peers too.
    #[arg(long)]
    pub v6only: bool,

    /// Listen at addresses that this host does not have yet.
    ///
    /// Sets IP_FREEBIND (ip(7)), for addresses that come up later or move between hosts.
    #[arg(long)]
    pub freebind: bool,

    /// Selects threads or event loops, and the kind of sockets.
    #[command(flatten)]
    pub serving: ServingArgs,

    /// Options of the sockets.
    #[command(flatten)]
    pub sockets: SocketArgs,

    /// The server's identity, and how it authenticates peers.
    #[command(flatten)]
    pub credentials: CredentialArgs,

    /// Limits on peers.
    #[command(flatten)]
    pub limits: LimitArgs,

    /// Timeouts.
    #[command(flatten)]
    pub timeouts: TimeoutArgs,

    /// Options of TCP connections.
    #[command(flatten)]
    pub stream: StreamArgs,

    /// Options of SCTP associations.
    #[command(flatten)]
    pub sctp: SctpArgs,

    /// Give each worker thread a stack of this size.
    ///
    /// Without the option, the framework chooses a size that is known to be enough for its handlers.
    #[arg(long, value_name = "BYTES", help_heading = "Limits")]
    pub stack_size: Option<Size>,

    /// The endpoint for monitoring.
    #[command(flatten)]
    pub admin: AdminArgs,

    /// Log the counters at this interval.
    #[arg(long, value_name = "TIME", default_value_t = SpanOrOff(None), help_heading = "Logging")]
    pub stats_interval: SpanOrOff,

    /// The level and the format of the log.
    #[command(flatten)]
    pub log: LogArgs,

    /// The log of peers that have left.
    #[command(flatten)]
    pub access_log: AccessLogArgs,

    /// Where the options come from.
    #[command(flatten)]
    pub config: ConfigArgs,
}

impl ServerArgs {
    /// Returns the connection IDs that the options ask for.
    pub fn connection_ids(&self) -> Option<ConnectionIds> {
        // The option's parser has applied the same check, so this does not fail.
        let ids = ConnectionIds::new(self.connection_ids?.into()).ok()?;
        let ids = ids.follow_unchecked(self.follow_unchecked_addresses);
        Some(self.server_id.map_or(ids, |server_id| ids.server_id(server_id)))
    }
}

/// Options about the configuration itself. They are valid on the command line only.
#[derive(Args, Clone, Debug)]
pub struct ConfigArgs {
    /// Read options from this TOML file.
    ///
    /// `-` stands for standard input. --print-config prints every key that the file can contain. The server reads
    /// the file again at SIGHUP. Environment variables take precedence over the file, and the command line takes
    /// precedence over both. The variable of --max-peers is PEELOFF_MAX_PEERS, that of --config PEELOFF_CONFIG.
    /// In a variable, semicolons separate the values of a repeated option, and a switch is `true` or `false`.
    /// --no-v6only undoes --v6only, and so on for every switch.
    #[arg(long, value_name = "FILE", help_heading = "Configuration")]
    pub config: Option<PathBuf>,

    /// Print the options in effect as a file for --config, and exit.
    ///
    /// A comment behind each value that is not the default says where the value came from.
    #[arg(long, help_heading = "Configuration")]
    pub print_config: bool,

    /// Check everything that a start needs, and exit.
    ///
    /// The program reads all files, builds the credentials, binds the addresses for a moment, and prints the
    /// results. The exit code is 0 if a server would start, 1 if it would start but a certificate or a revocation
    /// list has expired or expires within two weeks, and 2 if it could not start. An address that is in use is
    /// not an error, because the server may be running already.
    #[arg(long, conflicts_with = "print_config", help_heading = "Configuration")]
    pub check_config: bool,

    /// Write a new key to this file, for --key-file, and exit.
    ///
    /// The file's current key becomes the previous one. Running servers load the new key at SIGHUP.
    #[arg(long, value_name = "FILE", help_heading = "Configuration")]
    pub make_key_file: Option<PathBuf>,
}

/// The SRTP profiles of every OpenSSL version since 3.0, by OpenSSL's names (RFC 5764 §4.1.2, RFC 7714 §14.2).
const SRTP_PROFILES: [&str; 4] =
    ["SRTP_AEAD_AES_256_GCM", "SRTP_AEAD_AES_128_GCM", "SRTP_AES128_CM_SHA1_80", "SRTP_AES128_CM_SHA1_32"];

/// Defines the server's identity and how it authenticates peers.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Identity")]
pub struct CredentialArgs {
    /// Present the certificate chain in this PEM file, leaf first.
    ///
    /// Repeat --cert and --key for more certificates: the server name that a client requests (SNI) selects one.
    /// Without a certificate or pre-shared keys, the server makes a self-signed certificate that lasts until it
    /// exits.
    #[arg(long, value_name = "FILE")]
    pub cert: Vec<PathBuf>,

    /// Read the certificate's private key from this PEM file.
    ///
    /// If the key is encrypted, --key-passphrase-file names the file with its passphrase.
    #[arg(long, value_name = "FILE")]
    pub key: Vec<PathBuf>,

    /// The sources of the private keys' passphrases.
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

    /// Choose whether peers must present a certificate.
    ///
    /// The default is `required` with --ca, and `none` without it.
    #[arg(long, value_name = "WHEN")]
    pub client_auth: Option<ClientAuthMode>,

    /// Refuse the certificates that the lists in this PEM file revoke.
    ///
    /// Every authority in a peer's chain needs a current list. The file can hold several lists.
    #[arg(long, value_name = "FILE")]
    pub crl: Option<PathBuf>,

    /// Accept certificate chains of up to this size.
    ///
    /// A peer with a longer chain is refused with alert 47 (illegal_parameter). Each peer in a handshake can make
    /// the server allocate this much memory.
    #[arg(long, value_name = "BYTES", default_value_t = Size(16 << 10))]
    pub max_cert_chain: Size,

    /// The cipher suites and groups of handshakes.
    #[command(flatten)]
    pub algorithms: AlgorithmArgs,

    /// Refuse secret files that other users on this host can read.
    ///
    /// These are the files of --key, --key-passphrase-file, --psk-file and --key-file. Without the option, the
    /// server logs a warning about them at its start and at each reload. A file that belongs to root and that
    /// only its group can read as well is accepted.
    #[arg(long)]
    pub strict_permissions: bool,

    /// Admit certificates with a subject like `CN=*,O=Example`.
    ///
    /// Repeat the option for more patterns; `*` stands for any characters. Without this option and --allow-san,
    /// the server admits every certificate that it can verify.
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
    /// Each line is identity:hexkey. A line that begins with # is a comment.
    #[arg(long, value_name = "FILE")]
    pub psk_file: Option<PathBuf>,

    /// Negotiate this application protocol (ALPN, RFC 7301).
    ///
    /// Repeat the option for more protocols, the preferred one first.
    #[arg(long, value_name = "NAME")]
    pub alpn: Vec<Protocol>,

    /// Agree on this SRTP profile with DTLS clients that ask (RFC 5764).
    ///
    /// Repeat the option for more profiles, the preferred one first. The server has no media: clients derive the keys of theirs from the session.
    #[arg(long, value_name = "NAME", value_parser = SRTP_PROFILES)]
    pub srtp_profile: Vec<String>,

    /// Share the keys of tickets and cookies in this file with other servers.
    ///
    /// The file has a line with `current:` and 32 bytes in hexadecimal, and may have a second line with
    /// `previous:`. --make-key-file writes such a file.
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,

    /// Write the secrets of all sessions to this file, for debugging.
    ///
    /// Anybody who has the file can decrypt all data of the sessions.
    #[arg(long, value_name = "FILE")]
    pub key_log: Option<PathBuf>,
}

/// Whether peers must present a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClientAuthMode {
    /// The server requests no certificate.
    None,
    /// The server requests a certificate. It refuses an invalid one, and admits peers without one.
    Optional,
    /// The server refuses peers without a valid certificate.
    Required,
}

/// Defines how many peers the server admits.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Serve at most this many peers in all.
    ///
    /// Each peer needs a thread and a descriptor unless --serve and --sockets say otherwise, so the system's
    /// limits apply too. The server logs at its start which limit it reaches first. Beyond a limit, a DTLS client
    /// is refused with an alert, a TCP connection with a reset, and an SCTP association with an ABORT.
    #[arg(long, value_name = "N", value_parser = count::<usize>, default_value_t = Limits::default().max_peers)]
    pub max_peers: usize,

    /// Serve at most this many peers at one local address and port.
    ///
    /// The kernel searches the sockets of all these peers for each datagram of an unknown peer, so a flood costs
    /// more as their number grows; stress/RESULTS.md has the figures. Raise the limit if you trust the senders.
    /// To serve more peers without that cost, listen on more ports or addresses.
    #[arg(long, value_name = "N", value_parser = count::<usize>, default_value_t = Limits::default().max_peers_per_local_address)]
    pub max_peers_per_local_address: usize,

    /// Serve at most this many peers from one source address.
    ///
    /// The limit keeps one host from using up --max-peers. Raise it if many peers share one translated address
    /// (NAT).
    #[arg(long, value_name = "N", value_parser = count::<usize>, default_value_t = Limits::default().max_peers_per_source)]
    pub max_peers_per_source: usize,

    /// Serve at most this many peers from one network (IPv4 /24, IPv6 /56).
    #[arg(long, value_name = "N", value_parser = count::<usize>, default_value_t = Limits::default().max_peers_per_prefix)]
    pub max_peers_per_prefix: usize,

    /// Allow at most this many handshakes at the same time.
    ///
    /// At the limit, the server ends the oldest handshake in favour of a new one if the oldest has run for two
    /// seconds; otherwise it refuses the new peer. Allow for as many new peers as arrive within one round trip.
    #[arg(long, value_name = "N", value_parser = count::<usize>, default_value_t = Limits::default().max_half_open)]
    pub max_half_open: usize,

    /// Let at most this many connections to a proxied listener wait for a header.
    ///
    /// At this number, a new connection ends the one to the same --listen-proxied that has waited longest. Other
    /// listeners are not affected.
    #[arg(long, value_name = "N", value_parser = count::<usize>, default_value_t = Limits::default().max_awaiting_header)]
    pub max_awaiting_header: usize,

    /// Admit this many new peers a second from one network, on average.
    #[arg(long, value_name = "N", value_parser = count::<u32>, default_value_t = Limits::default().new_peers_per_second)]
    pub new_peers_per_second: u32,

    /// Admit this many new peers at once from one network after a quiet period.
    #[arg(long, value_name = "N", value_parser = count::<u32>, default_value_t = Limits::default().new_peers_burst)]
    pub new_peers_burst: u32,

    /// Apply the limits per source and network to loopback peers too.
    #[arg(long)]
    pub limit_loopback: bool,
}

/// Defines how long operations may take.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Timeouts (such as 500ms, 10s or 5m)")]
pub struct TimeoutArgs {
    /// End a handshake that takes longer than this.
    #[arg(long, value_name = "TIME", value_parser = positive_span, default_value_t = Span(Timeouts::default().handshake))]
    pub handshake_timeout: Span,

    /// End a connection whose PROXY header takes longer than this.
    ///
    /// The timeout applies to --listen-proxied. Proxies send the header at once.
    #[arg(long, value_name = "TIME", value_parser = positive_span, default_value_t = Span(Timeouts::default().proxy_header))]
    pub proxy_header_timeout: Span,

    /// End an association whose peer sends no message for this long, or `off`.
    #[arg(long, value_name = "TIME", default_value_t = SpanOrOff(Timeouts::default().idle))]
    pub idle_timeout: SpanOrOff,

    /// End a stream without a first message after this long, or `off`.
    ///
    /// The timeout applies to tcp:// and tls:// with a framing of lines or lengths. It frees threads that silent
    /// connections would hold until --idle-timeout. The chat's default is off, because its members may just
    /// listen.
    #[arg(long, value_name = "TIME", default_value_t = SpanOrOff(Timeouts::default().first_message))]
    pub first_message_timeout: SpanOrOff,

    /// End a stream when a message takes longer than this, or `off`.
    ///
    /// The timeout applies to tcp:// and tls:// with a framing of lines or lengths, from a message's first byte
    /// to its last.
    #[arg(long, value_name = "TIME", default_value_t = SpanOrOff(Timeouts::default().frame))]
    pub frame_timeout: SpanOrOff,

    /// End every association after this long, or `off`.
    #[arg(long, value_name = "TIME", default_value_t = SpanOrOff(Timeouts::default().lifetime))]
    pub lifetime: SpanOrOff,

    /// Wait this long for space in a peer's send buffer.
    ///
    /// The timeout applies to --serve threads, where the handler waits for space. With --serve loops no handler
    /// waits: the server queues the messages, up to a bound.
    #[arg(long, value_name = "TIME", value_parser = positive_span, default_value_t = Span(Timeouts::default().send))]
    pub send_timeout: Span,

    /// Exit a thread that has served no peer for this long.
    #[arg(long, value_name = "TIME", value_parser = positive_span, default_value_t = Span(Timeouts::default().worker_idle))]
    pub worker_idle_timeout: Span,

    /// Make a new secret for cookies at this interval.
    ///
    /// A DTLS cookie is valid for one to two intervals. A cookie that is made with a --key-file is valid for as
    /// long as that file has the cookie's key.
    #[arg(long, value_name = "TIME", value_parser = positive_span, default_value_t = Span(Timeouts::default().cookie_period))]
    pub cookie_period: Span,

    /// Give peers this long to finish when the server shuts down.
    #[arg(long, value_name = "TIME", default_value_t = Span(Duration::from_secs(10)))]
    pub drain_timeout: Span,
}

impl CredentialArgs {
    /// Returns whether the options name a file that a reload would read again.
    pub(crate) fn names_a_file(&self) -> bool {
        let Self { cert, key, ocsp, ca, crl, psk_file, key_file, .. } = self;
        let several = [cert, key, ocsp].iter().any(|files| !files.is_empty());
        several || [ca, crl, psk_file, key_file].iter().any(|file| file.is_some())
    }
}

impl ServerArgs {
    /// Returns the schemes of all listeners.
    pub fn schemes(&self) -> impl Iterator<Item = Scheme> {
        self.listen.iter().chain(&self.listen_proxied).map(|address| address.scheme)
    }

    /// Checks that no two listeners are at the same port, such as `udp://` and `dtls://`.
    ///
    /// # Errors
    ///
    /// Returns an error that names two such listeners. Without it the error would be that the port is in use.
    pub(crate) fn check_listeners(&self) -> Result<(), Failure> {
        let socket = |scheme: Scheme| match scheme {
            Scheme::Udp | Scheme::Dtls => "UDP",
            Scheme::Tcp | Scheme::Tls => "TCP",
            _ => "SCTP",
        };
        let mut all: Vec<&Address> = Vec::new();
        for address in self.listen.iter().chain(&self.listen_proxied).filter(|address| address.port != 0) {
            let (kind, port) = (socket(address.scheme), address.port);
            let same = |other: &&&Address| {
                other.port == port && other.host == address.host && socket(other.scheme) == kind
            };
            if let Some(other) = all.iter().find(same) {
                return Err(Failure::about(
                    "--listen",
                    format_args!("{other} and {address} need the same {kind} port: give one of them another"),
                ));
            }
            all.push(address);
        }
        Ok(())
    }
}

impl LimitArgs {
    /// Returns the limits in the framework's type.
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
    /// Returns the timeouts in the framework's type.
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

    /// Bytes that an option's short help may have: it then fits into two lines beside the option's name.
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
        // The limits on peers, on handshakes and on the rates of both.
        assert_eq!(named, 6);
    }

    #[test]
    fn every_option_stands_under_a_heading() {
        for option in ChatArgs::augment_args(Command::new("chat")).get_arguments() {
            assert!(option.get_help_heading().is_some(), "{} has no heading", option.get_id());
        }
    }
}

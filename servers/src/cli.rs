//! The options of every server.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::ArgPredicate;
use clap::{Args, ValueEnum};
use peeloff::{Address, Limits, Scheme, Timeouts};

use crate::authorize::{SanPattern, SubjectPattern};
use crate::logging::LogArgs;
use crate::sctp::SctpArgs;
use crate::stream::StreamArgs;
use crate::values::{Protocol, Size, Span, SpanOrOff};

/// Where a server listens, whom it lets in, and for how long.
#[derive(Args, Clone, Debug)]
pub struct ServerArgs {
    /// Where more options are.
    #[command(flatten)]
    pub config: ConfigArgs,

    /// Where to listen, such as `dtls://[::1]:4433`, `udp://*:7`, `tls://*:4433` or, at several
    /// addresses of one host, `sctp://10.0.0.1,10.0.1.1:38412`; repeat it for further listeners. Port 0
    /// lets the kernel pick one.
    #[arg(
        long,
        value_name = "URL",
        default_value = "dtls://127.0.0.1:4433",
        default_value_if("listen_proxied", ArgPredicate::IsPresent, None)
    )]
    pub listen: Vec<Address>,

    /// Where to listen for `tcp://` or `tls://` behind a proxy that says in a header of the PROXY protocol,
    /// version 2, who each peer is; repeat it for further listeners. Only the proxy may be able to reach it.
    #[arg(long, value_name = "URL")]
    pub listen_proxied: Vec<Address>,

    /// Keep IPv4 away from IPv6 wildcard listeners.
    #[arg(long)]
    pub v6only: bool,

    /// Bind addresses that this host does not have (yet).
    #[arg(long)]
    pub freebind: bool,

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

    /// The stack of each worker thread.
    #[arg(long, value_name = "BYTES", help_heading = "Limits")]
    pub stack_size: Option<Size>,

    /// Log the counters this often.
    #[arg(long, value_name = "TIME", default_value_t = SpanOrOff(None), help_heading = "Logging")]
    pub stats_interval: SpanOrOff,

    /// How much is logged.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Where more options are. These stand on the command line only.
#[derive(Args, Clone, Debug)]
pub struct ConfigArgs {
    /// Read options from this file, in TOML, or from standard input for `-`; those on the command line
    /// win. --print-config shows what can stand in it. SIGHUP reads it again.
    #[arg(long, value_name = "FILE", help_heading = "Configuration")]
    pub config: Option<PathBuf>,

    /// Print all options as they are in effect, as a file for --config, and end.
    #[arg(long, help_heading = "Configuration")]
    pub print_config: bool,

    /// Write a new key to this file, for --key-file, and end; what was its current one becomes the previous
    /// one. Servers take it over at SIGHUP.
    #[arg(long, value_name = "FILE", help_heading = "Configuration")]
    pub make_key_file: Option<PathBuf>,
}

/// Who the server is and how peers prove who they are.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Identity")]
pub struct CredentialArgs {
    /// The certificate chain in PEM, leaf first; repeat it and --key for further ones, from which the name
    /// that a client asks for chooses. Without it the server makes a self-signed certificate for this run.
    #[arg(long, value_name = "FILE")]
    pub cert: Vec<PathBuf>,

    /// The private key of the certificate, in PEM.
    #[arg(long, value_name = "FILE")]
    pub key: Vec<PathBuf>,

    /// What the authority says about the certificate, to be stapled to handshakes: an OCSP response in DER.
    #[arg(long, value_name = "FILE")]
    pub ocsp: Vec<PathBuf>,

    /// The authorities that peers' certificates must come from, in PEM.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,

    /// Whether peers must show a certificate [default: required with --ca, else none].
    #[arg(long, value_name = "WHEN")]
    pub client_auth: Option<ClientAuthMode>,

    /// Lists of certificates that the authorities have revoked, in PEM.
    #[arg(long, value_name = "FILE")]
    pub crl: Option<PathBuf>,

    /// Let certificates in whose subject is like this, such as `CN=*,O=Example`; repeat it for further ones.
    /// Without it and --allow-san: all that verify.
    #[arg(long, value_name = "PATTERN")]
    pub allow_subject: Vec<SubjectPattern>,

    /// Let certificates in that have a name like this, such as `dns:*.example.org` or
    /// `uri:spiffe://example/*`; repeat it for further ones.
    #[arg(long, value_name = "PATTERN")]
    pub allow_san: Vec<SanPattern>,

    /// Pre-shared keys: lines of identity:hexkey, and comments after #.
    #[arg(long, value_name = "FILE")]
    pub psk_file: Option<PathBuf>,

    /// An application protocol that is spoken (RFC 7301); repeat it for further ones, the preferred one first.
    #[arg(long, value_name = "NAME")]
    pub alpn: Vec<Protocol>,

    /// Keys of session tickets and cookies that several servers share: a line of current: and 32 bytes in
    /// hexadecimal, and maybe one of previous:.
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,

    /// Write the secrets of all sessions to this file, for finding faults: whoever has it can read
    /// everything.
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
    /// Peers in all.
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_peers)]
    pub max_peers: usize,

    /// Peers at one local address and port: the kernel's look-up of unknown peers slows down as
    /// they grow.
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_peers_per_local_address)]
    pub max_peers_per_local_address: usize,

    /// Peers from one source address.
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_peers_per_source)]
    pub max_peers_per_source: usize,

    /// Peers from one network (IPv4 /24, IPv6 /56).
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_peers_per_prefix)]
    pub max_peers_per_prefix: usize,

    /// Handshakes at the same time.
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_half_open)]
    pub max_half_open: usize,

    /// New peers per second from one such network, on average.
    #[arg(long, value_name = "N", default_value_t = Limits::default().new_peers_per_second)]
    pub new_peers_per_second: u32,

    /// New peers from one such network that may come at once after a quiet time.
    #[arg(long, value_name = "N", default_value_t = Limits::default().new_peers_burst)]
    pub new_peers_burst: u32,

    /// Hold loopback peers to the limits per source and per network too.
    #[arg(long)]
    pub limit_loopback: bool,
}

/// How long things may take.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Timeouts (such as 500ms, 10s, 5m; some may be off)")]
pub struct TimeoutArgs {
    /// A handshake, from its first message to its last.
    #[arg(long, value_name = "TIME", default_value_t = Span(Timeouts::default().handshake))]
    pub handshake_timeout: Span,

    /// Silence, before a peer counts as gone.
    #[arg(long, value_name = "TIME", default_value_t = SpanOrOff(Timeouts::default().idle))]
    pub idle_timeout: SpanOrOff,

    /// The whole life of an association.
    #[arg(long, value_name = "TIME", default_value_t = SpanOrOff(Timeouts::default().lifetime))]
    pub lifetime: SpanOrOff,

    /// The grace that peers get at shutdown, before they are cut off.
    #[arg(long, value_name = "TIME", default_value_t = Span(Duration::from_secs(10)))]
    pub drain_timeout: Span,
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
        Limits {
            max_peers: self.max_peers,
            max_peers_per_local_address: self.max_peers_per_local_address,
            max_peers_per_source: self.max_peers_per_source,
            max_peers_per_prefix: self.max_peers_per_prefix,
            max_half_open: self.max_half_open,
            new_peers_per_second: self.new_peers_per_second,
            new_peers_burst: self.new_peers_burst,
            exempt_loopback: !self.limit_loopback,
        }
    }
}

impl TimeoutArgs {
    /// The timeouts as the framework takes them.
    pub fn to_timeouts(&self) -> Timeouts {
        let mut timeouts = Timeouts::default();
        timeouts.handshake = self.handshake_timeout.0;
        timeouts.idle = self.idle_timeout.0;
        timeouts.lifetime = self.lifetime.0;
        timeouts
    }
}

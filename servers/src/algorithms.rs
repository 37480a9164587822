//! The options for cipher suites and groups, of the servers and of `peeloff-nc`.

use clap::Args;
use peeloff::{CipherSuites, Groups};

/// Options for the algorithms of a handshake.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Identity")]
pub struct AlgorithmArgs {
    /// Accept these cipher suites, the preferred one first.
    ///
    /// The value is a list with colons of names in OpenSSL's or IANA's spelling, `default` and `constrained`.
    /// `constrained` adds the two suites of constrained devices (RFC 7252): TLS_PSK_WITH_AES_128_CCM_8 and
    /// TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8. Their authentication tags have only 8 bytes, and a client with OpenSSL
    /// 3 needs `@SECLEVEL=0` for them. A version of TLS without a suite in the list is disabled.
    #[arg(long, value_name = "LIST", default_value_t = CipherSuites::default())]
    pub ciphers: CipherSuites,

    /// Agree on keys in these groups, the preferred one first.
    ///
    /// The value is a list with colons, such as `X25519:P-256`, or `default`, which leaves the choice to OpenSSL.
    #[arg(long, value_name = "LIST", default_value_t = Groups::default())]
    pub groups: Groups,
}

impl AlgorithmArgs {
    /// Logs a warning about suites that are weaker than the others.
    pub(crate) fn warn(&self) {
        if self.ciphers.has_short_tags() {
            tracing::warn!(
                "--ciphers enables CCM_8 suites, whose 8-byte tags protect less against forgery: use them for constrained \
                 devices only; peers with OpenSSL 3 need @SECLEVEL=0 for them"
            );
        }
    }
}

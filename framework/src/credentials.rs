//! What a server proves and asks for, whom it trusts, and who the peer turned out to be.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod algorithms;
mod errors;
mod expiration;
mod identity;
mod keys;
mod peer;
mod revocation;

pub use self::algorithms::{AlgorithmError, CipherSuites, Groups};
pub(crate) use self::errors::refused;
pub use self::expiration::Expiration;
pub(crate) use self::identity::unix_now;
pub use self::identity::{CaBundle, Identity, PublicKey};
pub use self::keys::SharedKeys;
pub(crate) use self::peer::name_line;
pub use self::peer::{PeerCertificate, PeerIdentity};
pub use self::revocation::RevocationList;
pub(crate) use self::revocation::issuer_digest;

/// All that a server shows and asks for in its handshakes. [`Handle::reload`](crate::Handle::reload) replaces it
/// while the server runs.
///
/// ```
/// use peeloff::{Credentials, Identity, PeerIdentity};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let credentials = Credentials::new()
///     .identity(Identity::self_signed()?)
///     .alpn(&["chat/1"])
///     .authorize(|peer| !matches!(peer, PeerIdentity::Psk(name) if name == b"mallory"));
/// # let _ = credentials; Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct Credentials {
    pub(crate) identities: Vec<Identity>,
    pub(crate) client_auth: ClientAuth,
    pub(crate) revoked: Option<RevocationList>,
    pub(crate) psk: Option<PskLookup>,
    pub(crate) authorize: Option<Authorize>,
    pub(crate) raw_keys: Option<Vec<PublicKey>>,
    pub(crate) alpn: Vec<Vec<u8>>,
    pub(crate) srtp: Option<String>,
    pub(crate) exporters: bool,
    pub(crate) max_cert_chain: Option<usize>,
    pub(crate) algorithms: Algorithms,
    pub(crate) keys: Option<SharedKeys>,
    pub(crate) key_log: Option<PathBuf>,
}

impl Credentials {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a certificate and key. Of several, a client gets the one that is for the name that it asks for (server
    /// name indication, RFC 6066 §3; `*.example.org` is for one more label), or the first.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identities.push(identity);
        self
    }

    /// Whether clients must show a certificate. Default: they are not asked.
    #[must_use]
    pub fn client_auth(mut self, auth: ClientAuth) -> Self {
        self.client_auth = auth;
        self
    }

    /// Refuses clients whose chain has a revoked certificate, the client's own or an authority's, also when they resume
    /// a session. Every authority of a chain then needs a current list, which the bytes or the file of `list` must
    /// hold too: a client below an authority without one is refused, and the reason names that authority. The server
    /// does not start where an authority of [`client_auth`](Self::client_auth) has none
    /// ([`IdentityError::NoListOf`](crate::IdentityError::NoListOf)).
    #[must_use]
    pub fn revoked(mut self, list: RevocationList) -> Self {
        self.revoked = Some(list);
        self
    }

    /// Accepts pre-shared keys (RFC 4279): gives the key of an identity, `None` if it is unknown. `lookup` is not asked
    /// for an identity with a zero byte: such a client is refused.
    /// Runs on the worker thread of the peer that asks.
    #[must_use]
    pub fn psk(mut self, lookup: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        self.psk = Some(Arc::new(lookup));
        self
    }

    /// Shows the bare key of the identity, instead of its certificate, to clients that prefer that, and lets in
    /// clients that show one of `accepted` (raw public keys, RFC 7250). Clients are asked for their keys where there
    /// are any, and [`client_auth`](Self::client_auth) then says what becomes of those that show none. Needs OpenSSL
    /// 3.2; with an earlier one the server does not start
    /// ([`IdentityError::NoRawPublicKeys`](crate::IdentityError::NoRawPublicKeys)).
    #[must_use]
    pub fn raw_public_keys(mut self, accepted: &[PublicKey]) -> Self {
        self.raw_keys = Some(accepted.to_vec());
        self
    }

    /// Asks whether a peer that has proven who it is may come in; `false` ends the association
    /// ([`EndReason::NotAuthorized`](crate::EndReason::NotAuthorized)). Runs on the worker thread of the peer, after
    /// each handshake, also of one that resumes, and before the handler. It may block; a panic is a `false`.
    #[must_use]
    pub fn authorize(mut self, ask: impl Fn(&PeerIdentity) -> bool + Send + Sync + 'static) -> Self {
        self.authorize = Some(Arc::new(ask));
        self
    }

    /// The protocols that are spoken here, the preferred one first (ALPN, RFC 7301). A client that offers others
    /// only is refused; one that offers none is not.
    #[must_use]
    pub fn alpn(mut self, protocols: &[&str]) -> Self {
        self.alpn = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        self
    }

    /// How long a certificate chain a peer may send, in bytes of its Certificate message (RFC 5246 §7.4.2). A longer one
    /// ends the handshake with alert 47 (illegal_parameter). Default: 16,384. Each half-open peer can make this side keep
    /// so many bytes.
    #[must_use]
    pub fn max_cert_chain(mut self, bytes: usize) -> Self {
        self.max_cert_chain = Some(bytes);
        self
    }

    /// The cipher suites that are accepted. Default: [`CipherSuites::default`]. The server does not start if a listener's
    /// protocol has none of them ([`IdentityError::NoSuite`](crate::IdentityError::NoSuite)), or none that goes with an
    /// identity.
    #[must_use]
    pub fn cipher_suites(mut self, suites: CipherSuites) -> Self {
        self.algorithms.suites = suites;
        self
    }

    /// The groups for key agreement that are accepted. Default: OpenSSL's.
    #[must_use]
    pub fn groups(mut self, groups: Groups) -> Self {
        self.algorithms.groups = groups;
        self
    }

    /// The SRTP profiles for DTLS clients that ask (RFC 5764 §4.1), in OpenSSL's names and divided by colons, such as
    /// `SRTP_AEAD_AES_128_GCM:SRTP_AES128_CM_SHA1_80`. The keys come from
    /// [`Peer::export_keying_material`](crate::Peer::export_keying_material).
    #[must_use]
    pub fn srtp_profiles(mut self, profiles: &str) -> Self {
        self.srtp = Some(profiles.to_owned());
        self
    }

    /// Whether DTLS sessions keep their master secret, which
    /// [`Peer::export_keying_material`](crate::Peer::export_keying_material) needs. Without it an established session has
    /// only the keys of its records, from which nothing else can be derived. Default: `false`; a session that agreed on an
    /// SRTP profile keeps the secret in any case. TLS sessions are OpenSSL's, which keeps it always.
    #[must_use]
    pub fn exporters(mut self, enabled: bool) -> Self {
        self.exporters = enabled;
        self
    }

    /// The keys of session tickets and cookies, so that several servers accept each other's. Default: random ones
    /// for as long as the server runs, and cookie secrets that change by
    /// [`Timeouts::cookie_period`](crate::Timeouts::cookie_period).
    #[must_use]
    pub fn shared_keys(mut self, keys: SharedKeys) -> Self {
        self.keys = Some(keys);
        self
    }

    /// Appends the secrets of all sessions to this file (SSLKEYLOGFILE's format): whoever reads it can decrypt all
    /// recorded traffic. For debugging alone.
    #[must_use]
    pub fn danger_key_log(mut self, path: &Path) -> Self {
        self.key_log = Some(path.to_owned());
        self
    }

    /// Whether somebody can complete a handshake.
    pub(crate) fn is_empty(&self) -> bool {
        self.identities.is_empty() && self.psk.is_none()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("identities", &self.identities)
            .field("client_auth", &self.client_auth)
            .finish_non_exhaustive()
    }
}

/// What a handshake may choose.
#[derive(Clone, Debug, Default)]
pub(crate) struct Algorithms {
    pub(crate) suites: CipherSuites,
    pub(crate) groups: Groups,
}

/// Whether clients must show a certificate.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum ClientAuth {
    /// They are not asked for one.
    #[default]
    None,
    /// They are asked; one that they show must verify, and none is fine.
    Optional(CaBundle),
    /// They must show one that verifies (mutual TLS).
    Required(CaBundle),
}

/// Looks up the pre-shared key of an identity (RFC 4279); `None`: unknown. Runs on the worker
/// thread of the peer that asks, inside its handshake.
pub(crate) type PskLookup = Arc<dyn Fn(&[u8]) -> Option<Vec<u8>> + Send + Sync>;

/// Says whether a peer may come in.
pub(crate) type Authorize = Arc<dyn Fn(&PeerIdentity) -> bool + Send + Sync>;

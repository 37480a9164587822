//! Credentials: what a server presents and demands in handshakes, whom it trusts, and which identity the peer proved.

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

/// All that a server presents and demands in its handshakes. [`Handle::reload`](crate::Handle::reload) replaces it
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
    /// Returns empty credentials.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a certificate and key. If there are several, a client gets the certificate for the name that it asks for
    /// (server name indication, RFC 6066 §3; `*.example.org` matches one more label), or the first one.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identities.push(identity);
        self
    }

    /// Sets whether clients must show a certificate. Default: clients are not asked for one.
    #[must_use]
    pub fn client_auth(mut self, auth: ClientAuth) -> Self {
        self.client_auth = auth;
        self
    }

    /// Refuses clients whose chain has a revoked certificate, also when they resume a session. That may be the client's
    /// own certificate or an authority's. Every authority of a chain then needs a current list, which `list` must
    /// contain too: a client below an authority without a list is refused, and the reason names that authority. The
    /// server does not start if an authority of [`client_auth`](Self::client_auth) has no list
    /// ([`IdentityError::NoListOf`](crate::IdentityError::NoListOf)).
    #[must_use]
    pub fn revoked(mut self, list: RevocationList) -> Self {
        self.revoked = Some(list);
        self
    }

    /// Accepts pre-shared keys (RFC 4279). `lookup` returns the key of an identity, or `None` if it is unknown. It runs
    /// on the worker thread of the peer. It is not called for an identity with a zero byte; such a client is refused.
    #[must_use]
    pub fn psk(mut self, lookup: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        self.psk = Some(Arc::new(lookup));
        self
    }

    /// Shows the bare key of the identity, instead of its certificate, to clients that prefer that, and accepts clients
    /// that show one of the `accepted` keys (raw public keys, RFC 7250). Clients are asked for their keys if `accepted`
    /// has any; [`client_auth`](Self::client_auth) then decides about clients that show none. Needs OpenSSL 3.2; with
    /// an earlier version the server does not start
    /// ([`IdentityError::NoRawPublicKeys`](crate::IdentityError::NoRawPublicKeys)).
    #[must_use]
    pub fn raw_public_keys(mut self, accepted: &[PublicKey]) -> Self {
        self.raw_keys = Some(accepted.to_vec());
        self
    }

    /// Sets a callback that decides whether a peer with a proven identity is authorized; `false` ends the association
    /// ([`EndReason::NotAuthorized`](crate::EndReason::NotAuthorized)). It runs on the worker thread of the peer, after
    /// each handshake, including one that resumes a session, and before the handler. It may block. A panic counts as
    /// `false`.
    #[must_use]
    pub fn authorize(mut self, ask: impl Fn(&PeerIdentity) -> bool + Send + Sync + 'static) -> Self {
        self.authorize = Some(Arc::new(ask));
        self
    }

    /// Sets the protocols that the server supports, the preferred one first (ALPN, RFC 7301). A client that offers only
    /// other protocols is refused; a client that offers none is accepted.
    #[must_use]
    pub fn alpn(mut self, protocols: &[&str]) -> Self {
        self.alpn = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        self
    }

    /// Sets the maximum size of a peer's certificate chain, in bytes of its Certificate message (RFC 5246 §7.4.2). A
    /// longer chain ends the handshake with alert 47 (illegal_parameter). Default: 16,384. Each half-open peer can make
    /// this side buffer that many bytes.
    #[must_use]
    pub fn max_cert_chain(mut self, bytes: usize) -> Self {
        self.max_cert_chain = Some(bytes);
        self
    }

    /// Sets the cipher suites to accept. Default: [`CipherSuites::default`]. The server does not start if none of them
    /// fits a listener's protocol ([`IdentityError::NoSuite`](crate::IdentityError::NoSuite)), or none fits an
    /// identity.
    #[must_use]
    pub fn cipher_suites(mut self, suites: CipherSuites) -> Self {
        self.algorithms.suites = suites;
        self
    }

    /// Sets the key agreement groups to accept. Default: OpenSSL's.
    #[must_use]
    pub fn groups(mut self, groups: Groups) -> Self {
        self.algorithms.groups = groups;
        self
    }

    /// Sets the SRTP profiles for DTLS clients that ask for one (RFC 5764 §4.1), in OpenSSL's spelling, separated by
    /// colons, such as `SRTP_AEAD_AES_128_GCM:SRTP_AES128_CM_SHA1_80`. The keys come from
    /// [`Peer::export_keying_material`](crate::Peer::export_keying_material).
    #[must_use]
    pub fn srtp_profiles(mut self, profiles: &str) -> Self {
        self.srtp = Some(profiles.to_owned());
        self
    }

    /// Sets whether DTLS sessions keep their master secret, which
    /// [`Peer::export_keying_material`](crate::Peer::export_keying_material) needs. Without it an established session
    /// has only the keys of its records, from which nothing else can be derived. Default: `false`. A session that
    /// negotiated an SRTP profile keeps the secret in any case, and so do TLS sessions, which OpenSSL manages.
    #[must_use]
    pub fn exporters(mut self, enabled: bool) -> Self {
        self.exporters = enabled;
        self
    }

    /// Sets the keys of session tickets and cookies, so that several servers accept each other's. Default: random keys
    /// for as long as the server runs, and cookie secrets that change every
    /// [`Timeouts::cookie_period`](crate::Timeouts::cookie_period).
    #[must_use]
    pub fn shared_keys(mut self, keys: SharedKeys) -> Self {
        self.keys = Some(keys);
        self
    }

    /// Appends the secrets of all sessions to this file (SSLKEYLOGFILE's format): anyone who can read it can decrypt
    /// all recorded traffic. For debugging only.
    #[must_use]
    pub fn danger_key_log(mut self, path: impl AsRef<Path>) -> Self {
        self.key_log = Some(path.as_ref().to_owned());
        self
    }

    /// Returns whether no client can complete a handshake, because there is neither an identity nor a pre-shared key.
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

/// The algorithms that a handshake may choose.
#[derive(Clone, Debug, Default)]
pub(crate) struct Algorithms {
    pub(crate) suites: CipherSuites,
    pub(crate) groups: Groups,
}

/// Whether clients must show a certificate.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum ClientAuth {
    /// Clients are not asked for a certificate.
    #[default]
    None,
    /// Clients are asked for a certificate and may have none; a certificate that they show must verify.
    Optional(CaBundle),
    /// Clients must show a certificate that verifies (mutual TLS).
    Required(CaBundle),
}

/// Looks up the pre-shared key of an identity (RFC 4279); `None` if it is unknown. Runs on the worker thread of the
/// peer, within its handshake.
pub(crate) type PskLookup = Arc<dyn Fn(&[u8]) -> Option<Vec<u8>> + Send + Sync>;

/// Decides whether a peer is authorized.
pub(crate) type Authorize = Arc<dyn Fn(&PeerIdentity) -> bool + Send + Sync>;

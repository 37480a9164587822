//! A client's context, and the sessions that it can resume.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{
    Ssl, SslContext, SslContextBuilder, SslMethod, SslRef, SslSession, SslSessionCacheMode, SslVerifyMode,
    SslVersion,
};
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::chain::{self, keep_record};
use super::common::{
    Protocol, check_srtp, check_suites, common, use_authorities, use_exporters, use_identity, verify_keys,
    wire,
};
use super::connection_ids::use_connection_ids;
use super::psk;
use crate::credentials::{Algorithms, CaBundle, Identity, PublicKey, RevocationList, refused};
use crate::error::IdentityError;
use crate::sys::ossl;
use crate::sys::raw_keys::{self, Side};

/// The settings of a client's context.
#[derive(Clone, Default)]
pub(crate) struct ClientCredentials {
    pub(crate) identity: Option<Identity>,
    pub(crate) authorities: Option<CaBundle>,
    pub(crate) revoked: Option<RevocationList>,
    pub(crate) psk: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
    pub(crate) accept_any: bool,
    /// The server's key, if it is known.
    pub(crate) raw_key: Option<PublicKey>,
    pub(crate) alpn: Vec<Vec<u8>>,
    pub(crate) srtp: Option<String>,
    pub(crate) exporters: bool,
    pub(crate) max_cert_chain: Option<usize>,
    pub(crate) algorithms: Algorithms,
    pub(crate) sessions: Arc<Sessions>,
}

impl ClientCredentials {
    /// Returns whether only a pre-shared key authenticates the server. It authenticates both sides, and only suites
    /// with such a key use it.
    fn psk_only(&self) -> bool {
        self.psk.is_some() && self.authorities.is_none()
    }
}

/// Maximum number of servers whose sessions are kept.
const MAX_SESSIONS: usize = 1024;

/// Sessions that can be resumed, by server.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<HashMap<String, SslSession>>);

impl Sessions {
    pub(crate) fn keep(&self, server: &str, session: SslSession) {
        let mut sessions = self.0.lock();
        if sessions.len() >= MAX_SESSIONS && !sessions.contains_key(server) {
            sessions.clear();
        }
        sessions.insert(server.to_owned(), session);
    }

    /// Returns the session with a server, if the server's chain would still verify. A TLS 1.3 ticket is removed,
    /// because it may be used once (RFC 8446 §C.4). Earlier sessions can be used repeatedly, and the server does not
    /// issue new ones. Each caller gets a copy, because a handshake writes to its session, which other associations may
    /// use at the same time.
    pub(crate) fn take(&self, server: &str, revoked: Option<&RevocationList>) -> Option<SslSession> {
        let mut sessions = self.0.lock();
        if !chain::holds(sessions.get(server)?, revoked) {
            sessions.remove(server);
            return None;
        }
        let session = match sessions.get(server)?.protocol_version() == SslVersion::TLS1_3 {
            true => sessions.remove(server)?,
            false => sessions.get(server).cloned()?,
        };
        drop(sessions);
        ossl::copy_session(&session).ok()
    }

    /// Drops the session with a server after a failed handshake.
    pub(crate) fn forget(&self, server: &str) {
        self.0.lock().remove(server);
    }
}

/// The server of a session, and where the session is kept.
type Place = (String, Arc<Sessions>);

static PLACE: LazyLock<Option<Index<Ssl, Place>>> = LazyLock::new(|| Ssl::new_ex_index().ok());

/// Keeps the sessions with this server in `sessions`.
pub(crate) fn keep_sessions(ssl: &mut Ssl, server: &str, sessions: &Arc<Sessions>) {
    if let Some(index) = *PLACE {
        ssl.set_ex_data(index, (server.to_owned(), Arc::clone(sessions)));
    }
}

/// Keeps a resumed session: OpenSSL reports only new sessions, but a resumed one may have a new ticket.
pub(crate) fn keep_resumed(ssl: &SslRef) {
    let old = ssl.version2() != Some(SslVersion::TLS1_3);
    if old
        && !ssl.is_server()
        && ssl.session_reused()
        && let Some(session) = ssl.session()
    {
        keep(ssl, session.to_owned());
    }
}

fn keep(ssl: &SslRef, session: SslSession) {
    if let Some((server, sessions)) = PLACE.and_then(|index| ssl.ex_data(index)) {
        sessions.keep(server, session);
    }
}

/// Makes the context of a client's handshakes.
pub(crate) fn client(
    credentials: &ClientCredentials,
    protocol: Protocol,
) -> Result<SslContext, IdentityError> {
    if credentials.raw_key.is_some() && !raw_keys::LINKED {
        return Err(IdentityError::NoRawPublicKeys);
    }
    if credentials.alpn.iter().any(|protocol| !(1..=255).contains(&protocol.len())) {
        return Err(IdentityError::BadAlpn);
    }
    if credentials.psk.as_ref().is_some_and(|(identity, key)| !is_usable(identity, key)) {
        return Err(IdentityError::BadPsk);
    }
    check_srtp(credentials.srtp.as_deref())?;
    check_suites(&credentials.algorithms, protocol, credentials.psk_only())?;
    if let (Some(lists), Some(bundle)) = (&credentials.revoked, &credentials.authorities) {
        lists.check_authorities(&bundle.certificates)?;
    }
    build_client(credentials, protocol).map(SslContextBuilder::build).map_err(refused)
}

/// Returns whether OpenSSL can send this identity, as a C string, and use this key (`PSK_MAX_IDENTITY_LEN`,
/// `PSK_MAX_PSK_LEN`).
fn is_usable(identity: &[u8], key: &[u8]) -> bool {
    (1..=256).contains(&identity.len()) && !identity.contains(&0) && (1..=512).contains(&key.len())
}

/// Makes a client that supports at most TLS 1.2.
#[cfg(test)]
pub(crate) fn old_client(credentials: &ClientCredentials) -> SslContext {
    let mut context = build_client(credentials, Protocol::Tls).unwrap();
    context.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
    context.build()
}

/// Makes a client with a TLS 1.3 suite that fits no pre-shared key.
#[cfg(test)]
pub(crate) fn sha384_client(credentials: &ClientCredentials) -> SslContext {
    let mut context = build_client(credentials, Protocol::Tls).unwrap();
    context.set_ciphersuites("TLS_AES_256_GCM_SHA384").unwrap();
    context.set_min_proto_version(Some(SslVersion::TLS1_3)).unwrap();
    context.build()
}

fn build_client(
    credentials: &ClientCredentials,
    protocol: Protocol,
) -> Result<SslContextBuilder, ErrorStack> {
    let method = match protocol {
        Protocol::Dtls => SslMethod::dtls_client(),
        Protocol::Tls => SslMethod::tls_client(),
    };
    let mut context = common(method, protocol, credentials.max_cert_chain, &credentials.algorithms)?;
    match &credentials.authorities {
        Some(bundle) => use_authorities(&mut context, Some(bundle), credentials.revoked.as_ref())?,
        None if credentials.accept_any || credentials.raw_key.is_some() => {}
        // A TLS 1.3 server may answer a pre-shared key with a certificate, which no authority can then verify.
        None if credentials.psk.is_some() => {}
        None => use_authorities(&mut context, None, credentials.revoked.as_ref())?,
    }
    let verify = if credentials.accept_any { SslVerifyMode::NONE } else { SslVerifyMode::PEER };
    context.set_verify(verify);
    if let Some(key) = &credentials.raw_key {
        raw_keys::allow(&mut context, Side::Server)?;
        raw_keys::allow(&mut context, Side::Client)?;
        verify_keys(&mut context, verify, std::slice::from_ref(key), credentials.authorities.is_some())?;
    }
    if !credentials.alpn.is_empty() {
        context.set_alpn_protos(&wire(&credentials.alpn))?;
    }
    if let (Some(profiles), Protocol::Dtls) = (&credentials.srtp, protocol) {
        context.set_tlsext_use_srtp(profiles)?;
    }
    use_exporters(&mut context, credentials.exporters)?;
    if protocol == Protocol::Dtls {
        use_connection_ids(&mut context)?;
    }
    context.set_session_cache_mode(SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL);
    context.set_new_session_callback(|ssl, mut session| {
        keep_record(ssl, &mut session);
        keep(ssl, session);
    });
    if let Some(identity) = &credentials.identity {
        use_identity(&mut context, identity)?;
    }
    if let Some((identity, key)) = credentials.psk.clone() {
        context.set_psk_client_callback(move |ssl, _, identity_out, key_out| {
            psk::note_named(ssl, &identity);
            // OpenSSL takes the identity as a C string.
            if identity.len() >= identity_out.len() || key.len() > key_out.len() {
                return Ok(0);
            }
            identity_out[..identity.len()].copy_from_slice(&identity);
            identity_out[identity.len()] = 0;
            key_out[..key.len()].copy_from_slice(&key);
            Ok(key.len())
        });
        if let Some(suites) = credentials.algorithms.suites.old(true).filter(|_| credentials.psk_only()) {
            context.set_cipher_list(&suites)?;
        }
    }
    Ok(context)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::thread;

    use foreign_types::ForeignTypeRef;

    use super::*;
    use crate::credentials::Credentials;
    use crate::tls::context;

    #[test]
    fn each_resumed_connection_uses_its_own_session() {
        let server =
            Credentials { identities: vec![Identity::self_signed().unwrap()], ..Credentials::default() };
        let server = context::server(&server, Protocol::Tls).unwrap();
        let client = old_client(&ClientCredentials { accept_any: true, ..ClientCredentials::default() });
        let sessions = Arc::new(Sessions::default());
        // What the handshake of each took is in no other hands, whether kept or resumed.
        let (mut seen, mut streams) = (Vec::new(), Vec::new());
        for resumes in [false, true, true] {
            let mut ssl = Ssl::new(&client).unwrap();
            keep_sessions(&mut ssl, "server", &sessions);
            let taken = sessions.take("server", None);
            if let Some(session) = &taken {
                ossl::set_session(&mut ssl, session).unwrap();
            }
            let (near, far) = UnixStream::pair().unwrap();
            let accepting = Ssl::new(&server).unwrap();
            let accepted = thread::spawn(move || accepting.accept(far).unwrap());
            let stream = ssl.connect(near).unwrap();
            accepted.join().unwrap();
            assert_eq!(stream.ssl().session_reused(), resumes);
            keep_resumed(stream.ssl());
            let own = stream.ssl().session().unwrap().to_owned();
            let others: Vec<_> = (0..2).map(|_| sessions.take("server", None).unwrap()).collect();
            for session in std::iter::once(own).chain(others) {
                assert!(seen.iter().all(|other: &SslSession| other.as_ptr() != session.as_ptr()));
                seen.push(session);
            }
            // OpenSSL spoils the session of one that is dropped without a goodbye.
            streams.push(stream);
        }
    }
}

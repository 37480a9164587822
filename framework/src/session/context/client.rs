//! A client's context, and the sessions that it may resume.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{
    Ssl, SslContext, SslContextBuilder, SslMethod, SslRef, SslSession, SslSessionCacheMode, SslVerifyMode,
    SslVersion,
};
use parking_lot::Mutex;

use super::{Protocol, common, use_authorities, use_identity, wire};
use crate::credentials::{CaBundle, Identity, refused};
use crate::error::IdentityError;

/// What a client's context is made of.
#[derive(Clone, Default)]
pub(crate) struct ClientCredentials {
    pub(crate) identity: Option<Identity>,
    pub(crate) authorities: Option<CaBundle>,
    pub(crate) psk: Option<(Vec<u8>, Vec<u8>)>,
    pub(crate) accept_any: bool,
    pub(crate) alpn: Vec<Vec<u8>>,
    pub(crate) srtp: Option<String>,
    pub(crate) sessions: Arc<Sessions>,
}

/// Servers whose sessions are kept, at most.
const MAX_SESSIONS: usize = 1024;

/// Sessions to be resumed, by the server that they are with.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<HashMap<String, SslSession>>);

impl Sessions {
    fn keep(&self, server: &str, session: SslSession) {
        let mut sessions = self.0.lock();
        if sessions.len() >= MAX_SESSIONS && !sessions.contains_key(server) {
            sessions.clear();
        }
        sessions.insert(server.to_owned(), session);
    }

    /// What there is for a server. A TLS 1.3 ticket is for one use (RFC 8446 §C.4), and each connection brings new
    /// ones; those of TLS and DTLS 1.2 are used again.
    pub(crate) fn take(&self, server: &str) -> Option<SslSession> {
        let mut sessions = self.0.lock();
        let session = sessions.get(server)?.clone();
        if session.protocol_version() == SslVersion::TLS1_3 {
            sessions.remove(server);
        }
        Some(session)
    }
}

/// Which server a session is with, and where it is kept.
type Place = (String, Arc<Sessions>);

static PLACE: LazyLock<Option<Index<Ssl, Place>>> = LazyLock::new(|| Ssl::new_ex_index().ok());

/// Has the sessions with this server kept there.
pub(crate) fn keep_sessions(ssl: &mut Ssl, server: &str, sessions: &Arc<Sessions>) {
    if let Some(index) = *PLACE {
        ssl.set_ex_data(index, (server.to_owned(), Arc::clone(sessions)));
    }
}

/// Keeps a session that was resumed: OpenSSL tells of new ones alone, and this one may have a new ticket.
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

/// The context of a client's handshake.
pub(crate) fn client(
    credentials: &ClientCredentials,
    protocol: Protocol,
) -> Result<SslContext, IdentityError> {
    build_client(credentials, protocol).map(SslContextBuilder::build).map_err(refused)
}

/// A client that speaks TLS 1.2 at most.
#[cfg(test)]
pub(crate) fn old_client(credentials: &ClientCredentials) -> SslContext {
    let mut context = build_client(credentials, Protocol::Tls).unwrap();
    context.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
    context.build()
}

/// A client with a TLS 1.3 suite that no pre-shared key goes with.
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
    let mut context = match protocol {
        Protocol::Dtls => common(SslMethod::dtls_client(), protocol)?,
        Protocol::Tls => common(SslMethod::tls_client(), protocol)?,
    };
    match &credentials.authorities {
        Some(bundle) => use_authorities(&mut context, bundle, None)?,
        None if credentials.accept_any => {}
        // A TLS 1.3 server may answer a pre-shared key with a certificate: nobody vouches for it.
        None if credentials.psk.is_some() => {}
        None => context.set_default_verify_paths()?,
    }
    let verify = if credentials.accept_any { SslVerifyMode::NONE } else { SslVerifyMode::PEER };
    context.set_verify(verify);
    if !credentials.alpn.is_empty() {
        context.set_alpn_protos(&wire(&credentials.alpn))?;
    }
    if let (Some(profiles), Protocol::Dtls) = (&credentials.srtp, protocol) {
        context.set_tlsext_use_srtp(profiles)?;
    }
    context.set_session_cache_mode(SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL);
    context.set_new_session_callback(|ssl, session| keep(ssl, session));
    if let Some(identity) = &credentials.identity {
        use_identity(&mut context, identity)?;
    }
    if let Some((identity, key)) = credentials.psk.clone() {
        context.set_psk_client_callback(move |_, _, identity_out, key_out| {
            // The identity goes out as a C string.
            if identity.len() >= identity_out.len() || key.len() > key_out.len() {
                return Ok(0);
            }
            identity_out[..identity.len()].copy_from_slice(&identity);
            identity_out[identity.len()] = 0;
            key_out[..key.len()].copy_from_slice(&key);
            Ok(key.len())
        });
        // A key from both sides is proof enough, and only PSK suites ask for it.
        if credentials.authorities.is_none() {
            context.set_cipher_list("ECDHE-PSK-CHACHA20-POLY1305:PSK-AES128-GCM-SHA256:PSK-AES256-GCM-SHA384:PSK-CHACHA20-POLY1305")?;
        }
    }
    Ok(context)
}

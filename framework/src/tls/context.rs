//! OpenSSL contexts: those of a server, one for each of its certificates, and those of clients.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use openssl::error::ErrorStack;
use openssl::hash::{Hasher, MessageDigest};
use openssl::ssl::{
    AlpnError, SslContext, SslContextBuilder, SslMethod, SslOptions, SslSessionCacheMode, SslVerifyMode,
    select_next_proto,
};

pub(crate) use self::chain::objection;
pub(crate) use self::client::{ClientCredentials, Sessions, client, keep_resumed, keep_sessions};
#[cfg(test)]
pub(crate) use self::client::{old_client, sha384_client};
pub(crate) use self::common::{Protocol, wants_exporters};
use self::common::{
    check_srtp, check_suites, common, use_authorities, use_exporters, use_identity, verify_keys, wire,
};
use self::names::{Choice, Names};
use self::psk::look_up;
use crate::address::Scheme;
use crate::credentials::{
    Authorize, ClientAuth, Credentials, Identity, PeerIdentity, PskLookup, SharedKeys, refused,
};
use crate::error::IdentityError;
use crate::sys;
use crate::sys::raw_keys::Side;
use crate::tls::HandshakeSummary;

mod chain;
mod client;
mod common;
pub(crate) mod connection_ids;
pub(crate) mod names;
mod probe;
pub(crate) mod psk;
mod tickets;

/// The contexts of a server's handshakes, one for each identity, and the checks after a handshake.
pub(crate) struct Contexts {
    dtls: Option<SslContext>,
    tls: Option<SslContext>,
    authorize: Option<Authorize>,
    psk: Option<PskLookup>,
}

impl Contexts {
    /// Makes the contexts that these schemes need. `keys` are the keys of session tickets, unless the credentials have
    /// their own.
    pub(crate) fn new(
        credentials: &Credentials,
        keys: &SharedKeys,
        schemes: impl Iterator<Item = Scheme>,
    ) -> Result<Self, IdentityError> {
        let mut contexts = Self {
            dtls: None,
            tls: None,
            authorize: credentials.authorize.clone(),
            psk: credentials.psk.clone(),
        };
        for scheme in schemes {
            match scheme {
                Scheme::Dtls | Scheme::SctpDtls if contexts.dtls.is_none() => {
                    contexts.dtls = Some(server_with(credentials, keys, Protocol::Dtls)?);
                }
                Scheme::SctpTls | Scheme::Tls if contexts.tls.is_none() => {
                    contexts.tls = Some(server_with(credentials, keys, Protocol::Tls)?);
                }
                _ => {}
            }
        }
        Ok(contexts)
    }

    /// Returns the context for DTLS 1.2, which exists if a listener has such a scheme.
    pub(crate) fn dtls(&self) -> &SslContext {
        self.dtls.as_ref().expect("a DTLS listener has a context")
    }

    /// Returns the context for TLS, which exists if a listener has such a scheme.
    pub(crate) fn tls(&self) -> &SslContext {
        self.tls.as_ref().expect("a TLS listener has a context")
    }

    /// Checks whether a peer that has completed its handshake is authorized. A pre-shared key may have been withdrawn
    /// since a resumed session began, and the user's callback decides each time. Blocks as the user's callbacks do.
    pub(crate) fn check_authorized(&self, summary: &HandshakeSummary) -> Result<(), &'static str> {
        let identity = &summary.identity;
        if let PeerIdentity::Psk(name) = identity
            && summary.resumed
            && self.psk.as_ref().and_then(|lookup| look_up(lookup, name)).is_none()
        {
            return Err("its pre-shared key is no longer known");
        }
        let Some(ask) = &self.authorize else { return Ok(()) };
        match catch_unwind(AssertUnwindSafe(|| ask(identity))) {
            Ok(true) => Ok(()),
            Ok(false) => Err("the authorize callback refused it"),
            Err(_) => Err("the authorize callback panicked"),
        }
    }
}

/// Makes the context of a server's handshakes, with random ticket keys.
#[cfg(test)]
pub(crate) fn server(credentials: &Credentials, protocol: Protocol) -> Result<SslContext, IdentityError> {
    server_with(credentials, &SharedKeys::random()?, protocol)
}

/// Makes the context of a server's handshakes: that of the first identity, which switches to those of the others.
fn server_with(
    credentials: &Credentials,
    keys: &SharedKeys,
    protocol: Protocol,
) -> Result<SslContext, IdentityError> {
    if credentials.raw_keys.is_some() && !sys::raw_keys::LINKED {
        return Err(IdentityError::NoRawPublicKeys);
    }
    if credentials.alpn.iter().any(|protocol| !(1..=255).contains(&protocol.len())) {
        return Err(IdentityError::BadAlpn);
    }
    if let (Some(lists), ClientAuth::Optional(bundle) | ClientAuth::Required(bundle)) =
        (&credentials.revoked, &credentials.client_auth)
    {
        lists.check_authorities(&bundle.certificates)?;
    }
    check_srtp(credentials.srtp.as_deref())?;
    check_suites(&credentials.algorithms, protocol, false)?;
    let keys = credentials.keys.as_ref().unwrap_or(keys);
    let log = credentials.key_log.as_deref().map(open_key_log).transpose()?;
    let build = |identity: Option<&Identity>| {
        build_server(credentials, identity, keys, log.clone(), protocol).map_err(refused)
    };
    let Some((first, others)) = credentials.identities.split_first() else {
        return Ok(build(None)?.build());
    };
    let newest = probe::newest_version(first, &credentials.algorithms, protocol)?;
    let mut context = build(Some(first))?;
    // OpenSSL would choose TLS 1.3 for an identity and then find no signature algorithm for it.
    context.set_max_proto_version(Some(newest)).map_err(refused)?;
    let mut names = Names::default();
    names.add(first.names(), None);
    for identity in others {
        let newest = probe::newest_version(identity, &credentials.algorithms, protocol)?;
        names.add(identity.names(), Some(Choice { context: build(Some(identity))?.build(), newest }));
    }
    names.choose_by(&mut context);
    Ok(context.build())
}

fn build_server(
    credentials: &Credentials,
    identity: Option<&Identity>,
    keys: &SharedKeys,
    log: Option<Arc<File>>,
    protocol: Protocol,
) -> Result<SslContextBuilder, ErrorStack> {
    let method = match protocol {
        Protocol::Dtls => SslMethod::dtls_server(),
        Protocol::Tls => SslMethod::tls_server(),
    };
    let mut context = common(method, protocol, credentials.max_cert_chain, &credentials.algorithms)?;
    if protocol == Protocol::Dtls {
        // DTLSv1_listen requires both callbacks. The dispatcher makes and checks cookies, and gives workers only hellos
        // whose cookie it has verified.
        context.set_cookie_generate_cb(|_, _| Err(ErrorStack::get()));
        context.set_cookie_verify_cb(|_, _| true);
        if let Some(profiles) = &credentials.srtp {
            context.set_tlsext_use_srtp(profiles)?;
        }
        use_exporters(&mut context, credentials.exporters)?;
        connection_ids::use_connection_ids(&mut context)?;
    } else if credentials.psk.is_some() {
        if let Some(suites) = credentials.algorithms.suites.sha256_first() {
            context.set_ciphersuites(&suites)?;
        }
        // TLS 1.3 resumes with the same extension as pre-shared keys. So a client could name another client's key
        // without having it, resume with its own ticket, and get the identity from the lookup. Without tickets, a
        // pre-shared key that is used is one that was looked up.
        context.set_options(SslOptions::NO_TICKET);
        context.set_num_tickets(0)?;
    }
    // Tickets suffice for resumption; a cache would hold memory for peers that have left.
    context.set_session_cache_mode(SslSessionCacheMode::OFF);
    context.set_session_id_context(&session_context(credentials, identity, protocol)?)?;
    tickets::use_keys(&mut context, keys)?;
    chain::use_records(&mut context);
    if let Some(identity) = identity {
        use_identity(&mut context, identity)?;
        if let Some(response) = identity.ocsp.clone() {
            context.set_status_callback(move |ssl| ssl.set_ocsp_status(&response).map(|()| true))?;
        }
    }
    if !credentials.alpn.is_empty() {
        let ours = wire(&credentials.alpn);
        context.set_alpn_select_callback(move |_, theirs| {
            // RFC 7301 §3.2: having no common protocol is a fatal error.
            let chosen = select_next_proto(&ours, theirs).ok_or(AlpnError::ALERT_FATAL)?;
            // The same bytes in the client's list, which have the required lifetime.
            let start = theirs.windows(chosen.len()).position(|found| found == chosen);
            start.map(|start| &theirs[start..start + chosen.len()]).ok_or(AlpnError::ALERT_FATAL)
        });
    }
    let (bundle, mode) = match &credentials.client_auth {
        ClientAuth::None => (None, SslVerifyMode::NONE),
        ClientAuth::Optional(bundle) => (Some(bundle), SslVerifyMode::PEER),
        ClientAuth::Required(bundle) => {
            (Some(bundle), SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT)
        }
    };
    match &credentials.raw_keys {
        None => context.set_verify(mode),
        Some(accepted) => {
            sys::raw_keys::allow(&mut context, Side::Server)?;
            let mut mode = mode;
            if !accepted.is_empty() {
                sys::raw_keys::allow(&mut context, Side::Client)?;
                mode |= SslVerifyMode::PEER;
            }
            verify_keys(&mut context, mode, accepted, true)?;
        }
    }
    if let Some(bundle) = bundle {
        use_authorities(&mut context, Some(bundle), credentials.revoked.as_ref())?;
        for certificate in &bundle.certificates {
            context.add_client_ca(certificate)?;
        }
    }
    if let Some(lookup) = credentials.psk.clone() {
        psk::use_lookup(&mut context, lookup)?;
    }
    if let Some(log) = log {
        context.set_keylog_callback(move |_, line| {
            // One write for each line, so that lines of several threads do not mix.
            let _ = (&*log).write_all(format!("{line}\n").as_bytes());
        });
    }
    Ok(context)
}

/// Returns the session id context, which must match when a session is resumed: the identity that the server showed, by
/// the names of its certificate, and the requirements for clients. A renewed certificate or a further identity does not
/// change it.
fn session_context(
    credentials: &Credentials,
    identity: Option<&Identity>,
    protocol: Protocol,
) -> Result<Vec<u8>, ErrorStack> {
    let names: BTreeSet<String> = identity.into_iter().flat_map(Identity::names).collect();
    let mut hasher = Hasher::new(MessageDigest::sha256())?;
    let bundle = match &credentials.client_auth {
        ClientAuth::None => None,
        ClientAuth::Optional(bundle) => Some((b"optional", bundle)),
        ClientAuth::Required(bundle) => Some((b"required", bundle)),
    };
    hasher.update(b"peeloff")?;
    hasher.update(&[protocol as u8, u8::from(credentials.psk.is_some())])?;
    // Length prefixes make the encoding unambiguous.
    hasher.update(&(names.len() as u64).to_be_bytes())?;
    for name in &names {
        hasher.update(&(name.len() as u64).to_be_bytes())?;
        hasher.update(name.as_bytes())?;
    }
    if let Some((mode, bundle)) = bundle {
        hasher.update(mode)?;
        for certificate in &bundle.certificates {
            hasher.update(&certificate.digest(MessageDigest::sha256())?)?;
        }
    }
    for key in credentials.raw_keys.iter().flatten() {
        hasher.update(&key.0.public_key_to_der()?)?;
    }
    Ok(hasher.finish()?.to_vec())
}

fn open_key_log(path: &Path) -> Result<Arc<File>, IdentityError> {
    let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    opened.map(Arc::new).map_err(|source| IdentityError::Unwritable { path: path.to_owned(), source })
}

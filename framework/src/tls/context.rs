//! The OpenSSL contexts: those of a server, one for each of its certificates, and one for each client.

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
use crate::tls::Facts;

mod chain;
mod client;
mod common;
pub(crate) mod connection_ids;
pub(crate) mod names;
mod probe;
pub(crate) mod psk;
mod tickets;

/// The contexts of a server's handshakes, one for each identity, and what is looked at after them.
pub(crate) struct Contexts {
    dtls: Option<SslContext>,
    tls: Option<SslContext>,
    authorize: Option<Authorize>,
    psk: Option<PskLookup>,
}

impl Contexts {
    /// Those that these schemes need. `keys` are those of session tickets, unless the credentials have some.
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

    /// DTLS 1.2, which a listener with such a scheme has.
    pub(crate) fn dtls(&self) -> &SslContext {
        self.dtls.as_ref().expect("a DTLS listener has a context")
    }

    /// TLS, which a listener with such a scheme has.
    pub(crate) fn tls(&self) -> &SslContext {
        self.tls.as_ref().expect("a TLS listener has a context")
    }

    /// Whether a peer that has completed its handshake may come in: a pre-shared key may be withdrawn since the session
    /// began that is resumed, and the user decides anew each time. Blocks as the user's callbacks do.
    pub(crate) fn may_enter(&self, facts: &Facts) -> Result<(), &'static str> {
        let identity = &facts.identity;
        if let PeerIdentity::Psk(name) = identity
            && facts.resumed
            && self.psk.as_ref().and_then(|lookup| look_up(lookup, name)).is_none()
        {
            return Err("its pre-shared key is not known any more");
        }
        let Some(ask) = &self.authorize else { return Ok(()) };
        match catch_unwind(AssertUnwindSafe(|| ask(identity))) {
            Ok(true) => Ok(()),
            Ok(false) => Err("it is not authorised"),
            Err(_) => Err("asking whether it is authorised panicked"),
        }
    }
}

/// The context of a server's handshakes, with keys for tickets that nobody else has.
#[cfg(test)]
pub(crate) fn server(credentials: &Credentials, protocol: Protocol) -> Result<SslContext, IdentityError> {
    server_with(credentials, &SharedKeys::random()?, protocol)
}

/// The context of a server's handshakes: that of the first identity, which hands over to those of the others.
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
    // OpenSSL would choose TLS 1.3 for an identity that it then finds no signature for.
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
        // DTLSv1_listen wants both. Cookies are made and checked by the dispatcher, which gives a
        // worker only hellos that it has proof for.
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
        // TLS 1.3 resumes by the same extension: a client could name somebody's key, be passed over
        // for it, resume with a ticket of its own, and have the lookup's identity. Without tickets a
        // pre-shared key that was used is one that was looked up.
        context.set_options(SslOptions::NO_TICKET);
        context.set_num_tickets(0)?;
    }
    // Tickets resume; a cache would only hold memory for peers that are gone.
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
            // RFC 7301 §3.2: no common protocol is fatal.
            let chosen = select_next_proto(&ours, theirs).ok_or(AlpnError::ALERT_FATAL)?;
            // The same bytes in the client's list, which live for as long as they have to.
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
            // One write for a line, so that those of several threads do not mix.
            let _ = (&*log).write_all(format!("{line}\n").as_bytes());
        });
    }
    Ok(context)
}

/// What a session must have been made under to be resumed: the identity that the server showed, by the names of its
/// certificate, and what clients are asked for. A renewed certificate and a further identity leave it as it is.
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
    // Lengths in front, so that no two lists are hashed alike.
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

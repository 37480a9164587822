//! The OpenSSL contexts: one for all peers of a server, one for each client.

use std::sync::LazyLock;

use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::pkey::Id;
use openssl::ssl::{
    Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslSessionCacheMode, SslVerifyMode, SslVersion,
};
use openssl::x509::store::X509StoreBuilder;

use crate::address::Scheme;
use crate::credentials::{CaBundle, ClientAuth, Identity, PskLookup, refused};
use crate::error::IdentityError;
use crate::sys;

/// What the sessions of a context speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// DTLS 1.2, over UDP or SCTP.
    Dtls,
    /// TLS 1.2 and 1.3, over anything that keeps the order.
    Tls,
}

/// AEAD suites with forward secrecy, then PSK ones: no NULL, no anonymous, no CBC. The plain PSK
/// suites lack forward secrecy and are there for constrained devices (RFC 7925 §4.2).
const CIPHERS: &str = "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE-ECDSA-AES128-CCM:ECDHE-ECDSA-AES256-CCM:\
     ECDHE-PSK-CHACHA20-POLY1305:PSK-AES128-GCM-SHA256:PSK-AES256-GCM-SHA384:\
     PSK-CHACHA20-POLY1305:PSK-AES128-CCM:PSK-AES256-CCM:!aNULL:!eNULL:!SRP";

/// The TLS 1.3 suites of a server with pre-shared keys. A key from a callback goes with SHA-256 (RFC 8446
/// §4.2.11), and OpenSSL passes over one that does not go with the suite, so those come first.
const SHA256_FIRST: &str = "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384";

/// The longest certificate chain that a peer may send, in bytes. Without a bound OpenSSL keeps
/// up to 100 KiB for each half-open peer.
const MAX_CERT_LIST: u32 = 16 * 1024;

/// Where the identity of a PSK peer is kept while its handshake runs.
static PSK_IDENTITY: LazyLock<Option<Index<Ssl, Vec<u8>>>> = LazyLock::new(|| Ssl::new_ex_index().ok());

/// The identity that the PSK lookup of this handshake was asked for, if there was one.
pub(crate) fn psk_identity(ssl: &openssl::ssl::SslRef) -> Option<Vec<u8>> {
    ssl.ex_data((*PSK_IDENTITY)?).cloned()
}

/// What a server's context is made of.
#[derive(Clone, Default)]
pub(crate) struct ServerCredentials {
    pub(crate) identity: Option<Identity>,
    pub(crate) client_auth: ClientAuth,
    pub(crate) psk: Option<PskLookup>,
}

/// The context of a server's handshakes.
pub(crate) fn server(
    credentials: &ServerCredentials,
    protocol: Protocol,
) -> Result<SslContext, IdentityError> {
    // OpenSSL allows EdDSA for TLS 1.2 by its version number, which DTLS 1.2 does not have.
    let key = credentials.identity.as_ref().map(|identity| identity.key.id());
    if protocol == Protocol::Dtls && matches!(key, Some(Id::ED25519 | Id::ED448)) {
        return Err(IdentityError::NoServerKey);
    }
    build_server(credentials, protocol).map_err(refused)
}

fn build_server(credentials: &ServerCredentials, protocol: Protocol) -> Result<SslContext, ErrorStack> {
    let mut context = match protocol {
        Protocol::Dtls => common(SslMethod::dtls_server(), protocol)?,
        Protocol::Tls => common(SslMethod::tls_server(), protocol)?,
    };
    if protocol == Protocol::Dtls {
        // DTLSv1_listen wants both. Cookies are made and checked by the dispatcher, which gives a
        // worker only hellos that it has proof for.
        context.set_cookie_generate_cb(|_, _| Err(ErrorStack::get()));
        context.set_cookie_verify_cb(|_, _| true);
    } else if credentials.psk.is_some() {
        context.set_ciphersuites(SHA256_FIRST)?;
        // TLS 1.3 resumes by the same extension: a client could name somebody's key, be passed over
        // for it, resume with a ticket of its own, and have the lookup's identity. Without tickets a
        // pre-shared key that was used is one that was looked up.
        context.set_options(SslOptions::NO_TICKET);
        context.set_num_tickets(0)?;
    }
    context.set_session_id_context(b"peeloff")?;
    // Tickets resume; a cache would only hold memory for peers that are gone.
    context.set_session_cache_mode(SslSessionCacheMode::OFF);
    if let Some(identity) = &credentials.identity {
        use_identity(&mut context, identity)?;
    }
    let (bundle, mode) = match &credentials.client_auth {
        ClientAuth::None => (None, SslVerifyMode::NONE),
        ClientAuth::Optional(bundle) => (Some(bundle), SslVerifyMode::PEER),
        ClientAuth::Required(bundle) => {
            (Some(bundle), SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT)
        }
    };
    context.set_verify(mode);
    if let Some(bundle) = bundle {
        use_authorities(&mut context, bundle)?;
        for certificate in &bundle.certificates {
            context.add_client_ca(certificate)?;
        }
    }
    if let Some(lookup) = credentials.psk.clone() {
        context.set_psk_server_callback(move |ssl, identity, out| {
            let key = identity.and_then(|identity| Some((identity, lookup(identity)?)));
            let Some((identity, key)) = key else { return Ok(0) };
            if key.len() > out.len() {
                return Ok(0);
            }
            if let Some(index) = *PSK_IDENTITY {
                ssl.set_ex_data(index, identity.to_vec());
            }
            out[..key.len()].copy_from_slice(&key);
            Ok(key.len())
        });
    }
    Ok(context.build())
}

/// The contexts of a server's listeners: those that their schemes need.
#[derive(Default)]
pub(crate) struct Contexts {
    dtls: Option<SslContext>,
    tls: Option<SslContext>,
}

impl Contexts {
    /// Those that these schemes need.
    pub(crate) fn new(
        credentials: &ServerCredentials,
        schemes: impl Iterator<Item = Scheme>,
    ) -> Result<Self, IdentityError> {
        let mut contexts = Self::default();
        for scheme in schemes {
            match scheme {
                Scheme::Dtls | Scheme::SctpDtls if contexts.dtls.is_none() => {
                    contexts.dtls = Some(server(credentials, Protocol::Dtls)?);
                }
                Scheme::SctpTls | Scheme::Tls if contexts.tls.is_none() => {
                    contexts.tls = Some(server(credentials, Protocol::Tls)?);
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
}

/// What a client's context is made of.
#[derive(Clone, Default)]
pub(crate) struct ClientCredentials {
    pub(crate) identity: Option<Identity>,
    pub(crate) authorities: Option<CaBundle>,
    pub(crate) psk: Option<(Vec<u8>, Vec<u8>)>,
    pub(crate) accept_any: bool,
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
        Some(bundle) => use_authorities(&mut context, bundle)?,
        None if credentials.accept_any => {}
        // A TLS 1.3 server may answer a pre-shared key with a certificate: nobody vouches for it.
        None if credentials.psk.is_some() => {}
        None => context.set_default_verify_paths()?,
    }
    let verify = if credentials.accept_any { SslVerifyMode::NONE } else { SslVerifyMode::PEER };
    context.set_verify(verify);
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

fn common(method: SslMethod, protocol: Protocol) -> Result<SslContextBuilder, ErrorStack> {
    let mut context = SslContext::builder(method)?;
    let (oldest, newest) = match protocol {
        Protocol::Dtls => (SslVersion::DTLS1_2, SslVersion::DTLS1_2),
        Protocol::Tls => (SslVersion::TLS1_2, SslVersion::TLS1_3),
    };
    context.set_min_proto_version(Some(oldest))?;
    context.set_max_proto_version(Some(newest))?;
    // NO_QUERY_MTU: the handshake's datagram size is ours to choose (see `dtls`).
    context.set_options(
        SslOptions::NO_RENEGOTIATION
            | SslOptions::NO_COMPRESSION
            | SslOptions::NO_QUERY_MTU
            | SslOptions::CIPHER_SERVER_PREFERENCE
            | SslOptions::SINGLE_ECDH_USE,
    );
    context.set_cipher_list(CIPHERS)?;
    sys::ossl::set_max_cert_list(&mut context, MAX_CERT_LIST);
    Ok(context)
}

fn use_identity(context: &mut SslContextBuilder, identity: &Identity) -> Result<(), ErrorStack> {
    let (leaf, rest) = identity.chain.split_first().expect("an identity has a certificate");
    context.set_certificate(leaf)?;
    context.set_private_key(&identity.key)?;
    for certificate in rest {
        context.add_extra_chain_cert(certificate.clone())?;
    }
    context.check_private_key()
}

fn use_authorities(context: &mut SslContextBuilder, bundle: &CaBundle) -> Result<(), ErrorStack> {
    let mut store = X509StoreBuilder::new()?;
    for certificate in &bundle.certificates {
        store.add_cert(certificate.clone())?;
    }
    context.set_verify_cert_store(store.build())
}

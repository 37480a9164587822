//! Common parts of the contexts of servers and clients: versions, algorithms, identities and trust.

use std::sync::LazyLock;

use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{
    SslContext, SslContextBuilder, SslMethod, SslMode, SslOptions, SslRef, SslVerifyMode, SslVersion,
};
use openssl::x509::X509VerifyResult;
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::X509VerifyFlags;

use super::chain;
use crate::credentials::{Algorithms, CaBundle, Identity, PublicKey, RevocationList};
use crate::error::IdentityError;
use crate::sys;

/// The protocol of a context's sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// DTLS 1.2, over UDP or SCTP.
    Dtls,
    /// TLS 1.2 and 1.3, over any ordered transport.
    Tls,
}

/// Maximum length of a peer's certificate chain in bytes, unless the credentials set another one. Without a limit
/// OpenSSL keeps up to 100 KiB for each half-open peer.
const MAX_CERT_CHAIN: usize = 16 * 1024;

/// Makes a context with the settings that servers and clients share.
pub(super) fn common(
    method: SslMethod,
    protocol: Protocol,
    max_cert_chain: Option<usize>,
    algorithms: &Algorithms,
) -> Result<SslContextBuilder, ErrorStack> {
    let mut context = SslContext::builder(method)?;
    let (oldest, newest) = match protocol {
        Protocol::Dtls => (SslVersion::DTLS1_2, SslVersion::DTLS1_2),
        Protocol::Tls => algorithms.suites.versions(),
    };
    context.set_min_proto_version(Some(oldest))?;
    context.set_max_proto_version(Some(newest))?;
    // NO_QUERY_MTU: this crate chooses the size of handshake datagrams (see `dtls`).
    context.set_options(
        SslOptions::NO_RENEGOTIATION
            | SslOptions::NO_COMPRESSION
            | SslOptions::NO_QUERY_MTU
            | SslOptions::CIPHER_SERVER_PREFERENCE
            | SslOptions::SINGLE_ECDH_USE,
    );
    if protocol == Protocol::Tls {
        // Idle sessions keep no buffers, and a message that waits for a renegotiation may move in memory.
        context.set_mode(SslMode::RELEASE_BUFFERS | SslMode::ACCEPT_MOVING_WRITE_BUFFER);
    }
    if let Some(suites) = algorithms.suites.old(false) {
        context.set_cipher_list(&suites)?;
    }
    if let Some(suites) = algorithms.suites.new_ones() {
        context.set_ciphersuites(&suites)?;
    }
    if let Some(groups) = algorithms.groups.list() {
        context.set_groups_list(&groups)?;
    }
    if algorithms.suites.has_short_tags() {
        sys::ossl::admit_short_tags(&mut context);
    }
    let max_cert_chain = u32::try_from(max_cert_chain.unwrap_or(MAX_CERT_CHAIN)).unwrap_or(u32::MAX);
    sys::ossl::set_max_cert_list(&mut context, max_cert_chain);
    Ok(context)
}

pub(super) fn use_identity(context: &mut SslContextBuilder, identity: &Identity) -> Result<(), ErrorStack> {
    let (leaf, rest) = identity.chain.split_first().expect("an identity has a certificate");
    context.set_certificate(leaf)?;
    context.set_private_key(&identity.key)?;
    for certificate in rest {
        context.add_extra_chain_cert(certificate.clone())?;
    }
    context.check_private_key()
}

/// Verifies chains against these authorities, or the system's, and checks every certificate of a chain against the
/// lists.
pub(super) fn use_authorities(
    context: &mut SslContextBuilder,
    bundle: Option<&CaBundle>,
    revoked: Option<&RevocationList>,
) -> Result<(), ErrorStack> {
    let mut store = X509StoreBuilder::new()?;
    match bundle {
        None => store.set_default_paths()?,
        Some(bundle) => {
            for certificate in &bundle.certificates {
                store.add_cert(certificate.clone())?;
            }
        }
    }
    if let Some(lists) = revoked {
        lists.add_to(&mut store)?;
        store.set_flags(X509VerifyFlags::CRL_CHECK | X509VerifyFlags::CRL_CHECK_ALL)?;
        chain::use_lists(context, lists)?;
    }
    context.set_verify_cert_store(store.build())
}

/// Accepts these bare keys. Accepts certificates only if `certificates` is set and they verify.
pub(super) fn verify_keys(
    context: &mut SslContextBuilder,
    mode: SslVerifyMode,
    accepted: &[PublicKey],
    certificates: bool,
) -> Result<(), ErrorStack> {
    let accepted: Result<Vec<_>, _> = accepted.iter().map(|key| key.0.public_key_to_der()).collect();
    let accepted = accepted?;
    context.set_verify_callback(mode, move |verified, verification| {
        match sys::raw_keys::in_question(verification) {
            None => verified && certificates,
            Some(key) if accepted.contains(&key) => {
                verification.set_error(X509VerifyResult::OK);
                true
            }
            Some(_) => false,
        }
    });
    Ok(())
}

/// Marks contexts whose sessions keep the secret that exporters need.
static EXPORTERS: LazyLock<Option<Index<SslContext, ()>>> = LazyLock::new(|| SslContext::new_ex_index().ok());

/// Makes sessions keep the secret that exporters need, if `wanted`.
pub(super) fn use_exporters(context: &mut SslContextBuilder, wanted: bool) -> Result<(), ErrorStack> {
    if wanted {
        context.set_ex_data((*EXPORTERS).ok_or_else(ErrorStack::get)?, ());
    }
    Ok(())
}

/// Returns whether a session keeps the secret that exporters need: if that was requested, and with SRTP, whose keys are
/// derived from it.
pub(crate) fn wants_exporters(ssl: &SslRef) -> bool {
    let asked = EXPORTERS.and_then(|index| ssl.ssl_context().ex_data(index)).is_some();
    asked || ssl.selected_srtp_profile().is_some()
}

/// Checks that the profiles have no zero byte, which would end them for OpenSSL; its binding panics in that case.
pub(super) fn check_srtp(profiles: Option<&str>) -> Result<(), IdentityError> {
    match profiles.is_some_and(|profiles| profiles.contains('\0')) {
        true => Err(IdentityError::Refused("the SRTP profiles have a zero byte".to_owned())),
        false => Ok(()),
    }
}

/// Checks that there is a suite for this protocol; with `psk_only`, one with a pre-shared key.
pub(super) fn check_suites(
    algorithms: &Algorithms,
    protocol: Protocol,
    psk_only: bool,
) -> Result<(), IdentityError> {
    let Algorithms { suites, .. } = algorithms;
    let old = suites.old(psk_only).is_some();
    match protocol {
        Protocol::Dtls if !old => Err(IdentityError::NoSuite { protocol: "DTLS 1.2" }),
        Protocol::Tls if !old && suites.new_ones().is_none() => {
            Err(IdentityError::NoSuite { protocol: "TLS" })
        }
        _ => Ok(()),
    }
}

/// Encodes protocol names as they are sent (RFC 7301 §3.1).
pub(super) fn wire(protocols: &[Vec<u8>]) -> Vec<u8> {
    let mut wire = Vec::new();
    for protocol in protocols {
        wire.push(u8::try_from(protocol.len()).unwrap_or(u8::MAX));
        wire.extend_from_slice(&protocol[..protocol.len().min(255)]);
    }
    wire
}

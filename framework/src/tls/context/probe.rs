//! Tests at the start of a server whether OpenSSL can use an identity at all, with a handshake over memory.
//!
//! Several kinds of keys load without an error and then fail with every client: RSA-PSS, Ed25519 and Ed448 with DTLS
//! 1.2, DSA, elliptic curves without a cipher suite or signature scheme, chains below the security level. Which ones
//! fail depends on OpenSSL's version and configuration, so there is no list here: a client that accepts everything
//! tries each version.

use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::Id;
use openssl::ssl::{SslContext, SslMethod, SslVerifyMode, SslVersion};

use super::common::{Protocol, common, use_identity};
use crate::credentials::{Algorithms, Identity, name_line};
use crate::error::{EndReason, IdentityError};
use crate::tls::Failure;
use crate::tls::engine::{Engine, Framing};

/// The size of the datagrams, in which no record is fragmented.
const MTU: u16 = 1400;

/// Maximum number of round trips, more than any handshake needs.
const MAX_ROUNDS: usize = 16;

/// Returns the newest version that this identity can be used with. Logs a warning if only some clients can use it.
///
/// # Errors
///
/// [`IdentityError::UnusableKey`]: it cannot be used at all.
pub(super) fn newest_version(
    identity: &Identity,
    algorithms: &Algorithms,
    protocol: Protocol,
) -> Result<SslVersion, IdentityError> {
    let certificate = || name_line(identity.chain[0].subject_name());
    let (oldest, newest, name) = match protocol {
        Protocol::Dtls => (SslVersion::DTLS1_2, SslVersion::DTLS1_2, "DTLS 1.2"),
        Protocol::Tls => (SslVersion::TLS1_2, SslVersion::TLS1_3, "TLS"),
    };
    let uncommon = curve(identity).filter(|curve| !COMMON_CURVES.contains(curve));
    // OpenSSL 3.2 and later can use Brainpool's curves with TLS 1.3 (RFC 8734), but most clients cannot. With TLS 1.2
    // they can.
    let newest = if uncommon.is_some() { oldest } else { newest };
    let found = match try_version(identity, algorithms, protocol, newest) {
        Ok(()) => newest,
        Err(_) if newest != oldest && try_version(identity, algorithms, protocol, oldest).is_ok() => oldest,
        Err(failure) => {
            return Err(IdentityError::UnusableKey {
                protocol: name,
                key: describe(identity),
                certificate: certificate(),
                why: failure,
            });
        }
    };
    if let Some(curve) = uncommon {
        tracing::warn!(
            certificate = certificate(),
            curve = curve.short_name().unwrap_or("?"),
            "only clients that offer this curve can use the certificate, and only with version 1.2; a certificate \
             on P-256 serves all"
        );
    }
    Ok(found)
}

/// The curves that clients offer by default and for which TLS 1.3 has signature schemes (RFC 8446 §4.2.3).
const COMMON_CURVES: [Nid; 3] = [Nid::X9_62_PRIME256V1, Nid::SECP384R1, Nid::SECP521R1];

/// Runs a handshake of this version; the error is OpenSSL's reason.
fn try_version(
    identity: &Identity,
    algorithms: &Algorithms,
    protocol: Protocol,
    version: SslVersion,
) -> Result<(), String> {
    let refused = |errors: ErrorStack| {
        let reason = errors.errors().first().and_then(|error| error.reason());
        reason.unwrap_or("OpenSSL gave no reason").to_owned()
    };
    let server = server(identity, algorithms, protocol).map_err(refused)?;
    let client = client(identity, algorithms, protocol, version).map_err(refused)?;
    do_handshake(&server, &client, protocol).map_err(|failure| match failure {
        Failure::Ended(EndReason::HandshakeFailed(why)) | Failure::Unverified(why) => why,
        other => other.to_string(),
    })
}

fn do_handshake(server: &SslContext, client: &SslContext, protocol: Protocol) -> Result<(), Failure> {
    let framing = match protocol {
        Protocol::Dtls => Framing::Datagrams,
        Protocol::Tls => Framing::Bytes,
    };
    let mut server = Engine::accept(server, framing)?;
    let mut client = Engine::connect(client, None, framing)?;
    if protocol == Protocol::Dtls {
        for engine in [&mut server, &mut client] {
            engine.set_mtu(MTU);
        }
    }
    for _ in 0..MAX_ROUNDS {
        let client_done = client.step()?;
        client.take_outgoing().iter().for_each(|bytes| server.feed(bytes));
        let server_done = server.step()?;
        server.take_outgoing().iter().for_each(|bytes| client.feed(bytes));
        if client_done && server_done {
            return Ok(());
        }
    }
    Err(Failure::Ended(EndReason::HandshakeTimedOut))
}

fn server(
    identity: &Identity,
    algorithms: &Algorithms,
    protocol: Protocol,
) -> Result<SslContext, ErrorStack> {
    let method = match protocol {
        Protocol::Dtls => SslMethod::dtls_server(),
        Protocol::Tls => SslMethod::tls_server(),
    };
    let mut context = common(method, protocol, None, algorithms)?;
    use_identity(&mut context, identity)?;
    Ok(context.build())
}

/// Makes a client that accepts everything.
fn client(
    identity: &Identity,
    algorithms: &Algorithms,
    protocol: Protocol,
    version: SslVersion,
) -> Result<SslContext, ErrorStack> {
    let mut context = SslContext::builder(match protocol {
        Protocol::Dtls => SslMethod::dtls_client(),
        Protocol::Tls => SslMethod::tls_client(),
    })?;
    context.set_min_proto_version(Some(version))?;
    context.set_max_proto_version(Some(version))?;
    context.set_security_level(0);
    context.set_verify(SslVerifyMode::NONE);
    context.set_cipher_list("ALL")?;
    if let Some(suites) = algorithms.suites.new_ones() {
        context.set_ciphersuites(&suites)?;
    }
    let groups = algorithms.groups.list();
    if let Some(groups) = &groups {
        context.set_groups_list(groups)?;
    }
    // A server may use an ECDSA key only if the client offers its curve (RFC 8422 §5.1). OpenSSL refuses the list if
    // TLS does not support the curve.
    if let Some(curve) = curve(identity).and_then(|curve| curve.short_name().ok()) {
        let groups = groups.as_deref().unwrap_or("X25519:P-256:P-384:P-521");
        let _ = context.set_groups_list(&format!("{curve}:{groups}"));
    }
    Ok(context.build())
}

fn curve(identity: &Identity) -> Option<Nid> {
    identity.key.ec_key().ok()?.group().curve_name()
}

/// Describes the kind of a key, as in "RSA key of 1024 bits".
fn describe(identity: &Identity) -> String {
    let kind = match identity.key.id() {
        Id::RSA => return format!("RSA key of {} bits", identity.key.bits()),
        Id::EC => {
            let curve = curve(identity).and_then(|curve| curve.short_name().ok());
            return format!("ECDSA key on the curve {}", curve.unwrap_or("without a name"));
        }
        Id::RSA_PSS => "RSA-PSS",
        Id::DSA => "DSA",
        Id::ED25519 => "Ed25519",
        Id::ED448 => "Ed448",
        // OpenSSL has no number for kinds that only its providers support.
        _ => return "key of another kind".to_owned(),
    };
    format!("{kind} key")
}

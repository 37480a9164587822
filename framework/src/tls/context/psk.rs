//! Pre-shared keys on the server's side (RFC 4279, RFC 8446 §4.2.11): the lookup of a client's key, and the resulting
//! identity.
//!
//! An identity is a string of bytes (RFC 4279 §5.1), but OpenSSL passes it to its callback as a C string: `a\0b`
//! arrives as `a`. The complete identity is in the handshake message and is kept separately. If the two differ, the
//! client gets no key. So a lookup never sees an identity with a zero byte, and no client is accepted because of a part
//! of its identity.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;

use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{Ssl, SslContextBuilder, SslRef};

use crate::credentials::PskLookup;
use crate::printable::psk_name;
use crate::sys::ossl;

/// The identity whose key a handshake got.
static FOUND: LazyLock<Option<Index<Ssl, Vec<u8>>>> = LazyLock::new(|| Ssl::new_ex_index().ok());

/// Returns the identity whose key this handshake got, if it got one.
pub(crate) fn psk_identity(ssl: &SslRef) -> Option<Vec<u8>> {
    ssl.ex_data((*FOUND)?).cloned()
}

/// The identity that a client named in its handshake.
static NAMED: LazyLock<Option<Index<Ssl, Vec<u8>>>> = LazyLock::new(|| Ssl::new_ex_index().ok());

/// Notes the identity that a client names.
pub(super) fn note_named(ssl: &mut SslRef, identity: &[u8]) {
    if let Some(index) = *NAMED {
        ssl.set_ex_data(index, identity.to_vec());
    }
}

/// Returns the identity whose key both sides of this handshake use, safe for a log: the one that this client named, or
/// that this server was asked for.
pub(crate) fn identity_in_use(ssl: &SslRef) -> Option<String> {
    let identity = match ssl.is_server() {
        true => ossl::sent_psk_identity(ssl),
        false => ssl.ex_data((*NAMED)?).map(Vec::as_slice),
    };
    identity.map(psk_name)
}

/// Adds the identity to the reason of a failed handshake. OpenSSL's own reason for an identity without a key is
/// misleading: in TLS 1.3 it continues without the key and reports that it has no certificate either.
pub(crate) fn explain(ssl: &SslRef, reason: String) -> String {
    match identity_in_use(ssl) {
        None => reason,
        Some(identity) if ssl.is_server() && psk_identity(ssl).is_none() => {
            format!("there is no pre-shared key for the identity {identity} ({reason})")
        }
        Some(identity) => format!("{reason} (the pre-shared key of {identity})"),
    }
}

/// Looks up a key. A panic counts as `None`, because it must not unwind into OpenSSL, which would end the process.
pub(super) fn look_up(lookup: &PskLookup, identity: &[u8]) -> Option<Vec<u8>> {
    catch_unwind(AssertUnwindSafe(|| lookup(identity))).unwrap_or_default()
}

/// Makes a server's handshakes use this lookup.
pub(super) fn use_lookup(context: &mut SslContextBuilder, lookup: PskLookup) -> Result<(), ErrorStack> {
    let found = (*FOUND).ok_or_else(ErrorStack::get)?;
    ossl::keep_psk_identities(context);
    context.set_psk_server_callback(move |ssl, identity, out| {
        let whole = identity.filter(|identity| ossl::sent_psk_identity(ssl) == Some(*identity));
        let key = whole.and_then(|identity| Some((identity, look_up(&lookup, identity)?)));
        let Some((identity, key)) = key else { return Ok(0) };
        if key.len() > out.len() {
            return Ok(0);
        }
        ssl.set_ex_data(found, identity.to_vec());
        out[..key.len()].copy_from_slice(&key);
        Ok(key.len())
    });
    Ok(())
}

//! Pre-shared keys on the server's side (RFC 4279, RFC 8446 §4.2.11): which key a client asks for, and who it is then.
//!
//! An identity is a string of bytes (RFC 4279 §5.1), and OpenSSL gives its callback a C string: `a\0b` arrives as `a`.
//! The handshake message has the whole of it, which is kept beside, and where the two differ the client has no key. So
//! a lookup never sees an identity with a zero byte, and nobody is let in by a part of one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;

use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{Ssl, SslContextBuilder, SslRef};

use crate::credentials::PskLookup;
use crate::printable::psk_name;
use crate::sys::ossl;

/// The identity whose key a handshake was given.
static FOUND: LazyLock<Option<Index<Ssl, Vec<u8>>>> = LazyLock::new(|| Ssl::new_ex_index().ok());

/// Returns the identity whose key this handshake was given, if it was given one.
pub(crate) fn psk_identity(ssl: &SslRef) -> Option<Vec<u8>> {
    ssl.ex_data((*FOUND)?).cloned()
}

/// The identity that a client has named in its handshake.
static NAMED: LazyLock<Option<Index<Ssl, Vec<u8>>>> = LazyLock::new(|| Ssl::new_ex_index().ok());

/// Notes the identity that a client names.
pub(super) fn note_named(ssl: &mut SslRef, identity: &[u8]) {
    if let Some(index) = *NAMED {
        ssl.set_ex_data(index, identity.to_vec());
    }
}

/// Returns the identity whose key both sides of this handshake work with, safe for a log: the one that a client named, or the
/// one that a server was asked for.
pub(crate) fn identity_in_use(ssl: &SslRef) -> Option<String> {
    let identity = match ssl.is_server() {
        true => ossl::sent_psk_identity(ssl),
        false => ssl.ex_data((*NAMED)?).map(Vec::as_slice),
    };
    identity.map(psk_name)
}

/// Adds to the reason of a failed handshake which identity it was about. OpenSSL's own reason for an identity without a key is
/// about something else: in TLS 1.3 it goes on without the key and finds that it has no certificate either.
pub(crate) fn explain(ssl: &SslRef, reason: String) -> String {
    match identity_in_use(ssl) {
        None => reason,
        Some(identity) if ssl.is_server() && psk_identity(ssl).is_none() => {
            format!("there is no pre-shared key for the identity {identity} ({reason})")
        }
        Some(identity) => format!("{reason} (the pre-shared key of {identity})"),
    }
}

/// Asks for a key. A panic is a `None`: it must not get into OpenSSL, which would end the process.
pub(super) fn look_up(lookup: &PskLookup, identity: &[u8]) -> Option<Vec<u8>> {
    catch_unwind(AssertUnwindSafe(|| lookup(identity))).unwrap_or_default()
}

/// Has a server's handshakes ask this lookup.
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

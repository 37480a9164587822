//! Raw public keys (RFC 7250), which OpenSSL supports since version 3.2. With an earlier version no key is ever shown.

use openssl::error::ErrorStack;
use openssl::ssl::{SslContextBuilder, SslRef};
use openssl::x509::X509StoreContextRef;

/// The side whose key is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Server,
    Client,
}

/// Whether the linked OpenSSL supports them.
pub(crate) const LINKED: bool = cfg!(raw_public_keys);

/// Lets this side show its bare key, if both sides want that
/// ([SSL_CTX_set1_server_cert_type(3)](https://docs.openssl.org/3.2/man3/SSL_CTX_set1_server_cert_type/)).
pub(crate) fn allow(context: &mut SslContextBuilder, whose: Side) -> Result<(), ErrorStack> {
    linked::allow(context, whose)
}

/// Returns the bare key, in DER, that a verification is about
/// ([X509_STORE_CTX_get0_rpk(3)](https://docs.openssl.org/3.2/man3/X509_STORE_CTX_get_by_subject/)); `None` if it is
/// about a certificate.
pub(crate) fn in_question(verification: &X509StoreContextRef) -> Option<Vec<u8>> {
    linked::in_question(verification)
}

/// Returns the bare key, in DER, that the peer has shown
/// ([SSL_get0_peer_rpk(3)](https://docs.openssl.org/3.2/man3/SSL_get0_peer_rpk/)).
pub(crate) fn shown(ssl: &SslRef) -> Option<Vec<u8>> {
    linked::shown(ssl)
}

#[cfg(raw_public_keys)]
mod linked {
    use foreign_types::ForeignTypeRef;
    use libc::{c_int, size_t};
    use openssl::pkey::{PKeyRef, Public};
    use openssl_sys as ffi;

    use super::*;

    unsafe extern "C" {
        fn SSL_CTX_set1_server_cert_type(ctx: *mut ffi::SSL_CTX, value: *const u8, len: size_t) -> c_int;
        fn SSL_CTX_set1_client_cert_type(ctx: *mut ffi::SSL_CTX, value: *const u8, len: size_t) -> c_int;
        fn SSL_get0_peer_rpk(ssl: *const ffi::SSL) -> *mut ffi::EVP_PKEY;
        fn X509_STORE_CTX_get0_rpk(verification: *const ffi::X509_STORE_CTX) -> *mut ffi::EVP_PKEY;
    }

    /// TLSEXT_cert_type_rpk and TLSEXT_cert_type_x509: the bare key is preferred.
    const TYPES: [u8; 2] = [2, 0];

    pub(super) fn allow(context: &mut SslContextBuilder, whose: Side) -> Result<(), ErrorStack> {
        let (context, types, len) = (context.as_ptr(), TYPES.as_ptr(), TYPES.len());
        // SAFETY: the context is live, the pointer and the length are those of an array that is copied.
        let set = unsafe {
            match whose {
                Side::Server => SSL_CTX_set1_server_cert_type(context, types, len),
                Side::Client => SSL_CTX_set1_client_cert_type(context, types, len),
            }
        };
        if set == 1 { Ok(()) } else { Err(ErrorStack::get()) }
    }

    pub(super) fn in_question(verification: &X509StoreContextRef) -> Option<Vec<u8>> {
        // SAFETY: the verification is live, and its key lives as long as it.
        unsafe { der(X509_STORE_CTX_get0_rpk(verification.as_ptr())) }
    }

    pub(super) fn shown(ssl: &SslRef) -> Option<Vec<u8>> {
        // SAFETY: the SSL is live, and its key lives as long as it.
        unsafe { der(SSL_get0_peer_rpk(ssl.as_ptr())) }
    }

    /// # Safety
    ///
    /// The key is null or live.
    unsafe fn der(key: *mut ffi::EVP_PKEY) -> Option<Vec<u8>> {
        if key.is_null() {
            return None;
        }
        // SAFETY: as the caller ensures.
        unsafe { PKeyRef::<Public>::from_ptr(key) }.public_key_to_der().ok()
    }
}

#[cfg(not(raw_public_keys))]
mod linked {
    use super::*;

    pub(super) fn allow(_: &mut SslContextBuilder, _: Side) -> Result<(), ErrorStack> {
        Ok(())
    }

    pub(super) fn in_question(_: &X509StoreContextRef) -> Option<Vec<u8>> {
        None
    }

    pub(super) fn shown(_: &SslRef) -> Option<Vec<u8>> {
        None
    }
}

//! The few calls of OpenSSL that the `openssl` crate does not bind.

use std::ptr;

use foreign_types::ForeignTypeRef;
use libc::{c_int, c_long, c_uint, c_void};
use openssl::ssl::{SslContextBuilder, SslRef};
use openssl_sys as ffi;

/// Opaque `BIO_ADDR`.
#[repr(C)]
struct BioAddr {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn DTLSv1_listen(ssl: *mut ffi::SSL, client: *mut BioAddr) -> c_int;
    fn BIO_ADDR_new() -> *mut BioAddr;
    fn BIO_ADDR_free(address: *mut BioAddr);
    fn DTLS_set_timer_cb(
        ssl: *mut ffi::SSL,
        callback: Option<extern "C" fn(*mut ffi::SSL, c_uint) -> c_uint>,
    );
    fn SSL_has_pending(ssl: *const ffi::SSL) -> c_int;
    fn SSL_set_options(ssl: *mut ffi::SSL, options: u64) -> u64;
    fn SSL_clear_options(ssl: *mut ffi::SSL, options: u64) -> u64;
}

/// From `openssl/ssl.h`.
const SSL_CTRL_SET_MTU: c_int = 17;
const SSL_CTRL_SET_MAX_CERT_LIST: c_int = 51;

/// [DTLSv1_listen(3)](https://docs.openssl.org/3.0/man3/DTLSv1_listen/): reads the ClientHello
/// with the cookie from the BIO and keeps it for the handshake. `true` where it was accepted; the
/// BIO must have exactly that datagram, for the call reads on after anything else.
pub(crate) fn dtls_listen(ssl: &SslRef) -> bool {
    // SAFETY: the address is allocated and freed here; `ssl` is a live SSL that no other thread
    // uses, because its owner lends it to us while it holds it exclusively.
    unsafe {
        let address = BIO_ADDR_new();
        if address.is_null() {
            return false;
        }
        let accepted = DTLSv1_listen(ssl.as_ptr(), address);
        BIO_ADDR_free(address);
        accepted == 1
    }
}

/// [SSL_has_pending(3)](https://docs.openssl.org/3.0/man3/SSL_pending/): whether bytes of the last
/// datagram wait inside the SSL, processed or not.
pub(crate) fn has_pending(ssl: &SslRef) -> bool {
    // SAFETY: `ssl` is live; the call only reads.
    unsafe { SSL_has_pending(ssl.as_ptr()) == 1 }
}

/// Lets a TLS 1.2 client renegotiate
/// ([SSL_CTX_set_options(3)](https://docs.openssl.org/3.0/man3/SSL_CTX_set_options/)).
pub(crate) fn allow_renegotiation(ssl: &mut SslRef) {
    const ALLOW_CLIENT_RENEGOTIATION: u64 = 1 << 8;
    const NO_RENEGOTIATION: u64 = 1 << 30;
    // SAFETY: `ssl` is live and nobody else uses it; the calls take numbers.
    unsafe {
        SSL_clear_options(ssl.as_ptr(), NO_RENEGOTIATION);
        SSL_set_options(ssl.as_ptr(), ALLOW_CLIENT_RENEGOTIATION);
    }
}

/// SSL_set_mtu: the size of handshake datagrams without IP and UDP headers, in bytes. Works only
/// with SSL_OP_NO_QUERY_MTU.
pub(crate) fn set_mtu(ssl: &SslRef, mtu: u16) {
    // SAFETY: `ssl` is live, the control takes a number and no pointer.
    unsafe { ffi::SSL_ctrl(ssl.as_ptr(), SSL_CTRL_SET_MTU, c_long::from(mtu), ptr::null_mut()) };
}

/// [DTLS_set_timer_cb(3)](https://docs.openssl.org/3.0/man3/DTLS_set_timer_cb/) with the longest timeout that
/// it can express, 71 minutes: on a reliable transport nothing may be retransmitted, and OpenSSL has no
/// switch for that.
pub(crate) fn never_retransmit(ssl: &SslRef) {
    extern "C" fn never(_: *mut ffi::SSL, _: c_uint) -> c_uint {
        c_uint::MAX
    }
    // SAFETY: `ssl` is live; the callback is a function that touches nothing.
    unsafe { DTLS_set_timer_cb(ssl.as_ptr(), Some(never)) };
}

/// SSL_CTX_set_max_cert_list: the longest certificate chain that a peer may send, in bytes.
pub(crate) fn set_max_cert_list(context: &mut SslContextBuilder, bytes: u32) {
    let none: *mut c_void = ptr::null_mut();
    // SAFETY: the context is live, the control takes a number and no pointer.
    unsafe { ffi::SSL_CTX_ctrl(context.as_ptr(), SSL_CTRL_SET_MAX_CERT_LIST, c_long::from(bytes), none) };
}

/// [SSL_key_update(3)](https://docs.openssl.org/3.0/man3/SSL_key_update/) that asks the peer for one too.
#[cfg(test)]
pub(crate) fn key_update(ssl: &SslRef) -> bool {
    unsafe extern "C" {
        fn SSL_key_update(ssl: *mut ffi::SSL, kind: c_int) -> c_int;
    }
    // SAFETY: `ssl` is live, the call takes a number and no pointer.
    unsafe { SSL_key_update(ssl.as_ptr(), 1) == 1 }
}

/// [SSL_renegotiate(3)](https://docs.openssl.org/3.0/man3/SSL_key_update/), allowed before.
#[cfg(test)]
pub(crate) fn renegotiate(ssl: &SslRef) -> bool {
    unsafe extern "C" {
        fn SSL_clear_options(ssl: *mut ffi::SSL, options: u64) -> u64;
        fn SSL_renegotiate(ssl: *mut ffi::SSL) -> c_int;
    }
    const SSL_OP_NO_RENEGOTIATION: u64 = 1 << 30;
    // SAFETY: `ssl` is live, the calls take numbers and no pointer.
    unsafe {
        SSL_clear_options(ssl.as_ptr(), SSL_OP_NO_RENEGOTIATION);
        SSL_renegotiate(ssl.as_ptr()) == 1
    }
}

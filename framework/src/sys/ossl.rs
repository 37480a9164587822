//! OpenSSL calls that the `openssl` crate does not bind.

pub(crate) mod gcm_records;

use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};

use foreign_types::{ForeignType, ForeignTypeRef};
use libc::{c_int, c_long, c_uint, c_void};
use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{Ssl, SslContextBuilder, SslRef, SslSession, SslSessionRef, SslStream, SslVersion};
use openssl::x509::X509Crl;
use openssl::x509::store::X509StoreBuilder;
use openssl_sys as ffi;

/// The opaque `BIO_ADDR`.
#[repr(C)]
struct BioAddr {
    _opaque: [u8; 0],
}

/// The callback of `SSL_CTX_set_security_callback`, which decides whether an operation with this many security bits is
/// allowed.
type SecurityCallback = unsafe extern "C" fn(
    *const ffi::SSL,
    *const ffi::SSL_CTX,
    c_int,
    c_int,
    c_int,
    *mut c_void,
    *mut c_void,
) -> c_int;

unsafe extern "C" {
    fn SSL_has_pending(ssl: *const ffi::SSL) -> c_int;
    fn SSL_CTX_set_security_callback(context: *mut ffi::SSL_CTX, callback: Option<SecurityCallback>);
    fn SSL_CTX_get_security_callback(context: *const ffi::SSL_CTX) -> Option<SecurityCallback>;
    fn SSL_CIPHER_get_protocol_id(cipher: *const ffi::SSL_CIPHER) -> u16;
    fn DTLSv1_listen(ssl: *mut ffi::SSL, client: *mut BioAddr) -> c_int;
    fn BIO_ADDR_new() -> *mut BioAddr;
    fn BIO_ADDR_free(address: *mut BioAddr);
    fn DTLS_set_timer_cb(
        ssl: *mut ffi::SSL,
        callback: Option<extern "C" fn(*mut ffi::SSL, c_uint) -> c_uint>,
    );
    fn SSL_SESSION_has_ticket(session: *const ffi::SSL_SESSION) -> c_int;
    fn SSL_SESSION_dup(session: *const ffi::SSL_SESSION) -> *mut ffi::SSL_SESSION;
    fn X509_STORE_add_crl(store: *mut ffi::X509_STORE, crl: *mut ffi::X509_CRL) -> c_int;
    fn SSL_is_dtls(ssl: *const ffi::SSL) -> c_int;
    fn SSL_CTX_set_msg_callback(
        context: *mut ffi::SSL_CTX,
        callback: Option<
            unsafe extern "C" fn(c_int, c_int, c_int, *const c_void, usize, *mut ffi::SSL, *mut c_void),
        >,
    );
    fn SSL_CTX_set_psk_find_session_callback(
        context: *mut ffi::SSL_CTX,
        callback: Option<
            unsafe extern "C" fn(*mut ffi::SSL, *const u8, usize, *mut *mut ffi::SSL_SESSION) -> c_int,
        >,
    );
    fn SSL_set_info_callback(
        ssl: *mut ffi::SSL,
        callback: Option<extern "C" fn(*const ffi::SSL, c_int, c_int)>,
    );
    fn SSL_set_options(ssl: *mut ffi::SSL, options: u64) -> u64;
    fn SSL_clear_options(ssl: *mut ffi::SSL, options: u64) -> u64;
}

/// Constants from `openssl/ssl.h`.
const SSL_CTRL_SET_MTU: c_int = 17;
const SSL_CTRL_GET_MAX_CERT_LIST: c_int = 50;
const SSL_CTRL_SET_MAX_CERT_LIST: c_int = 51;

/// Calls [DTLSv1_listen(3)](https://docs.openssl.org/3.0/man3/DTLSv1_listen/), which reads the ClientHello with the
/// cookie from the BIO and keeps it for the handshake. Returns `true` if it was accepted. The BIO must contain exactly
/// that datagram, because the call continues to read after any other.
pub(crate) fn dtls_listen<S>(stream: &mut SslStream<S>) -> bool {
    // SAFETY: the address is allocated and freed here; `stream` has a live SSL and is borrowed exclusively.
    unsafe {
        let address = BIO_ADDR_new();
        if address.is_null() {
            return false;
        }
        let accepted = DTLSv1_listen(stream.ssl().as_ptr(), address);
        BIO_ADDR_free(address);
        accepted == 1
    }
}

/// Calls [SSL_has_pending(3)](https://docs.openssl.org/3.0/man3/SSL_pending/): returns whether bytes wait inside the
/// SSL, processed or not.
pub(crate) fn has_pending(ssl: &SslRef) -> bool {
    // SAFETY: `ssl` is live; the call only reads.
    unsafe { SSL_has_pending(ssl.as_ptr()) == 1 }
}

/// Counts the handshakes that a session begins.
pub(crate) struct Handshakes(Arc<AtomicU32>);

impl Handshakes {
    /// Returns how many have begun so far.
    pub(crate) fn begun(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Lets a TLS 1.2 client renegotiate
/// ([SSL_CTX_set_options(3)](https://docs.openssl.org/3.0/man3/SSL_CTX_set_options/)), and counts how often it does
/// ([SSL_set_info_callback(3)](https://docs.openssl.org/3.0/man3/SSL_set_info_callback/)), because there may be several
/// renegotiations between two reads.
pub(crate) fn allow_renegotiation(ssl: &mut SslRef) -> Handshakes {
    const ALLOW_CLIENT_RENEGOTIATION: u64 = 1 << 8;
    const NO_RENEGOTIATION: u64 = 1 << 30;
    static BEGUN: LazyLock<Option<Index<Ssl, Arc<AtomicU32>>>> = LazyLock::new(|| Ssl::new_ex_index().ok());

    extern "C" fn count(ssl: *const ffi::SSL, event: c_int, _: c_int) {
        const HANDSHAKE_START: c_int = 0x10;
        // SAFETY: OpenSSL calls with a live SSL, which its owner has lent it exclusively; only a shared reference is
        // made.
        let ssl = unsafe { SslRef::from_ptr(ssl.cast_mut()) };
        if event & HANDSHAKE_START != 0
            && let Some(begun) = BEGUN.and_then(|index| ssl.ex_data(index))
        {
            begun.fetch_add(1, Ordering::Relaxed);
        }
    }

    let begun = Arc::new(AtomicU32::new(0));
    if let Some(index) = *BEGUN {
        ssl.set_ex_data(index, Arc::clone(&begun));
        // SAFETY: `ssl` is live and not used elsewhere; the calls take numbers and a function.
        unsafe {
            SSL_set_info_callback(ssl.as_ptr(), Some(count));
            SSL_clear_options(ssl.as_ptr(), NO_RENEGOTIATION);
            SSL_set_options(ssl.as_ptr(), ALLOW_CLIENT_RENEGOTIATION);
        }
    }
    Handshakes(begun)
}

/// Calls [SSL_client_hello_get0_ext(3)](https://docs.openssl.org/3.0/man3/SSL_CTX_set_client_hello_cb/): returns the
/// body of an extension of the ClientHello. Works only within a ClientHello callback; at other times there is none.
pub(crate) fn client_hello_extension(ssl: &SslRef, number: u16) -> Option<Vec<u8>> {
    let (mut body, mut len) = (ptr::null(), 0);
    // SAFETY: `ssl` is live, and the two pointers are those of variables that outlive the call. The result lives as
    // long as the ClientHello, which outlives the copy that is made here.
    unsafe {
        let found =
            ffi::SSL_client_hello_get0_ext(ssl.as_ptr(), c_uint::from(number), &raw mut body, &raw mut len);
        match found {
            1 if len > 0 => Some(std::slice::from_raw_parts(body, len).to_vec()),
            1 => Some(Vec::new()),
            _ => None,
        }
    }
}

/// Sets the size of handshake datagrams without IP and UDP headers, in bytes (SSL_set_mtu). Works only with
/// SSL_OP_NO_QUERY_MTU.
pub(crate) fn set_mtu<S>(stream: &mut SslStream<S>, mtu: u16) {
    // SAFETY: `stream` has a live SSL and is borrowed exclusively; the control takes a number and no pointer.
    unsafe { ffi::SSL_ctrl(stream.ssl().as_ptr(), SSL_CTRL_SET_MTU, c_long::from(mtu), ptr::null_mut()) };
}

/// Calls [DTLS_set_timer_cb(3)](https://docs.openssl.org/3.0/man3/DTLS_set_timer_cb/) with the longest timeout that it
/// can express, 71 minutes: on a reliable transport nothing may be retransmitted, and OpenSSL cannot turn
/// retransmission off. Has no effect on an SSL for TLS, which has no timer.
pub fn never_retransmit(ssl: &mut SslRef) {
    extern "C" fn never(_: *mut ffi::SSL, _: c_uint) -> c_uint {
        c_uint::MAX
    }
    if !is_dtls(ssl) {
        return;
    }
    // SAFETY: `ssl` is live, borrowed exclusively, and for DTLS, so it has the state that the call writes to; the
    // callback accesses nothing.
    unsafe { DTLS_set_timer_cb(ssl.as_ptr(), Some(never)) };
}

/// Returns the maximum length of a certificate chain that this side accepts, in bytes
/// ([SSL_get_max_cert_list(3)](https://docs.openssl.org/3.0/man3/SSL_CTX_set_max_cert_list/)).
pub(crate) fn max_cert_list(ssl: &SslRef) -> usize {
    // SAFETY: the session is live, and this command only reads a number of it.
    let bytes = unsafe { ffi::SSL_ctrl(ssl.as_ptr(), SSL_CTRL_GET_MAX_CERT_LIST, 0, ptr::null_mut()) };
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Lets suites with a tag of 8 bytes (`CCM_8`) pass the context's security level, which stays unchanged for everything
/// else: keys, certificates, signatures and groups
/// ([SSL_CTX_set_security_callback(3)](https://docs.openssl.org/3.0/man3/SSL_CTX_set_security_level/)).
pub(crate) fn admit_short_tags(context: &mut SslContextBuilder) {
    // SAFETY: the context is live. OpenSSL's own callback is the same function for every context; ours has the same
    // type.
    unsafe {
        if let Some(default) = SSL_CTX_get_security_callback(context.as_ptr())
            && default as usize != admit_short_tag as *const () as usize
        {
            let _ = LEVEL.set(default);
        }
        SSL_CTX_set_security_callback(context.as_ptr(), Some(admit_short_tag));
    }
}

/// OpenSSL's own check of the security level.
static LEVEL: OnceLock<SecurityCallback> = OnceLock::new();

/// Decides about an operation. Called only by OpenSSL, which passes a cipher for operations on ciphers.
unsafe extern "C" fn admit_short_tag(
    ssl: *const ffi::SSL,
    context: *const ffi::SSL_CTX,
    operation: c_int,
    bits: c_int,
    nid: c_int,
    other: *mut c_void,
    data: *mut c_void,
) -> c_int {
    // SSL_SECOP_CIPHER_SUPPORTED, _SHARED and _CHECK (ssl.h): `other` is an SSL_CIPHER.
    const OF_CIPHERS: [c_int; 3] = [0x10001, 0x10002, 0x10003];
    // The suites of RFC 6655 §4 and RFC 7251 that the framework supports, and that of TLS 1.3 (RFC 8446 §B.4).
    const SHORT_TAGS: [u16; 5] = [0xc0a8, 0xc0a9, 0xc0ae, 0xc0af, 0x1305];
    // SAFETY: the operation tells that `other` is a cipher from OpenSSL's tables.
    let cipher = (OF_CIPHERS.contains(&operation) && !other.is_null())
        .then(|| unsafe { SSL_CIPHER_get_protocol_id(other.cast()) });
    if cipher.is_some_and(|cipher| SHORT_TAGS.contains(&cipher)) {
        return 1;
    }
    match LEVEL.get() {
        // SAFETY: the arguments that OpenSSL passed to this callback are valid for the other one.
        Some(level) => unsafe { level(ssl, context, operation, bits, nid, other, data) },
        None => 0,
    }
}

/// Sets the maximum length of a peer's certificate chain, in bytes (SSL_CTX_set_max_cert_list).
pub(crate) fn set_max_cert_list(context: &mut SslContextBuilder, bytes: u32) {
    let none: *mut c_void = ptr::null_mut();
    // SAFETY: the context is live, the control takes a number and no pointer.
    unsafe { ffi::SSL_CTX_ctrl(context.as_ptr(), SSL_CTRL_SET_MAX_CERT_LIST, c_long::from(bytes), none) };
}

/// Calls [SSL_key_update(3)](https://docs.openssl.org/3.0/man3/SSL_key_update/) and requests an update from the peer
/// too.
#[cfg(test)]
pub(crate) fn key_update(ssl: &SslRef) -> bool {
    unsafe extern "C" {
        fn SSL_key_update(ssl: *mut ffi::SSL, kind: c_int) -> c_int;
    }
    // SAFETY: `ssl` is live, the call takes a number and no pointer.
    unsafe { SSL_key_update(ssl.as_ptr(), 1) == 1 }
}

/// Permits a renegotiation and calls [SSL_renegotiate(3)](https://docs.openssl.org/3.0/man3/SSL_key_update/).
#[cfg(test)]
pub(crate) fn renegotiate(ssl: &SslRef) -> bool {
    unsafe extern "C" {
        fn SSL_renegotiate(ssl: *mut ffi::SSL) -> c_int;
    }
    const SSL_OP_NO_RENEGOTIATION: u64 = 1 << 30;
    // SAFETY: `ssl` is live, the calls take numbers and no pointer.
    unsafe {
        SSL_clear_options(ssl.as_ptr(), SSL_OP_NO_RENEGOTIATION);
        SSL_renegotiate(ssl.as_ptr()) == 1
    }
}

/// Calls [X509_STORE_add_crl(3)](https://docs.openssl.org/3.0/man3/X509_STORE_add_cert/), which takes its own
/// reference.
pub(crate) fn add_crl(store: &mut X509StoreBuilder, crl: &X509Crl) -> Result<(), ErrorStack> {
    // SAFETY: both are live; the store increments the reference count.
    let added = unsafe { X509_STORE_add_crl(store.as_ptr(), crl.as_ptr()) };
    if added == 1 { Ok(()) } else { Err(ErrorStack::get()) }
}

/// Makes a client resume this session if the server accepts it (SSL_set_session).
///
/// # Errors
///
/// The session is for TLS and the SSL for DTLS, or vice versa; the error stack is then empty.
pub fn set_session(ssl: &mut Ssl, session: &SslSession) -> Result<(), ErrorStack> {
    let of_dtls = matches!(session.protocol_version(), SslVersion::DTLS1 | SslVersion::DTLS1_2);
    if of_dtls != is_dtls(ssl) {
        return Err(ErrorStack::get());
    }
    // SAFETY: both are live, the SSL is borrowed exclusively, and it increments the session's reference count. A
    // session has no reference to the context that it is from; SSL_set_session(3) requires the same method, which is
    // checked above.
    unsafe { ssl.set_session(session) }
}

/// Returns whether this SSL is for DTLS.
fn is_dtls(ssl: &SslRef) -> bool {
    // SAFETY: `ssl` is live; the call only reads.
    unsafe { SSL_is_dtls(ssl.as_ptr()) == 1 }
}

/// Calls [SSL_SESSION_dup(3)](https://docs.openssl.org/3.0/man3/SSL_SESSION_free/): returns a separate copy of a
/// session, which is equally usable for a handshake.
pub(crate) fn copy_session(session: &SslSessionRef) -> Result<SslSession, ErrorStack> {
    // SAFETY: the session is live and only read; its members are copied or their reference counts incremented.
    let copy = unsafe { SSL_SESSION_dup(session.as_ptr()) };
    if copy.is_null() {
        return Err(ErrorStack::get());
    }
    // SAFETY: nothing else owns the copy.
    Ok(unsafe { SslSession::from_ptr(copy) })
}

/// Calls [SSL_SESSION_has_ticket(3)](https://docs.openssl.org/3.0/man3/SSL_SESSION_has_ticket/).
pub(crate) fn has_ticket(session: &SslSessionRef) -> bool {
    // SAFETY: the session is live and only read.
    unsafe { SSL_SESSION_has_ticket(session.as_ptr()) == 1 }
}

/// The complete PSK identity that the client of a handshake sent last.
static SENT_IDENTITY: LazyLock<Option<Index<Ssl, Vec<u8>>>> = LazyLock::new(|| Ssl::new_ex_index().ok());

/// Makes a server's handshakes keep the PSK identities that clients send
/// ([SSL_CTX_set_msg_callback(3)](https://docs.openssl.org/3.0/man3/SSL_CTX_set_msg_callback/) and
/// [SSL_CTX_set_psk_find_session_callback(3)](https://docs.openssl.org/3.0/man3/SSL_CTX_use_psk_identity_hint/)).
pub(crate) fn keep_psk_identities(context: &mut SslContextBuilder) {
    // SAFETY: the context is live, and the two functions live forever.
    unsafe {
        SSL_CTX_set_msg_callback(context.as_ptr(), Some(see_message));
        SSL_CTX_set_psk_find_session_callback(context.as_ptr(), Some(see_identity));
    }
}

/// Returns the identity that a client sent, while the PSK callback is asked for its key.
pub(crate) fn sent_psk_identity(ssl: &SslRef) -> Option<&[u8]> {
    ssl.ex_data((*SENT_IDENTITY)?).map(Vec::as_slice)
}

/// Keeps the identity of a ClientKeyExchange, up to TLS 1.2; with every PSK suite the message begins with it (RFC 4279
/// §2, RFC 5489 §2). OpenSSL calls this before it processes the message.
unsafe extern "C" fn see_message(
    write: c_int,
    _version: c_int,
    kind: c_int,
    message: *const c_void,
    len: usize,
    ssl: *mut ffi::SSL,
    _argument: *mut c_void,
) {
    const HANDSHAKE: c_int = 22;
    const CLIENT_KEY_EXCHANGE: u8 = 16;
    if write != 0 || kind != HANDSHAKE || len == 0 {
        return;
    }
    // SAFETY: OpenSSL calls with a message of this length and a live SSL, and no other thread uses either meanwhile.
    unsafe {
        let message = std::slice::from_raw_parts(message.cast::<u8>(), len);
        let header = if SSL_is_dtls(ssl) == 1 { 12 } else { 4 };
        if message[0] == CLIENT_KEY_EXCHANGE
            && let Some((identity_len, rest)) = message.get(header..).and_then(<[u8]>::split_first_chunk::<2>)
            && let Some(identity) = rest.get(..usize::from(u16::from_be_bytes(*identity_len)))
        {
            keep_identity(ssl, identity);
        }
    }
}

/// Keeps an identity of a TLS 1.3 ClientHello. Finds no session: OpenSSL calls the PSK callback next, for the same
/// identity.
unsafe extern "C" fn see_identity(
    ssl: *mut ffi::SSL,
    identity: *const u8,
    len: usize,
    session: *mut *mut ffi::SSL_SESSION,
) -> c_int {
    // SAFETY: OpenSSL calls with a live SSL, an identity of this length, and room for a session; no other thread uses
    // them meanwhile.
    unsafe {
        *session = ptr::null_mut();
        keep_identity(ssl, std::slice::from_raw_parts(identity, len));
    }
    1
}

/// # Safety
///
/// The SSL is live, and only the caller uses it.
unsafe fn keep_identity(ssl: *mut ffi::SSL, identity: &[u8]) {
    // SAFETY: as the caller ensures.
    let ssl = unsafe { SslRef::from_ptr_mut(ssl) };
    if let Some(index) = *SENT_IDENTITY {
        ssl.set_ex_data(index, identity.to_vec());
    }
}

/// Permits a renegotiation and calls
/// [SSL_renegotiate_abbreviated(3)](https://docs.openssl.org/3.0/man3/SSL_key_update/).
#[cfg(test)]
pub(crate) fn renegotiate_by_ticket(ssl: &SslRef) -> bool {
    unsafe extern "C" {
        fn SSL_renegotiate_abbreviated(ssl: *mut ffi::SSL) -> c_int;
    }
    const SSL_OP_NO_RENEGOTIATION: u64 = 1 << 30;
    // SAFETY: `ssl` is live, the calls take numbers and no pointer.
    unsafe {
        SSL_clear_options(ssl.as_ptr(), SSL_OP_NO_RENEGOTIATION);
        SSL_renegotiate_abbreviated(ssl.as_ptr()) == 1
    }
}

#[cfg(test)]
mod tests {
    use openssl::ssl::{SslContext, SslMethod};

    use super::*;

    /// Without the check, the call writes through a null pointer.
    #[test]
    fn a_timer_is_set_for_dtls_alone() {
        for (method, dtls) in [(SslMethod::tls(), false), (SslMethod::dtls(), true)] {
            let context = SslContext::builder(method).unwrap().build();
            let mut ssl = Ssl::new(&context).unwrap();
            never_retransmit(&mut ssl);
            assert_eq!(is_dtls(&ssl), dtls);
        }
    }
}

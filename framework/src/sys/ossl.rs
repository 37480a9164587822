//! The few calls of OpenSSL that the `openssl` crate does not bind.

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

/// Opaque `BIO_ADDR`.
#[repr(C)]
struct BioAddr {
    _opaque: [u8; 0],
}

/// `SSL_CTX_set_security_callback`'s: whether an operation of so many bits of security may be.
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

/// From `openssl/ssl.h`.
const SSL_CTRL_SET_MTU: c_int = 17;
const SSL_CTRL_GET_MAX_CERT_LIST: c_int = 50;
const SSL_CTRL_SET_MAX_CERT_LIST: c_int = 51;

/// [DTLSv1_listen(3)](https://docs.openssl.org/3.0/man3/DTLSv1_listen/): reads the ClientHello
/// with the cookie from the BIO and keeps it for the handshake. `true` where it was accepted; the
/// BIO must have exactly that datagram, for the call reads on after anything else.
pub(crate) fn dtls_listen<S>(stream: &mut SslStream<S>) -> bool {
    // SAFETY: the address is allocated and freed here; `stream` has a live SSL and is borrowed
    // exclusively.
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

/// [SSL_has_pending(3)](https://docs.openssl.org/3.0/man3/SSL_pending/): whether bytes wait inside the SSL, processed or
/// not.
pub(crate) fn has_pending(ssl: &SslRef) -> bool {
    // SAFETY: `ssl` is live; the call only reads.
    unsafe { SSL_has_pending(ssl.as_ptr()) == 1 }
}

/// Counts the handshakes that a session begins.
pub(crate) struct Handshakes(Arc<AtomicU32>);

impl Handshakes {
    /// How many so far.
    pub(crate) fn begun(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Lets a TLS 1.2 client renegotiate
/// ([SSL_CTX_set_options(3)](https://docs.openssl.org/3.0/man3/SSL_CTX_set_options/)), and counts how often it
/// does ([SSL_set_info_callback(3)](https://docs.openssl.org/3.0/man3/SSL_set_info_callback/)): between two
/// reads there may be more than one.
pub(crate) fn allow_renegotiation(ssl: &mut SslRef) -> Handshakes {
    const ALLOW_CLIENT_RENEGOTIATION: u64 = 1 << 8;
    const NO_RENEGOTIATION: u64 = 1 << 30;
    static BEGUN: LazyLock<Option<Index<Ssl, Arc<AtomicU32>>>> = LazyLock::new(|| Ssl::new_ex_index().ok());

    extern "C" fn count(ssl: *const ffi::SSL, event: c_int, _: c_int) {
        const HANDSHAKE_START: c_int = 0x10;
        // SAFETY: OpenSSL calls with a live SSL, which its owner lends it exclusively; only a shared
        // reference is made.
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
        // SAFETY: `ssl` is live and nobody else uses it; the calls take numbers and a function.
        unsafe {
            SSL_set_info_callback(ssl.as_ptr(), Some(count));
            SSL_clear_options(ssl.as_ptr(), NO_RENEGOTIATION);
            SSL_set_options(ssl.as_ptr(), ALLOW_CLIENT_RENEGOTIATION);
        }
    }
    Handshakes(begun)
}

/// [SSL_client_hello_get0_ext(3)](https://docs.openssl.org/3.0/man3/SSL_CTX_set_client_hello_cb/): returns the body of
/// an extension of the ClientHello. Only a ClientHello callback sees one; at any other time there is none.
pub(crate) fn client_hello_extension(ssl: &SslRef, number: u16) -> Option<Vec<u8>> {
    let (mut body, mut len) = (ptr::null(), 0);
    // SAFETY: `ssl` is live, and the two pointers are those of variables that outlive the call. What the call finds
    // lives as long as the ClientHello, which outlives the copy that is made of it here.
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

/// SSL_set_mtu: the size of handshake datagrams without IP and UDP headers, in bytes. Works only
/// with SSL_OP_NO_QUERY_MTU.
pub(crate) fn set_mtu<S>(stream: &mut SslStream<S>, mtu: u16) {
    // SAFETY: `stream` has a live SSL and is borrowed exclusively; the control takes a number and no pointer.
    unsafe { ffi::SSL_ctrl(stream.ssl().as_ptr(), SSL_CTRL_SET_MTU, c_long::from(mtu), ptr::null_mut()) };
}

/// [DTLS_set_timer_cb(3)](https://docs.openssl.org/3.0/man3/DTLS_set_timer_cb/) with the longest timeout that
/// it can express, 71 minutes: on a reliable transport nothing may be retransmitted, and OpenSSL has no
/// switch for that. Does nothing to an SSL of TLS, which has no timer.
pub fn never_retransmit(ssl: &mut SslRef) {
    extern "C" fn never(_: *mut ffi::SSL, _: c_uint) -> c_uint {
        c_uint::MAX
    }
    if !is_dtls(ssl) {
        return;
    }
    // SAFETY: `ssl` is live, borrowed exclusively, and one of DTLS, which has the state that the call writes to; the
    // callback is a function that touches nothing.
    unsafe { DTLS_set_timer_cb(ssl.as_ptr(), Some(never)) };
}

/// Returns the longest certificate chain that this side accepts, in bytes
/// ([SSL_get_max_cert_list(3)](https://docs.openssl.org/3.0/man3/SSL_CTX_set_max_cert_list/)).
pub(crate) fn max_cert_list(ssl: &SslRef) -> usize {
    // SAFETY: the session is live, and this command only reads a number of it.
    let bytes = unsafe { ffi::SSL_ctrl(ssl.as_ptr(), SSL_CTRL_GET_MAX_CERT_LIST, 0, ptr::null_mut()) };
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Lets suites with a tag of 8 bytes (`CCM_8`) pass the context's security level, which stays as it is for all else: keys,
/// certificates, signatures and groups
/// ([SSL_CTX_set_security_callback(3)](https://docs.openssl.org/3.0/man3/SSL_CTX_set_security_level/)).
pub(crate) fn admit_short_tags(context: &mut SslContextBuilder) {
    // SAFETY: the context is live. OpenSSL's own callback is the same function for every context; ours takes what it does.
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

/// Called by OpenSSL alone, which passes a cipher with the operations on ciphers.
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
    // The suites of RFC 6655 §4 and RFC 7251 that the framework has, and that of TLS 1.3 (RFC 8446 §B.4).
    const SHORT_TAGS: [u16; 5] = [0xc0a8, 0xc0a9, 0xc0ae, 0xc0af, 0x1305];
    // SAFETY: the operation says that `other` is a cipher, of OpenSSL's tables.
    let cipher = (OF_CIPHERS.contains(&operation) && !other.is_null())
        .then(|| unsafe { SSL_CIPHER_get_protocol_id(other.cast()) });
    if cipher.is_some_and(|cipher| SHORT_TAGS.contains(&cipher)) {
        return 1;
    }
    match LEVEL.get() {
        // SAFETY: what OpenSSL gave to this callback is for that one.
        Some(level) => unsafe { level(ssl, context, operation, bits, nid, other, data) },
        None => 0,
    }
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
        fn SSL_renegotiate(ssl: *mut ffi::SSL) -> c_int;
    }
    const SSL_OP_NO_RENEGOTIATION: u64 = 1 << 30;
    // SAFETY: `ssl` is live, the calls take numbers and no pointer.
    unsafe {
        SSL_clear_options(ssl.as_ptr(), SSL_OP_NO_RENEGOTIATION);
        SSL_renegotiate(ssl.as_ptr()) == 1
    }
}

/// [X509_STORE_add_crl(3)](https://docs.openssl.org/3.0/man3/X509_STORE_add_cert/): takes a reference of its own.
pub(crate) fn add_crl(store: &mut X509StoreBuilder, crl: &X509Crl) -> Result<(), ErrorStack> {
    // SAFETY: both are live; the store counts its reference up.
    let added = unsafe { X509_STORE_add_crl(store.as_ptr(), crl.as_ptr()) };
    if added == 1 { Ok(()) } else { Err(ErrorStack::get()) }
}

/// SSL_set_session: a client resumes this session, if the server takes it.
///
/// # Errors
///
/// The session is one of TLS and the SSL one of DTLS, or the other way round; the stack of errors is empty then.
pub fn set_session(ssl: &mut Ssl, session: &SslSession) -> Result<(), ErrorStack> {
    let of_dtls = matches!(session.protocol_version(), SslVersion::DTLS1 | SslVersion::DTLS1_2);
    if of_dtls != is_dtls(ssl) {
        return Err(ErrorStack::get());
    }
    // SAFETY: both are live, the SSL is borrowed exclusively, and it counts its reference to the session up. A session has no
    // reference to the context that it is from; what SSL_set_session(3) asks for is the same method, checked above.
    unsafe { ssl.set_session(session) }
}

/// Whether this is an SSL of DTLS.
fn is_dtls(ssl: &SslRef) -> bool {
    // SAFETY: `ssl` is live; the call only reads.
    unsafe { SSL_is_dtls(ssl.as_ptr()) == 1 }
}

/// [SSL_SESSION_dup(3)](https://docs.openssl.org/3.0/man3/SSL_SESSION_free/): a session of one's own, as good for a
/// handshake as the other is now.
pub(crate) fn copy_session(session: &SslSessionRef) -> Result<SslSession, ErrorStack> {
    // SAFETY: it is live, and only read; its members are counted up or copied.
    let copy = unsafe { SSL_SESSION_dup(session.as_ptr()) };
    if copy.is_null() {
        return Err(ErrorStack::get());
    }
    // SAFETY: it is nobody else's.
    Ok(unsafe { SslSession::from_ptr(copy) })
}

/// The PSK identity that the client of a handshake sent last, all of it.
static SENT_IDENTITY: LazyLock<Option<Index<Ssl, Vec<u8>>>> = LazyLock::new(|| Ssl::new_ex_index().ok());

/// Has the handshakes of a server keep the PSK identities that clients send
/// ([SSL_CTX_set_msg_callback(3)](https://docs.openssl.org/3.0/man3/SSL_CTX_set_msg_callback/) and
/// [SSL_CTX_set_psk_find_session_callback(3)](https://docs.openssl.org/3.0/man3/SSL_CTX_use_psk_identity_hint/)).
pub(crate) fn keep_psk_identities(context: &mut SslContextBuilder) {
    // SAFETY: the context is live, the functions are two for good.
    unsafe {
        SSL_CTX_set_msg_callback(context.as_ptr(), Some(see_message));
        SSL_CTX_set_psk_find_session_callback(context.as_ptr(), Some(see_identity));
    }
}

/// Returns the identity that a client sent, as the PSK callback is asked for its key.
pub(crate) fn sent_psk_identity(ssl: &SslRef) -> Option<&[u8]> {
    ssl.ex_data((*SENT_IDENTITY)?).map(Vec::as_slice)
}

/// Keeps the identity in a ClientKeyExchange, up to TLS 1.2; every PSK suite has it in front (RFC 4279 §2, RFC 5489 §2).
/// OpenSSL shows a message before it looks at it.
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
    // SAFETY: OpenSSL calls with a message of this length and a live SSL, and uses neither from another thread meanwhile.
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

/// Keeps an identity of a TLS 1.3 ClientHello. Finds no session: the PSK callback is asked next, for the same one.
unsafe extern "C" fn see_identity(
    ssl: *mut ffi::SSL,
    identity: *const u8,
    len: usize,
    session: *mut *mut ffi::SSL_SESSION,
) -> c_int {
    // SAFETY: OpenSSL calls with a live SSL, an identity of this length, and room for a session; it uses none of them
    // from another thread meanwhile.
    unsafe {
        *session = ptr::null_mut();
        keep_identity(ssl, std::slice::from_raw_parts(identity, len));
    }
    1
}

/// # Safety
///
/// The SSL is live, and the caller alone uses it.
unsafe fn keep_identity(ssl: *mut ffi::SSL, identity: &[u8]) {
    // SAFETY: as the caller promises.
    let ssl = unsafe { SslRef::from_ptr_mut(ssl) };
    if let Some(index) = *SENT_IDENTITY {
        ssl.set_ex_data(index, identity.to_vec());
    }
}

/// [SSL_renegotiate_abbreviated(3)](https://docs.openssl.org/3.0/man3/SSL_key_update/), allowed before.
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

//! Session tickets: their keys, and the data that a server adds to them.

use std::ptr;

use foreign_types::{ForeignType, ForeignTypeRef};
use libc::{c_char, c_int, c_void};
use openssl::error::ErrorStack;
use openssl::ssl::{SslContextBuilder, SslRef, SslSession, SslSessionRef};
use openssl_sys as ffi;
use zeroize::ZeroizeOnDrop;

unsafe extern "C" {
    fn SSL_CTX_set_tlsext_ticket_key_evp_cb(
        context: *mut ffi::SSL_CTX,
        callback: Option<
            unsafe extern "C" fn(
                *mut ffi::SSL,
                *mut u8,
                *mut u8,
                *mut ffi::EVP_CIPHER_CTX,
                *mut ffi::EVP_MAC_CTX,
                c_int,
            ) -> c_int,
        >,
    ) -> c_int;
    fn SSL_CTX_set_session_ticket_cb(
        context: *mut ffi::SSL_CTX,
        generate: Option<unsafe extern "C" fn(*mut ffi::SSL, *mut c_void) -> c_int>,
        decrypt: Option<
            unsafe extern "C" fn(
                *mut ffi::SSL,
                *mut ffi::SSL_SESSION,
                *const u8,
                usize,
                c_int,
                *mut c_void,
            ) -> c_int,
        >,
        argument: *mut c_void,
    ) -> c_int;
    fn SSL_SESSION_set1_ticket_appdata(
        session: *mut ffi::SSL_SESSION,
        data: *const c_void,
        len: usize,
    ) -> c_int;
    fn SSL_SESSION_get0_ticket_appdata(
        session: *mut ffi::SSL_SESSION,
        data: *mut *mut c_void,
        len: *mut usize,
    ) -> c_int;
    fn SSL_SESSION_get0_peer(session: *mut ffi::SSL_SESSION) -> *mut ffi::X509;
    fn OSSL_PARAM_construct_utf8_string(
        key: *const c_char,
        text: *mut c_char,
        size: usize,
    ) -> ffi::OSSL_PARAM;
}

/// The keys of a session ticket. They are wiped when dropped.
#[derive(ZeroizeOnDrop)]
pub(crate) struct TicketKeys {
    pub(crate) name: [u8; 16],
    /// AES-256.
    pub(crate) cipher: [u8; 32],
    /// HMAC-SHA256.
    pub(crate) mac: [u8; 32],
}

/// Chooses the keys of a ticket by their name (`None` for a new ticket), and whether the ticket is renewed.
pub(crate) type ChooseKeys = fn(&SslRef, Option<[u8; 16]>) -> Option<(TicketKeys, bool)>;

/// The function that chooses; all contexts of a process have the same.
static CHOOSE: std::sync::OnceLock<ChooseKeys> = std::sync::OnceLock::new();

/// Calls
/// [SSL_CTX_set_tlsext_ticket_key_evp_cb(3)](https://docs.openssl.org/3.0/man3/SSL_CTX_set_tlsext_ticket_key_cb/), so
/// that `choose` selects the keys of session tickets.
pub(crate) fn set_ticket_keys(context: &mut SslContextBuilder, choose: ChooseKeys) -> Result<(), ErrorStack> {
    CHOOSE.get_or_init(|| choose);
    // SAFETY: the context is live, and the function lives forever.
    let set = unsafe { SSL_CTX_set_tlsext_ticket_key_evp_cb(context.as_ptr(), Some(ticket_key)) };
    if set == 1 { Ok(()) } else { Err(ErrorStack::get()) }
}

/// Returns 1 for a ticket that can be made or read, 2 for one that should be renewed as well, 0 if there is no key.
unsafe extern "C" fn ticket_key(
    ssl: *mut ffi::SSL,
    name: *mut u8,
    iv: *mut u8,
    cipher: *mut ffi::EVP_CIPHER_CTX,
    mac: *mut ffi::EVP_MAC_CTX,
    encrypt: c_int,
) -> c_int {
    const IV: usize = 16;
    let Some(choose) = CHOOSE.get() else { return 0 };
    // SAFETY: OpenSSL calls with a live SSL, a name of 16 bytes, room for the longest IV, and two live contexts; no
    // other thread uses them meanwhile.
    unsafe {
        let ssl = SslRef::from_ptr(ssl);
        let named = (encrypt == 0).then(|| name.cast::<[u8; 16]>().read_unaligned());
        let Some((mut keys, renew)) = choose(ssl, named) else { return 0 };
        if encrypt == 1 {
            name.cast::<[u8; 16]>().write_unaligned(keys.name);
            let mut fresh = [0; IV];
            if openssl::rand::rand_bytes(&mut fresh).is_err() {
                return -1;
            }
            iv.cast::<[u8; IV]>().write_unaligned(fresh);
        }
        let aes = ffi::EVP_aes_256_cbc();
        let key = keys.cipher.as_ptr();
        let begun = match encrypt {
            1 => ffi::EVP_EncryptInit_ex(cipher, aes, ptr::null_mut(), key, iv),
            _ => ffi::EVP_DecryptInit_ex(cipher, aes, ptr::null_mut(), key, iv),
        };
        let parameters = [
            ffi::OSSL_PARAM_construct_octet_string(c"key".as_ptr(), keys.mac.as_mut_ptr().cast(), 32),
            OSSL_PARAM_construct_utf8_string(c"digest".as_ptr(), c"SHA256".as_ptr().cast_mut(), 0),
            ffi::OSSL_PARAM_construct_end(),
        ];
        if begun != 1 || ffi::EVP_MAC_CTX_set_params(mac, parameters.as_ptr()) != 1 {
            return -1;
        }
        if renew { 2 } else { 1 }
    }
}

/// The data that a server adds to its tickets, and its decision about tickets with such data.
pub(crate) struct TicketData {
    /// Makes the data of a new session.
    pub(crate) make: fn(&SslRef) -> Option<Vec<u8>>,
    /// Decides whether a session may be resumed, given whether it has the client's certificate, and the data in its
    /// ticket. A refused session leads to a full handshake.
    pub(crate) accept: fn(&SslRef, bool, Option<&[u8]>) -> bool,
}

/// Calls [SSL_CTX_set_session_ticket_cb(3)](https://docs.openssl.org/3.0/man3/SSL_CTX_set_session_ticket_cb/). A
/// resumed session keeps the data that it has.
pub(crate) fn set_ticket_data(context: &mut SslContextBuilder, data: &'static TicketData) {
    let argument = ptr::from_ref(data).cast_mut().cast();
    // SAFETY: the context is live, the two functions and their argument live forever, and the argument is only read.
    unsafe {
        SSL_CTX_set_session_ticket_cb(context.as_ptr(), Some(make_data), Some(accept_by_data), argument)
    };
}

unsafe extern "C" fn make_data(ssl: *mut ffi::SSL, argument: *mut c_void) -> c_int {
    // SAFETY: OpenSSL calls with a live SSL that has a session, which no other thread uses, and with the argument that
    // was set.
    unsafe {
        let data = &*argument.cast::<TicketData>();
        let session = ffi::SSL_get_session(ssl);
        if session.is_null() || data_of(session).is_some() {
            return 1;
        }
        let Some(bytes) = (data.make)(SslRef::from_ptr(ssl)) else { return 1 };
        SSL_SESSION_set1_ticket_appdata(session, bytes.as_ptr().cast(), bytes.len())
    }
}

unsafe extern "C" fn accept_by_data(
    ssl: *mut ffi::SSL,
    session: *mut ffi::SSL_SESSION,
    _name: *const u8,
    _name_len: usize,
    status: c_int,
    argument: *mut c_void,
) -> c_int {
    const SUCCESS: c_int = 5;
    const SUCCESS_RENEW: c_int = 6;
    const IGNORE_RENEW: c_int = 2;
    const USE: c_int = 3;
    const USE_RENEW: c_int = 4;
    let renew = match status {
        SUCCESS => false,
        SUCCESS_RENEW => true,
        _ => return IGNORE_RENEW,
    };
    // SAFETY: OpenSSL calls with a live SSL and, for these two states, with the live session of the ticket; no other
    // thread uses them. The argument is the one that was set.
    let accepted = unsafe {
        let data = &*argument.cast::<TicketData>();
        let has_certificate = !SSL_SESSION_get0_peer(session).is_null();
        (data.accept)(SslRef::from_ptr(ssl), has_certificate, data_of(session).as_deref())
    };
    match (accepted, renew) {
        (false, _) => IGNORE_RENEW,
        (true, false) => USE,
        (true, true) => USE_RENEW,
    }
}

/// Returns a copy of the data in a session.
///
/// # Safety
///
/// The session is live, and nothing changes it meanwhile.
unsafe fn data_of(session: *mut ffi::SSL_SESSION) -> Option<Vec<u8>> {
    let (mut data, mut len) = (ptr::null_mut(), 0);
    // SAFETY: as the caller ensures; the pointers are those of variables that outlive the call, and the result lives as
    // long as the session.
    unsafe {
        let found = SSL_SESSION_get0_ticket_appdata(session, &raw mut data, &raw mut len);
        (found == 1 && !data.is_null() && len > 0)
            .then(|| std::slice::from_raw_parts(data.cast::<u8>(), len).to_vec())
    }
}

/// Calls [SSL_SESSION_set1_ticket_appdata(3)](https://docs.openssl.org/3.0/man3/SSL_CTX_set_session_ticket_cb/): stores
/// a copy of the data in a client's session, which does not leave this process.
pub(crate) fn set_session_data(session: &mut SslSession, data: &[u8]) {
    // SAFETY: the session is live, and no other thread has it before it is kept; the data is copied.
    unsafe { SSL_SESSION_set1_ticket_appdata(session.as_ptr(), data.as_ptr().cast(), data.len()) };
}

/// Calls [SSL_SESSION_get0_ticket_appdata(3)](https://docs.openssl.org/3.0/man3/SSL_CTX_set_session_ticket_cb/).
pub(crate) fn session_data(session: &SslSessionRef) -> Option<Vec<u8>> {
    // SAFETY: the session is live, and its data does not change once it is kept.
    unsafe { data_of(session.as_ptr()) }
}

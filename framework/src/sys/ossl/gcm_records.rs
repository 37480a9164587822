//! Records with AES-GCM (RFC 5288), encrypted and decrypted by one call of OpenSSL.
//!
//! For any use of GCM OpenSSL takes five calls: nonce, tag, additional data, text, end. For TLS 1.2 and DTLS 1.2 its
//! ciphers have a shorter way, by which OpenSSL's own record layer goes, so every provider with which a handshake can
//! succeed has it. See the parameters `tlsaad` and `tlsivfixed` in
//! [EVP_EncryptInit(3)](https://docs.openssl.org/3.0/man3/EVP_EncryptInit/).

use foreign_types::ForeignTypeRef;
use libc::c_int;
use openssl::cipher_ctx::CipherCtxRef;
use openssl::error::ErrorStack;
use openssl_sys as ffi;

/// Whether the OpenSSL that is linked can do this.
pub(crate) const LINKED: bool = cfg!(cipher_parameters);

/// Sets the whole nonce of the next record that is encrypted. OpenSSL counts its last 8 bytes up with each record. For
/// decryption only the first 4 bytes count, because each record carries the others.
pub(crate) fn set_nonce(cipher: &mut CipherCtxRef, nonce: &mut [u8; 12]) -> Result<(), ErrorStack> {
    const EVP_CTRL_AEAD_SET_IV_FIXED: c_int = 0x12;
    /// In place of a length.
    const WHOLE: c_int = -1;
    // SAFETY: the cipher is live and borrowed exclusively; the call reads its whole nonce, which has 12 bytes.
    let set = unsafe {
        ffi::EVP_CIPHER_CTX_ctrl(
            cipher.as_ptr(),
            EVP_CTRL_AEAD_SET_IV_FIXED,
            WHOLE,
            nonce.as_mut_ptr().cast(),
        )
    };
    if set == 1 { Ok(()) } else { Err(ErrorStack::get()) }
}

/// Encrypts or decrypts the body of a record in place: the part of the nonce that the record carries (8 bytes), the
/// text, and the tag (16 bytes). Encryption writes the first and the last of them. The length at the end of the
/// additional data is that of the body, when encrypting without the tag.
///
/// # Errors
///
/// The record is not authentic, or OpenSSL cannot encrypt. The nonce must then be set again.
pub(crate) fn process(
    cipher: &mut CipherCtxRef,
    additional: &mut [u8; 13],
    body: &mut [u8],
) -> Result<(), ErrorStack> {
    set_additional_data(cipher, additional)?;
    let len = body.len();
    cipher.cipher_update_inplace(body, len).map(drop)
}

#[cfg(cipher_parameters)]
fn set_additional_data(cipher: &mut CipherCtxRef, additional: &mut [u8; 13]) -> Result<(), ErrorStack> {
    use std::ptr;

    unsafe extern "C" {
        fn EVP_CIPHER_CTX_set_params(
            cipher: *mut ffi::EVP_CIPHER_CTX,
            parameters: *const ffi::OSSL_PARAM,
        ) -> c_int;
    }
    const OCTET_STRING: libc::c_uint = 5;
    let name = c"tlsaad".as_ptr();
    let parameters = [
        ffi::OSSL_PARAM {
            key: name,
            data_type: OCTET_STRING,
            data: additional.as_mut_ptr().cast(),
            data_size: additional.len(),
            return_size: usize::MAX,
        },
        ffi::OSSL_PARAM {
            key: ptr::null(),
            data_type: 0,
            data: ptr::null_mut(),
            data_size: 0,
            return_size: 0,
        },
    ];
    // SAFETY: the cipher is live and borrowed exclusively; the list ends with an entry without a name, and the call
    // copies the data.
    match unsafe { EVP_CIPHER_CTX_set_params(cipher.as_ptr(), parameters.as_ptr()) } {
        1 => Ok(()),
        _ => Err(ErrorStack::get()),
    }
}

#[cfg(not(cipher_parameters))]
fn set_additional_data(_: &mut CipherCtxRef, _: &mut [u8; 13]) -> Result<(), ErrorStack> {
    Err(ErrorStack::get())
}

//! Conversions of read errors and OpenSSL's errors to errors of credentials.

use std::path::Path;

use openssl::error::ErrorStack;

use crate::error::IdentityError;

pub(super) fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    std::fs::read(path).map_err(|source| IdentityError::Unreadable { path: path.to_owned(), source })
}

pub(crate) fn refused(errors: ErrorStack) -> IdentityError {
    IdentityError::Refused(errors.to_string())
}

//! Rewords the framework's errors in terms of the options, so that each error names an option that the user can
//! set.

use std::path::Path;

use peeloff::{IdentityError, StartError};

use crate::failure::Failure;

/// Returns why a server with the options of [`cli`](crate::cli) cannot start.
pub(crate) fn start(error: StartError) -> Failure {
    match error {
        StartError::AddressNotAvailable { address } => Failure::about(
            "--listen",
            format_args!(
                "{address} is not an address of this host: choose one that `ip address` lists, or pass --freebind \
                 for one that is added later"
            ),
        ),
        StartError::NoIdentity | StartError::Identity(IdentityError::Nothing) => {
            Failure::about("--cert", "a secure listener needs --cert and --key, or --psk-file")
        }
        StartError::NoProxy { .. } => Failure::about("--listen-proxied", error),
        StartError::Identity(error) => credentials(error),
        StartError::NoListener
        | StartError::Address(_)
        | StartError::AddressInUse { .. }
        | StartError::PermissionDenied { .. }
        | StartError::NoSctp(_) => Failure::about("--listen", error),
        StartError::Io { ref doing, .. } if doing.starts_with("listening") => {
            Failure::about("--listen", error)
        }
        error => Failure::input(error),
    }
}

/// Returns why credentials from several files cannot be used together.
pub(crate) fn credentials(error: IdentityError) -> Failure {
    let option = match error {
        IdentityError::UnusableKey { .. }
        | IdentityError::Mismatch
        | IdentityError::NoKey { .. }
        | IdentityError::KeyNeedsPassphrase { .. }
        | IdentityError::WrongPassphrase { .. } => "--key",
        IdentityError::NoRevocationList { .. } | IdentityError::NoListOf { .. } => "--crl",
        IdentityError::NoOcspResponse { .. } => "--ocsp",
        IdentityError::BadKeyFile { .. } => "--key-file",
        IdentityError::Unwritable { .. } => "--key-log",
        IdentityError::NoSuite { .. } => "--ciphers",
        IdentityError::BadAlpn => "--alpn",
        IdentityError::BadPsk => "--psk",
        IdentityError::BadServerName { .. } => "--server-name",
        _ => "--cert",
    };
    Failure::about(option, error)
}

/// Returns why a certificate and its key cannot be used.
pub(crate) fn identity(error: IdentityError, cert: &Path, key: &Path) -> Failure {
    match &error {
        IdentityError::Mismatch => Failure::about(
            "--key",
            format_args!(
                "the private key in {} does not belong to the certificate in {}; give the pair that was made together",
                key.display(),
                cert.display()
            ),
        ),
        IdentityError::Unreadable { path, .. } if path == key => Failure::about("--key", error),
        _ => credentials(error),
    }
}

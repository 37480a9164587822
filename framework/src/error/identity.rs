//! Errors of credentials.

use std::io;
use std::path::PathBuf;

/// Reason why a certificate, a key or a list of authorities cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}; check the path and its permissions", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The input has no PEM certificate.
    #[error("{place} holds no PEM certificate; it must have an undamaged BEGIN CERTIFICATE block")]
    NoCertificate {
        /// The file, or "the certificate chain".
        place: String,
    },
    /// The input has no PEM private key.
    #[error(
        "{place} holds no PEM private key; it must have an undamaged BEGIN PRIVATE KEY or BEGIN ENCRYPTED PRIVATE KEY block"
    )]
    NoKey {
        /// The file, or "the key".
        place: String,
    },
    /// The private key is encrypted, and no passphrase was given.
    #[error("the private key in {place} is encrypted; give its passphrase")]
    KeyNeedsPassphrase {
        /// The file, or "the key".
        place: String,
    },
    /// The passphrase does not decrypt the private key.
    #[error(
        "the passphrase does not fit the private key in {place}; give the one that it was encrypted with"
    )]
    WrongPassphrase {
        /// The file, or "the key".
        place: String,
    },
    /// The key does not belong to the certificate.
    #[error("the private key does not belong to the certificate; give the pair that was made together")]
    Mismatch,
    /// OpenSSL loads the key or the chain but cannot serve clients with it, such as an Ed25519 or RSA-PSS key with DTLS
    /// 1.2. Clients may use such a key.
    #[error(
        "OpenSSL cannot serve {protocol} with the {key} of {certificate} ({why}); use an ECDSA key on the curve P-256 or an RSA key of 2048 bits"
    )]
    UnusableKey {
        /// "DTLS 1.2" or "TLS".
        protocol: &'static str,
        /// The kind of the key, such as "RSA-PSS key".
        key: String,
        /// The subject of the certificate.
        certificate: String,
        /// OpenSSL's error.
        why: String,
    },
    /// None of the allowed cipher suites belongs to this protocol; or only a pre-shared key is given, and none of the
    /// suites uses one.
    #[error(
        "none of the cipher suites can be used with {protocol} and these credentials; add `default` to the list"
    )]
    NoSuite {
        /// "DTLS 1.2" or "TLS".
        protocol: &'static str,
    },
    /// The input has no certificate revocation list.
    #[error(
        "{place} holds no certificate revocation list; it must have BEGIN X509 CRL blocks, or be one in DER"
    )]
    NoRevocationList {
        /// The file, or "the revocation list".
        place: String,
    },
    /// Revocation lists are given, but none is from this authority, so every certificate below it would be refused.
    #[error(
        "there is no revocation list of the authority {authority}; add it to the lists, or take the authority out of the CA file"
    )]
    NoListOf {
        /// The authority's subject on one line, such as `CN=Sub CA,O=Example`.
        authority: String,
    },
    /// The input has no successful OCSP response.
    #[error("{place} holds no successful OCSP response; write it with openssl ocsp -respout")]
    NoOcspResponse {
        /// The file, or "the OCSP response".
        place: String,
    },
    /// The input has no public key.
    #[error(
        "{place} holds no public key; it must have a BEGIN PUBLIC KEY block, as openssl pkey -pubout writes it"
    )]
    NoPublicKey {
        /// The file, or "the public key".
        place: String,
    },
    /// The linked OpenSSL is older than 3.2.
    #[error("this OpenSSL has no raw public keys (RFC 7250); they need version 3.2 or later")]
    NoRawPublicKeys,
    /// A line of a key file is wrong.
    #[error("{place}: {why}")]
    BadKeyFile {
        /// The file and the line.
        place: String,
        /// What is wrong, and what to write.
        why: String,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {source}; check the path and its permissions", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A protocol name cannot be sent.
    #[error("an ALPN protocol name is empty or longer than 255 bytes; give names such as chat/1")]
    BadAlpn,
    /// OpenSSL cannot use a client's pre-shared key: it sends the identity as a C string.
    #[error(
        "a pre-shared key's identity has 1 to 256 bytes and no zero byte, and the key has 1 to 512 bytes"
    )]
    BadPsk,
    /// A client cannot ask a server for this name.
    #[error("the server name {} must have 1 to 255 bytes and no zero byte; give a host name or an address", name.escape_debug())]
    BadServerName {
        /// The name.
        name: String,
    },
    /// The credentials have neither a certificate nor a pre-shared key.
    #[error("there is no certificate and no pre-shared key; a secure listener needs one of them")]
    Nothing,
    /// OpenSSL refuses the material.
    #[error("OpenSSL refuses the credentials: {0}")]
    Refused(String),
}

//! What credentials can be refused for.

use std::io;
use std::path::PathBuf;

/// Why a certificate, a key or a list of authorities is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}; check the path and its permissions", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No PEM certificate in it.
    #[error("{place} holds no PEM certificate; it must have a BEGIN CERTIFICATE block")]
    NoCertificate {
        /// The file, or "the certificate chain".
        place: String,
    },
    /// No PEM private key in it.
    #[error(
        "{place} holds no PEM private key; it must have a BEGIN PRIVATE KEY or BEGIN ENCRYPTED PRIVATE KEY block"
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
    /// The key is not the certificate's.
    #[error("the private key does not belong to the certificate; give the pair that was made together")]
    Mismatch,
    /// A key or a chain that OpenSSL loads and then cannot serve a client with, such as an Ed25519 or RSA-PSS key with
    /// DTLS 1.2. A client may have one.
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
        /// What OpenSSL said.
        why: String,
    },
    /// None of the cipher suites that are allowed is of this protocol, or with a pre-shared key alone, has such a key.
    #[error(
        "none of the cipher suites can be used with {protocol} and these credentials; add `default` to the list"
    )]
    NoSuite {
        /// "DTLS 1.2" or "TLS".
        protocol: &'static str,
    },
    /// No certificate revocation list in it.
    #[error(
        "{place} holds no certificate revocation list; it must have BEGIN X509 CRL blocks, or be one in DER"
    )]
    NoRevocationList {
        /// The file, or "the revocation list".
        place: String,
    },
    /// Revocation lists are given, and none is of this authority: everybody below it would be refused.
    #[error(
        "there is no revocation list of the authority {authority}; add it to the lists, or take the authority out of the CA file"
    )]
    NoListOf {
        /// The authority's subject on one line, such as `CN=Sub CA,O=Example`.
        authority: String,
    },
    /// No successful OCSP response in it.
    #[error("{place} holds no successful OCSP response; write it with openssl ocsp -respout")]
    NoOcspResponse {
        /// The file, or "the OCSP response".
        place: String,
    },
    /// No public key in it.
    #[error(
        "{place} holds no public key; it must have a BEGIN PUBLIC KEY block, as openssl pkey -pubout writes it"
    )]
    NoPublicKey {
        /// The file, or "the public key".
        place: String,
    },
    /// The OpenSSL that is linked is older than 3.2.
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
    /// A file that is to be written cannot be.
    #[error("cannot write {}: {source}; check the path and its permissions", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A protocol name that cannot be sent.
    #[error("an ALPN protocol name is empty or longer than 255 bytes; give names such as chat/1")]
    BadAlpn,
    /// A client's pre-shared key that OpenSSL cannot use: it sends the identity as a C string.
    #[error(
        "a pre-shared key's identity has 1 to 256 bytes and no zero byte, and the key has 1 to 512 bytes"
    )]
    BadPsk,
    /// A name that a client cannot ask a server for.
    #[error("the server name {} has no 1 to 255 bytes, or has a zero byte; give a host name or an address", name.escape_debug())]
    BadServerName {
        /// The name.
        name: String,
    },
    /// There would be neither a certificate nor a pre-shared key.
    #[error("there is no certificate and no pre-shared key; a secure listener needs one of them")]
    Nothing,
    /// OpenSSL refuses the material.
    #[error("OpenSSL refuses the credentials: {0}")]
    Refused(String),
}

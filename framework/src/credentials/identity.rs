//! This side's identity and the authorities that it trusts: certificates with their keys, CA certificates, and bare
//! keys.

use std::fmt;
use std::path::{Path, PathBuf};

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::ocsp::{OcspResponse, OcspResponseStatus};
use openssl::pkey::{PKey, Private, Public};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder};
use zeroize::Zeroizing;

use super::errors::{read, refused};
use super::peer::{PeerCertificate, fingerprint};
use crate::error::IdentityError;

/// A certificate chain with its private key: ECDSA or RSA. With TLS, and for clients, Ed25519, Ed448 and RSA-PSS are
/// possible too; OpenSSL does not support these three for DTLS 1.2 servers. A server tests each identity when it
/// starts, and does not start with one that no client could use.
#[derive(Clone)]
pub struct Identity {
    /// The chain, beginning with the leaf certificate.
    pub(crate) chain: Vec<X509>,
    pub(crate) key: PKey<Private>,
    /// An OCSP response in DER, for stapling.
    pub(crate) ocsp: Option<Vec<u8>>,
    /// The file that the chain was read from.
    pub(super) file: Option<PathBuf>,
}

impl Identity {
    /// Makes a new P-256 key and a certificate for it, valid for 30 days for `localhost`, 127.0.0.1 and ::1. Only
    /// clients that are configured to trust this certificate can verify it; for tests and demonstrations.
    pub fn self_signed() -> Result<Self, IdentityError> {
        make_self_signed().map_err(refused)
    }

    /// Reads a chain (the leaf first) and its key, both in PEM.
    ///
    /// # Errors
    ///
    /// One of the two is missing, they do not belong together, or the key is encrypted
    /// ([`IdentityError::KeyNeedsPassphrase`]).
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        Self::parse(chain, "the certificate chain", key, "the key", None)
    }

    /// Reads them like [`from_pem`](Self::from_pem), with the passphrase of the key: of PKCS #8 (RFC 5958 §3) or of the
    /// traditional format (`Proc-Type: 4,ENCRYPTED`, RFC 1421 §4.6.1.1). The decrypted key stays in OpenSSL's memory;
    /// the passphrase is not kept. A key that is not encrypted is accepted too.
    ///
    /// # Errors
    ///
    /// As [`from_pem`](Self::from_pem), and [`IdentityError::WrongPassphrase`]. A passphrase of more than 1,024 bytes
    /// never fits.
    pub fn from_encrypted_pem(chain: &[u8], key: &[u8], passphrase: &[u8]) -> Result<Self, IdentityError> {
        Self::parse(chain, "the certificate chain", key, "the key", Some(passphrase))
    }

    /// Reads them like [`from_pem`](Self::from_pem), from files.
    ///
    /// # Errors
    ///
    /// As [`from_pem`](Self::from_pem), and a file cannot be read.
    pub fn from_files(chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self, IdentityError> {
        Self::read(chain.as_ref(), key.as_ref(), None)
    }

    /// Reads them like [`from_encrypted_pem`](Self::from_encrypted_pem), from files.
    ///
    /// # Errors
    ///
    /// As [`from_encrypted_pem`](Self::from_encrypted_pem), and a file cannot be read.
    pub fn from_encrypted_files(
        chain: impl AsRef<Path>,
        key: impl AsRef<Path>,
        passphrase: &[u8],
    ) -> Result<Self, IdentityError> {
        Self::read(chain.as_ref(), key.as_ref(), Some(passphrase))
    }

    pub(crate) fn new(chain: Vec<X509>, key: PKey<Private>) -> Self {
        Self { chain, key, ocsp: None, file: None }
    }

    fn read(chain: &Path, key: &Path, passphrase: Option<&[u8]>) -> Result<Self, IdentityError> {
        let (chain_pem, key_pem) = (read(chain)?, Zeroizing::new(read(key)?));
        let (place, key) = (chain.display().to_string(), key.display().to_string());
        let identity = Self::parse(&chain_pem, &place, &key_pem, &key, passphrase)?;
        Ok(Self { file: Some(chain.to_owned()), ..identity })
    }

    fn parse(
        chain: &[u8],
        chain_place: &str,
        key: &[u8],
        key_place: &str,
        passphrase: Option<&[u8]>,
    ) -> Result<Self, IdentityError> {
        let chain = certificates(chain, chain_place)?;
        let key = private_key(key, key_place, passphrase)?;
        if !chain[0].public_key().map_err(refused)?.public_eq(&key) {
            return Err(IdentityError::Mismatch);
        }
        Ok(Self::new(chain, key))
    }

    /// Staples this OCSP response (RFC 6066 §8), in DER as `openssl ocsp -respout` writes it, to the handshakes of
    /// clients that ask for one. Renew it before it expires, with a [reload](crate::Handle::reload).
    ///
    /// # Errors
    ///
    /// The bytes are not a successful OCSP response.
    pub fn with_ocsp_response(mut self, der: &[u8]) -> Result<Self, IdentityError> {
        let parsed = OcspResponse::from_der(der).map(|response| response.status());
        match parsed {
            Ok(OcspResponseStatus::SUCCESSFUL) => {
                self.ocsp = Some(der.to_vec());
                Ok(self)
            }
            _ => Err(IdentityError::NoOcspResponse { place: "the OCSP response".to_owned() }),
        }
    }

    /// Staples a response like [`with_ocsp_response`](Self::with_ocsp_response), from a file.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is not a successful OCSP response.
    pub fn with_ocsp_file(self, path: impl AsRef<Path>) -> Result<Self, IdentityError> {
        let path = path.as_ref();
        let der = read(path)?;
        self.with_ocsp_response(&der)
            .map_err(|_| IdentityError::NoOcspResponse { place: path.display().to_string() })
    }

    /// Returns the names of the leaf certificate in lower case: those of its subjectAltName, or its common name if it
    /// has none (RFC 6125 §6.4.4).
    pub(crate) fn names(&self) -> Vec<String> {
        let leaf = PeerCertificate::from_x509(&self.chain[0]);
        let names = match leaf.dns_names.is_empty() {
            true => leaf.common_name.into_iter().collect(),
            false => leaf.dns_names,
        };
        names.into_iter().map(|name| name.to_ascii_lowercase()).collect()
    }

    /// Returns the leaf certificate in PEM, so that a client can be configured to trust it.
    pub fn certificate_pem(&self) -> Vec<u8> {
        self.chain[0].to_pem().unwrap_or_default()
    }

    /// Returns the SHA-256 fingerprint of the leaf certificate, in lower-case hexadecimal.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.chain[0])
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("fingerprint", &self.fingerprint()).finish_non_exhaustive()
    }
}

/// The authorities whose certificates are accepted.
#[derive(Clone)]
pub struct CaBundle {
    pub(crate) certificates: Vec<X509>,
    pub(super) file: Option<PathBuf>,
}

impl CaBundle {
    /// Reads one or more certificates in PEM.
    pub fn from_pem(pem: &[u8]) -> Result<Self, IdentityError> {
        Ok(Self { certificates: certificates(pem, "the CA bundle")?, file: None })
    }

    /// Reads certificates like [`from_pem`](Self::from_pem), from a file.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, IdentityError> {
        let path = path.as_ref();
        let pem = read(path)?;
        let certificates = certificates(&pem, &path.display().to_string())?;
        Ok(Self { certificates, file: Some(path.to_owned()) })
    }
}

impl fmt::Debug for CaBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CaBundle({} certificates)", self.certificates.len())
    }
}

/// A key that identifies a peer without a certificate (RFC 7250).
#[derive(Clone)]
pub struct PublicKey(pub(crate) PKey<Public>);

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo (RFC 5280 §4.1) in PEM, as `openssl pkey -pubout` writes it.
    ///
    /// # Errors
    ///
    /// The input has no public key.
    pub fn from_pem(pem: &[u8]) -> Result<Self, IdentityError> {
        let place = || IdentityError::NoPublicKey { place: "the public key".to_owned() };
        PKey::public_key_from_pem(pem).map(Self).map_err(|_| place())
    }

    /// Reads a key like [`from_pem`](Self::from_pem), from a file.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or has no public key.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, IdentityError> {
        let path = path.as_ref();
        let pem = read(path)?;
        Self::from_pem(&pem).map_err(|_| IdentityError::NoPublicKey { place: path.display().to_string() })
    }

    /// Returns the public key of this identity.
    pub fn of(identity: &Identity) -> Result<Self, IdentityError> {
        let der = identity.key.public_key_to_der().map_err(refused)?;
        PKey::public_key_from_der(&der).map(Self).map_err(refused)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PublicKey").field(&self.0.id()).finish()
    }
}

fn make_self_signed() -> Result<Identity, ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let key = PKey::from_ec_key(EcKey::generate(&group)?)?;
    let mut name = X509NameBuilder::new()?;
    name.append_entry_by_nid(Nid::COMMONNAME, "localhost")?;
    let name = name.build();
    let mut serial = BigNum::new()?;
    serial.rand(120, MsbOption::ONE, false)?;

    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    builder.set_serial_number(&*serial.to_asn1_integer()?)?;
    builder.set_subject_name(&name)?;
    builder.set_issuer_name(&name)?;
    builder.set_pubkey(&key)?;
    // Valid a day earlier, for hosts whose clocks are slow.
    builder.set_not_before(&*Asn1Time::from_unix(unix_now() - 24 * 3600)?)?;
    builder.set_not_after(&*Asn1Time::days_from_now(30)?)?;
    builder.append_extension(BasicConstraints::new().critical().ca().build()?)?;
    let names = SubjectAlternativeName::new()
        .dns("localhost")
        .ip("127.0.0.1")
        .ip("::1")
        .build(&builder.x509v3_context(None, None))?;
    builder.append_extension(names)?;
    builder.sign(&key, MessageDigest::sha256())?;
    Ok(Identity::new(vec![builder.build()], key))
}

pub(crate) fn unix_now() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs() as i64)
}

/// Reads a private key and decrypts it if necessary.
fn private_key(pem: &[u8], place: &str, passphrase: Option<&[u8]>) -> Result<PKey<Private>, IdentityError> {
    let mut asked = false;
    // Without a callback, OpenSSL would prompt on the terminal.
    let key = PKey::private_key_from_pem_callback(pem, |buffer| {
        asked = true;
        let passphrase = passphrase.unwrap_or_default();
        match buffer.get_mut(..passphrase.len()) {
            Some(room) => room.copy_from_slice(passphrase),
            None => return Ok(0),
        }
        Ok(passphrase.len())
    });
    // A wrong passphrase can by chance decrypt to bytes that are not a key.
    key.map_err(|_| match (asked, passphrase) {
        (false, _) => IdentityError::NoKey { place: place.to_owned() },
        (true, None) => IdentityError::KeyNeedsPassphrase { place: place.to_owned() },
        (true, Some(_)) => IdentityError::WrongPassphrase { place: place.to_owned() },
    })
}

fn certificates(pem: &[u8], place: &str) -> Result<Vec<X509>, IdentityError> {
    match X509::stack_from_pem(pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(IdentityError::NoCertificate { place: place.to_owned() }),
    }
}

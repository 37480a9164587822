//! Who we are, whom we trust, and who the peer turned out to be.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder, X509Ref};

use crate::error::IdentityError;

/// A certificate chain with its private key: ECDSA or RSA, for clients Ed25519 too (OpenSSL has no
/// Ed25519 for DTLS 1.2 servers).
#[derive(Clone)]
pub struct Identity {
    /// The leaf first.
    pub(crate) chain: Vec<X509>,
    pub(crate) key: PKey<Private>,
}

impl Identity {
    /// Makes a new P-256 key and a certificate for it, valid for 30 days for `localhost`,
    /// 127.0.0.1 and ::1. Nobody can verify it unless told to: for trying things out.
    pub fn self_signed() -> Result<Self, IdentityError> {
        make_self_signed().map_err(refused)
    }

    /// A chain (the leaf first) and its key, both in PEM.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        Self::parse(chain, "the certificate chain", key, "the key")
    }

    /// As [`from_pem`](Self::from_pem), from files.
    pub fn from_files(chain: &Path, key: &Path) -> Result<Self, IdentityError> {
        let (chain_pem, key_pem) = (read(chain)?, read(key)?);
        Self::parse(&chain_pem, &chain.display().to_string(), &key_pem, &key.display().to_string())
    }

    fn parse(chain: &[u8], chain_place: &str, key: &[u8], key_place: &str) -> Result<Self, IdentityError> {
        let chain = certificates(chain, chain_place)?;
        // An encrypted key asks for a passphrase on the terminal unless a callback answers.
        let key = PKey::private_key_from_pem_callback(key, |_| Ok(0))
            .map_err(|_| IdentityError::NoKey { place: key_place.to_owned() })?;
        if !chain[0].public_key().map_err(refused)?.public_eq(&key) {
            return Err(IdentityError::Mismatch);
        }
        Ok(Self { chain, key })
    }

    /// The leaf certificate in PEM, so that a client can be told to trust it.
    pub fn certificate_pem(&self) -> Vec<u8> {
        self.chain[0].to_pem().unwrap_or_default()
    }

    /// The SHA-256 fingerprint of the leaf certificate, in lower-case hexadecimal.
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
}

impl CaBundle {
    /// One or more certificates in PEM.
    pub fn from_pem(pem: &[u8]) -> Result<Self, IdentityError> {
        Ok(Self { certificates: certificates(pem, "the CA bundle")? })
    }

    /// As [`from_pem`](Self::from_pem), from a file.
    pub fn from_file(path: &Path) -> Result<Self, IdentityError> {
        let pem = read(path)?;
        Ok(Self { certificates: certificates(&pem, &path.display().to_string())? })
    }
}

impl fmt::Debug for CaBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CaBundle({} certificates)", self.certificates.len())
    }
}

/// Whether clients must show a certificate.
#[derive(Clone, Debug, Default)]
pub enum ClientAuth {
    /// They are not asked for one.
    #[default]
    None,
    /// They are asked; one that they show must verify, and none is fine.
    Optional(CaBundle),
    /// They must show one that verifies (mutual TLS).
    Required(CaBundle),
}

/// Looks up the pre-shared key of an identity (RFC 4279); `None`: unknown. Runs on the worker
/// thread of the peer that asks, inside its handshake.
pub(crate) type PskLookup = Arc<dyn Fn(&[u8]) -> Option<Vec<u8>> + Send + Sync>;

/// Who the peer proved to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerIdentity {
    /// Nobody in particular.
    #[default]
    Anonymous,
    /// The holder of a certificate. On a server it has verified against the [`ClientAuth`]
    /// authorities.
    Certificate(PeerCertificate),
    /// The holder of a pre-shared key, by its identity.
    Psk(Vec<u8>),
}

/// The certificate that a peer showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The certificate in DER.
    pub der: Vec<u8>,
    /// The common name of its subject.
    pub common_name: Option<String>,
    /// The SHA-256 fingerprint, in lower-case hexadecimal.
    pub fingerprint: String,
}

impl PeerCertificate {
    pub(crate) fn from_x509(certificate: &X509Ref) -> Self {
        let mut names = certificate.subject_name().entries_by_nid(Nid::COMMONNAME);
        let common_name = names.next().and_then(|entry| entry.data().to_string().ok());
        Self {
            der: certificate.to_der().unwrap_or_default(),
            common_name,
            fingerprint: fingerprint(certificate),
        }
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
    // A day of grace for clocks that go slow.
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
    Ok(Identity { chain: vec![builder.build()], key })
}

fn unix_now() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs() as i64)
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    std::fs::read(path).map_err(|source| IdentityError::Unreadable { path: path.to_owned(), source })
}

fn certificates(pem: &[u8], place: &str) -> Result<Vec<X509>, IdentityError> {
    match X509::stack_from_pem(pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(IdentityError::NoCertificate { place: place.to_owned() }),
    }
}

fn fingerprint(certificate: &X509Ref) -> String {
    use std::fmt::Write;
    let digest = certificate.digest(MessageDigest::sha256());
    digest.map_or_else(
        |_| String::new(),
        |digest| {
            digest.iter().fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            })
        },
    )
}

pub(crate) fn refused(errors: ErrorStack) -> IdentityError {
    IdentityError::Refused(errors.to_string())
}

//! The identity that the peer proved.

use std::fmt::Write;
use std::net::IpAddr;

use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::x509::{X509, X509NameRef, X509Ref};

use super::errors::refused;
use crate::error::IdentityError;

/// The identity that a peer proved in its handshake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerIdentity {
    /// The peer proved no identity.
    #[default]
    Anonymous,
    /// The peer proved that it holds the key of this certificate. On a server the certificate has been verified against
    /// the authorities of [`ClientAuth`](crate::ClientAuth).
    Certificate(Box<PeerCertificate>),
    /// The peer holds the pre-shared key with this identity.
    Psk(Vec<u8>),
    /// The peer holds this known key (raw public keys, RFC 7250), a SubjectPublicKeyInfo in DER.
    RawPublicKey(Vec<u8>),
}

/// The certificate that a peer showed. Names are complete: a name with a zero byte is not truncated there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerCertificate {
    /// The certificate in DER.
    pub der: Vec<u8>,
    /// Its subject on one line, as OpenSSL prints it (RFC 2253), such as `CN=alice,O=Example`.
    pub subject: String,
    /// The common name of its subject.
    pub common_name: Option<String>,
    /// The DNS names of its subjectAltName (RFC 5280 §4.2.1.6).
    pub dns_names: Vec<String>,
    /// The addresses of its subjectAltName.
    pub ip_addresses: Vec<IpAddr>,
    /// The URIs of its subjectAltName.
    pub uris: Vec<String>,
    /// The e-mail addresses of its subjectAltName.
    pub emails: Vec<String>,
    /// The SHA-256 fingerprint, in lower-case hexadecimal.
    pub fingerprint: String,
}

impl PeerCertificate {
    /// Parses a certificate, the first one if there are several. Nothing is verified; this is for tests of handlers.
    ///
    /// # Errors
    ///
    /// The input is not a certificate in PEM.
    pub fn from_pem(pem: &[u8]) -> Result<Self, IdentityError> {
        X509::from_pem(pem).map(|certificate| Self::from_x509(&certificate)).map_err(refused)
    }

    pub(crate) fn from_x509(certificate: &X509Ref) -> Self {
        let mut names = certificate.subject_name().entries_by_nid(Nid::COMMONNAME);
        let common_name = names.next().and_then(|entry| entry.data().to_string().ok());
        let mut found = Self {
            der: certificate.to_der().unwrap_or_default(),
            subject: name_line(certificate.subject_name()),
            common_name,
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            uris: Vec::new(),
            emails: Vec::new(),
            fingerprint: fingerprint(certificate),
        };
        for name in certificate.subject_alt_names().iter().flatten() {
            if let Some(dns) = name.dnsname() {
                found.dns_names.push(dns.to_owned());
            } else if let Some(uri) = name.uri() {
                found.uris.push(uri.to_owned());
            } else if let Some(email) = name.email() {
                found.emails.push(email.to_owned());
            } else if let Some(address) = name.ipaddress().and_then(address) {
                found.ip_addresses.push(address);
            }
        }
        found
    }
}

/// Returns a name on one line, the most specific part first. Separators and control characters are escaped (RFC 4514
/// §2.4).
pub(crate) fn name_line(name: &X509NameRef) -> String {
    let parts = name.entries().map(|entry| {
        let name = entry.object().nid().short_name().unwrap_or("?").to_owned();
        let value = entry.data().to_string().unwrap_or_default();
        value.chars().fold(name + "=", |mut part, c| {
            if c.is_ascii_control() {
                let _ = write!(part, "\\{:02X}", u32::from(c));
                return part;
            }
            if ",+\"\\<>;".contains(c) {
                part.push('\\');
            }
            part.push(c);
            part
        })
    });
    let mut parts: Vec<String> = parts.collect();
    parts.reverse();
    parts.join(",")
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

pub(super) fn fingerprint(certificate: &X509Ref) -> String {
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

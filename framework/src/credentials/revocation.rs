//! Certificate revocation lists (CRL, RFC 5280 §5), and the check of a chain of certificates against them.
//!
//! If lists are given, every certificate of a chain is checked, including those of authorities, and each needs a
//! current list from its issuer. OpenSSL does that in a full handshake. But it does not report which list is missing,
//! and it does not check a chain again when its session is resumed; this module does both.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openssl::asn1::{Asn1IntegerRef, Asn1Time, Asn1TimeRef};
use openssl::sha::sha256;
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::{CrlStatus, X509, X509Crl, X509NameRef, X509Ref};

use super::errors::read;
use super::peer::name_line;
use crate::error::IdentityError;
use crate::sys;

/// The certificates that authorities have revoked, each as of the time when its list was issued (CRL, RFC 5280 §5).
#[derive(Clone)]
pub struct RevocationList {
    lists: Arc<[List]>,
    pub(super) file: Option<PathBuf>,
}

struct List {
    list: X509Crl,
    /// The digest of the issuer's name; see [`issuer_digest`].
    issuer: [u8; 32],
}

impl RevocationList {
    /// Reads one or more lists in PEM, or one in DER.
    ///
    /// # Errors
    ///
    /// The bytes hold no list.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, IdentityError> {
        Self::parse(bytes, "the revocation list")
    }

    /// Reads lists like [`from_bytes`](Self::from_bytes), from a file.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or contains no list.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, IdentityError> {
        let path = path.as_ref();
        let list = Self::parse(&read(path)?, &path.display().to_string())?;
        Ok(Self { file: Some(path.to_owned()), ..list })
    }

    fn parse(bytes: &[u8], place: &str) -> Result<Self, IdentityError> {
        const BEGIN: &[u8] = b"-----BEGIN X509 CRL-----";
        let mut lists = Vec::new();
        let starts: Vec<usize> =
            (0..bytes.len()).filter(|&start| bytes[start..].starts_with(BEGIN)).collect();
        for &start in &starts {
            lists.push(X509Crl::from_pem(&bytes[start..]));
        }
        if starts.is_empty() {
            lists.push(X509Crl::from_der(bytes));
        }
        let lists: Result<Arc<[List]>, _> = lists
            .into_iter()
            .map(|list| {
                let list = list?;
                Ok(List { issuer: issuer_digest(list.issuer_name()), list })
            })
            .collect();
        let lists = lists.map_err(|_: openssl::error::ErrorStack| IdentityError::NoRevocationList {
            place: place.to_owned(),
        })?;
        Ok(Self { lists, file: None })
    }

    /// Adds the lists to the store that verifies chains.
    pub(crate) fn add_to(&self, store: &mut X509StoreBuilder) -> Result<(), openssl::error::ErrorStack> {
        self.lists.iter().try_for_each(|List { list, .. }| sys::ossl::add_crl(store, list))
    }

    /// Checks that there is a list from each of these authorities.
    ///
    /// # Errors
    ///
    /// [`IdentityError::NoListOf`] names the first authority without a list.
    pub(crate) fn check_authorities(&self, authorities: &[X509]) -> Result<(), IdentityError> {
        for authority in authorities {
            let name = authority.subject_name();
            if self.of(&issuer_digest(name)).next().is_none() {
                return Err(IdentityError::NoListOf { authority: name_line(name) });
            }
        }
        Ok(())
    }

    /// Returns the expiration time of each list, with the name of its issuer.
    pub(super) fn ends(&self) -> impl Iterator<Item = (String, &Asn1TimeRef)> {
        self.lists
            .iter()
            .filter_map(|List { list, .. }| Some((name_line(list.issuer_name()), list.next_update()?)))
    }

    /// Returns why these lists refuse a chain, naming the certificate and its issuer; `None` if they accept it. The
    /// order is OpenSSL's, the leaf first.
    pub(crate) fn objection<'a>(&self, chain: impl Iterator<Item = &'a X509Ref>) -> Option<String> {
        for certificate in chain {
            let issuer = name_line(certificate.issuer_name());
            let digest = issuer_digest(certificate.issuer_name());
            if !self.of(&digest).any(List::is_current) {
                let Some(List { list, .. }) = self.of(&digest).next() else {
                    return Some(format!("there is no revocation list of {issuer}"));
                };
                let until = list.next_update().map(|until| format!(" until {until}")).unwrap_or_default();
                return Some(format!(
                    "the revocation list of {issuer} is valid only from {}{until}",
                    list.last_update()
                ));
            }
            if self.of(&digest).any(|list| list.revokes(certificate.serial_number())) {
                let subject = name_line(certificate.subject_name());
                return Some(format!("{subject} is revoked by {issuer}"));
            }
        }
        None
    }

    /// Returns whether there is a current list from this issuer, and none that revokes the certificate with this serial
    /// number.
    pub(crate) fn clears(&self, issuer: &[u8; 32], serial: &Asn1IntegerRef) -> bool {
        self.of(issuer).any(List::is_current) && !self.of(issuer).any(|list| list.revokes(serial))
    }

    fn of<'a>(&'a self, issuer: &'a [u8; 32]) -> impl Iterator<Item = &'a List> {
        self.lists.iter().filter(move |list| list.issuer == *issuer)
    }
}

impl fmt::Debug for RevocationList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RevocationList({} lists)", self.lists.len())
    }
}

impl List {
    fn revokes(&self, serial: &Asn1IntegerRef) -> bool {
        matches!(self.list.get_by_serial(serial), CrlStatus::Revoked(_))
    }

    /// Returns whether the list is valid now. As for OpenSSL, a list without the time of the next one does not expire.
    fn is_current(&self) -> bool {
        let Ok(now) = Asn1Time::days_from_now(0) else { return false };
        let now: &Asn1TimeRef = &now;
        self.list.last_update() <= now && self.list.next_update().is_none_or(|next| now < next)
    }
}

/// Returns the value by which issuers are compared: the SHA-256 digest of the name in DER. A name that cannot be
/// encoded gets the digest of the empty string, which no list has.
pub(crate) fn issuer_digest(name: &X509NameRef) -> [u8; 32] {
    sha256(&name.to_der().unwrap_or_default())
}

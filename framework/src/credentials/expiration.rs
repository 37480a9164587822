//! Expiration times of certificates and revocation lists.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::x509::X509Ref;

use super::peer::name_line;
use super::{CaBundle, ClientAuth, Credentials, Identity};

/// When a part of some [`Credentials`] expires; returned by [`Credentials::expirations`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Expiration {
    /// The part: its kind, and its subject or issuer on one line (RFC 2253), such as `certificate CN=example.org`.
    pub what: String,
    /// The end of its validity (`notAfter`, RFC 5280 §4.1.2.5; `nextUpdate` of a revocation list, RFC 5280 §5.1.2.5).
    pub at: SystemTime,
    /// The file that it was read from; `None` for a part that was not read from a file.
    pub file: Option<PathBuf>,
}

impl Credentials {
    /// Returns when each certificate and each revocation list expires: the certificates and chains that this side
    /// shows, those of the authorities that it trusts, and the lists. Peers refuse an expired certificate; this side
    /// refuses peers below an authority whose list has expired.
    pub fn expirations(&self) -> Vec<Expiration> {
        let trusted = match &self.client_auth {
            ClientAuth::None => None,
            ClientAuth::Optional(authorities) | ClientAuth::Required(authorities) => Some(authorities),
        };
        let shown = self.identities.iter().flat_map(|Identity { chain, file, .. }| {
            chain
                .iter()
                .filter_map(move |certificate| of_certificate("certificate", certificate, file.as_deref()))
        });
        let trusted = trusted.into_iter().flat_map(|CaBundle { certificates, file }| {
            certificates
                .iter()
                .filter_map(move |certificate| of_certificate("authority", certificate, file.as_deref()))
        });
        let lists = self.revoked.iter().flat_map(|revoked| {
            revoked.ends().filter_map(|(issuer, end)| {
                expiration(format!("revocation list of {issuer}"), end, revoked.file.as_deref())
            })
        });
        shown.chain(trusted).chain(lists).collect()
    }
}

fn of_certificate(kind: &str, certificate: &X509Ref, file: Option<&Path>) -> Option<Expiration> {
    let what = format!("{kind} {}", name_line(certificate.subject_name()));
    expiration(what, certificate.not_after(), file)
}

fn expiration(what: String, end: &Asn1TimeRef, file: Option<&Path>) -> Option<Expiration> {
    Some(Expiration { what, at: system_time(end)?, file: file.map(Path::to_owned) })
}

/// Converts a time; returns `None` if it is before 1970 or cannot be parsed.
fn system_time(time: &Asn1TimeRef) -> Option<SystemTime> {
    let since = Asn1Time::from_unix(0).and_then(|epoch| epoch.diff(time)).ok()?;
    let seconds = i64::from(since.days) * 24 * 3600 + i64::from(since.secs);
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_and_authorities_have_their_end() {
        let identity = Identity::self_signed().unwrap();
        let authority = CaBundle::from_pem(&identity.certificate_pem()).unwrap();
        let credentials = Credentials::new().identity(identity).client_auth(ClientAuth::Required(authority));
        let found = credentials.expirations();
        let month = SystemTime::now() + Duration::from_secs(30 * 24 * 3600);
        assert_eq!(found.len(), 2);
        for expiration in &found {
            let off = month.duration_since(expiration.at).unwrap_or_else(|error| error.duration());
            assert!(off < Duration::from_secs(2 * 24 * 3600), "{expiration:?}");
            assert_eq!(expiration.file, None);
        }
        assert!(found[0].what.starts_with("certificate CN="), "{}", found[0].what);
        assert!(found[1].what.starts_with("authority CN="), "{}", found[1].what);
    }
}

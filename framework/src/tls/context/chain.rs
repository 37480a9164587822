//! Keeps a record of the certificate chain in the session that began with it, so that the complete chain is checked
//! again when the session is resumed.
//!
//! A session contains only the peer's own certificate, and OpenSSL verifies nothing when it resumes one. A [`Record`]
//! contains the time when the first certificate of the chain expires and, if there are revocation lists, the issuer and
//! serial number of each certificate. It is part of the session ticket. A session whose chain would no longer verify
//! leads to a full handshake, in which OpenSSL verifies the current chain and reports what is wrong with it.

use std::sync::LazyLock;

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{SslContext, SslContextBuilder, SslRef, SslSession, SslSessionRef};
use openssl::x509::{X509Ref, X509VerifyResult};

use crate::credentials::{RevocationList, issuer_digest};
use crate::sys::tickets::{self, TicketData};

/// The revocation lists against which a context's peers are checked.
static LISTS: LazyLock<Option<Index<SslContext, RevocationList>>> =
    LazyLock::new(|| SslContext::new_ex_index().ok());

/// Stores these lists in a context.
pub(super) fn use_lists(context: &mut SslContextBuilder, lists: &RevocationList) -> Result<(), ErrorStack> {
    let index = (*LISTS).ok_or_else(ErrorStack::get)?;
    context.set_ex_data(index, lists.clone());
    Ok(())
}

/// Returns the lists of this handshake's context.
fn lists(ssl: &SslRef) -> Option<&RevocationList> {
    ssl.ssl_context().ex_data((*LISTS)?)
}

/// Returns why the revocation lists refuse the chain of a handshake that has failed with this result.
pub(crate) fn objection(ssl: &SslRef, failure: X509VerifyResult) -> Option<String> {
    // X509_V_ERR_UNABLE_TO_GET_CRL, X509_V_ERR_CRL_NOT_YET_VALID, X509_V_ERR_CRL_HAS_EXPIRED and
    // X509_V_ERR_CERT_REVOKED, see X509_STORE_CTX_get_error(3).
    let is_about_lists = matches!(failure.as_raw(), 3 | 11 | 12 | 23);
    let chain = ssl.verified_chain().filter(|_| is_about_lists)?;
    lists(ssl)?.objection(chain.iter())
}

/// Adds the record of the client's chain to a server's tickets, and accepts tickets only if it still holds.
pub(super) fn use_records(context: &mut SslContextBuilder) {
    static RECORDS: TicketData = TicketData {
        make: |ssl| Record::of(ssl).map(|record| record.encode()),
        accept: |ssl, has_certificate, data| match data {
            Some(data) => Record::decode(data).is_some_and(|record| record.holds(lists(ssl))),
            // A client that showed no certificate has no chain.
            None => !has_certificate,
        },
    };
    tickets::set_ticket_data(context, &RECORDS);
}

/// Adds the record of the server's chain to a client's new session. A session that results from a resumed one has it
/// already.
pub(super) fn keep_record(ssl: &SslRef, session: &mut SslSession) {
    if let Some(record) = Record::of(ssl) {
        tickets::set_session_data(session, &record.encode());
    }
}

/// Returns whether the chain of a client's session would verify now. A client that verifies nothing has no record.
pub(super) fn holds(session: &SslSessionRef, lists: Option<&RevocationList>) -> bool {
    match tickets::session_data(session) {
        Some(data) => Record::decode(&data).is_some_and(|record| record.holds(lists)),
        None => true,
    }
}

/// A verified certificate chain.
#[derive(Debug, PartialEq, Eq)]
struct Record {
    /// When the first of its certificates expires, in seconds since 1970.
    expires: i64,
    /// Its certificates, if there are revocation lists.
    links: Vec<Link>,
}

/// A certificate, identified as in a revocation list.
#[derive(Debug, PartialEq, Eq)]
struct Link {
    issuer: [u8; 32],
    serial: Vec<u8>,
}

impl Record {
    /// Makes the record of a handshake that verified a chain.
    fn of(ssl: &SslRef) -> Option<Self> {
        let chain = ssl.verified_chain().filter(|_| ssl.verify_result() == X509VerifyResult::OK)?;
        let expires = chain.iter().filter_map(expiry).min()?;
        let links: Option<Vec<Link>> = match lists(ssl) {
            Some(_) => chain.iter().map(Link::of).collect(),
            None => Some(Vec::new()),
        };
        Some(Self { expires, links: links? })
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.expires.to_be_bytes().to_vec();
        for link in &self.links {
            bytes.extend_from_slice(&link.issuer);
            bytes.push(link.serial.len() as u8);
            bytes.extend_from_slice(&link.serial);
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (expires, mut rest) = bytes.split_first_chunk::<8>()?;
        let mut links = Vec::new();
        while !rest.is_empty() {
            let (issuer, behind) = rest.split_first_chunk::<32>()?;
            let (len, behind) = behind.split_first()?;
            let (serial, behind) = behind.split_at_checked(usize::from(*len))?;
            links.push(Link { issuer: *issuer, serial: serial.to_vec() });
            rest = behind;
        }
        Some(Self { expires: i64::from_be_bytes(*expires), links })
    }

    fn holds(&self, lists: Option<&RevocationList>) -> bool {
        let is_clear = match lists {
            None => true,
            // The session began before there were revocation lists.
            Some(_) if self.links.is_empty() => false,
            Some(lists) => self.links.iter().all(|link| link.is_cleared_by(lists)),
        };
        is_clear && crate::credentials::unix_now() < self.expires
    }
}

impl Link {
    /// Makes the link of a certificate. Returns `None` for an invalid serial number (RFC 5280 §4.1.2.2): negative, or
    /// longer than OpenSSL can search for in a list.
    fn of(certificate: &X509Ref) -> Option<Self> {
        let serial =
            certificate.serial_number().to_bn().ok().filter(|serial| !serial.is_negative())?.to_vec();
        let issuer = issuer_digest(certificate.issuer_name());
        (serial.len() <= usize::from(u8::MAX)).then_some(Self { issuer, serial })
    }

    fn is_cleared_by(&self, lists: &RevocationList) -> bool {
        let serial = BigNum::from_slice(&self.serial).and_then(|serial| serial.to_asn1_integer());
        serial.is_ok_and(|serial| lists.clears(&self.issuer, &serial))
    }
}

fn expiry(certificate: &X509Ref) -> Option<i64> {
    let passed = Asn1Time::from_unix(0).ok()?.diff(certificate.not_after()).ok()?;
    Some(i64::from(passed.days) * 24 * 3600 + i64::from(passed.secs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_never_in_parts() {
        let link = |byte: u8, len: usize| Link { issuer: [byte; 32], serial: vec![byte; len] };
        let record = Record { expires: 1 << 40, links: vec![link(1, 20), link(2, 0), link(3, 255)] };
        let bytes = record.encode();
        assert_eq!(Record::decode(&bytes), Some(record));
        let ends = [8, 8 + 53, 8 + 53 + 33, bytes.len()];
        for len in 0..=bytes.len() {
            assert_eq!(Record::decode(&bytes[..len]).is_some(), ends.contains(&len), "{len} bytes");
        }
    }

    #[test]
    fn a_chain_is_good_until_its_first_certificate_expires() {
        let now = crate::credentials::unix_now();
        assert!(Record { expires: now + 60, links: Vec::new() }.holds(None));
        assert!(!Record { expires: now, links: Vec::new() }.holds(None));
    }
}

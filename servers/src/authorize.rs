//! Decides by patterns for the names in certificates which authenticated peers are admitted.

use std::str::FromStr;

use peeloff::{PeerCertificate, PeerIdentity};

/// A pattern for a certificate's subject in one line, such as `CN=alice,O=Example` (RFC 4514). `*` stands for any
/// characters, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectPattern(String);

/// A pattern for a name in a certificate (subjectAltName, RFC 5280 §4.2.1.6): `dns:`, `ip:`, `uri:` or `email:`
/// and the name, in which `*` stands for any characters, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SanPattern {
    kind: Kind,
    name: String,
}

/// The kinds of names in a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Dns,
    Ip,
    Uri,
    Email,
}

/// Patterns for the certificates that are admitted. A peer that has proven a pre-shared key is always admitted.
#[derive(Clone, Debug, Default)]
pub struct Guests {
    /// Patterns for the subject.
    pub subjects: Vec<SubjectPattern>,
    /// Patterns for the names.
    pub names: Vec<SanPattern>,
}

impl Guests {
    /// Returns the option that a pattern came from. Returns none if there is no pattern, so that every peer is
    /// admitted.
    pub fn option(&self) -> Option<&'static str> {
        match (self.subjects.is_empty(), self.names.is_empty()) {
            (false, _) => Some("--allow-subject"),
            (true, false) => Some("--allow-san"),
            (true, true) => None,
        }
    }

    /// Returns whether a peer is admitted.
    pub fn admit(&self, peer: &PeerIdentity) -> bool {
        match peer {
            PeerIdentity::Certificate(certificate) => self.has(certificate),
            // A peer that has a key from the table is meant to be admitted.
            PeerIdentity::Psk(_) => true,
            _ => false,
        }
    }

    fn has(&self, certificate: &PeerCertificate) -> bool {
        if has_zero_byte(certificate) {
            return false;
        }
        self.subjects.iter().any(|SubjectPattern(pattern)| matches(pattern, &certificate.subject))
            || self.names.iter().any(|pattern| pattern.is_in(certificate))
    }
}

/// Returns whether a name contains a zero byte. An authority that takes that byte for the end of the name has
/// verified only a part of it. Such a certificate matches no pattern, because a `*` would match the part that was
/// not verified.
fn has_zero_byte(certificate: &PeerCertificate) -> bool {
    let PeerCertificate { subject, dns_names, uris, emails, .. } = certificate;
    let names = dns_names.iter().chain(uris).chain(emails);
    subject.contains(r"\00") || names.into_iter().any(|name| name.contains('\0'))
}

impl SanPattern {
    fn is_in(&self, certificate: &PeerCertificate) -> bool {
        let is = |name: &str| matches(&self.name, name);
        match self.kind {
            Kind::Dns => certificate.dns_names.iter().any(|name| is(&name.to_ascii_lowercase())),
            Kind::Ip => certificate.ip_addresses.iter().any(|address| is(&address.to_string())),
            Kind::Uri => certificate.uris.iter().any(|uri| is(uri)),
            Kind::Email => certificate.emails.iter().any(|address| is(address)),
        }
    }
}

impl FromStr for SubjectPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.contains('=') {
            true => Ok(Self(text.to_owned())),
            false => Err(format!(
                "{text:?} is not a subject: write it as CN=alice,O=Example, with * for any characters"
            )),
        }
    }
}

impl FromStr for SanPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, name) = text.split_once(':').unwrap_or_default();
        let kind = match kind {
            "dns" => Some(Kind::Dns),
            "ip" => Some(Kind::Ip),
            "uri" => Some(Kind::Uri),
            "email" => Some(Kind::Email),
            _ => None,
        };
        match kind {
            // Host names are compared without regard to case (RFC 4343).
            Some(Kind::Dns) if !name.is_empty() => {
                Ok(Self { kind: Kind::Dns, name: name.to_ascii_lowercase() })
            }
            Some(kind) if !name.is_empty() => Ok(Self { kind, name: name.to_owned() }),
            _ => Err(format!(
                "{text:?} is not a name: write dns:NAME, ip:ADDRESS, uri:URI or email:ADDRESS, with * for any characters"
            )),
        }
    }
}

/// Returns whether the pattern matches the whole text. Takes time in proportion to the sum of their lengths.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut left) = text.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text, expected) in [
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("*", "", true),
            ("**", "abc", true),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*c", "acd", false),
            ("ab*bc", "abc", false),
            ("*b*", "abc", true),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "acb", false),
            ("*ab", "aab", true),
            ("a*ba*b", "ababab", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_name_without_its_kind_is_refused() {
        for wrong in ["a.example", "dns:", "host:a", ""] {
            assert!(wrong.parse::<SanPattern>().unwrap_err().contains("write dns:NAME"), "{wrong}");
        }
        assert!("alice".parse::<SubjectPattern>().unwrap_err().contains("CN=alice"));
        assert_eq!("dns:A.Example".parse::<SanPattern>(), "dns:a.example".parse());
        assert_ne!("uri:A".parse::<SanPattern>(), "uri:a".parse());
    }

    #[test]
    fn a_list_of_names_admits_no_peer_without_a_certificate_except_with_a_key() {
        let guests = Guests { names: vec!["dns:*".parse().unwrap()], ..Guests::default() };
        assert_eq!(guests.option(), Some("--allow-san"));
        assert!(!guests.admit(&PeerIdentity::Anonymous));
        assert!(guests.admit(&PeerIdentity::Psk(b"alice".to_vec())));
        assert_eq!(Guests::default().option(), None);
    }
}

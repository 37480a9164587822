//! Who may come in of those who have proven who they are: patterns for the names in their certificates.

use std::str::FromStr;

use peeloff::{PeerCertificate, PeerIdentity};

/// What a certificate's subject may be, as one line such as `CN=alice,O=Example` (RFC 4514); `*` stands for any
/// characters, also none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectPattern(String);

/// What a name in a certificate may be (subjectAltName, RFC 5280 §4.2.1.6): `dns:`, `ip:`, `uri:` or `email:`
/// and the name, in which `*` stands for any characters, also none.
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

/// Certificates with one of these names may come in, and those who have proven a pre-shared key.
#[derive(Clone, Debug, Default)]
pub struct Guests {
    /// Patterns for the subject.
    pub subjects: Vec<SubjectPattern>,
    /// Patterns for the names.
    pub names: Vec<SanPattern>,
}

impl Guests {
    /// The option that a pattern came from; none if there is no pattern, and everybody may come in.
    pub fn option(&self) -> Option<&'static str> {
        match (self.subjects.is_empty(), self.names.is_empty()) {
            (false, _) => Some("--allow-subject"),
            (true, false) => Some("--allow-san"),
            (true, true) => None,
        }
    }

    /// Whether a peer may come in.
    pub fn admit(&self, peer: &PeerIdentity) -> bool {
        match peer {
            PeerIdentity::Certificate(certificate) => self.has(certificate),
            // Whoever has a key of the table is meant to come in.
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

/// Whether a name goes on behind a zero byte: an authority that takes that for the end has checked a part of it. No
/// pattern matches such a certificate, for a `*` would match what was not checked.
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
            false => {
                Err(format!("{text:?} is no subject: write it as CN=alice,O=Example, with * for anything"))
            }
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
            // The case of host names means nothing (RFC 4343).
            Some(Kind::Dns) if !name.is_empty() => {
                Ok(Self { kind: Kind::Dns, name: name.to_ascii_lowercase() })
            }
            Some(kind) if !name.is_empty() => Ok(Self { kind, name: name.to_owned() }),
            _ => Err(format!(
                "{text:?} is no name: write dns:NAME, ip:ADDRESS, uri:URI or email:ADDRESS, with * for anything"
            )),
        }
    }
}

/// Whether `text` is what `pattern` says, from its beginning to its end. Takes time in proportion to both.
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
    fn nobody_without_a_certificate_comes_in_but_those_with_a_key() {
        let guests = Guests { names: vec!["dns:*".parse().unwrap()], ..Guests::default() };
        assert_eq!(guests.option(), Some("--allow-san"));
        assert!(!guests.admit(&PeerIdentity::Anonymous));
        assert!(guests.admit(&PeerIdentity::Psk(b"alice".to_vec())));
        assert_eq!(Guests::default().option(), None);
    }
}

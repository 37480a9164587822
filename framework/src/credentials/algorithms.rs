//! Cipher suites and key agreement groups that a handshake may choose.

use std::fmt;
use std::str::FromStr;

use openssl::error::ErrorStack;
use openssl::ssl::{SslContext, SslMethod, SslVersion};

/// A supported cipher suite: one with an AEAD cipher, and before TLS 1.3 with an ephemeral or a pre-shared key.
#[derive(Debug, PartialEq, Eq)]
struct Suite {
    /// The name in OpenSSL.
    name: &'static str,
    /// The name in IANA's registry.
    registered: &'static str,
    /// Whether both sides have a pre-shared key.
    psk: bool,
    profile: Profile,
}

/// The smallest named profile that contains a suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Profile {
    Default,
    Constrained,
    /// The suite can only be selected by its own name.
    Neither,
}

const fn suite(name: &'static str, registered: &'static str, psk: bool, profile: Profile) -> Suite {
    Suite { name, registered, psk, profile }
}

const fn certified(name: &'static str, registered: &'static str) -> Suite {
    suite(name, registered, false, Profile::Default)
}

const fn shared(name: &'static str, registered: &'static str) -> Suite {
    suite(name, registered, true, Profile::Default)
}

/// The suites of TLS 1.3, the preferred one first. OpenSSL uses the registered names too.
const NEW: &[Suite] = &[
    certified("TLS_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384"),
    certified("TLS_CHACHA20_POLY1305_SHA256", "TLS_CHACHA20_POLY1305_SHA256"),
    certified("TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
    suite("TLS_AES_128_CCM_SHA256", "TLS_AES_128_CCM_SHA256", false, Profile::Neither),
    suite("TLS_AES_128_CCM_8_SHA256", "TLS_AES_128_CCM_8_SHA256", false, Profile::Neither),
];

/// The suites of TLS 1.2 and DTLS 1.2, the preferred one first: those with forward secrecy, then the plain suites with
/// a pre-shared key, which lack it and exist for constrained devices (RFC 7925 §4.2).
const OLD: &[Suite] = &[
    certified("ECDHE-ECDSA-AES256-GCM-SHA384", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
    certified("ECDHE-RSA-AES256-GCM-SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
    certified("ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
    certified("ECDHE-RSA-AES128-GCM-SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
    certified("ECDHE-ECDSA-CHACHA20-POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
    certified("ECDHE-RSA-CHACHA20-POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
    certified("ECDHE-ECDSA-AES128-CCM", "TLS_ECDHE_ECDSA_WITH_AES_128_CCM"),
    certified("ECDHE-ECDSA-AES256-CCM", "TLS_ECDHE_ECDSA_WITH_AES_256_CCM"),
    suite("ECDHE-ECDSA-AES128-CCM8", "TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8", false, Profile::Constrained),
    suite("ECDHE-ECDSA-AES256-CCM8", "TLS_ECDHE_ECDSA_WITH_AES_256_CCM_8", false, Profile::Neither),
    shared("ECDHE-PSK-CHACHA20-POLY1305", "TLS_ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256"),
    shared("PSK-AES128-GCM-SHA256", "TLS_PSK_WITH_AES_128_GCM_SHA256"),
    shared("PSK-AES256-GCM-SHA384", "TLS_PSK_WITH_AES_256_GCM_SHA384"),
    shared("PSK-CHACHA20-POLY1305", "TLS_PSK_WITH_CHACHA20_POLY1305_SHA256"),
    shared("PSK-AES128-CCM", "TLS_PSK_WITH_AES_128_CCM"),
    shared("PSK-AES256-CCM", "TLS_PSK_WITH_AES_256_CCM"),
    suite("PSK-AES128-CCM8", "TLS_PSK_WITH_AES_128_CCM_8", true, Profile::Constrained),
    suite("PSK-AES256-CCM8", "TLS_PSK_WITH_AES_256_CCM_8", true, Profile::Neither),
];

/// The supported groups, each with its other names.
const GROUPS: &[(&str, &[&str])] = &[
    ("X25519", &[]),
    ("P-256", &["secp256r1", "prime256v1"]),
    ("X448", &[]),
    ("P-384", &["secp384r1"]),
    ("P-521", &["secp521r1"]),
    ("brainpoolP256r1", &[]),
    ("brainpoolP384r1", &[]),
    ("brainpoolP512r1", &[]),
    ("X25519MLKEM768", &[]),
    ("SecP256r1MLKEM768", &[]),
    ("SecP384r1MLKEM1024", &[]),
];

const DEFAULT: &str = "default";
const CONSTRAINED: &str = "constrained";

/// The cipher suites that one side of a handshake accepts, the preferred one first. TLS 1.3 has its own suites, all
/// others are for TLS 1.2 and DTLS 1.2; a protocol version without a suite is not used.
///
/// The text form is a list, separated by colons or commas, of names in OpenSSL's or IANA's spelling and of two
/// profiles. `default` contains only suites with full authentication tags. `constrained` adds
/// `TLS_PSK_WITH_AES_128_CCM_8` and `TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8`, which CoAP devices must support (RFC 7252
/// §9.1.3). Because of their tags of 8 bytes, OpenSSL 3 requires security level 0 for them (`@SECLEVEL=0` in the other
/// side's list, if it uses OpenSSL too). This library permits these suites without lowering its security level for
/// keys, certificates and signatures.
///
/// ```
/// use peeloff::{CipherSuites, Credentials};
///
/// # fn main() -> Result<(), peeloff::AlgorithmError> {
/// let suites: CipherSuites = "default:TLS_PSK_WITH_AES_128_CCM_8".parse()?;
/// assert!(suites.has_short_tags());
/// let credentials = Credentials::new().cipher_suites(suites);
/// # let _ = credentials; Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CipherSuites(Vec<&'static Suite>);

impl CipherSuites {
    /// Returns the default suites and those for constrained devices.
    pub fn constrained() -> Self {
        Self(all().filter(|suite| suite.profile != Profile::Neither).collect())
    }

    /// Returns whether there is a suite with a tag of 8 bytes (`CCM_8`): each forged record then passes with a
    /// probability of 2^-64.
    pub fn has_short_tags(&self) -> bool {
        self.0.iter().any(|suite| suite.registered.contains("CCM_8"))
    }

    /// Returns OpenSSL's list for versions before TLS 1.3; with `psk`, only of suites with a pre-shared key. `None` if
    /// there is no such suite.
    pub(crate) fn old(&self, psk: bool) -> Option<String> {
        list(self.0.iter().filter(|suite| !is_new(suite) && (suite.psk || !psk)))
    }

    /// Returns OpenSSL's list for TLS 1.3. `None` if there is no such suite.
    pub(crate) fn new_ones(&self) -> Option<String> {
        list(self.0.iter().filter(|suite| is_new(suite)))
    }

    /// Returns the same list with the SHA-256 suites first: a pre-shared key from a callback works only with these (RFC
    /// 8446 §4.2.11), and OpenSSL ignores a key that does not fit the suite.
    pub(crate) fn sha256_first(&self) -> Option<String> {
        let mut suites: Vec<_> = self.0.iter().filter(|suite| is_new(suite)).collect();
        suites.sort_by_key(|suite| (!suite.name.ends_with("SHA256"), !suite.name.contains("AES_128_GCM")));
        list(suites.into_iter())
    }

    /// Returns the oldest and the newest version of TLS that has a suite in this list.
    pub(crate) fn versions(&self) -> (SslVersion, SslVersion) {
        let has = |new| self.0.iter().any(|suite| is_new(suite) == new);
        let oldest = if has(false) { SslVersion::TLS1_2 } else { SslVersion::TLS1_3 };
        let newest = if has(true) { SslVersion::TLS1_3 } else { SslVersion::TLS1_2 };
        (oldest, newest)
    }
}

fn all() -> impl Iterator<Item = &'static Suite> {
    NEW.iter().chain(OLD)
}

fn is_new(suite: &Suite) -> bool {
    NEW.iter().any(|new| new.name == suite.name)
}

fn list<'a>(suites: impl Iterator<Item = &'a &'static Suite>) -> Option<String> {
    let names: Vec<&str> = suites.map(|suite| suite.name).collect();
    (!names.is_empty()).then(|| names.join(":"))
}

impl Default for CipherSuites {
    fn default() -> Self {
        Self(all().filter(|suite| suite.profile == Profile::Default).collect())
    }
}

impl FromStr for CipherSuites {
    type Err = AlgorithmError;

    fn from_str(text: &str) -> Result<Self, AlgorithmError> {
        let mut found: Vec<&'static Suite> = Vec::new();
        for item in items(text) {
            let named: Vec<_> = match item {
                DEFAULT => Self::default().0,
                CONSTRAINED => Self::constrained().0,
                name => vec![find_suite(name)?],
            };
            named.into_iter().for_each(|suite| {
                if !found.contains(&suite) {
                    found.push(suite);
                }
            });
        }
        match found.is_empty() {
            true => Err(AlgorithmError::Empty { kind: "cipher suite", example: "default or constrained" }),
            false => Ok(Self(found)),
        }
    }
}

impl fmt::Display for CipherSuites {
    /// Writes the list in the form that can be parsed again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            suites if *suites == Self::default() => f.write_str(DEFAULT),
            suites if *suites == Self::constrained() => f.write_str(CONSTRAINED),
            Self(suites) => f.write_str(&list(suites.iter()).unwrap_or_default()),
        }
    }
}

fn find_suite(name: &str) -> Result<&'static Suite, AlgorithmError> {
    let is = |known: &str| known.eq_ignore_ascii_case(name);
    if let Some(found) = all().find(|suite| is(suite.name) || is(suite.registered)) {
        return Ok(found);
    }
    let name = name.to_owned();
    if let Some(why) = weakness(&name) {
        return Err(AlgorithmError::Refused { name, why });
    }
    let known = all().flat_map(|suite| [suite.name, suite.registered]).chain([DEFAULT, CONSTRAINED]);
    Err(AlgorithmError::Unknown { kind: "cipher suite", nearest: nearest(&name, known), name })
}

/// Returns why a suite that OpenSSL may have is not supported; `None` if there seems to be no such suite.
fn weakness(name: &str) -> Option<&'static str> {
    let upper = name.to_ascii_uppercase();
    let has = |part: &str| upper.contains(part);
    let is_openssls = !name.contains(['+', '!', '@', '\0'])
        && SslContext::builder(SslMethod::tls())
            .and_then(|mut context| {
                context.set_security_level(0);
                context.set_cipher_list(name)
            })
            .inspect_err(|_| drop(ErrorStack::get()))
            .is_ok();
    if !(is_openssls || upper.starts_with("TLS_") && has("_WITH_")) {
        return None;
    }
    Some(match () {
        () if has("NULL") => "it does not encrypt",
        () if has("ANON") || has("ADH") || has("AECDH") => "it authenticates neither side",
        () if !has("GCM") && !has("CCM") && !has("POLY1305") => "its cipher is not an AEAD",
        () if is_openssls => {
            "only suites with ECDHE or PSK and AES-GCM, AES-CCM or ChaCha20-Poly1305 are supported"
        }
        () => return None,
    })
}

/// The key agreement groups that one side accepts, the preferred one first. Before TLS 1.3, a client also accepts ECDSA
/// certificates only on these curves (RFC 8422 §5.1).
///
/// The text form is a list, separated by colons or commas, such as `X25519:P-256`; or `default`, which leaves the
/// choice to OpenSSL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups(Vec<&'static str>);

impl Groups {
    /// Returns OpenSSL's list; `None` if OpenSSL chooses.
    pub(crate) fn list(&self) -> Option<String> {
        (!self.0.is_empty()).then(|| self.0.join(":"))
    }
}

impl FromStr for Groups {
    type Err = AlgorithmError;

    fn from_str(text: &str) -> Result<Self, AlgorithmError> {
        if text.trim() == DEFAULT {
            return Ok(Self::default());
        }
        let mut found = Vec::new();
        for item in items(text) {
            let is = |known: &str| known.eq_ignore_ascii_case(item);
            let Some((name, _)) =
                GROUPS.iter().find(|(name, others)| is(name) || others.iter().any(|n| is(n)))
            else {
                let known = GROUPS.iter().flat_map(|(name, others)| std::iter::once(name).chain(*others));
                return Err(AlgorithmError::Unknown {
                    kind: "group",
                    name: item.to_owned(),
                    nearest: nearest(item, known.copied()),
                });
            };
            let accepted = SslContext::builder(SslMethod::tls())
                .and_then(|mut context| context.set_groups_list(name))
                .is_ok();
            if !accepted {
                return Err(AlgorithmError::Refused {
                    name: (*name).to_owned(),
                    why: "the OpenSSL that is linked does not have it",
                });
            }
            if !found.contains(name) {
                found.push(*name);
            }
        }
        match found.is_empty() {
            true => Err(AlgorithmError::Empty { kind: "group", example: "default or X25519:P-256" }),
            false => Ok(Self(found)),
        }
    }
}

impl fmt::Display for Groups {
    /// Writes the list in the form that can be parsed again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.list().unwrap_or_else(|| DEFAULT.to_owned()))
    }
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split([':', ',']).map(str::trim).filter(|item| !item.is_empty())
}

/// Returns the known name that is most similar to this one, if any is similar enough.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let name = name.to_ascii_lowercase();
    let likeness = |known: &str| strsim::normalized_damerau_levenshtein(&name, &known.to_ascii_lowercase());
    let best = known.map(|known| (likeness(known), known)).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 >= 0.6).then(|| best.1.to_owned())
}

/// Reason why a text is not a list of [`CipherSuites`] or [`Groups`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AlgorithmError {
    /// No suite or group has this name.
    #[error("there is no {kind} {name}{}", nearest.as_ref().map(|name| format!(": the nearest is {name}")).unwrap_or_default())]
    Unknown {
        /// "cipher suite" or "group".
        kind: &'static str,
        /// The name that was given.
        name: String,
        /// A similar name that exists.
        nearest: Option<String>,
    },
    /// The suite or group is too weak, or the linked OpenSSL does not have it.
    #[error("{name} cannot be used: {why}")]
    Refused {
        /// The name that was given.
        name: String,
        /// The reason.
        why: &'static str,
    },
    /// The list is empty.
    #[error("the list names no {kind}: write names separated by colons, or {example}")]
    Empty {
        /// "cipher suite" or "group".
        kind: &'static str,
        /// A valid list.
        example: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openssl_has_every_suite_and_the_profiles_read_back() {
        for suites in [CipherSuites::default(), CipherSuites::constrained(), CipherSuites(all().collect())] {
            let mut context = SslContext::builder(SslMethod::tls()).unwrap();
            context.set_cipher_list(&suites.old(false).unwrap()).unwrap();
            context.set_ciphersuites(&suites.new_ones().unwrap()).unwrap();
            assert_eq!(suites.to_string().parse(), Ok(suites));
        }
        for suite in OLD {
            let mut context = SslContext::builder(SslMethod::tls()).unwrap();
            context.set_cipher_list(suite.name).unwrap();
            assert_eq!(openssl::ssl::cipher_name(suite.registered), suite.name);
        }
    }

    #[test]
    fn names_are_taken_in_both_spellings_once() {
        let suites: CipherSuites =
            "TLS_PSK_WITH_AES_128_CCM_8, psk-aes128-ccm8:TLS_AES_128_GCM_SHA256".parse().unwrap();
        assert_eq!(suites.to_string(), "PSK-AES128-CCM8:TLS_AES_128_GCM_SHA256");
        assert_eq!(suites.old(true).as_deref(), Some("PSK-AES128-CCM8"));
        assert!(suites.has_short_tags());
        assert!(!CipherSuites::default().has_short_tags());
        let groups: Groups = "secp256r1:x25519,P-256".parse().unwrap();
        assert_eq!(groups.to_string(), "P-256:X25519");
        assert_eq!("default".parse(), Ok(Groups::default()));
    }

    #[test]
    fn the_error_for_an_unknown_name_has_the_nearest_one_and_for_a_weak_one_the_reason() {
        let of = |text: &str| text.parse::<CipherSuites>().unwrap_err().to_string();
        assert_eq!(
            of("PSK-AES128-CCM9"),
            "there is no cipher suite PSK-AES128-CCM9: the nearest is PSK-AES128-CCM8"
        );
        assert_eq!(of("constraind"), "there is no cipher suite constraind: the nearest is constrained");
        assert_eq!(of("x"), "there is no cipher suite x");
        for (name, why) in [
            ("ECDHE-ECDSA-NULL-SHA", "it does not encrypt"),
            ("TLS_RSA_WITH_NULL_SHA256", "it does not encrypt"),
            ("ADH-AES128-GCM-SHA256", "it authenticates neither side"),
            ("AECDH-AES128-SHA", "it authenticates neither side"),
            ("ECDHE-RSA-AES128-SHA256", "its cipher is not an AEAD"),
            ("TLS_ECDHE_PSK_WITH_AES_128_CBC_SHA256", "its cipher is not an AEAD"),
            ("AES128-GCM-SHA256", "only suites with ECDHE or PSK"),
            ("ALL", "its cipher is not an AEAD"),
        ] {
            let error = of(name);
            assert!(error.starts_with(&format!("{name} cannot be used: {why}")), "{error}");
        }
        assert!(of(":,").contains("names no cipher suite"));
        let of = |text: &str| text.parse::<Groups>().unwrap_err().to_string();
        assert_eq!(of("X25591"), "there is no group X25591: the nearest is X25519");
        assert!(of("").contains("names no group"));
    }
}

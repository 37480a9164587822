//! Reads pre-shared keys: a file of `identity:hexkey` lines, and the same format on the command line.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use zeroize::Zeroizing;

use crate::failure::Failure;

/// The limits of OpenSSL (`PSK_MAX_IDENTITY_LEN`, `PSK_MAX_PSK_LEN`), in bytes.
const MAX_IDENTITY: usize = 256;
const MAX_KEY: usize = 512;

/// One identity and its key, written `identity:hexkey`.
///
/// The last colon separates them, so an identity may contain colons.
#[derive(Clone, PartialEq, Eq)]
pub struct Psk {
    /// The identity of the key's owner.
    pub identity: Vec<u8>,
    /// The bytes of the key.
    pub key: Zeroizing<Vec<u8>>,
}

/// The keys of a server, by identity.
#[derive(Clone, Default)]
pub struct PskTable {
    keys: HashMap<Vec<u8>, Zeroizing<Vec<u8>>>,
}

impl PskTable {
    /// Reads a file of `identity:hexkey` lines, and skips empty lines and lines that begin with `#`.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read or a line is not valid. The message names the file and the
    /// line, and never shows a key.
    pub fn from_file(path: &Path) -> Result<Self, Failure> {
        let text = fs::read_to_string(path).map(Zeroizing::new).map_err(|error| {
            let path = path.display();
            Failure::about(
                "--psk-file",
                format_args!("cannot read {path}: {error}: check the path and its permissions"),
            )
        })?;
        Self::from_text(&text).map_err(|(line, message)| {
            Failure::about("--psk-file", format_args!("{}:{line}: {message}", path.display()))
        })
    }

    /// Returns the key of an identity, if it has one.
    pub fn key(&self, identity: &[u8]) -> Option<Vec<u8>> {
        self.keys.get(identity).map(|key| key.to_vec())
    }

    /// Adds a key. Returns false if the identity had one already.
    pub fn insert(&mut self, psk: Psk) -> bool {
        self.keys.insert(psk.identity, psk.key).is_none()
    }

    fn from_text(text: &str) -> Result<Self, (usize, String)> {
        let mut table = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let psk = line.parse().map_err(|message| (number, message))?;
            if !table.insert(psk) {
                return Err((number, "the file has this identity twice: remove one of the lines".to_owned()));
            }
        }
        if table.keys.is_empty() {
            return Err((1, "the file has no keys: write lines of identity:hexkey".to_owned()));
        }
        Ok(table)
    }
}

impl FromStr for Psk {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((identity, key)) = text.rsplit_once(':') else {
            return Err("there is no colon: write identity:hexkey".to_owned());
        };
        if identity.is_empty() || identity.len() > MAX_IDENTITY {
            return Err(format!("the identity before the colon must have 1 to {MAX_IDENTITY} bytes"));
        }
        if has_zero_byte(identity) {
            return Err("the identity before the colon has a zero byte, which no client can use".to_owned());
        }
        let key = from_hex(key).filter(|key| (1..=MAX_KEY).contains(&key.len())).ok_or_else(|| {
            format!("the key after the colon must be 1 to {MAX_KEY} bytes in hexadecimal digits")
        })?;
        Ok(Self { identity: identity.as_bytes().to_vec(), key })
    }
}

impl fmt::Debug for Psk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Psk")
            .field("identity", &self.identity.escape_ascii().to_string())
            .finish_non_exhaustive()
    }
}

/// Returns whether a text has a zero byte, or one of its usual escape sequences. This file has no escapes, so a
/// client would have to send the backslash too.
fn has_zero_byte(text: &str) -> bool {
    ["\0", r"\0", r"\x00", r"\u0000", r"\u{0}"].iter().any(|zero| text.contains(zero))
}

fn from_hex(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    // The buffer never grows, because a reallocation would leave a copy in memory.
    let mut key = Zeroizing::new(Vec::with_capacity(pairs.len()));
    for [high, low] in pairs {
        key.push(digit(*high)? << 4 | digit(*low)?);
    }
    rest.is_empty().then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> (usize, String) {
        match PskTable::from_text(text) {
            Ok(_) => panic!("{text:?} was accepted"),
            Err(refusal) => refusal,
        }
    }

    #[test]
    fn a_file_has_comments_and_empty_lines() {
        let table = PskTable::from_text("# keys\n\n alice:00ff\r\nurn:dev:2:ABcd\n").unwrap();
        assert_eq!(table.key(b"alice"), Some(vec![0x00, 0xff]));
        assert_eq!(table.key(b"urn:dev:2"), Some(vec![0xab, 0xcd]));
        assert_eq!(table.key(b"mallory"), None);
    }

    #[test]
    fn a_wrong_line_is_named() {
        assert_eq!(refusal("a:00\nnonsense\n").0, 2);
        assert_eq!(refusal("# one\n# two\na:0\n").0, 3);
        assert_eq!(refusal("a:00\nb:11\na:22\n").0, 3);
        assert!(refusal(":00").1.contains("identity"));
        assert!(refusal("a:").1.contains("key"));
        assert!(refusal("a:+1").1.contains("key"));
        assert!(refusal("# nothing\n").1.contains("no keys"));
    }

    #[test]
    fn an_identity_with_a_zero_byte_is_refused_also_an_escaped_one() {
        for identity in ["a\0b", "\0", r"a\0b", r"a\x00b", r"a\u0000b", r"a\000b", r"a\u{0}b"] {
            let (line, why) = refusal(&format!("alice:00\n{identity}:00\n"));
            assert!(line == 2 && why.contains("zero byte"), "{identity:?}: {line}: {why}");
        }
        let table = PskTable::from_text(r"DOMAIN\user:00").unwrap();
        assert_eq!(table.key(br"DOMAIN\user"), Some(vec![0]));
    }

    #[test]
    fn a_message_never_shows_the_key() {
        assert!(!refusal("alice:c0ffee0").1.contains("c0ffee"));
        let psk: Psk = "alice:c0ffee".parse().unwrap();
        assert!(!format!("{psk:?}").contains("c0ffee"));
    }
}

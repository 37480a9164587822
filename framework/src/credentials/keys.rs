//! Keys that several processes or hosts share, so that each accepts the session tickets (RFC 5077, RFC 8446 §4.6.1) and
//! cookies (RFC 6347 §4.2.1) that the others made.
//!
//! # Security
//!
//! Anyone who has these keys can decrypt recorded TLS 1.2 and DTLS 1.2 sessions that were resumed by ticket, can resume
//! as any client (with its certificate's identity), and can make cookies for forged addresses. Make the file readable
//! by the server only, and replace it at least every few days.
//!
//! A cookie made with these keys has no period of its own, because the hosts would not agree on when it ends. It is
//! valid for as long as its key, and for [`Timeouts::cookie_period`](crate::Timeouts::cookie_period) after a reload has
//! removed the key. It is bound to both addresses and to the ClientHello, so an old cookie is useful only to a client
//! that had that very address.
//!
//! A host that has not reloaded yet does not accept what the other hosts make with a new key, so their clients make a
//! full handshake with it. To avoid that, distribute a new key as `previous` first.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::{ZeroizeOnDrop, Zeroizing};

use super::errors::{read, refused};
use crate::codec::{Malformed, Reader, Writer};
use crate::error::IdentityError;

/// The keys of session tickets and cookies: a current key and, after a rotation, the previous one, which is still
/// accepted.
///
/// A key file has one line `current:` followed by 64 hexadecimal digits, and may have a line `previous:`; empty lines
/// and comments after `#` are skipped. To rotate, replace the file on every host with one that has a new current key
/// and the old current key as `previous`, and [reload](crate::Handle::reload) the servers.
#[derive(Clone)]
pub struct SharedKeys {
    pub(crate) current: DerivedKeys,
    pub(crate) previous: Option<DerivedKeys>,
}

/// Keys derived from one shared key; a leaked one does not reveal the others. They are wiped when dropped.
#[derive(Clone, ZeroizeOnDrop)]
pub(crate) struct DerivedKeys {
    /// Identifies the key in a ticket.
    pub(crate) ticket_name: [u8; 16],
    /// AES-256 key.
    pub(crate) ticket_cipher: [u8; 32],
    /// HMAC-SHA256 key.
    pub(crate) ticket_mac: [u8; 32],
    pub(crate) cookie: [u8; 32],
}

impl SharedKeys {
    /// Makes new keys, which only this process knows.
    ///
    /// # Errors
    ///
    /// OpenSSL could not provide random bytes.
    pub fn random() -> Result<Self, IdentityError> {
        let mut key = Zeroizing::new([0; 32]);
        openssl::rand::rand_bytes(&mut *key).map_err(refused)?;
        Ok(Self { current: DerivedKeys::of(&key), previous: None })
    }

    /// Writes the keys, for the process that takes over the server.
    pub(crate) fn save(&self, out: &mut Writer) {
        self.current.save(out);
        out.option(self.previous.as_ref(), |out, keys| keys.save(out));
    }

    /// Reads what [`save`](Self::save) wrote.
    pub(crate) fn restore(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { current: DerivedKeys::restore(from)?, previous: from.option(DerivedKeys::restore)? })
    }

    /// Reads a key file. Logs a warning if every user of the host can read it.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or a line is wrong; the message names the line and shows no key.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, IdentityError> {
        let path = path.as_ref();
        let bytes = Zeroizing::new(read(path)?);
        warn_of_permissions(path);
        let wrong = |(line, why): (usize, &str)| {
            let place = format!("{}:{line}", path.display());
            IdentityError::BadKeyFile { place, why: why.to_owned() }
        };
        let text = str::from_utf8(&bytes).map_err(|_| wrong((1, "it is not text")))?;
        Self::parse_lines(text).map_err(wrong)
    }

    /// Parses the text of a key file, as [`from_file`](Self::from_file) does.
    ///
    /// # Errors
    ///
    /// A line is wrong; the message names it and shows no key.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        let wrong = |(line, why): (usize, &str)| IdentityError::BadKeyFile {
            place: format!("line {line}"),
            why: why.to_owned(),
        };
        Self::parse_lines(text).map_err(wrong)
    }

    /// Returns the text of a key file with a new current key, and with the current key of `replaced` as its previous
    /// one.
    ///
    /// # Errors
    ///
    /// `replaced` is not a key file, or OpenSSL could not provide random bytes.
    pub fn new_file(replaced: Option<&str>) -> Result<String, IdentityError> {
        let mut key = Zeroizing::new([0; 32]);
        openssl::rand::rand_bytes(&mut *key).map_err(refused)?;
        let mut text =
            "# Keys of session tickets and cookies: keep it secret, and replace it every few days.\n"
                .to_owned();
        text += &format!("current:{}\n", hex(&key));
        if let Some(replaced) = replaced {
            let wrong = |(line, why): (usize, &str)| IdentityError::BadKeyFile {
                place: format!("line {line}"),
                why: why.to_owned(),
            };
            let (current, _) = lines(replaced).map_err(wrong)?;
            text += &format!("previous:{}\n", hex(&current));
        }
        Ok(text)
    }

    fn parse_lines(text: &str) -> Result<Self, (usize, &'static str)> {
        let (current, previous) = lines(text)?;
        Ok(Self { current: DerivedKeys::of(&current), previous: previous.as_ref().map(DerivedKeys::of) })
    }
}

type Key = Zeroizing<[u8; 32]>;

fn warn_of_permissions(path: &Path) {
    if std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o004 != 0) {
        tracing::warn!(path = %path.display(), "every user of this host can read these keys; run chmod o= on the file");
    }
}

/// Returns the current and the previous key of a key file, or the number of the wrong line and what is wrong with it.
fn lines(text: &str) -> Result<(Key, Option<Key>), (usize, &'static str)> {
    let mut found = [None, None];
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, key) =
            line.split_once(':').ok_or((number, "a line must be current:KEY or previous:KEY"))?;
        let place = match name.trim() {
            "current" => 0,
            "previous" => 1,
            _ => return Err((number, "a line must begin with current: or previous:")),
        };
        let key = unhex(key.trim()).ok_or((number, "a key has 64 hexadecimal digits"))?;
        if *key == [0; 32] {
            return Err((number, "a key of zeros is not secret; make one with openssl rand -hex 32"));
        }
        if found[place].replace(key).is_some() {
            return Err((number, "this key occurs twice"));
        }
        if found[0] == found[1] {
            return Err((number, "the previous key is the current one"));
        }
    }
    match found {
        [Some(current), previous] => Ok((current, previous)),
        _ => Err((1, "there is no line current:KEY; make a key with openssl rand -hex 32")),
    }
}

impl DerivedKeys {
    fn save(&self, out: &mut Writer) {
        out.raw(&self.ticket_name);
        [&self.ticket_cipher, &self.ticket_mac, &self.cookie].into_iter().for_each(|key| out.raw(key));
    }

    fn restore(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut keys =
            Self { ticket_name: from.array()?, ticket_cipher: [0; 32], ticket_mac: [0; 32], cookie: [0; 32] };
        for key in [&mut keys.ticket_cipher, &mut keys.ticket_mac, &mut keys.cookie] {
            key.copy_from_slice(from.raw(32)?);
        }
        Ok(keys)
    }

    fn of(key: &Key) -> Self {
        let derive = |label: &str| -> [u8; 32] {
            let mut mac = Hmac::<Sha256>::new_from_slice(&key[..]).expect("HMAC takes keys of any length");
            mac.update(label.as_bytes());
            mac.finalize().into_bytes().into()
        };
        let mut ticket_name = [0; 16];
        ticket_name.copy_from_slice(&derive("peeloff ticket name")[..16]);
        Self {
            ticket_name,
            ticket_cipher: derive("peeloff ticket cipher"),
            ticket_mac: derive("peeloff ticket mac"),
            cookie: derive("peeloff cookie"),
        }
    }
}

impl fmt::Debug for SharedKeys {
    /// Omits the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedKeys").field("previous", &self.previous.is_some()).finish_non_exhaustive()
    }
}

fn hex(key: &Key) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Key> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != 32 || !rest.is_empty() {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let mut key = Zeroizing::new([0; 32]);
    for (byte, [high, low]) in key.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_is_read_and_rotated() {
        let first = SharedKeys::new_file(None).unwrap();
        let second = SharedKeys::new_file(Some(&first)).unwrap();
        let (first, second) =
            (SharedKeys::parse_lines(&first).unwrap(), SharedKeys::parse_lines(&second).unwrap());
        assert!(first.previous.is_none());
        assert_eq!(second.previous.unwrap().ticket_name, first.current.ticket_name);
        assert_ne!(second.current.cookie, first.current.cookie);
    }

    #[test]
    fn keys_are_wiped_and_not_shown() {
        fn is_wiped<T: ZeroizeOnDrop>() {}
        is_wiped::<DerivedKeys>();
        is_wiped::<crate::sys::tickets::TicketKeys>();
        let keys = SharedKeys::parse(&format!("current:{}", "ab".repeat(32))).unwrap();
        assert_eq!(format!("{keys:?}"), "SharedKeys { previous: false, .. }");
    }

    #[test]
    fn the_parts_of_a_key_differ() {
        let keys = DerivedKeys::of(&Zeroizing::new([7; 32]));
        assert_ne!(keys.ticket_cipher, keys.ticket_mac);
        assert_ne!(keys.ticket_cipher, keys.cookie);
        assert_ne!(keys.ticket_name[..], keys.ticket_cipher[..16]);
    }

    #[test]
    fn a_wrong_line_is_named_and_no_key_is_shown() {
        let key = "ab".repeat(32);
        for (text, line) in [
            (String::new(), 1),
            (format!("previous:{key}"), 1),
            (format!("# keys\ncurrent {key}"), 2),
            (format!("current:{key}\nprevious:{key}"), 2),
            (format!("current:{key}\n\ncurrent:{}", "cd".repeat(32)), 3),
            (format!("current:{key}0"), 1),
            (format!("current:{}", "00".repeat(32)), 1),
            (format!("last:{key}"), 1),
        ] {
            let (found, why) = SharedKeys::parse_lines(&text).unwrap_err();
            assert_eq!(found, line, "{text}: {why}");
            assert!(!why.contains("abab"));
        }
    }
}

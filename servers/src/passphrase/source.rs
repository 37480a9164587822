//! Reads passphrases from files and descriptors.

use std::io::{self, Read};
use std::iter;

use zeroize::Zeroizing;

/// The longest passphrase that OpenSSL accepts (`PEM_BUFSIZE`), in bytes.
pub(super) const LONGEST: usize = 1024;

/// A passphrase, which is wiped when dropped. Types that hold one do not implement `Debug`.
pub(super) type Passphrase = Zeroizing<Vec<u8>>;

/// Returns the lines of a file that are not empty.
pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = Passphrase> {
    let lines = text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.filter(|line| !line.is_empty()).map(|line| Zeroizing::new(line.to_vec()))
}

/// Reads up to the end of the first line, and no byte beyond it.
pub(super) fn first_line(mut source: impl Read) -> io::Result<Passphrase> {
    // The buffer never grows, because a reallocation would leave a copy in memory.
    let mut line = Zeroizing::new(Vec::with_capacity(LONGEST));
    let mut byte = Zeroizing::new([0]);
    while source.read(&mut *byte)? > 0 && byte[0] != b'\n' {
        if line.len() == LONGEST {
            return Err(io::Error::other(format!("its first line is longer than {LONGEST} bytes")));
        }
        line.extend(iter::once(byte[0]));
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_of_a_file_is_a_passphrase_without_its_end() {
        for (text, expected) in [
            (&b"one"[..], &[&b"one"[..]][..]),
            (b"one\n", &[b"one"]),
            (b"one\r\ntwo words \n\n\xff", &[b"one", b"two words ", b"\xff"]),
            (b"\n\r\n", &[]),
        ] {
            let found: Vec<Vec<u8>> = lines(text).map(|line| line.to_vec()).collect();
            assert_eq!(found, expected, "{text:?}");
        }
    }

    #[test]
    fn nothing_is_read_behind_the_first_line() {
        let mut source = &b"secret\r\nmessage"[..];
        assert_eq!(**first_line(&mut source).unwrap(), *b"secret");
        assert_eq!(source, b"message");
        assert!(first_line(&b""[..]).unwrap().is_empty());
        assert_eq!(first_line(&[b'x'; LONGEST][..]).unwrap().len(), LONGEST);
        assert!(first_line(&[b'x'; LONGEST + 1][..]).is_err());
    }
}

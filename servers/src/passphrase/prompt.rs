//! Asks for a passphrase on the terminal without showing what the user types.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};

use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};
use zeroize::{Zeroize, Zeroizing};

use super::source::{LONGEST, Passphrase};

/// The effect of a key on the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Typed {
    /// The passphrase is not complete yet.
    More,
    /// The passphrase is complete.
    Done,
    /// The user has cancelled the prompt.
    GivenUp,
}

/// Asks on the controlling terminal of this process; see
/// [tty(4)](https://man7.org/linux/man-pages/man4/tty.4.html). Blocks until the user answers. Returns none if the
/// user cancels with Ctrl-C or Ctrl-D.
///
/// # Errors
///
/// Returns an error if there is no terminal, or if it has been closed.
pub(super) fn ask(about: &str) -> io::Result<Option<Passphrase>> {
    let terminal = Terminal::open()?;
    // The prompt is written after the echo has been turned off.
    write!(&terminal.file, "{about}\nPassphrase: ")?;
    // The buffer never grows, because a reallocation would leave a copy in memory.
    let mut line = Zeroizing::new(Vec::with_capacity(LONGEST));
    let mut byte = Zeroizing::new([0]);
    loop {
        (&terminal.file).read_exact(&mut *byte)?;
        match typed(&mut line, byte[0]) {
            Typed::More => {}
            Typed::Done => return Ok(Some(line)),
            Typed::GivenUp => return Ok(None),
        }
    }
}

/// Adds a byte to the line, or handles a key: Backspace, Ctrl-U, Enter, Ctrl-C, Ctrl-D.
fn typed(line: &mut Vec<u8>, byte: u8) -> Typed {
    const CTRL_C: u8 = 3;
    const CTRL_D: u8 = 4;
    const CTRL_H: u8 = 8;
    const CTRL_U: u8 = 21;
    const DELETE: u8 = 127;
    match byte {
        b'\n' | b'\r' => return Typed::Done,
        CTRL_C => return Typed::GivenUp,
        CTRL_D if line.is_empty() => return Typed::GivenUp,
        CTRL_D => return Typed::Done,
        CTRL_H | DELETE => {
            // Remove all bytes of a UTF-8 character, up to its first byte.
            while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
        }
        CTRL_U => line.zeroize(),
        _ if line.len() < LONGEST => line.push(byte),
        _ => {}
    }
    Typed::More
}

/// The terminal without echo and without signals from keys, because a signal would end the program before it can
/// restore the echo. Dropping this value restores the settings.
struct Terminal {
    file: File,
    settings: Termios,
}

impl Terminal {
    fn open() -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
        let settings = tcgetattr(&file)?;
        let mut silent = settings.clone();
        silent.local_flags.remove(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG);
        silent.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
        silent.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        tcsetattr(&file, SetArg::TCSADRAIN, &silent)?;
        Ok(Self { file, settings })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A failure cannot be reported here. The prompt did not end with a newline, so write one.
        let _ = tcsetattr(&self.file, SetArg::TCSADRAIN, &self.settings);
        let _ = self.file.write_all(b"\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_edit_the_line() {
        for (keys, expected, end) in [
            ("secret\r", "secret", Typed::Done),
            ("sé\x7fecret\n", "secret", Typed::Done),
            ("\x7fwrong\x15secret\x04", "secret", Typed::Done),
            ("secr\x03", "secr", Typed::GivenUp),
            ("\x04", "", Typed::GivenUp),
            ("a b\t", "a b\t", Typed::More),
        ] {
            let mut line = Vec::new();
            let last = keys.bytes().map(|byte| typed(&mut line, byte)).last();
            assert_eq!((str::from_utf8(&line), last), (Ok(expected), Some(end)), "{keys:?}");
        }
    }

    #[test]
    fn a_line_has_an_end() {
        let mut line = Vec::new();
        for _ in 0..2 * LONGEST {
            assert_eq!(typed(&mut line, b'x'), Typed::More);
        }
        assert_eq!(line.len(), LONGEST);
    }
}

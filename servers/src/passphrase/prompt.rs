//! Asks for a passphrase on the terminal, which shows nothing of what is typed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};

use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};
use zeroize::{Zeroize, Zeroizing};

use super::source::{LONGEST, Passphrase};

/// What a key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Typed {
    /// The passphrase goes on.
    More,
    /// It is complete.
    Done,
    /// The user does not want to answer.
    GivenUp,
}

/// Asks on the terminal that controls this process; see
/// [tty(4)](https://man7.org/linux/man-pages/man4/tty.4.html). Blocks until there is an answer; `None`: the user gave up,
/// with Ctrl-C or Ctrl-D.
///
/// # Errors
///
/// There is no terminal, or it is gone.
pub(super) fn ask(about: &str) -> io::Result<Option<Passphrase>> {
    let terminal = Terminal::open()?;
    // The prompt comes when nothing is echoed any more.
    write!(&terminal.file, "{about}\nPassphrase: ")?;
    // It never grows, which would leave a copy behind.
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

/// Adds a byte to the line, or does what the key is for: Backspace, Ctrl-U, Enter, Ctrl-C, Ctrl-D.
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
            // A character of UTF-8 ends where its first byte is found.
            while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
        }
        CTRL_U => line.zeroize(),
        _ if line.len() < LONGEST => line.push(byte),
        _ => {}
    }
    Typed::More
}

/// The terminal, without echo and without signals from keys, for a signal would end the program before it can restore the
/// echo. The settings come back when this is dropped.
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
        // Nobody is left to tell if this fails. The prompt has no newline.
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

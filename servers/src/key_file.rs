//! Makes and renews the file of `--key-file`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use peeloff::SharedKeys;

use zeroize::Zeroizing;

use crate::failure::Failure;

/// Writes a file with a new key, which only its owner can read. The current key of an existing file becomes the
/// previous one, so that the server still accepts its tickets. The file is replaced in one step, so a process
/// that reads it at this moment gets the old content or the new one.
///
/// # Errors
///
/// Returns an error if an existing file is not a key file, and then leaves it unchanged, or if the file cannot be
/// written.
pub fn renew(path: &Path) -> Result<(), Failure> {
    let about = |error| Failure::about("--make-key-file", error);
    let text = match fs::read_to_string(path).map(Zeroizing::new) {
        Ok(replaced) => {
            // This call makes the error message with the name of the file.
            SharedKeys::from_file(path).map_err(about)?;
            SharedKeys::new_file(Some(&replaced))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => SharedKeys::new_file(None),
        Err(error) => {
            return Err(Failure::about(
                "--make-key-file",
                format_args!("cannot read {}: {error}: check the path and its permissions", path.display()),
            ));
        }
    };
    replace(path, &text.map_err(about)?).map_err(|error| {
        Failure::about(
            "--make-key-file",
            format_args!(
                "cannot write keys to {}: {error}: name a file in a folder that you can write to",
                path.display()
            ),
        )
    })
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    let done = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&beside, path));
    if done.is_err() {
        // The incomplete file has a secret in it.
        let _ = fs::remove_file(&beside);
    }
    done
}

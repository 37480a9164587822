//! Checks the permissions of files with secrets.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::failure::Failure;

/// Which other users can access a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exposure {
    /// Everybody on this host can read or change the file.
    Everybody,
    /// The file's group can read or change it.
    Group,
}

/// Returns which users other than the owner can access a file of this mode. A file that belongs to root, and that
/// its group can only read, is accepted: distributions share keys in this way with a group of their own
/// (`ssl-cert` on Debian).
fn exposure(mode: u32, owner: u32) -> Option<Exposure> {
    const ROOT: u32 = 0;
    match mode & 0o077 {
        others if others & 0o007 != 0 => Some(Exposure::Everybody),
        0 => None,
        0o040 if owner == ROOT => None,
        _ => Some(Exposure::Group),
    }
}

/// Logs a warning if other users can read the secrets in the file that `option` names, or returns an error if
/// `refuse`. Does nothing if the file's metadata cannot be read; reading the file reports the cause.
pub(crate) fn check(option: &str, path: &Path, refuse: bool) -> Result<(), Failure> {
    let Ok(file) = fs::metadata(path) else { return Ok(()) };
    // Other users cannot open a pipe or a descriptor of this process.
    let Some(exposure) = exposure(file.mode(), file.uid()).filter(|_| file.is_file()) else { return Ok(()) };
    let who = match exposure {
        Exposure::Everybody => "everybody on this host",
        Exposure::Group => "the group of the file",
    };
    let mode = file.mode() & 0o777;
    let place = path.display();
    let sentence =
        format!("{who} can access the secrets in {place} (mode {mode:04o}): run chmod 600 {place}");
    if refuse {
        return Err(Failure::about(option, format_args!("{sentence}")));
    }
    tracing::warn!("{option}: {sentence}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_its_owners_and_perhaps_a_group_of_roots() {
        for (mode, owner, expected) in [
            (0o600, 1000, None),
            (0o400, 0, None),
            (0o100_600, 1000, None),
            (0o640, 0, None),
            (0o640, 1000, Some(Exposure::Group)),
            (0o660, 0, Some(Exposure::Group)),
            (0o644, 0, Some(Exposure::Everybody)),
            (0o604, 0, Some(Exposure::Everybody)),
            (0o602, 1000, Some(Exposure::Everybody)),
        ] {
            assert_eq!(exposure(mode, owner), expected, "{mode:o} of {owner}");
        }
    }
}

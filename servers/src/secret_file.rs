//! Files with secrets, which nobody else on the host should be able to read.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::failure::Failure;

/// What is wrong with the permissions of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exposure {
    /// Everybody on this host can read or change it.
    Everybody,
    /// The file's group can.
    Group,
}

/// Who beside its owner can get at a file of this mode. A file of root's that its group can read, and no more, is taken well:
/// distributions share keys with a group of their own in that way (`ssl-cert` on Debian).
fn exposure(mode: u32, owner: u32) -> Option<Exposure> {
    const ROOT: u32 = 0;
    match mode & 0o077 {
        others if others & 0o007 != 0 => Some(Exposure::Everybody),
        0 => None,
        0o040 if owner == ROOT => None,
        _ => Some(Exposure::Group),
    }
}

/// Warns in the log where others can read the secrets in the file that `option` names, or refuses the file where that is
/// wanted. A file that cannot be looked at is nobody's secret; reading it says what is wrong.
pub(crate) fn check(option: &str, path: &Path, refuse: bool) -> Result<(), Failure> {
    let Ok(file) = fs::metadata(path) else { return Ok(()) };
    // A pipe or a descriptor is not there for others.
    let Some(exposure) = exposure(file.mode(), file.uid()).filter(|_| file.is_file()) else { return Ok(()) };
    let who = match exposure {
        Exposure::Everybody => "everybody on this host",
        Exposure::Group => "the group of the file",
    };
    let mode = file.mode() & 0o777;
    let place = path.display();
    let sentence = format!("{who} can get at the secrets in {place} (mode {mode:04o}): chmod 600 {place}");
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

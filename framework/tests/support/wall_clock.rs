//! A wall clock that a test sets: libfaketime fakes it for another process, whose monotonic clock stays the real
//! one.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// Returns the environment of a process whose wall clock has the offset in this file. [`set`] makes the file
/// first.
pub fn environment(clock: &Path) -> [(&'static str, OsString); 5] {
    [
        ("LD_PRELOAD", libfaketime().into()),
        ("FAKETIME_TIMESTAMP_FILE", clock.into()),
        ("FAKETIME_NO_CACHE", "1".into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ("DONT_FAKE_MONOTONIC", "1".into()),
    ]
}

/// Debian has the library below the multi-arch directory, other systems below lib or lib64.
fn libfaketime() -> PathBuf {
    let name = "faketime/libfaketimeMT.so.1";
    let roots = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from);
    let below = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let found = roots.into_iter().chain(below).map(|root| root.join(name)).find(|path| path.exists());
    found.expect("this test needs libfaketime: install the package faketime")
}

/// Sets the offset of the wall clock in libfaketime's format, such as "-1h".
pub fn set(clock: &Path, offset: &str) {
    let next = clock.with_extension("next");
    fs::write(&next, format!("{offset}\n")).unwrap();
    fs::rename(&next, clock).unwrap();
}

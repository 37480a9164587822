//! Private keys with a passphrase, encrypted by `openssl`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use peeloff::{Identity, IdentityError};

const PASSPHRASE: &str = "correct horse: bättery";

/// A temporary folder; dropping it removes the folder.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("encrypted-{}-{number}", std::process::id());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn openssl(&self, arguments: &[&str]) {
        let run = Command::new("openssl").args(arguments).current_dir(&self.0).output().unwrap();
        assert!(run.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
    }

    /// Makes a certificate with its key, in the files `cert` and `key`.
    fn make_identity(&self, kind: &[&str]) {
        self.openssl(&[&["genpkey", "-out", "key", "-algorithm"], kind].concat());
        self.openssl(&["req", "-x509", "-key", "key", "-out", "cert", "-subj", "/CN=localhost"]);
    }

    /// Encrypts the key into the file `locked`.
    fn lock(&self, how: &[&str], passphrase: &str) {
        self.openssl(
            &[how, &["-in", "key", "-out", "locked", "-passout", &format!("pass:{passphrase}")]].concat(),
        );
    }

    fn unlock(&self, passphrase: Option<&[u8]>) -> Result<Identity, IdentityError> {
        let (cert, key) = (self.0.join("cert"), self.0.join("locked"));
        match passphrase {
            Some(passphrase) => Identity::from_encrypted_files(&cert, &key, passphrase),
            None => Identity::from_files(&cert, &key),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_key_opens_with_its_passphrase_alone() {
    let folder = Folder::new();
    let (p256, rsa) =
        (["EC", "-pkeyopt", "ec_paramgen_curve:P-256"], ["RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
    let cases: &[(&[&str], &[&str])] = &[
        (&p256, &["pkcs8", "-topk8", "-v2", "aes-256-cbc"]),
        (&p256, &["pkcs8", "-topk8", "-scrypt"]),
        (&p256, &["pkcs8", "-topk8", "-v2", "des3", "-v2prf", "hmacWithSHA1"]),
        (&p256, &["ec", "-aes128"]),
        (&rsa, &["rsa", "-traditional", "-aes256"]),
        (&rsa, &["pkey", "-aes-256-cbc"]),
        (&["ED25519"], &["pkey", "-aes-128-cbc"]),
    ];
    for (kind, how) in cases {
        folder.make_identity(kind);
        let expected = Identity::from_files(folder.0.join("cert"), folder.0.join("key")).unwrap();
        folder.lock(how, PASSPHRASE);
        let pem = fs::read_to_string(folder.0.join("locked")).unwrap();
        assert!(pem.contains("ENCRYPTED"), "{how:?}: {pem}");

        let unlocked = folder.unlock(Some(PASSPHRASE.as_bytes())).unwrap();
        assert_eq!(unlocked.fingerprint(), expected.fingerprint(), "{how:?}");

        let place = folder.0.join("locked").display().to_string();
        match folder.unlock(None) {
            Err(IdentityError::KeyNeedsPassphrase { place: named }) => assert_eq!(named, place),
            other => panic!("{how:?} without a passphrase: {other:?}"),
        }
        let long = PASSPHRASE.repeat(100);
        for wrong in ["", "wrong", "correct horse: bättery ", "correct horse: bätter", &long] {
            match folder.unlock(Some(wrong.as_bytes())) {
                Err(IdentityError::WrongPassphrase { place: named }) => assert_eq!(named, place),
                other => panic!("{how:?} with {wrong:?}: {other:?}"),
            }
        }
    }
}

/// With one in 256 wrong passphrases, the decrypted padding is valid by chance, and the bytes are not a key.
#[test]
fn a_wrong_passphrase_is_reported_even_if_the_padding_is_right_by_chance() {
    let folder = Folder::new();
    folder.make_identity(&["EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    for how in [&["ec", "-aes128"][..], &["pkcs8", "-topk8", "-iter", "1"]] {
        folder.lock(how, PASSPHRASE);
        for wrong in 0..1000 {
            match folder.unlock(Some(format!("wrong {wrong}").as_bytes())) {
                Err(IdentityError::WrongPassphrase { .. }) => {}
                other => panic!("{how:?} with {wrong}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_passphrase_that_is_not_needed_does_no_harm_and_no_key_is_no_wrong_passphrase() {
    let folder = Folder::new();
    folder.make_identity(&["EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    let (cert, key) = (fs::read(folder.0.join("cert")).unwrap(), fs::read(folder.0.join("key")).unwrap());
    Identity::from_encrypted_pem(&cert, &key, b"not needed").unwrap();
    for passphrase in [None, Some(&b"passphrase"[..])] {
        for no_key in [&b""[..], b"nonsense", &cert] {
            let read = match passphrase {
                Some(passphrase) => Identity::from_encrypted_pem(&cert, no_key, passphrase),
                None => Identity::from_pem(&cert, no_key),
            };
            assert!(matches!(read, Err(IdentityError::NoKey { .. })), "{passphrase:?}: {read:?}");
        }
    }
    folder.lock(&["pkey", "-aes-256-cbc"], PASSPHRASE);
    folder.openssl(&["genpkey", "-algorithm", "ED25519", "-out", "key"]);
    folder.lock(&["pkey", "-aes-256-cbc"], PASSPHRASE);
    assert!(matches!(folder.unlock(Some(PASSPHRASE.as_bytes())), Err(IdentityError::Mismatch)));
}

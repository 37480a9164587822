//! Reads the passphrases of private keys, and keeps those that a reload cannot read again.

use std::env;
use std::fs::{self, File};
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use clap::Args;
use peeloff::{Identity, IdentityError};
use signal_hook::consts::SIGINT;
use zeroize::Zeroizing;

use self::source::{Passphrase, first_line, lines};
use crate::explain;
use crate::failure::Failure;
use crate::secret_file;
use crate::signals;

mod prompt;
mod source;

/// The environment variable that can hold a passphrase.
pub(crate) const VARIABLE: &str = "PEELOFF_KEY_PASSPHRASE";

/// The variable with the folder of systemd's credentials (LoadCredential in systemd.exec(5)), and the name of the
/// credential with passphrases.
const CREDENTIALS: (&str, &str) = ("CREDENTIALS_DIRECTORY", "key-passphrase");

/// How many times a user on a terminal may try.
const TRIES: usize = 3;

/// Options for the sources of passphrases.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Identity")]
pub struct PassphraseArgs {
    /// Read the passphrases of encrypted keys from this file.
    ///
    /// Each line is a passphrase, and the program tries every passphrase for each encrypted key. Without this
    /// option, the passphrase can come from --key-passphrase-fd, from the environment variable
    /// PEELOFF_KEY_PASSPHRASE, or from a credential of systemd with the name key-passphrase (LoadCredential,
    /// systemd.exec(5)). If there is none of these, a program on a terminal asks for the passphrase.
    #[arg(long, value_name = "FILE")]
    pub key_passphrase_file: Option<PathBuf>,

    /// Read the passphrase of encrypted keys from this descriptor.
    ///
    /// The program reads the first line once, when it starts. A server keeps the passphrase in memory for its
    /// reloads.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub key_passphrase_fd: Option<i32>,
}

/// The passphrases that options and the environment give at this moment.
pub struct Passphrases(Vec<Passphrase>);

/// Decrypts private keys. It keeps the passphrases that cannot be read a second time.
#[derive(Default)]
pub struct Keyring {
    /// Passphrases read from a descriptor.
    read: Vec<Passphrase>,
    /// Passphrases typed on a terminal.
    answers: Vec<Passphrase>,
    /// Whether the program serves already. From then on it neither asks on the terminal nor reads a descriptor.
    serves: bool,
}

impl Keyring {
    /// Notes that the program serves from now on, so it no longer asks on the terminal or reads a descriptor.
    pub(crate) fn serve(&mut self) {
        self.serves = true;
    }

    /// Reads the passphrases that the options and the environment give. If other users can read the file, it logs
    /// a warning, or returns an error if `strict`. Blocks until a descriptor has a line.
    ///
    /// # Errors
    ///
    /// Returns an error if a file or a descriptor cannot be read, or has no passphrase.
    pub fn read(&mut self, args: &PassphraseArgs, strict: bool) -> Result<Passphrases, Failure> {
        let mut passphrases = Vec::new();
        let credential = credential();
        if let Some(path) = args.key_passphrase_file.as_ref().or(credential.as_ref()) {
            const OPTION: &str = "--key-passphrase-file";
            if args.key_passphrase_file.is_some() {
                secret_file::check(OPTION, path, strict)?;
            }
            let place = path.display();
            let text = fs::read(path).map(Zeroizing::new).map_err(|error| {
                let hint = "check the path and its permissions";
                Failure::about(OPTION, format_args!("cannot read {place}: {error}: {hint}"))
            })?;
            passphrases.extend(lines(&text));
            if passphrases.is_empty() {
                return Err(Failure::about(
                    OPTION,
                    format_args!("{place} is empty: write a passphrase into it"),
                ));
            }
        }
        if let Some(number) = args.key_passphrase_fd.filter(|_| !self.serves) {
            const OPTION: &str = "--key-passphrase-fd";
            let line = peeloff::inherited_descriptor(number)
                .and_then(|descriptor| first_line(File::from(descriptor)));
            let line = line.map_err(|error| {
                Failure::about(
                    OPTION,
                    format_args!("cannot read a passphrase from descriptor {number}: {error}"),
                )
            })?;
            if line.is_empty() {
                let hint = "write the passphrase and a newline to it";
                return Err(Failure::about(
                    OPTION,
                    format_args!("descriptor {number} has no passphrase: {hint}"),
                ));
            }
            self.read.push(line);
        }
        let variable = env::var_os(VARIABLE).map(|value| Zeroizing::new(value.into_vec()));
        passphrases.extend(variable.filter(|value| !value.is_empty()));
        Ok(Passphrases(passphrases))
    }

    /// Reads a certificate and its key, and decrypts the key if necessary. If no passphrase is given and the
    /// program does not serve yet, it asks the user on the terminal.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be read or used, or if no passphrase decrypts the key.
    pub fn identity(
        &mut self,
        cert: &Path,
        key: &Path,
        passphrases: &Passphrases,
    ) -> Result<Identity, Failure> {
        let failed = |error| explain::identity(error, cert, key);
        match Identity::from_files(cert, key) {
            Err(IdentityError::KeyNeedsPassphrase { .. }) => {}
            read => return read.map_err(failed),
        }
        for passphrase in passphrases.0.iter().chain(&self.read).chain(&self.answers) {
            if let Some(read) = unlock(cert, key, passphrase) {
                return read.map_err(failed);
            }
        }
        let place = key.display();
        if !passphrases.0.is_empty() || !self.read.is_empty() || self.serves && !self.answers.is_empty() {
            return Err(Failure::about(
                "--key",
                format_args!(
                    "none of the passphrases decrypts the private key in {place}: check --key-passphrase-file, \
                     --key-passphrase-fd and the environment variable {VARIABLE}"
                ),
            ));
        }
        if !self.serves && io::stderr().is_terminal() {
            return self.ask(cert, key);
        }
        Err(Failure::about(
            "--key",
            format_args!(
                "the private key in {place} is encrypted: name a file with its passphrase in --key-passphrase-file, \
                 or put the passphrase into the environment variable {VARIABLE}"
            ),
        ))
    }

    /// Asks for the passphrase on the terminal.
    fn ask(&mut self, cert: &Path, key: &Path) -> Result<Identity, Failure> {
        let place = key.display();
        for _ in 0..TRIES {
            let answer =
                prompt::ask(&format!("The private key in {place} is encrypted.")).map_err(|error| {
                    let hint = "name a file with its passphrase in --key-passphrase-file";
                    Failure::about(
                        "--key",
                        format_args!("cannot ask for the passphrase of {place}: {error}: {hint}"),
                    )
                })?;
            let Some(passphrase) = answer else {
                let sentence = format_args!("--key: the user did not enter the passphrase of {place}");
                return Err(Failure::new(signals::exit_code(SIGINT), sentence));
            };
            if let Some(read) = unlock(cert, key, &passphrase) {
                self.answers.push(passphrase);
                return read.map_err(|error| explain::identity(error, cert, key));
            }
        }
        Err(Failure::about(
            "--key",
            format_args!("{TRIES} passphrases did not decrypt the private key in {place}"),
        ))
    }
}

/// Returns the file of systemd's credential with passphrases, if it exists.
fn credential() -> Option<PathBuf> {
    let (variable, name) = CREDENTIALS;
    Some(Path::new(&env::var_os(variable)?).join(name)).filter(|path| path.exists())
}

/// Reads an identity. Returns none if the passphrase does not decrypt the key.
fn unlock(cert: &Path, key: &Path, passphrase: &[u8]) -> Option<Result<Identity, IdentityError>> {
    match Identity::from_encrypted_files(cert, key, passphrase) {
        Err(IdentityError::WrongPassphrase { .. }) => None,
        read => Some(read),
    }
}

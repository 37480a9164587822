//! Loads certificates, keys, authorities and the other files that the options name.

use std::path::{Path, PathBuf};

use peeloff::{CaBundle, ClientAuth, Credentials, Identity, IdentityError, RevocationList, SharedKeys};

use crate::algorithms::AlgorithmArgs;
use crate::authorize::Guests;
use crate::cli::{ClientAuthMode, CredentialArgs};
use crate::failure::Failure;
use crate::passphrase::{Keyring, Passphrases};
use crate::psk::PskTable;
use crate::secret_file;

/// A server's credentials.
pub struct Loaded {
    /// The credentials in the framework's type.
    pub credentials: Credentials,
    /// The self-signed certificate that was made for this process, if any.
    pub self_signed: Option<Identity>,
}

/// Reads every file that the options name. If they name neither certificates nor pre-shared keys, `self_signed`
/// is the certificate, or a new one. `keyring` decrypts keys.
///
/// # Errors
///
/// Returns an error if a file cannot be read or used, or if options contradict each other.
pub fn load(
    args: &CredentialArgs,
    self_signed: Option<&Identity>,
    keyring: &mut Keyring,
) -> Result<Loaded, Failure> {
    let secrets = [
        ("--key", &args.key[..]),
        ("--psk-file", args.psk_file.as_slice()),
        ("--key-file", args.key_file.as_slice()),
    ];
    for (option, files) in secrets {
        files.iter().try_for_each(|file| secret_file::check(option, file, args.strict_permissions))?;
    }
    let psk = args.psk_file.as_deref().map(PskTable::from_file).transpose()?;
    let mut identities = identities(args, keyring)?;
    let mut made_up = None;
    if identities.is_empty() && psk.is_none() {
        let identity = self_signed.cloned().map_or_else(self_signed_identity, Ok)?;
        made_up = Some(identity.clone());
        identities.push(identity);
    }
    let alpn: Vec<&str> = args.alpn.iter().map(|protocol| protocol.0.as_str()).collect();
    let mut credentials =
        Credentials::new().client_auth(client_auth(args)?).alpn(&alpn).max_cert_chain(args.max_cert_chain.0);
    let AlgorithmArgs { ciphers, groups } = args.algorithms.clone();
    credentials = credentials.cipher_suites(ciphers).groups(groups);
    for identity in identities {
        credentials = credentials.identity(identity);
    }
    if let Some(table) = psk {
        credentials = credentials.psk(move |identity| table.key(identity));
    }
    if let Some(path) = &args.crl {
        if args.ca.is_none() {
            return Err(Failure::input(CRL_NEEDS_CA));
        }
        credentials = credentials.revoked(revoked(path)?);
    }
    let guests = Guests { subjects: args.allow_subject.clone(), names: args.allow_san.clone() };
    if let Some(option) = guests.option() {
        if args.ca.is_none() {
            return Err(Failure::input(format_args!(
                "{option} needs --ca: name the file with the authorities of the peers' certificates"
            )));
        }
        credentials = credentials.authorize(move |peer| guests.admit(peer));
    }
    if !args.srtp_profile.is_empty() {
        credentials = credentials.srtp_profiles(&args.srtp_profile.join(":"));
    }
    if let Some(path) = &args.key_file {
        credentials = credentials.shared_keys(SharedKeys::from_file(path).map_err(about("--key-file"))?);
    }
    if let Some(path) = &args.key_log {
        credentials = credentials.danger_key_log(path);
    }
    Ok(Loaded { credentials, self_signed: made_up })
}

/// Returns the certificates with their keys and OCSP responses. The first of each belong together, and so on.
fn identities(args: &CredentialArgs, keyring: &mut Keyring) -> Result<Vec<Identity>, Failure> {
    let (certs, keys, responses) = (&args.cert, &args.key, &args.ocsp);
    if certs.len() > 1 && certs.len() != keys.len() {
        return Err(Failure::input(format_args!(
            "--cert is given {} times and --key {} times: give one key for each certificate, in the same order",
            certs.len(),
            keys.len()
        )));
    }
    if responses.len() > certs.len() {
        return Err(Failure::input(
            "--ocsp needs --cert: give at most one response for each certificate, in the same order",
        ));
    }
    let passphrases = keyring.read(&args.passphrase, args.strict_permissions)?;
    let pairs = certs.len().max(keys.len());
    let nth = |files: &[PathBuf], at: usize| files.get(at).cloned();
    (0..pairs)
        .filter_map(|at| {
            let staple = |identity: Identity| match responses.get(at) {
                Some(path) => identity.with_ocsp_file(path).map_err(about("--ocsp")),
                None => Ok(identity),
            };
            let (cert, key) = (nth(certs, at), nth(keys, at));
            let found = identity(cert.as_deref(), key.as_deref(), keyring, &passphrases).transpose()?;
            Some(found.and_then(staple))
        })
        .collect()
}

/// Returns the identity in a certificate file and a key file, or none if neither is named.
pub fn identity(
    cert: Option<&Path>,
    key: Option<&Path>,
    keyring: &mut Keyring,
    passphrases: &Passphrases,
) -> Result<Option<Identity>, Failure> {
    match (cert, key) {
        (None, None) => Ok(None),
        (Some(_), None) => {
            Err(Failure::input("--cert needs --key: name the file of the certificate's private key"))
        }
        (None, Some(_)) => {
            Err(Failure::input("--key needs --cert: name the file of the key's certificate chain"))
        }
        (Some(cert), Some(key)) => keyring.identity(cert, key, passphrases).map(Some),
    }
}

/// Makes a certificate for this process.
pub fn self_signed_identity() -> Result<Identity, Failure> {
    Identity::self_signed()
        .map_err(|error| Failure::input(format_args!("cannot make a self-signed certificate: {error}")))
}

/// Reads the authorities in a file.
pub fn authorities(path: &Path) -> Result<CaBundle, Failure> {
    CaBundle::from_file(path).map_err(about("--ca"))
}

/// Returns a function that adds the option that named the file to an error.
fn about(option: &'static str) -> impl Fn(IdentityError) -> Failure {
    move |error| Failure::about(option, error)
}

/// Reads the revocation lists in a file.
pub fn revoked(path: &Path) -> Result<RevocationList, Failure> {
    RevocationList::from_file(path).map_err(about("--crl"))
}

/// The message for revocation lists without authorities.
pub const CRL_NEEDS_CA: &str = "--crl needs --ca: name the file with the authorities that issued the list";

fn client_auth(args: &CredentialArgs) -> Result<ClientAuth, Failure> {
    let wanted = match (args.client_auth, &args.ca) {
        (Some(mode), _) => mode,
        (None, Some(_)) => ClientAuthMode::Required,
        (None, None) => ClientAuthMode::None,
    };
    match (wanted, args.ca.as_deref()) {
        (ClientAuthMode::None, None) => Ok(ClientAuth::None),
        (ClientAuthMode::None, Some(_)) => {
            Err(Failure::input("--ca has no effect with --client-auth none: drop one of the two"))
        }
        (_, None) => Err(Failure::input(
            "--client-auth needs --ca: name the file with the authorities of the peers' certificates",
        )),
        (ClientAuthMode::Optional, Some(ca)) => Ok(ClientAuth::Optional(authorities(ca)?)),
        (ClientAuthMode::Required, Some(ca)) => Ok(ClientAuth::Required(authorities(ca)?)),
    }
}

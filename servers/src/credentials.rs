//! Certificates, keys and authorities from the files that the options name.

use std::path::Path;

use peeloff::{CaBundle, ClientAuth, Identity};

use crate::cli::{ClientAuthMode, CredentialArgs};
use crate::failure::Failure;
use crate::psk::PskTable;

/// What a server shows and what it asks for.
pub struct Credentials {
    /// The server's certificate and key; none if it has pre-shared keys only.
    pub identity: Option<Identity>,
    /// Whether the certificate was made up for this run.
    pub self_signed: bool,
    /// Whether peers must show a certificate.
    pub client_auth: ClientAuth,
    /// Pre-shared keys, if any.
    pub psk: Option<PskTable>,
}

impl Credentials {
    /// Reads every file that the options name.
    ///
    /// # Errors
    ///
    /// A file cannot be read or used, or options contradict each other.
    pub fn load(args: &CredentialArgs) -> Result<Self, Failure> {
        let psk = args.psk_file.as_deref().map(PskTable::from_file).transpose()?;
        let client_auth = client_auth(args)?;
        let given = identity(args.cert.as_deref(), args.key.as_deref())?;
        let self_signed = given.is_none() && psk.is_none();
        let identity = match given {
            None if self_signed => Some(self_signed_identity()?),
            given => given,
        };
        Ok(Self { identity, self_signed, client_auth, psk })
    }
}

/// The identity in a certificate file and a key file; none if neither is named.
pub fn identity(cert: Option<&Path>, key: Option<&Path>) -> Result<Option<Identity>, Failure> {
    match (cert, key) {
        (None, None) => Ok(None),
        (Some(_), None) => {
            Err(Failure::input("--cert needs --key: name the file of the certificate's private key"))
        }
        (None, Some(_)) => {
            Err(Failure::input("--key needs --cert: name the file of the key's certificate chain"))
        }
        (Some(cert), Some(key)) => Identity::from_files(cert, key).map(Some).map_err(Failure::input),
    }
}

/// A certificate for this run only.
pub fn self_signed_identity() -> Result<Identity, Failure> {
    Identity::self_signed()
        .map_err(|error| Failure::input(format_args!("cannot make a self-signed certificate: {error}")))
}

/// The authorities in a file.
pub fn authorities(path: &Path) -> Result<CaBundle, Failure> {
    CaBundle::from_file(path).map_err(Failure::input)
}

fn client_auth(args: &CredentialArgs) -> Result<ClientAuth, Failure> {
    let wanted = match (args.client_auth, &args.ca) {
        (Some(mode), _) => mode,
        (None, Some(_)) => ClientAuthMode::Required,
        (None, None) => ClientAuthMode::None,
    };
    match (wanted, args.ca.as_deref()) {
        (ClientAuthMode::None, None) => Ok(ClientAuth::None),
        (ClientAuthMode::None, Some(_)) => {
            Err(Failure::input("--ca has no use with --client-auth none: drop one of the two"))
        }
        (_, None) => Err(Failure::input(
            "--client-auth needs --ca: name the file of the authorities that peers' certificates come from",
        )),
        (ClientAuthMode::Optional, Some(ca)) => Ok(ClientAuth::Optional(authorities(ca)?)),
        (ClientAuthMode::Required, Some(ca)) => Ok(ClientAuth::Required(authorities(ca)?)),
    }
}

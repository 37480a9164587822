//! Exported keying material (RFC 5705, RFC 8446 §7.5).

use openssl::ssl::SslRef;

use super::dtls::keys::{RefusedLabel, Secrets};

/// What an open session exports from.
pub(crate) enum Exporter<'session> {
    /// The secrets of a session with a record layer of our own.
    Secrets(&'session Secrets),
    OpenSsl(&'session SslRef),
}

/// Why nothing can be exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefusedExport {
    /// The label or the context cannot be used.
    Argument,
    /// The session did not keep the secret.
    NotKept,
    /// There is no session, or its handshake is not complete.
    NoSession,
}

impl<'session> Exporter<'session> {
    /// Exports from these secrets, if the session kept them.
    pub(crate) fn of(secrets: Option<&'session Secrets>) -> Result<Self, RefusedExport> {
        secrets.map(Self::Secrets).ok_or(RefusedExport::NotKept)
    }

    /// Fills `out`. `None` and an empty context give different values before TLS 1.3.
    pub(crate) fn export(
        self,
        label: &str,
        context: Option<&[u8]>,
        out: &mut [u8],
    ) -> Result<(), RefusedExport> {
        match self {
            Self::Secrets(secrets) => {
                secrets.export(label, context, out).map_err(|RefusedLabel| RefusedExport::Argument)
            }
            Self::OpenSsl(ssl) => {
                ssl.export_keying_material(out, label, context).map_err(|_| RefusedExport::Argument)
            }
        }
    }
}

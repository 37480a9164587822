//! Exported keying material (RFC 5705, RFC 8446 §7.5).

use openssl::ssl::SslRef;

use super::dtls::keys::{RefusedLabel, Secrets};

/// The source of exported keying material of an open session.
pub(crate) enum Exporter<'session> {
    /// The secrets of a session whose record layer is in this crate.
    Secrets(&'session Secrets),
    OpenSsl(&'session SslRef),
}

/// Reason why nothing can be exported.
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
    /// Returns an exporter for these secrets, if the session kept them.
    pub(crate) fn of(secrets: Option<&'session Secrets>) -> Result<Self, RefusedExport> {
        secrets.map(Self::Secrets).ok_or(RefusedExport::NotKept)
    }

    /// Fills `out`. Before TLS 1.3, `None` and an empty context give different values.
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

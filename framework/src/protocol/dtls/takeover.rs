//! The end of OpenSSL's part: state that the record layer takes over from a session whose handshake is complete.

use openssl::ssl::SslRef;

use super::hello::Record;
use super::keys::Secrets;
use super::suite::Aead;
use super::{Opener, Sealer};
use crate::error::EndReason;
use crate::tls::Failure;
use crate::tls::context::connection_ids::agreed;
use crate::tls::context::wants_exporters;

/// The numbers of the record after the last one that OpenSSL sealed (see [`Sealer::new`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NextRecord {
    pub(crate) sequence: u64,
    pub(crate) nonce: u64,
}

impl NextRecord {
    /// Returns the numbers after those of this record, which OpenSSL sealed.
    pub(crate) fn after(record: &Record<'_>) -> Self {
        let explicit = record.body.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        Self { sequence: record.sequence + 1, nonce: explicit.wrapping_add(1) }
    }
}

/// Derives the keys of a session whose handshake is complete. Returns the secrets if exporters may need them; otherwise
/// they are wiped.
///
/// # Errors
///
/// [`Aead`] does not support the cipher suite.
pub(crate) fn take_over(
    ssl: &SslRef,
    next: NextRecord,
) -> Result<(Option<Secrets>, Sealer, Opener), Failure> {
    let suite = ssl.current_cipher().map(|cipher| cipher.name()).unwrap_or_default();
    let (Some(secrets), Some(aead)) = (Secrets::of(ssl), Aead::of_suite(suite)) else {
        let why = format!("DTLS sessions cannot use the cipher suite {suite:?}");
        return Err(Failure::Ended(EndReason::HandshakeFailed(why)));
    };
    let (client, server) = secrets.key_block(aead);
    let (ours, theirs) = if ssl.is_server() { (server, client) } else { (client, server) };
    let sealer = Sealer::new(aead, &ours, next.sequence, next.nonce);
    let opener = Opener::new(aead, &theirs);
    let (sealer, opener) = match agreed(ssl) {
        Some(agreed) => (
            sealer.with_connection_id(agreed.peer.into()),
            opener.with_connection_id(agreed.offer.cid.clone()),
        ),
        None => (sealer, opener),
    };
    Ok((wants_exporters(ssl).then_some(secrets), sealer, opener))
}

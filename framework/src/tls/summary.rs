//! The results of a handshake.

use std::borrow::Cow;

use openssl::ssl::{NameType, SslRef, SslVersion};
use openssl::x509::X509;

use super::context::connection_ids::agreed;
use super::context::names::asked_name;
use super::context::psk::psk_identity;
use crate::codec::{Malformed, Reader, Writer};
use crate::credentials::{PeerCertificate, PeerIdentity};
use crate::sys::{ossl, raw_keys};

/// The results of a handshake.
#[derive(Clone, Debug, Default)]
pub(crate) struct HandshakeSummary {
    pub(crate) identity: PeerIdentity,
    pub(crate) cipher: Option<Cow<'static, str>>,
    pub(crate) alpn: Option<Box<str>>,
    pub(crate) server_name: Option<Box<str>>,
    pub(crate) srtp: Option<Box<str>>,
    pub(crate) resumed: bool,
    /// Both sides have agreed on connection IDs (RFC 9146).
    pub(crate) connection_ids: bool,
}

impl HandshakeSummary {
    /// Writes the results for another process.
    pub(crate) fn save(&self, out: &mut Writer) {
        let Self { identity, cipher, alpn, server_name, srtp, resumed, connection_ids } = self;
        match identity {
            PeerIdentity::Anonymous => out.u8(0),
            PeerIdentity::Certificate(certificate) => {
                out.u8(1);
                out.bytes(&certificate.der);
            }
            PeerIdentity::Psk(identity) => {
                out.u8(2);
                out.bytes(identity);
            }
            PeerIdentity::RawPublicKey(key) => {
                out.u8(3);
                out.bytes(key);
            }
        }
        out.text(cipher.as_deref());
        [alpn, server_name, srtp].into_iter().for_each(|text| out.text(text.as_deref()));
        out.flag(*resumed);
        out.flag(*connection_ids);
    }

    /// Reads what [`save`](Self::save) wrote.
    pub(crate) fn restore(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let identity = match from.u8()? {
            0 => PeerIdentity::Anonymous,
            1 => {
                let certificate = X509::from_der(from.bytes()?).map_err(|_| Malformed)?;
                PeerIdentity::Certificate(Box::new(PeerCertificate::from_x509(&certificate)))
            }
            2 => PeerIdentity::Psk(from.bytes()?.to_vec()),
            3 => PeerIdentity::RawPublicKey(from.bytes()?.to_vec()),
            _ => return Err(Malformed),
        };
        Ok(Self {
            identity,
            cipher: from.text()?.map(Cow::Owned),
            alpn: from.text()?.map(Into::into),
            server_name: from.text()?.map(Into::into),
            srtp: from.text()?.map(Into::into),
            resumed: from.flag()?,
            connection_ids: from.flag()?,
        })
    }

    pub(crate) fn of(ssl: &SslRef) -> Self {
        let (reused, old) = (ssl.session_reused(), ssl.version2() != Some(SslVersion::TLS1_3));
        // With TLS 1.3 a key may be looked up and not be used. In earlier versions a resumption looks up no key, and
        // the session contains the identity whose key it began with.
        let known = || ssl.psk_identity().filter(|_| old && reused && ssl.is_server()).map(<[u8]>::to_vec);
        let psk = psk_identity(ssl).filter(|_| old || reused).or_else(known);
        // With TLS 1.3 OpenSSL also calls a session reused that began with a pre-shared key. On a server that looks up
        // keys there are no tickets; the client of an earlier session has its ticket.
        let has_ticket = || match ssl.is_server() {
            true => psk.is_none(),
            false => ssl.session().is_some_and(ossl::has_ticket),
        };
        let resumed = reused && (old || has_ticket());
        let identity = match (ssl.peer_certificate(), psk) {
            (Some(certificate), _) => {
                PeerIdentity::Certificate(Box::new(PeerCertificate::from_x509(&certificate)))
            }
            (None, Some(identity)) => PeerIdentity::Psk(identity),
            (None, None) => raw_keys::shown(ssl).map_or(PeerIdentity::Anonymous, PeerIdentity::RawPublicKey),
        };
        let cipher = ssl.current_cipher().map(|cipher| Cow::Borrowed(cipher.name()));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into();
        Self {
            identity,
            cipher,
            alpn: ssl.selected_alpn_protocol().map(text),
            server_name: asked_name(ssl).or_else(|| ssl.servername(NameType::HOST_NAME)).map(Into::into),
            srtp: ssl.selected_srtp_profile().map(|profile| profile.name().into()),
            resumed,
            connection_ids: agreed(ssl).is_some(),
        }
    }
}
